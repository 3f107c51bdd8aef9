"""New rows in the training data's coding."""

import re
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from probmf.models.mixed import MixedEffects

N = 20


def frame() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "y": rng.normal(size=N),
        "x": rng.normal(5, 2, N),
        "k": np.arange(N) % 3,
        "a": pd.Categorical(np.array(["p", "q", "r"])[rng.integers(0, 3, N)], list("rqp")),
        "g": np.arange(N) // 5,
        "h": np.array(["u", "v"])[np.arange(N) // 2 % 2],
    }  # fmt: skip


MODEL = MixedEffects("y ~ poly(x, 2) + scale(log(x)):a + C(k + 1) + a + (0 + a | g) + (x || g:h)")


def test_the_training_rows_have_the_training_design() -> None:
    table = frame()
    design = MODEL.design(table)
    del table["y"]
    again = MODEL.encode(design, table)
    np.testing.assert_allclose(again.population, design.data.population, atol=1e-5)
    for term in design.data.groups:
        np.testing.assert_array_equal(again.groups[term.name].group, term.group)
        np.testing.assert_allclose(again.groups[term.name].z, term.z, atol=1e-6)


@pytest.mark.parametrize("rows", [[3], [7, 7, 0], [19, 2, 4, 11]])
def test_any_rows_by_themselves(rows: list[int]) -> None:
    """Stateful transforms and levels are those of training: a row's code has no neighbours."""
    table = frame()
    design = MODEL.design(table)
    some = pl.DataFrame({name: np.asarray(values)[rows] for name, values in table.items()})
    found = MODEL.encode(design, some)
    np.testing.assert_allclose(found.population, design.data.population[np.array(rows)], atol=1e-5)
    for term in design.data.groups:
        np.testing.assert_array_equal(found.groups[term.name].group, term.group[np.array(rows)])
        np.testing.assert_allclose(found.groups[term.name].z, term.z[np.array(rows)], atol=1e-6)


def test_unseen_groups() -> None:
    model = MixedEffects("y ~ x + (1 | g) + (1 | g:h)")
    table = frame()
    table["h"][:5] = "u"  # group 0 has no v
    design = model.design(table)
    new = {"x": [1.0, 2.0, 3.0], "g": [1, 0, 99], "h": ["v", "v", "u"]}
    found = model.encode(design, new, unseen="prior")
    assert found.groups["g"].group.tolist() == [1, 0, -1]
    seen = design.levels["g:h"].tolist()
    assert found.groups["g:h"].group.tolist() == [seen.index("1:v"), -1, -2]
    with pytest.raises(ValueError, match=re.escape("Column 'g' is '99' in row 2 (1 such row)")):
        model.encode(design, new)
    with pytest.raises(ValueError, match="Column 'g:h' is '0:v' in row 1"):
        model.encode(design, {**new, "g": [1, 0, 2]})
    with pytest.raises(ValueError, match="expected 'error' or 'prior'"):
        model.encode(design, new, unseen="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("formula", "changed", "kind", "message"),
    [
        ("y ~ a", {"a": ["p", "s"]}, ValueError, "Column 'a' is 's' in row 1 (1 such row), "
         "which was not in the training data; the levels there were 'r', 'q', 'p'."),
        ("y ~ x + (0 + a | g)", {"a": ["s", "p"]}, ValueError, "'s' in row 0"),
        ("y ~ C(k)", {"k": [2, 7]}, ValueError, "Column 'k' is 7 in row 1"),
        ("y ~ C(k + 1)", {"k": [2, 7]}, ValueError, "can't be computed"),
        ("y ~ C(a)", {"a": ["p", "s"]}, ValueError, "Column 'a' is 's' in row 1"),
        ("y ~ x", {"x": ["1", "2"]}, TypeError, "must hold numbers, but row 0 holds '1'"),
        ("y ~ a", {"a": [1, 2]}, ValueError, "convert one to the other"),
        ("y ~ (1 | g)", {"g": ["0", "1"]}, ValueError, "convert one to the other"),
        ("y ~ x", {"x": [1.0, None]}, ValueError, "Column 'x' has 1 missing value"),
        ("y ~ log(x)", {"x": [1.0, 0.0]}, ValueError, "The term 'log(x)' is -inf in row 1"),
    ],
)  # fmt: skip
def test_new_rows_that_do_not_fit(
    formula: str, changed: dict[str, Any], kind: type[Exception], message: str
) -> None:
    model = MixedEffects(formula)
    new = {"x": [1.0, 2.0], "k": [0, 1], "a": ["p", "q"], "g": [0, 1], "h": ["u", "v"]} | changed
    with pytest.raises(kind, match=re.escape(message)):
        model.encode(model.design(frame()), new, unseen="prior")


def test_the_noise_is_encoded_too() -> None:
    model = MixedEffects("y ~ x + (1 | g)", scale_formula="~ a + (1 | h)")
    found = model.encode(model.design(frame()), frame())
    assert found.noise is not None
    assert found.noise.population.shape == (N, 3)
    assert list(found.noise.groups) == ["noise_h"]


def test_a_model_without_columns() -> None:
    model = MixedEffects("y ~ 1")
    design = model.design(frame())
    np.testing.assert_array_equal(
        model.encode(design, {"x": [1, 2, 3]}).population, np.ones((3, 1))
    )
    lazy = pl.LazyFrame({"x": [1, 2, 3]})
    np.testing.assert_array_equal(model.encode(design, lazy).population, np.ones((3, 1)))
