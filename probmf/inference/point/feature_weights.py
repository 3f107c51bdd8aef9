r"""Regression of rows on their features: the weights given the rows, exactly.

With :math:`X` the features and a column of ones, prior standard deviations :math:`D` of the weights
and row weights :math:`W`, the eigenvectors Q of :math:`D X^\top W X D` turn the weights into
:math:`w = D Q a` with :math:`a \sim N(0, I)` whose conditionals given the rows are independent.
They are found once, in double precision, for all rows' scales.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.models.factorization import MatrixFactorization
from probmf.models.factorization_program import PRIOR_SCALES
from probmf.models.observations import Observations
from probmf.models.row_means import RowMean
from probmf.rows.conditionals import sum_products
from probmf.rows.store import Side
from probmf.rows.values import Rows


class Regression(NamedTuple):
    """One site's rows as a regression; a pytree.

    Attributes:
        design: Turned features, one row for each row of the site.
        square: Sums of squares of the design's columns, weighted.
        basis: From turned coefficients to weights, with those of the ones (the bias) last.
        row_weight: Precision of each row by its own scale; ones where all have the same.
    """

    design: Float[Array, "rows q"]
    square: Float[Array, " q"]
    basis: Float[Array, "q q"]
    row_weight: Float[Array, " rows"]


def regressions(
    model: MatrixFactorization, observations: Observations, method: str
) -> dict[str, Regression]:
    """The regressions of a model's sites whose prior mean is linear in features.

    Raises:
        ValueError: If a mean is no `Linear`, or its weights have no prior of fixed scale.
    """
    found = {}
    for side, mean in model.row_means(observations.features).items():
        _check_linear(mean, side, method)
        for site in _sites(mean):
            scale = getattr(model, PRIOR_SCALES[site])
            weight = np.ones(mean.features.shape[0])
            if isinstance(scale, int | float | np.ndarray | jax.Array) and np.ndim(scale) == 1:
                weight = np.asarray(scale, np.float64) ** -2
            found[site] = _turn(mean, weight)
    return found


def _sites(mean: RowMean) -> list[str]:
    sites = [f"{mean.side}_bias"] if mean.has_bias else []
    return sites + [f"{mean.side}_factors"] * bool(mean.num_factors)


def _check_linear(mean: RowMean, side: Side, method: str) -> None:
    if set(mean.precision) != set(mean.shapes):
        raise ValueError(
            f"{method} needs a number for each scale of {side}_mean's weights; {mean.layers!r} has "
            "a distribution. Give a number, or use sample_nuts."
        )
    flat = [site for site, precision in mean.precision.items() if precision == 0]
    if flat:
        raise ValueError(
            f"{method} needs a prior of {', '.join(flat)}, whose scale is 'flat'; give a large "
            "number instead."
        )


def _turn(mean: RowMean, weight: np.ndarray) -> Regression:
    x = np.asarray(mean.features, np.float64)
    precision = [mean.precision[f"{mean.name}_weight_0"]] * x.shape[1]
    if f"{mean.name}_bias_0" in mean.shapes:
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        precision.append(mean.precision[f"{mean.name}_bias_0"])
    spread = np.asarray(precision) ** -0.5
    scaled = x * spread
    square, vectors = np.linalg.eigh(scaled.T @ (weight[:, None] * scaled))
    dtype = jnp.result_type(float)
    return Regression(
        jnp.asarray(scaled @ vectors, dtype), jnp.asarray(np.maximum(square, 0.0), dtype),
        jnp.asarray(spread[:, None] * vectors, dtype), jnp.asarray(weight, dtype),
    )  # fmt: skip


def solve(
    regression: Regression,
    rows: Float[Array, "rows k"],
    precision: Float[Array, " k"],
    noise: Float[Array, "q k"] | None = None,
) -> Float[Array, "q k"]:
    r"""Turned coefficients given rows whose coordinates are independent: their mode, or a draw.

    .. math:: a_{ij} \sim N\Big(\frac{\alpha_j z_i \cdot W x_j}{\alpha_j e_i + 1},
        \frac{1}{\alpha_j e_i + 1}\Big)

    The precision alpha comes besides the rows' own weights; standard Normal `noise` makes a draw.
    Cost O(rows q k).
    """
    products = sum_products(regression.design, regression.row_weight[:, None] * rows)
    total = 1.0 + regression.square[:, None] * precision[None]
    mode = products * precision[None] / total
    return mode if noise is None else mode + noise / jnp.sqrt(total)


def solve_full(
    regression: Regression,
    rows: Float[Array, "rows k"],
    precision: Float[Array, "k k"],
    noise: Float[Array, "q k"],
) -> Float[Array, "q k"]:
    r"""A draw of turned coefficients given rows with a full precision matrix.

    .. math:: a_i \sim N((e_i \Lambda + I)^{-1} \Lambda X^\top z_i, (e_i \Lambda + I)^{-1})

    Cost O(rows q k + q k^2 + k^3).
    """
    # In the eigenvectors of the precision all is diagonal.
    values, vectors = jnp.linalg.eigh(precision)
    turned = solve(regression, rows @ vectors, jnp.maximum(values, 0.0), noise)
    return turned @ vectors.T


def to_weights(
    turned: dict[str, Float[Array, "q k"]],
    found: dict[str, Regression],
    means: dict[Side, RowMean],
) -> dict[str, Array]:
    """Weights and biases of the layers by site, from turned coefficients by site of the rows."""
    weights = {}
    for mean in means.values():
        columns = [found[site].basis @ turned[site] for site in _sites(mean)]
        joined = jnp.concatenate(columns, axis=1)
        size = mean.features.shape[1]
        weights[f"{mean.name}_weight_0"] = joined[:size]
        if f"{mean.name}_bias_0" in mean.shapes:
            weights[f"{mean.name}_bias_0"] = joined[size]
    return weights


def center_rows(centers: dict[str, Array], table: Rows) -> dict[Side, Float[Array, "rows d"]]:
    """Prior means by site as rows (bias, factors) of the sides that have any.

    Zero where only the other part of a row has one.
    """
    found: dict[Side, Array] = {}
    for site, mean in centers.items():
        side: Side = "user" if site.startswith("user") else "item"
        size, columns = table[side].factors.shape
        total = found.get(side, jnp.zeros((size, 1 + columns), mean.dtype))
        own = slice(0, 1) if mean.ndim == 1 else slice(1, 1 + mean.shape[1])
        found[side] = total.at[:, own].set(mean.reshape(size, -1))
    return found


def factor_weights(mean: RowMean, values: Mapping[str, Array]) -> dict[str, Array]:
    """Those columns of the weights, by site, whose outputs are factors."""
    return {site: values[site][..., int(mean.has_bias) :] for site in mean.shapes}


def stretch_factors(
    mean: RowMean, values: Mapping[str, Array], by: Float[Array, " k"]
) -> dict[str, Array]:
    """Weights by site after the factors that they give are multiplied by numbers."""
    factor = jnp.concatenate([jnp.ones(int(mean.has_bias), by.dtype), by])
    return {
        site: values[site] * jnp.broadcast_to(factor, values[site].shape) for site in mean.shapes
    }
