"""Networks: the objective is the log density, gradients are right, and bad data are refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density

from probmf import Bernoulli, Categorical, Examples, Gaussian, Network, Ordinal, Poisson
from probmf.models.layers import MLP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 2))
RESPONSES: dict[str, tuple[Any, np.ndarray]] = {
    "gaussian": (Gaussian(0.7), RNG.normal(size=12)),
    "two numbers": (Gaussian(0.7), RNG.normal(size=(12, 2))),
    "logit": (Bernoulli(), np.arange(12) % 2),
    "probit": (Bernoulli("probit"), np.arange(12) % 2),
    "categorical": (Categorical(3), np.arange(12) % 3),
    "ordinal": (Ordinal(3), 1 + np.arange(12) % 3),
    "ordinal, fixed": (Ordinal(3, cutpoints=(-1.0, 1.0)), 1 + np.arange(12) % 3),
}


def random_point(model: Network, data: Any, seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    values = {s: jnp.asarray(rng.normal(size=d)) for s, d in model.site_shapes(data).items()}
    if "cutpoints" in values:
        values["cutpoints"] = jnp.sort(values["cutpoints"])
    return values


@pytest.mark.parametrize("kind", RESPONSES)
def test_the_objective_is_minus_the_log_density(kind: str) -> None:
    likelihood, y = RESPONSES[kind]
    with jax.enable_x64(True):
        model = Network((3,), "tanh", likelihood, weight_scale=(0.5, None), bias_scale=2.0)
        (data,) = model.arguments(Examples.from_arrays(X, y))
        both = jax.jit(
            lambda point: model.objective(point, data) + log_density(model, (data,), {}, point)[0]
        )
        found = [float(both(random_point(model, data, seed))) for seed in (1, 2)]
        assert found[0] == pytest.approx(found[1], abs=1e-9)


@pytest.mark.parametrize("kind", RESPONSES)
def test_gradients_are_finite_differences(kind: str) -> None:
    likelihood, y = RESPONSES[kind]
    with jax.enable_x64(True):
        model = Network((3,), "tanh", likelihood)
        (data,) = model.arguments(Examples.from_arrays(X, y))
        point = random_point(model, data, 3)
        value = jax.jit(model.objective)
        gradient = jax.jit(jax.grad(model.objective))(point, data)
        for site in point:
            place = tuple(0 for _ in point[site].shape)
            ends = [
                float(value(point | {site: point[site].at[place].add(step)}, data))
                for step in (1e-5, -1e-5)
            ]
            numeric = (ends[0] - ends[1]) / 2e-5
            assert gradient[site][place] == pytest.approx(numeric, rel=1e-6, abs=1e-7), site


def test_l2_penalties_are_priors() -> None:
    data = Examples.from_arrays(X, RESPONSES["gaussian"][1])
    summed = Network.from_l2((3,), regularization=4.0, likelihood=Gaussian(0.5))
    assert (summed.weight_scale, summed.bias_scale) == (0.25, "flat")
    mean = Network.from_l2((), regularization=1.0, bias=0.25, loss="mean", data=data)
    assert mean.weight_scale == pytest.approx(12**-0.5)
    assert mean.bias_scale == pytest.approx(2 * 12**-0.5)
    logit = Network.from_l2((), regularization=1.0, loss="mean", data=data, likelihood=Bernoulli())
    assert logit.weight_scale == pytest.approx(24**-0.5)
    with pytest.raises(ValueError, match="give data=, the training examples"):
        Network.from_l2((), regularization=1.0, loss="mean")
    with pytest.raises(ValueError, match="regularization is 0; expected a positive number"):
        Network.from_l2((), regularization=0.0)


def test_equal_networks_share_compiled_programs() -> None:
    assert hash(Network([3])) == hash(Network((3,)))  # type: ignore[arg-type]
    assert Network((3,), likelihood=Gaussian(2.0)).canonical() == Network((3,), weight_scale=3.0
        ).canonical()  # fmt: skip
    assert Network((3,), likelihood=Ordinal(3)).layers.bias == (True, False)
    assert Network((3,)).layers == MLP((3,))


@pytest.mark.parametrize(
    ("likelihood", "y", "message"),
    [
        (Gaussian(), ["a", "b"] * 6, r"has classes \('a', 'b'\).*use Bernoulli\(\)"),
        (Gaussian(), list("abcabcabcabc"), r"use Categorical\(3\)"),
        (Categorical(4), list("abcabcabcabc"), r"3 classes \('a', 'b', 'c'\).*use Categorical\(3"),
        (Categorical(3), np.arange(12) % 2 * 2, "run from 0 to 2, but no row has 1"),
        (Categorical(2), np.arange(12) / 2, r"is 0.5 in row 1 .6 such rows., which is no class"),
        (Bernoulli(), np.arange(12) % 3, "'y' does not suit: .*row 2 has 2"),
        (Poisson(), np.arange(12) - 1, "'y' does not suit: .*row 0 has -1"),
        (Poisson(), ["a", "b"] * 6, r"a Poisson likelihood can't take; use Bernoulli\(\)"),
        (Bernoulli(), list("abcabcabcabc"), "3 classes .* 2 levels"),
        (Ordinal(4), 1 + np.arange(12) % 3, "No rating is at level 4"),
        (Ordinal(3), np.zeros((12, 2)) + 1, "does not suit: No rating is at level"),
        (Categorical(3), np.zeros((12, 2)), "read from one column, but there are 2 responses"),
    ],
)
def test_responses_that_do_not_suit(likelihood: Any, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Network((), likelihood=likelihood).arguments(Examples.from_arrays(X, y))


def test_bad_settings() -> None:
    with pytest.raises(TypeError, match="likelihood is 'gaussian'; expected one such as Gaussian"):
        Network((), likelihood="gaussian")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"such as \(3,\)"):
        Network(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight_scale is 0"):
        Network((3,), weight_scale=0)
    with pytest.raises(TypeError, match="data is of type dict; expected Examples"):
        Network(()).arguments({"x": [1.0], "y": [1.0]})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least two classes"):
        Categorical(1)
    with pytest.raises(TypeError, match=r"num_levels is 2\.5"):
        Categorical(2.5)  # type: ignore[arg-type]
    assert Network((3,), weight_scale=dist.HalfNormal(1.0)).random_scales() == [
        "network_weight_scale_0", "network_weight_scale_1",
    ]  # fmt: skip


def test_categorical_loss_is_that_of_the_site() -> None:
    scores, codes = jnp.asarray(RNG.normal(size=(5, 3))), jnp.array([0, 1, 2, 1, 0])
    law = dist.Categorical(logits=scores)
    likelihood = Categorical(3)
    np.testing.assert_allclose(likelihood.loss(scores, codes, {}), -law.log_prob(codes), rtol=1e-5)


def test_levels_without_an_order_are_refused() -> None:
    table = {"x": np.arange(6.0), "y": ["low", "mid", "high"] * 2}
    network = Network((), likelihood=Ordinal(3))
    with pytest.raises(
        ValueError, match=r"'y' has classes without an order .*'high', 'low', 'mid'"
    ):
        network.targets(Examples.from_frame(table))
    known = Examples.from_frame(table, classes=["low", "mid", "high"])
    np.testing.assert_array_equal(network.targets(known)[0], [1, 2, 3, 1, 2, 3])
