"""NUTS for a factorization of MovieLens-100K: users integrated out, beside all of it sampled.

.venv/bin/python benchmarks/marginal_mf.py [--quick] [--depth 8] [--draws 100] [--joint-draws 40]
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import common
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from probmf import Gaussian, MatrixFactorization, Ratings, fit_map
from probmf.inference.marginal_rows import RowsMarginal, Stretched, find_start, rows_marginal
from probmf.inference.nuts.transitions import Chains, Settings, constrain_chains, run_nuts
from probmf.inference.potential import Potential
from probmf.metrics import coverage, rmse
from probmf.models.linear_predictor import linear_predictor
from probmf.models.observations import Observations
from probmf.results import RatingsFit
from probmf.results.measures import measure
from probmf.results.records import Sampling

SCALES = ("noise_scale", "user_scale", "user_bias_scale", "item_bias_scale", "intercept")
PROBES = 200
#: The last with random starting values, as NumPyro has them.
NAMES = ("users integrated out", "all sampled", "all sampled, random start")


@dataclass(frozen=True)
class Budget:
    """Draws and limits: `joint` are those of the model with everything sampled."""

    chains: int = 2
    depth: int = 8
    warmup: int = 100
    draws: int = 100
    joint_warmup: int = 60
    joint_draws: int = 40
    far_warmup: int = 120
    far_draws: int = 60


def seconds(chains: Chains, warmup: int) -> tuple[float, float]:
    """Seconds of the warmup (with starts and compilation) and of the draws."""
    times = chains.result.run.seconds
    return chains.setup + times[warmup - 1], times[-1] - times[warmup - 1]


def make_model(factors: int) -> MatrixFactorization:
    half = dist.HalfNormal(1.0)
    return MatrixFactorization(
        factors, Gaussian(half), intercept=dist.Normal(3.5, 1.0), user_scale=half, item_scale=1.0,
        user_bias_scale=half, item_bias_scale=half,
    )  # fmt: skip


def non_centred(model: MatrixFactorization, data: Observations) -> Callable[[], None]:
    """The same model with standard Normal coordinates for all rows."""

    def whole() -> None:
        law = {"noise_scale": model.likelihood.noise_scale}
        law |= {name: getattr(model, name) for name in SCALES[1:]}
        values = {name: numpyro.sample(name, law[name]) for name in SCALES}
        values["item_scale"] = model.item_scale
        for site, shape in model.site_shapes(data.num_users, data.num_items).items():
            white = numpyro.sample(site, dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))
            values[site] = scale_of(site, values) * white
        scores = linear_predictor(values, data.user, data.item)
        numpyro.sample("rating", dist.Normal(scores, values["noise_scale"]), obs=data.rating)

    return whole


def scale_of(site: str, values: dict) -> object:
    return values[site.replace("factors", "scale") if "factors" in site else f"{site}_scale"]


def gradient_seconds(potential: Potential, vector: np.ndarray, repeats: int = 20) -> list[float]:
    """Seconds of single calls of density and gradient."""
    jax.block_until_ready(_gradient(potential, jnp.asarray(vector)))
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(_gradient(potential, jnp.asarray(vector)))
        seconds.append(time.perf_counter() - begin)
    return seconds


@jax.jit
def _gradient(potential: Potential, vector: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.value_and_grad(potential.log_density)(vector)


def judge(
    samples: dict,
    stats: dict,
    seconds: tuple[float, float],
    model: MatrixFactorization,
    train: Ratings,
    test: Ratings,
) -> dict:
    """What is wanted of a run."""  # fmt: skip
    pick = np.random.default_rng(0).choice(len(test), PROBES, replace=False)
    user, item = test.user[pick], test.item[pick]
    scores = samples["intercept"][..., None] + samples["user_bias"][..., user]
    scores = scores + samples["item_bias"][..., item]
    products = samples["user_factors"][:, :, user] * samples["item_factors"][:, :, item]
    probes = measure(scores + products.sum(-1))
    scales = measure(np.stack([samples[name] for name in SCALES], axis=-1))
    fit = RatingsFit(model, train, samples, "nuts", sampling=Sampling(stats, 0, sum(seconds)))
    return {
        "seconds": seconds,
        "steps": float(np.mean(stats["n_steps"])),
        "saturated": float(np.mean(stats["n_steps"] >= np.max(stats["n_steps"]))),
        "probe ESS": float(np.median(probes.ess_bulk)),
        "probe ESS least": float(probes.ess_bulk.min()),
        "probe R-hat": float(probes.r_hat.max()),
        "scales ESS": dict(zip(SCALES, scales.ess_bulk.tolist(), strict=True)),
        "scales R-hat": dict(zip(SCALES, scales.r_hat.tolist(), strict=True)),
        "scales": dict(zip(SCALES, scales.mean.tolist(), strict=True)),
        **held_out(fit, test),
    }


def held_out(fit: RatingsFit, test: Ratings) -> dict:
    found = fit.predict(test, interval=0.9)
    return {
        "rmse": rmse(test.rating, found.mean),
        "coverage": coverage(test.rating, found.lower, found.upper),
    }


def without_users(
    target: RowsMarginal, potential: Potential, start: object, budget: Budget, splits: tuple
) -> dict:
    settings = Settings(budget.warmup, budget.draws, budget.chains, 0.8, budget.depth)
    chains = run_nuts(
        potential, settings, jax.random.key(1), starts=start.vectors,
        inverse_mass=start.inverse_mass, progress=False,
    )  # fmt: skip
    samples = target.recover(jax.random.key(2), constrain_chains(potential, chains.vectors))
    return judge(samples, chains.stats, seconds(chains, budget.warmup), target.model, *splits)


def with_users(
    target: RowsMarginal,
    potential: Potential,
    starts: np.ndarray | None,
    budget: Budget,
    splits: tuple,
) -> dict:
    warmup, draws = budget.joint_warmup, budget.joint_draws
    if starts is None:
        warmup, draws = budget.far_warmup, budget.far_draws
    settings = Settings(warmup, draws, budget.chains, 0.8, budget.depth)
    chains = run_nuts(potential, settings, jax.random.key(1), starts=starts, progress=False)
    samples = constrain_chains(potential, chains.vectors)
    for site in target.model.site_shapes(1, 1):
        scale = np.asarray(scale_of(site, samples | {"item_scale": np.ones(())}))
        samples[site] = samples[site] * scale.reshape(scale.shape + (1,) * (samples[site].ndim - 2))
    return judge(samples, chains.stats, seconds(chains, warmup), target.model, *splits)


def joint_starts(
    target: RowsMarginal, ours: Potential, joint: Potential, vectors: np.ndarray
) -> np.ndarray:
    """The same starting points for the model with everything sampled."""
    drawn = target.recover(jax.random.key(3), constrain_chains(ours, vectors[:, None]))
    starts = []
    for chain in range(len(vectors)):
        values = {name: jnp.asarray(value[chain, 0]) for name, value in drawn.items()}
        for site in target.model.site_shapes(1, 1):
            values[site] = values[site] / scale_of(site, values | {"item_scale": 1.0})
        starts.append(np.asarray(joint.unconstrain(values)))
    return np.stack(starts)


def compare(factors: int, splits: tuple[Ratings, Ratings], budget: Budget) -> dict:
    train, test = splits
    model = make_model(factors)
    (data,) = model.arguments(train)
    target = rows_marginal(model, data, ("user_bias", "user_factors")).by_loops()
    ours, joint = Stretched(target), Potential(non_centred(model, data), (), {})
    begin = time.perf_counter()
    start = find_start(target, ours, train, jax.random.key(0), budget.chains)
    starting = time.perf_counter() - begin
    starts = joint_starts(target, ours, joint, start.vectors)
    gradient = common.take_turns(
        5, lambda: gradient_seconds(ours, start.vectors[0]),
        lambda: gradient_seconds(joint, starts[0]),
    )  # fmt: skip
    found = {
        "users integrated out": without_users(target, ours, start, budget, splits),
        "all sampled": with_users(target, joint, starts, budget, splits),
        "all sampled, random start": with_users(target, joint, None, budget, splits),
    }
    scales = found["users integrated out"]["scales"]
    fixed = {name: scales[name] for name in SCALES if name not in ("noise_scale", "intercept")}
    point = replace(model, likelihood=Gaussian(scales["noise_scale"]), **fixed)
    fit = fit_map(point, train, key=0, num_epochs=300, progress=False)
    least = [min(each) * 1e3 for each in gradient]
    return {
        "gradient": dict(zip(NAMES, [*least, least[1]], strict=True)),
        "dims": dict(zip(NAMES, [ours.num_dims, joint.num_dims, joint.num_dims], strict=True)),
        "start": starting,
        "runs": found,
        "map": held_out(fit, test),
    }


def run(quick: bool, budget: Budget) -> common.Report:
    if quick:
        budget = replace(budget, warmup=20, draws=20, joint_warmup=10, joint_draws=10,
            far_warmup=10, far_draws=10,
        )  # fmt: skip
    with jax.enable_x64(True):
        splits = common.movielens("100k", keep=["u_fold"]).split_on("u_fold", test=1)
        sizes = (2,) if quick else (5, 10)
        figures = {str(size): compare(size, splits, budget) for size in sizes}
    times, scales, errors = [], [], []
    for size, figure in figures.items():
        for name, one in figure["runs"].items():
            warm, drawing = one["seconds"]
            least = min(one["scales ESS"].values())
            rates = (one["probe ESS"], one["probe ESS least"], least)
            worst = max(one["scales R-hat"].values())
            times.append(
                [size, name, str(figure["dims"][name]), f"{figure['gradient'][name]:.1f}"]
                + [f"{one['steps']:.0f}", f"{warm:.0f} + {drawing:.0f}"]
                + [f"{rate / drawing:.2f}" for rate in rates]
                + [f"{one['probe R-hat']:.2f}", f"{worst:.2f}"]
            )
            scales.append([size, name, *(f"{one['scales ESS'][s] / drawing:.2f}" for s in SCALES)])
            errors.append([size, name, f"{one['rmse']:.4f}", f"{one['coverage']:.3f}"])
        point = figure["map"]
        errors.append([size, "fit_map", f"{point['rmse']:.4f}", f"{point['coverage']:.3f}"])
    protocol = {
        "Data": "MovieLens-100K, fold u1 (`split_on('u_fold', test=1)`), 80,000 ratings",
        "Model": "half-normal(1) priors of noise, user factors' and both biases' scales, item "
        "factors standard Normal, intercept Normal(3.5, 1); float64. All sampled: every row in "
        "non-centred coordinates",
        "Runs": f"{budget.chains} chains side by side, tree depth at most {budget.depth}; users "
        f"integrated out: {budget.warmup} + {budget.draws} transitions; all sampled: "
        f"{budget.joint_warmup} + {budget.joint_draws}, enough for its ESS per second only. Both "
        "from the same points near the bulk (least squares, EM for the scales, Normal noise). "
        f"Random start: uniform in (-2, 2) on the unconstrained scale, as NumPyro's, "
        f"{budget.far_warmup} + {budget.far_draws}",
        "Times": "gradient: the least of 100 single calls in turns; seconds: warmup with "
        "compilation, then draws. ESS (bulk) per second of the draws, all chains together; of the "
        f"scores of {PROBES} held-out pairs the median and the least, of scales and intercept the "
        "least",
        "fit_map": "300 full batches, scales fixed at the posterior means of the first run",
    }
    label = ["factors", "", "dims", "gradient ms", "steps", "seconds", "probe ESS/s", "least"]
    return common.Report(
        name="marginal_mf",
        title="A factorization by NUTS",
        protocol=protocol | common.environment(),
        tables=[
            common.Table(
                "Unknowns that are sampled, milliseconds of a gradient, leapfrog steps a "
                "transition, seconds of warm-up + draws; ESS a second of the scores of held-out "
                "pairs (median, least) and of scales and intercept (least); largest R-hat of both.",
                [*label, "scale ESS/s", "probe R-hat", "scale R-hat"],
                times,
            ),
            common.Table(
                "ESS a second of each scale and of the intercept.", ["factors", "", *SCALES], scales
            ),
            common.Table(
                "Held-out RMSE and coverage of 90 % intervals.",
                ["factors", "", "RMSE", "coverage"],
                errors,
            ),
        ],
        figures=figures,
        quick=quick,
    )


def read_budget() -> Budget:
    """From the command line, whose other arguments are left for the rest."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--chains", type=int, default=Budget.chains)
    parser.add_argument("--depth", type=int, default=Budget.depth)
    parser.add_argument("--warmup", type=int, default=Budget.warmup)
    parser.add_argument("--draws", type=int, default=Budget.draws)
    parser.add_argument("--joint-warmup", type=int, default=Budget.joint_warmup)
    parser.add_argument("--joint-draws", type=int, default=Budget.joint_draws)
    options, sys.argv[1:] = parser.parse_known_args()
    return Budget(**vars(options))


if __name__ == "__main__":
    common.main(functools.partial(run, budget=read_budget()))
