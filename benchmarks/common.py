"""What the benchmarks share: data, the peer's process, turns, reports."""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

import probmf
from probmf import Ratings

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
OUT = ROOT / "benchmarks" / "out"

#: What each peer runs fastest with: its own threads, and BLAS without any.
PEER_THREADS = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "LK_NUM_BACKEND_THREADS": "1"}


@dataclass(frozen=True)
class Table:
    """Cells are text already, so that the docs show what was printed."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Report:
    """What one benchmark found; `figures` holds the numbers behind the tables."""

    name: str
    title: str
    protocol: dict[str, str]
    tables: list[Table]
    figures: dict = field(default_factory=dict)
    quick: bool = False


def movielens(name: str, **options) -> Ratings:
    path = DATA / f"movielens-{name}" / "ratings.parquet"
    if not path.is_file():
        sys.exit(
            f"The benchmarks need MovieLens {name.upper()} as {os.path.relpath(path, ROOT)} beside "
            "the repository (columns user, item, rating); it may not be distributed with it."
        )
    return Ratings.from_parquet(path, **options)


#: Environment of the packages that we are compared with.
PEERS = Path(os.environ.get("PEERS_VENV") or ROOT / ".venv-peers")


class Peer:
    """Another package in an environment of its own, idle unless asked."""

    def __init__(self, name: str) -> None:
        """Start the worker; see peer.py for what it can be asked."""
        python = PEERS / "bin" / "python"
        if not python.exists():
            sys.exit(
                "No environment with the peers: set PEERS_VENV to a virtual environment with what "
                "benchmarks/peers.txt lists, or run `make bench`, which makes one."
            )
        self.name = name
        threads = PEER_THREADS | {"LK_NUM_THREADS": str(cores())}
        environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS",)}
        self._process = subprocess.Popen(
            [python, Path(__file__).with_name("peer.py"), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env=environment | threads,
        )  # fmt: skip
        self.version = self._answer()["version"]

    def ask(self, do: str, **arguments) -> dict:
        """The answer to a request: a method of the worker and its arguments."""
        print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"The worker with {self.name} ended early; see its message above.")
        answer = json.loads(line)
        if "error" in answer:
            sys.exit(f"{self.name} failed:\n{answer['error']}")
        return answer

    def close(self) -> None:
        """End the worker."""
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def peer(name: str) -> Iterator[Peer]:
    worker = Peer(name)
    try:
        yield worker
    finally:
        worker.close()


@contextlib.contextmanager
def arrays_on_disk(**tables: Ratings) -> Iterator[dict[str, str]]:
    """Ratings as .npz files of codes, for the worker."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, table in tables.items():
            paths[name] = os.path.join(folder, f"{name}.npz")
            shape = (table.num_users, table.num_items)
            np.savez(
                paths[name], user=table.user, item=table.item, rating=table.rating, shape=shape
            )
        yield paths


@contextlib.contextmanager
def columns_on_disk(**columns: np.ndarray) -> Iterator[str]:
    """Columns of a table as an .npz file, for the worker."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "columns.npz")
        np.savez(path, **columns)
        yield path


def take_turns(rounds: int, *sides: Callable[[], list[float]]) -> list[list[float]]:
    """Seconds that each side reports, one after the other in every round, each alone."""
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for own, side in zip(seconds, sides, strict=True):
            own.extend(side())
    return seconds


def milliseconds(seconds: list[float]) -> float:
    return 1e3 * float(np.median(seconds))


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """Cores, processor and memory, as far as the system says."""
    model, memory = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    return f"{cores()} cores of an {model}{memory}"


def others_share() -> str:
    """How much of the machine other programs use while this one waits, in words."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        before = _processor_ticks()
        time.sleep(1.0)
        now = _processor_ticks()
        idle, total = (b - a for a, b in zip(before, now, strict=True))
        return f", {max(0.0, 100 * (1 - idle / total)):.0f} % used by other programs at the start"
    return ""


def _processor_ticks() -> tuple[int, int]:
    """Idle and all ticks of all cores since the machine started."""
    line = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
    ticks = [int(word) for word in line.split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def commit() -> str:
    """The commit that is measured, and whether files differ from it."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        run = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=False
        )
        return run.stdout.strip()

    changed = " with uncommitted changes" if git("status", "--porcelain") else ""
    return f"commit {git('rev-parse', '--short', 'HEAD') or 'unknown'}{changed}"


def environment(*peers: Peer) -> dict[str, str]:
    """The part of a protocol that is the same for all benchmarks."""
    versions = [f"Python {platform.python_version()}", f"probmf {probmf.__version__}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "numpy")]
    versions += [f"{each.name} {each.version}" for each in peers]
    return {
        "Versions": ", ".join(versions),
        "Code": commit(),
        "Machine": machine(),
        "Date": datetime.date.today().isoformat(),
    }


def markdown(report: Report) -> str:
    parts = []
    if report.quick:
        parts.append("*A quick run: fewer points and sweeps, not to be quoted.*")
    for table in report.tables:
        rows = [table.columns, ["---"] * len(table.columns), *table.rows]
        parts.append(table.caption)
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    protocol = "\n".join(f"- **{name}**: {text}" for name, text in report.protocol.items())
    parts += ["<details>\n<summary>How it was measured</summary>", protocol, "</details>"]
    return "\n\n".join(parts) + "\n"


def main(run: Callable[..., Report], names: tuple[str, ...] = ()) -> None:
    """Run one benchmark from the command line, print it and keep it under benchmarks/out.

    Args:
        run: The benchmark, from whether it is quick and, if it has names, those of its parts.
        names: Its parts.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer points, to see that it works")
    if names:
        parser.add_argument("names", nargs="*", help=f"by default all of {', '.join(names)}")
    given, others = parser.parse_args(), others_share()
    quick = given.quick
    if names and not set(given.names) <= set(names):
        parser.error(f"the names are {', '.join(names)}")
    report = run(quick, tuple(given.names) or names) if names else run(quick)
    report.protocol["Machine"] += others
    folder = OUT / "quick" if quick else OUT
    folder.mkdir(parents=True, exist_ok=True)
    text = f"## {report.title}\n\n{markdown(report)}"
    (folder / f"{report.name}.json").write_text(json.dumps(asdict(report), indent=1), "utf-8")
    (folder / f"{report.name}.md").write_text(text, "utf-8")
    print(text)
