"""Gradient methods that see a few ratings at every update, down to one."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from probmf.inference.point.batches import Batch, batch_loss, chunked_objective, shuffle
from probmf.inference.point.objective import Terms, add_means, side_of, starting_values, to_sites
from probmf.inference.point.optimizer import (
    Rule,
    apply,
    describe_divergence,
    initial_states,
    leaves_rows_alone,
    own_rate,
    put_rows,
    row_labels,
    take_rows,
)
from probmf.likelihoods import Likelihood
from probmf.models.factorization import MatrixFactorization
from probmf.models.observations import Observations
from probmf.rows.layout import SIDES
from probmf.run.estimate import Info


class Runs(NamedTuple):
    """State of all restarts; every array has a leading axis over them outside `vmap`.

    Attributes:
        parameters: Values by site name.
        optimizer: State of the optimizer.
    """

    parameters: dict[str, Array]
    optimizer: Any


class State(NamedTuple):
    """State of a fit.

    Attributes:
        runs: All restarts.
        epoch: Number of epochs done.
    """

    runs: Runs
    epoch: int


class Outcome(NamedTuple):
    """Result of an epoch.

    Attributes:
        objective: The objective after the epoch.
        bad_update: The first update whose loss was not finite, from 0; -1 when all were.
        bad_rate: The optimizer's own learning rate at that update, NaN when it does not tell.
    """

    objective: Float[Array, " runs"]
    bad_update: Int[Array, " runs"]
    bad_rate: Float[Array, " runs"]


class Minibatch:
    """Stochastic gradient descent over shuffled ratings, for `estimate`."""

    unit = "epoch"

    def __init__(
        self,
        model: MatrixFactorization,
        observations: Observations,
        start: Callable[[Array], dict[str, Array]],
        rule: Rule,
        num_runs: int,
        batch_size: int,
    ) -> None:
        """Place the ratings; see `fit_map` for the arguments."""
        self.rule, self.num_runs, self.batch_size = rule, num_runs, batch_size
        self.likelihood = model.likelihood.canonical()
        self.terms = Terms.build(model, observations)
        self.start = starting_values(start, model, self.terms)
        rating = jnp.asarray(observations.rating)
        ones = jnp.ones_like(rating)
        weight = ones if observations.weight is None else observations.weight
        self.ratings = Batch(observations.user, observations.item, rating, weight, ones)
        self.num_updates = -(-len(rating) // batch_size)
        sites = model.site_shapes(observations.num_users, observations.num_items)
        learned: dict[str, tuple[int, ...]] = {"intercept": ()} if model.learns_intercept else {}
        # What has no rows is tried as one number.
        learned |= dict.fromkeys(model.learned_shapes, ())
        for mean in self.terms.means.values():
            learned |= dict.fromkeys(mean.shapes, ())
        self.by_rows = leaves_rows_alone(rule.optimizer, sites | learned)

    def init(self, key: Array) -> State:
        """Random or given starting values, one for each restart."""
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(self.num_runs))
        parameters = jax.vmap(self.start)(keys)
        return State(Runs(parameters, initial_states(self.rule.optimizer, parameters)), 0)

    def step(self, key: Array, state: State) -> tuple[State, list[Info]]:
        """One epoch: every rating once, in an order drawn by the key."""
        done = state.epoch * self.num_updates
        factors = self.rule.factors(done, self.num_updates)
        runs, outcome = _run_epoch(
            state.runs, key, factors, self.ratings, self.terms, likelihood=self.likelihood,
            optimizer=self.rule.optimizer, batch_size=self.batch_size, by_rows=self.by_rows,
        )  # fmt: skip
        infos = []
        for objective, bad, rate in zip(*map(np.asarray, outcome), strict=True):
            trouble = None
            if bad >= 0 or not np.isfinite(objective):
                at = int(bad) if bad >= 0 else self.num_updates - 1
                known = rate if self.rule.schedule is None else -factors[at]
                trouble = describe_divergence(done + at + 1, state.epoch + 1, float(known))
            infos.append(Info(float(objective), trouble))
        return State(runs, state.epoch + 1), infos

    def parameters(self, state: State, run: int) -> dict[str, Array]:
        """The parameters of one restart by site name."""
        own = {site: value[run] for site, value in state.runs.parameters.items()}
        return add_means(to_sites(own), self.terms) | self.terms.constants


@partial(
    jax.jit,
    static_argnames=("likelihood", "optimizer", "batch_size", "by_rows"),
    donate_argnames="runs",
)
def _run_epoch(
    runs: Runs,
    key: Array,
    factors: Array,
    ratings: Batch,
    terms: Terms,
    *,
    likelihood: Likelihood,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    by_rows: bool,
) -> tuple[Runs, Outcome]:
    """One epoch of every restart, all in the same order of ratings."""
    batches = shuffle(key, ratings, batch_size)
    shares = terms.shares()
    update = _update_rows if by_rows else _update_all

    def one(run: Runs) -> tuple[Runs, Outcome]:
        def body(carry: tuple, step: tuple) -> tuple[tuple, None]:
            run, seen, bad, bad_rate = carry
            batch, factor, number = step
            run, seen, loss = update(run, seen, batch, factor, shares, terms, likelihood, optimizer)
            first = (bad < 0) & ~jnp.isfinite(loss)
            bad_rate = jnp.where(first, own_rate(run.optimizer), bad_rate)
            return (run, seen, jnp.where(first, number, bad), bad_rate), None

        seen = {side: jnp.zeros(len(terms.counts[side]), jnp.int32) for side in SIDES}
        start = (run, seen, jnp.asarray(-1, jnp.int32), jnp.asarray(jnp.nan))
        steps = (batches, factors, jnp.arange(len(factors), dtype=jnp.int32))
        (run, _, bad, bad_rate), _ = lax.scan(body, start, steps)
        return run, Outcome(
            chunked_objective(run.parameters, ratings, terms, likelihood), bad, bad_rate
        )

    return jax.vmap(one)(runs)


def _update_rows(
    run: Runs,
    seen: dict[str, Array],
    batch: Batch,
    factor: Array,
    shares: dict[str, Array],
    terms: Terms,
    likelihood: Likelihood,
    optimizer: optax.GradientTransformation,
) -> tuple[Runs, dict[str, Array], Array]:
    """One update that reads and writes the batch's rows only. Cost O(batch x num_factors).

    A row that stands several times in the batch must move once, by the sum of its gradients: one
    of its places, whichever `seen` ends up with, gets that sum and is written back.
    """
    index = {"user": batch.user, "item": batch.item}
    labels, state_labels = row_labels(run.optimizer, run.parameters)
    rows = take_rows(labels, run.parameters, index)
    kept = take_rows(state_labels, run.optimizer, index)
    # Without the barrier XLA may read the old rows again after writing, and then it copies the
    # whole table at every update.
    rows, kept = lax.optimization_barrier((rows, kept))
    loss, gradient = jax.value_and_grad(batch_loss)(
        rows, batch, take_rows(labels, shares, index), terms, likelihood
    )
    size = len(batch.rating)
    if size > 1:
        places = jnp.arange(size, dtype=jnp.int32)
        seen = {side: seen[side].at[index[side]].set(places) for side in seen}
        owner = {side: seen[side][index[side]] for side in seen}
        gradient = {
            site: jnp.zeros_like(value).at[owner[label]].add(value) if label in owner else value
            for site, value in gradient.items()
            for label in [labels[site]]
        }
        index = {
            side: jnp.where(owner[side] == places, index[side], len(terms.counts[side]))
            for side in seen
        }
    rows, kept = apply(optimizer, gradient, kept, rows, factor, value=loss)
    rows, kept = lax.optimization_barrier((rows, kept))
    parameters = put_rows(labels, run.parameters, rows, index)
    return Runs(parameters, put_rows(state_labels, run.optimizer, kept, index)), seen, loss


def _update_all(
    run: Runs,
    seen: dict[str, Array],
    batch: Batch,
    factor: Array,
    shares: dict[str, Array],
    terms: Terms,
    likelihood: Likelihood,
    optimizer: optax.GradientTransformation,
) -> tuple[Runs, dict[str, Array], Array]:
    """One update of every row, for optimizers that move rows without a gradient, such as Adam."""
    index = {"user": batch.user, "item": batch.item}
    labels = {site: side_of(site) for site in run.parameters}

    def value_fn(parameters: dict[str, Array]) -> Array:
        rows = take_rows(labels, parameters, index)
        return batch_loss(rows, batch, take_rows(labels, shares, index), terms, likelihood)

    loss, gradient = jax.value_and_grad(value_fn)(run.parameters)
    parameters, kept = apply(
        optimizer, gradient, run.optimizer, run.parameters, factor, value=loss,
        value_fn=value_fn,
    )  # fmt: skip
    return Runs(parameters, kept), seen, loss
