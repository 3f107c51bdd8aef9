"""Point estimates under the driver, by a script instead of mathematics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probmf.results import History
from probmf.run import driver
from probmf.run.checkpoint import Checkpoint
from probmf.run.driver import FitWarning
from probmf.run.estimate import Info, estimate

nan, inf = np.nan, np.inf
Step = float | str | type[BaseException]


class Script:
    """An algorithm whose run i reports `curves[i]`; its parameters tell run and step.

    A text in a curve is trouble, an exception is raised.
    """

    unit = "sweep"

    def __init__(self, *curves: Sequence[Step]) -> None:
        self.curves = curves
        self.num_runs = len(curves)
        self.keys: list[jax.Array] = []

    def init(self, key: jax.Array) -> int:
        self.keys.append(key)
        return 0

    def step(self, key: jax.Array, state: int) -> tuple[int, list[Info]]:
        self.keys.append(key)
        infos = []
        for curve in self.curves:
            value = curve[state]
            if isinstance(value, str):
                infos.append(Info(1.0, value))
            elif isinstance(value, float):
                infos.append(Info(value))
            else:
                raise value
        return state + 1, infos

    def parameters(self, state: int, run: int) -> dict[str, jax.Array]:
        return {"step": jnp.asarray(state), "run": jnp.asarray(run)}


class Errors:
    """Held-out errors by step, in place of a `Validation`."""

    def __init__(self, *errors: float | type[BaseException]) -> None:
        self.errors = errors

    def error(self, parameters: dict[str, jax.Array]) -> float:
        value = self.errors[int(parameters["step"]) - 1]
        if isinstance(value, float):
            return value
        raise value


def go(algorithm: Script, **options: Any) -> tuple[int, int, History]:
    """The step and the run whose parameters came back, and the history."""
    given: dict[str, Any] = {
        "key": jax.random.key(0), "num_steps": len(algorithm.curves[0]), "tol": 0.0,
        "validation": None, "patience": 2, "progress": False,
    }  # fmt: skip
    best, history = estimate(algorithm, **given | options)
    return int(best["step"]), int(best["run"]), history


def test_all_steps_are_taken_and_the_lowest_objective_is_kept() -> None:
    step, _, history = go(Script([5.0, 3.0, 2.0, 4.0]))
    assert (step, history.best, history.stopped) == (3, 3, "num_sweeps")
    assert history.objective.tolist() == [5.0, 3.0, 2.0, 4.0]
    assert history.validation is None
    assert history.restarts is None
    assert history.unit == "sweep"
    assert len(history) == len(history.seconds) == 4
    assert (np.diff(history.seconds) >= 0).all()


def test_unit_names_the_end() -> None:
    algorithm = Script([5.0, 3.0])
    algorithm.unit = "epoch"
    assert go(algorithm)[2].stopped == "num_epochs"


@pytest.mark.parametrize(
    ("curve", "tol", "steps"),
    [
        ([100.0, 50.0, 49.0, 48.9, 1.0], 0.01, 4),
        ([100.0, 50.0, 49.0, 48.9, 1.0], 0.02, 3),
        ([100.0, 99.0, 1.0], 0.01, 2),  # exactly the share stops
        ([100.0, 100.0, 100.0], 0.0, 3),  # 0 never stops
        ([-100.0, -150.0, -150.5, -1.0], 0.01, 3),  # negative objectives
        ([100.0, 100.5, 1.0], 0.01, 2),  # a rise that small is flat as well
        ([0.0, 0.0, 1.0], 0.01, 2),  # nothing is divided by zero
        ([100.0], 0.01, 1),
    ],
)
def test_tolerance(curve: list[float], tol: float, steps: int) -> None:
    _, _, history = go(Script(curve), tol=tol)
    assert len(history) == steps
    assert history.stopped == ("tol" if steps < len(curve) else "num_sweeps")


def test_patience_counts_from_the_best_held_out_error() -> None:
    errors = Errors(0.9, 0.8, 0.85, 0.7, 0.75, 0.7, 0.6)
    step, _, history = go(Script([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]), validation=errors)
    assert (step, history.best, history.stopped) == (4, 4, "validation")
    assert history.validation is not None
    assert history.validation.tolist() == [0.9, 0.8, 0.85, 0.7, 0.75, 0.7]


def test_held_out_error_decides_not_the_objective() -> None:
    step, _, history = go(Script([3.0, 2.0, 1.0]), validation=Errors(0.5, 0.4, 0.6), patience=5)
    assert (step, history.best, history.stopped) == (2, 2, "num_sweeps")


def test_undefined_held_out_error_never_is_the_best() -> None:
    step, _, history = go(Script([3.0, 2.0, 1.0]), validation=Errors(nan, 0.4, nan), patience=5)
    assert (step, history.best) == (2, 2)


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_divergence_keeps_the_best_step(value: float) -> None:
    message = f"The fit diverged: the objective is {value} after sweep 3; the parameters of sweep 2"
    with pytest.warns(FitWarning, match=message):
        step, _, history = go(Script([3.0, 2.0, value, 1.0]))
    assert (step, history.best, history.stopped) == (2, 2, "diverged")
    assert len(history) == len(history.seconds) == 3


def test_divergence_at_once_keeps_the_start() -> None:
    with pytest.warns(FitWarning, match=r"after sweep 1; the starting values are kept\. The numb"):
        step, _, history = go(Script([nan, 1.0]), validation=Errors(0.1, 0.1))
    assert (step, history.best, history.stopped) == (0, 0, "diverged")
    assert history.validation is not None
    assert np.isnan(history.validation).tolist() == [True]


def test_trouble_is_told_in_the_algorithm_s_words() -> None:
    with pytest.warns(FitWarning, match="diverged: user 7 has infinite factors; the parameters of"):
        step, *_ = go(Script([3.0, "user 7 has infinite factors"]))
    assert step == 1


def test_interruption_keeps_the_best_step() -> None:
    with pytest.warns(FitWarning, match=r"Interrupted after 2 sweeps; .* \(of sweep 2\) are ret"):
        step, _, history = go(Script([3.0, 2.0, KeyboardInterrupt, 1.0]))
    assert (step, history.best, history.stopped) == (2, 2, "interrupted")
    assert history.objective.tolist() == [3.0, 2.0]
    assert len(history.seconds) == 2


def test_interruption_before_the_first_step_ends() -> None:
    with pytest.warns(FitWarning, match="Interrupted after 0 sweeps"):
        step, _, history = go(Script([KeyboardInterrupt]))
    assert (step, history.best, history.stopped, len(history)) == (0, 0, "interrupted", 0)


def test_interruption_during_validation_leaves_curves_of_one_length() -> None:
    errors = Errors(0.5, KeyboardInterrupt)
    with pytest.warns(FitWarning, match="Interrupted"):
        step, _, history = go(Script([3.0, 2.0, 1.0]), validation=errors)
    assert step == 1
    assert history.validation is not None
    assert len(history.objective) == len(history.validation) == len(history.seconds) == 1


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        go(Script([3.0, ZeroDivisionError]))


def test_best_of_several_runs() -> None:
    step, index, history = go(Script([5.0, 4.0, 3.0], [6.0, 1.0, 2.0], [7.0, 7.0, 7.0]))
    assert (step, index, history.best) == (2, 1, 2)
    assert history.objective.tolist() == [6.0, 1.0, 2.0]
    assert history.restarts is not None
    np.testing.assert_array_equal(
        history.restarts, [[5.0, 4.0, 3.0], [6.0, 1.0, 2.0], [7.0, 7.0, 7.0]]
    )


def test_each_run_stops_by_itself() -> None:
    """The first run is flat at its second step; what it reports later does not count."""
    step, index, history = go(Script([5.0, 5.0, 0.1, 0.1], [9.0, 6.0, 3.0, 2.0]), tol=1e-3)
    assert (step, index, history.best, history.stopped) == (4, 1, 4, "num_sweeps")
    assert history.restarts is not None
    np.testing.assert_array_equal(history.restarts, [[5.0, 5.0, nan, nan], [9.0, 6.0, 3.0, 2.0]])
    _, index, history = go(Script([5.0, 5.0, 0.1], [9.0, 9.0, 3.0]), tol=1e-3)
    assert (index, history.stopped, len(history), len(history.seconds)) == (0, "tol", 2, 2)


def test_one_diverging_run_of_several_is_named_and_the_others_go_on() -> None:
    with pytest.warns(FitWarning, match="Restart 2 of 2 diverged"):
        step, index, history = go(Script([5.0, 4.0, 3.0], [4.5, nan, 0.1]))
    assert (step, index, history.stopped) == (3, 0, "num_sweeps")


def test_keys_are_all_different_and_reproducible() -> None:
    algorithm, again, other = (Script([3.0, 2.0, 1.0]) for _ in range(3))
    go(algorithm)
    go(again)
    go(other, key=jax.random.key(1))
    data = [
        [tuple(jax.random.key_data(k).tolist()) for k in a.keys] for a in (algorithm, again, other)
    ]
    assert len(set(data[0])) == 4
    assert data[0] == data[1]
    assert not set(data[0]) & set(data[2])


def test_the_status_tells_objective_and_held_out_error(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    real = driver._Loop.advance

    def advance(self: Any, each: Any) -> str:
        told.append(real(self, each))
        return told[-1]

    monkeypatch.setattr(driver._Loop, "advance", advance)
    go(Script([5.0, 4.0]), validation=Errors(0.5, 0.4))
    go(Script([6.0]))
    assert told == [
        "objective 5  held-out 0.5000", "objective 4  held-out 0.4000", "objective 6"
    ]  # fmt: skip


def test_it_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """Curves, best parameters and runs that have stopped are kept."""
    curves = [5.0, 4.0, 3.0, 2.0], [6.0, 6.0, 0.5, 0.5], [7.0, nan, 0.5, 0.5]
    options: dict[str, Any] = {"tol": 1e-3, "validation": Errors(0.9, 0.7, 0.8, 0.6)}
    with pytest.warns(FitWarning, match="Restart 3 of 3 diverged"):
        step, run, whole = go(Script(*curves), **options)
    cut = [[*curves[0][:2], KeyboardInterrupt, 2.0], *curves[1:]]
    with pytest.warns(FitWarning) as told:
        go(Script(*cut), checkpoint=Checkpoint(tmp_path, "x"), **options)
    texts = [str(one.message) for one in told]
    assert ["Restart 3 of 3" in texts[0], "after 2 sweeps" in texts[1], len(texts)] == [1, 1, 2]
    with pytest.warns(FitWarning, match="Restart 3 of 3 diverged: the objective is nan after sw"):
        again = go(Script(*curves), checkpoint=Checkpoint(tmp_path, "x"), **options)
    assert again[:2] == (step, run) == (4, 0)
    assert again[2].objective.tolist() == whole.objective.tolist()
    assert whole.validation is not None
    assert again[2].validation is not None
    assert again[2].validation.tolist() == whole.validation.tolist()
    np.testing.assert_array_equal(again[2].restarts, whole.restarts)
    assert (again[2].best, again[2].stopped) == (whole.best, whole.stopped)


def test_a_full_disk_is_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Checkpoint.write, []

    def full(self: Checkpoint, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        real(self, *arguments)

    monkeypatch.setattr(driver, "WRITE_EVERY", 0.0)
    monkeypatch.setattr(Checkpoint, "write", full)
    message = r"checkpoint can't be written \(.*No space left.*after 3 sweeps; the best parameters"
    with pytest.warns(FitWarning, match=message):
        _, _, history = go(Script([5.0, 4.0, 3.0, 2.0]), checkpoint=Checkpoint(tmp_path, "x"))
    assert history.stopped == "interrupted"
