"""NUTS whose chains learn one mass matrix together, in short stages.

Each stage adapts the step size and draws a little; the draws of all chains give the mass matrix of
the next. Four chains so learn in a few hundred transitions what one learns in a thousand.
"""

from dataclasses import replace
from functools import cached_property

import jax
import numpy as np
from arviz_stats.base.array import array_stats
from jaxtyping import Array, Float

from probmf.inference.nuts.transitions import Chains, Settings, run_nuts
from probmf.inference.operation_count import gradient_operations
from probmf.inference.potential import Potential

#: Transitions that adapt the step size at the beginning of each stage, and draws after them.
ADAPTED, STAGES = 40, (40, 60, 60, 120, 240, 480)
#: At least so many stages, and others while R-hat of the last is above this.
LEAST_STAGES, LOOSE = 3, 1.3
#: More parameters than this get a diagonal mass matrix.
MAX_DENSE = 500
#: Where draws are not many more than dimensions, small eigenvalues are nothing but noise.
MOST_RATIO = 0.7


class PooledNuts:
    """Chains on one density.

    Args:
        potential: The density.
        num_chains: Chains.
        key: JAX key.
        progress: Show bars.

    Attributes:
        spent: Operations of the stages so far, counted from shapes and not by the clock.
        gradients: Gradients for each effective draw of the worst coordinate in the last stage;
            infinitely many before it.
        num_warmup: Transitions per chain so far, with those that adapt the step size for the draws.
    """

    def __init__(
        self, potential: Potential, num_chains: int, key: Array, progress: bool | None
    ) -> None:
        """Nothing is run yet."""
        self.potential, self.key, self.progress = potential, key, progress
        self.settings = Settings(
            ADAPTED, STAGES[0], num_chains,
            dense_mass=potential.num_dims <= MAX_DENSE, adapt_mass=False,
        )  # fmt: skip
        self.num_warmup = ADAPTED
        self.spent, self.gradients = 0.0, np.inf
        size = potential.num_dims
        self._mass = np.eye(size) if self.settings.dense_mass else np.ones(size)
        self._last: np.ndarray | None = None

    def begin(self, starts: Float[np.ndarray, "chain d"]) -> None:
        """Begin at points, and not at random ones."""
        self._last = starts

    @cached_property
    def operations(self) -> float:
        """Operations of a gradient."""
        return gradient_operations(self.potential)

    @property
    def cost(self) -> float:
        """Operations for each effective draw."""
        return self.gradients * self.operations

    def warm_up(self, most_operations: float = np.inf) -> None:
        """Run the stages; given up, with a cost without bound, when they take too much.

        No stage begins after so many operations. Without a finite starting point there is a
        NoStartError.
        """
        for stage, num_draws in enumerate(STAGES):
            chains = self._run(stage, num_draws)
            if not chains.complete:
                raise KeyboardInterrupt("Interrupted in the warmup: there are no draws to return.")
            self._last = chains.vectors[:, -1]
            self._mass = self._learn(chains.vectors, stage)
            self.num_warmup += ADAPTED + num_draws
            steps = float(np.sum(chains.stats["n_steps"]))
            # Those that adapt the step size are not recorded, and take about as many.
            self.spent += steps * (1 + ADAPTED / num_draws) * self.operations
            if self.spent > most_operations:
                return
            if stage + 1 >= LEAST_STAGES:
                r_hat = array_stats.rhat(chains.vectors, chain_axis=0, draw_axis=1)
                if self.settings.num_chains == 1 or not np.max(r_hat) > LOOSE:
                    break
        sizes = array_stats.ess(chains.vectors, chain_axis=0, draw_axis=1)
        self.gradients = steps / max(float(np.nan_to_num(np.min(sizes))), 1.0)

    def draw(self, num_samples: int) -> Chains:
        """Draw from where the stages have come to."""
        return self._run(len(STAGES), num_samples)

    def _run(self, stage: int, num_draws: int) -> Chains:
        return run_nuts(
            self.potential, replace(self.settings, num_samples=num_draws),
            jax.random.fold_in(self.key, stage), starts=self._last, inverse_mass=self._mass,
            progress=self.progress,
        )  # fmt: skip

    def _learn(self, vectors: np.ndarray, stage: int) -> np.ndarray:
        draws = vectors.reshape(-1, vectors.shape[-1])
        if not self.settings.dense_mass:
            return variances(draws)
        # On the way to where the mass is, correlations tell of the way.
        return shrunk_covariance(draws) if stage else np.diag(variances(draws))


def variances(draws: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
    """Variances of columns; one where a column has not moved."""
    found = np.var(draws, axis=0)
    return np.where(found > 0, found, 1.0)


def shrunk_covariance(draws: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    r"""Covariance of few draws in many dimensions, what is mere noise of its correlations removed.

    Eigenvalues of the correlations of n independent draws of d numbers alike lie within
    :math:`s (1 \pm \sqrt{d / n})^2` around their mean s. Those are set to s; the others stand for
    directions that the draws tell apart.

    References:
        Marchenko and Pastur (1967), Distribution of eigenvalues for some sets of random matrices.
    """
    num, size = draws.shape
    roots = np.sqrt(variances(draws))
    scaled = (draws - draws.mean(0)) / roots
    correlations = scaled.T @ scaled / num
    np.fill_diagonal(correlations, 1.0)  # Of columns that have not moved, too.
    values, axes = np.linalg.eigh(correlations)
    ratio = np.sqrt(size / num)
    told = np.zeros(size, bool)
    for _ in range(size - 1):
        # Strong directions leave less for the others, so from the strongest on.
        strongest = np.argmax(np.where(told, -np.inf, values))
        if values[strongest] <= np.mean(values[~told]) * (1 + ratio) ** 2:
            break
        told[strongest] = True
    level = np.mean(values[~told])
    if ratio < MOST_RATIO:
        told |= values < level * (1 - ratio) ** 2
    kept = np.where(told, np.maximum(values, 1e-6), max(level, 1e-6))
    return roots[:, None] * ((axes * kept) @ axes.T) * roots
