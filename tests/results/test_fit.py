"""The result class itself."""

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from probmf import Bernoulli, MatrixFactorization, fit_als
from probmf.models.linear_predictor import linear_predictor
from probmf.results import History, RatingsFit


def test_repr_says_what_was_fitted(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MatrixFactorization(3, Bernoulli()), draw_ratings(binary=True))
    assert repr(fit) == "RatingsFit(random: 3 factors, Bernoulli; 45 ratings, 14 users, 11 items)"
    history = History(
        objective=np.array([5.0, 1234.5678]), validation=None, seconds=np.array([0.1, 0.2]),
        best=2, stopped="tol", unit="sweep",
    )  # fmt: skip
    told = RatingsFit.from_point(fit.model, fit.data, fit.point(), method="als/cg", history=history)
    assert repr(told).endswith("11 items; 2 sweeps, objective 1,234.57, stopped by tol)")
    assert "\n" not in repr(told)
    assert len(history) == 2


def test_a_fit_is_frozen(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MatrixFactorization(3), draw_ratings())
    with pytest.raises(FrozenInstanceError):
        fit.method = "other"
    with pytest.raises(ValueError, match="read-only"):
        fit.samples["user_bias"][0, 0, 0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        fit.point()["user_bias"][0] = 1.0


def test_the_caller_s_arrays_stay_writable(draw_ratings: Any) -> None:
    data = draw_ratings()
    bias = np.zeros((1, 1, 14))
    model = MatrixFactorization(0, item_bias=False)
    RatingsFit(model, data, {"intercept": np.zeros((1, 1)), "user_bias": bias}, "by hand")
    bias[0, 0, 0] = 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_bias": None}, r"user_bias has shape None, expected \(chains, draws, 14\) for 14"),
        ({"user_factors": np.zeros((14, 2))}, r"user_factors has shape \(1, 1, 14, 2\), expected"),
        (
            {"intercept": np.zeros(3)},
            r"intercept has shape \(1, 1, 3\), expected \(chains, draws\)",
        ),
        ({"item_bias": np.full(11, np.nan)}, "item_bias is not finite everywhere"),
    ],
)
def test_bad_parameters(
    change: dict[str, Any], message: str, draw_ratings: Any, random_fit: Any
) -> None:
    fit = random_fit(MatrixFactorization(3), draw_ratings())
    parameters = {k: v for k, v in (fit.point() | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        RatingsFit.from_point(fit.model, fit.data, parameters, method="test")


def test_several_draws_have_no_point(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MatrixFactorization(1), draw_ratings())
    draws = {name: np.repeat(value, 4, axis=1) for name, value in fit.samples.items()}
    many = RatingsFit(fit.model, fit.data, draws, "gibbs")
    with pytest.raises(ValueError, match="1 chains of 4 draws and hence no point; see samples"):
        many.point()
    assert repr(many).endswith("11 items; 1 chains of 4 draws)")
    draws["intercept"] = draws["intercept"][:, :2]
    with pytest.raises(ValueError, match="user_bias has shape"):
        RatingsFit(fit.model, fit.data, draws, "gibbs")


def test_a_fit_by_als(draw_ratings: Any) -> None:
    data = draw_ratings()
    fit = fit_als(MatrixFactorization(2), data, key=0, num_sweeps=60, tol=0.0, progress=False)
    expected = np.asarray(linear_predictor(fit.point(), data.user, data.item))
    np.testing.assert_allclose(fit.predict(data).mean, expected, rtol=1e-5)
    # At convergence every row is at its mode, so that folding its own ratings in changes nothing.
    again = fit.fold_in(data)
    for site, value in fit.point().items():
        np.testing.assert_allclose(again.point()[site], value, atol=2e-3)
