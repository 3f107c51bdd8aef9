"""New users of a sampled factorization: what to show them, and what to ask them.

Simulated users arrive without ratings. After every answer their rows are drawn again at each draw
of the fit (`fold_in`), the items held where they are. Two experiments:

1. Every round each user is shown one item that it has not rated, chosen by the mean, the upper end
   of the interval, Thompson sampling or at random. Regret is what the best items of the same number
   would have scored, less what was shown scored.
2. Every round each user is asked about one item, by expected information (`choose_next`) or at
   random, and its scores of all items are predicted.

Writes regret.png and questions.png to the current folder. `--full` takes the sizes of the docs.
"""

import argparse

import numpy as np
from matplotlib.figure import Figure

from probmf import Gaussian, MatrixFactorization, Ratings, metrics, sample_nuts
from probmf.datasets import simulate_ratings
from probmf.results import RatingsFit

NOISE, FIRST_ID = 0.5, 10_000
ORDERS = ("mean", "upper", "thompson", "random")


def fold_in(
    fit: RatingsFit, asked: dict[int, list[int]], answers: np.ndarray, key: int
) -> RatingsFit:
    """The fit with all answers so far: rows of `answers` are users, columns are items."""
    pairs = [(user, item) for user, items in asked.items() for item in items]
    if not pairs:
        return fit
    user, item = np.array(pairs).T
    table = {"user": user, "item": item, "rating": answers[user - FIRST_ID, item - 1]}
    return fit.fold_in(Ratings.from_frame(table), key=key)


def show(
    fit: RatingsFit, truth: np.ndarray, answers: np.ndarray, rounds: int
) -> dict[str, np.ndarray]:
    """Cumulative regret by order, user and round; every order has its own copy of the users."""
    count, num_items = truth.shape
    rng = np.random.default_rng(0)
    ids = {order: FIRST_ID + count * place + np.arange(count) for place, order in enumerate(ORDERS)}
    shown: dict[int, list[int]] = {int(user): [] for own in ids.values() for user in own}
    everybody = np.tile(answers, (len(ORDERS), 1))
    for step in range(rounds):
        grown = fold_in(fit, shown, everybody, step)
        for order, own in ids.items():
            if order == "random":
                left = [np.setdiff1d(np.arange(1, num_items + 1), shown[int(u)]) for u in own]
                chosen = [rng.choice(items) for items in left]
            else:
                key = step if order == "thompson" else None
                found = grown.recommend(own.tolist(), k=1, rank_by=order, key=key)
                chosen = found.item[:, 0]
            for user, item in zip(own, chosen, strict=True):
                shown[int(user)].append(int(item))
    best = np.cumsum(-np.sort(-truth, axis=1)[:, :rounds], axis=1)
    regret = {}
    for order, own in ids.items():
        items = np.array([shown[int(user)] for user in own]) - 1
        got = np.cumsum(np.take_along_axis(truth, items, axis=1), axis=1)
        regret[order] = best - got
    return regret


def ask(
    fit: RatingsFit, truth: np.ndarray, answers: np.ndarray, rounds: int
) -> dict[str, np.ndarray]:
    """RMSE of the users' predicted scores after each number of answers, by way of asking."""
    count, num_items = truth.shape
    rng = np.random.default_rng(1)
    users = FIRST_ID + np.arange(count)
    pairs = (np.repeat(users, num_items), np.tile(np.arange(1, num_items + 1), count))
    error = {}
    for way in ("expected information", "random"):
        asked: dict[int, list[int]] = {int(user): [] for user in users}
        error[way] = np.empty(rounds + 1)
        for step in range(rounds + 1):
            grown = fold_in(fit, asked, answers, step)
            predicted = grown.predict(pairs, interval=None).mean
            error[way][step] = metrics.rmse(truth.ravel(), predicted)
            for user in asked:
                if way == "random":
                    left = np.setdiff1d(np.arange(1, num_items + 1), asked[user])
                    asked[user].append(int(rng.choice(left)))
                else:
                    asked[user].append(int(grown.choose_next(user).item[0]))
    return error


def draw(curves: dict[str, np.ndarray], first: int, x: str, y: str, path: str) -> None:
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    ax = figure.subplots()
    for name, curve in curves.items():
        ax.plot(np.arange(first, first + len(curve)), curve, label=name)
    ax.set(xlabel=x, ylabel=y)
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--full", action="store_true", help="the sizes of the docs, in minutes")
    full = parser.parse_known_args()[0].full
    # New users; items that each is shown, and is asked about.
    users, rounds, questions = (60, 50, 12) if full else (12, 15, 6)
    num_users, num_items, num_ratings = (150, 120, 4000) if full else (80, 60, 1500)
    num_warmup, num_samples = (150, 50) if full else (80, 40)

    scales = {"user_scale": 0.6, "item_scale": 0.6, "user_bias_scale": 0.3, "item_bias_scale": 0.4}
    simulated = simulate_ratings(
        key=0, num_users=num_users, num_items=num_items, num_ratings=num_ratings, num_factors=3,
        noise_scale=NOISE, popularity=0.5, **scales,
    )  # fmt: skip
    model = MatrixFactorization(3, Gaussian(NOISE), **scales)
    # Few draws, to be quick: a DiagnosticWarning says so.
    fit = sample_nuts(
        model, simulated.ratings, key=0, num_warmup=num_warmup, num_samples=num_samples,
        num_chains=2, progress=False,
    )  # fmt: skip
    print(fit)

    rng = np.random.default_rng(2)
    items = simulated.truth["item_factors"]
    bias = rng.normal(0, scales["user_bias_scale"], (users, 1))
    tastes = rng.normal(0, scales["user_scale"], (users, 3))
    truth = simulated.truth["intercept"] + bias + simulated.truth["item_bias"] + tastes @ items.T
    answers = truth + rng.normal(0, NOISE, truth.shape)

    regret = show(fit, truth, answers, rounds)
    print(f"\nregret after {rounds} rounds, and less that of the mean, in rating points:")
    for order, curves in regret.items():
        more = curves[:, -1] - regret["mean"][:, -1]
        error = more.std(ddof=1) / np.sqrt(len(more))
        print(f"  {order:10s} {curves[:, -1].mean():6.1f}  {more.mean():6.1f} +- {error:.1f}")
    means = {order: curves.mean(axis=0) for order, curves in regret.items()}
    draw(means, 1, "round", "cumulative regret (rating points)", "regret.png")

    rmse = ask(fit, truth, answers, questions)
    print("\nRMSE of the scores of all items, by number of answers:")
    for way, curve in rmse.items():
        told = "  ".join(f"{n}: {curve[n]:.3f}" for n in (0, 2, 5, questions))
        print(f"  {way:21s} {told}")
    draw(rmse, 0, "number of answers", "RMSE of the scores", "questions.png")


if __name__ == "__main__":
    main()
