"""Ratings in tiles of one width by row, and index lists that sum over rows without a scatter.

The rows that are integrated out are cut into tiles of `TILE` ratings, so that every batched
product has one shape, whatever the rows' lengths. What a tile gives is summed by row, and what a
rating gives is summed by its row of the other side, by gathering: lines of few entries first, then
lines of those lines, until each row has one.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probmf.models.observations import Observations
from probmf.rows.store import Side, sort_rows

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
    codes = {"user": np.asarray(observations.user), "item": np.asarray(observations.item)}
    other: Side = "item" if side == "user" else "user"
    store = observations.by_row()
    rows, partners = store[side], store[other]
    tiles = -(-rows.degree // TILE)
    num_rows, num_tiles = len(tiles), int(tiles.sum())
    place = _places(rows.degree, tiles, TILE)

    def filled(values: np.ndarray, empty: float) -> Array:
        table = np.full((num_tiles + 1) * TILE, empty, values.dtype)
        table[place] = values
        return jnp.asarray(table.reshape(-1, TILE))

    order, _ = sort_rows(codes[side], num_rows)
    slot = np.empty(len(order), np.int64)
    slot[order] = place
    there, _ = sort_rows(codes[other], len(partners.degree))
    dtype = rows.rating.dtype
    return TileLayout(
        partner=filled(rows.partner, len(partners.degree)),
        rating=filled(rows.rating, 0.0),
        root=None if rows.weight is None else filled(np.sqrt(rows.weight), 0.0),
        row=jnp.asarray(np.append(np.repeat(np.arange(num_rows), tiles), num_rows), jnp.int32),
        by_row=sums(np.arange(num_tiles), tiles, FAN, empty=num_tiles),
        by_partner=sums(slot[there], partners.degree, LINE, empty=num_tiles * TILE),
        num_ratings=jnp.asarray(store.num_ratings, dtype),
        log_weight=jnp.asarray(
            0.0 if rows.weight is None else np.log(rows.weight, dtype=np.float64).sum(), dtype
        ),
    )


def sums(entry: np.ndarray, count: np.ndarray, entries: int, *, empty: int) -> Sums:
    """Index lists that sum entries by row.

    Args:
        entry: Positions of the entries, row after row.
        count: Entries of each row.
        entries: Entries of a line of the first level.
        empty: Position of an entry that is zero.

    Returns:
        The levels. Their last gives one line per row and an empty one.
    """
    levels = []
    while True:
        lines = np.maximum(-(-count // entries), 1)
        total = int(lines.sum())
        index = np.full((total + 1) * entries, empty, np.int32)
        index[_places(count, lines, entries)] = entry
        levels.append(jnp.asarray(np.ascontiguousarray(index.reshape(-1, entries).T)))
        if np.all(lines == 1):
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
