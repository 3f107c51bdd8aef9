"""Every likelihood and link against SciPy, its own derivatives, and brute-force integrals."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from rings import slow
from scipy import special, stats

from probmf.inference.point.cutpoints import cutpoint_sums
from probmf.likelihoods import (
    Bernoulli,
    Beta,
    Binomial,
    Gamma,
    Gaussian,
    Likelihood,
    LogNormal,
    NegativeBinomial,
    Ordinal,
    Poisson,
    StudentT,
)
from probmf.likelihoods.base import Predicted
from probmf.likelihoods.counts import poisson
from probmf.likelihoods.links import LinkName, log_ndtr
from probmf.likelihoods.normal_integrals import (
    expected_sigmoid,
)
from probmf.likelihoods.ordered import Ordered, OrderedNormal, interval_slope, log_interval
from probmf.likelihoods.parameters import check_parameter, check_scale
from probmf.likelihoods.quadrature import QuadratureLikelihood, RateLikelihood
from probmf.likelihoods.zeros import (
    HurdleNegativeBinomial,
    HurdlePoisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)

SIGMA = 0.7
LEVELS = (0.5, 1.0, 2.5, 4.0)
CUTPOINTS = (-1.2, 0.1, 0.9)
#: Of scores in every test, so that their operations are compiled once.
COUNT = 31
GRID = np.linspace(-9, 9, COUNT)
LINKS: tuple[LinkName, ...] = ("logit", "probit")
CDF: dict[str, Callable[..., Any]] = {"logit": special.expit, "probit": special.ndtr}
LOG_CDF: dict[str, Callable[..., Any]] = {"logit": special.log_expit, "probit": special.log_ndtr}
QUANTILE: dict[str, Callable[..., Any]] = {"logit": special.logit, "probit": special.ndtri}
# The trapezoid rule is exact to rounding for smooth functions times a Normal density.
NODES = np.linspace(-9, 9, 4001)
MASS = stats.norm.pdf(NODES) * (NODES[1] - NODES[0])


class Case(NamedTuple):
    """A likelihood with its parameters, and its log density by SciPy."""

    likelihood: Likelihood
    scales: dict[str, Any]
    ratings: tuple[float, ...]
    # None where SciPy has the law.
    log_density: Callable[[np.ndarray, Any], np.ndarray]
    law: Callable[[np.ndarray], Any] = stats.norm
    # Of scores and a grid, ratings that lie all over and their slopes: for the trapezoid rule.
    spread: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None

    def parameters(self) -> dict[str, jax.Array]:
        return {name: jnp.asarray(value) for name, value in self.scales.items()}


def log_level(link: str, score: np.ndarray, rating: float) -> np.ndarray:
    """An interval above zero is mirrored."""
    edges = [-np.inf, *CUTPOINTS, np.inf]
    place = LEVELS.index(rating)
    low, high = edges[place] - score, edges[place + 1] - score
    flip = low + high > 0
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    with np.errstate(divide="ignore"):
        return np.log(CDF[link](high) - CDF[link](low))


def told(
    likelihood: Likelihood, scales: dict[str, Any], ratings: tuple[float, ...],
    law: Callable[[np.ndarray], Any],
    spread: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
) -> Case:  # fmt: skip
    """A likelihood whose law SciPy has."""

    def log_density(score: np.ndarray, rating: Any) -> np.ndarray:
        found = law(score)
        return found.logpmf(rating) if spread is None else found.logpdf(rating)

    return Case(likelihood, scales, ratings, log_density, law, spread)


class WithZeros:
    """A law of counts, of which some are zero for another reason, or a hurdle."""

    def __init__(self, law: Any, zero: float, *, hurdle: bool) -> None:
        """By the log of the share of counts that SciPy's law has."""
        self.law, self.hurdle, self.zero = law, hurdle, zero
        self.other = np.log1p(-zero) - hurdle * np.log(np.maximum(law.sf(0), 1e-300))

    def logpmf(self, count: Any) -> np.ndarray:
        found = self.other + self.law.logpmf(count)
        at_zero = np.log(self.zero) + 0.0 * found
        if not self.hurdle:
            at_zero = np.logaddexp(at_zero, found)
        return np.where(np.asarray(count) == 0, at_zero, found)

    def sf(self, count: Any) -> np.ndarray:
        found = np.exp(self.other) * self.law.sf(count)
        return np.where(np.asarray(count) < 0, 1.0, found)


NOISE = {"noise_scale": SIGMA}
CASES = {
    "gaussian": Case(
        Gaussian(SIGMA), NOISE, (-1.3, 2.5), lambda s, r: stats.norm.logpdf(r, s, SIGMA)
    ),
    "lognormal": Case(
        LogNormal(SIGMA), NOISE, (0.3, 2.5),
        lambda s, r: stats.norm.logpdf(np.log(r), s, SIGMA) - np.log(r),
    ),
    "poisson": told(Poisson(), {}, (0.0, 1.0, 3.0, 40.0), lambda s: stats.poisson(np.exp(s))),
    "negative binomial": told(
        NegativeBinomial(20.0), {"concentration": 20.0}, (0.0, 1.0, 3.0, 40.0),
        lambda s: stats.nbinom(20.0, special.expit(np.log(20.0) - s)),
    ),
    "binomial": told(
        Binomial(12), {"trials": 12.0}, (0.0, 5.0, 12.0),
        lambda s: stats.binom(12, special.expit(s)),
    ),
    "gamma": told(
        Gamma(2.5), {"concentration": 2.5}, (0.02, 0.7, 4.0),
        lambda s: stats.gamma(2.5, scale=np.exp(s) / 2.5), lambda s, x: 2 * (np.exp(s + x),),
    ),
    "beta": told(
        Beta(60.0), {"concentration": 60.0}, (0.003, 0.4, 0.9),
        lambda s: stats.beta(60.0 * special.expit(s), 60.0 * special.expit(-s)),
        lambda s, x: (special.expit(x + 0 * s), special.expit(x) * special.expit(-x)),
    ),
    "student t": told(
        StudentT(SIGMA, 5.0), NOISE | {"df": 5.0}, (-1.3, 0.2, 9.0),
        lambda s: stats.t(5.0, s, SIGMA), lambda s, x: (s + SIGMA * np.sinh(x), SIGMA * np.cosh(x)),
    ),
}  # fmt: skip
for NAME, LAW, OWN in (
    ("poisson", lambda s: stats.poisson(np.exp(s)), {}),
    (
        "negative binomial", lambda s: stats.nbinom(20.0, special.expit(np.log(20.0) - s)),
        {"concentration": 20.0},
    ),
):  # fmt: skip
    KINDS = (ZeroInflatedNegativeBinomial, HurdleNegativeBinomial)
    if not OWN:
        KINDS = (ZeroInflatedPoisson, HurdlePoisson)
    for KIND, HURDLE in zip(KINDS, (False, True), strict=True):
        CASES[f"{'hurdle' if HURDLE else 'zero-inflated'} {NAME}"] = told(
            KIND(0.3, *OWN.values()), {"zero_probability": 0.3} | OWN, (0.0, 1.0, 3.0, 40.0),
            lambda s, law=LAW, hurdle=HURDLE: WithZeros(law(s), 0.3, hurdle=hurdle),
        )  # fmt: skip
