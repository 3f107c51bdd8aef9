r"""Importance sampling where the effects of one grouping are integrated out by quadrature.

Scales, and what else has no Normal prior, :math:`\theta`, are proposed by mixtures of t
distributions; given them the coefficients and the effects of the other groupings, x, by the t
distribution that is near their conditional, about its mode. The weight of both together,

.. math:: w = p(y, x, \theta) / (q(\theta)\, q(x \mid \theta)),

is exact, but for the quadrature.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.progress import Progress, TaskID

from probmf.data.keys import as_generator
from probmf.effects.columns import Columns, lead_groups, log_abs_det
from probmf.effects.conditional_draws import Near, draw_effects_of_groups
from probmf.effects.laplace import Whitened
from probmf.effects.linalg import solve_lower
from probmf.inference.drawn_back import SiteArrays, drawn_back, even_size
from probmf.inference.importance import (
    DEGREES,
    Mode,
    effective_size,
    log_standard_t,
    resample,
    standard_t,
)
from probmf.inference.importance_rounds import (
    KEEP_NUMBERS,
    Clock,
    ImportanceDraws,
    Rounds,
    most_densities,
)
from probmf.inference.marginal.evaluators import NotServedError, cut
from probmf.inference.mixed.integral import Integral, IntegralDensity
from probmf.rows.store import num_workers
from probmf.run.compilation import count_numbers, traced_jit
from probmf.run.threads import Workers, workers

#: Chains of draws, and pieces that are drawn side by side.
NUM_CHAINS = 4
#: Proposals of the effects alone, and how many of them have to be effective.
TRIED, LEAST = 16, 2.0
#: How far a mode may be moved, in standard deviations, and how much curvatures may change.
MOST_SHIFT, MOST_BEND = 2.0, 4.0
#: Proposals of one call: fewer where each factors a matrix of more columns than this.
CHUNK, CHUNK_OF_MANY, MANY = 32, 4, 200


class Line(NamedTuple):
    """Whitened effects by the rest, to first order: where the search for their centre begins.

    Attributes:
        at: The rest.
        effects: Effects there.
        slope: Their derivatives.
    """

    at: Float[Array | np.ndarray, " d"]
    effects: Float[Array | np.ndarray, " D"]
    slope: Float[Array | np.ndarray, "d D"]

    def __call__(self, vector: Array) -> Float[Array, " D"]:
        """Effects at another place."""
        return jnp.asarray(self.effects) + (vector - self.at) @ self.slope


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["density", "near", "start"],
    meta_fields=["num_nodes"],
)
@dataclass(frozen=True, eq=False)
class Conditional:
    """The coefficients and effects that stay, nearly Normal given the rest; a pytree.

    Attributes:
        density: The density with all effects and coefficients integrated out.
        num_nodes: Nodes of the quadrature for each effect of the leading grouping.
        near: Near what its modes are.
        start: Where the search for the others' centre begins.
    """

    density: IntegralDensity
    num_nodes: int
    near: Near
    start: Line

    def about(self, num_nodes: int, near: Near, columns: np.ndarray) -> "Conditional":
        """The same about other effects: the leading grouping's with their nodes, and the rest."""
        start = self.start._replace(effects=columns)
        return replace(self, num_nodes=num_nodes, near=near, start=start)

    @property
    def num_columns(self) -> int:
        """Number of coefficients and effects that stay."""
        return int(self.density.integral.pattern.num_columns)

    @property
    def degrees(self) -> float:
        """Degrees of freedom of their proposals, whose lengths vary little where they are many."""
        return max(DEGREES, float(self.num_columns))

    def columns(self, vector: Array) -> Columns:
        """The columns at a vector, to be traced."""
        density = self.density
        blocks = density.integral.system(density.rest(density.latents(vector))).held()
        return Columns(blocks, self.num_nodes, jnp.asarray(self.near.modes))

    def propose(self, vector: Array, noise: Array) -> tuple[Array, Array]:
        """Log density over that of the noise, and effects, to be traced."""
        columns = self.columns(vector)
        value = self.density.log_prior_of(vector)
        if not self.num_columns:
            return value + columns.log_density(noise)[0], noise
        center, factor = columns.normal(self.start(vector))
        effects = center + solve_lower(factor, noise, transpose=True)
        return value + columns.log_density(effects)[0] - log_abs_det(factor), effects

    def sites(
        self, vector: Array, effects: Array, uniform: Float[Array, "d groups"]
    ) -> dict[str, Array]:
        """All sites, the leading grouping's effects drawn, to be traced."""
        density, columns = self.density, self.columns(vector)
        values = density.constrain(vector)
        groups = lead_groups(columns.blocks, effects)
        own = draw_effects_of_groups(groups, uniform, self.near)
        rest = density.rest({name: values[name] for name in density.sites})
        return values | density.integral.effects(rest, Whitened(own, effects))


