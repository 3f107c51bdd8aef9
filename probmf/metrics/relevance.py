"""The relevance of the items in ranked lists, for all users at once.

A list is a row of item codes, best first; what a user likes is a row of a sparse matrix. The two
meet by a binary search for `user * num_items + item` among the keys of the sparse matrix, a block
of users at a time: time O(U K log(nnz)), memory O(U k + nnz), and never a dense U x N matrix.
"""

import operator
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array, issparse, sparray, spmatrix

type Sparse = sparray | spmatrix

# Entries of `ranked` looked at together: large enough for numpy, small enough for the cache.
_BLOCK_ENTRIES = 1 << 20


class Judged(NamedTuple):
    """The ranked lists with every item replaced by its relevance."""

    gain: np.ndarray  # (num_users, k): relevance of the item in each place, zero for a miss
    relevant: csr_array  # (num_users, num_items): canonical, no stored zeros
    degree: np.ndarray  # (num_users,): number of relevant items
    k: int


def _checked_k(k: int, num_places: int) -> int:
    """`k` as an int between 1 and the number of places in a list."""
    try:
        places = operator.index(k)
    except TypeError:
        places = None
    if places is None or isinstance(k, bool):
        raise TypeError(f"k is {k!r} of type {type(k).__name__}; give a positive whole number.")
    if not 1 <= places <= num_places:
        raise ValueError(
            f"k is {places}, but ranked has {num_places} places per user; give a k between 1 and "
            f"{num_places}, or recommend more items."
        )
    return places


def _checked_ranked(ranked: ArrayLike) -> np.ndarray:
    """`ranked` as a two-dimensional, non-empty array of integers."""
    array = np.asarray(ranked)
    if array.ndim != 2:
        raise ValueError(
            f"ranked has shape {array.shape}, expected (num_users, places); "
            "for a single user pass a list with one row."
        )
    if array.size == 0:
        raise ValueError(
            f"ranked has shape {array.shape} and so is empty; at least one user and one place are "
            "needed."
        )
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"ranked has dtype {array.dtype}; give integer item codes "
            "(Vocabulary.encode makes codes of ids), with -1 where nothing is recommended."
        )
    return array


def _checked_relevant(relevant: Sparse, num_users: int) -> csr_array:
    """`relevant` as a canonical CSR copy without stored zeros."""
    if not issparse(relevant) or len(relevant.shape) != 2:
        raise TypeError(
            f"relevant is a {type(relevant).__name__}; give a two-dimensional scipy.sparse matrix "
            "of shape (num_users, num_items), for example scipy.sparse.csr_array(dense)."
        )
    if relevant.shape[0] != num_users:
        raise ValueError(
            f"relevant has {relevant.shape[0]} rows and ranked has {num_users}; "
            "row i of both must be the same user."
        )
    matrix = csr_array(relevant, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    bad = ~np.isfinite(matrix.data)
    if bad.any():
        entry = int(np.argmax(bad))
        row = int(np.searchsorted(matrix.indptr, entry, side="right")) - 1
        raise ValueError(
            f"relevant holds {matrix.data[entry]} in row {row}, column {matrix.indices[entry]}; "
            "every value must be finite."
        )
    return matrix


def _blocks(ranked: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive blocks of rows with the number of their first row."""
    step = max(1, _BLOCK_ENTRIES // ranked.shape[1])
    for start in range(0, ranked.shape[0], step):
        yield start, ranked[start : start + step]


def _check_items(block: np.ndarray, start: int, num_items: int) -> None:
    """Refuse item codes that do not exist and items recommended twice to one user."""
    outside = (block >= num_items) | (block < -1)
    if outside.any():
        row, place = np.unravel_index(int(np.argmax(outside)), block.shape)
        raise ValueError(
            f"ranked[{start + int(row)}, {place}] is {block[row, place]}, but relevant has "
            f"{num_items} items; codes go from 0 to {num_items - 1}, and -1 means that nothing is "
            "recommended in that place."
        )
    ordered = np.sort(block, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != -1)
    if twice.any():
        row, place = np.unravel_index(int(np.argmax(twice)), twice.shape)
        raise ValueError(
            f"ranked row {start + int(row)} holds item {ordered[row, place]} more than once; "
            "an item may be recommended to a user only once."
        )


def checked_lists(ranked: ArrayLike, num_items: int, k: int) -> np.ndarray:
    """The first `k` items of each list, (num_users, K) with K >= k, checked; -1 for no item."""
    lists = _checked_ranked(ranked)
    for start, block in _blocks(lists):
        _check_items(block, start, num_items)
    return lists[:, : _checked_k(k, lists.shape[1])]


def judge(ranked: ArrayLike, relevant: Sparse, k: int, *, graded: bool = False) -> Judged:
    """Check everything, then look up the relevance of the first `k` items of each list."""
    lists = _checked_ranked(ranked)
    places = _checked_k(k, lists.shape[1])
    matrix = _checked_relevant(relevant, lists.shape[0])
    num_items = matrix.shape[1]
    gain: np.ndarray = np.zeros((lists.shape[0], places), dtype=np.float64 if graded else np.bool_)
    for start, block in _blocks(lists):
        _check_items(block, start, num_items)
        rows = np.arange(block.shape[0], dtype=np.int64)
        first, last = matrix.indptr[start], matrix.indptr[start + block.shape[0]]
        if first == last:
            continue
        degree = np.diff(matrix.indptr[start : start + block.shape[0] + 1])
        # Ascending, because the matrix is canonical.
        keys = np.repeat(rows, degree) * num_items + matrix.indices[first:last]
        top = block[:, :places].astype(np.int64)
        wanted = rows[:, None] * num_items + top
        at = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
        # Without `top >= 0` a -1 would be the last item of the user before.
        hit = (keys[at] == wanted) & (top >= 0)
        gain[start : start + block.shape[0]] = (
            np.where(hit, matrix.data[first:last][at], 0.0) if graded else hit
        )
    return Judged(gain, matrix, np.diff(matrix.indptr), places)
