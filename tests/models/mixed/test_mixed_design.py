"""Designs: columns, groups and labels from any data frame; the dense design is the oracle."""

import re
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import jax
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from arviz_base import from_dict
from scipy import stats

from probmf.models.mixed import Design, MixedEffects

N = 24


def frame(n: int = N, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "y": rng.normal(10, 2, n),
        "x": rng.normal(size=n),
        "z": rng.uniform(1, 3, n),
        "a": np.array(["p", "q", "r"])[np.arange(n) % 3],
        "g": np.arange(n) // 4 * 10,
        "h": np.array(["u", "v", "w", "t"])[rng.integers(0, 4, n)],
        "b": np.arange(n) % 2 == 0,
    }


def random_values(design: Design, seed: int = 1) -> dict[str, np.ndarray]:
    """Arbitrary coefficients and effects."""
    rng = np.random.default_rng(seed)
    mean = design.data.mean
    values = {mean.site: rng.normal(size=len(mean.names))}
    for term in mean.groups:
        values[term.effects_site] = rng.normal(size=(term.num_groups, len(term.names)))
    return values


def dense_predictor(design: Design, values: dict[str, np.ndarray]) -> np.ndarray:
    """The predictor with one explicit column for each effect of each group."""
    total = np.asarray(design.data.population) @ values["coefficients"]
    for term in design.data.groups:
        z, group = np.asarray(term.z), np.asarray(term.group)
        dense = np.zeros((len(group), term.num_groups, len(term.names)))
        for row in range(len(group)):
            dense[row, group[row]] = z[row]
        total = total + dense.reshape(len(group), -1) @ values[term.effects_site].ravel()
    return total


FORMS: list[tuple[str, list[str], dict[str, list[str]]]] = [
    ("1", ["Intercept"], {}),
    ("0 + x", ["x"], {}),
    ("x + a", ["Intercept", "x", "a[T.q]", "a[T.r]"], {}),
    ("0 + a", ["a[p]", "a[q]", "a[r]"], {}),
    ("x * b", ["Intercept", "x", "b", "x:b"], {}),
    ("x:b", ["Intercept", "x:b"], {}),
    ("C(b)", ["Intercept", "C(b)[T.1]"], {}),
    ("poly(x, 2)", ["Intercept", "poly(x, 2)[1]", "poly(x, 2)[2]"], {}),
    ("log(z) + I(x**2)", ["Intercept", "log(z)", "I(x ** 2)"], {}),
    ("(1 | g)", ["Intercept"], {"g": ["Intercept"]}),
    ("0 + (1 | g)", [], {"g": ["Intercept"]}),
    ("x + (1 + x | g)", ["Intercept", "x"], {"g": ["Intercept", "x"]}),
    ("(x | g) + (1 | h)", ["Intercept"], {"g": ["Intercept", "x"], "h": ["Intercept"]}),
    ("(0 + x | g)", ["Intercept"], {"g": ["x"]}),
    ("(0 + a | g)", ["Intercept"], {"g": ["a[p]", "a[q]", "a[r]"]}),
    ("(x || g)", ["Intercept"], {"g": ["Intercept"], "g_x": ["x"]}),
    ("(a || g)", ["Intercept"], {"g": ["Intercept"], "g_a": ["a[T.q]", "a[T.r]"]}),
    ("(1 | g) + (0 + log(z) | g)", ["Intercept"], {"g": ["Intercept"], "g_log_z": ["log(z)"]}),
    ("(1 | g/h)", ["Intercept"], {"g": ["Intercept"], "g:h": ["Intercept"]}),
    ("(x | b:h)", ["Intercept"], {"b:h": ["Intercept", "x"]}),
]


@pytest.mark.parametrize(("right", "names", "groups"), FORMS, ids=[form[0] for form in FORMS])
def test_each_form_equals_its_dense_design(
    right: str, names: list[str], groups: dict[str, list[str]]
) -> None:
    with jax.enable_x64(True):
        design = MixedEffects(f"y ~ {right}").design(frame())
        data = design.data
        assert list(data.mean.names) == names
        assert {term.name: list(term.names) for term in data.groups} == groups
        correlated = "||" not in right
        assert [term.correlated for term in data.groups] == [
            correlated and len(columns) > 1 for columns in groups.values()
        ]
        values = random_values(design)
        np.testing.assert_allclose(data.mean(values), dense_predictor(design, values), atol=1e-12)


