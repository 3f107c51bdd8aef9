"""Strict JAX for every test, and the fixtures that many tests share."""

import ctypes
import gc
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import psutil
import pytest
from jax._src import compiler  # The one place that every program passes.

# Broadcasting (n, 1) against (n,) gives (n, n) without a word; here it raises. NumPyro bears it.
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


#: Bytes of a process beyond which it forgets programs, of half a megabyte to ten of them each,
#: and how many it has to have made since it last did.
MOST_MEMORY, LEAST_PROGRAMS = 1.6e9, 100


class Programs:
    """Compiled programs by their text: another function of the same text isn't compiled again.

    A jitted closure, a guide and a kernel are new functions in every test that makes one, and
    JAX's own cache goes by the function. A fourth of the seconds of compiling went there.
    """

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}
        self.wanted_again: set[str] = set()
        self._compile = compiler.backend_compile_and_load
        compiler.backend_compile_and_load = self  # type: ignore[assignment]

    def __call__(
        self, backend: Any, module: Any, devices: Any, options: Any, host_callbacks: Any
    ) -> Any:
        """The program of this text and these options, compiled where there is none."""
        given = (backend, module, devices, options, host_callbacks)
        text = str(module)
        if host_callbacks or "callback" in text:  # A program that calls one Python function.
            return self._compile(*given)
        settings = options.SerializeAsString() + str(devices).encode()
        key = hashlib.sha256(text.encode() + settings).hexdigest()
        if key in self.made:
            self.wanted_again.add(key)
        else:
            self.made[key] = self._compile(*given)
        return self.made[key]

    def forget(self) -> None:
        """Keep only those that were wanted more than once, before they take gigabytes."""
        self.made = {key: made for key, made in self.made.items() if key in self.wanted_again}
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":  # Memory that is free again goes back to the system.
            ctypes.CDLL("libc.so.6").malloc_trim(0)


programs = Programs()


def pytest_configure(config: pytest.Config) -> None:
    """Compile with few optimizations, which is a third quicker, but for runs of the long tests.

    In processes that tests start, too: they go on with runs of others bit for bit.
    """
    quick = "not slow" in (config.option.markexpr or "not slow")
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quick))
    jax.config.update("jax_disable_most_optimizations", quick)


def pytest_runtest_logfinish() -> None:
    """Forget compiled programs between tests."""
    new = len(programs.made) - len(programs.wanted_again)
    if new > LEAST_PROGRAMS and psutil.Process().memory_info().rss > MOST_MEMORY:
        programs.forget()


@pytest.fixture(params=[False, True], ids=["float32", "float64"])
def x64(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Run the test once in JAX's 32 bits and once in 64; the value says which."""
    with jax.enable_x64(request.param):
        yield request.param


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets, which lie beside the repository and are not part of it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("The real data sets are not here: there is no folder ../shared/data.")
    return SHARED_DATA
