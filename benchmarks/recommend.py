"""Top-10 for every user of MovieLens-1M, seen items excluded: users per second, beside implicit."""

import time

import common
import numpy as np

from probmf import Gaussian, MatrixFactorization, fit_als

FACTORS = 64
PLACES = 10
WEIGHT, STRENGTH = 0.1, 8.0


def run(quick: bool) -> common.Report:
    rounds = 3 if quick else 9
    ratings = common.movielens("1m")
    model = MatrixFactorization(
        FACTORS, Gaussian(1.0), intercept=None, user_bias=False, item_bias=False,
        user_scale=STRENGTH**-0.5, item_scale=STRENGTH**-0.5, unobserved_weight=WEIGHT,
    )  # fmt: skip
    events = ratings.binarize(1)
    fit = fit_als(model, events, key=0, num_sweeps=5)

    def ours() -> list[float]:
        begin = time.perf_counter()
        fit.recommend(k=PLACES)
        return [time.perf_counter() - begin]

    with common.peer("implicit") as worker, common.arrays_on_disk(train=events) as paths:
        worker.ask(
            "start", train=paths["train"], factors=FACTORS, alpha=1 / WEIGHT,
            regularization=STRENGTH / WEIGHT, seed=0,
        )  # fmt: skip
        worker.ask("sweeps", number=5)
        first = [ours()[0], worker.ask("recommend", k=PLACES)["seconds"][0]]
        seconds = common.take_turns(
            rounds, ours, lambda: worker.ask("recommend", k=PLACES)["seconds"]
        )
        environment = common.environment(worker)
    rate = [ratings.num_users / float(np.median(side)) for side in seconds]
    cells = [f"{rate[0]:,.0f}", f"{rate[1]:,.0f}", f"{rate[0] / rate[1]:.1f}x"]
    cells += [f"{value:.2f}" for value in first]
    protocol = {
        "Data": f"MovieLens-1M, all ratings as events: {ratings.num_users:,} users, "
        f"{ratings.num_items:,} items, what a user rated is left out of the list",
        "Call": f"`fit.recommend(k={PLACES})` against `model.recommend(users, events, "
        f"N={PLACES})` for all users at once, {FACTORS} factors; ours also gives ids and scores",
        "Turns": f"one call each in turn, {rounds} rounds; medians",
        "Threads": f"{common.cores()} on both sides; OpenBLAS with one, as implicit advises",
    }
    return common.Report(
        name="recommend",
        title="Recommending to everybody",
        protocol=protocol | environment,
        tables=[
            common.Table(
                "Users per second, and seconds of the first call (ours with compilation).",
                ["probmf", "implicit", "ratio", "first call probmf", "first call implicit"],
                [cells],
            )
        ],
        figures={"seconds": seconds},
        quick=quick,
    )


if __name__ == "__main__":
    common.main(run)
