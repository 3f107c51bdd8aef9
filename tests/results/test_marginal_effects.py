"""Predictions, comparisons and slopes of mixed models, against closed forms and brute force."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy.special import expit, logit
from scipy.stats import norm

from probmf import MixedEffects, fit_marginal, sample_marginal
from probmf.data.tables import own_copy
from probmf.results import MixedFit, Sampling, mixtures
from probmf.results.records import Maximum

DRAWS = 40


def table(kind: str = "gaussian", n: int = 60) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    g = rng.permutation(np.arange(n) % 4)
    y = rng.normal(2, 1, n) + np.array([-2, -1, 1, 2])[g]
    responses = {"gaussian": y, "bernoulli": (y > 2) * 1, "poisson": rng.poisson(2.0, n)}
    responses["ordinal"] = np.digitize(y, [1.5, 2.5]) + 1
    return {
        "y": responses[kind], "x": rng.uniform(0.5, 3, n), "z": rng.normal(0, 1, n),
        "a": rng.permutation(np.resize(["p", "q", "r"], n)), "on": rng.random(n) < 0.4,
        "g": g, "year": np.arange(n) % 2,
    }  # fmt: skip


def fit_of(formula: str, kind: str = "gaussian", draws: int = DRAWS) -> MixedFit:
    """A fit with random parameters: one draw is a point fit."""
    model, rng = MixedEffects(formula, likelihood=kind), np.random.default_rng(1)
    design = model.design(table(kind))
    blank = MixedFit(model, design, {"coefficients": np.zeros((1, 1, len(design.mean.names)))}, "x")
    samples = {}
    for site, shape in blank.site_shapes.items():
        value = rng.normal(0, 0.5, (1, draws, *shape))
        if site.endswith("_scale"):
            value = rng.uniform(0.5, 1.2, value.shape)
        elif site.endswith("_correlation"):
            value = np.broadcast_to([[1.0, 0.0], [0.6, 0.8]], value.shape)
        elif site == "cutpoints":
            value = np.sort(value, axis=-1)
        samples[site] = value
    sampling = None if draws == 1 else Sampling({}, 5, 0.1)
    return MixedFit(model, design, samples, "x", sampling, data=table(kind))


def of(fit: MixedFit, site: str) -> np.ndarray:
    return fit.samples[site][0]


def expectations(fit: MixedFit, data: dict[str, Any], **options: Any) -> np.ndarray:
    """Expected responses at each draw, which are tested by their definition elsewhere."""
    found = fit.predict(data, draws=True, **options).draws
    assert found is not None
    return found


def check(found: Any, draws: np.ndarray, tol: float = 1e-6) -> None:
    np.testing.assert_allclose(found.draws, draws, atol=tol)
    np.testing.assert_allclose(found.mean, draws.mean(axis=0), atol=tol)
    np.testing.assert_allclose(found.sd, draws.std(axis=0), atol=tol)
    np.testing.assert_allclose(found.lower, np.quantile(draws, 0.1, axis=0), atol=tol)
    np.testing.assert_allclose(found.upper, np.quantile(draws, 0.9, axis=0), atol=tol)


def test_slopes_of_a_linear_model_are_coefficients() -> None:
    fit, data = fit_of("y ~ x * z + (1 + x | g)"), table()
    beta, u = of(fit, "coefficients"), of(fit, "g_effects")
    rows = beta[:, [1]] + beta[:, [3]] * data["z"] + u[:, data["g"], 1]
    check(fit.slopes(variables="x", interval=0.8, draws=True), rows)
    # A step of one is a slope of one, averaged by group and over all rows.
    by_group = np.stack([rows[:, data["g"] == g].mean(axis=1) for g in range(4)], axis=1)
    found = fit.comparisons(variables=["x"], by="g", interval=0.8, draws=True)
    check(found, by_group)
    assert found.columns["g"].tolist() == [0, 1, 2, 3]
    assert set(found.columns["contrast"]) == {"+1"}
    every = fit.slopes(by=True, level="population", interval=0.8, draws=True)
    assert every.columns["term"].tolist() == ["x", "z"]
    slopes = [
        beta[:, 1] + beta[:, 3] * data["z"].mean(),
        beta[:, 2] + beta[:, 3] * data["x"].mean(),
    ]
    check(every, np.stack(slopes, axis=1))
    pair = fit.comparisons(variables={"x": (1, 4)}, by=True, draws=True, interval=0.8)
    check(pair, 3 * rows.mean(axis=1)[:, None])
    for word, width in (("sd", data["x"].std(ddof=1)), ("minmax", np.ptp(data["x"]))):
        found = fit.comparisons(variables={"x": word}, by=True, draws=True, interval=0.8)
        check(found, width * rows.mean(axis=1)[:, None])


def test_slopes_and_ratios_of_a_logistic_model() -> None:
    fit, data = fit_of("y ~ x + a + (1 | g)", "bernoulli"), table("bernoulli")
    b, p = of(fit, "coefficients")[:, [1]], expectations(fit, data)
    options: dict[str, Any] = {"interval": 0.8, "draws": True, "variables": "x"}
    check(fit.slopes(**options), p * (1 - p) * b)
    check(fit.slopes(slope="eyex", **options), (1 - p) * b * data["x"])
    check(fit.slopes(slope="eydx", by=True, **options), ((1 - p) * b).mean(axis=1)[:, None])
    check(fit.slopes(kind="link", by="a", **options), np.repeat(b, 3, axis=1))
    check(fit.comparisons(comparison="lnor", **options), np.broadcast_to(b, p.shape))
    # Averages first, then the ratio, also of a function of one's own.
    more = expectations(fit, data | {"x": data["x"] + 1})
    for comparison in ("ratio", lambda high, low: high / low):
        found = fit.comparisons(comparison=comparison, by=True, **options)
        check(found, (more.mean(axis=1) / p.mean(axis=1))[:, None])
    assert found.columns["contrast"].tolist() == ["(x + 1), x"]
    assert fit.comparisons(comparison="ratio", by=True).columns["contrast"].tolist() == [
        "(x + 1) / x", "q / p", "r / p"
    ]  # fmt: skip


def test_transformed_columns_against_finite_differences() -> None:
    fit, data = fit_of("y ~ log(x) + bs(z, df=4) + offset(z) + (0 + x | g)", "poisson"), table()
    data["y"] = table("poisson")["y"]
    mean = expectations(fit, data)
    beta, u = of(fit, "coefficients"), of(fit, "g_effects")[..., 0]
    found = fit.slopes(variables="x", interval=0.8, draws=True)
    check(found, mean * (beta[:, [1]] / data["x"] + u[:, data["g"]]), 1e-4)
    # The spline ends at the least and the greatest z of training.
    found = fit.slopes(variables="z", draws=True)
    inner = np.argsort(data["z"])[1:-1]
    up, down = (expectations(fit, data | {"z": _moved(data["z"], inner, h)}) for h in (1e-4, -1e-4))
    assert found.draws is not None
    assert np.isfinite(found.draws).all()
    numeric = ((up - down) / 2e-4)[:, inner]
    np.testing.assert_allclose(found.draws[:, inner], numeric, rtol=1e-3, atol=1e-3)


def _moved(z: np.ndarray, rows: np.ndarray, by: float) -> np.ndarray:
    z = z.copy()
    z[rows] += by
    return z


def test_levels_against_brute_force() -> None:
    fit, data = fit_of("y ~ a * x + on + C(year) + (1 | g)", "poisson"), table("poisson")
    n = len(data["x"])

    def at(**values: Any) -> np.ndarray:
        return expectations(fit, data | {name: [own] * n for name, own in values.items()})

    options: dict[str, Any] = {"interval": 0.8, "draws": True}
    found = fit.comparisons(variables={"a": "pairwise"}, by=["on"], **options)
    pairs = [("q", "p"), ("r", "p"), ("r", "q")]
    expected = [
        (at(a=high) - at(a=low))[:, data["on"] == on].mean(axis=1)
        for high, low in pairs for on in (False, True)
    ]  # fmt: skip
    check(found, np.stack(expected, axis=1))
    assert found.columns["contrast"].tolist() == ["q - p"] * 2 + ["r - p"] * 2 + ["r - q"] * 2
    assert found.columns["on"].tolist() == [False, True] * 3
    last = fit.comparisons(variables=["on", "year", "g"], by=True, **options)
    pairs = [("True", "False"), ("1", "0"), ("1", "0"), ("2", "0"), ("3", "0")]
    assert last.columns["contrast"].tolist() == [f"{high} - {low}" for high, low in pairs]
    sets = [({"on": True}, {"on": False}), ({"year": 1}, {"year": 0})]
    sets += [({"g": own}, {"g": 0}) for own in (1, 2, 3)]
    means = [(at(**high) - at(**low)).mean(axis=1) for high, low in sets]
    check(last, np.stack(means, axis=1))
    # Counterfactual rows: the average under each of some values.
    found = fit.predictions(variables={"a": ["q", "p"], "x": [1, 2]}, by=["a", "x"], **options)
    cells = [(a, x) for a in "pq" for x in (1, 2)]
    check(found, np.stack([at(a=a, x=x).mean(axis=1) for a, x in cells], axis=1))
    assert [*zip(found.columns["a"], found.columns["x"], strict=True)] == cells
    assert len(fit.predictions(variables="x")) == 5 * n
    check(fit.predictions(**options), expectations(fit, data))


def test_grids() -> None:
    fit, data = fit_of("y ~ a + x + on + (1 | g)"), table()
    found = fit.datagrid(a=None, x=[1, 2])
    assert found["a"].tolist() == ["p", "p", "q", "q", "r", "r"]
    assert found["x"].tolist() == [1, 2] * 3
    assert not found["on"].any()
    assert "g" not in found
    assert fit.datagrid(g=np.unique)["g"].tolist() == [0, 1, 2, 3]
    assert fit.datagrid(a="q")["x"] == pytest.approx(data["x"].mean())
    assert len(fit.predictions(found, level="population")) == 6
    with pytest.raises(ValueError, match=r"no column 'g'; .* level='population' leaves them out"):
        fit.predictions(found)


def test_probabilities_of_levels() -> None:
    fit, data = fit_of("y ~ x + (1 | g)", "ordinal"), table("ordinal")
    eta = of(fit, "coefficients") @ data["x"][None] + of(fit, "g_effects")[:, data["g"], 0]
    below = expit(of(fit, "cutpoints")[:, None] - eta[..., None])
    padded = np.pad(below, ((0, 0), (0, 0), (1, 1)), constant_values=((0, 0), (0, 0), (0, 1)))
    mass = np.diff(padded, axis=-1)
    found = fit.predictions(kind="probabilities", by="g", interval=0.8, draws=True)
    cells = [mass[:, data["g"] == g].mean(axis=1) for g in range(4)]
    check(found, np.concatenate(cells, axis=1))
    assert found.columns["level"].tolist() == [1, 2, 3] * 4
    slopes = fit.slopes(kind="probabilities", by=True)
    assert slopes.mean.sum() == pytest.approx(0.0, abs=1e-9)
    expected = fit.slopes(by=True).mean
    assert slopes.mean @ [1, 2, 3] == pytest.approx(expected[0], abs=1e-6)
    assert fit.slopes(by=True, draws=False).draws is None
    with pytest.raises(ValueError, match="kind is 'probabilities', but a response of Gaussian"):
        fit_of("y ~ x").predictions(kind="probabilities")


def test_new_groups() -> None:
    rows = {"x": np.full(2000, 0.7), "g": np.arange(2000) + 9}
    fit = fit_of("y ~ x + (1 | g)", "bernoulli", draws=1)
    beta, tau = of(fit, "coefficients")[0], of(fit, "g_scale")[0, 0]
    # Of a point they are integrated out, as predict does.
    found = fit.predictions(rows, unseen="prior", by=True)
    assert found.mean == pytest.approx(fit.predict(rows, unseen="prior").mean[:1])
    assert found.sd is None
    grid = np.linspace(-8, 8, 2001)
    mass = norm.pdf(grid) / norm.pdf(grid).sum()
    p = [expit(beta @ [1, x] + tau * grid) @ mass for x in (1.7, 0.7)]
    compared = fit.comparisons(rows, unseen="prior", by=True)
    assert compared.mean[0] == pytest.approx(p[0] - p[1], abs=1e-7)
    # Of draws they are drawn, the same for both values of x.
    many = fit_of("y ~ x + (1 | g)", "bernoulli")
    found = many.comparisons(rows, unseen="prior", kind="link", key=0, draws=True)
    assert found.draws is not None
    np.testing.assert_allclose(found.draws, np.repeat(of(many, "coefficients")[:, [1]], 2000, 1))
    mean = many.predictions(rows, unseen="prior", key=0, by=True).mean[0]
    assert mean == pytest.approx(many.predict(rows, unseen="prior").mean[0], abs=2e-3)
    with pytest.raises(ValueError, match="Effects of new groups are drawn at random; give key="):
        many.slopes(rows, unseen="prior")


def test_intervals_of_a_best_fit_come_from_the_errors_of_coefficients() -> None:
    data = table("bernoulli")
    fit = fit_marginal(MixedEffects("y ~ x + z + (1 | g)", likelihood="bernoulli"), data)
    assert fit.maximum is not None
    root, beta = fit.maximum.loadings["coefficients"], of(fit, "coefficients")[0]
    np.testing.assert_allclose(
        np.linalg.norm(root, axis=1), fit.maximum.errors["coefficients"], rtol=1e-12
    )
    design = np.stack([np.ones(60), data["x"], data["z"]], axis=1)
    p = expit(design @ beta)
    # d/d beta of the mean of p (1 - p) beta_x.
    slope = p * (1 - p)
    gradient = (slope * (1 - 2 * p) * beta[1]) @ design / 60 + np.array([0, slope.mean(), 0])
    found = fit.slopes(variables="x", by=True, interval=0.95, level="population")
    sd = np.linalg.norm(gradient @ root)
    assert found.mean[0] == pytest.approx(slope.mean() * beta[1])
    assert found.sd[0] == pytest.approx(sd, rel=1e-4)
    assert found.upper[0] - found.mean[0] == pytest.approx(1.959964 * sd, rel=1e-4)
    link = fit.slopes(kind="link", by=True)
    np.testing.assert_allclose(link.sd, fit.maximum.errors["coefficients"][1:], rtol=1e-6)
    assert np.isfinite(logit(fit.predictions(interval=None).mean)).all()
    # Rows of known and of new groups, whose effects are integrated out.
    mixed = {name: [*data[name][:2]] for name in "xz"} | {"g": [0, 99]}
    found, alone = (fit.predictions({k: v[i:] for k, v in mixed.items()}, unseen="prior").sd
                    for i in (0, 1))  # fmt: skip
    assert np.isfinite(found).all()
    assert found[1] == pytest.approx(alone[0], rel=1e-12)


@pytest.mark.parametrize("objective", ["restricted", pytest.param("map", marks=pytest.mark.slow)])
def test_errors_with_effects_of_known_groups_against_a_dense_covariance(objective: Any) -> None:
    rng, n = np.random.default_rng(0), 80
    g, h = rng.integers(0, 6, n), rng.integers(0, 5, n)
    x, z = rng.normal(1000, 1, n), rng.normal(size=n)
    u = rng.normal(size=(6, 2)) @ [[1.0, 0.3], [0.0, 0.6]]
    y = 0.5 * x + u[g, 0] + u[g, 1] * z + rng.normal(0, 0.7, 5)[h] + rng.normal(0, 0.8, n)
    # In whatever unit, as nothing is compared with a number.
    rows = {"y": 1e-5 * y, "x": x, "z": 1e6 * z, "g": g, "h": h}
    model = MixedEffects("y ~ x + z + (1 + z | g) + (1 | h)")
    fit = fit_marginal(model, rows, objective=objective)
    tril = of(fit, "g_scale")[0][:, None] * of(fit, "g_correlation")[0]
    columns = np.stack([np.ones(n), x - 1000, 1e6 * z], axis=1)
    of_g = np.zeros((n, 6, 2))
    of_g[np.arange(n), g] = columns[:, [0, 2]]
    whole = np.concatenate([columns, of_g.reshape(n, 12), np.eye(5)[h]], axis=1)
    prior = np.zeros((20, 20))
    prior[3:15, 3:15] = np.kron(np.eye(6), np.linalg.inv(tril @ tril.T))
    prior[15:, 15:] = np.eye(5) / of(fit, "h_scale")[0, 0] ** 2
    if objective == "map":
        law: Any = fit.design.data.priors["coefficients"]
        # Of b0 + 1000 b1 and the others.
        mix = np.array([[1.0, 1000.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        prior[:3, :3] = np.linalg.inv(mix @ np.diag(np.broadcast_to(law.variance, 3)) @ mix.T)
    root = np.linalg.inv(np.linalg.cholesky(
        prior + whole.T @ whole / of(fit, "noise_scale")[0] ** 2
    )).T  # fmt: skip

    def errors(sums: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.norm(sums @ root, axis=-1))

    np.testing.assert_allclose(fit.predictions().sd, errors(whole), rtol=1e-7)
    means = np.stack([whole[h == own].mean(axis=0) for own in range(5)])
    np.testing.assert_allclose(fit.predictions(by="h").sd, errors(means), rtol=1e-7)
    slope = np.eye(20)[2] + np.eye(20)[4 + 2 * g]
    np.testing.assert_allclose(fit.slopes(variables="z").sd, errors(slope), rtol=1e-7)
    between = np.eye(20)[16:] - np.eye(20)[15]
    np.testing.assert_allclose(
        fit.comparisons(variables="h", by=True).sd, errors(between), rtol=1e-7
    )
    alone = errors(np.eye(20)[1:3])
    np.testing.assert_allclose(fit.slopes(by=True, level="population").sd, alone, rtol=1e-7)


def test_terms_of_one_grouping_make_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, n = np.random.default_rng(5), 100
    rows = {"x": rng.normal(size=n), "g": rng.permutation(np.arange(n) % 20), "h": np.arange(n) % 9}
    u, slope, v = rng.normal(size=20), rng.normal(size=20), rng.normal(size=9)
    rows["y"] = u[rows["g"]] + slope[rows["g"]] * rows["x"] + v[rows["h"]] + rng.normal(size=n)
    model = MixedEffects("y ~ x + (1 | g) + (0 + x | g) + (1 | h)")
    fit = fit_marginal(model, rows, objective="restricted")
    scales = [of(fit, f"{name}_scale")[0, 0] for name in ("g", "g_x", "h")]
    one, of_g = np.stack([np.ones(n), rows["x"]], axis=1), np.eye(20)[rows["g"]]
    whole = np.concatenate([one, of_g, of_g * one[:, 1:], np.eye(9)[rows["h"]]], axis=1)
    # Whitened, so that a scale may be zero.
    whole = whole * np.repeat([1.0, *scales], [2, 20, 20, 9])
    prior = np.diag(np.repeat([0.0, 1.0], [2, 49]))
    covariance = np.linalg.inv(prior + whole.T @ whole / of(fit, "noise_scale")[0] ** 2)

    def errors(kept: list[int]) -> np.ndarray:
        part = np.where(np.isin(np.arange(51), kept), whole, 0.0)
        return np.sqrt(np.einsum("ni,ij,nj->n", part, covariance, part))

    np.testing.assert_allclose(fit.predictions().sd, errors([*range(51)]), rtol=1e-6)
    for name, kept in (("g_x", range(22, 42)), ("h", range(42, 51))):
        found = fit.predictions(level=[name]).sd
        np.testing.assert_allclose(found, errors([0, 1, *kept]), rtol=1e-6)
    # What is dense is of h and the coefficients: 11 columns.
    enough = 2 * 32 * 11**2
    monkeypatch.setattr("probmf.memory.free_memory", lambda: enough)
    assert np.isfinite(MixedFit(**fit._fields()).predictions().sd).all()
    monkeypatch.setattr("probmf.memory.free_memory", lambda: enough - 1)
    again = MixedFit(**fit._fields())
    with pytest.raises(ValueError, match=r"covariance of 11 effects .* interval=None asks for"):
        again.predictions()
    assert again.predictions(interval=None).sd is None


def test_no_loadings_are_no_errors_and_nothing_searched_for_is() -> None:
    data = table()
    priors = {"g_scale": 1.5, "noise_scale": 1.0}
    fit = fit_marginal(MixedEffects("y ~ x + (1 | g)", priors=priors), data)
    assert fit.maximum is not None
    assert fit.maximum.loadings == {}
    assert np.isfinite(fit.predictions().sd).all()
    unknown = dataclasses.replace(
        fit, maximum=Maximum(fit.maximum.errors, 2, 60, fit.maximum.log_likelihood)
    )
    assert unknown.predictions().sd is None


def test_errors_of_counts_follow_what_was_searched_for() -> None:
    rng, n = np.random.default_rng(2), 100
    g, x = rng.integers(0, 8, n), rng.normal(size=n)
    rate = np.exp(0.5 + 0.3 * x + rng.normal(0, 0.7, 8)[g])
    rows = {"y": rng.poisson(rate), "x": x, "g": g}
    fit = fit_marginal(MixedEffects("y ~ x + (1 | g)", likelihood="poisson"), rows)
    assert fit.maximum is not None
    beta, tau, u = of(fit, "coefficients")[0], of(fit, "g_scale")[0, 0], of(fit, "g_effects")[0]
    design, groups = np.stack([np.ones(n), x], axis=1), np.eye(8)[g]

    def modes(beta: np.ndarray, tau: float) -> np.ndarray:
        effects = np.zeros(8)
        for _ in range(50):
            mean = np.exp(design @ beta + groups @ effects)
            slope = groups.T @ (rows["y"] - mean) - effects / tau**2
            effects = effects + slope / (groups.T @ mean + 1 / tau**2)
        return effects

    np.testing.assert_allclose(modes(beta, tau), u[:, 0], atol=1e-8)
    # The errors of coefficients and scale, what the modes do along them, and what is left of these.
    loads = fit.maximum.loadings
    moves = [(loads["coefficients"][:, k], loads["g_scale"][0, k]) for k in range(3)]
    h = 1e-4
    along = [(modes(beta + h * b, tau + h * t) - modes(beta - h * b, tau - h * t)) / (2 * h)
             for b, t in moves]  # fmt: skip
    mean = np.exp(design @ beta + groups @ u[:, 0])
    left = np.diag(1 / np.sqrt(groups.T @ mean + 1 / tau**2))
    predictor = np.stack([
        *(design @ b + groups @ a for (b, _), a in zip(moves, along, strict=True)),
        *(groups @ left).T,
    ], axis=1)  # fmt: skip
    found = fit.predictions()
    np.testing.assert_allclose(found.sd, np.linalg.norm(mean[:, None] * predictor, axis=1), 1e-5)
    np.testing.assert_allclose(
        found.upper - found.lower, 2 * norm.ppf(0.95) * np.asarray(found.sd), rtol=1e-7
    )
    # Averages of the rows of each group, and the ratio of two of them: exp of a coefficient.
    by_group = groups.T @ (mean[:, None] * predictor) / groups.sum(axis=0)[:, None]
    np.testing.assert_allclose(
        fit.predictions(by="g").sd, np.linalg.norm(by_group, axis=1), rtol=1e-5
    )
    ratio = fit.comparisons(variables="x", comparison="ratio")
    error = np.exp(beta[1]) * fit.maximum.errors["coefficients"][1]
    np.testing.assert_allclose(ratio.sd, np.full(n, error), rtol=1e-3)


@pytest.mark.slow
def test_errors_of_a_best_fit_are_like_the_spread_of_draws() -> None:
    rng, n = np.random.default_rng(3), 120
    g, x = np.arange(n) % 12, rng.normal(size=n)
    rows = {"y": x + rng.normal(0, 1, 12)[g] + rng.normal(size=n), "x": x, "g": g}
    model = MixedEffects("y ~ x + (1 | g)")
    draws = sample_marginal(model, rows, key=0, num_samples=2000)
    best = fit_marginal(model, rows, objective="restricted")
    for ask in (
        lambda fit: fit.predictions(by="g"),
        lambda fit: fit.comparisons(variables="g", by=True),
    ):
        np.testing.assert_allclose(ask(best).sd, ask(draws).sd, rtol=0.12)
        np.testing.assert_allclose(ask(best).mean, ask(draws).mean, atol=0.1)


def test_intervals_of_a_best_fit_have_the_errors_of_own_parameters() -> None:
    def error(fit: MixedFit, site: str) -> np.ndarray:
        assert fit.maximum is not None
        return fit.maximum.errors[site]

    data = table("ordinal")
    fit = fit_marginal(MixedEffects("y ~ x", likelihood="ordinal"), data)
    first, last = expit(of(fit, "cutpoints")[0])  # At x = 0 nothing else counts.
    found = fit.predictions({"x": [0.0]}, kind="probabilities")
    below, above = (
        p * (1 - p) * e for p, e in zip((first, last), error(fit, "cutpoints"), strict=True)
    )
    np.testing.assert_allclose(found.mean, [first, last - first, 1 - last], atol=1e-6)
    np.testing.assert_allclose(found.sd[[0, 2]], [below, above], rtol=1e-4)
    positive = {"y": np.exp(table()["y"] / 2), "x": np.resize([-1.0, 1.0], 60)}
    fit = fit_marginal(MixedEffects("y ~ x", likelihood="lognormal"), positive)
    # E y = exp(mu + sigma^2 / 2), with errors s / sqrt(n) and s / sqrt(2 n) that are independent.
    sigma = of(fit, "noise_scale")[0]
    mean = np.exp(of(fit, "coefficients")[0, 0] + sigma**2 / 2)
    sd = mean * sigma * np.sqrt((1 + sigma**2 / 2) / 60)
    found = fit.predictions({"x": [0.0]})
    assert found.mean[0] == pytest.approx(mean, rel=1e-5)
    assert found.sd[0] == pytest.approx(sd, rel=1e-3)


def test_slopes_of_a_logarithm_whose_values_are_of_all_sizes() -> None:
    """A step that is a share of the whole range would be many times a small value."""
    fit, data = fit_of("y ~ log(x) + (1 | g)"), table()
    data["x"] = np.exp(np.linspace(0.0, np.log(1e6), len(data["y"])))
    fit = dataclasses.replace(fit, data=data)
    wanted = of(fit, "coefficients")[:, [1]] / data["x"]
    found = fit.slopes(variables="x", draws=True, interval=None).draws
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_errors_of_slopes_keep_their_digits_far_from_zero() -> None:
    data = table() | {"y": 1e6 + table()["y"]}
    fit = fit_marginal(MixedEffects("y ~ x"), data)
    assert fit.maximum is not None
    for found in (fit.slopes(by=True), fit.slopes({"x": [data["x"].min()]})):
        assert found.mean[0] == pytest.approx(of(fit, "coefficients")[0, 1], abs=1e-4)
        assert found.sd[0] == pytest.approx(fit.maximum.errors["coefficients"][1], rel=1e-2)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    best = fit_marginal(MixedEffects("y ~ x + (1 | g)"), table())
    calls = [
        lambda: fit_of("y ~ x + (1 | g)", "ordinal").slopes(kind="probabilities", draws=True),
        lambda: best.predictions(table() | {"g": [0, 99] * 30}, unseen="prior"),
    ]
    whole = [call() for call in calls]
    monkeypatch.setattr(mixtures, "BLOCK", 1000)
    for one, call in zip(whole, calls, strict=True):
        found = call()
        for name in ("mean", "sd", "lower", "upper", "draws"):
            if (own := getattr(one, name)) is not None:
                np.testing.assert_allclose(getattr(found, name), own, rtol=1e-9, atol=1e-12)


def test_columns_of_two_values() -> None:
    fit = fit_of("y ~ on + year + x")
    data, beta = table(), of(fit, "coefficients")
    # As numbers or as booleans, one is compared with the other, whatever the rows have.
    for rows in (data, data | {"on": data["on"] * 1}):
        found = fit.comparisons(rows, by=True, draws=True)
        assert found.labels() == ["on, True - False", "year, 1 - 0", "x, +1"]
        np.testing.assert_allclose(found.draws, beta[:, 1:], atol=1e-9)
    for said in ("reference", [False, True], np.array([False, True])):
        found = fit.comparisons(variables={"on": said}, by=True)
        assert found.mean == pytest.approx(beta[:, 1].mean())
    assert fit.comparisons(variables={"year": (1, 0)}, by=True).mean == pytest.approx(
        -beta[:, 2].mean()
    )
    assert fit.slopes(by=True).columns["term"].tolist() == ["x"]
    assert fit.datagrid(year=None)["year"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="variables holds 'year', a column of two values, which"):
        fit.slopes(variables="year")


def test_views_and_errors() -> None:
    fit = fit_of("y ~ x + a + (1 | g)")
    found = fit.predictions()
    assert found.to_arrow().column_names == ["x", "a", "g", "mean", "sd", "lower", "upper"]
    assert "60 predictions of y, 90% intervals" in found._repr_html_()
    assert repr(found).splitlines()[-1] == "50 more rows"
    compared = fit.comparisons(by=True)
    assert compared.labels() == ["x, +1", "a, q - p", "a, r - p"]
    assert compared.to_pandas().shape == (3, 6)
    for call, message in (
        (lambda: fit.slopes(variables="a"), "variables holds 'a', a column of levels"),
        (lambda: fit.comparisons(variables="w"), "variables holds 'w', which the formula does not"),
        (lambda: fit.comparisons(variables={"x": "iqd"}), r"variables\['x'\] is 'iqd'; expected a"),
        (lambda: fit.comparisons(variables={"a": "all"}), r"variables\['a'\] is 'all'; expected "),
        (lambda: fit.comparisons(comparison="odds"), "comparison is 'odds'; expected 'difference'"),
        (lambda: fit.predictions(by="k"), "has no column 'k'"),
        (lambda: fit.predictions(kind="response"), "kind is 'response'; expected 'mean' or 'link'"),
        (lambda: fit.slopes(slope="dxdy"), "slope is 'dxdy'; expected 'dydx'"),
        (lambda: fit.datagrid(w=[1]), "datagrid holds 'w', which the formula does not use"),
        (lambda: fit.comparisons(comparison=lambda h, _: h[0]), r"shape \(60, 1\); expected \(40"),
        (lambda: fit.comparisons(comparison="lnratio"), "'lnratio', which is defined for positive"),
        (lambda: fit.datagrid(x=[]), "The values of 'x' are empty"),
        (lambda: fit_of("y ~ 1 + (1 | g)").slopes(), "has no columns of numbers to vary"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    for option, message in (({"by": None}, "by is None; exp"), ({"level": 3}, "level is 3; exp")):
        with pytest.raises(TypeError, match=message):
            fit.predictions(**option)
    data = table() | {"level": table()["a"], "mean": table()["z"]}
    named = fit.predictions(data, by=["level", "mean"]).columns
    assert list(named) == ["level", "mean of the data"]
    bare = MixedFit(fit.model, fit.design, fit.samples, "x", fit.sampling)
    with pytest.raises(ValueError, match="does not have the training table; give the rows"):
        bare.predictions()
    assert len(bare.comparisons(table(), by=True)) == 3


def test_a_formula_without_columns_has_predictions() -> None:
    y = np.random.default_rng(0).normal(size=30)
    fit = fit_marginal(MixedEffects("y ~ 1"), {"y": y})
    assert len(fit.predictions()) == 30
    assert fit.predictions(by=True).mean.item() == pytest.approx(y.mean(), abs=1e-6)
    with pytest.raises(ValueError, match="has no columns of numbers to vary"):
        fit.slopes()


def test_a_table_that_is_changed_later_is_still_the_one_that_was_fitted() -> None:
    rng = np.random.default_rng(0)
    g = np.arange(12) % 3
    day = np.datetime64("2024-01-01", "ns") + g * np.timedelta64(1, "D")
    table = {"x": rng.normal(size=12), "day": day, "y": 3.0 * g + rng.normal(size=12)}
    fit = fit_marginal(MixedEffects("y ~ x + (1 | day)"), table)

    def told() -> list[Any]:
        return [
            fit.predictions(by=True).mean, fit.datagrid()["x"],
            fit.comparisons(variables={"x": "sd"}, by=True).mean,
        ]  # fmt: skip

    before = told()
    table["x"] *= 100
    del table["day"]
    np.testing.assert_array_equal(told(), before)
    # Levels that are nanoseconds are dates here, too.
    for grid in (fit.datagrid(day=None), fit.datagrid(day=day[:3]), fit.datagrid(day=[*day[:3]])):
        assert fit.predictions(grid).labels() == ["2024-01-01", "2024-01-02", "2024-01-03"]


@pytest.mark.parametrize(
    "make", [dict, pd.DataFrame, pl.DataFrame, lambda of: pd.DataFrame(of).to_records(index=False)]
)
def test_own_copies_of_tables(make: Any) -> None:
    table = make({"x": np.array([1.0, 2.0])})
    kept = own_copy(table)
    assert isinstance(own_copy(pa.table({"x": [1]})), pa.Table)
    if isinstance(table, pl.DataFrame):
        table[0, "x"] = 7.0
    elif isinstance(table, pd.DataFrame):
        table.loc[0, "x"] = 7.0
    else:
        table["x"][0] = 7.0
    assert list(table["x"]) == [7.0, 2.0]
    assert list(kept["x"]) == [1.0, 2.0]
