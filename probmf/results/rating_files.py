"""Ratings as Parquet files that read back as the same ratings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from probmf.data import Ratings, Vocabulary
from probmf.data.columns import objects

RATINGS = "ratings.parquet"
IDS = {"user": "users.parquet", "item": "items.parquet"}
FEATURES = {"user": "user_features.parquet", "item": "item_features.parquet"}
FILES = (RATINGS, *IDS.values(), *FEATURES.values())
#: Prefix of the columns that the user wanted to keep.
KEPT = "column/"


def write_ratings(data: Ratings, folder: Path) -> dict[str, str]:
    """Write ratings, ids and side tables.

    Args:
        data: The ratings.
        folder: Where to.

    Returns:
        NumPy types of the columns and ids, by name, for `read_ratings`.

    Raises:
        ValueError: If something has no file form that reads back the same.
    """
    types = {}
    for side, vocabulary, features in (
        ("user", data.users, data.user_features),
        ("item", data.items, data.item_features),
    ):
        types[f"{side} ids"] = vocabulary.ids.dtype.str
        write_file(pa.table({"id": _ids_to_arrow(vocabulary)}), folder / IDS[side], "ids")
        if features is not None:
            write_file(features, folder / FEATURES[side], f"{side}_features")
    columns: dict[str, Any] = {
        "user": data.user, "item": data.item, "rating": data.rating, "weight": data.weight,
        "time": data.time,
    }  # fmt: skip
    columns |= {KEPT + name: values for name, values in data.columns.items()}
    given = {name: values for name, values in columns.items() if values is not None}
    types |= {name: values.dtype.str for name, values in given.items()}
    table = pa.table({name: column_to_arrow(values, name) for name, values in given.items()})
    write_file(table, folder / RATINGS, "ratings")
    return types


def read_ratings(folder: Path, types: Mapping[str, str]) -> Ratings:
    """The ratings that `write_ratings` wrote.

    Args:
        folder: Where they are.
        types: What `write_ratings` returned.

    Returns:
        The ratings.
    """
    vocabularies = {
        side: Vocabulary(
            side, column_from_arrow(read_file(folder / file)["id"], types[f"{side} ids"])
        )
        for side, file in IDS.items()
    }
    features = {
        side: read_file(folder / file) if (folder / file).is_file() else None
        for side, file in FEATURES.items()
    }
    table = read_file(folder / RATINGS)
    column = {name: column_from_arrow(table[name], types[name]) for name in table.column_names}
    return Ratings(
        users=vocabularies["user"],
        items=vocabularies["item"],
        user=column["user"],
        item=column["item"],
        rating=column["rating"],
        weight=column.get("weight"),
        time=column.get("time"),
        columns={
            name.removeprefix(KEPT): values
            for name, values in column.items()
            if name.startswith(KEPT)
        },
        user_features=features["user"],
        item_features=features["item"],
    )


def _ids_to_arrow(vocabulary: Vocabulary) -> pa.Array:
    try:
        return vocabulary.to_arrow()
    except TypeError:
        raise ValueError(
            f"The {vocabulary.name} ids are {vocabulary.kind}, such as {vocabulary.ids[0]!r}, "
            "which have no file form that reads back the same. Make them integers, text or UUIDs "
            "before fitting."
        ) from None


def column_to_arrow(values: np.ndarray, name: str) -> pa.Array:
    """A column as an Arrow array that reads back as the same column."""
    try:
        array = pa.array(values)
    except pa.ArrowException as error:
        raise ValueError(_no_form(name, str(error))) from None
    if values.dtype == object:
        # Arrow takes tuples, enumerations and so on for something like them.
        for row, (own, back) in enumerate(zip(values, array.to_pylist(), strict=True)):
            if type(own) is not type(back) or not (own == back or own != own):
                raise ValueError(_no_form(name, f"row {row} holds {own!r}, not {back!r}"))
    return array


def column_from_arrow(column: pa.ChunkedArray, dtype: str) -> np.ndarray:
    """The column that `column_to_arrow` made, in its NumPy type."""
    if np.dtype(dtype) == object:
        return objects(column.to_pylist())
    return column.to_numpy().astype(dtype, copy=False)


def _no_form(name: str, why: str) -> str:
    kept = name.startswith(KEPT)
    advice = "Convert it to numbers or text" + ", or leave it out of keep=" * kept
    return (
        f"Column {name.removeprefix(KEPT)!r} of the {'ratings' if kept else 'data'} has no file "
        f"form that reads back the same ({why}). {advice}."
    )


def write_file(table: pa.Table, file: Path, what: str) -> None:
    """Write Parquet, or say which table can't be stored."""
    try:
        pq.write_table(table, file)
    except pa.ArrowException as error:
        raise ValueError(
            f"The table of {what} can't be stored as Parquet ({error}); convert or leave out the "
            "column that is meant."
        ) from None


def read_file(file: Path) -> pa.Table:
    """Read Parquet."""
    # read_table would take folders called like "fold=1" for columns.
    return pq.ParquetFile(file).read()
