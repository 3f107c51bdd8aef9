"""Exact conditionals of single rows given the other side: fold-in and plug-in uncertainty."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from probmf.data import Ratings
from probmf.likelihoods.base import likelihood_scales
from probmf.models.factorization import PRIOR_SCALES, MatrixFactorization
from probmf.results import row_problem
from probmf.results.row_centers import row_centers, row_functions
from probmf.results.row_problem import RowProblem, to_device
from probmf.results.side_ratings import Batch, SideRatings
from probmf.rows.layout import Side
from probmf.rows.sweep import zero_moments

#: Bytes that one batch of rows may take while it is solved for.
BATCH_BYTES = 1 << 26


@dataclass(frozen=True, eq=False)
class Conditionals:
    """Rows (bias, factors) of one side given the other side of a fit.

    Args:
        model: The factorization; its scales must be numbers or arrays.
        data: The ratings.
        parameters: Point values by site name.
    """

    model: MatrixFactorization
    data: Ratings
    parameters: Mapping[str, np.ndarray]

    @property
    def num_columns(self) -> int:
        """Length of a row: the bias and the factors."""
        return 1 + int(self.model.num_factors)

    @property
    def scales(self) -> dict[str, Any]:
        """The likelihood's own parameters at the fit's values."""
        return likelihood_scales(self.model.likelihood, self.parameters)

    @cached_property
    def rows(self) -> dict[Side, Float[np.ndarray, "rows d"]]:
        """Rows (bias, factors) of both sides; a bias that is left out is zero."""
        return {"user": self._rows("user"), "item": self._rows("item")}

    def _rows(self, side: Side) -> np.ndarray:
        size = self.data.num_users if side == "user" else self.data.num_items
        bias = self.parameters.get(f"{side}_bias", np.zeros(size, np.float32))
        factors = self.parameters.get(f"{side}_factors", np.zeros((size, 0), np.float32))
        return np.concatenate([np.asarray(bias)[:, None], np.asarray(factors)], axis=1)

    @cached_property
    def ratings(self) -> dict[Side, SideRatings]:
        """The ratings by row, of both sides."""
        weight = self.model.unobserved_weight
        return {
            "user": SideRatings.from_ratings(self.data, "user", unobserved_weight=weight),
            "item": SideRatings.from_ratings(self.data, "item", unobserved_weight=weight),
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
        variance = np.ones((len(codes), self.num_columns))
        for columns, scale in self._scales(side):
            own = np.square(scale[codes])[:, None] if scale.ndim else np.square(scale)
            variance[:, columns] = own
        return variance

    def new_variance(self, side: Side) -> Float[np.ndarray, " d"]:
        """Prior variance of a new row, the average where scales differ by row; 0 where fixed.

        With features, which of a new row are not known, that of the prior means is added.
        """
        variance = np.zeros(self.num_columns)
        for columns, scale in self._scales(side):
            variance[columns] = np.mean(np.square(scale))
        if side in self.centers:
            variance += self.centers[side].var(axis=0)
        return variance

    def _scales(self, side: Side) -> Iterator[tuple[slice, np.ndarray]]:
        """The prior scales that the model has for a side, and the coordinates they are for."""
        for site, columns in ((f"{side}_bias", slice(0, 1)), (f"{side}_factors", slice(1, None))):
            if site in self.parameters:
                yield columns, np.asarray(getattr(self.model, PRIOR_SCALES[site]), np.float64)

    @cached_property
    def centers(self) -> dict[Side, Float[np.ndarray, "rows d"]]:
        """Prior means of the rows of the sides that have one."""
        weights = {name: np.asarray(value)[None] for name, value in self.parameters.items()}
        return {
            side: row_centers(mean, weights, np.arange(mean.features.shape[0]))[0]
            for side, mean in row_functions(self.model, self.data).items()
        }

    def new_row(self, side: Side) -> Float[np.ndarray, " d"]:
        """Prior mean of a new row of whom nothing is known: the average over the rows."""
        if side not in self.centers:
            return np.zeros(self.num_columns)
        return np.asarray(self.centers[side].mean(axis=0))

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
        likelihood = self.model.likelihood.canonical()
        for batch, problem in self._problems(side, codes):
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
        likelihood = self.model.likelihood.canonical()
        for batch, problem in self._problems(side, codes):
            yield batch.chosen, row_problem.roots(problem, likelihood)[: len(batch.chosen)]

    def _problems(self, side: Side, codes: np.ndarray) -> Iterator[tuple[Batch, RowProblem]]:
        partners = to_device(self.rows["item" if side == "user" else "user"])
        variance = self.prior_variance(side, codes)
        values = self.rows[side][codes]
        intercept = np.asarray(self.parameters["intercept"])
        scales = {name: np.asarray(value) for name, value in self.scales.items()}
        gram = gram_shift = None
        if self.model.unobserved_weight > 0:
            weight = self.model.unobserved_weight / np.square(scales["noise_scale"])
            moments = zero_moments(partners[:, 0], partners[:, 1:], intercept, weight)
            gram, gram_shift = map(np.asarray, moments)
        for batch in self.ratings[side].batches(codes, self.num_columns, BATCH_BYTES):
            start = np.zeros((len(batch.rating), self.num_columns))
            precision = np.full_like(start, 1.0 / variance.min())
            start[: len(batch.chosen)] = values[batch.chosen]
            precision[: len(batch.chosen)] = 1.0 / variance[batch.chosen]
            center = None
            if side in self.centers:
                center = np.zeros_like(start)
                center[: len(batch.chosen)] = self.centers[side][codes[batch.chosen]]
            # On the host: the fit's predictions may be asked for in either precision.
            fields: Any = (
                start, partners, batch.partner, batch.rating, batch.weight, precision,
                self.free(side), intercept, scales, gram, gram_shift, center,
            )  # fmt: skip
            yield batch, RowProblem(*fields)
