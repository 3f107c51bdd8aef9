"""Runs kept on disk: they go on bit for bit, and whatever is no run of theirs is refused."""

import importlib.metadata
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from generator import DRAWS, WARMUP, Generator, checkpoint, go, save_whole_run
from killed import When, kill_after_writes, run_whole
from safetensors import SafetensorError

import probmf
from probmf import shards
from probmf.run import driver
from probmf.run.checkpoint import Checkpoint, Kept, stored
from probmf.run.driver import Result


@pytest.fixture(scope="module")
def whole() -> Result:
    return go()


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A checkpoint of a whole run."""
    go(checkpoint=checkpoint(tmp_path / "run"))
    return tmp_path / "run"


def assert_same(one: Result, other: Result) -> None:
    np.testing.assert_array_equal(one.pieces["x"], other.pieces["x"])
    assert one.run.memory == other.run.memory
    assert one.run.done == other.run.done == len(one.run.seconds)


@pytest.mark.parametrize("call", range(0, 16, 3))
def test_interrupted_and_resumed(call: int, whole: Result, tmp_path: Path) -> None:
    """In the warm-up, between, and among the draws; nothing that is done is done again."""
    first, second, third = Generator(interrupt_at=[call]), Generator(), Generator()
    part = go(first, checkpoint=checkpoint(tmp_path / "run"))
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["done"] == part.run.done == 10 * (call // 2)
    assert_same(go(second, checkpoint=checkpoint(tmp_path / "run")), whole)
    assert second.resumed
    assert {done for _, done, _ in second.steps} == set(range(part.run.done, WARMUP + DRAWS, 10))
    # A run that is done is read, not made again.
    assert_same(go(third, checkpoint=checkpoint(tmp_path / "run")), whole)
    assert third.steps == []


def test_what_is_there_is_not_written_again(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number of processes would replace its shards one by one."""
    monkeypatch.setattr(Checkpoint, "_save", None)
    go(checkpoint=checkpoint(kept))


def test_time_goes_on_where_it_was(tmp_path: Path) -> None:
    part = go(Generator(interrupt_at=[9]), checkpoint=checkpoint(tmp_path))
    again = go(checkpoint=checkpoint(tmp_path)).run.seconds
    np.testing.assert_array_equal(again[: part.run.done], part.run.seconds)
    assert (np.diff(again) > 0).all()


def test_a_reason_to_stop_is_kept(tmp_path: Path) -> None:
    part = go(Generator(last=0.9), checkpoint=checkpoint(tmp_path))
    again = Generator(last=0.9)
    assert go(again, checkpoint=checkpoint(tmp_path)).run.stopped == part.run.stopped == "last"
    assert again.steps == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="There is no SIGKILL here.")
@pytest.mark.parametrize(
    "when",
    # In `test_resume.py` runs are killed after a write.
    [pytest.param("after a write", marks=pytest.mark.slow), "before its manifest"],
)
def test_a_killed_run_goes_on_bit_for_bit(when: When, tmp_path: Path) -> None:
    """SIGKILL in the middle, from outside."""
    script = f"""
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from pathlib import Path
        from generator import save_whole_run
        save_whole_run(Path(sys.argv[1]))
        """
    killed = tmp_path / "killed"
    killed.mkdir()
    kill_after_writes(5, script, str(killed), when=when)
    manifest = json.loads((killed / "run" / "run.json").read_text())
    assert (killed / "run" / "run.json.new").exists() == (when == "before its manifest")
    assert manifest["done"] == (40 if when == "after a write" else 30)
    assert not (killed / "result.npz").exists()
    run_whole(script, str(killed))
    (tmp_path / "whole").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "WRITE_EVERY", 0.0)
        save_whole_run(tmp_path / "whole")
    with np.load(killed / "result.npz") as one, np.load(tmp_path / "whole/result.npz") as other:
        for name in other.files:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_killed_before_the_first_manifest(whole: Result, tmp_path: Path) -> None:
    (tmp_path / "state-50.0.safetensors.new").write_bytes(b"half")
    (tmp_path / "state-50.0.safetensors").write_bytes(b"whole")
    assert_same(go(checkpoint=checkpoint(tmp_path)), whole)


def test_killed_in_the_middle_of_a_write(whole: Result, tmp_path: Path) -> None:
    """Files that no manifest counts are written over."""
    go(Generator(interrupt_at=[9]), checkpoint=checkpoint(tmp_path))
    (tmp_path / "draws-1.0.safetensors").write_bytes(b"of a chunk that does not count")
    (tmp_path / "state-50.0.safetensors").write_bytes(b"half")
    assert_same(go(checkpoint=checkpoint(tmp_path)), whole)


