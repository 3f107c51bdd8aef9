"""Gibbs chains: sweeps over rows and scales, for the driver."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.run.driver import Observed, Result, Schedule, require_draws, require_finite

#: Sweeps between looks at the clock and at interruptions.
CHUNK = 10
#: Sweeps at the start, at most, during which scales are held.
HELD = 20
ADVICE = (
    "A precision matrix can be lost to rounding where prior scales are very large against the "
    "noise: compute with float64=True, or give narrower priors of the scales."
)


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

    @property
    def rows_every(self) -> int:
        """Sweeps whose rows are fetched: every so manieth."""
        return self.stream_every or self.thin

    @property
    def schedule(self) -> Schedule:
        """Steps of the run."""
        total = self.num_warmup + self.num_samples
        return Schedule(total, self.num_warmup, CHUNK, self.rows_every)


class RunningMoments(NamedTuple):
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
    def none(cls, size: int) -> "RunningMoments":
        """Of no sweep yet."""
        empty = jnp.zeros(size, jnp.result_type(float))
        return cls(jnp.zeros((), empty.dtype), empty, empty)

    def add(self, value: Float[Array, " n"]) -> "RunningMoments":
        """With one more sweep (Welford)."""
        sweeps = self.sweeps + 1
        apart = value - self.mean
        mean = self.mean + apart / sweeps
        return RunningMoments(sweeps, mean, self.square + apart * (value - mean))


class Gathered(NamedTuple):
    """Moments that a chain gathers over all sweeps; a pytree.

    Attributes:
        watched: Moments of the expected ratings of watched pairs.
        rows: Moments of every number of the rows.
    """

    watched: RunningMoments
    rows: RunningMoments


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
    """Sweeps of a model. A state is a pytree with the number of sweeps in `sweep`."""

    @property
    def contents(self) -> Contents:
        """Parts of a state that are kept."""

    @property
    def num_watched(self) -> int:
        """Number of pairs whose expected ratings are averaged."""

    @property
    def num_threads(self) -> int:
        """Number of threads that a sweep hands its parts to."""

    @property
    def side_by_side(self) -> bool:
        """True if chains may run at the same time.

        Programs of several devices have to be started in one order on all of them.
        """

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
    """

    kept: dict[str, np.ndarray]
    traces: dict[str, np.ndarray]
    watched: list[RunningMoments]
    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    complete: bool

    @classmethod
    def of(cls, engine: Engine, result: Result, *, checkpointed: bool) -> "GibbsChains":
        """The chains of a run that has ended.

        Raises:
            KeyboardInterrupt: After an interruption before the first draw is kept.
            OSError: If checkpoint or stream can't be written before that.
        """
        rows = result.pieces.get("rows", np.zeros((0, 0)))
        require_draws(result, rows.shape[1], kept=checkpointed)
        moments = [chain.gathered.rows for chain in result.run.states]
        mean = np.stack([np.asarray(part.mean) for part in moments])
        sd = np.stack([np.sqrt(np.asarray(part.square) / float(part.sweeps)) for part in moments])
        split = engine.contents.split_rows
        return cls(
            split(rows), engine.contents.split_traces(result.pieces["traces"]),
            [chain.gathered.watched for chain in result.run.states], split(mean), split(sd),
            not result.interrupted,
        )  # fmt: skip


class Sweeps:
    """Sweeps of several chains, for the driver.

    Args:
        engine: See the class.
        settings: See the class.
        key: JAX key.
        starts: The states that the chains start from.
    """

    stage = "sampling"

    def __init__(
        self, engine: Engine, settings: GibbsSettings, key: Array, starts: Sequence[Any]
    ) -> None:
        """Note the arguments."""
        self.engine, self.settings, self.key, self.starts = engine, settings, key, starts
        self.num_threads = settings.num_chains if engine.side_by_side else 1

    def init(self, *, resumed: bool) -> tuple[list[Chain], None]:
        """The starts, with nothing gathered."""
        del resumed
        size = self.engine.contents.num_numbers
        nothing = Gathered(RunningMoments.none(self.engine.num_watched), RunningMoments.none(size))
        return [Chain(state, nothing) for state in self.starts], None

    def step(
        self, chain: int, state: Chain, done: int, count: int
    ) -> tuple[Chain, tuple[np.ndarray, np.ndarray]]:
        """Some sweeps of one chain; its rows and its traces, both flat."""
        engine, settings = self.engine, self.settings
        now, gathered = state
        key = jax.random.fold_in(self.key, chain)
        rows, traces = [], []
        with ThreadPoolExecutor(engine.num_threads) as pool:
            for sweep in range(done, done + count):
                hold = sweep < min(HELD, settings.num_warmup // 2)
                now, log_joint = engine.sweep(key, now, hold, pool)
                kept = sweep - settings.num_warmup + 1
                if kept < 1:
                    continue
                trace, flat, gathered = engine.observe(now, log_joint, gathered)
                traces.append(np.asarray(trace))
                if kept % settings.rows_every == 0:
                    rows.append(np.asarray(flat))
        require_finite(now, chain, done + count, ADVICE)
        none = np.zeros((0, engine.contents.num_numbers), jnp.result_type(float))
        return Chain(now, gathered), (np.stack(rows) if rows else none, np.asarray(traces))

    def observe(
        self, memory: None, done: int, states: tuple[Chain, ...], records: tuple[Any, ...]
    ) -> Observed:
        """After the warm-up, rows and traces of the sweeps."""
        del memory, states
        settings, contents = self.settings, self.engine.contents
        if done < settings.num_warmup:
            return Observed()
        rows, traces = (np.stack(parts) for parts in zip(*records, strict=True))
        first, count = done - settings.num_warmup + 1, traces.shape[1]
        numbers = _numbers(settings.rows_every, first, count)
        draws = None
        if settings.stream_every:
            draws = contents.split_rows(rows) | contents.split_traces(traces[:, numbers - first])
        stay = numbers % settings.thin == 0
        # A copy, so that the others can go.
        piece = {"rows": rows if stay.all() else rows[:, stay], "traces": traces}
        return Observed(piece=piece, draws=draws)


def _numbers(every: int, first: int, count: int) -> np.ndarray:
    """Of the sweeps first, first + 1, ..., those that are multiples."""
    numbers = np.arange(first, first + count)
    return numbers[numbers % every == 0]


def _split(shapes: dict[str, tuple[int, ...]], flat: np.ndarray) -> dict[str, np.ndarray]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(flat, ends[:-1], axis=-1)
    return {
        name: part.reshape(*flat.shape[:-1], *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
