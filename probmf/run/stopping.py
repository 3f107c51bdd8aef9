"""Stopping rules of point estimates: tolerance, held-out error, and numbers that are not finite."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array


class Info(NamedTuple):
    """Report of one step.

    Attributes:
        objective: Minus log posterior up to a constant, after the step.
        trouble: Where the numbers ceased to be finite, in words; None when all is well.
    """

    objective: float
    trouble: str | None = None


class HeldOutStop(Protocol):
    """Held-out data to stop by."""

    def error(self, parameters: Mapping[str, Array]) -> float:
        """Mean held-out error of the parameters."""


class Curve(NamedTuple):
    """One run: its curves, and the best parameters so far; a pytree.

    Attributes:
        best: The best parameters.
        score: What they are the best by: held-out error, or objective.
        best_step: The step that they are of; 0 for the start.
        objectives: Objective after each step.
        errors: Held-out error after each step; NaN without held-out data.
        stopped: Reason of its end; empty before.
        trouble: Where it diverged, in words.
    """

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
    """Rules by which a run of a point estimate stops.

    Attributes:
        unit: Name of a step, such as "sweep" or "epoch".
        tol: Stop when the objective changes by less than this share of itself in a step; 0 never.
        validation: Held-out data, or None.
        patience: Stop after this many steps without a better held-out error.
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
