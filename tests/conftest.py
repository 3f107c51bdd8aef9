"""Strict JAX for every test, and the fixtures that many tests share."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Set before NumPy is there: of two threads of OpenBLAS one waits for work in a loop, which took two
# to ten hundredths of the time of tests, and their matrices are small.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest
from compiled_programs import PROGRAMS

# Broadcasting (n, 1) against (n,) gives (n, n) without a word; here it raises. NumPyro bears it.
jax.config.update("jax_numpy_rank_promotion", "raise")
# Programs don't carry the lines of Python that they come from, which takes time and helps nobody.
jax.config.update("jax_include_full_tracebacks_in_locations", False)
jax.config.update("jax_traceback_in_locations_limit", 0)

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Compile with few optimizations, which is a third quicker, but for runs of the long tests.

    In processes that tests start, too: they go on with runs of others bit for bit.
    """
    gc.disable()  # There is no garbage yet.
    quick = "not slow" in (config.option.markexpr or "not slow")
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quick))
    jax.config.update("jax_disable_most_optimizations", quick)


def pytest_collection_finish() -> None:
    """Leave what is imported out of Python's search for garbage, and search less often."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 20, 20)


def pytest_runtest_logfinish() -> None:
    """Forget compiled programs between tests."""
    if PROGRAMS.are_too_many:
        PROGRAMS.forget()


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
