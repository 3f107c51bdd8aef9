"""Grouping columns as codes, alike in training and in prediction."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from probmf.data import Vocabulary
from probmf.data.column import objects, refuse
from probmf.data.tables import Frame
from probmf.data.vocabulary import read_levels

type Unseen = Literal["error", "prior"]


@dataclass(frozen=True, eq=False)
class GroupEncoder:
    """Grouping columns, fitted to the training data; groups are the combinations that occur.

    Attributes:
        factors: The columns.
        vocabularies: The levels of each.
        cells: For each column, the sorted combinations with those before it that occur, each
            written as (code of what stands before) x (number of levels) + (code).
    """

    factors: tuple[str, ...]
    vocabularies: tuple[Vocabulary, ...]
    cells: tuple[np.ndarray, ...]

    @classmethod
    def fit(cls, factors: tuple[str, ...], table: Frame) -> tuple["GroupEncoder", np.ndarray]:
        """Learn the groups.

        Args:
            factors: The grouping columns.
            table: The training data.

        Returns:
            The encoder and the group of each row, int32 of shape (n,).

        Raises:
            ValueError: If there is one group only.
        """
        vocabularies: list[Vocabulary] = []
        cells: list[np.ndarray] = []
        codes = np.zeros(table.num_rows, np.int64)
        for factor in factors:
            vocabulary, own = read_levels(table[factor], factor)
            codes, there = codes * len(vocabulary) + own, np.arange(len(vocabulary))
            if cells:
                there, codes = np.unique(codes, return_inverse=True)
            vocabularies.append(vocabulary)
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
        """Number of groups."""
        return len(self.cells[-1])

    @property
    def labels(self) -> np.ndarray:
        """The groups' labels: ids of the column, or for combinations "a:b"; all differ."""
        if len(self.factors) == 1:
            return self.vocabularies[0].ids
        codes, parts = np.arange(self.num_groups), []
        for vocabulary, there in zip(self.vocabularies[::-1], self.cells[::-1], strict=True):
            codes, own = np.divmod(there[codes], len(vocabulary))
            parts.append(vocabulary.ids[own])
        return objects([joined(label) for label in zip(*parts[::-1], strict=True)])

    def encode(self, table: Frame, *, unseen: Unseen) -> np.ndarray:
        """Groups of new rows.

        Args:
            table: The new data.
            unseen: Treatment of a group that the training data lack: "error", or with "prior" (its
                effects have their prior distribution) a negative code, -1 for the first one.

        Returns:
            Codes, int32 of shape (n,).

        Raises:
            ValueError: If a group is unseen and may not be.
        """
        codes = np.zeros(table.num_rows, np.int64)
        for factor, vocabulary, there in zip(
            self.factors, self.vocabularies, self.cells, strict=True
        ):
            own = vocabulary.encode(table[factor], unknown="flag")
            wanted = np.where((codes < 0) | (own < 0), -1, codes * len(vocabulary) + own)
            found = np.minimum(np.searchsorted(there, wanted), len(there) - 1)
            codes = np.where(there[found] == wanted, found, -1)
        if unseen == "error" and (codes < 0).any():
            row = int((codes < 0).argmax())
            values = [table[factor].to_numpy()[row] for factor in self.factors]
            refuse(
                codes < 0, {row: str(values[0]) if len(values) == 1 else joined(values)},
                f"column {self.name!r}",
                f", which is not among the {self.num_groups:,} levels of the training data. With "
                "unseen='prior' the effects of new levels have their prior distribution.",
            )  # fmt: skip
        new = np.flatnonzero(codes < 0)
        if len(new):
            values = [table[factor].to_numpy()[new].tolist() for factor in self.factors]
            labels = zip(*values, strict=True)
            places: dict[Any, int] = {}
            codes[new] = [-1 - places.setdefault(label, len(places)) for label in labels]
        return codes.astype(np.int32)


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
