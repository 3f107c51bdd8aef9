"""Draws of NUTS streamed to disk: what they are, how a run goes on, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest

from probmf import (
    Categorical,
    Examples,
    Fit,
    Gaussian,
    MatrixFactorization,
    MixedEffects,
    MixedFit,
    Network,
    Ratings,
    load,
    open_draws,
    sample_nuts,
)
from probmf.diagnostics.judgement import statistics
from probmf.inference.marginal_rows import find_start
from probmf.inference.nuts import draws_by_site as _nuts_stream
from probmf.inference.nuts import nuts
from probmf.inference.nuts import transitions as _nuts
from probmf.run import draw_stream as stream_module
from probmf.run.checkpoint import Checkpoint
from probmf.run.draw_stream import DrawStream
from probmf.run.driver import FitWarning
from probmf.run.threads import Workers

HALF = dist.HalfNormal(1.0)
#: Two chunks of warmup, and three of draws, the last of which is short.
SHORT: dict[str, Any] = {
    "key": 7, "num_warmup": 100, "num_samples": 120, "num_chains": 2, "marginalize": "all",
}  # fmt: skip
MODEL = MixedEffects(
    "y ~ 1 + (1 | g)",
    priors={"coefficients": {"Intercept": dist.Normal(0.0, 5.0)}, "g_scale": HALF,
            "noise_scale": HALF},
)  # fmt: skip


def table() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    y = 1 + rng.normal(0, 0.8, 8)[:, None] + rng.normal(0, 1.0, (8, 5))
    return {"y": y.ravel(), "g": np.repeat(list("abcdefgh"), 5)}


def sample(**options: Any) -> MixedFit:
    return sample_nuts(MODEL, table(), **SHORT | options)


def files(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def small_chunks(patch: pytest.MonkeyPatch) -> None:
    """Chunks of a few draws, of which what is written at a time is no multiple."""
    patch.setattr(stream_module, "CHUNK_BYTES", 400)


def interrupt_after(calls: int, patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after so many chunks of 50 transitions."""
    real, made = Workers.map, []

    def sometimes(self: Workers, function: Any, items: Any) -> Any:
        made.append(1)
        if len(made) > calls:
            raise KeyboardInterrupt
        return real(self, function, items)

    patch.setattr(Workers, "map", sometimes)


def assert_holds(path: Path, fit: Any) -> None:
    """A store holds a fit's draws and statistics, under the names that `to_arviz` gives them."""
    tree, expected = open_draws(path), fit.to_arviz()
    for group in ("posterior", "sample_stats"):
        found, wanted = tree[group], expected[group]
        assert set(found.data_vars) == set(wanted.data_vars)
        for name, value in wanted.data_vars.items():
            assert found[name].dims == value.dims, name
            assert found[name].dtype == value.dtype, name
            np.testing.assert_array_equal(found[name].values, value.values, err_msg=name)
            for dim in value.dims:
                assert found[dim].values.tolist() == wanted[dim].values.tolist(), dim


@pytest.fixture(scope="module")
def plain() -> MixedFit:
    return sample()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "draws.zarr"
    with pytest.MonkeyPatch.context() as patch:
        small_chunks(patch)
        sample(stream=path)
    return path


def test_a_stream_holds_the_draws_of_the_run(plain: MixedFit, whole: Path) -> None:
    assert_holds(whole, plain)
    one = open_draws(whole)["posterior"]["g_effects"].sel(g="c", chain=1)
    np.testing.assert_array_equal(one.values, plain.samples["g_effects"][1, :, 2])
    assert len(list((whole / "posterior" / "g_effects" / "c").rglob("*"))) > 20


