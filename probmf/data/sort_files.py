"""Files of ratings, sorted by row into a folder, without ever being in memory as a whole.

DuckDB reads, joins with the codes and sorts, in as much memory as it is given and else on disk.
"""

import glob
import importlib
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet

from probmf.data.column import CLOCK, DROP, NUMBERS, TIMES, array_kind, plain, sentence
from probmf.data.files import PathLike, parse_ids
from probmf.data.rating_fields import combine
from probmf.data.rating_table import RatingColumns, RatingTable
from probmf.data.row_files import (
    FILES,
    FURTHER,
    MANIFEST,
    NEEDED,
    ColumnFile,
    column_path,
    folder_of,
    map_columns,
    map_rows,
    read_manifest,
    read_vocabularies,
    refuse_other_contents,
    write_manifest,
)
from probmf.data.side_tables import align_features
from probmf.data.source import Source
from probmf.data.vocabulary import Vocabulary, in_order
from probmf.locks import alone_in
from probmf.rows.store import OTHER, SIDES, RowStore, Side

#: Ratings that are looked at at once.
BATCH = 1 << 20
#: What DuckDB may take where nobody says it.
MEMORY_LIMIT = "2GB"
#: Folder of what does not fit in memory while the ratings are sorted.
SPILLED = "spilled"
#: End of the name of a folder that is put aside until another is in its place.
BEFORE = "-before"
#: What a repeated pair may mean here: rows that were sorted have no first and no last.
POLICIES = ("error", "mean", "sum")


def open_files(
    source: Source,
    folder: PathLike | None,
    given: Mapping[Side, Any],
    features: Mapping[Side, Any],
    memory_limit: str,
    rebuild: bool,
) -> tuple[dict[str, Any], RowStore]:
    """The fields of `Ratings` from the folder of a source, which is made where it is missing.

    Args:
        source: The files, or such a folder.
        folder: The folder; None for one beside the files.
        given: The ids of each side in the order of their codes, or None for those with ratings.
        features: Side tables.
        memory_limit: What sorting may take.
        rebuild: True to make it again.

    Returns:
        The fields, and the ratings by row.

    Raises:
        ValueError: If the folder does not belong to the files; see `Ratings.open` for the rest.
    """
    path = Path(source.path)
    own = path.with_name(path.name + ".sorted") if folder is None else Path(folder)
    if folder is None and (path / MANIFEST).is_file():
        if rebuild:
            raise ValueError(
                f"rebuild is True, but {path} is a folder of sorted ratings, which tells nothing "
                "of how to read its files; give the path of the files instead, or rebuild=True to "
                "the split that wrote it."
            )
        own = path
        source = _as_sorted(source, read_manifest(own)["options"])
    elif not _make_where_missing(source, own, given, memory_limit, rebuild) and (
        made_from := read_manifest(own)
    ) != (now := source.state()):
        differ = [name for name in now if now[name] != made_from.get(name)]
        raise ValueError(
            f"The folder {own} was made from other {' and '.join(differ)} than are given now. "
            "Make it again (rebuild=True), or name another (folder=...)."
        )
    vocabularies = read_vocabularies(own)
    fields: dict[str, Any] = {**map_columns(own)}
    for side, vocabulary in vocabularies.items():
        wanted = given[side]
        if wanted is not None and in_order(wanted, side) != vocabulary:
            raise ValueError(
                f"The folder {own} was made with other ids than {side}s= has. Make it again "
                "(rebuild=True), or name another (folder=...)."
            )
        fields[f"{side}s"] = vocabulary
        if features[side] is not None:
            fields[f"{side}_features"] = align_features(
                features[side], vocabulary, getattr(source, side)
            )
    return fields, map_rows(own)


