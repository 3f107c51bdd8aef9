"""Arrays that can be used in single and in double precision, one after the other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def fresh_arrays(tree: Any) -> Any:
    """The same tree with its NumPy arrays copied.

    JAX remembers a NumPy array that a loop captures by its identity, in the precision of that
    time; the same array then fails, or is misread, in the other precision.
    """
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def in_precision(tree: Any) -> Any:
    """The same tree with all arrays JAX arrays, real numbers in JAX's present precision."""

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray | jax.Array):
            return leaf
        dtype = jnp.result_type(float) if leaf.dtype.kind == "f" else None
        return jnp.asarray(leaf, dtype)

    return jax.tree.map(convert, tree)
