"""Ratings kept on disk in the order of their rows: what a folder holds, written and checked.

Every column is a NumPy file, so that it can be mapped into memory; `manifest.json` says what the
folder was made from and has the size and checksum of every file.
"""

import glob
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from probmf.data.rating_fields import combine
from probmf.data.rating_table import RatingColumns
from probmf.data.vocabulary import Vocabulary
from probmf.rows.store import OTHER, SIDES, RowRatings, RowStore, Side

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
#: Ratings that are in memory at once while files are written.
BATCH = 1 << 20
#: Bytes that a checksum reads at once.
PIECE = 1 << 24


class ColumnFile:
    """A NumPy file, or one process's slice of it, that is written piece by piece.

    The slice begins at the number `begin`; `length` counts all numbers, None for those of this
    slice, known at the end. With `through` each piece is on the disk before the next.
    """

    def __init__(
        self,
        path: Path,
        dtype: Any,
        begin: int = 0,
        length: int | None = None,
        *,
        through: bool = False,
    ) -> None:
        """Begin the file; it holds nothing yet."""
        self.dtype, self.begin, self.written, self.length = np.dtype(dtype), begin, 0, length
        flags = os.O_WRONLY | os.O_CREAT | (os.O_DSYNC if through else 0)
        # Not emptied, as others write their slices of it.
        self._file = os.fdopen(os.open(path, flags, 0o666), "wb")
        self._write_header()
        self._file.seek(begin * self.dtype.itemsize, os.SEEK_CUR)

    def append(self, values: np.ndarray) -> None:
        """Add values at the end."""
        # Not through a map of the file: where the disk is full that kills the process.
        # Bytes, as dates have no buffer of their own.
        self._file.write(np.ascontiguousarray(values, self.dtype).view(np.uint8).data)
        self.written += len(values)

    def __enter__(self) -> Self:
        """The file."""
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        """Write the length, for which the header has left room."""
        with self._file:
            if error is None and self.length is None:
                self.length = self.written
                self._file.seek(0)
                self._write_header()

    def _write_header(self) -> None:
        head = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.length or 0,),
        }
        np.lib.format.write_array_header_1_0(self._file, head)


class Slice(NamedTuple):
    """Part of the files of one side that a process writes, after `begin` ratings of other rows.

    `counting` are those of them that count; `num_ratings` all ratings, and those that count, None
    for those that are written.
    """

    codes: range
    num_codes: int
    begin: int = 0
    counting: int = 0
    num_ratings: tuple[int, int] | tuple[None, None] = (None, None)
    through: bool = False


def write_side(
    folder: Path, side: Side, own: Slice, blocks: Iterable[Mapping[str, np.ndarray]]
) -> None:
    """Write one side's rows from blocks of ratings in order, and with users the table."""
    degree = np.zeros(len(own.codes), np.int64)
    with ExitStack() as stack:
        files: dict[str, ColumnFile] = {}

        def append(name: str, values: np.ndarray, dtype: Any, begin: int, length: Any) -> None:
            if name not in files:
                path = column_path(folder, name)
                file = ColumnFile(path, dtype, begin, length, through=own.through)
                files[name] = stack.enter_context(file)
            files[name].append(values)

        for block in blocks:
            for name in block if side == "user" else ():
                append(name, block[name], block[name].dtype, own.begin, own.num_ratings[0])
            rows: Mapping[str, np.ndarray] = {"partner": block[OTHER[side]], **block}
            if "weight" in rows and not (counts := rows["weight"] > 0).all():
                rows = {name: values[counts] for name, values in rows.items()}
            for name in OF_ROWS[1:] if "weight" in rows else OF_ROWS[1:-1]:
                dtype = np.int32 if name == "partner" else np.float32
                append(
                    f"{side}_{name}", rows[name], dtype, own.counting, own.num_ratings[1]
                )  # fmt: skip
            if len(codes := rows[side] - own.codes.start):
                degree[codes[0] : codes[-1] + 1] += np.bincount(codes - codes[0])
        start = np.concatenate([[0], np.cumsum(degree)]) + own.counting
        # Of a slice the first entry is the last one of the slice before.
        later = int(own.codes.start > 0)
        append(
            f"{side}_start", start[later:], np.int64, own.codes.start + later, own.num_codes + 1
        )  # fmt: skip


def column_path(folder: Path, name: str) -> Path:
    """The file of a column of the table, or with a side in front of one of its rows' columns."""
    return folder / f"{name}.npy"