def test_groups_are_the_columns_own_values() -> None:
    table = frame()
    design = MixedEffects("y ~ (1 | g) + (1 | b:h)").design(table)
    first, second = design.data.groups
    assert design.levels["g"].tolist() == [0, 10, 20, 30, 40, 50]
    assert np.array_equal(design.levels["g"][np.asarray(first.group)], table["g"])
    pairs = [f"{b}:{h}" for b, h in zip(table["b"], table["h"], strict=True)]
    assert design.levels["b:h"][np.asarray(second.group)].tolist() == pairs
    assert sorted(set(pairs)) == design.levels["b:h"].tolist()
    assert first.group.dtype == np.int32


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([3, 1, 3, 2], [1, 2, 3]),
        ([3.0, 1.0, 3.0, 2.0], [1, 2, 3]),
        (["c", "a", "c", "b"], ["a", "b", "c"]),
        ([True, False, True, True], [False, True]),
        ([(1, "x"), (0, "y"), (1, "x"), (0, "y")], [(0, "y"), (1, "x")]),
        ([UUID(int=2), UUID(int=1), UUID(int=2), UUID(int=1)], [UUID(int=1), UUID(int=2)]),
        (pd.Categorical(["c", "a", "c", "b"], categories=["z", "c", "b", "a"]), ["c", "b", "a"]),
        (pd.Series(["c", "a", "c", "b"], dtype="category"), ["a", "b", "c"]),
        (pl.Series(["c", "a", "c", "b"], dtype=pl.Enum(["z", "c", "b", "a"])), ["c", "b", "a"]),
        (pl.Series(["c", "a", "c", "b"], dtype=pl.Categorical), ["a", "b", "c"]),
        (pa.array(["c", "a", "c", "b"]).dictionary_encode(), ["c", "a", "b"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kinds_of_grouping_column(values: Any, levels: list[Any]) -> None:
    design = MixedEffects("y ~ (1 | g)").design({"y": [1.0, 2.0, 3.0, 4.5], "g": values})
    found = design.levels["g"][np.asarray(design.data.groups[0].group)]
    assert design.levels["g"].tolist() == levels
    assert list(found) == list(values.to_pylist() if isinstance(values, pa.Array) else values)


@pytest.mark.parametrize("kind", ["pandas", "polars", "lazy", "pyarrow", "chunks", "duckdb"])
def test_any_data_frame(kind: str) -> None:
    table = frame()
    order = ["r", "z", "p", "q"]
    table["a"] = pd.Categorical(table["a"], categories=order)
    data = pd.DataFrame(table, index=np.arange(N)[::-1])
    arrow = pa.Table.from_pandas(data, preserve_index=False)
    half = arrow.slice(0, 9)
    frames: dict[str, Any] = {
        "pandas": data,
        "polars": pl.from_arrow(arrow).with_columns(pl.col("a").cast(pl.Enum(order))),
        "lazy": pl.from_arrow(arrow).with_columns(pl.col("a").cast(pl.Enum(order))).lazy(),
        "pyarrow": arrow,
        "chunks": pa.concat_tables([half, arrow.slice(9)]),
        "duckdb": duckdb.connect()
        .from_arrow(arrow)
        .project("* replace (a::enum('r', 'z', 'p', 'q') as a)"),
    }
    model = MixedEffects("y ~ x + a + b + (1 + x | a) + (1 | g:h)")
    design, expected = model.design(frames[kind]), model.design(table)
    assert design.data.mean.names == ("Intercept", "x", "a[T.p]", "a[T.q]", "b")
    assert design.levels["a"].tolist() == ["r", "p", "q"]
    jax.tree.map(np.testing.assert_array_equal, design.data, expected.data)


def test_a_column_called_intercept_is_a_column_like_any_other() -> None:
    table = frame() | {"Intercept": np.random.default_rng(2).normal(30, 10, N)}
    renamed = table | {"w": table["Intercept"]}
    for formula in ("y ~ 0 + Intercept + (1 | g)", "y ~ 0 + Intercept + x"):
        own = MixedEffects(formula).design(table).data.priors["coefficients"]
        other = MixedEffects(formula.replace("Intercept", "w")).design(renamed)
        np.testing.assert_array_equal(own.scale, other.data.priors["coefficients"].scale)
        np.testing.assert_array_equal(own.loc, other.data.priors["coefficients"].loc)
    table["y"] = (table["y"] > 10) * 1
    design = MixedEffects("y ~ Intercept + x", likelihood="ordinal").design(table)
    assert design.data.mean.names == ("Intercept", "x")
    np.testing.assert_array_equal(design.data.population[:, 0], table["Intercept"])


def test_enums_of_duckdb_are_ordered() -> None:
    data = duckdb.connect().from_arrow(pa.table({"x": range(4), "s": ["lo", "hi", "lo", "mid"]}))
    data = data.project("x, s::enum('lo', 'mid', 'hi') as y")
    design = MixedEffects("y ~ x", likelihood="ordinal").design(data)
    assert design.response_levels == ("lo", "mid", "hi")
    assert np.asarray(design.data.response).tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize("columns", [("s", "c"), ("c", "s"), ("s", "c", "t")])
def test_labels_of_nested_groups_differ(columns: tuple[str, ...]) -> None:
    parts = ["a", "a:b", "b", "b:c", "`a`", "a:", ":", "", "`", "a`:`b"]
    rng = np.random.default_rng(0)
    table: dict[str, Any] = {name: rng.choice(parts, 400) for name in columns}
    table["y"] = rng.normal(size=400)
    factor = ":".join(columns)
    model = MixedEffects(f"y ~ 1 + (1 | {factor})")
    design = model.design(table)
    labels = model.sites(design).coords[factor]
    assert len(set(labels)) == len({*zip(*(table[name] for name in columns), strict=True)})
    unseen = {name: ["zz:zz"] for name in columns}
    with pytest.raises(ValueError, match=re.escape("`zz:zz`:`zz:zz`")):
        model.encode(design, unseen)


@pytest.mark.parametrize("unit", ["D", "us", "ns"])
def test_labels_of_dates_are_dates(unit: str) -> None:
    days = np.array(["2024-01-01", "2024-01-02"] * 3, f"M8[{unit}]")
    model = MixedEffects("y ~ 1 + (1 | day) + (1 | wait)")
    wait = np.array([1, 2, 1, 2, 1, 3], "m8[h]").astype("m8[ns]")
    design = model.design({"y": np.arange(6.0), "day": days, "wait": wait})
    coords = model.sites(design).coords
    assert coords["day"] == ["2024-01-01", "2024-01-02"]
    assert coords["wait"] == [f"0 days 0{hours}:00:00" for hours in (1, 2, 3)]


def test_labels_of_cutpoints_differ() -> None:
    levels = ["a", "b|c", "a|b", "c"]
    answer = pd.Categorical(levels * 3, categories=levels, ordered=True)
    model = MixedEffects("y ~ x", likelihood="ordinal")
    found = model.sites(model.design({"y": answer, "x": np.arange(12.0)})).coords["cutpoint"]
    assert found == ["a|`b|c`", "`b|c`|`a|b`", "`a|b`|c"]


@pytest.mark.parametrize("power", [2, 7, 12])
def test_powers_of_whole_numbers_do_not_overflow(power: int) -> None:
    people = np.arange(1, 9) * 700_000_001
    design = MixedEffects(f"y ~ 0 + I(n ** {power})").design({"y": np.arange(8.0), "n": people})
    np.testing.assert_allclose(
        design.data.population[:, 0], people.astype(float) ** power, rtol=1e-12
    )


def test_permuting_the_rows_permutes_the_design() -> None:
    table = frame()
    order = np.random.default_rng(3).permutation(N)
    model = MixedEffects("y ~ poly(x, 2) + a + (a | g) + (1 | g:h)")
    one, other = (model.design(t).data for t in (table, {k: v[order] for k, v in table.items()}))
    np.testing.assert_allclose(other.population, one.population[order], atol=1e-6)
    np.testing.assert_array_equal(other.response, one.response[order])
    for left, right in zip(one.groups, other.groups, strict=True):
        np.testing.assert_array_equal(right.group, left.group[order])
        np.testing.assert_array_equal(right.z, left.z[order])
    np.testing.assert_allclose(
        other.priors["coefficients"].scale, one.priors["coefficients"].scale, rtol=1e-5
    )


def test_sleepstudy(shared_data: Path) -> None:
    table = pq.read_table(shared_data / "lme4" / "sleepstudy.parquet")
    design = MixedEffects("Reaction ~ Days + (Days | Subject)").design(table)
    (term,) = design.data.groups
    days = table["Days"].to_numpy()
    np.testing.assert_array_equal(design.data.population, np.stack([np.ones(180), days], 1))
    np.testing.assert_array_equal(term.z, design.data.population)
    assert (term.num_groups, design.levels["Subject"][0]) == (18, "308")
    np.testing.assert_array_equal(term.group, np.repeat(np.arange(18), 10))


def test_sleepstudy_has_the_deviance_that_lme4_prints(shared_data: Path) -> None:
    """At lme4's maximum likelihood estimates, -2 log L is 1751.94 (Bates et al. 2015)."""
    table = pq.read_table(shared_data / "lme4" / "sleepstudy.parquet")
    data = MixedEffects("Reaction ~ Days + (Days | Subject)").design(table).data
    (term,) = data.groups
    z, group = np.asarray(term.z, float), np.asarray(term.group)
    sd, correlation, noise = np.array([23.7806, 5.7168]), 0.0813, 25.5918
    covariance = np.outer(sd, sd) * np.array([[1, correlation], [correlation, 1]])
    total = (z @ covariance @ z.T) * (group[:, None] == group) + noise**2 * np.eye(len(z))
    mean = np.asarray(data.population, float) @ [251.4051, 10.4673]
    log_likelihood = stats.multivariate_normal.logpdf(table["Reaction"].to_numpy(), mean, total)
    assert -2 * log_likelihood == pytest.approx(1751.9393, abs=1e-3)


def test_orders_of_lme4_factors(shared_data: Path) -> None:
    table = pq.read_table(shared_data / "insteval.parquet")
    design = MixedEffects("y ~ service + (1 | s) + (1 | d) + (1 | dept)").design(table)
    assert [term.num_groups for term in design.data.groups] == [2972, 1128, 14]
    assert design.levels["dept"].tolist() == table["dept"].chunk(0).dictionary.to_pylist()
    assert design.data.mean.names == ("Intercept", "service[T.1]")


def test_dims_and_coords_name_every_site() -> None:
    model = MixedEffects("y ~ x + (1 + x | g) + (1 | h)", centered=["g_effects"])
    design = model.design(frame())
    dims, coords = model.sites(design)
    assert dims == {
        "y": ["observation"],
        "coefficients": ["coefficient"],
        "g_scale": ["g_coefficient"],
        "g_correlation": ["g_coefficient", "g_coefficient_other"],
        "g_effects": ["g", "g_coefficient"],
        "h_scale": ["h_coefficient"],
        "h_effects": ["h", "h_coefficient"],
        "h_effects_raw": ["h", "h_coefficient"],
        "noise_scale": [],
    }
    assert {name for names in dims.values() for name in names} == set(coords)
    assert coords["h"] == ["t", "u", "v", "w"]
    assert coords["g_coefficient"] == ["Intercept", "x"]
    assert model.effect_sites(design) == ("coefficients", "g_effects", "h_effects_raw")
    shapes = {name: (1, 5, *(len(coords[dim]) for dim in sizes)) for name, sizes in dims.items()}
    draws = {name: np.zeros(shape) for name, shape in shapes.items() if name != "y"}
    tree = from_dict({"posterior": draws}, dims=dims, coords=coords)
    assert tree["posterior"]["h_effects"].sel(h="u", h_coefficient="Intercept").shape == (1, 5)


def test_the_design_as_arguments() -> None:
    model = MixedEffects("y ~ x + (1 | g)")
    design = model.design(frame())
    (data,) = model.arguments(design)
    for array, given in zip(jax.tree.leaves(data), jax.tree.leaves(design.data), strict=True):
        np.testing.assert_allclose(array, given, rtol=1e-6)
    assert isinstance(data.response, jax.Array)
    (data,) = model.arguments(frame())
    assert jax.tree.structure(data) == jax.tree.structure(design.data)
    assert hash(jax.tree.structure(data)) == hash(jax.tree.structure(design.data))


def test_more_effects_than_observations() -> None:
    design = MixedEffects("y ~ 1 + (1 + x + z | g)").design(frame(8))
    assert sum(term.num_groups * len(term.names) for term in design.data.groups) == 6
    table = frame(8) | {"g": np.arange(8)}
    (term,) = MixedEffects("y ~ 1 + (1 + x + z | g)").design(table).data.groups
    assert term.num_groups * len(term.names) == 24
