"""Cost of a gradient against the number of rows, and crossed biases of MovieLens-100K."""

import time

import common
import jax
import jax.numpy as jnp
import mixed_models as mixed
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from matplotlib.figure import Figure

from probmf import MixedEffects, marginalize, sample_marginal
from probmf.inference.potential import Potential

NUM_GROUPS = 1000
FIGURE = common.ROOT / "docs" / "images" / "marginal_scaling.png"


def one_way(group, x, y, num_groups):
    """Intercepts by group with a learned scale; all Gaussian sites can be integrated out."""
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    with numpyro.plate("groups", num_groups):
        u = numpyro.sample("u", dist.Normal(0.0, tau))
    numpyro.sample("y", dist.Normal(mean + u[group], sigma), obs=y)


def sampled_slope(group, x, y, num_groups):
    """The same with a slope that is sampled: the offset moves with every step."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("groups", num_groups):
        u = numpyro.sample("u", dist.Normal(0.0, tau))
    numpyro.sample("y", dist.Normal(slope * x + u[group], sigma), obs=y)


WAYS = {
    "joint": (one_way, None),
    "constant design": (one_way, ("u", "mean")),
    "sampled offset": (sampled_slope, ("u",)),
}


def simulate(num_rows: int):
    rng = np.random.default_rng(0)
    num_groups = NUM_GROUPS
    group = rng.integers(0, num_groups, num_rows).astype(np.int32)
    x = rng.normal(size=num_rows)
    y = 0.5 * rng.normal(size=num_groups)[group] + rng.normal(size=num_rows)
    return group, x, y, num_groups


def gradient_seconds(way: str, num_rows: int, repeats: int) -> dict:
    model, sites = WAYS[way]
    with jax.enable_x64(True):
        args = simulate(num_rows)
        begin = time.perf_counter()
        potential = Potential(model if sites is None else marginalize(model, sites), args, {})
        vector = jnp.zeros(potential.num_dims)
        jax.block_until_ready(potential.value_and_grad(vector))
        setup = time.perf_counter() - begin
        seconds = []
        for _ in range(repeats):
            begin = time.perf_counter()
            jax.block_until_ready(potential.value_and_grad(vector))
            seconds.append(time.perf_counter() - begin)
    return {"milliseconds": common.milliseconds(seconds), "setup": setup}


def crossed_biases(quick: bool) -> dict:
    """Users and items of MovieLens-100K as crossed intercepts: ours and plain NUTS."""
    ratings = common.movielens("100k")
    frame = pd.DataFrame(
        {
            "rating": ratings.rating.astype(np.float64),
            "user": ratings.user.astype(int),
            "item": ratings.item.astype(int),
        }
    )
    scales = {f"{name}_scale": dist.HalfNormal(1.0) for name in ("user", "item", "noise")}
    options = {"priors": scales | {"coefficients": {"Intercept": dist.Normal(3.5, 1.0)}}}
    formula = "rating ~ 1 + (1 | user) + (1 | item)"

    class Crossed(mixed.Case):
        def frame(self) -> pd.DataFrame:
            """The ratings."""
            return frame

    begin = time.perf_counter()
    fit = sample_marginal(
        MixedEffects(formula, **options), frame, key=0, num_samples=50 if quick else 400
    )
    cold = time.perf_counter() - begin
    case = Crossed("", formula, options)
    draws = 30 if quick else 250
    plain = {
        name: mixed.plain_nuts(case, centered, draws, draws)
        for name, centered in (("centred", True), ("non-centred", False))
    }
    return {"seconds": cold, "info": dict(fit.sampling.info), "plain": plain}


def draw_figure(scaling: dict) -> None:
    """Milliseconds of a gradient against rows, both on logarithmic axes."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for way, by_size in scaling.items():
        sizes = [int(size) for size in by_size]
        times = [figure["milliseconds"] for figure in by_size.values()]
        axes.loglog(sizes, times, marker="o", label=way)
    axes.set(xlabel="rows", ylabel="milliseconds of a gradient")
    axes.legend(frameon=False)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=110)


def run(quick: bool) -> common.Report:
    sizes = (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000, 10_000_000)
    scaling = {
        way: {str(size): gradient_seconds(way, size, 3 if size > 1e6 else 10) for size in sizes}
        for way in WAYS
    }
    if not quick:
        draw_figure(scaling)
    crossed = crossed_biases(quick)
    rows = []
    for way, by_size in scaling.items():
        times = [f"{figure['milliseconds']:.3g}" for figure in by_size.values()]
        rows.append([way, *times, f"{list(by_size.values())[-1]['setup']:.1f}"])
    info = crossed["info"]
    size = info["effective"]
    best = 0.0
    others = []
    for name, figure in crossed["plain"].items():
        whole = figure["whole_seconds"]
        best = max(best, figure["ess"] / whole)
        others.append(
            [f"NumPyro NUTS, {name}", f"{figure['ess']:.0f}", figure["worst"], f"{whole:.1f}",
             f"{figure['ess'] / whole:.2f}"]
        )  # fmt: skip
    ours = size / crossed["seconds"]
    label = "probmf sample_marginal"
    first = [label, f"{size:.0f}", "-", f"{crossed['seconds']:.1f}", f"{ours:.2f}"]
    protocol = {
        "Scaling": f"simulated rows in {NUM_GROUPS:,} groups; milliseconds of value and gradient. "
        "Joint: plain NumPyro. Constant design: intercept and groups integrated out, so that only "
        "sums over groups are left. Sampled offset: a sampled slope moves every row",
        "Crossed": "MovieLens-100K, rating ~ 1 + (1 | user) + (1 | item), HalfNormal(1) on all "
        "scales; NUTS with 250 warm-up transitions and 250 draws of one chain; ours: effective "
        f"draws by weight, k-hat {info['k_hat']:.2f}; ESS of the worst global parameter a second "
        f"of the whole call; {ours / best:.0f}x plain",
    }
    return common.Report(
        name="marginal_scaling",
        title="Integrating effects out: cost against rows, and crossed biases",
        protocol=protocol | common.environment(),
        tables=[
            common.Table(
                "Milliseconds of a gradient by the number of rows, and seconds of set-up at the "
                "largest.",
                ["", *(f"{size:,}" for size in sizes), "set-up s"],
                rows,
            ),
            common.Table(
                "Crossed biases: effective draws (ESS) of the global parameter that mixes worst.",
                ["", "ESS", "worst", "whole s", "ESS/s"],
                [first, *others],
            ),
        ],
        figures={"scaling": scaling, "crossed": crossed, "ratio": ours / best},
        quick=quick,
    )


if __name__ == "__main__":
    common.main(run)
