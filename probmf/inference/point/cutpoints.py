"""Cutpoints of ordinal ratings given the scores: their density's derivatives, and Newton's step."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.likelihoods import Likelihood
from probmf.likelihoods.ordinal import CutpointTerms
from probmf.models.linear_predictor import Parameters, linear_predictor
from probmf.models.observations import Observations

#: Ratings that are summed over on the device; the sums are added up on the host, in float64.
CHUNK = 4096
#: Halvings of Newton's step before it is given up for this sweep.
MAX_HALVINGS = 12


class CutpointSums(NamedTuple):
    """Minus log likelihood of cutpoints given the scores, with its derivatives; a pytree.

    Attributes:
        loss: Its value.
        gradient: Its gradient.
        diagonal: The diagonal of its Hessian, which is tridiagonal and positive semidefinite.
        beside: The diagonal beside that.
    """

    loss: Float[Array, "..."]
    gradient: Float[Array, "... c"]
    diagonal: Float[Array, "... c"]
    beside: Float[Array, "... c_less_1"]


def cutpoint_sums(
    scores: Float[Array, " n"],
    rating: Float[Array, " n"],
    weight: Float[Array, " n"],
    cutpoints: Float[Array, " c"],
    likelihood: Likelihood,
) -> CutpointSums:
    r"""Sums over ratings of :math:`-\log P(r \mid \eta)`, and derivatives by the cutpoints.

    The weight is 0 where there is no rating. Cost O(n x levels).
    """
    terms = likelihood.cutpoint_terms(scores, rating, {"cutpoints": cutpoints})
    # Weights of zero stand for no rating, whatever is there.
    terms = CutpointTerms(*(jnp.where(weight > 0, weight * term, 0.0) for term in terms))
    mixed = jnp.where(weight > 0, terms.lower * terms.upper / weight, 0.0)
    gradient, diagonal, beside = [], [], []
    levels, last = likelihood.levels, likelihood.num_levels - 2
    # Unrolled masks: a product with a matrix of indicators takes ten times as long.
    for place in range(last + 1):
        below, above = _at_level(rating, levels, place), _at_level(rating, levels, place + 1)
        slope = jnp.where(above, terms.lower, 0.0) - jnp.where(below, terms.upper, 0.0)
        gradient.append(jnp.sum(slope))
        curve = jnp.where(below, terms.upper_curve, 0.0) + jnp.where(above, terms.lower_curve, 0.0)
        diagonal.append(jnp.sum(curve))
        if place < last:
            beside.append(-jnp.sum(jnp.where(above, mixed, 0.0)))
    return CutpointSums(
        loss=jnp.sum(terms.loss),
        gradient=jnp.stack(gradient),
        diagonal=jnp.stack(diagonal),
        beside=jnp.stack(beside) if beside else jnp.zeros(0, scores.dtype),
    )


def _at_level(rating: Array, levels: tuple[float, ...], place: int) -> Array:
    """Mask of ratings that are nearest to one of the levels."""
    near = jnp.ones_like(rating, dtype=bool)
    if place > 0:
        near = near & (rating > 0.5 * (levels[place - 1] + levels[place]))
    if place < len(levels) - 1:
        near = near & (rating < 0.5 * (levels[place] + levels[place + 1]))
    return near


class CutpointStep:
    """Newton's step on learned cutpoints given all scores; it never raises the objective.

    Args:
        likelihood: The likelihood, whose cutpoints are learned.
        observations: The data.
    """

    def __init__(self, likelihood: Likelihood, observations: Observations) -> None:
        """Cut the ratings in chunks."""
        self.likelihood = likelihood
        rating = jnp.asarray(observations.rating)
        weight = jnp.ones_like(rating) if observations.weight is None else observations.weight
        columns = (observations.user, observations.item, rating, weight)
        self.columns = [_cut(column) for column in columns]

    def __call__(self, parameters: Parameters) -> tuple[dict[str, Array], float]:
        """The next cutpoints, and the part of the objective that ratings and cutpoints have there.

        If no step lowers that part, they are the same as before.
        """
        user, item, rating, weight = self.columns
        scores = _scores({k: v for k, v in parameters.items() if k != "cutpoints"}, user, item)
        old = parameters["cutpoints"]

        def sums(cutpoints: np.ndarray) -> CutpointSums:
            found = _sums(
                scores, rating, weight, jnp.asarray(cutpoints, old.dtype),
                likelihood=self.likelihood.canonical(),
            )  # fmt: skip
            total: Any = [np.asarray(part, np.float64).sum(axis=0) for part in found]
            return self._with_prior(CutpointSums(*total), cutpoints)

        cutpoints, loss = newton_step(sums, np.asarray(old, np.float64))
        return {"cutpoints": jnp.asarray(cutpoints, old.dtype)}, loss

    def _with_prior(self, sums: CutpointSums, cutpoints: np.ndarray) -> CutpointSums:
        precision = self.likelihood.prior_precisions()["cutpoints"]
        return sums._replace(
            loss=sums.loss + 0.5 * precision * np.sum(np.square(cutpoints)),
            gradient=sums.gradient + precision * cutpoints,
            diagonal=sums.diagonal + precision,
        )


def newton_step(
    sums: Callable[[np.ndarray], CutpointSums], start: np.ndarray
) -> tuple[np.ndarray, float]:
    """One step towards the minimum of a convex function of cutpoints, halved until it descends."""
    here = sums(start)
    hessian = np.diag(here.diagonal) + np.diag(here.beside, 1) + np.diag(here.beside, -1)
    step = -np.linalg.solve(hessian, here.gradient)
    for _ in range(MAX_HALVINGS):
        # In the precision that they are kept in, so that what is returned is what was tried.
        new = np.asarray(start + step, jnp.result_type(float)).astype(np.float64)
        if np.all(np.diff(new) > 0):
            loss = float(sums(new).loss)
            if loss <= float(here.loss):
                return new, loss
        step = 0.5 * step
    return start, float(here.loss)


def _cut(values: Array) -> Array:
    return jnp.pad(values, (0, -len(values) % CHUNK)).reshape(-1, CHUNK)


@jax.jit
def _scores(parameters: dict[str, Array], user: Array, item: Array) -> Array:
    return jax.lax.map(lambda pair: linear_predictor(parameters, *pair), (user, item))


@partial(jax.jit, static_argnames="likelihood")
def _sums(
    scores: Array, rating: Array, weight: Array, cutpoints: Array, *, likelihood: Likelihood
) -> CutpointSums:
    def one(chunk: tuple[Array, Array, Array]) -> CutpointSums:
        return cutpoint_sums(*chunk, cutpoints, likelihood)

    return jax.lax.map(one, (scores, rating, weight))
