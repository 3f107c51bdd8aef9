"""Draws of mixed models of any response: one grouping by quadrature, all that is left sampled.

Few numbers are drawn by importance sampling about their mode. Of many the mode of scales with all
effects integrated out by Laplace's approximation, and the curvature there and at the mode of the
others, give NUTS its metric: nothing but its step size is adapted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from probmf.data.keys import as_generator
from probmf.effects.laplace import Tables
from probmf.effects.quadrature import (
    MAX_DIM,
    find_modes,
    gauss_hermite,
    log_ratios,
)
from probmf.inference.drawn_back import PIECE, SiteArrays, drawn_back
from probmf.inference.importance import Mode, NoModeError, find_mode, resample
from probmf.inference.marginal.evaluators import NotServedError, cut
from probmf.inference.marginal.host_density import CHUNK
from probmf.inference.mixed.boundary import row_information
from probmf.inference.mixed.importance_rounds import (
    MAX_DIMS,
    Clock,
    ImportanceDraws,
    Rounds,
    most_densities,
)
from probmf.inference.mixed.integral import Integral, IntegralDensity
from probmf.inference.nuts.pooled_warmup import MAX_DENSE, PooledNuts
from probmf.inference.nuts.transitions import Chains, Settings, constrain_chains, run_nuts
from probmf.inference.potential import Potential, mixed_potential
from probmf.models.mixed.arrays import GroupTerm, MixedData
from probmf.models.mixed.program import MixedProgram
from probmf.rows.store import num_workers
from probmf.run.driver import progress_bar
from probmf.run.threads import Workers, workers

#: Chains.
NUM_CHAINS = 4
#: Transitions that adapt the step size, and the acceptance rate that it aims at.
NUM_WARMUP, ACCEPT = 50, 0.75
#: The same where fewer numbers than so many are left, mostly scales, of no Normal density:
#: shorter steps, and more surely found, as they cost little.
FEW, WARMUP_OF_FEW, ACCEPT_OF_FEW = 20, 150, 0.95
#: Nodes that are tried for each effect, by the number of effects, and those that they are judged
#: by: the fewest whose evidence is as near as this many nats.
NODES = {1: (5, 7, 9, 15, 21, 31), 2: (3, 5, 7, 9)}
REFERENCE, NEAR = {1: 41, 2: 13}, 1e-2


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
    whole = Integral.of(program, data, names, coefficients=True)
    terms = largest_grouping(whole)
    outer = IntegralDensity.of_integral(whole)
    mode, at_mode = _mode_of(outer)
    inner_program = replace(program, centered=_centred(program, data, terms, at_mode))
    integral = Integral.of(inner_program, data, terms, num_nodes=1)
    integral = replace(integral, **_nodes(integral, at_mode))
    density = IntegralDensity.of_integral(integral)
    values = _as_sampled(inner_program, data, at_mode)
    centre = np.asarray(density.unconstrain(jax.tree.map(jnp.asarray, values)), np.float64)
    start_key, run_key, draw_key = jax.random.split(key, 3)
    each = -(-num_samples // NUM_CHAINS)
    drawing = _Drawing(density, each, draw_key)
    fallback = ""
    drawn: ImportanceDraws | ChainDraws | None = None
    if 0 < density.num_dims <= MAX_DIMS:
        try:
            drawn = _by_importance(drawing, centre, num_samples, start_key, max_densities, progress)
        except NotServedError as error:
            fallback = str(error)
    if drawn is None:
        # Compiled in a thread while the chains' own program is.
        with workers(1) as pool:
            pool.submit(drawing.compile)
            chains, num_warmup = _run_chains(
                density, centre, outer, mode.covariance, each, start_key, run_key, progress
            )
        samples = drawing.sites(chains.vectors)
        chains = chains.first(next(iter(samples.values())).shape[1])
        drawn = ChainDraws(samples, chains, num_warmup, fallback)
    return QuadratureDraws(drawn, integral.sites, integral.num_nodes)


def _by_importance(
    drawing: "_Drawing",
    centre: np.ndarray,
    num_samples: int,
    key: Array,
    max_densities: int | None,
    progress: bool | None,
) -> ImportanceDraws:
    """Independent draws by weight, with their effects from the conditional given each.

    Raises:
        NotServedError: If there is no mode, or k-hat stays above the gate.
        KeyboardInterrupt: After an interruption before there are draws that can be trusted.
    """
    clock, rng = Clock(), as_generator(key)
    with workers(num_workers()) as pool, progress_bar(progress) as bar:
        task = bar.add_task("mode", total=None, status="")
        evaluate = _Proposals(drawing.density, pool)
        # Compiled in threads while the mode is looked for.
        compiled = pool.submit(evaluate.compile)
        pool.submit(drawing.compile)
        try:
            mode = find_mode(_score_of(drawing.density), centre)
        except NoModeError as error:
            raise NotServedError(str(error)) from None
        clock.mark("mode")
        compiled.result()
        clock.mark("compilation")
        rounds = Rounds(evaluate, rng, mode)
        count = rounds.run(num_samples, most_densities(num_samples, max_densities), bar, task)
        clock.mark("proposals")
    chosen = rounds.points[resample(rounds.weights, count, rng)]
    # In random order, so that any are draws; the last piece is filled up.
    each = -(-count // NUM_CHAINS)
    chosen = np.concatenate([chosen, chosen[: each * NUM_CHAINS - count]])
    found = drawing.sites(chosen.reshape(NUM_CHAINS, each, -1))
    samples = {
        name: np.reshape(site, (-1, *site.shape[2:]))[:count] for name, site in found.items()
    }
    clock.mark("draws")
    complete = all(len(site) == num_samples for site in samples.values())
    return ImportanceDraws(
        samples, rounds.k_hat, rounds.num, mode.num_evaluations, rounds.effective, clock.seconds,
        complete, "",
    )  # fmt: skip


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


def _mode_of(density: IntegralDensity) -> tuple[Mode, dict[str, np.ndarray]]:
    """The mode, and all sites there: each search for the effects' modes begins at the last one's.

    Of nothing at all, where all scales are numbers, there is no mode to find.
    """
    dtype, zeros = density.vector.dtype, density.integral.zeros()
    modes, run = zeros, density.compiled(_score_from, density.vector, zeros)

    def score(vector: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal modes
        (value, found), gradient = run(density, jnp.asarray(vector, dtype), modes)
        finite = np.isfinite(value) and all(np.all(np.isfinite(table)) for table in found)
        modes = found if finite else zeros
        return float(value), np.asarray(gradient, np.float64)

    mode = Mode(np.zeros(0), 0.0, np.zeros((0, 0)), 0)
    if density.num_dims:
        mode = find_mode(score, density.start())
    score(mode.vector)
    sites = _run(IntegralDensity.sites_at, density, jnp.asarray(mode.vector, dtype), modes)
    return mode, {name: np.asarray(value, np.float64) for name, value in sites.items()}


def _score_from(density: IntegralDensity, vector: Array, start: Tables) -> Any:
    return jax.value_and_grad(density.value_from, has_aux=True)(vector, start)


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


def _nodes(integral: Integral, at_mode: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The fewest nodes for each effect whose evidence at the mode is that of many; the modes."""
    dim = integral.blocks[0].dim
    choices = (*NODES[dim], REFERENCE[dim])
    grids = [gauss_hermite(count, dim) for count in choices]
    nodes = np.concatenate([grid for grid, _ in grids])
    density = IntegralDensity.of_integral(integral)
    values = _as_sampled(integral.program, integral.data, at_mode)
    latents = {name: jnp.asarray(values[name]) for name in density.sites}
    modes, ratios = _run(_ratios, density, latents, jnp.asarray(nodes))
    joint = np.asarray(ratios)
    ends = np.cumsum([0, *(len(grid) for grid, _ in grids)])
    totals = [
        np.sum(np.logaddexp.reduce(joint[:, start:end] + weights[None], axis=1))
        for start, end, (_, weights) in zip(ends[:-1], ends[1:], grids, strict=True)
    ]
    near = [n for n, total in zip(choices, totals, strict=True) if abs(total - totals[-1]) <= NEAR]
    return {"num_nodes": near[0], "near": modes}


