"""Slice sampling of many independent numbers at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

#: Widths that an interval is stretched by at most, on each side.
MOST_STEPS = 64


def slice_sample(
    key: Array,
    start: Float[Array, "..."],
    log_density: Callable[[Array], Array],
    width: Float[Array, "..."],
) -> Float[Array, "..."]:
    """One update of each number by slice sampling with stepping out and shrinkage.

    Leaves the distribution invariant whatever the width; a width of a few standard deviations
    makes it quick.

    `log_density` gives the log density of each of the values, up to constants.

    References:
        Neal (2003), Slice sampling, figures 3 and 5.
    """
    level_key, place_key, share_key, shrink_key = jax.random.split(key, 4)
    uniform = jax.random.uniform
    level = log_density(start) + jnp.log1p(-uniform(level_key, start.shape, start.dtype))
    left = start - width * uniform(place_key, start.shape, start.dtype)
    right = left + width
    steps = jnp.floor(MOST_STEPS * uniform(share_key, start.shape, start.dtype))

    def stretch(edge: Array, by: Array, budget: Array) -> Array:
        def inside(state: tuple[Array, Array]) -> Array:
            edge, budget = state
            return (budget > 0) & (log_density(edge) > level)

        def out(state: tuple[Array, Array]) -> tuple[Array, Array]:
            moving = inside(state)
            return jnp.where(moving, state[0] + by, state[0]), state[1] - moving

        return lax.while_loop(lambda state: jnp.any(inside(state)), out, (edge, budget))[0]

    left = stretch(left, -width, steps)
    right = stretch(right, width, MOST_STEPS - 1 - steps)

    def shrink(state: tuple) -> tuple:
        key, left, right, value, done = state
        key, draw = jax.random.split(key)
        proposed = left + (right - left) * uniform(draw, start.shape, start.dtype)
        accepted = log_density(proposed) >= level
        value = jnp.where(done, value, jnp.where(accepted, proposed, value))
        left = jnp.where(~accepted & (proposed < start), proposed, left)
        right = jnp.where(~accepted & (proposed >= start), proposed, right)
        # In rounding the interval can close on the start itself, which is on the slice. What is not
        # a number ends, too.
        return key, left, right, value, done | accepted | ~(right - left > 0)

    state = (shrink_key, left, right, start, jnp.zeros(start.shape, bool))
    return lax.while_loop(lambda state: ~jnp.all(state[4]), shrink, state)[3]
