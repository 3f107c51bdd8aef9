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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from probmf.effects.evidence_and_draws import (
    Eliminated,
    draw_effects,
    eliminate_products,
    flat_volume,
    remainder_shapes,
)
from probmf.effects.linalg import solve_lower
from probmf.effects.pattern import Pattern
from probmf.effects.remainder import (
    Remainder,
    Shape,
    factor_remainder,
    prior_precision,
    remainder_evidence,
    scale_columns,
)
from probmf.effects.row_densities import Rows
from probmf.effects.statistics import (
    Products,
    collect_products,
    collect_statistics,
    collect_targets,
    of_columns,
)

#: Iterations of Newton's method, halvings among them.
MOST_ITERATIONS = 100

#: One table of (groups, d) for each block.
type Tables = list[Float[Array, "groups d"]]


class Whitened(NamedTuple):
    """Whitened effects, or what else there is one of for each.

    Attributes:
        lead: Those of the leading block.
        columns: Those of all others, in the order of the pattern's columns.
    """

    lead: Float[Array, "groups d"]
    columns: Float[Array, " D"]

    @classmethod
    def zeros(cls, pattern: Pattern, dtype: Any) -> "Whitened":
        """Zero for each effect."""
        return cls(jnp.zeros(pattern.shapes[0], dtype), jnp.zeros(pattern.num_columns, dtype))

    def dot(self, other: "Whitened") -> Float[Array, ""]:
        """Sum of products."""
        return jnp.sum(self.lead * other.lead) + jnp.sum(self.columns * other.columns)


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

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The blocks of the columns."""
        return remainder_shapes(self.pattern, self.flat)

    @property
    def zeros(self) -> Whitened:
        """Whitened effects of zero."""
        return Whitened.zeros(self.pattern, self.offset.dtype)

    def scale_lead(
        self, table: Float[Array, "groups d"], *, transpose: bool = False
    ) -> Float[Array, "groups d"]:
        """Effects L v of the leading block from whitened ones, or L^T u."""
        tril, inner = self.trils[0], "ba,mb->ma" if transpose else "ab,mb->ma"
        return jnp.einsum(f"m{inner}" if tril.ndim == 3 else inner, tril, table)

    def scale_columns(
        self, vector: Float[Array, " D"], *, transpose: bool = False
    ) -> Float[Array, " D"]:
        """Effects P v of the columns from whitened ones, or P^T u."""
        return scale_columns(self.shapes, self.trils[1:], vector, transpose=transpose)

    def effects(self, whitened: Whitened) -> Tables:
        """Effects from whitened ones, by block."""
        columns = self.scale_columns(whitened.columns)
        return [self.scale_lead(whitened.lead), *self.pattern.tables(columns)]

    def added(self, whitened: Whitened) -> Float[Array, " n"]:
        """Their share of the linear predictor."""
        own = self.designs[0] * self.pattern.of_rows(self.scale_lead(whitened.lead))
        return jnp.sum(own, axis=1) + self.added_by_columns(whitened.columns)

    def added_by_columns(self, whitened: Float[Array, " D"]) -> Float[Array, " n"]:
        """The columns' share of the linear predictor."""
        effects = self.scale_columns(whitened)[self.pattern.column]
        return jnp.sum(of_columns(self.designs) * effects, axis=1)

    def pulled(self, values: Float[Array, " n"]) -> Whitened:
        """The adjoint of that; of a flat block, whose factor is of ones, its sums."""
        lead, rest, _ = collect_targets(self.pattern, self.designs, values)
        return Whitened(
            self.scale_lead(lead, transpose=True), self.scale_columns(rest, transpose=True)
        )

    def shrunk(self, whitened: Whitened) -> Whitened:
        """D v, where D is the precision of the prior: zero for flat blocks, else one."""
        lead, columns = whitened
        own = 0.0 if 0 in self.flat else 1.0
        return Whitened(own * lead, prior_precision(self.shapes, columns.dtype) * columns)

    def slope(self, slopes: Float[Array, " n"], whitened: Whitened) -> Whitened:
        """The gradient of the joint density by whitened effects."""
        return jax.tree.map(jnp.subtract, self.pulled(slopes), self.shrunk(whitened))

    def solve(self, weight: Float[Array, " n"], right: Whitened) -> Whitened:
        """The solution x of H x = r, with H as of these weights."""
        sums, found = self._eliminated(weight)
        entry_group, entry_column = self.pattern.entry_group, self.pattern.entry_column

        def within(right: Array) -> Array:
            return jnp.einsum("mab,mb->ma", found.inverse, right)

        if not self.pattern.num_columns:
            return Whitened(within(right.lead), right.columns)
        factor = self._factored(found)
        lead = self.scale_lead(within(right.lead))[entry_group]
        across = jax.ops.segment_sum(
            jnp.sum(sums.lead_rest * lead, axis=1), entry_column, self.pattern.num_columns
        )
        half = solve_lower(factor, right.columns - self.scale_columns(across, transpose=True))
        columns = solve_lower(factor, half, transpose=True)
        effects = self.scale_columns(columns)[entry_column, None]
        back = jax.ops.segment_sum(sums.lead_rest * effects, entry_group, len(right.lead))
        return Whitened(within(right.lead - self.scale_lead(back, transpose=True)), columns)

    def factor(self, weight: Float[Array, " n"]) -> Float[Array, "D D"]:
        """Lower factor of what eliminating the leading block leaves of H for the columns."""
        return self._factored(self._eliminated(weight)[1])

    def half_logdet(self, weight: Float[Array, " n"]) -> Array:
        """Minus half of the logarithm of |H|, for flat blocks with their units."""
        _, found = self._eliminated(weight)
        value = flat_volume(self.pattern, self.flat) - 0.5 * jnp.sum(found.logdet)
        if not self.pattern.num_columns:
            return value
        return value + remainder_evidence(self.shapes, *self._remaining(found))

    def _eliminated(self, weight: Array) -> tuple[Products, Eliminated]:
        """Weighted sums, and what eliminating the leading block leaves of them."""
        sums, one = collect_products(self.pattern, self.designs, weight), jnp.ones((), weight.dtype)
        return sums, eliminate_products(
            self.pattern, sums, self.trils[0], one, is_flat=0 in self.flat
        )

    def _remaining(self, found: Eliminated) -> tuple[Remainder, tuple[Array, ...], Array]:
        """The columns' system, its trils, and a precision of one."""
        one = jnp.ones((), found.products.dtype)
        return Remainder(found.products, self.pattern.element), tuple(self.trils[1:]), one

    def _factored(self, found: Eliminated) -> Float[Array, "D D"]:
        return factor_remainder(self.shapes, *self._remaining(found))[0]


