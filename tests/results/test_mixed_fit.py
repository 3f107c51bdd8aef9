"""Fits of mixed models: predictions by definition, one draw and one row at a time."""

from collections.abc import Callable
from typing import Any

import arviz_stats as az
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import lognorm, norm

from probmf.likelihoods import Bernoulli, Ordinal
from probmf.models import MixedEffects
from probmf.results import MixedFit, Sampling, mixtures

DRAWS = (2, 60)
PROBITS = {"bernoulli probit": Bernoulli("probit"), "ordinal probit": Ordinal(link="probit")}
FORMULA = "y ~ 1 + x + (1 + x | g) + (1 | h)"


def table(n: int = 40, kind: str = "gaussian", seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    y = rng.normal(2, 1, n)
    responses = {"gaussian": y, "lognormal": np.exp(y), "bernoulli": (y > 2) * 1}
    responses["ordinal"] = np.digitize(y, [1.5, 2.5]) + 1
    return {
        "y": responses[kind], "x": rng.normal(0, 1, n),
        "g": rng.permutation(np.arange(n) % 4), "h": rng.permutation(np.resize(["p", "q", "r"], n)),
    }  # fmt: skip


def random_samples(model: MixedEffects, design: Any, seed: int = 1) -> dict[str, np.ndarray]:
    """Independent draws of every site."""
    rng = np.random.default_rng(seed)
    found = {}
    fit = MixedFit(model, design, {"coefficients": np.zeros((1, 1, len(design.mean.names)))}, "x")
    for site, shape in fit.site_shapes.items():
        value = rng.normal(0, 0.5, (*DRAWS, *shape))
        if site.endswith("_scale"):
            value = rng.uniform(0.3, 0.9, (*DRAWS, *shape))
        elif site.endswith("_correlation"):
            r = rng.uniform(-0.8, 0.8, DRAWS)
            value = np.zeros((*DRAWS, 2, 2))
            value[..., 0, 0], value[..., 1, 0], value[..., 1, 1] = 1.0, r, np.sqrt(1 - r**2)
        elif site == "cutpoints":
            value = np.sort(value, axis=-1)
        found[site] = value
    return found


@pytest.fixture
def make() -> Callable[..., MixedFit]:
    def build(kind: Any = "gaussian", formula: str = FORMULA, **options: Any) -> MixedFit:
        model = MixedEffects(formula, likelihood=PROBITS.get(kind, kind), **options)
        data = table(kind=kind.split()[0])
        design = model.design(data)
        samples = random_samples(model, design)
        return MixedFit(model, design, samples, "nuts", Sampling({}, 5, 0.1), data=data)

    return build


def flat(fit: MixedFit, site: str) -> np.ndarray:
    value = fit.samples[site]
    return value.reshape(-1, *value.shape[2:])


def predictor(fit: MixedFit, row: int, *, groups: bool = True) -> np.ndarray:
    """The linear predictor of a training row at each draw."""
    data = table()
    beta, x = flat(fit, "coefficients"), data["x"][row]
    eta = beta @ (np.array([1.0, x]) if beta.shape[1] == 2 else np.array([x]))
    if groups:
        g, h = flat(fit, "g_effects")[:, data["g"][row]], flat(fit, "h_effects")
        eta = eta + g[:, 0] + x * g[:, 1] + h[:, "pqr".index(data["h"][row]), 0]
    return eta


def check(found: Any, row: int, mean: Any, sd: Any, lower: Any, upper: Any, tol: float) -> None:
    assert found.mean[row] == pytest.approx(mean, rel=1e-5)
    assert found.sd[row] == pytest.approx(sd, rel=1e-5)
    assert found.lower[row] == pytest.approx(lower, abs=tol)
    assert found.upper[row] == pytest.approx(upper, abs=tol)


@pytest.mark.parametrize("groups", [True, False])
def test_gaussian_means(groups: bool, make: Any) -> None:
    fit = make()
    found = fit.predict(interval=0.8, level="groups" if groups else "population")
    for row in (0, 17):
        eta = predictor(fit, row, groups=groups)
        check(found, row, eta.mean(), eta.std(), *np.quantile(eta, [0.1, 0.9]), 1e-6)
    assert len(found) == 40
    assert found.known.all()


def test_gaussian_responses(make: Any) -> None:
    fit = make()
    found = fit.predict(interval=0.8, kind="response")
    eta, noise = predictor(fit, 3), flat(fit, "noise_scale")
    rng = np.random.default_rng(0)
    assert found.mean[3] == pytest.approx(eta.mean(), rel=1e-5)
    assert found.sd[3] == pytest.approx(np.sqrt(eta.var() + np.mean(noise**2)), rel=1e-5)
    assert norm.cdf(found.lower[3], eta, noise).mean() == pytest.approx(0.1, abs=1e-4)
    assert norm.cdf(found.upper[3], eta, noise).mean() == pytest.approx(0.9, abs=1e-4)
    drawn = rng.normal(eta, noise, (4000, len(eta)))
    assert np.quantile(drawn, 0.1) == pytest.approx(found.lower[3], abs=0.02)


def test_lognormal(make: Any) -> None:
    fit = make("lognormal")
    eta, noise = predictor(fit, 5), flat(fit, "noise_scale")
    given = np.exp(eta + noise**2 / 2)
    found = fit.predict(interval=0.8)
    check(found, 5, given.mean(), given.std(), *np.quantile(given, [0.1, 0.9]), 1e-5)
    found = fit.predict(interval=0.8, kind="response")
    laws = lognorm(noise, scale=np.exp(eta))
    assert found.mean[5] == pytest.approx(given.mean(), rel=1e-5)
    variance = laws.var().mean() + given.var()
    assert found.sd[5] == pytest.approx(np.sqrt(variance), rel=1e-5)
    assert laws.cdf(found.lower[5]).mean() == pytest.approx(0.1, abs=1e-4)
    assert laws.cdf(found.upper[5]).mean() == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize("kind", ["bernoulli", "bernoulli probit"])
def test_bernoulli(kind: str, make: Any) -> None:
    fit = make(kind)
    p = (norm.cdf if kind in PROBITS else expit)(predictor(fit, 5))
    check(fit.predict(interval=0.8), 5, p.mean(), p.std(), *np.quantile(p, [0.1, 0.9]), 1e-5)
    found = fit.predict(interval=0.8, kind="response")
    mean = p.mean()
    ends = float(1 - mean < 0.1), float(1 - mean < 0.9)
    check(found, 5, mean, np.sqrt(mean * (1 - mean)), *ends, 1e-9)
    assert set(found.lower) | set(found.upper) <= {0.0, 1.0}


@pytest.mark.parametrize("kind", ["ordinal", "ordinal probit"])
def test_ordinal(kind: str, make: Any) -> None:
    fit = make(kind, "y ~ x + (1 + x | g) + (1 | h)")
    eta, cut = predictor(fit, 7), flat(fit, "cutpoints")
    below = (norm.cdf if kind in PROBITS else expit)(cut - eta[:, None])
    given = np.column_stack([below[:, 0], below[:, 1] - below[:, 0], 1 - below[:, 1]])
    expected = given @ [1.0, 2.0, 3.0]
    found = fit.predict(interval=0.8)
    np.testing.assert_allclose(found.probabilities[7], given.mean(axis=0), rtol=1e-6)
    check(found, 7, expected.mean(), expected.std(), *np.quantile(expected, [0.1, 0.9]), 1e-6)
    assert found.levels == (1, 2, 3)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0)
    found = fit.predict(interval=0.8, kind="response")
    mass = np.cumsum(given.mean(axis=0))
    assert found.lower[7] == 1 + np.sum(mass < 0.1)
    assert found.upper[7] == 1 + np.sum(mass[:2] < 0.9)
    assert "probability of 2" in found.to_arrow().column_names


