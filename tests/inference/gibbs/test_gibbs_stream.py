"""Draws streamed to disk: what they are, how a run goes on, and what is refused."""

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest

from probmf import Fit, Gaussian, MatrixFactorization, MixedEffects, Ratings, load, open_draws
from probmf import sample_gibbs as sample
from probmf.inference.gibbs import chains as kernel
from probmf.run import draw_stream as stream_module
from probmf.run.draw_stream import DrawStream
from probmf.run.driver import FitWarning
from probmf.run.threads import Workers

USERS, ITEMS = 7, 5
HALF = dist.HalfNormal(1.0)
SETTINGS: dict[str, Any] = {"key": 3, "num_warmup": 20, "num_samples": 60, "num_chains": 2}


def ratings() -> Ratings:
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((USERS, ITEMS)) < 0.8)
    return Ratings.from_frame(
        {"user": [f"u{u}" for u in user], "item": item + 10, "rating": rng.normal(3, 1, len(user))}
    )


MODEL = MatrixFactorization(
    2, Gaussian(HALF), user_scale=dist.HalfNormal(np.ones((1, 2))), item_scale=HALF
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fit, Path]:
    """A run that streams every third sweep, and a plain one that keeps the same sweeps."""
    path = tmp_path_factory.mktemp("whole") / "draws.zarr"
    with pytest.MonkeyPatch.context() as patch:
        small_chunks(patch)
        sample(MODEL, ratings(), thin=3, stream=path, **SETTINGS)
    return sample(MODEL, ratings(), thin=3, **SETTINGS), path


def small_chunks(patch: pytest.MonkeyPatch) -> None:
    """Chunks of a few draws, of which what is written at a time is no multiple."""
    patch.setattr(stream_module, "CHUNK_BYTES", 400)
    patch.setattr(kernel, "WRITE_EVERY", 0.0)


