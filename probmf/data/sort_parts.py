"""Parts of ratings, such as those of a split, written as folders of sorted ratings."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from probmf.data.database import MEMORY_LIMIT, connect, copy, in_words, parquet
from probmf.data.rating_table import RatingTable
from probmf.data.row_files import (
    BATCH,
    FURTHER,
    MANIFEST,
    NEEDED,
    SPILLED,
    Slice,
    folder_of,
    in_place_of,
    map_columns,
    map_rows,
    refuse_other_contents,
    remove_remains,
    whole_pairs,
    write_manifest,
    write_side,
)
from probmf.data.source import Source
from probmf.data.vocabulary import Vocabulary
from probmf.locks import alone_in
from probmf.rows.store import RowStore, Side


def sort_parts(
    table: RatingTable, chosen: Mapping[str, np.ndarray], folder: Path, *, rebuild: bool
) -> dict[str, tuple[dict[str, Any], RowStore]]:
    """Keep parts of a table in folders, as `sort_files` keeps ratings of files: all or none.

    `chosen` marks the ratings of each part by its name. Of ratings that were opened a block at a
    time is in memory. Gives the columns of each part, and its ratings by row. Refused are tables
    with further columns, and folders that hold anything else, a part that is not to be replaced, or
    the ratings themselves.
    """
    if table.columns:
        raise ValueError(
            f"The ratings keep the column {next(iter(table.columns))!r}, which folders of sorted "
            "ratings don't have; leave it out (keep=), or split in memory, without folder=."
        )
    order = None
    if table.rows is None:
        order = np.lexsort((table.item, table.user))
    folder.mkdir(parents=True, exist_ok=True)
    read_from = folder_of(table.rating)
    nothing: dict[str, Any] = {"weight": None, "time": None}
    with alone_in(folder, wait=True) as alone:
        for name in chosen:
            if alone:
                remove_remains(folder / name)
            refuse_other_contents(folder / name)
            if read_from is not None and read_from.resolve() == (folder / name).resolve():
                raise ValueError(
                    f"The ratings are read from {read_from}, which the split would replace; name "
                    "another folder."
                )
            if not rebuild and (folder / name / MANIFEST).exists():
                raise ValueError(
                    f"The folder {folder / name} holds a part of a split already. Replace it "
                    "(rebuild=True), or name another folder."
                )
        with ExitStack() as stack:
            for name, own in chosen.items():
                _write_part(table, own, order, stack.enter_context(in_place_of(folder / name)))
        return {
            name: (nothing | map_columns(folder / name), map_rows(folder / name)) for name in chosen
        }


def _write_part(
    table: RatingTable, chosen: np.ndarray, order: np.ndarray | None, folder: Path
) -> None:
    """Fill a folder with ratings, in the order of the rows if none is given."""
    vocabularies: dict[Side, Vocabulary] = {"user": table.users, "item": table.items}
    whole = {side: Slice(range(len(own)), len(own)) for side, own in vocabularies.items()}
    options = asdict(
        Source(
            "", table.users.column, table.items.column,
            weight=None if table.weight is None else "weight",
            time=None if table.time is None else "time",
        )
    ) | {"path": None}  # fmt: skip
    with in_words(folder, MEMORY_LIMIT, None), connect(folder, MEMORY_LIMIT) as database:
        write_side(folder, "user", whole["user"], _blocks(table, chosen, order))
        columns = map_columns(folder)
        names = [name for name in ("item", "user", "rating", "weight") if name in columns]
        database.register("part", pa.table({name: pa.array(columns[name]) for name in names}))
        listed, copied = ", ".join(names), folder / SPILLED / "part.parquet"
        # DuckDB sorts its own files in less memory than what comes through Arrow.
        copy(database, f"SELECT {listed} FROM part", copied)
        query = f"SELECT {listed} FROM {parquet(copied.parent, copied.name)} ORDER BY item, user"
        reader = database.sql(query).to_arrow_reader(BATCH)
        write_side(folder, "item", whole["item"], whole_pairs(reader))
    write_manifest(folder, vocabularies, {"options": options, "files": []})


def _blocks(
    table: RatingTable, chosen: np.ndarray, order: np.ndarray | None
) -> Iterator[dict[str, np.ndarray]]:
    """Columns of the chosen ratings, piece by piece."""
    columns = {name: getattr(table, name) for name in (*NEEDED, *FURTHER)}
    for begin in range(0, len(table.rating), BATCH):
        rows: Any = slice(begin, begin + BATCH)
        rows = rows if order is None else order[rows]
        yield {
            name: values[rows][chosen[rows]]
            for name, values in columns.items()
            if values is not None
        }
