# %% [markdown]
# # Yes or no, and how many
#
# **My response is not a number with Gaussian noise. What changes?** Only the likelihood. Two
# examples: pupils who pass or don't, and calls to offices.

# %%
import numpy as np

from probmf import MixedEffects, fit_marginal, plots, sample_marginal
from probmf.diagnostics import resources

rng = np.random.default_rng(0)
school, hours = np.repeat(np.arange(20), 15), rng.uniform(0, 5, 300)
logit = -1.5 + 0.8 * hours + rng.normal(0, 1, 20)[school]
pupils = {"passed": rng.random(300) < 1 / (1 + np.exp(-logit)), "hours": hours, "school": school}

# %% [markdown]
# ## Yes or no
#
# In lme4 this is `glmer(passed ~ hours + (1 | school), binomial)`. The integral over the schools'
# effects has no closed form now, but adaptive quadrature is practically exact, and takes
# milliseconds.

# %%
logistic = MixedEffects("passed ~ hours + (1 | school)", likelihood="bernoulli")
fit_marginal(logistic, pupils, num_nodes=9).summary()

# %% [markdown]
# For the posterior, effects are integrated out by the same quadrature. The few numbers that are
# left are drawn independently, by importance sampling.

# %%
fit = sample_marginal(logistic, pupils, key=0, num_samples=1000)
fit.summary()

# %% [markdown]
# What one more hour does to the probability of passing, at three places of the curve:

# %%
fit.comparisons(fit.datagrid(hours=[0, 2, 4]), variables="hours", level="population")

# %% [markdown]
# ## Counts
#
# There are calls to 25 offices on weekdays and weekends, over periods of different length. With
# the offset, rates are per day, and `negativebinomial` lets the counts vary more than a Poisson's.

# %%
office, weekend = np.repeat(np.arange(25), 10), np.tile([0, 0, 0, 0, 0, 0, 0, 1, 1, 1], 25)
days = rng.integers(1, 8, 250)
rate = days * np.exp(1.2 - 0.7 * weekend + rng.normal(0, 0.5, 25)[office])
calls = rng.poisson(rate * rng.gamma(3.0, 1 / 3.0, 250))
table = {"calls": calls, "weekend": weekend, "days": days, "office": office}

formula = "calls ~ weekend + offset(np.log(days)) + (1 | office)"
counted = sample_marginal(
    MixedEffects(formula, likelihood="negativebinomial"), table, key=0, num_samples=1000
)
counted.summary()

# %% [markdown]
# Weekends have $e^{-0.7}$ times as many calls, about half. The concentration says how much counts
# of one rate vary: a Poisson's would be infinite. Do simulated calls look like ours?

# %%
plots.predictive_check(counted, key=0)

# %% [markdown]
# ## And others
#
# Stars that are levels rather than measurements take `likelihood="ordinal"` (R's `clmm`, brms's
# `cumulative()`), successes among trials `"binomial"`, counts with too many zeros
# `"zeroinflatedpoisson"` or `"hurdlepoisson"`, numbers with outliers `"studentt"`, positive
# numbers `"gamma"` or `"lognormal"`, shares `"beta"`.
#
# All responses and their links are listed in [mixed models](../mixed.md#responses). Ratings of
# users and items take the same likelihoods: [models](../models.md).

# %%
print(resources())
