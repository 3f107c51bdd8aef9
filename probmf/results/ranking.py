"""The best of many items for many users, in blocks."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from probmf.results.candidates import Exclusions
from probmf.rows.batches import power_of_two
from probmf.rows.store import num_workers
from probmf.settings import as_here, in_precision

#: Scores of one block of users; each worker has two such blocks in memory.
BLOCK_SCORES = 1 << 20
#: Neighbouring items whose best score stands for all of them while the best groups are sought.
GROUP = 16

RankBy = Literal["mean", "lower", "upper", "thompson", "probability"]


class Order(NamedTuple):
    """Order of a ranking.

    Attributes:
        by: See `RatingsFit.recommend`.
        interval: Probability of the interval whose end "lower" and "upper" are.
        rng: Draws for "thompson".
        at_least: The least rating that counts, for "probability".
    """

    by: RankBy
    interval: float = 0.9
    rng: np.random.Generator | None = None
    at_least: float | None = None


def top_products(
    lines: Float[np.ndarray, "lines d"],
    items: Float[np.ndarray, "items d"],
    k: int,
    exclusions: Exclusions | None,
) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"]]:
    """Items with the largest products for each line, excluded ones left out.

    Works through blocks of lines, one per core at a time: memory O(block x items), never
    O(lines x items).

    Args:
        lines: A vector for each user.
        items: A vector for each item.
        k: How many.
        exclusions: Pairs to leave out.

    Returns:
        Places of the items (-1 where none is left) and products (-inf there), best first; of
        equal products the first item's.
    """
    size = block_size(len(lines), len(items))
    starts = range(0, len(lines), size)
    most = 1
    if exclusions is not None:
        most = int(np.add.reduceat(exclusions.counts, np.arange(0, len(lines), size)).max())
    width = power_of_two(most)
    # By column and padded, so that the product is one dense block of whole groups.
    columns = in_precision(np.pad(items, ((0, -len(items) % GROUP), (0, 0))).T)
    places = np.empty((len(lines), k), dtype=np.int64)
    products = np.empty((len(lines), k))

    def work(start: int) -> None:
        stop = min(start + size, len(lines))
        block = padded(lines[start:stop], size)
        excluded = pairs_left_out(exclusions, slice(start, stop), size, 0, len(items), width)
        value, place = _top_of_block(
            in_precision(block), columns, *excluded, num_items=len(items), k=k
        )
        places[start:stop] = np.asarray(place)[: stop - start]
        products[start:stop] = np.asarray(value)[: stop - start]

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
) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"]]:
    """The k best items of each line, excluded ones left out, by blocks of lines.

    Args:
        score: Gives the scores of all items for a slice of the lines.
        num_lines: Number of lines.
        num_items: Number of items.
        k: How many.
        exclusions: Pairs to leave out.

    Returns:
        Places (-1 where none is left) and scores, best first; of equal ones the first item's.
    """
    size = block_size(num_lines, num_items)
    places, values = np.empty((num_lines, k), np.int64), np.empty((num_lines, k))
    for start in range(0, num_lines, size):
        lines = slice(start, min(start + size, num_lines))
        excluded = pairs_left_out(exclusions, lines, size, 0, num_items)
        value, place = _top_of_scores(in_precision(padded(score(lines), size)), *excluded, k=k)
        values[lines] = np.asarray(value)[: lines.stop - start]
        places[lines] = np.asarray(place)[: lines.stop - start]
    return np.where(np.isneginf(values), -1, places), values


def block_size(num_lines: int, num_items: int) -> int:
    """Lines of a block whose scores of all items are ranked at once."""
    return min(power_of_two(num_lines), max(8, BLOCK_SCORES // power_of_two(num_items)))


def padded(rows: np.ndarray, length: int) -> np.ndarray:
    """Rows of zeros added until there are that many."""
    return np.pad(rows, ((0, length - len(rows)), (0, 0)))


def pairs_left_out(
    exclusions: Exclusions | None, lines: slice, size: int, first: int, num_items: int,
    width: int = 1,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(line, item) of the pairs to leave out of a block, padded; line `size` is out of range."""
    pairs = [np.zeros(0, dtype=np.int64)] * 2
    if exclusions is not None:
        line, item = exclusions.block(lines.start, lines.stop)
        inside = (item >= first) & (item < first + num_items)
        pairs = [line[inside], item[inside] - first]
    width = max(width, power_of_two(len(pairs[0])))
    line, item = np.full(width, size, np.int32), np.zeros(width, np.int32)
    line[: len(pairs[0])], item[: len(pairs[1])] = pairs
    return line, item


@partial(jax.jit, static_argnames=("num_items", "k"))
def _top_of_block(
    lines: Array, columns: Array, line: Array, item: Array, *, num_items: int, k: int
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
