"""What features are worth: cold start on MovieLens-1M, and fold u3 of MovieLens-100K."""

from typing import Any

import common
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import scipy.stats

from probmf import (
    MLP,
    Features,
    Gaussian,
    Linear,
    MatrixFactorization,
    NormalWishart,
    Ratings,
    fit_als,
    fit_map,
    sample_gibbs,
)
from probmf.metrics import rmse
from probmf.results import RatingsFit

#: Of the cold start, in stars; chosen beforehand.
NOISE, FACTOR_SCALE, BIAS_SCALE = 0.85, 0.3, 0.4
#: Of MovieLens-100K, as in gibbs_accuracy.py.
NOISE_100K = 0.92
#: Share of users, or of items, that are held out with all their ratings.
HELD_OUT = 0.1
HALF = dist.HalfNormal(1.0)


def read(name: str, table: str) -> pd.DataFrame:
    return pd.read_parquet(common.DATA / f"movielens-{name}" / f"{table}.parquet")


def features_of(name: str) -> dict[str, Features]:
    genres = [column for column in read(name, "items").columns if column.startswith("genre_")]
    age: dict[str, Any] = {"categorical": ["age", "gender", "occupation"]}
    if name == "100k":
        age = {"numeric": ["age"], "categorical": ["gender", "occupation"]}
    return {
        "user": Features(**age),
        "item": Features(numeric=["year", *genres], missing="average"),
    }


def cold_start(side: str, num_factors: int, sweeps: int, epochs: int) -> dict[str, np.ndarray]:
    """Predictions of all ratings of users (or items) that training knows nothing of."""
    tables, rows = {s: read("1m", f"{s}s") for s in ("user", "item")}, read("1m", "ratings")
    ids = np.unique(rows[side])
    chosen = np.random.default_rng(0).choice(ids, round(HELD_OUT * len(ids)), replace=False)
    cold = rows[side].isin(chosen).to_numpy()
    train = Ratings.from_frame(
        rows[~cold], user_features=tables["user"], item_features=tables["item"]
    )
    new: dict[str, Any] = {f"{side}_features": tables[side][tables[side][side].isin(chosen)]}
    test = rows[cold]
    found = {"rating": test.rating.to_numpy(float), side: test[side].to_numpy()}

    def model(mean: Any = None, factors: int = num_factors) -> MatrixFactorization:
        options: dict[str, Any] = {}
        if mean is not None:
            options = {f"{side}_mean": mean, f"{side}_features": features_of("1m")[side]}
        return MatrixFactorization(
            factors, Gaussian(NOISE), user_scale=FACTOR_SCALE, item_scale=FACTOR_SCALE,
            user_bias_scale=BIAS_SCALE, item_bias_scale=BIAS_SCALE, **options,
        )  # fmt: skip

    fits: dict[str, RatingsFit] = {
        "biases": fit_als(model(factors=0), train, key=0, num_sweeps=sweeps),
        "factors": fit_als(model(), train, key=0, num_sweeps=sweeps),
        "linear, biases": fit_als(model(Linear(), 0), train, key=0, num_sweeps=sweeps),
        "linear": fit_als(model(Linear()), train, key=0, num_sweeps=sweeps),
        "MLP": fit_map(
            model(MLP((32,))), train, key=0, num_epochs=epochs, learning_rate=0.02, tol=1e-5
        ),
    }
    for name, fit in fits.items():
        asked = new if fit.model.mean_sides else {}
        found[name] = fit.predict(test, interval=None, **asked).mean
        print(side, name, rmse(found["rating"], found[name]), fit, flush=True)
    return found


def compare(found: dict[str, np.ndarray], side: str, name: str, base: str) -> dict[str, float]:
    """RMSE, and the mean over rows of the difference of squared errors with its paired t-test."""
    ids, place = np.unique(found[side], return_inverse=True)
    counts = np.bincount(place)
    errors = [
        np.bincount(place, np.square(found["rating"] - found[which])) / counts
        for which in (name, base)
    ]
    test = scipy.stats.ttest_rel(*errors)
    apart = errors[0] - errors[1]
    return {
        "RMSE": rmse(found["rating"], found[name]),
        "difference": float(apart.mean()),
        "error": float(apart.std(ddof=1) / np.sqrt(len(ids))),
        "t": float(test.statistic),
        "p": float(test.pvalue),
        "rows": len(ids),
    }


