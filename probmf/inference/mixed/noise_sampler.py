"""Draws of Normal mixed models with effects in the noise, all effects integrated out.

Given the effects in the noise those of the mean are integrated out exactly, group by group; the
former by quadrature. What is left are coefficients, scales and correlations.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array, Float
from numpyro.infer.util import constrain_fn

from probmf.data import wrap_words
from probmf.effects.conditional_draws import draw_effects_of_groups
from probmf.effects.noise_effects import NoiseGroups
from probmf.effects.pattern import Grouping, Pattern, make_pattern
from probmf.effects.quadrature import MAX_DIM, held_integrals
from probmf.inference.drawn_back import PIECE, SiteArrays, drawn_back
from probmf.inference.potential import Potential
from probmf.inference.standard_coordinates import mixed_coordinates
from probmf.inference.vector_draws import VectorDraws, draw_vectors
from probmf.models.mixed.arrays import GroupTerm, MixedData, Predictor
from probmf.models.mixed.program import MixedProgram

#: Nodes for each effect, by the number of effects: of the Stroop data's 50 groups together the
#: logarithm is off by 6e-5, and by 2e-3 with two nodes less.
NODES = {1: 15, 2: 7}


def has_noise_integral(data: MixedData) -> bool:
    """True where the integral serves: one grouping, with one or two effects in the noise.

    Args:
        data: Argument of a model with a Normal or log-normal response.
    """
    if data.noise is None or not data.noise.groups or data.weight is not None:
        return False
    terms = [*data.noise.groups, *data.groups]
    group = np.asarray(terms[0].group)
    alone = all(np.array_equal(group, np.asarray(term.group)) for term in terms[1:])
    return alone and sum(len(term.names) for term in data.noise.groups) <= MAX_DIM


@partial(jax.tree_util.register_dataclass, data_fields=["data", "pattern"], meta_fields=["program"])
@dataclass(frozen=True, eq=False)
class NoiseIntegral:
    """A mixed model with its data, all effects of one grouping integrated out; a pytree.

    Attributes:
        program: The model, centred.
        data: Its argument; see `has_noise_integral`.
        pattern: The group of each row.
    """

    program: MixedProgram
    data: MixedData
    pattern: Pattern

    @classmethod
    def of(cls, program: MixedProgram, data: MixedData) -> "NoiseIntegral":
        """The integral of a model with its data."""
        term = data.noise.groups[0] if data.noise is not None else data.groups[0]
        group = np.asarray(term.group)
        return cls(program, data, make_pattern([Grouping(term.name, group, term.num_groups, 1)]))

    @property
    def noise(self) -> Predictor:
        """The predictor of the noise's logarithm."""
        if self.data.noise is None:
            raise ValueError("The noise has no predictor; see has_noise_integral.")
        return self.data.noise

    def groups(self) -> NoiseGroups:
        """The integrands, given coefficients, scales and correlations: samples these."""
        data, program, noise = self.data, self.program, self.noise
        values = program.coefficients(data.mean, data.priors, data.mixing)
        values |= program.coefficients(noise, data.priors)
        columns = self._columns(data.groups)
        own = self._columns(noise.groups)
        mean = replace(data.mean, groups=())(values)
        log_scale = replace(noise, groups=())(values)
        response = program.likelihood.to_score(data.response)
        number, within = jnp.ones_like(mean), jnp.zeros_like(mean)
        if data.cells is not None:
            number, within = jnp.asarray(data.cells.count), jnp.asarray(data.cells.within)
        return NoiseGroups(response - mean, log_scale, number, within, self.pattern, columns, own)

    def _columns(self, terms: tuple[GroupTerm, ...]) -> Float[Array, "n d"]:
        """Columns of all effects times their priors' factor; one of zeros where there are none."""
        found = []
        for term in terms:
            scale, root = self.program.scales(term, self.data.priors)
            found.append(term.z * scale[None] if root is None else term.z @ root)
        return jnp.concatenate(found, axis=1) if found else jnp.zeros((len(self.pattern.group), 1))

    def effects(self, whitened: Float[Array, "groups q"], roots: Any) -> dict[str, Array]:
        """Effects in the noise by site, from whitened ones."""
        found, start = {}, 0
        for term, (scale, root) in zip(self.noise.groups, roots, strict=True):
            own = whitened[:, start : start + len(term.names)]
            found[term.effects_site] = own * scale[None] if root is None else own @ root.T
            start += len(term.names)
        return found