def _make_where_missing(
    source: Source, folder: Path, given: Mapping[Side, Any], memory_limit: str, rebuild: bool
) -> bool:
    """Make the folder if it is not there, or is to be made again; True if it was made."""
    if not rebuild and (folder / MANIFEST).is_file():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(folder.parent, wait=True) as alone:
        if alone:
            remove_remains(folder)
        # Another process may have made it while this one waited.
        if not rebuild and (folder / MANIFEST).is_file():
            return False
        sort_files(source, folder, given, memory_limit)
    return True


def _as_sorted(source: Source, options: Mapping[str, Any]) -> Source:
    """The source with the options that a folder was sorted by.

    Args:
        source: The folder, with options that are defaults or were given.
        options: Those that it was sorted by.

    Raises:
        ValueError: If an option that is no default differs.
    """
    defaults = Source(source.path)
    known: dict[str, Any] = {
        name: tuple(own) if isinstance(own, list) else own for name, own in options.items()
    }
    for name, value in asdict(source).items():
        if name != "path" and value not in (getattr(defaults, name), known[name]):
            raise ValueError(
                f"{name} is {value!r}, but the sorted ratings in {source.path} were made with "
                f"{name}={known[name]!r}. Leave it out, or give the path of the files."
            )
    return replace(source, **(known | {"path": source.path}))


def sort_files(
    source: Source,
    folder: Path,
    given: Mapping[Side, Vocabulary | Sequence[Any] | np.ndarray | None],
    memory_limit: str,
) -> None:
    """Make the folder of a source: either all of it or, after an error, nothing.

    Args:
        source: The files.
        folder: The folder; one that was made so before is replaced.
        given: The ids of each side in the order of their codes, or None for those with ratings.
        memory_limit: What DuckDB may take, such as "2GB".

    Raises:
        ImportError: If DuckDB is not installed.
        OSError: If the disk is full.
        ValueError: If the files do not hold ratings, or change while they are read, or the folder
            holds anything else.
    """
    before, dataset = source.state(), source.dataset()
    with _in_place_of(folder) as partial:
        with (
            _unchanged(source, before),
            _connect(partial / SPILLED, memory_limit, source) as database,
        ):
            database.register("source", dataset)
            _check_numbers(database, source, dataset.schema)
            vocabularies = {side: _encode(database, source, side, given[side]) for side in SIDES}
            _write_table(database, source, partial, vocabularies)
            degrees = {side: _write_rows(database, partial, side, vocabularies) for side in SIDES}
        write_manifest(partial, vocabularies, degrees, before)


@contextmanager
def _unchanged(source: Source, before: Mapping[str, Any]) -> Iterator[None]:
    """Say of files that changed while they were read just that, whatever it led to."""
    trouble: Exception | None = None
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        trouble = error
    try:
        changed = source.state() != before
    except FileNotFoundError:
        changed = True
    if changed:
        raise ValueError(
            f"{sentence(source.what)} changed while it was read; wait until it is written, and "
            "open it again."
        ) from trouble
    if trouble is not None:
        raise trouble


