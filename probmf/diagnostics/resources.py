"""Time and memory that a process has taken."""

import sys
import time

import psutil


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