def _ratios(
    density: IntegralDensity, latents: dict[str, Array], nodes: Array
) -> tuple[Array, Array]:
    groups = density.integral.integrand(density.rest(latents)).groups
    mode, root = find_modes(groups)
    return mode, log_ratios(groups, mode, root, nodes)


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


class _Proposals:
    """Log densities of proposals, in chunks side by side; see `Rounds`."""

    def __init__(self, density: IntegralDensity, pool: Workers) -> None:
        """Trace the program of a chunk."""
        self.density, self.pool = density, pool
        self.example = np.zeros((CHUNK, density.num_dims), density.vector.dtype)
        self.run = density.compiled(_log_densities, self.example)

    def compile(self) -> None:
        """Have the program ready."""
        self.run.lower(self.density, self.example).compile()

    def __call__(self, points: np.ndarray) -> Iterator[tuple[np.ndarray, SiteArrays]]:
        """Log densities, and no sites: these are drawn for the proposals that are chosen."""
        found = self.pool.stream(self._one, self._pieces(points))
        for some, values in zip(cut(points, CHUNK), found, strict=True):
            yield values[: len(some)], {}

    def _pieces(self, points: np.ndarray) -> Iterator[np.ndarray]:
        for some in cut(points.astype(self.example.dtype), CHUNK):
            yield np.concatenate([some, np.repeat(some[-1:], CHUNK - len(some), axis=0)])

    def _one(self, piece: np.ndarray) -> np.ndarray:
        values = np.asarray(self.run(self.density, piece), np.float64)
        return np.where(np.isfinite(values), values, -np.inf)


