"""Pairs to predict: any way of giving users and items becomes two arrays of codes."""

from typing import Any

import numpy as np

from probmf.data.column import Column, objects
from probmf.data.merge import translate
from probmf.data.rating_table import RatingTable
from probmf.data.tables import check_lengths, load, read_table
from probmf.data.vocabulary import Vocabulary


def encode_pairs(
    pairs: Any, *, users: Vocabulary, items: Vocabulary, user: str = "user", item: str = "item"
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of pairs of users and items, with -1 for ids that are not known.

    Args:
        pairs: `Ratings`; a table or dict with a column for each; a tuple of two sequences, users
            and items; or a list of (user, item) tuples (or an array of shape (n, 2)).
        users: The known users.
        items: The known items.
        user: Name of the column of users, in a table.
        item: Name of the column of items, in a table.

    Returns:
        Codes of the users and of the items, int32 of shape (n,) each.

    Raises:
        TypeError: If `pairs` is none of these.
        ValueError: If there are none, an id is missing or of another kind than the known ones, or
            there are not as many users as items.

    Example:
        >>> known = {"users": Vocabulary("user", ["ann", "bob"]), "items": Vocabulary("item", [7])}
        >>> encode_pairs([("bob", 7), ("cho", 7)], **known)
        (array([ 1, -1], dtype=int32), array([0, 0], dtype=int32))
        >>> encode_pairs((["bob", "cho"], [7, 7]), **known)
        (array([ 1, -1], dtype=int32), array([0, 0], dtype=int32))
    """
    if isinstance(pairs, RatingTable):
        return (
            translate(pairs.user, pairs.users, users, "flag"),
            translate(pairs.item, pairs.items, items, "flag"),
        )
    own, other = pair_columns(pairs, user, item)
    return users.encode(own, unknown="flag"), items.encode(other, unknown="flag")


def pair_columns(pairs: Any, user: str, item: str) -> tuple[Column, Column]:
    """The column of users and that of items; see `encode_pairs`, but for `Ratings`."""
    if isinstance(pairs, tuple):
        if len(pairs) != 2 or any(isinstance(part, str | bytes | int) for part in pairs):
            raise ValueError(
                f"pairs is a tuple of {len(pairs)} values, expected two sequences of one length, "
                "users and items; put a single pair in a list, as in [('ann', 7)]."
            )
        sides = pairs
    elif isinstance(pairs, list) or (isinstance(pairs, np.ndarray) and not pairs.dtype.names):
        sides = _list_of_pairs(pairs)
    else:
        hints = {
            name: f" To use another column, name it: {side}=."
            for side, name in (("user", user), ("item", item))
        }
        columns = read_table(pairs, [user, item], "the table of pairs", hints=hints)
        sides = columns[user], columns[item]
    own, other = load(sides[0], "the column of users"), load(sides[1], "the column of items")
    check_lengths([own, other], "pairs")
    if not len(own):
        raise ValueError("There are no pairs; give at least one user and item.")
    return own, other


def _list_of_pairs(pairs: Any) -> tuple[Any, Any]:
    if isinstance(pairs, np.ndarray) and pairs.shape[1:] == (2,):
        return pairs[:, 0], pairs[:, 1]
    for row, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(
                f"Pair {row} is {pair!r}, expected a user and an item, as in ('ann', 7). For two "
                "sequences, users and items, give a tuple: (users, items)."
            )
    return objects([pair[0] for pair in pairs]), objects([pair[1] for pair in pairs])
