"""Fits on disk: JSON, safetensors and Parquet. Never pickle.

A frozen dataclass is written by its name and its fields, and read back only if it is one of
`KINDS`; arrays and tables lie beside the JSON.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import pyarrow as pa
import pyarrow.parquet as pq
from numpyro.distributions import Distribution

from probmf import likelihoods, shards
from probmf.data import Encoder, Examples, Ratings, Vocabulary
from probmf.data.column import objects
from probmf.data.encoder import ColumnEncoding
from probmf.data.vocabulary import read_levels
from probmf.models import (
    MLP,
    Linear,
    MatrixFactorization,
    MixedEffects,
    Network,
    NormalWishart,
)
from probmf.models.mixed import Design
from probmf.models.mixed.build import columns_of
from probmf.models.mixed.design import read_data
from probmf.results import directory
from probmf.results.directory import ARRAYS, COLUMNS, TABLES
from probmf.results.records import History, Maximum, RowMoments, Sampling, Traces, Watched

#: Classes that a saved fit may hold.
KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        ColumnEncoding, Encoder, Examples, History, Linear, MLP, MatrixFactorization, Maximum,
        MixedEffects, Network, NormalWishart, Ratings, RowMoments, Sampling, Traces, Watched,
        *likelihoods.KINDS,
    )
}  # fmt: skip


def write_fit(
    path: str | PathLike[str], kind: str, fields: Mapping[str, Any], *, shared: bool = False
) -> None:
    """Write a fit to a directory, all of it or nothing; if it is `shared`, by all processes."""
    parts = Parts()
    written = {name: encode(value, name, parts) for name, value in fields.items()}

    def fill(folder: Path) -> dict[str, Any]:
        if parts.columns:
            # In one table: the shorter ones are filled up with nulls.
            rows = max(map(len, parts.columns.values()))
            filled = {
                name: pa.concat_arrays([column, pa.nulls(rows - len(column), column.type)])
                for name, column in parts.columns.items()
            }
            _write_parquet(pa.table(filled), folder / COLUMNS, "ids and columns")
        for name, table in parts.tables.items():
            _write_parquet(table, folder / TABLES[name], f"{name.rpartition('.')[2]}")
        return {"kind": kind, "fields": written}

    directory.write(path, parts.arrays, fill, shared=shared)


def read_fit(path: str | PathLike[str]) -> tuple[str, dict[str, Any]]:
    """The class and the fields that `write_fit` wrote."""
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


#: Marks of values that JSON has no form for.
ARRAY, COLUMN, ARROW, TABLE = "array", "column", "arrow", "table"
IDS, KIND, LAW, MAP, NUMBER, SET = "ids", "kind", "law", "map", "float", "set"


@dataclass
class Parts:
    """Arrays of numbers, columns of anything else, and side tables of what was encoded, by name."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    columns: dict[str, pa.Array] = field(default_factory=dict)
    tables: dict[str, pa.Table] = field(default_factory=dict)

    def add_column(self, name: str, column: pa.Array | pa.ChunkedArray) -> str:
        """Keep a column; its name."""
        chunked = isinstance(column, pa.ChunkedArray)
        self.columns[name] = column.combine_chunks() if chunked else column
        return name


