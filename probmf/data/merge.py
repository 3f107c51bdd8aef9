"""Ratings in other vocabularies: recoded, or appended with new users."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from probmf.data.column import Column, objects
from probmf.data.rating_fields import Duplicates, resolve_duplicates
from probmf.data.rating_table import RatingColumns, RatingTable
from probmf.data.side_tables import extend_features, read_side_table, realign_features
from probmf.data.tables import check_lengths, load, read_table
from probmf.data.vocabulary import Vocabulary


def translate(
    codes: np.ndarray, old: Vocabulary, new: Vocabulary, unknown: Literal["raise", "flag"]
) -> np.ndarray:
    """Codes of one vocabulary as codes of another; an unknown id raises, or is flagged as -1."""
    if old == new:
        return codes
    translated = new.encode(old.ids, unknown="flag", what=f"the list of {old.name} ids")[codes]
    if unknown == "raise" and (translated < 0).any():
        # Encoded once more, row by row, for the message.
        new.encode(old.ids[codes], what=f"the column of {old.name}s")
    return translated


def recode[Table: RatingTable](
    table: Table, users: Vocabulary, items: Vocabulary, unknown: Literal["raise", "drop"]
) -> Table:
    """A table in other vocabularies; see `Ratings.recode`."""
    if unknown not in ("raise", "drop"):
        raise ValueError(f"unknown is {unknown!r}; expected 'raise' or 'drop'.")
    how: Literal["raise", "flag"] = "raise" if unknown == "raise" else "flag"
    user = translate(table.user, table.users, users, how)
    item = translate(table.item, table.items, items, how)
    known = (user >= 0) & (item >= 0)
    if not known.any():
        raise ValueError(
            f"None of the {len(known):,} ratings is of a known user and a known item, so nothing "
            "would be left."
        )
    features = {
        f"{new.name}_features": realign_features(own, old.encode(new.ids, unknown="flag"), new)
        for own, old, new in (
            (table.user_features, table.users, users), (table.item_features, table.items, items),
        )
        if own is not None and old != new
    }  # fmt: skip
    rows = RatingColumns.of(table)._replace(user=user, item=item).take(np.flatnonzero(known))
    return replace(table, **rows._asdict(), users=users, items=items, **features)


def append[Table: RatingTable](table: Table, other: RatingTable, duplicates: Duplicates) -> Table:
    """A table with another's rows below; see `Ratings.append`."""
    old, new = table.users, other.users
    place = old.encode(new.ids, unknown="flag", what="the list of appended user ids")
    # Users without a rating are no news.
    added = np.flatnonzero((place < 0) & (other.user_degree > 0))
    users, features = _grown(old, new, added, table.user_features, other.user_features)
    item = translate(other.item, other.items, table.items, "raise")
    user = translate(other.user, new, users, "raise")
    rows = _below(RatingColumns.of(table), RatingColumns.of(other)._replace(user=user, item=item))
    rows = resolve_duplicates(rows, users, table.items, duplicates)
    return replace(table, **rows._asdict(), users=users, user_features=features)


def extend[Table: RatingTable](table: Table, side: Literal["user", "item"], frame: Any) -> Table:
    """A table that also has the users or items of a side table; see `Ratings.extend`."""
    old, features = getattr(table, f"{side}s"), getattr(table, f"{side}_features")
    new, other = read_side_table(frame, side, features.column_names[0] if features else old.column)
    place = old.encode(new.ids, unknown="flag", what=f"the ids of {side}_features")
    grown, features = _grown(old, new, np.flatnonzero(place < 0), features, other)
    return replace(table, **{f"{side}s": grown, f"{side}_features": features})


def _grown(
    old: Vocabulary, new: Vocabulary, added: np.ndarray, features: Any, other: Any
) -> tuple[Vocabulary, Any]:
    """A vocabulary and its side table with the ids added that have these codes in another one."""
    if not len(added):
        return old, features
    parts = [old.ids, new.ids[added]]
    if old.ids.dtype.kind != new.ids.dtype.kind:  # As int64 and uint64, which NumPy would round.
        parts = [own.astype(object) for own in parts]
    users = Vocabulary(old.name, np.concatenate(parts), old.column)
    return users, None if features is None else extend_features(features, users, added, other)


def _below(above: RatingColumns, below: RatingColumns) -> RatingColumns:
    def ones(part: RatingColumns) -> np.ndarray:
        return np.ones(len(part.user)) if part.weight is None else part.weight

    weighted = above.weight is not None or below.weight is not None
    time = None
    if above.time is not None and below.time is not None:
        kinds = {above.time.dtype.kind, below.time.dtype.kind}
        if len(kinds) > 1 and kinds & {"m", "M"}:
            raise ValueError(
                f"The times are of types {above.time.dtype} and {below.time.dtype}, which have no "
                "common order; give both as dates or both as numbers."
            )
        time = np.concatenate([above.time, below.time])
    return RatingColumns(
        user=np.concatenate([above.user, below.user]),
        item=np.concatenate([above.item, below.item]),
        rating=np.concatenate([above.rating, below.rating]),
        weight=np.concatenate([ones(above), ones(below)]) if weighted else None,
        time=time,
        columns={
            name: np.concatenate([values, below.columns[name]])
            for name, values in above.columns.items()
            if name in below.columns
        },
    )


def encode_pairs(
    pairs: Any, *, users: Vocabulary, items: Vocabulary, user: str = "user", item: str = "item"
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of pairs of users and items, with -1 for ids that are not known.

    Pairs are `Ratings`; a table or dict with a column for each; a tuple of two sequences, users and
    items; or a list of (user, item) tuples (or an array of shape (n, 2)). What is none of these, or
    no pair at all, and ids that are missing or of another kind, are refused.

    Example:
        >>> known = {"users": Vocabulary("user", ["ann", "bob"]), "items": Vocabulary("item", [7])}
        >>> encode_pairs([("bob", 7), ("cho", 7)], **known)
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
