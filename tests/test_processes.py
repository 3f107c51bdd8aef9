"""Several processes compute one fit: the same numbers, a death is told, and the run goes on."""

import filecmp
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import in_processes
import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from probmf import Ratings, fit_als, load, processes
from probmf.backend import use_backend
from probmf.cli import app, console, launch

COUNT = 2


class Ended(NamedTuple):
    """What two processes left, of which one was killed: files, and the first's last words."""

    folder: Path
    words: str
    seconds: float


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    in_processes.write_files(folder)
    flags = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    first, other = (
        subprocess.Popen(
            [sys.executable, "in_processes.py", address, str(COUNT), str(rank), str(folder)],
            cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=os.environ | flags,
        )
        for rank in range(COUNT)
    )  # fmt: skip
    try:
        assert first.stdout is not None
        line = first.stdout.readline()
        other.kill()
        begin = time.monotonic()
        # Its standard input ends here, and it goes on to a sum that the other has no part in.
        _, words = first.communicate(timeout=90)
        assert line == "paused\n", words
        yield Ended(folder, words, time.monotonic() - begin)
    finally:
        for process in (first, other):
            process.kill()
            process.communicate()


def test_a_death_stops_the_others_with_a_sentence(ended: Ended) -> None:
    assert "ConnectionError: Another process of this fit has ended" in ended.words
    assert ended.seconds < 60


def found(ended: Ended, rank: int) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ended.folder / f"{rank}.json").read_text("utf-8"))
    return read


def test_processes_sort_files_together(ended: Ended, tmp_path: Path) -> None:
    Ratings.open(ended.folder / "good.parquet", folder=tmp_path / "one")
    together = ended.folder / "good.parquet.sorted"
    names = sorted(path.name for path in together.iterdir())
    assert filecmp.cmpfiles(together, tmp_path / "one", names, shallow=False)[0] == names
    for rank in range(COUNT):
        assert (
            "has 1 missing value (None, NaN or null), the first in row 7;"
            in (found(ended, rank)["bad file"])
        )


def test_all_have_the_estimates_of_one_process(ended: Ended) -> None:
    with use_backend("xla"):
        wanted = in_processes.values(in_processes.point(1))
    for rank in range(COUNT):
        for name, value in wanted.items():
            got = found(ended, rank)["point"][name]
            np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_sums_over_processes_are_right(ended: Ended) -> None:
    assert max(found(ended, 0)["sums"] + found(ended, 1)["sums"]) < 1e-6


def test_other_data_in_one_process_are_refused_in_all(ended: Ended) -> None:
    for rank in range(COUNT):
        words = found(ended, rank)["other data"]
        assert words.startswith("Model, data, settings or key of process 1 differ from those")


