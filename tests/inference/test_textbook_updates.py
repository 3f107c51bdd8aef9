r"""The updates of the recommender slides, written by hand in NumPy, are what the fits do.

Their model has a learned intercept, biases and factors, one strength for each side, and the
averaged loss 1/n sum e^2 + lambda_1 (|b|^2 + |U|^2) + lambda_2 (|c|^2 + |V|^2). The slides' sums
lack a factor 1/n beside lambda, and one closed form its gamma; the formulas here have both.
"""

from collections.abc import Mapping

import jax
import numpy as np

from probmf import MatrixFactorization, Ratings, fit_als, fit_map
from probmf.results import RatingsFit

USERS, ITEMS, FACTORS = 5, 4, 2
STRENGTH = {"user": 0.02, "item": 0.05}
SITES = ("user_bias", "user_factors", "item_bias", "item_factors")


def table() -> Ratings:
    """Fourteen of twenty pairs, in no order."""
    rng = np.random.default_rng(0)
    pairs = rng.permutation(USERS * ITEMS)[:14]
    user, item = np.divmod(pairs, ITEMS)
    return Ratings.from_frame(
        {"user": user, "item": item, "rating": 3 + rng.normal(size=14)},
        users=list(range(USERS)), items=list(range(ITEMS)),
    )  # fmt: skip


DATA = table()
MODEL = MatrixFactorization.from_l2(
    FACTORS, user=STRENGTH["user"], user_bias=STRENGTH["user"], item=STRENGTH["item"],
    item_bias=STRENGTH["item"], loss="mean", ratings=DATA, intercept="learned",
)  # fmt: skip


def first_values() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = MODEL.site_shapes(USERS, ITEMS)
    values = {site: 0.4 * rng.normal(size=shape) for site, shape in shapes.items()}
    return {"intercept": np.asarray(2.0), **values}


def residual(values: Mapping[str, np.ndarray]) -> np.ndarray:
    products = np.sum(values["user_factors"][DATA.user] * values["item_factors"][DATA.item], axis=1)
    biases = values["user_bias"][DATA.user] + values["item_bias"][DATA.item]
    return DATA.rating - values["intercept"] - biases - products


def averaged_loss(values: Mapping[str, np.ndarray]) -> float:
    penalty = sum(STRENGTH[site[:4]] * np.sum(np.square(values[site])) for site in SITES)
    return float(np.mean(np.square(residual(values))) + penalty)


def assert_same(fit: RatingsFit, values: Mapping[str, np.ndarray]) -> None:
    for site, value in fit.point().items():
        np.testing.assert_allclose(value, values[site], rtol=1e-9, err_msg=site)


def test_gradient_descent_on_the_averaged_loss() -> None:
    """u += 2 eta (1/n sum e v - lambda u): it descends, and the penalty is not divided by n."""
    steps, eta, n = 6, 0.05, len(DATA)
    values = first_values()
    losses = []
    for _ in range(steps):
        e, old = residual(values), values
        values = {"intercept": old["intercept"] + 2 * eta * np.sum(e) / n}
        for side, other in (("user", "item"), ("item", "user")):
            codes, partner = getattr(DATA, side), getattr(DATA, other)
            moved = {"bias": e[:, None], "factors": e[:, None] * old[f"{other}_factors"][partner]}
            for kind, slopes in moved.items():
                before = old[f"{side}_{kind}"]
                total = np.zeros((len(before), slopes.shape[1]))
                np.add.at(total, codes, slopes)
                step = total.reshape(before.shape) / n - STRENGTH[side] * before
                values[f"{side}_{kind}"] = before + 2 * eta * step
        losses.append(averaged_loss(values))
    assert np.all(np.diff(losses) < 0)
    with jax.enable_x64(True):
        start = RatingsFit.from_point(MODEL, DATA, first_values(), method="given")
        # The objective is n / 2 times the averaged loss.
        fit = fit_map(
            MODEL, DATA, key=0, num_epochs=steps, tol=0, start=start, optimizer="sgd",
            learning_rate=2 * eta / n,
        )  # fmt: skip
    assert_same(fit, values)
    assert fit.history is not None
    np.testing.assert_allclose(fit.history.objective, n / 2 * np.asarray(losses), rtol=1e-9)


def test_alternating_coordinate_solutions_of_the_averaged_loss() -> None:
    """b_u = sum(e + b_u) / (|I_u| + n lambda), and the like with the partner's factor squared."""
    sweeps, n = 5, len(DATA)
    values = first_values()
    losses = []
    for sweep in range(sweeps):
        if sweep:
            values["intercept"] = values["intercept"] + residual(values).mean()
        for side, other in (("user", "item"), ("item", "user")):
            codes, partner = getattr(DATA, side), getattr(DATA, other)
            for row in range(len(values[f"{side}_bias"])):
                own = codes == row
                ridge = n * STRENGTH[side]
                bias, factors = values[f"{side}_bias"], values[f"{side}_factors"]
                without = residual(values)[own] + bias[row]
                bias[row] = np.sum(without) / (np.sum(own) + ridge)
                for k in range(FACTORS):
                    gamma = values[f"{other}_factors"][partner[own], k]
                    without = residual(values)[own] + factors[row, k] * gamma
                    factors[row, k] = np.sum(gamma * without) / (np.sum(gamma**2) + ridge)
        losses.append(averaged_loss(values))
    assert np.all(np.diff(losses) < 0)
    with jax.enable_x64(True):
        start = RatingsFit.from_point(MODEL, DATA, first_values(), method="given")
        fit = fit_als(
            MODEL, DATA, key=0, num_sweeps=sweeps, tol=0, start=start, update="coordinate"
        )
    assert_same(fit, values)
    assert fit.history is not None
    np.testing.assert_allclose(fit.history.objective, n / 2 * np.asarray(losses), rtol=1e-9)
