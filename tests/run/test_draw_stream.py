"""Draws streamed to disk from a toy: what they are, how a run goes on, and what is refused."""

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generator import Generator, checkpoint, files, go, layout, stream

from probmf.results import open_draws
from probmf.run import draw_stream, driver
from probmf.run.checkpoint import Checkpoint
from probmf.run.draw_stream import DrawStream


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few draws, of which what is written at a time is no multiple."""
    monkeypatch.setattr(draw_stream, "CHUNK_BYTES", 60)
    monkeypatch.setattr(driver, "WRITE_EVERY", 0.0)


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    """Every third draw of a run without a stream."""
    return go().pieces["x"][:, 2::3]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """The store of an uninterrupted run."""
    go(stream=stream(tmp_path / "whole", resumable=False))
    return tmp_path / "whole"


def kept(folder: Path) -> dict[str, Any]:
    return {"checkpoint": checkpoint(folder / "run"), "stream": stream(folder / "draws")}


def test_a_stream_holds_every_draw(plain: np.ndarray, whole: Path) -> None:
    tree = open_draws(whole)
    np.testing.assert_array_equal(tree["posterior"]["x"].values, plain)
    np.testing.assert_array_equal(tree["sample_stats"]["lp"].values, np.log(plain))
    assert len(list((whole / "posterior" / "x" / "c").rglob("*"))) > 5


@pytest.mark.parametrize("waiting", [1, 1 << 25])
def test_what_waits_in_memory_changes_nothing(
    waiting: int, plain: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draw_stream, "WAITING", waiting)
    monkeypatch.setattr(driver, "WRITE_EVERY", 1e9)
    store = stream(tmp_path / "s", resumable=False)
    go(stream=store)
    np.testing.assert_array_equal(open_draws(tmp_path / "s")["posterior"]["x"].values, plain)
    np.testing.assert_array_equal(store.read(every=4)["x"], plain[:, 3::4])
    assert store.written == 20


@pytest.mark.parametrize("call", [2, 4, 7, 10])
def test_an_interrupted_run_goes_on_to_the_same_store(
    call: int, plain: np.ndarray, whole: Path, tmp_path: Path
) -> None:
    part = go(Generator(interrupt_at=[call]), **kept(tmp_path))
    count = max(0, part.run.done - 20) // 3
    if count:
        so_far = open_draws(tmp_path / "draws")["posterior"]["x"].values
        np.testing.assert_array_equal(so_far, plain[:, :count])
    else:
        with pytest.raises(ValueError, match="holds no draws yet"):
            open_draws(tmp_path / "draws")
    go(**kept(tmp_path))
    assert files(tmp_path / "draws") == files(whole)
    # A run that is done is read, not made again.
    algorithm = Generator()
    go(algorithm, **kept(tmp_path))
    assert algorithm.steps == []
    assert files(tmp_path / "draws") == files(whole)


def test_draws_after_the_checkpoint_are_written_over(whole: Path, tmp_path: Path) -> None:
    """A kill between stream and checkpoint leaves more draws than the checkpoint counts."""
    go(Generator(interrupt_at=[6]), **kept(tmp_path))
    shutil.copytree(tmp_path / "run", tmp_path / "earlier")
    go(Generator(interrupt_at=[6]), **kept(tmp_path))
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "earlier").rename(tmp_path / "run")
    go(**kept(tmp_path))
    assert files(tmp_path / "draws") == files(whole)


def test_the_stream_never_holds_less_than_the_checkpoint_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    for kind, method in ((DrawStream, "flush"), (Checkpoint, "write")):
        real = getattr(kind, method)

        def noted(self: Any, *given: Any, real: Any = real) -> None:
            order.append((type(self).__name__, given[-1]))
            real(self, *given)

        monkeypatch.setattr(kind, method, noted)
    go(**kept(tmp_path))
    for (first, flushed), (second, done) in zip(order[::2], order[1::2], strict=True):
        assert (first, second) == ("DrawStream", "Checkpoint")
        assert flushed == max(0, done - 20) // 3


def test_a_full_disk_keeps_what_there_is(
    monkeypatch: pytest.MonkeyPatch, plain: np.ndarray, whole: Path, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        real, made = DrawStream._put, []

        def full(self: DrawStream, *given: Any) -> None:
            made.append(1)
            if len(made) > 5:
                raise OSError(28, "No space left on device")
            real(self, *given)

        patch.setattr(DrawStream, "_put", full)
        part = go(**kept(tmp_path))
    assert part.why.startswith("The draws can't be written ([Errno 28] No space left")
    so_far = open_draws(tmp_path / "draws")["posterior"]["x"].values
    assert 0 < so_far.shape[1] < 20
    np.testing.assert_array_equal(so_far, plain[:, : so_far.shape[1]])
    go(**kept(tmp_path))
    assert files(tmp_path / "draws") == files(whole)


def test_a_read_only_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(self: DrawStream, *given: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(DrawStream, "_make", refuse)
        with pytest.raises(ValueError, match=r"can't be made.*Permission denied"):
            go(stream=stream(tmp_path / "draws"))
    monkeypatch.setattr(DrawStream, "_put", refuse)
    result = go(stream=stream(tmp_path / "draws"))
    with pytest.raises(OSError, match=r"draws can't be written.*Permission denied"):
        driver.require_draws(result, 0, kept=False)


def test_other_folders_are_refused(whole: Path, tmp_path: Path) -> None:
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
            go(stream=stream(tmp_path / name))
    assert (tmp_path / "foreign" / "thesis.tex").read_text() == "mine"
    with pytest.raises(ValueError, match="holds the draws of another run"):
        stream(whole, identity="another")
    with pytest.raises(ValueError, match="holds draws of this run already"):
        stream(whole, resumable=False)
    with pytest.raises(FileNotFoundError, match="no draws at"):
        open_draws(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not a store of draws"):
        open_draws(tmp_path / "foreign")


def test_a_lost_stream_is_told(tmp_path: Path) -> None:
    go(Generator(interrupt_at=[8]), **kept(tmp_path))
    shutil.rmtree(tmp_path / "draws")
    with pytest.raises(
        ValueError, match=r"checkpoint counts 6 streamed draws .* holds 0: it was m"
    ):
        go(**kept(tmp_path))


def test_a_small_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 0, 100))
    with pytest.raises(
        ValueError, match=r"draws to stream take .* 0\.0 MiB free\. Raise thin, low"
    ):
        stream(tmp_path / "new" / "draws")
    with pytest.raises(ValueError, match=r"draws to stream take .* Lower num_samples, or name"):
        DrawStream(tmp_path / "new", "x", layout(remedy="Lower num_samples"), resumable=False)
    assert not (tmp_path / "new").exists()
