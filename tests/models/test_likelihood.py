"""Likelihoods against SciPy, their own derivatives, and numerical integrals."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from scipy import special, stats

from probmf.models.likelihood import Bernoulli, Gaussian, Likelihood, check_scale
from probmf.models.logistic import expected_sigmoid, expected_slope

SIGMA = 0.7
LIKELIHOODS: dict[str, Likelihood] = {
    "gaussian": Gaussian(SIGMA),
    "logit": Bernoulli("logit"),
    "probit": Bernoulli("probit"),
}
GRID = np.linspace(-9, 9, 121)


@pytest.fixture(params=LIKELIHOODS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def ratings_for(name: str) -> list[float]:
    return [-1.3, 2.5] if name == "gaussian" else [0.0, 1.0]


def scales_for(name: str) -> dict[str, jax.Array]:
    return {"noise_scale": jnp.asarray(SIGMA)} if name == "gaussian" else {}


def scipy_log_likelihood(name: str, scores: np.ndarray, rating: float) -> np.ndarray:
    if name == "gaussian":
        return stats.norm.logpdf(rating, scores, SIGMA) - stats.norm.logpdf(0, 0, SIGMA)
    sign = 2 * rating - 1
    return special.log_expit(sign * scores) if name == "logit" else special.log_ndtr(sign * scores)


def test_loss_is_minus_log_likelihood(name: str, x64: bool) -> None:
    scores = jnp.asarray(GRID)
    for rating in ratings_for(name):
        ratings = jnp.full_like(scores, rating)
        loss = LIKELIHOODS[name].loss(scores, ratings, scales_for(name))
        assert loss.dtype == scores.dtype
        wanted = -scipy_log_likelihood(name, GRID, rating)
        rtol = 1e-12 if x64 else 2e-6
        np.testing.assert_allclose(loss, wanted, rtol=rtol, atol=rtol)


def test_observed_site_has_the_same_log_likelihood(name: str, x64: bool) -> None:
    """Up to a constant; a weight counts the rating that many times."""
    likelihood, scores = LIKELIHOODS[name], jnp.asarray(GRID)
    weights = jnp.asarray(np.random.default_rng(0).uniform(0.5, 3, len(GRID)))
    for rating in ratings_for(name):
        ratings = jnp.full_like(scores, rating)
        for weight in (None, weights):
            with handlers.seed(rng_seed=0), handlers.trace() as trace:
                likelihood.observe(scores, ratings, weight, scales_for(name))
            site = trace["rating"]
            scale = 1.0 if site["scale"] is None else np.asarray(site["scale"])
            got = np.asarray(scale * site["fn"].log_prob(ratings))
            loss = np.asarray(likelihood.loss(scores, ratings, scales_for(name)))
            wanted = -(1.0 if weight is None else np.asarray(weight)) * loss
            if name == "gaussian":  # its normalizing constant differs by weight, not by score
                precision = np.ones_like(GRID) if weight is None else np.asarray(weight)
                wanted = wanted + stats.norm.logpdf(0, 0, SIGMA) + 0.5 * np.log(precision)
            rtol = 1e-10 if x64 else 2e-5
            np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol)


def test_bound_touches_and_is_never_below_the_loss(name: str) -> None:
    likelihood = LIKELIHOODS[name]
    with jax.enable_x64(True):
        scales, at = scales_for(name), jnp.asarray(GRID)
        for rating in ratings_for(name):
            ratings = jnp.full_like(at, rating)
            curvature, slope = likelihood.bound(at, ratings, scales)
            derivative = jax.vmap(jax.grad(lambda s, r: likelihood.loss(s, r, scales)))
            np.testing.assert_allclose(-slope, derivative(at, ratings), rtol=1e-9, atol=1e-12)
            step = GRID[None, :] - GRID[:, None]
            loss = np.asarray(likelihood.loss(at, ratings, scales))
            bound = (
                loss[:, None]
                - np.asarray(slope)[:, None] * step
                + 0.5 * np.asarray(curvature)[:, None] * step**2
            )
            gap = bound - loss[None, :]
            assert gap.min() > -1e-10
            if name == "gaussian":
                np.testing.assert_allclose(gap, 0, atol=1e-10)


def test_logit_bound_is_tight_on_both_sides() -> None:
    """Jaakkola and Jordan's quadratic touches the loss at -s as well: no flatter one would do."""
    with jax.enable_x64(True):
        at = jnp.asarray(GRID)
        curvature, slope = Bernoulli().bound(at, jnp.ones_like(at), {})
        loss = Bernoulli().loss(at, jnp.ones_like(at), {})
        mirrored = loss + 2 * slope * at + 2 * curvature * at**2
        np.testing.assert_allclose(
            mirrored, Bernoulli().loss(-at, jnp.ones_like(at), {}), rtol=1e-9
        )


