"""Files and words of the command line become ratings, tables and ids."""

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
from probmf.data.files import read_csv, read_parquet
from probmf.data.side_tables import align_features
from probmf.results import RatingsFit, directory, load

_CSV, _PARQUET = (".csv", ".csv.gz", ".csv.bz2", ".csv.zst", ".tsv", ".tsv.gz"), (".parquet", ".pq")
_BOOLEANS = {"true": True, "false": False}
#: Entry of a fit's manifest.
_SOURCE = "source"


@dataclass(frozen=True)
class RatingsOrigin:
    """Column and threshold that a file of ratings was read with, kept with the fit.

    Attributes:
        rating: Column of ratings; None counted every pair as 1.
        threshold: Ratings of at least this counted as yes; None left them as they were.
    """

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


@dataclass(frozen=True)
class ColumnNames:
    """Names of the columns of a file of ratings; None where there is none.

    Attributes:
        user: Column of user ids.
        item: Column of item ids.
        rating: Column of ratings; None counts every pair as 1.
        weight: Column of weights.
        time: Column of times.
    """

    user: str = "user"
    item: str = "item"
    rating: str | None = "rating"
    weight: str | None = None
    time: str | None = None

    def roles(self) -> dict[str, Any]:
        """As arguments of `Ratings.from_frame`."""
        return dict(vars(self))


def read_ratings(path: Path, columns: ColumnNames, *, duplicates: Any = "error") -> Ratings:
    """Ratings from a CSV, TSV or Parquet file, told apart by the name, or from a folder.

    A folder holds Parquet files or sorted ratings, for `Ratings.open`.
    """
    roles = columns.roles() | {"duplicates": duplicates}
    if path.is_dir():
        return Ratings.open(path, shared=True, **roles)
    if _is_parquet(path):
        return Ratings.from_parquet(path, **roles)
    return Ratings.from_csv(path, delimiter=_delimiter(path), **roles)


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
    rating = None if pairs_only else rating or source.rating
    columns = ColumnNames(user or fit.data.users.column, item or fit.data.items.column, rating)
    data = same_kind_of_ids(read_ratings(path, columns), fit.data)
    if threshold is None and source.threshold is not None:
        threshold = source.threshold
        note(
            f"Ratings of at least {threshold:g} are taken for yes, as in the fit's own; "
            "--threshold sets another value."
        )
    return data if threshold is None else data.binarize(threshold)


def refuse_to_replace(path: Path, force: bool) -> None:
    """Keep what is there already, unless it is a fit that may be replaced."""
    if not force and (path / directory.MANIFEST).exists():
        raise FileExistsError(
            f"{path} holds a fit already. Give another folder, or --force to replace it."
        )
    directory.check_target(path)


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
    """The ratings with a side table of users or items.

    The column of ids may be called "user" or "item", too.
    """
    vocabulary = ratings.users if side == "user" else ratings.items
    table = read_table(path, text=(id_name, side))
    columns = dict(zip(table.column_names, table.columns, strict=True))
    name = id_name if id_name in columns else side
    if name in columns and vocabulary.kind != TEXT and pa.types.is_string(columns[name].type):
        columns[name] = parse_ids(columns[name].to_pylist(), vocabulary)
    features: Any = align_features(columns, vocabulary, id_name)
    return replace(ratings, **{f"{side}_features": features})


def read_table(path: Path, *, text: Sequence[str] = ()) -> pa.Table:
    """A CSV, TSV or Parquet file as it is.

    Columns in `text` are read as text from a CSV file, whatever they look like.
    """
    if _is_parquet(path):
        return read_parquet(path)
    return read_csv(path, delimiter=_delimiter(path), text=text)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as CSV, TSV or Parquet, by the name of the file."""
    if _kind_of(path) == "parquet":
        pa.parquet.write_table(table, path)
    else:
        pa.csv.write_csv(table, path, pa.csv.WriteOptions(delimiter=_delimiter(path)))


def parse_ids(words: Sequence[str], vocabulary: Vocabulary) -> np.ndarray:
    """Ids as they are written, in the type that the vocabulary has.

    The vocabulary need not have them.
    """
    readers: dict[str, Any] = {
        TEXT: str, INTEGERS: int, UUIDS: UUID, BOOLEANS: lambda word: _BOOLEANS[word.lower()],
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
    """Ratings whose ids are of the type that a fit has, where text and type differ only in that.

    A file whose ids all look like numbers is read as numbers, also if the training file had words
    among them; and UUIDs are text in a CSV file.
    """
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
    """Refuse a file name that `write_table` has no format for."""
    _kind_of(path)


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
    return "\t" if ".tsv" in path.suffixes else ","
