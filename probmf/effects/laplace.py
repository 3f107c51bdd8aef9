r"""Effects of crossed groupings integrated out of any likelihood by Laplace's approximation.

With whitened effects v of all blocks, :math:`\eta = o + Z P v` and :math:`\ell(v) = \sum_n \log
f(y_n \mid \eta_n) - \tfrac12 |v|^2`, whose mode is :math:`\hat v`,

.. math::
    \log p(y) \approx \ell(\hat v) - \tfrac12 \log|H|, \quad
    H = I + P^\top Z^\top W Z P, \quad W = -\partial^2 \log f / \partial \eta^2 .

H is the precision of Gaussian effects whose observations weigh W, so the mode is found, and its
determinant and derivatives are, by what serves those. The derivative of the approximation by
anything else is that at fixed v, plus :math:`-q^\top \partial \nabla \ell` with :math:`q = H^{-1}
\nabla_v (-\tfrac12 \log|H|)`, as the mode moves by :math:`H^{-1} \partial \nabla \ell`.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from probmf.effects.evidence_and_draws import draw_effects, log_evidence
from probmf.effects.pattern import Pattern
from probmf.effects.row_densities import Rows
from probmf.effects.statistics import Statistics, collect_statistics, collect_targets

#: Iterations of Newton's method, halvings among them.
MOST_ITERATIONS = 100

#: One table of (groups, d) for each block.
type Tables = list[Float[Array, "groups d"]]


class Blocks(NamedTuple):
    """Rows with their effects.

    Attributes:
        pattern: Which effects meet.
        rows: The log density of each row.
        offset: The linear predictor without effects.
        designs: Columns of each block, in the pattern's order.
        trils: Lower factors of their prior covariances; see `log_evidence`.
        flat: Positions of blocks (not the leading one) with a flat prior, and a tril of ones.
    """

    pattern: Pattern
    rows: Rows
    offset: Float[Array, " n"]
    designs: Sequence[Float[Array, "n d"]]
    trils: Sequence[Float[Array, "..."]]
    flat: Collection[int] = ()

    def held(self) -> "Blocks":
        """The same as numbers that nothing is differentiated by."""
        offset, designs, trils = lax.stop_gradient((self.offset, self.designs, self.trils))
        return self._replace(rows=self.rows.held(), offset=offset, designs=designs, trils=trils)

    def effects(self, whitened: Tables) -> Tables:
        """Effects from whitened ones."""
        return [_scaled(tril, own) for tril, own in zip(self.trils, whitened, strict=True)]

    def added(self, effects: Tables) -> Float[Array, " n"]:
        """Their share Z u of the linear predictor."""
        total = jnp.sum(self.designs[0] * self.pattern.of_rows(effects[0]), axis=1)
        if not self.pattern.num_columns:
            return total
        flat = jnp.concatenate([table.ravel() for table in effects[1:]])
        rest = jnp.concatenate(list(self.designs[1:]), axis=1)
        return total + jnp.sum(rest * flat[self.pattern.column], axis=1)

    def pulled(self, values: Float[Array, " n"]) -> Tables:
        """P^T Z^T r, by block; of a flat block, whose factor is of ones, its sums."""
        lead, rest, _ = collect_targets(self.pattern, self.designs, values)
        tables = [lead]
        for start, (groups, dim) in zip(self.pattern.offsets, self.pattern.shapes[1:], strict=True):
            tables.append(rest[start : start + groups * dim].reshape(groups, dim))
        return [
            _scaled(tril, own, transpose=True) for tril, own in zip(self.trils, tables, strict=True)
        ]

    def penalty(self, whitened: Tables) -> Array:
        """Half of |v|^2, over the blocks that have a prior."""
        own = (x for place, x in enumerate(whitened) if place not in self.flat)
        return 0.5 * sum((jnp.sum(jnp.square(x)) for x in own), jnp.zeros(()))

    def slope(self, slopes: Float[Array, " n"], whitened: Tables) -> Tables:
        """The gradient of the joint density by whitened effects."""
        return [
            part if place in self.flat else part - own
            for place, (part, own) in enumerate(zip(self.pulled(slopes), whitened, strict=True))
        ]

    def solve(self, weight: Float[Array, " n"], values: Float[Array, " n"]) -> Tables:
        """Whitened x of H x = P^T Z^T r, with H as of these weights."""
        nothing = jnp.zeros_like(weight)
        sums = collect_statistics(self.pattern, self.designs, nothing, weight)
        lead, rest, _ = collect_targets(self.pattern, self.designs, values)
        sums = sums._replace(lead=lead, rest=rest)
        one = jnp.ones((), weight.dtype)
        effects = draw_effects(self.pattern, sums, self.trils, one, None, self.flat)[1]
        # No prior's factor is divided by, which may be zero.
        own = self.pulled(values - weight * self.added(effects))
        return [u if place in self.flat else own[place] for place, u in enumerate(effects)]

    def half_logdet(self, weight: Float[Array, " n"]) -> Array:
        """Minus half of the logarithm of |H|, for flat blocks with their units."""
        nothing = jnp.zeros_like(weight)
        sums: Statistics = collect_statistics(self.pattern, self.designs, nothing, weight)
        one = jnp.ones((), weight.dtype)
        value = log_evidence(self.pattern, sums, self.trils, one, self.flat)
        return value + 0.5 * self.pattern.num_rows * np.log(2 * np.pi)


def log_laplace(blocks: Blocks, start: Tables | None = None) -> tuple[Array, Tables]:
    """Laplace's approximation of the log density of the rows, to be traced and differentiated once.

    Args:
        blocks: The rows with their effects.
        start: Whitened effects where the search for the mode begins; zero by default.

    Returns:
        The logarithm, and the mode of the whitened effects (without derivatives). Cost O(n q^2)
        and one factorization for each iteration, and two and an inverse for value and gradient.
    """
    held = blocks.held()
    mode = mode_of_effects(held, start)
    at_mode = held.offset + held.added(held.effects(mode))

    weight, pull = jax.vjp(lambda at: held.rows.differentiate(at).weight, at_mode)
    parts = weight, tuple(held.designs), tuple(held.trils)

    def half_logdet(weight: Array, designs: Sequence[Array], trils: Sequence[Array]) -> Array:
        return held._replace(designs=designs, trils=trils).half_logdet(weight)

    logdet, slopes = jax.value_and_grad(lambda own: half_logdet(*own))(parts)
    moves = lax.stop_gradient(held.solve(weight, pull(slopes[0])[0]))
    logdet, slopes = lax.stop_gradient((logdet, slopes))
    found = blocks.rows.differentiate(blocks.offset + blocks.added(blocks.effects(mode)))
    value = jnp.sum(found.value) - blocks.penalty(mode) + logdet
    # Its derivatives are there: another inverse would be taken for them otherwise.
    free = found.weight, tuple(blocks.designs), tuple(blocks.trils)
    value = value + sum(
        (
            jnp.sum(slope * (own - lax.stop_gradient(own)))
            for slope, own in zip(jax.tree.leaves(slopes), jax.tree.leaves(free), strict=True)
        ),
        jnp.zeros(()),
    )
    # Zero at the mode, where the gradient of the joint density is, but its derivative is not; where
    # the search stopped it is the difference to the mode, to first order.
    slope = blocks.slope(found.slope, mode)
    implicit = sum(
        (jnp.sum(own * part) for own, part in zip(moves, slope, strict=True)), jnp.zeros(())
    )
    return value + implicit, mode


def draw_near_mode(blocks: Blocks, key: Array) -> Tables:
    """Effects from the Normal distribution about their mode with the curvature there.

    Args:
        blocks: The rows with their effects.
        key: JAX key.

    Returns:
        The effects of each block. Cost of the mode, and one factorization.
    """
    held = blocks.held()
    added = held.added(held.effects(mode_of_effects(held)))
    found = held.rows.differentiate(held.offset + added)
    nothing = jnp.zeros_like(found.weight)
    sums = collect_statistics(held.pattern, held.designs, nothing, found.weight)
    lead, rest, _ = collect_targets(held.pattern, held.designs, found.weight * added + found.slope)
    sums = sums._replace(lead=lead, rest=rest)
    one = jnp.ones((), found.weight.dtype)
    return draw_effects(held.pattern, sums, held.trils, one, key, held.flat)[1]


class _Ascent(NamedTuple):
    """State of the search: where it is, where it goes, how far, and what is left."""

    whitened: Tables
    step: Tables
    length: Array
    joint: Array
    left: Array
    num_steps: Array


def mode_of_effects(blocks: Blocks, start: Tables | None = None) -> Tables:
    """The mode of the whitened effects by Newton's method with halved steps.

    Args:
        blocks: The rows with their effects, as numbers.
        start: Where to begin; zero by default.

    Returns:
        The mode.
    """
    dtype = blocks.offset.dtype
    small = jnp.finfo(dtype).eps

    def look(whitened: Tables) -> tuple[Array, Array, Array]:
        predictor = blocks.offset + blocks.added(blocks.effects(whitened))
        found = blocks.rows.differentiate(predictor)
        joint = jnp.sum(found.value) - blocks.penalty(whitened)
        return joint, found.slope, jnp.maximum(found.weight, 0.0)

    def aim(whitened: Tables, slope: Array, weight: Array) -> tuple[Tables, Array]:
        """The step, and twice the gain that it promises."""
        added = blocks.added(blocks.effects(whitened))
        new = blocks.solve(weight, weight * added + slope)
        step = [there - here for there, here in zip(new, whitened, strict=True)]
        slopes = blocks.slope(slope, whitened)
        left = sum((jnp.sum(a * b) for a, b in zip(step, slopes, strict=True)), jnp.zeros(()))
        return step, left

    def move(state: _Ascent) -> _Ascent:
        new = [x + state.length * dx for x, dx in zip(state.whitened, state.step, strict=True)]
        joint, slope, weight = look(new)
        # No less but for rounding; a comparison with NaN is false.
        good = (joint >= state.joint - rounding(state)) | (state.num_steps == 0)

        def take() -> _Ascent:
            step, left = aim(new, slope, weight)
            return _Ascent(new, step, jnp.ones((), dtype), joint, left, state.num_steps + 1)

        def halve() -> _Ascent:
            return state._replace(length=0.5 * state.length, num_steps=state.num_steps + 1)

        return lax.cond(good, take, halve)

    def rounding(state: _Ascent) -> Array:
        """Of a sum over the rows, of which no smaller gain can be seen."""
        return 10 * small * (1 + jnp.abs(state.joint))

    def is_on(state: _Ascent) -> Array:
        enough = state.left * state.length <= rounding(state)
        return (~enough & (state.num_steps < MOST_ITERATIONS)) | (state.num_steps == 0)

    first = start
    if first is None:
        first = [jnp.zeros(shape, dtype) for shape in blocks.pattern.shapes]
    # The first look is one of the loop's, lest there be two of them to compile.
    begin = _Ascent(
        first, [jnp.zeros_like(own) for own in first], jnp.ones((), dtype),
        jnp.full((), -jnp.inf, dtype), jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32),
    )  # fmt: skip
    return lax.while_loop(is_on, move, begin).whitened


def _scaled(tril: Array, table: Array, *, transpose: bool = False) -> Array:
    """Rows times the factor or its transpose, of one group or of each."""
    inner = "ba,mb->ma" if transpose else "ab,mb->ma"
    return jnp.einsum(f"m{inner}" if tril.ndim == 3 else inner, tril, table)
