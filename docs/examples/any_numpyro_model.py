# %% [markdown]
# # A model of your own, with its effects integrated out
#
# **My NumPyro model has Gaussian effects, and NUTS is slow. Does it have to be?** The example has
# scores of pupils in classes of schools, with an intercept and a slope for each school. The model
# stays as it is written.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from arviz_base import from_dict
from arviz_stats import ess
from numpyro.infer import MCMC, NUTS

from probmf import marginalize, sample_marginal
from probmf.diagnostics import resources

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


# %% [markdown]
# Three classes in each school, twelve pupils in each class:

# %%
rng = np.random.default_rng(0)
classroom = np.arange(12 * CLASSES) % CLASSES
school = classroom // 3
hours = rng.normal(size=len(classroom))
slope = 2.0 + 1.5 * rng.normal(size=SCHOOLS)
score = 55 + 4 * rng.normal(size=SCHOOLS)[school] + slope[school] * hours
score += rng.normal(size=CLASSES)[classroom] + 6 * rng.normal(size=len(classroom))
data = (school, classroom, hours, score)

# %% [markdown]
# ## The one line that is new
#
# Which sites are Gaussian effects, and how they enter, is found by running the model.

# %%
marginal = marginalize(model)
print(marginal.report(*data))

# %% [markdown]
# NUTS takes either model. With the effects integrated out there is no funnel left, and a draw
# takes a fraction of the steps.

# %%
draws, steps = {}, {}
for name, one in {"as written": model, "marginal": marginal}.items():
    mcmc = MCMC(
        NUTS(one), num_warmup=150, num_samples=200, num_chains=2, chain_method="vectorized",
        progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(0), *data, extra_fields=("num_steps",))
    draws[name] = mcmc.get_samples(group_by_chain=True)
    steps[name] = float(np.mean(mcmc.get_extra_fields()["num_steps"]))
    worst = min(float(ess(np.asarray(draws[name]["scale"][..., place]))) for place in range(2))
    print(f"{name:10} {steps[name]:5.1f} steps a draw, {worst:4.0f} effective draws of 400")

# %% [markdown]
# ## The effects come back
#
# `recover` draws them from their exact joint distribution given each draw of the rest. Together
# they are draws from the posterior of the model as it was written, and ArviZ takes them.

# %%
effects = marginal.recover(1, draws["marginal"], *data)
posterior = from_dict(
    {"posterior": {**draws["marginal"], **effects}, "observed_data": {"score": score}},
    dims={"line": ["school", "coefficient"], "shift": ["class"], "mean": ["coefficient"]},
    coords={"coefficient": ["intercept", "slope"]},
)["posterior"]
slopes = posterior["line"].sel(coefficient="slope")
print("school  true slope  estimate")
for number, true in enumerate(slope):
    own = slopes.isel(school=number)
    print(f"{number:6}  {true:10.2f}  {float(own.mean()):8.2f} ± {float(own.std()):.2f}")

# %% [markdown]
# ## Without a chain
#
# Few numbers are left: `mean` is integrated out, too. So they need no chain: `sample_marginal`
# draws them independently, by importance sampling, and the effects with them.

# %%
names = ("school", "classroom", "hours", "score")
tree = sample_marginal(marginal, dict(zip(names, data, strict=True)), key=0, num_samples=400)
own = tree["posterior"]["scale"]
print(f"k-hat {tree.attrs['k_hat']:.2f}, {tree.attrs['effective']:.0f} effective proposals")
print("scales of schools:", own.mean(("chain", "draw")).values.round(2))

# %% [markdown]
# [Any NumPyro model](../marginal.md) lists what can be integrated out, and what is refused.

# %%
print(resources())
