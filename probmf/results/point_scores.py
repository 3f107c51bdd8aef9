"""Scores of a point fit: at its values, with the uncertainty of its rows given the other side.

The best of many items for many users, too, where they are ranked by more than the score.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import ndtri

from probmf.likelihoods import Likelihood
from probmf.results.draw_scores import middle
from probmf.results.mixtures import row_blocks
from probmf.results.prediction_intervals import Mixtures, ScoreMixture
from probmf.results.ranking import (
    BLOCK_SCORES,
    ONE,
    Exclusions,
    Order,
    block_size,
    in_parts,
    pairs_left_out,
    top_of_lines,
    top_products,
    unit_rows,
)
from probmf.results.row_conditionals import Conditionals
from probmf.results.scores import Codes, Column, Scores
from probmf.rows.placement import LineDevices
from probmf.rows.store import Side

#: Nodes and weights of a standard Normal expectation, exact for polynomials up to degree 39.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def top_uncertain(
    rows: Conditionals,
    codes: Int[np.ndarray, " lines"],
    candidates: Int[np.ndarray, " items"],
    k: int,
    exclusions: Exclusions | None,
    order: Order,
    devices: LineDevices = ONE,
) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"]]:
    """Items ranked by a bound, a joint draw of the scores, or what is expected of the ratings.

    Blocks of items are the outer loop: each item's covariance is computed once, and each user's
    once per block of items. Costs O(lines x items x d^2) time; the blocks bound the memory.

    By "thompson" each user's row is drawn once, and for each user every item's; "mean" is averaged
    over the prior of rows without ratings. The items of `exclusions` are places in `candidates`.
    Gives places in `candidates` and the bounds or draws of the scores, as `top_products`; for
    "probability" numbers in the order of the probabilities, for "mean" expected ratings less
    `middle`.
    """
    rng, by_mean = order.rng, order.by == "mean"
    bound = float(ndtri(0.5 + order.interval / 2)) * (-1.0 if order.by == "lower" else 1.0)
    users = rows.tables["user"][codes]
    if rng is not None:
        users = rows.draw("user", codes, rng.standard_normal(users.shape)).astype(users.dtype)
    of_ratings = by_mean or order.by == "probability"
    center = middle(rows.draws) if of_ratings else 0.0
    offset = users[:, :1] + (rows.intercept - center)
    likelihood = rows.model.likelihood.canonical() if of_ratings else None
    own = rows.draws.likelihood_scales()
    scales = devices.replicate({name: value[0] for name, value in own.items()})
    at_least = bound if order.at_least is None else order.at_least - center
    threshold = devices.replicate(np.asarray(at_least))
    best = np.full((len(codes), k), -np.inf)
    places = np.full((len(codes), k), -1, dtype=np.int64)
    room, parts = rows.spread_rows, devices.count
    for first in range(0, len(candidates), room):
        items = candidates[first : first + room]
        own_spread = rows.prior_spread("item", items) if by_mean else _spread(rows, items)
        item_side = devices.replicate((rows.tables["item"][items], own_spread))
        size = min(max(1, room // parts), block_size(len(codes), len(items), devices))
        step = size * parts
        for begin in range(0, len(codes), room):
            block = slice(begin, min(begin + room, len(codes)))
            if rng is not None:
                spread = rows.exact_spread("user", users[block])
            else:
                spreads = rows.prior_spread if by_mean else rows.spread
                spread = spreads("user", codes[block])
            for start in range(block.start, block.stop, step):
                part = slice(start, min(start + step, block.stop))
                length, here = part.stop - start, slice(start - begin, part.stop - begin)
                noise = None if rng is None else rng.standard_normal((length, len(items)))
                cut = partial(in_parts, size=size, parts=parts)
                lines = jax.tree.map(cut, (users[part], spread[here], offset[part], noise))
                among = slice(first, first + len(items))
                excluded = pairs_left_out(exclusions, part, size, parts, among=among)
                value, place = devices.map(
                    _top_of_block, (*excluded, *lines), (*item_side, threshold, scales),
                    k=min(k, len(items)), likelihood=likelihood, by_mean=by_mean,
                )  # fmt: skip
                # The best of what was found before and now.
                values = np.concatenate([best[part], value[:length]], axis=1)
                both = np.concatenate([places[part], place[:length] + first], axis=1)
                ranked = np.argsort(-values, axis=1, kind="stable")[:, :k]
                best[part] = np.take_along_axis(values, ranked, axis=1)
                places[part] = np.take_along_axis(both, ranked, axis=1)
    return np.where(np.isneginf(best), -1, places), best if of_ratings else best + offset


def _spread(rows: Conditionals, items: np.ndarray) -> np.ndarray:
    """Spreads of items, those of the whole catalogue kept."""
    num_items = rows.data.num_items
    if num_items > rows.spread_rows:
        return rows.spread("item", items)
    return rows.catalogue_spread if len(items) == num_items else rows.catalogue_spread[items]


@partial(jax.jit, static_argnames=("k", "likelihood", "by_mean"))
def _top_of_block(
    line: Array, item: Array, users: Array, user_spread: Array, offset: Array, noise: Array | None,
    items: Array, item_spread: Array, bound: Array, scales: Mapping[str, Array],
    *, k: int, likelihood: Likelihood | None, by_mean: bool,
) -> tuple[Array, Array]:  # fmt: skip
    """Best by mean + (bound or noise) sd of the score, or by what the likelihood has of ratings."""
    mean = users.at[:, 0].set(1.0) @ items.T
    sd = jnp.sqrt(jnp.maximum(user_spread @ item_spread.T, 0.0))
    if likelihood is None:
        return top_of_lines(mean + (bound if noise is None else noise) * sd, line, item, k)
    if by_mean:
        return top_of_lines(likelihood.integrate(offset + mean, sd, scales)[0], line, item, k)
    return top_of_lines(likelihood.tail_order(offset + mean, bound, scales, sd), line, item, k)


@dataclass(frozen=True, eq=False)
class PointScores(Scores):
    """Scores of a point fit."""

    rows: Conditionals
    is_point = True

    @property
    def _scales(self) -> dict[str, Float[np.ndarray, "1 ..."]]:
        return self.rows.draws.likelihood_scales()

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
        intercept = float(rows.intercept)
        width = rows.num_columns
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
        root = self.rows.new_roots["user"].T
        if user >= 0:
            ((_, roots),) = self.rows.roots("user", np.asarray([user]))
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
        self, users: Codes, items: Codes, k: int, exclusions: Exclusions | None, order: Order,
        devices: LineDevices,
    ) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"] | None]:  # fmt: skip
        if order.by != "mean":
            return top_uncertain(self.rows, users, items, k, exclusions, order, devices)[0], None
        # Ratings that are not linear in the score are averaged over the prior of rows without any.
        known, rated = self.known("user", users), self.known("item", items)
        if self.model.likelihood.quadratic:
            return self._best_by_score(users, items, k, exclusions, devices)
        if known.all() and rated.all():
            return self._best_by_score(users, items, k, exclusions, devices)[0], None
        places = np.full((len(users), k), -1)
        for lines, parts in (
            (np.flatnonzero(known), (np.flatnonzero(rated), np.flatnonzero(~rated))),
            (np.flatnonzero(~known), (np.arange(0), np.arange(len(items)))),
        ):
            if len(lines):
                own = None if exclusions is None else exclusions.for_lines(exclusions.group[lines])
                places[lines] = self._best_by_mean(
                    users[lines], items, k, own, order, parts, devices
                )
        return places, None

    def _best_by_score(
        self, users: np.ndarray, items: np.ndarray, k: int, exclusions: Exclusions | None,
        devices: LineDevices,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Places of the items with the highest scores at the fit's values, and these."""
        lines, table = self.rows.tables["user"][users], self.rows.tables["item"]
        intercept = float(self.rows.intercept)
        offset = lines[:, :1].astype(np.float64) + intercept
        # A user's bias does not change the order; the item's has a one to be multiplied with.
        lines[:, 0] = 1.0
        table = table[:-1] if len(items) == len(table) - 1 else table[items]
        places, products = top_products(lines, table, k, exclusions, devices)
        return places, products + offset

    def _best_by_mean(
        self, users: np.ndarray, items: np.ndarray, k: int, exclusions: Exclusions | None,
        order: Order, parts: tuple[np.ndarray, np.ndarray], devices: LineDevices,
    ) -> np.ndarray:  # fmt: skip
        """Places of the best: of the first part of the items by score, of the second by mean."""
        found = [np.full((len(users), k), -1)]
        for some, by_score in zip(parts, (True, False), strict=True):
            if not len(some):
                continue
            own = None if exclusions is None else exclusions.among(some, len(items))
            num = min(k, len(some))
            if by_score:
                place, _ = self._best_by_score(users, items[some], num, own, devices)
            else:
                place, _ = top_uncertain(self.rows, users, items[some], num, own, order, devices)
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
