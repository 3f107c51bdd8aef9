"""The loop under algorithms in steps: chunks, shown, kept, streamed, and ended by Ctrl-C.

Independent draws (`inference/mixed`) end by Ctrl-C themselves.

An algorithm has a state for each chain and three methods: `init` makes the states, `step` takes
some steps of one chain, and `observe` says what a chunk of steps of all chains leaves.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from probmf import processes
from probmf.run.checkpoint import Checkpoint, join
from probmf.run.fingerprint import fingerprint
from probmf.run.threads import workers

#: Seconds between writes of checkpoint and stream.
WRITE_EVERY = 10.0
#: Arrays of at most so many numbers are compared between processes after each chunk.
COMPARED = 1024


def progress_bar(progress: bool | None) -> Progress:
    """A bar with a status text; None shows it on terminals, and in notebooks with ipywidgets."""
    console = Console(stderr=True)
    drawn = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
    show = drawn if progress is None else progress
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not show,
        transient=True,
    )


class FitWarning(UserWarning):
    """Warning that a fit diverged, was interrupted, or left something undetermined."""


class _WriteError(OSError):
    """Checkpoint or stream can't be written."""


WRITE_ERRORS = _WriteError, processes.PeerError


@dataclass(frozen=True)
class Schedule:
    """Steps per chain, those of the warm-up among them, which are not kept.

    A chunk has the most steps between looks at the clock and at interruptions; of those after the
    warm-up every so manieth is streamed.
    """

    num_steps: int
    num_warmup: int = 0
    chunk: int = 1
    stream_every: int = 1

    def count(self, done: int) -> int:
        """Steps of the chunk after `done` steps; it never straddles the end of the warm-up."""
        end = self.num_warmup if done < self.num_warmup else self.num_steps
        return min(self.chunk, end - done)

    def num_streamed(self, done: int) -> int:
        """Draws per chain that are streamed of the first `done` steps."""
        return max(0, done - self.num_warmup) // self.stream_every


class Observed(NamedTuple):
    """Result of a chunk of steps: arrays that are kept and streamed, by name, (chain, draw, ...).

    `memory` is the algorithm's record of the run so far, a pytree that is kept beside the states;
    `stopped` a reason to take no more steps; `status` the text beside the progress bar.
    """

    memory: Any = None
    piece: dict[str, np.ndarray] | None = None
    draws: dict[str, np.ndarray] | None = None
    stopped: str = ""
    status: str = ""


class Algorithm(Protocol):
    """An algorithm; its states are pytrees.

    `stage` names its steps after the warm-up. So many chains as `num_threads` run side by side,
    each on a core of its own; 0 is for an algorithm that spreads its steps over the cores itself.
    """

    stage: str
    num_threads: int

    def init(self, *, resumed: bool) -> tuple[list[Any], Any]:
        """The chains' first states and memory; of a `resumed` run their structure alone counts."""

    def step(self, chain: int, state: Any, done: int, count: int) -> tuple[Any, Any]:
        """The state `count` steps after `done`, the given one as it was, and a record of them."""

    def observe(
        self, memory: Any, done: int, states: tuple[Any, ...], records: tuple[Any, ...]
    ) -> Observed:
        """Result of the steps after `done`, from the new states and the records of all chains."""


class Sink(Protocol):
    """Stream of draws to disk; see `DrawStream`."""

    def begin(self, done: int) -> None:
        """Make the store, or open it where a checkpoint counts `done` draws."""

    def append(self, start: int, draws: Mapping[str, np.ndarray]) -> None:
        """Take the draws from `start` on; they may wait in memory."""

    def flush(self, done: int) -> None:
        """Write the first `done` draws to disk."""


class Run(NamedTuple):
    """Progress of a run, replaced as one: an interruption never sees half of a chunk."""

    states: list[Any]
    memory: Any
    num_pieces: int = 0
    done: int = 0
    stopped: str = ""
    seconds: np.ndarray = np.zeros(0)


