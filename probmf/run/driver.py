"""The one loop under every point-estimate algorithm.

An algorithm is `init(key) -> state` and `step(key, state) -> (state, Info)`; the loop knows about
progress, tolerance, held-out early stopping, interruption and values that are not finite.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array

from probmf.likelihoods import Likelihood
from probmf.likelihoods.base import likelihood_scales
from probmf.models.observations import Observations
from probmf.models.scores import linear_predictor
from probmf.results import History
from probmf.run.checkpoint import Checkpoint
from probmf.run.progress import progress_bar
from probmf.run.state_arrays import restore, stored

#: Seconds between writes of a checkpoint.
WRITE_EVERY = 10.0


#: What to do when numbers cease to be finite. Sweeps solve for their steps, epochs choose a length.
ADVICE = {
    "epoch": "Lower the learning rate, or start from smaller values.",
    "sweep": "The numbers of the ratings, their weights and the prior scales lie too far apart for "
    "the present precision: bring them nearer to one, or set jax_enable_x64.",
}


class FitWarning(UserWarning):
    """A fit ended early, as it diverged or was interrupted, or found nothing definite."""


class Info(NamedTuple):
    """Report of one step.

    Attributes:
        objective: Minus log posterior up to a constant, after the step.
        trouble: Where the numbers ceased to be finite, in words; None when all is well.
    """

    objective: float
    trouble: str | None = None


class Algorithm(Protocol):
    """A point-estimate algorithm; its state is a pytree that holds one or several runs."""

    unit: str
    num_runs: int

    def init(self, key: Array) -> Any:
        """The first state."""

    def step(self, key: Array, state: Any) -> tuple[Any, list[Info]]:
        """The next state, and what each run reports; compiles nothing after the first call."""

    def parameters(self, state: Any, run: int) -> dict[str, Array]:
        """The parameters of one run by site name."""


class HeldOut(Protocol):
    """Held-out data to stop by."""

    def error(self, parameters: Mapping[str, Array]) -> float:
        """Mean held-out error of the parameters."""


@dataclass(frozen=True)
class Validation:
    """Held-out ratings to stop by.

    The error is the root mean square of Gaussian ratings, the log loss of yes/no and ordinal ones.

    Args:
        observations: The held-out pairs.
        likelihood: Decides which error is taken.
    """

    observations: Observations
    likelihood: Likelihood

    def error(self, parameters: Mapping[str, Array]) -> float:
        """Mean held-out error of the parameters."""
        found = _scores(dict(parameters), self.observations)
        scores = np.asarray(found, dtype=np.float64)
        rating = np.asarray(self.observations.rating, dtype=np.float64)
        given = self.observations.weight
        weight = None if given is None else np.asarray(given)
        if not self.likelihood.quadratic:
            scales = likelihood_scales(self.likelihood, parameters)
            losses = np.asarray(self.likelihood.loss(scores, rating, scales), dtype=np.float64)
            return float(np.average(losses, weights=weight))
        return float(np.sqrt(np.average(np.square(rating - scores), weights=weight)))


@jax.jit
def _scores(parameters: dict[str, Array], observations: Observations) -> Array:
    return linear_predictor(parameters, observations.user, observations.item)


@dataclass
class _Run:
    """One run: its curves, and the best parameters so far."""

    best: dict[str, Array]
    score: float = np.inf
    best_step: int = 0
    objectives: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    stopped: str | None = None

    def record(
        self,
        info: Info,
        parameters: Callable[[], dict[str, Array]],
        validation: HeldOut | None,
        tol: float,
        patience: int,
    ) -> None:
        """Take in one step; decide whether it is the best so far and whether it is the last."""
        if info.trouble is not None or not np.isfinite(info.objective):
            self._append(info.objective, np.nan)
            self.stopped = "diverged"
            return
        error = validation.error(parameters()) if validation is not None else np.nan
        self._append(info.objective, error)
        score = info.objective if validation is None else error
        if score < self.score:
            self.best, self.score, self.best_step = parameters(), score, len(self.objectives)
        if validation is not None and len(self.objectives) - self.best_step >= patience:
            self.stopped = "validation"
        elif _flat(self.objectives, tol):
            self.stopped = "tol"

    def pack(self) -> dict[str, Any]:
        """Part of the run that a checkpoint keeps: a pytree of the same structure at every step."""
        return {
            "best": self.best, "score": np.asarray(self.score), "best_step": self.best_step,
            "objectives": np.asarray(self.objectives), "errors": np.asarray(self.errors),
            "stopped": np.asarray(self.stopped or ""),
        }  # fmt: skip

    @classmethod
    def unpack(cls, kept: Mapping[str, Any]) -> "_Run":
        """The run that `pack` was called on."""
        return cls(
            kept["best"], float(kept["score"]), kept["best_step"], kept["objectives"].tolist(),
            kept["errors"].tolist(), str(kept["stopped"]) or None,
        )  # fmt: skip

    def _append(self, objective: float, error: float) -> None:
        self.objectives.append(objective)
        self.errors.append(error)


def run(
    algorithm: Algorithm,
    *,
    key: Array,
    num_steps: int,
    tol: float,
    validation: HeldOut | None,
    patience: int,
    progress: bool | None,
    checkpoint: Checkpoint | None = None,
) -> tuple[dict[str, Array], History]:
    """Step until the tolerance, the held-out error, the number of steps or the user says stop.

    Each run of the algorithm stops by itself; the loop ends with the last.

    Args:
        algorithm: What to run.
        key: JAX key; step i gets fold_in(key, i).
        num_steps: The most steps.
        tol: Stop when the objective falls by less than this share of itself in a step; 0 never.
        validation: Held-out data, or None.
        patience: Stop after this many steps without a better held-out error.
        progress: Show a bar; None shows it on a terminal or in a notebook.
        checkpoint: Where to keep the run, and what is kept of it already.

    Returns:
        The best parameters (by held-out error if given, else by objective) of all runs and
        steps, and the history of their run.
    """
    init_key, step_key = jax.random.split(key)
    state = algorithm.init(init_key)
    runs = [_Run(algorithm.parameters(state, index)) for index in range(algorithm.num_runs)]
    seconds: list[float] = []
    first = 0
    keeper = _Keeper(checkpoint)
    kept = keeper.read(state, runs)
    if kept is not None:
        state, runs, seconds = kept["state"], list(map(_Run.unpack, kept["runs"])), kept["seconds"]
        first = len(seconds)
    keeper.write(state, runs, seconds, now=True)
    last = f"num_{algorithm.unit}s"
    begin = time.perf_counter() - (seconds[-1] if seconds else 0.0)
    with progress_bar(progress) as bar:
        task = bar.add_task(algorithm.unit, total=num_steps, completed=first, status="")
        between = True
        try:
            for step in range(first, num_steps):
                if all(one.stopped is not None for one in runs):
                    break
                between = False
                state, infos = algorithm.step(jax.random.fold_in(step_key, step), state)
                seconds.append(time.perf_counter() - begin)
                for index, (one, info) in enumerate(zip(runs, infos, strict=True)):
                    if one.stopped is not None:
                        continue
                    values = partial(algorithm.parameters, state, index)
                    one.record(info, values, validation, tol, patience)
                    if one.stopped == "diverged":
                        _warn_divergence(algorithm, index, info, one)
                between = True
                best = min(runs, key=lambda one: one.score)
                bar.update(task, advance=1, status=_status(best))
                keeper.write(state, runs, seconds, now=False)
            keeper.write(state, runs, seconds, now=True)
        except (KeyboardInterrupt, OSError) as error:
            if isinstance(error, OSError) and not keeper.failed:
                raise
            last = "interrupted"
            best = min(runs, key=lambda one: one.score)
            why = f"The checkpoint can't be written ({error})" if keeper.failed else "Interrupted"
            warnings.warn(
                f"{why} after {len(best.objectives)} {algorithm.unit}s; the best parameters "
                f"so far (of {algorithm.unit} {best.best_step}) are returned.",
                FitWarning,
                stacklevel=3,
            )
            # A step that was cut short may have used its state up.
            if between and not keeper.failed:
                keeper.write(state, runs, seconds, now=True)
    best = min(runs, key=lambda one: one.score)
    # An interruption may have fallen between the lists.
    done = min(len(seconds), len(best.errors))
    history = History(
        objective=np.asarray(best.objectives[:done]),
        validation=np.asarray(best.errors[:done]) if validation is not None else None,
        seconds=np.asarray(seconds[:done]),
        best=best.best_step,
        stopped=best.stopped or last,
        unit=algorithm.unit,
        restarts=_stack([one.objectives for one in runs]) if len(runs) > 1 else None,
    )
    return best.best, history


class _Keeper:
    """Writes the state of the loop to a checkpoint, if there is one, now and then."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self.checkpoint, self.written, self.failed = checkpoint, -np.inf, False

    def read(self, state: Any, runs: list[_Run]) -> dict[str, Any] | None:
        """Kept state and runs, in the structure that they begin with; None without a checkpoint."""
        kept = None if self.checkpoint is None else self.checkpoint.read()
        if kept is None:
            return None
        example = {"state": state, "runs": [one.pack() for one in runs], "seconds": np.zeros(0)}
        found = restore(example, kept.leaves[0])
        return found | {"seconds": found["seconds"].tolist()}

    def write(self, state: Any, runs: list[_Run], seconds: list[float], *, now: bool) -> None:
        """Write if it is time to, or `now`."""
        moment = time.perf_counter()
        if self.checkpoint is None or (not now and moment - self.written < WRITE_EVERY):
            return
        tree = {"state": state, "runs": [one.pack() for one in runs]}
        try:
            self.checkpoint.write(
                [stored(tree | {"seconds": np.asarray(seconds)})], [], len(seconds)
            )
        except OSError as error:
            self.failed = True
            if not seconds:
                raise ValueError(
                    f"checkpoint={str(self.checkpoint.path)!r} can't be written: {error}."
                ) from None
            raise
        self.written = moment


