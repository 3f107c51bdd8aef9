"""Explicit ALS on MovieLens-1M: time per sweep and held-out error, beside LensKit's BiasedMF."""

import dataclasses
import time

import common
import numpy as np

from probmf import MatrixFactorization, Ratings, fit_als
from probmf.results import RatingsFit

#: Both are LensKit's own defaults.
REGULARIZATION = 0.1
DAMPING = 5.0
SOLVERS = ("cg", "cholesky")


def build_model(num_factors: int, train: Ratings) -> MatrixFactorization:
    """LensKit's penalty of the factors; its damping as the penalty of the biases."""
    model = MatrixFactorization.from_l2(
        num_factors, regularization=REGULARIZATION, loss="sum", per_rating=True, ratings=train
    )
    return dataclasses.replace(model, user_bias_scale=DAMPING**-0.5, item_bias_scale=DAMPING**-0.5)


def lenskit_start(model: MatrixFactorization, train: Ratings) -> RatingsFit:
    """Where LensKit starts: means damped item first, then user, and random rows of length one."""
    rng = np.random.default_rng(0)
    mean = train.rating.mean()
    rest = train.rating - mean
    item_bias = np.bincount(train.item, rest, train.num_items) / (train.item_degree + DAMPING)
    rest -= item_bias[train.item]
    user_bias = np.bincount(train.user, rest, train.num_users) / (train.user_degree + DAMPING)
    values = {"intercept": mean, "user_bias": user_bias, "item_bias": item_bias}
    for side, size in (("user", train.num_users), ("item", train.num_items)):
        rows = rng.standard_normal((size, model.num_factors))
        values[f"{side}_factors"] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    values = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return RatingsFit.from_point(model, train, values, method="LensKit's start")


def sweep_seconds(start: RatingsFit, solver: str, sweeps: int) -> list[float]:
    """Seconds of the sweeps of one fit, without the first."""
    fit = fit_als(
        start.model, start.data, key=0, num_sweeps=sweeps + 1, tol=0.0, solver=solver, start=start
    )
    return np.diff(fit.history.seconds).tolist()


def held_out(start: RatingsFit, test: Ratings, solver: str, sweeps: int) -> list[float]:
    fit = fit_als(
        start.model, start.data, key=0, num_sweeps=sweeps, tol=0.0, solver=solver, start=start,
        validation=test, patience=sweeps,
    )  # fmt: skip
    return fit.history.validation.tolist()


def compare(worker: common.Peer, num_factors: int, train: Ratings, test: Ratings, quick: bool):
    """Figures at one number of factors."""
    first, errors = {}, {}
    model = build_model(num_factors, train)
    from_where = lenskit_start(model, train)
    with common.arrays_on_disk(train=train, test=test) as paths:
        begin = worker.ask(
            "start", train=paths["train"], factors=num_factors, regularization=REGULARIZATION,
            damping=DAMPING, seed=0,
        )  # fmt: skip
        for solver in SOLVERS:
            start = time.perf_counter()
            fit_als(model, train, key=0, num_sweeps=1, solver=solver)
            first[solver] = time.perf_counter() - start
            errors[solver] = held_out(from_where, test, solver, 3 if quick else 10)
        answer = worker.ask("sweeps", number=3 if quick else 10, test=paths["test"])
        first["lenskit"] = begin["seconds"] + answer["seconds"][0]
        errors["lenskit"] = answer["rmse"]
        seconds = common.take_turns(
            1 if quick else 3,
            lambda: sweep_seconds(from_where, "cg", 4),
            lambda: worker.ask("sweeps", number=2)["seconds"],
            lambda: sweep_seconds(from_where, "cholesky", 2),
            lambda: worker.ask("sweeps", number=2)["seconds"],
        )
    cg, lenskit, cholesky, again = seconds
    sweep = {"cg": cg, "cholesky": cholesky, "lenskit": lenskit + again}
    return {
        "milliseconds": {name: common.milliseconds(values) for name, values in sweep.items()},
        "first_call": first,
        "rmse": errors,
    }


def run(quick: bool) -> common.Report:
    train, test = common.movielens("1m").split(key=0, test_fraction=0.1)
    sizes = (16,) if quick else (16, 64, 128)
    with common.peer("lenskit") as worker:
        figures = {str(size): compare(worker, size, train, test, quick) for size in sizes}
        environment = common.environment(worker)
    names = {"cg": "probmf cg", "cholesky": "probmf Cholesky", "lenskit": "LensKit"}
    times, errors = [], []
    for size, figure in figures.items():
        took, first = figure["milliseconds"], figure["first_call"]
        times.append(
            [size, *(f"{took[name]:.0f}" for name in names)]
            + [f"{took['lenskit'] / took[solver]:.1f}x" for solver in SOLVERS]
            + [f"{first[name]:.1f}" for name in names]
        )
        for name, label in names.items():
            errors.append([size, label, *(f"{e:.4f}" for e in figure["rmse"][name])])
    count = len(errors[0]) - 2
    protocol = {
        "Data": "MovieLens-1M, 1,000,209 ratings; `Ratings.split(key=0, test_fraction=0.1)`, the "
        "same split for both; what is held out is looked at only to report its error",
        "Objective": f"sum of squares plus {REGULARIZATION} times each row's number of ratings "
        "times its squared length, which is LensKit's default `regularization` (ALS-WR). LensKit "
        f"fits in two stages: biases by means damped by {DAMPING:g}, then factors of what is "
        "left. Ours solves each bias together with its row, under a penalty of "
        f"{DAMPING:g} times its square",
        "Start": "for both LensKit's: its damped means, and random rows of length one (seed 0 on "
        "both sides); the first calls start from ours",
        "Turns": "cg, LensKit, Cholesky, LensKit, a few sweeps each, three rounds; medians. The "
        "other side's process waits. First call: with all set-up and our compilation (fresh for "
        "each size), one sweep",
        "Threads": f"{common.cores()} on both sides; BLAS with one inside LensKit's own",
    }
    return common.Report(
        name="als_explicit",
        title="Explicit ALS",
        protocol=protocol | environment,
        tables=[
            common.Table(
                "Milliseconds of a sweep (all users, then all items), how many times faster than "
                "LensKit, and seconds of the first call.",
                ["factors", *names.values(), "ratio cg", "ratio Cholesky"]
                + [f"first call {label}" for label in names.values()],
                times,
            ),
            common.Table(
                "Held-out RMSE after each sweep.",
                ["factors", "", *(str(n + 1) for n in range(count))],
                errors,
            ),
        ],
        figures=figures,
        quick=quick,
    )


if __name__ == "__main__":
    common.main(run)
