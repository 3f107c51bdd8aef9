"""The evidence of one side's rows on a CPU: loops over the ratings instead of XLA's program."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from probmf.inference.marginal_rows.evidence import Inputs
from probmf.models.observations import Observations
from probmf.rows.cpu.evidence import Designs, RatedRows, Slopes, score_rows
from probmf.rows.store import Side
from probmf.run.compilation import ask_host


class RatingLists(NamedTuple):
    """Ratings row by row of the side that is integrated out; a pytree.

    Attributes:
        start: Where each row's ratings start, and where the last one's end.
        partner: Row of the other side of each rating.
        rating: Ratings, in double precision, as words of 32 bits; see `ask_host`.
        root: Roots of the weights, likewise; of length 0 when all are one.
        log_weight: Sum of the logarithms of the weights.
    """

    start: Int[Array, " rows1"]
    partner: Int[Array, " n"]
    rating: UInt32[Array, " n2"]
    root: UInt32[Array, " n2"]
    log_weight: Float[Array, ""]


def list_ratings(observations: Observations, side: Side) -> RatingLists:
    """Sort ratings by the rows of one side.

    Args:
        observations: The data.
        side: The side that is integrated out.

    Returns:
        The lists. O(n) time and memory.
    """
    rows = observations.by_row()[side]
    weight = np.ones(0) if rows.weight is None else rows.weight.astype(np.float64)
    return RatingLists(
        start=jnp.asarray(rows.start, jnp.int32),
        partner=jnp.asarray(rows.partner),
        rating=_words(rows.rating),
        root=_words(np.sqrt(weight)),
        log_weight=jnp.asarray(np.log(weight).sum(), jnp.result_type(float)),
    )


def _words(values: np.ndarray) -> Array:
    return jnp.asarray(values.astype(np.float64).view(np.uint32))


@jax.custom_vjp
def listed_evidence(lists: RatingLists, inputs: Inputs) -> Float[Array, ""]:
    """`rows_evidence` by loops on the CPU, in double precision whatever the inputs have.

    Args:
        lists: The ratings.
        inputs: Everything else.

    Returns:
        The log density, with its normalizing constants. It can be differentiated once.
    """
    return _forward(lists, inputs)[0]


def _forward(lists: RatingLists, inputs: Inputs) -> tuple[Array, Inputs]:
    factors = 0 if inputs.factors is None else inputs.factors.shape[1]
    table, scale = _table(inputs), _scale(inputs, factors)
    size, noise = scale.shape[1], inputs.noise_scale
    vector = jnp.concatenate([table.ravel(), scale.ravel(), noise[None]])
    ask = partial(_score, table.shape, scale.shape, factors)
    found = ask_host(ask, 4 + table.size + scale.size, vector, *lists[:-1])
    sums, by_table, by_scale = jnp.split(found, [4, 4 + table.size])
    by_table, by_scale = by_table.reshape(table.shape), by_scale.reshape(scale.shape)

    logdet, squares, white, spread = sums
    precision, count = 1.0 / jnp.square(noise), len(lists.partner)
    constant = count * jnp.log(2 * jnp.pi * jnp.square(noise)) - lists.log_weight
    gradient = Inputs(
        level=precision * by_table[:, size],
        factors=None if inputs.factors is None else precision * by_table[:, :factors],
        bias_scale=None if inputs.bias_scale is None else by_scale[:, factors],
        factor_scale=None if inputs.factor_scale is None else by_scale[:, :factors].sum(1),
        noise_scale=((squares + spread) * precision - count) / noise,
    )
    return -0.5 * (constant + logdet + squares * precision + white), gradient


def _table(inputs: Inputs) -> Float[Array, "other width"]:
    """Values that `score_rows` conditions on; it takes four columns at a time."""
    level = inputs.level[:, None]
    columns = [] if inputs.factors is None else [inputs.factors]
    if inputs.bias_scale is not None:
        columns.append(jnp.ones_like(level))
    table = jnp.concatenate([*columns, -level], axis=1)
    return jnp.pad(table, ((0, 0), (0, -table.shape[1] % 4)))


def _scale(inputs: Inputs, factors: int) -> Float[Array, "rows size"]:
    columns = []
    if inputs.factor_scale is not None:
        columns += [inputs.factor_scale] * factors
    if inputs.bias_scale is not None:
        columns.append(inputs.bias_scale)
    return jnp.stack(columns, axis=1)


def _backward(gradient: Inputs, cotangent: Array) -> tuple[None, Inputs]:
    return None, jax.tree.map(lambda part: cotangent * part, gradient)


listed_evidence.defvjp(_forward, _backward)


def _score(
    table_shape: tuple[int, ...],
    scale_shape: tuple[int, ...],
    factors: int,
    vector: np.ndarray,
    start: np.ndarray,
    partner: np.ndarray,
    rating: np.ndarray,
    root: np.ndarray,
) -> np.ndarray:
    """Sums over the rows and their derivatives, one after the other."""
    end = table_shape[0] * table_shape[1]
    table, scale = vector[:end].reshape(table_shape), vector[end:-1].reshape(scale_shape)
    found = np.zeros(4 + len(vector) - 1)
    slopes = Slopes(
        found[4 : 4 + end].reshape(table_shape), found[4 + end :].reshape(scale_shape), found[:4]
    )
    seen = RatedRows(start, partner, rating.view(np.float64), root.view(np.float64))
    score_rows(seen, Designs(table, scale, vector[-1:]), factors, slopes)
    return found
