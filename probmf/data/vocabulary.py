"""Ids and their codes: the one place where a label becomes a number, and comes back."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from probmf.data.column import DATES, DURATIONS, NOTHING, Column, plain, sentence
from probmf.data.ids import Ids, factorize, first_repeat, read_ids, to_arrow
from probmf.data.tables import load


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Vocabulary:
    """The ids of the users, or of the items; the code of an id is its place.

    Two vocabularies are equal if their names and ids are, in the same order.

    Attributes:
        name: "user" or "item"; what messages call one id.
        column: Name of the column that the ids were read from; tables of results have it, too.
        ids: The different ids in the order of their codes: int64 (exact), datetime64, bool, or
            Python objects (text and everything else). Read-only.
        kind: What the ids are: "integers", "text", "UUIDs", ...

    Raises:
        TypeError: If an id can't be hashed.
        ValueError: If there are no ids, one is missing or occurs twice, or they are of several
            kinds.

    Example:
        >>> users = Vocabulary("user", ["ann", "bob"])
        >>> users.encode(["bob", "ann", "bob"])
        array([1, 0, 1], dtype=int32)
        >>> users.decode([1])
        array(['bob'], dtype=object)
        >>> len(users), "cho" in users
        (2, False)
    """

    name: str
    ids: np.ndarray
    kind: str = field(init=False)
    column: str = field(init=False)

    def __init__(self, name: str, ids: Any, column: str | None = None) -> None:
        """Check the ids and freeze them.

        Args:
            name: "user" or "item".
            ids: The different ids in the order of their codes: array, series or list.
            column: Name of their column in tables; None for `name`.
        """
        checked = read_ids(ids, f"the list of {name} ids")
        ids = checked.to_numpy()
        if not len(ids):
            raise ValueError(f"There are no {name} ids; a vocabulary needs at least one.")
        different, codes = factorize(checked)
        if len(different.values) < len(ids):
            before, again = first_repeat(codes)
            raise ValueError(
                f"The {name} id {plain(ids[again])!r} occurs twice, in places {before} and "
                f"{again}; list every id once, or use Vocabulary.from_values(values, name) for a "
                "column with repeats."
            )
        ids.flags.writeable = False
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "column", name if column is None else column)
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "kind", checked.kind)

    @classmethod
    def from_values(
        cls, values: Any, name: str, *, what: str | None = None, column: str | None = None
    ) -> tuple["Vocabulary", np.ndarray]:
        """The vocabulary of a column and the column in its codes.

        Args:
            values: Ids of n rows: array, series, list; see `Ratings.from_frame` for the kinds.
            name: "user" or "item".
            what: What messages call the values; by default "the column of user ids".
            column: Name of the column in tables; None for `name`.

        Returns:
            The vocabulary, sorted where the ids have an order (else as they first appear), and
            codes, int32 of shape (n,).

        Raises:
            TypeError: If an id can't be hashed.
            ValueError: If an id is missing, or the ids are of several kinds.

        Example:
            >>> users, codes = Vocabulary.from_values(["bob", "ann", "bob"], "user")
            >>> users.ids, codes
            (array(['ann', 'bob'], dtype=object), array([1, 0, 1], dtype=int32))
        """
        different, codes = factorize(read_ids(values, what or f"the column of {name} ids"))
        return cls(name, different.values, column), codes

    def encode(
        self,
        values: Any,
        *,
        unknown: Literal["raise", "flag"] = "raise",
        what: str | None = None,
    ) -> np.ndarray:
        """Codes of ids.

        Args:
            values: Ids of n rows, of the vocabulary's kind.
            unknown: What an id that the vocabulary lacks gives: an error, or the code -1.
            what: What messages call the values; by default "the column of user ids".

        Returns:
            Codes, int32 of shape (n,).

        Raises:
            TypeError: If an id can't be hashed.
            ValueError: If ids are missing, of another kind, or unknown (unless flagged).
        """
        if unknown not in ("raise", "flag"):
            raise ValueError(f"unknown is {unknown!r}; expected 'raise' or 'flag'.")
        column = load(values, what or f"the column of {self.name} ids")
        asked = read_ids(column, column.what)
        if asked.kind not in (self.kind, NOTHING):
            theirs, ours = plain(asked.to_numpy()[0]), plain(self.ids[0])
            raise ValueError(
                f"{sentence(column.what)} holds {asked.kind} (such as {theirs!r}), but the known "
                f"{self.name} ids are {self.kind} (such as {ours!r}), so none could be found; "
                "convert one to the other first."
            )
        codes = self._look_up(asked)
        if unknown == "raise" and (codes < 0).any():
            rows = np.flatnonzero(codes < 0)
            ids = list(dict.fromkeys(plain(value) for value in asked.to_numpy()[rows]))
            raise ValueError(self.unknown_message(ids, int(rows[0]), len(rows), column.what))
        return codes

    def encode_known(self, column: Column) -> np.ndarray:
        """Codes of a column, int32 of shape (n,), -1 where it is missing or unknown."""
        missing = column.missing()
        codes = np.full(len(column), -1, np.int32)
        if not missing.all():
            codes[~missing] = self.encode(column.known(), unknown="flag")
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """Ids of codes.

        Args:
            codes: Whole numbers from 0 to `len(self) - 1`, of any shape.

        Returns:
            The ids, in the shape of `codes`.

        Raises:
            TypeError: If the codes are not whole numbers.
            ValueError: If a code is out of range.
        """
        places = np.asarray(codes)
        if places.size == 0:
            return self.ids[places.astype(np.int64)]
        if places.dtype.kind not in "iu":
            raise TypeError(
                f"Codes are of type {places.dtype}, expected whole numbers. To look ids up, use "
                "encode."
            )
        if places.min() < 0 or places.max() >= len(self):
            bad = places[(places < 0) | (places >= len(self))].flat[0]
            raise ValueError(
                f"{bad} is no {self.name} code: the codes of these {len(self):,} {self.name}s are "
                f"0 to {len(self) - 1}. (-1 marks an unknown id.)"
            )
        return self.ids[places]

    def to_arrow(self) -> pa.Array:
        """The ids as an Arrow array.

        Returns:
            An array that reads back as the same ids.

        Raises:
            TypeError: If the kind of the ids has no Arrow type (tuples, for one).
        """
        return to_arrow(read_ids(self.ids, f"the list of {self.name} ids"))

    def __len__(self) -> int:
        """Number of ids."""
        return len(self.ids)

    def __iter__(self) -> Iterator[Any]:
        """The ids in code order."""
        return iter(self.ids)

    def __contains__(self, value: object) -> bool:
        """True for an id of the vocabulary; False for an id of another kind."""
        try:
            return bool(self.encode([value], unknown="flag")[0] >= 0)
        except (TypeError, ValueError):
            return False

    def __eq__(self, other: object) -> bool:
        """True for the same name and the same ids in the same order."""
        if self is other:
            return True
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return (
            (self.name, self.kind, len(self)) == (other.name, other.kind, len(other))
            and bool(np.all(self.ids == other.ids))
        )  # fmt: skip

    def __hash__(self) -> int:
        """By name, size and first id."""
        return hash((self.name, self.kind, len(self), self.ids[0]))

    def __repr__(self) -> str:
        """The first ids and how many there are."""
        first = ", ".join(repr(plain(value)) for value in self.ids[:3])
        more = ", ..." if len(self) > 3 else ""
        return f"Vocabulary({self.name!r}, [{first}{more}]; {len(self):,} ids, {self.kind})"

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.ids, kind="stable")

    @cached_property
    def _code_of(self) -> dict[Any, int]:
        return {value: code for code, value in enumerate(self.ids.tolist())}

    def _look_up(self, asked: Ids) -> np.ndarray:
        values = asked.to_numpy()
        if self.ids.dtype == values.dtype == np.int64 or (
            self.kind in (DATES, DURATIONS) and values.dtype.kind == self.ids.dtype.kind
        ):
            ordered = self.ids[self._order]
            place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
            return np.where(ordered[place] == values, self._order[place], -1).astype(np.int32)
        code_of = self._code_of.get
        return np.fromiter((code_of(value, -1) for value in values.tolist()), np.int32, len(values))

    def unknown_message(self, ids: list[Any], row: int, count: int, what: str) -> str:
        """Message about different ids that are not known: in which row first, in how many."""
        names = ", ".join(map(repr, ids[:3])) + ", ..." * (len(ids) > 3)
        some = f"id {names}, which is" if len(ids) == 1 else f"{len(ids):,} ids that are"
        listed = "" if len(ids) == 1 else f": {names}"
        return (
            f"{sentence(what)} holds {some} not among the {len(self):,} known "
            f"{self.name}s{listed} (first in row {row}; {count:,} in all). Drop these "
            "rows (Ratings.recode(..., unknown='drop')), flag them with the code -1 "
            "(unknown='flag'), or build the vocabulary from data that has these ids."
        )


def in_order(values: Any, name: str, column: str | None = None) -> Vocabulary:
    """A vocabulary given as such or as a sequence of ids in code order."""
    if isinstance(values, Vocabulary):
        if values.name != name:
            raise ValueError(
                f"{name}s= is a vocabulary of {values.name}s, expected one of {name}s; were users "
                "and items exchanged?"
            )
        return values
    return Vocabulary(name, values, column)


def read_levels(column: Column, name: str) -> tuple[Vocabulary, np.ndarray]:
    """Levels that occur in a column, in the order of its categories or else sorted, and codes."""
    levels, codes = Vocabulary.from_values(column, name)
    if column.categories is None:
        return levels, codes
    place = {value: place for place, value in enumerate(column.categories)}
    order = np.argsort([place[value] for value in levels.ids.tolist()], kind="stable")
    return Vocabulary(name, levels.ids[order]), np.argsort(order).astype(np.int32)[codes]
