"""Strict JAX for every test, and the fixtures that many tests share."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

# Broadcasting (n, 1) against (n,) gives (n, n) without a word; here it raises. NumPyro bears it.
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture
def check_key_reuse() -> Iterator[None]:
    """Raise when a typed key is consumed twice.

    For the contract only (`tests/test_contract.py`), which runs every method once: with the checks
    on, JAX takes the Python path for every operation, a third of the whole suite's time.
    """
    with jax.debug_key_reuse(True):
        yield


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
