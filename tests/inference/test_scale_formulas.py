"""Formulas of the second parameter of responses that are not Normal, against SciPy's densities."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats as st
from scipy.special import expit, gammaln

from probmf import MixedEffects, fit_marginal
from probmf.likelihoods import StudentT

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

    assert fit.maximum is not None
    assert value(found) == pytest.approx(fit.maximum.log_likelihood, rel=1e-9)
    steps = 0.01 * np.eye(4).reshape(4, 2, 2)
    for step in (*steps, *-steps):
        assert value(found + step) < value(found)
    # The effect on the second parameter that the responses were drawn with.
    assert found[1, 1] == pytest.approx(-0.6, abs=0.3)
