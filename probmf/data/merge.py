"""Ratings in other vocabularies: recoded, or appended with new users."""

from typing import Any, Literal

import numpy as np
import pyarrow as pa

from probmf.data.duplicates import Duplicates, Rows, resolve_duplicates
from probmf.data.side_tables import align_features, realign_features, side_ids
from probmf.data.table import RatingTable
from probmf.data.vocabulary import Vocabulary


def translate(
    codes: np.ndarray, old: Vocabulary, new: Vocabulary, unknown: Literal["raise", "flag"]
) -> np.ndarray:
    """Codes of one vocabulary as codes of another.

    Args:
        codes: Codes in `old`, shape (n,).
        old: The vocabulary that they are in.
        new: The vocabulary wanted.
        unknown: What an id that `new` lacks gives: an error, or -1.

    Returns:
        Codes in `new`, int32 of shape (n,).

    Raises:
        ValueError: If an id is unknown (unless flagged), or the ids are of another kind.
    """
    if old == new:
        return codes
    translated = new.encode(old.ids, unknown="flag", what=f"the list of {old.name} ids")[codes]
    if unknown == "raise" and (translated < 0).any():
        # Encoded once more, row by row, for the message.
        new.encode(old.ids[codes], what=f"the column of {old.name}s")
    return translated


def recode(
    table: RatingTable, users: Vocabulary, items: Vocabulary, unknown: Literal["raise", "drop"]
) -> dict[str, Any]:
    """The fields of a table in other vocabularies; see `Ratings.recode`."""
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
    return {
        **rows_of(table)._replace(user=user, item=item).take(np.flatnonzero(known))._asdict(),
        "users": users,
        "items": items,
        "user_features": _moved(table.user_features, table.users, users),
        "item_features": _moved(table.item_features, table.items, items),
    }


def append(table: RatingTable, other: RatingTable, duplicates: Duplicates) -> dict[str, Any]:
    """The fields of a table and another's rows below; see `Ratings.append`."""
    old, new = table.users, other.users
    place = old.encode(new.ids, unknown="flag", what="the list of appended user ids")
    # Users without a rating are no news.
    added = np.flatnonzero((place < 0) & (other.user_degree > 0))
    users = old if not len(added) else _extended(old, new.ids[added])
    item = translate(other.item, other.items, table.items, "raise")
    user = translate(other.user, new, users, "raise")
    rows = _below(rows_of(table), rows_of(other)._replace(user=user, item=item))
    features = table.user_features
    if features is not None and len(added):
        features = _grown(features, users, added, other.user_features)
    return {
        **resolve_duplicates(rows, users, table.items, duplicates)._asdict(),
        "users": users,
        "items": table.items,
        "user_features": features,
        "item_features": table.item_features,
    }


def extend(table: RatingTable, side: Literal["user", "item"], frame: Any) -> dict[str, Any]:
    """The fields of a table that also has the users or items of a side table; see `Ratings.extend`.

    Args:
        table: The ratings.
        side: Whose side table it is.
        frame: The side table.

    Returns:
        The fields; codes stay, new ids come after all others.
    """
    old: Vocabulary = getattr(table, f"{side}s")
    features: pa.Table | None = getattr(table, f"{side}_features")
    name = side if features is None else features.column_names[0]
    ids = side_ids(frame, side, name)
    other = align_features(frame, ids, name)
    place = old.encode(ids.ids, unknown="flag", what=f"the ids of {side}_features")
    added = np.flatnonzero(place < 0)
    grown = old if not len(added) else _extended(old, ids.ids[added])
    if features is not None and len(added):
        features = _grown(features, grown, added, other)
    fields = {
        **rows_of(table)._asdict(),
        "users": table.users,
        "items": table.items,
        "user_features": table.user_features,
        "item_features": table.item_features,
    }
    return fields | {f"{side}s": grown, f"{side}_features": features}


def rows_of(table: RatingTable) -> Rows:
    """The columns of a table."""
    return Rows(table.user, table.item, table.rating, table.weight, table.time, dict(table.columns))


def _extended(vocabulary: Vocabulary, ids: np.ndarray) -> Vocabulary:
    joined = np.empty(len(vocabulary) + len(ids), dtype=object)
    joined[: len(vocabulary)] = vocabulary.ids.tolist()
    joined[len(vocabulary) :] = ids.tolist()
    if vocabulary.ids.dtype != object:
        return Vocabulary(vocabulary.name, np.concatenate([vocabulary.ids, ids]))
    return Vocabulary(vocabulary.name, joined)


def _below(above: Rows, below: Rows) -> Rows:
    weight = None
    if above.weight is not None or below.weight is not None:
        parts = [
            np.ones(len(part.user)) if part.weight is None else part.weight
            for part in (above, below)
        ]
        weight = np.concatenate(parts)
    time = None
    if above.time is not None and below.time is not None:
        kinds = above.time.dtype.kind, below.time.dtype.kind
        if kinds[0] != kinds[1] and set(kinds) & {"m", "M"}:
            raise ValueError(
                f"The times are of types {above.time.dtype} and {below.time.dtype}, which have no "
                "common order; give both as dates or both as numbers."
            )
        time = np.concatenate([above.time, below.time])
    shared = [name for name in above.columns if name in below.columns]
    return Rows(
        user=np.concatenate([above.user, below.user]),
        item=np.concatenate([above.item, below.item]),
        rating=np.concatenate([above.rating, below.rating]),
        weight=weight,
        time=time,
        columns={
            name: np.concatenate([above.columns[name], below.columns[name]]) for name in shared
        },
    )


def _moved(features: pa.Table | None, old: Vocabulary, new: Vocabulary) -> pa.Table | None:
    if features is None or old == new:
        return features
    return realign_features(features, old.encode(new.ids, unknown="flag"), new)


def _grown(
    features: pa.Table, users: Vocabulary, added: np.ndarray, other: pa.Table | None
) -> pa.Table:
    """The side table with rows for added users, from the other's side table as far as it goes."""
    num_old = features.num_rows
    rows = np.where(np.arange(len(users)) < num_old, np.arange(len(users)), -1)
    grown: pa.Table = realign_features(features, rows, users)
    if other is None:
        return grown
    for place, name in enumerate(features.column_names[1:], 1):
        if name in other.column_names[1:]:
            try:
                values = other[name].take(pa.array(added)).cast(features[name].type)
            except pa.ArrowException as error:
                raise ValueError(
                    f"Column {name!r} of user_features is of type {features[name].type} here and "
                    f"{other[name].type} in the appended ratings: {error}."
                ) from error
            joined = pa.chunked_array([*features[name].chunks, *values.chunks], features[name].type)
            grown = grown.set_column(place, name, joined)
    return grown
