"""Scores of a fit of many draws: at each of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, override

import numpy as np
from jaxtyping import Float, Int

from probmf.results.draws import Draws
from probmf.results.exclusions import Exclusions
from probmf.results.mixtures import BLOCK, row_blocks
from probmf.results.prediction_intervals import Mixtures, ScoreMixture
from probmf.results.ranking import Order
from probmf.results.ranking_of_draws import (
    draw_blocks,
    draw_strangers,
    pairs_of_rows,
    top_cosines,
    top_of_draws,
)
from probmf.results.scores import Codes, Column, Scores
from probmf.rows.store import Side


@dataclass(frozen=True, eq=False)
class DrawScores(Scores):
    """Scores of a fit of many draws.

    Args:
        rows: Its rows at each draw.
    """

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
        self, users: Codes, items: Codes, k: int, exclusions: Exclusions | None, order: Order
    ) -> tuple[Int[np.ndarray, "lines k"], None]:
        return top_of_draws(self.rows, users, items, k, exclusions, order), None

    @override
    def similar(
        self, side: Side, codes: Codes, k: int, exclusions: Exclusions
    ) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"]]:
        return top_cosines(self.rows, side, codes, k, exclusions)