for LINK in LINKS:
    CASES[f"bernoulli {LINK}"] = Case(
        Bernoulli(LINK), {}, (0.0, 1.0), lambda s, r, link=LINK: LOG_CDF[link]((2 * r - 1) * s)
    )  # fmt: skip
    CASES[f"ordinal {LINK}"] = Case(
        Ordinal(LEVELS, CUTPOINTS, link=LINK), {"cutpoints": CUTPOINTS}, LEVELS,
        lambda s, r, link=LINK: log_level(link, s, r),
    )  # fmt: skip


CASES["bernoulli cloglog"] = Case(
    Bernoulli("cloglog"), {}, (0.0, 1.0),
    lambda s, r: np.log(-np.expm1(-np.exp(s))) if r else -np.exp(s),
)  # fmt: skip


#: Counts that are as good as all at the scores of these tests.
COUNTS = np.arange(3000.0)


def counted(case: Case) -> bool:
    return case.likelihood.step > 0


def requires(case: Case, method: Any) -> None:
    if not case.likelihood.has(method):
        pytest.skip(f"It has no {method}.")


#: Of these compositions the parts are in other cases.
COMPOSED = ("zero-inflated negative binomial", "hurdle poisson")


@pytest.fixture(params=slow(CASES, *COMPOSED))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(params=LINKS)
def link(request: pytest.FixtureRequest) -> LinkName:
    return request.param


def inner(case: Case) -> np.ndarray:
    """Scores at which SciPy's differences of distribution functions have their digits."""
    return np.linspace(-6, 6, COUNT) if isinstance(case.likelihood, Ordinal) else GRID


def test_density_loss_and_site(case: Case, x64: bool) -> None:
    """A weight counts a rating that many times, or multiplies its precision."""
    likelihood, own, scores = case.likelihood, case.parameters(), jnp.asarray(inner(case))
    tolerance = 1e-9 if x64 else 3e-5
    weights = jnp.asarray(np.random.default_rng(0).uniform(0.5, 3, len(scores)))
    for rating in case.ratings:
        ratings = jnp.full_like(scores, rating)
        wanted = case.log_density(inner(case), rating)
        loss = likelihood.loss(scores, ratings, own)
        assert loss.dtype == scores.dtype
        constant = 0.0
        if likelihood.normal:
            constant = -float(wanted.max()) + float(-loss.min())
        np.testing.assert_allclose(-loss, wanted + constant, rtol=tolerance, atol=10 * tolerance)
        for weight in (None, weights):
            with handlers.seed(rng_seed=0), handlers.trace() as trace:
                likelihood.observe(scores, ratings, weight, own)
            site = trace["rating"]
            count = 1.0 if site["scale"] is None else np.asarray(site["scale"])
            got = np.asarray(count * site["fn"].log_prob(ratings))
            one = np.ones(len(scores)) if weight is None else np.asarray(weight)
            expected = one * wanted
            if likelihood.normal:
                expected = -one * np.asarray(loss) + wanted.max() + np.asarray(loss).min()
                expected = expected + 0.5 * np.log(one)
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=20 * tolerance)


def test_bound_touches_and_is_never_below_the_loss(case: Case) -> None:
    requires(case, "bound")
    likelihood = case.likelihood
    with jax.enable_x64(True):
        own, at = case.parameters(), jnp.asarray(GRID)
        derivative = jax.jit(jax.vmap(jax.grad(lambda s, r: likelihood.loss(s, r, own))))
        bound_at = jax.jit(likelihood.bound)
        for rating in case.ratings:
            ratings = jnp.full_like(at, rating)
            curvature, slope = bound_at(at, ratings, own)
            np.testing.assert_allclose(-slope, derivative(at, ratings), rtol=1e-8, atol=1e-12)
            step = GRID[None, :] - GRID[:, None]
            loss = np.asarray(likelihood.loss(at, ratings, own))
            bound = loss[:, None] - np.asarray(slope)[:, None] * step
            bound += 0.5 * np.asarray(curvature)[:, None] * step**2
            gap = bound - loss[None, :]
            assert gap.min() > -1e-10
            if likelihood.normal:
                np.testing.assert_allclose(gap, 0, atol=1e-9)


def test_slope_is_minus_the_derivative_of_the_loss(case: Case) -> None:
    with jax.enable_x64(True):
        own, at = case.parameters(), jnp.asarray(GRID)
        derivative = jax.jit(jax.vmap(jax.grad(lambda s, r: case.likelihood.loss(s, r, own))))
        slope_at = jax.jit(case.likelihood.slope)
        for rating in case.ratings:
            ratings = jnp.full_like(at, rating)
            slope = slope_at(at, ratings, own)
            np.testing.assert_allclose(-slope, derivative(at, ratings), rtol=1e-8, atol=1e-12)


