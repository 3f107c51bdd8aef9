"""Randomness from a seed or a JAX key: keys for JAX, and generators for the host."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

#: The implementation of all our keys, whatever JAX's default is: one key gives the same draws
#: everywhere, and no program meets keys of two kinds.
IMPLEMENTATION = "threefry2x32"
_DTYPE = jax.eval_shape(lambda: jax.random.key(0, impl=IMPLEMENTATION)).dtype


def as_key(key: ArrayLike) -> Array:
    """A typed JAX key of one implementation from a seed or any single key, typed or raw.

    Seeds below 2**64 are a key's two words of 32 bits, as in `jax.random.key` in double precision.
    Longer ones, and the words of keys of other implementations, are hashed. Anything else, negative
    ints and several keys are refused.

    Example:
        >>> import jax
        >>> as_key(7) == jax.random.key(7)
        Array(True, dtype=bool)
    """
    if isinstance(key, jax.Array) and key.dtype == _DTYPE and not key.ndim:
        return key
    words = _words(key)
    if words is None:
        seed = _seed(key)
        words = np.asarray([seed >> 32, seed & 0xFFFFFFFF]) if seed < 2**64 else _hash(seed)
    if len(words) != 2:
        words = _hash([int(word) for word in words])
    return wrap_words(jax.device_put(np.asarray(words, np.uint32)))


def wrap_words(words: Array) -> Array:
    """Typed keys from words of our keys, (..., 2)."""
    return jax.random.wrap_key_data(words, impl=IMPLEMENTATION)


def as_generator(key: ArrayLike) -> np.random.Generator:
    """A NumPy generator that is fixed by a key.

    An int `key` gives `numpy.random.default_rng(key)`. A JAX key, typed (`jax.random.key`) or raw
    (`jax.random.PRNGKey`), gives the generator seeded with its 32-bit words; both forms of one key
    give the same generator. JAX does not count this as a use of the key. Anything else is refused.

    Example:
        >>> as_generator(7).integers(100) == np.random.default_rng(7).integers(100)
        np.True_
    """
    words = _words(key)
    return np.random.default_rng(_seed(key) if words is None else [int(word) for word in words])


def _words(key: ArrayLike) -> np.ndarray | None:
    """The words of a single JAX key; None if it is no key."""
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        words = np.asarray(jax.random.key_data(key))
    elif isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.ndim:
        words = np.asarray(key)
    else:
        return None
    if words.ndim != 1:
        raise ValueError(
            f"key holds keys of shape {words.shape[:-1]}, expected a single key; choose one, as in "
            "key[0]."
        )
    return words


def _hash(entropy: int | list[int]) -> np.ndarray:
    return np.random.SeedSequence(entropy).generate_state(2)


def _seed(key: ArrayLike) -> int:
    try:
        seed: int | None = None if isinstance(key, bool | np.bool_) else operator.index(key)  # type: ignore[arg-type]
    except TypeError:
        seed = None
    if seed is None:
        raise TypeError(
            f"key is {key!r} of type {type(key).__name__}; give an int, such as key=0, or a JAX "
            "key, such as key=jax.random.key(0)."
        )
    if seed < 0:
        raise ValueError(f"key is {seed}; an int key must not be negative.")
    return seed
