"""Models have programs of their own, and data of the same shapes share them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from probmf.inference.potential import Potential


def in_nested_jit(weights: Any) -> Callable[[Any], Any]:
    return lambda x: jnp.sum(jax.jit(lambda y: y * weights)(x))


def in_scan(weights: Any) -> Callable[[Any], Any]:
    def body(carry: Any, _: Any) -> Any:
        return jax.jit(lambda y: y * weights)(carry), None

    return lambda x: jnp.sum(jax.lax.scan(body, x, None, length=2)[0])


def in_reverse_rule(weights: Any) -> Callable[[Any], Any]:
    @jax.custom_vjp
    def total(x: Any) -> Any:
        return jnp.sum(x)

    total.defvjp(lambda x: (jnp.sum(x), None), lambda _, tangent: (tangent * weights,))
    return total


def in_forward_rule(weights: Any) -> Callable[[Any], Any]:
    @jax.custom_jvp
    def total(x: Any) -> Any:
        return jnp.sum(x)

    total.defjvp(lambda x, dx: (jnp.sum(x[0]), jnp.sum(dx[0] * weights)))
    return total


@pytest.mark.parametrize("make", [in_nested_jit, in_scan, in_reverse_rule, in_forward_rule])
def test_each_model_has_its_own_gradient(make: Any) -> None:
    gradients = []
    for values in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]):
        score = make(np.asarray(values, np.float32))

        def model(score: Any = score) -> None:
            x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (3,)))
            numpyro.factor("score", score(x))

        gradients.append(Potential(model, (), {}).value_and_grad(jnp.ones(3))[1])
        np.testing.assert_allclose(gradients[-1], jax.grad(score)(jnp.ones(3)), rtol=1e-6)
    assert not np.allclose(*gradients)


def test_other_numbers_of_the_same_shapes_trace_nothing() -> None:
    calls: list[Any] = []
    traced = 0

    def model(y: Any, prior: Any) -> None:
        calls.append(y)
        root = numpyro.sample("root", dist.LKJCholesky(2, 1.0))
        scale = numpyro.sample("scale", prior.expand([2]).to_event(1))
        effect = numpyro.sample("u", dist.MultivariateNormal(0.0, scale_tril=scale[:, None] * root))
        numpyro.sample("y", dist.Normal(jnp.sum(effect), 1.0), obs=y)

    values = []
    for y, width in ((0.5, 1.0), (1.5, 2.0)):
        potential = Potential(model, (jnp.asarray(y), dist.HalfNormal(width)), {})
        vector = jnp.full_like(potential.vector, 0.3)
        values.append((*potential.value_and_grad(vector), potential.value(vector)))
        assert {"root", "scale", "u"} == set(potential.constrain_all(vector[None]))
        traced = traced or len(calls)
    assert traced == len(calls)
    assert values[0][0] != values[1][0]
    want = dist.HalfNormal(2.0).log_prob(jnp.exp(0.3)) + 0.3
    own = dist.HalfNormal(1.0).log_prob(jnp.exp(0.3)) + 0.3
    parts = [dist.Normal(0.6, 1.0).log_prob(y) for y in (0.5, 1.5)]
    change = 2 * (want - own) + parts[1] - parts[0]
    np.testing.assert_allclose(values[1][0] - values[0][0], change, rtol=1e-4)
