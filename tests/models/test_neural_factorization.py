"""Neural factorizations: the density is that of plain loops, and bad input is refused."""

from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density
from scipy.special import expit, ndtr
from scipy.stats import norm

from probmf import (
    MLP,
    Bernoulli,
    Categorical,
    Gaussian,
    MatrixFactorization,
    Network,
    NeuralFactorization,
    NormalWishart,
    Ordinal,
    Ratings,
)

PAIRS = {"user": [0, 0, 1, 1, 2, 2, 3], "item": [0, 1, 0, 2, 1, 2, 0]}
STARS = [1, 2, 3, 3, 2, 1, 3]
YES = [0, 1, 1, 0, 1, 0, 1]
SCALES: dict[str, Any] = {
    "user_scale": 0.7, "item_scale": 1.3, "user_bias_scale": 0.4, "item_bias_scale": 2.0,
}  # fmt: skip
LAYERS = MLP((3, 2), "tanh", weight_scale=(0.8, 0.6, 1.5), bias_scale=0.9)


def ratings(values: Any = STARS, **columns: Any) -> Ratings:
    options = {"weight": "weight"} if "weight" in columns else {}
    return Ratings.from_frame(PAIRS | {"rating": values} | columns, **options)


def random_point(model: NeuralFactorization, data: Any, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    point = {site: rng.normal(size=shape) for site, shape in model.site_shapes(data).items()}
    if "cutpoints" in point:
        point["cutpoints"] = np.sort(point["cutpoints"])
    return point


def score_by_hand(
    model: NeuralFactorization, point: dict[str, Any], m: int, n: int, base: float
) -> float:
    """A score, written out."""
    u, v = point["user_factors"][m], point["item_factors"][n]
    h = np.concatenate([u, v])
    for place in range(3):
        bias = point.get(f"network_bias_{place}", np.zeros(1))
        h = np.array([w @ h for w in point[f"network_weight_{place}"].T]) + bias
        if place < 2:
            h = np.tanh(h)
    score = point.get("intercept", base) + h[0]
    if model.product:
        score += sum(u * v)
    for name, row in (("user_bias", m), ("item_bias", n)):
        score += point[name][row] if name in point else 0.0
    return float(score)


def density_by_hand(
    model: NeuralFactorization, data: Ratings, point: dict[str, Any], base: float
) -> float:
    """Log density by loops over pairs and sites, up to a flat prior."""
    scales = {
        "user_bias": 0.4, "item_bias": 2.0, "user_factors": 0.7, "item_factors": 1.3,
        "network_weight_0": 0.8, "network_weight_1": 0.6, "network_weight_2": 1.5,
        "network_bias_0": 0.9, "network_bias_1": 0.9, "network_bias_2": 0.9,
    }  # fmt: skip
    total = sum(
        norm.logpdf(point[site], 0.0, s).sum() for site, s in scales.items() if site in point
    )
    if "cutpoints" in point:
        total += np.log(2.0) + norm.logpdf(point["cutpoints"], 0.0, 5.0).sum()
    weight = np.ones(len(data)) if data.weight is None else data.weight
    for m, n, rating, w in zip(data.user, data.item, data.rating, weight, strict=True):
        score = score_by_hand(model, point, m, n, base)
        if isinstance(model.likelihood, Gaussian):
            total += norm.logpdf(rating, score, 0.5 / np.sqrt(w))
        elif isinstance(model.likelihood, Bernoulli):
            total += w * np.log(expit(score) if rating else expit(-score))
        else:
            edges = np.concatenate([[-np.inf], point["cutpoints"], [np.inf]])
            total += w * np.log(
                ndtr(edges[int(rating)] - score) - ndtr(edges[int(rating) - 1] - score)
            )
    return float(total)


@pytest.mark.parametrize(
    ("options", "values", "weight"),
    [
        ({"likelihood": Gaussian(0.5)}, STARS, [1.0, 2.0, 0.5, 1, 1, 3, 1]),
        ({"likelihood": Gaussian(0.5), "product": False, "intercept": "learned"}, STARS, None),
        ({"likelihood": Bernoulli(), "user_bias": False, "intercept": 0.3}, YES, None),
        ({"likelihood": Ordinal(3), "item_bias": False}, STARS, [1.0, 2.0, 1, 1, 1, 3, 1]),
    ],
)  # fmt: skip
def test_density_objective_and_gradient_are_those_of_loops(
    options: dict[str, Any], values: list[int], weight: list[float] | None
) -> None:
    data = ratings(values) if weight is None else ratings(values, weight=weight)
    with jax.enable_x64(True):
        model = NeuralFactorization(2, LAYERS, **options, **SCALES)
        (observations,) = model.arguments(data)
        base = float(observations.base_score)
        wanted = []
        for seed in (1, 2):
            point = random_point(model, observations, seed)
            density, _ = log_density(model, (observations,), {}, point)
            by_loops = density_by_hand(model, data, point, base)
            assert float(density) == pytest.approx(by_loops, abs=1e-9)
            wanted.append(by_loops + float(model.objective(point, observations)))
        assert wanted[0] == pytest.approx(wanted[1], abs=1e-9)
        slopes = jax.grad(model.objective)(point, observations)
        rng = np.random.default_rng(3)
        for site in point:
            way = rng.normal(size=point[site].shape)
            ends = [
                -density_by_hand(model, data, point | {site: point[site] + step * way}, base)
                for step in (1e-5, -1e-5)
            ]
            slope = float(np.sum(np.asarray(slopes[site]) * way))
            assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-7)