def log_laplace(blocks: Blocks, start: Whitened | None = None) -> tuple[Array, Whitened]:
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
    at_mode = held.offset + held.added(mode)

    weight, pull = jax.vjp(lambda at: held.rows.differentiate(at).weight, at_mode)

    def half_logdet(parts: tuple[Array, Any, Any]) -> Array:
        weight, designs, trils = parts
        return held._replace(designs=designs, trils=trils).half_logdet(weight)

    logdet, slopes = jax.value_and_grad(half_logdet)(
        (weight, tuple(held.designs), tuple(held.trils))
    )
    moves = lax.stop_gradient(held.solve(weight, held.pulled(pull(slopes[0])[0])))
    found = blocks.rows.differentiate(blocks.offset + blocks.added(mode))
    # Its derivatives are there: another inverse would be taken for them otherwise.
    free = found.weight, tuple(blocks.designs), tuple(blocks.trils)
    logdet = _with_slopes(*lax.stop_gradient((logdet, slopes)), free)
    value = jnp.sum(found.value) - 0.5 * mode.dot(held.shrunk(mode)) + logdet
    # Zero at the mode, where the gradient of the joint density is, but its derivative is not; where
    # the search stopped it is the difference to the mode, to first order.
    implicit = jnp.sum(found.slope * blocks.added(moves)) - moves.dot(held.shrunk(mode))
    return value + implicit, mode