def test_a_small_fit_keeps_all_of_them(
    plain: MixedFit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = sample(stream=tmp_path / "s", progress=True)
    assert "sample_nuts keeps 240 draws; writes 240 draws, 0 MiB, to" in capsys.readouterr().err
    for name, value in plain.samples.items():
        np.testing.assert_array_equal(fit.samples[name], value)
    info = fit.sampling.info
    assert info["stream"] == str(tmp_path / "s")
    assert (info["streamed_draws"], info["thin"]) == (120, 1)
    assert fit.sampling.stats["n_steps"].dtype == int
    assert statistics(fit.sampling).keys() == statistics(plain.sampling).keys()


@pytest.mark.slow
def test_memory_keeps_some_of_them(
    monkeypatch: pytest.MonkeyPatch, plain: MixedFit, tmp_path: Path
) -> None:
    """And no more than one draw is by site at a time."""
    monkeypatch.setattr(_nuts_stream, "KEPT", 60)
    monkeypatch.setattr(_nuts_stream, "KEPT_BYTES", 1)
    monkeypatch.setattr(_nuts_stream, "WAITING", 1)
    monkeypatch.setattr(stream_module, "WAITING", 1)
    monkeypatch.setattr(_nuts_stream, "named_stats", some_diverging)
    fit = sample(stream=tmp_path / "s")
    every = open_draws(tmp_path / "s")["posterior"]["g_effects"].values
    np.testing.assert_allclose(every, plain.samples["g_effects"], atol=1e-10)
    np.testing.assert_array_equal(fit.samples["g_effects"], every[:, 3::4])
    np.testing.assert_array_equal(fit.sampling.stats["lp"], plain.sampling.stats["lp"][:, 3::4])
    # Every second transition is said to diverge, though the kept ones don't.
    known = statistics(fit.sampling)
    assert not fit.sampling.stats["diverging"].any()
    assert known["num_divergent"] == 120
    assert "e_bfmi" not in known
    fit.save(tmp_path / "fit")
    assert load(tmp_path / "fit").sampling.info["num_divergent"] == 120  # type: ignore[union-attr]


def some_diverging(values: np.ndarray) -> dict[str, np.ndarray]:
    stats = _nuts.named_stats(values)
    return stats | {
        "diverging": np.broadcast_to(np.arange(values.shape[1]) % 2 == 0, values.shape[:2])
    }


def test_an_interrupted_run_goes_on_to_the_same_store(
    monkeypatch: pytest.MonkeyPatch, plain: MixedFit, whole: Path, tmp_path: Path
) -> None:
    small_chunks(monkeypatch)
    arguments = {"stream": tmp_path / "draws", "checkpoint": tmp_path / "run"}
    with monkeypatch.context() as patch:
        interrupt_after(3, patch)
        with pytest.warns(FitWarning, match="Interrupted: each chain has 50 of 120 draws"):
            part = sample(**arguments)
    assert (part.num_draws, part.sampling.complete) == (50, False)
    np.testing.assert_array_equal(part.samples["g_effects"], plain.samples["g_effects"][:, :50])
    so_far = open_draws(tmp_path / "draws")["posterior"]["g_effects"].values
    np.testing.assert_array_equal(so_far, part.samples["g_effects"])
    # The checkpoint holds no draws a second time.
    assert not list((tmp_path / "run").glob("draws-*"))
    resumed = sample(**arguments)
    np.testing.assert_array_equal(resumed.samples["g_effects"], plain.samples["g_effects"])
    assert files(tmp_path / "draws") == files(whole)
    # A run that is done is read, not made again.
    with monkeypatch.context() as patch:
        interrupt_after(0, patch)
        again = sample(**arguments)
    np.testing.assert_array_equal(again.samples["g_effects"], plain.samples["g_effects"])
    assert files(tmp_path / "draws") == files(whole)


def test_interrupted_in_the_warmup(
    monkeypatch: pytest.MonkeyPatch, whole: Path, tmp_path: Path
) -> None:
    small_chunks(monkeypatch)
    arguments = {"stream": tmp_path / "draws", "checkpoint": tmp_path / "run"}
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        with pytest.raises(KeyboardInterrupt, match="no draws to return"):
            sample(**arguments)
    with pytest.raises(ValueError, match="holds no draws yet"):
        open_draws(tmp_path / "draws")
    sample(**arguments)
    assert files(tmp_path / "draws") == files(whole)


def test_draws_after_the_checkpoint_are_written_over(
    monkeypatch: pytest.MonkeyPatch, whole: Path, tmp_path: Path
) -> None:
    """A kill between stream and checkpoint leaves more draws than the checkpoint counts."""
    small_chunks(monkeypatch)
    arguments = {"stream": tmp_path / "draws", "checkpoint": tmp_path / "run"}
    with monkeypatch.context() as patch:
        real = Checkpoint.write

        def killed(self: Checkpoint, states: Any, pieces: Any, done: int) -> None:
            if done == 200:
                raise KeyboardInterrupt
            real(self, states, pieces, done)

        patch.setattr(Checkpoint, "write", killed)
        with pytest.warns(FitWarning, match="has 100 of 120 draws"):
            sample(**arguments)
    sample(**arguments)
    assert files(tmp_path / "draws") == files(whole)


def test_a_disk_that_takes_no_more(
    monkeypatch: pytest.MonkeyPatch, plain: MixedFit, whole: Path, tmp_path: Path
) -> None:
    small_chunks(monkeypatch)
    arguments = {"stream": tmp_path / "draws", "checkpoint": tmp_path / "run"}
    with monkeypatch.context() as patch:
        real, made = DrawStream._put, []

        def full(self: DrawStream, *given: Any) -> None:
            made.append(1)
            if len(made) > 15:  # of eleven sites
                raise OSError(28, "No space left on device")
            real(self, *given)

        patch.setattr(DrawStream, "_put", full)
        with pytest.warns(FitWarning, match=r"can't be written \(.*No space.*has 50 of 120 draws"):
            part = sample(**arguments)
    assert (part.num_draws, part.sampling.complete) == (50, False)
    np.testing.assert_array_equal(part.samples["g_effects"], plain.samples["g_effects"][:, :50])
    sample(**arguments)
    assert files(tmp_path / "draws") == files(whole)


@pytest.mark.parametrize("method", ["_make", "_put"])
def test_a_read_only_disk(method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(self: DrawStream, *given: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(DrawStream, method, refuse)
    expected = ValueError if method == "_make" else OSError
    with pytest.raises(expected, match=r"can't be (made|written).*Permission denied"):
        sample(stream=tmp_path / "draws")


def test_a_checkpoint_that_takes_no_more(
    monkeypatch: pytest.MonkeyPatch, plain: MixedFit, tmp_path: Path
) -> None:
    real = Checkpoint._replace

    def full(self: Checkpoint, name: str, **arrays: Any) -> None:
        if name == "state-200.npz":
            raise OSError(28, "No space left on device")
        real(self, name, **arrays)

    monkeypatch.setattr(Checkpoint, "_replace", full)
    with pytest.warns(FitWarning, match=r"checkpoint can't be written.*No space.*100 of 120"):
        part = sample(checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(part.samples["g_scale"], plain.samples["g_scale"][:, :100])


def test_stream_and_checkpoint_have_to_fit(
    monkeypatch: pytest.MonkeyPatch, whole: Path, tmp_path: Path
) -> None:
    streamed = {"stream": tmp_path / "draws", "checkpoint": tmp_path / "run"}
    for name, options in (("run", streamed), ("own", {"checkpoint": tmp_path / "own"})):
        with monkeypatch.context() as patch:
            interrupt_after(3, patch)
            with pytest.warns(FitWarning):
                sample(**options)
        assert (tmp_path / name / "run.json").is_file()
    with pytest.raises(ValueError, match=r"run with stream=.*Give the same stream"):
        sample(checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match=r"run without stream=.*Leave stream out"):
        sample(checkpoint=tmp_path / "own", stream=tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="checkpoint counts 50 streamed draws per chain, but"):
        sample(checkpoint=tmp_path / "run", stream=tmp_path / "other")
    with pytest.raises(ValueError, match="holds the draws of another run"):
        sample(checkpoint=tmp_path / "run", stream=tmp_path / "draws", recover=False)
    with pytest.raises(ValueError, match="holds draws of this run already"):
        sample(stream=whole)
    shutil.rmtree(tmp_path / "draws")
    with pytest.raises(ValueError, match="holds 0: it was moved, removed or altered"):
        sample(**streamed)


def test_a_small_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = type("Usage", (), {"free": 100})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(ValueError, match=r"draws to stream take .* Lower num_samples or num_chai"):
        sample(stream=tmp_path / "new" / "draws")
    assert not (tmp_path / "new").exists()


def ratings() -> Ratings:
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((7, 5)) < 0.8)
    return Ratings.from_frame(
        {"user": [f"u{u}" for u in user], "item": item + 10, "rating": rng.normal(3, 1, len(user))}
    )


@pytest.mark.parametrize("sites", [(), ("user_bias", "user_factors")], ids=["plain", "marginal"])
@pytest.mark.slow
def test_factorizations(
    sites: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A scale per factor, and rows that are drawn back."""
    # Least squares, where the chains start, are the same from call to call but for rounding.
    starts: list[Any] = []

    def once(*given: Any) -> Any:
        starts.append(starts[0] if starts else find_start(*given))
        return starts[-1]

    monkeypatch.setattr(nuts, "find_start", once)
    scale = 1.0 if sites else dist.HalfNormal(np.ones((1, 2)))
    model = MatrixFactorization(
        2, Gaussian(HALF), intercept="learned", user_scale=HALF, item_scale=scale
    )
    options = {
        "key": 1, "num_warmup": 20, "num_samples": 10, "num_chains": 2, "marginalize": sites,
    }  # fmt: skip
    plain = sample_nuts(model, ratings(), **options)
    fit = sample_nuts(model, ratings(), stream=tmp_path / "s", **options)
    assert isinstance(fit, Fit)
    assert_holds(tmp_path / "s", plain)
    assert fit.samples.keys() == plain.samples.keys()
    for name, value in plain.samples.items():
        np.testing.assert_array_equal(fit.samples[name], value)
    assert len(starts) == (2 if sites else 0)
    assert open_draws(tmp_path / "s")["posterior"]["user_factors"].sel(user="u3").shape == (
        2, 10, 2,
    )  # fmt: skip


def test_without_recovery(plain: MixedFit, tmp_path: Path) -> None:
    sample(stream=tmp_path / "s", recover=False)
    posterior = open_draws(tmp_path / "s")["posterior"]
    assert set(posterior.data_vars) == {"g_scale", "noise_scale"}
    np.testing.assert_array_equal(posterior["g_scale"].values, plain.samples["g_scale"])


def test_networks(tmp_path: Path) -> None:
    options = {"key": 1, "num_warmup": 10, "num_samples": 10, "num_chains": 1}
    frame = {"x": np.random.default_rng(0).normal(size=12), "y": list("abc") * 4}
    model = Network((2,), likelihood=Categorical(3))
    data = Examples.from_frame(frame, response="y")
    fit = sample_nuts(model, data, stream=tmp_path / "s", **options)
    assert_holds(tmp_path / "s", fit)
