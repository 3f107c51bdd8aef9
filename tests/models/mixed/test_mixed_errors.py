"""What is refused at the door, and what the message says."""

import re
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from probmf.models.mixed import MixedEffects


def frame(**columns: Any) -> dict[str, Any]:
    table: dict[str, Any] = {
        "y": [1.0, 2.0, 4.0, 3.0, 2.5, 0.5],
        "x": [0.0, 1.0, 2.0, 3.0, 5.0, 4.0],
        "a": ["p", "q", "p", "q", "p", "r"],
        "g": ["u", "u", "v", "v", "w", "w"],
    }
    return table | columns


def gap(column: list[Any], *rows: int) -> list[Any]:
    return [None if row in rows else value for row, value in enumerate(column)]


@pytest.mark.parametrize(
    ("formula", "columns", "message"),
    [
        ("y ~ x + w", {}, "The data has no column 'w'; its columns are: 'y', 'x', 'a', 'g'."),
        ("y ~ x + (1 | grp)", {}, "no column 'grp'"),
        ("y ~ log(w)", {}, "no column 'w'"),
        ("t ~ x", {}, "no column 't'"),
        ("y ~ x", {"x": gap([1.0] * 6, 4)}, "Column 'x' has 1 missing value (None, NaN or null), "
         "the first in row 4"),
        ("y ~ (1 | g)", {"g": gap(["u"] * 6, 1, 3)}, "Column 'g' has 2 missing values"),
        ("y ~ x", {"x": [1.0, 2.0, np.inf, 3.0, 4.0, 5.0]}, "Column 'x' is inf in row 2"),
        ("y ~ log(x)", {}, "The term 'log(x)' is -inf in row 0 (1 such row);"),
        ("y ~ (log(x) | g)", {}, "The term 'log(x)' is -inf in row 0 (1 such row);"),
        ("y ~ nosuch(x)", {}, "nosuch"),
        ("y ~ poly(a, 2)", {}, "can't be computed"),
        ("y ~ x + (1 | g)", {"g": ["u"] * 6}, "'g' has one level only, 'u'"),
        ("y ~ x + I(2 * x)", {}, "is a combination of those before (rank 2 of 3 columns in"),
        ("y ~ x + b + c", {"b": [1] * 6, "c": [2] * 6}, "'b', 'c' are combinations of"),
        ("y ~ x + (0 | g)", {}, "(0 | g) has no columns; write (1 | g)"),
        ("y ~ (1 | g) + (x | g)", {}, "gives the factor 'g' a second effect of 'Intercept'"),
        ("y ~ (1 | g) + (1 | g)", {}, "second effect of 'Intercept'"),
        ("y ~ x", {"x": [1.0, 2.0]}, "column 'y' has 6, column 'x' has 2"),
        ("y ~ x", {name: [] for name in "yxag"}, "The data has no rows"),
        ("y ~ x + y", {}, "The response 'y' is also among the terms, in 'x + y'"),
        ("y ~ x + (log(y) | g)", {}, "The response 'y' is also among the terms, in 'log(y)'"),
        ("y ~ x/z", {"z": [1, 2, 3, 4, 5, 7]}, "I(x / z) for a ratio"),
        ("y ~ (x/a | g)", {}, "I(x / z) for a ratio"),
        ("y ~ I(x - np.mean(x))", {}, "The term 'I(x - np.mean(x))' depends on other rows"),
        ("y ~ {x / x.max()}", {}, "depends on other rows: in row 5"),
        ("y ~ {x.rank()}", {}, "depends on other rows"),
        ("y ~ lag(x)", {}, "The term 'lag(x)' depends on other rows"),
        ("y ~ x + one", {"one": ["u"] * 6}, "Column 'one' has one level only, 'u'"),
        ("y ~ x + one:x", {"one": ["u"] * 6}, "Column 'one' has one level only, 'u'"),
        ("y ~ x + C(one)", {"one": [3] * 6}, "Column 'one' has one level only, 3"),
        ("y ~ (one | g)", {"one": ["u"] * 6}, "Column 'one' has one level only, 'u'"),
        ("y ~ x.1", {"x.1": [1.0] * 6}, "a name that holds a dot stands in backticks: `x.1`"),
        ("y ~ (1 | g.id)", {}, "stands in backticks: (1 | `g...`)"),
        ("y ~ cr(x, df=4)", {}, "written cr(x, df=4, constraints='center')"),
        ("y ~ Intercept", {"Intercept": [1.0, 3, 2, 5, 4, 6]}, "called 'Intercept', and could"),
        ("y ~ (Intercept | g)", {"Intercept": [1.0, 3, 2, 5, 4, 6]}, "called 'Intercept'"),
        ("y ~ x:b + `x:b`", {"b": [1, 1, 0, 0, 1, 0], "x:b": [3, 1, 4, 1, 5, 9]},
         "called 'x:b', and could not be told apart"),
        ("y ~ (1 | a:g) + (1 | g:a)", {}, "gives the factor 'g:a' a second effect"),
        ("y ~ (1 | a:g) + (0 + x | `a:g`)", {"a:g": list("nnmmoo")}, "the column 'a:g'; rename"),
        ("y ~ (1 | noise)", {"noise": list("uuvvww")}, "called 'noise_scale', because of the"),
        ("y ~ (1 | chain)", {"chain": list("uuvvww")}, "because of the column 'chain'; rename"),
        ("g_scale ~ (1 | g)", {"g_scale": [1.0, 2, 3, 4, 5, 6]}, "rename it in the data"),
        ("y ~ (1 | g)", {"g": [0.5, 0.5, 1.5, 1.5, 2.5, 2.5]}, "only if it is whole"),
        ("y ~ (1 | g)", {"g": ["u", "u", 1, 1, "v", "v"]}, "mixes text and integers"),
        ("y ~ (1 | observation)", {"observation": [0, 0, 0, 1, 1, 1]}, "rename it in the data"),
        ("coefficients ~ x", {"coefficients": [1.0, 2, 3, 4, 5, 6]}, "rename it in the data"),
        ("y ~ (1 | coefficient)", {"coefficient": [0, 0, 0, 1, 1, 1]}, "rename it in the data"),
        ("y ~ (1 | y)", {"y": [1, 1, 2, 2, 3, 3]}, "rename it in the data"),
    ],
)  # fmt: skip
def test_data_that_do_not_suit_the_formula(
    formula: str, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        MixedEffects(formula).design(frame(**columns))


def test_the_dependent_column_is_named() -> None:
    table = frame(b=[1, 1, 0, 0, 1, 0], twice=[1e6, 1e6, 0, 0, 1e6, 0])
    with pytest.raises(ValueError, match="collinear: 'twice' is a combination"):
        MixedEffects("y ~ b + x + twice").design(table)
    with pytest.raises(ValueError, match="rank 6 of 7 columns in 6 rows"):
        MixedEffects("y ~ " + " + ".join(f"I(x ** {k})" for k in range(1, 7))).design(
            frame(x=[-2.0, -1.0, 0.5, 1.0, 2.0, 3.0])
        )


@pytest.mark.parametrize(
    ("likelihood", "response", "kind", "message"),
    [
        ("gaussian", list("aabbcc"), TypeError, "must hold numbers, but row 0 holds 'a'"),
        ("gaussian", pd.Categorical([1, 2] * 3), None, ""),
        ("lognormal", [1, 2, 0, -1, 1, 1], ValueError, "'y' does not suit: A LogNormal likelihood "
         "needs positive responses, but row 2 has 0 (2 such rows)"),
        ("bernoulli", [0, 1, 2, 1, 0, 1], ValueError, "needs responses 0 or 1, but row 2 has 2 (1"),
        ("poisson", [0, 1, 2.5, -1, 0, 1], ValueError, "'y' does not suit: A Poisson likelihood "
         "needs responses that are counts (0, 1, 2, ...), but row 2 has 2.5 (2 such rows)"),
        ("poisson", np.arange(6), None, ""),
        ("zeroinflatedpoisson", np.arange(6) + 1, ValueError, "'y' does not suit: None of the 6 "
         "counts is zero, so the data say nothing of the zeros of ZeroInflatedPoisson"),
        ("hurdlenegativebinomial", np.arange(6) + 1, ValueError, "Use NegativeBinomial, or give"),
        ("beta", [0.1, 0.5, 1.0, 0.2, 0.3, 0.0], ValueError, "both excluded, but row 2 has 1 (2 "),
        ("bernoulli", list("nynyny"), TypeError, "must hold numbers"),
        ("ordinal", [1, 2, 4, 2, 1, 4], ValueError, "'y' has 2 and 4 and nothing between"),
        ("ordinal", [1, 2, 1.5, 2, 1, 1], ValueError, "numbers, but column 'y' is 1.5 in row 2"),
        ("ordinal", [3] * 6, ValueError, "has one level only, 3"),
        ("ordinal", list("nynyny"), TypeError, "make it a categorical column"),
        ("ordinal", pd.Categorical(list("nynyny"), categories=["n", "m", "y"], ordered=True),
         ValueError, "levels that no row has: 'm'"),
        ("ordinal", pd.Categorical(list("nynyny")), TypeError, "are not ordered ('n', 'y'); say"),
        ("ordinal", pd.Series([3, 1, 2] * 2).astype("category"), TypeError, "not ordered (1, 2"),
        ("ordinal", pa.array(list("nynyny")).dictionary_encode(), TypeError, "are not ordered"),
        ("ordinal", pl.Series(list("nynyny"), dtype=pl.Categorical), TypeError, "in order"),
        ("ordinal", pl.Series(list("nynyny"), dtype=pl.Enum(["y", "n"])), None, ""),
        ("ordinal", [True, False] * 3, None, ""),
        ("bernoulli", pd.Categorical(list("nynyny")), TypeError, "Which value of a bernoulli"),
        ("gaussian", [True, False] * 3, TypeError, "booleans, expected numbers"),
        ("lognormal", np.ones(6, bool), TypeError, "booleans, expected numbers"),
        ("gaussian", pa.array([True, False] * 3), TypeError, "use likelihood='bernoulli'"),
        ("gaussian", pd.date_range("2026-01-01", periods=6), TypeError, "must hold numbers"),
    ],
)  # fmt: skip
def test_support_of_the_response(
    likelihood: Any, response: Any, kind: type[Exception] | None, message: str
) -> None:
    model = MixedEffects("y ~ x", likelihood=likelihood)
    if kind is None:
        model.design(frame(y=response))
        return
    with pytest.raises(kind, match=re.escape(message)):
        model.design(frame(y=response))


@pytest.mark.parametrize(
    "times", [np.arange(6).astype("datetime64[D]"), pd.date_range("2026-01-01", periods=6)]
)
def test_dates_are_no_terms_but_may_group(times: Any) -> None:
    table = frame(t=times)
    with pytest.raises(TypeError, match="Column 't' holds dates or times"):
        MixedEffects("y ~ t").design(table)
    assert MixedEffects("y ~ (1 | t)").design(table).data.groups[0].num_groups == 6


def test_numbers_of_a_categorical_column_are_levels() -> None:
    table = frame(x=pd.Categorical([3, 1, 3, 1, 2, 2], categories=[3, 2, 1]))
    design = MixedEffects("y ~ x").design(table)
    assert design.data.mean.names == ("Intercept", "x[T.2]", "x[T.1]")


def test_complex_numbers_are_no_categories() -> None:
    with pytest.raises(TypeError, match="Column 'x' holds complex numbers, expected numbers"):
        MixedEffects("y ~ x").design(frame(x=np.arange(6) + 1j))
