"""NumPy functions within compiled programs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def ask_host(
    function: Callable[..., np.ndarray], length: int, vector: Array, *others: Array
) -> Array:
    """Call a NumPy function on a vector from inside a compiled program.

    All goes in and out as bits: a program may call from a thread of its own, where JAX does not
    know of the caller's choice of precision, and would round.

    `function` takes an array in double precision and the others as they are, which are of no type
    that could be rounded, and gives a flat array of `length`. In the precision of the vector.
    """
    dtype = np.dtype(vector.dtype)
    shape = jax.ShapeDtypeStruct((length * dtype.itemsize // 4,), jnp.uint32)
    answer = jax.pure_callback(partial(_answer, function, dtype.name), shape, bits(vector), *others)
    halves = (2,) if dtype.itemsize == 8 else ()
    return jax.lax.bitcast_convert_type(answer.reshape(length, *halves), dtype)


def bits(array: Array) -> Array:
    """An array as words of 32 bits."""
    return jax.lax.bitcast_convert_type(array, jnp.uint32).ravel()


def _answer(function: Callable[..., np.ndarray], kind: str, words: Any, *others: Any) -> np.ndarray:
    vector = np.asarray(words).view(kind).astype(np.float64, copy=False)
    found = function(vector, *(np.asarray(other) for other in others))
    return np.ascontiguousarray(found, kind).view(np.uint32)
