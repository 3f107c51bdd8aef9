"""Gibbs chains: sweeps over rows and scales, side by side in threads, in resumable chunks."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probmf.inference._checkpoint import Checkpoint
from probmf.inference._gibbs_update import (
    Given,
    Plan,
    State,
    likelihood_scales,
    make_ready,
    pair_scores,
    update,
)
from probmf.inference._progress import progress_bar
from probmf.inference._workers import workers
from probmf.rows import SIDES, RowLayout, Side
from probmf.sweep import Noise, Prior, RowSums, half_sweep

#: Sweeps between looks at the clock and at interruptions.
CHUNK = 10
#: What a Normal-Wishart prior adds for a side.
PARTS = ("mean", "precision")
#: Seconds between writes of a checkpoint.
WRITE_EVERY = 10.0
#: Sweeps at the start, at most, during which scales are held.
HELD = 20


@dataclass(frozen=True)
class GibbsSettings:
    """What shapes the run.

    Attributes:
        num_warmup: Sweeps that are thrown away first.
        num_samples: Sweeps per chain after them.
        num_chains: Chains.
        thin: Rows are kept at every `thin`-th of them.
    """

    num_warmup: int
    num_samples: int
    num_chains: int
    thin: int

    @property
    def num_kept(self) -> int:
        """Draws of the rows per chain."""
        return self.num_samples // self.thin


class Pairs(NamedTuple):
    """Pairs by table row, so that items' numbers come after the users'; a pytree."""

    user: Int[Array, " n"]
    item: Int[Array, " n"]


class Moments(NamedTuple):
    """Running moments of expected ratings at chosen pairs; a pytree.

    Attributes:
        sweeps: Sweeps so far.
        mean: Mean over them.
        square: Sum of squares about the mean.
    """

    sweeps: Float[Array, ""]
    mean: Float[Array, " n"]
    square: Float[Array, " n"]

    @classmethod
    def none(cls, size: int) -> "Moments":
        """Of no sweep yet."""
        empty = jnp.zeros(size, jnp.result_type(float))
        return cls(jnp.zeros((), empty.dtype), empty, empty)

    def add(self, value: Float[Array, " n"]) -> "Moments":
        """With one more sweep (Welford)."""
        sweeps = self.sweeps + 1
        apart = value - self.mean
        mean = self.mean + apart / sweeps
        return Moments(sweeps, mean, self.square + apart * (value - mean))


class Problem(NamedTuple):
    """All that a chain needs, besides where it stands.

    Attributes:
        plan: What is drawn.
        given: Priors.
        layout: The ratings by row.
        free: For each side, 1 for coordinates that are drawn.
        probes: Pairs whose scores are noted at every sweep.
        watched: Pairs whose expected ratings are averaged over all sweeps.
    """

    plan: Plan
    given: Given
    layout: RowLayout
    free: dict[Side, Array]
    probes: Pairs
    watched: Pairs


class Chain(NamedTuple):
    """A chain: where it stands and what it has gathered; a pytree."""

    state: State
    moments: Moments


class GibbsChains(NamedTuple):
    """What the chains gave.

    Attributes:
        kept: Draws of the rows: biases and factors of the table, (chain, draw, ...).
        traces: Numbers noted at every sweep, by name, (chain, sweep, ...).
        moments: Of the watched pairs, for each chain.
        complete: Whether all sweeps asked for were done.
        trouble: Why they were not, if it was not an interruption.
        seconds: Wall time of the sweeps.
    """

    kept: dict[str, np.ndarray]
    traces: dict[str, np.ndarray]
    moments: list[Moments]
    complete: bool
    trouble: str | None
    seconds: float


def run_gibbs(
    problem: Problem,
    settings: GibbsSettings,
    key: Array,
    starts: list[State],
    *,
    checkpoint: Checkpoint | None = None,
    progress: bool | None = None,
    note: str = "",
) -> GibbsChains:
    """Sample, chunk by chunk.

    Args:
        problem: See the class.
        settings: See the class.
        key: JAX key.
        starts: The states that the chains start from, when nothing is kept yet.
        checkpoint: Where to keep the run, and what is kept of it already.
        progress: Show a bar.
        note: Shown beside it.

    Returns:
        The chains; fewer draws, marked incomplete, after an interruption, or when the checkpoint
        can't be written.

    Raises:
        KeyboardInterrupt: After an interruption before the first draw is kept.
        OSError: If the checkpoint can't be written before that.
    """
    total = settings.num_warmup + settings.num_samples
    found = None if checkpoint is None else checkpoint.read()
    if found is None:
        chains = [Chain(state, Moments.none(len(problem.watched.user))) for state in starts]
        pieces: list[tuple[np.ndarray, np.ndarray]] = []
        done = 0
    else:
        example = Chain(starts[0], Moments.none(len(problem.watched.user)))
        chains = [found.state(example, index) for index in range(settings.num_chains)]
        pieces, done = found.pieces, found.done
    names = Contents.of(problem, chains[0].state)
    began = written = time.perf_counter()
    complete, trouble = True, None
    with workers(settings.num_chains) as pool, progress_bar(progress) as bar:
        task = bar.add_task("warmup", total=total, completed=done, status=note)
        try:
            while done < total:
                end = settings.num_warmup if done < settings.num_warmup else total
                count = min(CHUNK, end - done)
                work = partial(_advance, problem, settings, key, count)
                outputs = pool.map(work, list(enumerate(chains)))
                chains = [output[0] for output in outputs]
                if done >= settings.num_warmup:
                    pieces.append(
                        (
                            np.stack([np.stack(o[1]) if o[1] else names.no_rows for o in outputs]),
                            np.stack([np.stack(o[2]) for o in outputs]),
                        )
                    )
                done += count
                now = time.perf_counter()
                if checkpoint is not None and (done == total or now - written > WRITE_EVERY):
                    checkpoint.write(chains, pieces, done)
                    written = now
                stage = "warmup" if done < settings.num_warmup else "sampling"
                bar.update(task, description=stage, completed=done)
        except KeyboardInterrupt:
            complete = done >= total
            if checkpoint is not None:
                # A full disk takes nothing from what is handed back.
                with suppress(OSError):
                    checkpoint.write(chains, pieces, done)
        except OSError as error:
            if not any(piece[0].shape[1] for piece in pieces):
                raise
            complete, trouble = False, f"The checkpoint can't be written ({error})"
    kept = np.concatenate([p[0] for p in pieces], axis=1) if pieces else np.zeros((0, 0))
    if kept.shape[1] == 0:
        raise KeyboardInterrupt("Interrupted before the first draw was kept.")
    traces = np.concatenate([p[1] for p in pieces], axis=1)
    return GibbsChains(
        names.split_rows(kept), names.split_traces(traces), [chain.moments for chain in chains],
        complete, trouble, time.perf_counter() - began,
    )  # fmt: skip


def _advance(
    problem: Problem, settings: GibbsSettings, key: Array, count: int, numbered: tuple[int, Chain]
) -> tuple[Chain, list[np.ndarray], list[np.ndarray]]:
    """Sweeps of one chain: the chain, its kept rows, and its traces, both flat."""
    index, chain = numbered
    state, moments = chain
    own_key = jax.random.fold_in(key, index)
    rows, traces = [], []
    done = int(state.sweep)
    with ThreadPoolExecutor(len(problem.layout.spans["user"])) as pool:
        for sweep in range(done, done + count):
            hold = sweep < min(HELD, settings.num_warmup // 2)
            state, log_joint = _sweep(problem, own_key, state, hold, pool)
            kept = sweep - settings.num_warmup + 1
            if kept < 1:
                continue
            trace, moments = _observe(
                problem.plan, problem.probes, problem.watched, state, moments, log_joint
            )
            traces.append(np.asarray(trace))
            if kept % settings.thin == 0 and kept // settings.thin <= settings.num_kept:
                rows.append(np.asarray(_flat_rows(problem.plan, state.table)))
    _check_finite(state, index)
    return Chain(state, moments), rows, traces


def _check_finite(state: State, chain: int) -> None:
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state)):
        raise FloatingPointError(
            f"Chain {chain} holds numbers that are not finite after sweep {int(state.sweep)}. A "
            "precision matrix can be lost to rounding where prior scales are very large against "
            "the noise: compute with float64=True, or give narrower priors of the scales."
        )


def _sweep(
    problem: Problem, key: Array, state: State, hold: bool, pool: ThreadPoolExecutor
) -> tuple[State, Array]:
    """Users, items, then everything else."""
    plan = problem.plan
    keys = _keys(key, state.sweep)
    ready = make_ready(plan, problem.given, keys[0], state)
    result: RowSums | None = None
    for side, own_key in zip(SIDES, keys[1:3], strict=True):
        prior = Prior(
            state.intercept, likelihood_scales(state.scales), ready.precision, problem.free[side],
            ready.gram[side], ready.shift[side], ready.pull,
        )  # fmt: skip
        table, result = half_sweep(
            problem.layout, side, state.table, prior, likelihood=plan.likelihood,
            method="cholesky", cg_steps=1, pool=pool, noise=Noise(ready.noise, own_key),
        )  # fmt: skip
        state = state._replace(table=table)
    return update(plan, problem.given, keys[3], state, result, jnp.asarray(hold))


@jax.jit
def _keys(key: Array, sweep: Array) -> Array:
    return jax.random.split(jax.random.fold_in(key, sweep), 4)


@partial(jax.jit, static_argnames="plan")
def _observe(
    plan: Plan,
    probes: Pairs,
    watched: Pairs,
    state: State,
    moments: Moments,
    log_joint: Array,
) -> tuple[Array, Moments]:
    """One sweep's numbers in a row, and the moments with that sweep."""
    if watched.user.size:
        scores = pair_scores(state, *watched)
        moments = moments.add(plan.likelihood.mean(scores, likelihood_scales(state.scales)))
    parts = [log_joint, state.intercept]
    parts += [jnp.ravel(state.scales[name]) for name in _traced(plan, state)]
    parts.append(pair_scores(state, *probes))
    return jnp.concatenate([jnp.atleast_1d(part) for part in parts]), moments


