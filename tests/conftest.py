"""Strict JAX for every test, and the fixtures that many tests share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

# Most of the tests' time is compilation, which is a third quicker with few optimizations. Processes
# that tests start go on with runs of theirs bit for bit, so theirs are the same.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
jax.config.update("jax_disable_most_optimizations", True)
# Broadcasting (n, 1) against (n,) gives (n, n) without a word; here it raises. NumPyro bears it.
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


#: Programs that a process keeps, of one or two megabytes each.
MOST_PROGRAMS = 600
_programs = 0


def _count(event: str, duration: float, **_: Any) -> None:
    global _programs  # A listener can't be taken back, so there is one.
    _programs += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Optimize where time is measured, or spent in programs that run for long."""
    long = any(item.get_closest_marker(name) for name in ("slow", "calibration", "bench"))
    jax.config.update("jax_disable_most_optimizations", not long)


def pytest_runtest_logfinish() -> None:
    """Forget compiled programs between tests, before they take gigabytes."""
    global _programs
    if _programs > MOST_PROGRAMS:
        _programs = 0
        jax.clear_caches()


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
