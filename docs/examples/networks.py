# %% [markdown]
# # Networks and the landscape of their minima
#
# **Does it matter where the optimizer starts, and which one it is?** With a hidden layer the
# objective has many minima. Many random starts at once show them, here for two interlocked half
# moons and three hidden units.

# %%
import numpy as np
import numpyro.distributions as dist
import optax

from probmf import Bernoulli, Examples, Gaussian, Network, fit_map, plots, sample_nuts
from probmf.diagnostics import resources

rng = np.random.default_rng(0)
angle, lower = rng.uniform(0, np.pi, 200), rng.integers(0, 2, 200)
x = np.where(lower, 1 - np.cos(angle), np.cos(angle)) + 0.15 * rng.normal(size=200)
y = np.where(lower, 0.5 - np.sin(angle), np.sin(angle)) + 0.15 * rng.normal(size=200)
table = {"x": x, "y": y, "moon": np.array(["upper", "lower"])[lower]}
examples = Examples.from_frame(table, response="moon", features=["x", "y"])
examples

# %% [markdown]
# ## Sixteen starts of each optimizer
#
# All starts of an optimizer run as one program. Adam's rate falls along a cosine; L-BFGS needs no
# rate.

# %%
model = Network(hidden=(3,), weight_scale=3.0, bias_scale=3.0, likelihood=Bernoulli())
ways = {
    "momentum": {"optimizer": "momentum", "learning_rate": 0.01},
    "adam": {"optimizer": "adam", "learning_rate": optax.cosine_decay_schedule(0.3, 150)},
    "l-bfgs": {"optimizer": optax.lbfgs()},
}
fits = {
    name: fit_map(model, examples, key=0, num_epochs=150, num_restarts=16, tol=0, **way)
    for name, way in ways.items()
}
lowest = min(np.nanmin(one.history.restarts) for one in fits.values())
for name, one in fits.items():
    ends = np.nanmin(one.history.restarts, axis=1)
    print(f"{name:9} best {ends.min():.2f}, worst {ends.max():.2f}, ", end="")
    print(f"{np.sum(ends <= 1.01 * lowest)} of 16 within 1 % of the lowest")

# %%
plots.optimization({name: one.history for name, one in fits.items()})

# %% [markdown]
# One start would have told little. `num_restarts` costs less than you may expect, and the best
# start is kept.
#
# ## A posterior instead of a minimum
#
# The same networks are NumPyro models. Where there are no data, the draws differ more.

# %%
inputs = np.linspace(-2, 2, 30)
curve = Examples.from_arrays(inputs[:, None], np.sin(2 * inputs) + 0.1 * rng.normal(size=30))
bayesian = Network(hidden=(5,), likelihood=Gaussian(dist.HalfNormal(1.0)), weight_scale=2.0)
# Few draws, to be quick: a DiagnosticWarning says so.
draws = sample_nuts(bayesian, curve, key=0, num_warmup=100, num_samples=100, num_chains=2)
for place in (0.0, 3.0, 4.0):
    found = draws.predict(np.array([[place]]))
    print(f"at {place:.0f}: {found.mean[0]:5.2f} ± {found.sd[0]:.2f}")

# %% [markdown]
# Ridge, logistic and softmax regression are [networks](../networks.md) without a hidden layer.

# %%
print(resources())