def test_levels_that_are_no_numbers() -> None:
    data = table(kind="ordinal")
    data["y"] = pd.Categorical(
        np.array(["", "low", "mid", "top"])[data["y"]], ["low", "mid", "top"], ordered=True
    )
    model = MixedEffects("y ~ x + (1 | g)", likelihood="ordinal")
    design = model.design(data)
    found = MixedFit(model, design, random_samples(model, design), "nuts").predict(kind="response")
    assert found.levels == ("low", "mid", "top")
    assert set(found.upper) <= {0.0, 1.0, 2.0}


def test_formula_of_the_noise(make: Any) -> None:
    fit = make(formula="y ~ x + (1 | g)", scale_formula="~ 1 + x + (1 | h)")
    data = table()
    eta = (
        flat(fit, "coefficients") @ [1.0, data["x"][2]] + flat(fit, "g_effects")[:, data["g"][2], 0]
    )
    place = "pqr".index(data["h"][2])
    log_noise = flat(fit, "noise_coefficients") @ [1.0, data["x"][2]]
    noise = np.exp(log_noise + flat(fit, "noise_h_effects")[:, place, 0])
    found = fit.predict(kind="response")
    assert found.sd[2] == pytest.approx(np.sqrt(eta.var() + np.mean(noise**2)), rel=1e-5)
    assert norm.cdf(found.upper[2], eta, noise).mean() == pytest.approx(0.95, abs=1e-4)
    found = fit.predict(kind="response", level="population")
    eta, noise = flat(fit, "coefficients") @ [1.0, data["x"][2]], np.exp(log_noise)
    assert found.sd[2] == pytest.approx(np.sqrt(eta.var() + np.mean(noise**2)), rel=1e-5)


