"""Parts of a formula as matrices, encoded alike in training and in prediction.

formulaic does it, with its contrasts and stateful transforms; levels are checked here, because it
would turn one that it does not know into zeros.
"""

import re
import threading
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from formulaic import ModelSpec
from formulaic.errors import DataMismatchWarning, FormulaicError

from probmf.data import Vocabulary
from probmf.data.column import (
    BOOLEANS,
    FINITE,
    INTEGERS,
    TIMES,
    Column,
    objects,
    refuse,
    sentence,
    some_of,
)
from probmf.data.tables import Frame
from probmf.data.vocabulary import read_levels
from probmf.models.mixed.formula import categorical, simple_formula, variables
from probmf.models.mixed.operators import nesting

UNSEEN = ", which was not in the training data; the levels there were {}."

#: Held while the filters of warnings are changed: they are the process's, and of two threads that
#: change and restore them the one that ends last would leave the other's change for good.
FILTERS = threading.Lock()


@dataclass(frozen=True, eq=False)
class ColumnEncoder:
    """A part of a formula, fitted to the training data.

    Attributes:
        formula: The part, such as "1 + x".
        names: Names of the columns of its matrix.
        terms: For each column, the term that it comes from.
        levels: Levels of the categorical columns that it uses; None for those that hold numbers.
        spec: What formulaic remembers of the training data.
        intercept: Which column is the intercept, whatever the others are called; None if none is.
    """

    formula: str
    names: tuple[str, ...]
    terms: tuple[str, ...]
    levels: dict[str, Vocabulary | None]
    spec: ModelSpec
    intercept: int | None

    @classmethod
    def fit(cls, formula: str, table: Frame) -> tuple["ColumnEncoder", np.ndarray]:
        """Learn the encoding.

        The matrix has a row for each row of the table.
        """
        used = variables(formula)
        for name in used:
            _refuse_kinds(table[name])
        _refuse_ratios(formula, table)
        levels = {
            name: None if table[name].is_numeric else read_levels(table[name], name)[0]
            for name in used
        }
        frame = _frame(table, levels, formula)
        matrix, spec = _matrix(simple_formula(formula), frame, formula)
        term_of = {column: term for term, own in spec.term_indices.items() for column in own}
        terms = [term_of[place] for place in range(len(term_of))]
        names = tuple(str(name) for name in spec.column_names)
        intercepts = [place for place, term in enumerate(terms) if _is_intercept(term)]
        encoder = cls(
            formula, names, tuple(map(str, terms)), levels, spec, next(iter(intercepts), None)
        )
        _refuse_single_levels(spec, levels, frame)
        # First, as values that a neighbour lacks are not finite.
        encoder._refuse_neighbours(frame, matrix)
        _check_finite(matrix, names)
        return encoder, matrix

    def encode(self, table: Frame) -> np.ndarray:
        """The matrix of new data, with the training data's levels and transforms."""
        frame = _frame(table, self.levels, self.formula)
        self._refuse_new_levels(frame)
        matrix, _ = _matrix(self.spec, frame, self.formula)
        _check_finite(matrix, self.names)
        return matrix

    @property
    def choices(self) -> dict[str, list[Any] | None]:
        """Levels of the columns that it uses, also of numbers within C(...); None for numbers."""
        found = {n: None if own is None else own.ids.tolist() for n, own in self.levels.items()}
        return found | self._levels_of_numbers()

    def _levels_of_numbers(self) -> dict[str, list[Any]]:
        """Levels of columns of numbers within C(...)."""
        return {
            str(variable): list(contrasts.levels)
            for factor, contrasts in self.spec.factor_contrasts.items()
            for variable in self.spec.factor_variables[factor]
            if str(variable) in self.levels and self.levels[str(variable)] is None
            and re.match(rf"C\(\s*`?{re.escape(str(variable))}`?\s*[,)]", str(factor))
        }  # fmt: skip

    def _refuse_neighbours(self, frame: pd.DataFrame, matrix: np.ndarray) -> None:
        """Refuse terms that depend on other rows, such as x - np.mean(x): new rows have others."""
        if not any(factor.eval_method.value == "python" for factor in self.spec.factors):
            return
        rows = [len(frame) - 1, 0]
        alone, _ = _matrix(self.spec, frame.iloc[rows].reset_index(drop=True), self.formula)
        size = np.abs(matrix).max(axis=0, initial=0.0, where=np.isfinite(matrix))
        with np.errstate(invalid="ignore"):
            near = np.abs(alone - matrix[rows]) <= 1e-9 * size
        wrong = ~(near | (alone == matrix[rows]) | (np.isnan(alone) & np.isnan(matrix[rows])))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(
                f"The term {self.names[column]!r} depends on other rows: in row {rows[row]} it is "
                f"{matrix[rows[row], column]:g}, but {alone[row, column]:g} of rows {rows} by "
                "themselves, and new data would be encoded otherwise. Use scale(x), center(x) or "
                "poly(x, 2), which remember the training data, or compute a column first."
            )

    def _refuse_new_levels(self, frame: pd.DataFrame) -> None:
        """Refuse numbers within C(...) that the training data lack; formulaic would make zeros."""
        for name, levels in self._levels_of_numbers().items():
            new = ~frame[name].isin(levels).to_numpy()
            known = some_of(levels, 8)
            refuse(new, frame[name].to_numpy(), f"column {name!r}", UNSEEN.format(known))


