"""The ratings of one side's rows, in padded batches of few shapes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probmf.data import Ratings
from probmf.rows.layout import Side

#: Ratings of a row that are gathered at once; longer rows are read in pieces of that many.
PIECE = 1024


class Batch(NamedTuple):
    """Ratings of some rows, padded.

    Attributes:
        chosen: Which of the rows asked for these are.
        partner: Codes of the other side, shape (lines, width), 0 in empty slots; lines beyond the
            chosen rows are empty. Both sizes are of few different values.
        rating: Ratings, 0 in empty slots.
        weight: Weights, 0 in empty slots.
    """

    chosen: Int[np.ndarray, " rows"]
    partner: Int[np.ndarray, "lines width"]
    rating: Float[np.ndarray, "lines width"]
    weight: Float[np.ndarray, "lines width"]


@dataclass(frozen=True, eq=False)
class SideRatings:
    """The ratings of one side's rows, contiguous by row.

    Args:
        begin: First position of each row, shape (rows + 1,).
        partner: Code of the other side, by row.
        rating: Ratings, by row.
        weight: Positive weights, by row.
    """

    begin: Int[np.ndarray, " rows1"]
    partner: Int[np.ndarray, " n"]
    rating: Float[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]

    @classmethod
    def from_ratings(
        cls, ratings: Ratings, side: Side, *, unobserved_weight: float = 0.0
    ) -> "SideRatings":
        """Sort a table by one side's codes; ratings of weight zero are left out.

        Args:
            ratings: The table.
            side: Whose rows.
            unobserved_weight: Weight w0 of the zero that every pair counts as. A rating r of
                weight w then counts above it as a rating w r / (w - w0) of weight w - w0, which
                is the same up to a constant.

        Returns:
            The ratings by row.
        """
        own, other, size = ratings.user, ratings.item, ratings.num_users
        if side == "item":
            own, other, size = ratings.item, ratings.user, ratings.num_items
        weight = np.ones(len(own)) if ratings.weight is None else ratings.weight
        order = np.argsort(own, kind="stable")
        order = order[weight[order] > 0]
        begin = np.concatenate([[0], np.cumsum(np.bincount(own[order], minlength=size))])
        rating, weight = ratings.rating[order], weight[order]
        if unobserved_weight > 0:
            rating = weight * rating / (weight - unobserved_weight)
            weight = weight - unobserved_weight
        return cls(begin, other[order], rating, weight)

    def batches(
        self, codes: Int[np.ndarray, " rows"], num_columns: int, num_bytes: int
    ) -> Iterator[Batch]:
        """Padded ratings of the given rows.

        Args:
            codes: Rows, each in 0..rows-1.
            num_columns: Length of a row of parameters.
            num_bytes: What a batch may take while its rows are solved for.

        Yields:
            The batches, narrow ones first.
        """
        degree = self.begin[codes + 1] - self.begin[codes]
        # Widths 8, 32, 128, ...: few programs to compile, and on average less than half empty.
        width_of = 8 * 4 ** np.ceil(np.log2(np.maximum(degree, 8) / 8) / 2).astype(np.int64)
        for width in np.unique(width_of):
            rows = np.flatnonzero(width_of == width)
            cells = num_columns * (min(int(width), PIECE) + 4 * num_columns)
            # The largest number of lines that needs no padding and not too much memory.
            most = _power_of_four(max(1, num_bytes // (8 * cells)) + 1) // 4
            for start in range(0, len(rows), most):
                yield self._fill(codes, rows[start : start + most], int(width))

    def _fill(self, codes: np.ndarray, chosen: np.ndarray, width: int) -> Batch:
        lines, slot = _power_of_four(len(chosen)), np.arange(width)
        begin, end = np.zeros((2, lines, 1), dtype=np.int64)
        begin[: len(chosen), 0] = self.begin[codes[chosen]]
        end[: len(chosen), 0] = self.begin[codes[chosen] + 1]
        position = begin + slot
        filled = position < end
        at = position[filled]
        partner = np.zeros((lines, width), dtype=np.int32)
        rating, weight = np.zeros((2, lines, width))
        partner[filled] = self.partner[at]
        rating[filled], weight[filled] = self.rating[at], self.weight[at]
        return Batch(chosen, partner, rating, weight)


def power_of_two(number: int) -> int:
    """The least power of two that is at least a number (and at least one)."""
    return 1 << max(0, number - 1).bit_length()


def _power_of_four(number: int) -> int:
    return 1 << 2 * ((max(0, number - 1).bit_length() + 1) // 2)
