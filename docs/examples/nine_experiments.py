# %% [markdown]
# # Nine experiments, with and without their effects
#
# **How much does it help to integrate effects out?** Lai, Domke and Sheldon (2024) asked this for
# nine experiments of cognitive science, with models as they are written for brms. Here are the
# same nine models, on small simulated data of the same designs.

# %%
import numpy as np

from probmf import MixedEffects, sample_marginal, sample_nuts
from probmf.diagnostics import resources

TWO = "y ~ x + (1 + x | subject) + (1 + x | item)"
EXPERIMENTS = {  # name: formula, intercept, effect, noise
    "dillonE1": (TWO, 6.4, 0.1, 0.5),
    "dutch": (TWO, 6.3, -0.03, 0.4),
    "eeg": (TWO, 3.0, 1.1, 5.0),
    "english": (TWO, 6.2, 0.05, 0.4),
    "gg05": (TWO + " + (1 + x | experiment)", 5.9, 0.06, 0.4),
    "mandarin": (TWO, 6.1, -0.07, 0.5),
    "mandarin2": (TWO, 6.0, -0.08, 0.5),
    "pupil": ("y ~ x + (1 + x | subject)", 1000.0, 60.0, 120.0),
    "stroop": ("y ~ x + (1 + x | subject)", 6.6, 0.07, 0.3),
}
SUBJECTS, ITEMS = 16, 12


def simulate(intercept, effect, noise, seed):
    """Each subject meets each item once, in one of two conditions."""
    rng = np.random.default_rng(seed)
    subject, item = np.divmod(np.arange(SUBJECTS * ITEMS), ITEMS)
    x, experiment = 2.0 * ((subject + item) % 2) - 1.0, subject % 4
    y = intercept + effect * x + noise * rng.normal(size=len(x))
    for group, size in ((subject, SUBJECTS), (item, ITEMS), (experiment, 4)):
        own = 0.5 * noise * rng.normal(size=(size, 2)) * [1.0, 0.5]
        y += own[group, 0] + own[group, 1] * x
    return {"y": y, "x": x, "subject": subject, "item": item, "experiment": experiment}


# %% [markdown]
# Each model is sampled as it is written, by NUTS, and with all coefficients and effects integrated
# out, by `sample_marginal`. Reaction times are logarithms here, which is the same as
# `likelihood="lognormal"` with milliseconds. In the Stroop experiment the noise has effects of its
# own, which can't be integrated out, so NUTS samples these together with the scales.

# %%
print("             as it is written                        integrated out")
print("             gradients a draw  worst ESS  divergent  densities a draw  ESS")
for seed, (name, (formula, *truth)) in enumerate(EXPERIMENTS.items()):
    data, stroop = simulate(*truth, seed), name == "stroop"
    noise = {"scale_formula": "~ x + (1 | subject)", "centered": ["subject_effects"]}
    model = MixedEffects(formula, **(noise if stroop else {}))
    settings = {"num_warmup": 200, "num_samples": 200, "num_chains": 2, "max_tree_depth": 7}
    # Few draws, to be quick: a DiagnosticWarning says so.
    plain = sample_nuts(model, data, key=0, marginalize=(), **settings)
    if stroop:
        marginal = sample_nuts(model, data, key=0, marginalize="all", **settings)
    else:
        marginal = sample_marginal(model, data, key=0, num_samples=400)
    worst = []
    for fit in (plain, marginal):
        table = fit.summary().to_pandas().set_index("name")
        worst.append(table.ess_bulk[table.index.str.contains("scale")].min())
    info, stats = marginal.sampling.info, marginal.sampling.stats
    cost = stats["n_steps"].mean() if stroop else info["num_densities"] / 400
    effective = worst[1] if stroop else min(info["effective"], 400)
    print(
        f"{name:11} {plain.sampling.stats['n_steps'].mean():17.0f} {worst[0]:10.0f} "
        f"{plain.sampling.stats['diverging'].sum():10d} {cost:17.1f} {effective:4.0f}"
    )

# %% [markdown]
# There are 400 draws of each. After integration only a few scales and correlations are left,
# without a funnel. Importance sampling draws them independently, with two to five evaluations of
# the density a draw, where NUTS takes tens of gradients for a draw that is worth a fraction of an
# independent one. The paper's authors find it always better to integrate, and so do we. Results on
# some of the real data are in the [benchmarks](../benchmarks.md#small-mixed-models).

# %%
print(resources())
