"""States of algorithms as plain arrays, and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def stored(tree: Any) -> Any:
    """The same pytree with typed keys as plain numbers."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def restore(example: Any, leaves: list[np.ndarray]) -> Any:
    """The pytree whose stored leaves these are.

    Args:
        example: A pytree of the same structure, whose leaves tell of what kind each is: whole
            numbers and NumPy arrays (of any length) stay such, others are for the device.
        leaves: Stored leaves in order.

    Returns:
        The pytree.
    """
    kinds, structure = jax.tree.flatten(example)
    if len(kinds) != len(leaves):
        raise ValueError(
            f"The checkpoint holds {len(leaves)} arrays, and the run has {len(kinds)}; it is that "
            "of another version of the package. Name another directory."
        )
    return jax.tree.unflatten(structure, [_like(*pair) for pair in zip(kinds, leaves, strict=True)])


def _like(kind: Any, leaf: np.ndarray) -> Any:
    if isinstance(kind, int):
        return int(leaf)
    if isinstance(kind, np.ndarray):
        return leaf
    if _is_key(kind):
        return jax.random.wrap_key_data(jnp.array(leaf), impl=jax.random.key_impl(kind))
    # A copy: what is given to the device may be used up.
    return jnp.array(leaf, kind.dtype)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