def test_new_rows_are_coded_as_in_training(make: Any) -> None:
    fit, data = make(), table()
    some = {name: values[:7] for name, values in data.items() if name != "y"}
    np.testing.assert_allclose(fit.predict(some).mean, fit.predict().mean[:7], rtol=1e-5)
    only = fit.predict({"x": data["x"][:7]}, level="population")
    np.testing.assert_allclose(only.mean, fit.predict(level="population").mean[:7], rtol=1e-5)
    assert fit.predict(some, interval=None).sd is None
    assert fit.predict(some).to_arrow().num_rows == 7


def test_new_groups_have_their_prior(make: Any) -> None:
    fit = make()
    rows = {"x": [0.7] * 400, "g": [99] * 400, "h": ["p"] * 400}
    with pytest.raises(ValueError, match="unseen='prior'"):
        fit.predict(rows)
    found = fit.predict(rows, unseen="prior")
    assert not found.known.any()
    root = flat(fit, "g_scale")[:, :, None] * flat(fit, "g_correlation")
    z = np.array([1.0, 0.7])
    extra = np.sum(np.einsum("sij,i->sj", root, z) ** 2, axis=1)
    eta = flat(fit, "coefficients") @ z + flat(fit, "h_effects")[:, 0, 0]
    np.testing.assert_allclose(found.mean, eta.mean(), rtol=1e-6)
    np.testing.assert_allclose(found.sd**2, eta.var() + extra.mean(), rtol=1e-6)
    assert "400 with a new group" in repr(found)


def test_effects_of_some_groupings(make: Any) -> None:
    fit, data = make(), table()
    rows = {"x": data["x"][:7], "h": data["h"][:7]}
    found = fit.predict(rows, level=["h"], draws=True)
    beta, h = flat(fit, "coefficients"), flat(fit, "h_effects")[..., 0]
    eta = beta @ np.stack([np.ones(7), rows["x"]]) + h[:, ["pqr".index(i) for i in rows["h"]]]
    np.testing.assert_allclose(found.draws, eta, rtol=1e-6)
    np.testing.assert_allclose(fit.predict(level=("h",)).mean[:7], found.mean, rtol=1e-6)
    np.testing.assert_allclose(fit.predict(level=["g", "h"]).mean, fit.predict().mean)
    two = make(formula="y ~ x + (1 + x || g) + (1 | h)")
    slopes = two.predict(level=["g_x"]).mean - two.predict(level="population").mean
    own = flat(two, "g_x_effects").mean(axis=0)[data["g"], 0] * data["x"]
    np.testing.assert_allclose(slopes, own, atol=1e-6)
    with pytest.raises(ValueError, match=r"level holds 'k', .*; its groupings are: 'g', 'h'"):
        fit.predict(level=["k"])