def test_augmented_density_averages_to_the_likelihood(case: Case) -> None:
    r"""Of the latent variables' draws at s, :math:`E\, p(r, w | s + d) / p(r, w | s)`.

    It is the ratio of the likelihoods at s + d and s, for every d.
    """
    requires(case, "augment")
    likelihood, count = case.likelihood, 4_000
    with jax.enable_x64(True):
        own, at = case.parameters(), jnp.asarray([-2.5, -0.4, 0.0, 1.1, 3.0])
        for place, rating in enumerate(case.ratings):
            scores = jnp.broadcast_to(at, (count, len(at)))
            ratings = jnp.full_like(scores, rating)
            curvature, slope = likelihood.augment(jax.random.key(place), scores, ratings, own)
            for step in (-0.8, 0.5):
                ratio = np.exp(np.asarray(slope) * step - 0.5 * np.asarray(curvature) * step**2)
                wanted = case.log_density(np.asarray(at) + step, rating)
                wanted = np.exp(wanted - case.log_density(np.asarray(at), rating))
                error = 5 * ratio.std(axis=0) / np.sqrt(count) + 1e-9
                assert (np.abs(ratio.mean(axis=0) / wanted - 1) < error / wanted).all()


def test_information_is_the_expected_curvature(case: Case) -> None:
    likelihood = case.likelihood
    with jax.enable_x64(True):
        own, scores = case.parameters(), jnp.linspace(-4, 4, COUNT)
        second = jax.vmap(jax.grad(jax.grad(lambda s, r: likelihood.loss(s, r, own))), (0, None))
        second = jax.jit(second)
        share = [1.0, *[0.0] * (len(case.ratings) - 1)]  # a Normal's is the same for all ratings
        ratings = case.ratings
        if case.spread is not None:
            drawn, mass = ratings_of(case, np.asarray(scores))
            curved = jax.jit(jax.vmap(lambda s, r: jax.vmap(second, (None, 0))(s[None], r)[:, 0]))
            wanted = np.sum(np.asarray(curved(scores, jnp.asarray(drawn))) * mass, axis=1)
            np.testing.assert_allclose(likelihood.information(scores, own), wanted, rtol=1e-7)
            return
        if counted(case):
            ratings = tuple(np.arange(400.0))
        if likelihood.levels or counted(case):
            share = [np.exp(case.log_density(np.asarray(scores), r)) for r in ratings]
        wanted = sum(p * second(scores, r) for p, r in zip(share, ratings, strict=True))
        np.testing.assert_allclose(likelihood.information(scores, own), wanted, rtol=1e-7)


