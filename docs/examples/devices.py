# %% [markdown]
# # Many devices
#
# **My ratings don't fit on one accelerator. What do I change?** One argument. Four devices are
# simulated here, which makes nothing faster on a CPU, but shows that the answers are the same.

# %%
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import numpy as np

from probmf import Gaussian, MatrixFactorization, fit_als
from probmf.datasets import simulate_ratings
from probmf.diagnostics import resources

ratings = simulate_ratings(
    key=0, num_users=60, num_items=40, num_ratings=800, num_factors=2, noise_scale=0.5
).ratings
model = MatrixFactorization(2, Gaussian(0.5))
jax.devices()

# %% [markdown]
# ## Least squares
#
# Users and items are dealt out like cards, and each device solves for its own. After each
# half-sweep the new rows are gathered, once, so what is sent between devices depends on the number
# of rows, never on the number of ratings.

# %%
one = fit_als(model, ratings, key=0, num_sweeps=5, tol=0)
four = fit_als(model, ratings, key=0, num_sweeps=5, tol=0, devices=4)
print(one.history.objective[-1], four.history.objective[-1])

# %%
one, four = (fit.samples["user_factors"] for fit in (one, four))
print(f"largest difference of a factor: {np.max(np.abs(one - four)):.1e}")

# %% [markdown]
# The difference is rounding, in single precision. `sample_gibbs(..., devices=4)` shares each sweep
# in the same way. A row's random numbers depend only on the key and the row, so draws agree, too,
# whatever the number of devices.
#
# `devices` may also be a list of JAX devices or your own `jax.sharding.Mesh`: [beyond one
# device](../devices.md).

# %%
print(resources())
