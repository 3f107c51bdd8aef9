r"""Effects that stay where one grouping is integrated out by quadrature.

With the leading effects integrated out, the whitened effects x of the other blocks have the density

.. math::
    F(x) = \sum_j \log \int N(v_j; 0, I) \prod_{n \in j} f(y_n \mid o_n + z_n^\top L v_j +
        c_n^\top P x)\, dv_j - \tfrac12 |x|^2 .

Its mode is found with the exact slope and the curvature S of Laplace's approximation at the leading
effects' modes: the Schur complement of their block. A distribution of that centre and precision
proposes effects, whose weights are exact whatever the centre and the precision are.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from probmf.effects.laplace import Blocks
from probmf.effects.linalg import solve_lower
from probmf.effects.quadrature import Groups, log_integrals

#: Squared distance to the mode, in standard deviations of all effects together, from which one more
#: step will do: so much, and for each effect.
NEAR, NEAR_EACH = 3.0, 0.02
#: Iterations, halvings among them.
MOST_ITERATIONS = 30


def lead_groups(blocks: Blocks, columns: Float[Array, " D"] | None = None) -> Groups:
    """The groups of the leading block, given the whitened effects of the others.

    Args:
        blocks: The rows with their effects.
        columns: The others' effects; none where there are no others.
    """
    pattern, offset, tril = blocks.pattern, blocks.offset, blocks.trils[0]
    if columns is not None and pattern.num_columns:
        offset = offset + blocks.added_by_columns(columns)
    design = blocks.designs[0]
    if tril.ndim == 2:
        own = design @ tril
    else:
        own = jnp.einsum("na,nab->nb", design, pattern.of_rows(tril))
    return Groups(blocks.rows, offset, pattern, own)


class Columns(NamedTuple):
    """Whitened effects of all blocks but the leading one, which is integrated out.

    Attributes:
        blocks: The rows with their effects, as numbers that nothing is differentiated by.
        num_nodes: Nodes of the quadrature for each leading effect.
        near: Leading effects near their modes, about which nodes are held.
    """

    blocks: Blocks
    num_nodes: int
    near: Float[Array, "groups d"]

    def log_density(self, columns: Float[Array, " D"]) -> tuple[Float[Array, ""], Array]:
        """F but for the constant of the Normal, and the modes of the leading effects.

        Cost O(n num_nodes^d).
        """
        groups = lead_groups(self.blocks, columns)
        found, modes = log_integrals(groups, self.num_nodes, self.near, held=True)
        return jnp.sum(found) - 0.5 * jnp.sum(jnp.square(columns)), modes

    def factor(self, columns: Float[Array, " D"], modes: Array) -> Float[Array, "D D"]:
        """Lower factor R of the precision S at the leading effects' modes. Cost O(n q^2 + D^3)."""
        predictor = lead_groups(self.blocks, columns).predictor(modes)
        weight = self.blocks.rows.differentiate(predictor).weight
        # Where a density bends upwards the prior's curvature serves.
        return self.blocks.factor(jnp.maximum(weight, 0.0))

    def normal(self, start: Float[Array, " D"]) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
        """Centre and factor R of the precision of the Normal that is near the density.

        Args:
            start: Where the search for the mode begins.

        Returns:
            The mode, nearly, and R of the last place that was looked at: one factorization for
            each iteration.
        """
        small = jnp.finfo(start.dtype).eps

        value_and_slope = jax.value_and_grad(self.log_density, has_aux=True)

        def move(state: _Ascent) -> _Ascent:
            new = state.columns + state.length * state.step
            (value, modes), slope = value_and_slope(new)
            # No less but for rounding; a comparison with NaN is false.
            good = value >= state.value - 10 * small * (1 + jnp.abs(state.value))

            def take() -> _Ascent:
                factor = self.factor(new, modes)
                half = solve_lower(factor, slope)
                step = solve_lower(factor, half, transpose=True)
                # Twice the gain that the step promises is what is left.
                one = jnp.ones_like(state.length)
                return _Ascent(new, value, factor, step, one, half @ half, state.num_steps + 1)

            def halve() -> _Ascent:
                return state._replace(length=0.5 * state.length, num_steps=state.num_steps + 1)

            return lax.cond(good | (state.num_steps == 0), take, halve)

        def is_on(state: _Ascent) -> Array:
            return (state.left * state.length > near) & (state.num_steps < MOST_ITERATIONS)

        # The first look is one of the loop's, lest there be two of them to compile.
        size, zero = len(start), jnp.zeros((), start.dtype)
        near = NEAR + NEAR_EACH * size
        begin = _Ascent(
            start, zero - jnp.inf, jnp.eye(size, dtype=start.dtype), jnp.zeros_like(start),
            zero + 1.0, zero + jnp.inf, jnp.zeros((), jnp.int32),
        )  # fmt: skip
        end = lax.while_loop(is_on, move, begin)
        return end.columns + end.length * end.step, end.factor


class _Ascent(NamedTuple):
    """State of the search: where it is, where it goes, how far, and what is left."""

    columns: Array
    value: Array
    factor: Array
    step: Array
    length: Array
    left: Array
    num_steps: Array


def log_abs_det(factor: Float[Array, "D D"]) -> Float[Array, ""]:
    """Logarithm of the determinant of a lower factor."""
    return jnp.sum(jnp.log(jnp.diagonal(factor)))
