"""Crossed effects of 73,421 lecture ratings: density, cold start, NumPyro's NUTS and nutpie."""

import time

import common
import jax
import jax.numpy as jnp
import mixed_models as mixed
import numpy as np
from threadpoolctl import threadpool_limits

from probmf import fit_marginal, marginalize, sample_marginal, sample_nuts
from probmf.inference.marginal.density import MarginalDensity

#: lme4's estimates, where density and gradient are timed: scales of s, d, dept and the noise.
ESTIMATES = {
    "s_scale": 0.325535,
    "d_scale": 0.514979,
    "dept_scale": 0.078536,
    "noise_scale": 1.177492,
}
CHECK = 237721.7688


def time_density(repeats: int) -> dict:
    """Milliseconds of the log density, and of it with its gradient, on one core and on two."""
    case = mixed.CASES["insteval"]
    with jax.enable_x64(True):
        model = case.model()
        design = model.design(case.frame())
        marginal = marginalize(model, model.effect_sites(design))
        density = MarginalDensity(marginal, model.arguments(design), {})
        host = density.host
        if host is None:
            raise RuntimeError("Made for a CPU: elsewhere the density is a compiled program.")
        shapes = density.unravel(density.vector)
        values = {n: jnp.full(np.shape(shapes[n]), v) for n, v in ESTIMATES.items()}
        vector = np.asarray(density.unconstrain(values))

        def value() -> None:
            _, precision, *trils = (part[0] for part in host.terms(vector[None]))
            host.evidence.log_evidence(trils, float(precision))

        out = {}
        for cores in (1, 2):
            # In the samplers linear algebra is on one core, chains and proposals side by side.
            with threadpool_limits(cores, user_api="blas"):
                for name, call in (
                    ("density", value), ("gradient", lambda: density.score(vector))
                ):  # fmt: skip
                    call()
                    seconds = []
                    for _ in range(repeats):
                        begin = time.perf_counter()
                        call()
                        seconds.append(time.perf_counter() - begin)
                    out[f"{name} {cores}"] = common.milliseconds(seconds)
    return out


def time_likelihood(rounds: int) -> dict:
    case = mixed.CASES["insteval"]
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        fit = fit_marginal(case.model(), case.frame())
        seconds.append(time.perf_counter() - begin)
    return {"first": seconds[0], "again": min(seconds), "deviance": 2 * fit.history.objective[-1]}


def marginal_nuts(warmup: int, draws: int) -> dict:
    """NUTS with everything integrated out, two chains side by side."""
    case = mixed.CASES["insteval"]
    fit = sample_nuts(
        case.model(), case.frame(), key=0, num_warmup=warmup, num_samples=draws, num_chains=2,
        marginalize="all", dense_mass=True, recover=False,
    )  # fmt: skip
    sizes = mixed.effective_sizes(fit.samples, list(ESTIMATES))
    size, worst = mixed.smallest(sizes)
    steps = float(fit.sampling.stats["n_steps"].mean())
    return {"seconds": fit.sampling.seconds, "ess": size, "worst": worst, "steps": steps}


def fixed_scales(draws: int) -> dict:
    """The model of Lai, Domke and Sheldon (2024): the scales of all effects are one."""
    case = mixed.CASES["insteval"]
    ones = {f"{name}_scale": 1.0 for name in ("s", "d", "dept")}
    model = case.model(priors={**case.options["priors"], **ones})
    frame = case.frame()
    begin = time.perf_counter()
    fit = sample_marginal(model, frame, key=0, num_samples=draws)
    seconds = time.perf_counter() - begin
    info = fit.sampling.info
    after = info["seconds_proposals"] + info["seconds_draws"]
    return {
        "seconds": seconds, "after": after, "effective": info["effective"],
        "k_hat": info["k_hat"], "draws": draws,
    }  # fmt: skip


def row(label: str, ess: float, worst: str, sampling: float | None, whole: float) -> list[str]:
    during = ["-", "-"] if sampling is None else [f"{sampling:.1f}", f"{ess / sampling:.2f}"]
    return [label, f"{ess:.0f}", worst, during[0], f"{whole:.1f}", during[1], f"{ess / whole:.2f}"]


