# %% [markdown]
# # Nine experiments, with and without their effects
#
# **How much does it help to integrate effects out?** Lai, Domke and Sheldon (2024) asked this for
# nine experiments of cognitive science, whose models are those of a textbook for brms. Here are
# the same nine models, with their priors, on data of the same shapes.

# %%
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpyro.distributions as dist
import pandas as pd

import probmf
from probmf import MixedEffects, sample_marginal, sample_nuts
from probmf.diagnostics import resources


class Experiment(NamedTuple):
    likelihood: str
    rows: int
    groups: dict[str, int]  # subjects, items: how many
    levels: tuple  # values of the predictor x
    truth: tuple[float, float, float]  # intercept, effect of x, noise, to simulate
    intercept: dist.Distribution = dist.Normal(0, 10)  # the paper's priors
    effect: dist.Distribution = dist.Normal(0, 5)
    scale: float = 5.0  # of the half-Normal priors of the effects' scales
    noise: float = 5.0  # the same of the noise


def crossed(subject, item, **more):
    return {"subject": subject, "item": item, **more}


TIMES = "lognormal"  # reading and reaction times in milliseconds
CLOZE = tuple(np.linspace(0, 1, 9))
EXPERIMENTS = {
    "dillonE1": Experiment(TIMES, 2855, crossed(40, 48), (0, 1), (6.4, 0.1, 0.5)),
    "dutch": Experiment(
        "gaussian", 372, crossed(24, 16), (-1, 1), (6.3, -0.03, 0.4), scale=1.0
    ),
    "eeg": Experiment(
        "gaussian", 2863, crossed(37, 80), CLOZE, (1.5, 2.3, 12.0),
        effect=dist.Normal(0, 10), scale=20.0, noise=50.0,
    ),
    "english": Experiment(
        "gaussian", 768, crossed(48, 16), (-1, 1), (6.2, 0.05, 0.4), scale=1.0
    ),
    "gg05": Experiment(
        TIMES, 672, crossed(42, 16, experiment=2), (-1, 1), (5.9, 0.06, 0.4)
    ),
    "mandarin": Experiment(TIMES, 547, crossed(37, 15), (-0.5, 0.5), (6.1, -0.07, 0.5)),
    "mandarin2": Experiment(TIMES, 595, crossed(40, 15), (-0.5, 0.5), (6.0, -0.08, 0.5)),
    "pupil": Experiment(
        "gaussian", 2228, {"subject": 20}, (0, 1, 2, 3, 4, 5), (1000.0, 60.0, 120.0),
        dist.Normal(1000, 500), dist.Normal(0, 100), 1000.0, 1000.0,
    ),
    "stroop": Experiment(
        TIMES, 3058, {"subject": 50}, (-1, 1), (6.6, 0.03, 0.3),
        dist.Normal(6, 1.5), dist.Normal(0, 0.01), 1.0,
    ),
}  # fmt: skip


def model_of(name):
    one = EXPERIMENTS[name]
    formula = " + ".join(["y ~ x", *(f"(1 + x | {group})" for group in one.groups)])
    priors = {f"{group}_scale": dist.HalfNormal(one.scale) for group in one.groups}
    priors["coefficients"] = {"Intercept": one.intercept, "x": one.effect}
    if name != "stroop":
        priors["noise_scale"] = dist.HalfNormal(one.noise)
        return MixedEffects(formula, likelihood=one.likelihood, priors=priors, centered=False)
    normal = dist.Normal(0, 1)
    priors["noise_coefficients"] = {"Intercept": normal, "x": normal}
    priors["noise_subject_scale"] = dist.HalfNormal(1.0)
    noisy = {"scale_formula": "~ x + (1 + x | subject)", "centered": False}
    return MixedEffects(formula, likelihood=TIMES, priors=priors, **noisy)


# %% [markdown]
# Five of the nine data sets are read from files, where a checkout of probmf has them beside it. The
# others, and without the files all nine, are simulated. Two shapes differ from the paper's: *eeg*
# is one of nine laboratories, to be quick; and *gg05* has effects of the experiment, too, of whose
# number we don't know, and took two.

# %%
FILES = {  # name: subject, item, predictor, response
    "dutch": ("subject", "item", "condition", "NP1"),
    "english": ("subject", "item", "condition", "NP1"),
    "mandarin": ("subj", "item", "type", "rt"),
    "pupil": ("subj", None, "load", "p_size"),
    "stroop": ("subj", None, "condition", "RT"),
}
FOLDER = Path(probmf.__file__).resolve().parents[2] / "shared" / "data" / "cogsci"


def read(name):
    frame = pd.read_parquet(FOLDER / f"{name}.parquet")
    subject, item, x, y = FILES[name]
    values = frame[x]
    if not pd.api.types.is_numeric_dtype(values):
        codes = np.unique(values, return_inverse=True)[1]
        values = np.take(EXPERIMENTS[name].levels, codes)
    table = {"y": frame[y].astype(float), "x": values, "subject": frame[subject]}
    return table | ({"item": frame[item]} if item else {})


