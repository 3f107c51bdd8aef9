"""What networks are worth: neural factorization on MovieLens-100K, an MLP beside scikit-learn's."""

import time
import warnings
from typing import Any

import common
import numpy as np
import optax
import sklearn
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from probmf import (
    MLP,
    Categorical,
    Examples,
    Gaussian,
    MatrixFactorization,
    Network,
    NeuralFactorization,
    Ratings,
    fit_map,
)
from probmf.metrics import rmse

#: Of MovieLens-100K, as in gibbs_accuracy.py and chosen beforehand.
NOISE, BIAS_SCALES = 0.92, {"user_bias_scale": 0.4, "item_bias_scale": 0.5}
BATCH, EPOCHS = 500, 40
#: First learning rate, which falls to zero over all epochs: of AdaGrad, and of Adam.
RATES = {"adagrad": 0.1, "adam": 0.02}
FACTORS = (8, 16, 32)
#: Scales of the factors, and of the network's weights.
PLAIN_SCALES = (0.2, 0.25, 0.3)
ALONE_SCALES = ((0.5, None), (0.3, 1.0), (0.5, 0.5))
BOTH_SCALES = ((0.25, 1.0), (0.3, 1.0), (0.3, None))
HIDDEN = (32,)
#: Of the digits.
DIGITS_HIDDEN, DIGITS_RATE, DIGITS_BATCH, ALPHA = (64, 32), 1e-3, 50, 1e-2

type Setting = tuple[int, float, float | None]
type Score = tuple[float, float]


def make_model(kind: str, setting: Setting) -> Any:
    """A model of MovieLens-100K: "plain", "network" or "product + network"."""
    factors, scale, weight_scale = setting
    scales: dict[str, Any] = BIAS_SCALES | {"user_scale": scale, "item_scale": scale}
    if kind == "plain":
        return MatrixFactorization(factors, Gaussian(NOISE), **scales)
    layers = MLP(HIDDEN, "relu" if kind == "network" else "tanh", weight_scale=weight_scale)
    product = kind != "network"
    return NeuralFactorization(factors, layers, product, Gaussian(NOISE), **scales)


