"""BPR on MovieLens-1M: nDCG@10 of hidden events and seconds of a fit, beside implicit's BPR."""

import itertools
import time
from functools import partial
from typing import Any

import common
import numpy as np
import optax

from probmf import Gaussian, MatrixFactorization, Ratings, fit_map
from probmf.metrics import ndcg_at_k

THRESHOLD = 4
PLACES = 10
#: Prior scales, first learning rates, epochs; with 64 factors and batches of 4,096.
OURS = ((0.7, 1.0), (0.1, 0.2), (5, 10, 20))
#: Penalties, learning rates, iterations; with 64 factors.
THEIRS = ((0.001, 0.003, 0.01), (0.005, 0.01), (20, 40, 80))
FACTORS, BATCH = 64, 4096

type Setting = tuple[float, float, int]


def fit_ours(train: Ratings, setting: Setting, epochs: int) -> tuple[np.ndarray, float]:
    """Lists of all users, and the seconds of the fit."""
    scale, rate, _ = setting
    model = MatrixFactorization(
        FACTORS, Gaussian(), intercept=None, user_bias=False, user_scale=scale, item_scale=scale
    )
    updates = epochs * -(-len(train) // BATCH)
    begin = time.perf_counter()
    fit = fit_map(
        model, train, key=0, num_epochs=epochs, objective="bpr", batch_size=BATCH, progress=False,
        learning_rate=optax.linear_schedule(rate, 0.0, updates),
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    return np.asarray(fit.recommend(k=PLACES).code), seconds


def fit_theirs(
    worker: common.Peer, train: Ratings, setting: Setting, iterations: int
) -> tuple[np.ndarray, float]:
    """The same of implicit."""
    penalty, rate, _ = setting
    with common.arrays_on_disk(train=train) as paths:
        answer = worker.ask(
            "bpr", train=paths["train"], factors=FACTORS, learning_rate=rate,
            regularization=penalty, iterations=iterations, seed=0, k=PLACES,
        )  # fmt: skip
    return np.asarray(answer["ranked"]), answer["seconds"][0]


def judge(ranked: np.ndarray, hidden: Ratings) -> np.ndarray:
    return np.asarray(ndcg_at_k(ranked, hidden.to_scipy(), PLACES, per_user=True))


def scores_of(grid: Any, fit: Any, hidden: Ratings) -> dict[Setting, float]:
    """The nDCG of the validation events of every setting of a grid."""
    return {own: float(np.nanmean(judge(fit(own, own[2])[0], hidden))) for own in grid}


def choose(ours: dict[Setting, float], theirs: dict[Setting, float]) -> tuple[Setting, Setting]:
    """Their best setting, and the best of our shortest that are as good as that, if there are."""
    best = max(theirs, key=lambda own: theirs[own])
    enough = {own: score for own, score in ours.items() if score >= theirs[best]} or ours
    shortest = min(own[2] for own in enough)
    return max(enough, key=lambda own: (own[2] == shortest, enough[own])), best


def compare(train: Ratings, test: Ratings, quick: bool, sides: dict[str, Any]) -> dict:
    """Both at their best settings with fewer and more passes, in turns; by side and passes."""
    found: dict[tuple[str, int], dict] = {}
    cases = [(side, passes) for side, own in sides.items() for passes in own["passes"]]
    for turn in range(1 if quick else 5):
        for side, passes in cases:
            ranked, seconds = sides[side]["fit"](train, sides[side]["setting"], passes)
            case = found.setdefault((side, passes), {"seconds": []})
            if turn == 0:
                case["ndcg"] = judge(ranked, test)
                case["first"] = seconds
            else:
                case["seconds"].append(seconds)
    return found


def row(side: str, passes: int, case: dict, peer: np.ndarray, chosen: int) -> list[str]:
    values = case["ndcg"]
    root = np.sqrt(np.isfinite(values).sum())
    gain = values - peer
    seconds = np.median(case["seconds"] or [case["first"]])
    return [
        side, f"{passes}{', chosen' if passes == chosen else ''}",
        f"{np.nanmean(values):.4f} ± {np.nanstd(values) / root:.4f}",
        f"{np.nanmean(gain):+.4f} ± {np.nanstd(gain) / root:.4f}" if np.nanmax(gain) > 0 else "0",
        f"{seconds:.2f}", f"{case['first']:.2f}",
    ]  # fmt: skip


def run(quick: bool) -> common.Report:
    ratings = common.movielens("1m").binarize(THRESHOLD)
    ratings = ratings.select(ratings.rating > 0)
    train, test = ratings.split_within_users(key=0, test_fraction=0.2)
    part, valid = train.split_within_users(key=1, test_fraction=0.2)
    few = 1 if quick else None
    with common.peer("implicit") as worker:
        peer = partial(fit_theirs, worker)
        sides = {
            "probmf": {"fit": fit_ours, "grid": OURS},
            "implicit": {"fit": peer, "grid": THEIRS},
        }
        for own in sides.values():
            grid = itertools.islice(itertools.product(*own["grid"]), few)
            own["scores"] = scores_of(grid, partial(own["fit"], part), valid)
            own["passes"] = own["grid"][2][:few]
        settings = choose(*(own["scores"] for own in sides.values()))
        for own, setting in zip(sides.values(), settings, strict=True):
            own["setting"] = setting
        found = compare(train, test, quick, sides)
        environment = common.environment(worker)
    chosen = {side: own["setting"][2] for side, own in sides.items()}
    against = found["implicit", chosen["implicit"]]["ndcg"]
    table = [row(*case, own, against, chosen[case[0]]) for case, own in found.items()]
    times = [
        float(np.median(own["seconds"] or [own["first"]]))
        for own in (found[side, chosen[side]] for side in sides)
    ]
    words = [
        "prior scale {:g}, learning rate from {:g} to 0".format(*sides["probmf"]["setting"]),
        "regularization {:g}, learning rate {:g}".format(*sides["implicit"]["setting"]),
    ]
    protocol = {
        "Data": f"MovieLens-1M, ratings of {THRESHOLD} and more as events, the others dropped: "
        f"{len(ratings):,} events of {ratings.num_users:,} users and {ratings.num_items:,} items. "
        "`split_within_users`: a fifth of each user's events is hidden (key 0), and of the others "
        "a fifth for validation (key 1). Mean over users ± standard error; the difference is "
        "paired. What a user has in training is left out of the list",
        "Settings": f"{FACTORS} factors and biases of items on both sides; ours AdaGrad with "
        f"batches of {BATCH:,}. Chosen by nDCG@{PLACES} on validation events: implicit's best of "
        f"the grid, and the best of our shortest fits that are at least as good. The grids: ours "
        f"scale {OURS[0]}, rate {OURS[1]}, epochs {OURS[2]}; implicit's penalty {THEIRS[0]}, "
        f"rate {THEIRS[1]}, iterations {THEIRS[2]}. Chosen: {words[0]}; {words[1]}",
        "Ratio": f"of the seconds at the chosen settings, implicit / probmf: "
        f"{times[1] / times[0]:.1f}x",
        "Turns": "whole fits, one after the other, the other side's process waits; medians of four "
        "rounds. First: the first fit of that number of passes, with compilation if there was no "
        "such program yet",
        "Threads": f"{common.cores()} on both sides; OpenBLAS with one, as implicit advises",
    }
    columns = ["", "passes", f"nDCG@{PLACES}", "less implicit's", "seconds", "first"]
    return common.Report(
        name="bpr",
        title="BPR",
        protocol=protocol | environment,
        tables=[
            common.Table(
                "Ranking of hidden events by the number of passes over the data, seconds of a fit, "
                "and seconds of the first one.",
                columns,
                table,
            )
        ],
        figures={
            "validation": {
                side: [[*setting, score] for setting, score in own["scores"].items()]
                for side, own in sides.items()
            },
            "seconds": {f"{side} {n}": case["seconds"] for (side, n), case in found.items()},
        },
        quick=quick,
    )


if __name__ == "__main__":
    common.main(run)
