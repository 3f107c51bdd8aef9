"""Ordinal ratings in a factorization: its density, and data and options that it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density

from probmf import MatrixFactorization, Network, Ordinal, Ratings
from probmf.likelihoods.links import LinkName


def ratings_of(values: list[float]) -> Ratings:
    size = len(values)
    return Ratings.from_frame({"user": [0] * size, "item": list(range(size)), "rating": values})


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_model_density_equals_the_objective_up_to_a_constant(link: LinkName) -> None:
    with jax.enable_x64(True):
        model = MatrixFactorization(2, Ordinal(4, link=link), user_scale=0.7)
        rng = np.random.default_rng(0)
        data = Ratings.from_frame({
            "user": np.repeat(np.arange(5), 4), "item": np.tile(np.arange(4), 5),
            "rating": np.tile([1.0, 2.0, 3.0, 4.0], 5), "weight": rng.uniform(0.5, 2, 20),
        }, weight="weight")  # fmt: skip
        (observations,) = model.arguments(data)
        assert float(observations.base_score) == 0.0
        gaps = []
        gap = jax.jit(
            lambda at: (
                log_density(model, (observations,), {}, at)[0] + model.objective(at, observations)
            )
        )
        for _ in range(4):
            values = {
                site: jnp.asarray(rng.normal(size=shape))
                for site, shape in model.site_shapes(5, 4).items()
            }
            values["cutpoints"] = jnp.asarray(np.sort(rng.normal(0, 2, 3)))
            gaps.append(float(gap(values)))
        np.testing.assert_allclose(gaps, gaps[0], rtol=1e-10)


def test_bad_ratings() -> None:
    model = MatrixFactorization(1, Ordinal(3))
    with pytest.raises(ValueError, match=r"Row 2 has rating 2\.5, .* levels 1, 2, 3 \(2 such rows"):
        model.arguments(ratings_of([1, 2, 2.5, 7, 3]))
    with pytest.raises(ValueError, match=r"No rating is at level 2, .*Leave the level out"):
        model.arguments(ratings_of([1, 3, 1]))
    MatrixFactorization(1, Ordinal(3, (0.0, 1.0))).arguments(ratings_of([1, 3, 1]))
    tenths = np.asarray([0.1, 0.2, 0.3], np.float32).tolist()
    MatrixFactorization(1, Ordinal((0.1, 0.2, 0.3))).arguments(ratings_of(tenths))


def test_levels_are_left_to_the_data_by_mixed_models_only() -> None:
    for make in (MatrixFactorization, Network):
        with pytest.raises(ValueError, match=r"Ordinal\(\) leaves the levels .* Ordinal\(5\)"):
            make(likelihood=Ordinal())
    with pytest.raises(ValueError, match="need the levels"):
        Ordinal(cutpoints=[0.0])


def test_an_intercept_beside_learned_cutpoints_is_refused() -> None:
    with pytest.raises(ValueError, match="can't both be learned"):
        MatrixFactorization(1, Ordinal(3), intercept="learned")
    MatrixFactorization(1, Ordinal(3, (0.0, 1.0)), intercept="learned")
    with pytest.raises(ValueError, match="unobserved_weight"):
        MatrixFactorization(1, Ordinal(3), unobserved_weight=0.1)
