"""Exact conditionals of single rows given the other side: fold-in and plug-in uncertainty."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from probmf.results.draws import Draws, row_centers
from probmf.rows import problem as row_problem
from probmf.rows.batches import Batch, batches, rows_of
from probmf.rows.problem import RowProblem
from probmf.rows.store import RowRatings, Side
from probmf.rows.sweep import zero_moments
from probmf.settings import in_precision

#: Bytes that one batch of rows may take while it is solved for.
BATCH_BYTES = 1 << 26


@dataclass(frozen=True, eq=False)
class Conditionals:
    """Rows (bias, factors) of one side given the other side of a point fit.

    Args:
        draws: The fit's one draw; the scales of its model must be numbers or arrays.
    """

    draws: Draws

    @property
    def num_columns(self) -> int:
        """Length of a row: the bias and the factors."""
        return 1 + int(self.draws.model.num_factors)

    @property
    def intercept(self) -> np.ndarray:
        """The intercept."""
        return np.asarray(self.draws.sites["intercept"][0])

    @cached_property
    def tables(self) -> dict[Side, Float[np.ndarray, "rows1 d"]]:
        """Rows of both sides, with a row at the prior mean of a new one at the end."""
        data = self.draws.data
        sizes: dict[Side, int] = {"user": data.num_users, "item": data.num_items}
        return {
            side: self.draws.rows(side, np.append(np.arange(size), -1))[0]
            for side, size in sizes.items()
        }

    @cached_property
    def ratings(self) -> dict[Side, RowRatings]:
        """The ratings by row, of both sides."""
        weight = self.draws.model.unobserved_weight
        return {
            "user": rows_of(self.draws.data, "user", unobserved_weight=weight),
            "item": rows_of(self.draws.data, "item", unobserved_weight=weight),
        }

    def free(self, side: Side) -> Float[np.ndarray, " d"]:
        """1 for coordinates that the model has, 0 for a bias that is left out."""
        free = np.ones(self.num_columns)
        free[0] = self.draws.model.user_bias if side == "user" else self.draws.model.item_bias
        return free

    def prior_variance(
        self, side: Side, codes: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows d"]:
        """Prior variance of the coordinates of rows; 1 where the model has none."""
        variance = self.draws.prior_variance(side, codes)[0]
        return np.broadcast_to(variance, (len(codes), self.num_columns))

    def new_variance(self, side: Side) -> Float[np.ndarray, " d"]:
        """Prior variance of a new row, the average where scales differ by row; 0 where fixed.

        With features, which of a new row are not known, that of the prior means is added.
        """
        bias, root = self.draws.new_bias_scale(side), self.draws.new_roots(side)[0]
        return np.concatenate([np.square(bias), np.square(root).sum(axis=1)])

    @cached_property
    def _centers(self) -> dict[Side, Float[np.ndarray, "rows d"]]:
        """Prior means of the rows of the sides that have one."""
        return {
            side: row_centers(mean, self.draws.sites, np.arange(mean.features.shape[0]))[0]
            for side, mean in self.draws.functions.items()
        }

    def modes(self, side: Side, codes: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows d"]:
        """The most likely value of each row given the other side.

        Args:
            side: Whose rows.
            codes: Which, each in 0..rows-1.

        Returns:
            Rows (bias, factors). O(n d^2 + rows d^3) time for n ratings, once for Gaussian
            ratings and about ten times for yes/no data; memory is bounded.
        """
        found = np.zeros((len(codes), self.num_columns))
        likelihood = self.draws.model.likelihood.canonical()
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

        Args:
            side: Whose rows.
            codes: Which, each in 0..rows-1.

        Yields:
            Places in `codes` and their roots, in batches of bounded memory.
        """
        likelihood = self.draws.model.likelihood.canonical()
        for batch, problem in self.problems(side, codes):
            yield batch.chosen, row_problem.roots(problem, likelihood)[: len(batch.chosen)]

    def problems(self, side: Side, codes: np.ndarray) -> Iterator[tuple[Batch, RowProblem]]:
        """The rows with all that they are conditioned on, in batches of bounded memory."""
        partners = in_precision(self.tables["item" if side == "user" else "user"][:-1])
        variance = self.prior_variance(side, codes)
        values = self.tables[side][codes]
        scales = {name: value[0] for name, value in self.draws.likelihood_scales().items()}
        gram = gram_shift = None
        if self.draws.model.unobserved_weight > 0:
            weight = self.draws.model.unobserved_weight / np.square(scales["noise_scale"])
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
