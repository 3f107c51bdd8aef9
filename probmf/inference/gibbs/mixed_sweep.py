r"""Gibbs sweeps of a Gaussian mixed model: all effects at once, then scales, twice over.

Given scales and noise, coefficients and effects are one Gaussian vector, which is drawn exactly.
Scales and correlations are then drawn twice, in two parametrizations of the same effects: given
the effects u themselves, and given the standardized ones :math:`R^{-1} u` with
:math:`\Sigma = R R^\top`, where the effects move along and the observations speak. Where groups
say much the first moves freely, where they say little the second does; together neither a scale
near zero nor a large one holds the chain up (Yu and Meng 2011).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution
from numpyro.distributions.transforms import CorrCholeskyTransform

from probmf.data import wrap_words
from probmf.effects.linalg import invert_lower
from probmf.inference.gibbs.chains import Contents, Gathered
from probmf.inference.gibbs.plan import log_prior
from probmf.inference.gibbs.slice_sampling import slice_sample
from probmf.inference.gibbs.updates import draw_scale
from probmf.inference.marginal.prepared import Prepared
from probmf.models.mixed.arrays import GroupTerm, MixedData
from probmf.numpyro_setup import run_unchecked
from probmf.run.compilation import quick_jit

#: First width of the slices along a coordinate, in its prior's or its groups' units.
WIDTH = 1.0


class MixedState(NamedTuple):
    """State of a chain; a pytree.

    Attributes:
        varying: Logarithms of the sampled scales and unconstrained correlations, in a row.
        log_noise: Logarithm of the noise scale.
        effects: Coefficients and effects, in a row.
        trace: The numbers of this sweep, in a row.
        sweep: Sweeps done.
    """

    varying: Float[Array, " v"]
    log_noise: Float[Array, ""]
    effects: Float[Array, " e"]
    trace: Float[Array, " t"]
    sweep: Int[Array, ""]


@partial(
    jax.tree_util.register_dataclass, data_fields=["data", "response", "blocks"], meta_fields=[]
)
@dataclass(frozen=True, eq=False)
class MixedProblem:
    """All that a chain needs, besides where it stands: an engine of `run_gibbs`, and a pytree.

    Attributes:
        data: The model's arguments.
        response: The response on the predictor's scale.
        blocks: Effects that are drawn together given all others: all of them at once, or, where
            their common precision is too large to be factored, those of one grouping factor.
    """

    data: MixedData
    response: Float[Array, " n"]
    blocks: tuple[Prepared, ...]

    num_watched = 0
    num_threads, side_by_side = 1, True

    @cached_property
    def sites(self) -> dict[str, tuple[int, ...]]:
        """Shapes of coefficients and effects."""
        mean = self.data.mean
        own: dict[str, tuple[int, ...]] = {}
        if mean.names:
            own[mean.site] = (len(mean.names),)
        return own | {t.effects_site: (t.num_groups, len(t.names)) for t in mean.groups}

    @cached_property
    def laws(self) -> dict[str, Distribution]:
        """Priors of what is sampled besides effects, in the order of `varying`; the noise last."""
        names = []
        for term in self.data.groups:
            names += [f"{term.name}_scale"] + [f"{term.name}_correlation"] * term.correlated
        found = {name: self.data.priors[name] for name in [*names, "noise_scale"]}
        return {name: law for name, law in found.items() if isinstance(law, Distribution)}

    @cached_property
    def contents(self) -> Contents:
        """Effects as rows; the log joint density, scales and correlations as traces."""
        shapes = {n: law.batch_shape + law.event_shape for n, law in self.laws.items()}
        return Contents(self.sites, {"lp": (), **shapes})

    @property
    def num_varying(self) -> int:
        """Length of `varying`."""
        return sum(int(np.prod(shape)) for shape in self._varying_shapes.values())

    @cached_property
    def _varying_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for name, law in self.laws.items():
            if name.endswith("_correlation"):
                size = law.event_shape[0]
                shapes[name] = (size * (size - 1) // 2,)
            elif name != "noise_scale":
                shapes[name] = law.batch_shape
        return shapes

    def sweep(
        self, key: Array, state: MixedState, hold: bool, pool: ThreadPoolExecutor
    ) -> tuple[MixedState, Array]:
        """Effects, then everything else; scales have no need to be held."""
        del hold, pool
        words = _words(key, state.sweep)
        moving = (state.varying, state.log_noise, state.effects)
        varying, log_noise, effects, trace = self._compiled(self, *moving, words)
        following = MixedState(varying, log_noise, effects, trace, state.sweep + 1)
        return following, trace[0]

    @cached_property
    def _compiled(self) -> Any:
        """`_next`, which chains side by side must not trace."""
        dtype, run = jnp.result_type(float), quick_jit(MixedProblem._next)
        sizes = (self.num_varying, (), self.contents.num_numbers)
        with run_unchecked():
            run.trace(self, *(np.zeros(size, dtype) for size in sizes), np.zeros(2, np.uint32))
        return run

    def observe(
        self, state: MixedState, log_joint: Array, gathered: Gathered
    ) -> tuple[Array, Array, Gathered]:
        """One sweep's numbers in a row, its effects, and the moments with that sweep."""
        del log_joint
        return state.trace, state.effects, _gather(gathered, state.effects)

    def _next(
        self, varying: Array, log_noise: Array, flat: Array, words: Array
    ) -> tuple[Array, Array, Array, Array]:
        """One sweep."""
        keys = jax.random.split(wrap_words(words), len(self.blocks) + 3)
        effects = self.split(self.sites, flat)
        latents = self.natural(varying, log_noise)
        for block, key in zip(self.blocks, keys[3:], strict=True):
            given = {n: v for n, v in (latents | effects).items() if n in block.latent_shapes}
            effects |= block.draw(given, key)[1]
        error = self.response - self.data.mean(effects)
        if self.num_varying:
            centred = self._centred(effects)
            varying = _update_each(keys[0], varying, centred, self._widths())
            varying, effects, error = self._interweave(keys[1], varying, effects, error, latents)
        square, count = jnp.sum(jnp.square(error)), jnp.asarray(float(error.size), error.dtype)
        if "noise_scale" in self.laws:
            law, noise = self.laws["noise_scale"], jnp.exp(log_noise)
            log_noise = jnp.log(draw_scale(keys[2], law, noise, square, count))
        sites = self.natural(varying, log_noise)
        noise = sites["noise_scale"] if "noise_scale" in sites else self._fixed("noise_scale")
        total = -0.5 * square / jnp.square(noise) - count * jnp.log(noise)
        total = total + self._log_prior(effects, varying, sites)
        trace = jnp.concatenate([jnp.ravel(v) for v in (total, *(sites[n] for n in self.laws))])
        rows = jnp.concatenate([jnp.ravel(effects[name]) for name in self.sites])
        return varying, log_noise, rows, trace

    def natural(self, varying: Array, log_noise: Array) -> dict[str, Array]:
        """Sampled scales, correlations and noise scale by site."""
        found = {}
        for name, value in self.split(self._varying_shapes, varying).items():
            if name.endswith("_correlation"):
                found[name] = CorrCholeskyTransform()(value)
            else:
                found[name] = jnp.exp(value)
        return found | ({"noise_scale": jnp.exp(log_noise)} if "noise_scale" in self.laws else {})

    def split(self, shapes: dict[str, tuple[int, ...]], flat: Array) -> dict[str, Array]:
        """Numbers in a row by site."""
        found, start = {}, 0
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            found[name] = flat[start : start + size].reshape(shape)
            start += size
        return found

    def _fixed(self, name: str) -> Array:
        return jnp.asarray(self.data.priors[name], jnp.result_type(float))

    def _root(self, term: GroupTerm, sites: dict[str, Array]) -> Float[Array, "d d"]:
        """The factor R of a group's covariance."""
        name = f"{term.name}_scale"
        scale = sites[name] if name in sites else self._fixed(name)
        if not term.correlated:
            return jnp.diag(scale)
        return scale[:, None] * sites[f"{term.name}_correlation"]

    def _moving(self) -> list[GroupTerm]:
        """Terms of which anything is sampled."""
        names = [(t, {f"{t.name}_scale", f"{t.name}_correlation"}) for t in self.data.groups]
        return [term for term, own in names if own & self.laws.keys()]

    def _law_of_varying(self, varying: Array) -> Array:
        """Log prior density of `varying`, with the Jacobian of its coordinates."""
        sites = self.natural(varying, jnp.zeros((), varying.dtype))
        total = jnp.zeros((), varying.dtype)
        for name, own in self.split(self._varying_shapes, varying).items():
            total = total + jnp.sum(log_prior(self.laws[name], sites[name]))
            if name.endswith("_correlation"):
                jacobian = CorrCholeskyTransform().log_abs_det_jacobian(own, sites[name])
                total = total + jnp.sum(jacobian)
            else:
                total = total + jnp.sum(own)
        return total

    def _centred(self, effects: dict[str, Array]) -> Any:
        """Log density of `varying` given the effects."""
        moments = {
            t.name: jnp.matmul(effects[t.effects_site].T, effects[t.effects_site],
                               precision="highest")
            for t in self._moving()
        }  # fmt: skip

        def density(varying: Array) -> Array:
            sites = self.natural(varying, jnp.zeros((), varying.dtype))
            total = self._law_of_varying(varying)
            for term in self._moving():
                root = self._root(term, sites)
                inverse = invert_lower(root[None])[0]
                square = jnp.sum((inverse @ moments[term.name]) * inverse)
                logdet = jnp.sum(jnp.log(jnp.diagonal(root)))
                total = total - 0.5 * square - term.num_groups * logdet
            return total

        return density

    def _interweave(
        self, key: Array, varying: Array, effects: dict[str, Array], error: Array,
        latents: dict[str, Array],
    ) -> tuple[Array, dict[str, Array], Array]:  # fmt: skip
        """Move `varying` with the standardized effects held, the effects going along.

        The predictor is linear in the elements of the factors R, so that all that the observations
        say is a quadratic in them.
        """
        sites = self.natural(varying, jnp.zeros((), varying.dtype))
        noise = latents["noise_scale"] if "noise_scale" in latents else self._fixed("noise_scale")
        raws, columns = {}, []
        for term in self._moving():
            root = self._root(term, sites)
            raw = lax.linalg.triangular_solve(
                root, effects[term.effects_site].T, left_side=True, lower=True
            ).T
            raws[term.name] = raw
            by_row = raw[term.group]
            for a, b in _elements(term):
                columns.append(term.z[:, a] * by_row[:, b])
        features = jnp.stack(columns, axis=1)
        gram = jnp.matmul(features.T, features, precision="highest") / jnp.square(noise)
        pull = jnp.matmul(features.T, error, precision="highest") / jnp.square(noise)

        def elements(varying: Array) -> Array:
            sites = self.natural(varying, jnp.zeros((), varying.dtype))
            found = []
            for term in self._moving():
                root = self._root(term, sites)
                found += [root[a, b] for a, b in _elements(term)]
            return jnp.stack(found)

        start = elements(varying)

        def density(varying: Array) -> Array:
            move = elements(varying) - start
            return self._law_of_varying(varying) + jnp.dot(move, pull - 0.5 * (gram @ move))

        varying = _update_each(key, varying, density, self._widths())
        error = error - features @ (elements(varying) - start)
        sites = self.natural(varying, jnp.zeros((), varying.dtype))
        for term in self._moving():
            root = self._root(term, sites)
            effects = effects | {term.effects_site: raws[term.name] @ root.T}
        return varying, effects, error

    def _widths(self) -> Array:
        return jnp.full(self.num_varying, WIDTH, jnp.result_type(float))

    def _log_prior(
        self, effects: dict[str, Array], varying: Array, sites: dict[str, Array]
    ) -> Array:
        """Log density of effects and of what is sampled besides, on the sites' own scales."""
        total = jnp.zeros((), varying.dtype)
        for name, law in self.laws.items():
            total = total + jnp.sum(log_prior(law, sites[name]))
        mean = self.data.mean
        if mean.names:
            prior: Any = self.data.priors[mean.site]
            total = total + jnp.sum(prior.log_prob(effects[mean.site]))
        for term in self.data.groups:
            root = self._root(term, sites)
            raw = lax.linalg.triangular_solve(
                root, effects[term.effects_site].T, left_side=True, lower=True
            )
            logdet = jnp.sum(jnp.log(jnp.diagonal(root)))
            total = total - 0.5 * jnp.sum(jnp.square(raw)) - term.num_groups * logdet
        return total


def _elements(term: GroupTerm) -> list[tuple[int, int]]:
    """Elements of a term's factor that may differ from zero."""
    size = len(term.names)
    return [(a, b) for a in range(size) for b in range(a + 1) if a == b or term.correlated]


def _update_each(key: Array, values: Array, log_density: Any, width: Array) -> Array:
    """One slice update of each coordinate in turn; one loop, so that it is compiled once."""

    def one(index: Array, values: Array) -> Array:
        def along(value: Array) -> Array:
            return log_density(values.at[index].set(value))

        moved = slice_sample(jax.random.fold_in(key, index), values[index], along, width[index])
        return values.at[index].set(moved)

    return lax.fori_loop(0, len(values), one, values)


@jax.jit
def _words(key: Array, sweep: Array) -> Array:
    return jax.random.key_data(jax.random.fold_in(key, sweep))


@jax.jit
def _gather(gathered: Gathered, rows: Array) -> Gathered:
    return gathered._replace(rows=gathered.rows.add(rows))