def ratings_of(case: Case, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ratings given scores, and their probabilities, by the trapezoid rule."""
    assert case.spread is not None
    x = np.linspace(-36, 36, 1201)
    rating, slope = case.spread(score[..., None], x)
    mass = np.exp(case.log_density(score[..., None], rating)) * slope * (x[1] - x[0])
    return rating, np.nan_to_num(mass)


def conditional(case: Case, score: np.ndarray, function: Callable[[Any], Any]) -> np.ndarray:
    """Expectation of a function of the rating given the score, by brute force."""
    if counted(case):
        mass = np.exp(case.log_density(score[..., None], COUNTS))
        return mass @ function(COUNTS)
    if case.spread is not None:
        ratings, mass = ratings_of(case, score)
        return np.sum(function(ratings) * mass, axis=-1)
    if not case.likelihood.levels:
        latent = score[..., None] + SIGMA * np.linspace(-9, 9, 401)
        mass = stats.norm.pdf(np.linspace(-9, 9, 401)) * 18 / 400
        rating = np.exp(latent) if isinstance(case.likelihood, LogNormal) else latent
        return function(rating) @ mass
    return sum(np.exp(case.log_density(score, r)) * function(r) for r in case.ratings)


def test_moments_over_a_normal_score(case: Case) -> None:
    likelihood, means = case.likelihood, np.linspace(-3, 3, COUNT)
    integrate, sds, every = jax.jit(likelihood.integrate), (0.0, 0.3, 1.5), 8
    if isinstance(likelihood, QuadratureLikelihood):
        # Larger rates have more counts than `COUNTS`, of which there are many.
        sds, every = (0.0, 0.5), 80
    with jax.enable_x64(True):
        own = case.parameters()
        for sd in sds:
            nodes, mass = (NODES[::every], every * MASS[::every]) if sd else (np.zeros(1), [1.0])
            scores = means[:, None] + sd * nodes
            mean = conditional(case, scores, lambda r: r) @ mass
            square = conditional(case, scores, np.square) @ mass
            got, spread = integrate(jnp.asarray(means), jnp.asarray(sd), own)
            np.testing.assert_allclose(got, mean, rtol=1e-7, atol=1e-12)
            np.testing.assert_allclose(spread, np.sqrt(square - mean**2), rtol=1e-6, atol=1e-9)
            if sd == 0:
                np.testing.assert_allclose(
                    likelihood.mean(jnp.asarray(means), own), mean, rtol=1e-7, atol=1e-12
                )


def tail_of(case: Case, score: np.ndarray, threshold: float) -> np.ndarray:
    """Probability of a rating that is at least so high, by SciPy."""
    if counted(case):
        return case.law(score).sf(np.ceil(threshold) - 1)
    if case.spread is not None:
        return case.law(score).sf(threshold)
    if case.likelihood.levels:
        return sum(
            np.exp(case.log_density(score, r)) * (r >= threshold) for r in case.ratings
        ) + np.zeros_like(score)  # fmt: skip
    place = threshold
    if isinstance(case.likelihood, LogNormal):
        place = np.log(threshold) if threshold > 0 else -np.inf
    return stats.norm.sf(place, score, SIGMA)


@pytest.mark.parametrize(("sd", "x64"), [(None, True), (0.3, False), (4.0, True)], indirect=["x64"])
def test_tails_over_a_normal_score(case: Case, sd: float | None, x64: bool) -> None:
    likelihood, own, means = case.likelihood, case.parameters(), np.linspace(-4, 4, COUNT)
    # An eighth of the nodes is exact for rises that are no steeper than these.
    nodes, mass = (NODES[::8], 8 * MASS[::8]) if sd else (np.zeros(1), np.ones(1))
    at = None if sd is None else jnp.asarray(sd)

    @jax.jit  # As loops that run by themselves are compiled anew at every call.
    def asked(means: jax.Array, least: jax.Array) -> tuple[jax.Array, jax.Array]:
        order = likelihood.tail_order(means, least, own, jnp.asarray(sd or 0.0)) if x64 else means
        return likelihood.tail(means, least, own, at), order

    for threshold in (*case.ratings, -0.5, 0.7, 4.1, 7.0):
        got, order = asked(jnp.asarray(means), jnp.asarray(float(threshold)))
        wanted = tail_of(case, means[:, None] + (sd or 0.0) * nodes, threshold) @ mass
        np.testing.assert_allclose(got, wanted, atol=1e-8 if x64 else 6e-6)
        if not x64:
            continue
        ranks = np.argsort(np.asarray(order), kind="stable")
        assert (np.diff(np.asarray(got)[ranks]) >= -1e-6).all()


@pytest.mark.parametrize("sd", [None, 0.0, 0.7, 5.0])
@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].likelihood.levels])
def test_probabilities_of_levels(name: str, sd: float | None, x64: bool) -> None:
    case = CASES[name]
    means = np.linspace(-6, 6, COUNT)
    at = None if sd is None else jnp.asarray(sd)
    found = case.likelihood.level_probabilities(jnp.asarray(means), case.parameters(), at)
    np.testing.assert_allclose(np.sum(found, axis=1), 1.0, rtol=1e-8 if x64 else 1e-5)
    scores = means[:, None] + (sd or 0.0) * NODES
    for place, level in enumerate(case.ratings):
        wanted = np.exp(case.log_density(scores, level)) @ MASS
        np.testing.assert_allclose(found[:, place], wanted, atol=1e-8 if x64 else 3e-6)


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_second_calls_about_levels_compile_nothing(
    link: Any, caplog: pytest.LogCaptureFixture
) -> None:
    likelihood, own = Ordinal((1, 2, 3), link=link), {"cutpoints": jnp.array([-1.0, 1.0])}
    for score in (0.0, 0.5):
        scores = jnp.full(7, score)
        with jax.log_compiles(score > 0), caplog.at_level("WARNING"):
            likelihood.level_probabilities(scores, own, 0.7)
            likelihood.tail(scores, 2.0, own, 0.7)
            likelihood.integrate(scores, 0.7, own)
            likelihood.information(scores, own)
    assert "ompil" not in caplog.text


def test_far_scores_are_finite_in_float32(case: Case) -> None:
    likelihood, own = case.likelihood, case.parameters()
    scores = jnp.asarray([-80.0, -30.0, 0.0, 30.0, 80.0])
    exponential = isinstance(likelihood, LogNormal | RateLikelihood) or likelihood == Bernoulli(
        "cloglog"
    )
    if not isinstance(likelihood, LogNormal):
        scores = jnp.asarray([-1e3, -100.0, -30.0, 0.0, 30.0, 100.0, 1e3])

    def total(s: jax.Array, own: dict[str, jax.Array], r: jax.Array) -> jax.Array:
        return jnp.sum(likelihood.loss(s, r, own))

    @jax.jit
    def asked(ratings: jax.Array) -> tuple[jax.Array, list[Any]]:
        curvature, slope = jnp.ones(1), likelihood.slope(scores, ratings, own)
        if likelihood.has("bound"):
            curvature, slope = likelihood.bound(scores, ratings, own)
        gradients = jax.tree.leaves(jax.grad(total, argnums=(0, 1))(scores, own, ratings))
        return curvature, [likelihood.loss(scores, ratings, own), slope, *gradients]

    for rating in case.ratings:
        curvature, others = asked(jnp.full_like(scores, rating))
        for values in (curvature, *others):
            assert np.isfinite(values).all()
        assert (np.asarray(curvature) > 0).all()
    information = likelihood.information(scores, own)
    if not exponential:  # whose mean grows like the exponential
        moments = [likelihood.mean(scores, own), *likelihood.integrate(scores, 1.0, own)]
        assert all(np.isfinite(values).all() for values in moments)
    assert np.isfinite(information).all()
    assert (np.asarray(information) >= 0).all()


def test_far_from_its_interval_the_slope_points_to_the_nearest_end() -> None:
    """As the latent Normal lies there; a logistic variable's slope is one at most."""
    scores = np.asarray([-1e3, -100.0, -30.0])
    for rating in LEVELS:
        edges = [-np.inf, *CUTPOINTS, np.inf]
        place = LEVELS.index(rating)
        ratings = jnp.full(3, rating)
        case = CASES["ordinal probit"]
        _, slope = case.likelihood.bound(jnp.asarray(scores), ratings, case.parameters())
        nearest = np.clip(scores, edges[place], edges[place + 1]) - scores
        np.testing.assert_allclose(slope, nearest, rtol=0.02, atol=1.3)
        case = CASES["ordinal logit"]
        _, slope = case.likelihood.bound(jnp.asarray(scores), ratings, case.parameters())
        np.testing.assert_allclose(slope, 1.0 if place else 0.0, atol=1e-6)


@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_base_score_is_the_best_constant_score(case: Case, fraction: float) -> None:
    likelihood = case.likelihood
    with jax.enable_x64(True):
        rng, run = np.random.default_rng(0), jax.jit(likelihood.loss)
        rating = rng.choice(case.ratings, 17)
        for weight in (None, rng.uniform(fraction, 3, 17)):
            best = likelihood.base_score(rating, weight)

            def loss(score: float, weight: np.ndarray | None = weight) -> float:
                own, scores = case.parameters(), jnp.full(17, score)
                losses = run(scores, jnp.asarray(rating), own)
                return float(np.average(losses, weights=weight))

            assert loss(best) <= min(loss(best - 1e-3), loss(best + 1e-3))


def test_base_score_of_a_normal_is_the_weighted_mean() -> None:
    rating, weight = np.array([1.0, 2.0, 6.0]), np.array([1.0, 1.0, 2.0])
    assert Gaussian().base_score(rating, None) == 3.0
    assert Gaussian().base_score(rating, weight) == 3.75
    assert LogNormal().base_score(np.exp(rating), weight) == pytest.approx(3.75)


def test_base_score_stays_finite_when_all_ratings_agree(link: LinkName) -> None:
    ones = np.ones(7)
    score = Bernoulli(link).base_score(ones, None)
    assert 0 < score < 4
    assert Bernoulli(link).base_score(0 * ones, None) == pytest.approx(-score, rel=1e-5)
    assert np.isfinite(Bernoulli(link).base_score(ones, np.full(7, 0.1)))
    low, high = (
        Ordinal(LEVELS, CUTPOINTS, link=link).base_score(np.full(10**6, level), None)
        for level in (0.5, 4.0)
    )
    wanted = QUANTILE[link](1e6 / (1e6 + 0.5))
    assert CUTPOINTS[-1] < high < CUTPOINTS[-1] + wanted + 0.1
    assert CUTPOINTS[0] - wanted - 0.1 < low < CUTPOINTS[0]


def test_learned_cutpoints_start_where_each_level_has_its_share(link: LinkName) -> None:
    rating = np.asarray([1.0, 1.0, 2.0, 3.0])
    wanted = 0.5 + QUANTILE[link]([0.5, 0.75])
    np.testing.assert_allclose(Ordinal(3, link=link).start(rating, None, 0.5)["cutpoints"], wanted)
    assert Ordinal(3, link=link).base_score(rating, None) == 0.0


def test_two_levels_are_a_yes_or_no(link: LinkName) -> None:
    with jax.enable_x64(True):
        scores = jnp.asarray(GRID)
        two, cut = Ordinal((0, 1), (0.0,), link=link), {"cutpoints": jnp.zeros(1)}
        one = Bernoulli(link)
        for rating in (0.0, 1.0):
            ratings = jnp.full_like(scores, rating)
            for question in ("loss", "bound"):
                got = getattr(two, question)(scores, ratings, cut)
                wanted = getattr(one, question)(scores, ratings, {})
                np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-10)
        got = two.information(scores, cut)
        np.testing.assert_allclose(got, one.information(scores, {}), rtol=1e-9)
        got = two.level_probabilities(scores, cut, 0.7)
        np.testing.assert_allclose(got, one.level_probabilities(scores, {}, 0.7), atol=6e-9)


