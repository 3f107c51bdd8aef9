"""Dense positive-definite algebra with derivatives that do not pass through a factorization."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

#: Triangular matrices up to this size are inverted by substitution, larger ones by halves.
BASE = 160
#: Batches of matrices up to this size are factored by unrolled loops over the batch.
UNROLLED = 4


@jax.custom_vjp
def evidence_term(
    matrix: Float[Array, "... d d"], vector: Float[Array, "... d"]
) -> Float[Array, "..."]:
    r"""The Gaussian integral :math:`\tfrac12 b^\top S^{-1} b - \tfrac12 \log|S|`.

    Reads the lower triangle only, and its cotangent is that of the lower triangle. The gradient is
    :math:`-\tfrac12 (S^{-1} + m m^\top)` with :math:`m = S^{-1} b`: one inverse, at a tenth of the
    cost of differentiating a Cholesky factorization.
    """
    return _evidence_forward(matrix, vector)[0]


def _evidence_forward(matrix: Array, vector: Array) -> tuple[Array, tuple[Array, Array]]:
    factor = lax.linalg.cholesky(matrix, symmetrize_input=False)
    half = solve_lower(factor, vector)
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
    value = 0.5 * jnp.sum(jnp.square(half), -1) - jnp.sum(jnp.log(diagonal), -1)
    return value, (factor, half)


def _evidence_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    factor, half = saved
    inverse_factor = invert_lower(factor)
    mean = jnp.einsum("...ba,...b->...a", inverse_factor, half)
    moment = gram_of_lower(inverse_factor) + mean[..., :, None] * mean[..., None, :]
    size = factor.shape[-1]
    scale = jnp.tril(jnp.full((size, size), -1.0, factor.dtype))
    scale = scale + 0.5 * jnp.eye(size, dtype=factor.dtype)
    lower = moment * scale.reshape((1,) * (moment.ndim - 2) + scale.shape)
    return cotangent[..., None, None] * lower, cotangent[..., None] * mean


evidence_term.defvjp(_evidence_forward, _evidence_backward)


@jax.custom_vjp
def logdet_and_inverse(
    matrix: Float[Array, "m d d"],
) -> tuple[Float[Array, " m"], Float[Array, "m d d"]]:
    """Log determinants and inverses of many small positive-definite matrices."""
    size = matrix.shape[-1]
    if size == 1:
        return jnp.log(matrix[:, 0, 0]), 1.0 / matrix
    factor = cholesky(matrix)
    inverse = invert_lower(factor)
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
    return 2.0 * jnp.sum(jnp.log(diagonal), -1), jnp.einsum("mba,mbc->mac", inverse, inverse)


def _inverse_forward(matrix: Array) -> tuple[tuple[Array, Array], Array]:
    logdet, inverse = logdet_and_inverse(matrix)
    return (logdet, inverse), inverse


def _inverse_backward(inverse: Array, cotangent: tuple[Array, Array]) -> tuple[Array]:
    for_logdet, for_inverse = cotangent
    through = jnp.einsum("mab,mcb,mdc->mad", inverse, for_inverse, inverse)
    return (for_logdet[:, None, None] * inverse - through,)


logdet_and_inverse.defvjp(_inverse_forward, _inverse_backward)


def cholesky(matrix: Float[Array, "... d d"]) -> Float[Array, "... d d"]:
    """Lower factor; small matrices in one loop over all of them, not one call for each."""
    size = matrix.shape[-1]
    if size > UNROLLED or matrix.ndim == 2:
        return lax.linalg.cholesky(matrix, symmetrize_input=False)
    rows: list[list[Array]] = []
    for i in range(size):
        row: list[Array] = []
        for j in range(i + 1):
            left = matrix[..., i, j] - sum(
                (row[k] * (rows[j][k] if j < i else row[k]) for k in range(j)),
                jnp.zeros_like(matrix[..., i, j]),
            )
            row.append(jnp.sqrt(left) if i == j else left / rows[j][j])
        rows.append(row)
    return _stack_lower(rows)


def invert_lower(factor: Float[Array, "... d d"]) -> Float[Array, "... d d"]:
    """Inverse of a lower-triangular matrix, large ones by halves in matrix products."""
    size = factor.shape[-1]
    if size <= UNROLLED and factor.ndim > 2:
        rows: list[list[Array]] = []
        for i in range(size):
            row = []
            for j in range(i + 1):
                total = sum(
                    (factor[..., i, k] * rows[k][j] for k in range(j, i)),
                    jnp.zeros_like(factor[..., i, j]),
                )
                one = jnp.ones_like(total) if i == j else -total
                row.append(one / factor[..., i, i])
            rows.append(row)
        return _stack_lower(rows)
    if size <= BASE:
        identity = jnp.broadcast_to(jnp.eye(size, dtype=factor.dtype), factor.shape)
        return lax.linalg.triangular_solve(factor, identity, left_side=True, lower=True)
    half = size // 2
    top = invert_lower(factor[..., :half, :half])
    end = invert_lower(factor[..., half:, half:])
    corner = -(end @ (factor[..., half:, :half] @ top))
    zeros = jnp.zeros_like(factor[..., :half, half:])
    return jnp.concatenate(
        [jnp.concatenate([top, zeros], -1), jnp.concatenate([corner, end], -1)], -2
    )


def gram_of_lower(lower: Float[Array, "... d d"]) -> Float[Array, "... d d"]:
    """X^T X of a lower-triangular X, leaving out products with its zero half."""
    size = lower.shape[-1]
    if size <= 2 * BASE:
        return jnp.swapaxes(lower, -1, -2) @ lower
    half = size // 2
    corner, end = lower[..., half:, :half], lower[..., half:, half:]
    top = gram_of_lower(lower[..., :half, :half]) + jnp.swapaxes(corner, -1, -2) @ corner
    across = jnp.swapaxes(end, -1, -2) @ corner
    return jnp.concatenate(
        [
            jnp.concatenate([top, jnp.swapaxes(across, -1, -2)], -1),
            jnp.concatenate([across, gram_of_lower(end)], -1),
        ],
        -2,
    )


@partial(jax.jit, static_argnames="transpose")
def solve_lower(
    factor: Float[Array, "... d d"], vector: Float[Array, "... d"], *, transpose: bool = False
) -> Float[Array, "... d"]:
    """Solve L x = b, or its transpose; of small matrices in one loop over all of them."""
    size = factor.shape[-1]
    if size <= UNROLLED and factor.ndim > 2:
        found: dict[int, Array] = {}
        for i in reversed(range(size)) if transpose else range(size):
            own = vector[..., i]
            weights = (factor[..., k, i] if transpose else factor[..., i, k] for k in found)
            for weight, known in zip(weights, found.values(), strict=True):
                own = own - weight * known
            found[i] = own / factor[..., i, i]
        return jnp.stack([found[i] for i in range(size)], axis=-1)
    return lax.linalg.triangular_solve(
        factor, vector[..., None], left_side=True, lower=True, transpose_a=transpose
    )[..., 0]


def _stack_lower(rows: list[list[Array]]) -> Array:
    size = len(rows)
    zero = jnp.zeros_like(rows[0][0])
    full = [jnp.stack(row + [zero] * (size - len(row)), axis=-1) for row in rows]
    return jnp.stack(full, axis=-2)
