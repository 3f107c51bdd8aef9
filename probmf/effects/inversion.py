r"""Draws from smooth densities on the line, by the inverse of their distribution functions.

On either side of a centre near its mode, out to where a density has all but vanished, its logarithm
is taken for the polynomial through the nodes of a Gauss-Radau quadrature, which gives the mass:
for a Normal density that is exact, and for others the error is that of a smooth function's
interpolant, however far either tail reaches. From a rough place :math:`F(x) = u` is solved by steps
of the inverse function's series,

.. math::
    x \leftarrow x + h - \tfrac12 \ell' h^2 + \tfrac16 (2 \ell'^2 - \ell'') h^3, \quad
    h = \frac{u - F(x)}{f(x)}, \quad \ell = \log f .
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from numpy.polynomial import legendre, polynomial

#: Degree of the polynomial on either side of the centre.
DEGREE = 8
#: How far a density has fallen at the outermost nodes, in nats, where ends are looked for: the
#: least, aimed at, and the most; and where given ends will do: three millionths lie beyond.
FALL, ENOUGH = (13.0, 15.0, 18.0), (11.0, 24.0)
#: Where that of a Normal density is about what is aimed at, in standard deviations.
FIRST_REACH = 5.6
#: Looks for an end, the most.
MOST_LOOKS = 30
#: Nodes of the integral from the centre to a draw, and steps towards the draw.
NUM_NODES, STEPS = 8, 2
#: Densities that are inverted together, which fit the cache of a core.
BLOCK = 2048
#: Of densities and of places within a side's length: errors of the distribution function are of
#: the polynomial, and single precision takes half the time.
SINGLE = jnp.float32

type LogDensity = Callable[[Float[Array, " m"]], Float[Array, " m"]]


def draw_by_inversion(
    log_density: LogDensity,
    uniform: Float[Array, " m"],
    reach: Float[Array, "2 m"] | None = None,
) -> Float[Array, " m"]:
    """One draw from each of many densities, to be traced.

    Args:
        log_density: Logarithms of all densities, each at its own point, up to constants; zero is
            near each mode, and the curvature there about one.
        uniform: Numbers in (0, 1).
        reach: Distances to the left and right at which the densities may have all but vanished;
            see `find_ends`.

    Returns:
        The points below which those shares of the densities lie. Cost: two looks at every density
        for each degree, and one.
    """
    centre, size = log_density(jnp.zeros_like(uniform)), len(uniform)
    places = np.concatenate([-_radau(DEGREE)[0][:0:-1], _radau(DEGREE)[0][1:]])

    def look(table: _Table) -> _Table:
        """With the ends that are given, and then with others."""
        given = table.reach
        reach = lax.cond(
            table.is_first, lambda: given, lambda: find_ends(log_density, centre, given)
        )

        def one(place: Array) -> Array:
            at = place * jnp.where(place < 0.0, reach[0], reach[1])
            return (log_density(at) - centre).astype(SINGLE)

        logs = jax.vmap(one)(jnp.asarray(places, uniform.dtype))
        fall = -logs[jnp.array([0, -1])]
        will_do = jnp.all((fall >= ENOUGH[0]) & (fall <= ENOUGH[1]))
        return _Table(reach, logs, no, will_do | ~table.is_first)

    no, first = jnp.zeros((), bool), reach is not None
    if reach is None:
        reach = jnp.full((2, size), FIRST_REACH, uniform.dtype)
    nothing = jnp.zeros((2 * DEGREE, size), SINGLE)
    begin = _Table(reach, nothing, no | first, no)
    table = lax.while_loop(lambda table: ~table.is_done, look, begin)
    return _by_blocks(_invert, table.logs, table.reach, uniform)


class _Table(NamedTuple):
    """Logarithms of densities, over those at the centre, at the nodes from left to right.

    Attributes:
        reach: The ends.
        logs: The logarithms.
        is_first: True if the ends are as they were given.
        is_done: True if they will do, or have been searched.
    """

    reach: Array
    logs: Array
    is_first: Array
    is_done: Array


class _Ends(NamedTuple):
    """State of the search: logarithms of points, and of those too near and too far, with falls."""

    at: Array
    inner: Array
    inner_fall: Array
    outer: Array
    outer_fall: Array
    found: Array
    num_looks: Array


def find_ends(
    log_density: LogDensity, centre: Float[Array, " m"], near: Float[Array, "2 m"] | None = None
) -> Float[Array, "2 m"]:
    """Distances to the left and to the right at which densities have all but vanished.

    By regula falsi in the logarithms of distance and fall, between which a Normal's are a line.

    Args:
        log_density: Logarithms of the densities; see `draw_by_inversion`.
        centre: The same at zero.
        near: Where to look first.
    """
    outermost = float(_radau(DEGREE)[0][-1])
    first = jnp.full((2, len(centre)), FIRST_REACH, centre.dtype) if near is None else near

    def fall_at(reach: Array) -> Array:
        at = outermost * reach
        fall = centre[None] - jnp.stack([log_density(-at[0]), log_density(at[1])])
        return jnp.where(jnp.isfinite(fall), fall, jnp.inf)

    dtype, least = first.dtype, jnp.finfo(first.dtype).tiny
    low, aim, high = FALL

    def look(state: _Ends) -> _Ends:
        fall = fall_at(jnp.exp(state.at))
        near, far = ~state.found & (fall < low), ~state.found & (fall > high)
        logs = jnp.log(jnp.maximum(fall, least))
        steep = (logs - state.inner_fall) / (state.at - state.inner)
        inner = jnp.where(near, state.at, state.inner)
        inner_fall = jnp.where(near, logs, state.inner_fall)
        outer = jnp.where(far, state.at, state.outer)
        outer_fall = jnp.where(far, logs, state.outer_fall)
        onward = inner + jnp.clip((np.log(aim) - inner_fall) / jnp.maximum(steep, 1.0), 0.1, 1.0)
        share = (np.log(aim) - inner_fall) / (outer_fall - inner_fall)
        share = jnp.where(jnp.isfinite(outer_fall), jnp.clip(share, 0.1, 0.9), 0.5)
        between = inner + share * (outer - inner)
        new = jnp.where(jnp.isfinite(outer), between, onward)
        at = jnp.where(near | far, new, state.at)
        found = ~(near | far)
        return _Ends(at, inner, inner_fall, outer, outer_fall, found, state.num_looks + 1)

    def is_on(state: _Ends) -> Array:
        return jnp.any(~state.found) & (state.num_looks < MOST_LOOKS)

    def full(value: float) -> Array:
        return jnp.full(first.shape, value, dtype)

    # Near the centre a density falls by half of the squared distance.
    begin = _Ends(
        jnp.log(first), full(np.log(0.1)), full(np.log(0.005)), full(np.inf), full(np.inf),
        full(0.0) > 0, jnp.zeros((), jnp.int32),
    )  # fmt: skip
    state = lax.while_loop(is_on, look, begin)
    # A density that breaks off has its end where it still was.
    return jnp.where(state.found, jnp.exp(state.at), outermost * jnp.exp(state.inner))


def _invert(
    logs: Float[Array, "k m"], reach: Float[Array, "2 m"], uniform: Float[Array, " m"]
) -> Float[Array, " m"]:
    """Draws from densities whose logarithms at the nodes are given, over those at the centre."""
    density = jnp.exp(logs)
    rule = jnp.asarray(_radau(DEGREE)[1], SINGLE)
    left = reach[0] * (rule[0] + _product(rule[:0:-1], density[:DEGREE]))
    right = reach[1] * (rule[0] + _product(rule[1:], density[DEGREE:]))
    wanted = uniform * (left + right) - left
    # Apart, lest every use compute it anew.
    wanted, is_right = lax.optimization_barrier((wanted, wanted > 0.0))

    def own(table: Array) -> Array:
        """That of the side on which the draw lies, from the centre outwards."""
        return jnp.where(is_right, table[DEGREE:], table[DEGREE - 1 :: -1])

    length = jnp.where(is_right, reach[1], reach[0])
    mass, logs, density = (jnp.abs(wanted) / length).astype(SINGLE), own(logs), own(density)
    # Powers cancel, so that single precision would not do.
    coefficient = _from_centre(_to_powers(), logs.astype(uniform.dtype), 0.0).astype(SINGLE)
    below = _from_centre(_cumulation(), density, 1.0)
    start = _rough(mass, logs, density, below)
    place = _refine(*lax.optimization_barrier((coefficient, mass, start)))
    return jnp.where(is_right, length, -length) * place


def _from_centre(matrix: np.ndarray, table: Float[Array, "k m"], centre: float) -> Array:
    """The product of a matrix with what there is at the centre, and then at the nodes."""
    rest = _product(jnp.asarray(matrix[:, 1:], table.dtype), table)
    return rest if centre == 0.0 else rest + jnp.asarray(centre * matrix[:, :1], table.dtype)


def _rough(
    mass: Float[Array, " m"],
    logs: Float[Array, "k m"],
    density: Float[Array, "k m"],
    below: Float[Array, "k+1 m"],
) -> Float[Array, " m"]:
    """Roughly where a mass is reached: between two nodes the logarithm is taken for linear.

    Args:
        mass: The mass.
        logs: Logarithms of the densities at the nodes, which are zero at the centre.
        density: The densities there.
        below: Roughly the mass below each node, the centre among them.
    """
    places = _radau(len(logs))[0].tolist()

    def pick(rows: Any) -> Array:
        """That of the first interval at whose end the mass is reached."""
        found = jnp.broadcast_to(jnp.asarray(rows[-1], mass.dtype), mass.shape)
        for row, end in zip(rows[-2::-1], below[-2:0:-1], strict=True):
            found = jnp.where(mass <= end, row, found)
        return found

    least = jnp.finfo(mass.dtype).tiny
    begin, low = pick(below[:-1]), pick(places[:-1])
    share = jnp.clip((mass - begin) / jnp.maximum(pick(below[1:]) - begin, least), 0.0, 1.0)
    rise = pick(logs) - pick([0.0, *logs[:-1]])
    ratio = pick(density) / jnp.maximum(pick([1.0, *density[:-1]]), least)
    flat = jnp.abs(rise) < 1e-3
    bent = jnp.log(1.0 + share * (ratio - 1.0)) / jnp.where(flat, 1.0, rise)
    return low + (pick(places[1:]) - low) * jnp.where(flat, share, jnp.clip(bent, 0.0, 1.0))


def _refine(
    coefficient: Float[Array, "k m"], mass: Float[Array, " m"], place: Float[Array, " m"]
) -> Float[Array, " m"]:
    """Place where a mass is reached from the centre on, as a share of the side's length.

    Args:
        coefficient: Of the logarithm of the density, in powers.
        mass: The mass, over the length.
        place: Roughly where.
    """
    nodes, weights = legendre.leggauss(NUM_NODES)

    def value_at(at: Array) -> Array:
        """The value, by Horner's scheme."""
        z = 2.0 * at - 1.0
        value = coefficient[-1]
        for one in coefficient[-2::-1]:
            value = value * z + one
        return value

    def log_density(at: Array) -> tuple[Array, Array, Array]:
        """Value, slope and half of the bend, by the same."""
        z = 2.0 * at - 1.0
        value, slope, bend = coefficient[-1], jnp.zeros_like(z), jnp.zeros_like(z)
        for one in coefficient[-2::-1]:
            bend, slope, value = bend * z + slope, slope * z + value, value * z + one
        return value, 2.0 * slope, 4.0 * bend

    for _ in range(STEPS):
        below = sum(
            (
                w * jnp.exp(value_at(place * (0.5 + 0.5 * x)))
                for x, w in zip(nodes.tolist(), weights.tolist(), strict=True)
            ),
            jnp.zeros_like(place),
        )
        value, slope, half_bend = log_density(place)
        h = (mass - 0.5 * place * below) * jnp.exp(-value)
        tilt = h * slope
        series = h * (1.0 - tilt * (0.5 - tilt / 3.0) - jnp.square(h) * half_bend / 3.0)
        # Far away the series does not serve.
        far = h / jnp.maximum(1.0 + 0.5 * tilt, 0.4)
        place = jnp.clip(place + jnp.where(jnp.abs(tilt) < 0.7, series, far), 0.0, 1.0)
        place = lax.optimization_barrier(place)
    return place


