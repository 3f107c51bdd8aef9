"""Randomness on the host: a NumPy generator from the keys used everywhere else."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def as_generator(key: ArrayLike) -> np.random.Generator:
    """A NumPy generator that is fixed by a key.

    An int `key` gives `numpy.random.default_rng(key)`. A JAX key, typed (`jax.random.key`) or raw
    (`jax.random.PRNGKey`), gives the generator seeded with its 32-bit words; both forms of one key
    give the same generator. JAX does not count this as a use of the key.

    Args:
        key: A non-negative int, or a single JAX key.

    Returns:
        The generator; the same key always gives the same numbers.

    Raises:
        TypeError: If `key` is neither an int nor a JAX key.
        ValueError: If the int is negative, or there are several keys.

    Example:
        >>> as_generator(7).integers(100) == np.random.default_rng(7).integers(100)
        np.True_
    """
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        words = np.asarray(jax.random.key_data(key))
    elif isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.ndim:
        words = np.asarray(key)
    else:
        return _from_int(key)
    if words.ndim != 1:
        raise ValueError(
            f"key holds keys of shape {words.shape[:-1]}, expected a single key; choose one, as in "
            "key[0]."
        )
    return np.random.default_rng([int(word) for word in words])


def _from_int(key: ArrayLike) -> np.random.Generator:
    try:
        seed = None if isinstance(key, bool | np.bool_) else operator.index(key)  # type: ignore[arg-type]
    except TypeError:
        seed = None
    if seed is None:
        raise TypeError(
            f"key is {key!r} of type {type(key).__name__}; give an int, such as key=0, or a JAX "
            "key, such as key=jax.random.key(0)."
        )
    if seed < 0:
        raise ValueError(f"key is {seed}; an int key must not be negative.")
    return np.random.default_rng(seed)
