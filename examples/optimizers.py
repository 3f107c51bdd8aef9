"""Many minima: which optimizers and learning rates find the deep ones, from many random starts.

Two interlocked half-moons are told apart by a small network. `--restarts 100 --epochs 400
--only momentum adam` makes the figure of the documentation.
"""

import argparse

import numpy as np
import optax

from probmf import Bernoulli, Examples, Network, fit_map, plots

OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam", "decay", "warm restarts", "l-bfgs")


def half_moons(num_rows=200, seed=0):
    """Two half circles that reach into each other, with noise."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, np.pi, num_rows)
    lower = rng.integers(0, 2, num_rows)
    x = np.where(lower, 1 - np.cos(angle), np.cos(angle))
    y = np.where(lower, 0.5 - np.sin(angle), np.sin(angle))
    noise = 0.15 * rng.normal(size=(2, num_rows))
    names = np.array(["upper", "lower"])
    return {"x": x + noise[0], "y": y + noise[1], "moon": names[lower]}


def settings(name, num_epochs):
    """Arguments of `fit_map` for one way to descend."""
    if name == "l-bfgs":
        return {"optimizer": optax.lbfgs()}
    if name == "decay":  # Adam from a high rate, falling along a cosine.
        schedule = optax.cosine_decay_schedule(0.3, num_epochs)
        return {"optimizer": "adam", "learning_rate": schedule}
    if name == "warm restarts":  # The same in four cycles, each from a lower rate than the last.
        cycle = {"decay_steps": num_epochs // 4, "warmup_steps": 0, "end_value": 0.0}
        cycles = [
            cycle | {"init_value": 0.3 / 2**place, "peak_value": 0.3 / 2**place}
            for place in range(4)
        ]
        return {"optimizer": "adam", "learning_rate": optax.sgdr_schedule(cycles)}
    rates = {"sgd": 0.02, "momentum": 0.01, "rmsprop": 0.01, "adam": 0.05}
    return {"optimizer": name, "learning_rate": rates[name]}


def main(num_restarts=4, num_epochs=40, only=OPTIMIZERS, figure="optimizers.png"):
    examples = Examples.from_frame(half_moons(), response="moon", features=["x", "y"])
    model = Network(hidden=(3,), weight_scale=3.0, bias_scale=3.0, likelihood=Bernoulli())
    histories = {}
    for name in only:
        fit = fit_map(
            model, examples, key=0, num_epochs=num_epochs, num_restarts=num_restarts, tol=0,
            **settings(name, num_epochs),
        )  # fmt: skip
        histories[name] = fit.history
    ends = {name: np.nanmin(history.restarts, axis=1) for name, history in histories.items()}
    lowest = min(end.min() for end in ends.values())
    print(f"{num_restarts} restarts of {num_epochs} epochs; lowest objective {lowest:.3f}")
    for name, end in ends.items():
        reached = np.sum(end <= 1.01 * lowest)
        print(
            f"{name:>13}: best {end.min():7.3f}, median {np.median(end):7.3f}, worst "
            f"{end.max():7.3f}; {reached} of {num_restarts} within 1% of the lowest"
        )
    plots.optimization(histories).savefig(figure, dpi=80)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--restarts", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--only", nargs="+", default=OPTIMIZERS, choices=OPTIMIZERS)
    parser.add_argument("--figure", default="optimizers.png")
    given, _ = parser.parse_known_args()
    main(given.restarts, given.epochs, given.only, given.figure)
