"""Importance sampling of what is left when every Gaussian effect is integrated out."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from probmf.data.keys import as_generator
from probmf.effects.lapack import on_cores
from probmf.effects.pattern import MAX_REMAINDER
from probmf.inference.drawn_back import joined
from probmf.inference.importance import NoModeError, find_mode, resample
from probmf.inference.importance_rounds import (
    MAX_DIMS,
    Clock,
    ImportanceDraws,
    Rounds,
    most_densities,
)
from probmf.inference.marginal.density import MarginalDensity
from probmf.inference.marginal.evaluators import (
    Evaluator,
    HostEvaluator,
    NotServedError,
    SpectralEvaluator,
)
from probmf.inference.marginal.host_density import CHUNK
from probmf.inference.marginal.lost_digits import lost_digits, some_of
from probmf.rows.store import num_workers
from probmf.run.driver import progress_bar
from probmf.run.threads import blas_cores, workers

#: Cost of one decomposition of D effects, in multiples of D^3 multiplications.
SPECTRUM_COST = 12.0


def draw_marginal(
    density: MarginalDensity,
    num_samples: int,
    key: Array,
    *,
    max_densities: int | None,
    progress: bool | None,
) -> ImportanceDraws:
    """Draw from the density by importance sampling with a fitted proposal.

    Args:
        density: The density.
        num_samples: Draws wanted; proposals go on until so many are effective.
        key: JAX key.
        max_densities: The most proposals; None for 40 per draw, at least 20,000.
        progress: Show a bar.

    Returns:
        The draws; after an interruption as many as the proposals so far are effective.

    Raises:
        NotServedError: If there are too many parameters, no mode, or k-hat stays above the gate.
        KeyboardInterrupt: After an interruption before there are draws that can be trusted.
    """
    size = density.num_dims
    if size > MAX_DIMS:
        raise NotServedError(
            f"{size} parameters are left, more than the {MAX_DIMS} that importance sampling serves"
        )
    clock = Clock()
    limit = most_densities(num_samples, max_densities)
    rng = as_generator(key)
    spectral = _spectrum_pays(density, num_samples)
    # One large product after the other, in place of proposals side by side.
    cores = num_workers() if spectral else 1
    with workers(64) as pool, blas_cores(cores), progress_bar(progress) as bar:
        task = bar.add_task("mode", total=None, status="")
        host = density.host if density.host is not None and density.host.is_large else None
        if not spectral and host is None:
            # First, as it takes longest to compile.
            run = pool.submit(_compile_chunk, *_traced_chunk(density))
        start = density.begin(pool) if size else None
        try:
            with on_cores(1 if host is None else host.cores):
                mode = None
                if start is not None:
                    first = start.result()
                    mode = find_mode(density.score, first, informed=density.informed)
        except NoModeError as error:
            raise NotServedError(str(error)) from None
        clock.mark("mode")
        evaluate: Evaluator | HostEvaluator | SpectralEvaluator
        if spectral:
            evaluate = SpectralEvaluator(density, rng)
        elif host is not None:
            evaluate = HostEvaluator(density, host, pool, rng)
        else:
            evaluate = Evaluator(density, run.result(), pool, rng)
        clock.mark("compilation")
        rounds = Rounds(evaluate, rng, mode)
        count = rounds.run(num_samples, limit, bar, task)
        clock.mark("proposals")
        chosen = resample(rounds.weights, count, rng)
        samples = joined(rounds.sites(chosen), 0)  # In random order, so that any are draws.
        digits = ""
        if density.vector.dtype == np.float64:
            looked_at = rounds.points[chosen[some_of(count)]]
            digits = lost_digits(density.prepared, [density.rounding(point) for point in looked_at])
    clock.mark("draws")
    gradients = 0 if mode is None else mode.num_evaluations
    complete = all(len(draws) == num_samples for draws in samples.values())
    return ImportanceDraws(
        samples, rounds.k_hat, rounds.num, gradients, rounds.effective, clock.seconds, complete,
        digits,
    )  # fmt: skip


def _spectrum_pays(density: MarginalDensity, num_samples: int) -> bool:
    """True if one decomposition of all effects costs less than a factorization per draw."""
    prepared = density.prepared
    if density.num_dims != 1 or prepared.statistics is None or not prepared.fixed_priors:
        return False
    size = sum(groups * dim for groups, dim in prepared.pattern.shapes)
    by_draw = prepared.pattern.num_columns**3 / 3 + 50.0 * size
    return size <= MAX_REMAINDER and SPECTRUM_COST * size**3 < num_samples * by_draw


def _traced_chunk(density: MarginalDensity) -> tuple[Any, ...]:
    """The program of one chunk, and its arguments."""
    example = np.zeros((CHUNK, density.num_dims), density.vector.dtype)
    words = np.zeros((CHUNK, 2), np.uint32)
    return density.compiled(_chunk, example, words), density, example, words


def _chunk(
    density: MarginalDensity, vectors: Array, words: Array
) -> tuple[Array, dict[str, Array]]:
    return jax.lax.map(lambda both: density.joint(*both), (vectors, words))


def _compile_chunk(run: Any, *example: Any) -> Any:
    run.lower(*example).compile()
    return run
