"""No public call writes to the standard streams: not Python, and not the libraries below it."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probmf import (
    Gaussian,
    MatrixFactorization,
    MixedEffects,
    MixedFit,
    Ratings,
    fit_als,
    fit_laplace,
    fit_map,
    fit_marginal,
    fit_svi,
    fit_variational,
    load,
    sample_gibbs,
    sample_marginal,
    sample_nuts,
)

RNG = np.random.default_rng(0)
RATINGS = Ratings.from_frame(
    {"user": np.arange(24) % 6, "item": np.arange(24) % 5, "rating": RNG.integers(1, 5, 24) * 1.0}
)
FACTORS = MatrixFactorization(1, Gaussian(1.0))
GROUPS = np.arange(24) % 6
TABLE = {
    "y": RNG.normal(size=6)[GROUPS] + RNG.normal(size=24),
    "x": RNG.normal(size=24),
    "g": GROUPS,
    "h": np.arange(24) // 8,
}
INTERCEPTS = MixedEffects("y ~ 1 + (1 | g)")
CROSSED = MixedEffects("y ~ x + (1 | g) + (1 | h)")
REGRESSION = MixedEffects("y ~ x", priors={"noise_scale": 1.0})
SHORT = {"num_warmup": 4, "num_samples": 4, "num_chains": 1, "progress": False}


def used(fit: Any, folder: Path) -> None:
    """What is done with a fit."""
    repr(fit)
    fit.save(folder / "fit")
    fit.to_arviz()
    if isinstance(fit, MixedFit):
        fit.predict(TABLE)
        fit.summary()
        load(folder / "fit")
        return
    fit.predict({"user": [0, 1], "item": [1, 2]})
    fit.recommend([0, 1], k=2)
    load(folder / "fit")


CALLS: dict[str, Callable[[Path], Any]] = {
    "als": lambda at: used(fit_als(FACTORS, RATINGS, key=0, num_sweeps=2, progress=False), at),
    "map": lambda at: fit_map(FACTORS, RATINGS, key=0, num_epochs=2, progress=False),
    "variational": lambda at: fit_variational(
        FACTORS, RATINGS, key=0, num_sweeps=2, num_draws=4, progress=False
    ),
    "gibbs": lambda at: sample_gibbs(FACTORS, RATINGS, key=0, **SHORT),
    "mixed gibbs": lambda at: sample_gibbs(INTERCEPTS, TABLE, key=0, **SHORT),
    "nuts": lambda at: sample_nuts(REGRESSION, TABLE, key=0, **SHORT),
    "svi": lambda at: fit_svi(REGRESSION, TABLE, key=0, num_steps=5, num_samples=4, progress=False),
    "laplace": lambda at: fit_laplace(REGRESSION, TABLE, key=0, num_samples=4),
    "marginal": lambda at: used(fit_marginal(INTERCEPTS, TABLE), at),
    "marginal, crossed": lambda at: fit_marginal(CROSSED, TABLE, objective="restricted"),
    "draws": lambda at: used(
        sample_marginal(INTERCEPTS, TABLE, key=0, num_samples=20, progress=False), at
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_writes_nothing(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        # So short a run may well be warned of, and a warning is written where it is not an error.
        warnings.simplefilter("ignore")
        CALLS[name](tmp_path)
    assert capfd.readouterr() == ("", "")