def draw_weighted(
    conditional: Conditional,
    mode: Mode,
    num_samples: int,
    key: Array,
    pool: Workers,
    max_densities: int | None,
    bar: Progress,
    task: TaskID,
    judge: Callable[..., None],
) -> ImportanceDraws:
    """Independent draws by weight, with their effects from the conditional given each.

    Args:
        conditional: What stays, given the rest.
        mode: The mode of the rest.
        num_samples: Draws wanted.
        key: JAX key.
        pool: Threads.
        max_densities: The most proposals; see `sample_marginal`.
        bar: A progress bar.
        task: Its task.
        judge: Looks at the draws of what is left, and the effects of the columns there; may raise
            an error. `complete` says that there are as many as wanted.

    Raises:
        NotServedError: If k-hat stays above the gate.
        KeyboardInterrupt: After an interruption before there are draws that can be trusted.
    """
    start_key, draw_key = jax.random.split(key)
    clock, rng = Clock(), as_generator(start_key)
    limit = most_densities(num_samples, max_densities)
    if conditional.num_columns:
        limit = min(limit, KEEP_NUMBERS // conditional.num_columns)
    bar.update(task, description="compilation")
    evaluate = _Proposals(conditional, pool, rng)
    drawing = drawing_of(conditional, num_samples)
    compiled = pool.submit(evaluate.compile)
    pool.submit(drawing.compile)
    compiled.result()
    clock.mark("compilation")
    bar.update(task, description="centres")
    mode = evaluate.improve(mode)
    evaluate.check(mode)
    clock.mark("centres")
    rounds = Rounds(evaluate, rng, mode)
    count = rounds.run(num_samples, limit, bar, task)
    clock.mark("proposals")
    bar.update(task, description="effects")
    chosen = resample(rounds.weights, count, rng)
    # In random order, so that any are draws; the last piece is filled up.
    each = -(-count // NUM_CHAINS)
    filled = np.concatenate([chosen, chosen[: each * NUM_CHAINS - count]])
    (effects,) = rounds.sites(filled)
    parts = rounds.points[filled], effects["columns"]
    judge(*parts, complete=count == num_samples)
    own = (part.reshape(NUM_CHAINS, each, -1) for part in parts)
    found = drawing.sites(as_generator(draw_key), *own)
    samples = {
        name: np.reshape(site, (-1, *site.shape[2:]))[:count] for name, site in found.items()
    }
    clock.mark("draws")
    complete = all(len(site) == num_samples for site in samples.values())
    return ImportanceDraws(
        samples, rounds.k_hat, rounds.num, mode.num_evaluations, rounds.effective, clock.seconds,
        complete, "",
    )  # fmt: skip


def traced_proposals(conditional: Conditional) -> Callable[[], None]:
    """A function that compiles the program of proposals, for a thread."""
    run, examples = _traced_chunk(conditional)
    return lambda: run.lower(conditional, *examples).compile()


def _traced_chunk(conditional: Conditional) -> tuple[Any, tuple[np.ndarray, ...]]:
    """The program of a chunk of proposals, and an example of its arguments."""
    size = CHUNK if conditional.num_columns <= MANY else CHUNK_OF_MANY
    widths = conditional.density.num_dims, conditional.num_columns
    examples = tuple(np.zeros((size, width), conditional.density.vector.dtype) for width in widths)
    return traced_jit(_propose, count_numbers(conditional), conditional, *examples), examples


def drawing_of(conditional: Conditional, num_samples: int) -> "Drawing":
    """Draws of effects, whose program is one for all numbers of nodes."""
    density = conditional.density
    parts = density.vector, np.zeros(conditional.num_columns, density.vector.dtype)
    each = -(-num_samples // NUM_CHAINS)
    return Drawing(_drawn, replace(conditional, num_nodes=0), density.integral, parts, each)


class _Proposals:
    """Log densities of proposals, in chunks side by side; see `Rounds`."""

    def __init__(self, conditional: Conditional, pool: Workers, rng: np.random.Generator) -> None:
        """Trace the program of a chunk."""
        self.conditional, self.density, self.pool = conditional, conditional.density, pool
        self.rng, self.dtype = rng, self.density.vector.dtype
        self.run, self.examples = _traced_chunk(conditional)
        self.size = len(self.examples[0])

    def compile(self) -> None:
        """Have the program ready."""
        self.run.lower(self.conditional, *self.examples).compile()

    def improve(self, mode: Mode) -> Mode:
        """A mode that Laplace's approximation has found, moved by the values by quadrature.

        Along each axis of its covariance the logarithm is taken for the parabola through three
        points. Where there are columns, it stays, and from now on searches for their centres begin
        at those by the rest, from those found here.
        """
        size = len(mode.vector)
        if not size:
            return mode
        values, axes = np.linalg.eigh(mode.covariance)
        moves = axes * np.sqrt(values)
        points = mode.vector + np.concatenate([np.zeros((1, size)), moves.T, -moves.T])
        noise = np.zeros((self.size, self.conditional.num_columns), self.dtype)
        found = list(self.pool.stream(self._one, ((some, noise) for some in self._pieces(points))))
        logs, centers = (np.concatenate(part)[: len(points)] for part in zip(*found, strict=True))
        center, ahead, behind = np.split(centers, [1, 1 + size])
        slope = np.linalg.solve(moves.T, (ahead - behind) / 2)
        if np.all(np.isfinite(slope)) and np.all(np.isfinite(center)):
            line = Line(mode.vector, center[0], slope)
            line = jax.tree.map(lambda part: np.asarray(part, self.dtype), line)
            self.conditional = replace(self.conditional, start=line)
        # With columns the values are those at centres that are found roughly.
        if self.conditional.num_columns or not np.all(np.isfinite(logs)):
            return mode
        (value,), ahead, behind = np.split(logs, [1, 1 + size])
        bend = np.clip(2 * value - ahead - behind, 1 / MOST_BEND, MOST_BEND)
        shift = np.clip((ahead - behind) / 2 / bend, -MOST_SHIFT, MOST_SHIFT)
        moved = moves / np.sqrt(bend)
        return mode._replace(vector=mode.vector + moves @ shift, covariance=moved @ moved.T)

    def check(self, mode: Mode) -> None:
        """Raise an error where the effects alone make weights too uneven: no search mends that."""
        if not self.conditional.num_columns:
            return
        points = np.repeat(mode.vector[None], TRIED, axis=0)
        worth = effective_size(np.concatenate([values for values, _ in self(points)]))
        if worth < LEAST:
            raise NotServedError(
                f"the conditional of the {self.conditional.num_columns:,} coefficients and effects "
                f"that stay is far from Normal: {TRIED} proposals of them are worth {worth:.1f}"
            )

    def __call__(self, points: np.ndarray) -> Iterator[tuple[np.ndarray, SiteArrays]]:
        """Log densities, and the columns' effects that they are of."""
        width, degrees = self.conditional.num_columns, self.conditional.degrees
        given = (
            (piece, standard_t(self.rng, self.size, width, degrees))
            for piece in self._pieces(points)
        )
        for some, (values, effects) in zip(
            cut(points, self.size), self.pool.stream(self._one, given), strict=True
        ):
            yield values[: len(some)], {"columns": effects[: len(some)]}

    def _pieces(self, points: np.ndarray) -> Iterator[np.ndarray]:
        for some in cut(points.astype(self.dtype), self.size):
            yield np.concatenate([some, np.repeat(some[-1:], self.size - len(some), axis=0)])

    def _one(self, piece: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        points, noise = piece
        values, effects = self.run(self.conditional, points, noise.astype(self.dtype))
        values = np.asarray(values, np.float64)
        values = values - log_standard_t(noise, self.conditional.degrees)
        return np.where(np.isfinite(values), values, -np.inf), np.asarray(effects)


def _propose(conditional: Conditional, vectors: Array, noise: Array) -> tuple[Array, Array]:
    return jax.lax.map(lambda both: conditional.propose(*both), (vectors, noise))


def _drawn(
    conditional: Conditional, vectors: Array, effects: Array, uniform: Array
) -> dict[str, Array]:
    return jax.lax.map(lambda parts: conditional.sites(*parts), (vectors, effects, uniform))


class Drawing:
    """All sites at draws of what is left, the effects drawn from their conditional.

    Args:
        function: Gives the sites at some draws, from the owner, their parts, and uniform numbers.
        owner: A tree of arrays.
        integral: What is integrated out.
        parts: Parts of one draw, by way of example.
        num_draws: Draws of each chain.
    """

    def __init__(
        self,
        function: Any,
        owner: Any,
        integral: Integral,
        parts: Sequence[np.ndarray],
        num_draws: int,
    ) -> None:
        """Trace the program for pieces of so many draws of a chain."""
        self.owner, self.size = owner, even_size(num_draws)
        uniform = np.zeros(integral.pattern.shapes[0][::-1], parts[0].dtype)
        self.examples = [
            np.zeros((self.size, *part.shape), part.dtype) for part in (*parts, uniform)
        ]
        self.run = traced_jit(function, count_numbers(owner), owner, *self.examples)

    def compile(self) -> None:
        """Have the program ready."""
        self.run.lower(self.owner, *self.examples).compile()

    def sites(
        self, rng: np.random.Generator, *parts: Float[np.ndarray, "chain draw ..."]
    ) -> dict[str, np.ndarray]:
        """Sites at each draw, chains side by side; after an interruption at the first draws."""
        *_, uniform = self.examples
        own = [part.astype(uniform.dtype) for part in parts]
        # Each chain has its own numbers, whichever thread is the first.
        generators = rng.spawn(len(own[0]))

        def one(given: tuple[Any, ...]) -> dict[str, np.ndarray]:
            generator, *some = given
            numbers = generator.random(uniform.shape, uniform.dtype)
            found: dict[str, np.ndarray] = jax.device_get(self.run(self.owner, *some, numbers))
            return found

        with workers(num_workers()) as pool:

            def draw(at: np.ndarray) -> dict[str, np.ndarray]:
                found = pool.map(one, zip(generators, *(part[:, at] for part in own), strict=True))
                return {
                    name: np.stack([part[name] for part in found])
                    for name in found[0]
                    if not name.endswith("_effects_raw")
                }

            return drawn_back(draw, own[0].shape[1], self.size)
