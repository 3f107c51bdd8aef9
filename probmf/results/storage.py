"""Fits on disk: JSON, safetensors and Parquet. Never pickle."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from probmf import shards
from probmf.data import Encoder, Examples, Ratings
from probmf.data.encoder import ColumnEncoding
from probmf.likelihoods import registry
from probmf.models import (
    MLP,
    Linear,
    MatrixFactorization,
    MixedEffects,
    Network,
    NormalWishart,
)
from probmf.results import directory
from probmf.results.codec import Parts, decode, encode
from probmf.results.directory import ARRAYS, COLUMNS, TABLES
from probmf.results.history import History
from probmf.results.maximum import Maximum
from probmf.results.moments import RowMoments
from probmf.results.sampling import Sampling
from probmf.results.traces import Traces, Watched

#: Classes that a saved fit may hold.
KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        ColumnEncoding, Encoder, Examples, History, Linear, MLP, MatrixFactorization, Maximum,
        MixedEffects, Network, NormalWishart, Ratings, RowMoments, Sampling, Traces, Watched,
        *registry.KINDS,
    )
}  # fmt: skip


def write_fit(
    path: str | PathLike[str], kind: str, fields: Mapping[str, Any], *, shared: bool = False
) -> None:
    """Write a fit to a directory, all of it or nothing.

    Args:
        path: Directory to make; a saved fit that is there is replaced.
        kind: Class of the fit.
        fields: Its fields by name.
        shared: Whether all processes are here, and write a range of every array each.

    Raises:
        ValueError: If a prior, an id, a column or a label has no faithful file form.
        FileExistsError: If `path` exists and is not a saved fit, or holds other files as well.
    """
    parts = Parts()
    written = {name: encode(value, name, parts) for name, value in fields.items()}

    def fill(folder: Path) -> dict[str, Any]:
        if parts.columns:
            _write_columns(parts.columns, folder / COLUMNS)
        for name, table in parts.tables.items():
            _write_parquet(table, folder / TABLES[name], f"{name.rpartition('.')[2]}")
        return {"kind": kind, "fields": written}

    directory.write(path, parts.arrays, fill, shared=shared)


def read_fit(path: str | PathLike[str]) -> tuple[str, dict[str, Any]]:
    """The class and the fields that `write_fit` wrote.

    Args:
        path: The directory.

    Returns:
        Name of the class, and its fields by name.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If a file is missing, truncated, altered or not of this package.
    """
    source = Path(path)
    manifest = directory.read_manifest(source)
    with directory.damage_told(source):
        parts = Parts(shards.read(source, ARRAYS, manifest["arrays"]))
    try:
        if (source / COLUMNS).is_file():
            table = _read_parquet(source / COLUMNS)
            parts.columns = {name: table[name] for name in table.column_names}
        for name, file in TABLES.items():
            if (source / file).is_file():
                parts.tables[name] = _read_parquet(source / file)
        fields = {name: decode(value, KINDS, parts) for name, value in manifest["fields"].items()}
    except (pa.ArrowException, AttributeError, LookupError, TypeError, ValueError) as error:
        raise unreadable(source, error) from error
    return manifest["kind"], fields


def unreadable(source: Path, error: Exception) -> ValueError:
    """The error of a directory that does not hold what it says."""
    return ValueError(
        f"{source} does not hold what its {directory.MANIFEST} says "
        f"({type(error).__name__}: {error}); save the fit again."
    )


def _write_columns(columns: Mapping[str, pa.Array], file: Path) -> None:
    """Columns of any lengths in one table: the shorter ones are filled up with nulls."""
    rows = max(map(len, columns.values()))
    filled = {
        name: pa.concat_arrays([column, pa.nulls(rows - len(column), column.type)])
        for name, column in columns.items()
    }
    _write_parquet(pa.table(filled), file, "ids and columns")


def _write_parquet(table: pa.Table, file: Path, what: str) -> None:
    try:
        pq.write_table(table, file)
    except pa.ArrowException as error:
        raise ValueError(
            f"The table of {what} can't be stored as Parquet ({error}); convert or leave out the "
            "column that is meant."
        ) from None


def _read_parquet(file: Path) -> pa.Table:
    # read_table would take folders called like "fold=1" for columns.
    return pq.ParquetFile(file).read()
