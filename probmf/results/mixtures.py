"""Quantiles of what was drawn: of draws themselves, and of mixtures of Normals."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float
from scipy.special import ndtri as host_ndtri

from probmf.rows.batches import power_of_two

#: Numbers that one block of (draws, rows) may have.
BLOCK = 1 << 22
#: Steps after which bisection alone has used up a float's digits.
MAX_STEPS = 80
#: Numbers that count as zero and as infinity, in units of a typical component.
TINY, HUGE = 1e-300, 1e300


def tails(interval: float) -> tuple[float, float]:
    """Probabilities below the ends of a central interval."""
    return 0.5 - interval / 2, 0.5 + interval / 2


def row_blocks(num_rows: int, num_draws: int) -> Iterator[slice]:
    """Slices of rows, as many at a time as fit in memory with all their draws."""
    size = max(1, BLOCK // max(1, num_draws))
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))


def mixture_quantiles(
    mean: Float[np.ndarray, "draws n"],
    sd: Float[np.ndarray, "#draws #n"],
    probabilities: Sequence[float],
    weights: Float[np.ndarray, " draws"] | None = None,
) -> list[Float[np.ndarray, " n"]]:
    r"""Quantiles of mixtures of Normals, one mixture per column.

    Solves :math:`\sum_s w_s \Phi((x - m_s) / \sigma_s) = p` by Newton steps kept inside a
    bracket, so that mixtures of several modes are no trouble. Where all standard deviations are
    zero, and the weights equal, these are the quantiles of the draws.

    One column of `sd` stands for all; `weights` sum to one. To about 1e-8 of the size of a typical
    component, however wide or far the others, in a handful of steps of O(draws n).

    Example:
        >>> import numpy as np
        >>> mean, sd = np.array([[-1.0], [1.0]]), np.array([[0.5], [0.5]])
        >>> (middle,) = mixture_quantiles(mean, sd, [0.5])
        >>> abs(middle[0]) < 1e-4
        np.True_
    """
    mean = np.asarray(mean, np.float64)
    if len(mean) == 1:
        return [mean[0] + host_ndtri(p) * np.broadcast_to(sd, mean.shape)[0] for p in probabilities]
    sd = np.broadcast_to(np.asarray(sd, np.float64), mean.shape)
    if weights is None and not sd.any():
        return list(np.quantile(mean, list(probabilities), axis=0))
    share = np.full(len(mean), 1.0 / len(mean)) if weights is None else weights
    # Neither is moved by a component of next to no weight, however far or wide.
    center = np.median(mean, axis=0)
    away = np.minimum(np.maximum(np.hypot(mean - center, sd), TINY), HUGE)
    size = np.exp(share @ np.log(away))
    width = power_of_two(len(center)) - len(center)
    with np.errstate(over="ignore"):
        z, s = (np.clip(x / size, -HUGE, HUGE) for x in (mean - center, sd))
    # A component without width is given one that changes nothing.
    z = np.pad(z, ((0, 0), (0, width)))
    s = np.pad(np.maximum(s, 1e-9), ((0, 0), (0, width)), constant_values=1.0)
    with jax.enable_x64(True):
        found = [np.asarray(_solve(z, s, share, p)) for p in probabilities]
    return [center + size * x[: len(center)] for x in found]


def weighted_quantiles(
    values: Float[np.ndarray, "m n"],
    weights: Float[np.ndarray, " m"],
    probabilities: Sequence[float],
) -> list[Float[np.ndarray, " n"]]:
    """Quantiles of each column of values whose weights sum to one.

    Half of a value's own weight lies below it, and between two values the distribution function is
    a line.

    Example:
        >>> import numpy as np
        >>> weighted_quantiles(np.array([[3.0], [1.0]]), np.array([0.5, 0.5]), [0.5])
        [array([2.])]
    """
    order = np.argsort(values, axis=0)
    ordered, share = np.take_along_axis(values, order, axis=0), weights[order]
    below = np.cumsum(share, axis=0) - 0.5 * share
    columns = list(zip(below.T, ordered.T, strict=True))
    return [np.array([np.interp(p, *column) for column in columns]) for p in probabilities]


@jax.jit
def _solve(mean: Array, sd: Array, share: Array, probability: Array) -> Array:
    # The quantile lies between the least and the largest of the components'. Those may be 1e300
    # wide and the quantile 1: in t, where x = sinh(t), few steps lead from one to the other.
    place = ndtri(jnp.asarray(probability, mean.dtype))
    ends = jnp.arcsinh(jnp.clip(mean + place * sd, -HUGE, HUGE))
    low, high = jnp.min(ends, axis=0), jnp.max(ends, axis=0)
    start = jnp.clip(jnp.arcsinh(place), low, high)

    def unfinished(state: tuple[Array, ...]) -> Array:
        step, *_, moved = state
        return (step < MAX_STEPS) & jnp.any(moved > 1e-8)

    def improve(
        state: tuple[Array, Array, Array, Array, Array],
    ) -> tuple[Array, Array, Array, Array, Array]:
        step, t, low, high, _ = state
        z = (jnp.sinh(t)[None, :] - mean) / sd
        excess = share @ ndtr(z) - probability
        density = share @ (jnp.exp(-0.5 * jnp.square(z)) / sd) / jnp.sqrt(2 * jnp.pi)
        low, high = jnp.where(excess < 0, t, low), jnp.where(excess < 0, high, t)
        new = t - excess / (density * jnp.cosh(t))
        inside = jnp.isfinite(new) & (new >= low) & (new <= high)
        new = jnp.where(inside, new, 0.5 * (low + high))
        return step + 1, new, low, high, jnp.abs(new - t)

    first = (jnp.asarray(0), start, low, high, jnp.full_like(start, jnp.inf))
    return jnp.sinh(lax.while_loop(unfinished, improve, first)[1])
