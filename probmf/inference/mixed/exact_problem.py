"""Evidence of a Gaussian mixed model as a function of its scales and correlations, for a search."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probmf.effects import block_covariance, collect_targets, draw_effects, log_evidence
from probmf.inference.marginal.density import MarginalDensity
from probmf.inference.marginal.host_density import HostDensity
from probmf.inference.marginal.injection import read_observed
from probmf.inference.marginal.lost_digits import lost_digits
from probmf.inference.marginal.prepared import Prepared
from probmf.inference.newton import InformedScore
from probmf.models.mixed.arrays import MixedData
from probmf.models.mixed.program import MixedProgram
from probmf.run.compilation import count_numbers, traced_jit

Objective = Literal["likelihood", "restricted", "map"]


@partial(
    jax.tree_util.register_dataclass, data_fields=["density", "volume"],
    meta_fields=["objective", "flat"],
)  # fmt: skip
@dataclass(frozen=True, eq=False)
class _ExactObjective:
    """The objective over the unconstrained scales and correlations; a pytree.

    Attributes:
        density: That of all sites but coefficients and effects.
        volume: Logarithm of the volume of the coefficients' units.
        objective: Which one.
        flat: Blocks without a prior.
    """

    density: MarginalDensity
    volume: float
    objective: Objective
    flat: tuple[int, ...]

    @property
    def prepared(self) -> Prepared:
        """The marginal model with its data."""
        return self.density.prepared

    @property
    def vector(self) -> np.ndarray:
        """An example of a vector."""
        vector: np.ndarray = self.density.vector
        return vector

    def medians(self) -> Array:
        """A start, to be traced."""
        return self.density.medians()

    def _trils(self, run: Any, coefficients: Any) -> list[Array]:
        """Prior factors; `coefficients` makes that of the population's block."""
        trils = self.prepared.trils(run)
        for index in self.flat:
            trils[index] = coefficients(len(trils[index]))
        return trils

    def terms(self, vector: Array) -> tuple[Array, Array, list[Array]]:
        """Terms that the evidence depends on; see `HostDensity`."""
        _, latents, run = self.density.at(vector)
        _, precision, extra = self.prepared.system(run, latents)
        if self.objective == "map":
            extra = extra + self.density.log_prior(latents)
        return extra - self.volume, precision, self._trils(run, jnp.eye)

    def value(self, vector: Array) -> Array:
        """The objective, to be traced."""
        _, latents, run = self.density.at(vector)
        statistics, precision, extra = self.prepared.system(run, latents)
        pattern = self.prepared.pattern
        if self.objective == "map":
            value = log_evidence(pattern, statistics, self._trils(run, None), precision)
            return self.density.log_prior(latents) + extra + value
        free = self._trils(run, jnp.eye)
        if self.objective == "restricted" or not self.flat:
            value = log_evidence(pattern, statistics, free, precision, self.flat)
            return extra - self.volume + value
        # By the envelope theorem the gradient treats the best coefficients as constants.
        _, means = draw_effects(pattern, statistics, free, precision, None, self.flat)
        observed = read_observed(self.prepared.target, run.observed[self.prepared.target])
        designs = self.prepared.designs_at(latents, observed.loc.dtype)
        residual = observed.value - observed.loc
        for index in self.flat:
            residual = residual - designs[index] @ jax.lax.stop_gradient(means[index][0])
        if not self.prepared.shared_noise:
            root = 1.0 / observed.scale  # of the observations' weights
            residual, designs = residual * root, [design * root[:, None] for design in designs]
        lead, rest, square = collect_targets(pattern, designs, residual)
        statistics = statistics._replace(lead=lead, rest=rest, square=square)
        held = self._trils(run, lambda size: jnp.zeros((size, size)))
        return extra + log_evidence(pattern, statistics, held, precision)

    def means(self, vector: Array) -> list[Array]:
        """Conditional means of the effects, to be traced."""
        _, latents, run = self.density.at(vector)
        statistics, precision, _ = self.prepared.system(run, latents)
        free = self._trils(run, jnp.eye)
        _, means = draw_effects(self.prepared.pattern, statistics, free, precision, None, self.flat)
        return means

    def slopes(self, vector: Array) -> dict[str, Array]:
        """Derivatives of the sites that are left, to be traced."""
        found: dict[str, Array] = jax.jacfwd(self.density.constrain_prior)(vector)
        return found

    def covariance(self, vector: Array, block: int) -> Array:
        """Covariance of the effects of a block given the rest, to be traced."""
        _, latents, run = self.density.at(vector)
        statistics, precision, _ = self.prepared.system(run, latents)
        free = self._trils(run, jnp.eye)
        return block_covariance(
            self.prepared.pattern, statistics, free, precision, block, self.flat
        )


def _score(target: _ExactObjective, vector: Array) -> tuple[Array, Array]:
    return jax.value_and_grad(target.value)(vector)


