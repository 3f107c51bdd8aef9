"""What users hand to other processes goes through pickle."""

import pickle
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import toys

from probmf import Gaussian, MatrixFactorization, MixedEffects, Network, marginalize
from probmf.data import Vocabulary


def through_pickle[T](value: T) -> T:
    return pickle.loads(pickle.dumps(value))  # noqa: S301  # Made here.


def test_models() -> None:
    half = dist.HalfNormal(1.0)
    models = [
        MatrixFactorization(2, Gaussian(half), user_scale=half),
        Network((3,)),
        MixedEffects("y ~ x + (x | g)", priors={"g_scale": half}),
    ]
    for model in models:
        texts = [re.sub(" at 0x[0-9a-f]+", "", repr(one)) for one in (model, through_pickle(model))]
        assert texts[0] == texts[1]


def test_data() -> None:
    ratings = toys.ratings()
    again = through_pickle(ratings)
    np.testing.assert_array_equal(again.rating, ratings.rating)
    assert through_pickle(ratings.users) == ratings.users
    assert isinstance(again.items, Vocabulary)
    np.testing.assert_array_equal(through_pickle(toys.examples()).x, toys.examples().x)
    design = MixedEffects("y ~ x + (1 | g)").design(toys.mixed())
    np.testing.assert_array_equal(
        through_pickle(design).data.mean.population, design.data.mean.population
    )


def model(group: Any, y: Any) -> None:
    with numpyro.plate("groups", 3):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(u[group], 1.0), obs=y)


def test_a_marginal_model_that_was_used() -> None:
    marginal, data = marginalize(model, "u"), (jnp.arange(3), jnp.ones(3))
    first = marginal.recover(0, {}, *data)["u"]
    np.testing.assert_array_equal(through_pickle(marginal).recover(0, {}, *data)["u"], first)