@jax.custom_jvp
def _with_slopes(value: Array, slopes: Any, free: Any) -> Array:
    """A value with its derivatives by a tree of arrays, of which only those asked for are made."""
    del slopes, free
    return value


@_with_slopes.defjvp
def _move(primals: tuple[Array, Any, Any], tangents: tuple[Array, Any, Any]) -> tuple[Array, Array]:
    value, slopes, _ = primals
    moves = jax.tree.map(lambda slope, move: jnp.sum(slope * move), slopes, tangents[2])
    return value, sum(jax.tree.leaves(moves), jnp.zeros_like(value))


def draw_near_mode(blocks: Blocks, key: Array) -> Tables:
    """Effects from the Normal distribution about their mode with the curvature there.

    Args:
        blocks: The rows with their effects.
        key: JAX key.

    Returns:
        The effects of each block. Cost of the mode, and one factorization.
    """
    held = blocks.held()
    added = held.added(mode_of_effects(held))
    found = held.rows.differentiate(held.offset + added)
    nothing = jnp.zeros_like(found.weight)
    sums = collect_statistics(held.pattern, held.designs, nothing, found.weight)
    lead, rest, _ = collect_targets(held.pattern, held.designs, found.weight * added + found.slope)
    sums = sums._replace(lead=lead, rest=rest)
    one = jnp.ones((), found.weight.dtype)
    return draw_effects(held.pattern, sums, held.trils, one, key, held.flat)[1]


class _Ascent(NamedTuple):
    """State of the search: where it is, where it goes, how far, and what is left."""

    whitened: Whitened
    step: Whitened
    length: Array
    joint: Array
    left: Array
    num_steps: Array


def mode_of_effects(blocks: Blocks, start: Whitened | None = None) -> Whitened:
    """The mode of the whitened effects by Newton's method with halved steps.

    Args:
        blocks: The rows with their effects, as numbers.
        start: Where to begin; zero by default.

    Returns:
        The mode.
    """
    dtype = blocks.offset.dtype
    small = jnp.finfo(dtype).eps

    def move(state: _Ascent) -> _Ascent:
        new = jax.tree.map(lambda x, dx: x + state.length * dx, state.whitened, state.step)
        found = blocks.rows.differentiate(blocks.offset + blocks.added(new))
        joint = jnp.sum(found.value) - 0.5 * new.dot(blocks.shrunk(new))
        # No less but for rounding; a comparison with NaN is false.
        good = (joint >= state.joint - rounding(state)) | (state.num_steps == 0)

        def take() -> _Ascent:
            slope = blocks.slope(found.slope, new)
            step = blocks.solve(jnp.maximum(found.weight, 0.0), slope)
            # Twice the gain that the step promises is what is left.
            one, left = jnp.ones((), dtype), step.dot(slope)
            return _Ascent(new, step, one, joint, left, state.num_steps + 1)

        def halve() -> _Ascent:
            return state._replace(length=0.5 * state.length, num_steps=state.num_steps + 1)

        return lax.cond(good, take, halve)

    def rounding(state: _Ascent) -> Array:
        """Of a sum over the rows, of which no smaller gain can be seen."""
        return 10 * small * (1 + jnp.abs(state.joint))

    def is_on(state: _Ascent) -> Array:
        enough = state.left * state.length <= rounding(state)
        return (~enough & (state.num_steps < MOST_ITERATIONS)) | (state.num_steps == 0)

    # The first look is one of the loop's, lest there be two of them to compile.
    begin = _Ascent(
        blocks.zeros if start is None else start, blocks.zeros, jnp.ones((), dtype),
        jnp.full((), -jnp.inf, dtype), jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32),
    )  # fmt: skip
    return lax.while_loop(is_on, move, begin).whitened
