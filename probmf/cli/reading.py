"""Files and words of the command line become ratings, tables and ids."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from probmf.cli.console import note
from probmf.data import Ratings, Vocabulary
from probmf.data.column import BOOLEANS, INTEGERS, TEXT, UUIDS
from probmf.data.files import infer_ids, read_csv, read_parquet
from probmf.data.side_tables import align_features
from probmf.models import MixedEffects
from probmf.models.mixed import Design
from probmf.models.mixed.formula import variables
from probmf.results import RatingsFit, directory, load

_CSV = tuple(f".{kind}{end}" for kind in ("csv", "tsv") for end in ("", ".gz", ".bz2", ".zst"))
_PARQUET = (".parquet", ".pq")
_BOOLEANS = {"true": True, "false": False}


def _integer(word: str) -> int:
    """A whole number as it is written, so that "007" and "1_000" are none."""
    if str(int(word)) != word:
        raise ValueError(word)
    return int(word)


#: Entry of a fit's manifest.
_SOURCE = "source"


@dataclass(frozen=True)
class RatingsOrigin:
    """Column and threshold that ratings were read with, kept with the fit; None where none was."""

    rating: str | None = "rating"
    threshold: float | None = None

    def keep(self, path: Path) -> None:
        """Write it into a saved fit."""
        directory.add_entry(path, _SOURCE, asdict(self))

    @classmethod
    def of(cls, path: Path) -> "RatingsOrigin":
        """That of a saved fit; the name of `probmf fit` if it was saved from Python."""
        found = directory.entry(path, _SOURCE)
        return cls() if found is None else cls(**found)


def read_ratings(path: Path, **columns: Any) -> Ratings:
    """Ratings from a CSV, TSV or Parquet file, told apart by the name, or from a folder.

    A folder holds Parquet files or sorted ratings, for `Ratings.open`. Columns are those of
    `Ratings.from_frame`.
    """
    if path.is_dir():
        return Ratings.open(path, shared=True, **columns)
    if _is_parquet(path):
        return Ratings.from_parquet(path, **columns)
    return Ratings.from_csv(path, delimiter=_delimiter(path), **columns)


def read_test(
    path: Path,
    fit: RatingsFit,
    directory: Path,
    *,
    user: str | None,
    item: str | None,
    rating: str | None,
    pairs_only: bool,
    threshold: float | None,
) -> Ratings:
    """Test ratings, read as the fit's own were unless told otherwise.

    Columns and threshold are the fit's where they are None. A note tells of ratings that are
    made yes/no by the fit's own threshold.
    """
    source = RatingsOrigin.of(directory)
    if pairs_only and np.any(fit.data.rating != 1.0):
        note(
            "The fit was trained on ratings, and --pairs-only takes all test ratings for 1: "
            "measures of lists are right, errors and coverage are not."
        )
    rating = None if pairs_only else rating or source.rating
    ids = {"user": user or fit.data.users.column, "item": item or fit.data.items.column}
    data = same_kind_of_ids(read_ratings(path, rating=rating, **ids), fit.data)
    if threshold is None and source.threshold is not None:
        threshold = source.threshold
        note(
            f"Ratings of at least {threshold:g} are taken for yes, as in the fit's own; "
            "--threshold sets another value."
        )
    return data if threshold is None else data.binarize(threshold)


def refuse_to_replace(path: Path, force: bool, *others: Path | None) -> None:
    """Keep what is there already, unless it is a fit that may be replaced.

    A place where nothing can be written is refused, too, before there is anything to write; and
    other folders of the run that are, or lie, in it, which the fit would find there.
    """
    if not force and (path / directory.MANIFEST).exists():
        raise FileExistsError(
            f"{path} holds a fit already. Give another folder, or --force to replace it."
        )
    directory.check_target(path)
    for other in others:
        if other is not None and other.resolve().is_relative_to(path.resolve()):
            raise ValueError(
                f"{other} is within {path}, which holds the fit and nothing else; name a folder "
                "beside it."
            )
    there = next(folder for folder in path.resolve().parents if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file, so that {path} can't be made; give another.")
    _check_folder(there)


def load_fit(path: Path) -> RatingsFit:
    """A saved factorization."""
    fit = load(path)
    if not isinstance(fit, RatingsFit):
        raise ValueError(
            f"{path} holds a {type(fit).__name__}; the command line takes fits of "
            "MatrixFactorization. Use the Python interface, probmf.load(path)."
        )
    return fit


def add_features(ratings: Ratings, path: Path, side: str, id_name: str) -> Ratings:
    """The ratings with a side table, whose column of ids may be called "user" or "item", too."""
    vocabulary = ratings.users if side == "user" else ratings.items
    table = read_table(path, text=(id_name, side))
    columns = dict(zip(table.column_names, table.columns, strict=True))
    name = id_name if id_name in columns else side
    if name in columns and vocabulary.kind != TEXT and pa.types.is_string(columns[name].type):
        columns[name] = parse_ids(columns[name].to_pylist(), vocabulary)
    features: Any = align_features(columns, vocabulary, id_name)
    return replace(ratings, **{f"{side}_features": features})


def read_table(path: Path, *, text: Sequence[str] = ()) -> pa.Table:
    """A CSV, TSV or Parquet file as it is; columns in `text` are read as text."""
    if _is_parquet(path):
        return read_parquet(path)
    return read_csv(path, delimiter=_delimiter(path), text=text)


def read_rows(path: Path, model: MixedEffects, known: Design | None = None) -> pa.Table:
    """A table for a formula.

    Fields that are empty, or NA, are missing; and "007" is not the group 7, unless the column is a
    predictor as well. Of new data groups are text if they were in the training data, the `known`
    design.
    """
    if _is_parquet(path):
        return read_parquet(path)
    formulas = [part for part in (model.parsed, model.parsed_scale) if part is not None]
    if known is None:
        ids = {name for part in formulas for term in part.groups for name in term.factors}
        ids -= {name for part in formulas for own in part.parts for name in variables(own)}
    else:
        groups = [term.groups for coding in known.codings for term in coding.terms]
        ids = {
            name for own in groups for name, of in zip(own.factors, own.vocabularies, strict=True)
            if of.kind == TEXT
        }  # fmt: skip
    text = sorted(ids)
    table = read_csv(path, delimiter=_delimiter(path), text=text, gaps=True)
    there = [name for name in text if known is None and name in table.column_names]
    return infer_ids(table, there)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as CSV, TSV or Parquet, by the name of the file; whole, or not at all."""
    new = path.with_name(f".new-{path.name}")
    try:
        if _kind_of(path) == "parquet":
            pa.parquet.write_table(table, new)
        else:
            with pa.output_stream(new, compression="detect") as stream:
                pa.csv.write_csv(table, stream, pa.csv.WriteOptions(delimiter=_delimiter(path)))
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def parse_ids(words: Sequence[str], vocabulary: Vocabulary) -> np.ndarray:
    """Ids as they are written, in the type that the vocabulary, which need not have them, has."""
    readers: dict[str, Any] = {
        TEXT: str, INTEGERS: _integer, UUIDS: UUID, BOOLEANS: lambda word: _BOOLEANS[word.lower()],
    }  # fmt: skip
    if vocabulary.kind not in readers:
        raise ValueError(
            f"The {vocabulary.name} ids are {vocabulary.kind}, which can't be written on the "
            "command line; use the Python interface, load(...)."
        )
    ids = np.empty(len(words), dtype=object)
    for place, word in enumerate(words):
        try:
            ids[place] = readers[vocabulary.kind](word)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{word!r} is no {vocabulary.name} id of this fit: its {vocabulary.name} ids are "
                f"{vocabulary.kind}, such as {examples(vocabulary)}."
            ) from None
    return ids


