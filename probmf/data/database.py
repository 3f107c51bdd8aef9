"""DuckDB, which joins and sorts ratings in as much memory as it is given and else on disk."""

import errno
import glob
import importlib
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from probmf.data.row_files import SPILLED
from probmf.data.source import Source

#: What DuckDB may take where nobody says it.
MEMORY_LIMIT = "2GB"
#: DuckDB's name for the number of a row in its file.
ROW = "file_row_number"
#: What an error of the operating system is called where there is no more room.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def connect(
    folder: Path, memory_limit: str, *, rank: int = 0, on_machine: int = 1
) -> Iterator[Any]:
    """A database in memory that spills into a folder of sorted ratings that is made.

    It may take `memory_limit`, such as "2GB", shared with the others of the `on_machine` processes;
    the one of rank 0 shows progress. Without DuckDB an ImportError says what to install.
    """
    duckdb = _library()
    options = {
        "memory_limit": _share_of(memory_limit, on_machine),
        "temp_directory": str(folder / SPILLED / str(rank)), "preserve_insertion_order": "false",
    }  # fmt: skip
    try:
        connection = duckdb.connect(config=options)
    except duckdb.Error as error:
        raise ValueError(
            f"memory_limit is {memory_limit!r}; expected a text such as '2GB' ({error})."
        ) from error
    with connection as database:
        # In a notebook either value would ask for ipywidgets, and none shows no bar.
        if "ipykernel" not in sys.modules:
            shown = str(sys.stderr.isatty() and rank == 0).lower()
            database.execute(f"SET enable_progress_bar = {shown}").fetchall()
        if on_machine > 1:
            cores = database.execute("SELECT current_setting('threads')").fetchall()[0][0]
            database.execute(f"SET threads = {max(1, cores // on_machine)}").fetchall()
        yield database


def _library() -> Any:
    try:
        return importlib.import_module("duckdb")
    except ImportError as error:
        raise ImportError(
            "Ratings.open sorts files with DuckDB, which is not installed: pip install "
            "'probmf[large]'."
        ) from error


def _share_of(memory_limit: str, count: int) -> str:
    """A part of a size that is written as text, such as "1.5 GB" or "80%"."""
    size = re.fullmatch(r"\s*([\d.]+)(\D*)", memory_limit)
    if count == 1 or size is None:
        return memory_limit
    return f"{float(size[1]) / count}{size[2]}"


@contextmanager
def in_words(
    folder: Path, memory_limit: str, source: Source | None, on_machine: int = 1
) -> Iterator[None]:
    """Errors of a database, which reads a source or none, in words.

    A MemoryError where the limit does not suffice, an OSError of a full disk, and a ValueError of a
    source that can't be read.
    """
    duckdb = _library()
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        shared = f", shared by {on_machine} processes," if on_machine > 1 else ""
        raise MemoryError(
            f"memory_limit={memory_limit!r}{shared} does not suffice to sort these ratings: {error}"
        ) from error
    except duckdb.IOException as error:
        if source is not None and str(folder) not in str(error):
            raise ValueError(source.trouble(error)) from error
        raise OSError(_no_room(folder, error)) from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise OSError(_no_room(folder, error)) from error
    except (duckdb.Error, pa.ArrowException) as error:
        if source is None:
            raise
        raise ValueError(source.trouble(error)) from error


def _no_room(folder: Path, error: Exception) -> str:
    return (
        f"The ratings can't be sorted on disk, in {folder}: {error}. If the disk is full, make "
        "room there, or name a folder on another disk (folder=)."
    )


def copy(database: Any, query: str, path: Path, *, by: str | None = None) -> None:
    """Write rows to a file of Parquet, or to a folder of them by the values of a column."""
    form = "FORMAT parquet, COMPRESSION uncompressed"
    form += f", PARTITION_BY ({by})" if by is not None else ""
    database.execute(f"COPY ({query}) TO {text(str(path))} ({form})").fetchall()


def parquet(folder: Path, pattern: str, *, by_folder: bool = False) -> str:
    """A table in SQL: files of Parquet, with what the names of their folders say or without."""
    paths = text(f"{glob.escape(str(folder))}/{pattern}")
    return f"read_parquet({paths}, hive_partitioning = {str(by_folder).lower()})"


def parquet_files(paths: Iterable[str], *, numbered: bool = False) -> str:
    """A table in SQL: files of Parquet, one after the other; with numbers of rows in the file."""
    listed = ", ".join(text(glob.escape(path)) for path in paths)
    options = f"hive_partitioning = false, {ROW} = {str(numbered).lower()}"
    return f"read_parquet([{listed}], {options})"


def text(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'