def _by_blocks(
    function: Callable[..., Float[Array, " m"]], *tables: Float[Array, "... m"]
) -> Float[Array, " m"]:
    """A function of the columns of tables, block by block."""
    size = tables[-1].shape[-1]
    if size <= BLOCK:
        return function(*tables)

    def one(number: Array, found: Array) -> Array:
        # The last block overlaps the one before.
        start = number * BLOCK
        own = [lax.dynamic_slice_in_dim(table, start, BLOCK, axis=-1) for table in tables]
        return lax.dynamic_update_slice_in_dim(found, function(*own), start, axis=-1)

    return lax.fori_loop(0, -(-size // BLOCK), one, jnp.zeros_like(tables[-1]))


def _product(matrix: Array, table: Array) -> Array:
    return jnp.matmul(matrix, table, precision="highest")


@cache
def _radau(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes from 0 on to below 1, and weights, of Gauss-Radau quadrature."""
    size = degree + 1
    both = np.zeros(size + 1)
    both[-2:] = 1.0
    nodes = np.sort(np.real(legendre.legroots(both)))
    nodes[0] = -1.0
    weights = (1.0 - nodes) / np.square(size * legendre.legval(nodes, np.eye(size)[-1]))
    weights[0] = 2.0 / size**2
    return 0.5 + 0.5 * nodes, 0.5 * weights


@cache
def _to_powers() -> np.ndarray:
    """From values at the nodes to coefficients of powers, of places moved to -1 to 1."""
    return np.linalg.inv(polynomial.polyvander(2.0 * _radau(DEGREE)[0] - 1.0, DEGREE))


@cache
def _cumulation() -> np.ndarray:
    """From values at the nodes to integrals up to each node of the polynomial through them."""
    powers = np.arange(1, DEGREE + 2)
    ends = 2.0 * _radau(DEGREE)[0][:, None] - 1.0
    return 0.5 * ((ends**powers - (-1.0) ** powers) / powers) @ _to_powers()
