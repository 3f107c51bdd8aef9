"""Ratings kept on disk in the order of their rows: what a folder holds, written and checked.

Every column is a NumPy file, so that it can be mapped into memory; `manifest.json` says what the
folder was made from and has the size and checksum of every file.
"""

import json
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from probmf.data.vocabulary import Vocabulary
from probmf.rows.store import SIDES, RowRatings, RowStore, Side

MANIFEST = "manifest.json"
#: Number of the form of the folder.
FORMAT = 1
#: Columns of the table that every folder has, and those that it may have.
NEEDED, FURTHER = ("user", "item", "rating"), ("weight", "time")
#: Columns of each side's rows.
OF_ROWS = ("start", "partner", "rating", "weight")
#: Names of all files that a folder may have.
FILES = frozenset(
    {
        *(MANIFEST, *(f"{name}.npy" for name in (*NEEDED, *FURTHER))),
        *(f"{side}_{name}.npy" for side in SIDES for name in OF_ROWS),
        *(f"{side}s.parquet" for side in SIDES),
    }
)
#: What makes a part of a split again.
PART = "the split that wrote it, with folder= and rebuild=True"
#: Bytes that a checksum reads at once.
PIECE = 1 << 24


class ColumnFile:
    """A NumPy file that is written piece by piece, and whose length is known at the end."""

    def __init__(self, path: Path, dtype: Any) -> None:
        """Begin the file; it holds nothing yet."""
        self.dtype, self.length = np.dtype(dtype), 0
        self._file = path.open("wb")
        self._write_header()

    def append(self, values: np.ndarray) -> None:
        """Add values at the end."""
        # Not through a map of the file: where the disk is full that kills the process.
        # Bytes, as dates have no buffer of their own.
        self._file.write(np.ascontiguousarray(values, self.dtype).view(np.uint8).data)
        self.length += len(values)

    def __enter__(self) -> Self:
        """The file."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write the length, for which the header has left room."""
        with self._file:
            if error is None:
                self._file.seek(0)
                self._write_header()

    def _write_header(self) -> None:
        head = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.length,),
        }
        np.lib.format.write_array_header_1_0(self._file, head)


def column_path(folder: Path, name: str) -> Path:
    """The file of a column of the table, or with a side in front of one of its rows' columns."""
    return folder / f"{name}.npy"


def write_manifest(
    folder: Path,
    vocabularies: Mapping[Side, Vocabulary],
    degrees: Mapping[Side, np.ndarray],
    made_from: Mapping[str, Any],
) -> None:
    """Finish a folder whose columns are written.

    Args:
        folder: The folder.
        vocabularies: The ids of each side.
        degrees: Number of ratings that count, by row of each side.
        made_from: What the folder was made from, as values for JSON.
    """
    for side, vocabulary in vocabularies.items():
        ids = pa.table({vocabulary.column: vocabulary.to_arrow()})
        pa.parquet.write_table(ids, folder / f"{side}s.parquet")
        np.save(
            column_path(folder, f"{side}_start"), np.concatenate([[0], np.cumsum(degrees[side])])
        )
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".npy", ".parquet"))
    files = {path.name: _facts(path) for path in paths}
    manifest = {"format": FORMAT, "made_from": made_from, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def refuse_other_contents(folder: Path) -> None:
    """Refuse to replace what is anything but a folder of sorted ratings, or empty.

    Raises:
        ValueError: If there is a file of that name, or a folder with other files in it.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder for sorted ratings; name another.")
    others = sorted({path.name for path in folder.iterdir()} - FILES)
    if others:
        raise ValueError(
            f"The folder {folder} holds {others[0]!r}, which is no file of sorted ratings and "
            "would be deleted. Name another folder, which need not be there yet."
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The source that a folder was made from.

    Raises:
        ValueError: If it is no such folder, is of another form, or a file is missing or was
            changed.
    """
    what = f"The folder {folder}"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        form, files = manifest["format"], dict(manifest["files"])
        made_from = dict(manifest["made_from"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{what} holds no ratings that Ratings.open made: {MANIFEST} can't be read ({error})."
        ) from error
    # A part of a split was made from no files.
    way = "Ratings.open(..., rebuild=True)" if made_from.get("files", True) else PART
    again = f"Make it again: {way}."
    if form == FORMAT and (odd := _listed_wrongly(files)):
        raise ValueError(f"{what} was changed: {MANIFEST} {odd}. {again}")
    if form != FORMAT:
        raise ValueError(
            f"{what} is of form {form}; this version of probmf reads form {FORMAT}. {again}"
        )
    for name in files:
        if not (folder / name).is_file():
            raise ValueError(f"{what} lacks the file {name}. {again}")
    with ThreadPoolExecutor() as pool:
        found = dict(zip(files, pool.map(lambda name: _facts(folder / name), files), strict=True))
    for name, facts in files.items():
        if found[name] != facts:
            raise ValueError(
                f"{what} was changed: {name} has {found[name]['bytes']:,} bytes with the checksum "
                f"{found[name]['crc32']}, expected {facts['bytes']:,} and {facts['crc32']}. {again}"
            )
    return made_from


def _listed_wrongly(files: Mapping[str, Any]) -> str:
    """Wrong entry of a manifest, in words; empty if there is none."""
    needed = {f"{name}.npy" for name in NEEDED} | {f"{side}s.parquet" for side in SIDES}
    needed |= {f"{side}_{name}.npy" for side in SIDES for name in OF_ROWS[:-1]}
    if missing := sorted(needed - files.keys()):
        return f"does not list {missing[0]}"
    return f"lists {others[0]!r}" if (others := sorted(files.keys() - FILES)) else ""


def _facts(path: Path) -> dict[str, int]:
    """Size and checksum of a file."""
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            checksum = zlib.crc32(piece, checksum)
    return {"bytes": path.stat().st_size, "crc32": checksum}


def folder_of(column: np.ndarray) -> Path | None:
    """The folder that a column is mapped from; None of one that is in memory."""
    base: Any = column
    while base is not None and not isinstance(base, np.memmap):
        base = getattr(base, "base", None)
    return None if base is None or base.filename is None else Path(base.filename).parent


def read_vocabularies(folder: Path) -> dict[Side, Vocabulary]:
    """The ids of each side."""
    found: dict[Side, Vocabulary] = {}
    for side in SIDES:
        table = pa.parquet.read_table(folder / f"{side}s.parquet")
        found[side] = Vocabulary(side, table.column(0), table.column_names[0])
    return found


def map_columns(folder: Path) -> dict[str, np.ndarray]:
    """The columns that the table has, mapped into memory."""
    further = [name for name in FURTHER if column_path(folder, name).is_file()]
    return {name: _mapped(folder, name) for name in [*NEEDED, *further]}


def map_rows(folder: Path) -> RowStore:
    """The ratings by row of each side, mapped into memory."""
    sides = [_map_side(folder, side) for side in SIDES]
    return RowStore(*sides)


def _map_side(folder: Path, side: Side) -> RowRatings:
    start, partner, rating = (
        _mapped(folder, f"{side}_{name}") for name in ("start", "partner", "rating")
    )
    weighted = column_path(folder, f"{side}_weight").is_file()
    weight = _mapped(folder, f"{side}_weight") if weighted else None
    return RowRatings(np.array(start), partner, rating, weight)


def _mapped(folder: Path, name: str) -> np.ndarray:
    # Pages that somebody writes to are copied first, so that the file stays what it is.
    return np.asarray(np.load(column_path(folder, name), mmap_mode="c"))
