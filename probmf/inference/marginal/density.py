"""Density of what is left when every Gaussian effect is integrated out."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array
from numpyro.distributions import ExpandedDistribution, Independent
from numpyro.infer.util import constrain_fn, potential_energy

from probmf.data import wrap_words
from probmf.effects.rounding import Rounding
from probmf.inference.marginal import MarginalModel
from probmf.inference.marginal.host_density import HostDensity
from probmf.inference.marginal.injection import Inject
from probmf.inference.marginal.prepared import Prepared
from probmf.inference.potential import Potential
from probmf.numpyro_setup import run_alone
from probmf.run.compile_cache import Program, compiled, quick_jit, trace_program, trace_tree
from probmf.run.threads import Workers


class MarginalDensity:
    """Density of the remaining sites of a marginal model, over one unconstrained vector.

    Args:
        model: The marginal model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        potential: The model's potential, if it is there already.
    """

    def __init__(
        self,
        model: MarginalModel,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        potential: Potential | None = None,
    ) -> None:
        """Prepare the model, and trace it."""
        self.model, self.args, self.kwargs = model, args, dict(kwargs)
        self.prepared: Prepared = model.prepare(*args, **kwargs)
        self.potential = potential or Potential(model, args, kwargs)
        prepared = self.prepared

        def without_observations(*args: Any, **kwargs: Any) -> None:
            Inject(prepared.model, prepared.zeros(), prepared.target, prepared.hidden)(
                *args, **kwargs
            )

        self.prior = without_observations

    def start(self) -> np.ndarray:
        """The prior's medians where it has quantiles, else the middle of the unconstrained line."""
        if self.host is not None:
            return self.host.start()
        program = self.medians
        run = compiled(
            (program.text, "start"), lambda: quick_jit(program.evaluate, program.numbers)
        )
        return np.asarray(run(program.consts)[0], np.float64)

    def begin(self, pool: Workers) -> "Future[np.ndarray]":
        """Find the start, and compile what the score needs, while other things are traced."""
        # NumPyro's stack of handlers is one for all threads: trace here, compile there.
        _ = self.medians, self.host
        return pool.submit(self.start)

    @cached_property
    def medians(self) -> Program:
        """The start, traced."""

        def medians() -> Array:
            zeros = self.potential.unravel(jnp.zeros_like(self.potential.vector))
            inject = Inject(self.prior, {})
            with numpyro.handlers.block(), numpyro.handlers.seed(rng_seed=0):
                numpyro.handlers.substitute(
                    inject, data=constrain_fn(self.prior, self.args, self.kwargs, zeros)
                )(*self.args, **self.kwargs)
            return self.potential.unconstrain(
                {
                    name: median(inject.run.latent[name], inject.run.values[name])
                    for name in self.potential.sites
                }
            )

        return trace_program(medians)

    @cached_property
    def host(self) -> HostDensity | None:
        """The density by LAPACK, on a CPU."""
        if not HostDensity.serves(self.prepared):
            return None
        return HostDensity(self.prepared, self.terms, self.medians)

    @run_alone()
    def terms(self, vector: Array) -> tuple[Array, Array, list[Array]]:
        """The prior with what else the log density has, noise precision, and prior factors."""
        unravelled = self.potential.unravel(vector)
        prior = -potential_energy(self.prior, self.args, self.kwargs, unravelled)
        latents = self.constrain_prior(vector)
        run = self.prepared.run(latents)
        _, precision, extra = self.prepared.system(run, latents)
        return prior + extra, precision, self.prepared.trils(run)

    def score(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density and its gradient."""
        if self.host is not None:
            return self.host.score(vector)
        value, gradient = self.potential.value_and_grad(
            jnp.asarray(vector, self.potential.vector.dtype)
        )
        return float(value), np.asarray(gradient, np.float64)

    def rounding(self, vector: np.ndarray) -> Rounding:
        """The evidence with its error by rounding at a vector, in double precision."""
        if self.host is not None:
            return self.host.rounding(vector)
        own = jnp.asarray(vector, self.potential.vector.dtype)
        return self.prepared.rounding(self.constrain_prior(own))

    @run_alone()
    def constrain_prior(self, vector: Array) -> dict[str, Array]:
        """The remaining sites at a vector; does not touch the observations."""
        unravelled = self.potential.unravel(vector)
        values = constrain_fn(self.prior, self.args, self.kwargs, unravelled)
        return {name: values[name] for name in self.prepared.latent_shapes}

    def sites_at(self, vector: Array, tables: Sequence[Array]) -> dict[str, Array]:
        """The sites at a vector and each block's deviations of the effects."""
        latents = self.constrain_prior(vector)
        return {**latents, **self.prepared.site_values(latents, tables)}

    def _joint(self, vector: Array, key: Array) -> tuple[Array, dict[str, Array]]:
        """Log density, and effects drawn from their conditional: one factorization for both."""
        unravelled = self.potential.unravel(vector)
        prior = -potential_energy(self.prior, self.args, self.kwargs, unravelled)
        values = constrain_fn(
            self.prior, self.args, self.kwargs, unravelled, return_deterministic=True
        )
        latents = {n: v for n, v in values.items() if n in self.prepared.latent_shapes}
        evidence, effects = self.prepared.draw(latents, key)
        return prior + evidence, {**values, **effects}

    @cached_property
    def sites(self) -> tuple[Program, Any]:
        """(vector, *tables of effects) -> sites, traced, and their structure."""
        vector = self.potential.vector
        tables = [np.zeros(shape, vector.dtype) for shape in self.prepared.pattern.shapes]

        return trace_tree(lambda vector, *tables: self.sites_at(vector, tables), vector, *tables)

    @cached_property
    def program(self) -> tuple[Program, Any]:
        """(vector, key data) -> log density and sites, traced, and their structure."""

        def joint(vector: Array, key: Array) -> Any:
            return self._joint(vector, wrap_words(key))

        return trace_tree(joint, self.potential.vector, np.zeros(2, np.uint32))


def median(law: Any, otherwise: Array) -> Array:
    """The median of a distribution, its mean without quantiles, or another value without either."""
    while isinstance(law, Independent | ExpandedDistribution):
        law = law.base_dist
    # NumPyro's quantiles of Gamma, Beta and others are those of a package that need not be there.
    try:
        middle = law.icdf(jnp.full(jnp.shape(otherwise), 0.5))
    except (NotImplementedError, ImportError):
        try:
            middle = law.mean if not law.event_shape else otherwise
        except NotImplementedError:
            return otherwise
    return jnp.where(jnp.isfinite(middle), middle, otherwise)
