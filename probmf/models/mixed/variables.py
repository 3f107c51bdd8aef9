"""Columns that a formula uses, and their values."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from probmf.data.tables import Frame, read_table
from probmf.models.mixed.code import names_in
from probmf.models.mixed.formula import simple_formula, unquote


def variables(formula: str) -> list[str]:
    """Columns that a part of a formula mentions, in order.

    All names but those that are called and those formulaic knows (poly, np).

    Example:
        >>> variables("1 + x + np.log(z) + C(`my column`)")
        ['x', 'z', 'my column']
    """
    found: list[str] = []
    called: set[str] = set()
    for factor in [factor for term in simple_formula(formula) for factor in term.factors]:
        if factor.eval_method.value == "lookup":
            found.append(unquote(factor.expr))
        elif factor.eval_method.value == "python":
            names = names_in(factor.expr)
            found += names.columns
            called |= names.called
    both = [name for name in found if name in called]
    if both:
        raise ValueError(
            f"The formula part {formula!r} calls {both[0]!r} and has a column of that name; rename "
            "the column in the data and the formula."
        )
    return list(dict.fromkeys(found))


def categorical(formula: str) -> set[str]:
    """Columns that a part of a formula has within C(...)."""
    codes = [
        factor.expr
        for term in simple_formula(formula)
        for factor in term.factors
        if factor.eval_method.value == "python"
    ]
    return {name for code in codes for name in names_in(code).categories}


def read_data(
    data: Any,
    names: Sequence[str],
    *,
    hints: Mapping[str, str] | None = None,
    gaps: Collection[str] = (),
) -> Frame:
    """The columns that formulas use; without a missing value, and at least one row.

    `hints` say what to do when a column is missing; columns in `gaps` need no value in every row.
    """
    table = read_table(data, names, "the data", hints=hints)
    if not table.num_rows:
        raise ValueError("The data has no rows; at least one is needed.")
    for name, column in table.items():
        if name not in gaps:
            column.refuse_missing()
    return table
