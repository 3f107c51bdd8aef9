"""Memory that is free, asked before work that would take more; memory and time that were taken."""

import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

#: Share of the free memory that may be taken: what is computed from large arrays is large, too.
MEMORY_SHARE = 0.5
#: Limits of the control group of a container, and what it takes.
GROUP = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, its container and its own limit."""
    free = [psutil.virtual_memory().available]
    with suppress(OSError, ValueError):  # "max" where there is no limit.
        limit = int((GROUP / "memory.max").read_text("ascii"))
        free.append(limit - int((GROUP / "memory.current").read_text("ascii")))
    return max(0, min(free))


def require_memory(size: float, what: str, advice: str, share: float | None = None) -> None:
    """Refuse what would take more than a share of the free memory, in bytes."""
    free, share = free_memory(), MEMORY_SHARE if share is None else share
    if size > share * free:
        raise ValueError(
            f"{what} takes {size / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free, of which "
            f"{share:.0%} may be taken. {advice}"
        )


def resources() -> str:
    """Tell the seconds since this process began, and the most memory that it has had.

    Returns:
        Both in words, for the end of a notebook or a script.

    Example:
        >>> print(resources())  # doctest: +SKIP
        14 s and 712 MiB of memory
    """
    process = psutil.Process()
    seconds = time.time() - process.create_time()
    return f"{seconds:.0f} s and {_peak(process) / 2**20:.0f} MiB of memory"


def _peak(process: psutil.Process) -> int:
    """The largest resident set, bytes."""
    if sys.platform == "win32":
        return int(process.memory_info().peak_wset)
    import resource  # Not there on Windows.

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
