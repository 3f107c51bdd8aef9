"""`marginalize` on many models against the same integral taken from NumPyro's log density."""

import jax
import jax.numpy as jnp
import pytest
from marginal_models import DATA, EXAMPLES, check_draws, integrate, jitted, latents_of

from probmf.inference.marginal import marginalize

NUM_DRAWS = 4000
#: Models whose effects are drawn back; decentered ones are, too, among the forms.
DRAWN = ("correlated", "crossed", "factors", "nested", "two by row")
#: Models that are among the forms as they are.
FORMS = ("masked", "slopes")


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in FORMS])
def test_the_density_is_the_integral_over_the_effects(name: str) -> None:
    example = EXAMPLES[name]
    marginal = marginalize(example.model, example.sites)
    with jax.enable_x64(True):
        latents = latents_of(example)
        density, trace = jitted(marginal, example.data)(latents)
        with jax.numpy_rank_promotion("allow"):  # NumPyro's MultivariateNormal needs it.
            expected = integrate(example, latents)
    assert density == pytest.approx(expected.log_density, rel=1e-9)
    assert not {*example.sites, *example.hidden} & set(trace)
    assert set(latents) < set(trace)
    if name not in DRAWN:
        return
    with jax.enable_x64(True):
        many = {n: jnp.broadcast_to(v, (NUM_DRAWS, *v.shape)) for n, v in latents.items()}
        effects = marginal.recover(1, many, **DATA)
    check_draws(example, effects, expected)


@pytest.mark.parametrize(
    "name", ["slopes and means", pytest.param("crossed", marks=pytest.mark.slow)]
)
def test_single_precision_is_close(name: str) -> None:
    example = EXAMPLES[name]
    data = {n: jnp.asarray(v) for n, v in DATA.items()}
    latents = latents_of(example)
    density, _ = jitted(marginalize(example.model, example.sites), data)(latents)
    assert density.dtype == jnp.float32
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        wide = {n: jnp.asarray(v, jnp.float64) for n, v in latents.items()}
        assert density == pytest.approx(integrate(example, wide).log_density, rel=1e-4)
