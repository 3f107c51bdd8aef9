"""Processes that compute one fit together, on one machine or many, by `jax.distributed`.

Each of them runs the same program. What differs is which rows it solves (`probmf.rows.placement`)
and writes (`probmf.shards`); the first alone writes manifests, small arrays and tables, and shows
progress.
"""

import hashlib
import importlib.metadata
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

#: Packages whose versions decide the bits of a computation.
PACKAGES = ("probmf", "jax", "jaxlib", "numpyro")
#: Seconds without a sign of life after which a process counts as dead.
HEARTBEAT = 30
#: Seconds that a process waits for the others to begin.
JOIN_WITHIN = 300
#: Bytes of a text that processes show each other.
SHOWN = 1024
LOST = (
    "Another process of this fit has ended, or the connection to it is lost, so this one "
    "stops, too. Its own message says why. What a checkpoint holds is not lost: the same call "
    "goes on from there, with as many processes or fewer."
)


class MismatchError(ValueError):
    """Processes were given different things to compute; raised in all of them."""


class PeerError(OSError):
    """Another of the processes could not read or write a file."""


def join(address: str | None = None, count: int | None = None, rank: int | None = None) -> None:
    """Make this process one of several that compute together.

    Call it in each of them, before anything is computed. Without arguments it takes what Slurm,
    Open MPI, Kubernetes or the TPU pod that started the processes says of them.

    Args:
        address: Host and port of the first process, such as "10.0.0.1:4001"; the same in all.
        count: Number of processes.
        rank: Number of this one, from 0.

    Raises:
        ValueError: If only some arguments are given, or none and nothing is found; if the
            processes have different versions of the packages.
        RuntimeError: If JAX has computed already.
        ConnectionError: If another process ends meanwhile.

    Example:
        >>> from probmf import processes
        >>> processes.join("10.0.0.1:4001", count=2, rank=0)  # doctest: +SKIP
        >>> fit = fit_als(model, ratings, key=0, devices=jax.device_count())  # doctest: +SKIP
    """
    given = {"address": address, "count": count, "rank": rank}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(
            f"{' and '.join(missing)} of the processes must be given with the others: the address "
            "of the first process, the number of processes, and the rank of this one."
        )
    if count is not None and rank is not None and not 0 <= rank < count:
        raise ValueError(f"rank is {rank}, but with count={count} ranks are 0 to {count - 1}.")
    # A signal to end is to end the process: runs are kept by checkpoints every few seconds.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address, count, rank, initialization_timeout=JOIN_WITHIN,
            heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=HEARTBEAT,
            cluster_detection_method=None if address is None else "deactivate",
        )  # fmt: skip
    except ValueError as error:
        if address is not None:
            raise
        raise ValueError(
            "No job of Slurm, Open MPI, Kubernetes or a TPU pod was found that this process is "
            f"part of ({error}). Give address, count and rank."
        ) from None
    present = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    with _without_greeting():
        found = _texts(present)
    _refuse_others("Versions", found)


def num_processes() -> int:
    """Number of processes that have joined; 1 where none has."""
    # Only when they have joined: the question starts JAX's devices, and then none can join.
    return jax.process_count() if jax.distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def wait() -> None:
    """Wait until all processes are here."""
    if num_processes() > 1:
        _gather(np.zeros((), np.uint8))


def agree(what: str, text: str) -> None:
    """Refuse to compute together what is not the same in all processes.

    `what` is compared, as the start of a sentence; `text` is what it is here, of any length. A
    MismatchError in all processes, if it differs.
    """
    if num_processes() > 1:
        _refuse_others(what, _texts(hashlib.sha256(text.encode()).hexdigest()))


def each(work: Callable[[], str]) -> list[str]:
    """Do a piece of work with files in every process: where it fails in one, it fails in all.

    The texts that all tell of what came of it. In this process what the work raised is raised, in
    others a PeerError if it could not read or write a file, and a RuntimeError of anything else.
    """
    trouble: Exception | None = None
    try:
        text = f"0{work()}"
    except ConnectionError:
        raise
    except OSError as error:
        trouble, text = error, f"1{error}"
    except Exception as error:
        trouble, text = error, f"2{type(error).__name__}: {error}"
    told = _texts(text)
    if trouble is not None:
        raise trouble
    for place, other in enumerate(told):
        if other.startswith("1"):
            raise PeerError(f"In process {place}: {other[1:]}")
        if other.startswith("2"):
            raise RuntimeError(f"In process {place}: {other[1:]}")
    return [other[1:] for other in told]


