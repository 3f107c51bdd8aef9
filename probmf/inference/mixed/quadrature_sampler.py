"""Draws of mixed models of any response: one grouping by quadrature, all that is left sampled.

The mode of scales with all effects integrated out by Laplace's approximation begins importance
sampling of all that is left. Where that cannot serve, the curvature there and at the mode of the
others gives NUTS its metric: nothing but its step size is adapted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from probmf.data.keys import as_generator
from probmf.effects.conditional_draws import Near, near_modes
from probmf.effects.laplace import Tables
from probmf.effects.quadrature import (
    MAX_DIM,
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
from probmf.inference.mixed.boundary import row_information
from probmf.inference.mixed.integral import Integral, IntegralDensity
from probmf.inference.mixed.quadrature_importance import (
    NUM_CHAINS,
    Conditional,
    Drawing,
    Line,
    draw_weighted,
    traced_programs,
)
from probmf.inference.nuts.pooled_warmup import MAX_DENSE, PooledNuts
from probmf.inference.nuts.transitions import Chains, Settings, constrain_chains, run_nuts
from probmf.inference.potential import Potential, mixed_potential
from probmf.models.mixed.arrays import GroupTerm, MixedData
from probmf.models.mixed.program import MixedProgram
from probmf.rows.store import num_workers
from probmf.run.threads import Workers, workers

#: Transitions that adapt the step size, and the acceptance rate that it aims at.
NUM_WARMUP, ACCEPT = 50, 0.75
#: The same where fewer numbers than so many are left, mostly scales, of no Normal density:
#: shorter steps, and more surely found, as they cost little.
FEW, WARMUP_OF_FEW, ACCEPT_OF_FEW = 20, 150, 0.95
#: Nodes that are tried for each effect, by the number of effects, and those that they are judged
#: by: the fewest whose evidence is as near as this many nats.
NODES = {1: (5, 7, 9, 15, 21, 31), 2: (3, 5, 7, 9)}
REFERENCE, NEAR = {1: 41, 2: 13}, 1e-2
#: Nodes for which programs are compiled before it is known how many it takes; of few rows, where
#: another program takes longer than it saves, as many as that serve where fewer would.
LIKELY = {1: 7, 2: 5}


#: Rows from which a proposal costs so much that a few coefficients of a model of one grouping are
#: proposed with the scales: that takes one look at the rows where a centre given scales takes four.
MANY_ROWS, FEW_COEFFICIENTS = 20_000, 10


class NoGroupingError(ValueError):
    """No grouping whose effects have a quadrature."""


class ChainDraws(NamedTuple):
    """Draws by NUTS.

    Attributes:
        samples: Draws by site, (chain, draw, ...).
        chains: The chains on the unconstrained scale.
        num_warmup: Transitions per chain that were thrown away.
        fallback: The reason why importance sampling could not serve, where it was tried.
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
    if not names:
        each = -(-num_samples // NUM_CHAINS)
        return _without_groups(program, data, each, key, progress)
    direct = data.num_observations >= MANY_ROWS and _is_simple(data)
    whole = Integral.of(program, data, names, coefficients=not direct)
    terms = largest_grouping(whole)
    outer = IntegralDensity.of_integral(whole)
    search = _ModeSearch(outer)
    conditional, why = None, ""
    drawn: ImportanceDraws | ChainDraws | None = None
    with workers(num_workers()) as pool:
        ready = pool.submit(search.compile)
        try:
            conditional = _conditional(outer, terms)
            # Compiled while the mode is looked for: the fewest nodes mostly serve.
            for compile_one in traced_programs(conditional, num_samples):
                pool.submit(compile_one)
        except NotServedError as error:
            why = str(error)
        ready.result()
        found = search.find(pool)
        loose = replace(program, centered=_centred(program, data, terms, found.sites))
        inner = Integral.of(loose, data, terms, num_nodes=1)
        num_nodes, near = _nodes(inner, found.sites)
        inner = replace(inner, num_nodes=num_nodes, near=near)
        if conditional is not None:
            try:
                conditional = conditional.about(num_nodes, near, found.modes[1:])
                drawn = draw_weighted(
                    conditional, found.mode, num_samples, key, pool, max_densities, progress
                )
            except NotServedError as error:
                why = str(error)
    if drawn is None:
        drawn = _by_nuts(inner, outer, found, num_samples, key, why, progress)
    return QuadratureDraws(drawn, inner.sites, inner.num_nodes)


def _by_nuts(
    integral: Integral,
    outer: IntegralDensity,
    found: "_Found",
    num_samples: int,
    key: Array,
    why: str,
    progress: bool | None,
) -> ChainDraws:
    """All that is left by NUTS, begun about the mode."""
    density = IntegralDensity.of_integral(integral)
    values = _as_sampled(integral.program, integral.data, found.sites)
    centre = np.asarray(density.unconstrain(jax.tree.map(jnp.asarray, values)), np.float64)
    start_key, run_key, draw_key = jax.random.split(key, 3)
    each = -(-num_samples // NUM_CHAINS)
    drawing = Drawing(_drawn, density, [density.vector], each, draw_key)
    # Compiled in a thread while the chains' own program is.
    with workers(1) as pool:
        pool.submit(drawing.compile)
        chains, num_warmup = _run_chains(
            density, centre, outer, found.mode.covariance, each, start_key, run_key, progress
        )
    samples = drawing.sites(chains.vectors)
    chains = chains.first(next(iter(samples.values())).shape[1])
    return ChainDraws(samples, chains, num_warmup, why)


def _without_groups(
    program: MixedProgram, data: MixedData, num_samples: int, key: Array, progress: bool | None
) -> QuadratureDraws:
    """All there is by NUTS with the mode's metric, where there are no effects to integrate out."""
    density = mixed_potential(program, (data,))
    if not density.num_dims:
        raise NoGroupingError("the formula and priors leave nothing to sample")

    mode = find_mode(_score_of(density), density.vector)
    start_key, run_key = jax.random.split(key)
    chains, num_warmup = _chains_about(
        density, mode.vector, mode.covariance, num_samples, start_key, run_key, progress
    )
    samples = constrain_chains(density, chains.vectors)
    return QuadratureDraws(ChainDraws(samples, chains, num_warmup, ""), (), 0)


class _Found(NamedTuple):
    """The mode, whitened effects there, and all sites."""

    mode: Mode
    modes: Tables
    sites: dict[str, np.ndarray]


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
        self.run = density.compiled(_score_from, density.vector, self.zeros)

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
        vector = jnp.asarray(mode.vector, self.dtype)
        sites = _run(IntegralDensity.sites_at, density, vector, self.modes)
        own = {name: np.asarray(value, np.float64) for name, value in sites.items()}
        return _Found(mode, self.modes, own)

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


def _score_from(density: IntegralDensity, vector: Array, start: Tables) -> Any:
    return jax.value_and_grad(density.value_from, has_aux=True)(vector, start)


def _is_simple(data: MixedData) -> bool:
    """Whether there is one grouping, and few coefficients."""
    first = data.groups[0].group
    alone = all(np.array_equal(first, term.group) for term in data.groups[1:])
    return alone and len(data.mean.names) <= FEW_COEFFICIENTS


def _conditional(outer: IntegralDensity, terms: Sequence[str]) -> Conditional:
    """The coefficients and effects that stay given the rest, with as many nodes as mostly serve.

    Raises:
        NotServedError: If the rest is of too many numbers, or a grouping of more effects leads.
    """
    if outer.num_dims > MAX_DIMS:
        raise NotServedError(
            f"{outer.num_dims} scales and other numbers are left, more than the {MAX_DIMS} that "
            "importance sampling serves"
        )
    integral, dtype = outer.integral, outer.vector.dtype
    lead, own = (
        integral.blocks[0],
        {t.effects_site for t in integral.data.groups if t.name in terms},
    )
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


def _centred(
    program: MixedProgram, data: MixedData, terms: list[str], at_mode: Mapping[str, np.ndarray]
) -> tuple[str, ...]:
    """Sites of effects of which their rows tell more than their prior does."""
    told = float(np.mean(row_information(program, data, at_mode)))

    def is_told(term: GroupTerm) -> bool:
        z = np.asarray(term.z, np.float64)
        by_group = told * np.sum(np.square(z), axis=0) / term.num_groups
        return bool(np.all(by_group * np.square(_scale(data, term, at_mode)) >= 1.0))

    return tuple(sorted(t.effects_site for t in data.groups if t.name in terms or is_told(t)))


def _scale(data: MixedData, term: GroupTerm, values: Mapping[str, np.ndarray]) -> np.ndarray:
    site = f"{term.name}_scale"
    return np.asarray(values[site] if site in values else data.priors[site], np.float64)


def _as_sampled(
    program: MixedProgram, data: MixedData, values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Values by site, standardized effects in place of those that are not centred."""
    found = dict(values)
    for term in data.groups:
        site = program.sampled_site(term)
        if site == term.effects_site:
            continue
        root = np.diag(_scale(data, term, values))
        if term.correlated:
            root = root @ values[f"{term.name}_correlation"]
        effects = np.asarray(values[term.effects_site])
        found[site] = scipy.linalg.solve_triangular(root, effects.T, lower=True).T
    return found


def _nodes(integral: Integral, at_mode: Mapping[str, np.ndarray]) -> tuple[int, Near]:
    """The fewest nodes for each effect whose evidence at the mode is that of many; the modes."""
    dim = integral.blocks[0].dim
    choices = (*NODES[dim], REFERENCE[dim])
    grids = [gauss_hermite(count, dim) for count in choices]
    nodes = np.concatenate([grid for grid, _ in grids])
    density = IntegralDensity.of_integral(integral)
    values = _as_sampled(integral.program, integral.data, at_mode)
    latents = {name: jnp.asarray(values[name]) for name in density.sites}
    near, ratios = _run(_ratios, density, latents, jnp.asarray(nodes))
    joint = np.asarray(ratios)
    ends = np.cumsum([0, *(len(grid) for grid, _ in grids)])
    totals = [
        np.sum(np.logaddexp.reduce(joint[start:end] + weights[:, None], axis=0))
        for start, end, (_, weights) in zip(ends[:-1], ends[1:], grids, strict=True)
    ]
    good = [n for n, total in zip(choices, totals, strict=True) if abs(total - totals[-1]) <= NEAR]
    fewest = LIKELY[dim] if integral.data.num_observations < MANY_ROWS else 0
    return max(good[0], fewest), near


def _ratios(
    density: IntegralDensity, latents: dict[str, Array], nodes: Array
) -> tuple[Near, Array]:
    groups = density.integral.integrand(density.rest(latents)).groups
    mode, root = find_modes(groups)
    return near_modes(groups, mode, root), log_ratios(groups, mode, root, nodes)


def _run_chains(
    density: IntegralDensity,
    centre: np.ndarray,
    outer: IntegralDensity,
    covariance: np.ndarray,
    num_samples: int,
    start_key: Array,
    run_key: Array,
    progress: bool | None,
) -> tuple[Chains, int]:
    """NUTS with the mode's metric; where that is large, with one that it learns."""
    if len(centre) > MAX_DENSE:
        rng = as_generator(start_key)
        learner = PooledNuts(density, NUM_CHAINS, run_key, progress)
        learner.begin(centre + 0.1 * rng.standard_normal((NUM_CHAINS, len(centre))))
        learner.warm_up()
        return learner.draw(num_samples), learner.num_warmup
    mass = _metric(density, centre, outer, covariance)
    return _chains_about(density, centre, mass, num_samples, start_key, run_key, progress)


def _chains_about(
    density: Potential,
    centre: np.ndarray,
    mass: np.ndarray,
    num_samples: int,
    start_key: Array,
    run_key: Array,
    progress: bool | None,
) -> tuple[Chains, int]:
    """NUTS with a metric, begun as widely as that says."""
    size = len(centre)
    noise = as_generator(start_key).standard_normal((NUM_CHAINS, size))
    starts = centre + noise @ np.linalg.cholesky(mass).T
    num_warmup, accept = (NUM_WARMUP, ACCEPT) if size >= FEW else (WARMUP_OF_FEW, ACCEPT_OF_FEW)
    settings = Settings(
        num_warmup, num_samples, NUM_CHAINS, target_accept=accept, dense_mass=True, adapt_mass=False
    )
    chains = run_nuts(
        density, settings, run_key, starts=starts, inverse_mass=mass, progress=progress
    )
    return chains, num_warmup


def _metric(
    density: IntegralDensity, centre: np.ndarray, outer: IntegralDensity, covariance: np.ndarray
) -> Float[np.ndarray, "d d"]:
    """Covariance of scales at their mode, and of the rest given scales by the curvature there."""
    minus = _score_of(density)
    size, step = len(centre), 1e-4
    moves = step * np.eye(size)
    rows = [(minus(centre - move)[1] - minus(centre + move)[1]) / (2 * step) for move in moves]
    curvature = (np.array(rows) + np.array(rows).T) / 2
    known, order = (_all_places(own, outer.sites) for own in (density, outer))
    rest = np.setdiff1d(np.arange(size), known)
    given = covariance[np.ix_(order, order)]
    found = np.zeros((size, size))
    found[np.ix_(known, known)] = given
    if len(rest):
        inverse = _positive_inverse(curvature[np.ix_(rest, rest)])
        slope = inverse @ curvature[np.ix_(rest, known)]
        found[np.ix_(rest, rest)] = inverse + slope @ given @ slope.T
        found[np.ix_(rest, known)] = -slope @ given
        found[np.ix_(known, rest)] = -given @ slope.T
    return found


def _all_places(density: IntegralDensity, sites: Sequence[str]) -> np.ndarray:
    """Places of sites in the vector, in their order."""
    parts = [np.zeros(0, int), *(np.ravel(density.places[site]) for site in sites)]
    return np.concatenate(parts).astype(int)


def _positive_inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a matrix whose eigenvalues are taken to be positive, and not next to zero."""
    values, axes = np.linalg.eigh(matrix)
    values = np.maximum(np.abs(values), 1e-10 * np.max(np.abs(values)))
    return (axes / values) @ axes.T


def _drawn(density: IntegralDensity, vectors: Array, words: Array) -> dict[str, Array]:
    return jax.lax.map(lambda both: density.drawn(*both), (vectors, words))


def _score_of(density: Potential) -> Any:
    """Log density and its gradient at a vector."""

    def score(vector: np.ndarray) -> tuple[float, np.ndarray]:
        point = jnp.asarray(vector, density.vector.dtype)
        value, gradient = density.value_and_grad(point)
        return float(value), np.asarray(gradient, np.float64)

    return score


def _run(function: Any, density: IntegralDensity, *given: Any) -> Any:
    return density.compiled(function, *given)(density, *given)
