"""Implicit ALS on MovieLens-1M: time per iteration and ranking for new users, beside implicit."""

import functools
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np

from probmf import Gaussian, MatrixFactorization, Ratings, fit_als
from probmf.metrics import ndcg_at_k, recall_at_k
from probmf.results import RatingsFit

THRESHOLD = 4
ITERATIONS = 12
LEAST_EVENTS = 5
#: Numbers of factors, weights of an unobserved pair, strengths of the ridge.
GRID = ((64, 128), (0.1, 0.3), (4.0, 8.0))
METRICS = ("Recall@20", "Recall@20 / min(20, n)", "nDCG@100")


@dataclass(frozen=True)
class Setting:
    """One point of the grid; its strength is that of our objective's ridge."""

    factors: int
    weight: float
    strength: float

    def model(self) -> MatrixFactorization:
        """Our model."""
        return MatrixFactorization(
            self.factors, Gaussian(1.0), intercept=None, user_bias=False, item_bias=False,
            user_scale=self.strength**-0.5, item_scale=self.strength**-0.5,
            unobserved_weight=self.weight,
        )  # fmt: skip

    def peer(self) -> dict:
        """The same objective in implicit's terms, where an unobserved pair weighs one."""
        return {
            "factors": self.factors, "alpha": 1 / self.weight,
            "regularization": self.strength / self.weight,
        }  # fmt: skip


def compare_time(worker: common.Peer, train: Ratings, factors: int, quick: bool) -> dict:
    setting = Setting(factors, 0.1, 8.0)
    model = setting.model()

    def ours(sweeps: int = 4) -> list[float]:
        fit = fit_als(model, train, key=0, num_sweeps=sweeps + 1, tol=0.0)
        return np.diff(fit.history.seconds).tolist()

    with common.arrays_on_disk(train=train) as paths, tempfile.TemporaryDirectory() as folder:
        worker.ask("start", train=paths["train"], seed=0, **setting.peer())
        fit = fit_als(model, train, key=0, num_sweeps=ITERATIONS, tol=0.0)
        worker.ask("sweeps", number=ITERATIONS)
        worker.ask("factors", out=f"{folder}/factors.npz")
        found = np.load(f"{folder}/factors.npz")
        (observations,) = model.arguments(train)
        parameters = {f"{side}_factors": found[side] for side in ("user", "item")}
        objective = float(model.objective(parameters, observations))
        seconds = common.take_turns(
            1 if quick else 4, ours, lambda: worker.ask("sweeps", number=4)["seconds"]
        )
    return {
        "milliseconds": [common.milliseconds(side) for side in seconds],
        "objective": [float(fit.history.objective[-1]), objective],
    }


def hold_out(ratings: Ratings) -> tuple[Ratings, Ratings, Ratings]:
    """Training users, and two tenths of the users for validation and test, none in common."""
    ratings = ratings.select(ratings.user_degree[ratings.user] >= LEAST_EVENTS)
    train, held = ratings.hold_out_users(key=0, user_fraction=0.2)
    train = train.recode(
        users=train.users.ids[train.user_degree > 0], items=train.items.ids[train.item_degree > 0]
    )
    parts = held.recode(items=train.items, unknown="drop").hold_out_users(key=1, user_fraction=0.5)
    valid, test = (part.recode(users=part.users.ids[part.user_degree > 0]) for part in parts)
    return train, valid, test


def judge(ranked: np.ndarray, hidden: Ratings) -> np.ndarray:
    """Metrics by user, shape (3, users)."""
    relevant = hidden.to_scipy()
    return np.stack([
        recall_at_k(ranked, relevant, 20, per_user=True),
        recall_at_k(ranked, relevant, 20, truncated=True, per_user=True),
        ndcg_at_k(ranked, relevant, 100, per_user=True),
    ])  # fmt: skip


def rank_ours(fit: RatingsFit, known: Ratings) -> np.ndarray:
    return fit.fold_in(known).recommend(known.users.ids, k=100).code


def rank_peer(worker: common.Peer, known: Ratings) -> np.ndarray:
    with common.arrays_on_disk(known=known) as paths:
        out = str(Path(paths["known"]).with_name("ranked.npy"))
        worker.ask("fold_in", known=paths["known"], k=100, out=out)
        return np.load(out)


