"""Transitions of NUTS: one compiled program for all chains and for every data set of a shape.

NumPyro's kernel does the work; this file feeds it a traced potential whose data are arguments, so
that a second call compiles nothing, and makes of it an algorithm for the driver. A potential that
asks LAPACK (`host_potential.py`) holds its data, and is compiled for each data set.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo

from probmf.data import wrap_words
from probmf.data.keys import as_generator
from probmf.inference.potential import Place, Potential
from probmf.numpyro_setup import run_alone
from probmf.run.checkpoint import Checkpoint
from probmf.run.compilation import count_numbers, quick_jit
from probmf.run.driver import Observed, Result, Schedule, Sink, drive, require_draws
from probmf.run.threads import workers

#: Transitions of one call; between calls the run can be shown, stored and stopped.
CHUNK = 50
#: Kernels kept.
KERNELS = 16
#: Numbers of a density up to which its transitions take as long without optimizations.
FEW_NUMBERS = 2_000
#: Starting points tried for each chain.
TRIES = 100
#: ArviZ's names of what NumPyro's kernel tells.
STATS = ("lp", "energy", "n_steps", "acceptance_rate", "diverging", "step_size")


class NoStartError(ValueError):
    """No starting point has a finite log density."""


@dataclass(frozen=True)
class Settings:
    """Settings of the sampler.

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
    def compiled_by(self) -> "Settings":
        """Settings that the compiled program depends on, and no others."""
        return replace(self, num_samples=0, num_chains=0)


class Chains(NamedTuple):
    """Draws on the unconstrained scale.

    Attributes:
        vectors: Draws, (chain, draw, dims); none of them if they were streamed.
        stats: Statistics by ArviZ's names, (chain, draw).
        num_draws: Draws per chain that there are, here or in the stream.
        result: End of the run.
        setup: Seconds that it took to compile and to find the starts.
    """

    vectors: np.ndarray
    stats: dict[str, np.ndarray]
    num_draws: int
    result: Result
    setup: float

    @property
    def complete(self) -> bool:
        """True when all draws asked for are there."""
        return not self.result.interrupted

    def first(self, num: int) -> "Chains":
        """The first so many draws; incomplete if that is not all."""
        if num == self.num_draws:
            return self
        stats = {name: value[:, :num] for name, value in self.stats.items()}
        ended = self.result._replace(interrupted=True)
        return self._replace(
            vectors=self.vectors[:, :num], stats=stats, num_draws=num, result=ended
        )


class DrawSink(Sink, Protocol):
    """Stream of draws on the unconstrained scale; see `NutsStream`."""

    note: str

    @property
    def written(self) -> int:
        """Number of draws that are on disk."""


class _Kernel(NamedTuple):
    """Compiled: the first state of a chain, and its next transitions."""

    init: Callable[..., Any]
    advance: Any


@lru_cache(KERNELS)
def _make_kernel(settings: Settings, mark: Hashable, few: bool) -> _Kernel:
    """The kernel of all potentials of a mark, and of settings that differ in numbers only.

    Of few numbers a transition takes as long without optimizations, and compiles a quarter quicker.
    """
    del mark

    def potential_of(potential: Potential) -> Callable[[Array], Array]:
        return lambda vector: -potential.log_density(vector)

    init_kernel, sample_kernel = hmc(potential_fn_gen=potential_of, algo="NUTS")

    def init(potential: Potential, start: ParamInfo, key: Array, inverse_mass: Array | None) -> Any:
        state = init_kernel(
            start,
            settings.num_warmup,
            target_accept_prob=settings.target_accept,
            max_tree_depth=settings.max_tree_depth,
            dense_mass=settings.dense_mass,
            adapt_mass_matrix=settings.adapt_mass,
            inverse_mass_matrix=inverse_mass,
            model_args=(potential,),
            rng_key=wrap_words(key),
        )
        return _without_typed_keys(state)

    def advance(potential: Potential, state: Any, count: Array) -> Any:
        vectors = jnp.zeros((CHUNK, *state.z.shape), state.z.dtype)
        stats = jnp.zeros((CHUNK, len(STATS)), state.z.dtype)

        def one(index: Array, carry: Any) -> Any:
            state, vectors, stats = carry
            state = sample_kernel(_with_typed_keys(state), (potential,))
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

    return _Kernel(quick_jit(init, 0), quick_jit(advance, 0) if few else jax.jit(advance))


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
    stream: DrawSink | None = None,
    progress: bool | None = None,
    places: Sequence[Place] = (),
) -> Chains:
    """Sample, chunk by chunk.

    `starts` are (chain, dims), by default uniform in (-2, 2); `stream` takes the draws, so that
    memory need not hold them. Chains are dealt out in turn to `places`: devices, or the whole of
    meshes, of which a chain takes all devices at once. There are fewer draws, marked incomplete,
    after an interruption, or when the checkpoint or the stream can't be written.

    Raises:
        NoStartError: If no finite starting point is found.
        KeyboardInterrupt: After an interruption when there are no draws yet.
        OSError: If checkpoint or stream can't be written before that.
    """
    begin = time.perf_counter()
    sampler = _Transitions(
        potential, settings, key, starts, inverse_mass, stream is not None, places
    )
    total = settings.num_warmup + settings.num_samples
    result = drive(
        sampler, Schedule(total, settings.num_warmup, CHUNK), checkpoint=checkpoint, stream=stream,
        progress=progress, note="" if stream is None else f"sample_nuts {stream.note}",
    )  # fmt: skip
    vectors = result.pieces.get("vectors", np.zeros((settings.num_chains, 0, potential.num_dims)))
    num_draws = vectors.shape[1] if stream is None else stream.written
    require_draws(result, num_draws, kept=checkpoint is not None)
    stats = named_stats(result.pieces["stats"]) if result.pieces else {}
    return Chains(vectors, stats, num_draws, result, sampler.ready - begin)