def files(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def interrupt_after(calls: int, patch: pytest.MonkeyPatch) -> None:
    real, made = Workers.map, []

    def sometimes(self: Workers, function: Any, items: Any) -> Any:
        made.append(1)
        if len(made) > calls:
            raise KeyboardInterrupt
        return real(self, function, items)

    patch.setattr(Workers, "map", sometimes)


def test_a_stream_holds_every_draw(whole: tuple[Fit, Path]) -> None:
    plain, path = whole
    tree = open_draws(path)
    posterior = tree["posterior"]
    assert set(posterior.data_vars) == plain.samples.keys()
    for name, value in plain.samples.items():
        np.testing.assert_array_equal(posterior[name].values, value.reshape(posterior[name].shape))
    np.testing.assert_array_equal(
        tree["sample_stats"]["lp"].values,
        plain.sampling.stats["lp"],  # type: ignore[union-attr]
    )
    assert posterior["user_factors"].dims == ("chain", "draw", "user", "factor")
    assert posterior["user_scale"].dims == ("chain", "draw", "factor")
    assert posterior["user"].values.tolist() == [f"u{u}" for u in range(USERS)]
    one = posterior["item_bias"].sel(item=12, chain=1).values
    np.testing.assert_array_equal(one, plain.samples["item_bias"][1, :, 2])
    expected = plain.to_arviz()["posterior"]
    assert {n: v.dims for n, v in posterior.data_vars.items()} == {
        n: v.dims for n, v in expected.data_vars.items()
    }
    size = sum(len(data) for name, data in files(path).items() if "/c/" in name)
    assert size > 20 * 2 * 4 * (USERS + ITEMS) * 3


def test_memory_keeps_some_of_what_is_streamed(
    monkeypatch: pytest.MonkeyPatch, whole: tuple[Fit, Path], tmp_path: Path
) -> None:
    monkeypatch.setattr("probmf.inference.gibbs.job.KEPT", 11)
    monkeypatch.setattr("probmf.inference.gibbs.job.KEPT_BYTES", 1)
    plain, _ = whole
    fit = sample(MODEL, ratings(), thin=3, stream=tmp_path / "s", **SETTINGS)
    assert fit.samples["user_factors"].shape[:2] == (2, 5)  # of 20 streamed ones, every fourth
    np.testing.assert_array_equal(
        fit.samples["user_factors"], plain.samples["user_factors"][:, 3::4]
    )
    assert fit.sampling is not None
    info = fit.sampling.info
    assert info["stream"] == str(tmp_path / "s")
    assert (info["streamed_draws"], info["stream_thin"], info["thin"]) == (20, 3, 12)
    np.testing.assert_array_equal(
        open_draws(info["stream"])["posterior"]["user_bias"].values, plain.samples["user_bias"]
    )
    fit.save(tmp_path / "fit")
    again = load(tmp_path / "fit").sampling
    assert again is not None
    assert again.info["stream"] == info["stream"]


@pytest.mark.parametrize("calls", [3, 5])
def test_an_interrupted_run_goes_on_to_the_same_store(
    calls: int, monkeypatch: pytest.MonkeyPatch, whole: tuple[Fit, Path], tmp_path: Path
) -> None:
    plain, path = whole
    arguments: dict[str, Any] = {
        "thin": 3, "stream": tmp_path / "draws", "checkpoint": tmp_path / "run", **SETTINGS
    }  # fmt: skip
    small_chunks(monkeypatch)
    with monkeypatch.context() as patch:
        interrupt_after(calls, patch)
        with pytest.warns(FitWarning, match=f"{10 * (calls - 2)} of 60 sweeps"):
            part = sample(MODEL, ratings(), **arguments)
    so_far = open_draws(tmp_path / "draws")["posterior"]["user_bias"].values
    assert part.sampling is not None
    assert so_far.shape[1] == part.sampling.info["streamed_draws"] == 10 * (calls - 2) // 3
    np.testing.assert_array_equal(so_far, plain.samples["user_bias"][:, : so_far.shape[1]])
    resumed = sample(MODEL, ratings(), **arguments)
    np.testing.assert_array_equal(resumed.samples["user_bias"], plain.samples["user_bias"])
    one, other = files(path), files(tmp_path / "draws")
    assert one.keys() == other.keys()
    different = [name for name in one if one[name] != other[name] and name != "zarr.json"]
    assert different == []
    # The identity of a run counts its checkpoint for nothing.
    assert one["zarr.json"] == other["zarr.json"]


def test_draws_after_the_checkpoint_are_written_over(
    monkeypatch: pytest.MonkeyPatch, whole: tuple[Fit, Path], tmp_path: Path
) -> None:
    """A kill between stream and checkpoint leaves more draws than the checkpoint counts."""
    small_chunks(monkeypatch)
    arguments: dict[str, Any] = {
        "thin": 3, "stream": tmp_path / "draws", "checkpoint": tmp_path / "run", **SETTINGS
    }  # fmt: skip
    with monkeypatch.context() as patch:
        interrupt_after(4, patch)
        with pytest.warns(FitWarning):
            sample(MODEL, ratings(), **arguments)
    shutil.copytree(tmp_path / "run", tmp_path / "earlier")
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.warns(FitWarning):
            sample(MODEL, ratings(), **arguments)
    sample(MODEL, ratings(), **(arguments | {"checkpoint": tmp_path / "earlier"}))
    assert files(tmp_path / "draws") == files(whole[1])


def test_a_full_disk_keeps_what_there_is(
    monkeypatch: pytest.MonkeyPatch, whole: tuple[Fit, Path], tmp_path: Path
) -> None:
    small_chunks(monkeypatch)
    arguments: dict[str, Any] = {
        "thin": 3, "stream": tmp_path / "draws", "checkpoint": tmp_path / "run", **SETTINGS
    }  # fmt: skip
    with monkeypatch.context() as patch:
        real, made = DrawStream._put, []

        def full(self: DrawStream, *given: Any) -> None:
            made.append(1)
            if len(made) > 14:
                raise OSError(28, "No space left on device")
            real(self, *given)

        patch.setattr(DrawStream, "_put", full)
        with pytest.warns(FitWarning, match=r"draws can't be written \(.*No space left"):
            part = sample(MODEL, ratings(), **arguments)
    assert part.sampling is not None
    count = int(part.sampling.info["streamed_draws"])
    assert 0 < count < 20
    kept = open_draws(tmp_path / "draws")["posterior"]["user_bias"].values
    np.testing.assert_array_equal(kept, whole[0].samples["user_bias"][:, :count])
    sample(MODEL, ratings(), **arguments)
    assert files(tmp_path / "draws") == files(whole[1])


def test_mixed_models_stream_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = {"y": rng.normal(size=12), "x": rng.normal(size=12), "g": list("abcd") * 3}
    model = MixedEffects("y ~ 1 + (1 + x | g)")
    settings = SETTINGS | {"num_warmup": 5, "num_samples": 10}
    fit = sample(model, data, stream=tmp_path / "s", **settings)
    posterior, expected = open_draws(tmp_path / "s")["posterior"], fit.to_arviz()["posterior"]
    assert {n: v.dims for n, v in posterior.data_vars.items()} == {
        n: v.dims for n, v in expected.data_vars.items()
    }
    for name, value in fit.samples.items():
        np.testing.assert_array_equal(posterior[name].values, value)
    assert posterior["g_effects"].sel(g="c", g_coefficient="x").shape == (2, 10)


def test_what_is_refused(whole: tuple[Fit, Path], tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "zarr.json").write_text("{}")
    for name, expected in (
        ("foreign", "holds other files and no draws"),
        ("file", "is a file"),
        ("other", "holds other files and no draws"),
        ("file/below", "can't be made"),
    ):
        with pytest.raises(ValueError, match=expected):
            sample(MODEL, ratings(), stream=tmp_path / name, **SETTINGS)
    assert (tmp_path / "foreign" / "thesis.tex").read_text() == "mine"
    path = whole[1]
    with pytest.raises(ValueError, match="holds the draws of another run"):
        sample(MODEL, ratings(), stream=path, thin=2, **SETTINGS)
    with pytest.raises(ValueError, match="holds draws of this run already"):
        sample(MODEL, ratings(), stream=path, thin=3, **SETTINGS)
    with pytest.raises(FileNotFoundError, match="no draws at"):
        open_draws(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not a store of draws"):
        open_draws(tmp_path / "foreign")


def test_a_lost_stream_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "stream": tmp_path / "draws", "checkpoint": tmp_path / "run", **SETTINGS
    }  # fmt: skip
    with monkeypatch.context() as patch:
        interrupt_after(4, patch)
        with pytest.warns(FitWarning):
            sample(MODEL, ratings(), **arguments)
    shutil.rmtree(tmp_path / "draws")
    with pytest.raises(ValueError, match="checkpoint counts 20 streamed draws per chain, but"):
        sample(MODEL, ratings(), **arguments)


def test_a_small_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 0, 100))
    with pytest.raises(ValueError, match=r"draws to stream take .* Raise thin"):
        sample(MODEL, ratings(), stream=tmp_path / "new" / "draws", **SETTINGS)
    assert not (tmp_path / "new").exists()


def test_what_the_draws_take_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    settings = SETTINGS | {"num_warmup": 0, "num_samples": 10}
    sample(MODEL, ratings(), stream=tmp_path / "draws", progress=True, **settings)
    shown = capsys.readouterr().err
    assert "writes 20 draws, 0 MiB, to" in shown
