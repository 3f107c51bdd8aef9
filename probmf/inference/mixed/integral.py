"""A mixed model of any response whose effects are integrated out, as a NumPyro model.

What is left are scales, correlations, the likelihood's own parameters, the effects of groupings
that stay, and the coefficients, unless they are integrated out, too: the evidence is a factor of a
model of these. All effects go by Laplace's approximation, or those of one grouping by quadrature.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array, Float
from numpyro.distributions.transforms import biject_to
from numpyro.infer.util import constrain_fn, log_density, potential_energy

from probmf.effects import (
    Pattern,
    Standard,
    block_covariance,
    collect_statistics,
)
from probmf.effects.conditional_draws import Near
from probmf.effects.laplace import Blocks, Tables, Whitened
from probmf.effects.row_densities import Rows
from probmf.inference.marginal.effect_blocks import Block, lay_out_blocks
from probmf.inference.marginal.integrand import Integrand, site_tables
from probmf.inference.marginal.mixed_structure import population_effects, term_effects
from probmf.inference.potential import Potential
from probmf.inference.standard_coordinates import mixed_coordinates
from probmf.models.mixed.arrays import MixedData
from probmf.models.mixed.program import MixedProgram


class Rest(NamedTuple):
    """Everything that is not integrated out.

    Attributes:
        values: Coefficients and effects by site.
        roots: Lower factor of the prior covariance of each term that is integrated out, and of the
            coefficients if they are.
        parameters: The likelihood's own.
    """

    values: dict[str, Array]
    roots: dict[str, Array]
    parameters: dict[str, Array]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["program", "data", "pattern", "designs", "standards", "near"],
    meta_fields=["blocks", "num_nodes", "flat"],
)
@dataclass(frozen=True, eq=False)
class Integral:
    """A mixed model with its data, and the effects that are integrated out; a pytree.

    Attributes:
        program: The model.
        data: Its argument.
        pattern: Which of the effects meet.
        designs: Columns of each block, in the pattern's order.
        standards: Coordinates in which its columns are apart, or None.
        blocks: The blocks; layouts are called after sites.
        num_nodes: Nodes of the quadrature for each effect; 0 for Laplace's approximation.
        flat: Blocks whose prior is flat.
        near: Near what modes of the effects are; nodes of a quadrature are then held, and should
            be enough for their places to be of no consequence.
    """

    program: MixedProgram
    data: MixedData
    pattern: Pattern
    designs: tuple[np.ndarray, ...]
    standards: tuple[Standard | None, ...]
    blocks: tuple[Block, ...]
    num_nodes: int
    flat: tuple[int, ...]
    near: Near | None = None

    @classmethod
    def of(
        cls,
        program: MixedProgram,
        data: MixedData,
        terms: Collection[str],
        *,
        num_nodes: int = 0,
        coefficients: bool = False,
        flat: bool = False,
    ) -> "Integral":
        """The integral over the effects of some terms.

        Args:
            program: The model, centred.
            data: Its argument.
            terms: Names of the group terms.
            num_nodes: Nodes of the quadrature for each effect; 0 for Laplace's approximation.
            coefficients: Whether the coefficients are integrated out, too.
            flat: Whether their prior is flat.

        Raises:
            RemainderTooLargeError: If the crossed groupings are too large for a dense matrix.
        """
        found = [term_effects(t.effects_site, t) for t in data.groups if t.name in terms]
        if coefficients and data.mean.names:
            found.append(population_effects(data.mean))
        laid = lay_out_blocks(found, data.num_observations)
        own = [i for i, block in enumerate(laid.blocks) if _holds(block, data.mean.site)]
        dtype = jnp.result_type(float)
        return cls(
            program, data, laid.pattern, tuple(np.asarray(one, dtype) for one in laid.columns),
            laid.standards, laid.blocks, num_nodes, tuple(own) if flat else (),
        )  # fmt: skip

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites that are integrated out."""
        return tuple(layout.name for block in self.blocks for layout in block.layouts)

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume of the units of flat blocks."""
        own = [self.standards[place] for place in self.flat]
        return float(sum(standard.log_volume for standard in own if standard is not None))

    def rest(self) -> Rest:
        """All that is left, sampled."""
        data, program = self.data, self.program
        values: dict[str, Array] = {}
        if data.mean.site not in self.sites:
            values |= program.coefficients(data.mean, data.priors, data.mixing)
        roots: dict[str, Array] = {}
        if data.mean.site in self.sites and not self.flat:
            law = program.coefficients_law(data.mean, data.priors, data.mixing)
            scale = jnp.asarray(jnp.sqrt(law.variance), jnp.result_type(float))
            roots[data.mean.site] = jnp.diag(scale)
        for term in data.groups:
            if term.effects_site in self.sites:
                scale, root = program.scales(term, data.priors)
                roots[term.effects_site] = jnp.diag(scale) if root is None else root
            else:
                values[term.effects_site] = program.effects(term, data.priors)
        return Rest(values, roots, program.own_parameters(data))

    def evidence(
        self, rest: Rest, start: Whitened | None = None
    ) -> tuple[Float[Array, ""], Whitened]:
        """Logarithm of the integral over the effects, and their modes, whitened; to be traced.

        Args:
            rest: All that is left.
            start: Where the search for the modes begins; zero by default.
        """
        if not self.blocks:
            system = self.system(rest)
            return jnp.sum(system.rows(system.offset)), self.zeros()
        return self.integrand(rest).evidence(start)

    def integrand(self, rest: Rest) -> Integrand:
        """The rows with the effects that are integrated out."""
        return Integrand(self.system(rest), self.num_nodes, self.near)

    def system(self, rest: Rest) -> Blocks:
        """The rows with the effects that are integrated out."""
        offset = self._kept(rest.values)
        dtype = offset.dtype
        trils = []
        for block, standard in zip(self.blocks, self.standards, strict=True):
            tril = self._root(block, rest.roots)
            trils.append(tril if standard is None else standard.root(tril))
        rows = Rows(partial(_densities, self.program), (self.data, rest.parameters))
        designs = [jnp.asarray(design, dtype) for design in self.designs]
        return Blocks(self.pattern, rows, offset, designs, trils, self.flat)

    def zeros(self) -> Whitened:
        """Whitened effects of zero, where a search for their modes begins."""
        return Whitened.zeros(self.pattern, jnp.result_type(float))

    def effects(self, rest: Rest, whitened: Whitened) -> dict[str, Array]:
        """Values of the sites that are integrated out, from whitened ones in the blocks' units."""
        return self._values(self.system(rest).effects(whitened)) if self.blocks else {}

    def _values(self, tables: Tables) -> dict[str, Array]:
        found = site_tables(self.blocks, self.standards, tables)
        site = self.data.mean.site
        if site in found:
            found[site] = found[site] + self._center()
        return found

    def draw(self, rest: Rest, uniform: Float[Array, "d groups"]) -> dict[str, Array]:
        """The effects of one grouping from their conditional, to be traced."""
        return self._values(self.integrand(rest).draw_groups(uniform))

    def covariance(self, rest: Rest, whitened: Whitened, block: int) -> Float[Array, "D D"]:
        """Covariance of the effects of a block, not the leading one, about the modes."""
        system = self.system(rest)
        predictor = system.offset + system.added(whitened)
        weight = system.rows.differentiate(predictor).weight
        sums = collect_statistics(self.pattern, system.designs, jnp.zeros_like(weight), weight)
        one = jnp.ones((), weight.dtype)
        found = block_covariance(self.pattern, sums, system.trils, one, block, self.flat)
        standard = self.standards[block]
        if standard is None:
            return found
        backward = jnp.asarray(standard.backward, found.dtype)
        return backward @ found @ backward.T

    def _kept(self, values: Mapping[str, Array]) -> Float[Array, " n"]:
        """The linear predictor of what stays, the coefficients at their centre if they don't."""
        mean, site = self.data.mean, self.data.mean.site
        kept = tuple(t for t in mean.groups if t.effects_site not in self.sites)
        centre = {site: self._center()} if site in self.sites else {}
        return replace(mean, groups=kept)(centre | dict(values))

    def _center(self) -> Float[Array, " p"]:
        prior: Any = self.data.priors[self.data.mean.site]
        return jnp.asarray(prior.mean, jnp.result_type(float))

    def _root(self, block: Block, roots: Mapping[str, Array]) -> Float[Array, "d d"]:
        """Lower factor of a block's prior covariance."""
        if _holds(block, self.data.mean.site):
            return jnp.eye(block.dim) if self.flat else roots[self.data.mean.site]
        return jax.scipy.linalg.block_diag(*(roots[layout.name] for layout in block.layouts))