def _flat(objectives: list[float], tol: float) -> bool:
    if tol <= 0 or len(objectives) < 2:
        return False
    before, now = objectives[-2:]
    return abs(before - now) <= tol * max(abs(before), 1e-300)


def _stack(curves: list[list[float]]) -> np.ndarray:
    """Curves as rows, NaN after the end of the shorter ones."""
    stacked = np.full((len(curves), max(map(len, curves))), np.nan)
    for row, curve in zip(stacked, curves, strict=True):
        row[: len(curve)] = curve
    return stacked


def _warn_divergence(algorithm: Algorithm, index: int, info: Info, one: _Run) -> None:
    steps = len(one.objectives)
    where = info.trouble or f"the objective is {info.objective} after {algorithm.unit} {steps}"
    kept = (
        f"the parameters of {algorithm.unit} {one.best_step} are kept"
        if one.best_step
        else "the starting values are kept"
    )
    several = algorithm.num_runs > 1
    subject = f"Restart {index + 1} of {algorithm.num_runs}" if several else "The fit"
    warnings.warn(
        f"{subject} diverged: {where}; {kept}. {ADVICE[algorithm.unit]}",
        FitWarning,
        stacklevel=4,
    )


def _status(one: _Run) -> str:
    text = f"objective {one.objectives[-1]:,.6g}"
    return text if np.isnan(one.errors[-1]) else f"{text}  held-out {one.errors[-1]:.4f}"