def encode(value: Any, name: str, parts: Parts) -> Any:
    """A value for JSON; arrays, columns and tables go to `parts`.

    `name` says what the value is, as "data.rating", and names its parts. A value that has no form
    that reads back the same is refused.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {NUMBER: str(value)}
    if isinstance(value, Distribution):
        return _encode_law(value, name)
    if isinstance(value, np.ndarray | jax.Array):
        return _encode_array(np.asarray(value), name, parts)
    if isinstance(value, Vocabulary):
        return _encode_ids(value, name, parts)
    if isinstance(value, pa.Array | pa.ChunkedArray):
        # Parquet has no seconds.
        unit = value.type.unit if pa.types.is_timestamp(value.type) else None
        return {ARROW: parts.add_column(name, value), "unit": unit, "rows": len(value)}
    if isinstance(value, pa.Table):
        parts.tables[name] = value
        return {TABLE: name}
    if is_dataclass(value):
        own = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        written = {key: encode(part, f"{name}.{key}", parts) for key, part in own.items()}
        return {KIND: type(value).__name__, "fields": written}
    if isinstance(value, Mapping):
        return {MAP: {str(k): encode(v, f"{name}.{k}", parts) for k, v in value.items()}}
    if isinstance(value, set | frozenset):
        return {SET: sorted(value)}
    if isinstance(value, list | tuple):
        return [encode(part, f"{name}[{place}]", parts) for place, part in enumerate(value)]
    raise ValueError(
        f"{name} is {value!r} of type {type(value).__name__}, which has no file form; use text, "
        "numbers, or NumPyro's own distributions."
    )


def decode(written: Any, kinds: Mapping[str, type], parts: Parts) -> Any:
    """The value that `encode` wrote.

    `kinds` are the classes that may be made, by name; sequences are tuples. A KeyError, TypeError
    or ValueError says that it is none of these forms.
    """
    if isinstance(written, list):
        return tuple(decode(part, kinds, parts) for part in written)
    if not isinstance(written, dict):
        return written
    form: str = next(iter(written), "")
    found: Any = written.get(form)
    if form == NUMBER:
        return float(found)
    if form == LAW:
        return _decode_law(written)
    if form == ARRAY:
        array = parts.arrays[found]
        return array.view(written["dtype"]) if "dtype" in written else array
    if form == COLUMN:
        column, dtype = parts.columns[found][: written["rows"]], np.dtype(written["dtype"])
        if dtype.hasobject:
            return objects(column.to_pylist())
        return column.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    if form == IDS:
        return Vocabulary(written["of"], decode(found, kinds, parts), written["column"])
    if form == ARROW:
        column = parts.columns[found][: written["rows"]]
        unit = written["unit"]
        return column if unit is None else column.cast(pa.timestamp(unit, tz=column.type.tz))
    if form == TABLE:
        return parts.tables[found]
    if form == MAP:
        return {name: decode(part, kinds, parts) for name, part in found.items()}
    if form == SET:
        return frozenset(found)
    if form == KIND:
        own = {name: decode(part, kinds, parts) for name, part in written["fields"].items()}
        return kinds[found](**own)
    raise ValueError(f"{written!r} is none of the forms of a value")


def _encode_array(values: np.ndarray, name: str, parts: Parts) -> dict[str, Any]:
    if values.dtype.kind in "biuf":
        parts.arrays[name] = np.asarray(values, values.dtype.newbyteorder("="), order="C")
        return {ARRAY: name}
    if values.dtype.kind in "mM":
        parts.arrays[name] = np.asarray(values, order="C").view(np.int64)
        return {ARRAY: name, "dtype": values.dtype.str}
    column = parts.add_column(name, _to_arrow(values, name))
    return {COLUMN: column, "dtype": values.dtype.str, "rows": len(values)}


def _encode_ids(vocabulary: Vocabulary, name: str, parts: Parts) -> dict[str, Any]:
    told = {"of": vocabulary.name, "column": vocabulary.column}
    if vocabulary.ids.dtype.kind in "biufmM":
        return {IDS: _encode_array(vocabulary.ids, name, parts)} | told
    try:
        column = parts.add_column(name, vocabulary.to_arrow())
    except TypeError:
        raise ValueError(
            f"The {vocabulary.name} ids are {vocabulary.kind}, such as {vocabulary.ids[0]!r}, "
            "which have no file form that reads back the same. Make them integers, text or UUIDs "
            "before fitting."
        ) from None
    ids = {COLUMN: column, "dtype": vocabulary.ids.dtype.str, "rows": len(vocabulary)}
    return {IDS: ids} | told


def _to_arrow(values: np.ndarray, name: str) -> pa.Array:
    """An Arrow array that reads back as the same column."""
    try:
        array = pa.array(values)
        if values.dtype == object:
            # Arrow takes tuples, enumerations and so on for something like them.
            for row, (own, back) in enumerate(zip(values, array.to_pylist(), strict=True)):
                if type(own) is not type(back) or not (own == back or own != own):
                    raise ValueError(f"row {row} holds {own!r}, not {back!r}")
    except (pa.ArrowException, ValueError) as error:
        column = name.removeprefix("data.").removeprefix("columns.")
        raise ValueError(
            f"Column {column!r} of the data has no file form that reads back the same"
            f" ({error}). Convert it to numbers or text, or leave it out."
        ) from None
    return array


def _encode_law(law: Distribution, name: str) -> dict[str, Any]:
    """A distribution by its name and arguments, which are numbers or arrays; it may be expanded."""
    if isinstance(law, dist.ExpandedDistribution):
        return _encode_law(law.base_dist, name) | {"shape": list(law.batch_shape)}
    kind = type(law)
    try:
        if getattr(dist, kind.__name__, None) is not kind:
            raise TypeError(f"numpyro.distributions has no {kind.__name__}")
        names = [*kind.arg_constraints, *(["dimension"] if hasattr(law, "dimension") else [])]
        arguments = {key: np.asarray(getattr(law, key)) for key in names}
        written = {LAW: kind.__name__, "arguments": {k: _plain(v) for k, v in arguments.items()}}
        back = _decode_law(written)
        for key, value in arguments.items():
            if not np.array_equal(np.asarray(getattr(back, key)), value):
                raise TypeError(f"its {key} would be another")
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"The prior of {name.rpartition('.')[2]}, a {kind.__name__}, has no file form "
            f"({error}); use one of NumPyro's own distributions with numbers as arguments."
        ) from None
    return written


def _decode_law(written: Mapping[str, Any]) -> Distribution:
    kind = getattr(dist, written[LAW], None)
    if not (isinstance(kind, type) and issubclass(kind, Distribution)):
        raise ValueError(f"{written[LAW]!r} is no distribution of NumPyro's.")
    arguments = {
        key: np.asarray(value) if isinstance(value, list) else value
        for key, value in written["arguments"].items()
    }
    law = kind(**arguments)
    return law.expand(tuple(written["shape"])) if "shape" in written else law


def _plain(value: np.ndarray) -> Any:
    if value.dtype.kind not in "fiub":
        raise TypeError(f"an argument is of type {value.dtype}")
    return value.tolist()


def used_columns(model: MixedEffects, design: Design, data: Any) -> dict[str, Any]:
    """The columns that the formulas use; categories as their codes and their order.

    Arrays, NumPy's or Arrow's, and mappings of `codes` and `order`. A table that gives another
    design is refused.
    """
    formulas = [part for part in (model.parsed, model.parsed_scale) if part is not None]
    names = [design.data.response_name, *(name for part in formulas for name in columns_of(part))]
    names += [*design.known.values(), *([] if model.weights is None else [model.weights])]
    columns: dict[str, Any] = {}
    table = read_data(data, list(dict.fromkeys(names)), gaps=model.parsed.with_gaps)
    for name, column in table.items():
        order = column.categories
        if order is None:
            columns[name] = column.values
            continue
        vocabulary, codes = read_levels(column, name)
        place = {value: place for place, value in enumerate(order)}
        ranks = np.array([place[value] for value in vocabulary.ids.tolist()], np.int32)
        columns[name] = {"codes": ranks[codes], "order": objects(order)}
    _check_same(design, model.design(as_table(columns)))
    return columns


def as_table(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns as a table that gives the same design."""
    return {
        name: pa.DictionaryArray.from_arrays(
            pa.array(column["codes"]), pa.array(column["order"]), ordered=True
        )
        if isinstance(column, Mapping)
        else column
        for name, column in columns.items()
    }


def _check_same(design: Design, again: Design) -> None:
    """Refuse data that do not give the design that was fitted."""
    ours, theirs = (
        jax.tree.leaves((part.data.predictors, part.data.response, part.data.weight))
        for part in (design, again)
    )
    same = len(ours) == len(theirs) and all(
        a.shape == b.shape and np.array_equal(np.float32(a), np.float32(b))
        for a, b in zip(ours, theirs, strict=True)
    )
    same = same and design.levels.keys() == again.levels.keys()
    same = same and all(
        list(map(str, design.levels[name])) == list(map(str, again.levels[name]))
        for name in design.levels
    )
    if not same or design.response_levels != again.response_levels:
        raise ValueError(
            "The training data give another design than the one that was fitted: they are other "
            "data, or a column has no file form that reads back the same. Give save(path, "
            "data=...) the table that the fit was made from, with ids as numbers or text."
        )