@pytest.mark.parametrize("kind", ["gaussian", "ordinal"])
def test_draws_have_the_moments_that_predictions_have(kind: str, make: Any) -> None:
    fit = make(kind, "y ~ x + (1 + x | g) + (1 | h)")
    count = 300 if kind == "gaussian" else 100
    new = {"x": [0.7] * count, "g": np.arange(count) + 9, "h": ["p"] * count}
    for options in ({"kind": "mean"}, {"kind": "response"}):
        found = fit.predict(new, unseen="prior", draws=True, key=0, **options)
        error = found.sd[0] / np.sqrt(count)  # Of as many groups.
        assert found.draws.mean() == pytest.approx(found.mean[0], abs=4 * error)
        assert found.draws.std() == pytest.approx(found.sd[0], abs=4 * error)
    levels = {1.0, 2.0, 3.0}
    assert kind == "gaussian" or set(np.unique(found.draws)) == levels
    same = fit.predict(new | {"g": [9] * count}, unseen="prior", draws=True, key=0).draws
    assert np.ptp(same, axis=1).max() < 1e-12 < np.ptp(same, axis=0).max()
    with pytest.raises(ValueError, match=r"draws=True draws at random: .* Give key="):
        fit.predict(new, unseen="prior", draws=True)


@pytest.mark.parametrize("kind", ["gaussian", "lognormal", "bernoulli", "ordinal"])
def test_blocks_change_nothing(kind: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = make(kind, "y ~ x + (1 | g)")
    for of in ("mean", "response"):
        whole = fit.predict(kind=of)
        monkeypatch.setattr(mixtures, "BLOCK", 1000)
        parts = fit.predict(kind=of)
        monkeypatch.undo()
        for name in ("mean", "sd", "lower", "upper"):
            np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-4)


def test_a_point_knows_no_uncertainty_of_the_mean(make: Any) -> None:
    fit = make()
    one = {name: value[:1, :1] for name, value in fit.samples.items()}
    point = MixedFit(fit.model, fit.design, one, "marginal")
    found = point.predict()
    assert found.sd is found.lower is found.upper is None
    assert found.mean[0] == pytest.approx(predictor(fit, 0)[0], rel=1e-5)
    found = point.predict(kind="response", interval=0.9)
    noise = one["noise_scale"][0, 0]
    np.testing.assert_allclose(found.sd, noise, rtol=1e-5)
    np.testing.assert_allclose(found.upper - found.mean, 1.6448536 * noise, rtol=1e-3)
    assert point.point()["coefficients"].shape == (2,)
    assert point.is_point
    with pytest.raises(ValueError, match="2 chains of 60 draws and hence no point; see samples"):
        fit.point()


def test_scales_that_are_fixed_may_be_missing() -> None:
    model = MixedEffects("y ~ x + (1 | g)", priors={"noise_scale": 2.0, "g_scale": 0.5})
    design = model.design(table())
    samples = random_samples(model, design)
    del samples["noise_scale"], samples["g_scale"]
    found = MixedFit(model, design, samples, "nuts").predict(kind="response")
    assert found.sd is not None
    assert (found.sd > 2.0).all()
    new = {"x": [0.0], "g": [7]}
    assert len(MixedFit(model, design, samples, "nuts").predict(new, unseen="prior")) == 1


def test_effects_that_were_not_recovered(make: Any) -> None:
    fit = make()

    def without(*names: str) -> MixedFit:
        rest = {name: value for name, value in fit.samples.items() if name not in names}
        return MixedFit(fit.model, fit.design, rest, "nuts")

    with pytest.raises(ValueError, match=r"no draws of g_effects: .* or predict with level='popul"):
        without("g_effects").predict()
    assert len(without("g_effects").predict(level="population")) == 40
    with pytest.raises(ValueError, match="no draws of noise_scale, whose prior is a distribution"):
        without("noise_scale").predict(kind="response")
    with pytest.raises(ValueError, match=r"no draws of coefficients: .* have them recovered\.$"):
        without("coefficients").predict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": np.zeros(DRAWS)}, r"samples holds 'beta', which is no site of the model; its si"),
        ({"h_effects": np.zeros((*DRAWS, 4, 1))}, r"h_effects has shape \(2, 60, 4, 1\), expected"),
        ({"h_scale": np.zeros((2, 3, 1))}, r"h_scale has shape \(2, 3, 1\), expected \(chains, d"),
        ({"noise_scale": np.full(DRAWS, np.inf)}, "noise_scale is not finite everywhere"),
    ],
)
def test_bad_samples(change: dict[str, Any], message: str, make: Any) -> None:
    fit = make()
    with pytest.raises(ValueError, match=message):
        MixedFit(fit.model, fit.design, dict(fit.samples) | change, "nuts")