def test_with_a_network_of_zeros_it_is_plain_factorization() -> None:
    model = NeuralFactorization(2, LAYERS, likelihood=Gaussian(0.5), **SCALES)
    (data,) = model.arguments(ratings())
    point = random_point(model, data, 4)
    zeros = {
        site: np.zeros_like(x) if site.startswith("network") else x for site, x in point.items()
    }
    plain = MatrixFactorization(2, Gaussian(0.5), **SCALES)
    assert float(model.objective(zeros, data)) == float(plain.objective(point, data))


def test_the_table_of_scores_is_that_of_pairs() -> None:
    user, item = (x.ravel() for x in np.meshgrid(np.arange(4), np.arange(3), indexing="ij"))
    grid = Ratings.from_frame({"user": user, "item": item, "rating": np.arange(12.0)})
    with jax.enable_x64(True):
        for layers, product in ((LAYERS, True), (MLP((3,), "relu"), False), (MLP(()), False)):
            model = NeuralFactorization(2, layers, product)
            (data,) = model.arguments(grid)
            point = random_point(model, data, 5) | {"intercept": data.base_score}
            rows = [
                np.column_stack([point[f"{side}_bias"], point[f"{side}_factors"]])
                for side in ("user", "item")
            ]
            table = model.score_table(point, *rows)
            np.testing.assert_allclose(np.ravel(table), model.scores(point, data), rtol=1e-12)


def test_the_last_bias_gives_way_to_what_says_the_same() -> None:
    assert "network_bias_1" in NeuralFactorization(1, MLP((2,))).layer_shapes
    for options in ({"intercept": "learned"}, {"likelihood": Ordinal(3)}):
        shapes = NeuralFactorization(1, MLP((2,)), **options).layer_shapes
        assert "network_bias_0" in shapes
        assert "network_bias_1" not in shapes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_factors": 1.5}, "num_factors is 1.5; expected a whole number"),
        ({"num_factors": 0}, "num_factors is 0, but the network needs factors"),
        ({"num_factors": -1}, "num_factors is -1"),
        ({"network": (8,)}, r"network is \(8,\) of type tuple; expected layers such as MLP"),
        ({"network": Network((8,))}, "of type Network; expected layers such as MLP"),
        ({"network": None}, "Without a network use MatrixFactorization"),
        ({"product": 1}, "product is 1; expected True or False"),
        ({"likelihood": Categorical(3)}, "expected Gaussian"),
        ({"intercept": dist.Normal(0.0, 1.0)}, r"expected 'mean', 'learned' \(a flat prior\)"),
        ({"intercept": "none"}, "intercept is 'none'"),
        ({"intercept": "learned", "likelihood": Ordinal(3)}, "can't both be learned"),
        ({"user_bias": 2.0}, "user_bias is 2.0; expected True or False"),
        ({"user_scale": 0.0}, "user_scale is 0; a scale is a standard deviation"),
        ({"item_scale": NormalWishart()}, "item_scale is a NormalWishart; expected a positive"),
    ],
)
def test_bad_configurations_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        NeuralFactorization(**({"num_factors": 1, "network": MLP((2,))} | options))


def test_bad_ratings_are_refused() -> None:
    with pytest.raises(TypeError, match="Expected Ratings, got dict"):
        NeuralFactorization(1).arguments({})  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="A Bernoulli likelihood needs ratings 0 or 1, but row 1 has 2"
    ):
        NeuralFactorization(1, likelihood=Bernoulli()).arguments(ratings())
    with pytest.raises(ValueError, match=r"user_scale has shape \(2,\); expected one number or 4"):
        NeuralFactorization(1, user_scale=[1.0, 2.0]).arguments(ratings())
