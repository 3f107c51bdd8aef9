"""Standard coordinates of mixed models: what a sampler moves in is of one size in all units."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution
from numpyro.distributions.transforms import ExpTransform, biject_to

from probmf.effects.standard import orthogonalize
from probmf.models.mixed.arrays import MixedData, Predictor
from probmf.models.mixed.program import MixedProgram


class Coordinate(NamedTuple):
    """One site's: its unconstrained value is center + matrix x, along the last axis.

    Attributes:
        center: The value at zero.
        matrix: Invertible, or None for the identity.
        inverse: Its inverse.
    """

    center: Float[Array | np.ndarray, "..."]
    matrix: Float[Array | np.ndarray, "d d"] | None = None
    inverse: Float[Array | np.ndarray, "d d"] | None = None

    def center_of(self, value: Array) -> Array:
        """The center, as large as a value."""
        return jnp.broadcast_to(jnp.asarray(self.center, value.dtype), jnp.shape(value))


class Coordinates(NamedTuple):
    """Affine maps of unconstrained values, by site; sites without one keep theirs.

    Attributes:
        by_site: The maps.
    """

    by_site: Mapping[str, Coordinate]

    def apply(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Unconstrained values from standard ones."""
        found = dict(values)
        # Not a set of names, whose order, and with it the program's, differs between processes.
        for name in filter(values.__contains__, self.by_site):
            one, value = self.by_site[name], values[name]
            if one.matrix is not None:
                value = value @ jnp.asarray(one.matrix.T, value.dtype)
            found[name] = value + one.center_of(value)
        return found

    def log_volume(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Logarithm of the volume of unconstrained values by that of standard ones."""
        return sum(
            float(np.linalg.slogdet(np.asarray(one.matrix, np.float64))[1])
            * float(np.prod(shapes[name][:-1]))
            for name, one in self.by_site.items()
            if name in shapes and one.matrix is not None
        )

    def invert(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Standard values from unconstrained ones."""
        found = dict(values)
        for name in filter(values.__contains__, self.by_site):
            one, value = self.by_site[name], values[name]
            value = value - one.center_of(value)
            if one.inverse is not None:
                value = value @ jnp.asarray(one.inverse.T, value.dtype)
            found[name] = value
        return found


def mixed_coordinates(program: MixedProgram, data: MixedData) -> Coordinates:
    """Coordinates in which neither the columns' units nor the response's make a difference.

    Coefficients and effects enter by centred columns of one size, orthogonal if they can be, in
    standard deviations of the response; logarithms of scales are taken about these units.
    """
    unit = 1.0
    if data.response is not None:
        # One where responses have no place on the scale of scores.
        unit = float(np.std(program.likelihood.place(np.asarray(data.response, np.float64)))) or 1.0
    found = _of_predictor(data.mean, data.priors, unit)
    if data.noise is not None:
        found |= _of_predictor(data.noise, data.priors, 1.0)
    if _is_logarithmic(data.priors.get("noise_scale")):
        found["noise_scale"] = Coordinate(np.log(np.asarray(unit)))
    return Coordinates(found)


def _of_predictor(
    predictor: Predictor, priors: Mapping[str, Any], unit: float
) -> dict[str, Coordinate]:
    found: dict[str, Coordinate] = {}
    if predictor.names:
        center = np.asarray(priors[predictor.site].mean, np.float64)
        found[predictor.site] = _of_columns(predictor.population, center, unit)
    for term in predictor.groups:
        z = np.asarray(term.z, np.float64)
        found[term.effects_site] = _of_columns(z, np.zeros(z.shape[1]), unit)
        name = f"{term.name}_scale"
        if _is_logarithmic(priors[name]):
            largest = np.max(np.abs(z), axis=0)
            largest = np.where(largest > 0, largest, 1.0)
            size = largest * np.sqrt(np.mean(np.square(z / largest), axis=0))
            found[name] = Coordinate(np.log(unit / np.where(size > 0, size, 1.0)))
    return found


def _of_columns(columns: Any, center: np.ndarray, unit: float) -> Coordinate:
    _, standard = orthogonalize(np.asarray(columns, np.float64))
    return Coordinate(center, unit * standard.backward, standard.forward / unit)


def _is_logarithmic(prior: Any) -> bool:
    """True for a site that is sampled by its logarithm."""
    return isinstance(prior, Distribution) and isinstance(biject_to(prior.support), ExpTransform)
