"""Scores of a point fit: at its values, with the uncertainty of its rows given the other side."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import override

import numpy as np
from jaxtyping import Float, Int

from probmf.results.exclusions import Exclusions
from probmf.results.mixtures import row_blocks
from probmf.results.plug_in import PlugIn
from probmf.results.prediction_intervals import Mixtures, ScoreMixture
from probmf.results.ranking import BLOCK_SCORES, Order, top_products, unit_rows
from probmf.results.ranking_of_point import top_uncertain
from probmf.results.scores import Codes, Column, Scores
from probmf.rows.store import Side

#: Nodes and weights of a standard Normal expectation, exact for polynomials up to degree 39.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@dataclass(frozen=True, eq=False)
class PointScores(Scores):
    """Scores of a point fit.

    Args:
        rows: Its rows, with their covariances.
    """

    rows: PlugIn
    is_point = True

    @property
    def _scales(self) -> dict[str, Float[np.ndarray, "1 ..."]]:
        return self.rows.conditionals.draws.likelihood_scales()

    @override
    def mixtures(self, user: Codes, item: Codes, *, uncertain: bool = True) -> Mixtures:
        rows, likelihood = self.rows, self.model.likelihood
        mean, sd = rows.means(user, item)[None], None
        if uncertain or not likelihood.quadratic:
            variance = (rows.variances if uncertain else rows.prior_variances)(user, item)
            sd = np.sqrt(variance)[None] if variance.any() else None
        scales = {name: value[:, None] for name, value in self._scales.items()}
        for part in row_blocks(len(user), max(1, likelihood.num_levels)):
            width = None if sd is None else sd[:, part]
            yield np.arange(part.start, part.stop), ScoreMixture(mean[:, part], width, scales)

    @override
    def draw(
        self, user: int, items: Codes, rng: np.random.Generator, num_draws: int
    ) -> Iterator[Float[np.ndarray, "draws n"]]:
        """Draws of the user's row, and of each item's score given that; O(draws items d^2) time."""
        rows = self.rows
        step = max(1, min(num_draws, BLOCK_SCORES // len(items), rows.spread_rows))
        intercept = float(rows.conditionals.intercept)
        width = rows.conditionals.num_columns
        for start in range(0, num_draws, step):
            count = min(step, num_draws - start)
            own = rows.draw("user", np.full(count, user), rng.standard_normal((count, width)))
            spread = rows.exact_spread("user", own)
            scores = np.empty((count, len(items)))
            for first in range(0, len(items), rows.spread_rows):
                some = slice(first, first + rows.spread_rows)
                others = rows.tables["item"][items[some]]
                mean = own[:, :1] + others[:, 0] + own[:, 1:] @ others[:, 1:].T
                variance = np.maximum(spread @ rows.spread("item", items[some]).T, 0.0)
                noise = rng.standard_normal(mean.shape)
                scores[:, some] = intercept + mean + np.sqrt(variance) * noise
            yield scores

    @override
    def covariance(
        self, user: int, items: Codes
    ) -> tuple[Float[np.ndarray, " n"], Column, Mapping[str, np.ndarray]]:
        conditionals = self.rows.conditionals
        root = np.diag(np.sqrt(conditionals.new_variance("user")))
        if user >= 0:
            ((_, roots),) = conditionals.roots("user", np.asarray([user]))
            root = roots[0]
        design = self.rows.tables["item"][items].astype(np.float64)
        design[:, 0] = 1.0
        # Vectors whose products are the covariances.
        half = design @ root.T
        return np.square(half).sum(axis=1), lambda place: half @ half[place], self._scales

    @override
    def weighted(
        self, user: int, items: Codes
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Mapping[str, np.ndarray]]]:
        variance, _, scales = self.covariance(user, items)
        mean = self.rows.means(np.full(len(items), user), items)
        yield mean + NODES[:, None] * np.sqrt(variance), WEIGHTS, scales

    @override
    def best(
        self, users: Codes, items: Codes, k: int, exclusions: Exclusions | None, order: Order
    ) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"] | None]:
        if order.by != "mean":
            return top_uncertain(self.rows, users, items, k, exclusions, order)[0], None
        # Ratings that are not linear in the score are averaged over the prior of rows without any.
        known, rated = self.known("user", users), self.known("item", items)
        if self.model.likelihood.quadratic:
            return self._best_by_score(users, items, k, exclusions)
        if known.all() and rated.all():
            return self._best_by_score(users, items, k, exclusions)[0], None
        places = np.full((len(users), k), -1)
        for lines, parts in (
            (np.flatnonzero(known), (np.flatnonzero(rated), np.flatnonzero(~rated))),
            (np.flatnonzero(~known), (np.arange(0), np.arange(len(items)))),
        ):
            if len(lines):
                own = None if exclusions is None else exclusions.for_lines(exclusions.group[lines])
                places[lines] = self._best_by_mean(users[lines], items, k, own, order, parts)
        return places, None

    def _best_by_score(
        self, users: np.ndarray, items: np.ndarray, k: int, exclusions: Exclusions | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places of the items with the highest scores at the fit's values, and these."""
        lines, table = self.rows.tables["user"][users], self.rows.tables["item"]
        intercept = float(self.rows.conditionals.intercept)
        offset = lines[:, :1].astype(np.float64) + intercept
        # A user's bias does not change the order; the item's has a one to be multiplied with.
        lines[:, 0] = 1.0
        table = table[:-1] if len(items) == len(table) - 1 else table[items]
        places, products = top_products(lines, table, k, exclusions)
        return places, products + offset

    def _best_by_mean(
        self, users: np.ndarray, items: np.ndarray, k: int, exclusions: Exclusions | None,
        order: Order, parts: tuple[np.ndarray, np.ndarray],
    ) -> np.ndarray:  # fmt: skip
        """Places of the best: of the first part of the items by score, of the second by mean."""
        found = [np.full((len(users), k), -1)]
        for some, by_score in zip(parts, (True, False), strict=True):
            if not len(some):
                continue
            own = None if exclusions is None else exclusions.among(some, len(items))
            num = min(k, len(some))
            if by_score:
                place, _ = self._best_by_score(users, items[some], num, own)
            else:
                place, _ = top_uncertain(self.rows, users, items[some], num, own, order)
            found.append(np.where(place < 0, -1, some[place]))
        place = np.concatenate(found, axis=1)
        filled = place >= 0
        user = np.broadcast_to(users[:, None], place.shape)[filled]
        mean = np.full(place.shape, -np.inf)
        mean[filled] = self.summary(user, items[place][filled], None).mean
        best = np.argsort(-mean, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(place, best, axis=1)

    @override
    def similar(
        self, side: Side, codes: Codes, k: int, exclusions: Exclusions
    ) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"]]:
        unit = unit_rows(self.rows.tables[side][:-1, 1:])
        return top_products(unit[codes], unit, k, exclusions)
