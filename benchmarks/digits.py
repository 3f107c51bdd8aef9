"""Held-out digits by a network, beside scikit-learn's MLPClassifier."""

import time
import warnings
from typing import Any

import common
import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from probmf import Categorical, Examples, Network, fit_map

#: As of both packages.
HIDDEN, RATE, BATCH, ALPHA = (64, 32), 1e-3, 50, 1e-2

type Score = tuple[float, float]


def digits(quick: bool) -> tuple[list[list[str]], dict[str, Any], int]:
    """Accuracy and log loss of held-out digits, and seconds, of both packages in turns."""
    x, y = load_digits(return_X_y=True)
    # Three pixels are never set.
    x, epochs = x[:, x.any(axis=0)] / 16.0, 10 if quick else 100
    order = np.random.default_rng(0).permutation(len(y))
    held, seen = order[: len(y) // 4], order[len(y) // 4 :]
    names, scores, seconds = ("probmf", "scikit-learn"), {}, {}
    # scikit-learn's penalty counts in full in every batch, ours once in an epoch.
    batches = -(-len(seen) // BATCH)
    network = Network.from_l2(
        HIDDEN, regularization=ALPHA * batches, likelihood=Categorical(10),
        activation="relu",
    )  # fmt: skip
    examples = Examples.from_arrays(x[seen], y[seen], standardize=False)

    def judge(label: np.ndarray, chance: np.ndarray) -> Score:
        own = np.maximum(chance[np.arange(len(held)), y[held]], 1e-30)
        return float(np.mean(label == y[held])), float(-np.mean(np.log(own)))

    def ours(seed: int, name: str = names[0]) -> Score:
        begin = time.perf_counter()
        fitted = fit_map(
            network, examples, key=seed, num_epochs=epochs, batch_size=BATCH,
            optimizer="adam", learning_rate=RATE, progress=False,
        )  # fmt: skip
        seconds.setdefault(name, []).append(time.perf_counter() - begin)
        predicted = fitted.predict(x[held], interval=None)
        assert predicted.probabilities is not None
        assert predicted.label is not None
        return judge(predicted.label, predicted.probabilities)

    def theirs(seed: int, name: str = names[1]) -> Score:
        begin = time.perf_counter()
        fitted = MLPClassifier(
            HIDDEN, alpha=ALPHA, batch_size=BATCH, learning_rate_init=RATE,
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
    rows, figures, epochs = digits(quick)
    counts = "2 starts" if quick else "10 starts"
    protocol = {
        "Spread": "standard deviation over random starts",
        "Digits": f"scikit-learn's `load_digits`, a quarter held out; hidden layers {HIDDEN}, "
        f"relu, Adam at {RATE}, batches of {BATCH}, {epochs} epochs, `alpha={ALPHA}` (here times "
        "the number of batches, as scikit-learn's counts in every batch); starting weights are "
        "each package's own draws from the same distribution",
        "Time": "median of one fit, after a first one whose seconds with compilation are in the "
        f"last column; in turns, {counts}, each alone. scikit-learn's time over ours, median by "
        f"start: {figures['ratio']:.2f}",
        **common.environment(),
    }
    protocol["Versions"] += f", scikit-learn {sklearn.__version__}"
    return common.Report(
        name="digits",
        title="Networks",
        protocol=protocol,
        tables=[
            common.Table(
                "Held-out digits by a network, beside scikit-learn's `MLPClassifier`.",
                ["package", "right, %", "log loss", "seconds", "first fit, s"], rows,
            ),
        ],
        figures=figures, quick=quick,
    )  # fmt: skip


if __name__ == "__main__":
    common.main(run)
