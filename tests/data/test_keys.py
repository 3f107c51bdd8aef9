from typing import Any

import jax
import numpy as np
import pytest

from probmf.data import as_generator, as_key


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


def words(key: Any) -> list[int]:
    return jax.random.key_data(as_key(key)).tolist()


@pytest.mark.parametrize(
    "key",
    [7, np.int32(7), np.uint64(7), np.asarray(7), jax.random.key(7), jax.random.PRNGKey(7)],
    ids=str,
)
def test_all_forms_of_a_key_are_one(key: Any, x64: bool) -> None:
    assert words(key) == [0, 7]


@pytest.mark.parametrize("kind", [int, np.int64, np.uint64])
def test_seeds_beyond_32_bits_are_keys_of_their_own(kind: Any, x64: bool) -> None:
    assert words(kind(2**32 + 7)) == [1, 7]
    assert words(kind(2**63 - 1)) == [2**31 - 1, 2**32 - 1]


def test_distinct_seeds_of_any_length_give_distinct_keys() -> None:
    seeds = [7 + 2**bits for bits in (3, 31, 32, 33, 62, 63, 64, 65, 127, 128, 500)]
    assert len({tuple(words(seed)) for seed in seeds}) == len(seeds)
    assert words(2**64 + 7) == words(2**64 + 7)


def test_keys_of_another_implementation_are_taken_by_their_words() -> None:
    own = jax.random.key(0).dtype
    with jax.default_prng_impl("rbg"):
        assert words(7) == [0, 7]
        found = [words(jax.random.key(seed)) for seed in (7, 8)]
        assert found[0] == words(jax.random.PRNGKey(7)) != found[1]
        assert as_key(jax.random.key(7)).dtype == as_key(7).dtype == own


def test_negative_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="key is -1; an int key must not be negative"):
        as_key(np.int64(-1))


@pytest.mark.parametrize("key", [None, True, 0.5, jax.numpy.asarray(0.5), np.arange(3)], ids=str)
def test_what_is_no_key(key: Any) -> None:
    with pytest.raises(TypeError, match="give an int, such as key=0, or a JAX key"):
        as_key(key)


def test_several_keys_are_refused() -> None:
    with pytest.raises(ValueError, match=r"holds keys of shape \(2,\)"):
        as_key(jax.random.split(jax.random.key(0)))
