"""Importance sampling of what is left when every Gaussian effect is integrated out."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from probmf.data.keys import as_generator
from probmf.effects.lapack import on_cores
from probmf.effects.pattern import MAX_REMAINDER
from probmf.inference.drawn_back import SiteArrays, joined
from probmf.inference.importance import (
    K_HAT_GATE,
    Mixture,
    Mode,
    NoModeError,
    effective_size,
    find_mode,
    refit,
    resample,
    smooth,
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

#: More parameters than this are left to NUTS.
MAX_DIMS = 20
#: Numbers of effects kept while proposals are evaluated; beyond, they are drawn again at the end.
KEEP_NUMBERS = 100_000_000
#: Cost of one decomposition of D effects, in multiples of D^3 multiplications.
SPECTRUM_COST = 12.0
#: Below this effective share of the proposals, or above this k-hat (weights of infinite variance),
#: the mixture is fitted again.
GOOD_SHARE, GOOD_K_HAT = 0.5, 0.5
MAX_ROUNDS = 4
#: Proposals of the first round: enough for a first k-hat.
FIRST = 256


class ImportanceDraws(NamedTuple):
    """Draws of every site, and how they came about.

    Attributes:
        samples: Draws by site name, (num_samples, ...).
        k_hat: Shape of the tail of the importance weights.
        num_densities: Evaluations of the density by proposals.
        num_gradients: Evaluations of density and score by the search for the mode.
        effective: Effective number of draws among the proposals.
        seconds: Wall time by stage.
        complete: False after an interruption: there are fewer draws than were asked for.
        lost_digits: A sentence where rounding leaves too little of the density, else empty.
    """

    samples: dict[str, np.ndarray]
    k_hat: float
    num_densities: int
    num_gradients: int
    effective: float
    seconds: dict[str, float]
    complete: bool
    lost_digits: str


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
    clock = _Clock()
    limit = max_densities or max(40 * num_samples, 20_000)
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
                mode = None if start is None else find_mode(density.score, start.result())
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
        bar.update(task, description="proposals", total=num_samples, completed=0)
        rounds = _Rounds(evaluate, rng, mode)
        try:
            while (wanted := rounds.plan(num_samples, limit)) > 0:
                rounds.extend(wanted)
                rounds.weigh()
                status = f"{rounds.num:,} densities, k-hat {rounds.k_hat:.2f}"
                bar.update(task, completed=min(num_samples, rounds.effective), status=status)
            count = num_samples
        except KeyboardInterrupt:
            count = min(num_samples, rounds.settle())
        clock.mark("proposals")
        if not rounds.k_hat < K_HAT_GATE:
            raise NotServedError(
                f"after {rounds.num:,} proposals Pareto k-hat is {rounds.k_hat:.2f}, not below "
                f"{K_HAT_GATE}"
            )
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


class _Clock:
    """Wall time by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


class _Piece(NamedTuple):
    """A few proposals: where they are, log densities, sites if they are kept, number of the law."""

    points: np.ndarray
    values: np.ndarray
    sites: SiteArrays
    law: int


class _Rounds:
    """Proposals of all rounds, weighted against the mixture of all their laws."""

    def __init__(self, evaluate: Any, rng: np.random.Generator, mode: Mode | None) -> None:
        self.evaluate, self.rng = evaluate, rng
        size = evaluate.density.num_dims
        mean = np.zeros(size) if mode is None else mode.vector
        covariance = np.eye(size) if mode is None else mode.covariance
        self.laws = [Mixture.around(mean, covariance)]
        self.pieces: list[_Piece] = []
        self.numbers = 0
        self.points, self.log_weights = np.zeros((0, size)), np.zeros(0)
        self.weights = np.zeros(0)
        self.k_hat, self.effective = np.inf, 0.0

    @property
    def num(self) -> int:
        """Proposals that are weighted."""
        return len(self.points)

    def plan(self, num_samples: int, limit: int) -> int:
        """Number of proposals to make next; refits the proposal first where that will pay."""
        if self.num == 0:
            return min(max(FIRST, num_samples // 4), 2 * FIRST)
        done = self.effective >= num_samples and self.k_hat < K_HAT_GATE
        if done or self.num >= limit:
            return 0
        share = max(self.effective / self.num, 1e-3)
        poor = share < GOOD_SHARE or not self.k_hat < GOOD_K_HAT
        missing = max(num_samples - self.effective, 0.05 * num_samples)
        if poor and len(self.laws) <= MAX_ROUNDS and self.num >= 16 * self.points.shape[1]:
            components = 1 + min(4, int(self.effective) // (8 * self.points.shape[1] + 8))
            self.laws.append(refit(self.points, self.log_weights, components, len(self.laws)))
            wanted = max(FIRST, int(missing / max(share, GOOD_SHARE)))
            return min(wanted, max(512, num_samples), limit - self.num)
        wanted = int(1.05 * missing / share) + CHUNK
        return min(wanted, max(2 * self.num, num_samples), limit - self.num)

    def extend(self, num: int) -> None:
        """Make and evaluate proposals from the last law; what is evaluated stays if it stops."""
        points, done = self.laws[-1].sample(self.rng, num), 0
        for values, sites in self.evaluate(points):
            # What does not fit is dropped, and drawn again for the proposals chosen in the end.
            self.numbers += sum(site.size for site in sites.values())
            kept = sites if self.numbers <= KEEP_NUMBERS else {}
            if self.pieces and self.pieces[-1].sites and not kept:
                self.pieces = [piece._replace(sites={}) for piece in self.pieces]
            own = points[done : done + len(values)]
            self.pieces.append(_Piece(own, values, kept, len(self.laws) - 1))
            done += len(values)

    def weigh(self) -> None:
        """Weigh all proposals anew, against the mixture of the laws that they came from."""
        points = np.concatenate([piece.points for piece in self.pieces])
        values = np.concatenate([piece.values for piece in self.pieces])
        sizes = [len(piece.values) for piece in self.pieces]
        shares = np.bincount([piece.law for piece in self.pieces], sizes) / len(values)
        logs = np.stack(
            [
                np.log(share) + law.log_density(points)
                for share, law in zip(shares, self.laws, strict=False)
                if share > 0
            ]
        )
        log_weights = values - np.logaddexp.reduce(logs, axis=0)
        if not np.any(np.isfinite(log_weights)):
            raise NotServedError("the log density is finite at none of the proposals")
        self.weights, self.k_hat = smooth(log_weights)
        self.effective = effective_size(log_weights)
        self.points, self.log_weights = points, log_weights

    def settle(self) -> int:
        """Weigh what there is after an interruption; how many draws it is good for."""
        if self.pieces:
            self.weigh()
        if not self.k_hat < K_HAT_GATE or self.effective < 1:
            raise KeyboardInterrupt(
                f"Interrupted after {self.num:,} proposals, which are too few for their weights to "
                f"be trusted (Pareto k-hat {self.k_hat:.2f}): there are no draws to return."
            )
        return int(self.effective)

    def sites(self, chosen: np.ndarray) -> Iterator[SiteArrays]:
        """Values of every site at the chosen proposals, in pieces."""
        if all(piece.sites for piece in self.pieces):
            yield {
                name: np.concatenate([piece.sites[name] for piece in self.pieces])[chosen]
                for name in self.pieces[0].sites
            }
        else:
            yield from self.evaluate.sites(self.points[chosen])
