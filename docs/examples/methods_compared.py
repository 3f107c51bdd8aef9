# %% [markdown]
# # A point, an approximation or draws?
#
# **What do I gain by waiting longer?** The same ratings are fitted by methods from the fastest to
# the most careful one. What does each cost, how well does it predict, and do its intervals have
# the right coverage?

# %%
import time

import numpy as np
import numpyro.distributions as dist

from probmf import (
    Gaussian,
    MatrixFactorization,
    fit_als,
    fit_variational,
    metrics,
    sample_gibbs,
)  # fmt: skip
from probmf.datasets import simulate_ratings
from probmf.diagnostics import resources

simulated = simulate_ratings(
    key=0, num_users=100, num_items=60, num_ratings=1500, num_factors=2, user_scale=0.7,
    item_scale=0.7,
)  # fmt: skip
train, test = simulated.ratings.split(key=0, test_fraction=0.2)

# %% [markdown]
# Least squares need the scales as numbers. The others learn them: here from half-normal priors.

# %%
half = dist.HalfNormal(1.0)
learned = MatrixFactorization(
    2, Gaussian(half), user_scale=half, item_scale=1.0, user_bias_scale=half, item_bias_scale=half
)
known = MatrixFactorization(
    2, Gaussian(0.5), user_scale=0.7, item_scale=0.7, user_bias_scale=0.3, item_bias_scale=0.4
)
guessed = MatrixFactorization(2, Gaussian(1.0))  # all scales one, as by default

runs = {
    "ALS, scales one": lambda: fit_als(guessed, train, key=0),
    "ALS, true scales": lambda: fit_als(known, train, key=0),
    "variational": lambda: fit_variational(learned, train, key=0, covariance="block"),
    "Gibbs": lambda: sample_gibbs(
        learned, train, key=0, num_warmup=100, num_samples=600, num_chains=2
    ),
}  # fmt: skip
print("                   RMSE   90 % hold  width  seconds")
for name, run in runs.items():
    began = time.perf_counter()
    fit = run()
    seconds = time.perf_counter() - began
    found = fit.predict(test, interval=0.9)
    print(
        f"{name:17} {metrics.rmse(test.rating, found.mean):6.3f}  "
        f"{metrics.coverage(test.rating, found.lower, found.upper):8.1%}  "
        f"{np.mean(found.upper - found.lower):6.2f}  {seconds:7.1f}"
    )

# %% [markdown]
# The seconds are mostly compilation, which a second call on data of the same shapes does without.
# The errors are near each other; the intervals are not. Scales that are left at one give intervals
# which hold every rating and say nothing. If you don't know your scales, let `fit_variational` or
# `sample_gibbs` learn them.
#
# NUTS samples the same posterior as Gibbs, but takes a hundred times as long: it is for models
# that Gibbs sampling doesn't take. [Which method when](../which_method.md) has such a table for
# real ratings.

# %%
print(resources())