def _traced(plan: Plan, state: State) -> list[str]:
    """Names of what is sampled besides rows and intercept."""
    drawn = {f"{s.side}_{part}" for s in plan.sites if s.kind == "wishart" for part in PARTS}
    drawn |= {*plan.random, *plan.weights}
    return [name for name in sorted(state.scales) if name in drawn]


@partial(jax.jit, static_argnames="plan")
def _flat_rows(plan: Plan, table: Any) -> Array:
    return jnp.concatenate([jnp.ravel(plan.values(site, table)) for site in plan.sites])


@dataclass(frozen=True)
class Contents:
    """What the flat arrays of rows and traces hold, in order.

    Attributes:
        rows: Shapes of the rows' sites.
        traces: Shapes of the traced numbers.
    """

    rows: dict[str, tuple[int, ...]]
    traces: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, problem: Problem, state: State) -> "Contents":
        """Of a problem."""
        plan = problem.plan
        rows = {site.name: plan.values(site, state.table).shape for site in plan.sites}
        traces: dict[str, tuple[int, ...]] = {"lp": (), "intercept": ()}
        traces |= {name: state.scales[name].shape for name in _traced(plan, state)}
        return cls(rows, traces | {"probe_score": problem.probes.user.shape})

    @property
    def no_rows(self) -> np.ndarray:
        """The flat rows of a chunk without a kept draw."""
        return np.zeros((0, sum(int(np.prod(shape)) for shape in self.rows.values())))

    def split_rows(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Flat rows, (chain, draw, all), by site."""
        return _split(self.rows, flat)

    def split_traces(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Flat traces, (chain, sweep, all), by name."""
        return _split(self.traces, flat)


def _split(shapes: dict[str, tuple[int, ...]], flat: np.ndarray) -> dict[str, np.ndarray]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(flat, ends[:-1], axis=-1)
    return {
        name: part.reshape(*flat.shape[:-1], *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