def _is_intercept(term: Any) -> bool:
    """True for the number one as a term; False for a column called Intercept."""
    return all(factor.eval_method.value == "literal" for factor in term.factors)


def _refuse_kinds(column: Column) -> None:
    """Refuse dates and times, which as a term could be many things, and complex numbers."""
    if column.kinds & TIMES:
        raise TypeError(
            f"{sentence(column.what)} holds dates or times, expected numbers or categories; "
            "make it a number, such as days since the first one, or text."
        )
    if "complex objects" in column.kinds:
        raise TypeError(
            f"{sentence(column.what)} holds complex numbers, expected numbers or categories; "
            "make columns of its real and imaginary parts."
        )


def _refuse_single_levels(
    spec: ModelSpec, levels: dict[str, Vocabulary | None], frame: pd.DataFrame
) -> None:
    """Refuse categories of one level, whose terms would have no column and vanish."""
    found = {name: own.ids.tolist() for name, own in levels.items() if own is not None}
    for factor, contrasts in spec.factor_contrasts.items():
        for variable in spec.factor_variables[factor]:
            if str(variable) in frame.columns:
                found.setdefault(str(variable), list(contrasts.levels))
    for name, own in found.items():
        if len(own) == 1:
            raise ValueError(
                f"Column {name!r} has one level only, {own[0]!r}, so that its terms can't be told "
                "from the rest of the formula. Leave them out."
            )


def _refuse_ratios(formula: str, table: Frame) -> None:
    """Refuse x/z of numbers, which is x + x:z and looks like a ratio."""
    for name in nesting(formula):
        if table[name].is_numeric:
            raise ValueError(
                f"In the formula part {formula!r} the column {name!r} of numbers stands before "
                f"'/', which outside of I(...) nests: {name}/z is {name} + {name}:z. Write that, "
                f"or I({name} / z) for a ratio, or C({name})/z for levels."
            )


def _frame(table: Frame, levels: dict[str, Vocabulary | None], formula: str) -> pd.DataFrame:
    """Checked columns for formulaic.

    Numbers are float64, as sums and powers of integers overflow without a word; but whole ones
    within C(n) stay whole, that its levels are 1 and not 1.0.
    """
    within = categorical(formula)
    values: dict[str, Any] = {}
    for name, vocabulary in levels.items():
        column = table[name]
        if vocabulary is None:
            numbers = column.numbers()
            whole = column.kinds <= {INTEGERS, BOOLEANS} and bool(np.all(abs(numbers) <= 2**53))
            values[name] = numbers.astype(np.int64) if whole and name in within else numbers
            continue
        codes = vocabulary.encode(column, unknown="flag")
        column.refuse(codes < 0, UNSEEN.format(some_of(vocabulary.ids.tolist(), 8)))
        categories = pd.Index(vocabulary.ids.tolist(), tupleize_cols=False)
        values[name] = pd.Categorical.from_codes(codes, categories=categories)
    return pd.DataFrame(values, index=pd.RangeIndex(table.num_rows))


def _matrix(source: Any, frame: pd.DataFrame, formula: str) -> tuple[np.ndarray, ModelSpec]:
    try:
        with FILTERS, warnings.catch_warnings(), np.errstate(all="ignore"):
            # Levels of computed categories that training lacked: formulaic only warns of them.
            warnings.simplefilter("error", DataMismatchWarning)
            result = source.get_model_matrix(frame, context={}, output="numpy", na_action="ignore")
    except (FormulaicError, DataMismatchWarning, TypeError, ValueError) as error:
        raise ValueError(f"The formula part {formula!r} can't be computed: {error}") from error
    return np.asarray(result, np.float64).reshape(len(frame), -1), result.model_spec


def _check_finite(matrix: np.ndarray, names: tuple[str, ...]) -> None:
    for name, values in zip(names, matrix.T, strict=True):
        refuse(~np.isfinite(values), values, f"the term {name!r}", FINITE)


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

        Also the group of each row.
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

        A group that the training data lack is refused, or with "prior" (its effects have their
        prior distribution) has a negative code, -1 for the first one.
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
