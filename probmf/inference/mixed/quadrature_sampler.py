"""Draws of mixed models of any response: one grouping by quadrature, all that is left sampled.

The mode of scales with all effects integrated out by Laplace's approximation begins importance
sampling of all that is left. Where that cannot serve, NUTS draws it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.data.keys import as_generator
from probmf.effects.columns import lead_groups
from probmf.effects.conditional_draws import Near, near_modes
from probmf.effects.laplace import Whitened
from probmf.effects.quadrature import (
    MAX_DIM,
    NUM_NODES,
    find_modes,
    gauss_hermite,
    log_ratios,
)
from probmf.inference.importance import Mode, find_mode
from probmf.inference.importance_rounds import (
    MAX_DIMS,
    ImportanceDraws,
)
from probmf.inference.marginal.evaluators import NotServedError
from probmf.inference.mixed.integral import Integral, IntegralDensity
from probmf.inference.mixed.quadrature_importance import (
    NUM_CHAINS,
    Conditional,
    Drawing,
    Line,
    draw_weighted,
    drawing_of,
    traced_proposals,
)
from probmf.inference.nuts.pooled_warmup import PooledNuts
from probmf.inference.nuts.transitions import Chains
from probmf.inference.standard_coordinates import mixed_coordinates
from probmf.models.mixed.arrays import MixedData
from probmf.models.mixed.program import MixedProgram
from probmf.rows.store import num_workers
from probmf.run.driver import progress_bar
from probmf.run.threads import Workers, workers

#: Nodes that are tried for each effect, by the number of effects, and those that they are judged
#: by: the fewest whose evidence is as near as this many nats at the mode, and whose error differs
#: by no more than that many nats from draw to draw.
NODES = {1: (5, 7, 9, 15, 21, 31, 41), 2: (3, 5, 7, 9)}
REFERENCE, NEAR, EVEN = {1: 61, 2: 13}, 1e-2, 0.5
#: Of the draws these are looked at, in the order of the integrated effects' scales.
LOOKED_AT = (0.02, 0.5, 0.98)
#: How often errors of numbers of nodes are looked at.
RATIOS = 1 + len(LOOKED_AT)
#: About how often a search for the mode looks at the density, at the most.
EVALUATIONS = 100
#: Nodes for which programs are compiled before it is known how many it takes; of few rows, where
#: another program takes longer than it saves, as many as that serve where fewer would.
LIKELY = {1: 7, 2: 5}


#: Rows from which a proposal costs so much that a few coefficients of a model of one grouping are
#: proposed with the scales: that takes one look at the rows where a centre given scales takes four.
MANY_ROWS, FEW_COEFFICIENTS = 20_000, 10
#: The same where cutpoints lie so many of their own sizes further from zero than at the columns'
#: means: given them the coefficients are known to so many digits that their centre is hard to find.
FAR = 3.0


class NoGroupingError(ValueError):
    """No grouping whose effects have a quadrature."""


class TooFewNodesError(ValueError):
    """So few nodes that draws of larger scales count too much or too little.

    Args:
        num_nodes: How many it takes.
    """

    def __init__(self, num_nodes: int) -> None:
        """See the class."""
        self.num_nodes = num_nodes
        super().__init__(f"It takes {num_nodes} nodes.")


class ChainDraws(NamedTuple):
    """Draws by NUTS.

    Attributes:
        samples: Draws by site, (chain, draw, ...).
        chains: The chains on the unconstrained scale.
        num_warmup: Transitions per chain that were thrown away.
        fallback: The reason why importance sampling could not serve.
    """

    samples: dict[str, np.ndarray]
    chains: Chains
    num_warmup: int
    fallback: str


class QuadratureDraws(NamedTuple):
    """Draws, and how they came about.

    Attributes:
        drawn: Draws by importance sampling, or by NUTS.
        sites: What was integrated out.
        num_nodes: Nodes for each effect.
    """

    drawn: ImportanceDraws | ChainDraws
    sites: tuple[str, ...]
    num_nodes: int


def sample_by_quadrature(
    program: MixedProgram,
    data: MixedData,
    num_samples: int,
    key: Array,
    *,
    max_densities: int | None,
    progress: bool | None,
) -> QuadratureDraws:
    """Draw from the posterior.

    Args:
        program: The model, centred.
        data: Its argument.
        num_samples: Draws wanted; by NUTS as many, or a few more, in chains of one length.
        key: JAX key.
        max_densities: The most proposals; see `sample_marginal`.
        progress: Show a bar.

    Returns:
        The draws; fewer of them after an interruption.

    Raises:
        NoGroupingError: If no grouping has one or two effects for each group.
        NoModeError: If the density has no mode.
        NoStartError: If it is not finite where the chains were to start.
    """
    names = [term.name for term in data.groups]
    if data.noise is not None and data.noise.groups:
        raise NoGroupingError("effects in scale_formula have no quadrature")
    level = mixed_coordinates(program, data).level
    far = level is not None and level.unit > FAR
    direct = (far or data.num_observations >= MANY_ROWS) and _is_simple(data)
    whole = Integral.of(program, data, names, coefficients=not direct)
    terms = largest_grouping(whole)
    outer = IntegralDensity.of_integral(whole)
    conditional, why = None, ""
    drawn: ImportanceDraws | ChainDraws | None = None
    with workers(num_workers()) as pool, progress_bar(progress) as bar:
        task = bar.add_task("mode", total=None, status="")
        # Programs are compiled while others are traced and the mode is looked for, those of
        # proposals and draws for the likely number of nodes; what is traced soonest comes first.
        try:
            conditional = _conditional(outer, terms)
            pool.submit(traced_proposals(conditional))
        except NotServedError as error:
            why = str(error)
        search = _ModeSearch(outer)
        ready = pool.submit(search.compile)
        if conditional is not None:
            pool.submit(_traced_totals(outer))
            pool.submit(drawing_of(conditional, num_samples).compile)
        ready.result()
        found = search.find(pool)
        if conditional is not None:
            conditional = _with_nodes(conditional, found)
            while drawn is None and not why:
                judge = partial(_judge, conditional, pool)
                try:
                    drawn = draw_weighted(
                        conditional, found.mode, num_samples, key, pool, max_densities, bar, task,
                        judge,
                    )  # fmt: skip
                except TooFewNodesError as error:
                    conditional = replace(conditional, num_nodes=error.num_nodes)
                except NotServedError as error:
                    why = str(error)
    lead = tuple(term.effects_site for term in data.groups if term.name in terms)
    dim = sum(term.z.shape[1] for term in data.groups if term.name in terms)
    num_nodes = NUM_NODES[dim] if conditional is None else conditional.num_nodes
    if drawn is None:
        inner = Integral.of(replace(program, centered=lead), data, terms, num_nodes=num_nodes)
        if conditional is not None:
            inner = replace(inner, near=conditional.near)
        nuts_key = jax.random.fold_in(key, 1)  # Not the one that proposals were drawn by.
        density = IntegralDensity.of_integral(inner)
        drawn = _by_nuts(density, num_samples, nuts_key, why, progress)
    return QuadratureDraws(drawn, lead, num_nodes)


def _by_nuts(
    density: IntegralDensity, num_samples: int, key: Array, why: str, progress: bool | None
) -> ChainDraws:
    """All that is left by NUTS, the effects of other groupings standardized."""
    run_key, draw_key = jax.random.split(key)
    each = -(-num_samples // NUM_CHAINS)
    drawing = Drawing(_drawn, density, density.integral, [density.vector], each)
    # Compiled in a thread while the chains' own program is.
    with workers(1) as pool:
        pool.submit(drawing.compile)
        nuts = PooledNuts(density, NUM_CHAINS, run_key, progress)
        nuts.warm_up()
        chains = nuts.draw(each)
    samples = drawing.sites(as_generator(draw_key), chains.vectors)
    chains = chains.first(next(iter(samples.values())).shape[1])
    return ChainDraws(samples, chains, nuts.num_warmup, why)


class _Found(NamedTuple):
    """The mode, and whitened effects there."""

    mode: Mode
    modes: Whitened


class _ModeSearch:
    """The mode, all effects and coefficients integrated out by Laplace's approximation.

    Each search for the effects' modes begins at the last one's end. Linear algebra is on one core:
    what it gives does not depend on how many there are.

    Args:
        density: The density.
    """

    def __init__(self, density: IntegralDensity) -> None:
        """Trace the program."""
        self.density, self.dtype = density, density.vector.dtype
        self.zeros = self.modes = density.integral.zeros()
        self.run = density.compiled(_score_from, density.vector, self.zeros, runs=EVALUATIONS)

    def compile(self) -> None:
        """Have the program ready."""
        self.run.lower(self.density, self.density.vector, self.zeros).compile()

    def find(self, pool: Workers) -> _Found:
        """The mode, and what is there."""
        density = self.density
        # Of nothing at all, where all scales are numbers, there is no mode to find.
        mode = Mode(np.zeros(0), 0.0, np.zeros((0, 0)), 0)
        if density.num_dims:
            mode = find_mode(
                self._score,
                density.start(),
                side_by_side=lambda given: pool.map(self._slope, given),
            )
        self._score(mode.vector)
        return _Found(mode, self.modes)

    def _score(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        (value, found), gradient = self.run(
            self.density, jnp.asarray(vector, self.dtype), self.modes
        )
        finite = np.isfinite(value) and all(np.all(np.isfinite(table)) for table in found)
        self.modes = found if finite else self.zeros
        return float(value), np.asarray(gradient, np.float64)

    def _slope(self, vector: np.ndarray) -> np.ndarray:
        point = jnp.asarray(vector, self.dtype)
        return np.asarray(self.run(self.density, point, self.modes)[1], np.float64)


def _score_from(density: IntegralDensity, vector: Array, start: Whitened) -> Any:
    return jax.value_and_grad(density.value_from, has_aux=True)(vector, start)


def _is_simple(data: MixedData) -> bool:
    """True if there is one grouping, and few coefficients."""
    first = data.groups[0].group
    alone = all(np.array_equal(first, term.group) for term in data.groups[1:])
    return alone and len(data.mean.names) <= FEW_COEFFICIENTS


def _conditional(outer: IntegralDensity, terms: Sequence[str]) -> Conditional:
    """The coefficients and effects that stay given the rest, with the likely number of nodes.

    Raises:
        NotServedError: If the rest is of too many numbers, or a grouping of more effects leads.
    """
    if outer.num_dims > MAX_DIMS:
        raise NotServedError(
            f"{outer.num_dims} scales and other numbers are left, more than the {MAX_DIMS} that "
            "importance sampling serves"
        )
    integral, dtype = outer.integral, outer.vector.dtype
    lead = integral.blocks[0]
    own = {t.effects_site for t in integral.data.groups if t.name in terms}
    if {layout.name for layout in lead.layouts} != own:
        told = " and ".join(layout.name for layout in lead.layouts)
        raise NotServedError(f"{told} has more effects for each group than a quadrature serves")
    size = integral.pattern.num_columns
    start = Line(outer.vector, np.zeros(size, dtype), np.zeros((outer.num_dims, size), dtype))
    shapes = (lead.num_groups, lead.dim), (lead.dim, 2, lead.num_groups)
    near = Near(*(np.zeros(shape, dtype) for shape in shapes))
    return Conditional(outer, LIKELY[lead.dim], near, start)


def largest_grouping(whole: Integral) -> list[str]:
    """Names of the terms of the largest grouping with one or two effects for each group.

    Args:
        whole: The integral over all effects and coefficients.

    Raises:
        NoGroupingError: If there is none.
    """
    site = whole.data.mean.site
    sizes = {
        place: block.num_groups * block.dim
        for place, block in enumerate(whole.blocks)
        if block.dim <= MAX_DIM and all(layout.name != site for layout in block.layouts)
    }
    if not sizes:
        told = ", ".join(
            f"{' and '.join(layout.name for layout in block.layouts)} ({block.dim} for each group)"
            for block in whole.blocks if all(layout.name != site for layout in block.layouts)
        )  # fmt: skip
        raise NoGroupingError(
            "quadrature is over one or two effects for each group, and this model has "
            f"{told or 'none'}"
        )
    block = whole.blocks[max(sizes, key=lambda place: sizes[place])]
    own = {layout.name for layout in block.layouts}
    return [term.name for term in whole.data.groups if term.effects_site in own]


def _with_nodes(conditional: Conditional, found: _Found) -> Conditional:
    """The same about the mode, with the fewest nodes whose evidence there is that of many."""
    density, dim = conditional.density, conditional.density.integral.blocks[0].dim
    columns = np.asarray(found.modes.columns)
    near, errors = _errors(density, found.mode.vector, columns)
    good = [n for n, own in zip(_choices(dim), errors, strict=True) if abs(own) <= NEAR]
    rows = density.integral.data.num_observations
    fewest = LIKELY[dim] if rows < MANY_ROWS else 0
    return conditional.about(max(good[0], fewest), near, columns)


def _judge(
    conditional: Conditional,
    pool: Workers,
    points: np.ndarray,
    columns: np.ndarray,
    *,
    complete: bool,
) -> None:
    """Look whether the evidence's error is the same at small and large scales of the effects.

    Where they are hardly known, as of groups of one row, they go far from the mode, and the
    error of a few nodes with them: the posterior would end early.

    Raises:
        KeyboardInterrupt: If it is not, of draws that an interruption has left.
        TooFewNodesError: If it is not.
    """
    density = conditional.density
    integral, choices = density.integral, _choices(density.integral.blocks[0].dim)
    own = {layout.name.removesuffix("_effects") for layout in integral.blocks[0].layouts}
    scales = [density.places[f"{name}_scale"] for name in own if f"{name}_scale" in density.places]
    size = sum((points[:, np.ravel(place)].sum(axis=1) for place in scales), np.zeros(len(points)))
    chosen = np.argsort(size, kind="stable")[[int(at * (len(points) - 1)) for at in LOOKED_AT]]
    errors = pool.map(lambda at: _errors(density, points[at], columns[at])[1], chosen)
    spread = np.ptp(np.array(errors), axis=0)
    if not spread[choices.index(conditional.num_nodes)] <= EVEN:
        # Twice as many at least, as with more nodes the draws may go further.
        enough = [number for number, differ in zip(choices, spread, strict=True) if differ <= EVEN]
        twice = [number for number in enough if number >= 2 * conditional.num_nodes]
        if not complete:
            raise KeyboardInterrupt(
                f"Interrupted: the draws so far are by {conditional.num_nodes} nodes, which are "
                "too few where they go, so there are none to return."
            )
        raise TooFewNodesError([*twice, choices[-1]][0])


def _choices(dim: int) -> tuple[int, ...]:
    """Numbers of nodes for each effect, that of the reference last."""
    return (*NODES[dim], REFERENCE[dim])


def _errors(
    density: IntegralDensity, vector: np.ndarray, columns: np.ndarray
) -> tuple[Near, Float[np.ndarray, " choices"]]:
    """Effects near a place, and how far the evidence by each number of nodes is off there."""
    given = _judged_at(density, vector.astype(density.vector.dtype), columns)
    near, totals = density.compiled(_totals, *given, runs=RATIOS)(density, *given)
    found = np.asarray(totals, np.float64)
    return near, found - found[-1]


def _traced_totals(density: IntegralDensity) -> Callable[[], None]:
    """A function that compiles the program of `_errors`, for a thread."""
    columns = np.zeros(density.integral.pattern.num_columns)
    given = _judged_at(density, density.vector, columns)
    run = density.compiled(_totals, *given, runs=RATIOS)
    return lambda: run.lower(density, *given).compile()


def _judged_at(
    density: IntegralDensity, vector: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, ...]:
    """A place, with the nodes of all numbers of nodes, their log weights, and whose they are."""
    dim, dtype = density.integral.blocks[0].dim, density.vector.dtype
    grids = [gauss_hermite(count, dim) for count in _choices(dim)]
    whose = np.repeat(np.arange(len(grids)), [len(grid) for grid, _ in grids])
    nodes, weights = (np.concatenate(part) for part in zip(*grids, strict=True))
    own = np.equal.outer(np.arange(len(grids)), whose)
    return tuple(part.astype(dtype) for part in (vector, columns, nodes, weights, own))


def _totals(
    density: IntegralDensity,
    vector: Array,
    columns: Array,
    nodes: Array,
    weights: Array,
    own: Array,
) -> tuple[Near, Array]:
    """Effects near a place, and the evidence there but for a constant, by each number of nodes."""
    blocks = density.integral.system(density.rest(density.latents(vector))).held()
    groups = lead_groups(blocks, columns)
    mode, root = find_modes(groups)
    logs = log_ratios(groups, mode, root, nodes) + weights[:, None]
    most = jnp.max(logs, axis=0, keepdims=True)
    shares = jnp.matmul(own, jnp.exp(logs - most), precision="highest")
    return near_modes(groups, mode, root), jnp.sum(jnp.log(shares) + most, axis=1)


def _drawn(density: IntegralDensity, vectors: Array, uniform: Array) -> dict[str, Array]:
    return jax.lax.map(lambda both: density.drawn(*both), (vectors, uniform))