def _holds(block: Block, site: str) -> bool:
    return any(layout.name == site for layout in block.layouts)


def _densities(program: MixedProgram, predictor: Array, parameters: Any) -> Array:
    """Log densities of the rows, by what they depend on."""
    data, own = parameters
    return program.log_densities(data, predictor, own)


def integrated(integral: Integral) -> None:
    """The NumPyro model of all that is left."""
    value, _ = integral.evidence(integral.rest())
    numpyro.factor(f"{integral.data.response_name}_evidence", value)


def _prior(integral: Integral) -> Rest:
    """The same without the observations."""
    return integral.rest()


@jax.tree_util.register_pytree_node_class
class IntegralDensity(Potential):
    """Density of what is left of a mixed model, over one unconstrained vector."""

    @classmethod
    def of_integral(cls, integral: Integral) -> "IntegralDensity":
        """The density in standard coordinates."""
        coordinates = mixed_coordinates(integral.program, integral.data)
        return cls(integrated, (integral,), {}, coordinates)

    @property
    def prior(self) -> Any:
        """All that is left without the integral, which is dear to trace."""
        return _prior

    @property
    def integral(self) -> Integral:
        """The model with its data."""
        found: Integral = self.args[0]
        return found

    def start(self) -> np.ndarray:
        """Units of the columns for scales, prior means for coefficients, shares for cutpoints."""
        data = self.integral.data
        likelihood = self.integral.program.likelihood.coded(data.num_levels)
        weight = None if data.weight is None else np.asarray(data.weight, np.float64)
        score = 0.0 if data.mean.offset is None else float(np.mean(data.mean.offset))
        if data.mean.names:
            prior: Any = data.priors[data.mean.site]
            score += float(np.mean(data.population @ prior.mean))
        first = likelihood.start(np.asarray(data.response, np.float64), weight, score)
        inner = self._split(self.vector)
        if not first.keys() & inner.keys():
            return np.array(self.vector, np.float64)
        inner = self.unravel(self.vector)
        for site in first.keys() & inner.keys():
            law: Any = data.priors[site]
            inner[site] = biject_to(law.support).inv(jnp.asarray(first[site], self.vector.dtype))
        return np.asarray(self.ravel(inner), np.float64)

    def latents(self, vector: Array) -> dict[str, Array]:
        """Values of the sites that are left, to be traced; does not touch the observations."""
        values = constrain_fn(_prior, self.args, {}, self.unravel(vector))
        return {name: values[name] for name in self.sites}

    def rest(self, latents: Mapping[str, Array]) -> Rest:
        """All that is left, from the values of its sites, to be traced."""
        with numpyro.handlers.block(), numpyro.handlers.seed(rng_seed=0):
            found: Rest = numpyro.handlers.substitute(_prior, data=dict(latents))(self.integral)
        return found

    def log_prior(self, latents: Mapping[str, Array]) -> Array:
        """Log density of the sites' own values, to be traced."""
        found: Array = log_density(_prior, self.args, {}, dict(latents))[0]
        return found

    def log_prior_of(self, vector: Array) -> Array:
        """Log density without the observations at a vector, to be traced."""
        found: Array = -potential_energy(_prior, self.args, {}, self.unravel(vector))
        return found

    def value_from(self, vector: Array, start: Whitened) -> tuple[Array, Whitened]:
        """Log density, and modes of what is integrated out, searched from others; to be traced."""
        rest = self.rest(self.latents(vector))
        evidence, modes = self.integral.evidence(rest, start)
        return evidence + self.log_prior_of(vector), modes

    def drawn(self, vector: Array, uniform: Float[Array, "d groups"]) -> dict[str, Array]:
        """All sites at a vector, the effects of the grouping drawn, to be traced."""
        values = constrain_fn(
            _prior, self.args, {}, self.unravel(vector), return_deterministic=True
        )
        rest = self.rest({name: values[name] for name in self.sites})
        return {**values, **self.integral.draw(rest, uniform)}
