# %% [markdown]
# # Mixed models, beside lme4 and brms
#
# **How do I write the model that I know from R, and what do I get?** Two simulated data sets look
# like those that lme4's users know: reaction times of 18 people over ten days without sleep, and
# lectures rated by students.

# %%
import numpy as np

from probmf import MixedEffects, fit_marginal, plots, sample_marginal
from probmf.diagnostics import resources
from probmf.results import anova

rng = np.random.default_rng(1)
subject = np.repeat([f"s{number:02d}" for number in range(18)], 10)
days = np.tile(np.arange(10), 18)
own = (rng.normal(size=(18, 2)) * [24.7, 5.9]).repeat(10, axis=0)
reaction = 251.4 + own[:, 0] + (10.5 + own[:, 1]) * days + rng.normal(0, 25.6, 180)
sleep = {"reaction": reaction, "days": days, "subject": subject}

# %% [markdown]
# ## An intercept and a slope for everybody
#
# | | |
# | --- | --- |
# | lme4 | `lmer(reaction ~ 1 + days + (1 + days \| subject), sleep)` |
# | brms | `brm(reaction ~ 1 + days + (1 + days \| subject), sleep)` |
# | probmf | `MixedEffects("reaction ~ 1 + days + (1 + days \| subject)")` |
#
# lme4's estimates come from `fit_marginal`, here by restricted maximum likelihood:

# %%
model = MixedEffects("reaction ~ 1 + days + (1 + days | subject)")
fit_marginal(model, sleep, objective="restricted").summary()

# %% [markdown]
# The posterior, as from brms, comes from `sample_marginal`. Intercepts and slopes are integrated
# out exactly, so the draws are independent, and no chains have to converge.

# %%
fit = sample_marginal(model, sleep, key=0, num_samples=1000)
fit.summary()

# %%
plots.effects(fit, "subject", column="days")

# %% [markdown]
# ## Does the slope vary at all?
#
# As in R, fit both models by maximum likelihood, and compare them.

# %%
parallel = MixedEffects("reaction ~ 1 + days + (1 | subject)")
anova(fit_marginal(parallel, sleep), fit_marginal(model, sleep))

# %% [markdown]
# ## A prediction for somebody new
#
# `unseen="prior"` gives people who were not in the data the distribution of effects that was
# learned from the others.

# %%
new = {"days": [0, 9, 9], "subject": ["s00", "s00", "somebody else"]}
fit.predict(new, kind="response", interval=0.9, unseen="prior")

# %% [markdown]
# ## Crossed effects
#
# 60 students rate lectures of 30 lecturers in 5 departments. Students and lecturers are crossed,
# and each lecturer belongs to one department.
#
# | | |
# | --- | --- |
# | lme4, brms | `y ~ service + (1 \| student) + (1 \| lecturer) + (1 \| department)` |
# | probmf | the same |

# %%
student, lecturer = rng.integers(0, 60, 900), rng.integers(0, 30, 900)
department, service = lecturer % 5, rng.integers(0, 2, 900)
score = 3.3 - 0.1 * service + 0.3 * rng.normal(size=60)[student]
score += 0.5 * rng.normal(size=30)[lecturer] + 0.2 * rng.normal(size=5)[department]
lectures = {
    "y": score + 1.2 * rng.normal(size=900), "service": service, "student": student,
    "lecturer": lecturer, "department": department,
}  # fmt: skip

crossed = MixedEffects("y ~ service + (1 | student) + (1 | lecturer) + (1 | department)")
rated = sample_marginal(crossed, lectures, key=0, num_samples=1000)
rated.summary()

# %% [markdown]
# How much of the variance comes from whom? Draws of any function of the parameters are one line of
# NumPy.

# %%
names = ("student_scale", "lecturer_scale", "department_scale", "noise_scale")
variance = np.stack([rated.samples[name].reshape(-1) ** 2 for name in names])
for name, share in zip(names, variance / variance.sum(axis=0), strict=True):
    low, high = np.quantile(share, [0.05, 0.95])
    print(f"{name.removesuffix('_scale'):10} {share.mean():4.0%}   {low:3.0%} to {high:3.0%}")

# %% [markdown]
# The departments' share is hardly known: five departments say little about how departments vary.
# More terms, priors and responses are in [mixed models](../mixed.md).

# %%
print(resources())
