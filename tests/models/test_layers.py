"""Layers: sites and priors, outputs against Equinox, the chain rule by hand, and refusals."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from probmf.models.layers import ACTIVATIONS, MLP, Linear

X = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "softplus"])
@pytest.mark.parametrize("hidden", [(), (3,), (4, 3)])
def test_outputs_are_those_of_equinox(hidden: tuple[int, ...], activation: str) -> None:
    layers = MLP(hidden, activation)
    values = layers.start("net", jax.random.key(1), 2, 3)
    module = layers.to_equinox("net", values)
    np.testing.assert_allclose(
        layers.apply("net", values, jnp.asarray(X)), jax.vmap(module)(jnp.asarray(X)), rtol=1e-6
    )


def test_sites_scales_and_starts_agree() -> None:
    layers = MLP((3,), weight_scale=(dist.HalfNormal(1.0), 0.5), bias_scale=("flat", None))
    handlers = numpyro.handlers
    flat = {"net_bias_0": jnp.zeros(3)}
    with handlers.seed(rng_seed=0), handlers.trace() as trace, handlers.substitute(data=flat):
        sampled = layers.sample("net", 2, 1)
    shapes = layers.shapes("net", 2, 1)
    assert shapes == {
        "net_weight_0": (2, 3), "net_bias_0": (3,), "net_weight_1": (3, 1), "net_bias_1": (1,),
    }  # fmt: skip
    assert {name: value.shape for name, value in sampled.items()} == shapes
    started = layers.start("net", jax.random.key(0), 2, 1)
    assert {name: value.shape for name, value in started.items()} == shapes
    assert layers.random_scales("net") == ["net_weight_scale_0"]
    assert set(trace) == {*shapes, "net_weight_scale_0"}
    law = trace["net_weight_1"]["fn"].base_dist
    np.testing.assert_allclose(law.scale, 0.5)


def test_the_default_scale_falls_with_the_number_of_inputs() -> None:
    scales = MLP((9,)).scales("net", 4, 1)
    assert scales["net_weight_0"] == 0.5
    assert scales["net_weight_1"] == pytest.approx(1 / 3)
    assert scales["net_bias_0"] == 1.0


def test_layers_are_hashable_and_compare_by_value() -> None:
    assert hash(MLP((3,))) == hash(MLP([3]))  # type: ignore[arg-type]
    assert MLP((3,)) == MLP((3,)) != MLP((4,))
    assert Linear() == Linear() != Linear(weight_scale=2.0)
    assert replace(Linear(), bias=False).shapes("a", 2, 1) == {"a_weight_0": (2, 1)}
    assert MLP((3,), bias=(False, True)).shapes("a", 2, 1).keys() == {
        "a_weight_0", "a_weight_1", "a_bias_1",
    }  # fmt: skip


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_gradient_of_a_chain_of_three_weights_is_the_chain_rule(activation: str) -> None:
    """x -> w1 -> a -> w2 -> a -> w3, squared error: by hand, by autodiff, by differences."""
    slopes = {
        "identity": lambda z, a: 1.0,
        "logistic": lambda z, a: a * (1 - a),
        "tanh": lambda z, a: 1 - a**2,
        "relu": lambda z, a: float(z > 0),
    }
    layers = MLP((1, 1), activation, bias=False)
    x, y, w = 0.7, 1.3, np.array([0.8, -1.1, 0.6]) * (-1 if activation == "relu" else 1)
    with jax.enable_x64(True):

        def loss(weights: jax.Array) -> jax.Array:
            values = {f"net_weight_{i}": weights[i].reshape(1, 1) for i in range(3)}
            output = layers.apply("net", values, jnp.full((1, 1), x))
            return 0.5 * jnp.sum(jnp.square(output - y))

        found = np.asarray(jax.grad(loss)(jnp.asarray(w)))
        act = ACTIVATIONS[activation]
        z1 = w[0] * x
        a1 = float(act(jnp.asarray(z1)))
        z2 = w[1] * a1
        a2 = float(act(jnp.asarray(z2)))
        error = w[2] * a2 - y
        # Backwards: what the loss gains with each sum, from the last to the first.
        by_z2 = error * w[2] * slopes[activation](z2, a2)
        by_z1 = by_z2 * w[1] * slopes[activation](z1, a1)
        by_hand = [by_z1 * x, by_z2 * a1, error * a2]
        np.testing.assert_allclose(found, by_hand, rtol=1e-12, atol=1e-14)
        ends = [[float(loss(jnp.asarray(w + s * e))) for s in (1e-6, -1e-6)] for e in np.eye(3)]
        differences = [(up - down) / 2e-6 for up, down in ends]
        np.testing.assert_allclose(found, differences, atol=1e-8)


def test_a_step_is_evaluated_but_not_trained() -> None:
    values = {
        "net_weight_0": jnp.array([[1.0]]), "net_weight_1": jnp.array([[2.0]]),
    }  # fmt: skip
    layers = MLP((1,), "step", bias=False)
    out = layers.apply("net", values, jnp.array([[-1.0], [0.0], [3.0]]))
    np.testing.assert_array_equal(np.ravel(out), [0.0, 2.0, 2.0])
    with pytest.raises(ValueError, match="gradient of the weights below it is zero almost every"):
        layers.check_trainable()
    MLP((), "step").check_trainable()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden": 3}, TypeError, r"a tuple of widths, such as \(3,\)"),
        ({"hidden": (0,)}, ValueError, "a layer of width 0"),
        ({"hidden": (2.5,)}, TypeError, "a tuple of whole numbers"),
        ({"activation": "tahn"}, ValueError, "activation is 'tahn'; expected one of 'identity'"),
        ({"activation": "softmax"}, ValueError, "another elementwise function"),
        ({"activation": jnp.tanh}, TypeError, "expected a name such as 'tanh'"),
        ({"weight_scale": -1.0}, ValueError, "weight_scale is -1; a scale is a standard"),
        ({"weight_scale": (1.0, 2.0, 3.0)}, ValueError, "3 entries for 2 layers"),
        ({"bias_scale": (1.0, "wide")}, TypeError, r"bias_scale\[1\] is 'wide'"),
        ({"bias_scale": dist.HalfNormal(jnp.ones(2))}, ValueError, r"shape \(2,\)"),
        ({"bias": 0.1}, TypeError, "The size of the biases is bias_scale"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        MLP(**arguments)
