"""A toy algorithm for the driver that compiles nothing: chains of a random number generator."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probmf.results.draw_store import POSTERIOR, STATS
from probmf.run import driver
from probmf.run.checkpoint import Checkpoint
from probmf.run.draw_stream import DrawStream, StreamLayout, StreamSite
from probmf.run.driver import Observed, Result, Schedule, drive

WARMUP, DRAWS, CHUNK = 20, 60, 10
SCHEDULE = Schedule(WARMUP + DRAWS, WARMUP, CHUNK, stream_every=3)


class Generator:
    """Chains whose draws depend on all steps before; the memory is the sum of all.

    Args:
        num_chains: Chains.
        num_threads: Threads for them, or 0.
        interrupt_at: Calls of `step` that are cut short by Ctrl-C, the first being 0.
        last: Draw above which no more steps are taken.
    """

    stage = "sampling"

    def __init__(
        self,
        num_chains: int = 2,
        num_threads: int = 0,
        interrupt_at: Sequence[int] = (),
        last: float = np.inf,
    ) -> None:
        self.num_chains, self.num_threads = num_chains, num_threads
        self.interrupt_at, self.last = interrupt_at, last
        self.resumed: bool | None = None
        self.steps: list[tuple[int, int, int]] = []

    def init(self, *, resumed: bool) -> tuple[list[np.ndarray], float]:
        self.resumed = resumed
        # What a resumed run begins with must not count.
        return [np.asarray(0 if resumed else 7 + chain) for chain in range(self.num_chains)], 0.0

    def step(
        self, chain: int, state: np.ndarray, done: int, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        self.steps.append((chain, done, count))
        if len(self.steps) - 1 in self.interrupt_at:
            raise KeyboardInterrupt
        values = []
        for _ in range(count):
            state = (1_103_515_245 * state + 12_345) % 2**31
            values.append(state / 2**31)
        return state, np.asarray(values)

    def observe(
        self, memory: float, done: int, states: tuple[Any, ...], records: tuple[Any, ...]
    ) -> Observed:
        values = np.stack(records)
        memory += float(values.sum())
        if done < WARMUP:
            return Observed(memory, status="warm")
        stopped = "last" if values.max() > self.last else ""
        numbers = done - WARMUP + 1 + np.arange(values.shape[1])
        draws = {"x": values[:, numbers % 3 == 0], "lp": np.log(values[:, numbers % 3 == 0])}
        status = f"sum {memory:.1f}"
        return Observed(memory, {"x": values}, draws, stopped, status)


def go(algorithm: Generator | None = None, **options: Any) -> Result:
    """A run of the generator without a bar."""
    given: dict[str, Any] = {"progress": False, **options}
    return drive(algorithm or Generator(), given.pop("schedule", SCHEDULE), **given)


def checkpoint(path: Path, identity: str = "generator") -> Checkpoint:
    """A checkpoint for it."""
    return Checkpoint(path, identity)


def layout(**options: Any) -> StreamLayout:
    """What its stream holds: of every third draw the number and its logarithm."""
    sites = (
        StreamSite("x", POSTERIOR, (), ()), StreamSite("lp", STATS, (), ()),
    )  # fmt: skip
    return StreamLayout(sites, {}, 2, DRAWS // 3, np.dtype(float), "toy", **options)


def stream(path: Path, *, resumable: bool = True, identity: str = "generator") -> DrawStream:
    """A stream for it."""
    return DrawStream(path, identity, layout(), resumable=resumable)


def files(path: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def save_whole_run(folder: Path) -> None:
    """Run to the end, from what the folder keeps, and save what came out."""
    driver.WRITE_EVERY = 0.0
    result = go(checkpoint=checkpoint(folder / "run"), stream=stream(folder / "draws"))
    np.savez(folder / "result.npz", **result.pieces, memory=result.run.memory)
