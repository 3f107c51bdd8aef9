"""The one loop under every point-estimate algorithm.

An algorithm is `init(key) -> state` and `step(key, state) -> (state, Info)`; the loop knows about
progress, tolerance, held-out early stopping, interruption and values that are not finite.
"""

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from probmf.models.factorization import linear_predictor
from probmf.models.likelihood import Likelihood
from probmf.models.observations import Observations
from probmf.results import History


class FitWarning(UserWarning):
    """A fit ended early: it diverged or was interrupted."""


class Info(NamedTuple):
    """What one step reports.

    Attributes:
        objective: Minus log posterior up to a constant, after the step.
        trouble: Where the numbers ceased to be finite, in words; None when all is well.
    """

    objective: float
    trouble: str | None = None


class Algorithm(Protocol):
    """A point-estimate algorithm; its state is a pytree."""

    unit: str

    def init(self, key: Array) -> Any:
        """The first state."""

    def step(self, key: Array, state: Any) -> tuple[Any, Info]:
        """The next state; never raises the number of compiled programs after the first call."""

    def parameters(self, state: Any) -> dict[str, Array]:
        """The parameters by site name."""


@dataclass(frozen=True)
class Validation:
    """Held-out ratings to stop by: the root mean squared error, or the log loss of yes/no data.

    Args:
        observations: The held-out pairs.
        likelihood: Decides which error is taken.
    """

    observations: Observations
    likelihood: Likelihood

    def error(self, parameters: Mapping[str, Array]) -> float:
        """Mean held-out error of the parameters."""
        value = _held_out_error(dict(parameters), self.observations, self.likelihood.canonical())
        return float(value)


@jax.jit
def _scores(parameters: dict[str, Array], observations: Observations) -> Array:
    return linear_predictor(parameters, observations.user, observations.item)


def _held_out_error(
    parameters: dict[str, Array], observations: Observations, likelihood: Likelihood
) -> float:
    scores = np.asarray(_scores(parameters, observations), dtype=np.float64)
    rating = np.asarray(observations.rating, dtype=np.float64)
    weight = None if observations.weight is None else np.asarray(observations.weight)
    if likelihood.binary:
        losses = np.asarray(likelihood.loss(scores, rating, {}), dtype=np.float64)
        return float(np.average(losses, weights=weight))
    return float(np.sqrt(np.average(np.square(rating - scores), weights=weight)))


def run(
    algorithm: Algorithm,
    *,
    key: Array,
    num_steps: int,
    tol: float,
    validation: Validation | None,
    patience: int,
    progress: bool | None,
) -> tuple[dict[str, Array], History]:
    """Step until the tolerance, the held-out error, the number of steps or the user says stop.

    Args:
        algorithm: What to run.
        key: JAX key; step i gets fold_in(key, i).
        num_steps: The most steps.
        tol: Stop when the objective falls by less than this share of itself in a step; 0 never.
        validation: Held-out data, or None.
        patience: Stop after this many steps without a better held-out error.
        progress: Show a bar; None shows it on a terminal or in a notebook.

    Returns:
        The best parameters (by held-out error if given, else by objective) and the history.
    """
    init_key, step_key = jax.random.split(key)
    state = algorithm.init(init_key)
    best = algorithm.parameters(state)
    best_score, best_step = np.inf, 0
    objectives: list[float] = []
    errors: list[float] = []
    seconds: list[float] = []
    stopped = f"num_{algorithm.unit}s"
    begin = time.perf_counter()
    with _bar(progress) as bar:
        task = bar.add_task(algorithm.unit, total=num_steps, status="")
        try:
            for step in range(num_steps):
                state, info = algorithm.step(jax.random.fold_in(step_key, step), state)
                seconds.append(time.perf_counter() - begin)
                objectives.append(info.objective)
                if info.trouble is not None or not np.isfinite(info.objective):
                    stopped = "diverged"
                    errors.append(np.nan)
                    _warn_divergence(algorithm, step, info, best_step)
                    break
                parameters = algorithm.parameters(state)
                if validation is not None:
                    errors.append(validation.error(parameters))
                score = errors[-1] if validation is not None else info.objective
                if score < best_score:
                    best, best_score, best_step = parameters, score, step + 1
                bar.update(task, advance=1, status=_status(info.objective, errors))
                if validation is not None and step + 1 - best_step >= patience:
                    stopped = "validation"
                    break
                if _flat(objectives, tol):
                    stopped = "tol"
                    break
        except KeyboardInterrupt:
            stopped = "interrupted"
            warnings.warn(
                f"Interrupted after {len(objectives)} {algorithm.unit}s; the best parameters so far "
                f"(of {algorithm.unit} {best_step}) are returned.",
                FitWarning,
                stacklevel=3,
            )
    # An interruption may have fallen between the lists.
    done = min(len(seconds), len(objectives), len(errors) if validation else len(objectives))
    history = History(
        objective=np.asarray(objectives[:done]),
        validation=np.asarray(errors[:done]) if validation is not None else None,
        seconds=np.asarray(seconds[:done]),
        best=best_step,
        stopped=stopped,
        unit=algorithm.unit,
    )
    return best, history


def _flat(objectives: list[float], tol: float) -> bool:
    if tol <= 0 or len(objectives) < 2:
        return False
    before, now = objectives[-2:]
    return abs(before - now) <= tol * max(abs(before), 1e-300)


def _warn_divergence(algorithm: Algorithm, step: int, info: Info, best_step: int) -> None:
    where = info.trouble or f"the objective is {info.objective} after {algorithm.unit} {step + 1}"
    kept = (
        f"the parameters of {algorithm.unit} {best_step} are kept"
        if best_step
        else "the starting values are kept"
    )
    warnings.warn(
        f"The fit diverged: {where}; {kept}. Lower the learning rate, or start from smaller values.",
        FitWarning,
        stacklevel=4,
    )


def _status(objective: float, errors: list[float]) -> str:
    text = f"objective {objective:,.6g}"
    return f"{text}  held-out {errors[-1]:.4f}" if errors else text


def _bar(progress: bool | None) -> Progress:
    console = Console(stderr=True)
    show = (console.is_terminal or console.is_jupyter) if progress is None else progress
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not show,
        transient=True,
    )
