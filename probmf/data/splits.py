"""Ways to divide ratings into what is learned from and what is tested on.

All splits share the vocabularies and side tables of the whole, so that codes mean the same; all
keep the order of the rows, but for parts that are kept in a folder, sorted by user and item; none
returns an empty side. Randomness is NumPy's on the host: the same key and the same ratings in the
same order give the same split.
"""

import operator
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import numpy as np
import pandas as pd
from jax.typing import ArrayLike

from probmf.data.column import plain
from probmf.data.files import PathLike
from probmf.data.keys import as_generator
from probmf.data.rating_table import RatingTable
from probmf.data.sort_parts import sort_parts
from probmf.data.tables import require_columns
from probmf.rows.store import RowStore


class Kept(TypedDict, total=False):
    """Place and form of the parts of a split; see `SplittableRatings.split`."""

    folder: PathLike | None
    rebuild: bool


class SplittableRatings(RatingTable):
    """The ways to split `Ratings`. Every key is a JAX key or an int; see `as_generator`."""

    def split(
        self,
        *,
        key: ArrayLike,
        test_fraction: float = 0.1,
        folder: PathLike | None = None,
        rebuild: bool = False,
    ) -> tuple[Self, Self]:
        """Set aside ratings at random, each with the same probability.

        A user or item may lose all its ratings; `split_within_users` prevents that for users.

        Args:
            key: JAX key or int; the same key gives the same split.
            test_fraction: Share of the ratings that is set aside, rounded to whole ratings.
            folder: Folder to keep both parts in, as sorted ratings (`train` and `test`, for
                `Ratings.open`), whose arrays need not fit in memory; None keeps them in memory.
            rebuild: Replace parts that the folder holds already, which are otherwise refused.

        Returns:
            Training and test ratings.

        Raises:
            ValueError: If the fraction is not between 0 and 1, or one side would be empty.

        Example:
            >>> from probmf import Ratings
            >>> ratings = Ratings.from_frame(
            ...     {"user": [1, 1, 2, 2], "item": [1, 2, 1, 2], "rating": [5, 3, 4, 1]}
            ... )
            >>> train, test = ratings.split(key=0, test_fraction=0.25)
            >>> len(train), len(test), train.users is test.users
            (3, 1, True)
        """
        _check_fraction(test_fraction, "test_fraction")
        test = np.zeros(len(self), dtype=bool)
        test[self._shuffled(key)[: round(len(self) * test_fraction)]] = True
        return self._divide(
            test, f"test_fraction={test_fraction} of {len(self):,} ratings", folder, rebuild
        )

    def split_within_users(
        self,
        *,
        key: ArrayLike,
        test_fraction: float = 0.2,
        **kept: Unpack[Kept],
    ) -> tuple[Self, Self]:
        """Set aside the same share of every user's ratings, at random.

        Of d ratings, `test_fraction` times d, rounded to the nearest whole number (halves up), are
        set aside, but never all: every user keeps at least one rating to learn from.

        Args:
            key: JAX key or int.
            test_fraction: Share of each user's ratings.
            **kept: `folder` and `rebuild`, as for `split`.

        Returns:
            Training and test ratings.

        Raises:
            ValueError: If the fraction is not between 0 and 1, or all users have so few ratings
                that nothing would be set aside.

        Example:
            >>> from probmf import Ratings
            >>> ratings = Ratings.from_frame(
            ...     {"user": [1, 1, 2, 2, 3], "item": [1, 2, 1, 2, 1], "rating": [5, 3, 4, 1, 2]}
            ... )
            >>> train, test = ratings.split_within_users(key=0, test_fraction=0.5)
            >>> train.user_degree, test.user_degree
            (array([1, 1, 1]), array([1, 1, 0]))
        """
        _check_fraction(test_fraction, "test_fraction")
        wanted = np.floor(self.user_degree * test_fraction + 0.5).astype(np.int64)
        wanted = np.minimum(wanted, self.user_degree - 1)
        rng, order = as_generator(key), self.by_user.order
        drawn = None if order is None else rng.random(len(self))

        def draws(rows: Any) -> np.ndarray:
            return rng.random(rows.stop - rows.start) if drawn is None else drawn[rows]

        test = self._within_users(draws, lambda place, user: place < wanted[user])
        most = self.user_degree.max()
        how = f"test_fraction={test_fraction} of at most {most} ratings a user"
        return self._divide(test, how, **kept)

    def hold_out_users(
        self,
        *,
        key: ArrayLike,
        user_fraction: float = 0.1,
        **kept: Unpack[Kept],
    ) -> tuple[Self, Self]:
        """Set aside all the ratings of some users, to test on users never seen.

        Args:
            key: JAX key or int.
            user_fraction: Share of the users with ratings, rounded to whole users.
            **kept: `folder` and `rebuild`, as for `split`.

        Returns:
            The ratings of the others, and those of the users held out.

        Raises:
            ValueError: If the fraction is not between 0 and 1, or one side would have no user.

        Example:
            >>> from probmf import Ratings
            >>> frame = {"user": [1, 1, 2], "item": [1, 2, 1], "rating": [5, 3, 4]}
            >>> ratings = Ratings.from_frame(frame)
            >>> train, held = ratings.hold_out_users(key=0, user_fraction=0.5)
            >>> train.user_degree * held.user_degree
            array([0, 0])
        """
        _check_fraction(user_fraction, "user_fraction")
        rated = np.flatnonzero(self.user_degree)
        count = round(len(rated) * user_fraction)
        held = np.zeros(self.num_users, dtype=bool)
        held[as_generator(key).permutation(rated)[:count]] = True
        how = f"user_fraction={user_fraction} of {len(rated):,} users with ratings"
        return self._divide(held[self.user], how, **kept)

    def split_last(self, *, num_last: int = 1, **kept: Unpack[Kept]) -> tuple[Self, Self]:
        """Set aside every user's latest ratings.

        Of ratings at the same time the later row counts as later. A user with `num_last` ratings or
        fewer stays in training with all of them.

        Args:
            num_last: How many ratings of each user to set aside.
            **kept: `folder` and `rebuild`, as for `split`.

        Returns:
            Training and test ratings.

        Raises:
            TypeError: If `num_last` is not a whole number.
            ValueError: If the ratings have no times, `num_last` is not positive, or no user has
                more than `num_last` ratings.

        Example:
            >>> from probmf import Ratings
            >>> frame = {"user": [1, 1, 2, 2], "item": [1, 2, 1, 2], "at": [30, 10, 10, 20]}
            >>> ratings = Ratings.from_frame(frame, rating=None, time="at")
            >>> train, test = ratings.split_last()
            >>> test.time
            array([30, 20])
        """
        if self.time is None:
            raise ValueError(
                "split_last needs to know when the ratings were given, and these have no times; "
                "name the column, as in Ratings.from_frame(frame, time='timestamp'), or use "
                "split_within_users."
            )
        _check_count(num_last, "num_last", 1)
        time, degree = self.time, self.user_degree
        test = self._within_users(
            lambda rows: time[rows],
            lambda place, user: (place >= degree[user] - num_last) & (degree[user] > num_last),
        )
        how = f"num_last={num_last} of at most {degree.max()} ratings a user"
        return self._divide(test, how, **kept)

    def split_at(self, time: Any, **kept: Unpack[Kept]) -> tuple[Self, Self]:
        """Learn from what was rated before a moment, test on what was rated from then on.

        Args:
            time: The moment, as the ratings have their times: a number, or a date in any form that
                NumPy reads, such as "2024-06-01".
            **kept: `folder` and `rebuild`, as for `split`.

        Returns:
            Training and test ratings.

        Raises:
            ValueError: If the ratings have no times, the moment is of another kind than they, or
                one side would be empty.

        Example:
            >>> from probmf import Ratings
            >>> frame = {"user": [1, 1, 2], "item": [1, 2, 1], "at": ["2024-01-01", "2024-07-01",
            ...     "2024-03-01"]}
            >>> frame["at"] = np.array(frame["at"], "datetime64[D]")
            >>> ratings = Ratings.from_frame(frame, rating=None, time="at")
            >>> train, test = ratings.split_at("2024-06-01")
            >>> len(train), len(test)
            (2, 1)
        """
        if self.time is None:
            raise ValueError(
                "split_at needs to know when the ratings were given, and these have no times; name "
                "the column, as in Ratings.from_frame(frame, time='timestamp')."
            )
        first, last = (plain(end) for end in (self.time.min(), self.time.max()))
        dates = self.time.dtype.kind in "mM"
        try:
            moment = _moment(time, self.time.dtype)
        except (ValueError, TypeError):
            moment = np.empty(0)  # None that could be read.
        if moment.shape != () or bool(np.isnat(moment) if dates else ~np.isfinite(moment)):
            raise ValueError(
                f"time is {time!r}, but the ratings were given from {first} to {last}; expected "
                "a moment between."
            )
        how = f"time={time!r} (ratings are from {first} to {last})"
        return self._divide(self.time >= moment, how, **kept)

    def folds(
        self,
        *,
        key: ArrayLike,
        num_folds: int = 5,
        folder: PathLike | None = None,
        rebuild: bool = False,
    ) -> Iterator[tuple[Self, Self]]:
        """Divide the ratings at random into parts that take turns as the test set.

        Args:
            key: JAX key or int.
            num_folds: Number of parts, whose sizes differ by one at most.
            folder: Folder to keep the ratings of each turn in, when it comes, as sorted ratings
                (`fold-0/train`, `fold-0/test`, ..., for `Ratings.open`), so on disk `num_folds`
                times; None keeps them in memory.
            rebuild: As for `split`.

        Returns:
            An iterator of training and test ratings, `num_folds` times; every rating is in one
            test set.

        Raises:
            TypeError: If `num_folds` is not a whole number.
            ValueError: If there are fewer than 2 parts, or more parts than ratings; in its turn, if
                the folder holds a part already.

        Example:
            >>> from probmf import Ratings
            >>> frame = {"user": [1, 1, 2], "item": [1, 2, 1], "rating": [5, 3, 4]}
            >>> ratings = Ratings.from_frame(frame)
            >>> [len(test) for train, test in ratings.folds(key=0, num_folds=3)]
            [1, 1, 1]
        """
        _check_count(num_folds, "num_folds", 2)
        if num_folds > len(self):
            raise ValueError(
                f"num_folds is {num_folds}, but there are {len(self):,} ratings; a fold needs one."
            )
        fold = np.empty(len(self), dtype=np.int32)
        fold[self._shuffled(key)] = np.arange(len(self)) % num_folds

        def turn(part: int) -> tuple[Self, Self]:
            own = None if folder is None else Path(folder) / f"fold-{part}"
            return self._divide(fold == part, f"num_folds={num_folds}", own, rebuild)

        return map(turn, range(num_folds))

    def split_on(self, column: str, test: Any, **kept: Unpack[Kept]) -> tuple[Self, Self]:
        """Set aside the ratings that have given values in a column: a split made by somebody else.

        Args:
            column: A column kept with `keep=`, or "rating", "weight" or "time".
            test: The value of test ratings, or a collection (list, set, array, range) of them.
            **kept: `folder` and `rebuild`, as for `split`.

        Returns:
            Training and test ratings.

        Raises:
            ValueError: If there is no such column, or one side would be empty.

        Example:
            >>> from probmf import Ratings
            >>> frame = {"user": [1, 1, 2], "item": [1, 2, 1], "fold": [1, 2, 3]}
            >>> ratings = Ratings.from_frame(frame, rating=None, keep=["fold"])
            >>> train, test = ratings.split_on("fold", test=3)
            >>> len(train), test.user
            (2, array([1], dtype=int32))
        """
        own = {"rating": self.rating, "weight": self.weight, "time": self.time}
        there = {name: values for name, values in own.items() if values is not None}
        there |= self.columns
        hint = f" Keep it when the ratings are made: Ratings.from_frame(frame, keep=[{column!r}])."
        require_columns([column], there, "the table of ratings", hints={column: hint})
        several = isinstance(test, Collection | np.ndarray) and not isinstance(test, str | bytes)
        values = there[column]
        chosen = _is_in(values, list(test) if several else [test])
        first = ", ".join(repr(value) for value in dict.fromkeys(values[:1000].tolist()[:5]))
        how = f"test={test!r} in column {column!r} (which holds {first}, ...)"
        return self._divide(chosen, how, **kept)

    def _shuffled(self, key: ArrayLike) -> np.ndarray:
        """All row numbers in random order."""
        rows = np.arange(len(self), dtype=np.int32 if len(self) < 2**31 else np.int64)
        as_generator(key).shuffle(rows)
        return rows

    def _within_users(
        self,
        sort_by: Callable[[Any], np.ndarray],
        choose: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """Ratings chosen by their place (from 0) among their user's, sorted by `sort_by`."""
        chosen = np.zeros(len(self), dtype=bool)
        for rows in self.by_user.blocks():
            user, values = self.user[rows], sort_by(rows)
            order = np.lexsort((values, user))
            first = np.searchsorted(user, user)
            place = np.empty(len(user), dtype=np.int64)
            place[order] = np.arange(len(user))
            chosen[rows] = choose(place - first, user)
        return chosen

    def _divide(
        self, test: np.ndarray, how: str, folder: PathLike | None = None, rebuild: bool = False
    ) -> tuple[Self, Self]:
        for side, count in (("test", test.sum()), ("training", (~test).sum())):
            if not count:
                raise ValueError(
                    f"The {side} set would be empty: {how} leaves no rating for it; choose another "
                    "split, or give more ratings."
                )
        if folder is None:
            return self.select(~test), self.select(test)
        chosen = {"train": ~test, "test": test}
        kept = sort_parts(self, chosen, Path(folder), rebuild=rebuild)
        train, held = (self._kept(*kept[name]) for name in chosen)
        return train, held

    def _kept(self, fields: dict[str, Any], rows: RowStore) -> Self:
        """A part that is kept in a folder."""
        part = replace(self, **fields)
        object.__setattr__(part, "rows", rows)
        return part


def _is_in(values: np.ndarray, wanted: list[Any]) -> np.ndarray:
    if values.dtype == object:
        return np.fromiter((value in wanted for value in values), bool, len(values))
    found = np.zeros(len(values), dtype=bool)
    # One by one: NumPy would turn a list of mixed types into text, which then matches nothing.
    for value in wanted:
        own = _moment(value, values.dtype) if isinstance(value, date | timedelta) else value
        found |= values == own
    return found


def _moment(value: Any, of: np.dtype) -> np.ndarray:
    """A time to compare with others of a type: exact, and in UTC if it has a time zone."""
    if of.kind not in "mM":
        # As it is: beyond 2**53 not every whole number is a float64.
        whole = isinstance(value, int | np.integer) and abs(int(value)) < 2**63
        return np.asarray(value, None if whole else np.float64)
    if isinstance(value, str) and of.kind == "M":
        with suppress(ValueError):  # NumPy knows more forms.
            value = datetime.fromisoformat(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    # As NumPy's own, else nanoseconds of pandas would be cut off.
    value = value.to_numpy() if isinstance(value, pd.Timestamp | pd.Timedelta) else value
    return np.asarray(value, f"{of.kind}8")


def _check_fraction(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value!r}, expected a number between 0 and 1, such as 0.1.")


def _check_count(value: int, name: str, least: int) -> None:
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected a whole number.") from None
    if count < least:
        raise ValueError(f"{name} is {count}, expected at least {least}.")
