"""The best of many items for many users, in blocks."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from scipy.special import ndtri

from probmf.likelihoods import Likelihood
from probmf.results.exclusions import Exclusions
from probmf.results.plug_in import PlugIn
from probmf.results.row_problem import to_device
from probmf.results.side_ratings import power_of_two
from probmf.rows.layout import num_workers
from probmf.settings import as_here

RankBy = Literal["mean", "lower", "upper", "thompson", "probability"]

#: Scores of one block of users; each worker has two such blocks in memory.
BLOCK_SCORES = 1 << 20
#: Neighbouring items whose best score stands for all of them while the best groups are sought.
GROUP = 16


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
    size = _block_size(len(lines), len(items))
    starts = range(0, len(lines), size)
    most = 1
    if exclusions is not None:
        most = int(np.add.reduceat(exclusions.counts, np.arange(0, len(lines), size)).max())
    width = power_of_two(most)
    # By column and padded, so that the product is one dense block of whole groups.
    columns = to_device(np.pad(items, ((0, -len(items) % GROUP), (0, 0))).T)
    places = np.empty((len(lines), k), dtype=np.int64)
    products = np.empty((len(lines), k))

    def work(start: int) -> None:
        stop = min(start + size, len(lines))
        block = _padded(lines[start:stop], size)
        excluded = _excluded(exclusions, slice(start, stop), size, 0, len(items), width)
        value, place = _top_of_block(
            to_device(block), columns, *excluded, num_items=len(items), k=k
        )
        places[start:stop] = np.asarray(place)[: stop - start]
        products[start:stop] = np.asarray(value)[: stop - start]

    with ThreadPoolExecutor(num_workers()) as pool:
        list(pool.map(as_here(work), starts))
    return np.where(np.isneginf(products), -1, places), products


def top_uncertain(
    plug_in: PlugIn,
    codes: Int[np.ndarray, " lines"],
    candidates: Int[np.ndarray, " items"],
    k: int,
    exclusions: Exclusions | None,
    *,
    rank_by: RankBy,
    interval: float,
    rng: np.random.Generator | None = None,
    at_least: float | None = None,
) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"]]:
    """Items ranked by a bound, a joint draw of the scores, or what is expected of the ratings.

    Blocks of items are the outer loop: each item's covariance is computed once, and each user's
    once per block of items. Costs O(lines x items x d^2) time; the blocks bound the memory.

    Args:
        plug_in: The scores.
        codes: User codes; -1 is a new user.
        candidates: Item codes.
        k: How many.
        exclusions: Pairs to leave out, their items as places in `candidates`.
        rank_by: "lower", "upper", "thompson", "probability", or "mean", averaged over the prior of
            rows without ratings.
        interval: Probability of the central interval whose end is ranked by.
        rng: Draws for "thompson": one of each user's row, and for each user one of every item's.
        at_least: The least rating that counts, for "probability".

    Returns:
        Places in `candidates` and the bounds or draws of the scores, as `top_products`; for
        "probability" numbers in the order of the probabilities, for "mean" expected ratings.
    """
    bound = float(ndtri(0.5 + interval / 2)) * (-1.0 if rank_by == "lower" else 1.0)
    users = plug_in.tables["user"][codes]
    if rng is not None:
        users = plug_in.draw("user", codes, rng.standard_normal(users.shape)).astype(users.dtype)
    offset = float(plug_in.conditionals.parameters["intercept"]) + users[:, :1]
    likelihood = plug_in.conditionals.model.likelihood.canonical()
    scales = {name: to_device(value) for name, value in plug_in.likelihood_scales().items()}
    best = np.full((len(codes), k), -np.inf)
    places = np.full((len(codes), k), -1, dtype=np.int64)
    room = plug_in.spread_rows
    spreads = plug_in.prior_spread if rank_by == "mean" else plug_in.spread
    of_ratings = rank_by in ("mean", "probability")
    threshold = np.asarray(at_least) if rank_by == "probability" else None
    for first in range(0, len(candidates), room):
        items = candidates[first : first + room]
        own_spread = spreads("item", items) if rank_by == "mean" else _item_spread(plug_in, items)
        item_side = [to_device(plug_in.tables["item"][items]), to_device(own_spread)]
        step = min(room, _block_size(len(codes), len(items)))
        for begin in range(0, len(codes), room):
            block = slice(begin, min(begin + room, len(codes)))
            spread = (
                plug_in.exact_spread("user", users[block])
                if rng is not None
                else spreads("user", codes[block])
            )
            for start in range(block.start, block.stop, step):
                part = slice(start, min(start + step, block.stop))
                length, here = part.stop - start, slice(start - begin, part.stop - begin)
                user_side = _padded(users[part], step), _padded(spread[here], step)
                half = np.asarray(bound)
                if rng is not None:
                    half = rng.standard_normal((step, len(items)))
                excluded = _excluded(exclusions, part, step, first, len(items))
                if of_ratings:
                    level = _padded(offset[part], step)
                    value, place = _top_ratings(
                        *map(to_device, (*user_side, *item_side, level)), threshold, scales,
                        *excluded, k=min(k, len(items)), likelihood=likelihood,
                    )  # fmt: skip
                else:
                    value, place = _top_uncertain(
                        *map(to_device, (*user_side, *item_side, half)), *excluded,
                        k=min(k, len(items)),
                    )  # fmt: skip
                _merge(best[part], places[part], np.asarray(value)[:length],
                       np.asarray(place)[:length] + first)  # fmt: skip
    return np.where(np.isneginf(best), -1, places), best if of_ratings else best + offset


def top_scores(
    scores: Float[np.ndarray, "lines items"],
    k: int,
    exclusions: Exclusions | None,
    lines: slice,
    size: int,
) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"]]:
    """The k best items of each line of a block, excluded ones left out.

    Args:
        scores: Scores of the lines in the block.
        k: How many.
        exclusions: Pairs to leave out.
        lines: Which of all lines these are.
        size: Lines that a block has, at least as many as there are.

    Returns:
        Places (-1 where none is left) and scores, best first; of equal ones the first item's.
    """
    excluded = _excluded(exclusions, lines, size, 0, scores.shape[1])
    value, place = _top_of_scores(to_device(_padded(scores, size)), *excluded, k=k)
    values, places = np.asarray(value)[: len(scores)], np.asarray(place)[: len(scores)]
    return np.where(np.isneginf(values), -1, places), values


def _item_spread(plug_in: PlugIn, items: np.ndarray) -> np.ndarray:
    num_items = len(plug_in.conditionals.rows["item"])
    if num_items > plug_in.spread_rows:
        return plug_in.spread("item", items)
    return plug_in.catalogue_spread if len(items) == num_items else plug_in.catalogue_spread[items]


def _block_size(num_lines: int, num_items: int) -> int:
    return min(power_of_two(num_lines), max(8, BLOCK_SCORES // power_of_two(num_items)))


def _padded(rows: np.ndarray, length: int) -> np.ndarray:
    return np.pad(rows, ((0, length - len(rows)), (0, 0)))


def _excluded(
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
        return _top(scores, line, item, k)
    scores = lax.optimization_barrier(scores.at[line, item].set(-jnp.inf, mode="drop"))
    grouped = scores.reshape(len(lines), -1, GROUP)
    _, groups = lax.top_k(lax.optimization_barrier(grouped.max(axis=2)), k)
    # In the items' order, so that of equal scores the first item's comes first.
    groups = jnp.sort(groups, axis=1)
    inside = jnp.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(len(lines), -1)
    value, place = lax.top_k(lax.optimization_barrier(inside), k)
    return value, jnp.take_along_axis(groups, place // GROUP, axis=1) * GROUP + place % GROUP


@partial(jax.jit, static_argnames="k")
def _top_uncertain(
    users: Array, user_spread: Array, items: Array, item_spread: Array, half: Array,
    line: Array, item: Array, *, k: int,
) -> tuple[Array, Array]:  # fmt: skip
    mean = users.at[:, 0].set(1.0) @ items.T
    variance = jnp.maximum(user_spread @ item_spread.T, 0.0)
    return _top(mean + half * jnp.sqrt(variance), line, item, k)


@partial(jax.jit, static_argnames=("k", "likelihood"))
def _top_ratings(
    users: Array, user_spread: Array, items: Array, item_spread: Array, offset: Array,
    at_least: Array | None, scales: Mapping[str, Array], line: Array, item: Array,
    *, k: int, likelihood: Likelihood,
) -> tuple[Array, Array]:  # fmt: skip
    mean = offset + users.at[:, 0].set(1.0) @ items.T
    sd = jnp.sqrt(jnp.maximum(user_spread @ item_spread.T, 0.0))
    if at_least is None:
        return _top(likelihood.integrate(mean, sd, scales)[0], line, item, k)
    return _top(likelihood.tail_order(mean, at_least, scales, sd), line, item, k)


def _top(scores: Array, line: Array, item: Array, k: int) -> tuple[Array, Array]:
    return lax.top_k(scores.at[line, item].set(-jnp.inf, mode="drop"), k)


_top_of_scores = partial(jax.jit, static_argnames="k")(_top)


def _merge(best: np.ndarray, places: np.ndarray, value: np.ndarray, place: np.ndarray) -> None:
    """Keep the best of what was found before and now, in place."""
    values = np.concatenate([best, value], axis=1)
    order = np.argsort(-values, axis=1, kind="stable")[:, : best.shape[1]]
    best[:] = np.take_along_axis(values, order, axis=1)
    places[:] = np.take_along_axis(np.concatenate([places, place], axis=1), order, axis=1)