class Result(NamedTuple):
    """The run after its last whole chunk, and what was kept, by name, (chain, draw, ...), joined.

    `interrupted` says that it ended before all steps were taken, by Ctrl-C or a full disk, which is
    the `trouble`.
    """

    run: Run
    pieces: dict[str, np.ndarray]
    interrupted: bool
    trouble: str | None

    @property
    def why(self) -> str:
        """Reason of the early end, as the start of a sentence."""
        return self.trouble or "Interrupted"


def drive(
    algorithm: Algorithm,
    schedule: Schedule,
    *,
    checkpoint: Checkpoint | None = None,
    stream: Sink | None = None,
    progress: bool | None = None,
    note: str = "",
    shared: bool = False,
) -> Result:
    """Run an algorithm, chunk by chunk.

    `note` is a line above the bar. With `shared` each step takes all processes: each writes its
    ranges of the checkpoint; the first alone streams draws and shows progress, and its clock
    counts. After Ctrl-C, or when checkpoint or stream can't be written, the result is what there
    is. Where the checkpoint can't be written at all, is in use, or differs between processes, that
    is a ValueError.
    """
    interrupted, trouble = False, None
    with (
        processes.loss_told(), processes.Together(shared) as together,
        nullcontext() if checkpoint is None else checkpoint.alone(),
        _side_by_side(algorithm.num_threads) as each,
        progress_bar(progress if together.leads else False) as bar,
    ):  # fmt: skip
        loop = _Loop(algorithm, schedule, checkpoint, stream, together)
        if note and not bar.disable:
            bar.console.print(note, highlight=False, soft_wrap=True)
        done = loop.run.done
        task = bar.add_task(loop.stage, total=schedule.num_steps, completed=done, status="")
        try:
            while loop.goes_on:
                status = loop.advance(each)
                if together.end_step(loop.take, loop.standing):
                    loop.save()
                bar.update(task, description=loop.stage, completed=loop.run.done, status=status)
            loop.save()
        except KeyboardInterrupt:
            if together.torn:
                raise
            interrupted = loop.goes_on
            try:
                loop.save()
            except WRITE_ERRORS as error:
                interrupted, trouble = True, str(error)
        except WRITE_ERRORS as error:
            interrupted, trouble = True, str(error)
    return Result(loop.run, join(loop.pieces[: loop.run.num_pieces]), interrupted, trouble)