def test_it_is_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, when the time has come, and at the end; draws are written once, joined."""
    now, written = [0.0], []
    real = Checkpoint._save

    def save(self: Checkpoint, name: str, arrays: Any) -> Any:
        written.append(name)
        return real(self, name, arrays)

    class Slow(Generator):
        def step(self, *arguments: Any) -> Any:
            now[0] += 2.0
            return super().step(*arguments)

    monkeypatch.setattr(driver.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Checkpoint, "_save", save)
    go(Slow(), checkpoint=checkpoint(tmp_path))
    states = [name for name in written if name.startswith("state")]
    assert states == ["state-0", "state-30", "state-60", "state-80"]
    draws = [name for name in written if name.startswith("draws")]
    assert draws == [f"draws-{index}" for index in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {"run.json", *(f"{name}.0.safetensors" for name in (*draws, "state-80"))}
    )


@pytest.mark.parametrize("last", [3, 1])
def test_a_full_disk_keeps_what_there_is(
    last: int, whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Checkpoint.write, []

    def full(self: Checkpoint, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) > last:
            raise OSError(28, "No space left on device")
        real(self, *arguments)

    monkeypatch.setattr(driver, "WRITE_EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "write", full)
        part = go(checkpoint=checkpoint(tmp_path / "run"))
    assert part.interrupted
    assert part.why.startswith("The checkpoint can't be written ([Errno 28] No space left on d")
    if last == 3:
        np.testing.assert_array_equal(part.pieces["x"], whole.pieces["x"][:, :10])
    else:
        with pytest.raises(OSError, match=r"can't be written .*No space left"):
            driver.require_draws(part, 0, kept=True)
    assert_same(go(checkpoint=checkpoint(tmp_path / "run")), whole)


def test_a_disk_that_is_full_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Checkpoint, *arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoint, "write", full)
    algorithm = Generator()
    with pytest.raises(ValueError, match=r"checkpoint='.*new'.* can't be written .*No space left"):
        go(algorithm, checkpoint=checkpoint(tmp_path / "new"))
    assert algorithm.steps == []


def test_a_full_disk_after_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Checkpoint.write, []

    def full(self: Checkpoint, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        real(self, *arguments)

    monkeypatch.setattr(Checkpoint, "write", full)
    part = go(Generator(interrupt_at=[8]), checkpoint=checkpoint(tmp_path))
    assert part.pieces["x"].shape == (2, 20)
    assert "No space left" in part.why


def test_only_one_run_at_a_time(kept: Path, whole: Result) -> None:
    """The same command twice: the second neither reads nor writes, and may come again."""
    second = checkpoint(kept)
    with (
        checkpoint(kept).alone(),
        pytest.raises(ValueError, match=r"checkpoint='.*run' is in use: another run writes to"),
    ):
        go(checkpoint=second)
    assert_same(go(checkpoint=second), whole)


def test_a_run_that_began_meanwhile(whole: Result, tmp_path: Path) -> None:
    """What counts is what the folder holds when the run begins, not when it was named."""
    second, third = checkpoint(tmp_path), checkpoint(tmp_path, "another")
    part = go(Generator(interrupt_at=[9]), checkpoint=checkpoint(tmp_path))
    rest = Generator()
    assert_same(go(rest, checkpoint=second), whole)
    assert min(done for _, done, _ in rest.steps) == part.run.done
    with pytest.raises(ValueError, match="holds another run"):
        go(checkpoint=third)


def test_a_full_disk_of_safetensors(
    whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its errors are none of the system's."""
    real, calls = shards.save_file, []

    def full(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 3:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        real(*arguments)

    monkeypatch.setattr(driver, "WRITE_EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "save_file", full)
        part = go(checkpoint=checkpoint(tmp_path))
    assert part.interrupted
    assert re.match(r"The checkpoint can't be written \(.*\.safetensors can't be .*No sp", part.why)
    assert_same(go(checkpoint=checkpoint(tmp_path)), whole)


def test_another_run(kept: Path) -> None:
    with pytest.raises(ValueError, match="holds another run: its model, data, settings or key"):
        checkpoint(kept, "another")


def edit(run: Path, **entries: Any) -> None:
    manifest = json.loads((run / "run.json").read_text())
    assert manifest.keys() >= entries.keys()
    (run / "run.json").write_text(json.dumps(manifest | entries))


def test_other_versions(kept: Path) -> None:
    """They are told first, as another version may trace another program."""
    versions = json.loads((kept / "run.json").read_text())["versions"]
    assert versions["jax"] == jax.__version__
    assert versions["probmf"] == probmf.__version__
    assert versions["numpyro"] == numpyro.__version__
    for name in versions:
        edit(kept, versions=versions | {name: "0.0.1"}, digest="another")
        with pytest.raises(
            ValueError,
            match=rf"written with {name} 0\.0\.1; now {name} {versions[name]} runs, and would not "
            r"go on with it bit for bit\. Name another directory, or install the versions",
        ):
            checkpoint(kept)


def test_versions_of_further_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = ("probmf", "optax")
    go(checkpoint=Checkpoint(tmp_path, "x", packages))
    real = importlib.metadata.version
    monkeypatch.setattr(
        "importlib.metadata.version", lambda name: "0.0" if name == "optax" else real(name)
    )
    with pytest.raises(ValueError, match=r"was written with optax .*; now optax 0\.0 runs"):
        Checkpoint(tmp_path, "x", packages)


def test_a_note_is_kept(tmp_path: Path) -> None:
    store = checkpoint(tmp_path)
    assert not store.begun
    store.note = {"adapt_mass": True}
    go(checkpoint=store)
    again = checkpoint(tmp_path)
    assert again.begun
    assert again.note == {"adapt_mass": True}


def spoil_manifest(run: Path) -> None:
    (run / "run.json").write_text((run / "run.json").read_text()[:20])


def spoil_list(run: Path) -> None:
    (run / "run.json").write_text("[1, 2]")


def spoil_entries(run: Path) -> None:
    manifest = json.loads((run / "run.json").read_text())
    del manifest["pieces"]
    (run / "run.json").write_text(json.dumps(manifest))


def spoil_state(run: Path) -> None:
    state = next(run.glob("state-*"))
    state.write_bytes(state.read_bytes()[:200])


def spoil_draws(run: Path) -> None:
    (run / "draws-0.0.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: edit(run, version=3), "another program or version .probmf-checkpoint 3.; nam"),
        (spoil_manifest, "run.json is truncated or not JSON"),
        (lambda run: edit(run, versions="1.0"), "run.json is not that of a run"),
        (spoil_list, "run.json is not that of a run"),
        (
            spoil_state,
            r"state-80\.0\.safetensors is truncated or was altered.*Remove the directory",
        ),
        (
            lambda run: edit(run, digest=None),
            r"run\.json is not as it was written \(TypeError: dig",
        ),
        (
            lambda run: edit(run, state={"shapes": {}}),
            r"run\.json is not as it .*KeyError: 'shards'",
        ),
        (lambda run: edit(run, state={"shapes": {}, "shards": []}), r"run\.json is not as it was"),
        (spoil_entries, r"run\.json is not as it was written \(KeyError: 'pieces'\), so the run"),
        (spoil_draws, r"lacks the file draws-0\.0\.safetensors, so the run"),
    ],
)
def test_damaged(spoil: Callable[[Path], None], message: str, kept: Path) -> None:
    spoil(kept)
    with pytest.raises(ValueError, match=message):
        go(checkpoint=checkpoint(kept))


def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds other files \(thesis.tex\) and no run"):
        checkpoint(tmp_path)
    with pytest.raises(ValueError, match="can't be made a directory"):
        checkpoint(tmp_path / "thesis.tex")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_states_of_all_kinds() -> None:
    state = {
        "count": 3, "text": "", "score": np.inf, "key": jax.random.key(1), "curve": np.zeros(0),
        "value": jnp.asarray([1.0, 2.0]), "shape": jax.ShapeDtypeStruct((2,), jnp.float32),
    }  # fmt: skip
    later = state | {
        "count": 5, "text": "tol", "score": 0.5, "curve": np.arange(4.0), "shape": np.ones(2)
    }  # fmt: skip
    leaves = jax.tree.leaves(stored(later))
    found = Kept(leaves, []).restore(state)
    assert (found["count"], found["text"], found["score"]) == (5, "tol", 0.5)
    np.testing.assert_array_equal(found["curve"], np.arange(4.0))
    np.testing.assert_array_equal(found["value"], state["value"])
    assert found["shape"].dtype == jnp.float32
    assert bool(jnp.all(jax.random.key_data(found["key"]) == jax.random.key_data(state["key"])))
    with pytest.raises(ValueError, match="holds 6 arrays, and the run has 7"):
        Kept(leaves[1:], []).restore(state)
