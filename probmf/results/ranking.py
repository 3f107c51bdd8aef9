"""The best of many items for many users, in blocks."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from probmf.data import Ratings
from probmf.rows.batches import power_of_two
from probmf.rows.placement import LineDevices
from probmf.rows.store import num_workers, sort_rows
from probmf.settings import as_here

#: Scores of one block of users on a device; each worker has two such blocks in memory.
BLOCK_SCORES = 1 << 20
#: Neighbouring items whose best score stands for all of them while the best groups are sought.
GROUP = 16

#: No devices but JAX's default one.
ONE = LineDevices()

RankBy = Literal["mean", "lower", "upper", "thompson", "probability"]


class Order(NamedTuple):
    """Order of a ranking; see `RatingsFit.recommend`. `rng` is for "thompson"."""

    by: RankBy
    interval: float = 0.9
    rng: np.random.Generator | None = None
    at_least: float | None = None


@dataclass(frozen=True, eq=False)
class Exclusions:
    """Items to leave out, by group, which each line has one of; -1 for none."""

    begin: Int[np.ndarray, " groups1"]
    item: Int[np.ndarray, " n"]
    group: Int[np.ndarray, " lines"]

    @classmethod
    def from_pairs(
        cls, group: Int[np.ndarray, " n"], item: Int[np.ndarray, " n"], num_groups: int
    ) -> "Exclusions":
        """Collect pairs by group; line i is group i unless `for_lines` says otherwise."""
        order, begin = sort_rows(group, num_groups)
        return cls(begin, item[order], np.arange(num_groups))

    @classmethod
    def of_ratings(cls, data: Ratings) -> "Exclusions":
        """The items that each user has rated; those of sorted ratings are not copied."""
        order, begin = data.by_user
        return cls(
            begin, data.item if order is None else data.item[order], np.arange(data.num_users)
        )

    def for_lines(self, group: Int[np.ndarray, " lines"]) -> "Exclusions":
        """The same pairs for other lines."""
        return Exclusions(self.begin, self.item, group)

    def among(self, items: Int[np.ndarray, " some"], num_items: int) -> "Exclusions":
        """The pairs of some items, these called by their places in the list."""
        place = np.full(num_items, -1)
        place[items] = np.arange(len(items))
        inside = place[self.item] >= 0
        begin = np.concatenate([[0], np.cumsum(inside)])[self.begin]
        return Exclusions(begin, place[self.item][inside], self.group)

    @cached_property
    def counts(self) -> Int[np.ndarray, " lines"]:
        """Number of items that each line leaves out."""
        return np.where(self.group < 0, 0, self.begin[self.group + 1] - self.begin[self.group])

    def block(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(line - start, item) of the pairs of lines start..stop-1."""
        count, begin = self.counts[start:stop], self.begin[self.group[start:stop]]
        line = np.repeat(np.arange(stop - start), count)
        first = np.repeat(begin - np.cumsum(count) + count, count)
        return line, self.item[first + np.arange(len(line))]


def top_products(
    lines: Float[np.ndarray, "lines d"],
    items: Float[np.ndarray, "items d"],
    k: int,
    exclusions: Exclusions | None,
    devices: LineDevices = ONE,
) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"]]:
    """Items with the largest products for each line, excluded ones left out.

    Works through blocks of lines, one per core at a time: memory O(block x items), never
    O(lines x items).

    Gives places of the items (-1 where none is left) and products (-inf there), best first; of
    equal products the first item's.
    """
    size, parts = block_size(len(lines), len(items), devices), devices.count
    starts = range(0, len(lines), size * parts)
    most = 1
    if exclusions is not None:
        most = int(np.add.reduceat(exclusions.counts, np.arange(0, len(lines), size)).max())
    width = power_of_two(most)
    # By column and padded, so that the product is one dense block of whole groups.
    columns = devices.replicate(np.pad(items, ((0, -len(items) % GROUP), (0, 0))).T)
    places = np.empty((len(lines), k), dtype=np.int64)
    products = np.empty((len(lines), k))

    def work(start: int) -> None:
        stop = min(start + size * parts, len(lines))
        block = in_parts(lines[start:stop], size, parts)
        excluded = pairs_left_out(exclusions, slice(start, stop), size, parts, width=width)
        value, place = devices.map(
            _top_of_block, (block, *excluded), (columns,), num_items=len(items), k=k
        )
        places[start:stop], products[start:stop] = place[: stop - start], value[: stop - start]

    with ThreadPoolExecutor(num_workers()) as pool:
        list(pool.map(as_here(work), starts))
    return np.where(np.isneginf(products), -1, places), products