class _Loop:
    """A run under way, and where it is kept."""

    def __init__(
        self,
        algorithm: Algorithm,
        schedule: Schedule,
        checkpoint: Checkpoint | None,
        stream: Sink | None,
        together: processes.Together,
    ) -> None:
        """Begin, or go on where the checkpoint ends."""
        self.algorithm, self.schedule, self.together = algorithm, schedule, together
        self.pieces: list[dict[str, np.ndarray]] = []
        self.written = -np.inf
        kept = None if checkpoint is None else checkpoint.read()
        self.run = Run(*algorithm.init(resumed=kept is not None))
        if kept is not None:
            self.pieces = kept.pieces
            self.run = kept.restore(self.run)._replace(num_pieces=len(kept.pieces))
        if together.shared:
            # Before anything is written: what others have not read yet.
            processes.agree("The checkpoints", str(self.run.done))
        self.checkpoint, self.stream = checkpoint, stream if together.leads else None
        self.fresh: tuple[int, dict[str, np.ndarray]] | None = None
        if self.stream is not None:
            self.stream.begin(schedule.num_streamed(self.run.done))
        try:
            self.save()
        except WRITE_ERRORS as error:
            where = "" if checkpoint is None else str(checkpoint.path)
            raise ValueError(f"checkpoint={where!r}: {error}.") from None
        past = self.run.seconds[-1] if len(self.run.seconds) else 0.0
        self.begin = time.perf_counter() - past

    @property
    def goes_on(self) -> bool:
        """True while there are steps to take."""
        return self.run.done < self.schedule.num_steps and not self.run.stopped

    @property
    def stage(self) -> str:
        """Name of the present steps."""
        warms_up = self.run.done < self.schedule.num_warmup
        return "warmup" if warms_up else self.algorithm.stage

    def standing(self) -> str:
        """Fingerprint of where the run stands, but for large arrays."""
        run = self.run
        small = [x for x in jax.tree.leaves(run.states) if np.size(x) <= COMPARED]
        return fingerprint(small, run.done, run.stopped)

    def advance(self, each: Callable[..., list[Any]]) -> str:
        """Take a chunk of steps; gives the status."""
        run, schedule = self.run, self.schedule
        count = schedule.count(run.done)
        begin = time.perf_counter() - self.begin
        outputs = each(partial(_step, self.algorithm, run.done, count), list(enumerate(run.states)))
        begin, end = self.together.of_first(begin, time.perf_counter() - self.begin)
        seconds = np.append(run.seconds, begin + (end - begin) * np.arange(1, count + 1) / count)
        states, records = zip(*outputs, strict=True)
        seen = self.algorithm.observe(run.memory, run.done, states, records)
        # What an interruption left after the last whole chunk is made again.
        del self.pieces[run.num_pieces :]
        if self.stream is not None and seen.draws is not None:
            self.fresh = schedule.num_streamed(run.done), seen.draws
        if seen.piece is not None:
            self.pieces.append(seen.piece)
        self.run = Run(
            list(states), seen.memory, len(self.pieces), run.done + count, seen.stopped, seconds
        )
        return seen.status

    def take(self) -> bool:
        """Give the stream the draws of the last chunk; true if it is time to save."""
        if self.stream is not None and self.fresh is not None:
            with _writing("draws"):
                self.stream.append(*self.fresh)
        self.fresh = None
        return time.perf_counter() - self.written > WRITE_EVERY

    def flush(self) -> None:
        """Write what the stream has, up to where the run stands."""
        self.take()
        if self.stream is not None:
            with _writing("draws"):
                self.stream.flush(self.schedule.num_streamed(self.run.done))

    def save(self) -> None:
        """Write the run; in all processes that share it, at the same step."""
        self.written = time.perf_counter()
        # The stream first, so that it never holds less than the checkpoint counts.
        self.together.each(self.flush)
        if self.checkpoint is not None:
            with _writing("checkpoint"):
                self.checkpoint.write(self.run, self.pieces[: self.run.num_pieces], self.run.done)


def _step(
    algorithm: Algorithm, done: int, count: int, numbered: tuple[int, Any]
) -> tuple[Any, Any]:
    return algorithm.step(*numbered, done, count)


@contextmanager
def _side_by_side(num_threads: int) -> Iterator[Callable[..., list[Any]]]:
    """A `map` over chains, in threads where there are to be some."""
    if not num_threads:
        yield lambda function, items: [function(item) for item in items]
        return
    with workers(num_threads) as pool:
        yield pool.map


@contextmanager
def _writing(what: str) -> Iterator[None]:
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        raise _WriteError(f"The {what} can't be written ({error})") from error


def require_finite(state: Any, chain: int, done: int, advice: str) -> None:
    """Refuse to go on from a state that holds numbers that are not finite, with advice."""
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state)):
        raise FloatingPointError(
            f"Chain {chain} holds numbers that are not finite after step {done}. {advice}"
        )


def require_draws(result: Result, num_draws: int, *, kept: bool) -> None:
    """Raise what ended a run where it left no draws: an interruption, or trouble with the disk."""
    if num_draws:
        return
    if result.trouble:
        raise OSError(f"{result.trouble}.")
    so_far = " The checkpoint has the run so far." if kept else ""
    raise KeyboardInterrupt(
        f"Interrupted before the first draw was kept: there are no draws to return.{so_far}"
    )


def warn_incomplete(result: Result, num_draws: int, of: int, *, stacklevel: int) -> None:
    """Say how far an interrupted run came; `stacklevel` is counted from the caller as 1."""
    if result.interrupted:
        warnings.warn(
            f"{result.why}: each chain has {num_draws} of {of} draws; the fit is marked "
            "incomplete.",
            FitWarning,
            stacklevel=stacklevel + 1,
        )
