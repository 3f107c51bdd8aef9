"""Exact conditionals of rows given the other side: fold-in, mean and variance of scores."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probmf.data import Ratings
from probmf.models.factorization import MatrixFactorization
from probmf.results.draws import Draws, row_centers
from probmf.rows import problem as row_problem
from probmf.rows.batches import Batch, batches, power_of_two, rows_of
from probmf.rows.problem import RowProblem
from probmf.rows.store import SIDES, RowRatings, Side
from probmf.rows.sweep import zero_moments
from probmf.settings import in_precision

#: Bytes that one batch of rows may take while it is solved for.
BATCH_BYTES = 1 << 26
#: Bytes that the spreads of one block of rows may take.
SPREAD_BYTES = 1 << 28
#: Pairs whose spreads are multiplied at once; a block should stay in a level-2 cache.
PAIR_BLOCK = 64
#: Pairs whose factors are multiplied at once.
MEAN_BLOCK = 1 << 16


@dataclass(frozen=True, eq=False)
class Conditionals:
    r"""Rows (bias, factors) of one side given the other side of a point fit, and their scores.

    Rows (b, u) and (c, v) are taken as independent, each with its point value as mean and with the
    covariance C or D that it has given the other side (see `roots`). Their score
    :math:`\mu + b + c + u \cdot v` then has variance

    .. math:: (1, v)^\top C (1, v) + (1, u)^\top D (1, u) + \mathrm{tr}(C_{uu} D_{vv}) .

    That is a product of one vector of the user and one of the item, their `spread`, so that a
    block of variances is one matrix product. Code -1 stands for a row that the fit does not know,
    under its prior.

    Args:
        draws: The fit's one draw; the scales of its model must be numbers or arrays.
    """

    draws: Draws

    @property
    def model(self) -> MatrixFactorization:
        """The factorization."""
        return self.draws.model

    @property
    def data(self) -> Ratings:
        """The training ratings."""
        return self.draws.data

    @property
    def num_columns(self) -> int:
        """Length of a row: the bias and the factors."""
        return 1 + int(self.model.num_factors)

    @property
    def intercept(self) -> np.ndarray:
        """The intercept."""
        return np.asarray(self.draws.sites["intercept"][0])

    @cached_property
    def tables(self) -> dict[Side, Float[np.ndarray, "rows1 d"]]:
        """Rows of both sides, with a row at the prior mean of a new one at the end."""
        data = self.data
        sizes: dict[Side, int] = {"user": data.num_users, "item": data.num_items}
        return {
            side: self.draws.rows(side, np.append(np.arange(size), -1))[0]
            for side, size in sizes.items()
        }

    @cached_property
    def ratings(self) -> dict[Side, RowRatings]:
        """The ratings by row, of both sides."""
        weight = self.model.unobserved_weight
        return {
            "user": rows_of(self.data, "user", unobserved_weight=weight),
            "item": rows_of(self.data, "item", unobserved_weight=weight),
        }

    def free(self, side: Side) -> Float[np.ndarray, " d"]:
        """1 for coordinates that the model has, 0 for a bias that is left out."""
        free = np.ones(self.num_columns)
        free[0] = self.model.user_bias if side == "user" else self.model.item_bias
        return free

    def prior_variance(
        self, side: Side, codes: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows d"]:
        """Prior variance of the coordinates of rows; 1 where the model has none."""
        variance = self.draws.prior_variance(side, codes)[0]
        return np.broadcast_to(variance, (len(codes), self.num_columns))

    @cached_property
    def new_roots(self) -> dict[Side, Float[np.ndarray, "d d"]]:
        """Roots R of the covariances R R' of a new row, the average where scales differ by row.

        With features, which of a new row are not known, that of the prior means is added.
        """
        return {side: self.draws.new_roots(side)[0] for side in SIDES}

    def _new_covariance(self, side: Side) -> Float[np.ndarray, "1 q"]:
        root = self.new_roots[side]
        return self._pack((root @ root.T)[None])

    @cached_property
    def _centers(self) -> dict[Side, Float[np.ndarray, "rows d"]]:
        """Prior means of the rows of the sides that have one."""
        return {
            side: row_centers(mean, self.draws.sites, np.arange(mean.features.shape[0]))[0]
            for side, mean in self.draws.functions.items()
        }

    def modes(self, side: Side, codes: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows d"]:
        """The most likely value of each row given the other side, in O(n d^2 + rows d^3) time."""
        found = np.zeros((len(codes), self.num_columns))
        likelihood = self.model.likelihood.canonical()
        for batch, problem in self.problems(side, codes):
            value = row_problem.modes(problem, likelihood)
            found[batch.chosen] = value[: len(batch.chosen)]
        return found

    def roots(
        self, side: Side, codes: Int[np.ndarray, " rows"]
    ) -> Iterator[tuple[Int[np.ndarray, " part"], Float[np.ndarray, "part d d"]]]:
        """Roots S of the rows' covariances S^T S given the other side.

        The inverse of a covariance is the prior's precision plus the Fisher information of the
        row's ratings at the fit's own value of the row. A bias that is left out has variance 0.

        Yields places in `codes` and their roots, in batches of bounded memory.
        """
        likelihood = self.model.likelihood.canonical()
        for batch, problem in self.problems(side, codes):
            yield batch.chosen, row_problem.roots(problem, likelihood)[: len(batch.chosen)]

    def problems(self, side: Side, codes: np.ndarray) -> Iterator[tuple[Batch, RowProblem]]:
        """The rows with all that they are conditioned on, in batches of bounded memory."""
        partners = in_precision(self.tables["item" if side == "user" else "user"][:-1])
        variance = self.prior_variance(side, codes)
        values = self.tables[side][codes]
        scales = {name: value[0] for name, value in self.draws.likelihood_scales().items()}
        gram = gram_shift = None
        if self.model.unobserved_weight > 0:
            weight = self.model.unobserved_weight / np.square(scales["noise_scale"])
            moments = zero_moments(partners[:, 0], partners[:, 1:], self.intercept, weight)
            gram, gram_shift = map(np.asarray, moments)
        for batch in batches(self.ratings[side], codes, self.num_columns, BATCH_BYTES):
            start = np.zeros((len(batch.rating), self.num_columns))
            precision = np.full_like(start, 1.0 / variance.min())
            start[: len(batch.chosen)] = values[batch.chosen]
            precision[: len(batch.chosen)] = 1.0 / variance[batch.chosen]
            center = None
            if side in self._centers:
                center = np.zeros_like(start)
                center[: len(batch.chosen)] = self._centers[side][codes[batch.chosen]]
            # On the host: the fit's predictions may be asked for in either precision.
            fields: dict[str, Any] = {
                "value": start, "partners": partners, "partner": batch.partner,
                "rating": batch.rating, "weight": batch.weight, "precision": precision,
                "free": self.free(side), "intercept": self.intercept, "scales": scales,
                "gram": gram, "gram_shift": gram_shift, "center": center,
            }  # fmt: skip
            yield batch, RowProblem(**fields)

    def known(self, side: Side, codes: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """True where rows have a rating in the fit (one of weight zero is none)."""
        return self.draws.known(side, codes)

    def means(
        self, user: Int[np.ndarray, " n"], item: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """Scores of pairs at the point values."""
        intercept = np.float64(self.intercept)
        scores = np.empty(len(user))
        for start in range(0, len(user), MEAN_BLOCK):
            part = slice(start, start + MEAN_BLOCK)
            # -1 addresses the last row, which is the prior's.
            x, y = self.tables["user"][user[part]], self.tables["item"][item[part]]
            products = np.einsum("nd,nd->n", x[:, 1:], y[:, 1:])
            scores[part] = intercept + x[:, 0] + y[:, 0] + products
        return scores

    def variances(
        self, user: Int[np.ndarray, " n"], item: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """Plug-in variances of the scores of pairs, in the time of some exact ALS half-sweeps."""
        return self._products(self.spread, user, item)

    def prior_variances(
        self, user: Int[np.ndarray, " n"], item: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """Variances of the scores by rows without ratings; 0 where both have some. O(n d) time."""
        total = np.zeros(len(user))
        new = np.flatnonzero(~(self.known("user", user) & self.known("item", item)))
        total[new] = self._products(self.prior_spread, user[new], item[new])
        return total

    def _products(
        self, spread: Callable[[Side, np.ndarray], np.ndarray], user: np.ndarray, item: np.ndarray
    ) -> np.ndarray:
        """Products of the spreads of pairs, by blocks of rows."""
        variance = np.empty(len(user))
        sides: tuple[Side, Side] = ("user", "item")
        outer, inner = user, item
        if len(np.unique(item)) < len(np.unique(user)):
            sides, (outer, inner) = ("item", "user"), (item, user)
        for chosen, rows in self._blocks(outer):
            left = spread(sides[0], rows)
            for inside, others in self._blocks(inner[chosen]):
                right = spread(sides[1], others)
                at = chosen[inside]
                # Sorted, so that neighbours read the same row of the larger side.
                at = at[np.argsort(outer[at], kind="stable")]
                here, there = np.searchsorted(rows, outer[at]), np.searchsorted(others, inner[at])
                for start in range(0, len(at), PAIR_BLOCK):
                    part = slice(start, start + PAIR_BLOCK)
                    products = np.einsum("nd,nd->n", left[here[part]], right[there[part]])
                    variance[at[part]] = products
        return np.maximum(variance, 0.0)

    def prior_spread(
        self, side: Side, codes: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows p"]:
        """Vectors whose product, one of a user and one of an item, is that variance.

        Of length p = 3 d - 1, or with features that of `spread`; code -1 is the prior's.
        """
        variance = self.prior_variance(side, np.maximum(codes, 0)) * self.free(side)
        if self.draws.functions:
            # The numbers of a row of unknown features depend on each other.
            first, second = self._indices
            covariance = self._zeros(len(codes))
            covariance[:, first == second] = variance
            covariance[codes < 0] = self._new_covariance(side)
            covariance[self.known(side, codes)] = 0.0
            return self._join(side, self.tables[side][codes], covariance)
        squares = np.square(self.tables[side][codes].astype(np.float64))
        squares[:, 0] = 1.0  # A bias counts as one.
        variance[codes < 0] = np.square(np.diag(self.new_roots[side]))
        variance[self.known(side, codes)] = 0.0
        own = (variance, squares) if side == "user" else (squares, variance)
        return np.concatenate([*own, variance[:, 1:]], axis=1)

    def _blocks(self, codes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs and their distinct codes, increasing, in blocks whose spreads fit in memory."""
        distinct = np.unique(codes)
        size = self.spread_rows
        for start in range(0, len(distinct), size):
            block = distinct[start : start + size]
            inside = (codes >= block[0]) & (codes <= block[-1])
            yield np.flatnonzero(inside), block

    @property
    def spread_rows(self) -> int:
        """Number of rows whose spreads fit in memory."""
        size = self.num_columns
        itemsize = jnp.result_type(float).itemsize
        return max(1, SPREAD_BYTES // (itemsize * size * (size + 1)))

    def spread(self, side: Side, codes: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows p"]:
        """Vectors whose products, one of a user and one of an item, are variances of scores."""
        covariance = self._zeros(len(codes))
        covariance[codes < 0] = self._new_covariance(side)
        known = np.flatnonzero(codes >= 0)
        for part, root in self.roots(side, codes[known]):
            padded = np.pad(root, ((0, power_of_two(len(root)) - len(root)), (0, 0), (0, 0)))
            matrices = np.asarray(_covariances(in_precision(padded)))
            covariance[known[part]] = self._pack(matrices[: len(root)])
        return self._join(side, self.tables[side][codes], covariance)

    @cached_property
    def catalogue_spread(self) -> Float[np.ndarray, "items p"]:
        """Spreads of all items, kept: drawing for one user after another asks for them again."""
        return self.spread("item", np.arange(self.data.num_items))

    def exact_spread(
        self, side: Side, rows: Float[np.ndarray, "rows d"]
    ) -> Float[np.ndarray, "rows p"]:
        """Spreads of rows whose values are known exactly: their covariance is zero."""
        return self._join(side, rows, self._zeros(len(rows)))

    def _zeros(self, num_rows: int) -> np.ndarray:
        return np.zeros((num_rows, len(self._upper)), jnp.result_type(float))

    def _join(self, side: Side, rows: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        design = rows.astype(covariance.dtype)
        design[:, 0] = 1.0
        first, second = self._indices
        outer = np.take(design, first, axis=1) * np.take(design, second, axis=1)
        if side == "user":
            # The product of the factors' covariances is the trace; biases have no part in it.
            return np.concatenate([outer + covariance * (first > 0), covariance], axis=1)
        # An entry off the diagonal stands for two.
        twice = np.where(first == second, 1, 2).astype(design.dtype)
        return np.concatenate([covariance * twice, outer * twice], axis=1)

    def draw(
        self, side: Side, codes: Int[np.ndarray, " rows"], noise: Float[np.ndarray, "rows d"]
    ) -> Float[np.ndarray, "rows d"]:
        """Rows drawn from their conditionals, from standard Normal noise."""
        drawn = self.tables[side][codes].astype(np.float64)
        drawn[codes < 0] += noise[codes < 0] @ self.new_roots[side].T
        known = np.flatnonzero(codes >= 0)
        for part, root in self.roots(side, codes[known]):
            drawn[known[part]] += np.einsum("rd,rde->re", noise[known[part]], root)
        return drawn

    @cached_property
    def _indices(self) -> tuple[np.ndarray, np.ndarray]:
        return np.triu_indices(self.num_columns)

    @cached_property
    def _upper(self) -> np.ndarray:
        return np.ravel_multi_index(self._indices, 2 * (self.num_columns,))

    def _pack(self, matrices: Float[np.ndarray, "rows d d"]) -> Float[np.ndarray, "rows q"]:
        """The upper triangles of symmetric matrices."""
        return np.take(matrices.reshape(len(matrices), -1), self._upper, axis=1)


@jax.jit
def _covariances(roots: Array) -> Array:
    return jnp.einsum("rij,rik->rjk", roots, roots)
