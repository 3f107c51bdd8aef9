"""Reaction times over days without sleep: from a formula to the posterior and a picture of it."""

import numpy as np

from probmf import MixedEffects, diagnostics, fit_marginal, plots, sample_marginal


def simulate(num_subjects=18, num_days=10, seed=1):
    """A table like lme4's sleepstudy, whose estimates are taken for the truth."""
    rng = np.random.default_rng(seed)
    subject = np.repeat([f"s{i:02d}" for i in range(num_subjects)], num_days)
    days = np.tile(np.arange(num_days), num_subjects)
    effects = rng.normal(size=(num_subjects, 2)) * [24.7, 5.9]
    own = effects.repeat(num_days, axis=0)
    reaction = 251.4 + own[:, 0] + (10.5 + own[:, 1]) * days + rng.normal(0, 25.6, len(days))
    return {"reaction": reaction, "days": days, "subject": subject}


def main():
    table = simulate()
    model = MixedEffects("reaction ~ 1 + days + (1 + days | subject)")

    point = fit_marginal(model, table, objective="restricted")
    print("Restricted maximum likelihood: scales", point.samples["subject_scale"].ravel().round(1))

    fit = sample_marginal(model, table, key=0, num_samples=500)
    info = fit.sampling.info
    print(f"{info['num_densities']} densities, Pareto k-hat {info['k_hat']:.2f}")
    print(fit.summary(interval=0.9))
    print(diagnostics.summary(fit))

    new = {"days": [0, 9, 9], "subject": ["s00", "s00", "someone else"]}
    print(fit.predict(new, kind="response", interval=0.9, unseen="prior", key=1))
    plots.effects(fit, "subject").savefig("subjects.png")


if __name__ == "__main__":
    main()
