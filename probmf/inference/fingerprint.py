"""Identity of a run as text: a checkpoint is resumed only by the run that wrote it."""

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.distributions import Distribution

from probmf.data import Ratings
from probmf.inference.point.optimizer import Rule, apply
from probmf.run.checkpoint import stored
from probmf.run.compile_cache import trace_program

#: Where the densities of priors are told apart.
DENSITY_AT = (0.05, 0.3, 1.0, 2.5, 7.0)
#: Places in memory, which differ from process to process.
ADDRESS = re.compile(r"0x[0-9a-f]+")


def described(value: Any) -> str:
    """A value as text, arrays and distributions in full."""
    if isinstance(value, Distribution):
        # Its arguments may be hidden in transforms; its density tells all laws apart.
        names = sorted(value.arg_constraints)
        arguments = {name: np.asarray(getattr(value, name)).tolist() for name in names}
        density = None
        if not value.event_shape:
            full = [jnp.full(value.batch_shape, at) for at in DENSITY_AT]
            density = [np.asarray(value.log_prob(at)).tolist() for at in full]
        return f"{type(value).__name__}{value.batch_shape}{arguments}{density}"
    if isinstance(value, np.ndarray | jax.Array):
        return str(np.asarray(value).tolist())
    if hasattr(value, "__dataclass_fields__"):
        inner = {name: described(getattr(value, name)) for name in value.__dataclass_fields__}
        return f"{type(value).__name__}{inner}"
    return repr(value)


def digest(arrays: Iterable[Any]) -> str:
    """A digest of the contents of arrays, and of where one ends and the next begins."""
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        values = np.ascontiguousarray(array)
        found.update(repr((values.shape, str(values.dtype))).encode())
        found.update(values.tobytes())
    return found.hexdigest()


def digest_ratings(data: Ratings | None) -> str:
    """A digest of what fits see of ratings; ids count by their codes."""
    if data is None:
        return "none"
    arrays = [data.user, data.item, data.rating, np.asarray([data.num_users, data.num_items])]
    return digest(arrays + ([] if data.weight is None else [data.weight]))


def describe_rule(rule: Rule, parameters: dict[str, Array], num_updates: int) -> str:
    """Text of an optimizer's program, as its functions have no other identity.

    Args:
        rule: The optimizer with its learning rates.
        parameters: What it moves.
        num_updates: Updates in all.

    Returns:
        The program of an update, and digests of what it captures, of the state that it begins
        with, and of the learning rates.
    """
    first = rule.optimizer.init(parameters)
    leaves, structure = jax.tree.flatten((parameters, first))

    def value_fn(values: dict[str, Array]) -> Array:
        return sum((jnp.sum(jnp.square(v)) for v in values.values()), jnp.zeros(()))

    def update(*leaves: Array) -> list[Array]:
        values, state = jax.tree.unflatten(structure, leaves)
        moved = apply(
            rule.optimizer, values, state, values, jnp.asarray(1.0), value=value_fn(values),
            value_fn=value_fn,
        )  # fmt: skip
        return jax.tree.leaves(moved)

    program = trace_program(update, *leaves)
    kept = digest([*program.consts, *jax.tree.leaves(stored(first))])
    rates = digest([rule.factors(0, num_updates)])
    return f"{ADDRESS.sub('', program.text)}|{kept}|{rates}"