def write_manifest(
    folder: Path, vocabularies: Mapping[Side, Vocabulary], made_from: Mapping[str, Any]
) -> None:
    """Finish a folder whose columns are written; `made_from` are values for JSON."""
    for side, vocabulary in vocabularies.items():
        ids = pa.table({vocabulary.column: vocabulary.to_arrow()})
        pa.parquet.write_table(ids, folder / f"{side}s.parquet")
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".npy", ".parquet"))
    manifest = {"format": FORMAT, "made_from": made_from, "files": _all_facts(folder, names)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The source that a folder was made from; one that is not as it was written is refused."""
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
    found = _all_facts(folder, files)
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


def _all_facts(folder: Path, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """Sizes and checksums of files, by name."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda name: _facts(folder / name), names), strict=True))


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
    sides = []
    for side in SIDES:
        weighted = column_path(folder, f"{side}_weight").is_file()
        names = OF_ROWS if weighted else OF_ROWS[:-1]
        start, *columns = (_mapped(folder, f"{side}_{name}") for name in names)
        sides.append(RowRatings(np.array(start), *columns, *([] if weighted else [None])))
    return RowStore(*sides)


def _mapped(folder: Path, name: str) -> np.ndarray:
    # Pages that somebody writes to are copied first, so that the file stays what it is.
    return np.asarray(np.load(column_path(folder, name), mmap_mode="c"))


def whole_pairs(reader: pa.RecordBatchReader) -> Iterator[dict[str, np.ndarray]]:
    """Columns piece by piece, all rows of a pair in one piece; the last piece may be empty."""
    kept = {field.name: np.asarray(pa.array([], field.type)) for field in reader.schema}
    for batch in reader:
        columns = {
            name: np.concatenate([kept[name], np.asarray(values)]) if len(kept[name])
            else np.asarray(values)
            for name, values in zip(kept, batch.columns, strict=True)
        }  # fmt: skip
        new = np.flatnonzero(_new_pairs(columns))
        if not len(new):
            continue
        kept = {name: values[new[-1] :] for name, values in columns.items()}
        if new[-1]:
            yield {name: values[: new[-1]] for name, values in columns.items()}
    yield kept


def _new_pairs(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """True for the first row of each pair."""
    user, item = columns["user"], columns["item"]
    new = np.ones(len(user), bool)
    new[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    return new


def first_repeat(columns: Mapping[str, np.ndarray]) -> int | None:
    """The first row of a pair that the row before has; None if there is none."""
    repeats = np.flatnonzero(~_new_pairs(columns))
    return int(repeats[0]) if len(repeats) else None


def combine_pairs(columns: Mapping[str, np.ndarray], *, mean: bool) -> dict[str, np.ndarray]:
    """One row for each pair; see `combine`."""
    new = _new_pairs(columns)
    rows = RatingColumns(columns["user"], columns["item"], columns["rating"], columns.get("weight"),
                columns.get("time"), {})  # fmt: skip
    combined = combine(rows, np.flatnonzero(new), np.cumsum(new) - 1, mean=mean)._asdict()
    return {name: combined[name] for name in columns}


#: Folder of what does not fit in memory while the ratings are sorted.
SPILLED = "spilled"
#: End of the name of a folder that is put aside until another is in its place.
BEFORE = "-before"


def refuse_other_contents(folder: Path) -> None:
    """Refuse to replace what is anything but a folder of sorted ratings, or empty."""
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


def remove_remains(folder: Path) -> None:
    """Remove what killed processes left beside a folder of sorted ratings; see `in_place_of`."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}-????????*"):
        ours = left.is_dir() and {path.name for path in left.iterdir()} <= FILES | {SPILLED}
        # What was put aside is the only one there is, unless another has taken its place.
        if ours and (folder.exists() or not left.name.endswith(BEFORE)):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def in_place_of(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of another one, if it is finished with a manifest.

    The other one is whole until the new one is: it is put aside, and back if that fails, and only
    then removed. Where a process is killed between the two, it lies beside as `.NAME-...-before`,
    and an unfinished one as `.NAME-...`; `remove_remains` finds them.
    """
    refuse_other_contents(folder)
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise OSError(
            f"The sorted ratings can't be written to {folder}: {error.strerror}. Name a folder "
            "elsewhere (folder=)."
        ) from error
    before = partial.with_name(f"{partial.name}{BEFORE}")
    try:
        (partial / SPILLED).mkdir()
        yield partial
        if (partial / MANIFEST).is_file():
            shutil.rmtree(partial / SPILLED, ignore_errors=True)
            partial.chmod(0o755)
            if folder.exists():
                folder.rename(before)
            try:
                partial.rename(folder)
            except OSError:
                if before.exists():
                    before.rename(folder)
                raise
            shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