def test_other_errors(make: Any) -> None:
    fit = make()
    with pytest.raises(ValueError, match="samples is empty"):
        MixedFit(fit.model, fit.design, {}, "nuts")
    sampling = Sampling({"lp": np.zeros((1, 1))}, 0, 0.0)
    with pytest.raises(ValueError, match=r"the samples have 2 chains of 60 draws"):
        MixedFit(fit.model, fit.design, fit.samples, "nuts", sampling)
    for name, options in (
        ("unseen", "'error' or 'prior'"),
        ("level", "'groups' or 'population'"),
        ("kind", "'mean' or 'response'"),
    ):
        with pytest.raises(ValueError, match=f"{name} is 'x'; expected {options}"):
            fit.predict(**{name: "x"})
    with pytest.raises(ValueError, match="interval is 2; expected a probability"):
        fit.predict(interval=2)
    with pytest.raises(ValueError, match="interval is 2; expected a probability"):
        fit.summary(interval=2)
    with pytest.raises(ValueError, match="read-only"):
        fit.samples["h_scale"][0] = 1
    with pytest.raises(TypeError):
        fit.samples["h_scale"] = 1


def test_summary(make: Any) -> None:
    fit = make()
    told = fit.summary(interval=0.5)
    x = flat(fit, "coefficients")[:, 1]
    row = told["coefficients[x]"]
    assert row["mean"] == pytest.approx(x.mean())
    assert [row["0.25"], row["0.75"]] == pytest.approx(np.quantile(x, [0.25, 0.75]))
    correlation = told["g_correlation[Intercept, x]"]
    assert correlation["mean"] == pytest.approx(flat(fit, "g_correlation")[:, 1, 0].mean())
    assert [row["name"] for row in told] == [
        "coefficients[Intercept]", "coefficients[x]", "g_scale[Intercept]", "g_scale[x]",
        "g_correlation[Intercept, x]", "h_scale[Intercept]", "noise_scale",
    ]  # fmt: skip
    lines = repr(told).splitlines()
    columns = ["ess_bulk", "ess_tail", "r_hat", "mcse_mean", "mcse_sd"]
    assert lines[0].split() == ["name", "mean", "sd", "0.25", "0.75", *columns]
    assert len(lines) == 8
    every = fit.summary(effects=True)
    assert every["h_effects[q, Intercept]"]["mean"] == pytest.approx(
        flat(fit, "h_effects")[:, 1, 0].mean()
    )
    assert len(every) == 7 + 8 + 3
    with pytest.raises(KeyError, match="zeta"):
        told["zeta"]
    assert told.to_arrow().column_names[0] == "name"


@pytest.mark.parametrize("chains", [2, 1])
def test_summary_measures_as_arviz_does(chains: int, make: Any) -> None:
    fit = make()
    samples = {name: value[:chains] for name, value in fit.samples.items()}
    fit = MixedFit(fit.model, fit.design, samples, "nuts", Sampling({}, 5, 0.1))
    told = fit.summary()
    tree, names = fit.to_arviz(), ["noise_scale", "coefficients"]
    columns = {
        "ess_bulk": az.ess(tree, var_names=names, method="bulk"),
        "ess_tail": az.ess(tree, var_names=names, method="tail", prob=(0.05, 0.95)),
        "mcse_mean": az.mcse(tree, var_names=names, method="mean"),
        "mcse_sd": az.mcse(tree, var_names=names, method="sd"),
    }
    if chains > 1:
        columns["r_hat"] = az.rhat(tree, var_names=names)
    for name, tree in columns.items():
        for site, row in (("noise_scale", "noise_scale"), ("coefficients", "coefficients[x]")):
            value = tree[site].values.ravel()[-1]
            assert told[row][name] == pytest.approx(value, rel=1e-6)
    assert told["noise_scale"]["r_hat"] is not None
    few = {name: value[:, :3] for name, value in samples.items()}
    short = MixedFit(fit.model, fit.design, few, "nuts", Sampling({}, 5, 0.1)).summary()
    assert short["noise_scale"]["r_hat"] is short["noise_scale"]["ess_bulk"] is None
    one = {name: value[:1, :1] for name, value in samples.items()}
    assert "r_hat" not in MixedFit(fit.model, fit.design, one, "x").summary()["noise_scale"]