def same_kind_of_ids(ratings: Ratings, known: Ratings) -> Ratings:
    """Ratings with ids of the type that a fit has, where a file's may be numbers, text or UUIDs."""
    users = _same_kind(ratings.users, known.users)
    return replace(ratings, users=users, items=_same_kind(ratings.items, known.items))


def _same_kind(own: Vocabulary, other: Vocabulary) -> Vocabulary:
    if own.kind == other.kind or TEXT not in (own.kind, other.kind):
        return own
    return Vocabulary(own.name, parse_ids([str(value) for value in own], other), own.column)


def examples(vocabulary: Vocabulary) -> str:
    """The first ids of a vocabulary, for messages."""
    return ", ".join(str(value) for value in vocabulary.ids[:3])


def check_writable(path: Path) -> None:
    """Refuse a file name that `write_table` has no format for, or a place; see `check_place`."""
    _kind_of(path)
    check_place(path)


def check_place(path: Path) -> None:
    """Refuse a place where no file can be written, before there is anything to write."""
    folder = path.resolve().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} to write {path.name} in; make it.")
    _check_folder(folder)


def _check_folder(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"Nothing can be written in the folder {folder}; give another place.")


def _kind_of(path: Path) -> str:
    name = path.name.lower()
    if name.endswith(_PARQUET):
        return "parquet"
    if name.endswith(_CSV):
        return "csv"
    raise ValueError(
        f"{path} is named neither as CSV (.csv, .tsv) nor as Parquet (.parquet); rename the file."
    )


def _is_parquet(path: Path) -> bool:
    kind = _kind_of(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    return kind == "parquet"


def _delimiter(path: Path) -> str:
    return "\t" if ".tsv" in path.name.lower() else ","