def _log_densities(density: IntegralDensity, vectors: Array) -> Array:
    return jax.lax.map(density.log_density, vectors)


class _Drawing:
    """All sites at draws of what is left, the effects drawn from their conditional."""

    def __init__(self, density: IntegralDensity, num_samples: int, key: Array) -> None:
        """Trace the program for pieces of so many draws of a chain."""
        self.density, self.num_samples = density, num_samples
        keys = jax.random.split(key, NUM_CHAINS * num_samples)
        self.words = np.asarray(jax.random.key_data(keys)).reshape(NUM_CHAINS, num_samples, -1)
        size = min(PIECE, num_samples)
        vectors = np.zeros((size, density.num_dims), density.vector.dtype)
        self.example = jnp.asarray(vectors), jnp.asarray(self.words[0, :size])
        self.run = density.compiled(_drawn, *self.example)

    def compile(self) -> None:
        """Have the program ready."""
        self.run.lower(self.density, *self.example).compile()

    def sites(self, vectors: Float[np.ndarray, "chain draw d"]) -> dict[str, np.ndarray]:
        """Sites at each draw, chains side by side; after an interruption at the first draws."""
        vectors = np.asarray(vectors, self.density.vector.dtype)
        with workers(num_workers()) as pool:

            def draw(at: np.ndarray) -> dict[str, np.ndarray]:
                given = zip(vectors[:, at], self.words[:, at], strict=True)
                parts = list(
                    pool.map(lambda own: jax.device_get(self.run(self.density, *own)), given)
                )
                return {
                    name: np.stack([part[name] for part in parts])
                    for name in parts[0]
                    if not name.endswith("_effects_raw")
                }

            return drawn_back(draw, vectors.shape[1], min(PIECE, self.num_samples))


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
