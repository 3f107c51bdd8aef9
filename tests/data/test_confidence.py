"""Confidence weights by formula, and heavy tails in any unit."""

import math
from typing import Any

import numpy as np
import pytest

from probmf import MatrixFactorization, Ratings, fit_als, fit_map
from probmf.data import confidence_weights
from probmf.data.confidence import heavy_tail
from probmf.run.driver import FitWarning

PLAYS = np.floor(np.exp(2.0 * np.random.default_rng(0).normal(size=400)))


def test_formulas() -> None:
    assert confidence_weights([0, 1, 99]).tolist() == pytest.approx(
        [1.0, 1.0 + math.log(2.0), 1.0 + math.log(100.0)]
    )
    bent = confidence_weights(np.array([30], np.uint8), alpha=40.0, unit=10.0)
    assert bent.tolist() == pytest.approx([1.0 + 40.0 * math.log(4.0)])
    assert confidence_weights([0.5, 3], alpha=2.0, transform="linear").tolist() == [2.0, 7.0]


@pytest.mark.parametrize(
    ("counts", "options", "error", "message"),
    [
        ([1, -2], {}, ValueError, "list of counts is -2 in row 1"),
        ([np.nan], {}, ValueError, "missing value .* in row 0"),
        (["many"], {}, TypeError, "must hold numbers, but row 0 holds 'many'"),
        ([[1.0]], {}, TypeError, "of type list"),
        ([1], {"alpha": 0}, ValueError, "alpha is 0; expected a finite number above 0"),
        ([1], {"unit": np.inf}, ValueError, "unit is inf"),
        ([1], {"transform": "sqrt"}, ValueError, "transform is 'sqrt'; expected 'log' or 'linear'"),
    ],
)
def test_refusals(counts: Any, options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        confidence_weights(counts, **options)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_heavy_tails_are_found_in_any_unit(unit: float) -> None:
    most = math.ceil(np.sum(PLAYS > 0) / 100)
    largest = np.sort(PLAYS)[-most:].sum() / PLAYS.sum()
    assert heavy_tail(unit * PLAYS) == pytest.approx(largest)
    assert heavy_tail(unit * confidence_weights(PLAYS, transform="linear")) is not None
    for light in (confidence_weights(PLAYS), np.ones(400), np.arange(1.0, 401.0), PLAYS[:9]):
        assert heavy_tail(unit * light) is None
    assert heavy_tail(np.zeros(5)) is None


@pytest.mark.parametrize("fit", [fit_als, fit_map])
def test_fits_say_so_once(fit: Any) -> None:
    user, item = np.divmod(np.arange(400), 20)
    table = {"user": user, "item": item, "raw": 1.0 + PLAYS, "log": confidence_weights(PLAYS)}
    table["log"] = table["log"] + 0.01
    model = MatrixFactorization(1, intercept=None, unobserved_weight=1.0)
    steps = {"num_sweeps": 1} if fit is fit_als else {"num_epochs": 1}
    raw, log = (
        Ratings.from_frame({**table, "w": table[name] + 0.01}, rating=None, weight="w")
        for name in ("raw", "log")
    )
    with pytest.warns(FitWarning, match=r"1 \+ log\(1 \+ plays\)") as told:
        fit(model, raw, key=0, **steps)
    assert len(told) == 1
    assert told[0].filename == __file__
    fit(model, log, key=0, **steps)
    with pytest.warns(UserWarning, match="All ratings are 1, so that") as told:
        fit(MatrixFactorization(1), raw, key=0, **steps)
    assert len(told) == 1
