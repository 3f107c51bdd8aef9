"""Held-out error by least squares and by gradients, on MovieLens-1M and MovieLens-100K."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import common
import numpy as np
import optax

from probmf import Bernoulli, Gaussian, MatrixFactorization, Ratings, fit_als, fit_map
from probmf.metrics import log_loss, rmse
from probmf.results import RatingsFit


@dataclass(frozen=True)
class Setting:
    """A model and how to fit it: a row of degree d has strength `strength * d ** power`.

    With a rate, `fit_map`'s learning rate falls linearly from it to zero.
    """

    fit: Callable[..., RatingsFit]
    factors: int
    strength: float
    power: float
    bias_strength: float
    arguments: dict = field(default_factory=dict)
    rate: float | None = None

    def run(self, train: Ratings, likelihood: Gaussian | Bernoulli) -> tuple[RatingsFit, float]:
        """The fit, and its seconds without compilation."""

        def scale(degree: np.ndarray) -> np.ndarray:
            return (self.strength * np.maximum(degree, 1) ** self.power) ** -0.5

        model = MatrixFactorization(
            self.factors, likelihood,
            user_scale=scale(train.user_degree), item_scale=scale(train.item_degree),
            user_bias_scale=self.bias_strength**-0.5, item_bias_scale=self.bias_strength**-0.5,
        )  # fmt: skip
        arguments = dict(self.arguments)
        if self.rate is not None:
            updates = arguments["num_epochs"] * -(-len(train) // arguments["batch_size"])
            arguments["learning_rate"] = optax.linear_schedule(self.rate, 0.0, updates)
        begin = time.perf_counter()
        fit = self.fit(model, train, key=0, **arguments)
        seconds = time.perf_counter() - begin
        steps = np.diff(fit.history.seconds, prepend=0.0)
        return fit, seconds - (steps[0] - float(np.median(steps)))

    def __str__(self) -> str:
        """For the table."""
        how = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        how += f", rate {self.rate:g} falling to 0" if self.rate is not None else ""
        return (
            f"{self.factors} factors, strength {self.strength:g} d^{self.power:g}, bias "
            f"{self.bias_strength:g}; {how}"
        )


# Found on a tenth of the training ratings set aside (key 1), never on the test ratings.
ALS_1M = Setting(fit_als, 64, 0.32, 0.75, 5.0, {"num_sweeps": 10, "tol": 0.0})
MAP_1M = Setting(fit_map, 128, 1.15, 0.5, 5.0, {"num_epochs": 16, "batch_size": 4096}, 0.08)
MAP_FOLDS = Setting(fit_map, 64, 1.3, 0.5, 4.0, {"num_epochs": 40, "batch_size": 1024}, 0.08)
ALS_YES_NO = Setting(fit_als, 64, 0.7, 0.5, 1.0, {"num_sweeps": 100})
MAP_YES_NO = Setting(fit_map, 64, 0.7, 0.5, 1.0, {"num_epochs": 400, "batch_size": None})


def error(setting: Setting, splits: list[tuple[Ratings, Ratings]]) -> dict:
    """RMSE, clipped RMSE and seconds, the mean over splits."""
    found = []
    for train, test in splits:
        fit, seconds = setting.run(train, Gaussian(1.0))
        mean = fit.predict(test, interval=None).mean
        found.append([rmse(test.rating, mean), rmse(test.rating, np.clip(mean, 1, 5)), seconds])
    return {"mean": np.mean(found, axis=0).tolist(), "splits": found}


def yes_no(setting: Setting, train: Ratings, test: Ratings) -> dict:
    fit, seconds = setting.run(train, Bernoulli())
    loss = log_loss(test.rating, fit.predict(test, interval=None).mean)
    return {"loss": loss, "objective": float(fit.history.objective.min()), "seconds": seconds}


def run(quick: bool) -> common.Report:
    small = common.movielens("100k", keep=["u_fold"])
    folds = [small.split_on("u_fold", test=number) for number in range(1, 2 if quick else 6)]
    large = [common.movielens("1m").split(key=0, test_fraction=0.1)]
    tasks = (
        ("MovieLens-1M, 90/10", "fit_als", ALS_1M, large, 0.857),
        ("MovieLens-1M, 90/10", "fit_map", MAP_1M, large, 0.843),
        ("MovieLens-100K, u1 to u5", "fit_map", MAP_FOLDS, folds, 0.910),
    )
    figures, rows = {}, []
    for data, method, setting, splits, goal in tasks:
        found = error(setting, splits)
        figures[f"{data}, {method}"] = found
        plain, clipped, seconds = found["mean"]
        cells = [f"{plain:.4f}", f"{clipped:.4f}", f"{goal:.3f}", f"{seconds:.1f}"]
        rows.append([data, method, *cells, str(setting)])
    binary, chances = small.binarize(4).split(key=0, test_fraction=0.1), []
    for method, setting in (("fit_als", ALS_YES_NO), ("fit_map", MAP_YES_NO)):
        found = yes_no(setting, *binary)
        figures[f"MovieLens-100K yes/no, {method}"] = found
        cells = [f"{found['loss']:.4f}", "0.545", f"{found['objective']:,.1f}"]
        chances.append([method, *cells, f"{found['seconds']:.1f}", str(setting)])
    protocol = {
        "Splits": "MovieLens-1M and the yes/no data: `Ratings.split(key=0, test_fraction=0.1)`. "
        "u1 to u5 are the five official folds of MovieLens-100K (`split_on('u_fold', test=i)`), "
        "of which the mean is given",
        "Settings": "chosen on a tenth of the training ratings set aside, never on the test "
        "ratings; those of u1 to u5 are the same for all five and were chosen in the training sets "
        "of u1 and u3, which hold test ratings of the other folds. A row of d ratings has the "
        "prior scale (strength d^power)^-1/2, a bias (bias)^-1/2; noise scale 1, intercept the "
        "mean, key 0",
        "Yes/no": "ratings of 4 and more are a yes; both methods have the same objective",
        "Seconds": "of one fit, reading the data and compilation left out",
    }
    return common.Report(
        name="accuracy",
        title="Accuracy",
        protocol=protocol | common.environment(),
        tables=[
            common.Table(
                "Held-out RMSE, as predicted and clipped to [1, 5].",
                ["data", "method", "RMSE", "clipped", "goal", "seconds", "settings"],
                rows,
            ),
            common.Table(
                "Yes/no ratings of MovieLens-100K: held-out log loss, and minus log posterior.",
                ["method", "log loss", "goal", "objective", "seconds", "settings"],
                chances,
            ),
        ],
        figures=figures,
        quick=quick,
    )


if __name__ == "__main__":
    common.main(run)