def test_a_point_fit_goes_on_in_one_process(ended: Ended) -> None:
    manifest = json.loads((ended.folder / "unfinished" / "run.json").read_text("utf-8"))
    assert 0 < manifest["done"] < 5
    resumed = in_processes.values(in_processes.point(1, ended.folder / "unfinished"))
    for name, value in found(ended, 0)["point"].items():
        np.testing.assert_allclose(resumed[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_each_process_saves_its_rows(ended: Ended, tmp_path: Path) -> None:
    saved = Path(shutil.copytree(ended.folder / "saved", tmp_path / "fit"))
    assert in_processes.values(load(saved)) == found(ended, 0)["point"]
    told = json.loads((saved / "fit.json").read_text("utf-8"))["arrays"]["shards"]
    half = in_processes.NUM // 2
    ranges = [one["ranges"]["samples.item_factors"] for one in told]
    assert ranges == [[2, 0, half], [2, half, 2 * half]]
    second = saved / "arrays.1.safetensors"
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"arrays\.1\.safetensors is truncated or was altered"):
        load(saved)
    second.unlink()
    with pytest.raises(ValueError, match=r"lacks the file arrays\.1\.safetensors"):
        load(saved)


def test_the_run_goes_on_in_one_process(ended: Ended) -> None:
    manifest = json.loads((ended.folder / "run" / "run.json").read_text("utf-8"))
    assert 0 < manifest["done"] < 60
    resumed, whole = in_processes.draws(1, ended.folder / "run"), in_processes.draws(1)
    for name, value in whole.items():
        np.testing.assert_allclose(resumed[name], value, rtol=1e-6, atol=1e-8, err_msg=name)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"address": "localhost:1"}, "count and rank of the processes must be given"),
        ({"address": "localhost:1", "count": 2, "rank": 2}, "rank is 2, but with count=2 ranks"),
    ],
)
def test_processes_that_can_not_join(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        processes.join(**given)


def second_says(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """A second process says this; None for what the first says."""

    def gathered(own: np.ndarray) -> np.ndarray:
        other = own if text is None else np.frombuffer(text.encode().ljust(len(own)), np.uint8)
        return np.stack([own, other])

    monkeypatch.setattr(processes, "_gather", gathered)


def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: None)
    second_says(monkeypatch, "probmf 9")
    with pytest.raises(processes.MismatchError, match=r"Versions of process 1 .*: probmf 9, not"):
        processes.join("localhost:1", 2, 0)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, None),
        ("001state", KeyboardInterrupt),
        ("000other", processes.MismatchError),
        ("1full", processes.PeerError),
        ("2ValueError: x", RuntimeError),
    ],
)
def test_steps_end_together(
    text: str | None, error: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_says(monkeypatch, text)
    done: list[int] = []
    with (
        processes.Together(shared=True) as together,
        nullcontext() if error is None else pytest.raises(error),
    ):
        assert together.end_step(lambda: not done.append(1), lambda: "state")
    assert done == [1]


def test_an_interruption_waits_for_the_end_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    second_says(monkeypatch, None)
    before = signal.getsignal(signal.SIGINT)
    with processes.Together(shared=True) as together:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            together.end_step(lambda: False, lambda: "state")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_full_disk_of_one_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    second_says(monkeypatch, None)

    def write() -> bool:
        raise OSError("full")

    with processes.Together(shared=True) as together, pytest.raises(OSError, match="full"):
        together.end_step(write, lambda: "state")
    second_says(monkeypatch, "1No space left on device")
    with pytest.raises(processes.PeerError, match="In process 1: No space left"):
        processes.each(lambda: "")


@pytest.mark.parametrize("error", [ValueError("no form"), MemoryError("no room")])
def test_the_others_are_told_of_any_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def gathered(own: np.ndarray) -> np.ndarray:
        told.append(bytes(own).decode().rstrip())
        return np.stack([own, own])

    def work() -> str:
        raise error

    monkeypatch.setattr(processes, "_gather", gathered)
    with pytest.raises(type(error), match=str(error)):
        processes.each(work)
    assert told == [f"2{type(error).__name__}: {error}"]
    second_says(monkeypatch, told[0])
    with pytest.raises(RuntimeError, match=f"In process 1: {type(error).__name__}: no "):
        processes.each(lambda: "")


def launched(*words: object) -> subprocess.CompletedProcess[str]:
    """`probmf launch` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "probmf", "launch", *map(str, words)], capture_output=True,
        text=True, check=False, env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_launch_fits_in_processes_of_which_the_first_prints(tmp_path: Path) -> None:
    lines = [f"{user},{item},{rating}" for user, item, rating in zip(*table(), strict=True)]
    file = tmp_path / "ratings.csv"
    file.write_text("\n".join(["user,item,rating", *lines]), encoding="utf-8")
    words = (file, "--method", "als", "--num-factors", "3", "--noise-scale", "0.5", "--out")
    done = launched("-n", COUNT, "--", "fit", *words, tmp_path / "fit")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.count("Saved in") == 1
    assert len(list((tmp_path / "fit").glob("arrays.*.safetensors"))) == COUNT
    plain = fit_als(in_processes.POINT, Ratings.from_csv(file), key=0).point()
    for name, value in load(tmp_path / "fit").point().items():
        np.testing.assert_allclose(value, plain[name], rtol=2e-3, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_alone_prints(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{user},{item},{rating}" for user, item, rating in zip(*table(), strict=True)]
    (tmp_path / "ratings.csv").write_text("\n".join(["user,item,rating", *lines]), "utf-8")
    monkeypatch.setattr(processes, "rank", lambda: rank)
    monkeypatch.setattr(console.out, "quiet", False)
    monkeypatch.setattr(console, "speaker", "")
    words = ("--method", "als", "--num-factors", "3", "--noise-scale", "0.5")
    fit = str(tmp_path / "fit")
    launch._take_part(["fit", str(tmp_path / "ratings.csv"), *words, "--out", fit])
    assert capsys.readouterr().out.count("Saved in") == (rank == 0)
    assert load(fit).method.startswith("als")


def table() -> tuple[list[Any], ...]:
    ratings = in_processes.ratings()
    return ratings.user.tolist(), ratings.item.tolist(), ratings.rating.tolist()


@pytest.mark.slow
def test_launch_stops_all_when_one_fails(tmp_path: Path) -> None:
    done = launched("-n", COUNT, "--", "fit", tmp_path / "none.csv", "--out", tmp_path / "fit")
    assert done.returncode == 1
    words = " ".join(done.stderr.split())
    assert "There is no file" in words
    assert re.search(r"Process [01] of 2 ended with exit code 1(; the other 1 stopped)?\.", words)


def test_processes_are_watched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that `launch` starts; the end of one is told with that of the others."""
    monkeypatch.setattr(launch, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(launch, "GRACE", 0.02)
    sleeps, fails, ends = (
        [sys.executable, "-S", "-c", code]
        for code in ("import time; time.sleep(60)", "raise SystemExit(3)", "")
    )
    for codes, code, told in (
        ((sleeps, fails), 1, "Process 1 of 2 ended with exit code 3; the other 1 stopped."),
        ((ends, ends), 0, ""),
    ):
        running = [subprocess.Popen(code) for code in codes]
        try:
            assert launch._watch(running) == code
            assert " ".join(capsys.readouterr().err.split()) == told
        finally:
            for process in running:
                process.kill()
                process.wait()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("-n", 2, "--", "evaluate"), "The command after -- is evaluate, but only fit computes"),
        (("-n", 0, "--", "fit"), "-n is 0; expected a number of processes"),
        (("-n", 2, "--rank", 1, "--", "fit"), "-n starts all processes here"),
    ],
)
def test_launches_that_are_refused(words: tuple[object, ...], expected: str) -> None:
    result = CliRunner().invoke(app, ["launch", *map(str, words)])
    assert result.exit_code == 1
    assert expected in " ".join(result.stderr.split())


def test_a_job_that_is_none() -> None:
    done = launched("--", "fit", "ratings.csv")
    assert done.returncode == 1
    words = " ".join(done.stderr.split())
    assert "No job of Slurm, Open MPI, Kubernetes or a TPU pod was found" in words
