"""From named columns to the fields of `Ratings`, each checked and each pair in one row."""

from collections.abc import Collection, Sequence
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import pyarrow as pa
from scipy.sparse import issparse

from probmf.data.column import Column, plain, sentence
from probmf.data.ids import first_repeat
from probmf.data.rating_table import RatingColumns, refuse_weights
from probmf.data.side_tables import align_features
from probmf.data.tables import IDS_ELSEWHERE, load, read_table
from probmf.data.vocabulary import Vocabulary, in_order

Duplicates = Literal["error", "first", "last", "mean", "sum"]


def resolve_duplicates(
    rows: RatingColumns, users: Vocabulary, items: Vocabulary, policy: Duplicates
) -> RatingColumns:
    """One row for each pair, in the order of the kept (or first) rows; see `Ratings.from_frame`."""
    if policy not in get_args(Duplicates):
        names = ", ".join(map(repr, get_args(Duplicates)))
        raise ValueError(f"duplicates is {policy!r}; expected one of {names}.")
    pair = rows.user.astype(np.int64) * len(items) + rows.item
    ordered = np.sort(pair)  # In half the memory of a table of those seen.
    if not (ordered[1:] == ordered[:-1]).any():
        return rows
    del ordered
    _, first, group = np.unique(pair, return_index=True, return_inverse=True)
    if policy == "error":
        raise ValueError(_message(rows, users, items, group))
    order = np.argsort(first)
    if policy == "first":
        return rows.take(first[order])
    if policy == "last":
        last = np.zeros_like(first)
        last[group] = np.arange(len(pair))  # Of several assignments the last one stays.
        return rows.take(np.sort(last))
    return combine(rows, first, group, mean=policy == "mean").take(order)


def combine(
    rows: RatingColumns, first: np.ndarray, group: np.ndarray, *, mean: bool
) -> RatingColumns:
    """Means or sums of ratings, sums of weights, latest times of each pair, by its `first` row."""
    kept = rows.take(first)
    rating = np.bincount(group, rows.rating)
    weight = None if rows.weight is None else np.bincount(group, rows.weight)
    if mean:
        rating = rating / np.bincount(group)
        if rows.weight is not None and weight is not None:
            # Where all weights are zero the plain mean stays: it will not count anyhow.
            total = np.bincount(group, rows.weight * rows.rating)
            rating = np.divide(total, weight, out=rating, where=weight > 0)
    time = kept.time
    if rows.time is not None and time is not None:
        np.maximum.at(time, group, rows.time)
    return kept._replace(rating=rating, weight=weight, time=time)


def _message(rows: RatingColumns, users: Vocabulary, items: Vocabulary, group: np.ndarray) -> str:
    before, again = first_repeat(group)
    repeated = int((np.bincount(group) > 1).sum())
    user: Any = plain(users.ids[rows.user[again]])
    item: Any = plain(items.ids[rows.item[again]])
    pairs = "1 pair occurs" if repeated == 1 else f"{repeated:,} pairs occur"
    return (
        f"User {user!r} and item {item!r} occur together in rows {before} and {again}; {pairs} "
        "more than once. Choose what a repeated pair means: duplicates='first' or 'last' keeps one "
        "row, 'mean' averages the ratings, 'sum' adds them."
    )


RESERVED = ("user", "item", "rating", "weight", "time")


class FrameOptions(TypedDict, total=False):
    """The arguments that all constructors of `Ratings` share; see `Ratings.from_frame`."""

    user: str
    item: str
    rating: str | None
    weight: str | None
    time: str | None
    keep: Collection[str]
    user_features: Any
    item_features: Any
    duplicates: Duplicates
    users: Vocabulary | Sequence[Any] | np.ndarray | None
    items: Vocabulary | Sequence[Any] | np.ndarray | None


def wanted_columns(roles: FrameOptions) -> list[str]:
    """Names of all columns that are to be read, each once."""
    keep = roles.get("keep", ())
    if isinstance(keep, str):
        raise TypeError(f"keep is the text {keep!r}, expected a list of names: keep=[{keep!r}].")
    by_role = {role: _name(roles, role) for role in RESERVED}
    named = {role: name for role, name in by_role.items() if name is not None}
    for role, name in named.items():
        same = [other for other, its in named.items() if its == name]
        if len(same) > 1:
            raise ValueError(
                f"{same[0]} and {same[1]} are both column {name!r}; {role} and the others need "
                "columns of their own."
            )
    for name in keep:
        if name in RESERVED or name in named.values():
            role = next((role for role in named if named[role] == name), name)
            raise ValueError(
                f"keep names {name!r}, which is kept as {role} or would be confused with it; leave "
                f"it out, give it a role ({role}={name!r}), or rename the column."
            )
    return list(dict.fromkeys([*named.values(), *keep]))


