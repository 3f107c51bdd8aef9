"""Exact conditionals of single rows given the other side: fold-in and plug-in uncertainty."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probmf import gaussian
from probmf.data import Ratings
from probmf.models.factorization import MatrixFactorization, Parameters
from probmf.models.likelihood import Likelihood
from probmf.models.table import Table
from probmf.rows import Side
from probmf.sweep import zero_moments

#: Bytes that one batch of gathered designs or covariances may take.
BATCH_BYTES = 1 << 27
#: Bound iterations that solve a row under a likelihood that is not quadratic.
BOUND_STEPS = 100


@dataclass(frozen=True, eq=False)
class SideRatings:
    """The ratings of one side's rows, contiguous by row.

    Args:
        begin: First position of each row, shape (rows + 1,).
        partner: Code of the other side, by row.
        rating: Ratings, by row.
        weight: Weights, by row.
    """

    begin: Int[np.ndarray, " rows1"]
    partner: Int[np.ndarray, " n"]
    rating: Float[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]

    @classmethod
    def from_ratings(cls, ratings: Ratings, side: Side) -> "SideRatings":
        """Sort a table by one side's codes."""
        own, other = (ratings.user, ratings.item) if side == "user" else (ratings.item, ratings.user)
        size = ratings.num_users if side == "user" else ratings.num_items
        order = np.argsort(own, kind="stable")
        begin = np.concatenate([[0], np.cumsum(np.bincount(own, minlength=size))])
        weight = np.ones(len(own)) if ratings.weight is None else ratings.weight
        return cls(begin, other[order], ratings.rating[order], weight[order])

    def batches(self, codes: np.ndarray, num_columns: int) -> Iterator[tuple]:
        """Padded ratings of the given rows, in batches of few shapes and bounded memory.

        Yields:
            (positions within `codes`, partner, rating, weight), the last three of shape
            (lines, width), both powers of two; empty slots have weight 0.
        """
        degree = self.begin[codes + 1] - self.begin[codes]
        order = np.argsort(degree, kind="stable")
        start = 0
        while start < len(codes):
            # Wider rows come later, so the batch shrinks as they grow.
            width, stop = 8, start
            while stop < len(codes):
                width_needed = max(8, _power_of_two(int(degree[order[stop]])))
                cells = (stop - start + 1) * num_columns * (width_needed + num_columns)
                if stop > start and (8 * cells > BATCH_BYTES or width_needed > 8 * width):
                    break
                width, stop = width_needed, stop + 1
            chosen = order[start:stop]
            lines = _power_of_two(len(chosen))
            slot = np.arange(width)
            filled = np.zeros((lines, width), dtype=bool)
            filled[: len(chosen)] = slot < degree[chosen][:, None]
            position = np.zeros((lines, width), dtype=np.int64)
            position[: len(chosen)] = self.begin[codes[chosen]][:, None] + slot
            position = np.where(filled, position, 0)
            if len(self.partner) == 0:
                partner, rating = np.zeros_like(position), np.zeros((lines, width))
                weight = np.zeros((lines, width))
            else:
                partner, rating = self.partner[position], self.rating[position]
                weight = np.where(filled, self.weight[position], 0.0)
            yield chosen, np.where(filled, partner, 0), np.where(filled, rating, 0.0), weight
            start = stop


