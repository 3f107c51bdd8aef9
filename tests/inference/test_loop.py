"""The loop under every point-estimate algorithm, driven by a script instead of mathematics."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probmf.data import Ratings
from probmf.inference.starts import (
    START_SCALE,
    check_counts,
    check_tol,
    initial_parameters,
    prepare_validation,
)
from probmf.likelihoods import Bernoulli, Gaussian
from probmf.models import MatrixFactorization
from probmf.models.observations import Observations
from probmf.results import Fit, History
from probmf.run.driver import FitWarning, Info, Validation, run

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
    best, history = run(algorithm, **given | options)
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


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    go(Script([5.0, 4.0]), progress=True, validation=Errors(0.5, 0.4))
    out, _ = capsys.readouterr()
    assert out == ""
    go(Script([5.0, 4.0]), progress=False)
    assert capsys.readouterr() == ("", "")
    go(Script([5.0, 4.0]), progress=None)  # no terminal: no bar
    assert capsys.readouterr() == ("", "")


WEIGHTS = np.array([1.0, 3.0, 0.5])


@pytest.mark.parametrize("weighted", [False, True])
def test_held_out_error_is_the_weighted_rmse(weighted: bool) -> None:
    held_out = observations(np.array([1.0, 2.0, 4.0]), WEIGHTS if weighted else None)
    parameters = {"intercept": jnp.asarray(1.0), "user_bias": jnp.asarray([0.0, 0.5])}
    residual = np.array([0.0, 0.5, 3.0])
    wanted = np.sqrt(np.average(residual**2, weights=WEIGHTS if weighted else None))
    got = Validation(held_out, Gaussian(0.3)).error(parameters)
    assert got == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("link", ["logit", "probit"])
def test_held_out_error_of_yes_no_data_is_the_weighted_log_loss(link: str, weighted: bool) -> None:
    rating = np.array([1.0, 0.0, 1.0])
    held_out = observations(rating, WEIGHTS if weighted else None)
    parameters = {"intercept": jnp.asarray(1.0), "user_bias": jnp.asarray([0.0, 0.5])}
    chance = np.asarray(Bernoulli(link).mean(jnp.asarray([1.0, 1.5, 1.0]), {}), float)
    losses = -np.log(np.where(rating == 1, chance, 1 - chance))
    wanted = np.average(losses, weights=WEIGHTS if weighted else None)
    got = Validation(held_out, Bernoulli(link)).error(parameters)
    assert got == pytest.approx(wanted, rel=1e-5)


def observations(rating: np.ndarray, weight: np.ndarray | None) -> Observations:
    """Users 0, 1, 0 and items 0, 0, 1."""
    return Observations(
        jnp.asarray([0, 1, 0]), jnp.asarray([0, 0, 1]), jnp.asarray(rating),
        None if weight is None else jnp.asarray(weight), jnp.asarray(0.0), 2, 2,
    )  # fmt: skip


def test_check_counts_names_the_argument() -> None:
    check_counts(num_sweeps=1, cg_steps=np.int64(3))
    with pytest.raises(ValueError, match="patience is 0; expected a whole number of at least 1"):
        check_counts(num_sweeps=1, patience=0)
    for bad in (1.0, "1", True, None):
        message = re.escape(f"cg_steps is {bad!r}; expected a whole number")
        with pytest.raises(TypeError, match=message):
            check_counts(cg_steps=bad)


def test_check_tol() -> None:
    for good in (0, 0.0, 1e-5, np.float32(0.1)):
        check_tol(good)
    for bad in (-1e-9, nan, inf, "0", None, True):
        with pytest.raises(ValueError, match=re.escape(f"tol is {bad!r}; expected a finite num")):
            check_tol(bad)


TABLE = Ratings.from_frame({"user": ["a", "b", "c"], "item": [1, 2, 2], "rating": [1.0, 4.0, 2.0]})


def test_random_start_is_small_and_no_wider_than_the_prior() -> None:
    """Factors only: biases start at zero, the intercept at the constant that fits best."""
    users = 4000
    many = Ratings.from_frame({"user": [0], "item": [0], "rating": [2.0]}, users=list(range(users)))
    scale = np.where(np.arange(users) < users // 2, 0.01, 5.0)
    model = MatrixFactorization(2, user_scale=scale, intercept="learned")
    (data,) = model.arguments(many)
    values = initial_parameters(model, data, None)(jax.random.key(0))
    assert float(values["intercept"]) == 2.0
    assert not np.asarray(values["user_bias"]).any()
    factors = np.asarray(values["user_factors"])
    assert factors[: users // 2].std() == pytest.approx(0.01, rel=0.05)
    assert factors[users // 2 :].std() == pytest.approx(START_SCALE, rel=0.05)
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.05


def test_start_takes_a_learned_intercept_but_not_a_fixed_one() -> None:
    """A fixed intercept belongs to the model, not to the fit that is started from."""
    learned, fixed = (MatrixFactorization(0, intercept=i) for i in ("learned", 1.5))
    (data,) = learned.arguments(TABLE)
    values = {"user_bias": np.ones(3), "item_bias": np.ones(2), "intercept": np.asarray(9.0)}
    start = Fit.from_point(learned, TABLE, values, method="test")
    key = jax.random.key(0)
    assert float(initial_parameters(learned, data, start)(key)["intercept"]) == 9.0
    assert float(initial_parameters(fixed, data, start)(key)["intercept"]) == 1.5


def test_validation_is_brought_to_the_training_codes() -> None:
    held_out = Ratings.from_frame({"user": ["c", "b"], "item": [2, 1], "rating": [3.0, 5.0]})
    assert prepare_validation(MatrixFactorization(1), TABLE, None) is None
    found = prepare_validation(MatrixFactorization(1), TABLE, held_out)
    assert found is not None
    assert found.observations.user.tolist() == [2, 1]
    assert found.observations.item.tolist() == [1, 0]
    assert found.observations.num_users == 3