class ExactProblem:
    """The objective for a search, by LAPACK where there is one effect for many rows."""

    def __init__(
        self, program: MixedProgram, arguments: tuple[MixedData], objective: Objective
    ) -> None:
        """Prepare the marginal model."""
        mean = arguments[0].mean
        self.density = MarginalDensity.of_mixed(program, arguments, program.effect_sites(mean))
        self.prepared = self.density.prepared
        names = [[layout.name for layout in block.layouts] for block in self.prepared.blocks]
        fixed = [index for index, own in enumerate(names) if mean.site in own]
        flat = tuple(fixed) if objective != "map" else ()
        self.coefficients = (mean.site, fixed[0]) if fixed else None
        # The integral is over the coefficients, not over what they are in other coordinates.
        standards = [self.prepared.standards[index] for index in flat]
        volume = sum(standard.log_volume for standard in standards if standard is not None)
        self.target = _ExactObjective(
            self.density, float(volume) if objective == "restricted" else 0.0, objective, flat
        )
        self.host: HostDensity | None = None
        if HostDensity.serves(self.prepared):
            best = objective == "likelihood"
            self.host = HostDensity(self.target, self.prepared, flat, best=best)

    @property
    def places(self) -> dict[str, np.ndarray]:
        """Places of each site in the vector."""
        return self.density.places

    @property
    def cores(self) -> int:
        """Cores that one evaluation after the other makes use of."""
        return 1 if self.host is None else self.host.cores

    @property
    def is_dear(self) -> bool:
        """True if an evaluation takes more than all else about it."""
        return self.host is not None and self.host.is_large

    def start(self) -> np.ndarray:
        """Starting point."""
        return self.density.start() if self.host is None else self.host.start()

    @property
    def informed(self) -> InformedScore | None:
        """The objective, its gradient, and about minus the second derivatives."""
        return None if self.host is None else self.host.informed

    def point_of(self, values: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The vector at which the sites have some values; None where there is none."""
        if not self.places.keys() <= values.keys():
            return None
        own = {site: jnp.asarray(values[site]) for site in self.places}
        vector = np.asarray(self.density.unconstrain(own), np.float64)
        return vector if np.all(np.isfinite(vector)) else None

    def score(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient; compiled."""
        if self.host is not None:
            return self.host.score(vector)
        value, gradient = self._score(self.target, jnp.asarray(vector, self.target.vector.dtype))
        return float(value), np.asarray(gradient, np.float64)

    @cached_property
    def _score(self) -> Any:
        numbers = count_numbers(self.prepared.args)
        return traced_jit(_score, numbers, self.target, self.target.vector)

    def lost_digits(self, vector: np.ndarray) -> str:
        """A sentence where rounding leaves too little of the objective, else empty."""
        if self.density.vector.dtype != np.float64:
            return ""
        # A flat prior of the coefficients says no less than their own wide one.
        density = self.density if self.host is None else self.host
        return lost_digits(self.prepared, [density.rounding(vector)])

    def estimates(self, vector: np.ndarray) -> dict[str, Array]:
        """All sites at a vector: effects at their conditional means."""
        own = jnp.asarray(vector, self.target.vector.dtype)
        if self.host is not None:
            means = [jnp.asarray(table) for table in self.host.draw(vector, None)[1]]
        else:
            numbers = count_numbers(self.prepared.args)
            means = traced_jit(_ExactObjective.means, numbers, self.target, own)(self.target, own)
        found: dict[str, Array] = self.density.compiled(MarginalDensity.sites_at, own, means)(
            self.density, own, means
        )
        return found

    def slopes(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Derivatives of each site, on the last axis."""
        own = jnp.asarray(vector, self.target.vector.dtype)
        numbers = count_numbers(self.prepared.args)
        found = traced_jit(_ExactObjective.slopes, numbers, self.target, own)(self.target, own)
        return {site: np.asarray(value, np.float64) for site, value in found.items()}

    def covariances(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Covariance of the coefficients given the scales."""
        if self.coefficients is None or self.prepared.blocks[self.coefficients[1]].num_groups > 1:
            return {}
        site, block = self.coefficients
        if self.host is not None and block:
            covariance = self.host.block_covariance(vector, block)
        else:
            own = jnp.asarray(vector, self.target.vector.dtype)
            numbers = count_numbers(self.prepared.args)
            run = traced_jit(
                _ExactObjective.covariance, numbers, self.target, own, block, static_argnums=2
            )
            covariance = np.asarray(run(self.target, own, block), np.float64)
        standard = self.prepared.standards[block]
        if standard is not None:
            covariance = standard.backward @ covariance @ standard.backward.T
        return {site: covariance}

    def following(self, vector: np.ndarray, steps: np.ndarray) -> dict[str, np.ndarray]:
        """Nothing: coefficients and effects have the errors that they have given the scales."""
        del vector, steps
        return {}
