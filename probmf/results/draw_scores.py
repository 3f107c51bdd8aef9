"""Scores of a fit of many draws, at each of them, and the best of many items for many users."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from probmf.likelihoods import Likelihood
from probmf.results.draws import Draws
from probmf.results.mixtures import BLOCK, row_blocks, tails
from probmf.results.prediction_intervals import Mixtures, ScoreMixture
from probmf.results.ranking import Exclusions, Order, block_size, top_scores, unit_rows
from probmf.results.scores import Codes, Column, Scores
from probmf.rows.placement import LineDevices
from probmf.rows.store import Side

#: Numbers that the rows of one block of draws may have.
ROW_NUMBERS = 1 << 24


def draw_blocks(draws: Draws, num_rows: int) -> Iterator[slice]:
    """Slices of draws, as many at a time as fit in memory with that many rows each."""
    step = max(1, ROW_NUMBERS // (num_rows * (2 + int(draws.model.num_factors))))
    for start in range(0, draws.num_draws, step):
        yield slice(start, min(start + step, draws.num_draws))


def middle(draws: Draws) -> float:
    """A number to take from scores and thresholds alike while items are ranked.

    They may lie so far from zero that single precision has few digits left.
    """
    far = draws.model.likelihood.has("in_units")
    return float(np.mean(draws.sites["intercept"], dtype=np.float64)) if far else 0.0


def pairs_of_rows(
    draws: Draws, codes: np.ndarray, items: np.ndarray, some: slice, center: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both sides at some draws, (mu + b, 1, u) and (1, c, v).

    Their products are the scores less the center.
    """
    users, others = draws.rows("user", codes, some), draws.rows("item", items, some)
    ones = np.ones_like(users[:, :, :1]), np.ones_like(others[:, :, :1])
    users[:, :, 0] += (draws.sites["intercept"][some] - center)[:, None]
    return (
        np.concatenate([users[:, :, :1], ones[0], users[:, :, 1:]], axis=2),
        np.concatenate([ones[1], others], axis=2),
    )


def _means(
    draws: Draws, codes: np.ndarray, items: np.ndarray, order: Order, center: float,
    devices: LineDevices,
) -> np.ndarray:  # fmt: skip
    """Expected ratings or probabilities of high ones over all draws, by line and item."""
    parts, size = devices.count, block_size(len(codes), len(items), devices)
    num_lines, codes = len(codes), np.pad(codes, (0, parts * size - len(codes)), "edge")
    new = codes < 0
    likelihood = draws.model.likelihood
    threshold = None
    if order.by == "probability" and order.at_least is not None:
        threshold = np.asarray(order.at_least - center)
    linear = likelihood.quadratic and threshold is None
    total = np.zeros((len(codes), len(items)))
    for some in draw_blocks(draws, len(codes) + len(items)):
        users, others = pairs_of_rows(draws, codes, items, some, center)
        lengths = np.zeros(others.shape[:2])
        if new.any():
            design = np.concatenate([np.ones_like(others[:, :, :1]), others[:, :, 2:]], axis=2)
            lengths = np.square(design @ draws.new_roots("user")[some]).sum(axis=2)
        lines = (
            np.moveaxis(users.reshape(len(users), parts, size, -1), 1, 0),
            new.reshape(parts, size),
        )
        whole = devices.replicate((others, lengths, draws.likelihood_scales(some), threshold))
        total += devices.map(
            _sum_of_means, lines, whole, likelihood=likelihood.canonical(),
            strangers=bool(new.any()) and not linear,
        )  # fmt: skip
    return total[:num_lines] / draws.num_draws


@partial(jax.jit, static_argnames=("likelihood", "strangers"))
def _sum_of_means(
    users: Array, new: Array, items: Array, lengths: Array, scales: dict[str, Array],
    threshold: Array | None,
    *, likelihood: Likelihood, strangers: bool,
) -> Array:  # fmt: skip
    """Sums over draws; `lengths` are variances of a new user's scores by draw and item."""

    def add(total: Array, draw: tuple[Any, ...]) -> tuple[Array, None]:
        x, y, length, own = draw
        score, sd = x @ y.T, None
        if strangers:
            sd = jnp.where(new[:, None], jnp.sqrt(length)[None, :], 0.0)
        if threshold is not None:
            return total + likelihood.tail(score, threshold, own, sd), None
        if sd is None:
            return total + likelihood.mean(score, own), None
        return total + likelihood.integrate(score, sd, own)[0], None

    start = jnp.zeros((users.shape[1], items.shape[1]), users.dtype)
    return lax.scan(add, start, (users, items, lengths, scales))[0]


