"""Strict JAX for every test, and the fixtures that many tests share."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import jax
import pytest

# Broadcasting (n, 1) against (n,) gives (n, n) without a word; here it raises. NumPyro bears it.
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def check_key_reuse(request: pytest.FixtureRequest) -> Iterator[None]:
    """Raise when a typed key is consumed twice.

    NumPyro 0.22 does that in its own initialization (`find_valid_initial_params`), so tests that
    hand it a typed key carry the marker `key_reuse_unchecked(reason=...)`. Untyped keys
    (`jax.random.PRNGKey`, `jax.random.key_data(key)`) are not tracked by JAX at all.
    """
    marker = request.node.get_closest_marker("key_reuse_unchecked")
    if marker is not None and not marker.kwargs.get("reason"):
        pytest.fail("key_reuse_unchecked needs a reason: key_reuse_unchecked(reason='...').")
    with nullcontext() if marker else jax.debug_key_reuse(True):
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
