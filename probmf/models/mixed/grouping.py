"""Grouping columns as codes, alike in training and in prediction."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from probmf.data import Vocabulary
from probmf.data.columns import read_any
from probmf.models.mixed.columns import Table

type Unseen = Literal["error", "prior"]


@dataclass(frozen=True, eq=False)
class GroupEncoder:
    """Grouping columns, fitted to the training data; groups are the combinations that occur.

    Attributes:
        factors: The columns.
        vocabularies: The levels of each.
        cells: For the second column and those after it, the sorted combinations that occur, each
            written as (code of what stands before) x (number of levels) + (code).
    """

    factors: tuple[str, ...]
    vocabularies: tuple[Vocabulary, ...]
    cells: tuple[np.ndarray, ...]

    @classmethod
    def fit(cls, factors: tuple[str, ...], table: Table) -> tuple["GroupEncoder", np.ndarray]:
        """Learn the groups.

        Args:
            factors: The grouping columns.
            table: The training data.

        Returns:
            The encoder and the group of each row, int32 of shape (n,).

        Raises:
            ValueError: If there is one group only.
        """
        vocabularies, cells = [], []
        codes = np.zeros(table.length, np.int64)
        for place, factor in enumerate(factors):
            vocabulary, own = table.categories(factor)
            vocabularies.append(vocabulary)
            if place == 0:
                codes = own.astype(np.int64)
                continue
            there, codes = np.unique(codes * len(vocabulary) + own, return_inverse=True)
            cells.append(there)
        encoder = cls(factors, tuple(vocabularies), tuple(cells))
        if encoder.num_groups == 1:
            raise ValueError(
                f"The grouping factor {encoder.name!r} has one level only, "
                f"{encoder.labels[0]!r}; how groups vary can't be learned from one. Leave its "
                "terms out of the formula."
            )
        return encoder, codes.astype(np.int32)

    @property
    def name(self) -> str:
        """The columns' names, joined by colons."""
        return ":".join(self.factors)

    @property
    def num_groups(self) -> int:
        """How many groups there are."""
        return len(self.cells[-1]) if self.cells else len(self.vocabularies[0])

    @property
    def labels(self) -> np.ndarray:
        """The groups' labels: ids of the column, or for combinations "a:b"; all differ."""
        if not self.cells:
            return self.vocabularies[0].ids
        texts = np.array([joined([label]) for label in self.vocabularies[0].ids], dtype=object)
        for vocabulary, there in zip(self.vocabularies[1:], self.cells, strict=True):
            outer, inner = np.divmod(there, len(vocabulary))
            ids = vocabulary.ids
            texts = np.array(
                [f"{texts[o]}:{joined([ids[i]])}" for o, i in zip(outer, inner, strict=True)],
                dtype=object,
            )
        return texts

    def encode(self, table: Table, *, unseen: Unseen) -> np.ndarray:
        """Groups of new rows.

        Args:
            table: The new data.
            unseen: What a group that the training data lack gives: "error", or the code -1
                ("prior": its effects have their prior distribution).

        Returns:
            Codes, int32 of shape (n,).

        Raises:
            ValueError: If a group is unseen and may not be.
        """
        codes = np.zeros(table.length, np.int64)
        for place, (factor, vocabulary) in enumerate(
            zip(self.factors, self.vocabularies, strict=True)
        ):
            own = vocabulary.encode(
                table.columns[factor], unknown="flag", what=f"column {factor!r}"
            )
            if place == 0:
                codes = own.astype(np.int64)
                continue
            there = self.cells[place - 1]
            wanted = np.where((codes < 0) | (own < 0), -1, codes * len(vocabulary) + own)
            found = np.minimum(np.searchsorted(there, wanted), len(there) - 1)
            codes = np.where(there[found] == wanted, found, -1)
        if unseen == "error" and (codes < 0).any():
            self._raise_unseen(table, codes)
        return codes.astype(np.int32)

    def _raise_unseen(self, table: Table, codes: np.ndarray) -> None:
        rows = np.flatnonzero(codes < 0)
        values = [read_any(table.columns[factor])[rows[0]] for factor in self.factors]
        label = str(values[0]) if len(values) == 1 else joined(values)
        raise ValueError(
            f"Column {self.name!r} holds {label!r} in row {rows[0]} ({rows.size:,} such rows), "
            f"which is not among the {self.num_groups:,} levels of the training data. With "
            "unseen='prior' the effects of new levels have their prior distribution."
        )


def joined(values: Iterable[Any], separator: str = ":") -> str:
    """Values joined to a label; those that hold the separator stand in backticks, as in formulas.

    Example:
        >>> joined(["a:b", "c"]), joined(["a", "b:c"])
        ('`a:b`:c', 'a:`b:c`')
    """
    texts = [str(value) for value in values]
    return separator.join(
        "`" + text.replace("`", "``") + "`" if separator in text or "`" in text else text
        for text in texts
    )