def warm(num_factors: int, sweeps: tuple[int, int], with_features: bool) -> tuple[float, float]:
    """Held-out error of fold u3 of MovieLens-100K by Gibbs, and seconds."""
    data = common.movielens(
        "100k", keep=["u_fold"], user_features=read("100k", "users"),
        item_features=read("100k", "items"),
    )  # fmt: skip
    train, test = data.split_on("u_fold", test=3)
    options: dict[str, Any] = {}
    if with_features:
        encoded = features_of("100k")
        options = {
            "user_mean": Linear(), "item_mean": Linear(), "user_features": encoded["user"],
            "item_features": encoded["item"],
        }  # fmt: skip
    model = MatrixFactorization(
        num_factors, Gaussian(NOISE_100K), user_scale=NormalWishart(), item_scale=NormalWishart(),
        user_bias_scale=HALF, item_bias_scale=HALF, **options,
    )  # fmt: skip
    fit = sample_gibbs(
        model, train, key=0, num_warmup=sweeps[0], num_samples=sweeps[1], num_chains=2, watch=test
    )
    return rmse(test.rating, fit.traces.watched.mean), fit.sampling.seconds


def run(quick: bool) -> common.Report:
    factors, sweeps, epochs = (4, 3, 10) if quick else (16, 20, 200)
    figures: dict[str, Any] = {}
    rows, warm_rows = [], []
    for side in ("user", "item"):
        found = cold_start(side, factors, sweeps, epochs)
        base = rmse(found["rating"], found["biases"])
        rows.append([f"new {side}s", "biases", f"{base:.4f}", "", ""])
        for name in [name for name in found if name not in ("rating", side, "biases")]:
            values = compare(found, side, name, "biases")
            figures[f"{side}: {name}"] = values
            told = f"{values['difference']:+.4f} ± {values['error']:.4f}"
            test = f"t = {values['t']:.1f}, p = {values['p']:.1g} ({values['rows']} {side}s)"
            rows.append([f"new {side}s", name, f"{values['RMSE']:.4f}", told, test])
            print(rows[-1], flush=True)
    gibbs = (20, 40) if quick else (100, 400)
    for with_features in (False, True):
        error, seconds = warm(10, gibbs, with_features)
        name = "users' and items' features" if with_features else "no features"
        figures[f"u3: {name}"] = error
        goal = "0.8855" if with_features else "0.8944"
        warm_rows.append([name, f"{error:.4f}", goal, f"{seconds:.0f}"])
        print(warm_rows[-1], flush=True)
    protocol = {
        "Cold start": f"a tenth of the users (then of the items) of MovieLens-1M is held out with "
        f"all ratings, drawn at random (seed 0); the rest is fitted with {factors} factors, noise "
        f"{NOISE}, scales {FACTOR_SCALE} of factors and {BIAS_SCALE} of biases, chosen beforehand; "
        f"at most {sweeps} sweeps of `fit_als`, for the MLP (32 hidden units, tanh) "
        f"{epochs} epochs of `fit_map`",
        "Features": "of users: age group, gender, occupation; of items: year, genres",
        "Test": "difference of the mean squared error of each held-out user (item) from that of "
        "biases without features, with its standard error and paired t-test",
        "Fold u3": f"MovieLens-100K, 10 factors, Normal-Wishart priors, noise {NOISE_100K}, 2 "
        f"chains of {gibbs[0]} + {gibbs[1]} sweeps, averages over the latter; age as a number. "
        "Settings as in the table of Gibbs sampling, none tuned with features",
    }
    return common.Report(
        name="side_features", title="Features of users and items",
        protocol=protocol | common.environment(),
        tables=[
            common.Table(
                "Users and items without any rating: held-out RMSE, and squared error less that of "
                "biases alone (below zero is better).",
                ["held out", "prior mean", "RMSE", "squared error", "paired t-test"], rows,
            ),
            common.Table(
                "Fold u3 of MovieLens-100K by Gibbs sampling.",
                ["features", "RMSE", "goal", "seconds"], warm_rows,
            ),
        ],
        figures=figures, quick=quick,
    )  # fmt: skip


if __name__ == "__main__":
    common.main(run)