@dataclass(frozen=True, eq=False)
class Conditionals:
    """Rows of one side given the other side of a fit.

    Args:
        model: The factorization.
        parameters: Point values by site name.
        num_users: Number of users.
        num_items: Number of items.
    """

    model: MatrixFactorization
    parameters: Parameters
    num_users: int
    num_items: int

    @property
    def packing(self) -> Table:
        """Layout of the rows."""
        return Table(self.model, self.num_users, self.num_items, alignment=1)

    @property
    def num_columns(self) -> int:
        """Length of a row: the bias and the factors."""
        return 1 + self.model.num_factors

    def rows(self, side: Side) -> Float[Array, "rows d"]:
        """Rows (bias, factors) of one side."""
        values = self.packing.pack(self.parameters)
        part = self.packing.rows(side)
        return jnp.concatenate([values.bias[part, None], values.factors[part]], axis=1)

    def solve(
        self, side: Side, ratings: SideRatings, codes: np.ndarray, *, precision: Array | None = None
    ) -> tuple[Float[np.ndarray, "rows d"], Float[np.ndarray, "rows d d"]]:
        """Mean (mode) and covariance of the given rows' conditional.

        Args:
            side: Whose rows.
            ratings: Their ratings.
            codes: Row codes within `ratings`, shape (rows,).
            precision: Diagonal prior precision of those rows, shape (rows, d); by default the
                fit's own.

        Returns:
            Rows (bias, factors) and their covariances; a bias that is left out is zero.
        """
        packing = self.packing
        partners = self.rows("item" if side == "user" else "user")
        if precision is None:
            precision = packing.precision()[packing.rows(side)][codes]
        free = packing.free(side)
        scales = self.model.fixed_scales()
        intercept = jnp.asarray(self.parameters["intercept"])
        gram = gram_shift = None
        if self.model.unobserved_weight > 0:
            zero = self.model.unobserved_weight / jnp.square(scales["noise_scale"])
            gram, gram_shift = zero_moments(partners[:, 0], partners[:, 1:], intercept, zero)
        size = self.num_columns
        means, covariances = np.zeros((len(codes), size)), np.zeros((len(codes), size, size))
        for chosen, partner, rating, weight in ratings.batches(codes, size):
            lines = len(rating)
            prior = np.ones((lines, size))
            prior[: len(chosen)] = np.asarray(precision)[chosen]
            if self.model.unobserved_weight > 0:
                # A pair counts above the weak zero that every pair has (see als.lay_out).
                full = np.where(weight > 0, weight, self.model.unobserved_weight + 1.0)
                weight = np.where(weight > 0, weight - self.model.unobserved_weight, 0.0)
                rating = np.where(weight > 0, full * rating / np.where(weight > 0, weight, 1), 0.0)
            mean, covariance = _solve_rows(
                partners, jnp.asarray(partner), jnp.asarray(rating, partners.dtype),
                jnp.asarray(weight, partners.dtype), jnp.asarray(prior, partners.dtype), free,
                intercept, scales, gram, gram_shift,
                likelihood=self.model.likelihood.canonical(),
            )  # fmt: skip
            means[chosen] = np.asarray(mean)[: len(chosen)]
            covariances[chosen] = np.asarray(covariance)[: len(chosen)]
        return means, covariances


@partial(jax.jit, static_argnames="likelihood")
def _solve_rows(
    partners: Array,
    partner: Array,
    rating: Array,
    weight: Array,
    precision: Array,
    free: Array,
    intercept: Array,
    scales: dict[str, Array],
    gram: Array | None,
    gram_shift: Array | None,
    *,
    likelihood: Likelihood,
) -> tuple[Array, Array]:
    offset, z = intercept + partners[partner, 0], partners[partner, 1:]

    def linearize(x: Array) -> gaussian.RowBatch:
        scores = offset + gaussian.project(z, x)
        curvature, slope = likelihood.bound(scores, rating, scales)
        rhs = gaussian.collect(z, weight * slope) - precision * x
        if gram is not None:
            rhs = rhs - x @ gram - gram_shift[None]
        return gaussian.RowBatch(z, weight * curvature, rhs * free[None], precision, free, gram)

    def step(_: int, x: Array) -> Array:
        batch = linearize(x)
        return x + gaussian.cholesky_step(gaussian.row_precision(batch), batch.rhs)

    start = jnp.zeros_like(precision)
    x = jax.lax.fori_loop(0, BOUND_STEPS if likelihood.binary else 2, step, start)
    # The curvature of the bound is too small for an uncertainty: take the Fisher information.
    information = likelihood.information(offset + gaussian.project(z, x), scales)
    final = linearize(x)._replace(curvature=weight * information)
    return x, gaussian.covariance(gaussian.row_precision(final), free)


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
