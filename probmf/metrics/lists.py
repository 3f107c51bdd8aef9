"""Metrics of ranked lists that need no test data: coverage of the catalogue and novelty."""

import numpy as np
from numpy.typing import ArrayLike

from probmf.metrics.relevance import checked_lists


def catalog_coverage(ranked: ArrayLike, num_items: int, k: int) -> float:
    """Share of all items that are among the first k of somebody's list.

    Args:
        ranked: Item codes, best first, integers of shape (num_users, K) with K >= k; -1 where
            nothing is recommended.
        num_items: Number of items.
        k: Number of places that count.

    Returns:
        A number from 0 to 1.

    Raises:
        TypeError: If `ranked` is not integer, or `k` not a whole number.
        ValueError: If `k` or a code is out of range, or a row holds an item twice.

    Example:
        >>> catalog_coverage([[0, 3], [0, 1]], num_items=5, k=2)
        0.6

    Source: Ge, Delgado-Battenfeld and Jannach (2010), Beyond accuracy, RecSys.
    """
    lists = checked_lists(ranked, num_items, k)
    return float(np.count_nonzero(np.bincount(lists[lists >= 0], minlength=num_items)) / num_items)


def novelty(ranked: ArrayLike, degree: ArrayLike, k: int) -> float:
    r"""Mean surprise at the recommended items, in bits: the rarer an item, the more.

    .. math:: -\frac{1}{n} \sum_{u} \sum_{j \le k} \log_2 \frac{d_{t_{uj}}}{\sum_i d_i}

    Args:
        ranked: As for `catalog_coverage`.
        degree: Number of training ratings of each item, shape (num_items,), as
            `ratings.item_degree`; items without any are left out.
        k: Number of places that count.

    Returns:
        Bits; NaN if nothing that was rated is recommended.

    Raises:
        TypeError: As for `catalog_coverage`.
        ValueError: As for `catalog_coverage`; if a degree is negative or not finite, or all are
            zero.

    Example:
        >>> novelty([[0, 1], [1, 2]], degree=[4, 2, 2], k=2)
        1.75

    Source: Zhou, Kuscsik, Liu, Medo, Wakeling and Zhang (2010), PNAS 107(10).
    """
    count = np.asarray(degree, np.float64)
    if count.ndim != 1 or not np.isfinite(count).all() or (count < 0).any() or not count.any():
        raise ValueError(
            f"degree has shape {count.shape} and a total of {count.sum():g}; expected one number "
            "of ratings per item, not negative, and not zero for all."
        )
    lists = checked_lists(ranked, len(count), k)
    found = count[lists[lists >= 0]]
    found = found[found > 0]
    return float(np.mean(np.log2(count.sum() / found))) if len(found) else float("nan")
