"""Density of what is left when every Gaussian effect is integrated out."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.distributions import ExpandedDistribution, Independent
from numpyro.distributions.transforms import biject_to
from numpyro.infer.util import log_density, potential_energy

from probmf.data import wrap_words
from probmf.effects.rounding import Rounding
from probmf.inference.marginal import MarginalModel
from probmf.inference.marginal.host_density import HostDensity
from probmf.inference.marginal.injection import Inject, ModelRun
from probmf.inference.marginal.prepared import Prepared
from probmf.inference.newton import InformedScore
from probmf.inference.potential import Potential
from probmf.inference.standard_coordinates import Coordinates, mixed_coordinates
from probmf.models.mixed.program import MixedProgram
from probmf.run.compilation import count_numbers
from probmf.run.threads import Workers


class Here(NamedTuple):
    """A marginal model at one vector.

    Attributes:
        log_prior: Log density of the sites that are left, on the unconstrained scale.
        latents: Their values.
        run: All that the model says there.
    """

    log_prior: Array
    latents: dict[str, Array]
    run: ModelRun


@jax.tree_util.register_pytree_node_class
class MarginalDensity(Potential):
    """Density of the remaining sites of a marginal model, over one unconstrained vector.

    Args:
        model: The marginal model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        coordinates: See `Potential`.
    """

    def __init__(
        self,
        model: MarginalModel,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        coordinates: Coordinates | None = None,
    ) -> None:
        """Prepare the model."""
        self.marginal, self._prepared = model, model.prepare(*args, **kwargs)
        super().__init__(model, args, kwargs, coordinates)

    @classmethod
    def of_mixed(
        cls, program: MixedProgram, args: tuple[Any, ...], sites: tuple[str, ...]
    ) -> "MarginalDensity":
        """That of a mixed model, in standard coordinates.

        Args:
            program: The model.
            args: Its arguments.
            sites: Integrated out.
        """
        coordinates = mixed_coordinates(program, args[0])
        return cls(MarginalModel(program, sites), args, {}, coordinates)

    @property
    def prepared(self) -> Prepared:
        """The marginal model with its data, on the host; those of a trace within one."""
        found: Prepared = getattr(self, "_prepared", None) or self.args[0]
        return found

    @cached_property
    def _numbers(self) -> int:
        return count_numbers(self.prepared.args)

    def start(self) -> np.ndarray:
        """The prior's medians where it has quantiles, else the middle of the unconstrained line."""
        if self.host is not None:
            return self.host.start()
        return np.asarray(self._medians(self), np.float64)

    def begin(self, pool: Workers) -> "Future[np.ndarray]":
        """Find the start, and compile what the score needs, while other things are traced."""
        # Traced here, as models are run by one thread at a time, and compiled there.
        _ = self._medians if self.host is None else self.host.slopes
        return pool.submit(self.start)

    @cached_property
    def _medians(self) -> Any:
        return self.compiled(type(self).medians)

    def medians(self) -> Array:
        """The start, to be traced."""
        run = self.at(jnp.zeros(self.num_dims, jnp.result_type(float))).run
        inner = {
            name: biject_to(run.latent[name].support).inv(
                median(run.latent[name], run.values[name])
            )
            for name in self.sites
        }
        return self.ravel(inner)

    @cached_property
    def host(self) -> HostDensity | None:
        """The density by LAPACK, on a CPU."""
        if not HostDensity.serves(self.prepared):
            return None
        return HostDensity(self, self.prepared, self.prepared.flat)

    def terms(self, vector: Array) -> tuple[Array, Array, list[Array]]:
        """The prior with what else the log density has, noise precision, and prior factors."""
        here = self.at(vector)
        _, precision, extra = self.prepared.system(here.run, here.latents)
        return here.log_prior + extra, precision, self.prepared.trils(here.run)

    def at(self, vector: Array) -> Here:
        """The model without its observations at a vector, run once, to be traced."""
        own = self.prepared
        inject = Inject(own.model, own.zeros(), own.target, own.hidden)
        log_prior = -potential_energy(inject, own.args, own.kwargs, self.unravel(vector))
        latents = {name: inject.run.values[name] for name in own.latent_shapes}
        return Here(log_prior, latents, inject.run)

    def score(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density and its gradient."""
        if self.host is not None:
            return self.host.score(vector)
        value, gradient = self.value_and_grad(jnp.asarray(vector, self.vector.dtype))
        return float(value), np.asarray(gradient, np.float64)

    @property
    def informed(self) -> InformedScore | None:
        """Log density, gradient, and what the data say of minus the second derivatives."""
        return None if self.host is None else self.host.informed

    def rounding(self, vector: np.ndarray) -> Rounding:
        """The evidence with its error by rounding at a vector, in double precision."""
        if self.host is not None:
            return self.host.rounding(vector)
        own = jnp.asarray(vector, self.vector.dtype)
        latents = self.compiled(MarginalDensity.constrain_prior, own)(self, own)
        return self.prepared.rounding(latents)

    def constrain_prior(self, vector: Array) -> dict[str, Array]:
        """The remaining sites at a vector, to be traced; does not touch the observations."""
        return self.at(vector).latents

    def log_prior(self, latents: Mapping[str, Array]) -> Array:
        """Log density of the remaining sites' own values, to be traced."""
        found: Array = log_density(_prior, self.args, {}, dict(latents))[0]
        return found

    def sites_at(self, vector: Array, tables: Sequence[Array]) -> dict[str, Array]:
        """The sites at a vector and each block's deviations of the effects, to be traced."""
        latents = self.constrain_prior(vector)
        return {**latents, **self.prepared.site_values(latents, tables)}

    def joint(self, vector: Array, words: Array) -> tuple[Array, dict[str, Array]]:
        """Log density, and all sites, effects drawn from their conditional, to be traced.

        One factorization serves both.
        """
        here = self.at(vector)
        evidence, effects = self.prepared.draw(here.latents, wrap_words(words), here.run)
        return here.log_prior + evidence, {**here.latents, **here.run.computed, **effects}


def _prior(prepared: Prepared) -> None:
    """The model without its observations."""
    Inject(prepared.model, prepared.zeros(), prepared.target, prepared.hidden)(
        *prepared.args, **prepared.kwargs
    )


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
