"""Fingerprints tell values apart by their contents, and are the same in every process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import toys

from probmf import Bernoulli, Gaussian, MatrixFactorization, MixedEffects, Network, NormalWishart
from probmf.run.fingerprint import fingerprint

HALF = dist.HalfNormal(1.0)
LAWS: list[dist.Distribution] = [
    dist.Normal(0.0, 1.0), HALF, dist.HalfNormal(2.0), dist.StudentT(3.0, 0.0, 1.0),
    dist.TruncatedNormal(0.0, 1.0, low=0.0), dist.TruncatedNormal(0.0, 1.0, high=0.0),
    dist.LKJCholesky(2, 1.0), dist.LKJCholesky(3, 1.0), dist.LKJCholesky(2, 2.0),
    dist.ImproperUniform(dist.constraints.real, (), (3,)),
    dist.ImproperUniform(dist.constraints.positive, (), (3,)), dist.LogNormal(0.0, 1.0),
    dist.LogNormal(0.1, 1.0), HALF.expand([2]), HALF.expand([2]).to_event(1),
    dist.Gamma(2.0, 3.0), dist.Gamma(3.0, 2.0), dist.Uniform(0.0, 2.0), dist.Uniform(0.0, 3.0),
    dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.AffineTransform(1.0, 2.0)),
    dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.AffineTransform(2.0, 1.0)),
    dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)), dist.MultivariateNormal(0.0, 2 * jnp.eye(2)),
    dist.Normal(jnp.zeros(2), 1.0).mask(jnp.asarray([True, False])),
]  # fmt: skip


def of_laws() -> list[str]:
    return [fingerprint(law) for law in LAWS]


def of_program() -> str:
    """What a NUTS run of a mixed model is told apart by."""
    model = MixedEffects("y ~ x + (x | g) + (1 | h)")
    return fingerprint(model, model.arguments(model.design(toys.mixed())))


def test_laws_are_told_apart() -> None:
    assert len(set(of_laws())) == len(LAWS)


def test_they_are_the_same_in_every_process() -> None:
    """NumPyro takes the order of a distribution's leaves from a set of names."""
    here = Path(__file__).parent
    script = (
        f"import sys; sys.path[:0] = {[str(here), str(here.parent)]!r}\n"
        "from test_fingerprint import of_laws, of_program; print(*of_laws(), of_program())"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.split() == [*of_laws(), of_program()]


def test_use_changes_nothing() -> None:
    before = of_laws()
    for law in {type(law): law for law in LAWS}.values():
        if not isinstance(law, dist.ImproperUniform):
            law.log_prob(law.sample(jax.random.key(0)))
        _ = law.support, jax.tree.flatten(law)
    assert of_laws() == before
    assert [fingerprint(jax.tree.map(lambda leaf: leaf, law)) for law in LAWS] == before


def law_in_a_closure(loc: float) -> dist.Distribution:
    class Shifted(dist.Normal):
        def log_prob(self, value: Any) -> Any:
            return super().log_prob(value - loc)

    return Shifted(0.0, 1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda at: np.asarray([0.0, at]), lambda at: jnp.full(int(at) + 1, 1.0), float, str, int,
        lambda at: np.float64(at), lambda at: jnp.zeros(2, (jnp.float32, jnp.int32)[int(at)]),
        lambda at: np.zeros((2, 3)).reshape((2, 3) if at else (3, 2)),
        lambda at: [[], [at]], lambda at: [[at], []] if at else [[], [0.0]], lambda at: {"a": at},
        lambda at: {"a": at} if at else {"b": at}, lambda at: {at, 3.0},
        lambda at: (None, at)[int(at)],
        lambda at: np.asarray(["x", at], object), lambda at: jax.random.key(int(at)),
        lambda at: jax.random.key(0, impl=("rbg", "unsafe_rbg")[int(at)]),
        lambda at: np.datetime64(int(at), "s"), lambda at: np.asarray(["a", "b"])[: int(at)],
        lambda at: Bernoulli(("logit", "probit")[int(at)]), lambda at: Gaussian(1.0 + at),
        lambda at: MatrixFactorization(2, item_scale=dist.HalfNormal(1.0 + at)),
        lambda at: MatrixFactorization(2, Gaussian(dist.HalfNormal(1.0 + at))),
        lambda at: MatrixFactorization(2, user_scale=NormalWishart(1.0 + at)),
        lambda at: Network((3,), weight_scale=(HALF, dist.HalfNormal(1.0 + at))),
        law_in_a_closure,
    ],
)  # fmt: skip
def test_contents_count(make: Callable[[float], Any]) -> None:
    assert fingerprint(make(0.0)) == fingerprint(make(0.0))
    assert fingerprint(make(0.0)) != fingerprint(make(1.0))


def test_the_order_of_mappings_and_where_an_array_is_do_not_count() -> None:
    first = {"a": np.arange(6.0)[::2], "b": {"x", "y", "z"}}
    second = {"b": {"z", "y", "x"}, "a": jnp.asarray([0.0, 2.0, 4.0], np.float32)}
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(first) == fingerprint(second | {"a": np.asarray([0.0, 2.0, 4.0])})
    assert fingerprint(jnp.ones(2)) == fingerprint(np.ones(2, jnp.ones(2).dtype))


def test_what_has_no_contents_is_refused() -> None:
    with pytest.raises(TypeError, match="A function has no contents by which one run is told"):
        fingerprint({"activation": law_in_a_closure})
    first, second = object(), object()
    assert fingerprint(first, others=id) == fingerprint(first, others=id)
    assert fingerprint(first, others=id) != fingerprint(second, others=id)
