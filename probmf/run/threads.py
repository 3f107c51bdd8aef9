"""Work shared among threads: compiled loops run on one core each, so several go side by side."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
from threadpoolctl import threadpool_limits

from probmf.rows.store import num_workers
from probmf.settings import as_here

#: Items under way or waiting for a thread, for each thread.
AHEAD = 4


@contextmanager
def blas_cores(count: int) -> Iterator[None]:
    """Let linear algebra use so many cores.

    Of one sequence of large products all should be used. Threads of two BLAS libraries, such as
    NumPy's and SciPy's, wait for each other in turns: only one should be called in it. Large
    factorizations have threads of their own; see `probmf.effects.lapack.on_cores`.
    """
    with threadpool_limits(limits=count, user_api="blas"):
        yield


@contextmanager
def workers(most: int) -> Iterator["Workers"]:
    """A pool of at most `most` threads, linear algebra within each on one core.

    Factorizations of middling size gain little from a second core and lose much when that core is
    taken; independent chains and proposals gain all of it.
    """
    count = max(1, min(most, num_workers()))
    with blas_cores(1), ThreadPoolExecutor(count) as pool:
        yield Workers(pool, count)


class Workers:
    """Threads that keep the caller's settings of JAX, which has them for each thread."""

    def __init__(self, pool: ThreadPoolExecutor, count: int) -> None:
        """Note the threads."""
        self.pool, self.count = pool, count

    def submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Run a function in a thread; arrays that it returns are there when it is done."""

        def run() -> Any:
            return jax.block_until_ready(function(*args))

        return self.pool.submit(as_here(run))

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Results in order."""
        return list(self.stream(function, items))

    def stream(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Results in order, as they come.

        Few items are begun ahead of what was taken, so that memory is bounded and an interruption
        waits for those only.
        """
        ahead: deque[Future[Any]] = deque()
        try:
            for item in items:
                ahead.append(self.submit(function, item))
                if len(ahead) >= AHEAD * self.count:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
