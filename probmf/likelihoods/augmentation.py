r"""Latent variables that make a likelihood Gaussian in the score: Polya-Gamma and normal.

Both are drawn exactly (to the resolution of uniform numbers), for arrays of any shape, by
rejection rounds that go on until every entry is accepted. What is not a number is accepted as it
is: no loop waits for it. A draw depends on the key and on its place in the array, not on how long
the array is.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float

#: Where the two forms of the Jacobi density meet.
CUT = 0.64
#: Standard deviations beyond which a normal tail is drawn by rejection, not by inversion.
FAR = 5.0


def draw_polya_gamma(key: Array, score: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Draws of :math:`\omega \sim PG(1, \eta)`, exactly.

    With :math:`\omega` known, :math:`e^{r \eta} / (1 + e^\eta)` is proportional to
    :math:`\exp((r - 1/2) \eta - \omega \eta^2 / 2)`, a Gaussian in :math:`\eta`.

    Their mean is :math:`\tanh(\eta / 2) / 2 \eta`.

    References:
        Polson, Scott and Windle (2013), section 4; Devroye (2009) for the Jacobi distribution.
        The left part is proposed here from its untilted law where the tilt is small, so that one
        loop does all.
    """
    z = 0.5 * jnp.abs(score)
    steep = z > 1.0 / CUT
    mean = jnp.minimum(1.0 / jnp.maximum(z, 1e-30), CUT)
    rate = 0.125 * np.pi**2 + 0.5 * jnp.square(z)
    tail_mass = ndtr(jnp.asarray(-np.sqrt(1.0 / CUT), z.dtype))
    # Masses of the two envelopes, times e^z where the tilt is steep.
    left = jnp.where(steep, 2.0, 4.0 * tail_mass)
    right = 0.5 * np.pi / rate * jnp.exp(-rate * CUT + jnp.where(steep, z, 0.0))
    share = right / (left + right)

    def propose(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        key, value, done = state
        key, draw = jax.random.split(key)
        u, v, w = _uniforms(draw, 3, z)
        is_right = u < share
        # What is left of u, given the side, is uniform again.
        u = jnp.where(is_right, u / share, (u - share) / (1.0 - share))
        beyond = CUT - jnp.log(v) / rate
        untilted = 1.0 / jnp.square(ndtri(v * tail_mass))
        untilted_ok = jnp.exp(-0.5 * jnp.square(z) * untilted)
        tilted = _inverse_gaussian(mean, jnp.square(ndtri(v)), u)
        below = jnp.where(steep, tilted, untilted)
        x = jnp.where(is_right, beyond, below)
        fine = jnp.where(steep, tilted < CUT, untilted_ok)
        accepted = ~(w >= jnp.where(is_right, 1.0, fine) * _alternating(x))
        return key, jnp.where(done, value, x), done | accepted

    start = (key, jnp.ones_like(z), jnp.zeros(z.shape, bool))
    drawn = 0.25 * lax.while_loop(lambda state: ~jnp.all(state[2]), propose, start)[1]
    return jnp.where(jnp.isnan(score), score, drawn)


def _inverse_gaussian(mean: Array, square: Array, u: Array) -> Array:
    """Inverse Gaussian draws of shape 1 from a chi-square and a uniform number."""
    half = 0.5 * mean * square
    # The smaller root of the quadratic, without cancellation.
    small = mean / (1.0 + half + jnp.sqrt(half * (2.0 + half)))
    return jnp.where(u * (mean + small) <= mean, small, jnp.square(mean) / small)


def _alternating(x: Array) -> Array:
    """Jacobi density over its first term: the terms left out are below 1e-15 of it."""
    power = jnp.exp(jnp.where(x < CUT, -4.0 / x, -(np.pi**2) * x))
    return 1.0 - 3.0 * power + 5.0 * power**3 - 7.0 * power**6


def draw_between(
    key: Array,
    mean: Float[Array, "..."],
    lower: Float[Array, "..."],
    upper: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Draws of Normal(mean, 1) between two bounds, exactly.

    Bounds may be infinite.
    """
    low, high = lower - mean, upper - mean
    # Turned so that the bound nearest to the mean, if it is not between, is the upper one.
    flipped = low + high > 0
    low, high = jnp.where(flipped, -high, low), jnp.where(flipped, -low, high)
    far = high < -FAR
    first, loop = jax.random.split(key)
    (u,) = _uniforms(first, 1, mean)
    from_, to = ndtr(low), ndtr(high)
    inverted = jnp.clip(ndtri(from_ + u * (to - from_)), low, high)
    # In the tail: Rayleigh proposals beyond the bound, accepted with probability |bound / x|.
    edge = jnp.where(far, high, -FAR)
    width = -jnp.expm1(-0.5 * (jnp.square(jnp.where(far, low, -jnp.inf)) - jnp.square(edge)))

    def propose(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        key, value, done = state
        key, draw = jax.random.split(key)
        u, v = _uniforms(draw, 2, mean)
        x = -jnp.sqrt(jnp.square(edge) - 2.0 * jnp.log1p(-u * width))
        return key, jnp.where(done, value, x), done | ~(v * -x >= -edge)

    start = (loop, inverted, ~far)
    drawn = lax.while_loop(lambda state: ~jnp.all(state[2]), propose, start)[1]
    return mean + jnp.where(flipped, -drawn, drawn)


def _uniforms(key: Array, count: int, like: Array) -> Array:
    """So many uniform numbers for each entry, the same for the first entries of a longer array.

    The least is half of their spacing, in place of an exact zero: one in eight million numbers of
    single precision is zero, and a normal quantile of zero, or of the least positive number, is as
    good as infinite.
    """
    least = 0.5 * float(jnp.finfo(like.dtype).eps)
    return jnp.moveaxis(
        jax.random.uniform(key, (*like.shape, count), like.dtype, minval=least), -1, 0
    )
