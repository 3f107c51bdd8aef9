"""Evidence of a mixed model that is not Gaussian, as a function of what is left, for a search.

Laplace's approximation, or adaptive quadrature where one grouping has all effects. As in lme4's
glmer with nAGQ > 0 the coefficients are searched for together with scales and correlations.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probmf.effects.laplace import Whitened
from probmf.effects.quadrature import MAX_DIM
from probmf.inference.mixed.exact_problem import Objective
from probmf.inference.mixed.integral import Integral, IntegralDensity
from probmf.models.mixed.arrays import MixedData
from probmf.models.mixed.program import MixedProgram
from probmf.run.compilation import count_numbers, traced_jit

#: Step of a derivative by what is searched for, in standard errors.
STEP = 1e-2


@partial(
    jax.tree_util.register_dataclass, data_fields=["density", "volume"], meta_fields=["objective"]
)
@dataclass(frozen=True, eq=False)
class _ApproximateObjective:
    """The objective over the unconstrained sites that are left; a pytree.

    Attributes:
        density: Density of the sites that are left.
        volume: Logarithm of the volume of the coefficients' units.
        objective: Which one.
    """

    density: IntegralDensity
    volume: float
    objective: Objective

    def value(self, vector: Array, start: Whitened) -> tuple[Array, Whitened]:
        """The objective, and the modes of the whitened effects, to be traced."""
        latents = self.density.latents(vector)
        found, modes = self.density.integral.evidence(self.density.rest(latents), start)
        if self.objective == "map":
            found = found + self.density.log_prior(latents)
        return found - self.volume, modes

    def estimates(self, vector: Array, start: Whitened) -> dict[str, Array]:
        """All sites at a vector, effects at their modes, to be traced."""
        latents = self.density.latents(vector)
        rest = self.density.rest(latents)
        _, modes = self.density.integral.evidence(rest, start)
        return latents | self.density.integral.effects(rest, modes)

    def slopes(self, vector: Array) -> dict[str, Array]:
        """Derivatives of the sites that are left, to be traced."""
        found: dict[str, Array] = jax.jacfwd(self.density.latents)(vector)
        return found

    def covariance(self, vector: Array, start: Whitened, block: int) -> Array:
        """Covariance of the effects of a block given the rest, to be traced."""
        rest = self.density.rest(self.density.latents(vector))
        _, modes = self.density.integral.evidence(rest, start)
        return self.density.integral.covariance(rest, modes, block)


def _score(
    target: _ApproximateObjective, vector: Array, start: Whitened
) -> tuple[tuple[Array, Whitened], Array]:
    return jax.value_and_grad(target.value, has_aux=True)(vector, start)


class ApproximateProblem:
    """The objective for a search; each evaluation begins at the modes of the last.

    Args:
        program: The model, centred.
        arguments: Its arguments.
        objective: Which objective.
        num_nodes: Nodes of the quadrature for each effect; 1 is Laplace's approximation.

    Raises:
        ValueError: If there is no quadrature of these effects.
    """

    cores = 1
    informed = None
    is_dear = False

    def __init__(
        self,
        program: MixedProgram,
        arguments: tuple[MixedData],
        objective: Objective,
        num_nodes: int,
    ) -> None:
        """Lay out the effects."""
        (data,) = arguments
        joint = objective != "likelihood"
        self.integral = Integral.of(
            program, data, [term.name for term in data.groups], coefficients=joint,
            flat=objective == "restricted", num_nodes=num_nodes if num_nodes > 1 else 0,
        )  # fmt: skip
        if num_nodes > 1:
            _require_one_grouping(self.integral, objective, num_nodes)
        density = IntegralDensity.of_integral(self.integral)
        self.target = _ApproximateObjective(density, self.integral.log_volume, objective)
        self._numbers = count_numbers(data)
        self._modes = self.integral.zeros()

    @property
    def places(self) -> dict[str, np.ndarray]:
        """Places of each site in the vector."""
        return self.target.density.places

    def start(self) -> np.ndarray:
        """Starting point."""
        return self.target.density.start()

    def score(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient; compiled."""
        point = jnp.asarray(vector, self.target.density.vector.dtype)
        (value, modes), gradient = self._score(self.target, point, self._modes)
        finite = np.isfinite(value) and all(np.all(np.isfinite(table)) for table in modes)
        self._modes = modes if finite else self.integral.zeros()
        return float(value), np.asarray(gradient, np.float64)

    def estimates(self, vector: np.ndarray) -> dict[str, Array]:
        """All sites at a vector: effects at their modes given the rest."""
        point = jnp.asarray(vector, self.target.density.vector.dtype)
        run = traced_jit(
            _ApproximateObjective.estimates, self._numbers, self.target, point, self._modes
        )
        found: dict[str, Array] = run(self.target, point, self._modes)
        return found

    def slopes(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Derivatives of each site, on the last axis."""
        point = jnp.asarray(vector, self.target.density.vector.dtype)
        run = traced_jit(_ApproximateObjective.slopes, self._numbers, self.target, point)
        return {k: np.asarray(v, np.float64) for k, v in run(self.target, point).items()}

    def covariances(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Covariance of the coefficients given the scales, where they are integrated out."""
        site = self.integral.data.mean.site
        own = [
            place for place, block in enumerate(self.integral.blocks)
            if block.num_groups == 1 and block.layouts[0].name == site
        ]  # fmt: skip
        if not own:
            return {}
        point = jnp.asarray(vector, self.target.density.vector.dtype)
        given = (self.target, point, self._modes, own[0])
        run = traced_jit(_ApproximateObjective.covariance, self._numbers, *given, static_argnums=3)
        return {site: np.asarray(run(*given), np.float64)}

    def following(self, vector: np.ndarray, steps: np.ndarray) -> dict[str, np.ndarray]:
        """Derivatives of effects' modes along steps of the vector, on the last axis.

        Nothing where the coefficients are integrated out with them: both have the errors that they
        have given the scales.
        """
        if self.target.objective != "likelihood" or not len(steps):
            return {}
        ends = [
            [self.estimates(vector + way * STEP * step) for way in (1.0, -1.0)] for step in steps
        ]
        return {
            site: np.stack([np.asarray(up[site] - down[site]) for up, down in ends], -1)
            / (2 * STEP)
            for site in self.integral.sites
        }

    def lost_digits(self, vector: np.ndarray) -> str:
        """Nothing: no sums of squares are subtracted."""
        del vector
        return ""

    @cached_property
    def _score(self) -> Any:
        vector = self.target.density.vector
        return traced_jit(_score, self._numbers, self.target, vector, self._modes)


def _require_one_grouping(integral: Integral, objective: Objective, num_nodes: int) -> None:
    """Refuse quadrature where effects of several groupings, or too many of one, are integrated."""
    told = f"num_nodes is {num_nodes}: quadrature"
    if objective != "likelihood":
        raise ValueError(
            f"{told} is over the effects of one grouping, and objective={objective!r} integrates "
            "the coefficients out with them. Use objective='likelihood', or num_nodes=1, Laplace's "
            "approximation."
        )
    if not integral.blocks:
        raise ValueError(
            f"{told} is over effects, and this model has no group term. Leave num_nodes out."
        )
    if len(integral.blocks) > 1:
        sites = ", ".join(integral.sites)
        raise ValueError(
            f"{told} is over the effects of one grouping, given which its groups are independent, "
            f"and this model has {sites}. Use num_nodes=1, Laplace's approximation."
        )
    if (dim := integral.blocks[0].dim) > MAX_DIM:
        raise ValueError(
            f"{told} with {dim} effects for each group takes {num_nodes}^{dim} nodes; expected at "
            f"most {MAX_DIM} effects. Use num_nodes=1, Laplace's approximation."
        )
