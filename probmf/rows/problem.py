"""Rows given the other side, on the device: their modes and the precision around them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from scipy.linalg import get_lapack_funcs

from probmf.likelihoods import Likelihood
from probmf.rows import conditionals
from probmf.rows.batches import PIECE
from probmf.settings import in_precision

#: Newton steps for a row under a likelihood that is not quadratic; ten are plenty as a rule.
MAX_STEPS = 100
#: The shortest share of Newton's step that is tried.
SHORTEST = 2.0**-16

Sums = TypeVar("Sums")


class RowProblem(NamedTuple):
    """Rows given the other side; a pytree.

    Attributes:
        value: The rows' values in the fit.
        partners: Rows of the other side.
        partner: Which of them each slot's rating is about.
        rating: The rating in each slot.
        weight: Its weight, 0 in empty slots.
        precision: Diagonal prior precision of each row.
        free: 1 for coordinates to solve for, 0 for fixed ones.
        intercept: The intercept.
        scales: The likelihood's own parameters.
        gram: What weak zeros add to every row's precision, or None.
        gram_shift: What they add to its gradient, or None.
        center: Prior mean of each row, or None where it is zero.
    """

    value: Float[Array, "r d"]
    partners: Float[Array, "others d"]
    partner: Int[Array, "r w"]
    rating: Float[Array, "r w"]
    weight: Float[Array, "r w"]
    precision: Float[Array, "r d"]
    free: Float[Array, " d"]
    intercept: Float[Array, ""]
    scales: Mapping[str, Array]
    gram: Float[Array, "d d"] | None
    gram_shift: Float[Array, " d"] | None
    center: Float[Array, "r d"] | None = None

    def sum(self, term: Callable[[Array, Array, Array, Array], Sums]) -> Sums:
        """The sum over pieces of the rows of a function of (design, offset, rating, weight)."""
        width = self.partner.shape[1]
        piece = min(width, PIECE)

        def part(index: int | Array) -> Sums:
            def cut(slots: Array) -> Array:
                return lax.dynamic_slice_in_dim(slots, index * piece, piece, axis=1)

            rows = self.partners[cut(self.partner)]
            offset = self.intercept + rows[..., 0]
            return term(rows[..., 1:], offset, cut(self.rating), cut(self.weight))

        if width == piece:
            return part(0)

        def add(index: Array, total: Sums) -> Sums:
            return jax.tree.map(jnp.add, total, part(index))

        return lax.fori_loop(1, width // piece, add, part(0))

    def apart(self, x: Array) -> Array:
        """Rows less their prior means."""
        return x if self.center is None else x - self.center

    def gradient(self, from_ratings: Array, x: Array) -> Array:
        """Gradient of the log posterior from that of the log likelihood."""
        gradient = from_ratings - self.precision * self.apart(x)
        if self.gram is not None and self.gram_shift is not None:
            gradient = gradient - x @ self.gram - self.gram_shift[None]
        return gradient * self.free[None]

    def matrix(self, moments: Array) -> Array:
        """Precision matrices from the ratings' second moments."""
        moments = moments if self.gram is None else moments + self.gram[None]
        return conditionals.mask_precision(moments, self.precision, self.free)


def modes(problem: RowProblem, likelihood: Likelihood) -> Float[np.ndarray, "r d"]:
    """The most likely value of each row.

    Args:
        problem: The rows, as host arrays.
        likelihood: The likelihood without its parameters.

    Returns:
        Rows (bias, factors), in double precision if single precision is not enough for them.
    """
    # Only now: a fit is kept on the host, as it may be asked in 32 bits and then in 64.
    found = np.asarray(modes_of_rows(in_precision(problem), likelihood=likelihood))
    if not np.isfinite(found).all():
        with jax.enable_x64(True):
            found = np.asarray(modes_of_rows(in_precision(problem), likelihood=likelihood))
    return found


def roots(problem: RowProblem, likelihood: Likelihood) -> Float[np.ndarray, "r d d"]:
    """Roots S of the rows' covariances S^T S at their values.

    Args:
        problem: The rows, as host arrays.
        likelihood: The likelihood without its parameters.

    Returns:
        Inverse Cholesky factors of the rows' precision, zero at fixed coordinates; in double
        precision if the prior's share would be lost in single precision.
    """
    factors = np.asarray(precision_factors(in_precision(problem), likelihood=likelihood))
    free = np.asarray(problem.free) > 0
    prior = np.asarray(problem.precision)[:, free].min(initial=np.inf)
    largest = np.square(factors).sum(axis=2).max()
    if not np.finfo(factors.dtype).eps * largest < 0.1 * prior:
        with jax.enable_x64(True):
            factors = np.asarray(precision_factors(in_precision(problem), likelihood=likelihood))
    return _inverses(factors) * free


