"""Gradient methods that see all ratings at every update."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float

from probmf.inference.point.objective import (
    Terms,
    add_means,
    own_parameters,
    prior_loss,
    starting_values,
    to_sites,
)
from probmf.inference.point.optimizer import (
    Rule,
    apply,
    describe_divergence,
    initial_states,
    own_rate,
)
from probmf.likelihoods import Likelihood
from probmf.models.factorization import MatrixFactorization
from probmf.models.observations import Observations
from probmf.models.scores import Parameters, squared_scores
from probmf.models.table import ALIGNMENT
from probmf.rows import gaussian
from probmf.rows.layout import SIDES, Bucket, build_rows
from probmf.rows.sweep import own_rows
from probmf.rows.values import RowValues
from probmf.run.estimate import Info


class RatingTerms(NamedTuple):
    """The ratings by row, and what weighs on their scores; a pytree.

    Attributes:
        buckets: Ratings of the rows of both sides.
        scales: The likelihood's own scales.
        zero_weight: Precision of the weak zeros that stand for unobserved pairs, or None.
    """

    buckets: tuple[Bucket, ...]
    scales: dict[str, Array]
    zero_weight: Float[Array, ""] | None


def objective(
    parameters: Parameters, terms: Terms, ratings: RatingTerms, likelihood: Likelihood
) -> Float[Array, ""]:
    """Objective of `MatrixFactorization`, with a gradient that needs no scatter of ratings.

    Args:
        parameters: Values to optimize; see `to_sites`.
        terms: Priors and constants.
        ratings: The ratings by row.
        likelihood: In canonical form.

    Returns:
        Minus log posterior up to a constant. Cost of value and gradient: two reads of the
        partners' factors for every rating, one per side.
    """
    sites = to_sites(parameters)
    values = {**terms.constants, **add_means(sites, terms)}
    total = prior_loss(sites, terms)
    moved = Moved(_pack(values, terms), values["intercept"], own_parameters(sites))
    total = total + rating_loss(likelihood, moved, ratings)
    if ratings.zero_weight is not None:
        sizes = [len(terms.counts[side]) for side in SIDES]
        total = total + 0.5 * ratings.zero_weight * squared_scores(values, *sizes)
    return total


def _pack(values: Parameters, terms: Terms) -> RowValues:
    """Rows of both sides in the numbering of the buckets."""
    bias, factors = [], []
    for side in SIDES:
        size = len(terms.counts[side])
        bias.append(values.get(f"{side}_bias", jnp.zeros(size)))
        block = values.get(f"{side}_factors", jnp.zeros((size, 0)))
        factors.append(jnp.pad(block, ((0, 0), (0, -block.shape[1] % ALIGNMENT))))
    last = jnp.zeros((1, factors[0].shape[1]))
    return RowValues(jnp.concatenate([*bias, jnp.zeros(1)]), jnp.concatenate([*factors, last]))


class Moved(NamedTuple):
    """Arguments that the losses of ratings are differentiated in; a pytree.

    Attributes:
        rows: Rows of both sides.
        intercept: Added to every score.
        own: Those parameters of the likelihood that are optimized, too.
    """

    rows: RowValues
    intercept: Float[Array, ""]
    own: dict[str, Array]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def rating_loss(likelihood: Likelihood, moved: Moved, ratings: RatingTerms) -> Float[Array, ""]:
    """Sum of the losses of all ratings, less what the weak zeros count of observed pairs."""
    return _loss_and_slopes(likelihood, moved, ratings)[0]


def _loss_and_slopes(
    likelihood: Likelihood, moved: Moved, ratings: RatingTerms
) -> tuple[Array, Moved]:
    """Loss, and its gradient.

    Every rating stands in two buckets, its user's and its item's, so that each row sums over its
    own slots; for the loss, the two are halved.
    """
    rows, intercept = moved.rows, moved.intercept
    zero_row = len(rows.bias) - 1

    def one_chunk(chunk: Bucket) -> tuple[Array, Array, dict[str, Array]]:
        design = rows.factors[chunk.partner]
        offset = intercept + rows.bias[chunk.partner]
        scores = offset + gaussian.project(design, own_rows(rows, chunk.row))
        filled = (chunk.partner != zero_row).astype(scores.dtype)
        weight = filled if chunk.weight is None else chunk.weight

        def chunk_loss(own: dict[str, Array]) -> tuple[Array, Array]:
            losses = weight * likelihood.loss(scores, chunk.rating, ratings.scales | own)
            return jnp.sum(losses), losses

        # Without parameters of its own nothing is differentiated.
        own_slopes, loss = jax.grad(chunk_loss, has_aux=True)(moved.own)
        slope = -weight * likelihood.bound(scores, chunk.rating, ratings.scales | moved.own)[1]
        if ratings.zero_weight is not None:
            loss = loss - 0.5 * ratings.zero_weight * filled * jnp.square(scores)
            slope = slope - ratings.zero_weight * filled * scores
        return jnp.sum(loss, axis=1), gaussian.collect(design, slope), own_slopes

    loss = jnp.zeros((), rows.bias.dtype)
    bias, factors = jnp.zeros_like(rows.bias), jnp.zeros_like(rows.factors)
    own = jax.tree.map(jnp.zeros_like, moved.own)
    for bucket in ratings.buckets:
        losses, slopes, own_slopes = lax.map(one_chunk, bucket)
        loss = loss + 0.5 * jnp.sum(losses)
        own = jax.tree.map(lambda total, x: total + 0.5 * jnp.sum(x, axis=0), own, own_slopes)
        bias = bias.at[bucket.row].set(slopes[..., 0])
        factors = factors.at[bucket.row].set(slopes[..., 1:])
    return loss, Moved(RowValues(bias, factors), 0.5 * jnp.sum(bias), own)


def _forward(likelihood: Likelihood, moved: Moved, ratings: RatingTerms) -> tuple[Array, Moved]:
    return _loss_and_slopes(likelihood, moved, ratings)


def _backward(likelihood: Likelihood, slopes: Moved, cotangent: Array) -> tuple[Moved, None]:
    return jax.tree.map(lambda slope: cotangent * slope, slopes), None


rating_loss.defvjp(_forward, _backward)


class Runs(NamedTuple):
    """State of all restarts; every array has a leading axis over them outside `vmap`.

    Attributes:
        parameters: Values by site name.
        value: The objective there.
        gradient: Its gradient there.
        optimizer: State of the optimizer.
    """

    parameters: dict[str, Array]
    value: Float[Array, " runs"]
    gradient: dict[str, Array]
    optimizer: Any


class State(NamedTuple):
    """State of a fit.

    Attributes:
        runs: All restarts.
        epoch: Number of updates done.
    """

    runs: Runs
    epoch: int


class FullBatch:
    """Gradient descent on the objective itself, for `estimate`; one update is one epoch."""

    unit = "epoch"

    def __init__(
        self,
        model: MatrixFactorization,
        observations: Observations,
        start: Callable[[Array], dict[str, Array]],
        rule: Rule,
        num_runs: int,
    ) -> None:
        """Lay out the rows; see `fit_map` for the arguments."""
        self.rule, self.num_runs = rule, num_runs
        self.likelihood = model.likelihood.canonical()
        self.terms = Terms.build(model, observations)
        self.start = starting_values(start, model, self.terms)
        weight = None if observations.weight is None else np.asarray(observations.weight)
        layout = build_rows(
            np.asarray(observations.user), np.asarray(observations.item),
            np.asarray(observations.rating), weight,
            num_users=observations.num_users, num_items=observations.num_items,
        )  # fmt: skip
        zero_weight = None
        if model.unobserved_weight > 0:
            zero_weight = model.unobserved_weight / jnp.square(self.terms.scales["noise_scale"])
        self.ratings = RatingTerms(layout.buckets, self.terms.scales, zero_weight)

    def init(self, key: Array) -> State:
        """Random or given starting values, one for each restart, and the gradient there."""
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(self.num_runs))
        parameters = jax.vmap(self.start)(keys)
        nothing = jax.tree.map(jnp.zeros_like, parameters)
        optimizer = initial_states(self.rule.optimizer, parameters)
        runs = Runs(parameters, jnp.zeros(self.num_runs), nothing, optimizer)
        still = np.zeros((), np.dtype(jnp.result_type(float)))
        return State(self._advance(runs, still, moves=False)[0], 0)

    def step(self, key: Array, state: State) -> tuple[State, list[Info]]:
        """One update. Deterministic: the key is not used."""
        factor = self.rule.factors(state.epoch, 1)[0]
        runs, rates = self._advance(state.runs, factor, moves=True)
        update = state.epoch + 1
        infos = []
        for value, rate in zip(np.asarray(runs.value), np.asarray(rates), strict=True):
            known = rate if self.rule.schedule is None else -factor
            words = describe_divergence(update, update, float(known))
            infos.append(Info(float(value), None if np.isfinite(value) else words))
        return State(runs, update), infos

    def parameters(self, state: State, run: int) -> dict[str, Array]:
        """The parameters of one restart by site name."""
        own = {site: value[run] for site, value in state.runs.parameters.items()}
        return add_means(to_sites(own), self.terms) | self.terms.constants

    def _advance(self, runs: Runs, factor: np.ndarray, *, moves: bool) -> tuple[Runs, Array]:
        return _advance(
            runs, factor, moves, self.terms, self.ratings, likelihood=self.likelihood,
            optimizer=self.rule.optimizer,
        )  # fmt: skip


@partial(jax.jit, static_argnames=("likelihood", "optimizer"))
def _advance(
    runs: Runs,
    factor: Array,
    moves: Array,
    terms: Terms,
    ratings: RatingTerms,
    *,
    likelihood: Likelihood,
    optimizer: optax.GradientTransformation,
) -> tuple[Runs, Array]:
    """The next runs and the optimizer's own learning rate, for every restart.

    Without `moves` only value and gradient are computed: the start needs no program of its own.
    """

    def value_fn(parameters: dict[str, Array]) -> Array:
        return objective(parameters, terms, ratings, likelihood)

    def one(run: Runs) -> tuple[Runs, Array]:
        moved, optimizer_state = apply(
            optimizer, run.gradient, run.optimizer, run.parameters, factor,
            value=run.value, value_fn=value_fn,
        )  # fmt: skip
        pick = partial(jnp.where, moves)
        parameters = jax.tree.map(pick, moved, run.parameters)
        kept = jax.tree.map(pick, optimizer_state, run.optimizer)
        value, gradient = jax.value_and_grad(value_fn)(parameters)
        return Runs(parameters, value, gradient, kept), own_rate(kept)

    return jax.vmap(one)(runs)
