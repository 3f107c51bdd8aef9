"""Gibbs chains: sweeps over rows and scales, side by side in threads, in resumable chunks."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.run.checkpoint import Checkpoint
from probmf.run.draw_stream import DrawStream
from probmf.run.progress import progress_bar
from probmf.run.threads import workers

#: Sweeps between looks at the clock and at interruptions.
CHUNK = 10
#: Seconds between writes of a checkpoint.
WRITE_EVERY = 10.0
#: Sweeps at the start, at most, during which scales are held.
HELD = 20


@dataclass(frozen=True)
class GibbsSettings:
    """Settings of the run.

    Attributes:
        num_warmup: Sweeps that are thrown away first.
        num_samples: Sweeps per chain after them.
        num_chains: Chains.
        thin: Rows are kept in memory at every `thin`-th of them.
        stream_every: Rows are written out at every so many of them, of which `thin` is a multiple;
            0 when they are not.
    """

    num_warmup: int
    num_samples: int
    num_chains: int
    thin: int
    stream_every: int = 0

    @property
    def num_kept(self) -> int:
        """Draws of the rows per chain that stay in memory."""
        return self.num_samples // self.thin

    def num_streamed(self, done: int | None = None) -> int:
        """Draws per chain that are written out, after so many sweeps or in the end."""
        after = self.num_samples if done is None else max(0, done - self.num_warmup)
        return after // self.stream_every if self.stream_every else 0


class Moments(NamedTuple):
    """Running moments of many numbers; a pytree.

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


class Gathered(NamedTuple):
    """Moments that a chain gathers over all sweeps; a pytree.

    Attributes:
        watched: Moments of the expected ratings of watched pairs.
        rows: Moments of every number of the rows.
    """

    watched: Moments
    rows: Moments


