"""NUTS on mixed models: answers, starts, streams, and what is refused."""

import threading
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

from probmf import Bernoulli, MatrixFactorization, MixedEffects, load, sample_nuts
from probmf.data import Ratings
from probmf.diagnostics.judgement import statistics
from probmf.inference.drawn_back import drawn_back
from probmf.inference.marginal.prepared_model import PreparedModel
from probmf.inference.nuts import draws_by_site, nuts
from probmf.inference.nuts import transitions as _nuts
from probmf.inference.nuts.transitions import NoStartError
from probmf.models.mixed.program import MixedProgram
from probmf.results import MixedFit, open_draws
from probmf.run import driver
from probmf.run.driver import FitWarning

ONE_WAY = "y ~ 1 + (1 | g)"
PRIORS: dict[str, Any] = {
    "coefficients": {"Intercept": dist.Normal(0.0, 5.0)},
    "g_scale": dist.HalfNormal(2.0),
    "noise_scale": dist.HalfNormal(2.0),
}
#: One shape for all: compiled once.
SHORT: dict[str, Any] = {
    "num_warmup": 100, "num_samples": 120, "num_chains": 2, "marginalize": "all",
}  # fmt: skip


def table(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = 1 + rng.normal(0, 0.8, 8)[:, None] + rng.normal(0, 1.0, (8, 5))
    return {"y": y.ravel(), "g": np.repeat(np.arange(8), 5)}


def model(**options: Any) -> MixedEffects:
    return MixedEffects(ONE_WAY, priors=PRIORS, **options)


def assert_same(one: MixedFit, other: MixedFit) -> None:
    assert one.samples.keys() == other.samples.keys()
    for name, value in one.samples.items():
        np.testing.assert_array_equal(value, other.samples[name], err_msg=name)
    for name, value in one.sampling.stats.items():
        np.testing.assert_array_equal(value, other.sampling.stats[name], err_msg=name)


@pytest.fixture(scope="module")
def whole() -> MixedFit:
    """The uninterrupted run."""
    return sample_nuts(model(), table(), key=7, **SHORT)


def grid_means(y: np.ndarray) -> dict[str, tuple[Any, Any]]:
    """Means and standard deviations over a grid of the two scales."""
    axis = np.linspace(0.01, 4.0, 200)
    tau, sigma = (part.ravel() for part in np.meshgrid(axis, axis))
    means, spread = y.mean(1), tau**2 + sigma**2 / 5
    precision = 8 / spread + 1 / 25
    intercept = means.sum() / spread / precision
    log = -4 * np.log(spread) - 0.5 * np.log(precision) - 0.5 * np.sum(means**2) / spread
    log += 0.5 * precision * intercept**2 - 32 * np.log(sigma) - (tau**2 + sigma**2) / 8
    log -= 0.5 * np.sum((y - means[:, None]) ** 2) / sigma**2
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    found = {}
    for name, value, own in (
        ("g_scale", tau, 0.0), ("noise_scale", sigma, 0.0),
        ("coefficients", intercept, 1 / precision),
    ):  # fmt: skip
        mean = weight @ value
        found[name] = (mean, np.sqrt(weight @ ((value - mean) ** 2 + own)))
    shrink = tau**2 / spread
    found["g_effects"] = (weight @ (shrink[:, None] * (means - intercept[:, None])), 0.45)
    return found


@pytest.mark.parametrize(
    "marginalize",
    ["all", (), ("g_effects",)],
    ids=str,
)
@pytest.mark.slow
def test_draws_agree_with_quadrature(marginalize: Any) -> None:
    options = SHORT | {"num_samples": 500}
    fit = sample_nuts(model(), table(), key=1, **options | {"marginalize": marginalize})
    assert fit.method == ("nuts/marginal" if marginalize else "nuts")
    assert set(fit.samples) == {"coefficients", "g_effects", "g_scale", "noise_scale"}
    for name, (mean, sd) in grid_means(table()["y"].reshape(8, 5)).items():
        draws = fit.samples[name].reshape(1000, -1)
        # 0.25 sd are four standard errors of 250 independent draws.
        assert np.all(np.abs(draws.mean(0) - mean) < 0.25 * sd), name


def test_models_run_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers are global: of two threads that trace, each would see the other's sites."""
    ran, run = [], MixedProgram.__call__

    def noted(self: MixedProgram, *args: Any) -> None:
        ran.append(threading.current_thread() is threading.main_thread())
        run(self, *args)

    monkeypatch.setattr(MixedProgram, "__call__", noted)
    # Of a shape of its own, since programs that are compiled do not run the model.
    few = {name: values[:33] for name, values in table().items()}
    sample_nuts(model(), few, key=0, num_warmup=8, num_samples=8, num_chains=1, progress=False)
    assert ran
    assert all(ran)


def test_what_a_fit_tells(whole: MixedFit) -> None:
    stats = whole.sampling.stats
    assert {"lp", "energy", "n_steps", "tree_depth", "acceptance_rate", "diverging"} <= stats.keys()
    assert all(value.shape == (2, 120) for value in stats.values())
    assert stats["diverging"].dtype == bool
    np.testing.assert_array_less(stats["n_steps"], 2 ** stats["tree_depth"])
    assert (whole.sampling.num_warmup, whole.sampling.complete) == (100, True)
    assert whole.sampling.info["max_tree_depth"] == 10
    assert whole.data is not None
    assert len(np.unique(whole.samples["g_scale"])) > 200
    assert not jax.config.jax_enable_x64


def test_without_recovery(whole: MixedFit) -> None:
    fit = sample_nuts(model(), table(), key=7, recover=False, **SHORT)
    assert set(fit.samples) == {"g_scale", "noise_scale"}
    np.testing.assert_array_equal(fit.samples["g_scale"], whole.samples["g_scale"])


@pytest.mark.slow
def test_no_warmup() -> None:
    fit = sample_nuts(model(), table(), key=0, **SHORT | {"num_warmup": 0, "num_samples": 10})
    assert (fit.num_draws, fit.sampling.num_warmup) == (10, 0)


def interrupt_after(chunks: int, patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after so many chunks of 50 transitions."""
    real, made = driver._Loop.advance, []

    def sometimes(self: Any, each: Any) -> str:
        made.append(1)
        if len(made) > chunks:
            raise KeyboardInterrupt
        return real(self, each)

    patch.setattr(driver._Loop, "advance", sometimes)


def test_interrupted_while_effects_are_drawn_back(
    whole: MixedFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first draws of each chain are kept, with their effects."""
    real, made = PreparedModel.draw_all, []

    def twice(self: Any, *given: Any) -> Any:
        made.append(1)
        if len(made) > 2:
            raise KeyboardInterrupt
        return real(self, *given)

    monkeypatch.setattr(draws_by_site, "drawn_back", partial(drawn_back, size=20))
    monkeypatch.setattr(PreparedModel, "draw_all", twice)
    with pytest.warns(FitWarning, match=rf"each chain has 40 of {whole.num_draws} draws"):
        fit = sample_nuts(model(), table(), key=7, **SHORT)
    assert not fit.sampling.complete
    for site, value in fit.samples.items():
        np.testing.assert_allclose(value, whole.samples[site][:, :40], rtol=1e-9)
    assert fit.sampling.stats["n_steps"].shape == (fit.num_chains, 40)


def never(*_: Any) -> Any:
    raise AssertionError("The start was computed anew.")


def test_a_resumed_run_looks_for_no_start(
    whole: MixedFit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            sample_nuts(model(), table(), key=7, checkpoint=tmp_path, **SHORT)
    monkeypatch.setattr(nuts, "start_at_mode", never)
    assert_same(sample_nuts(model(), table(), key=7, checkpoint=tmp_path, **SHORT), whole)
    with pytest.raises(AssertionError, match="computed anew"):
        sample_nuts(model(), table(), key=7, checkpoint=tmp_path / "new", **SHORT)


@pytest.mark.parametrize("sites", [("item_bias", "item_factors"), ()], ids=str)
@pytest.mark.slow
def test_a_resumed_factorization_looks_for_no_start(
    sites: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by least squares, where one side is integrated out, nor at random."""
    rng = np.random.default_rng(0)
    columns = {"user": np.repeat(np.arange(6), 4), "item": np.tile(np.arange(4), 6)}
    ratings = Ratings.from_frame(columns | {"rating": rng.normal(size=24)})
    options: dict[str, Any] = {
        "key": 7, "num_warmup": 60, "num_samples": 60, "num_chains": 2, "marginalize": sites,
    }  # fmt: skip
    whole = sample_nuts(MatrixFactorization(1), ratings, **options)
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            sample_nuts(MatrixFactorization(1), ratings, checkpoint=tmp_path, **options)
    monkeypatch.setattr(nuts, "find_start", never)
    monkeypatch.setattr(_nuts, "find_starts", never)
    again = sample_nuts(MatrixFactorization(1), ratings, checkpoint=tmp_path, **options)
    for name, value in whole.samples.items():
        np.testing.assert_array_equal(again.samples[name], value, err_msg=name)


@pytest.mark.slow
def test_memory_keeps_some_of_what_is_streamed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    whole: MixedFit,
    tmp_path: Path,
) -> None:
    """And no more than one draw is by site at a time."""
    monkeypatch.setattr(draws_by_site, "KEPT", 60)
    monkeypatch.setattr(draws_by_site, "KEPT_BYTES", 1)
    monkeypatch.setattr(draws_by_site, "WAITING", 1)
    monkeypatch.setattr(draws_by_site, "named_stats", some_diverging)
    options: dict[str, Any] = {**SHORT, "stream": tmp_path / "s", "progress": True}
    fit = sample_nuts(model(), table(), key=7, **options)
    shown = capsys.readouterr().err
    assert "sample_nuts keeps 60 draws; writes 240 draws, 0 MiB, to" in shown
    every = open_draws(tmp_path / "s")["posterior"]["g_effects"].values
    np.testing.assert_allclose(every, whole.samples["g_effects"], atol=1e-10)
    np.testing.assert_array_equal(fit.samples["g_effects"], every[:, 3::4])
    np.testing.assert_array_equal(fit.sampling.stats["lp"], whole.sampling.stats["lp"][:, 3::4])
    # Every second transition is said to diverge, though the kept ones don't.
    known = statistics(fit.sampling)
    assert not fit.sampling.stats["diverging"].any()
    assert known["num_divergent"] == 120
    assert "e_bfmi" not in known
    fit.save(tmp_path / "fit")
    assert load(tmp_path / "fit").sampling.info["num_divergent"] == 120


def some_diverging(values: np.ndarray) -> dict[str, np.ndarray]:
    stats = _nuts.named_stats(values)
    return stats | {
        "diverging": np.broadcast_to(np.arange(values.shape[1]) % 2 == 0, values.shape[:2])
    }


def test_stream_and_checkpoint_have_to_fit(
    monkeypatch: pytest.MonkeyPatch, whole: MixedFit, tmp_path: Path
) -> None:
    streamed: dict[str, Any] = {"stream": tmp_path / "draws", "checkpoint": tmp_path / "run"}
    with monkeypatch.context() as patch:
        interrupt_after(3, patch)
        with pytest.warns(FitWarning, match="50 of 120"):
            part = sample_nuts(model(), table(), key=7, **SHORT, **streamed)
    np.testing.assert_array_equal(part.samples["g_effects"], whole.samples["g_effects"][:, :50])
    # The checkpoint holds no draws a second time.
    assert not list((tmp_path / "run").glob("draws-*"))
    sample_nuts(model(), table(), key=7, checkpoint=tmp_path / "own", **SHORT)
    with pytest.raises(ValueError, match=r"run with stream=.*Give the same stream"):
        sample_nuts(model(), table(), key=7, checkpoint=tmp_path / "run", **SHORT)
    other = {"stream": tmp_path / "other"}
    with pytest.raises(ValueError, match=r"run without stream=.*Leave stream out"):
        sample_nuts(model(), table(), key=7, checkpoint=tmp_path / "own", **SHORT, **other)
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="checkpoint counts 50 streamed draws per chain, but"):
        sample_nuts(model(), table(), key=7, checkpoint=tmp_path / "run", **SHORT, **other)
    with pytest.raises(ValueError, match="holds the draws of another run"):
        sample_nuts(model(), table(), key=7, recover=False, **SHORT, **streamed)
    assert_same(sample_nuts(model(), table(), key=7, **SHORT, **streamed), whole)


def test_a_stream_without_recovery(whole: MixedFit, tmp_path: Path) -> None:
    sample_nuts(model(), table(), key=7, recover=False, stream=tmp_path, **SHORT)
    posterior = open_draws(tmp_path)["posterior"]
    assert set(posterior.data_vars) == {"g_scale", "noise_scale"}
    np.testing.assert_array_equal(posterior["g_scale"].values, whole.samples["g_scale"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_samples": 0}, ValueError, "num_samples is 0"),
        ({"num_chains": 0}, ValueError, "num_chains is 0"),
        ({"num_chains": 2.0}, TypeError, "num_chains is 2.0"),
        ({"num_warmup": -1}, ValueError, "num_warmup is -1; expected a whole number of 0 or more"),
        ({"num_warmup": True}, TypeError, "num_warmup is True"),
        ({"max_tree_depth": 0}, ValueError, "max_tree_depth is 0"),
        ({"target_accept": 1.0}, ValueError, "target_accept is 1.0; expected a number between"),
        ({"target_accept": float("nan")}, ValueError, "target_accept is nan"),
        ({"marginalize": "h_effects"}, ValueError, "names 'h_effects'.*'all' or any of 'coeffici"),
        ({"marginalize": ("all", "g_effects")}, ValueError, "names 'all'"),
        ({"key": 0.5}, TypeError, "key is 0.5 of type float"),
    ],
)
def test_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sample_nuts(model(), table(), **SHORT | {"key": 0} | options)
    assert not jax.config.jax_enable_x64


def test_models_and_data() -> None:
    with pytest.raises(TypeError, match="expected MatrixFactorization, MixedEffects"):
        sample_nuts("y ~ x", table(), key=0)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="data is of type dict; expected Ratings"):
        sample_nuts(MatrixFactorization(2), table(), key=0)  # type: ignore[call-overload]
    ratings = Ratings.from_frame({"user": [1, 2], "item": [1, 2], "rating": [0.0, 1.0]})
    with pytest.raises(ValueError, match="marginalize names 'g_effects'"):
        sample_nuts(MatrixFactorization(1, Bernoulli()), ratings, key=0, marginalize="g_effects")
    fixed = MixedEffects(ONE_WAY, priors=PRIORS | {"g_scale": 1.0, "noise_scale": 1.0})
    with pytest.raises(ValueError, match=r"Nothing is left to sample.*sample_marginal"):
        sample_nuts(fixed, table(), key=0, **SHORT)


@pytest.mark.parametrize("kind", [pytest.param("bernoulli", marks=pytest.mark.slow), "ordinal"])
def test_other_likelihoods(kind: Any) -> None:
    data = table()
    levels = np.digitize(data["y"], [0.0, 1.5])
    data = data | {"y": (levels > 0) * 1 if kind == "bernoulli" else levels}
    options = {"num_warmup": 100, "num_samples": 50, "num_chains": 1}
    fit = sample_nuts(
        MixedEffects(ONE_WAY, likelihood=kind, centered=False), data, key=0, **options
    )
    assert {"g_effects", "g_effects_raw", "g_scale"} <= fit.samples.keys()
    # Each response is likelier where it is high.
    predicted = fit.predict(data).mean
    assert predicted[data["y"] > 0].mean() > predicted[data["y"] == 0].mean()
    with pytest.raises(ValueError, match="can be integrated out of Normal and LogNormal"):
        sample_nuts(
            MixedEffects(ONE_WAY, likelihood=kind), data, key=0, marginalize="all", **options
        )


def test_no_finite_start() -> None:
    """A noise so small that its square underflows."""
    priors = PRIORS | {"noise_scale": 1e-200}
    with pytest.raises(NoStartError, match="random starting points none had a finite log density"):
        sample_nuts(
            MixedEffects(ONE_WAY, priors=priors), table(), key=0, **SHORT | {"marginalize": ()}
        )


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.slow
def test_a_design_serves_both_precisions(first: bool) -> None:
    """JAX remembers a captured NumPy array in the precision of its first use."""
    design = model().design(table())
    short = SHORT | {"num_warmup": 10, "num_samples": 10, "num_chains": 1}
    draws = [
        sample_nuts(model(), design, key=7, float64=wide, **short) for wide in (first, not first)
    ]
    kinds = [fit.samples["g_scale"].dtype for fit in draws]
    assert kinds == ([np.float64, np.float32] if first else [np.float32, np.float64])