def draw_strangers(
    draws: Draws, users: np.ndarray, codes: np.ndarray, at: slice | np.ndarray,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Give new users a row from the prior of each draw, in place."""
    new = np.flatnonzero(codes < 0)
    if len(new):
        noise = rng.standard_normal((len(users), len(new), users.shape[2] - 1))
        moves = noise @ np.swapaxes(draws.new_roots("user")[at], 1, 2)
        users[:, new, 0] += moves[:, :, 0]
        users[:, new, 2:] += moves[:, :, 1:]


def _single(
    draws: Draws, codes: np.ndarray, items: np.ndarray, chosen: np.ndarray, center: float,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Scores of each line at one draw of its own."""
    scores = np.empty((len(codes), len(items)))
    for draw in np.unique(chosen):
        lines = np.flatnonzero(chosen == draw)
        at = slice(draw, draw + 1)
        users, others = pairs_of_rows(draws, codes[lines], items, at, center)
        draw_strangers(draws, users, codes[lines], at, rng)
        scores[lines] = users[0] @ others[0].T
    return scores


def _quantiles(
    draws: Draws, codes: np.ndarray, items: np.ndarray, level: float, center: float,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """A quantile of the scores over the draws, by line and item."""
    bound = np.empty((len(codes), len(items)))
    width = max(1, min(len(items), BLOCK // draws.num_draws))
    height = max(1, BLOCK // (draws.num_draws * width))
    for line in range(0, len(codes), height):
        own = codes[line : line + height]
        users, _ = pairs_of_rows(draws, own, items[:1], slice(None), center)
        draw_strangers(draws, users, own, slice(None), rng)
        for first in range(0, len(items), width):
            _, others = pairs_of_rows(draws, own[:1], items[first : first + width], slice(None))
            scores = users @ others.transpose(0, 2, 1)
            bound[line : line + height, first : first + width] = np.quantile(scores, level, axis=0)
    return bound


@dataclass(frozen=True, eq=False)
class DrawScores(Scores):
    """Scores of a fit of many draws."""

    rows: Draws
    is_point = False

    @override
    def mixtures(self, user: Codes, item: Codes, *, uncertain: bool = True) -> Mixtures:
        scales = {name: value[:, None] for name, value in self.rows.likelihood_scales().items()}
        numbers = self.rows.num_draws * max(1, self.model.likelihood.num_levels)
        new = (user < 0) | (item < 0)
        # Pairs with a row from the prior have quantiles of their own kind.
        for some in (np.flatnonzero(new), np.flatnonzero(~new)):
            for block in row_blocks(len(some), numbers):
                part = some[block]
                mean, variance = self.rows.scores(user[part], item[part])
                sd = np.sqrt(variance) if variance.any() else None
                yield part, ScoreMixture(mean, sd, scales)

    @override
    def draw(
        self, user: int, items: Codes, rng: np.random.Generator, num_draws: int = 0
    ) -> Iterator[Float[np.ndarray, "draws n"]]:
        codes = np.asarray([user])
        for some in draw_blocks(self.rows, len(items) + 1):
            users, others = pairs_of_rows(self.rows, codes, items, some)
            draw_strangers(self.rows, users, codes, some, rng)
            yield np.einsum("sd,snd->sn", users[:, 0], others, dtype=np.float64)

    @override
    def covariance(
        self, user: int, items: Codes
    ) -> tuple[Float[np.ndarray, " n"], Column, Mapping[str, np.ndarray]]:
        blocks, count = self._blocks(user, items), self.rows.num_draws
        mean: Any = sum(block.sum(axis=0) for block in blocks()) / count
        variance: Any = sum(np.square(block - mean).sum(axis=0) for block in blocks()) / count

        def column(place: int) -> np.ndarray:
            parts = [(block[:, place] - mean[place]) @ (block - mean) for block in blocks()]
            return np.sum(parts, axis=0) / count

        return variance, column, self.rows.likelihood_scales()

    @override
    def weighted(
        self, user: int, items: Codes
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Mapping[str, np.ndarray]]]:
        start = 0
        for block in self._blocks(user, items)():
            some = slice(start, start + len(block))
            weight = np.full(len(block), 1.0 / self.rows.num_draws)
            yield block, weight, self.rows.likelihood_scales(some)
            start = some.stop

    def _blocks(self, user: int, items: np.ndarray) -> Callable[[], Iterable[np.ndarray]]:
        """Draws to go through several times: kept if they are few, else made again."""

        def made() -> Iterator[np.ndarray]:
            # A stranger's rows are drawn, always the same ones, so that calls agree.
            return self.draw(user, items, np.random.default_rng(0))

        if self.rows.num_draws * len(items) > BLOCK:
            return made
        kept = list(made())
        return lambda: kept

    @override
    def best(
        self, users: Codes, items: Codes, k: int, exclusions: Exclusions | None, order: Order,
        devices: LineDevices,
    ) -> tuple[Int[np.ndarray, "lines k"], None]:  # fmt: skip
        if devices.mesh is not None and order.by not in ("mean", "probability"):
            raise ValueError(
                f"rank_by={order.by!r} sorts or picks the draws of this fit on the processor, and "
                "devices would have nothing to do. Leave devices out, or rank by 'mean' or "
                "'probability'."
            )
        rng = order.rng
        chosen = np.zeros(len(users), np.int64)
        if rng is not None:
            chosen = rng.integers(self.rows.num_draws, size=len(users))
        # A new user's rows are drawn; for bounds always the same ones, so that calls agree.
        strangers = np.random.default_rng(0) if rng is None else rng
        center = middle(self.rows)

        def score(part: slice) -> np.ndarray:
            if order.by in ("mean", "probability"):
                return _means(self.rows, users[part], items, order, center, devices)
            if order.by == "thompson":
                return _single(self.rows, users[part], items, chosen[part], center, strangers)
            level = tails(order.interval)[order.by == "upper"]
            return _quantiles(self.rows, users[part], items, level, center, strangers)

        return top_scores(score, len(users), len(items), k, exclusions, devices)[0], None

    @override
    def similar(
        self, side: Side, codes: Codes, k: int, exclusions: Exclusions
    ) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"]]:
        every = np.arange(self.rows.data.num_users if side == "user" else self.rows.data.num_items)

        def mean_cosines(part: slice) -> np.ndarray:
            total = np.zeros((part.stop - part.start, len(every)))
            for some in draw_blocks(self.rows, len(every)):
                for unit in unit_rows(self.rows.rows(side, every, some)[:, :, 1:]):
                    total += unit[codes[part]] @ unit.T
            return total / self.rows.num_draws

        return top_scores(mean_cosines, len(codes), len(every), k, exclusions)
