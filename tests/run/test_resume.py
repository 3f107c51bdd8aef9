"""Each sampler killed from outside and gone on with, and checkpoints of other runs."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import numpyro.distributions as dist
import optax
import pytest
import toys
from killed import kill_after_writes
from numpyro.infer.autoguide import AutoNormal

from probmf import (
    Gaussian,
    MatrixFactorization,
    MixedEffects,
    fit_als,
    fit_map,
    fit_svi,
    fit_variational,
    sample_gibbs,
    sample_nuts,
)
from probmf.run import driver

HALF = dist.HalfNormal(1.0)
FIXED = MatrixFactorization(2, Gaussian(0.5))
LEARNED = MatrixFactorization(2, Gaussian(HALF), user_scale=HALF, item_scale=HALF)
MIXED = MixedEffects("y ~ x + (1 | g) + (1 | h)")
ADAM = optax.inject_hyperparams(optax.adam)
CHAINS = {"num_warmup": 60, "num_samples": 60, "num_chains": 2, "progress": False}
#: Method, model, data and options.
RUNS: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "als": (fit_als, FIXED, toys.ratings(), {"num_sweeps": 8, "tol": 0.0}),
    "variational": (fit_variational, LEARNED, toys.ratings(), {"num_sweeps": 8}),
    "svi": (fit_svi, LEARNED, toys.ratings(), {"num_steps": 400, "num_samples": 8}),
    "map": (
        fit_map, FIXED, toys.ratings(),
        {"num_epochs": 12, "num_restarts": 2, "optimizer": ADAM(0.03), "tol": 0.0},
    ),
    "map batches": (
        fit_map, FIXED, toys.ratings(), {"num_epochs": 12, "num_restarts": 2, "batch_size": 16}
    ),
    "gibbs": (sample_gibbs, LEARNED, toys.ratings(), CHAINS),
    "nuts": (sample_nuts, MIXED, toys.mixed(), {"marginalize": "all", **CHAINS}),
}  # fmt: skip


#: Those that are run in every suite; the others are interrupted in the contract.
QUICK = ("als",)


def run(name: str, **change: Any) -> Any:
    method, model, data, options = RUNS[name]
    given = {"model": model, "data": data, "key": 5, **options, **change}
    return method(given.pop("model"), given.pop("data"), **given)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="There is no SIGKILL here.")
@pytest.mark.filterwarnings("ignore::probmf.run.driver.FitWarning")
@pytest.mark.parametrize(
    "name",
    [
        *QUICK,
        *(pytest.param(name, marks=pytest.mark.slow) for name in RUNS if name not in QUICK),
    ],
)  # fmt: skip
def test_a_killed_run_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Another process began it, and was killed between two writes, one of them of draws."""
    script = f"""
        sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parent)]!r}
        import probmf.run.driver as driver
        from test_resume import run
        driver.WRITE_EVERY = 0.0
        run(sys.argv[1], checkpoint=sys.argv[2])
        """
    kill_after_writes(9 if name == "gibbs" else 4, script, name, str(tmp_path))
    assert list(tmp_path.glob("state-*.safetensors"))
    again, whole = run(name, checkpoint=tmp_path), run(name)
    for site, value in whole.samples.items():
        np.testing.assert_array_equal(again.samples[site], value, err_msg=site)
    if whole.history is not None:
        np.testing.assert_array_equal(again.history.objective, whole.history.objective)
        np.testing.assert_array_equal(again.history.restarts, whole.history.restarts)
    if whole.sampling is not None:
        for statistic, value in whole.sampling.stats.items():
            np.testing.assert_array_equal(again.sampling.stats[statistic], value)
    if getattr(whole, "traces", None) is not None:
        np.testing.assert_array_equal(again.traces.values["lp"], whole.traces.values["lp"])