def sort_parts(
    table: RatingTable, chosen: Mapping[str, np.ndarray], folder: Path, *, rebuild: bool
) -> dict[str, tuple[dict[str, Any], RowStore]]:
    """Keep parts of a table in folders, as `sort_files` keeps ratings of files: all or none.

    Args:
        table: The ratings; of those that were opened a block at a time is in memory.
        chosen: True for those to keep, by the name of the part.
        folder: The folder that the folders of the parts are made in.
        rebuild: True to replace parts that are there.

    Returns:
        The columns of each part, and its ratings by row.

    Raises:
        ImportError: If DuckDB is not installed.
        OSError: If the disk is full.
        ValueError: If the table has further columns, a folder holds anything else, or a part and
            is not to be replaced, or is the one that the table is read from.
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
                _write_part(table, own, order, stack.enter_context(_in_place_of(folder / name)))
        return {
            name: (nothing | map_columns(folder / name), map_rows(folder / name)) for name in chosen
        }


def _write_part(
    table: RatingTable, chosen: np.ndarray, order: np.ndarray | None, folder: Path
) -> None:
    """Fill a folder with ratings, in the order of the rows if none is given."""
    vocabularies: dict[Side, Vocabulary] = {"user": table.users, "item": table.items}
    options = asdict(
        Source(
            "", table.users.column, table.items.column,
            weight=None if table.weight is None else "weight",
            time=None if table.time is None else "time",
        )
    ) | {"path": None}  # fmt: skip
    for name in (*NEEDED, *FURTHER):
        values = getattr(table, name)
        if values is None:
            continue
        with ColumnFile(column_path(folder, name), values.dtype) as file:
            for begin in range(0, len(values), BATCH):
                rows: Any = slice(begin, begin + BATCH)
                rows = rows if order is None else order[rows]
                file.append(values[rows][chosen[rows]])
    with _connect(folder / SPILLED, MEMORY_LIMIT, None) as database:
        degrees = {side: _write_rows(database, folder, side, vocabularies) for side in SIDES}
    write_manifest(folder, vocabularies, degrees, {"options": options, "files": []})


def remove_remains(folder: Path) -> None:
    """Remove what killed processes left beside a folder of sorted ratings; see `_in_place_of`."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}-????????*"):
        ours = left.is_dir() and {path.name for path in left.iterdir()} <= FILES | {SPILLED}
        # What was put aside is the only one there is, unless another has taken its place.
        if ours and (folder.exists() or not left.name.endswith(BEFORE)):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _in_place_of(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of another one where all went well.

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
        yield partial
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


@contextmanager
def _connect(spilled: Path, memory_limit: str, source: Source | None) -> Iterator[Any]:
    """A database in memory that spills to a folder; its errors, of reading a source, in words."""
    try:
        duckdb = importlib.import_module("duckdb")
    except ImportError as error:
        raise ImportError(
            "Ratings.open sorts files with DuckDB, which is not installed: pip install "
            "'probmf[large]'."
        ) from error
    options = {
        "memory_limit": memory_limit, "temp_directory": str(spilled),
        "preserve_insertion_order": "false",
    }  # fmt: skip
    try:
        connection = duckdb.connect(config=options)
    except duckdb.Error as error:
        raise ValueError(
            f"memory_limit is {memory_limit!r}; expected a text such as '2GB' ({error})."
        ) from error
    try:
        with connection as database:
            # In a notebook either value would ask for ipywidgets, and none shows no bar.
            if "ipykernel" not in sys.modules:
                shown = str(sys.stderr.isatty()).lower()
                database.execute(f"SET enable_progress_bar = {shown}").fetchall()
            yield database
    except duckdb.OutOfMemoryException as error:
        raise MemoryError(
            f"memory_limit={memory_limit!r} does not suffice to sort these ratings: {error}"
        ) from error
    except duckdb.IOException as error:
        raise OSError(
            f"The ratings can't be sorted on disk, in {spilled.parent}: {error}"
        ) from error
    except (duckdb.Error, pa.ArrowException) as error:
        if source is None:
            raise
        raise ValueError(source.trouble(error)) from error


def _encode(
    database: Any,
    source: Source,
    side: Side,
    given: Vocabulary | Sequence[Any] | np.ndarray | None,
) -> Vocabulary:
    """The ids of one side, and a table of their codes in the database."""
    name = getattr(source, side)
    query = f"SELECT DISTINCT {_quoted(name)} AS id FROM source"
    written = database.sql(query).to_arrow_table().column(0).combine_chunks()
    if not len(written):
        raise ValueError(f"{sentence(source.what)} has no rows; at least one rating is needed.")
    ids = written if source.is_parquet else parse_ids(written)
    what = f"column {name!r}"
    if ids.null_count:
        _refuse_missing(database, name, written.filter(pc.is_null(ids)), what)
    if given is None:
        vocabulary, codes = Vocabulary.from_values(ids, side, what=what, column=name)
    else:
        vocabulary = in_order(given, side, name)
        codes = vocabulary.encode(ids, what=what)
    database.register(f"{side}_codes", pa.table({"id": written, "code": codes}))
    return vocabulary


def _refuse_missing(database: Any, name: str, spellings: pa.Array, what: str) -> None:
    """Name the first row without an id."""
    database.register("missing_ids", pa.table({"id": spellings}))
    missing = f"{_quoted(name)} IS NULL OR {_quoted(name)} IN (SELECT id FROM missing_ids)"
    row, count = _first_row(database, missing)
    raise ValueError(
        f"{sentence(what)} has {count:,} missing value{'s'[: count > 1]} (None, NaN or null), the "
        f"first in row {row}; an id must be known: drop these rows or give them an id of their own."
    )


def _first_row(database: Any, condition: str) -> tuple[int | None, int]:
    """The first row, counted from 0, of those that a condition holds for, and their number."""
    database.execute("SET preserve_insertion_order = true").fetchall()
    numbered = "SELECT *, row_number() OVER () - 1 AS row_of_file FROM source"
    query = f"SELECT min(row_of_file), count(*) FROM ({numbered}) WHERE {condition}"
    row, count = database.execute(query).fetchall()[0]
    return row, count


def _check_numbers(database: Any, source: Source, schema: pa.Schema) -> None:
    """Refuse columns of numbers and times that hold others, or none, or too large ones."""
    for name in source.names[2:]:
        own = schema.field(name).type
        kinds = NUMBERS | (TIMES - {CLOCK} if name == source.time else set())
        if array_kind(pa.array([], own)) not in kinds:
            noun = "numbers or dates" if name == source.time else "numbers"
            raise TypeError(f"Column {name!r} must hold {noun}, but is of type {own}.")
        column = _quoted(name)
        broken = {f"{column} IS NULL": ("missing", DROP)}
        if pa.types.is_floating(own):
            broken[f"NOT isfinite({column})"] = ("not finite", DROP)
        if name == source.weight:
            broken[f"{column} < 0"] = ("negative", "zero leaves a rating out of the fit.")
        # All at once: it is the whole file that is read.
        found = database.execute(
            f"SELECT {', '.join(f'bool_or({condition})' for condition in broken)} FROM source"
        ).fetchall()[0]
        for (condition, (state, advice)), is_there in zip(broken.items(), found, strict=True):
            if is_there:
                row, count = _first_row(database, condition)
                raise ValueError(
                    f"Column {name!r} is {state} in row {row} ({count:,} such "
                    f"row{'s'[: count > 1]}); {advice}"
                )


def _write_table(
    database: Any, source: Source, folder: Path, vocabularies: Mapping[Side, Vocabulary]
) -> None:
    """The table's columns, sorted by user, then item."""
    rating = "1.0" if source.rating is None else _quoted(source.rating)
    parts = [*(f"{side}s.code AS {side}" for side in SIDES), f"CAST({rating} AS DOUBLE) AS rating"]
    if source.weight is not None:
        parts.append(f"CAST({_quoted(source.weight)} AS DOUBLE) AS weight")
    if source.time is not None:
        parts.append(f"{_quoted(source.time)} AS time")
    joins = " ".join(
        f"JOIN {side}_codes AS {side}s ON source.{_quoted(getattr(source, side))} = {side}s.id"
        for side in SIDES
    )
    # In two steps: DuckDB sorts its own files in less memory than what comes through Arrow.
    coded = f"{folder / SPILLED}/coded.parquet"
    _copy(database, f"SELECT {', '.join(parts)} FROM source {joins}", coded)
    # By all columns, so that rows of one pair are added up in the same order by any threads.
    query = f"SELECT * FROM {_text(coded)} ORDER BY ALL"
    with ExitStack() as stack:
        files: dict[str, ColumnFile] = {}
        for columns in _whole_pairs(database.sql(query).to_arrow_reader(BATCH)):
            repeated = _first_repeat(columns)
            if repeated is not None and source.duplicates == "error":
                user, item = (
                    plain(vocabularies[side].ids[columns[side][repeated]]) for side in SIDES
                )
                raise ValueError(
                    f"User {user!r} and item {item!r} occur together in several rows. Choose what "
                    "a repeated pair means: duplicates='mean' averages the ratings, 'sum' adds "
                    "them."
                )
            if repeated is not None:
                columns = _combine(columns, mean=source.duplicates == "mean")
            for name, values in columns.items():
                if name not in files:
                    file = ColumnFile(column_path(folder, name), values.dtype)
                    files[name] = stack.enter_context(file)
                files[name].append(values)


def _whole_pairs(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, np.ndarray]]:
    """Columns piece by piece, all rows of a pair in one piece."""
    kept: dict[str, np.ndarray] | None = None
    for batch in batches:
        columns = {
            name: np.asarray(batch.column(place)) for place, name in enumerate(batch.schema.names)
        }
        if kept is not None:
            columns = {name: np.concatenate([kept[name], columns[name]]) for name in columns}
        new = np.flatnonzero(_new_pairs(columns))
        kept = {name: values[new[-1] :] for name, values in columns.items()}
        if new[-1]:
            yield {name: values[: new[-1]] for name, values in columns.items()}
    if kept is not None:
        yield kept