def fit(kind: str, setting: Setting, data: Ratings, key: int, epochs: int, **options: Any) -> Any:
    name = "adagrad" if kind == "plain" else "adam"
    updates = EPOCHS * -(-len(data) // BATCH)
    rate = optax.linear_schedule(RATES[name], 0.0, updates)
    return fit_map(
        make_model(kind, setting), data, key=key, num_epochs=epochs, batch_size=BATCH,
        optimizer=name, learning_rate=rate, **options,
    )  # fmt: skip


def choose(kind: str, settings: list[Setting], train: Ratings) -> tuple[Setting, int, float]:
    """The setting and the number of epochs of the least error on a tenth of the training data."""
    own, held = train.split(key=0, test_fraction=0.1)
    found = []
    for setting in settings:
        history = fit(kind, setting, own, 0, EPOCHS, validation=held, patience=EPOCHS).history
        assert history is not None
        assert history.validation is not None
        found.append((float(np.nanmin(history.validation)), setting, history.best))
        print(kind, *found[-1], flush=True)
    error, setting, epochs = min(found)[0], *min(found, key=lambda line: line[0])[1:]
    return setting, epochs, error


def movielens(quick: bool) -> tuple[list[list[str]], dict[str, Any]]:
    """Held-out RMSE of fold u1 by kind of model."""
    train, test = common.movielens("100k", keep=["u_fold"]).split_on("u_fold", test=1)
    grids: dict[str, list[Setting]] = {
        "plain": [(k, s, None) for k in FACTORS for s in PLAIN_SCALES],
        "network": [(k, s, w) for k in FACTORS for s, w in ALONE_SCALES],
        "product + network": [(k, s, w) for k in FACTORS for s, w in BOTH_SCALES],
    }
    rows, figures = [], {}
    for kind, grid in grids.items():
        setting, epochs, error = choose(kind, grid[: 2 if quick else None], train)
        errors, seconds = [], []
        for key in range(2 if quick else 5):
            begin = time.perf_counter()
            predicted = fit(kind, setting, train, key, epochs).predict(test, interval=None).mean
            seconds.append(time.perf_counter() - begin)
            errors.append(rmse(test.rating, predicted))
        factors, scale, weight_scale = setting
        chosen = f"{factors} factors of scale {scale}"
        if kind != "plain":
            chosen += f", weights {weight_scale or 'default'}"
        rows.append([
            kind, chosen, f"{epochs}", f"{error:.4f}", f"{np.mean(errors):.4f} ± "
            f"{np.std(errors, ddof=1):.4f}", f"{np.median(seconds):.1f}",
        ])  # fmt: skip
        figures[kind] = {"setting": setting, "epochs": epochs, "errors": errors, "held": error}
        print(rows[-1], flush=True)
    return rows, figures


def digits(quick: bool) -> tuple[list[list[str]], dict[str, Any], int]:
    """Accuracy and log loss of held-out digits, and seconds, of both packages in turns."""
    x, y = load_digits(return_X_y=True)
    # Three pixels are never set.
    x, epochs = x[:, x.any(axis=0)] / 16.0, 10 if quick else 100
    order = np.random.default_rng(0).permutation(len(y))
    held, seen = order[: len(y) // 4], order[len(y) // 4 :]
    names, scores, seconds = ("probmf", "scikit-learn"), {}, {}
    # scikit-learn's penalty counts in full in every batch, ours once in an epoch.
    batches = -(-len(seen) // DIGITS_BATCH)
    network = Network.from_l2(
        DIGITS_HIDDEN, regularization=ALPHA * batches, likelihood=Categorical(10),
        activation="relu",
    )  # fmt: skip
    examples = Examples.from_arrays(x[seen], y[seen], standardize=False)

    def judge(label: np.ndarray, chance: np.ndarray) -> Score:
        own = np.maximum(chance[np.arange(len(held)), y[held]], 1e-30)
        return float(np.mean(label == y[held])), float(-np.mean(np.log(own)))

    def ours(seed: int, name: str = names[0]) -> Score:
        begin = time.perf_counter()
        fitted = fit_map(
            network, examples, key=seed, num_epochs=epochs, batch_size=DIGITS_BATCH,
            optimizer="adam", learning_rate=DIGITS_RATE, progress=False,
        )  # fmt: skip
        seconds.setdefault(name, []).append(time.perf_counter() - begin)
        predicted = fitted.predict(x[held], interval=None)
        assert predicted.probability is not None
        assert predicted.label is not None
        return judge(predicted.label, predicted.probability)

    def theirs(seed: int, name: str = names[1]) -> Score:
        begin = time.perf_counter()
        fitted = MLPClassifier(
            DIGITS_HIDDEN, alpha=ALPHA, batch_size=DIGITS_BATCH, learning_rate_init=DIGITS_RATE,
            max_iter=epochs, n_iter_no_change=epochs + 1, tol=0.0, random_state=seed,
        ).fit(x[seen], y[seen])  # fmt: skip
        seconds.setdefault(name, []).append(time.perf_counter() - begin)
        chance = fitted.predict_proba(x[held])
        return judge(np.argmax(chance, axis=1), chance)

    ours(0)
    first = seconds.pop(names[0])[0]
    for seed in range(2 if quick else 10):
        for name, run in zip(names, (ours, theirs), strict=True):
            with warnings.catch_warnings():
                # All epochs are wanted of both, converged or not.
                warnings.simplefilter("ignore", ConvergenceWarning)
                scores.setdefault(name, []).append(run(seed, name))
        last = {name: (scores[name][-1], seconds[name][-1]) for name in names}
        print(seed, last, flush=True)
    rows = []
    for name in names:
        accuracy, loss = np.transpose(scores[name])
        rows.append([
            name, f"{100 * accuracy.mean():.2f} ± {100 * accuracy.std(ddof=1):.2f}",
            f"{loss.mean():.4f} ± {loss.std(ddof=1):.4f}", f"{np.median(seconds[name]):.2f}",
        ])  # fmt: skip
    ratio = float(np.median(np.divide(seconds[names[1]], seconds[names[0]])))
    rows[0].append(f"{first:.1f}")
    rows[1].append("")
    figures = {"scores": scores, "seconds": seconds, "first": first, "ratio": ratio}
    print(f"scikit-learn's time over ours: {ratio:.2f}", flush=True)
    return rows, figures, epochs


def run(quick: bool) -> common.Report:
    digit_rows, digit_figures, epochs = digits(quick)
    rows, figures = movielens(quick)
    ratio = digit_figures["ratio"]
    counts = "2 starts" if quick else "10 starts"
    protocol = {
        "MovieLens-100K": f"fold u1; `fit_map` by batches of {BATCH}, noise {NOISE}, biases of "
        f"scale {BIAS_SCALES['user_bias_scale']} (users) and {BIAS_SCALES['item_bias_scale']} "
        f"(items), a hidden layer of {HIDDEN[0]} units (relu alone, tanh beside the product); "
        f"AdaGrad from {RATES['adagrad']} for plain factorization, Adam from {RATES['adam']} "
        f"otherwise, both falling to zero over {EPOCHS} epochs",
        "Choices": "factors, scales and the number of epochs by the error on a tenth of the "
        "training ratings, from nine settings of each kind; then all training ratings are "
        "fitted. What nine they are came from trials on the same tenth; the test ratings had no "
        "part in it",
        "Spread": "standard deviation over random starts; the folds are not counted in",
        "Digits": f"scikit-learn's `load_digits`, a quarter held out; hidden layers "
        f"{DIGITS_HIDDEN}, relu, Adam at {DIGITS_RATE}, batches of {DIGITS_BATCH}, {epochs} "
        f"epochs, `alpha={ALPHA}` (here times the number of batches, as scikit-learn's counts in "
        "every batch); starting weights are each package's own draws from the same distribution",
        "Time": "median of one fit, after a first one whose seconds with compilation are in the "
        f"last column; in turns, {counts}, each alone. scikit-learn's time over ours, median by "
        f"start: {ratio:.2f}",
        **common.environment(),
    }
    protocol["Versions"] += f", scikit-learn {sklearn.__version__}"
    return common.Report(
        name="neural",
        title="Networks",
        protocol=protocol,
        tables=[
            common.Table(
                "Held-out RMSE of fold u1 of MovieLens-100K by point fits.",
                ["score", "chosen", "epochs", "RMSE on the tenth", "test RMSE", "seconds"], rows,
            ),
            common.Table(
                "Held-out digits by a network, beside scikit-learn's `MLPClassifier`.",
                ["package", "right, %", "log loss", "seconds", "first fit, s"], digit_rows,
            ),
        ],
        figures={"movielens": figures, "digits": digit_figures}, quick=quick,
    )  # fmt: skip


if __name__ == "__main__":
    common.main(run)
