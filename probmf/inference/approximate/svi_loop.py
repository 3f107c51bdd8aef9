"""Steps of stochastic variational inference: NumPyro's update, in chunks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState

from probmf.inference.operation_count import count_operations
from probmf.inference.point.optimizer import own_rate
from probmf.numpyro_setup import run_unchecked
from probmf.run.compile_cache import compiled, trace_program
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
    svi: SVI,
    args: tuple[Any, ...],
    key: Array,
    num_steps: int,
    rates: np.ndarray | None,
    *,
    progress: bool | None,
) -> Course:
    """Take the steps.

    Args:
        svi: NumPyro's algorithm.
        args: The model's arguments.
        key: JAX key.
        num_steps: Steps.
        rates: Learning rate of each step, or None when only the optimizer knows.
        progress: Show a bar; None shows it on a terminal or in a notebook.

    Returns:
        The parameters after the last step; where the bound ceased to be finite, those after the
        chunk of steps with the best mean. An interruption while the steps are compiled leaves
        those of the start.

    Raises:
        KeyboardInterrupt: After an interruption while the model is traced.
        ValueError: If no chunk of steps has a finite bound.
    """
    with nothing_yet():
        steps = _Steps(svi, args, key, rates)
    result = drive(steps, Schedule(num_steps, chunk=steps.most), progress=progress)
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
    return Course(svi.get_params(kept), losses, seconds, best, stopped, memory.trouble or None)


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


class _Steps:
    """Steps of NumPyro's algorithm, for the driver; see `run_svi` for the arguments."""

    stage, num_threads = "step", 0

    def __init__(
        self, svi: SVI, args: tuple[Any, ...], key: Array, rates: np.ndarray | None
    ) -> None:
        """Trace a step."""
        self.rates = rates
        with run_unchecked():
            self.start = svi.init(jax.random.key_data(key), *args)
        self.advance, self.most = _compile(svi, args, self.start)

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
            rate = _rate(state) if self.rates is None else self.rates[done + bad]
            memory = memory._replace(trouble=describe(done + bad + 1, rate))
            return Observed(memory, piece, stopped="diverged")
        mean = float(losses.mean())
        if mean < memory.least:
            memory = _Memory(done + len(losses), state, mean)
        return Observed(memory, piece, status=f"bound {-mean:,.6g}")


@contextmanager
def nothing_yet() -> Iterator[None]:
    """Tell of Ctrl-C in a preparation that there is nothing to return.

    Raises:
        KeyboardInterrupt: After Ctrl-C, in words.
    """
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


def _compile(svi: SVI, args: tuple[Any, ...], state: SVIState) -> tuple[Any, int]:
    """A function of (state, number of steps) to (state, losses, first bad step or None).

    And the most steps that it is to be asked for.
    """
    leaves, structure = jax.tree.flatten(state)

    def one(*leaves: Array) -> list[Array]:
        state, loss = svi.update(jax.tree.unflatten(structure, leaves), *args)
        return [loss, *jax.tree.leaves(state)]

    # The state's numbers are given types of their own, as every later state has them.
    leaves = [jnp.asarray(leaf, jnp.asarray(leaf).dtype) for leaf in leaves]
    program = trace_program(one, *leaves)
    dtype = jnp.result_type(float)

    def chunk(consts: list[Any], leaves: list[Array], count: Array) -> Any:
        def body(index: Array, carry: Any) -> Any:
            leaves, losses, bad = carry
            loss, *new = program.evaluate(consts, *leaves)
            first = (bad < 0) & ~jnp.isfinite(loss)
            losses = losses.at[index].set(loss)
            kept = [jnp.where(bad < 0, a, b) for a, b in zip(new, leaves, strict=True)]
            return kept, losses, jnp.where(first, index, bad)

        empty = jnp.full(CHUNK, jnp.nan, dtype)
        return jax.lax.fori_loop(0, count, body, (leaves, empty, jnp.asarray(-1, jnp.int32)))

    run = compiled((program.text, "svi", CHUNK), lambda: jax.jit(chunk))

    def advance(state: SVIState, count: int) -> tuple[SVIState, np.ndarray, int | None]:
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(state)]
        after, losses, bad = run(program.consts, leaves, jnp.asarray(count, jnp.int32))
        first = None if int(bad) < 0 else int(bad)
        end = count if first is None else first + 1
        part = np.asarray(losses, np.float64)[:end]
        return jax.tree.unflatten(structure, after), part, first

    step = count_operations(jax.make_jaxpr(program.evaluate)(program.consts, *leaves).jaxpr)
    return advance, int(np.clip(CHUNK_OPERATIONS / step, 1, CHUNK))