class ProcessGroup:
    """The processes that work on the same files: this one alone, or all that have joined."""

    def __init__(self, shared: bool) -> None:
        """Count them."""
        self.count = num_processes() if shared else 1
        self.rank = rank() if shared else 0

    def each(self, work: Callable[[], str]) -> list[str]:
        """Do a piece of work with files in every process of the group; see `each`."""
        return each(work) if self.count > 1 else [work()]

    def agree(self, what: str, text: str) -> None:
        """Refuse to go on with what is not the same in the whole group; see `agree`."""
        if self.count > 1:
            agree(what, text)


def _refuse_others(what: str, found: list[str]) -> None:
    for other, text in enumerate(found):
        if text != found[0]:
            raise MismatchError(
                f"{what} of process {other} differ from those of process 0: {text}, not "
                f"{found[0]}. All processes of a fit need the same."
            )


def _texts(text: str) -> list[str]:
    """The text of each process."""
    padded = np.frombuffer(text.encode(errors="replace")[:SHOWN].ljust(SHOWN), np.uint8)
    return [bytes(row).decode(errors="replace").rstrip() for row in _gather(padded)]


def _gather(value: np.ndarray) -> np.ndarray:
    """The arrays of all processes, one after the other."""
    if num_processes() == 1:
        return value[None]
    with loss_told():
        return np.asarray(multihost_utils.process_allgather(value))


@contextmanager
def _without_greeting() -> Iterator[None]:
    """Keep what Gloo prints when it first connects from standard output."""
    sys.stdout.flush()
    own, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        yield
    finally:
        os.dup2(own, 1)
        os.close(own)
        os.close(nothing)


@contextmanager
def loss_told() -> Iterator[None]:
    """Say by a ConnectionError that another process is gone."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        # On accelerators JAX ends the process itself, when the heartbeat stays away.
        if num_processes() > 1 and "Gloo" in str(error):
            raise ConnectionError(LOST) from error
        raise


class Together:
    """A loop that all processes leave at the same step; nothing is done unless it is shared.

    Ctrl-C is noted and heeded at the end of a step; a second one ends this process at once.
    """

    def __init__(self, shared: bool) -> None:
        """Note the argument."""
        self.shared, self._asked = shared, False
        #: True after a second Ctrl-C, when the processes stand at different places.
        self.torn = False
        self._old: Any = None
        #: True in the one process that streams draws and shows progress.
        self.leads = not shared or rank() == 0

    def __enter__(self) -> Self:
        """Take Ctrl-C."""
        if self.shared and threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        """Give Ctrl-C back."""
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)

    def _note(self, number: int, frame: Any) -> None:
        if self._asked and callable(self._old):
            self.torn = True
            self._old(number, frame)
        self._asked = True

    def each(self, work: Callable[[], None]) -> None:
        """Do a piece of work with files; in all processes, if the loop is shared. See `each`."""

        def done() -> str:
            work()
            return ""

        _ = each(done) if self.shared else done()

    def of_first(self, *numbers: float) -> tuple[float, ...]:
        """The first process's numbers, such as times by its clock."""
        return tuple(json.loads(_texts(json.dumps(numbers))[0])) if self.shared else numbers

    def end_step(self, work: Callable[[], bool], state: Callable[[], str]) -> bool:
        """End a step in all processes; true if it is time to save by the first one's clock.

        `work` is what this process does at its end, and says whether it is time; `state` tells
        where the loop stands, which has to be the same everywhere. Raises a KeyboardInterrupt if
        any process was interrupted, and in all of them what went wrong in one.
        """
        if not self.shared:
            return work()
        told = each(lambda: f"{int(work())}{int(self._asked)}{state()}")
        if any(text[1] == "1" for text in told):
            raise KeyboardInterrupt
        _refuse_others("Numbers computed by the processor", [text[2:] for text in told])
        return told[0][0] == "1"