def quality(worker: common.Peer, ratings: Ratings, quick: bool) -> dict:
    """The best of each grid by nDCG@100 on validation users, judged on test users."""
    train, valid, test = hold_out(ratings)
    splits = [part.split_within_users(key=2, test_fraction=0.2) for part in (valid, test)]
    best: dict[str, tuple] = {}
    with common.arrays_on_disk(train=train) as paths:
        for point in itertools.islice(itertools.product(*GRID), 1 if quick else None):
            setting = Setting(*point)
            worker.ask("start", train=paths["train"], seed=0, **setting.peer())
            worker.ask("sweeps", number=ITERATIONS)
            fit = fit_als(setting.model(), train, key=0, num_sweeps=ITERATIONS, tol=0.0)
            rankers = {
                "probmf": functools.partial(rank_ours, fit),
                "implicit": functools.partial(rank_peer, worker),
            }
            for side, rank in rankers.items():
                (known, hidden), (test_known, test_hidden) = splits
                score = float(judge(rank(known), hidden)[2].mean())
                if side not in best or score > best[side][0]:
                    best[side] = (score, setting, judge(rank(test_known), test_hidden))
    return best


def run(quick: bool) -> common.Report:
    ratings = common.movielens("1m").binarize(THRESHOLD)
    ratings = ratings.select(ratings.rating > 0)
    with common.peer("implicit") as worker:
        sizes = (16,) if quick else (16, 64, 128)
        times = {str(size): compare_time(worker, ratings, size, quick) for size in sizes}
        best = quality(worker, ratings, quick)
        environment = common.environment(worker)
    speed = [
        [size, *(f"{ms:.0f}" for ms in figure["milliseconds"])]
        + [f"{figure['milliseconds'][1] / figure['milliseconds'][0]:.1f}x"]
        + [f"{value:,.0f}" for value in figure["objective"]]
        for size, figure in times.items()
    ]
    ranking, root = [], np.sqrt(best["implicit"][2].shape[1])
    for side, (_, setting, values) in best.items():
        cells = [f"{v.mean():.4f} ± {v.std() / root:.4f}" for v in values]
        gain = values[2] - best["implicit"][2][2]
        cells.append(f"{gain.mean():+.4f} ± {gain.std() / root:.4f}" if gain.any() else "0")
        chosen = f"{setting.factors} factors, w0 {setting.weight:g}, {setting.strength:g}"
        ranking.append([side, *cells, chosen])
    protocol = {
        "Data": f"MovieLens-1M, ratings of {THRESHOLD} and more as events, the others dropped: "
        f"{len(ratings):,} events of {ratings.num_users:,} users and {ratings.num_items:,} items",
        "Objective": "squared error with weight 1 on events and w0 on all other pairs, and ridge; "
        "no biases, no intercept. In implicit's terms `alpha` = 1/w0, `regularization` = "
        "strength/w0. Times at w0 0.1, strength 8. Three conjugate-gradient steps on both sides",
        "New users": f"users with {LEAST_EVENTS} events or more; a tenth for validation, a tenth "
        "for test (keys 0, 1); 80 % of a held-out user's events (key 2) are folded in with the "
        "exact row, the others are to be found; items without training events left out. Mean over "
        "users ± standard error; the difference is paired. Best of the grid by nDCG@100 on "
        f"validation users: factors {GRID[0]}, w0 {GRID[1]}, strength {GRID[2]}, "
        f"{ITERATIONS} iterations, seed 0. Recall is the share of a user's n hidden events "
        "among the first 20, and the same over min(20, n) / n, as Liang et al. (2018) have it",
        "Turns": "four iterations each, four rounds, the other side's process waits; medians",
        "Threads": f"{common.cores()} on both sides; OpenBLAS with one, as implicit advises",
    }
    columns = ["", *METRICS, "nDCG less implicit's", "chosen"]
    return common.Report(
        name="als_implicit",
        title="Implicit ALS",
        protocol=protocol | environment,
        tables=[
            common.Table(
                "Milliseconds of an iteration, how many times faster than implicit, and the "
                f"objective (lower is better) after {ITERATIONS} iterations of each.",
                ["factors", "probmf", "implicit", "ratio", "objective", "implicit's"],
                speed,
            ),
            common.Table(
                "Ranking of hidden events for users that were not fitted to.", columns, ranking
            ),
        ],
        figures={"times": times, "validation": {side: b[0] for side, b in best.items()}},
        quick=quick,
    )


if __name__ == "__main__":
    common.main(run)
