"""Prior means of rows from features, at a point or at many draws, as rows (bias, factors)."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probmf.data import Ratings
from probmf.models.factorization import MatrixFactorization
from probmf.models.row_means import RowMean
from probmf.rows.store import Side


def row_functions(model: MatrixFactorization, data: Ratings) -> dict[Side, RowMean]:
    """The functions f of the sides that have one, at the features of all rows.

    Args:
        model: The factorization, its encodings fitted.
        data: Ratings with side tables.

    Returns:
        The functions by side.
    """
    return model.row_means(model.encode(data)) if model.mean_sides else {}


def row_centers(
    mean: RowMean, weights: Mapping[str, np.ndarray], codes: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, "draws rows d"]:
    """Prior means of rows at many draws of the weights.

    Args:
        mean: The function.
        weights: Weights by site, with a leading axis of draws.
        codes: Rows.

    Returns:
        Rows (bias, factors), the bias zero where the rows have none. O(draws rows) memory.
    """
    own = {site: jnp.asarray(weights[site]) for site in mean.shapes}
    return np.asarray(_centers(own, mean.at(jnp.asarray(codes))))


@jax.jit
def _centers(weights: dict[str, Array], mean: RowMean) -> Array:
    return jax.lax.map(partial(_center, mean), weights)


def _center(mean: RowMean, weights: Mapping[str, Array]) -> Array:
    outputs = mean.layers.apply(mean.name, weights, mean.features)
    return outputs if mean.has_bias else jnp.pad(outputs, ((0, 0), (1, 0)))


def stranger_moments(
    mean: RowMean, weights: Mapping[str, np.ndarray]
) -> tuple[Float[np.ndarray, "draws d"], Float[np.ndarray, "draws d d"]]:
    """Mean and covariance of f over the rows at each draw: all that is known of a stranger.

    Args:
        mean: The function.
        weights: Weights by site, with a leading axis of draws.

    Returns:
        Means and covariances. O(draws d^2 + rows d) memory.
    """
    own = {site: jnp.asarray(weights[site]) for site in mean.shapes}
    center, covariance = _moments(own, mean)
    return np.asarray(center, np.float64), np.asarray(covariance, np.float64)


@jax.jit
def _moments(weights: dict[str, Array], mean: RowMean) -> tuple[Array, Array]:
    def one(own: dict[str, Array]) -> tuple[Array, Array]:
        rows = _center(mean, own)
        center = jnp.mean(rows, axis=0)
        apart = rows - center[None]
        return center, apart.T @ apart / len(rows)

    return jax.lax.map(one, weights)
