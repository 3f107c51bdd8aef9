"""Steps of stochastic variational inference: NumPyro's update, in chunks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.infer.svi import SVIState

from probmf.inference.approximate.guides import Variation
from probmf.inference.operation_count import count_operations
from probmf.inference.point.optimizer import own_rate
from probmf.numpyro_setup import run_unchecked
from probmf.run.checkpoint import Checkpoint
from probmf.run.driver import Observed, Schedule, drive

#: The most steps of one call of the compiled program, and its operations: about half a second.
#: Between calls the run can be shown and stopped.
CHUNK, CHUNK_OPERATIONS = 100, 3e8


class Course(NamedTuple):
    """Record of a run.

    Attributes:
        params: The guide's parameters.
        losses: Minus the estimated bound at each step.
        seconds: Time since the beginning after each step.
        best: The step whose parameters they are.
        stopped: "num_steps", "diverged" or "interrupted".
        trouble: Where the bound ceased to be finite, in words.
    """

    params: dict[str, Array]
    losses: Float[np.ndarray, " steps"]
    seconds: Float[np.ndarray, " steps"]
    best: int
    stopped: str
    trouble: str | None


def run_svi(
    variation: Variation,
    key: Array,
    num_steps: int,
    *,
    checkpoint: Checkpoint | None = None,
    progress: bool | None,
) -> Course:
    """Take the steps.

    The parameters are those after the last step; where the bound ceased to be finite, those after
    the chunk of steps with the best mean. An interruption while the steps are compiled leaves those
    of the start.

    Raises:
        KeyboardInterrupt: After an interruption while the model is traced.
        ValueError: If no chunk of steps has a finite bound.
    """
    with nothing_yet():
        steps = _GuideSteps(variation, key)
    result = drive(
        steps, Schedule(num_steps, chunk=steps.most), checkpoint=checkpoint, progress=progress
    )
    memory: _Memory = result.run.memory
    if memory.trouble and not memory.best:
        raise ValueError(
            f"{memory.trouble}. Lower the learning rate, or look for values of extreme size in the "
            "data."
        )
    losses = result.pieces["losses"][0] if result.pieces else np.zeros(0)
    best, kept, stopped = memory.best, memory.kept, "diverged"
    if not memory.trouble:
        # Without trouble the last parameters count: the best chunk is so by its noise.
        best, kept = result.run.done, result.run.states[0]
        stopped = "interrupted" if result.interrupted else "num_steps"
    seconds = result.run.seconds[: len(losses)]
    params = variation.compiled(_params, kept)(kept)
    return Course(params, losses, seconds, best, stopped, memory.trouble or None)


class _Memory(NamedTuple):
    """The best chunk of steps so far.

    Attributes:
        best: Its last step.
        kept: The state after it.
        least: Its mean loss.
        trouble: Where the bound ceased to be finite, in words.
    """

    best: int
    kept: SVIState
    least: float = np.inf
    trouble: str = ""


class _GuideSteps:
    """Steps of NumPyro's algorithm, for the driver; see `run_svi` for the arguments."""

    stage, num_threads = "step", 0

    def __init__(self, variation: Variation, key: Array) -> None:
        """Trace a step."""
        self.rates, words = variation.rates, jax.random.key_data(key)
        if isinstance(variation.guide, type):
            self.start = variation.compiled(_start, words)(words)
        else:
            with run_unchecked():  # What a guide learns of the model it keeps.
                self.start = variation.begin(words)[1]
        self.advance, self.most = _compile(variation, self.start)

    def init(self, *, resumed: bool) -> tuple[list[SVIState], _Memory]:
        """The start."""
        del resumed
        return [self.start], _Memory(0, self.start)

    def step(self, chain: int, state: SVIState, done: int, count: int) -> tuple[SVIState, Any]:
        """Some steps; their losses, and the first of them that is not finite, or None."""
        del chain, done
        state, losses, bad = self.advance(state, count)
        return state, (losses, bad)

    def observe(
        self, memory: _Memory, done: int, states: tuple[SVIState, ...], records: tuple[Any, ...]
    ) -> Observed:
        """The best chunk, and the losses."""
        ((losses, bad),), (state,) = records, states
        piece = {"losses": losses[None]}
        if bad is not None:
            rate = _rate(state) if self.rates is None else float(self.rates[done + bad])
            memory = memory._replace(trouble=describe(done + bad + 1, rate))
            return Observed(memory, piece, stopped="diverged")
        mean = float(losses.mean())
        if mean < memory.least:
            memory = _Memory(done + len(losses), state, mean)
        return Observed(memory, piece, status=f"bound {-mean:,.6g}")


@contextmanager
def nothing_yet() -> Iterator[None]:
    """Tell of Ctrl-C in a preparation that there is nothing to return."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "Interrupted while the model was prepared: no step had been taken, so that there is no "
            "fit to return. Call fit_svi again to start over."
        ) from None


def describe(step: int, rate: float) -> str:
    """Sentence on the step at which the bound ceased to be finite."""
    of = "the optimizer's own learning rate" if np.isnan(rate) else f"learning rate {rate:g}"
    return f"The evidence's lower bound is not finite at step {step} ({of})"


def _rate(state: SVIState) -> float:
    return float(own_rate(state.optim_state[1]))


def _compile(variation: Variation, state: SVIState) -> tuple[Any, int]:
    """A function of (state, number of steps) to (state, losses, first bad step or None).

    And the most steps that it is to be asked for.
    """
    none = jnp.asarray(0, jnp.int32)
    run = variation.compiled(_advance, state, none, quick=False)

    def advance(state: SVIState, count: int) -> tuple[SVIState, np.ndarray, int | None]:
        after, losses, bad = run(state, jnp.asarray(count, jnp.int32))
        first = None if int(bad) < 0 else int(bad)
        end = count if first is None else first + 1
        return after, np.asarray(losses, np.float64)[:end], first

    with run_unchecked():
        traced = run.func.trace(*run.args, state, none).jaxpr
    loops = [equation for equation in traced.eqns if equation.primitive.name == "while"]
    step = count_operations(loops[-1].params["body_jaxpr"].jaxpr)
    return advance, int(np.clip(CHUNK_OPERATIONS / step, 1, CHUNK))


def _start(variation: Variation, words: Array) -> SVIState:
    return variation.begin(words)[1]


def _params(variation: Variation, state: SVIState) -> dict[str, Array]:
    found: dict[str, Array] = variation.again().get_params(state)
    return found


def _advance(variation: Variation, state: SVIState, count: Array) -> Any:
    svi = variation.again()

    def body(index: Array, carry: Any) -> Any:
        state, losses, bad = carry
        new, loss = svi.update(state, *variation.args)
        first = (bad < 0) & ~jnp.isfinite(loss)
        losses = losses.at[index].set(loss)
        kept = jax.tree.map(lambda a, b: jnp.where(bad < 0, a, b), new, state)
        return kept, losses, jnp.where(first, index, bad)

    empty = jnp.full(CHUNK, jnp.nan, jnp.result_type(float))
    return jax.lax.fori_loop(0, count, body, (state, empty, jnp.asarray(-1, jnp.int32)))
