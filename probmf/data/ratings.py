"""Ratings: the door between tables with ids and arrays with codes."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Literal, Self, Unpack

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array, sparray, spmatrix

from probmf.data import merge
from probmf.data.database import MEMORY_LIMIT
from probmf.data.files import PathLike, infer_ids, read_csv, read_parquet
from probmf.data.open_files import POLICIES, open_files
from probmf.data.rating_fields import (
    Duplicates,
    FrameOptions,
    build_fields,
    matrix_fields,
    wanted_columns,
)
from probmf.data.rating_summary import RatingSummary, describe, describe_html
from probmf.data.side_tables import labels
from probmf.data.source import Source
from probmf.data.splits import SplittableRatings
from probmf.data.vocabulary import Vocabulary, in_order
from probmf.rows.store import Side


class Ratings(SplittableRatings):
    """Table of ratings, checked and immutable: who rated what, and how.

    Make one with `from_frame`, `from_csv`, `from_parquet`, `from_scipy`, or `open` for files that
    need not fit in memory. Row i says that user `users.ids[user[i]]` gave item
    `items.ids[item[i]]` the rating `rating[i]`. Arrays are read-only and have one entry for each
    of the n ratings.

    Attributes:
        users: The users' ids; code i is user i.
        items: The items' ids.
        user: Codes of the users, int32.
        item: Codes of the items, int32.
        rating: Ratings, float64, finite.
        weight: Weights, float64, finite and not negative, or None when all are one.
        time: When the ratings were given (numbers or datetime64), or None.
        columns: Further columns that were kept, by name.
        user_features: What is known of the users, or None: the column of ids first, row i belongs
            to code i, with nulls for users of whom nothing is known.
        item_features: The same for items.

    Example:
        >>> ratings = Ratings.from_frame(
        ...     {"user": ["ann", "ann", "bob"], "item": [7, 9, 7], "rating": [5, 3, 4]}
        ... )
        >>> ratings
        Ratings(3 ratings of 2 items by 2 users, from 3 to 5)
        >>> ratings.user, ratings.users.ids
        (array([0, 0, 1], dtype=int32), array(['ann', 'bob'], dtype=object))
    """

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        user: str = "user",
        item: str = "item",
        rating: str | None = "rating",
        weight: str | None = None,
        time: str | None = None,
        keep: Collection[str] = (),
        user_features: Any = None,
        item_features: Any = None,
        duplicates: Duplicates = "error",
        users: Vocabulary | Sequence[Any] | np.ndarray | None = None,
        items: Vocabulary | Sequence[Any] | np.ndarray | None = None,
    ) -> Self:
        """Ratings from any table.

        Ids may be integers (kept exactly), text, UUIDs, dates, tuples or anything else that can be
        hashed, but one kind per column. Unused levels of a categorical column are no ids.
        Date-times with a time zone are kept in UTC; DuckDB hands its UUIDs over as text.

        Args:
            frame: pandas, polars, pyarrow, DuckDB or other table known to narwhals (a lazy one is
                collected), or a dict of sequences. n rows, one for each rating.
            user: Name of the column of user ids.
            item: Name of the column of item ids.
            rating: Name of the column of ratings, numbers; None if all ratings are one, as when
                only the pairs are known.
            weight: Name of a column of weights, not negative.
            time: Name of a column of times, numbers or dates; `split_last` needs it.
            keep: Names of further columns to keep, as for `split_on`.
            user_features: Table of what is known of users, with a column of ids called as in
                `frame`, or "user". Users in it who have no rating are left out, unless `users`
                lists them.
            item_features: The same for items.
            duplicates: What to do when a pair occurs in several rows: "error"; keep the "first" or
                "last" row; "mean" or "sum" of their ratings. With weights the mean is weighted.
                Mean and sum add up weights and keep the latest time and otherwise the first row.
            users: The users' vocabulary, or their ids in the order of the codes, if it is to hold
                other ids than those with ratings. By default those with ratings, sorted.
            items: The same for items.

        Returns:
            The ratings, in the order of the rows.

        Raises:
            TypeError: If `frame` is no table, or a column's type does not suit its role.
            ValueError: If a column is missing or doubled, an id, rating, weight or time is missing,
                ids are of several kinds, or anything else would have to be guessed. Messages count
                rows from 0.

        Example:
            >>> frame = {"who": ["b", "a"], "what": [1, 1], "stars": [4, 2]}
            >>> films = {"what": [1, 2], "title": ["Alien", "Brazil"]}
            >>> ratings = Ratings.from_frame(
            ...     frame, user="who", item="what", rating="stars", item_features=films
            ... )
            >>> ratings.rating, ratings.item_labels([0])
            (array([4., 2.]), array(['Alien'], dtype=object))

        Cost: O(n) time and memory, about 0.3 seconds for a million ratings with integer ids.
        """
        options = FrameOptions(
            user=user, item=item, rating=rating, weight=weight, time=time, keep=keep,
            user_features=user_features, item_features=item_features, duplicates=duplicates,
            users=users, items=items,
        )  # fmt: skip
        return cls(**build_fields(frame, options))

    @classmethod
    def from_csv(
        cls,
        path: PathLike,
        *,
        delimiter: str = ",",
        column_names: Sequence[str] | None = None,
        **options: Unpack[FrameOptions],
    ) -> Self:
        r"""Ratings from a CSV file.

        Ids all written as whole numbers are read as integers, any others as text just as they are
        written ("007" is not 7).

        Args:
            path: The file; .gz, .bz2 and .zst are decompressed.
            delimiter: What stands between fields, such as "\t".
            column_names: Names of the columns, if the file has no header line.
            **options: As for `from_frame`.

        Returns:
            The ratings, in the order of the lines.

        Raises:
            FileNotFoundError: If there is no such file.
            TypeError: As for `from_frame`.
            ValueError: If the file is not of this form; and as for `from_frame`.

        Example:
            >>> Ratings.from_csv("u.data", delimiter="\t", column_names=["user", "item", "rating",
            ...     "time"], time="time")  # doctest: +SKIP
            Ratings(100,000 ratings of 1,682 items by 943 users, from 1 to 5)
        """
        ids = [options.get("user", "user"), options.get("item", "item")]
        table = read_csv(
            path, wanted_columns(options), delimiter=delimiter, column_names=column_names, text=ids
        )
        return cls(**build_fields(infer_ids(table, ids), options, f"the file {path}"))

    @classmethod
    def from_parquet(cls, path: PathLike, **options: Unpack[FrameOptions]) -> Self:
        """Ratings from a Parquet file, or a folder of them.

        Args:
            path: The file or folder. Only the columns needed are read.
            **options: As for `from_frame`.

        Returns:
            The ratings, in the order of the file.

        Raises:
            FileNotFoundError: If there is no such file.
            TypeError: As for `from_frame`.
            ValueError: If it is no Parquet file, or memory does not suffice (see `open`); and as
                for `from_frame`.

        Example:
            >>> Ratings.from_parquet("ratings.parquet", time="timestamp")  # doctest: +SKIP
        """
        names, what = wanted_columns(options), f"the file {path}"
        return cls(**build_fields(read_parquet(path, names), options, what))

    @classmethod
    def open(
        cls,
        path: PathLike,
        *,
        folder: PathLike | None = None,
        user: str = "user",
        item: str = "item",
        rating: str | None = "rating",
        weight: str | None = None,
        time: str | None = None,
        user_features: Any = None,
        item_features: Any = None,
        duplicates: Literal["error", "mean", "sum"] = "error",
        users: Vocabulary | Sequence[Any] | np.ndarray | None = None,
        items: Vocabulary | Sequence[Any] | np.ndarray | None = None,
        delimiter: str = ",",
        column_names: Sequence[str] | None = None,
        memory_limit: str = MEMORY_LIMIT,
        rebuild: bool = False,
        shared: bool = False,
    ) -> Self:
        """Ratings of files that need not fit in memory.

        At the first call the files are sorted by user and by item into a folder; after that the
        folder is mapped into memory, and a fit reads from it what it needs. The ratings are in the
        order of their users, then items; else they are those of `from_parquet` or `from_csv`.

        Args:
            path: A Parquet file, a folder of them, or a CSV file; or a folder that was made so.
            folder: Where the sorted ratings are kept; by default beside `path`, with ".sorted"
                after its name. It takes some 32 bytes a rating, and once more while it is made.
            user: Name of the column of user ids.
            item: Name of the column of item ids.
            rating: Name of the column of ratings; None if all ratings are one.
            weight: Name of a column of weights, not negative.
            time: Name of a column of times.
            user_features: See `from_frame`.
            item_features: See `from_frame`.
            duplicates: See `from_frame`; sorted rows have no "first" and no "last".
            users: See `from_frame`; for test files the users of the training ratings.
            items: The same for items.
            delimiter: What stands between fields of CSV.
            column_names: Names of the columns, if a CSV file has no header line.
            memory_limit: Memory that sorting may take on a machine; beyond it DuckDB goes on on
                disk.
            rebuild: Make the folder again, even if it is there.
            shared: Whether all processes that have joined make this call (`docs/processes.md`).
                Then they sort files of Parquet together, on a disk that they share.

        Returns:
            The ratings; their arrays are maps of files.

        Raises:
            FileNotFoundError: If there is no such file or folder.
            ImportError: If DuckDB is not installed.
            MemoryError: If `memory_limit` does not suffice.
            OSError: If the disk is full.
            RuntimeError: If another of the processes could not go on.
            TypeError: As for `from_frame`.
            ValueError: If a file can't be read, has text where the first has numbers, or changes
                while it is read; if the folder was made from other files or with other arguments,
                was changed, is of another version, or holds other files than sorted ratings; and as
                for `from_frame`.

        Example:
            >>> Ratings.open("ratings.parquet", time="timestamp")  # doctest: +SKIP
            Ratings(100,000,000 ratings of 17,770 items by 480,189 users, from 1 to 5)

        Cost: The first call reads the files three times, O(n log n); further calls read the folder
        once, to check it.
        """
        if duplicates not in POLICIES:
            raise ValueError(
                f"duplicates is {duplicates!r}; expected 'error', 'mean' or 'sum': in which order "
                "rows stood in the files is not known once they are sorted."
            )
        source = Source(
            str(path), user, item, rating, weight, time, duplicates, delimiter,
            None if column_names is None else tuple(column_names),
        )  # fmt: skip
        given: dict[Side, Any] = {"user": users, "item": items}
        features: dict[Side, Any] = {"user": user_features, "item": item_features}
        fields, rows = open_files(source, folder, given, features, memory_limit, rebuild, shared)
        ratings = cls(**fields)
        object.__setattr__(ratings, "rows", rows)
        return ratings

    @classmethod
    def from_scipy(
        cls,
        matrix: sparray | spmatrix,
        *,
        users: Vocabulary | Sequence[Any] | np.ndarray | None = None,
        items: Vocabulary | Sequence[Any] | np.ndarray | None = None,
        user_features: Any = None,
        item_features: Any = None,
        duplicates: Duplicates = "error",
    ) -> Self:
        """Ratings from a sparse matrix of users by items.

        Every stored entry is a rating, stored zeros too.

        Args:
            matrix: Sparse matrix or array of shape (num_users, num_items).
            users: The ids of the rows, in order; by default 0, 1, ... Rows without an entry are
                users too.
            items: The ids of the columns, likewise.
            user_features: See `from_frame`.
            item_features: See `from_frame`.
            duplicates: See `from_frame`; only the coordinate format can store a pair twice.

        Returns:
            The ratings, in the order in which the matrix stores them.

        Raises:
            TypeError: If it is no sparse matrix of real numbers.
            ValueError: If nothing is stored, or there are more or fewer ids than rows or columns.

        Example:
            >>> from scipy.sparse import csr_array
            >>> ratings = Ratings.from_scipy(csr_array([[5, 0], [0, 3]]), items=["x", "y"])
            >>> ratings.items.decode(ratings.item)
            array(['x', 'y'], dtype=object)
        """
        options = FrameOptions(
            users=users, items=items, user_features=user_features, item_features=item_features,
            duplicates=duplicates,
        )  # fmt: skip
        return cls(**matrix_fields(matrix, options))

    def binarize(self, threshold: float) -> Self:
        """Ratings of 1 where they are at least a threshold, else 0.

        Args:
            threshold: The least rating that counts as 1.

        Returns:
            The same table with ratings 0 and 1.

        Raises:
            TypeError: If the threshold is no number.
            ValueError: If it is not finite.

        Example:
            >>> ratings = Ratings.from_frame({"user": [1, 2], "item": [8, 8], "rating": [4, 3]})
            >>> ratings.binarize(4).rating
            array([1., 0.])
        """
        if not isinstance(threshold, int | float | np.number):
            raise TypeError(f"threshold is {threshold!r}, expected a number.")
        if not np.isfinite(threshold):
            raise ValueError(f"threshold is {threshold!r}, expected a finite number.")
        return replace(self, rating=(self.rating >= threshold).astype(np.float64))

    def recode(
        self,
        *,
        users: Vocabulary | Sequence[Any] | np.ndarray | None = None,
        items: Vocabulary | Sequence[Any] | np.ndarray | None = None,
        unknown: Literal["raise", "drop"] = "raise",
    ) -> Self:
        """The same ratings in other vocabularies, as those of the training data.

        Args:
            users: The vocabulary wanted, or ids in the order of the codes; None keeps the present
                one.
            items: The same for items.
            unknown: What to do with ratings of a user or item that is not in them.

        Returns:
            The ratings in the new codes; side tables are put in the new order.

        Raises:
            ValueError: If an id is unknown (unless dropped), or nothing would be left.

        Example:
            >>> train = Ratings.from_frame({"user": ["a", "b"], "item": [1, 2], "rating": [5, 3]})
            >>> new = Ratings.from_frame({"user": ["b", "c"], "item": [1, 1], "rating": [4, 4]})
            >>> new.recode(users=train.users, items=train.items, unknown="drop").user
            array([1], dtype=int32)
        """
        new_users = self.users if users is None else in_order(users, "user")
        new_items = self.items if items is None else in_order(items, "item")
        return merge.recode(self, new_users, new_items, unknown)

    def append(self, other: "Ratings", *, duplicates: Duplicates = "error") -> Self:
        """These ratings and then others, of known items, by known or new users.

        Codes stay what they are; new users come after all others, in the order of their codes in
        `other`. Where only one has weights the other's are one; times and further columns stay if
        both have them.

        Args:
            other: Ratings of items that are in this vocabulary.
            duplicates: What to do with a pair that both have; see `from_frame`.

        Returns:
            All the ratings. Side tables are those of these ratings, with new users from those of
            `other` where they have the same columns.

        Raises:
            ValueError: If an item is unknown, or a pair is repeated.

        Example:
            >>> old = Ratings.from_frame({"user": ["b"], "item": [1], "rating": [5]})
            >>> new = Ratings.from_frame({"user": ["a"], "item": [1], "rating": [3]})
            >>> old.append(new).users.ids
            array(['b', 'a'], dtype=object)
        """
        return merge.append(self, other, duplicates)

    def extend(self, *, user_features: Any = None, item_features: Any = None) -> Self:
        """The same ratings with the users and items of side tables added to the vocabularies.

        Codes stay what they are; new users and items come after all others. Of those that are
        known already nothing changes.

        Args:
            user_features: Table of what is known of further users, as for `from_frame`. Where these
                ratings have a side table, columns of the same name are added to it.
            item_features: The same for items.

        Returns:
            The ratings.

        Raises:
            TypeError: If one is no table.
            ValueError: If ids are missing, repeated or of another kind.

        Example:
            >>> ratings = Ratings.from_frame({"user": ["a"], "item": [1], "rating": [5]})
            >>> ratings.extend(user_features={"user": ["z", "a"]}).users.ids
            array(['a', 'z'], dtype=object)
        """
        grown = self
        if user_features is not None:
            grown = merge.extend(grown, "user", user_features)
        if item_features is not None:
            grown = merge.extend(grown, "item", item_features)
        return grown

    def to_arrow(self) -> pa.Table:
        """The ratings as an Arrow table with ids, without the side tables.

        Returns:
            Columns "user", "item", "rating", then "weight" and "time" if there are any, then those
            kept.

        Raises:
            TypeError: If the kind of the ids has no Arrow type.

        Example:
            >>> ratings = Ratings.from_frame({"user": ["a"], "item": [1], "rating": [5]})
            >>> ratings.to_arrow().to_pylist()
            [{'user': 'a', 'item': 1, 'rating': 5.0}]
        """
        columns: dict[str, Any] = {
            "user": self.users.to_arrow().take(pa.array(self.user)),
            "item": self.items.to_arrow().take(pa.array(self.item)),
            "rating": self.rating,
        }
        if self.weight is not None:
            columns["weight"] = self.weight
        if self.time is not None:
            columns["time"] = self.time
        return pa.table({**columns, **self.columns})

    def to_scipy(self) -> csr_array:
        """The ratings as a sparse matrix of shape (num_users, num_items).

        Returns:
            A CSR array; ratings of zero are stored entries. Weights are left out.

        Example:
            >>> Ratings.from_frame({"user": [1], "item": [1], "rating": [5]}).to_scipy().toarray()
            array([[5.]])
        """
        shape = (self.num_users, self.num_items)
        return csr_array((self.rating, (self.user, self.item)), shape=shape)

    def user_labels(self, codes: Any, column: str | None = None) -> np.ndarray:
        """Labels of users: their names from the side table, else their ids.

        Args:
            codes: Codes of users, of any shape.
            column: Column of `user_features`; by default "name", if there is one.

        Returns:
            Labels as text, in the shape of `codes`.

        Raises:
            TypeError: If the codes are not whole numbers.
            ValueError: If a code is out of range, or there is no such column.

        Example:
            >>> Ratings.from_frame({"user": [3], "item": [1], "rating": [5]}).user_labels([0])
            array(['3'], dtype=object)
        """
        return labels(self.users, self.user_features, codes, column, "name")

    def item_labels(self, codes: Any, column: str | None = None) -> np.ndarray:
        """Labels of items: their titles from the side table, else their ids.

        Args:
            codes: Codes of items, of any shape.
            column: Column of `item_features`; by default "title", if there is one.

        Returns:
            Labels as text, in the shape of `codes`.

        Raises:
            TypeError: If the codes are not whole numbers.
            ValueError: If a code is out of range, or there is no such column.

        Example:
            >>> films = {"item": [1], "title": ["Alien"]}
            >>> ratings = Ratings.from_frame(
            ...     {"user": [3], "item": [1], "rating": [5]}, item_features=films
            ... )
            >>> ratings.item_labels([0])
            array(['Alien'], dtype=object)
        """
        return labels(self.items, self.item_features, codes, column, "title")

    def summary(self) -> RatingSummary:
        """Summary of the ratings: counts, range, ratings of each user and item, memory.

        Returns:
            A few lines of text; a notebook shows them as tables.

        Example:
            >>> ratings = Ratings.from_frame({"user": [1, 2], "item": [8, 8], "rating": [4, 3]})
            >>> print(ratings.summary().splitlines()[0])
            2 ratings of 1 item by 2 users
        """
        return RatingSummary(self)

    def __repr__(self) -> str:
        """Counts and range."""
        low, high = self.rating.min(), self.rating.max()
        headline = describe(self).splitlines()[0]
        return f"{type(self).__name__}({headline}, from {low:g} to {high:g})"

    def _repr_html_(self) -> str:
        """The summary as a small table, for notebooks."""
        return describe_html(self)
