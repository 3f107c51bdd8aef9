"""Ordered cutpoints, and the probability that noise about a score lies between two of them.

Levels are told apart by the midpoints between them, and all loops over levels are unrolled: in a
compiled program they are elementwise operations, without a gather.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, constraints

from probmf.likelihoods.links import LINKS, LinkName

#: Stands for an infinite end of an interval; its square is finite in single precision.
FAR = 1e10


def cutpoint(cutpoints: Array, place: int) -> Array:
    """One of the cutpoints; leading axes broadcast against the scores."""
    return jnp.asarray(cutpoints)[..., place]


def edges(rating: Array, cutpoints: Array, levels: Sequence[float]) -> tuple[Array, Array]:
    """The cutpoints below and above a rating's level, -FAR and FAR at the ends."""
    lower, upper = jnp.asarray(-FAR), jnp.asarray(FAR)
    between = _middles(levels)
    for place, middle in enumerate(between):
        lower = jnp.where(rating > middle, cutpoint(cutpoints, place), lower)
    for place, middle in reversed(list(enumerate(between))):
        upper = jnp.where(rating < middle, cutpoint(cutpoints, place), upper)
    return lower, upper


def _middles(levels: Sequence[float]) -> list[float]:
    """Midpoints between the levels."""
    return [0.5 * (low + high) for low, high in pairwise(levels)]


def log_level(
    scores: Array, rating: Array, cutpoints: Array, levels: Sequence[float], link: LinkName
) -> Array:
    """Log of the probability of a rating's level.

    Args:
        scores: The scores.
        rating: Ratings, each at one of the levels.
        cutpoints: Cutpoints on the last axis.
        levels: The K increasing levels.
        link: The link, whose distribution function F is.

    Returns:
        The logarithms. For the logit what the width of the interval gives is taken once for each
        level, and one exponential at either end does for the rest, derivatives included.
    """
    lower, upper = edges(rating, cutpoints, levels)
    if link != "logit":
        return log_interval(lower - scores, upper - scores, link)
    log_cdf = LINKS[link].log_cdf
    share, between = jnp.zeros(()), _middles(levels)
    for place, middle in enumerate(between[:-1]):
        width = cutpoint(cutpoints, place + 1) - cutpoint(cutpoints, place)
        share = jnp.where(rating > middle, _log_logit_share(width), share)
    share = jnp.where(rating > between[-1], 0.0, share)
    return log_cdf(upper - scores) + log_cdf(scores - lower) + share


def _log_logit_share(width: Array) -> Array:
    """Log of the share of F(b) F(-a) that the logit's interval of a width b - a has."""
    return jnp.log(-jnp.expm1(-width))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def log_interval(a: Array, b: Array, link: LinkName) -> Array:
    r"""Log of :math:`F(b) - F(a)`, :math:`a < b`, right in the tails and where b is near a.

    For the logit :math:`F(b)\, F(-a)\, (1 - e^{a - b})` has no cancellation.
    """
    if link == "logit":
        either = LINKS[link].log_cdf(b) + LINKS[link].log_cdf(-a)
        return either + _log_logit_share(b - a)
    return _log_normal_interval(a, b)


def _log_normal_interval(a: Array, b: Array) -> Array:
    r"""An interval above zero is mirrored.

    A narrow one about m of half width h is :math:`2 h \phi(m) \exp((m^2 - 1) h^2 / 6)` up to
    fourth powers of h and m h.
    """
    log_cdf = LINKS["probit"].log_cdf
    mirrored = a + b > 0
    a, b = jnp.where(mirrored, -b, a), jnp.where(mirrored, -a, b)
    middle, half = 0.5 * (a + b), 0.5 * (b - a)
    narrow = half * (1 + jnp.abs(middle)) < (180 * jnp.finfo(a.dtype).eps) ** 0.2
    top = log_cdf(b)
    ratio = jnp.where(narrow, -1.0, log_cdf(a) - top)
    share = jnp.where(ratio > -0.7, jnp.log(-jnp.expm1(ratio)), jnp.log1p(-jnp.exp(ratio)))
    # The other branch's values are kept finite.
    half, middle = jnp.where(narrow, half, 1.0), jnp.where(narrow, middle, 0.0)
    series = jnp.log(2 * half) + (jnp.square(middle) - 1) * jnp.square(half) / 6
    return jnp.where(narrow, LINKS["probit"].log_density(middle) + series, top + share)


@log_interval.defjvp
def _log_interval_jvp(
    link: LinkName, primals: tuple[Array, Array], tangents: tuple[Any, Any]
) -> tuple:
    a, b = primals
    value = log_interval(a, b, link)
    at_a, at_b = end_densities(a, b, value, link)
    return value, at_b * tangents[1] - at_a * tangents[0]