def _name(roles: FrameOptions, role: str) -> str | None:
    default = role if role in ("user", "item", "rating") else None
    name = roles.get(role, default)
    if name is None and role in ("user", "item"):
        raise ValueError(f"{role} is None; name the column that holds the {role} ids.")
    return name  # type: ignore[return-value]


def build_fields(frame: Any, options: FrameOptions, what: str = "the frame") -> dict[str, Any]:
    """The fields of `Ratings` from any table, which messages call `what`."""
    names = wanted_columns(options)
    rating, weight, time = (_name(options, role) for role in ("rating", "weight", "time"))
    hints = dict(IDS_ELSEWHERE)
    if rating:
        hints[rating] = " If there are no ratings, only pairs, pass rating=None."
    columns = read_table(frame, names, what, hints=hints)
    # Of a hundred million rows a column is let go as soon as its codes or numbers are there.
    del frame
    if not columns.num_rows:
        raise ValueError(f"{sentence(what)} has no rows; at least one rating is needed.")
    users, user_codes = _encode(columns, "user", options)
    items, item_codes = _encode(columns, "item", options)
    rows = RatingColumns(
        user=user_codes,
        item=item_codes,
        rating=np.ones(columns.num_rows) if rating is None else columns.pop(rating).numbers(),
        weight=None if weight is None else _weights(columns.pop(weight)),
        time=None if time is None else columns.pop(time).times(),
        columns={name: columns.pop(name).to_numpy() for name in options.get("keep", ())},
    )
    pa.default_memory_pool().release_unused()
    return _finish(rows, users, items, options)


def matrix_fields(matrix: Any, options: FrameOptions) -> dict[str, Any]:
    """The fields of `Ratings` from a sparse matrix; see `Ratings.from_scipy`."""
    if not issparse(matrix):
        raise TypeError(
            f"matrix is a {type(matrix).__name__}, expected a SciPy sparse matrix; make one with "
            "scipy.sparse.coo_array((ratings, (rows, columns)))."
        )
    if matrix.ndim != 2:
        raise ValueError(f"matrix has shape {matrix.shape}, expected (num_users, num_items).")
    entries = matrix.tocoo()
    if not entries.nnz:
        raise ValueError(f"matrix, of shape {matrix.shape}, stores nothing; nothing is rated.")
    users = _of_length(options.get("users"), "user", matrix.shape, 0)
    items = _of_length(options.get("items"), "item", matrix.shape, 1)
    rating = load(entries.data, "the matrix").numbers()
    rows = RatingColumns(entries.row.copy(), entries.col.copy(), rating, None, None, {})
    return _finish(rows, users, items, options)


def _of_length(
    given: Vocabulary | Sequence[Any] | np.ndarray | None,
    name: str,
    shape: tuple[int, int],
    axis: int,
) -> Vocabulary:
    vocabulary = in_order(np.arange(shape[axis]) if given is None else given, name)
    if len(vocabulary) != shape[axis]:
        raise ValueError(
            f"{name}s has {len(vocabulary):,} ids, but the matrix has shape {shape}, which needs "
            f"{shape[axis]:,}: one for each {('row', 'column')[axis]}."
        )
    return vocabulary


def _finish(
    rows: RatingColumns, users: Vocabulary, items: Vocabulary, options: FrameOptions
) -> dict[str, Any]:
    """The fields from coded rows: duplicates resolved, side tables aligned."""
    rows = resolve_duplicates(rows, users, items, options.get("duplicates", "error"))
    fields: dict[str, Any] = {**rows._asdict(), "users": users, "items": items}
    for side, vocabulary in (("user", users), ("item", items)):
        frame, id_name = options.get(f"{side}_features"), str(options.get(side, side))
        if frame is not None:
            fields[f"{side}_features"] = align_features(frame, vocabulary, id_name)
    return fields


def _encode(
    columns: dict[str, Column], side: Literal["user", "item"], options: FrameOptions
) -> tuple[Vocabulary, np.ndarray]:
    name, given = options.get(side, side), options.get(f"{side}s")
    column = columns.pop(name)
    if given is None:
        return Vocabulary.from_values(column, side, column=name)
    vocabulary = in_order(given, side, name)
    return vocabulary, vocabulary.encode(column)


def _weights(column: Column) -> np.ndarray:
    weight = column.numbers()
    refuse_weights(weight, column.what)
    if not weight.any():
        raise ValueError(
            f"{sentence(column.what)} is zero in every row; at least one rating must count."
        )
    return weight
