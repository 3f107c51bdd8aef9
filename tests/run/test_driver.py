"""The driver on a toy: chunks, the warm-up's end, interruption, numbers, progress, threads."""

import ast
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generator import CHUNK, DRAWS, SCHEDULE, WARMUP, Generator, checkpoint, go

from probmf import processes
from probmf.run import driver
from probmf.run.driver import (
    FitWarning,
    Observed,
    Schedule,
    require_draws,
    require_finite,
    warn_incomplete,
)


@pytest.fixture(scope="module")
def whole() -> np.ndarray:
    return go().pieces["x"]


def test_all_draws_after_the_warm_up_are_kept(whole: np.ndarray) -> None:
    algorithm = Generator()
    result = go(algorithm)
    assert whole.shape == (2, DRAWS)
    assert len(np.unique(whole)) == 2 * DRAWS
    assert (result.run.done, result.interrupted, result.trouble) == (WARMUP + DRAWS, False, None)
    assert algorithm.resumed is False
    assert 0.3 * 2 * (WARMUP + DRAWS) < result.run.memory < 0.7 * 2 * (WARMUP + DRAWS)


@pytest.mark.parametrize("chunk", [1, 7, 10, 1000])
def test_chunks_change_nothing_and_never_straddle_the_end_of_the_warm_up(
    chunk: int, whole: np.ndarray
) -> None:
    algorithm = Generator()
    result = go(algorithm, schedule=Schedule(WARMUP + DRAWS, WARMUP, chunk))
    np.testing.assert_array_equal(result.pieces["x"], whole)
    spans = [(done, done + count) for chain, done, count in algorithm.steps if chain == 0]
    assert [first for first, _ in spans[1:]] == [end for _, end in spans[:-1]]
    assert spans[-1][1] == WARMUP + DRAWS
    assert WARMUP in [end for _, end in spans]
    assert max(count for *_, count in algorithm.steps) <= chunk


def test_without_warm_up_and_without_steps() -> None:
    assert go(schedule=Schedule(WARMUP, WARMUP, 7)).pieces == {}
    assert go(schedule=Schedule(0)).run.done == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_chains_in_threads_are_the_same(threads: int, whole: np.ndarray) -> None:
    np.testing.assert_array_equal(go(Generator(num_threads=threads)).pieces["x"], whole)


def test_an_algorithm_ends_the_run_itself(whole: np.ndarray) -> None:
    highest = whole.max(axis=0)
    for schedule in (SCHEDULE, Schedule(WARMUP + DRAWS, WARMUP)):
        result = go(Generator(last=0.96), schedule=schedule)
        assert (result.run.stopped, result.interrupted) == ("last", False)
        first = int(np.argmax(highest > 0.96)) // schedule.chunk
        assert result.run.done == WARMUP + (first + 1) * schedule.chunk < WARMUP + DRAWS
        np.testing.assert_array_equal(result.pieces["x"], whole[:, : result.run.done - WARMUP])


def test_every_step_has_its_time() -> None:
    seconds = go().run.seconds
    assert len(seconds) == WARMUP + DRAWS
    assert (np.diff(seconds) > 0).all()
    assert seconds[0] > 0


