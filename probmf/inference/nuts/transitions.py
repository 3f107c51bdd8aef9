"""NUTS in resumable chunks: one compiled program for all chains and for every data set of a shape.

NumPyro's kernel does the work; this file feeds it a traced potential whose data are arguments, so
that a second call compiles nothing, and runs chains side by side in threads. A potential that asks
LAPACK (`_host_program.py`) holds its data, and is compiled for each data set.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo

from probmf.data import wrap_words
from probmf.inference.potential import Potential
from probmf.numpyro_setup import run_alone
from probmf.run.checkpoint import Checkpoint, Kept
from probmf.run.compile_cache import compiled, quick_jit
from probmf.run.driver import FitWarning
from probmf.run.progress import progress_bar
from probmf.run.threads import workers

#: Transitions of one call; between calls the run can be shown, stored and stopped.
CHUNK = 50
#: Seconds between writes of a stream without a checkpoint.
WRITE_EVERY = 10.0
#: Starting points tried for each chain.
TRIES = 100
#: ArviZ's names of what NumPyro's kernel tells.
STATS = ("lp", "energy", "n_steps", "acceptance_rate", "diverging", "step_size")


class NoStartError(ValueError):
    """No starting point has a finite log density."""


@dataclass(frozen=True)
class Settings:
    """What shapes the sampler.

    Attributes:
        num_warmup: Transitions that adapt step size and mass matrix.
        num_samples: Draws per chain after them.
        num_chains: Chains.
        target_accept: Acceptance rate that the step size aims at.
        max_tree_depth: Trajectories have at most two to this power of steps.
        dense_mass: Whether the mass matrix is full.
        adapt_mass: Whether the warmup adapts it.
    """

    num_warmup: int
    num_samples: int
    num_chains: int
    target_accept: float = 0.8
    max_tree_depth: int = 10
    dense_mass: bool = False
    adapt_mass: bool = True

    @property
    def compiled_by(self) -> tuple[Any, ...]:
        """What the compiled program depends on."""
        return (
            self.num_warmup, self.target_accept, self.max_tree_depth, self.dense_mass,
            self.adapt_mass,
        )  # fmt: skip


class Chains(NamedTuple):
    """Draws on the unconstrained scale.

    Attributes:
        vectors: Draws, (chain, draw, dims); none of them if they were streamed.
        stats: Statistics by ArviZ's names, (chain, draw).
        num_draws: Draws per chain that there are, here or in the stream.
        complete: Whether all draws asked for are there.
        trouble: Why they are not, if it was not an interruption.
        seconds: Wall time of this call: its setup and its transitions.
    """

    vectors: np.ndarray
    stats: dict[str, np.ndarray]
    num_draws: int
    complete: bool
    trouble: str | None
    seconds: dict[str, float]

    def first(self, num: int) -> "Chains":
        """The first so many draws; incomplete if that is not all."""
        if num == self.num_draws:
            return self
        stats = {name: value[:, :num] for name, value in self.stats.items()}
        return self._replace(
            vectors=self.vectors[:, :num], stats=stats, num_draws=num, complete=False
        )


class Sink(Protocol):
    """Takes draws out of memory; see `NutsStream`."""

    note: str

    @property
    def written(self) -> int:
        """Number of draws that are on disk."""

    def begin(self, done: int) -> None:
        """Open the sink at draw `done`."""

    def append(self, first: int, vectors: np.ndarray, table: np.ndarray) -> None:
        """Take the draws from `first` on."""

    def flush(self, done: int) -> None:
        """Write everything up to draw `done` to disk."""


class _Kernel(NamedTuple):
    """Compiled: the first state of a chain, and its next transitions."""

    init: Callable[..., Any]
    advance: Any


def _make_kernel(evaluate: Callable[..., list[Array]], settings: Settings) -> _Kernel:
    def potential_of(consts: list[Array]) -> Callable[[Array], Array]:
        return lambda vector: -evaluate(consts, vector)[0]

    init_kernel, sample_kernel = hmc(potential_fn_gen=potential_of, algo="NUTS")

    def init(consts: list[Array], start: ParamInfo, key: Array, inverse_mass: Array | None) -> Any:
        state = init_kernel(
            start,
            settings.num_warmup,
            target_accept_prob=settings.target_accept,
            max_tree_depth=settings.max_tree_depth,
            dense_mass=settings.dense_mass,
            adapt_mass_matrix=settings.adapt_mass,
            inverse_mass_matrix=inverse_mass,
            model_args=(consts,),
            rng_key=wrap_words(key),
        )
        return _without_typed_keys(state)

    def advance(consts: list[Array], state: Any, count: Array) -> Any:
        vectors = jnp.zeros((CHUNK, *state.z.shape), state.z.dtype)
        stats = jnp.zeros((CHUNK, len(STATS)), state.z.dtype)

        def one(index: Array, carry: Any) -> Any:
            state, vectors, stats = carry
            state = sample_kernel(_with_typed_keys(state), (consts,))
            now = jnp.stack(
                [
                    -state.potential_energy,
                    state.energy,
                    state.num_steps,
                    state.accept_prob,
                    state.diverging,
                    state.adapt_state.step_size,
                ]
            ).astype(stats.dtype)
            vectors, stats = vectors.at[index].set(state.z), stats.at[index].set(now)
            return _without_typed_keys(state), vectors, stats

        return jax.lax.fori_loop(0, count, one, (state, vectors, stats))

    return _Kernel(quick_jit(init, 0), jax.jit(advance))


def _without_typed_keys(state: Any) -> Any:
    """Keys as plain arrays, which can be stored."""
    adapt = state.adapt_state
    return state._replace(
        rng_key=jax.random.key_data(state.rng_key),
        adapt_state=adapt._replace(rng_key=jax.random.key_data(adapt.rng_key)),
    )


def _with_typed_keys(state: Any) -> Any:
    adapt = state.adapt_state
    return state._replace(
        rng_key=wrap_words(state.rng_key),
        adapt_state=adapt._replace(rng_key=wrap_words(adapt.rng_key)),
    )


def run_nuts(
    potential: Potential,
    settings: Settings,
    key: Array,
    *,
    starts: np.ndarray | None = None,
    inverse_mass: np.ndarray | None = None,
    checkpoint: Checkpoint | None = None,
    stream: Sink | None = None,
    progress: bool | None = None,
) -> Chains:
    """Sample, chunk by chunk.

    Args:
        potential: The density.
        settings: See the class.
        key: JAX key.
        starts: Starting vectors, (chain, dims); by default uniform in (-2, 2).
        inverse_mass: First inverse mass matrix (or its diagonal).
        checkpoint: Where to keep the run, and what is kept of it already.
        stream: Takes the draws, so that memory need not hold them.
        progress: Show a bar.

    Returns:
        The chains; fewer draws, marked incomplete, after an interruption, or when the checkpoint
        or the stream can't be written.

    Raises:
        NoStartError: If no finite starting point is found.
        KeyboardInterrupt: After an interruption when there are no draws yet.
        OSError: If checkpoint or stream can't be written before that.
        ValueError: If the checkpoint's draws are in a stream and none is given, or the reverse.
    """
    begin = time.perf_counter()
    kernel: _Kernel = compiled(
        (potential.program.text, "nuts", settings.compiled_by),
        lambda: _make_kernel(potential.program.evaluate, settings),
    )
    consts = potential.program.consts
    start_key, chain_key = jax.random.split(key)
    total = settings.num_warmup + settings.num_samples
    keys = jax.random.key_data(jax.random.split(chain_key, settings.num_chains))
    mass = None if inverse_mass is None else jnp.asarray(inverse_mass, potential.vector.dtype)
    kept = None if checkpoint is None else checkpoint.read()
    if kept is not None:
        _check_kept(kept, settings, streamed=stream is not None)
    if stream is not None:
        stream.begin(0 if kept is None else max(0, kept.done - settings.num_warmup))
    first = ParamInfo(potential.vector, potential.vector[0], potential.vector)
    with run_alone():  # NumPyro's kernel notes what it is traced with, and may be shared.
        example = jax.eval_shape(kernel.init, consts, first, keys[0], mass)
        nothing = jax.tree.map(_zeros, example)
        kernel.advance.lower(consts, nothing, jnp.asarray(0))
    if kept is None:
        # Compiled in a thread while starts are found, for which their density is.
        with workers(1) as pool:
            pool.submit(_advance, kernel, consts, 0, nothing)
            vectors = (
                find_starts(potential, start_key, settings.num_chains) if starts is None else starts
            )
            states = [
                kernel.init(consts, _start_of(potential, vector), chain, mass)
                for vector, chain in zip(vectors, keys, strict=True)
            ]
        pieces: list[tuple[np.ndarray, np.ndarray]] = []
        done = 0
    else:
        states = [kept.state(example, chain) for chain in range(settings.num_chains)]
        pieces, done = kept.pieces, kept.done

    def save() -> None:
        """The stream first, so that it never holds less than the checkpoint counts."""
        if stream is not None:
            stream.flush(max(0, done - settings.num_warmup))
        if checkpoint is not None:
            try:
                checkpoint.write(states, pieces, done)
            except OSError as error:
                raise OSError(f"The checkpoint can't be written ({error})") from error

    began = written = time.perf_counter()
    complete, trouble = True, None
    with workers(settings.num_chains) as pool, progress_bar(progress) as bar:
        if stream is not None and not bar.disable:
            bar.console.print(f"sample_nuts {stream.note}", highlight=False, soft_wrap=True)
        task = bar.add_task("warmup", total=total, completed=done, status="")
        try:
            while done < total:
                # A chunk never straddles the end of the warmup, whose draws are not kept.
                end = settings.num_warmup if done < settings.num_warmup else total
                count = min(CHUNK, end - done)
                steps = partial(_advance, kernel, consts, count)
                outputs = pool.map(steps, states)
                states = [output[0] for output in outputs]
                if done >= settings.num_warmup:
                    piece, table = (
                        np.stack([np.asarray(output[i])[:count] for output in outputs])
                        for i in (1, 2)
                    )
                    if stream is None:
                        pieces.append((piece, table))
                    else:
                        stream.append(done - settings.num_warmup, piece, table)
                done += count
                now = time.perf_counter()
                if checkpoint is not None or done == total or now - written > WRITE_EVERY:
                    save()
                    written = now
                stage = "warmup" if done < settings.num_warmup else "sampling"
                bar.update(task, description=stage, completed=done, status=_status(outputs, count))
        except KeyboardInterrupt:
            complete = done >= total
            try:
                if stream is not None:
                    stream.flush(max(0, done - settings.num_warmup))
            except OSError as error:
                complete, trouble = False, str(error)
        except OSError as error:
            complete, trouble = False, str(error)
            if not pieces and (stream is None or not stream.written):
                raise
    num_draws = sum(piece[0].shape[1] for piece in pieces) if stream is None else stream.written
    if not num_draws and trouble:
        raise OSError(trouble)
    if not num_draws:
        kept_so_far = "" if checkpoint is None else " The checkpoint has the run so far."
        raise KeyboardInterrupt(
            f"Interrupted during the warmup: there are no draws to return.{kept_so_far}"
        )
    none = np.zeros((settings.num_chains, 0, potential.num_dims))
    vectors = np.concatenate([piece[0] for piece in pieces], axis=1) if pieces else none
    stats = named_stats(np.concatenate([piece[1] for piece in pieces], axis=1)) if pieces else {}
    seconds = {"setup": began - begin, "sampling": time.perf_counter() - began}
    return Chains(vectors, stats, num_draws, complete, trouble, seconds)


def _check_kept(kept: Kept, settings: Settings, *, streamed: bool) -> None:
    """A checkpoint holds the draws of a run itself, unless they were streamed."""
    if kept.done > settings.num_warmup and not kept.pieces and not streamed:
        raise ValueError(
            "The checkpoint is that of a run with stream=, whose draws are there and not in the "
            "checkpoint. Give the same stream to go on with it, or name another checkpoint."
        )
    if kept.pieces and streamed:
        raise ValueError(
            "The checkpoint is that of a run without stream=, and holds its draws itself. Leave "
            "stream out to go on with it, or name another checkpoint."
        )


def named_stats(table: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics by ArviZ's names, from (chain, draw, statistic)."""
    stats: dict[str, np.ndarray] = {name: table[..., i] for i, name in enumerate(STATS)}
    stats["diverging"] = stats["diverging"] > 0
    stats["n_steps"] = stats["n_steps"].astype(int)
    stats["tree_depth"] = np.ceil(np.log2(stats["n_steps"] + 1)).astype(int)
    return stats