def test_logit_curvature_around_zero(x64: bool) -> None:
    """tanh(s/2) / 2s is 0/0 at s = 0; series and formula meet without a step."""
    scores = np.concatenate([np.geomspace(1e-12, 1, 400), [0.01 - 1e-8, 0.01 + 1e-8]])
    scores = np.concatenate([-scores, [0.0], scores]).astype("float64" if x64 else "float32")
    curvature, _ = Bernoulli().bound(jnp.asarray(scores), jnp.ones(scores.shape), {})
    with np.errstate(invalid="ignore"):
        wanted = np.tanh(scores.astype(float) / 2) / (2 * scores.astype(float))
    wanted[scores == 0] = 0.25
    np.testing.assert_allclose(curvature, wanted, rtol=1e-10 if x64 else 1e-6)


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_information_is_the_expected_curvature(link: str) -> None:
    likelihood = Bernoulli(link)
    with jax.enable_x64(True):
        scores = jnp.linspace(-4, 4, 33)
        second = jax.vmap(jax.grad(jax.grad(lambda s, r: likelihood.loss(s, r, {}))))
        chance = likelihood.mean(scores, {})
        no, yes = jnp.zeros_like(scores), jnp.ones_like(scores)
        expected = (1 - chance) * second(scores, no) + chance * second(scores, yes)
        np.testing.assert_allclose(likelihood.information(scores, {}), expected, rtol=1e-8)


def test_gaussian_information_and_mean() -> None:
    scores = jnp.linspace(-1, 1, 5)
    information = Gaussian(SIGMA).information(scores, scales_for("gaussian"))
    np.testing.assert_allclose(information, np.full(5, SIGMA**-2), rtol=1e-6)
    np.testing.assert_array_equal(Gaussian(SIGMA).mean(scores, scales_for("gaussian")), scores)


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_mean_is_the_inverse_link(link: str, x64: bool) -> None:
    law = special.expit if link == "logit" else stats.norm.cdf
    got = Bernoulli(link).mean(jnp.asarray(GRID), {})
    np.testing.assert_allclose(got, law(GRID), rtol=1e-10 if x64 else 1e-5)


MEANS, SDS = np.linspace(-8, 8, 65), np.concatenate([[0.0], np.geomspace(0.01, 20, 30)])


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_integral_over_a_normal_score(link: str) -> None:
    """Against the trapezoid rule, which is exact to rounding for such integrands."""
    law = special.expit if link == "logit" else stats.norm.cdf
    z = np.linspace(-9, 9, 4001)
    mass = stats.norm.pdf(z) * (z[1] - z[0])
    with jax.enable_x64(True):
        for sd in SDS:
            wanted = law(MEANS[:, None] + sd * z) @ mass
            got, spread = Bernoulli(link).integrate(jnp.asarray(MEANS), jnp.asarray(sd), {})
            np.testing.assert_allclose(got, wanted, atol=3e-9 if link == "logit" else 1e-7)
            np.testing.assert_allclose(spread, np.sqrt(got * (1 - got)), rtol=1e-12)


def test_slope_of_the_sigmoid_over_a_normal_score() -> None:
    z = np.linspace(-9, 9, 4001)
    mass = stats.norm.pdf(z) * (z[1] - z[0])
    for sd in SDS:
        p = special.expit(MEANS[:, None] + sd * z)
        np.testing.assert_allclose(expected_slope(MEANS, sd), (p * (1 - p)) @ mass, atol=5e-8)


def test_sigmoids_far_below_zero_are_not_lost() -> None:
    """There the mixture's own error, small as it is, would be larger than the probability."""
    z = np.linspace(-9, 9, 4001)
    mass = stats.norm.pdf(z) * (z[1] - z[0])
    for mean, sd in ((-12.0, 0.5), (-30.0, 2.0), (-100.0, 1.0), (-20.0, 0.0)):
        wanted = special.expit(mean + sd * z) @ mass
        assert expected_sigmoid(mean, sd, special.ndtr) == pytest.approx(wanted, rel=1e-4)


def test_tail_over_a_normal_score(name: str) -> None:
    likelihood, z = LIKELIHOODS[name], np.linspace(-9, 9, 4001)
    mass = stats.norm.pdf(z) * (z[1] - z[0])
    with jax.enable_x64(True):
        scales = scales_for(name)
        for threshold in (*ratings_for(name), 7.0):
            for sd in (0.3, 4.0):
                given = likelihood.tail(jnp.asarray(MEANS[:, None] + sd * z), threshold, scales)
                got = likelihood.tail(jnp.asarray(MEANS), threshold, scales, jnp.asarray(sd))
                np.testing.assert_allclose(got, np.asarray(given) @ mass, atol=1e-7)


def test_gaussian_integral_adds_variances() -> None:
    mean, sd = Gaussian(SIGMA).integrate(jnp.asarray(2.0), jnp.asarray(0.4), scales_for("gaussian"))
    assert float(mean) == 2.0
    assert float(sd) == pytest.approx(np.hypot(0.4, SIGMA))