def test_logit_bound_is_tight_on_both_sides() -> None:
    """Jaakkola and Jordan's quadratic touches the loss at -s as well: no flatter one would do."""
    with jax.enable_x64(True):
        at = jnp.asarray(GRID)
        curvature, slope = Bernoulli().bound(at, jnp.ones_like(at), {})
        loss = Bernoulli().loss(at, jnp.ones_like(at), {})
        mirrored = loss + 2 * slope * at + 2 * curvature * at**2
        wanted = Bernoulli().loss(-at, jnp.ones_like(at), {})
        np.testing.assert_allclose(mirrored, wanted, rtol=1e-9, atol=1e-12)


def test_curvature_of_an_ordered_logit_is_a_half_at_most() -> None:
    with jax.enable_x64(True):
        case = CASES["ordinal logit"]
        for rating in LEVELS:
            ratings = jnp.full(len(GRID), rating)
            curvature, _ = case.likelihood.bound(jnp.asarray(GRID), ratings, case.parameters())
            assert float(curvature.max()) <= 0.5


def test_logit_curvature_around_zero(x64: bool) -> None:
    """tanh(s/2) / 2s is 0/0 at s = 0; series and formula meet without a step."""
    scores = np.concatenate([np.geomspace(1e-12, 1, 400), [0.01 - 1e-8, 0.01 + 1e-8]])
    scores = np.concatenate([-scores, [0.0], scores]).astype("float64" if x64 else "float32")
    curvature, _ = Bernoulli().bound(jnp.asarray(scores), jnp.ones(scores.shape), {})
    with np.errstate(invalid="ignore"):
        wanted = np.tanh(scores.astype(float) / 2) / (2 * scores.astype(float))
    wanted[scores == 0] = 0.25
    np.testing.assert_allclose(curvature, wanted, rtol=1e-10 if x64 else 1e-6)


def test_probit_slope_of_wrong_answers_grows_like_the_score() -> None:
    """The inverse Mills ratio, ratio of two tiny numbers: right to float32's rounding of s^2/2."""
    scores = jnp.asarray([-100.0, -30.0, -10.0, -3.0])
    _, slope = Bernoulli("probit").bound(scores, jnp.ones_like(scores), {})
    far = np.asarray(scores, float)
    wanted = np.exp(stats.norm.logpdf(far) - special.log_ndtr(far))
    np.testing.assert_allclose(slope, wanted, rtol=5e-6)


def test_normal_tails_have_their_slopes(x64: bool) -> None:
    """Far below zero, where density and distribution function are both too small to compare."""
    dtype = np.float64 if x64 else np.float32
    x = np.array([-1e4, -1e3, -100.0, -21.0, -19.0, -11.0, -9.0, -3.0, 0.0, 2.0, 8.0], dtype)
    far = x < -9.5
    exact = x.astype(float)
    ratio = np.exp(stats.norm.logpdf(exact) - special.log_ndtr(exact))
    bend = -ratio * (ratio + exact)
    # By the continued fraction: -x + 1/(-x + 2/(-x + 3/(-x + ...))).
    fraction = np.zeros(far.sum())
    for step in reversed(range(1, 60)):
        fraction = step / (-exact[far] + fraction)
    ratio[far], bend[far] = fraction - exact[far], -(fraction - exact[far]) * fraction
    slope = jax.grad(log_ndtr)
    rtol = 1e-12 if x64 else 5e-5
    np.testing.assert_allclose(jax.jit(jax.vmap(slope))(x), ratio, rtol=rtol)
    second = jax.jit(jax.vmap(jax.grad(slope)))
    np.testing.assert_allclose(second(x), bend, rtol=1e-9 if x64 else 5e-4)


def test_whole_scores_are_numbers_like_others(link: LinkName) -> None:
    scales, likelihood = {"cutpoints": jnp.asarray([-0.7, 0.4, 1.6])}, Ordinal(4, link=link)
    whole, numbers = (
        likelihood.level_probabilities(jnp.asarray(scores), scales) for scores in ([0, 1], [0.0, 1])
    )
    np.testing.assert_array_equal(whole, numbers)


MEANS, SDS = np.linspace(-8, 8, COUNT), np.concatenate([[0.0], np.geomspace(0.01, 20, 30)])


def test_distribution_functions_over_a_normal_score(link: LinkName) -> None:
    with jax.enable_x64(True):
        for sd in SDS:
            p = CDF[link](MEANS[:, None] + sd * NODES)
            got, _ = Bernoulli(link).integrate(jnp.asarray(MEANS), jnp.asarray(sd), {})
            np.testing.assert_allclose(got, p @ MASS, atol=3e-9 if link == "logit" else 1e-7)


