"""Point estimates under the driver, their stopping rules and their history.

An algorithm is `init(key) -> state`, `step(key, state) -> (state, infos)` and `parameters`; its
state holds one or several runs (restarts), each of which stops by itself.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array

from probmf.results import History
from probmf.run.checkpoint import Checkpoint
from probmf.run.driver import FitWarning, Observed, Result, Schedule, drive


class Info(NamedTuple):
    """Minus log posterior after a step, and where numbers ceased to be finite, in words."""

    objective: float
    trouble: str | None = None


class HeldOutStop(Protocol):
    """Held-out data to stop by."""

    def error(self, parameters: Mapping[str, Array]) -> float:
        """Mean held-out error of the parameters."""


class Curve(NamedTuple):
    """One run, a pytree: objective and held-out error (or NaN) by step, and the best parameters."""

    best: dict[str, Any]
    score: float = np.inf
    best_step: int = 0
    objectives: np.ndarray = np.zeros(0)
    errors: np.ndarray = np.zeros(0)
    stopped: str = ""
    trouble: str = ""

    def after(
        self, objective: float, error: float, parameters: Callable[[], dict[str, Any]] | None
    ) -> "Curve":
        """The curve with one more step; `parameters` where they may be the best."""
        longer = self._replace(
            objectives=np.append(self.objectives, objective), errors=np.append(self.errors, error)
        )
        score = objective if np.isnan(error) else error
        if parameters is None or not score < self.score:
            return longer
        return longer._replace(best=parameters(), score=score, best_step=len(longer.objectives))


class Stopping(NamedTuple):
    """Rules by which a run stops.

    When the objective changes by less than the share `tol` of itself in a step (0 never does), or
    after `patience` steps without a better held-out error.
    """

    unit: str
    tol: float
    validation: HeldOutStop | None
    patience: int

    def after(self, curve: Curve, info: Info, parameters: Callable[[], dict[str, Array]]) -> Curve:
        """The curve with one more step, which may be the best so far, or the last."""
        if info.trouble is not None or not np.isfinite(info.objective):
            curve = curve.after(info.objective, np.nan, None)
            unit, step = self.unit, len(curve.objectives)
            words = info.trouble or f"the objective is {info.objective} after {unit} {step}"
            return curve._replace(stopped="diverged", trouble=words)
        if self.validation is None:
            curve = curve.after(info.objective, np.nan, parameters)
        else:
            error = self.validation.error(parameters())
            curve = curve.after(info.objective, error, None if np.isnan(error) else parameters)
            if len(curve.objectives) - curve.best_step >= self.patience:
                return curve._replace(stopped="validation")
        return curve._replace(stopped="tol") if is_flat(curve.objectives, self.tol) else curve


def is_flat(objectives: np.ndarray, tol: float) -> bool:
    """True if the last step changed the objective by less than a share of itself."""
    if tol <= 0 or len(objectives) < 2:
        return False
    before, now = objectives[-2:]
    return bool(abs(before - now) <= tol * max(abs(before), 1e-300))


#: What to do when numbers cease to be finite. Sweeps solve for their steps, epochs choose a length.
ADVICE = {
    "epoch": "Lower the learning rate, or start from smaller values.",
    "sweep": "The numbers of the ratings, their weights and the prior scales lie too far apart for "
    "the present precision: bring them nearer to one, or set jax_enable_x64.",
}


class Estimator(Protocol):
    """A point-estimate algorithm; its state is a pytree that holds one or several runs."""

    unit: str
    num_runs: int

    def init(self, key: Array) -> Any:
        """The first state."""

    def step(self, key: Array, state: Any) -> tuple[Any, list[Info]]:
        """The next state, and what each run reports; compiles nothing after the first call."""

    def parameters(self, state: Any, run: int) -> dict[str, Array]:
        """The parameters of one run by site name."""


def estimate(
    algorithm: Estimator,
    *,
    key: Array,
    num_steps: int,
    tol: float,
    validation: HeldOutStop | None,
    patience: int,
    progress: bool | None,
    checkpoint: Checkpoint | None = None,
    shared: bool = False,
) -> tuple[dict[str, Array], History]:
    """Step until the tolerance, the held-out error, the number of steps or the user says stop.

    Step i gets fold_in(key, i). See `Stopping` for `tol`, `validation` and `patience`; with
    `shared` each step takes all processes. Gives the best parameters (by held-out error if given,
    else by objective) of all runs and steps, and the history of their run.
    """
    search = _Estimation(algorithm, key, Stopping(algorithm.unit, tol, validation, patience))
    result = drive(
        search, Schedule(num_steps), checkpoint=checkpoint, progress=progress, shared=shared
    )
    curves = result.run.memory
    best = _best(curves)
    _warn(algorithm, curves, result)
    # NaN after the end of the shorter ones.
    restarts = np.full((len(curves), max(len(one.objectives) for one in curves)), np.nan)
    for row, one in zip(restarts, curves, strict=True):
        row[: len(one.objectives)] = one.objectives
    history = History(
        objective=best.objectives,
        validation=best.errors if validation is not None else None,
        seconds=result.run.seconds[: len(best.objectives)],
        best=best.best_step,
        stopped=best.stopped or ("interrupted" if result.interrupted else f"num_{algorithm.unit}s"),
        unit=algorithm.unit,
        restarts=restarts if len(curves) > 1 else None,
    )
    return best.best, history


class _Estimation:
    """A point-estimate algorithm for the driver: one state that holds all its runs."""

    num_threads = 0

    def __init__(self, algorithm: Estimator, key: Array, stopping: Stopping) -> None:
        """See `estimate` for the arguments."""
        self.algorithm, self.stage = algorithm, algorithm.unit
        self.init_key, self.step_key = jax.random.split(key)
        self.stopping = stopping

    def init(self, *, resumed: bool) -> tuple[list[Any], tuple[Curve, ...]]:
        """The first state, and a curve without steps for each run."""
        del resumed
        state = self.algorithm.init(self.init_key)
        runs = range(self.algorithm.num_runs)
        return [state], tuple(Curve(self.algorithm.parameters(state, run)) for run in runs)

    def step(self, chain: int, state: Any, done: int, count: int) -> tuple[Any, list[Info]]:
        """One step of all runs."""
        del chain, count
        return self.algorithm.step(jax.random.fold_in(self.step_key, done), state)

    def observe(
        self, memory: tuple[Curve, ...], done: int, states: tuple[Any, ...],
        records: tuple[list[Info], ...],
    ) -> Observed:  # fmt: skip
        """The curves with one more step of those runs that go on."""
        del done
        curves = tuple(
            one if one.stopped
            else self.stopping.after(one, info, partial(self.algorithm.parameters, states[0], run))
            for run, (one, info) in enumerate(zip(memory, records[0], strict=True))
        )  # fmt: skip
        best = _best(curves)
        stopped = "" if any(not one.stopped for one in curves) else best.stopped
        return Observed(curves, stopped=stopped, status=_status(best))


def _best(curves: tuple[Curve, ...]) -> Curve:
    return min(curves, key=lambda one: one.score)


def _warn(algorithm: Estimator, curves: tuple[Curve, ...], result: Result) -> None:
    """Say which runs diverged, and whether the fit ended early."""
    unit = algorithm.unit
    for index, one in enumerate(curves):
        if one.stopped != "diverged":
            continue
        several = len(curves) > 1
        subject = f"Restart {index + 1} of {len(curves)}" if several else "The fit"
        kept = (
            f"the parameters of {unit} {one.best_step} are kept"
            if one.best_step
            else "the starting values are kept"
        )
        warnings.warn(
            f"{subject} diverged: {one.trouble}; {kept}. {ADVICE[unit]}", FitWarning, stacklevel=4
        )
    if result.interrupted:
        best = _best(curves)
        warnings.warn(
            f"{result.why} after {len(best.objectives)} {unit}s; the best parameters so far (of "
            f"{unit} {best.best_step}) are returned.",
            FitWarning,
            stacklevel=4,
        )


def warn_unconverged(history: History, tol: float | None, what: str) -> None:
    """Warn where the steps were over before a tolerance that was asked for.

    Args:
        history: How the search went.
        tol: The tolerance; None or 0 where none was asked for.
        what: The objective's name.
    """
    if not tol or history.stopped != f"num_{history.unit}s":
        return
    warnings.warn(
        f"The {what} has not converged after {len(history.objective)} {history.unit}s: the last "
        f"one still changed it by more than tol={tol:g} of itself. Raise {history.stopped}, or go "
        "on with start=.",
        FitWarning,
        stacklevel=3,
    )


def _status(one: Curve) -> str:
    text = f"objective {one.objectives[-1]:,.6g}"
    return text if np.isnan(one.errors[-1]) else f"{text}  held-out {one.errors[-1]:.4f}"
