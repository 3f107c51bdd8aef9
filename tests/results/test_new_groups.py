"""Rows of new groups: their effects are integrated out, against dense grids of these effects."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from probmf import Bernoulli, Gaussian, MixedEffects, Ordinal, fit_marginal
from probmf.likelihoods import ZeroInflatedPoisson
from probmf.results import MixedFit, Sampling
from probmf.results.mixed_predict import RowParameters, mixture
from probmf.results.prediction_intervals import summarize

FORMULA = "y ~ 1 + x + (1 + x | g) + (1 | h)"
#: A standard Normal on a grid: the trapezoid rule is exact to rounding for what is asked of it.
GRID = np.linspace(-9, 9, 1501)
MASS = norm.pdf(GRID) / norm.pdf(GRID).sum()
TAILS = (0.1, 0.9)
PROBITS = {"bernoulli probit": Bernoulli("probit"), "ordinal probit": Ordinal(link="probit")}
KINDS = ["gaussian", "lognormal", "bernoulli", "ordinal", *PROBITS]


def table(kind: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    y = rng.normal(2, 1, 40)
    responses = {"gaussian": y, "lognormal": np.exp(y), "bernoulli": (y > 2) * 1}
    responses["ordinal"] = np.digitize(y, [1.5, 2.5]) + 1
    h = rng.permutation(np.resize(["p", "q", "r"], 40))
    return {"y": responses[kind], "x": rng.normal(0, 1, 40), "g": np.arange(40) % 4, "h": h}


def fit_of(kind: Any, draws: int, formula: str = FORMULA, **options: Any) -> MixedFit:
    """A fit with random parameters: one draw is a point fit."""
    if kind.startswith("ordinal"):
        formula = formula.replace("1 + x +", "x +", 1)
    model = MixedEffects(formula, likelihood=PROBITS.get(kind, kind), **options)
    design = model.design(table(kind.split()[0]))
    rng = np.random.default_rng(1)
    blank = MixedFit(model, design, {"coefficients": np.zeros((1, 1, len(design.mean.names)))}, "x")
    samples = {}
    for site, shape in blank.site_shapes.items():
        value = rng.normal(0, 0.5, (1, draws, *shape))
        if site.endswith("_scale"):
            value = rng.uniform(0.5, 1.2, value.shape)
        elif site.endswith("_correlation"):
            r = rng.uniform(-0.8, 0.8, (1, draws))
            value = np.zeros(value.shape)
            value[..., 0, 0], value[..., 1, 0], value[..., 1, 1] = 1.0, r, np.sqrt(1 - r**2)
        elif site == "cutpoints":
            value = np.sort(value, axis=-1)
        samples[site] = value
    sampling = None if draws == 1 else Sampling({}, 5, 0.1)
    return MixedFit(model, design, samples, "x", sampling)


def on_grid(fit: MixedFit, x: float, new_h: bool) -> tuple[np.ndarray, np.ndarray]:
    """Predictors at every draw and place of the grid, for a new group of g; their weights."""
    draws = {site: value[0] for site, value in fit.samples.items()}
    z = np.array([1.0, x])
    beta = draws["coefficients"]
    center = beta @ z[-beta.shape[1] :]
    root = draws["g_scale"][:, :, None] * draws["g_correlation"]
    variance = np.sum(np.einsum("sij,i->sj", root, z) ** 2, axis=1)
    if new_h:
        variance = variance + draws["h_scale"][:, 0] ** 2
    else:
        center = center + draws["h_effects"][:, 0, 0]
    grid = center[:, None] + np.sqrt(variance)[:, None] * GRID
    return grid, np.broadcast_to(MASS / len(center), grid.shape)


def moments(values: np.ndarray, mass: np.ndarray) -> tuple[float, float]:
    mean = float(np.sum(mass * values))
    return mean, float(np.sqrt(np.sum(mass * np.square(values - mean))))


def cdf_of(kind: str) -> Any:
    return norm.cdf if kind in PROBITS else expit


def expected_level(kind: str, eta: np.ndarray, cut: np.ndarray) -> np.ndarray:
    return 1 + cdf_of(kind)(eta - cut[:, :1]) + cdf_of(kind)(eta - cut[:, 1:])


@pytest.mark.parametrize("new_h", [False, True])
@pytest.mark.parametrize("draws", [1, 60])
@pytest.mark.parametrize("kind", KINDS)
def test_responses_of_new_groups(kind: str, draws: int, new_h: bool) -> None:
    fit = fit_of(kind, draws)
    rows = {"x": [0.7, -0.4], "g": [99, 98], "h": ["new" if new_h else "p"] * 2}
    found = fit.predict(rows, unseen="prior", kind="response", interval=0.8)
    assert not found.known.any()
    for row, x in enumerate(rows["x"]):
        eta, mass = on_grid(fit, x, new_h)
        ends = found.lower[row], found.upper[row]
        if kind in ("gaussian", "lognormal"):
            noise = fit.samples["noise_scale"][0][:, None]
            if kind == "gaussian":
                mean, spread = moments(eta, mass)
                sd = np.sqrt(spread**2 + np.mean(noise**2))
            else:
                mean = np.sum(mass * np.exp(eta + noise**2 / 2))
                sd = np.sqrt(np.sum(mass * np.exp(2 * eta + 2 * noise**2)) - mean**2)
                ends = np.log(ends)
            below = [np.sum(mass * norm.cdf((end - eta) / noise)) for end in ends]
            assert below == pytest.approx(TAILS, abs=1e-4)
        else:
            ordinal = kind.startswith("ordinal")
            cut = fit.samples["cutpoints"][0] if ordinal else np.zeros((draws, 1))
            passed = [np.sum(mass * cdf_of(kind)(eta - cut[:, [j]])) for j in range(cut.shape[1])]
            chance = -np.diff([1.0, *passed, 0.0])
            levels = np.arange(len(chance)) + ordinal
            mean = chance @ levels
            sd = np.sqrt(chance @ np.square(levels - mean))
            if ordinal:
                np.testing.assert_allclose(found.probabilities[row], chance, atol=1e-7)
            places = [int(np.sum(np.cumsum(chance)[:-1] < tail)) for tail in TAILS]
            assert ends == (levels[places[0]], levels[places[1]])
        assert found.mean[row] == pytest.approx(mean, rel=1e-6)
        assert found.sd[row] == pytest.approx(sd, rel=1e-5)
    means = fit.predict(rows, unseen="prior", interval=None).mean
    np.testing.assert_allclose(means, found.mean, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_means_of_new_groups(kind: str) -> None:
    fit = fit_of(kind, 60)
    found = fit.predict({"x": [0.7], "g": [99], "h": ["p"]}, unseen="prior", interval=0.8)
    eta, mass = on_grid(fit, 0.7, False)
    if kind == "lognormal":
        eta = np.exp(eta + fit.samples["noise_scale"][0][:, None] ** 2 / 2)
    elif kind.startswith("bernoulli"):
        eta = cdf_of(kind)(eta)
    elif kind.startswith("ordinal"):
        eta = expected_level(kind, eta, fit.samples["cutpoints"][0])
    mean, sd = moments(eta, mass)
    assert found.mean[0] == pytest.approx(mean, rel=1e-6)
    assert found.sd[0] == pytest.approx(sd, rel=1e-5)
    for end, tail in ((found.lower[0], 0.1), (found.upper[0], 0.9)):
        assert np.sum(mass * (eta < end)) == pytest.approx(tail, abs=2e-3)


@pytest.mark.parametrize("draws", [1, 20])
@pytest.mark.parametrize("kind", ["gaussian", "lognormal"])
def test_new_groups_in_the_noise_scale(kind: str, draws: int) -> None:
    fit = fit_of(kind, draws, "y ~ 1 + x + (1 | g)", scale_formula="~ 1 + (1 | h)")
    rows = {"x": [0.7, 0.7], "g": [1, 1], "h": ["p", "new"]}
    found = fit.predict(rows, unseen="prior", kind="response", interval=0.8)
    assert found.known.tolist() == [True, False]
    of = {site: value[0] for site, value in fit.samples.items()}
    eta = of["coefficients"] @ [1.0, 0.7] + of["g_effects"][:, 1, 0]
    log_noise = of["noise_coefficients"][:, :1] + of["noise_h_scale"] * GRID
    noise, mass = np.exp(log_noise), np.broadcast_to(MASS / draws, log_noise.shape)
    ends = np.array([found.lower[1], found.upper[1]])
    ends = ends if kind == "gaussian" else np.log(ends)
    below = [np.sum(mass * norm.cdf((end - eta[:, None]) / noise)) for end in ends]
    assert below == pytest.approx(TAILS, abs=1e-4)
    if kind == "gaussian":
        assert found.mean[1] == pytest.approx(eta.mean())
        assert found.sd[1] == pytest.approx(np.sqrt(eta.var() + np.sum(mass * noise**2)), rel=1e-5)
    else:
        assert np.isinf([found.mean[1], found.sd[1]]).all()
        assert np.isfinite([found.mean[0], found.sd[0], *ends]).all()


def test_new_groups_in_the_probability_of_zeros() -> None:
    """The expected count depends on it, and is told alike with draws of it and without."""
    model = MixedEffects(
        "y ~ 1 + x", likelihood="zeroinflatedpoisson", scale_formula="~ 1 + (1 | h)"
    )
    table = {"y": np.arange(40) % 4, "x": np.linspace(-1, 1, 40), "h": np.resize(["p", "q"], 40)}
    rng, design = np.random.default_rng(2), model.design(table)
    shapes = {"coefficients": 2, "zero_coefficients": 1, "zero_h_scale": 1}
    samples = {site: rng.uniform(0.2, 1.0, (1, 20, size)) for site, size in shapes.items()}
    samples["zero_h_effects"] = rng.normal(0, 0.5, (1, 20, 2, 1))
    fit = MixedFit(model, design, samples, "x", Sampling({}, 5, 0.1))
    rows = {"x": [0.7, 0.7], "h": ["p", "new"]}
    found = fit.predict(rows, unseen="prior", kind="response")
    of = {site: value[0] for site, value in samples.items()}
    rate = np.exp(of["coefficients"] @ [1.0, 0.7])[:, None]
    count = 1.0 - expit(of["zero_coefficients"] + of["zero_h_scale"] * GRID)
    mean = np.sum(MASS / 20 * count * rate)
    square = np.sum(MASS / 20 * count * (rate + rate**2))
    assert found.mean[1] == pytest.approx(mean, rel=1e-6)
    assert found.sd[1] == pytest.approx(np.sqrt(square - mean**2), rel=1e-6)
    told = 1.0 - expit(of["zero_coefficients"][:, 0] + of["zero_h_effects"][:, 0, 0])
    assert found.mean[0] == pytest.approx(np.mean(told * rate[:, 0]), rel=1e-6)


def test_new_and_known_groups_in_one_table() -> None:
    fit = fit_of("bernoulli", 20)
    rows = {"x": [0.3, 0.7, 0.1], "g": [2, 99, 0], "h": ["p", "q", "r"]}
    found = fit.predict(rows, unseen="prior")
    assert found.known.tolist() == [True, False, True]
    for row in range(3):
        alone = fit.predict({name: value[row : row + 1] for name, value in rows.items()},
                            unseen="prior")  # fmt: skip
        for name in ("mean", "sd", "lower", "upper"):
            value = getattr(found, name)[row]
            assert value == pytest.approx(getattr(alone, name)[0], rel=1e-5)


@pytest.mark.parametrize("objective", ["likelihood", "restricted"])
def test_a_point_fit_predicts_the_population(objective: Any) -> None:
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(20), 5)
    y = 10 + rng.normal(0, 5, 20)[g] + rng.normal(0, 1, 100)
    fit = fit_marginal(MixedEffects("y ~ 1 + (1 | g)"), {"y": y, "g": g}, objective=objective)
    new = fit.predict({"g": [100, 101, 102]}, unseen="prior", kind="response", interval=0.9)
    mean = fit.samples["coefficients"].item()
    sd = np.hypot(fit.samples["g_scale"].item(), fit.samples["noise_scale"].item())
    np.testing.assert_allclose(new.mean, mean)
    np.testing.assert_allclose(new.sd, sd)
    np.testing.assert_allclose(new.upper, norm.ppf(0.95, mean, sd), rtol=1e-4)
    np.testing.assert_allclose(new.lower, norm.ppf(0.05, mean, sd), rtol=1e-4)
    assert fit.predict({"g": [100]}, unseen="prior").sd is None


def test_means_of_counts_whose_zeros_have_effects_of_new_groups() -> None:
    """Nodes of the zeros' effects have weights of their own, far nodes next to none."""
    mean, scale, spread = np.array([[0.3]]), np.array([[-0.5]]), np.array([[4.0]])
    likelihood = ZeroInflatedPoisson()
    scores = mixture(RowParameters(likelihood, mean, None, {}, scale, spread))
    found = summarize(likelihood, scores, 0.8, "mean")
    ends = np.exp(0.3) * expit(0.5 + 2.0 * norm.ppf(TAILS))
    np.testing.assert_allclose([found.lower[0], found.upper[0]], ends, atol=0.01)


def test_intervals_where_a_draw_has_noise_of_nearly_any_size() -> None:
    """Nodes far out overflow single precision, and make the mixture's sd no measure of its bulk."""
    spread = np.where(np.arange(20) < 19, 0.25, 100.0)[:, None]
    own = RowParameters(Gaussian(), np.full((20, 1), 2.0), None, {}, 0.0 * spread, spread)
    found = summarize(Gaussian(), mixture(own), 0.8, "response")
    noise = np.exp(GRID * np.sqrt(spread))

    def excess(x: float) -> float:
        return float((norm.cdf((x - 2.0) / noise) @ MASS).mean() - 0.9)

    upper = brentq(excess, 2.0, 100.0)
    np.testing.assert_allclose([found.lower[0], found.upper[0]], [4.0 - upper, upper], atol=0.01)
    assert np.isfinite(found.sd[0])
