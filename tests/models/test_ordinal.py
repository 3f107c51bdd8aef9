"""The ordered probit against SciPy, its own derivatives, and brute force."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density
from scipy import special, stats

from probmf import Bernoulli, Gaussian, MatrixFactorization, Ordinal, Ratings
from probmf.inference.point.cutpoints import cutpoint_sums
from probmf.models.ordered import OrderedNormal, OrderedProbit, log_interval, truncated_mean

LEVELS = (0.5, 1.0, 2.5, 4.0)
CUTPOINTS = (-1.2, 0.1, 0.9)
FIXED = Ordinal(LEVELS, CUTPOINTS)
GRID = np.linspace(-7, 7, 57)


def scales() -> dict[str, jax.Array]:
    return {"cutpoints": jnp.asarray(CUTPOINTS)}


def ends(rating: float) -> tuple[float, float]:
    edges = [-np.inf, *CUTPOINTS, np.inf]
    place = LEVELS.index(rating)
    return edges[place], edges[place + 1]


def chance_of(rating: float, score: np.ndarray, sd: float = 0.0) -> np.ndarray:
    """By SciPy, an interval above zero mirrored."""
    low, high = ((end - score) / np.hypot(1, sd) for end in ends(rating))
    flip = low + high > 0
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    return stats.norm.cdf(high) - stats.norm.cdf(low)


@pytest.mark.parametrize("rating", LEVELS)
def test_loss_and_site_are_the_log_likelihood(rating: float, x64: bool) -> None:
    scores = jnp.asarray(GRID)
    ratings = jnp.full_like(scores, rating)
    loss = FIXED.loss(scores, ratings, scales())
    assert loss.dtype == scores.dtype
    rtol = 1e-9 if x64 else 2e-5
    np.testing.assert_allclose(loss, -np.log(chance_of(rating, GRID)), rtol=rtol, atol=rtol)
    weight = jnp.linspace(0.5, 2.0, len(GRID))
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        FIXED.observe(scores, ratings, weight, scales())
    site = trace["rating"]
    np.testing.assert_array_equal(site["fn"].log_prob(ratings), -loss)
    np.testing.assert_array_equal(site["scale"], weight)


@pytest.mark.parametrize("rating", LEVELS)
def test_bound_touches_and_is_never_below_the_loss(rating: float) -> None:
    with jax.enable_x64(True):
        at = jnp.asarray(GRID)
        ratings = jnp.full_like(at, rating)
        curvature, slope = FIXED.bound(at, ratings, scales())
        loss = np.asarray(FIXED.loss(at, ratings, scales()))
        derivative = jax.vmap(jax.grad(lambda s: FIXED.loss(s, rating, scales())))(at)
        np.testing.assert_allclose(-slope, derivative, rtol=1e-8, atol=1e-12)
        step = GRID[None, :] - GRID[:, None]
        bound = loss[:, None] - np.asarray(slope)[:, None] * step
        bound += 0.5 * np.asarray(curvature)[:, None] * step**2
        assert (bound - loss[None, :]).min() > -1e-10


def test_gradient_and_hessian_in_the_cutpoints_against_autodiff() -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        scores = jnp.asarray(rng.normal(0, 1.5, 60))
        ratings, weight = jnp.asarray(rng.choice(LEVELS, 60)), jnp.asarray(rng.uniform(0, 2, 60))

        def total(cutpoints: jax.Array) -> jax.Array:
            return jnp.sum(weight * FIXED.loss(scores, ratings, {"cutpoints": cutpoints}))

        at = jnp.asarray(CUTPOINTS)
        found = cutpoint_sums(scores, ratings, weight, at, LEVELS)
        hessian = np.diag(found.diagonal) + np.diag(found.beside, 1) + np.diag(found.beside, -1)
        np.testing.assert_allclose(found.loss, total(at), rtol=1e-12)
        np.testing.assert_allclose(found.gradient, jax.grad(total)(at), rtol=1e-9)
        np.testing.assert_allclose(hessian, jax.hessian(total)(at), rtol=1e-8, atol=1e-10)
        by_differences = [(total(at + h) - total(at - h)) / 2e-5 for h in 1e-5 * np.eye(3)]
        np.testing.assert_allclose(found.gradient, by_differences, rtol=1e-6)


@pytest.mark.parametrize("middle", [-30.0, -5.0, -0.3, 0.0, 0.4, 6.0, 30.0])
@pytest.mark.parametrize("half", [1e-5, 1e-3, 0.02, 0.3, 2.0])
def test_log_of_an_interval(middle: float, half: float, x64: bool) -> None:
    """Against quadrature of the density over its value at the end nearest to zero."""
    a, b = jnp.asarray(middle - half), jnp.asarray(middle + half)
    low, high = sorted((abs(float(a)), abs(float(b)))) if a * b > 0 else (float(a), float(b))
    nodes, weights = np.polynomial.legendre.leggauss(200)
    width = min(high - low, 40.0)
    x = low + 0.5 * width * (nodes + 1)
    start = max(low, 0.0)
    mass = 0.5 * width * np.sum(weights * np.exp(0.5 * (start**2 - x**2)))
    wanted = np.log(mass) - 0.5 * start**2 - 0.5 * np.log(2 * np.pi)
    assert float(log_interval(a, b)) == pytest.approx(wanted, rel=1e-9 if x64 else 3e-6)
    assert float(a) <= float(truncated_mean(a, b)) <= float(b)


def test_far_scores_are_finite_in_float32() -> None:
    scores = jnp.asarray([-1e3, -100.0, -30.0, 0.0, 30.0, 100.0, 1e3])
    for rating in LEVELS:
        ratings = jnp.full_like(scores, rating)

        def total(s: jax.Array, c: jax.Array, r: jax.Array = ratings) -> jax.Array:
            return jnp.sum(FIXED.loss(s, r, {"cutpoints": c}))

        curvature, slope = FIXED.bound(scores, ratings, scales())
        gradients = jax.grad(total, argnums=(0, 1))(scores, scales()["cutpoints"])
        loss = FIXED.loss(scores, ratings, scales())
        for values in (loss, curvature, slope, *gradients):
            assert np.isfinite(values).all()
        # Far from its interval the latent number lies at the interval's nearest end.
        low, high = ends(rating)
        nearest = np.clip(np.asarray(scores), low, high) - np.asarray(scores)
        np.testing.assert_allclose(slope[:3], nearest[:3], rtol=0.02, atol=1.3)
    finite = [FIXED.information(scores, scales()), *FIXED.integrate(scores, 1.0, scales())]
    assert all(np.isfinite(values).all() for values in finite)


def test_information_is_the_expected_curvature() -> None:
    with jax.enable_x64(True):
        scores = jnp.linspace(-3, 3, 21)
        second = jax.vmap(jax.grad(jax.grad(lambda s, r: FIXED.loss(s, r, scales()))), (0, None))
        chance = np.stack([chance_of(level, np.asarray(scores)) for level in LEVELS])
        wanted = sum(p * second(scores, level) for p, level in zip(chance, LEVELS, strict=True))
        np.testing.assert_allclose(FIXED.information(scores, scales()), wanted, rtol=1e-7)


@pytest.mark.parametrize("sd", [0.0, 0.7, 5.0])
def test_probabilities_moments_and_tails_by_brute_force(sd: float, x64: bool) -> None:
    rtol = 1e-8 if x64 else 1e-5
    wanted = np.stack([chance_of(level, GRID, sd) for level in LEVELS], axis=1)
    found = FIXED.level_probabilities(jnp.asarray(GRID), scales(), sd)
    np.testing.assert_allclose(np.sum(found, axis=1), 1.0, rtol=rtol)
    np.testing.assert_allclose(found, wanted, rtol=rtol * 50, atol=rtol)
    mean, spread = FIXED.integrate(jnp.asarray(GRID), sd, scales())
    exact = wanted @ LEVELS
    np.testing.assert_allclose(mean, exact, rtol=rtol)
    variance = np.sum(wanted * np.square(np.asarray(LEVELS) - exact[:, None]), axis=1)
    np.testing.assert_allclose(spread, np.sqrt(variance), rtol=rtol * 20, atol=rtol)
    if sd == 0:
        np.testing.assert_allclose(FIXED.mean(jnp.asarray(GRID), scales()), exact, rtol=rtol)
        for threshold in (0.0, 0.5, 0.7, 2.5, 4.0, 4.1):
            tail = FIXED.tail(jnp.asarray(GRID), threshold, scales())
            above = wanted @ (np.asarray(LEVELS) >= threshold)
            np.testing.assert_allclose(tail, above, rtol=rtol, atol=rtol)


def test_tails_of_the_other_likelihoods() -> None:
    scores = jnp.asarray(GRID)
    noise = {"noise_scale": jnp.asarray(0.7)}
    got = Gaussian(0.7).tail(scores, 1.5, noise)
    np.testing.assert_allclose(got, stats.norm.sf(1.5, GRID, 0.7), rtol=1e-5, atol=1e-7)
    for threshold, wanted in ((0, np.ones(57)), (0.5, special.expit(GRID)), (1.5, np.zeros(57))):
        got = Bernoulli().tail(scores, threshold, {})
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
    both = Bernoulli("probit").level_probabilities(scores, {}, 0.5)
    np.testing.assert_allclose(np.sum(both, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(both[:, 1], stats.norm.cdf(GRID / np.hypot(1, 0.5)), atol=1e-6)


def test_two_levels_are_the_probit() -> None:
    scores = jnp.asarray(GRID)
    two, cut = Ordinal((0, 1), (0.0,)), {"cutpoints": jnp.zeros(1)}
    for rating in (0.0, 1.0):
        ratings = jnp.full_like(scores, rating)
        wanted = Bernoulli("probit").loss(scores, ratings, {})
        np.testing.assert_allclose(two.loss(scores, ratings, cut), wanted, rtol=1e-6)


def test_prior_of_the_cutpoints() -> None:
    """It is proper, log-concave, and the law of sorted Normals."""
    with jax.enable_x64(True):
        learned = Ordinal(3, cutpoint_scale=2.0)
        at = jnp.asarray([-1.0, 3.0])
        wanted = np.log(2) + stats.norm.logpdf(at, 0, 2.0).sum()
        assert float(learned.cutpoint_log_prior(at)) == pytest.approx(wanted)
        (law,) = learned.scale_sites().values()
        draws = np.asarray(law.sample(jax.random.key(0), (4000,)))
        assert (np.diff(draws, axis=1) > 0).all()
        # The larger of two Normals has mean s / sqrt(pi).
        assert draws[:, 1].mean() == pytest.approx(2.0 / np.sqrt(np.pi), abs=0.1)
        assert OrderedNormal(1.0, 3).event_shape == (3,)


def test_drawn_ratings_have_their_probabilities() -> None:
    law = OrderedProbit(jnp.asarray([0.3, -1.0]), jnp.asarray(CUTPOINTS), LEVELS)
    draws = np.asarray(law.sample(jax.random.key(1), (20000,)))
    for place, score in enumerate((0.3, -1.0)):
        for level in LEVELS:
            share = np.mean(draws[:, place] == level)
            assert share == pytest.approx(chance_of(level, np.asarray(score)), abs=0.015)


def ratings_of(values: list[float]) -> Ratings:
    size = len(values)
    return Ratings.from_frame({"user": [0] * size, "item": list(range(size)), "rating": values})


def test_model_density_equals_the_objective_up_to_a_constant() -> None:
    with jax.enable_x64(True):
        model = MatrixFactorization(2, Ordinal(4), user_scale=0.7)
        rng = np.random.default_rng(0)
        data = Ratings.from_frame({
            "user": np.repeat(np.arange(5), 4), "item": np.tile(np.arange(4), 5),
            "rating": np.tile([1.0, 2.0, 3.0, 4.0], 5), "weight": rng.uniform(0.5, 2, 20),
        }, weight="weight")  # fmt: skip
        (observations,) = model.arguments(data)
        assert float(observations.base_score) == 0.0
        gaps = []
        for _ in range(4):
            values = {
                site: jnp.asarray(rng.normal(size=shape))
                for site, shape in model.site_shapes(5, 4).items()
            }
            values["cutpoints"] = jnp.asarray(np.sort(rng.normal(0, 2, 3)))
            density, _ = log_density(model, (observations,), {}, values)
            gaps.append(float(density + model.objective(values, observations)))
        np.testing.assert_allclose(gaps, gaps[0], rtol=1e-10)


def test_fixed_cutpoints_start_at_the_best_constant_score() -> None:
    with jax.enable_x64(True):
        rating = np.asarray([0.5, 1.0, 2.5, 2.5, 4.0, 4.0, 4.0])
        for weight in (None, np.linspace(0.5, 3, 7)):
            best = FIXED.base_score(rating, weight)

            def loss(score: float, weight: np.ndarray | None = weight) -> float:
                losses = FIXED.loss(jnp.full(7, score), jnp.asarray(rating), scales())
                return float(np.average(losses, weights=weight))

            assert loss(best) <= min(loss(best - 1e-3), loss(best + 1e-3))
        assert np.isfinite(FIXED.base_score(np.full(3, 4.0), None))
    assert Ordinal(LEVELS).base_score(rating, None) == 0.0


def test_start_gives_each_level_its_share() -> None:
    rating = np.asarray([1.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(
        Ordinal(3).start(rating, None, 0.5), 0.5 + special.ndtri([0.5, 0.75])
    )


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
    assert hash(Ordinal(3, [0, 1])) == hash(Ordinal(3, (0.0, 1.0)))
    assert Ordinal(3, [0, 1]).canonical() == Ordinal(3)


def test_bad_ratings() -> None:
    model = MatrixFactorization(1, Ordinal(3))
    with pytest.raises(ValueError, match=r"Row 2 has rating 2\.5, .* levels 1, 2, 3 \(2 such rows"):
        model.arguments(ratings_of([1, 2, 2.5, 7, 3]))
    with pytest.raises(ValueError, match=r"No rating is at level 2, .*Leave the level out"):
        model.arguments(ratings_of([1, 3, 1]))
    MatrixFactorization(1, Ordinal(3, (0.0, 1.0))).arguments(ratings_of([1, 3, 1]))
    tenths = np.asarray([0.1, 0.2, 0.3], np.float32).tolist()
    MatrixFactorization(1, Ordinal((0.1, 0.2, 0.3))).arguments(ratings_of(tenths))


def test_an_intercept_beside_learned_cutpoints_is_refused() -> None:
    with pytest.raises(ValueError, match="can't both be learned"):
        MatrixFactorization(1, Ordinal(3), intercept="learned")
    MatrixFactorization(1, Ordinal(3, (0.0, 1.0)), intercept="learned")
    with pytest.raises(ValueError, match="unobserved_weight"):
        MatrixFactorization(1, Ordinal(3), unobserved_weight=0.1)
