"""Formulas of the second parameter, and censored responses, against SciPy's densities."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats as st
from rings import slow
from scipy.special import expit, gammainc, gammaincc, gammaln, logsumexp

from probmf import MixedEffects, fit_marginal, load, plots
from probmf.likelihoods import Gamma, StudentT
from probmf.likelihoods.log_gamma import log_gamma_tails
from probmf.results.held_out import held_out

SIZE = 400
RNG = np.random.default_rng(0)
X = RNG.normal(size=SIZE)
ETA, OWN = 0.4 + 0.3 * X, 0.8 - 0.6 * X


def negative_binomial(y: np.ndarray, eta: np.ndarray, own: np.ndarray) -> np.ndarray:
    phi = np.exp(own)
    return np.asarray(st.nbinom(phi, phi / (phi + np.exp(eta))).logpmf(y))


def gamma(y: np.ndarray, eta: np.ndarray, own: np.ndarray) -> np.ndarray:
    return np.asarray(st.gamma(np.exp(own), scale=np.exp(eta - own)).logpdf(y))


def student_t(y: np.ndarray, eta: np.ndarray, own: np.ndarray) -> np.ndarray:
    return np.asarray(st.t(4.0, loc=eta, scale=np.exp(own)).logpdf(y))


def zero_inflated(y: np.ndarray, eta: np.ndarray, own: np.ndarray) -> np.ndarray:
    counts = -np.logaddexp(0.0, own) + y * eta - np.exp(eta) - gammaln(y + 1.0)
    return np.where(y > 0, counts, np.logaddexp(-np.logaddexp(0.0, -own), counts))


RATES = RNG.gamma(np.exp(OWN)) / np.exp(OWN) * np.exp(ETA)
#: Likelihood, what its sites are called by, its log density, and responses.
CASES: dict[str, tuple[str, Callable[..., np.ndarray], np.ndarray]] = {
    "negativebinomial": ("concentration", negative_binomial, RNG.poisson(RATES)),
    "gamma": ("concentration", gamma, RATES),
    "studentt": ("noise", student_t, ETA + np.exp(OWN) * RNG.standard_t(4.0, SIZE)),
    "zeroinflatedpoisson": (
        "zero", zero_inflated, (RNG.uniform(size=SIZE) > expit(OWN)) * RNG.poisson(np.exp(ETA + 1))
    ),
}  # fmt: skip


@pytest.mark.parametrize("likelihood", CASES)
def test_the_maximum_is_that_of_scipys_density(likelihood: str) -> None:
    name, log_density, y = CASES[likelihood]
    given = StudentT(df=4.0) if likelihood == "studentt" else likelihood
    model = MixedEffects("y ~ x", likelihood=given, scale_formula="~ x")
    fit = fit_marginal(model, {"y": y, "x": X})
    found = np.stack([fit.point()["coefficients"], fit.point()[f"{name}_coefficients"]])

    def value(at: np.ndarray) -> float:
        eta, own = at @ np.stack([np.ones(SIZE), X])
        return float(np.sum(log_density(y, eta, own)))

    check_highest(fit, found, value)
    # The effect on the second parameter that the responses were drawn with.
    assert found[1, 1] == pytest.approx(-0.6, abs=0.3)


def check_highest(fit: Any, found: np.ndarray, value: Callable[[np.ndarray], float]) -> None:
    """The log likelihood is that of a density, and lower all around."""
    assert value(found) == pytest.approx(fit.maximum.log_likelihood, rel=1e-9)
    for step in 0.01 * np.eye(found.size).reshape(-1, *found.shape):
        assert value(found + step) < value(found)
        assert value(found - step) < value(found)


#: What censors a response: it is 1 where a response is above its limit, -1 where it is below.
LIMIT = RNG.normal(0.6, 0.5, SIZE)
NOISE = 0.7 * RNG.normal(size=SIZE)


def normal(eta: np.ndarray, scale: float) -> Any:
    return st.norm(eta, scale)


CENSORED: dict[str, tuple[Callable[[np.ndarray, float], Any], np.ndarray, np.ndarray]] = {
    "gaussian": (normal, ETA + NOISE, LIMIT),
    "lognormal": (
        lambda eta, s: st.lognorm(s, scale=np.exp(eta)), np.exp(ETA + NOISE), np.exp(LIMIT)
    ),
    "gamma": (
        lambda eta, phi: st.gamma(phi, scale=np.exp(eta) / phi),
        RNG.gamma(2.0, np.exp(ETA) / 2.0), np.exp(LIMIT),
    ),
    "poisson": (
        lambda eta, _: st.poisson(np.exp(eta)), RNG.poisson(np.exp(ETA)), np.round(np.exp(LIMIT))
    ),
}  # fmt: skip


@pytest.mark.parametrize("likelihood", slow(CENSORED, "gamma"))
def test_bounds_count_by_their_probability(likelihood: str, tmp_path: Path) -> None:
    law, full, limit = CENSORED[likelihood]
    rows, whole = np.arange(SIZE), likelihood == "poisson"
    kind = np.where(rows % 3 > 0, 1 * (full > limit), -1 * (full < limit))
    y = np.where(kind == 0, full, limit)
    # Every fifth is an interval, and every tenth a narrow one.
    kind[::5], narrow = 2, (rows % 10 == 0) & (not whole)
    y[::5] = full[::5] - np.minimum(full[::5], 1) * 0.5 * (1 + whole) * (not whole or 1)
    upper = np.where(narrow, y + 1e-7, y + 1 + rows % 3)
    words = np.array(["left", "none", "right", "interval"])[kind + 1]
    table = {"y": y, "x": X, "c": words if likelihood == "gaussian" else kind}
    table["upper"] = np.where(kind == 2, upper, np.nan)
    fit = fit_marginal(MixedEffects("y | cens(c, upper) ~ x", likelihood=likelihood), table)
    point = fit.point()
    own = [point[name] for name in ("noise_scale", "concentration") if name in point]

    def value(at: np.ndarray) -> float:
        laws = law(at[0] + at[1] * X, at[2] if own else 1.0)
        density = laws.logpmf(y) if whole else laws.logpdf(y)
        above, below = laws.logsf(y - whole), laws.logcdf(y)
        between = np.log(laws.cdf(upper) - laws.cdf(y - whole))
        if not whole:
            between = np.where(narrow, laws.logpdf(y + 5e-8) + np.log(upper - y), between)
        laws = [between, above, below]
        return float(np.sum(np.select([kind == 2, kind > 0, kind < 0], laws, density)))

    check_highest(fit, np.array([*point["coefficients"], *own]), value)
    # New rows need no column, and saved fits keep it.
    fit.save(tmp_path / "fit", data=table)
    found = load(tmp_path / "fit").predict({"x": [0.0, 1.0]}, kind="response")
    at_one = fit.predictions({"x": [1.0]}, interval=None).mean
    np.testing.assert_allclose(at_one, found.mean[1:], rtol=1e-6)
    eta = point["coefficients"] @ np.array([[1.0, 1.0], [0.0, 1.0]])
    laws = law(eta, own[0] if own else 1.0)
    np.testing.assert_allclose(found.mean, laws.mean(), rtol=1e-5)
    np.testing.assert_allclose([found.lower, found.upper], laws.ppf([[0.05], [0.95]]), rtol=1e-4)


@pytest.mark.parametrize(
    "size", [30.0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1e3, 1e5)), 1e6]
)
def test_tails_of_the_gamma_function(size: float) -> None:
    """As far out as SciPy goes, which is where a series takes over, on both sides."""
    away = np.array([-37.0, -36.0, -20.0, -3.0, 3.0, 20.0, 36.0, 37.0]) * np.sqrt(size)
    places = size + away[size + away > 0]
    with jax.enable_x64(True):
        found = np.stack(log_gamma_tails(size, places))
    with np.errstate(divide="ignore"):
        wanted = np.log([gammainc(size, places), gammaincc(size, places)])
    told = wanted > -700.0
    np.testing.assert_allclose(found[told], wanted[told], rtol=1e-8, atol=1e-12)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("likelihood", ["poisson", "gamma"])
def test_far_bounds_count(likelihood: str) -> None:
    """Far beyond the smallest float, against SciPy's quadrature of the density's logarithm."""
    y = np.append(np.full(20, 50.0), 2000.0)
    table = {"y": y, "c": np.append(np.zeros(20), 1), "x": np.zeros(21)}
    given = Gamma(4.0) if likelihood == "gamma" else "poisson"
    fit = fit_marginal(MixedEffects("y | cens(c) ~ 1", likelihood=given), table)

    def value(at: float) -> float:
        rate = np.exp(at)
        if likelihood == "poisson":
            terms = st.poisson(rate).logpmf(np.arange(2000, 6000))
            return float(20 * st.poisson(rate).logpmf(50) + logsumexp(terms))
        places = np.linspace(2000.0, 40000.0, 400_001)
        terms = st.gamma(4.0, scale=rate / 4.0).logpdf(places) + np.log(places[1] - places[0])
        terms[[0, -1]] -= np.log(2.0)
        return float(20 * st.gamma(4.0, scale=rate / 4.0).logpdf(50) + logsumexp(terms))

    found = fit.point()["coefficients"].item()
    assert fit.maximum.log_likelihood == pytest.approx(value(found), rel=1e-8)
    assert value(found) > max(value(found - 0.01), value(found + 0.01))


@pytest.mark.parametrize("likelihood", ["gaussian", "lognormal"])
def test_weights_of_rows_mean_the_same_with_bounds(likelihood: str) -> None:
    """Precision: a row of weight w has the noise of the scale by the root of w."""
    law, full, limit = CENSORED[likelihood]
    kind = 1 * (full > limit)
    y, weight = np.minimum(full, limit), np.exp(0.5 * X)
    table = {"y": y, "x": X, "c": kind, "w": weight}
    fit = fit_marginal(MixedEffects("y | cens(c) ~ x", likelihood=likelihood, weights="w"), table)
    point = fit.point()

    def value(at: np.ndarray) -> float:
        laws = law(at[0] + at[1] * X, at[2] / np.sqrt(weight))
        return float(np.sum(np.where(kind > 0, laws.logsf(y), laws.logpdf(y))))

    check_highest(fit, np.array([*point["coefficients"], point["noise_scale"]]), value)


def test_bounds_are_not_compared_with_predictions() -> None:
    table = {"y": [1.0, 2.0, 4.0], "x": [0.0, 1.0, 3.0], "c": [0, 0, 1]}
    fit = fit_marginal(MixedEffects("y | cens(c) ~ 1"), table)
    with pytest.raises(ValueError, match=r"'c' is 1 in row 2 .* a bound can't be compared"):
        held_out(fit, table)
    assert len(held_out(fit, {"y": [1.0, 2.0]}).observed) == 2
    with pytest.raises(ValueError, match="Some responses 'y' are bounds"):
        plots.predictive_check(fit, key=0)


def test_bounds_that_can_not_be_read_are_refused() -> None:
    table = {
        "y": [1.0, 2.0], "x": [0.0, 1.0], "c": [0, 3], "w": ["none", "up"], "all": [1, 1],
        "i": [2, 2], "low": [2.0, 0.5], "same": [2.0, 2.0], "part": [2.0, None],
    }  # fmt: skip
    for columns, words in (
        ("c", r"'c' is 3 in row 1 .*; expected 0 for an observed response"),
        ("w", r"'w' is 'up' in row 1 .*; expected 'none', 'left'"),
        ("all", "all 2 responses are bounds"),
        ("i", r"'i' is 2 in row 0 \(2 such rows\), an interval; name the column of its upper end"),
        ("i, low", r"'y' .* row 1 has an upper end below the lower one, 2 and 0.5 \(1 such row\)"),
        ("i, same", r"row 1 has an upper end that is the lower one.*: say that it was observed"),
        ("i, part", r"row 1 has no upper end \(1 such row\)"),
    ):
        with pytest.raises(ValueError, match=words):
            MixedEffects(f"y | cens({columns}) ~ 1").design(table)
    with pytest.raises(ValueError, match="no probabilities of bounds; use 'gaussian'"):
        MixedEffects("y | cens(c) ~ x", likelihood="negativebinomial")
    with pytest.raises(ValueError, match=r"expected one column within cens\(...\)"):
        MixedEffects("y | cens(c, d, e) ~ x")