def test_extreme_scores_are_finite_in_float32(name: str) -> None:
    likelihood = LIKELIHOODS[name]
    scores = jnp.asarray([-1e3, -100.0, -30.0, 0.0, 30.0, 100.0, 1e3])
    scales = scales_for(name)
    for rating in ratings_for(name):
        ratings = jnp.full_like(scores, rating)
        curvature, slope = likelihood.bound(scores, ratings, scales)
        values = [likelihood.loss(scores, ratings, scales), curvature, slope]
        assert all(np.isfinite(value).all() for value in values)
        assert (np.asarray(curvature) > 0).all()
    values = [likelihood.information(scores, scales), likelihood.mean(scores, scales)]
    values += [*likelihood.integrate(scores, jnp.asarray(1.0), scales)]
    assert all(np.isfinite(value).all() for value in values)
    assert (np.asarray(values[0]) >= 0).all()


def test_probit_slope_of_wrong_answers_grows_like_the_score() -> None:
    """The inverse Mills ratio, ratio of two tiny numbers: right to float32's rounding of s^2/2."""
    scores = jnp.asarray([-100.0, -30.0, -10.0, -3.0])
    _, slope = Bernoulli("probit").bound(scores, jnp.ones_like(scores), {})
    far = np.asarray(scores, float)
    wanted = np.exp(stats.norm.logpdf(far) - special.log_ndtr(far))
    np.testing.assert_allclose(slope, wanted, rtol=2e-3)


def test_base_score_of_gaussian_is_the_weighted_mean() -> None:
    rating, weight = np.array([1.0, 2.0, 6.0]), np.array([1.0, 1.0, 2.0])
    assert Gaussian().base_score(rating, None) == 3.0
    assert Gaussian().base_score(rating, weight) == 3.75


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_base_score_of_bernoulli_minimizes_the_loss(link: str) -> None:
    rating, weight = np.array([1.0, 0, 0, 1, 0]), np.array([1.0, 2, 1, 1, 0.5])
    law = special.logit if link == "logit" else special.ndtri
    likelihood = Bernoulli(link)
    assert likelihood.base_score(rating, None) == pytest.approx(law(0.4), rel=1e-5)
    assert likelihood.base_score(rating, weight) == pytest.approx(law(2 / 5.5), rel=1e-5)


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_base_score_stays_finite_when_all_ratings_agree(link: str) -> None:
    ones = np.ones(7)
    score = Bernoulli(link).base_score(ones, None)
    assert 0 < score < 4
    assert Bernoulli(link).base_score(0 * ones, None) == pytest.approx(-score, rel=1e-5)
    assert np.isfinite(Bernoulli(link).base_score(ones, np.full(7, 0.1)))


def test_likelihoods_without_parameters_are_keys_of_compiled_programs() -> None:
    assert Gaussian(0.3).canonical() == Gaussian(2.0).canonical()
    assert hash(Gaussian(0.3).canonical()) == hash(Gaussian(2.0).canonical())
    assert Bernoulli("logit").canonical() != Bernoulli("probit").canonical()
    assert hash(Bernoulli("probit").canonical()) == hash(Bernoulli("probit"))


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, -np.inf])
def test_noise_scale_out_of_range(value: float) -> None:
    with pytest.raises(ValueError, match=r"noise_scale is .*must be positive and finite"):
        Gaussian(value)


@pytest.mark.parametrize("value", [None, "1.0", True, object(), [1.0, "a"]])
def test_noise_scale_of_the_wrong_type(value: object) -> None:
    with pytest.raises(TypeError, match=r"noise_scale is .* of type .*give a positive number"):
        Gaussian(value)


def test_noise_scale_by_rating_points_to_weights() -> None:
    with pytest.raises(ValueError, match=re.escape("noise_scale has shape (2,); give one number")):
        Gaussian(np.array([1.0, 2.0]))


def test_check_scale_names_the_position() -> None:
    with pytest.raises(ValueError, match="user_scale is -2 at position 1; a scale is"):
        check_scale("user_scale", [1.0, -2.0, np.nan])
    check_scale("user_scale", np.array([1, 2]))
    check_scale("user_scale", jnp.asarray([1.0, 2.0]))
    check_scale("user_scale", dist.HalfNormal(1.0))


def test_unknown_link() -> None:
    with pytest.raises(ValueError, match="link is 'cloglog'; expected 'logit' or 'probit'"):
        Bernoulli("cloglog")


def test_bernoulli_names_the_first_bad_row() -> None:
    message = r"needs ratings 0 or 1, but row 2 has 0.5 \(2 such rows\).*binarize"
    with pytest.raises(ValueError, match=message):
        Bernoulli().check_ratings(np.array([0.0, 1.0, 0.5, 1.0, 2.0]))
    Bernoulli().check_ratings(np.array([0.0, 1.0]))
    Gaussian().check_ratings(np.array([-3.0, 0.5]))
