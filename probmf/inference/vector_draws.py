"""Draws of a density of few numbers: importance sampling about its mode, else NUTS."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.data.keys import as_generator
from probmf.diagnostics.judgement import FallbackWarning
from probmf.inference.drawn_back import SiteArrays
from probmf.inference.final_warning import PACKAGE
from probmf.inference.importance import K_HAT_GATE, NoModeError, find_mode, resample
from probmf.inference.importance_rounds import MAX_DIMS, Rounds
from probmf.inference.marginal.evaluators import NotServedError, cut
from probmf.inference.marginal.host_density import CHUNK
from probmf.inference.nuts.pooled_warmup import PooledNuts
from probmf.inference.potential import Potential
from probmf.results.records import Sampling
from probmf.rows.store import num_workers
from probmf.run.driver import FitWarning, progress_bar
from probmf.run.threads import Workers, workers

#: Chains of NUTS.
NUM_CHAINS = 4


class VectorDraws(NamedTuple):
    """Draws on the unconstrained scale, and how they came about.

    Attributes:
        vectors: The draws: one chain of independent ones, or four of NUTS.
        stats: Statistics of single draws, by NUTS.
        num_warmup: Transitions per chain that were thrown away.
        complete: False after an interruption.
        info: Single numbers and words; see `Sampling`.
    """

    vectors: Float[np.ndarray, "chain draw d"]
    stats: Mapping[str, np.ndarray]
    num_warmup: int
    complete: bool
    info: Mapping[str, Any]

    def sampling(self, seconds: float) -> Sampling:
        """The record of the run."""
        return Sampling(self.stats, self.num_warmup, seconds, self.complete, self.info)


def draw_vectors(
    potential: Potential, num_samples: int, key: Array, limit: int, progress: bool | None
) -> VectorDraws:
    """Draw from a density.

    By NUTS there are as many as wanted, or a few more, in chains of one length.

    Raises:
        NoStartError: If the density is finite nowhere that chains could start.
        KeyboardInterrupt: After an interruption before there are draws that can be trusted.

    Warns:
        FallbackWarning: If NUTS takes over.
        FitWarning: After an interruption, with what there is.
    """
    weigh_key, nuts_key = jax.random.split(key)
    try:
        found = _weighted(potential, num_samples, weigh_key, limit, progress)
    except NotServedError as error:
        warnings.warn(
            f"Importance sampling can't serve here: {error}. Going on with NUTS on what is left.",
            FallbackWarning, skip_file_prefixes=(PACKAGE,),
        )  # fmt: skip
        nuts = PooledNuts(potential, NUM_CHAINS, nuts_key, progress)
        nuts.warm_up()
        chains = nuts.draw(-(-num_samples // NUM_CHAINS))
        found = VectorDraws(
            chains.vectors, chains.stats, nuts.num_warmup, chains.complete,
            {"fallback": str(error)},
        )  # fmt: skip
    if not found.complete:
        warnings.warn(
            f"Interrupted: there are {found.vectors.shape[0] * found.vectors.shape[1]:,} of "
            f"{num_samples:,} draws, marked incomplete.",
            FitWarning, skip_file_prefixes=(PACKAGE,),
        )  # fmt: skip
    return found


def _weighted(
    potential: Potential, num_samples: int, key: Array, limit: int, progress: bool | None
) -> VectorDraws:
    """Independent draws by weight.

    Raises:
        NotServedError: If too much is left, there is no mode, or k-hat stays above the gate.
        KeyboardInterrupt: After an interruption before there are draws that can be trusted.
    """
    size = potential.num_dims
    if size > MAX_DIMS:
        raise NotServedError(
            f"{size} parameters are left, more than the {MAX_DIMS} that importance sampling serves"
        )

    def score(vector: np.ndarray) -> tuple[float, np.ndarray]:
        point = jnp.asarray(vector, potential.vector.dtype)
        value, gradient = potential.value_and_grad(point)
        return float(value), np.asarray(gradient, np.float64)

    rng = as_generator(key)
    with workers(num_workers()) as pool, progress_bar(progress) as bar:
        task = bar.add_task("mode", total=None, status="")
        densities = _Densities(potential, pool)
        compiled = pool.submit(densities.compile)
        try:
            mode = find_mode(score, potential.vector.astype(np.float64)) if size else None
        except NoModeError as error:
            raise NotServedError(str(error)) from None
        compiled.result()
        rounds = Rounds(densities, rng, mode)
        count = rounds.run(num_samples, limit, bar, task)
    chosen = rounds.points[resample(rounds.weights, count, rng)]
    info = {
        "k_hat": rounds.k_hat, "k_hat_gate": K_HAT_GATE, "num_densities": rounds.num,
        "effective": rounds.effective, "effective_fraction": rounds.effective / rounds.num,
    }  # fmt: skip
    return VectorDraws(chosen[None], {}, 0, count == num_samples, info)


class _Densities:
    """Log densities of proposals, in chunks side by side; see `Rounds`."""

    def __init__(self, density: Potential, pool: Workers) -> None:
        """Trace the program of a chunk."""
        self.density, self.pool = density, pool
        self.example = np.zeros((CHUNK, density.num_dims), density.vector.dtype)
        self.run = density.compiled(_log_densities, self.example)

    def compile(self) -> None:
        """Have the program ready."""
        self.run.lower(self.density, self.example).compile()

    def __call__(self, points: np.ndarray) -> Iterator[tuple[np.ndarray, SiteArrays]]:
        """Log densities, and no sites: these are found for the proposals that are chosen."""
        found = self.pool.stream(self._one, self._pieces(points))
        for some, values in zip(cut(points, CHUNK), found, strict=True):
            yield values[: len(some)], {}

    def _pieces(self, points: np.ndarray) -> Iterator[np.ndarray]:
        for some in cut(points.astype(self.example.dtype), CHUNK):
            yield np.concatenate([some, np.repeat(some[-1:], CHUNK - len(some), axis=0)])

    def _one(self, piece: np.ndarray) -> np.ndarray:
        values = np.asarray(self.run(self.density, piece), np.float64)
        return np.where(np.isfinite(values), values, -np.inf)


def _log_densities(density: Potential, vectors: Array) -> Array:
    return jax.lax.map(density.log_density, vectors)