def test_the_first_process_s_clock_counts_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else ranges of a long run, which each process writes, would be of several clocks."""

    def texts(own: str) -> list[str]:
        return ["[1.0, 3.0]" if own.startswith("[") else own, own]

    monkeypatch.setattr(processes, "_texts", texts)
    seconds = go(shared=True).run.seconds
    np.testing.assert_allclose(seconds[:10], 1.0 + 2.0 * np.arange(1, 11) / 10)


@pytest.mark.parametrize("threads", [0, 2])
def test_ctrl_c_keeps_whole_chunks(threads: int, whole: np.ndarray) -> None:
    # Of two chains each, two chunks of warm-up, and two of draws.
    result = go(Generator(num_threads=threads, interrupt_at=[8, 9]))
    assert (result.interrupted, result.why) == (True, "Interrupted")
    np.testing.assert_array_equal(result.pieces["x"], whole[:, : 2 * CHUNK])
    assert len(result.run.seconds) == result.run.done == WARMUP + 2 * CHUNK
    require_draws(result, 2 * CHUNK, kept=False)
    with pytest.warns(FitWarning, match="Interrupted: each chain has 20 of 60 draws; the fit is m"):
        warn_incomplete(result, 20, DRAWS, stacklevel=1)


@pytest.mark.parametrize(
    ("kept", "so_far"), [(True, r"\. The checkpoint has the run"), (False, r"\.$")]
)
def test_ctrl_c_before_the_first_draw(kept: bool, so_far: str) -> None:
    result = go(Generator(interrupt_at=[2]))
    assert result.pieces == {}
    assert result.run.done == CHUNK
    with pytest.raises(KeyboardInterrupt, match=f"before the first draw was .* to return{so_far}"):
        require_draws(result, 0, kept=kept)


def test_a_complete_run_warns_of_nothing() -> None:
    warn_incomplete(go(), DRAWS, DRAWS, stacklevel=1)


def test_ctrl_c_after_the_last_chunk_is_no_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = driver._Loop.save, []

    def save(self: Any) -> None:
        calls.append(self.goes_on)
        if calls.count(False) == 1:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(driver._Loop, "save", save)
    assert not go().interrupted


STATEMENTS = sorted(
    {
        node.lineno - 1
        for node in ast.walk(
            ast.parse(textwrap.dedent(inspect.getsource(driver._Loop.advance)))
        )
        if isinstance(node, ast.stmt)
    }
    - {0}
)  # fmt: skip


@pytest.mark.parametrize("line", STATEMENTS)
def test_ctrl_c_between_any_two_lines(line: int, whole: np.ndarray, tmp_path: Path) -> None:
    """Wherever in a chunk it comes, what is kept is whole chunks, and the run can go on."""
    code = driver._Loop.advance.__code__

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code is not code:
            return None
        at = event == "line" and frame.f_lineno == code.co_firstlineno + line
        if at and frame.f_locals["self"].run.done >= WARMUP + CHUNK:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        part = go(checkpoint=checkpoint(tmp_path))
    finally:
        sys.settrace(before)
    kept = part.pieces["x"]
    assert kept.shape[1] == part.run.done - WARMUP == len(part.run.seconds) - WARMUP
    np.testing.assert_array_equal(kept, whole[:, : kept.shape[1]])
    resumed = go(checkpoint=checkpoint(tmp_path))
    np.testing.assert_array_equal(resumed.pieces["x"], whole)
    assert resumed.run.memory == go().run.memory


def test_other_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (ZeroDivisionError, OSError):

        def fail(self: Generator, *arguments: Any, error: type[Exception] = error) -> Observed:
            raise error

        monkeypatch.setattr(Generator, "observe", fail)
        with pytest.raises(error):
            go()


def test_numbers_that_are_not_finite_are_told_with_their_chain_and_step() -> None:
    state = {"a": jnp.ones(3), "b": np.zeros(2)}
    require_finite(state, 1, 30, "Do this.")
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(
            FloatingPointError, match=r"Chain 1 .* finite after step 30\. Do this\."
        ):
            require_finite(state | {"c": np.asarray([0.0, bad])}, 1, 30, "Do this.")


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    go(progress=True, note="the generator keeps 60 draws")
    out, err = capsys.readouterr()
    assert out == ""
    assert "the generator keeps 60 draws" in err
    go(progress=False, note="nothing")
    go(progress=None, note="nothing")  # no terminal: no bar
    assert capsys.readouterr() == ("", "")


def test_the_bar_tells_stage_and_status(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, str]] = []
    real = driver.progress_bar

    def bar(progress: bool | None) -> Any:
        made = real(progress)

        def update(task: Any, *, description: str, completed: int, status: str) -> None:
            told.append((description, completed, status))

        monkeypatch.setattr(made, "update", update)
        return made

    monkeypatch.setattr(driver, "progress_bar", bar)
    memory = go().run.memory
    assert told[0] == ("warmup", CHUNK, "warm")
    assert told[1] == ("sampling", WARMUP, "warm")
    assert told[-1] == ("sampling", WARMUP + DRAWS, f"sum {memory:.1f}")


def test_threads_keep_the_caller_s_settings() -> None:
    seen = []

    class Asking(Generator):
        def step(self, *arguments: Any) -> Any:
            seen.append(bool(jax.config.jax_enable_x64))
            return super().step(*arguments)

    with jax.enable_x64(True):
        go(Asking(num_threads=2), schedule=Schedule(2, 0, 1))
    assert seen == [True] * 4


def test_a_schedule_counts_what_is_streamed() -> None:
    assert [SCHEDULE.num_streamed(done) for done in (0, 20, 22, 23, 80)] == [0, 0, 0, 1, 20]
    assert [SCHEDULE.count(done) for done in (0, 15, 20, 75)] == [10, 5, 10, 5]
