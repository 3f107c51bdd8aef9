"""A NumPyro model as you may have written it, sampled with its Gaussian effects integrated out.

Scores of pupils in classes of schools, with a slope of their own for each school. Run it anywhere:
it needs no data and writes nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from arviz_base import from_dict
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS

from probmf import marginalize

SCHOOLS, CLASSES = 8, 24


def model(school, classroom, hours, score=None):
    """Correlated intercepts and slopes by school, intercepts by class."""
    mean = numpyro.sample("mean", dist.Normal(jnp.array([50.0, 0.0]), 10.0).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(5.0).expand([2]).to_event(1))
    correlation = numpyro.sample("correlation", dist.LKJCholesky(2, 2.0))
    class_scale = numpyro.sample("class_scale", dist.HalfNormal(5.0))
    noise = numpyro.sample("noise", dist.HalfNormal(5.0))
    with numpyro.plate("schools", SCHOOLS):
        factor = scale[:, None] * correlation
        line = numpyro.sample("line", dist.MultivariateNormal(mean, scale_tril=factor))
    with numpyro.plate("classes", CLASSES):
        shift = numpyro.sample("shift", dist.Normal(0.0, class_scale))
    expected = line[school, 0] + line[school, 1] * hours + shift[classroom]
    with numpyro.plate("pupils", len(hours)):
        numpyro.sample("score", dist.Normal(expected, noise), obs=score)


# Three classes in each school, twelve pupils in each class.
rng = np.random.default_rng(0)
classroom = np.arange(12 * CLASSES) % CLASSES
school = classroom // 3
hours = rng.normal(size=len(classroom))
slope = 2.0 + 1.5 * rng.normal(size=SCHOOLS)
score = 55 + 4 * rng.normal(size=SCHOOLS)[school] + slope[school] * hours
score += 2 * rng.normal(size=CLASSES)[classroom] + 3 * rng.normal(size=len(classroom))
data = (school, classroom, hours, score)

# The one line that is new: names of the effects.
marginal = marginalize(model, ["mean", "line", "shift"])

# NumPyro's own vectors need this where broadcasting is strict; by default it is not.
with jax.numpy_rank_promotion("allow"):
    # NUTS(model) would sample the effects as well, in many more steps for a draw.
    mcmc = MCMC(
        NUTS(marginal), num_warmup=200, num_samples=200, num_chains=2,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.PRNGKey(0), *data, extra_fields=("num_steps",))
    rest = mcmc.get_samples(group_by_chain=True)
    steps = np.mean(mcmc.get_extra_fields()["num_steps"])
    effective = np.min(effective_sample_size(rest["scale"]))
    print(f"{steps:.1f} steps for a draw, {effective:.0f} effective draws of 400")

    # The effects, drawn from their exact joint distribution given each draw of the rest.
    effects = marginal.recover(1, rest, *data)

posterior = from_dict(
    {"posterior": {**rest, **effects}, "observed_data": {"score": score}},
    dims={"line": ["school", "coefficient"], "shift": ["class"], "mean": ["coefficient"]},
    coords={"coefficient": ["intercept", "slope"]},
)["posterior"]
slopes = posterior["line"].sel(coefficient="slope")
print("\nschool  true slope  estimate")
for number, true in enumerate(slope):
    own = slopes.isel(school=number)
    print(f"{number:6}  {true:10.2f}  {float(own.mean()):8.2f} ± {float(own.std()):.2f}")