SHORT = {"num_warmup": 2, "num_samples": 2}
BRIEF = {
    "als": {"num_sweeps": 3}, "map": {"num_epochs": 3}, "svi": {"num_steps": 3},
    "variational": {"num_sweeps": 3},
}  # fmt: skip
CHANGES: dict[str, list[dict[str, Any]]] = {
    "als": [
        {"key": 4}, {"tol": 0.1}, {"solver": "cholesky"}, {"update": "coordinate"},
        {"cg_steps": 4}, {"num_sweeps": 4}, {"start": FIXED}, {"validation": toys.ratings()},
        {"model": MatrixFactorization(2, Gaussian(0.6))}, {"data": toys.ratings("levels")},
    ],
    "variational": [
        {"key": 4}, {"tol": 0.1}, {"covariance": "block"}, {"scale_per": "side"},
        {"num_sweeps": 4}, {"model": FIXED},
    ],
    "svi": [
        {"key": 4}, {"guide": "low_rank"}, {"num_particles": 2}, {"learning_rate": 0.03},
        {"num_steps": 4}, {"model": FIXED}, {"optimizer": "sgd", "learning_rate": 0.05},
    ],
    "map": [
        {"key": 4}, {"num_restarts": 3}, {"tol": 0.1}, {"optimizer": ADAM(0.031)},
        {"optimizer": optax.adam(0.03)}, {"optimizer": optax.sgd(0.03)},
        {"optimizer": None, "learning_rate": 0.03}, {"num_epochs": 4},
        {"model": MatrixFactorization(2, Gaussian(0.6))}, {"validation": toys.ratings()},
        {"model": MatrixFactorization(2, Gaussian(0.5), 3.0)}, {"batch_size": 20},
    ],
    "gibbs": [
        {"key": 1}, {"num_samples": 3}, {"start": FIXED}, {"thin": 2},
        {"model": MatrixFactorization(2, Gaussian(HALF), user_scale=HALF, item_scale=0.5)},
    ],
    "nuts": [
        {"key": 8}, {"num_samples": 3}, {"target_accept": 0.81}, {"marginalize": ("g_effects",)},
        {"data": toys.mixed() | {"x": np.ones(40) + np.arange(40)}},
        {"model": MixedEffects("y ~ x + (1 | g) + (1 | h)", priors={"g_scale": HALF})},
    ],
}  # fmt: skip


class BegunError(Exception):
    """A run has written its first checkpoint."""


@pytest.mark.filterwarnings("ignore::probmf.run.driver.FitWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_another_run_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that has hardly begun, so that its steps aren't compiled."""
    short, advance = BRIEF.get(name, SHORT), driver._Loop.advance

    def begun(self: Any, each: Any) -> str:
        if self.checkpoint is None:  # A fit that the chains start from.
            return advance(self, each)
        raise BegunError

    monkeypatch.setattr(driver._Loop, "advance", begun)
    with pytest.raises(BegunError):
        run(name, checkpoint=tmp_path, **short)
    assert (tmp_path / "run.json").exists()
    for change in CHANGES[name]:
        if "start" in change:
            change = {"start": fit_als(change["start"], toys.ratings(), key=0, num_sweeps=2)}
        with pytest.raises(ValueError, match="holds another run: its model, data, settings or key"):
            run(name, checkpoint=tmp_path, **short | change)


def test_a_guide_that_has_no_contents(tmp_path: Path) -> None:
    guide = AutoNormal(LEARNED)

    class Edited(AutoNormal):
        """A class that may be another one of this name in the next run."""

    for own in (guide, Edited):
        with pytest.raises(ValueError, match=r"a guide by name or a class.*; give guide=AutoNor"):
            run("svi", checkpoint=tmp_path, guide=own)


def test_optax_decides_the_bits_of_gradient_fits(tmp_path: Path) -> None:
    run("map", checkpoint=tmp_path, num_epochs=1)
    assert '"optax"' in (tmp_path / "run.json").read_text()