def _prior(integral: NoiseIntegral) -> NoiseGroups:
    """All that is left, sampled."""
    return integral.groups()


def integrated(integral: NoiseIntegral) -> None:
    """The NumPyro model of all that is left."""
    groups = integral.groups()
    logs, _ = held_integrals(groups, NODES[groups.columns.shape[1]])
    numpyro.factor(f"{integral.data.response_name}_evidence", jnp.sum(logs))


@jax.tree_util.register_pytree_node_class
class NoiseDensity(Potential):
    """Density of what is left, over one unconstrained vector, but for the response's Jacobian."""

    @classmethod
    def of(cls, program: MixedProgram, data: MixedData) -> "NoiseDensity":
        """That of a model with its data, in standard coordinates."""
        coordinates = mixed_coordinates(program, data)
        return cls(integrated, (NoiseIntegral.of(program, data),), {}, coordinates)

    @property
    def prior(self) -> Any:
        """All that is left without the integral."""
        return _prior

    @property
    def integral(self) -> NoiseIntegral:
        """The model with its data."""
        found: NoiseIntegral = self.args[0]
        return found

    def drawn(self, vector: Array, words: Array) -> dict[str, Array]:
        """All sites but the mean's effects at a vector, those in the noise drawn; to be traced."""
        values = constrain_fn(_prior, self.args, {}, self.unravel(vector))
        integral = self.integral
        with (
            numpyro.handlers.block(),
            numpyro.handlers.seed(rng_seed=0),
            numpyro.handlers.substitute(data=values),
        ):
            groups, terms = integral.groups(), integral.noise.groups
            roots = [integral.program.scales(term, integral.data.priors) for term in terms]
        shape, dtype = (groups.columns.shape[1], groups.num_groups), groups.columns.dtype
        uniform = jax.random.uniform(wrap_words(words), shape, dtype)
        whitened = draw_effects_of_groups(groups, uniform)
        return {name: values[name] for name in self.sites} | integral.effects(whitened, roots)


def sample_noise(
    program: MixedProgram,
    data: MixedData,
    num_samples: int,
    key: Array,
    *,
    limit: int,
    progress: bool | None,
) -> tuple[VectorDraws, SiteArrays]:
    """Draw from the posterior of all but the mean's effects.

    Args:
        program: The model, centred.
        data: Its argument; see `has_noise_integral`.
        num_samples: Draws wanted; by NUTS as many, or a few more, in chains of one length.
        key: JAX key.
        limit: The most proposals.
        progress: Show a bar.

    Returns:
        The draws of what is left, and the sites at them, (chain, draw, ...).

    Raises:
        NoStartError: If the density is finite nowhere that chains could start.
        KeyboardInterrupt: After an interruption before there are draws that can be trusted.
    """
    vector_key, draw_key = jax.random.split(key)
    density = NoiseDensity.of(program, data)
    found = draw_vectors(density, num_samples, vector_key, limit, progress)
    chains, draws, _ = found.vectors.shape
    words = np.asarray(jax.random.key_data(jax.random.split(draw_key, (chains, draws))))
    vectors, size = found.vectors.astype(density.vector.dtype), min(PIECE, draws)
    run = density.compiled(_drawn, vectors[:, :size], words[:, :size])

    def draw(at: np.ndarray) -> SiteArrays:
        own: SiteArrays = jax.device_get(run(density, vectors[:, at], words[:, at]))
        return own

    return found, drawn_back(draw, draws, size)


def _drawn(density: NoiseDensity, vectors: Array, words: Array) -> dict[str, Array]:
    flat = vectors.reshape(-1, vectors.shape[-1]), words.reshape(-1, words.shape[-1])
    found = jax.lax.map(lambda both: density.drawn(*both), flat)
    return {name: own.reshape(*vectors.shape[:2], *own.shape[1:]) for name, own in found.items()}