def unit_rows(factors: Float[np.ndarray, "... rows k"]) -> Float[np.ndarray, "... rows k"]:
    """Rows at length one; rows of zeros stay."""
    length = np.linalg.norm(factors, axis=-1, keepdims=True)
    return np.divide(factors, length, out=np.zeros_like(factors), where=length > 0)


def top_scores(
    score: Callable[[slice], Float[np.ndarray, "part items"]],
    num_lines: int,
    num_items: int,
    k: int,
    exclusions: Exclusions | None,
    devices: LineDevices = ONE,
) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"]]:
    """The k best items by `score` of each line, excluded ones left out, by blocks of lines."""
    size, parts = block_size(num_lines, num_items, devices), devices.count
    places, values = np.empty((num_lines, k), np.int64), np.empty((num_lines, k))
    for start in range(0, num_lines, size * parts):
        lines = slice(start, min(start + size * parts, num_lines))
        block = in_parts(score(lines), size, parts)
        excluded = pairs_left_out(exclusions, lines, size, parts)
        value, place = devices.map(_top_of_scores, (block, *excluded), (), k=k)
        values[lines], places[lines] = value[: lines.stop - start], place[: lines.stop - start]
    return np.where(np.isneginf(values), -1, places), values


def block_size(num_lines: int, num_items: int, devices: LineDevices) -> int:
    """Lines of a block, on each device, whose scores of all items are ranked at once."""
    most = max(8, BLOCK_SCORES // power_of_two(num_items))
    return min(power_of_two(-(-num_lines // devices.count)), most)


def in_parts(rows: np.ndarray, size: int, parts: int) -> np.ndarray:
    """Rows in parts of that size, with rows of zeros at the end."""
    padded = np.pad(rows, ((0, size * parts - len(rows)), (0, 0)))
    return padded.reshape(parts, size, -1)


def pairs_left_out(
    exclusions: Exclusions | None, lines: slice, size: int, parts: int, *,
    among: slice | None = None, width: int = 1,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(line, item) of the pairs to leave out of a block, by its parts.

    A part has `size` lines; `size` itself is out of range, and fills up. `among` leaves only these
    items, counted from the first of them; `width` is the least number of places of a part. Two
    arrays, (parts, places).
    """
    line = item = np.zeros(0, dtype=np.int64)
    if exclusions is not None:
        line, item = exclusions.block(lines.start, lines.stop)
        if among is not None:
            inside = (item >= among.start) & (item < among.stop)
            line, item = line[inside], item[inside] - among.start
    # The lines are in order.
    begin = np.searchsorted(line, size * np.arange(parts + 1))
    width = max(width, power_of_two(int(np.diff(begin).max())))
    places, items = np.full((parts, width), size, np.int32), np.zeros((parts, width), np.int32)
    for part in range(parts):
        own, count = slice(begin[part], begin[part + 1]), begin[part + 1] - begin[part]
        places[part, :count], items[part, :count] = line[own] - part * size, item[own]
    return places, items


@partial(jax.jit, static_argnames=("num_items", "k"))
def _top_of_block(
    lines: Array, line: Array, item: Array, columns: Array, *, num_items: int, k: int
) -> tuple[Array, Array]:
    """Best of `lines @ columns`: first the groups with the best maxima, then the items in them.

    The k best items lie in the k groups whose maxima are largest. On a CPU a maximum over a group
    costs far less than its share of `top_k` over all items. The barriers keep XLA from computing
    the product again for every use of it.
    """
    scores = (lines @ columns).at[:, num_items:].set(-jnp.inf)
    if num_items < 4 * k * GROUP:
        return top_of_lines(scores, line, item, k)
    scores = lax.optimization_barrier(scores.at[line, item].set(-jnp.inf, mode="drop"))
    grouped = scores.reshape(len(lines), -1, GROUP)
    _, groups = lax.top_k(lax.optimization_barrier(grouped.max(axis=2)), k)
    # In the items' order, so that of equal scores the first item's comes first.
    groups = jnp.sort(groups, axis=1)
    inside = jnp.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(len(lines), -1)
    value, place = lax.top_k(lax.optimization_barrier(inside), k)
    return value, jnp.take_along_axis(groups, place // GROUP, axis=1) * GROUP + place % GROUP


def top_of_lines(scores: Array, line: Array, item: Array, k: int) -> tuple[Array, Array]:
    """Values and places of the k best of each line without the pairs (line, item)."""
    return lax.top_k(scores.at[line, item].set(-jnp.inf, mode="drop"), k)


_top_of_scores = partial(jax.jit, static_argnames="k")(top_of_lines)
