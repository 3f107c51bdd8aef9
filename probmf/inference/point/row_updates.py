"""Updates of the rows of a batch only, and the optimizers that they are right for."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.tree_util import DictKey
from jaxtyping import Array, Float

from probmf.inference.point.objective import side_of
from probmf.inference.point.optimizer import ADAGRAD, apply
from probmf.rows.store import SIDES


def update_rows(
    parameters: dict[str, Array],
    state: Any,
    seen: dict[str, Array],
    index: dict[str, Array],
    factor: Array,
    loss_of_rows: Callable[[dict[str, Array]], Array],
    optimizer: optax.GradientTransformation,
) -> tuple[dict[str, Array], Any, dict[str, Array], Float[Array, ""]]:
    """One update that reads and writes a batch's rows only. Cost O(batch x num_factors).

    A row that stands several times in the batch must move once, by the sum of its gradients: one
    of its places, whichever `seen` ends up with, gets that sum and is written back.

    `seen` is scratch from `unseen`, or the update before. Also gives the loss before.
    """
    labels, state_labels = row_labels(state, parameters)
    rows, kept = take_rows(labels, parameters, index), take_rows(state_labels, state, index)
    # Without the barrier XLA may read the old rows again after writing, and then it copies the
    # whole table at every update.
    rows, kept = lax.optimization_barrier((rows, kept))
    loss, gradient = jax.value_and_grad(loss_of_rows)(rows)
    if max(map(len, index.values())) > 1:
        places = {side: jnp.arange(len(rows), dtype=jnp.int32) for side, rows in index.items()}
        seen = {side: seen[side].at[index[side]].set(places[side]) for side in seen}
        owner = {side: seen[side][index[side]] for side in seen}
        gradient = {
            site: jnp.zeros_like(value).at[owner[label]].add(value) if label in owner else value
            for site, value in gradient.items()
            for label in [labels[site]]
        }
        index = {
            side: jnp.where(owner[side] == places[side], index[side], len(seen[side]))
            for side in seen
        }
    rows, kept = apply(optimizer, gradient, kept, rows, factor, value=loss)
    rows, kept = lax.optimization_barrier((rows, kept))
    parameters = put_rows(labels, parameters, rows, index)
    return parameters, put_rows(state_labels, state, kept, index), seen, loss


def unseen(parameters: Mapping[str, Array]) -> dict[str, Array]:
    """Scratch of `update_rows`: for each row of a side, a place in the batch that it stands at."""
    sizes = {side_of(site): len(value) for site, value in parameters.items() if value.ndim}
    return {side: jnp.zeros(sizes[side], jnp.int32) for side in SIDES if side in sizes}


def row_labels(state: Any, parameters: Mapping[str, Array]) -> tuple[dict[str, str], Any]:
    """Whose rows each array has: "user", "item", or "intercept" for what has no rows.

    What an optimizer's state keeps for a site stands under the site's name.
    """

    def label(path: tuple, leaf: Array) -> str:
        sites = [part.key for part in path if isinstance(part, DictKey) and part.key in parameters]
        kept = bool(sites) and jnp.shape(leaf) == parameters[sites[-1]].shape
        return side_of(sites[-1]) if kept else "intercept"

    own = {site: side_of(site) for site in parameters}
    return own, jax.tree_util.tree_map_with_path(label, state)


def take_rows(labels: Any, values: Any, index: Mapping[str, Array]) -> Any:
    """Rows of every array: `index` has those of "user" and "item"."""
    return jax.tree.map(
        lambda label, value: value[index[label]] if label in index else value, labels, values
    )


def put_rows(labels: Any, values: Any, rows: Any, index: Mapping[str, Array]) -> Any:
    """The arrays with rows replaced; rows whose index is out of range are dropped."""
    return jax.tree.map(
        lambda label, value, row: (
            value.at[index[label]].set(row, mode="drop") if label in index else row
        ),
        labels,
        values,
        rows,
    )


def leaves_rows_alone(
    optimizer: optax.GradientTransformation, sites: Mapping[str, tuple[int, ...]]
) -> bool:
    """True where updating only the rows that have a gradient equals updating all rows.

    True of gradient descent, AdaGrad, clipping and the like, under any schedule; not of momentum,
    Adam or weight decay, which move a row whose gradient is zero. It is found out by trying both
    on a few rows.
    """
    if optimizer is ADAGRAD:
        return True
    shapes = tuple((site, tuple(shape[1:]) if shape else None) for site, shape in sites.items())
    try:
        return bool(_same_on_trial(optimizer, shapes))
    except (TypeError, ValueError):
        # Made for parameters of one shape, such as a step size per parameter.
        return False


@partial(jax.jit, static_argnums=(0, 1))
def _same_on_trial(
    optimizer: optax.GradientTransformation, shapes: tuple[tuple[str, tuple[int, ...] | None], ...]
) -> Array:
    def values(scale: float, num_rows: int, shift: float) -> dict[str, Array]:
        made = {}
        for position, (site, rest) in enumerate(shapes):
            size = () if rest is None else (num_rows, *rest)
            count = jnp.arange(int(np.prod(size)), dtype=float).reshape(size)
            made[site] = scale * jnp.sin(1.0 + position + shift + 0.7 * count)
        return made

    def total(parameters: dict[str, Array]) -> Array:
        return optax.tree_utils.tree_sum(jax.tree.map(jnp.square, parameters))

    dense = rows = values(0.3, 3, 0.0)
    dense_state = rows_state = optimizer.init(dense)
    labels, state_labels = row_labels(dense_state, dense)
    factor = jnp.asarray(1.0)
    for step, chosen in enumerate(((0, 1), (1, 2), (2, 0))):
        index = dict.fromkeys(("user", "item"), jnp.asarray(chosen))
        part = values(0.5, 2, 1.0 + step)
        zeros = jax.tree.map(jnp.zeros_like, dense)
        extra = {"value": jnp.asarray(1.0), "value_fn": total}
        whole = put_rows(labels, zeros, part, index)
        dense, dense_state = apply(optimizer, whole, dense_state, dense, factor, **extra)
        own, own_state = apply(
            optimizer, part, take_rows(state_labels, rows_state, index),
            take_rows(labels, rows, index), factor, **extra,
        )  # fmt: skip
        rows = put_rows(labels, rows, own, index)
        rows_state = put_rows(state_labels, rows_state, own_state, index)
    near = jax.tree.map(lambda a, b: jnp.all(jnp.abs(a - b) <= 1e-5 * jnp.abs(a)), dense, rows)
    return jnp.all(jnp.stack(jax.tree.leaves(near)))
