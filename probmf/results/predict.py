"""Predictions of ratings, with the plug-in uncertainty of a point fit."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jaxtyping import Array, Bool, Float, Int
from scipy.special import ndtri

from probmf.results.conditional import BATCH_BYTES, Conditionals, SideRatings
from probmf.rows import SIDES, Side

#: Pairs whose covariances are gathered at once.
PAIR_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted ratings of pairs, in the order in which they were asked for.

    Attributes:
        user: User ids, shape (n,).
        item: Item ids.
        mean: Expected rating; for yes/no data the probability of a one.
        sd: Standard deviation of the rating, noise included; None if no interval was asked for.
        lower: Lower end of the interval: for Gaussian ratings of the rating itself, for yes/no
            data of the probability.
        upper: Upper end of the interval.
        known_user: False where the user has no ratings in the fit: the prior is used.
        known_item: False where the item has none.
    """

    user: np.ndarray
    item: np.ndarray
    mean: Float[np.ndarray, " n"]
    sd: Float[np.ndarray, " n"] | None
    lower: Float[np.ndarray, " n"] | None
    upper: Float[np.ndarray, " n"] | None
    known_user: Bool[np.ndarray, " n"]
    known_item: Bool[np.ndarray, " n"]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.mean)

    def to_arrow(self) -> pa.Table:
        """The predictions as an Arrow table (`.to_pandas()` and `polars.from_arrow` follow)."""
        names = ["user", "item", "mean", "sd", "lower", "upper", "known_user", "known_item"]
        return pa.table({n: getattr(self, n) for n in names if getattr(self, n) is not None})


def score_moments(
    rows: Conditionals,
    ratings: dict[Side, SideRatings],
    user: Int[np.ndarray, " n"],
    item: Int[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    r"""Plug-in mean and variance of the scores of pairs; code -1 is a row under its prior.

    With user factors u and item factors v, rows (b, u) of covariance C and (c, v) of covariance
    D, independent given the fit, the score :math:`\mu + b + c + u \cdot v` has variance
    :math:`(1, v)^\top C (1, v) + (1, u)^\top D (1, u) + \mathrm{tr}(C_{uu} D_{vv})`.

    Args:
        rows: The fit's conditionals.
        ratings: Training ratings of both sides.
        user: User codes.
        item: Item codes.

    Returns:
        Means and variances. Memory is bounded by blocks of rows; time is that of one exact
        ALS half-sweep per block of rows, plus O(n d^2).
    """
    mean = score_means(rows, user, item)
    variance = np.zeros(len(user))
    tables = {side: with_prior_row(rows, side) for side in SIDES}
    for users in _blocks(user, rows.num_columns):
        inside = np.flatnonzero(np.isin(user, users))
        user_cov = _covariances(rows, ratings["user"], "user", users)
        for items in _blocks(item[inside], rows.num_columns):
            at = inside[np.isin(item[inside], items)]
            item_cov = _covariances(rows, ratings["item"], "item", items)
            for start in range(0, len(at), PAIR_BLOCK):
                pairs = at[start : start + PAIR_BLOCK]
                padded = np.resize(pairs, PAIR_BLOCK)
                block = _pair_variance(
                    tables["user"][user[padded]], tables["item"][item[padded]], user_cov, item_cov,
                    np.searchsorted(users, user[padded]), np.searchsorted(items, item[padded]),
                )  # fmt: skip
                variance[pairs] = np.asarray(block)[: len(pairs)]
    return mean, variance


def score_means(
    rows: Conditionals, user: Int[np.ndarray, " n"], item: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Scores of pairs at the point values; code -1 is a row at its prior mean."""
    tables = [with_prior_row(rows, side) for side in SIDES]
    scores = np.empty(len(user))
    block = 1 << 16
    for start in range(0, len(user), block):
        part = slice(start, start + block)
        # -1 addresses the last row, which is the prior's.
        x, y = tables[0][user[part]], tables[1][item[part]]
        products = np.einsum("nd,nd->n", x[:, 1:], y[:, 1:])
        scores[part] = float(rows.parameters["intercept"]) + x[:, 0] + y[:, 0] + products
    return scores


def with_prior_row(rows: Conditionals, side: Side) -> Float[np.ndarray, "rows1 d"]:
    """Rows of one side with a row at the prior mean, zero, at the end."""
    return np.pad(np.asarray(rows.rows(side)), ((0, 1), (0, 0)))


def prior_variance(rows: Conditionals, side: Side) -> Float[np.ndarray, " d"]:
    """Prior variance of each coordinate of a new row, the average where scales differ by row."""
    precision = np.asarray(rows.packing.precision()[rows.packing.rows(side)])
    return np.asarray(rows.packing.free(side)) * np.mean(1.0 / precision, axis=0)


def intervals(
    mean: np.ndarray, sd: np.ndarray, interval: float
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Central Normal interval of the given probability."""
    half = float(ndtri(0.5 + interval / 2)) * sd
    return mean - half, mean + half


def _blocks(codes: np.ndarray, num_columns: int) -> Iterator[np.ndarray]:
    """The distinct codes, increasing, in blocks whose covariances fit in memory."""
    distinct = np.unique(codes)
    size = max(1, BATCH_BYTES // (8 * num_columns**2))
    for start in range(0, len(distinct), size):
        yield distinct[start : start + size]


def gaussian_rows(
    rows: Conditionals, ratings: SideRatings, side: Side, codes: Int[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, "rows d"], Float[np.ndarray, "rows d d"]]:
    """Point values and conditional covariances of rows; code -1 is a row under its prior."""
    _, covariance = rows.solve(side, ratings, codes[codes >= 0])
    full = np.empty((len(codes), *covariance.shape[1:]))
    full[codes >= 0] = covariance
    full[codes < 0] = np.diag(prior_variance(rows, side))
    return with_prior_row(rows, side)[codes].astype(np.float64), full


def _covariances(
    rows: Conditionals, ratings: SideRatings, side: Side, codes: np.ndarray
) -> Float[Array, "rows d d"]:
    """Covariances of rows, padded to a power of two so that few programs are compiled."""
    _, covariance = gaussian_rows(rows, ratings, side, codes)
    lines = 1 << max(0, len(codes) - 1).bit_length()
    padding = ((0, lines - len(codes)), (0, 0), (0, 0))
    return jnp.asarray(np.pad(covariance, padding), jnp.result_type(float))


@jax.jit
def _pair_variance(
    user: Array, item: Array, user_cov: Array, item_cov: Array, user_at: Array, item_at: Array
) -> Array:
    c, d = user_cov[user_at], item_cov[item_at]
    user, item = user.at[:, 0].set(1.0), item.at[:, 0].set(1.0)
    first = jnp.einsum("pd,pde,pe->p", item, c, item)
    second = jnp.einsum("pd,pde,pe->p", user, d, user)
    return first + second + jnp.sum(c[:, 1:, 1:] * d[:, 1:, 1:], axis=(1, 2))