def test_sigmoids_far_below_zero_are_not_lost() -> None:
    """There the mixture's own error, small as it is, would be larger than the probability."""
    for mean, sd in ((-12.0, 0.5), (-30.0, 2.0), (-100.0, 1.0), (-20.0, 0.0)):
        wanted = special.expit(mean + sd * NODES) @ MASS
        assert expected_sigmoid(mean, sd, special.ndtr) == pytest.approx(wanted, rel=1e-4)


def test_gradient_and_hessian_in_the_cutpoints_against_autodiff(link: LinkName) -> None:
    likelihood = Ordinal(LEVELS, CUTPOINTS, link=link)
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        scores = jnp.asarray(rng.normal(0, 1.5, 60))
        ratings, weight = jnp.asarray(rng.choice(LEVELS, 60)), jnp.asarray(rng.uniform(0, 2, 60))
        weight = weight.at[:3].set(0.0)

        @jax.jit
        def total(cutpoints: jax.Array) -> jax.Array:
            return jnp.sum(weight * likelihood.loss(scores, ratings, {"cutpoints": cutpoints}))

        at = jnp.asarray(CUTPOINTS)
        padded = ratings.at[:3].set(jnp.nan), scores.at[:3].set(jnp.nan)
        run = jax.jit(lambda score, rating: cutpoint_sums(score, rating, weight, at, likelihood))
        found = run(padded[1], padded[0])
        hessian = np.diag(found.diagonal) + np.diag(found.beside, 1) + np.diag(found.beside, -1)
        np.testing.assert_allclose(found.loss, total(at), rtol=1e-12)
        np.testing.assert_allclose(found.gradient, jax.jit(jax.grad(total))(at), rtol=1e-9)
        np.testing.assert_allclose(hessian, jax.jit(jax.hessian(total))(at), rtol=1e-8, atol=1e-10)
        by_differences = [(total(at + h) - total(at - h)) / 2e-5 for h in 1e-5 * np.eye(3)]
        np.testing.assert_allclose(found.gradient, by_differences, rtol=1e-6)


def test_log_of_an_interval(link: LinkName, x64: bool) -> None:
    """Against quadrature of the density over its value at the end nearest to zero."""
    middle = np.asarray([-30.0, -5.0, -0.3, 0.0, 0.4, 6.0, 30.0])[:, None]
    half = np.asarray([1e-5, 1e-3, 0.02, 0.3, 2.0])
    a, b = jnp.asarray(middle - half), jnp.asarray(middle + half)
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    apart = x * y > 0
    low = np.where(apart, np.minimum(abs(x), abs(y)), x)
    high = np.where(apart, np.maximum(abs(x), abs(y)), y)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    law = stats.logistic if link == "logit" else stats.norm
    start = law.logpdf(np.maximum(low, 0.0))
    at = low[..., None] + 0.5 * (high - low)[..., None] * (nodes + 1)
    mass = 0.5 * (high - low) * (np.exp(law.logpdf(at) - start[..., None]) @ weights)
    found = np.asarray(jax.jit(log_interval, static_argnums=2)(a, b, link))
    np.testing.assert_allclose(found, np.log(mass) + start, rtol=1e-9 if x64 else 3e-6)
    slope = np.asarray(jax.jit(interval_slope, static_argnums=2)(a, b, link))
    assert (slope >= (a if link == "probit" else -1.0)).all()
    assert (slope <= (b if link == "probit" else 1.0)).all()


def test_drawn_ratings_have_their_probabilities(link: LinkName) -> None:
    law = Ordered(jnp.asarray([0.3, -1.0]), jnp.asarray(CUTPOINTS), LEVELS, link)
    draws = np.asarray(law.sample(jax.random.key(1), (20000,)))
    for place, score in enumerate((0.3, -1.0)):
        for level in LEVELS:
            wanted = float(np.exp(log_level(link, np.asarray(score), level)))
            assert np.mean(draws[:, place] == level) == pytest.approx(wanted, abs=0.015)


@pytest.mark.parametrize("x64", [False, True])
def test_drawn_counts_have_their_moments_at_all_rates(x64: bool) -> None:
    """Beyond the largest integer, too, and where rates have no number."""
    with jax.enable_x64(x64):
        rates = jnp.asarray([0.0, 5.0, 9e3, 1.1e4, 1e6, 1e9, 1e12, np.inf, np.nan])
        draws = np.asarray(poisson(jax.random.key(0), rates, (20000, len(rates))), np.float64)
    wanted = np.asarray(rates, np.float64)
    assert (draws[:, 0] == 0).all()
    assert (draws[:, 7] == np.inf).all()
    assert np.isnan(draws[:, 8]).all()
    some = draws[:, 1:7]
    np.testing.assert_array_equal(some, np.round(some))
    z = (some - wanted[1:7]) / np.sqrt(wanted[1:7])
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=4 / np.sqrt(20000))
    np.testing.assert_allclose(z.std(axis=0), 1.0, rtol=0.02)
    # Quantiles, too, where the expansion begins.
    probability = [0.01, 0.1, 0.5, 0.9, 0.99]
    law = stats.poisson(1.1e4)
    below = law.cdf(np.quantile(draws[:, 3], probability, method="inverted_cdf"))
    np.testing.assert_allclose(below, probability, atol=0.015)


def test_prior_of_the_cutpoints() -> None:
    """It is proper, log-concave, and the law of sorted Normals."""
    with jax.enable_x64(True):
        (law,) = Ordinal(3, cutpoint_scale=2.0).scale_sites().values()
        at = jnp.asarray([-1.0, 3.0])
        wanted = np.log(2) + stats.norm.logpdf(at, 0, 2.0).sum()
        assert float(law.log_prob(at)) == pytest.approx(wanted)
        draws = np.asarray(law.sample(jax.random.key(0), (4000,)))
        assert (np.diff(draws, axis=1) > 0).all()
        # The larger of two Normals has mean s / sqrt(pi).
        assert draws[:, 1].mean() == pytest.approx(2.0 / np.sqrt(np.pi), abs=0.1)
        assert OrderedNormal(1.0, 3).event_shape == (3,)


