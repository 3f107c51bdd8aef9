"""Categorical factorizations: the density is that of plain loops, and bad input is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density
from scipy.stats import norm

from probmf import Categorical, CategoricalFactorization, MatrixFactorization, Ratings

CODES = [0, 1, 2, 2, 1, 0, 2]
PAIRS = {"user": [0, 0, 1, 1, 2, 2, 3], "item": [0, 1, 0, 2, 1, 2, 0]}
SCALES = {"user_scale": 0.7, "item_scale": 1.3, "user_bias_scale": 0.4, "item_bias_scale": 2.0}
SITES = ("user_bias", "item_bias", "user_factors", "item_factors")


def ratings(codes: Any = CODES, **columns: Any) -> Ratings:
    options = {"weight": "weight"} if "weight" in columns else {}
    return Ratings.from_frame(PAIRS | {"rating": codes} | columns, **options)


def random_point(model: CategoricalFactorization, data: Any, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {site: rng.normal(size=shape) for site, shape in model.site_shapes(data).items()}


def brute_force(
    model: CategoricalFactorization, data: Ratings, point: dict[str, Any], intercept: Any
) -> float:
    """Log density by loops over pairs and classes."""
    scales = [model.user_bias_scale, model.item_bias_scale, model.user_scale, model.item_scale]
    total = 0.0
    for site, scale in zip(SITES, scales, strict=True):
        total += norm.logpdf(point.get(site, np.zeros(0)), 0.0, scale).sum()
    if "intercept" in point:
        total += norm.logpdf(point["intercept"], 0.0, 1.5).sum()
    weight = np.ones(len(data)) if data.weight is None else data.weight
    for m, n, code, w in zip(data.user, data.item, data.rating, weight, strict=True):
        scores = []
        for c in range(model.num_classes):
            score = point.get("intercept", intercept)[c]
            score += point["user_bias"][m, c] if model.user_bias else 0.0
            score += point["item_bias"][n, c] if model.item_bias else 0.0
            if model.num_factors:
                score += point["user_factors"][m] @ point["item_factors"][n, c]
            scores.append(np.exp(score))
        total += w * np.log(scores[int(code)] / sum(scores))
    return total


@pytest.mark.parametrize(
    ("options", "weight"),
    [
        ({"num_factors": 2}, None),
        ({"num_factors": 2, "intercept": dist.Normal(0.0, 1.5)}, [1.0, 2.0, 0.5, 1, 1, 3, 1]),
        ({"num_factors": 0, "user_bias": False, "intercept": [0.3, 0.0, -1.0]}, None),
        ({"num_factors": 1, "user_bias": False, "item_bias": False, "intercept": None}, None),
    ],
)
def test_density_and_objective_are_those_of_loops(
    options: dict[str, Any], weight: list[float] | None
) -> None:
    data = ratings() if weight is None else ratings(weight=weight)
    with jax.enable_x64(True):
        model = CategoricalFactorization(classes=3, **options, **SCALES)
        (observations,) = model.arguments(data)
        wanted = []
        for seed in (1, 2):
            point = random_point(model, observations, seed)
            density, _ = log_density(model, (observations,), {}, point)
            by_loops = brute_force(model, data, point, np.asarray(observations.intercept))
            assert float(density) == pytest.approx(by_loops, abs=1e-9)
            wanted.append(by_loops + float(model.objective(point, observations)))
        assert wanted[0] == pytest.approx(wanted[1], abs=1e-9)


def test_the_mean_intercept_is_the_weighted_log_frequency() -> None:
    model = CategoricalFactorization(0, 3)
    (plain,) = model.arguments(ratings())
    np.testing.assert_allclose(np.exp(plain.intercept), np.array([2, 2, 3]) / 7, rtol=1e-6)
    (weighted,) = model.arguments(ratings(weight=[2.0, 1, 1, 1, 1, 0, 1]))
    np.testing.assert_allclose(np.exp(weighted.intercept), np.array([2, 2, 3]) / 7, rtol=1e-6)
    assert len(weighted.user) == 6


def test_no_class_is_a_reference() -> None:
    order = np.array([2, 0, 1])
    model = CategoricalFactorization(2, 3)
    (data,) = model.arguments(ratings())
    (other,) = model.arguments(ratings(np.argsort(order)[CODES]))
    point = random_point(model, data, 3)
    moved = {s: v if s == "user_factors" else v[:, order] for s, v in point.items()}
    first, second = model.objective(point, data), model.objective(moved, other)
    assert float(first) == pytest.approx(float(second), rel=1e-5)


def test_float32_holds_far_scores() -> None:
    model = CategoricalFactorization(0, 3, intercept=None, user_bias=False)
    (data,) = model.arguments(ratings())
    far = jnp.asarray([[200.0, 0.0, -200.0]] * 3)
    value, slope = jax.value_and_grad(model.objective)({"item_bias": far}, data)
    expected = 200 * 2 + 400 * 3 + 0.5 * 3 * 2 * 200**2
    assert float(value) == pytest.approx(expected, rel=1e-6)
    assert np.isfinite(slope["item_bias"]).all()


@pytest.mark.parametrize(
    ("codes", "options", "message"),
    [
        ([0, 1, 2, 3, 1, 0, 2], {}, "Row 3 has 3, but the 3 classes are numbered 0 to 2"),
        ([0, 1, 2, -1, 1, 0, 2], {}, "Row 3 has -1, but"),
        ([0, 1.5, 2, 2, 1, 0, 2], {}, "Row 1 has 1.5, but"),
        ([0, 2, 2, 2, 0, 0, 2], {}, "No rating is of class 1, whose log frequency"),
        ([2] * 7, {}, "All ratings are of class 2, so there is nothing to tell apart"),
        ([1] * 7, {"intercept": None, "classes": "ab"}, "classes is 'ab'"),
    ],
)
def test_bad_codes_are_refused(codes: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        CategoricalFactorization(**({"num_factors": 1, "classes": 3} | options)).arguments(
            ratings(codes)
        )


def test_a_gap_is_allowed_where_no_frequency_is_needed() -> None:
    model = CategoricalFactorization(1, 3, intercept=None)
    (data,) = model.arguments(ratings([0, 2, 2, 2, 0, 0, 2]))
    assert np.asarray(data.intercept).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_factors": 1.5}, "num_factors is 1.5; expected a whole number"),
        ({"num_factors": -1}, "num_factors is -1; expected 0 or more"),
        ({"classes": 1}, "num_levels is 1; there must be at least two classes"),
        ({"classes": ["a"]}, "there must be at least two classes"),
        ({"classes": ["a", "b", "a"]}, "classes holds 'a' twice"),
        ({"classes": [None, "a"]}, "classes holds None; labels are text or numbers"),
        ({"intercept": "learned"}, "intercept is 'learned'; expected 'mean', a finite number"),
        ({"intercept": [0.0, 1.0]}, "intercept has 2 numbers for 3 classes"),
        ({"intercept": dist.Normal(1.0, 1.0)}, "a NumPyro Normal"),
        ({"user_bias": 2.0}, "user_bias is 2.0; expected True or False"),
        ({"user_scale": 0.0}, "user_scale is 0; a scale is a standard deviation"),
        ({"item_scale": [1.0]}, "item_scale is .*; expected a positive number or"),
        ({"item_scale": dist.Normal().expand([2])}, "expected a distribution of one number"),
        ({"num_factors": 0, "user_bias": False, "item_bias": False}, "no term but the intercept"),
    ],
)
def test_bad_configurations_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        CategoricalFactorization(**({"num_factors": 1, "classes": 3} | options))


def test_other_messages() -> None:
    with pytest.raises(TypeError, match="For classes without an order use CategoricalFact"):
        MatrixFactorization(1, likelihood=Categorical(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Expected Ratings, got dict"):
        CategoricalFactorization(1, 3).arguments({})  # type: ignore[arg-type]
