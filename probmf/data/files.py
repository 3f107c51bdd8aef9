"""Files of ratings and side tables: CSV and Parquet become Arrow tables."""

import codecs
import csv
import io
import os
import re
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from probmf.data.column import FLOATS, INTEGERS, NOTHING, array_kind, is_text, sentence
from probmf.data.tables import IDS_ELSEWHERE, refuse_doubled, require_columns
from probmf.memory import require_memory

#: Memory that a row of numbers takes at most while it is read, measured at ten million.
ROW_BYTES = 60

type PathLike = str | os.PathLike[str]


def in_one_line(error: Exception) -> str:
    """A library's words about a file, to stand within a sentence."""
    return " ".join(str(error).split()).rstrip(" .")


def read_csv(
    path: PathLike,
    names: Sequence[str] | None = None,
    *,
    delimiter: str,
    column_names: Sequence[str] | None = None,
    text: Sequence[str] = (),
    gaps: bool = False,
) -> pa.Table:
    """A CSV file; .gz, .bz2 and .zst are decompressed.

    Without `names` all columns; `column_names` are those of a file without a header line; columns
    in `text` are read as they are written. With `gaps` text that is empty or NA is missing, as
    numbers always are.
    """
    read_options = pa.csv.ReadOptions(column_names=column_names)
    parse_options = csv_options(delimiter)
    convert_options = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(text, pa.string()), strings_can_be_null=gaps
    )
    what = f"the file {os.fspath(path)}"
    try:
        refuse_second_header(path, delimiter, column_names)
        # The whole file and not its first block: a later block may change a column's type.
        table = pa.csv.read_csv(path, read_options, parse_options, convert_options)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {os.fspath(path)}.") from None
    except (pa.ArrowInvalid, OSError) as error:
        said = in_one_line(error)
        said = said if isinstance(error, OSError) else csv_trouble(path, said)
        raise ValueError(
            f"{sentence(what)} could not be read as CSV with the delimiter {delimiter!r}: {said}."
        ) from error
    refuse_doubled(table.column_names, what)
    if names is None:
        return table
    hints = csv_hints(names, table.column_names, delimiter)
    require_columns(names, table.column_names, what, hints=hints)
    return table.select(list(names))


def csv_hints(names: Sequence[str], found: Sequence[str], delimiter: str) -> Mapping[str, str]:
    """Advice where the first line of a file lacks the name of a column."""
    if len(found) == 1:
        hint = f" There is one column only, so the delimiter may not be {delimiter!r}."
    elif any(re.fullmatch(r"[-+.\d]+", name) for name in found):
        hint = " If the first line is no header, name the columns: column_names=[...]."
    else:
        return IDS_ELSEWHERE
    return dict.fromkeys(names, hint)


def refuse_second_header(
    path: PathLike, delimiter: str, column_names: Sequence[str] | None
) -> None:
    """Refuse names of columns that the first line has, which would be taken for a rating.

    Raises:
        ValueError: If the first line has these names.
    """
    if column_names is None:
        return
    with decompressed(path) as stream:
        line = stream.readline().decode("utf-8-sig", "replace")
    if next(csv.reader([line], delimiter=delimiter), []) == list(column_names):
        raise ValueError(
            f"The first line of the file {os.fspath(path)} has the names of column_names, and "
            "would be taken for a rating; leave column_names out."
        )


def decompressed(path: PathLike) -> io.BufferedReader:
    """The bytes of a file."""
    return io.BufferedReader(pa.input_stream(os.fspath(path)))


def csv_options(delimiter: str) -> pa.csv.ParseOptions:
    """Options that CSV is read with."""
    # Without newlines in values, rows after a quote that is not closed would be left out.
    return pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)


def csv_trouble(path: PathLike, said: str) -> str:
    """Fault of a file of CSV, from what pyarrow says of it."""
    with decompressed(path) as stream:
        if stream.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "it is written in UTF-16; save it as UTF-8"
        if "invalid UTF8" in said:
            return f"{said}; save it as UTF-8"
        if not re.search("straddl|Expected .* columns", said):
            return said
        odd = [number for number, line in enumerate(stream, 1) if line.count(b'"') % 2]
    if len(odd) % 2:
        return f'a quote (") that begins in line {odd[0]} is not closed'
    return said