def simulate(name, seed):
    rng, one = np.random.default_rng(seed), EXPERIMENTS[name]
    intercept, effect, noise = one.truth
    sizes = one.groups["subject"], one.groups.get("item", 1)
    rounds = -(-one.rows // np.prod(sizes))  # of the whole crossing, of which the last is partial
    cells = np.concatenate([rng.permutation(np.prod(sizes)) for _ in range(rounds)])
    subject, item = np.unravel_index(cells[: one.rows], sizes)
    x = np.take(one.levels, rng.integers(len(one.levels), size=one.rows)).astype(float)
    table = {"x": x, "subject": subject, "item": item, "experiment": subject % 2}
    score, log_noise = intercept + effect * x, np.log(noise)
    for group, size in one.groups.items():
        own = 0.5 * noise * rng.normal(size=(size, 2)) * [1.0, 0.5]
        score += own[table[group], 0] + own[table[group], 1] * x
    if name == "stroop":
        log_noise = log_noise + 0.1 * x + 0.3 * rng.normal(size=50)[subject]
    y = score + np.exp(log_noise) * rng.normal(size=one.rows)
    return {"y": np.exp(y) if one.likelihood == TIMES else y, **table}


# %% [markdown]
# Each model is sampled with its effects, by NUTS, and with all coefficients and effects integrated
# out, by `sample_marginal`. With effects they are non-centred, as in brms. In the Stroop experiment
# the noise has effects of its own, which can't be integrated out, so NUTS samples these together
# with the scales. Each call is made twice: the second finds the programs compiled, and its seconds
# count. ESS is the effective number of draws, of 200, for the parameter that mixes worst.
#
# Nearly all of the time is compilation, of two programs for each model, so two models of
# different shapes are run here. All nine are `NAMES = tuple(EXPERIMENTS)`.

# %%
NAMES, DRAWS = ("dutch", "pupil"), 200
settings = {"num_warmup": DRAWS, "num_samples": DRAWS, "num_chains": 1, "max_tree_depth": 7}
print("                       NUTS             integrated out")
print("                       ESS  a second    ESS  a second  ratio")
for name in NAMES:
    real = name in FILES and FOLDER.is_dir()
    data = read(name) if real else simulate(name, seed=list(EXPERIMENTS).index(name))
    model, line, rates = model_of(name), f"{name:9} {'real' if real else 'simulated':9}", []
    for integrated in ((), "all"):
        for key in (0, 1):
            # Few draws, to be quick: a DiagnosticWarning says so.
            if integrated and name != "stroop":
                fit = sample_marginal(model, data, key=key, num_samples=DRAWS)
            else:
                fit = sample_nuts(model, data, key=key, marginalize=integrated, **settings)
        worst = fit.summary().to_pandas().ess_bulk.min()
        effective = min(fit.sampling.info.get("effective", worst), DRAWS)
        rates.append(effective / fit.sampling.seconds)
        line += f"  {effective:5.0f}  {rates[-1]:8.1f}"
    print(f"{line}  {rates[1] / rates[0]:5.1f}")

# %% [markdown]
# And all nine, by the same lines (2026-11-30, two cores of an AMD EPYC, 83 s in all; what so short
# a chain is worth is itself rough):
#
# | experiment | rows | data | ESS, NUTS | ESS/s | ESS, integrated out | ESS/s | ratio |
# | --- | --- | --- | --- | --- | --- | --- | --- |
# | dillonE1 | 2,855 | simulated | 35 | 20 | 200 | 730 | 37 |
# | dutch | 372 | real | 48 | 205 | 200 | 680 | 3.3 |
# | eeg | 2,863 | simulated | 4 | 1.9 | 200 | 659 | 350 |
# | english | 768 | real | 44 | 99 | 200 | 648 | 6.5 |
# | gg05 | 672 | simulated | 11 | 11 | 200 | 537 | 49 |
# | mandarin | 547 | real | 62 | 159 | 200 | 867 | 5.4 |
# | mandarin2 | 595 | simulated | 43 | 108 | 200 | 919 | 8.5 |
# | pupil | 2,228 | real | 9 | 5.9 | 200 | 1,773 | 302 |
# | stroop | 3,058 | real | 25 | 77 | 35 | 53 | 0.7 |
#
# After integration only a few scales and correlations are left, without a funnel, and importance
# sampling draws them independently. Where NUTS has so few effective draws (4 or 9 of 200), it has
# not yet arrived: it needs more warm-up. The paper's authors find it always better to integrate;
# so do we, but for *stroop*, whose effects of the noise stay with NUTS either way: at so few draws
# it gains nothing there. Longer runs on the real data are in the
# [benchmarks](../benchmarks.md#small-mixed-models).

# %%
print(resources())
