"""Parts of a formula as matrices, encoded alike in training and in prediction.

formulaic does it, with its contrasts and stateful transforms; levels are checked here, because it
would turn one that it does not know into zeros.
"""

import re
import threading
import warnings
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from formulaic import ModelSpec
from formulaic.errors import DataMismatchWarning, FormulaicError

from probmf.data import Vocabulary
from probmf.data.columns import read_any
from probmf.models.mixed.columns import Table, categorical, some, variables
from probmf.models.mixed.formula import simple_formula
from probmf.models.mixed.operators import nesting

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
    def fit(cls, formula: str, table: Table) -> tuple["ColumnEncoder", np.ndarray]:
        """Learn the encoding.

        Args:
            formula: The part, for formulaic.
            table: The training data.

        Returns:
            The encoder and the matrix, float64 of shape (n, number of columns).

        Raises:
            TypeError: If a column holds neither numbers nor categories.
            ValueError: If a term can't be computed or is not finite.
        """
        used = variables(formula)
        for name in used:
            table.refuse_times(name)
        _refuse_ratios(formula, table)
        levels = {
            name: None if table.is_numeric(name) else table.categories(name)[0] for name in used
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
        _check_finite(matrix, names)
        encoder._refuse_neighbours(frame, matrix)
        return encoder, matrix

    def encode(self, table: Table) -> np.ndarray:
        """The matrix of new data, with the training data's levels and transforms.

        Args:
            table: The new data.

        Returns:
            Float64 of shape (n, number of columns).

        Raises:
            ValueError: If a category was not in the training data, or a term is not finite.
        """
        frame = _frame(table, self.levels, self.formula)
        self._refuse_new_levels(frame)
        matrix, _ = _matrix(self.spec, frame, self.formula)
        _check_finite(matrix, self.names)
        return matrix

    def _refuse_neighbours(self, frame: pd.DataFrame, matrix: np.ndarray) -> None:
        """Refuse terms that depend on other rows, such as x - np.mean(x): new rows have others."""
        if not any(factor.eval_method.value == "python" for factor in self.spec.factors):
            return
        rows = [len(frame) - 1, 0]
        alone, _ = _matrix(self.spec, frame.iloc[rows].reset_index(drop=True), self.formula)
        size = np.abs(matrix).max(axis=0, initial=0.0)
        wrong = ~(np.abs(alone - matrix[rows]) <= 1e-9 * size)
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
        for factor, contrasts in self.spec.factor_contrasts.items():
            for variable in self.spec.factor_variables[factor]:
                name = str(variable)
                if name not in frame.columns or self.levels.get(name) is not None:
                    continue
                if re.match(rf"C\(\s*`?{re.escape(name)}`?\s*[,)]", str(factor)):
                    new = ~frame[name].isin(contrasts.levels).to_numpy()
                    if new.any():
                        _raise_unseen(name, frame[name].to_numpy(), new, contrasts.levels)


def _is_intercept(term: Any) -> bool:
    """True for the number one as a term; False for a column called Intercept."""
    return all(factor.eval_method.value == "literal" for factor in term.factors)


def _refuse_ratios(formula: str, table: Table) -> None:
    """Refuse x/z of numbers, which is x + x:z and looks like a ratio."""
    for name in nesting(formula):
        if table.is_numeric(name):
            raise ValueError(
                f"In the formula part {formula!r} the column {name!r} of numbers stands before "
                f"'/', which outside of I(...) nests: {name}/z is {name} + {name}:z. Write that, "
                f"or I({name} / z) for a ratio, or C({name})/z for levels."
            )


def _frame(table: Table, levels: dict[str, Vocabulary | None], formula: str) -> pd.DataFrame:
    """Checked columns for formulaic.

    Numbers are float64, as sums and powers of integers overflow without a word; but whole ones
    within C(n) stay whole, that its levels are 1 and not 1.0.
    """
    whole = categorical(formula)
    columns: dict[str, Any] = {}
    for name, vocabulary in levels.items():
        what = f"column {name!r}"
        if vocabulary is None:
            if not table.is_numeric(name):
                raise TypeError(
                    f"Column {name!r} held numbers in the training data, but holds "
                    f"{read_any(table.columns[name])[0]!r} now."
                )
            numbers = table.numbers(name)
            keep = name in whole and table.is_whole(name)
            columns[name] = numbers.astype(np.int64) if keep else numbers
            continue
        values = table.columns[name]
        codes = vocabulary.encode(values, unknown="flag", what=what)
        if (codes < 0).any():
            _raise_unseen(name, read_any(values), codes < 0, vocabulary.ids.tolist())
        columns[name] = pd.Categorical.from_codes(codes, categories=_index(vocabulary))
    return pd.DataFrame(columns, index=pd.RangeIndex(table.length))


def _index(vocabulary: Vocabulary) -> pd.Index:
    return pd.Index(vocabulary.ids.tolist(), tupleize_cols=False)


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
    bad = ~np.isfinite(matrix)
    if bad.any():
        column = int(bad.any(axis=0).argmax())
        rows = np.flatnonzero(bad[:, column])
        raise ValueError(
            f"The term {names[column]!r} is {matrix[rows[0], column]} in row{'s'[: rows.size > 1]} "
            f"{some(rows)}; every value must be finite."
        )


def _raise_unseen(name: str, values: Any, new: np.ndarray, known: list[Hashable]) -> None:
    row = int(new.argmax())
    value = values[row].item() if isinstance(values[row], np.generic) else values[row]
    listed = ", ".join(map(repr, known[:8])) + ", ..." * (len(known) > 8)
    raise ValueError(
        f"Column {name!r} holds {value!r} in row {row} ({int(new.sum()):,} such rows), which was "
        f"not in the training data; the levels there were {listed}."
    )