def _zeros(like: jax.ShapeDtypeStruct) -> np.ndarray:
    return np.zeros(like.shape, like.dtype)


def _advance(kernel: _Kernel, consts: list[Any], count: int, state: Any) -> Any:
    return kernel.advance(consts, state, jnp.asarray(count))


def _start_of(potential: Potential, vector: np.ndarray) -> ParamInfo:
    """With its potential energy and gradient, which NumPyro would compile once more."""
    start = jnp.asarray(vector, potential.vector.dtype)
    value, gradient = potential.value_and_grad(start)
    return ParamInfo(start, -value, -gradient)


def find_starts(potential: Potential, key: Array, num_chains: int) -> np.ndarray:
    """Uniform starting vectors in (-2, 2) at which density and score are finite."""
    found: list[np.ndarray] = []
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).astype(np.uint64))
    for attempt in range(TRIES * num_chains):
        radius = 2.0 if attempt < TRIES * num_chains // 2 else 0.2
        vector = rng.uniform(-radius, radius, size=potential.num_dims)
        value, gradient = potential.value_and_grad(jnp.asarray(vector, potential.vector.dtype))
        if np.isfinite(value) and np.all(np.isfinite(gradient)):
            found.append(vector)
            if len(found) == num_chains:
                return np.stack(found)
    raise NoStartError(
        f"Of {TRIES * num_chains} random starting points {len(found) or 'none'} had a finite log "
        f"density, and {num_chains} chains were to start. Look for observations outside of the "
        "likelihood's support, or priors that contradict the data."
    )


def _status(outputs: list[Any], count: int) -> str:
    steps = np.mean([np.asarray(output[2])[:count, STATS.index("n_steps")] for output in outputs])
    diverging = sum(
        float(np.asarray(output[2])[:count, STATS.index("diverging")].sum()) for output in outputs
    )
    return f"{steps:.0f} steps" + (f", {diverging:.0f} diverging" if diverging else "")


def constrain_chains(potential: Potential, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Draws by site, (chain, draw, ...)."""
    chains, draws, size = vectors.shape
    flat = jnp.asarray(vectors.reshape(-1, size), potential.vector.dtype)
    values = potential.constrain_all(flat)
    return {
        name: np.asarray(value).reshape(chains, draws, *value.shape[1:])
        for name, value in values.items()
    }


def warn_incomplete(chains: Chains, settings: Settings, *, stacklevel: int) -> None:
    """Say how far an interrupted run came; `stacklevel` counts from the caller, as 1."""
    if not chains.complete:
        warnings.warn(
            f"{chains.trouble or 'Interrupted'}: each chain has {chains.num_draws} of "
            f"{settings.num_samples} draws; the fit is marked incomplete.",
            FitWarning,
            stacklevel=stacklevel + 1,
        )