def test_likelihoods_without_parameters_are_keys_of_compiled_programs() -> None:
    for kind in (Gaussian, LogNormal):
        assert kind(0.3).canonical() == kind(2.0).canonical()
        assert hash(kind(0.3).canonical()) == hash(kind(2.0).canonical())
    assert Gaussian().canonical() != LogNormal().canonical()
    assert Bernoulli("logit").canonical() != Bernoulli("probit").canonical()
    assert hash(Bernoulli("probit").canonical()) == hash(Bernoulli("probit"))
    assert hash(Ordinal(3, [0, 1])) == hash(Ordinal(3, (0.0, 1.0)))
    assert Ordinal(3, [0, 1]).canonical() == Ordinal(3)
    probit = Ordinal(3, [0, 1], link="probit").canonical()
    assert probit == Ordinal(3, link="probit") != Ordinal(3)


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [Gaussian, LogNormal])
def test_noise_scale_out_of_range(kind: type, value: float) -> None:
    with pytest.raises(ValueError, match=r"noise_scale is .*must be positive and finite"):
        kind(value)


@pytest.mark.parametrize("value", ["1.0", True, object(), [1.0, "a"]])
def test_noise_scale_of_the_wrong_type(value: Any) -> None:
    with pytest.raises(TypeError, match=r"noise_scale is .* of type .*give a positive number"):
        Gaussian(value)


def test_noise_scale_by_rating_points_to_weights() -> None:
    scales: Any = np.array([1.0, 2.0])
    with pytest.raises(ValueError, match=re.escape("noise_scale has shape (2,); give one number")):
        Gaussian(scales)


def test_check_scale_names_the_position() -> None:
    with pytest.raises(ValueError, match="user_scale is -2 at position 1; a scale is"):
        check_scale("user_scale", [1.0, -2.0, np.nan])
    check_scale("user_scale", np.array([1, 2]))
    check_scale("user_scale", jnp.asarray([1.0, 2.0]))
    check_scale("user_scale", dist.HalfNormal(1.0))


def test_unknown_link() -> None:
    wrong: Any = "loglog"
    expected = "'logit' or 'probit'"
    for make, words in (
        (lambda: Bernoulli(wrong), f"{expected} or 'cloglog'"),
        (lambda: Ordinal(3, link=wrong), expected),
    ):
        with pytest.raises(ValueError, match=f"link is 'loglog'; expected {words}"):
            make()


