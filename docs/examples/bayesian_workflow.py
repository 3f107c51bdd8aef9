# %% [markdown]
# # A Bayesian workflow with ArviZ
#
# **Which model of these ratings should I believe, and can I trust the draws?** We take the steps
# of Gelman and others (2020): look at the prior, fit, check the sampler, check the fit against the
# data, compare models, and see what the prior did. 40 people have rated 25 films, 600 times in
# all; 15 % of the ratings are set aside.

# %%
import warnings

import arviz_stats
import numpy as np
import numpyro.distributions as dist

from probmf import Gaussian, MatrixFactorization, diagnostics, metrics, plots, sample_gibbs
from probmf.datasets import simulate_ratings
from probmf.diagnostics import resources

simulated = simulate_ratings(
    key=0, num_users=40, num_items=25, num_ratings=600, num_factors=2, user_scale=0.8,
    item_scale=0.8, popularity=0.5,
)  # fmt: skip
train, test = simulated.ratings.split(key=0, test_fraction=0.15)

# %% [markdown]
# ## The model and its prior
#
# Every scale has a half-normal prior.


# %%
def factorization(num_factors, width=1.0, biases=True):
    """A factorization whose scales are learned."""
    half = dist.HalfNormal(width)
    return MatrixFactorization(
        num_factors, Gaussian(half), intercept=dist.Normal(3.0, 1.0), user_scale=half,
        item_scale=half, user_bias=biases, item_bias=biases, user_bias_scale=half,
        item_bias_scale=half,
    )  # fmt: skip


model = factorization(2)

# %% [markdown]
# ## Fit, and look at the sampler

# %%
SETTINGS = {"num_warmup": 200, "num_samples": 800, "num_chains": 4, "thin": 8}
fit = sample_gibbs(model, train, key=0, **SETTINGS)
diagnostics.summary(fit, var_names=["prediction", "noise_scale", "user_scale", "intercept"])

# %% [markdown]
# What ratings does the model expect before it has seen any? ArviZ's groups `prior` and
# `prior_predictive` come from `to_arviz(prior=...)`; the picture says whether the prior takes
# data like ours for possible.

# %%
plots.predictive_check(fit, key=0, group="prior", num_samples=200)

# %% [markdown]
# The prior is wider than the data, but of the same order of magnitude: it lets the data speak.
#
# R-hat, which compares the chains with each other, is near one for what the data identify. Factors
# are not judged, because they can be rotated without any change. A rank plot shows where chains
# disagree:

# %%
plots.ranks(fit, var_names=["noise_scale", "intercept"])

# %% [markdown]
# ## Does the model make data like ours?

# %%
plots.predictive_check(fit, key=0)

# %% [markdown]
# ## Do factors help, and do biases?
#
# We compare ArviZ's leave-one-out scores, and the error on the ratings that were set aside, which
# no model has seen. The score, elpd, estimates the log density of a rating that the model has not
# seen, summed over all ratings (higher is better); p is the effective number of parameters, and
# a Pareto k above 0.7 says that leaving this rating out would change the fit a lot.

# %%
# In some the chains agree a little less than they should: a DiagnosticWarning says so.
candidates = {
    "biases only": factorization(0),
    "2 factors": model,
    "2, no biases": factorization(2, biases=False),
}
fits = {"2 factors": fit}
for name, one in candidates.items():
    if name not in fits:
        fits[name] = sample_gibbs(one, train, key=0, **SETTINGS)
for name in candidates:
    tree = fits[name].to_arviz(log_likelihood=True)
    with warnings.catch_warnings(action="ignore"):  # of high Pareto k, which are counted below
        scores = arviz_stats.loo(tree, var_name="rating", pointwise=True)
    error = metrics.rmse(test.rating, fits[name].predict(test, interval=None).mean)
    bad = np.mean(scores.pareto_k.values > 0.7)
    print(f"{name:13} elpd {scores.elpd:7.1f} ± {scores.se:4.1f}, p {scores.p:5.1f}, ", end="")
    print(f"k above 0.7: {bad:3.0%}, held-out RMSE {error:.3f}")

# %% [markdown]
# With two factors a tenth of the Pareto k are above 0.7: a film with three ratings moves a lot
# without one of them. The leave-one-out score is then too good, as for every flexible
# factorization. The held-out error has no such fault, and agrees on what matters: factors help,
# and so do biases.
#
# ## What did the prior do?
#
# We fit again with priors that are three times as wide for all scales.

# %%
# A DiagnosticWarning would say that its chains agree a little less than they should.
wide = sample_gibbs(
    factorization(2, width=3.0), train, key=0, **SETTINGS
)  # fmt: skip
for name in ("noise_scale", "user_scale", "user_bias_scale", "intercept"):
    one, other = fit.traces.values[name], wide.traces.values[name]
    print(f"{name:16} {one.mean():6.3f} ± {one.std():.3f}, ", end="")
    print(f"with the wide prior {other.mean():6.3f} ± {other.std():.3f}")
change = np.abs(fit.predict(test).mean - wide.predict(test).mean).max()
print(f"largest change of a prediction: {change:.3f}")

# %% [markdown]
# The prior matters little for predictions. The data determine only the product of the users' and
# the items' scale, so each of the two follows its prior.

# %%
print(resources())
