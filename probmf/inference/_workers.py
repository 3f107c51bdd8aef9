"""Work shared among threads: compiled loops run on one core each, so several go side by side."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
from threadpoolctl import threadpool_limits

from probmf.rows import num_workers


@contextmanager
def blas_cores(count: int) -> Iterator[None]:
    """Let linear algebra use so many cores.

    Of one sequence of large factorizations all should be used. Threads of two BLAS libraries, such
    as NumPy's and SciPy's, wait for each other in turns: only one should be called in it.
    """
    with threadpool_limits(limits=count, user_api="blas"):
        yield


@contextmanager
def workers(most: int) -> Iterator["Workers"]:
    """A pool of at most `most` threads, linear algebra within each on one core.

    Factorizations of middling size gain little from a second core and lose much when that core is
    taken; independent chains and proposals gain all of it.
    """
    with (
        blas_cores(1),
        ThreadPoolExecutor(max(1, min(most, num_workers()))) as pool,
    ):
        yield Workers(pool)


class Workers:
    """Threads that keep the caller's choice of precision, which JAX has for each thread."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        """Note the precision."""
        self.pool, self.x64 = pool, bool(jax.config.jax_enable_x64)

    def submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Run a function in a thread; arrays that it returns are there when it is done."""

        def run() -> Any:
            with jax.enable_x64(self.x64):
                return jax.block_until_ready(function(*args))

        return self.pool.submit(run)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Results in order."""
        return [future.result() for future in [self.submit(function, item) for item in items]]