def common_schema(schemas: Mapping[str, pa.Schema], names: Sequence[str]) -> pa.Schema:
    """The first file's columns, those wanted with the types that hold those of all files.

    `schemas` has the columns of each file by its path. A file that lacks a column, or has one of
    another kind, is refused.
    """
    first = next(iter(schemas))
    found = schemas[first]
    for path, schema in schemas.items():
        require_columns(names, schema.names, f"the file {path}")
        for name in names:
            wanted, own = found.field(name), schema.field(name)
            if own.type == wanted.type:
                continue
            try:
                # Whole and floating numbers become one column, nulls and anything; others not.
                kinds = {array_kind(pa.array([], of)) for of in (wanted.type, own.type)} - {NOTHING}
                if len(kinds) > 1 and kinds != {INTEGERS, FLOATS}:
                    raise pa.ArrowTypeError(f"{wanted.type} and {own.type} are of different kinds.")
                both = pa.unify_schemas(
                    [pa.schema([wanted]), pa.schema([own])], promote_options="permissive"
                )
            except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
                raise ValueError(
                    f"Column {name!r} is of type {own.type} in the file {path}, but of type "
                    f"{wanted.type} in {first}; write all files with the same types."
                ) from error
            found = found.set(found.names.index(name), both.field(name))
    return found


def read_parquet(path: PathLike, names: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, or a folder of them; see `read_csv`."""
    what = f"the file {os.fspath(path)}"
    try:
        dataset = pa.parquet.ParquetDataset(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file or folder {os.fspath(path)}.") from None
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{sentence(what)} could not be read as Parquet: {in_one_line(error)}."
        ) from error
    if not dataset.fragments:
        raise FileNotFoundError(f"The folder {os.fspath(path)} holds no Parquet file.")
    refuse_doubled(dataset.schema.names, what)
    require_columns(names or (), dataset.schema.names, what, hints=IDS_ELSEWHERE)
    schemas = {fragment.path: fragment.physical_schema for fragment in dataset.fragments}
    # Others are in the names of folders.
    in_files = {name for schema in schemas.values() for name in schema.names}
    schema = dataset.schema
    if len(schemas) > 1:
        own = [name for name in names or () if name in in_files]
        common = common_schema(schemas, own)
        for name in own:
            schema = schema.set(schema.names.index(name), common.field(name))
    num_rows = sum(fragment.metadata.num_rows for fragment in dataset.fragments)
    require_memory(
        ROW_BYTES * num_rows,
        f"{sentence(what)} has {num_rows:,} rows, and to read them",
        "Ratings.open sorts them on disk instead.",
        share=0.8,
    )
    wanted = dataset.schema.names if names is None else names
    try:
        # One column after the other, so that only one stands in memory twice while it is put
        # together.
        columns = [
            pa.parquet.read_table(path, columns=[name], schema=schema).column(0).combine_chunks()
            for name in wanted
        ]
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{sentence(what)} could not be read as Parquet: {in_one_line(error)}. Write it again."
        ) from error
    return pa.table(columns, list(wanted))


_MISSING_TEXT = pa.array(
    ["", "#N/A", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "none", "-nan", "-NaN"]
)


def infer_ids(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The table with columns of text as ids; see `parse_ids`."""
    for name in names:
        ids = parse_ids(table[name].combine_chunks())
        table = table.set_column(table.column_names.index(name), name, ids)
    return table


def parse_ids(texts: pa.Array) -> pa.Array:
    """Ids that were written as text.

    Ids that are all written as whole numbers (no leading zero, no sign +) become integers; any
    other column of ids stays text, so that "007" and "7" remain two ids. Empty fields and the usual
    spellings of missing values ("NA", "nan", "null", ...) are missing among integers; among text
    only empty fields are.
    """
    if not is_text(texts.type):
        return texts
    kept = pc.if_else(pc.is_in(texts, _MISSING_TEXT), None, texts)
    # "-0" and 20-digit numbers are the two that this pattern lets through and int64 changes.
    canonical = pc.match_substring_regex(kept, r"^(0|-?[1-9][0-9]{0,18})$")
    if pc.all(canonical, min_count=1).as_py():
        try:
            return kept.cast(pa.int64())
        except pa.ArrowInvalid:
            pass
    return pc.if_else(pc.equal(texts, ""), None, texts)