def end_densities(a: Array, b: Array, log_mass: Array, link: LinkName) -> tuple[Array, Array]:
    """Densities at the ends of an interval, given that it is hit: f(a) / P and f(b) / P."""
    log_density = LINKS[link].log_density
    return jnp.exp(log_density(a) - log_mass), jnp.exp(log_density(b) - log_mass)


def interval_slope(a: Array, b: Array, link: LinkName) -> Array:
    """Slope of the log of an interval's probability as the score rises: (f(a) - f(b)) / P.

    For the probit it is the mean of a standard Normal between a and b, and never leaves the
    interval; for the logit it is F(a) + F(b) - 1.
    """
    if link == "logit":
        return LINKS[link].cdf(a) - LINKS[link].cdf(-b)
    at_a, at_b = end_densities(a, b, log_interval(a, b, link), link)
    return jnp.clip(at_a - at_b, a, b)


def interval_probability(a: Array, b: Array, link: LinkName, sd: Any = None) -> Array:
    """Probability of an interval, or its mean where both ends are shifted by one Normal variable.

    Ends are seen from the score's mean.
    """
    if sd is None:
        return jnp.exp(log_interval(a, b, link))
    if link == "probit":
        width = jnp.sqrt(1 + jnp.square(sd))
        return jnp.exp(log_interval(a / width, b / width, link))
    # Differences of the smaller tails.
    mirrored = a + b > 0
    a, b = jnp.where(mirrored, -b, a), jnp.where(mirrored, -a, b)
    expected_cdf = LINKS[link].expected_cdf
    return jnp.maximum(expected_cdf(b, sd) - expected_cdf(a, sd), 0.0)


class OrderedNormal(Distribution):
    r"""Independent Normal(m, scale) numbers put in order.

    The density is :math:`n! \prod_k N(c_k; m, s^2)` on the increasing vectors: proper and
    log-concave.

    Args:
        scale: Standard deviation s before they are put in order.
        size: How many numbers, n.
        loc: Their mean m.
        validate_args: As for all of NumPyro's distributions.
    """

    arg_constraints = {  # noqa: RUF012 (as NumPyro has it)
        "scale": constraints.positive, "loc": constraints.real,
    }  # fmt: skip
    support = constraints.ordered_vector
    reparametrized_params = ["scale", "loc"]  # noqa: RUF012

    def __init__(
        self, scale: Any, size: int, *, loc: Any = 0.0, validate_args: bool | None = None
    ) -> None:
        """Keep scale and mean."""
        self.scale, self.loc = scale, loc
        super().__init__((), (size,), validate_args=validate_args)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Float[Array, "... n"]:
        """Sorted draws."""
        draws = jax.random.normal(key, (*sample_shape, *self.event_shape))
        return self.loc + jnp.sort(self.scale * draws, axis=-1)

    def log_prob(self, value: Any, intermediates: Any = None) -> Any:
        """Log density; that the values increase is not checked."""
        value = jnp.asarray(value)
        size = self.event_shape[0]
        density = LINKS["probit"].log_density((value - self.loc) / self.scale)
        each = density - jnp.log(jnp.asarray(self.scale, value.dtype))
        return jnp.sum(each, axis=-1) + math.lgamma(size + 1)


class Ordered(Distribution):
    r"""A rating at one of K levels, :math:`P(r \le \ell_k) = F(c_k - \eta)`.

    Args:
        scores: The scores :math:`\eta`.
        cutpoints: The K - 1 increasing cutpoints.
        levels: The K levels, increasing numbers.
        link: The link, whose distribution function F is.
        validate_args: As for all of NumPyro's distributions.
    """

    arg_constraints = {  # noqa: RUF012
        "scores": constraints.real, "cutpoints": constraints.ordered_vector,
    }  # fmt: skip
    support = constraints.real
    pytree_aux_fields = ("levels", "link")

    def __init__(
        self,
        scores: Any,
        cutpoints: Any,
        levels: tuple[float, ...],
        link: LinkName,
        *,
        validate_args: bool | None = None,
    ) -> None:
        """Keep the parameters."""
        self.scores, self.cutpoints, self.levels, self.link = scores, cutpoints, levels, link
        super().__init__(jnp.shape(scores), (), validate_args=validate_args)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Levels of latent variables about the scores."""
        noise = LINKS[self.link].noise(key, (*sample_shape, *self.batch_shape))
        latent = jnp.broadcast_to(self.scores, noise.shape) + noise
        return level_of(latent, self.cutpoints, self.levels)

    def log_prob(self, value: Any, intermediates: Any = None) -> Any:
        """Log probability of the level nearest to the value."""
        return log_level(self.scores, value, self.cutpoints, self.levels, self.link)


def level_of(latent: Array, cutpoints: Array, levels: Sequence[float]) -> Array:
    """The level that a latent number falls in."""
    rating = jnp.full_like(latent, levels[0])
    for place, level in enumerate(levels[1:]):
        rating = jnp.where(latent > cutpoint(cutpoints, place), level, rating)
    return rating