def _new_pairs(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """True for the first row of each pair."""
    user, item = columns["user"], columns["item"]
    new = np.ones(len(user), bool)
    new[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    return new


def _first_repeat(columns: Mapping[str, np.ndarray]) -> int | None:
    repeats = np.flatnonzero(~_new_pairs(columns))
    return int(repeats[0]) if len(repeats) else None


def _combine(columns: Mapping[str, np.ndarray], *, mean: bool) -> dict[str, np.ndarray]:
    """One row for each pair."""
    new = _new_pairs(columns)
    first, group = np.flatnonzero(new), np.cumsum(new) - 1
    found = {name: values[first] for name, values in columns.items()}
    rows = RatingColumns(columns["user"], columns["item"], columns["rating"], columns.get("weight"),
                columns.get("time"), {})  # fmt: skip
    combined = combine(rows, first, group, mean=mean)._asdict()
    return {name: combined[name] for name in found}


def _write_rows(
    database: Any, folder: Path, side: Side, vocabularies: Mapping[Side, Vocabulary]
) -> np.ndarray:
    """The columns of one side's rows, of the ratings that count; the number of each row's."""
    table = map_columns(folder)
    weighted = "weight" in table
    names = [side, OTHER[side], "rating", *(["weight"] if weighted else [])]
    database.register("sorted", pa.table({name: pa.array(table[name]) for name in names}))
    query = f"SELECT {', '.join(names)} FROM sorted{' WHERE weight > 0' if weighted else ''}"
    counting = f"{folder / SPILLED}/counting.parquet"
    _copy(database, query, counting)
    query = f"SELECT * FROM {_text(counting)} ORDER BY {side}, {OTHER[side]}"
    degree = np.zeros(len(vocabularies[side]), np.int64)
    with ExitStack() as stack:
        own: dict[str, Any] = {"partner": np.int32, "rating": np.float32}
        if weighted:
            own["weight"] = np.float32
        files = [
            stack.enter_context(ColumnFile(column_path(folder, f"{side}_{name}"), dtype))
            for name, dtype in own.items()
        ]
        for batch in database.sql(query).to_arrow_reader(BATCH):
            codes, *columns = (np.asarray(column) for column in batch.columns)
            degree += np.bincount(codes, minlength=len(degree))
            for file, values in zip(files, columns, strict=True):
                file.append(values.astype(file.dtype))
    return degree


def _copy(database: Any, query: str, path: str) -> None:
    """Write rows to a file of DuckDB's own."""
    Path(path).parent.mkdir(exist_ok=True)
    form = "(FORMAT parquet, COMPRESSION uncompressed)"
    database.execute(f"COPY ({query}) TO {_text(path)} {form}").fetchall()


def _text(path: str) -> str:
    """A text in SQL."""
    return "'" + path.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'
