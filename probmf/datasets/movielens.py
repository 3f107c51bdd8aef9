"""MovieLens ratings, read from the files that GroupLens distributes.

The files may not be passed on without permission and so are no part of this package.
"""

import io
from os import PathLike
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from probmf.data import Ratings

_SOURCE = "https://grouplens.org/datasets/movielens"
# The order of the 19 flags in u.item, from the README of MovieLens 100K.
_GENRE_LIST = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
)
_GENRES = _GENRE_LIST.split()
_RATING_COLUMNS = {
    "user": pa.int64(),
    "item": pa.int64(),
    "rating": pa.float64(),
    "time": pa.int64(),
}


def load_movielens(path: str | PathLike[str]) -> Ratings:
    """Read MovieLens 100K or 1M from the folder that its archive unpacks to.

    Download the archive yourself from GroupLens (https://grouplens.org/datasets/movielens) and
    mind its terms of use. Which of the two it is, is told by the files: `u.data` and `u.item`
    (100K), or `ratings.dat` and `movies.dat` (1M).

    Args:
        path: The folder, such as `ml-100k` or `ml-1m`.

    Returns:
        The ratings in the order of the file, with the ids of the file (integers), stars from 1 to
        5 as ratings, seconds since 1970 UTC as times, and the columns `title` and `genres` (joined
        by "|") as item features. Films that nobody rated are left out.

    Raises:
        NotADirectoryError: If `path` is not a folder.
        FileNotFoundError: If a file is missing; the message names it.
        ValueError: If a file isn't in the format of MovieLens.

    Example:
        >>> ratings = load_movielens("ml-100k")  # doctest: +SKIP
        >>> ratings.num_users, ratings.num_items, len(ratings)  # doctest: +SKIP
        (943, 1682, 100000)

    Source: Harper and Konstan (2015), The MovieLens datasets, ACM TiiS 5(4), article 19. Time: a
    second or two for a million ratings.
    """
    folder = Path(path)
    if not folder.is_dir():
        state = "a file" if folder.exists() else "missing"
        raise NotADirectoryError(
            f"{folder} is {state}, expected a folder with the files of MovieLens; "
            f"download the archive from {_SOURCE}, unpack it and give the folder."
        )
    if (folder / "u.data").is_file():
        table = _read(folder / "u.data", "\t", _RATING_COLUMNS)
        items = _read_items_100k(_existing(folder / "u.item"))
    elif (folder / "ratings.dat").is_file():
        table = _read(folder / "ratings.dat", "::", _RATING_COLUMNS)
        names = {"item": pa.int64(), "title": pa.string(), "genres": pa.string()}
        items = _read(_existing(folder / "movies.dat"), "::", names)
    else:
        raise FileNotFoundError(
            f"{folder} holds neither u.data (MovieLens 100K) nor ratings.dat (MovieLens 1M); "
            f"download one of these archives from {_SOURCE}, unpack it and give the folder that "
            "holds the file."
        )
    return Ratings.from_frame(table, time="time", item_features=items)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {path.parent} holds the ratings but not the titles. "
            "Unpack the whole archive and give its folder."
        )
    return path


def _read_items_100k(path: Path) -> pa.Table:
    """`u.item` with its genre flags written out as in `movies.dat`."""
    text = dict.fromkeys(["title", "released", "released_video", "url"], pa.string())
    table = _read(path, "|", {"item": pa.int64(), **text, **dict.fromkeys(_GENRES, pa.int8())})
    flags = zip(*(table[genre].to_pylist() for genre in _GENRES), strict=True)
    genres = [
        "|".join(genre for genre, flag in zip(_GENRES, row, strict=True) if flag) for row in flags
    ]
    return table.select(["item", "title"]).append_column("genres", pa.array(genres, pa.string()))


def _read(path: Path, separator: str, columns: dict[str, pa.DataType]) -> pa.Table:
    """A text file in Latin-1 without a header; a separator of two signs is allowed."""
    content = path.read_bytes()
    if len(separator) > 1:
        # Arrow splits at one sign only. A tab occurs in none of these files.
        content = content.replace(separator.encode(), b"\t")
    try:
        return csv.read_csv(
            io.BytesIO(content),
            # One thread, so that the message of an error can give the row.
            read_options=csv.ReadOptions(
                column_names=list(columns), encoding="latin-1", use_threads=False
            ),
            parse_options=csv.ParseOptions(
                delimiter="\t" if len(separator) > 1 else separator, quote_char=False
            ),
            convert_options=csv.ConvertOptions(column_types=columns, strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path} is not in the format of MovieLens: {error} Expected {len(columns)} fields "
            f"separated by {separator!r} in every line: {', '.join(columns)}. Download the archive "
            f"again from {_SOURCE}."
        ) from error
