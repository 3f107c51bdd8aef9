"""Folders that one process at a time works in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # As on Windows, which has no such locks.
    fcntl = None  # type: ignore[assignment]


@contextmanager
def alone_in(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Keep others who ask for the same folder out; a process that is killed lets them in.

    False where the system has no locks, so that another may be in it. With `wait` one waits for
    another that is in it, which is a BlockingIOError else.
    """
    if fcntl is None:
        yield False
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(opened, wait=wait)
    finally:
        os.close(opened)


def _lock(opened: int, *, wait: bool) -> bool:
    kind = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    try:
        fcntl.flock(opened, kind)
    except BlockingIOError:
        raise
    except OSError:
        # Not every file system has locks; there the last one's files stay.
        return False
    return True