def test_the_first_bad_row_is_named() -> None:
    message = r"needs ratings 0 or 1, but row 2 has 0.5 \(2 such rows\).*binarize"
    with pytest.raises(ValueError, match=message):
        Bernoulli().check_ratings(np.array([0.0, 1.0, 0.5, 1.0, 2.0]))
    Bernoulli().check_ratings(np.array([0.0, 1.0]))
    Gaussian().check_ratings(np.array([-3.0, 0.5]))
    with pytest.raises(
        ValueError, match=r"needs ratings that are counts .*, but row 1 has 0.5 \(3 "
    ):
        Poisson().check_ratings(np.array([4.0, 0.5, -1.0, np.nan]))
    Poisson().check_ratings(np.array([4.0, 0.0]))
    for kind in (LogNormal, Gamma):
        with pytest.raises(ValueError, match=r"needs positive ratings, but row 1 has 0 \(2 such"):
            kind().check_ratings(np.array([1.0, 0.0, -1.0]))
    with pytest.raises(
        ValueError, match=r"between 0 and 1, both excluded, but row 2 has 1 \(3 such"
    ):
        Beta().check_ratings(np.array([0.1, 0.9, 1.0, 0.0, np.nan]))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ((1,), ValueError, "levels is 1; ratings need at least two"),
        (([1.0],), ValueError, "at least two levels"),
        (([1, 3, 2],), ValueError, "levels must increase, but 3 is followed by 2"),
        (("five",), TypeError, "levels is 'five'"),
        (([1, np.nan],), ValueError, "finite"),
        (([1e6, 1e6 + 1e-3],), ValueError, "too close"),
        ((3, [1.0, 1.0]), ValueError, "cutpoints must increase, but 1 is followed by 1"),
        ((3, [0.0]), ValueError, "There are 1 cutpoints for 3 levels; give 2"),
        ((3, "fixed"), TypeError, "cutpoints is 'fixed'"),
        ((3, "learned", 0.0), ValueError, "cutpoint_scale is 0.0"),
        ((3, "learned", "wide"), TypeError, "cutpoint_scale is 'wide'"),
    ],
)
def test_bad_configurations(given: tuple, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        Ordinal(*given)


def test_levels_are_numbers_from_one_or_those_given() -> None:
    assert Ordinal(3).levels == (1.0, 2.0, 3.0)
    assert Ordinal(np.arange(1, 4)) == Ordinal(3) == Ordinal((1, 2, 3)).canonical()


@pytest.mark.parametrize("sd", [0.0, 1e-3, 0.5, 3.0])
def test_variance_of_the_mean(case: Case, sd: float) -> None:
    """Of rare events, too, and where the score varies little."""
    requires(case, "mean_variance")
    means = np.linspace(-12, 3, 16)
    with jax.enable_x64(True):
        at = case.likelihood.mean(jnp.asarray(means[:, None] + sd * NODES), case.parameters())
    apart = np.asarray(at) - np.asarray(at)[:, [len(NODES) // 2]]
    wanted = np.square(apart) @ MASS - np.square(apart @ MASS)
    found = case.likelihood.mean_variance(means, np.asarray(sd))
    # At its end the grid of the right answer cuts a rate's square off.
    rates = sd == 3.0 and isinstance(case.likelihood, RateLikelihood)
    np.testing.assert_allclose(found, wanted, rtol=0.02 if rates else 1e-6, atol=1e-20)


@pytest.mark.parametrize("unit", [1e-27, 1e27])
def test_a_gamma_rating_has_no_units_of_its_own(unit: float) -> None:
    """A proton's mass in kilograms, or a star's power in watts."""
    own, gamma = {"concentration": jnp.asarray(0.7)}, Gamma()
    with jax.enable_x64(True):
        scores, ratings = jnp.asarray([-1.0, 0.0, 1.5]), jnp.asarray([0.2, 1.0, 3.0])
        moved, other = scores + np.log(unit), ratings * unit
        told = [
            (gamma.loss(moved, other, own) - np.log(unit), gamma.loss(scores, ratings, own)),
            (gamma.slope(moved, other, own), gamma.slope(scores, ratings, own)),
            (gamma.tail(moved, other, own), gamma.tail(scores, ratings, own)),
            (gamma.log_tails(moved, other, own)[1], gamma.log_tails(scores, ratings, own)[1]),
            (gamma.mean(moved, own) / unit, gamma.mean(scores, own)),
        ]
    for found, wanted in told:
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    level = np.log(unit) + np.zeros(2)
    np.testing.assert_allclose(gamma.latent_variance(level, own), np.log1p(1 / 0.7), rtol=1e-6)


@pytest.mark.parametrize(("sd", "count"), [(0.3, 200.0), (1.0, 1000.0), (3.0, 50.0)])
def test_tails_of_many_counts_over_a_normal_score(sd: float, count: float) -> None:
    """The rise of the tail along the score is steep."""
    with jax.enable_x64(True):
        means = np.log(count) + np.linspace(-4, 4, 17) * sd
        nodes = np.linspace(-9, 9, 200_001)
        mass = stats.norm.pdf(nodes) * (nodes[1] - nodes[0])
        wanted = [stats.poisson.sf(count - 1, np.exp(m + sd * nodes)) @ mass for m in means]
        got = Poisson().tail(jnp.asarray(means), count, {}, jnp.asarray(sd))
        np.testing.assert_allclose(got, wanted, atol=1e-8)


def test_draws_have_their_moments(case: Case) -> None:
    at, own = [-2.0, 0.5, 1.2], case.parameters()
    scores = jnp.broadcast_to(jnp.asarray(at), (20_000, 3))
    drawn = np.asarray(case.likelihood.draw(jax.random.key(1), scores, jnp.ones(()), own), float)
    mean = conditional(case, np.asarray(at), lambda r: r)
    variance = conditional(case, np.asarray(at), np.square) - np.square(mean)
    assert (np.abs(drawn.mean(axis=0) - mean) < 5 * np.sqrt(variance / 20_000)).all()
    rarely = 0.5 if isinstance(case.likelihood, StudentT | LogNormal) else 0.08
    np.testing.assert_allclose(drawn.var(axis=0), variance, rtol=rarely)


def test_tails_of_counts_that_vary_more() -> None:
    """Over a Normal score, by a fine grid of SciPy's."""
    with jax.enable_x64(True):
        means, nodes = np.linspace(1, 7, 13), np.linspace(-9, 9, 20_001)
        mass = stats.norm.pdf(nodes) * (nodes[1] - nodes[0])
        odds = special.expit(np.log(2.5) - means[:, None] - 0.8 * nodes)
        own = {"concentration": jnp.asarray(2.5)}
        got = NegativeBinomial().tail(jnp.asarray(means), 60.0, own, jnp.asarray(0.8))
        np.testing.assert_allclose(got, stats.nbinom.sf(59, 2.5, odds) @ mass, atol=1e-8)


def test_a_concentration_is_checked_and_found_in_counts() -> None:
    for kind in (NegativeBinomial, Gamma, Beta):
        for bad in (0.0, -1.0, np.inf, "wide", np.ones(2)):
            with pytest.raises(
                (TypeError, ValueError), match=r"concentration is .*; expected a positive number"
            ):
                kind(bad)
    with pytest.raises(ValueError, match="df has the prior Normal, which allows numbers"):
        StudentT(1.0, dist.Normal(4.0, 1.0))
    check_parameter("df", dist.HalfNormal(1.0), "positive number")
    check_parameter("share", dist.Beta(1.0, 1.0), "number", most=1.0)
    with pytest.raises(ValueError, match="it lies between 0 and 1"):
        check_parameter("share", dist.HalfNormal(1.0), "number", most=1.0)
    counts = np.random.default_rng(0).negative_binomial(3.0, 3.0 / 13.0, 20_000).astype(float)
    assert NegativeBinomial.of_ratings(counts, 1.0).concentration == pytest.approx(3.0, rel=0.1)
    for name in ("gamma", "beta"):
        case = CASES[name]
        drawn = case.law(np.full(20_000, 0.5)).rvs(random_state=0)
        found = case.likelihood.of_ratings(drawn, 1.0).scale_sites()["concentration"]
        assert found == pytest.approx(case.scales["concentration"], rel=0.05)


@pytest.mark.parametrize(
    ("likelihood", "own"),
    [
        (Poisson(), {}), (NegativeBinomial(), {"concentration": 0.7}),
        (Bernoulli(), {}), (Bernoulli(link="cloglog"), {}),
        (HurdleNegativeBinomial(), {"concentration": 0.7, "zero_probability": 0.3}),
        (ZeroInflatedNegativeBinomial(), {"concentration": 0.7, "zero_probability": 0.3}),
    ],
)  # fmt: skip
def test_no_probability_is_above_one(likelihood: Any, own: dict[str, float]) -> None:
    """At any score: where a search goes astray, nothing may draw it on."""
    scores = np.concatenate([-np.geomspace(1e-2, 1e4, 40), np.geomspace(1e-2, 1e4, 40)])
    counts = np.array([0.0, 1.0] if isinstance(likelihood, Bernoulli) else [0.0, 1.0, 40.0])
    with jax.enable_x64(True):
        scales = {name: jnp.asarray(value) for name, value in own.items()}
        logs = likelihood.log_density(
            jnp.asarray(scores)[:, None], jnp.asarray(counts)[None], jnp.ones((1, 1)), scales
        )
    assert np.all(np.asarray(logs) <= 1e-12)


def test_one_trial_is_said_where_counts_are_higher() -> None:
    with pytest.raises(ValueError, match=r"row 1 has 3 .*Binomial\(4\) if 4 is all of them"):
        Binomial().check_training(np.array([1.0, 3.0, 4.0]), None)
    Binomial(4).check_training(np.array([1.0, 3.0, 4.0]), None)


def test_the_log_score_of_lognormal_ratings_is_their_own() -> None:
    law = stats.lognorm(s=[0.4, 1.3], scale=[2.0, 0.1])
    rating = np.array([1.5, 0.3])
    found = LogNormal().errors(rating, Predicted(law.mean(), law.std()))
    assert found["log score"] == pytest.approx(np.mean(law.logpdf(rating)))