def test_summary_of_independent_draws() -> None:
    """Errors of mean and sd against those of many repetitions."""
    model = MixedEffects("y ~ 1 + (1 | g)")
    design = model.design({"y": np.arange(8.0), "g": np.arange(8) % 4})
    rng = np.random.default_rng(0)
    draws = rng.gamma(2.0, 1.0, (4000, 300))
    samples = {"noise_scale": draws[:1], "g_scale": np.ones((1, 300, 1))}
    sampling = Sampling({}, 0, 0.1, info={"effective": 1e9, "k_hat": 0.1})
    told = MixedFit(model, design, samples, "marginal/importance", sampling).summary()
    row = told["noise_scale"]
    assert (row["ess_bulk"], row["ess_tail"], row["r_hat"]) == (300, 300, None)
    assert row["mcse_mean"] == pytest.approx(draws.mean(axis=1).std(), rel=0.2)
    assert row["mcse_sd"] == pytest.approx(draws.std(axis=1).std(), rel=0.3)
    assert told["g_scale[Intercept]"]["mcse_mean"] is None
    tree = MixedFit(model, design, samples, "marginal/importance", sampling).to_arviz()
    assert tree["posterior"]["noise_scale"].shape == (4, 75)
    np.testing.assert_array_equal(tree["posterior"]["noise_scale"].values.ravel(), draws[0])
    assert np.isfinite(az.rhat(tree, var_names=["noise_scale"])["noise_scale"])
    for count, shape in ((8, (2, 4)), (7, (1, 7)), (15, (3, 5)), (2, (1, 2))):
        few = {name: value[:, :count] for name, value in samples.items()}
        tree = MixedFit(model, design, few, "marginal/importance", sampling).to_arviz()
        assert tree["posterior"]["noise_scale"].shape == shape


def test_sampling_prints_as_a_short_table() -> None:
    rng = np.random.default_rng(0)
    stats = {"lp": rng.normal(size=(4, 500)), "diverging": np.arange(2000).reshape(4, 500) < 7}
    lines = repr(Sampling(stats, 500, 12.345, info={"max_tree_depth": 10, "k_hat": 0.25}))
    assert lines.splitlines()[0] == "Sampling(500 draws of warmup, 12.3 s)"
    assert lines.splitlines()[1].split() == ["statistic", "mean", "least", "greatest"]
    assert "diverging" in lines
    assert lines.splitlines()[-2:] == ["max_tree_depth: 10", "k_hat: 0.25"]
    assert len(lines.splitlines()) == 6
    assert repr(Sampling({}, 0, 0.1)) == "Sampling(0 draws of warmup, 0.1 s)"


def test_repr(make: Any) -> None:
    assert repr(make()) == (
        f"MixedFit(nuts: {FORMULA}, Gaussian; 40 observations; 2 chains of 60 draws)"
    )
    fit = make()
    cut = MixedFit(fit.model, fit.design, fit.samples, "nuts", Sampling({}, 1, 1.0, complete=False))
    assert repr(cut).endswith("draws, incomplete)")
    assert repr(fit.predict()).startswith("Predictions(40 rows, the first ")


def test_priors_by_hand(make: Any) -> None:
    fit = make(priors={"noise_scale": dist.Exponential(1.0)}, centered=False)
    assert "g_effects_raw" in fit.samples
    assert len(fit.predict()) == 40
