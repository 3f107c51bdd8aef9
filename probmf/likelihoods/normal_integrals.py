"""Averages over a Normal score: of the logistic and Normal distribution functions, and others."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtr
from jaxtyping import Array

#: The logistic distribution as a mixture of Normals with mean zero: weights, and the reciprocals
#: of their standard deviations (Monahan and Stefanski 1992, eight components).
WEIGHTS = (
    0.003246343272134, 0.051517477033972, 0.195077912673858, 0.315569823632818,
    0.274149576158423, 0.131076880695470, 0.027912418727972, 0.001449567805354,
)  # fmt: skip
PRECISIONS = (
    1.365340806296348, 1.059523971016916, 0.830791313765644, 0.650732166639391,
    0.508135425366489, 0.396313345166341, 0.308904252267995, 0.238212616409306,
)  # fmt: skip

#: Where the exponential function's own error, the square of what it gives, is 2e-9.
TAIL = -10.0
#: Half the width of integrals by the trapezoid rule, in standard deviations.
REACH = 8.5
#: The most steps of such an integral.
MOST_STEPS = 4000


def average(function: Callable[[Array], Any], mean: Any, sd: Any, steepness: Any = 1.0) -> Any:
    """Mean of functions of a Normal variable, by the trapezoid rule.

    Its error falls exponentially with the number of steps, which are half as long as the functions'
    rises are wide.

    `function` takes scores, and gives an array or several, in which each score's entry is a
    function of that score; `steepness` is one over the width of its rises (1 for a sigmoid). Within
    1e-8 where the functions lie between 0 and 1 and their rises are no narrower than sd / 100.
    """
    mean, sd = jnp.asarray(mean), jnp.asarray(sd)
    steepest = jnp.max(sd * jnp.asarray(steepness), initial=1.0)
    count = jnp.clip(jnp.ceil(4 * REACH * steepest), 1, MOST_STEPS)

    def add(step: Array, total: tuple[Any, Array]) -> tuple[Any, Array]:
        z = REACH * (2.0 * (step + 0.5) / count - 1.0)
        mass = jnp.exp(-0.5 * jnp.square(z))
        found = function(mean + z * sd)
        return jax.tree.map(lambda sum_, each: sum_ + mass * each, total[0], found), total[1] + mass

    shapes = jax.eval_shape(lambda: function(mean + sd))
    nothing = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), shapes)
    start = (nothing, jnp.zeros((), mean.dtype))
    found, mass = lax.fori_loop(0, count.astype(jnp.int32), add, start)
    return jax.tree.map(lambda each: each / mass, found)


def sigmoid_moments(mean: Any, sd: Any) -> tuple[Array, Array, Array]:
    """Moments of a sigmoid p whose argument is Normal.

    Means of p, means of p (1 - p), and variances of p, within 1e-8.
    """

    def moments(score: Array) -> tuple[Array, Array]:
        share = jax.nn.sigmoid(score)
        return share, share * jax.nn.sigmoid(-score)

    center, noise = average(moments, mean, sd)
    # E p^2 - (E p)^2 = E p (1 - E p) - E p (1 - p).
    return center, noise, jnp.maximum(center * (1.0 - center) - noise, 0.0)


def host_variance(function: Callable[[np.ndarray], np.ndarray], mean: Any, sd: Any) -> np.ndarray:
    """Variance of a function of a Normal variable, on the host, by the trapezoid rule.

    For a rise that is 1 wide or wider; right to some digits however small it is.
    """
    mean, sd = np.broadcast_arrays(np.asarray(mean, np.float64), np.asarray(sd, np.float64))
    count = int(min(4 * REACH * max(float(np.max(sd, initial=1.0)), 1.0), MOST_STEPS))
    places = REACH * (2.0 * (np.arange(count) + 0.5) / count - 1.0)
    mass = np.exp(-0.5 * np.square(places))
    # About the value at the mean, so that nothing is subtracted from its like.
    center = function(mean)
    first, second = np.zeros(mean.shape), np.zeros(mean.shape)
    for z, weight in zip(places, mass / mass.sum(), strict=True):
        apart = function(mean + z * sd) - center
        first += weight * apart
        second += weight * np.square(apart)
    return np.maximum(second - np.square(first), 0.0)


def expected_sigmoid(mean: Any, sd: Any, cdf: Any = ndtr) -> Any:
    r"""Mean of a sigmoid whose argument is Normal, :math:`E\, 1 / (1 + e^{-\eta})`.

    `cdf` is the Normal distribution function: JAX's, or SciPy's for arrays on the host. Within 3e-9
    of the integrals for any standard deviation, rounding apart; far in the lower tail to four
    digits.

    References:
        Monahan and Stefanski (1992), Normal scale mixture approximations to F*(z) and computation
        of the logistic-normal integral.

    Example:
        >>> from scipy.special import ndtr
        >>> round(float(expected_sigmoid(2.0, 3.0, ndtr)), 7)
        0.717424
    """
    xp: Any = jnp if cdf is ndtr else np
    total = 0.0
    for weight, precision in zip(WEIGHTS, PRECISIONS, strict=True):
        width = xp.sqrt(1.0 + xp.square(precision * sd))
        total = total + weight * cdf(precision * mean / width)
    # Far below zero the sigmoid is an exponential function, less at most its square.
    square = xp.square(sd)
    tail = xp.exp(xp.minimum(mean + 0.5 * square, 0.0))
    return xp.where(mean + 1.5 * square < TAIL, tail, total)
