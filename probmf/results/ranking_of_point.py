"""The best of many items for many users under a point fit, by what is not known of both."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import ndtri

from probmf.likelihoods import Likelihood
from probmf.precision import in_precision
from probmf.results.exclusions import Exclusions
from probmf.results.plug_in import PlugIn
from probmf.results.ranking import Order, block_size, padded, pairs_left_out, top_of_lines


def top_uncertain(
    plug_in: PlugIn,
    codes: Int[np.ndarray, " lines"],
    candidates: Int[np.ndarray, " items"],
    k: int,
    exclusions: Exclusions | None,
    order: Order,
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
        order: By "lower", "upper" or "probability"; by "thompson", for which each user's row is
            drawn once, and for each user every item's; or by "mean", averaged over the prior of
            rows without ratings.

    Returns:
        Places in `candidates` and the bounds or draws of the scores, as `top_products`; for
        "probability" numbers in the order of the probabilities, for "mean" expected ratings.
    """
    rng, by_mean = order.rng, order.by == "mean"
    bound = float(ndtri(0.5 + order.interval / 2)) * (-1.0 if order.by == "lower" else 1.0)
    users = plug_in.tables["user"][codes]
    if rng is not None:
        users = plug_in.draw("user", codes, rng.standard_normal(users.shape)).astype(users.dtype)
    offset = float(plug_in.conditionals.intercept) + users[:, :1]
    of_ratings = by_mean or order.by == "probability"
    likelihood = plug_in.model.likelihood.canonical() if of_ratings else None
    own = plug_in.conditionals.draws.likelihood_scales()
    scales = in_precision({name: value[0] for name, value in own.items()})
    best = np.full((len(codes), k), -np.inf)
    places = np.full((len(codes), k), -1, dtype=np.int64)
    room = plug_in.spread_rows
    for first in range(0, len(candidates), room):
        items = candidates[first : first + room]
        own_spread = plug_in.prior_spread("item", items) if by_mean else _spread(plug_in, items)
        item_side = in_precision((plug_in.tables["item"][items], own_spread))
        step = min(room, block_size(len(codes), len(items)))
        for begin in range(0, len(codes), room):
            block = slice(begin, min(begin + room, len(codes)))
            if rng is not None:
                spread = plug_in.exact_spread("user", users[block])
            else:
                spreads = plug_in.prior_spread if by_mean else plug_in.spread
                spread = spreads("user", codes[block])
            for start in range(block.start, block.stop, step):
                part = slice(start, min(start + step, block.stop))
                length, here = part.stop - start, slice(start - begin, part.stop - begin)
                half = np.asarray(bound) if rng is None else rng.standard_normal((step, len(items)))
                value, place = _top_of_block(
                    *in_precision((padded(users[part], step), padded(spread[here], step))),
                    *item_side, in_precision(padded(offset[part], step)),
                    in_precision(half if order.at_least is None else np.asarray(order.at_least)),
                    scales, *pairs_left_out(exclusions, part, step, first, len(items)),
                    k=min(k, len(items)), likelihood=likelihood, by_mean=by_mean,
                )  # fmt: skip
                _merge(best[part], places[part], np.asarray(value)[:length],
                       np.asarray(place)[:length] + first)  # fmt: skip
    return np.where(np.isneginf(best), -1, places), best if of_ratings else best + offset


def _spread(plug_in: PlugIn, items: np.ndarray) -> np.ndarray:
    """Spreads of items, those of the whole catalogue kept."""
    num_items = plug_in.data.num_items
    if num_items > plug_in.spread_rows:
        return plug_in.spread("item", items)
    return plug_in.catalogue_spread if len(items) == num_items else plug_in.catalogue_spread[items]


@partial(jax.jit, static_argnames=("k", "likelihood", "by_mean"))
def _top_of_block(
    users: Array, user_spread: Array, items: Array, item_spread: Array, offset: Array,
    bound: Array, scales: Mapping[str, Array], line: Array, item: Array,
    *, k: int, likelihood: Likelihood | None, by_mean: bool,
) -> tuple[Array, Array]:  # fmt: skip
    """Best by mean + bound sd of the scores, or by what the likelihood has of the ratings."""
    mean = users.at[:, 0].set(1.0) @ items.T
    sd = jnp.sqrt(jnp.maximum(user_spread @ item_spread.T, 0.0))
    if likelihood is None:
        return top_of_lines(mean + bound * sd, line, item, k)
    if by_mean:
        return top_of_lines(likelihood.integrate(offset + mean, sd, scales)[0], line, item, k)
    return top_of_lines(likelihood.tail_order(offset + mean, bound, scales, sd), line, item, k)


def _merge(best: np.ndarray, places: np.ndarray, value: np.ndarray, place: np.ndarray) -> None:
    """Keep the best of what was found before and now, in place."""
    values = np.concatenate([best, value], axis=1)
    order = np.argsort(-values, axis=1, kind="stable")[:, : best.shape[1]]
    best[:] = np.take_along_axis(values, order, axis=1)
    places[:] = np.take_along_axis(np.concatenate([places, place], axis=1), order, axis=1)
