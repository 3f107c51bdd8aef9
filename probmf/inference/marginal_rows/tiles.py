"""Ratings in tiles of one width by row, and index lists that sum over rows without a scatter.

The rows that are integrated out are cut into tiles of `TILE` ratings, so that every batched
product has one shape, whatever the rows' lengths. What a tile gives is summed by row, and what a
rating gives is summed by its row of the other side, by gathering: lines of few entries first, then
lines of those lines, until each row has one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probmf.models.observations import Observations
from probmf.rows.store import RowRatings, Side, sort_rows

#: Ratings of a tile.
TILE = 32
#: Entries of a line of the other side's ratings.
LINE = 16
#: Entries of a line of lines.
FAN = 8

#: Index lists, one per level, (entries, lines); each level's last line is empty.
Sums = tuple[Int[Array, "entries lines"], ...]


class TileLayout(NamedTuple):
    """Ratings by row of the side that is integrated out; a pytree.

    Attributes:
        partner: Row of the other side in each slot; the row after the last in empty slots. The
            last tile is empty.
        rating: Ratings, 0 in empty slots.
        root: Roots of the weights, 0 in empty slots, or None when all weights are one.
        row: Row that each tile belongs to.
        by_row: Sums of tiles by row.
        by_partner: Sums of slots by row of the other side.
        num_ratings: Number of ratings.
        log_weight: Sum of the logarithms of the weights.
    """

    partner: Int[Array, "tiles slots"]
    rating: Float[Array, "tiles slots"]
    root: Float[Array, "tiles slots"] | None
    row: Int[Array, " tiles"]
    by_row: Sums
    by_partner: Sums
    num_ratings: Float[Array, ""]
    log_weight: Float[Array, ""]


def lay_out(observations: Observations, side: Side) -> TileLayout:
    """Lay ratings out by the rows of one side.

    Args:
        observations: The data.
        side: The side that is integrated out.

    Returns:
        The layout. O(n) time and memory.
    """
    rows = observations.by_row()[side]
    (layout,) = cut([rows], num_partners(observations, side))
    return jax.tree.map(jnp.asarray, layout)


def num_partners(observations: Observations, side: Side) -> int:
    """Number of rows of the other side."""
    return observations.num_items if side == "user" else observations.num_users


def cut(parts: Sequence[RowRatings], num_other: int) -> list[TileLayout]:
    """Cut the ratings of some parts of the rows into tiles.

    Args:
        parts: Ratings by row, of as many rows in each part.
        num_other: Number of rows of the other side.

    Returns:
        A layout of each part, in NumPy arrays, which `stack` brings to one shape. O(n) time and
        memory.
    """
    most = max(int(part.degree.max(initial=0)) for part in parts)
    counts = [np.bincount(part.partner, minlength=num_other) for part in parts]
    levels = _num_levels(-(-most // TILE), FAN), _num_levels(int(np.max(counts)), LINE)
    return [_cut(part, count, levels) for part, count in zip(parts, counts, strict=True)]


def stack(*leaves: np.ndarray) -> np.ndarray:
    """An array of each layout of `cut`, one behind the other, as long as the longest."""
    shape = np.max([leaf.shape for leaf in leaves], axis=0)
    # The last tile, and of each level the last line, is empty.
    widths = [[(0, n - m) for m, n in zip(leaf.shape, shape, strict=True)] for leaf in leaves]
    return np.stack(
        [np.pad(x, width, "edge") if width else x for x, width in zip(leaves, widths, strict=True)]
    )


def _num_levels(count: int, entries: int) -> int:
    """Levels that sum so many entries."""
    levels, lines = 1, -(-count // entries)
    while lines > 1:
        levels, lines = levels + 1, -(-lines // FAN)
    return levels


def _cut(
    rows: RowRatings, by_other: Int[np.ndarray, " other"], levels: tuple[int, int]
) -> TileLayout:
    tiles = -(-rows.degree // TILE)
    num_rows, num_other, num_tiles = len(tiles), len(by_other), int(tiles.sum())
    place = _places(rows.degree, tiles, TILE)

    def filled(values: np.ndarray, empty: float) -> np.ndarray:
        table = np.full((num_tiles + 1) * TILE, empty, values.dtype)
        table[place] = values
        return table.reshape(-1, TILE)

    there, _ = sort_rows(rows.partner, num_other)
    dtype = rows.rating.dtype
    weight = 0.0 if rows.weight is None else np.log(rows.weight, dtype=np.float64).sum()
    arrays: dict[str, Any] = {
        "partner": filled(rows.partner, num_other),
        "rating": filled(rows.rating, 0.0),
        "root": None if rows.weight is None else filled(np.sqrt(rows.weight), 0.0),
        "row": np.append(np.repeat(np.arange(num_rows), tiles), num_rows).astype(np.int32),
        "by_row": sums(np.arange(num_tiles), tiles, FAN, empty=num_tiles, least=levels[0]),
        "by_partner": sums(place[there], by_other, LINE, empty=num_tiles * TILE, least=levels[1]),
        "num_ratings": np.asarray(len(rows.rating), dtype),
        "log_weight": np.asarray(weight, dtype),
    }
    return TileLayout(**arrays)


def sums(
    entry: np.ndarray, count: np.ndarray, entries: int, *, empty: int, least: int
) -> tuple[Int[np.ndarray, "entries lines"], ...]:
    """Index lists that sum entries by row.

    Args:
        entry: Positions of the entries, row after row.
        count: Entries of each row.
        entries: Entries of a line of the first level.
        empty: Position of an entry that is zero.
        least: The least number of levels.

    Returns:
        The levels. Their last gives one line per row and an empty one.
    """
    levels = []
    while True:
        lines = np.maximum(-(-count // entries), 1)
        total = int(lines.sum())
        index = np.full((total + 1) * entries, empty, np.int32)
        index[_places(count, lines, entries)] = entry
        levels.append(np.ascontiguousarray(index.reshape(-1, entries).T))
        if np.all(lines == 1) and len(levels) >= least:
            return tuple(levels)
        entry, count, entries, empty = np.arange(total), lines, FAN, total


def sum_lines(values: Float[Array, "n f"], levels: Sums) -> Float[Array, "rows f"]:
    """Sum entries by row; the last row is empty."""
    for index in levels:
        total = values.at[index[0]].get(mode="promise_in_bounds")
        for entry in index[1:]:
            total = total + values.at[entry].get(mode="promise_in_bounds")
        values = total
    return values


def _places(count: np.ndarray, lines: np.ndarray, width: int) -> np.ndarray:
    """Slot of each entry when every row begins a line of its own."""
    begin = np.cumsum(count) - count
    first = (np.cumsum(lines) - lines) * width
    return np.arange(int(count.sum())) + np.repeat(first - begin, count)
