"""Which method when: seconds against held-out RMSE and log score, on MovieLens-100K."""

import time
from collections.abc import Callable
from typing import Any

import common
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
import optax

from probmf import (
    Gaussian,
    MatrixFactorization,
    NormalWishart,
    Ratings,
    fit_als,
    fit_map,
    fit_variational,
    sample_gibbs,
    sample_nuts,
)
from probmf.metrics import log_score, rmse
from probmf.results import RatingsFit

FIGURE = common.ROOT / "docs" / "images" / "time_error.png"
FACTORS, NOISE = 16, 0.92
HALF = dist.HalfNormal(1.0)
#: Prior scale of factors and biases for point estimates; of a row with d ratings (1.3 d^0.5)^-0.5,
#: found on a tenth of the training ratings of the accuracy benchmark.
STRENGTH, BIAS_STRENGTH = 1.3, 4.0

Point = tuple[float, float, float]


def fixed(train: Ratings) -> MatrixFactorization:
    """Scales as numbers, for point estimates: strengths in units of the noise's precision."""

    def scale(degree: np.ndarray) -> np.ndarray:
        return NOISE * (STRENGTH * np.maximum(degree, 1) ** 0.5) ** -0.5

    return MatrixFactorization(
        FACTORS, Gaussian(NOISE), user_scale=scale(train.user_degree),
        item_scale=scale(train.item_degree), user_bias_scale=NOISE * BIAS_STRENGTH**-0.5,
        item_bias_scale=NOISE * BIAS_STRENGTH**-0.5,
    )  # fmt: skip


def learned(prior: Any) -> MatrixFactorization:
    return MatrixFactorization(
        FACTORS, Gaussian(NOISE), user_scale=prior, item_scale=prior, user_bias_scale=HALF,
        item_bias_scale=HALF,
    )  # fmt: skip


def measure(fit: Callable[[], RatingsFit], test: Ratings, *, again: bool = True) -> Point:
    """Seconds of a second call (or of the first), held-out RMSE and mean log density."""
    if again:
        fit()
    begin = time.perf_counter()
    found = fit()
    seconds = time.perf_counter() - begin
    predicted = found.predict(test, interval=0.5)
    mean = predicted.mean if found.traces is None else found.traces.watched.mean
    point = seconds, rmse(test.rating, mean), log_score(test.rating, mean, predicted.sd)
    print(found.method, point, flush=True)
    return point


def run(quick: bool) -> common.Report:
    train, test = common.movielens("100k").split(key=0, test_fraction=0.1)
    model = fixed(train)
    few = quick
    curves: dict[str, list[Point]] = {
        "ALS": [
            measure(lambda n=n: fit_als(model, train, key=0, num_sweeps=n, tol=0.0), test)
            for n in ((3,) if few else (2, 4, 8, 16))
        ],
        "stochastic gradients": [
            measure(
                lambda n=n: fit_map(
                    model, train, key=0, num_epochs=n, batch_size=1024,
                    learning_rate=optax.linear_schedule(0.08, 0.0, n * -(-len(train) // 1024)),
                ),
                test,
            )
            for n in ((5,) if few else (5, 10, 20, 40))
        ],
    }  # fmt: skip
    for name, covariance in (("variational", "diagonal"), ("variational, blocks", "block")):
        curves[name] = [
            measure(
                lambda n=n, covariance=covariance: fit_variational(
                    learned(HALF), train, key=0, covariance=covariance, num_sweeps=n, tol=0.0,
                ),
                test,
            )
            for n in ((5,) if few else (5, 15, 50, 150))
        ]  # fmt: skip
    for name, prior in (("Gibbs, Normal-Wishart", NormalWishart()), ("Gibbs, one scale", HALF)):
        sampled = learned(prior)
        curves[name] = [
            measure(
                lambda n=n, sampled=sampled: sample_gibbs(
                    sampled, train, key=0, num_warmup=max(5, n // 4), num_samples=n, num_chains=2,
                    watch=test,
                ),
                test,
            )
            for n in ((20,) if few else (20, 60, 200, 600))
        ]  # fmt: skip
    curves["NUTS, item side integrated out"] = [
        measure(
            lambda n=n: sample_nuts(
                learned(HALF), train, key=0, num_warmup=n, num_samples=n, num_chains=2,
                marginalize=("item_bias", "item_factors"), max_tree_depth=6,
            ),
            test,
            again=False,
        )
        for n in ((10,) if few else (40,))
    ]  # fmt: skip
    if not quick:
        draw(curves)
    rows = [
        [name, *(f"{seconds:.2f} s: {error:.4f}, {score:.4f}" for seconds, error, score in points)]
        for name, points in curves.items()
    ]
    most = max(map(len, rows))
    protocol = {
        "Data": "MovieLens-100K, `Ratings.split(key=0, test_fraction=0.1)`",
        "Models": f"{FACTORS} factors, a noise scale of {NOISE:g}. Point estimates: L2 strength "
        f"{STRENGTH:g} d^0.5 of a row of d ratings, {BIAS_STRENGTH:g} of biases, in units of the "
        "noise's precision. Samplers learn all other scales",
        "Runs": "2 to 16 sweeps of ALS; 5 to 40 epochs of batches of 1,024, the rate falling from "
        "0.08 to 0; 5 to 150 sweeps of the variational fits; 5 + 20 to 150 + 600 sweeps of Gibbs, "
        "two chains; 40 + 40 transitions of NUTS of at most 63 steps, two chains",
        "Seconds": "of a second call in the process, so that everything is compiled; of NUTS of "
        "the first",
        "Log score": "mean log density of the held-out ratings, Normal with the predictive mean "
        "and sd (of a point fit plug-in)",
    }
    return common.Report(
        name="time_error", title="Which method when", protocol=protocol | common.environment(),
        tables=[
            common.Table(
                "Seconds of a run: its held-out RMSE, its log score; from the shortest run to the "
                "longest.",
                ["method", *(str(n) for n in range(1, most))],
                [row + [""] * (most - len(row)) for row in rows],
            )
        ],
        figures=curves, quick=quick,
    )  # fmt: skip


def draw(curves: dict[str, list[Point]]) -> None:
    """Two panels over the same seconds."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    for name, points in curves.items():
        seconds, errors, scores = zip(*points, strict=True)
        axes[0].plot(seconds, errors, "o-", label=name, markersize=4)
        axes[1].plot(seconds, scores, "o-", markersize=4)
    for axis, label in zip(axes, ("held-out RMSE", "held-out log score"), strict=True):
        axis.set(xscale="log", xlabel="seconds", ylabel=label)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    common.main(run)
