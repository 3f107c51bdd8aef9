"""Cutpoints of ordinal ratings given their scores: a Metropolis step along Newton's."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from probmf.inference.point.cutpoints import cutpoint_sums
from probmf.likelihoods import Likelihood

#: Ratings looked at at once.
BLOCK = 1 << 15


class Quadratic(NamedTuple):
    """The log density about one point.

    Attributes:
        gradient: Its gradient.
        precision: Minus its Hessian; tridiagonal.
    """

    gradient: Float[Array, " c"]
    precision: Float[Array, "c c"]


def draw_cutpoints(
    key: Array,
    cutpoints: Float[Array, " c"],
    scores: Float[Array, " n"],
    rating: Float[Array, " n"],
    likelihood: Likelihood,
    scale: Array,
) -> tuple[Float[Array, " c"], Array]:
    """One Metropolis-Hastings update of the cutpoints, the latent variables integrated out.

    The proposal is Normal about the end of a Newton step, with the inverse of minus the Hessian as
    its covariance; the log density is concave, and with many ratings nearly all are accepted.

    Also tells whether the proposal was accepted.
    """
    noise_key, accept_key = jax.random.split(key)
    here, _ = _expand(cutpoints, cutpoints, scores, rating, likelihood, scale)
    noise = jax.random.normal(noise_key, cutpoints.shape, cutpoints.dtype)
    proposed = _newton(cutpoints, here) + jax.scipy.linalg.solve_triangular(
        jnp.linalg.cholesky(here.precision), noise, trans=1, lower=True
    )
    inside = jnp.all(jnp.diff(proposed) > 0)
    # Where they don't increase the densities mean nothing; the step is refused below.
    proposed = jnp.where(inside, proposed, cutpoints)
    there, gain = _expand(proposed, cutpoints, scores, rating, likelihood, scale)
    ratio = gain + _log_proposal(cutpoints, proposed, there)
    ratio = ratio - _log_proposal(proposed, cutpoints, here)
    accepted = inside & (jnp.log(jax.random.uniform(accept_key, (), scores.dtype)) < ratio)
    return jnp.where(accepted, proposed, cutpoints), accepted


def _newton(cutpoints: Array, about: Quadratic) -> Array:
    return cutpoints + jnp.linalg.solve(about.precision, about.gradient)


def _log_proposal(to: Array, start: Array, about: Quadratic) -> Array:
    """Log density of proposing `to` from `start`, up to a constant."""
    apart = to - _newton(start, about)
    return 0.5 * (jnp.linalg.slogdet(about.precision)[1] - apart @ about.precision @ apart)


def _expand(
    at: Array, base: Array, scores: Array, rating: Array, likelihood: Likelihood, scale: Array
) -> tuple[Quadratic, Array]:
    """Gradient and curvature at `at`, and the log density there less that at `base`.

    The difference is summed rating by rating: that of two sums over a million ratings would be
    lost in single precision.
    """
    size = -(-len(scores) // BLOCK) * BLOCK if len(scores) > BLOCK else len(scores)
    pad = size - len(scores)
    block = min(BLOCK, size)
    weight = jnp.pad(jnp.ones_like(scores), (0, pad)).reshape(-1, block)
    padded = [jnp.pad(x, (0, pad), mode="edge").reshape(-1, block) for x in (scores, rating)]

    def one(total: tuple, part: tuple) -> tuple:
        score, rating, weight = part
        sums = _block_sums(at, base, score, rating, weight, likelihood)
        return jax.tree.map(jnp.add, total, sums), None

    count = likelihood.num_levels - 1
    empty = jnp.zeros(count, scores.dtype)
    start = (empty, empty, jnp.zeros(count - 1, scores.dtype), jnp.zeros((), scores.dtype))
    (gradient, diagonal, beside, gain), _ = lax.scan(one, start, (*padded, weight))
    gradient = gradient - at / jnp.square(scale)
    precision = jnp.diag(diagonal + 1.0 / jnp.square(scale))
    precision = precision - jnp.diag(beside, 1) - jnp.diag(beside, -1)
    gain = gain - 0.5 * jnp.sum((at - base) * (at + base)) / jnp.square(scale)
    return Quadratic(gradient, precision), gain


def _block_sums(
    at: Array, base: Array, score: Array, rating: Array, weight: Array, likelihood: Likelihood
) -> tuple:
    sums = cutpoint_sums(score, rating, weight, at, likelihood)
    here, there = (likelihood.loss(score, rating, {"cutpoints": point}) for point in (at, base))
    gain = jnp.sum(weight * (there - here))
    return -sums.gradient, sums.diagonal, -sums.beside, gain
