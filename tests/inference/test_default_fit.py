"""The one call for people who want no choices."""

from typing import Any

import numpy as np
import pytest

import probmf
from probmf import Bernoulli, Gaussian, MatrixFactorization, Ratings, fit_als, metrics
from probmf.datasets import simulate_ratings
from probmf.diagnostics import DiagnosticWarning
from probmf.inference import default_fit
from probmf.inference.default_fit import default_model


def table(rating: list[float]) -> Ratings:
    codes = list(range(len(rating)))
    return Ratings.from_frame({"user": codes, "item": codes, "rating": rating})


def test_the_likelihood_is_that_of_the_ratings() -> None:
    stars = default_model(table([1.0, 3.0, 5.0]), 4).likelihood
    assert isinstance(stars, Gaussian)
    law: Any = stars.noise_scale
    assert float(law.scale) == pytest.approx(np.std([1.0, 3.0, 5.0]))
    assert isinstance(default_model(table([0.0, 1.0, 1.0]), 4).likelihood, Bernoulli)


def test_mistakes() -> None:
    with pytest.raises(TypeError, match="ratings is a dict, expected Ratings"):
        probmf.fit({"user": [1]})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="All ratings are 1, so that they tell nobody's taste"):
        probmf.fit(table([1.0, 1.0]))
    with pytest.raises(ValueError, match="num_sweeps is 0"):
        probmf.fit(table([1.0, 2.0]), num_sweeps=0)


@pytest.mark.parametrize(("num_ratings", "sweeps"), [(100, 3_200), (60_000, 1_000), (10**7, 300)])
def test_fewer_sweeps_of_more_ratings(
    monkeypatch: pytest.MonkeyPatch, num_ratings: int, sweeps: int
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(default_fit, "sample_gibbs", lambda *_, **given: asked.update(given))
    ratings = table([1.0, 2.0])
    monkeypatch.setattr(Ratings, "__len__", lambda _: num_ratings)
    probmf.fit(ratings)
    assert asked["num_warmup"] == sweeps // 4
    assert asked["num_samples"] == 50 * asked["thin"]
    assert 0 <= 3 * sweeps // 4 - asked["num_samples"] < 50
    probmf.fit(ratings, num_sweeps=12)
    assert [asked[name] for name in ("num_warmup", "num_samples", "thin")] == [3, 9, 1]


def test_a_warning_is_about_the_callers_line() -> None:
    user, item = np.divmod(np.arange(6), 3)
    data = Ratings.from_frame({"user": user, "item": item, "rating": [1.0, 2, 3, 4, 5, 3]})
    with pytest.warns(
        DiagnosticWarning, match=r"raise num_warmup .* num_sweeps of probmf.fit"
    ) as told:
        fit = probmf.fit(data, num_factors=1, num_sweeps=12)
    assert [one.filename for one in told] == [__file__]
    assert (fit.num_chains, fit.num_draws) == (2, 9)


@pytest.mark.calibration
@pytest.mark.parametrize("seed", [3, 5, 11])
def test_intervals_keep_their_word_and_factors_beat_biases(seed: int) -> None:
    data = simulate_ratings(
        key=seed, num_users=120, num_items=60, num_ratings=2_400, num_factors=3
    ).ratings
    stars = np.clip(np.round(3 + (data.rating - data.rating.mean()) / data.rating.std()), 1, 5)
    frame = {"user": data.user, "item": data.item, "rating": stars}
    train, test = Ratings.from_frame(frame).split(key=seed, test_fraction=1 / 6)
    found = probmf.fit(train).predict(test)
    biases = fit_als(
        MatrixFactorization(0, Gaussian(0.8), user_bias_scale=0.5, item_bias_scale=0.5), train,
        key=0,
    ).predict(test, interval=None)  # fmt: skip
    errors = [metrics.rmse(test.rating, each.mean) for each in (found, biases)]
    assert errors[0] < 0.97 * errors[1]
    # Three binomial standard deviations of 400 about 0.9.
    assert 0.855 < metrics.coverage(test.rating, found.lower, found.upper) < 0.945