class _Transitions:
    """Transitions of several chains, for the driver; see `run_nuts` for the arguments."""

    stage = "sampling"

    def __init__(
        self,
        potential: Potential,
        settings: Settings,
        key: Array,
        starts: np.ndarray | None,
        inverse_mass: np.ndarray | None,
        streams: bool,
        places: Sequence[Place],
    ) -> None:
        """Compile."""
        self.settings, self.streams, self.places = settings, streams, places
        #: At each place in turn.
        self.placed = [potential.on(place) for place in places] or [potential]
        # Programs that take several devices hang where two of them begin in another order on each.
        self.turns: list[AbstractContextManager[Any]] = [
            Lock() if isinstance(place, NamedSharding) else nullcontext() for place in places
        ] or [nullcontext()]
        self.potential = self.placed[0]
        self.starts, self.num_threads = starts, settings.num_chains
        few = count_numbers(potential.leaves) <= FEW_NUMBERS
        self.kernel = _make_kernel(settings.compiled_by, potential.form.mark, few)
        self.start_key, chain_key = jax.random.split(key)
        self.keys = jax.random.key_data(jax.random.split(chain_key, settings.num_chains))
        dtype = potential.vector.dtype
        self.mass = None if inverse_mass is None else jnp.asarray(inverse_mass, dtype)
        self.ready = time.perf_counter()

    def init(self, *, resumed: bool) -> tuple[list[Any], None]:
        """States at the starts, which are looked for unless they are given."""
        vector, num_chains = self.potential.vector, self.settings.num_chains
        first = ParamInfo(vector, vector[0], vector)
        with run_alone():  # NumPyro's kernel notes what it is traced with, and may be shared.
            shapes = jax.eval_shape(
                self.kernel.init, self.potential, first, self.keys[0], self.mass
            )
            nothing = jax.tree.map(_zeros, shapes)
            # With the very type of `step`, whose threads would trace it again, and not alone.
            self.kernel.advance.lower(self.potential, nothing, np.asarray(0))
        if resumed:
            self.ready = time.perf_counter()
            return [shapes] * num_chains, None
        # Compiled in a thread while starts are found, for which their density is.
        with workers(1) as pool:
            pool.submit(self.step, 0, nothing, 0, 0)
            starts = self.starts
            if starts is None:
                starts = find_starts(self.potential, self.start_key, num_chains)
            with self.turns[0]:
                states = [
                    self.kernel.init(
                        self.potential, _start_of(self.potential, start), own, self.mass
                    )
                    for start, own in zip(starts, self.keys, strict=True)
                ]
                jax.block_until_ready(states)
        self.ready = time.perf_counter()
        return states, None

    def step(
        self, chain: int, state: Any, done: int, count: int
    ) -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
        """Some transitions of one chain; its vectors and statistics."""
        del done
        place = chain % len(self.placed)
        with self.turns[place]:
            if self.places:
                state = jax.device_put(state, self.places[place])
            state, *found = self.kernel.advance(self.placed[place], state, np.asarray(count))
            vectors, stats = (np.asarray(x)[:count] for x in found)
        return state, (vectors, stats)

    def observe(
        self, memory: None, done: int, states: tuple[Any, ...], records: tuple[Any, ...]
    ) -> Observed:
        """After the warm-up, vectors and statistics, for the stream if there is one."""
        del memory, states
        vectors, stats = (np.stack(parts) for parts in zip(*records, strict=True))
        piece = None
        if done >= self.settings.num_warmup:
            piece = {"vectors": vectors, "stats": stats}
        status = _status(stats)
        if self.streams:
            return Observed(draws=piece, status=status)
        return Observed(piece=piece, status=status)


def named_stats(table: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics by ArviZ's names, from (chain, draw, statistic)."""
    stats: dict[str, np.ndarray] = {name: table[..., i] for i, name in enumerate(STATS)}
    stats["diverging"] = stats["diverging"] > 0
    stats["n_steps"] = stats["n_steps"].astype(int)
    stats["tree_depth"] = np.ceil(np.log2(stats["n_steps"] + 1)).astype(int)
    return stats


def _zeros(like: jax.ShapeDtypeStruct) -> np.ndarray:
    return np.zeros(like.shape, like.dtype)


def _start_of(potential: Potential, vector: np.ndarray) -> ParamInfo:
    """With its potential energy and gradient, which NumPyro would compile once more."""
    start = jnp.asarray(vector, potential.vector.dtype)
    value, gradient = potential.value_and_grad(start)
    return ParamInfo(start, -value, -gradient)


def find_starts(potential: Potential, key: Array, num_chains: int) -> np.ndarray:
    """Uniform starting vectors in (-2, 2) at which density and score are finite."""
    found: list[np.ndarray] = []
    rng = as_generator(key)
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


def _status(stats: np.ndarray) -> str:
    steps = np.mean(stats[..., STATS.index("n_steps")])
    diverging = np.sum(stats[..., STATS.index("diverging")])
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
