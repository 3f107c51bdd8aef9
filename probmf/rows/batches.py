"""Chosen rows of one side, in padded batches of few shapes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probmf.data import Ratings
from probmf.rows.store import RowRatings, Side, shift_weak_zeros

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


def rows_of(ratings: Ratings, side: Side, *, unobserved_weight: float = 0.0) -> RowRatings:
    """The ratings by one side's rows, in double precision; those of weight zero are left out.

    Args:
        ratings: The table.
        side: Whose rows.
        unobserved_weight: Weight of the zero that every pair counts as; see `shift_weak_zeros`.

    Returns:
        The ratings by row.
    """
    counted = ratings.counted
    own, other, size = counted.user, counted.item, counted.num_users
    if side == "item":
        own, other, size = counted.item, counted.user, counted.num_items
    shifted = shift_weak_zeros(counted.rating, counted.weight, unobserved_weight)
    return RowRatings.sort(own, other, *shifted, num_rows=size)


def batches(
    ratings: RowRatings, codes: Int[np.ndarray, " rows"], num_columns: int, num_bytes: int
) -> Iterator[Batch]:
    """Padded ratings of the given rows.

    Args:
        ratings: The ratings of the rows' side.
        codes: Rows, each in 0..rows-1.
        num_columns: Length of a row of parameters.
        num_bytes: What a batch may take while its rows are solved for.

    Yields:
        The batches, narrow ones first.
    """
    degree = ratings.degree[codes]
    # Widths 8, 32, 128, ...: few programs to compile, and on average less than half empty.
    width_of = 8 * 4 ** np.ceil(np.log2(np.maximum(degree, 8) / 8) / 2).astype(np.int64)
    for width in np.unique(width_of):
        rows = np.flatnonzero(width_of == width)
        cells = num_columns * (min(int(width), PIECE) + 4 * num_columns)
        # The largest number of lines that needs no padding and not too much memory.
        most = _power_of_four(max(1, num_bytes // (8 * cells)) + 1) // 4
        for start in range(0, len(rows), most):
            chosen = rows[start : start + most]
            padded = ratings.pad(codes[chosen], _power_of_four(len(chosen)), int(width))
            weight = padded.filled.astype(float) if padded.weight is None else padded.weight
            yield Batch(chosen, padded.partner, padded.rating, weight)


def power_of_two(number: int) -> int:
    """The least power of two that is at least a number (and at least one)."""
    return 1 << max(0, number - 1).bit_length()


def _power_of_four(number: int) -> int:
    return 1 << 2 * ((max(0, number - 1).bit_length() + 1) // 2)
