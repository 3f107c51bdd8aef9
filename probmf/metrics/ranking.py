"""Metrics of ranked lists: recall, precision, hit rate, reciprocal rank, MAP and nDCG at k.

These take the ranked items and the sparse matrix of what is relevant, look at all users at once,
and leave users without any relevant item out of the mean. Coverage of the catalogue and novelty
need no test data.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol, cast, overload

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from probmf.metrics.relevance import Sparse, checked_lists, judge


class _OfLists(Protocol):
    """A metric of lists: the mean over users, or one value for each."""

    @overload
    def __call__(
        self, ranked: ArrayLike, relevant: Sparse, k: int, *, per_user: Literal[False] = False,
        **options: bool,
    ) -> float: ...  # fmt: skip

    @overload
    def __call__(
        self, ranked: ArrayLike, relevant: Sparse, k: int, *, per_user: Literal[True],
        **options: bool,
    ) -> np.ndarray: ...  # fmt: skip


def _of_lists(metric: Callable[..., Any]) -> _OfLists:
    """The metric itself, with its two types."""
    return cast("_OfLists", metric)


def _summary(values: np.ndarray, degree: np.ndarray, per_user: bool) -> float | np.ndarray:
    """The values with NaN for users who have nothing relevant, or the mean over the others."""
    if per_user:
        return np.where(degree > 0, values, np.nan)
    if not degree.any():
        raise ValueError(
            f"relevant marks no item for any of the {degree.size} users; there is nothing to "
            "average over. Check that the test ratings were not all filtered out."
        )
    return float(values[degree > 0].mean())


@_of_lists
def recall_at_k(
    ranked: ArrayLike, relevant: Sparse, k: int, *, truncated: bool = False, per_user: bool = False
) -> float | np.ndarray:
    r"""Share of a user's relevant items that are among the first k recommended.

    With :math:`R_u` the relevant items of user u and :math:`T_u^k` the first k recommended,

    .. math:: \frac{|R_u \cap T_u^k|}{|R_u|} \quad\text{(default)}, \qquad
       \frac{|R_u \cap T_u^k|}{\min(k, |R_u|)} \quad\text{(truncated)}.

    The second reaches one whenever the list is as good as a list of k items can be; papers that
    follow Liang et al. report it under the same name. The two agree for users with at most k
    relevant items.

    Args:
        ranked: Item codes, best first, integers of shape (num_users, K) with K >= k; -1 where
            nothing is recommended, which counts as a miss.
        relevant: Sparse matrix (num_users, num_items); an item is relevant if its value is not 0.
        k: Number of places that count.
        truncated: Divide by `min(k, number relevant)`.
        per_user: Return one value per user instead of the mean.

    Returns:
        The mean over the users with at least one relevant item, a Python float; or, `per_user`,
        float64 of shape (num_users,) with NaN for the other users.

    Raises:
        TypeError: If `ranked` is not integer, `relevant` not sparse, or `k` not a whole number.
        ValueError: If shapes do not fit, a code is out of range, a row of `ranked` holds an item
            twice, a value of `relevant` is not finite, or no user has a relevant item.

    Example:
        >>> from scipy.sparse import csr_array
        >>> relevant = csr_array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 1]])
        >>> ranked = [[0, 3, 1], [0, 1, 2]]
        >>> recall_at_k(ranked, relevant, 2)
        0.16666666666666666
        >>> recall_at_k(ranked, relevant, 2, truncated=True, per_user=True)
        array([0.5, 0. ])

    Source: Liang, Krishnan, Hoffman and Jebara (2018), WWW, section 4.2, for the second form.
    """
    judged = judge(ranked, relevant, k)
    possible = np.minimum(judged.degree, judged.k) if truncated else judged.degree
    values = judged.gain.sum(axis=1) / np.maximum(possible, 1)
    return _summary(values, judged.degree, per_user)


@_of_lists
def precision_at_k(
    ranked: ArrayLike, relevant: Sparse, k: int, *, per_user: bool = False
) -> float | np.ndarray:
    r"""Share of the first k places that hold a relevant item, :math:`|R_u \cap T_u^k| / k`.

    Always divided by k, also where fewer than k items are recommended or relevant.

    Arguments, returns and errors are those of `recall_at_k`.

    Example:
        >>> from scipy.sparse import csr_array
        >>> relevant = csr_array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 1]])
        >>> precision_at_k([[0, 3, 1], [0, 4, 2]], relevant, 2)
        0.5
    """
    judged = judge(ranked, relevant, k)
    return _summary(judged.gain.sum(axis=1) / judged.k, judged.degree, per_user)


@_of_lists
def hit_rate_at_k(
    ranked: ArrayLike, relevant: Sparse, k: int, *, per_user: bool = False
) -> float | np.ndarray:
    """Share of the users with at least one relevant item among the first k recommended.

    Arguments, returns and errors are those of `recall_at_k`; values by user are 0 or 1.

    Example:
        >>> from scipy.sparse import csr_array
        >>> relevant = csr_array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 1]])
        >>> hit_rate_at_k([[0, 3, 1], [0, 1, 2]], relevant, 2)
        0.5
    """
    judged = judge(ranked, relevant, k)
    return _summary(judged.gain.any(axis=1).astype(np.float64), judged.degree, per_user)


@_of_lists
def mrr_at_k(
    ranked: ArrayLike, relevant: Sparse, k: int, *, per_user: bool = False
) -> float | np.ndarray:
    """Mean reciprocal rank: one over the place of the first relevant item, 0 if none is in k.

    Arguments, returns and errors are those of `recall_at_k`.

    Example:
        >>> from scipy.sparse import csr_array
        >>> relevant = csr_array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 1]])
        >>> mrr_at_k([[3, 0, 1], [4, 1, 2]], relevant, 3)
        0.75
    """
    judged = judge(ranked, relevant, k)
    # argmax finds the first True; where there is none it says 0, and `any` undoes that.
    reciprocal = judged.gain.any(axis=1) / (judged.gain.argmax(axis=1) + 1.0)
    return _summary(reciprocal, judged.degree, per_user)


@_of_lists
def map_at_k(
    ranked: ArrayLike, relevant: Sparse, k: int, *, per_user: bool = False
) -> float | np.ndarray:
    r"""Mean average precision: the mean precision at the places of the relevant items.

    With :math:`r_j = 1` where the item in place j is relevant and :math:`|R|` relevant items,

    .. math:: \frac{1}{\min(k, |R|)} \sum_{j=1}^k r_j\, \frac{r_1 + \dots + r_j}{j} .

    Arguments, returns and errors are those of `recall_at_k`; one is the best possible.

    Example:
        >>> from scipy.sparse import csr_array
        >>> relevant = csr_array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 1]])
        >>> map_at_k([[0, 3, 1], [1, 4, 2]], relevant, 3, per_user=True).round(4)
        array([0.5556, 0.5   ])

    Source: Manning, Raghavan and Schütze (2008), Introduction to information retrieval, section
    8.4, cut off at k.
    """
    judged = judge(ranked, relevant, k)
    found = judged.gain > 0
    precision = np.cumsum(found, axis=1) / np.arange(1.0, judged.k + 1)
    possible = np.maximum(np.minimum(judged.degree, judged.k), 1)
    return _summary((precision * found).sum(axis=1) / possible, judged.degree, per_user)


def _ideal_gain(relevant: csr_array, discount: np.ndarray, graded: bool) -> np.ndarray:
    """The largest discounted gain that a list as long as `discount` can have, per user."""
    num_users = relevant.shape[0]
    degree = np.diff(relevant.indptr)
    if not graded:
        return np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(degree, discount.size)]
    user = np.repeat(np.arange(num_users), degree)
    # Rows stay where they are and within a row the largest value comes first.
    order = np.lexsort((-relevant.data.astype(np.float64), user))
    place = np.arange(user.size) - np.repeat(relevant.indptr[:-1], degree)
    used = place < discount.size
    terms = relevant.data[order][used] * discount[place[used]]
    return np.bincount(user[used], weights=terms, minlength=num_users)


@_of_lists
def ndcg_at_k(
    ranked: ArrayLike, relevant: Sparse, k: int, *, graded: bool = False, per_user: bool = False
) -> float | np.ndarray:
    r"""Normalized discounted cumulative gain: a relevant item counts more the higher it stands.

    .. math:: \frac{\sum_{j=1}^{k} g_u(t_j) / \log_2(j + 1)}
       {\sum_{j=1}^{k} g_u(t^*_j) / \log_2(j + 1)}

    with :math:`t_j` the item in place j, :math:`t^*` the best possible list, and the gain g equal
    to 1 for a relevant item, or to its value in `relevant` if `graded` (linear: not 2^g - 1).

    Args:
        ranked: As for `recall_at_k`.
        relevant: As for `recall_at_k`; if `graded`, its values are the gains, not negative.
        k: Number of places that count.
        graded: Take the gains from the values of `relevant`.
        per_user: Return one value per user instead of the mean.

    Returns:
        As `recall_at_k`; one is the best possible.

    Raises:
        TypeError: As for `recall_at_k`.
        ValueError: As for `recall_at_k`, or if `graded` and a value of `relevant` is negative.

    Example:
        >>> from scipy.sparse import csr_array
        >>> relevant = csr_array([[5.0, 1.0, 0.0]])
        >>> ndcg_at_k([[0, 2, 1]], relevant, 3)
        0.9197207891481876
        >>> round(ndcg_at_k([[1, 0, 2]], relevant, 3, graded=True), 6)
        0.737826

    Source: Järvelin and Kekäläinen (2002), ACM TOIS 20(4), with the discount log2(place + 1).
    """
    judged = judge(ranked, relevant, k, graded=graded)
    if graded and (judged.relevant.data < 0).any():
        entry = int(np.argmax(judged.relevant.data < 0))
        row = int(np.searchsorted(judged.relevant.indptr, entry, side="right")) - 1
        raise ValueError(
            f"relevant holds {judged.relevant.data[entry]} in row {row}, column "
            f"{judged.relevant.indices[entry]}; a graded gain must not be negative. Subtract the "
            "lowest rating first, or leave graded=False."
        )
    discount = 1.0 / np.log2(np.arange(judged.k) + 2.0)
    ideal = _ideal_gain(judged.relevant, discount, graded)
    # Users without relevant items have 0 / 0 here; _summary leaves them out.
    values = (judged.gain @ discount) / np.where(ideal > 0, ideal, 1.0)
    return _summary(values, judged.degree, per_user)


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