def _inverses(factors: Float[np.ndarray, "r d d"]) -> Float[np.ndarray, "r d d"]:
    """Inverses of lower triangular matrices.

    One by one on the host: the batched solves of XLA and NumPy hand matrices as small as these to
    threads of BLAS, which are a thousand times slower when other processes want the cores.
    """
    (invert,) = get_lapack_funcs(("trtri",), (factors,))
    inverses = np.empty_like(factors)
    for place, factor in enumerate(factors):
        # What lies in C's order is the transpose to LAPACK.
        inverses[place] = invert(factor.T, lower=0)[0].T
    return inverses


@partial(jax.jit, static_argnames="likelihood")
def precision_factors(problem: RowProblem, *, likelihood: Likelihood) -> Array:
    """Cholesky factors of the rows' precision matrices."""

    def moments(z: Array, offset: Array, rating: Array, weight: Array) -> Array:
        scores = offset + conditionals.project(z, problem.value)
        information = likelihood.information(scores, problem.scales)
        return conditionals.second_moments(z, weight * information)

    return jnp.linalg.cholesky(problem.matrix(problem.sum(moments)))


@partial(jax.jit, static_argnames="likelihood")
def modes_of_rows(problem: RowProblem, *, likelihood: Likelihood) -> Array:
    """The rows' modes, on the device."""
    start = jnp.zeros_like(problem.value)
    if likelihood.normal:
        # The second step removes the rounding of the first.
        return _bound_step(problem, _bound_step(problem, start, likelihood), likelihood)
    tolerance = jnp.finfo(start.dtype).eps ** 0.75

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        index, x, moved = state
        return (index < MAX_STEPS) & jnp.any(moved > tolerance * (1 + jnp.max(jnp.abs(x))))

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        index, x, _ = state
        fast = _newton_step(problem, x, likelihood)
        if likelihood.has("bound"):
            # The bound's step always descends; Newton's is taken where it descends further.
            slow = _bound_step(problem, x, likelihood)
            better = row_loss(problem, fast, likelihood) <= row_loss(problem, slow, likelihood)
            new = jnp.where(better[:, None], fast, slow)
        else:
            new = _shortened(problem, x, fast, likelihood)
        return index + 1, new, jnp.max(jnp.abs(new - x))

    first = (jnp.asarray(0), start, jnp.full((), jnp.inf, start.dtype))
    return lax.while_loop(unfinished, step, first)[1]


def _bound_step(problem: RowProblem, x: Array, likelihood: Likelihood) -> Array:
    def quadratic(scores: Array, rating: Array) -> tuple[Array, Array]:
        curvature, slope = likelihood.bound(scores, rating, problem.scales)
        return curvature, slope

    return _step(problem, x, quadratic)


def _newton_step(problem: RowProblem, x: Array, likelihood: Likelihood) -> Array:
    def quadratic(scores: Array, rating: Array) -> tuple[Array, Array]:
        information = likelihood.information(scores, problem.scales)
        return information, likelihood.slope(scores, rating, problem.scales)

    return _step(problem, x, quadratic)


def _shortened(problem: RowProblem, x: Array, aim: Array, likelihood: Likelihood) -> Array:
    """Part of the way to each row's aim, halved until it lowers the row's loss."""
    here = row_loss(problem, x, likelihood)

    def failed(state: tuple[Array, Array, Array]) -> Array:
        share, _, descended = state
        return (share >= SHORTEST) & ~jnp.all(descended)

    def halve(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        share, new, descended = state
        tried = x + share * (aim - x)
        lower = row_loss(problem, tried, likelihood) <= here
        new = jnp.where((lower & ~descended)[:, None], tried, new)
        return 0.5 * share, new, descended | lower

    start = (jnp.ones((), x.dtype), x, jnp.zeros(len(x), bool))
    return lax.while_loop(failed, halve, start)[1]


def _step(
    problem: RowProblem, x: Array, quadratic: Callable[[Array, Array], tuple[Array, Array]]
) -> Array:
    """To the minimum of a quadratic function of the scores, by its curvature and minus slope."""

    def moments(z: Array, offset: Array, rating: Array, weight: Array) -> tuple[Array, Array]:
        curvature, slope = quadratic(offset + conditionals.project(z, x), rating)
        second = conditionals.second_moments(z, weight * curvature)
        return conditionals.collect(z, weight * slope), second

    first, second = problem.sum(moments)
    return x + conditionals.cholesky_step(problem.matrix(second), problem.gradient(first, x))


def row_loss(problem: RowProblem, x: Array, likelihood: Likelihood) -> Array:
    """Minus log density of each row up to a constant, weak zeros aside."""

    def total(z: Array, offset: Array, rating: Array, weight: Array) -> Array:
        scores = offset + conditionals.project(z, x)
        return jnp.sum(weight * likelihood.loss(scores, rating, problem.scales), axis=1)

    return problem.sum(total) + 0.5 * jnp.sum(
        problem.precision * jnp.square(problem.apart(x)), axis=1
    )
