from typing import Any

import jax
import numpy as np
import pytest

from probmf.data import as_generator


def draws(key: Any) -> list[int]:
    return as_generator(key).integers(1 << 40, size=4).tolist()


def test_an_int_is_the_seed_of_numpy() -> None:
    expected = np.random.default_rng(7).integers(1 << 40, size=4).tolist()
    assert draws(7) == draws(np.int64(7)) == draws(np.uint32(7)) == expected


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_typed_and_raw_keys_agree(impl: str) -> None:
    key = jax.random.key(3, impl=impl)
    raw = jax.random.key_data(key)
    assert draws(key) == draws(raw) == draws(np.asarray(raw))
    assert draws(key) != draws(jax.random.key(4, impl=impl))


def test_a_key_may_split_twice_and_still_be_used() -> None:
    key = jax.random.key(0)
    assert draws(key) == draws(key)
    jax.random.normal(key)
    draws(key)


def test_split_keys_differ() -> None:
    first, second = jax.random.split(jax.random.key(0))
    assert draws(first) != draws(second)


@pytest.mark.parametrize("key", [None, 1.0, True, "a", np.random.default_rng(0)])
def test_no_key(key: Any) -> None:
    with pytest.raises(TypeError, match="give an int, such as key=0, or a JAX key"):
        as_generator(key)


def test_negative_int() -> None:
    with pytest.raises(ValueError, match="key is -1; an int key must not be negative"):
        as_generator(-1)


@pytest.mark.parametrize("raw", [False, True])
def test_several_keys(raw: bool) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r"keys of shape \(3,\), expected a single key"):
        as_generator(jax.random.key_data(keys) if raw else keys)
