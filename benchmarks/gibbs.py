"""Gibbs sweeps of a factorization on MovieLens-1M, beside smurff and myFM."""

import time

import common
import numpyro.distributions as dist

from probmf import Gaussian, MatrixFactorization, NormalWishart, Ratings, sample_gibbs

#: smurff's fixed precision of a rating; its priors are ours.
PRECISION = 1.5


def build_model(num_factors: int) -> MatrixFactorization:
    """The model of smurff, with biases besides."""
    law = dist.HalfNormal(1.0)
    prior = NormalWishart()
    return MatrixFactorization(
        num_factors, Gaussian(PRECISION**-0.5), user_scale=prior, item_scale=prior,
        user_bias_scale=law, item_bias_scale=law,
    )  # fmt: skip


def sweep_seconds(model: MatrixFactorization, train: Ratings, test: Ratings, more: int) -> float:
    """Seconds of a sweep, averages of the test pairs included: of a long run less a short one."""
    took = []
    for sweeps in (2, 2 + more):
        begin = time.perf_counter()
        sample_gibbs(
            model, train, key=0, num_warmup=0, num_samples=sweeps, num_chains=1, thin=sweeps,
            watch=test,
        )  # fmt: skip
        took.append(time.perf_counter() - begin)
    return (took[1] - took[0]) / more


def compare(size: int, train: Ratings, test: Ratings, quick: bool) -> dict:
    model, count = build_model(size), 5 if quick else 15
    sweep_seconds(model, train, test, 2)
    with (
        common.arrays_on_disk(train=train, test=test) as paths,
        common.peer("smurff") as smurff,
        common.peer("myfm") as myfm,
    ):
        smurff.ask(
            "start", **paths, factors=size, precision=PRECISION, burnin=1000, samples=10, seed=0
        )
        myfm.ask("start", **paths, factors=size, seed=0)
        smurff.ask("sweeps", number=2)
        seconds = common.take_turns(
            1 if quick else 3,
            lambda: [sweep_seconds(model, train, test, count)],
            lambda: smurff.ask("sweeps", number=count)["seconds"],
            lambda: myfm.ask("sweeps", number=3 if quick else 6)["seconds"],
        )
        versions = common.environment(smurff, myfm)
    names = ("probmf", "smurff", "myfm")
    times = {n: common.milliseconds(s) for n, s in zip(names, seconds, strict=True)}
    return {"milliseconds": times, "environment": versions}


def run(quick: bool) -> common.Report:
    train, test = common.movielens("1m").split(key=0, test_fraction=0.1)
    figures = {
        str(size): compare(size, train, test, quick) for size in ((16,) if quick else (16, 32, 64))
    }
    rows = []
    for size, figure in figures.items():
        took = figure["milliseconds"]
        rows.append(
            [size, *(f"{value:.0f}" for value in took.values())]
            + [f"{took[peer] / took['probmf']:.1f}x" for peer in ("smurff", "myfm")]
        )
    environment = next(iter(figures.values()))["environment"]
    for figure in figures.values():
        figure.pop("environment")
    protocol = {
        "Data": "MovieLens-1M; `Ratings.split(key=0, test_fraction=0.1)`, the same for all",
        "Model": "Normal-Wishart priors of both sides' factors (mean weight 2, dof the number of "
        f"factors, scale one) and a fixed precision of {PRECISION:g} in smurff and here, where "
        "users and items have biases besides; myFM has independent Normals with learned scales "
        "and a learned precision",
        "Sweep": "users, items, their hyperparameters; here and in smurff the predictions of all "
        "100,021 test pairs and their averages too, in myFM none. Ours: seconds of a run of 17 "
        "sweeps less one of 2, compiled before; the others': the median of single sweeps",
        "Turns": "probmf, smurff, myFM, three rounds, each alone; one chain each",
        "Threads": f"{common.cores()} here and in smurff; myFM has one",
    }
    return common.Report(
        name="gibbs",
        title="Gibbs sampling",
        protocol=protocol | environment,
        tables=[
            common.Table(
                "Milliseconds of a sweep, and how many times faster than the others.",
                ["factors", "probmf", "smurff", "myFM", "ratio smurff", "ratio myFM"],
                rows,
            )
        ],
        figures=figures,
        quick=quick,
    )


if __name__ == "__main__":
    common.main(run)
