"""Who rates what in simulated data: skewed, without repetition, and nobody left out.

Item popularity falls like a power of the item's rank and user activity is log-normal, as in real
catalogues. Each item first gets its number of ratings; then that many distinct users are drawn for
it, one after the other with probability proportional to activity. Memory is O(num_ratings): the
full user x item table is never formed.
"""

import numpy as np
from scipy.optimize import brentq

# Standard deviation of log activity; MovieLens-1M has about 1.
_ACTIVITY_SPREAD = 1.0
# Mandelbrot's offset to the rank, as a share of the items. Without it many items would be rated by
# everybody; with it, and as many users, items and ratings as MovieLens-1M, the most popular item
# has half of the users, as it does there.
_RANK_OFFSET = 0.02
# An item rated by more than this share of the users is drawn by ranking all users: rejection would
# be slow there, and the table of such items has at most 1 / share entries per rating.
_DENSE_SHARE = 0.25
_BLOCK_ENTRIES = 1 << 22


def draw_pairs(
    rng: np.random.Generator, num_users: int, num_items: int, num_ratings: int, popularity: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs in random order, with every user and every item in at least one.

    There are from max(num_users, num_items) to num_users * num_items. `popularity` is the exponent
    of the power law of item popularity; 0 makes all items alike.
    """
    degree = rng.permutation(_item_degrees(num_users, num_items, num_ratings, popularity))
    log_activity = rng.normal(scale=_ACTIVITY_SPREAD, size=num_users)
    dense = degree > _DENSE_SHARE * num_users
    parts = [
        _draw_by_ranking(rng, np.flatnonzero(dense), degree[dense], log_activity),
        _draw_by_rejection(rng, np.flatnonzero(~dense), degree[~dense], log_activity),
    ]
    user, item = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    _cover_users(rng, user, num_users)
    order = rng.permutation(num_ratings)
    return user[order], item[order]


def _item_degrees(
    num_users: int, num_items: int, num_ratings: int, popularity: float
) -> np.ndarray:
    """Ratings per item, most popular first: by the power law, between 1 and all users."""
    rank = np.arange(num_items) + 1.0 + _RANK_OFFSET * num_items
    log_weight = -popularity * np.log(rank)
    ceiling = np.log(num_users)

    def expected(log_factor: float) -> np.ndarray:
        # Clipped before exp, which would overflow for a steep law.
        return np.maximum(np.exp(np.minimum(log_factor + log_weight, ceiling)), 1.0)

    if num_ratings == num_items or num_ratings == num_users * num_items:
        return np.full(num_items, num_ratings // num_items, dtype=np.int64)
    factor = brentq(
        lambda log_factor: float(expected(log_factor).sum()) - num_ratings,
        -log_weight.max(),
        ceiling - log_weight.min(),
    )
    share = np.minimum(expected(factor), num_users)
    degree = np.floor(share).astype(np.int64)
    # The largest fractions are rounded up, as many as the total asks for.
    up = np.argsort(degree - share, kind="stable")[: num_ratings - int(degree.sum())]
    degree[up] += 1
    return degree


def _draw_by_ranking(
    rng: np.random.Generator, items: np.ndarray, degree: np.ndarray, log_activity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Users of each item in proportion to activity, by Gumbel noise (Yellott 1977)."""
    num_users = log_activity.size
    step = max(1, _BLOCK_ENTRIES // num_users)
    users = []
    for start in range(0, items.size, step):
        block = degree[start : start + step, None]
        noisy = log_activity + rng.gumbel(size=(block.shape[0], num_users))
        ranked = np.argsort(-noisy, axis=1)
        users.append(ranked[np.arange(num_users) < block])
    return np.concatenate([np.empty(0, np.int64), *users]), np.repeat(items, degree)


def _draw_by_rejection(
    rng: np.random.Generator, items: np.ndarray, degree: np.ndarray, log_activity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each item users in proportion to activity until `degree` different ones are found."""
    num_users = log_activity.size
    cumulative = np.cumsum(np.exp(log_activity))
    cumulative /= cumulative[-1]
    found = np.empty(0, np.int64)  # ascending keys: position in items * num_users + user
    missing = degree
    while missing.any():
        # Never more than are missing, so that none has to be thrown away but repetitions.
        place = np.repeat(np.arange(items.size), missing)
        user = np.searchsorted(cumulative, rng.random(place.size), side="right")
        # Sorting is several times faster here than the hash table of np.unique.
        fresh = np.sort(place * num_users + user)
        fresh = fresh[np.diff(fresh, prepend=-1) > 0]
        at = np.searchsorted(found, fresh)
        # The sentinel stands in for the entry after the last, and is no key.
        new = np.append(found, -1)[at] != fresh
        fresh = fresh[new]
        found = np.insert(found, at[new], fresh)
        missing = missing - np.bincount(fresh // num_users, minlength=items.size)
    place, user = np.divmod(found, num_users)
    return user, items[place]


def _cover_users(rng: np.random.Generator, user: np.ndarray, num_users: int) -> None:
    """Hand each user without a pair one of a user who has several, so that pairs stay distinct."""
    present, first = np.unique(user, return_index=True)
    absent = np.setdiff1d(np.arange(num_users), present, assume_unique=True)
    if absent.size == 0:
        return
    spare = np.delete(np.arange(user.size), first)
    user[rng.choice(spare, absent.size, replace=False)] = absent