def run(quick: bool) -> common.Report:
    few = 50 if quick else 250
    case = mixed.CASES["insteval"]
    density = time_density(5 if quick else 30)
    ours = mixed.cold_run("insteval", 100 if quick else 400)
    likelihood = time_likelihood(1 if quick else 2)
    plain = {
        name: mixed.plain_nuts(case, centered, few, few)
        for name, centered in (("centred", True), ("non-centred", False))
    }
    warmup, draws = (20, 20) if quick else (30, 200)
    nuts = marginal_nuts(warmup, draws)
    fixed = fixed_scales(200 if quick else 5000)
    with common.peer("nutpie") as worker:
        frame = case.frame()
        with common.columns_on_disk(
            y=frame["y"].to_numpy(np.float64),
            service=frame["service"].cat.codes.to_numpy(np.float64),
            **{name: frame[name].cat.codes.to_numpy(np.int32) for name in ("s", "d", "dept")},
        ) as path:
            begin = worker.ask("start", data=path)
            answer = worker.ask(
                "sample", warmup=100 if quick else 500, draws=100 if quick else 1000, chains=2
            )
        environment = common.environment(worker)
    samples = {name: np.asarray(value) for name, value in answer["samples"].items()}
    size, worst = mixed.smallest(mixed.effective_sizes(samples, list(samples)))
    effective = ours["info"].get("effective", ours["ess"][0])
    sampling = ours["info"].get("seconds_proposals", ours["second"])
    rows = [
        row("probmf sample_marginal", effective, "-", sampling, ours["cold"]),
        row("probmf sample_nuts, all marginal", nuts["ess"], nuts["worst"], None, nuts["seconds"]),
    ]
    for name, figure in plain.items():
        whole = figure["whole_seconds"]
        label = f"NumPyro NUTS, {name}"
        rows.append(row(label, figure["ess"], figure["worst"], figure["sampling_seconds"], whole))
    total = begin["seconds"] + answer["seconds"][0]
    rows.append(row("PyMC + nutpie, centred, 2 chains", size, worst, answer["seconds"][0], total))
    best = max(f["ess"] / (f["whole_seconds"]) for f in plain.values())
    ratios = {
        "sample_marginal / plain NUTS": effective / ours["cold"] / best,
        "sample_marginal / nutpie": effective / ours["cold"] / (size / total),
        "sample_nuts / plain NUTS": nuts["ess"] / nuts["seconds"] / best,
    }
    rate = min(fixed["effective"], fixed["draws"]) / fixed["after"]
    figures = {
        "density": density, "ours": ours, "likelihood": likelihood, "plain": plain, "nuts": nuts,
        "fixed": fixed,
        "nutpie": {"compile": begin["seconds"], "seconds": answer["seconds"][0], "ess": size},
        "ratios": ratios,
    }  # fmt: skip
    protocol = {
        "Data": "insteval, 73,421 ratings by 2,972 students of 1,128 lecturers in 14 departments; "
        "y ~ service + (1|s) + (1|d) + (1|dept)",
        "Priors": "HalfNormal(1) on the four scales, Normal(0, 5) on the intercept, Normal(0, 1) "
        "on service; the same on all sides",
        "Ours": "`sample_marginal(num_samples=400)` in a fresh process, imports left out, all "
        "4,114 effects drawn; ESS is that of the importance weights",
        "sample_nuts": f"{warmup} warm-up transitions, which adapt the step size from the mode's "
        f"mass matrix, and {draws} draws of each of two chains; {nuts['steps']:.1f} steps a draw",
        "Scales fixed at one": f"the model of Lai, Domke and Sheldon (2024): {fixed['draws']:,} "
        f"draws of `sample_marginal`, effects included, in {fixed['seconds']:.1f} s, of which "
        f"{fixed['after']:.2f} s after set-up: {rate:,.0f} effective draws a second (k-hat "
        f"{fixed['k_hat']:.2f}); 4.2 of their code, as measured earlier and not again",
        "Others": f"{few} warm-up transitions and {few} draws of NumPyro's NUTS, one chain; nutpie "
        "500 and 1,000 on each of two chains, one a core. ESS is the smallest bulk ESS of the "
        "global parameters. Whole: with warm-up and compilation. NumPyro's seconds of sampling "
        "include compilation, which each call of `run` does anew. float64 on all sides",
        "Likelihood": f"`fit_marginal`: {likelihood['first']:.1f} s at first, "
        f"{likelihood['again']:.1f} s again; -2 log L {likelihood['deviance']:.4f} (lme4 "
        f"{CHECK}). lme4 had taken 4.9 to 6.5 s, and was not run again",
        "Density": f"{density['density 1']:.1f} ms on one core, as in the samplers, with its "
        f"gradient {density['gradient 1']:.1f} ms; {density['density 2']:.1f} and "
        f"{density['gradient 2']:.1f} ms on both cores (medians)",
        "Ratios": "of whole ESS a second: "
        + ", ".join(f"{name} {value:.1f}x" for name, value in ratios.items()),
    }
    return common.Report(
        name="mixed_insteval",
        title="Crossed effects: lecture ratings",
        protocol=protocol | environment,
        tables=[
            common.Table(
                "Effective draws (ESS) of the global parameter that mixes worst, and how many a "
                "second: of sampling alone, and of the whole call.",
                ["", "ESS", "worst", "sampling s", "whole s", "ESS/s sampling", "ESS/s whole"],
                rows,
            )
        ],
        figures=figures,
        quick=quick,
    )


if __name__ == "__main__":
    common.main(run)
