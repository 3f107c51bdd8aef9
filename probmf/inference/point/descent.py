"""Gradient descent on an objective, of ratings or of a network: all restarts in one program."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from probmf.inference.point.optimizer import (
    Rule,
    apply,
    describe_divergence,
    initial_states,
    own_rate,
)
from probmf.inference.point.row_updates import unseen, update_rows
from probmf.run.estimate import Info


class Objective(Protocol):
    """Function to lower, without its data; hashable, as programs are compiled for it.

    Its data (`given`) are a pytree. One that can be lowered in minibatches has two methods more,
    `batches(key, given, size)`, the data in an order drawn by the key, cut in batches along a
    leading axis, and `part(moved, batch, given)`; the parts of all batches of an epoch sum to the
    whole.
    """

    @property
    def by_rows(self) -> bool:
        """True where an update with a minibatch reads and writes the batch's rows only.

        Then there are `index(batch)`, its rows by side, and `part_of_rows(rows, batch, given)`.
        """

    def sites(self, moved: dict[str, Array], given: Any) -> dict[str, Array]:
        """Values by site from those that are moved."""

    def moved(self, sites: dict[str, Array], given: Any) -> dict[str, Array]:
        """Values to move from those by site."""

    def whole(self, moved: dict[str, Array], given: Any) -> Float[Array, ""]:
        """The objective of all data."""


class Restart(NamedTuple):
    """State of a restart; of all restarts, every array has a leading axis over them.

    Attributes:
        parameters: Values that are moved, by site name.
        optimizer: State of the optimizer.
        value: The objective there; None for minibatches.
        gradient: Its gradient there; None for minibatches.
    """

    parameters: dict[str, Array]
    optimizer: Any
    value: Any = None
    gradient: Any = None


class DescentState(NamedTuple):
    """State of a fit.

    Attributes:
        restarts: All restarts.
        epoch: Number of epochs done.
    """

    restarts: Restart
    epoch: int


class Outcome(NamedTuple):
    """Result of an epoch.

    Attributes:
        objective: The objective after the epoch.
        bad_update: The first update whose loss was not finite, from 0; -1 when all were.
        rate: The optimizer's own learning rate at that update, or the last; NaN when it does not
            tell.
    """

    objective: Float[Array, " runs"]
    bad_update: Int[Array, " runs"]
    rate: Float[Array, " runs"]


class Descent:
    """Gradient descent on an objective, for `estimate`; a full batch is the case of one batch."""

    unit = "epoch"

    def __init__(
        self,
        objective: Objective,
        given: Any,
        start: Callable[[Array], dict[str, Array]],
        rule: Rule,
        *,
        num_runs: int,
        num_updates: int,
        batch_size: int | None,
    ) -> None:
        """Note the objective with its data, values to start from by key, and how to move them."""
        self.objective, self.given, self.start = objective, given, start
        self.rule, self.num_runs = rule, num_runs
        self.num_updates, self.batch_size = num_updates, batch_size

    def init(self, key: Array) -> DescentState:
        """Random or given starting values, one for each restart."""

        def draw(key: Array) -> dict[str, Array]:
            return self.objective.moved(self.start(key), self.given)

        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(self.num_runs))
        parameters = jax.vmap(draw)(keys)
        restarts = Restart(parameters, initial_states(self.rule.optimizer, parameters))
        if self.batch_size is None:
            nothing = jax.tree.map(jnp.zeros_like, parameters)
            restarts = restarts._replace(value=jnp.zeros(self.num_runs), gradient=nothing)
            # No update: the gradient at the start needs no program of its own.
            still = np.zeros(1, np.dtype(jnp.result_type(float)))
            restarts, _ = self._run_epoch(restarts, key, still, 0)
        return DescentState(restarts, 0)

    def step(self, key: Array, state: DescentState) -> tuple[DescentState, list[Info]]:
        """One epoch: all data once; minibatches in an order drawn by the key."""
        done = state.epoch * self.num_updates
        factors = self.rule.factors(done, self.num_updates)
        restarts, outcome = self._run_epoch(state.restarts, key, factors, self.num_updates)
        infos = []
        for objective, bad, rate in zip(*map(np.asarray, outcome), strict=True):
            trouble = None
            if bad >= 0 or not np.isfinite(objective):
                at = int(bad) if bad >= 0 else self.num_updates - 1
                known = rate if self.rule.schedule is None else -factors[at]
                trouble = describe_divergence(done + at + 1, state.epoch + 1, float(known))
            infos.append(Info(float(objective), trouble))
        return DescentState(restarts, state.epoch + 1), infos

    def parameters(self, state: DescentState, run: int) -> dict[str, Array]:
        """The parameters of one restart by site name."""
        return _sites(state.restarts.parameters, run, self.given, objective=self.objective)

    def _run_epoch(
        self, restarts: Restart, key: Array, factors: np.ndarray, count: int
    ) -> tuple[Restart, Outcome]:
        return _run_epoch(
            restarts, key, factors, count, self.given, objective=self.objective,
            optimizer=self.rule.optimizer, batch_size=self.batch_size,
        )  # fmt: skip


@partial(jax.jit, static_argnames="objective")
def _sites(
    parameters: dict[str, Array], run: Array, given: Any, *, objective: Objective
) -> dict[str, Array]:
    return objective.sites({site: value[run] for site, value in parameters.items()}, given)


# The states that it begins with stay whole: a run that is interrupted goes on from there.
@partial(jax.jit, static_argnames=("objective", "optimizer", "batch_size"))
def _run_epoch(
    restarts: Restart,
    key: Array,
    factors: Array,
    count: Array,
    given: Any,
    *,
    objective: Any,
    optimizer: optax.GradientTransformation,
    batch_size: int | None,
) -> tuple[Restart, Outcome]:
    """The first `count` updates of an epoch, of every restart, all in the same order of the data.

    With full batches value and gradient after an update are those that the next one starts from.
    """
    full_batch = batch_size is None
    whole = partial(objective.whole, given=given)
    batches = None if full_batch else objective.batches(key, given, batch_size)

    def update(run: Restart, seen: Any, batch: Any, factor: Array) -> tuple[Restart, Any, Array]:
        parameters, kept = run.parameters, run.optimizer
        if objective.by_rows:
            part = partial(objective.part_of_rows, batch=batch, given=given)
            parameters, kept, seen, loss = update_rows(
                parameters, kept, seen, objective.index(batch), factor, part, optimizer
            )
        else:
            value_fn = whole if full_batch else partial(objective.part, batch=batch, given=given)
            loss, gradient = run.value, run.gradient
            if not full_batch:
                loss, gradient = jax.value_and_grad(value_fn)(parameters)
            parameters, kept = apply(
                optimizer, gradient, kept, parameters, factor, value=loss, value_fn=value_fn
            )
        return run._replace(parameters=parameters, optimizer=kept), seen, loss

    def one(run: Restart) -> tuple[Restart, Outcome]:
        def body(number: Array, carry: tuple) -> tuple:
            run, seen, bad, rate = carry
            batch = jax.tree.map(lambda all_of: all_of[number], batches)
            run, seen, loss = update(run, seen, batch, factors[number])
            first = (bad < 0) & ~jnp.isfinite(loss)
            rate = jnp.where(first, own_rate(run.optimizer), rate)
            return run, seen, jnp.where(first, number, bad), rate

        seen = unseen(run.parameters) if objective.by_rows else ()
        start = (run, seen, jnp.asarray(-1, jnp.int32), jnp.asarray(jnp.nan))
        run, _, bad, rate = lax.fori_loop(jnp.int32(0), count.astype(jnp.int32), body, start)
        if full_batch:
            value, gradient = jax.value_and_grad(whole)(run.parameters)
            run = run._replace(value=value, gradient=gradient)
        else:
            value = whole(run.parameters)
        return run, Outcome(value, bad, jnp.where(bad < 0, own_rate(run.optimizer), rate))

    return jax.vmap(one)(restarts)