@dataclass(frozen=True)
class Contents:
    """Contents of the flat arrays of rows and traces, in order.

    Attributes:
        rows: Shapes of the rows' sites.
        traces: Shapes of the traced numbers.
    """

    rows: dict[str, tuple[int, ...]]
    traces: dict[str, tuple[int, ...]]

    @property
    def num_numbers(self) -> int:
        """Numbers in a draw of all rows."""
        return sum(int(np.prod(shape)) for shape in self.rows.values())

    def split_rows(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Flat rows, (..., all), by site."""
        return _split(self.rows, flat)

    def split_traces(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Flat traces, (..., all), by name."""
        return _split(self.traces, flat)


class Engine(Protocol):
    """Sweeps of a model. A state is a pytree with the number of sweeps in `sweep`.

    Attributes:
        contents: What is kept of a state.
        num_watched: Pairs whose expected ratings are averaged.
        num_threads: Threads that a sweep hands its parts to.
    """

    @property
    def contents(self) -> Contents:
        """Parts of a state that are kept."""

    @property
    def num_watched(self) -> int:
        """Number of pairs whose expected ratings are averaged."""

    @property
    def num_threads(self) -> int:
        """Number of threads that a sweep hands its parts to."""

    def sweep(
        self, key: Array, state: Any, hold: bool, pool: ThreadPoolExecutor
    ) -> tuple[Any, Array]:
        """The next state, and the log joint density up to a constant."""
        ...

    def observe(
        self, state: Any, log_joint: Array, gathered: Gathered
    ) -> tuple[Array, Array, Gathered]:
        """Flat traces and flat rows of a state, and what is gathered with it."""
        ...


class Chain(NamedTuple):
    """A chain: where it stands and what it has gathered; a pytree."""

    state: Any
    gathered: Gathered


class GibbsChains(NamedTuple):
    """Draws and statistics of the chains.

    Attributes:
        kept: Draws of the rows by site, (chain, draw, ...).
        traces: Numbers noted at every sweep, by name, (chain, sweep, ...).
        watched: Moments of the watched pairs, for each chain.
        mean: Means of the rows over all sweeps, by site, (chain, ...).
        sd: Their standard deviations.
        complete: Whether all sweeps asked for were done.
        trouble: Why they were not, if it was not an interruption.
    """

    kept: dict[str, np.ndarray]
    traces: dict[str, np.ndarray]
    watched: list[Moments]
    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    complete: bool
    trouble: str | None


class _Run(NamedTuple):
    """Progress of a run: replaced as one, so that an interruption never sees half of a chunk."""

    chains: list[Chain]
    num_pieces: int
    done: int


def run_gibbs(
    engine: Engine,
    settings: GibbsSettings,
    key: Array,
    starts: Sequence[Any],
    *,
    checkpoint: Checkpoint | None = None,
    stream: DrawStream | None = None,
    progress: bool | None = None,
    note: str = "",
) -> GibbsChains:
    """Sample, chunk by chunk.

    Args:
        engine: See the class.
        settings: See the class.
        key: JAX key.
        starts: The states that the chains start from, when nothing is kept yet.
        checkpoint: Where to keep the run, and what is kept of it already.
        stream: Where to write all draws that `settings.stream_every` chooses.
        progress: Show a bar.
        note: Shown beside it.

    Returns:
        The chains; fewer draws, marked incomplete, after an interruption, or when the checkpoint
        or the stream can't be written.

    Raises:
        KeyboardInterrupt: After an interruption before the first draw is kept.
        OSError: If checkpoint or stream can't be written before that.
    """
    total = settings.num_warmup + settings.num_samples
    contents = engine.contents
    nothing = Gathered(Moments.none(engine.num_watched), Moments.none(contents.num_numbers))
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    found = None if checkpoint is None else checkpoint.read()
    if found is None:
        run = _Run([Chain(state, nothing) for state in starts], 0, 0)
    else:
        example, numbers = Chain(starts[0], nothing), range(settings.num_chains)
        pieces = found.pieces
        run = _Run([found.state(example, n) for n in numbers], len(pieces), found.done)
    if stream is not None:
        stream.begin(settings.num_streamed(run.done))

    def save() -> None:
        """The stream first, so that it never holds less than the checkpoint counts."""
        if stream is not None:
            stream.flush(settings.num_streamed(run.done))
        if checkpoint is not None:
            try:
                checkpoint.write(run.chains, pieces[: run.num_pieces], run.done)
            except OSError as error:
                raise OSError(f"The checkpoint can't be written ({error})") from error

    written = time.perf_counter()
    complete, trouble = True, None
    with workers(settings.num_chains) as pool, progress_bar(progress) as bar:
        if note and not bar.disable:
            bar.console.print(f"sample_gibbs {note}", highlight=False, soft_wrap=True)
        task = bar.add_task("warmup", total=total, completed=run.done, status="")
        try:
            while run.done < total:
                end = settings.num_warmup if run.done < settings.num_warmup else total
                count = min(CHUNK, end - run.done)
                work = partial(_advance, engine, settings, key, count)
                outputs = pool.map(work, list(enumerate(run.chains)))
                if run.done >= settings.num_warmup:
                    # What an interruption left after the last whole chunk is drawn again.
                    del pieces[run.num_pieces :]
                    rows, traces = (np.stack([output[i] for output in outputs]) for i in (1, 2))
                    first = run.done - settings.num_warmup + 1
                    if stream is not None:
                        at = _numbers(settings.stream_every, first, count) - first
                        draws = contents.split_rows(rows) | contents.split_traces(traces[:, at])
                        stream.append(settings.num_streamed(run.done), draws)
                    pieces.append((_in_memory(settings, rows, first, count), traces))
                run = _Run([output[0] for output in outputs], len(pieces), run.done + count)
                now = time.perf_counter()
                if run.done == total or now - written > WRITE_EVERY:
                    save()
                    written = now
                stage = "warmup" if run.done < settings.num_warmup else "sampling"
                bar.update(task, description=stage, completed=run.done)
        except KeyboardInterrupt:
            complete = run.done >= total
            try:
                save()
            except OSError as error:
                complete, trouble = False, str(error)
        except OSError as error:
            if not any(piece[0].shape[1] for piece in pieces[: run.num_pieces]):
                raise
            complete, trouble = False, str(error)
    pieces = pieces[: run.num_pieces]
    if not any(piece[0].shape[1] for piece in pieces):
        raise KeyboardInterrupt("Interrupted before the first draw was kept.")
    kept = np.concatenate([piece[0] for piece in pieces], axis=1)
    traces = np.concatenate([piece[1] for piece in pieces], axis=1)
    moments = [chain.gathered.rows for chain in run.chains]
    mean = np.stack([np.asarray(part.mean) for part in moments])
    sd = np.stack([np.sqrt(np.asarray(part.square) / float(part.sweeps)) for part in moments])
    return GibbsChains(
        contents.split_rows(kept), contents.split_traces(traces),
        [chain.gathered.watched for chain in run.chains], contents.split_rows(mean),
        contents.split_rows(sd), complete, trouble,
    )  # fmt: skip


def _numbers(every: int, first: int, count: int) -> np.ndarray:
    """Of the sweeps first, first + 1, ..., those that are multiples."""
    numbers = np.arange(first, first + count)
    return numbers[numbers % every == 0]


def _in_memory(settings: GibbsSettings, rows: np.ndarray, first: int, count: int) -> np.ndarray:
    """Of the rows of a chunk, those that stay; a copy, so that the others can go."""
    numbers = _numbers(settings.stream_every or settings.thin, first, count)
    stay = numbers % settings.thin == 0
    return rows if stay.all() else rows[:, stay]


def _advance(
    engine: Engine, settings: GibbsSettings, key: Array, count: int, numbered: tuple[int, Chain]
) -> tuple[Chain, np.ndarray, np.ndarray]:
    """Sweeps of one chain: the chain, its kept rows, and its traces, both flat."""
    index, (state, gathered) = numbered
    own_key = jax.random.fold_in(key, index)
    every = settings.stream_every or settings.thin
    rows, traces = [], []
    done = int(state.sweep)
    with ThreadPoolExecutor(engine.num_threads) as pool:
        for sweep in range(done, done + count):
            hold = sweep < min(HELD, settings.num_warmup // 2)
            state, log_joint = engine.sweep(own_key, state, hold, pool)
            kept = sweep - settings.num_warmup + 1
            if kept < 1:
                continue
            trace, flat, gathered = engine.observe(state, log_joint, gathered)
            traces.append(np.asarray(trace))
            if kept % every == 0:
                rows.append(np.asarray(flat))
    _check_finite(state, index)
    none = np.zeros((0, engine.contents.num_numbers), jnp.result_type(float))
    return Chain(state, gathered), np.stack(rows) if rows else none, np.asarray(traces)


def _check_finite(state: Any, chain: int) -> None:
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state)):
        raise FloatingPointError(
            f"Chain {chain} holds numbers that are not finite after sweep {int(state.sweep)}. A "
            "precision matrix can be lost to rounding where prior scales are very large against "
            "the noise: compute with float64=True, or give narrower priors of the scales."
        )


def _split(shapes: dict[str, tuple[int, ...]], flat: np.ndarray) -> dict[str, np.ndarray]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(flat, ends[:-1], axis=-1)
    return {
        name: part.reshape(*flat.shape[:-1], *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
