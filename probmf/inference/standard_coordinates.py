"""Standard coordinates of mixed models: what a sampler moves in is of one size in all units."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
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


@partial(
    jax.tree_util.register_dataclass, data_fields=["columns", "center", "prior", "unit"],
    meta_fields=["site", "coefficients"],
)  # fmt: skip
@dataclass(frozen=True)
class Level:
    """A site of increasing numbers that the linear predictor is compared with, as cutpoints are.

    Its first unconstrained value is where the predictor would be with all columns at their means,
    and a standard one; or without coefficients beside it so many units of standard ones.

    Attributes:
        site: The site.
        coefficients: Site of the coefficients.
        columns: Means of their columns.
        center: The predictor's mean without them.
        prior: Prior means of the coefficients.
        unit: The unit.
    """

    site: str
    coefficients: str
    columns: Float[np.ndarray, " p"]
    center: float
    prior: Float[np.ndarray, " p"]
    unit: float

    def moved(self, value: Array, values: Mapping[str, Array], *, back: bool = False) -> Array:
        """The site's unconstrained values from standard ones, or back, beside all sites' values."""
        first, columns = value[..., :1], jnp.asarray(self.columns, value.dtype)
        beta, unit = jnp.asarray(self.prior, value.dtype), self.unit
        if self.coefficients in values:
            beta, unit = values[self.coefficients], 1.0
        shift = self.center + jnp.sum(beta * columns, axis=-1, keepdims=True)
        first = (first - shift) / unit if back else shift + unit * first
        return jnp.concatenate([first, value[..., 1:]], axis=-1)


class Coordinates(NamedTuple):
    """Affine maps of unconstrained values, by site; sites without one keep theirs.

    Attributes:
        by_site: The maps.
        level: A site that moves along with coefficients, or None.
    """

    by_site: Mapping[str, Coordinate]
    level: Level | None = None

    def apply(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Unconstrained values from standard ones."""
        found = dict(values)
        # Not a set of names, whose order, and with it the program's, differs between processes.
        for name in filter(values.__contains__, self.by_site):
            one, value = self.by_site[name], values[name]
            if one.matrix is not None:
                value = value @ jnp.asarray(one.matrix.T, value.dtype)
            found[name] = value + one.center_of(value)
        if self.level is not None and (site := self.level.site) in values:
            found[site] = self.level.moved(found[site], found)
        return found

    def log_volume(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Logarithm of the volume of unconstrained values by that of standard ones."""
        level, own = self.level, 0.0
        if level is not None and level.site in shapes and level.coefficients not in shapes:
            own = float(np.log(level.unit))
        return own + sum(
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
        if self.level is not None and (site := self.level.site) in values:
            found[site] = self.level.moved(values[site], values, back=True)
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
    own = program.likelihood.learned
    learned = next((n for n in own if isinstance(data.priors.get(n), Distribution)), None)
    found = _of_predictor(data.mean, data.priors, unit, centred=learned is not None)
    if data.noise is not None:
        found |= _of_predictor(data.noise, data.priors, 1.0)
    if _is_logarithmic(data.priors.get("noise_scale")):
        found["noise_scale"] = Coordinate(np.log(np.asarray(unit)))
    return Coordinates(found, None if learned is None else _level(learned, data))


def _level(site: str, data: MixedData) -> Level:
    """Learned numbers in place of an intercept."""
    mean, columns = data.mean, np.asarray(data.mean.population, np.float64)
    prior: Any = data.priors[mean.site].mean if mean.names else np.zeros(0)
    beside = np.column_stack([np.ones(len(columns)), columns])
    unit = float(np.linalg.norm(orthogonalize(beside)[1].backward[0]))
    center = 0.0 if mean.offset is None else float(np.mean(mean.offset))
    return Level(site, mean.site, columns.mean(axis=0), center, np.asarray(prior), unit)


def _of_predictor(
    predictor: Predictor, priors: Mapping[str, Any], unit: float, *, centred: bool = False
) -> dict[str, Coordinate]:
    found: dict[str, Coordinate] = {}
    if predictor.names:
        center = np.asarray(priors[predictor.site].mean, np.float64)
        columns = np.asarray(predictor.population, np.float64)
        if centred:
            columns = columns - columns.mean(axis=0)
        found[predictor.site] = _of_columns(columns, center, unit)
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
