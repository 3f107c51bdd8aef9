"""From gradients to steps: optimizers, their default rules, and learning rates."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from probmf.run.fingerprint import fingerprint

Schedule = Callable[[Array], Array]

#: AdaGrad for minibatches: a zero gradient is no step, and rows that are seldom seen keep a
#: long step. Adam for full batches. Both are independent of the scale of the loss.
ADAGRAD = optax.scale_by_rss(initial_accumulator_value=0.1, eps=1e-7)
_ADAM = optax.scale_by_adam()
#: Optimizers by name; their learning rate is then known, and told when a fit diverges.
OPTIMIZERS = {
    "sgd": optax.identity(), "momentum": optax.trace(0.9), "rmsprop": optax.scale_by_rms(),
    "adagrad": ADAGRAD, "adam": _ADAM,
}  # fmt: skip
#: Places in memory, which differ from process to process.
ADDRESS = re.compile(r"0x[0-9a-f]+")
#: Learning rates of the defaults: of full batches, and the first of minibatches, which falls
#: linearly to zero.
RATING_RATES = (0.1, 0.5)
NETWORK_RATES = (0.05, 0.01)


@dataclass(frozen=True)
class Rule:
    """Rule from gradients to steps: minus the rate times the optimizer's update of the gradient.

    Args:
        optimizer: The transformation.
        schedule: Learning rate by number of updates done, or None when the optimizer has its own.
    """

    optimizer: optax.GradientTransformation
    schedule: Schedule | None

    def factors(self, first: int, count: int) -> Float[np.ndarray, " count"]:
        """Factors of the optimizer's updates, for `count` updates from `first` on."""
        if self.schedule is None:
            return np.ones(count, np.dtype(jnp.result_type(float)))
        schedule = self.schedule
        updates = jnp.arange(count) + first
        rates = jax.vmap(lambda update: jnp.asarray(schedule(update), float))(updates)
        values = np.asarray(rates)
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            at = int(np.argmax(bad))
            raise ValueError(
                f"The learning_rate schedule gives {values[at]:g} at update {first + at + 1}; "
                "expected a finite number >= 0."
            )
        return -values


def rating_rule(full_batch: bool, num_updates: int) -> Rule:
    """The default for rows of ratings: Adam for full batches, AdaGrad for minibatches."""
    constant, first = RATING_RATES
    if full_batch:
        return Rule(_ADAM, optax.constant_schedule(constant))
    return Rule(ADAGRAD, optax.linear_schedule(first, 0.0, num_updates))


def network_rule(full_batch: bool, num_updates: int) -> Rule:
    """The default for networks: Adam."""
    constant, first = NETWORK_RATES
    if full_batch:
        return Rule(_ADAM, optax.constant_schedule(constant))
    return Rule(_ADAM, optax.linear_schedule(first, 0.0, num_updates))


def choose_rule(
    optimizer: optax.GradientTransformation | str | None,
    learning_rate: float | Schedule | None,
    default: Rule,
) -> Rule:
    """The rule that the arguments of `fit_map` ask for.

    Any optax optimizer, one of `OPTIMIZERS`, or None for the default.

    Raises:
        TypeError: If the optimizer is none of optax's, or the learning rate no number or schedule.
        ValueError: If both are given, or the learning rate is not positive and finite.
    """
    base = default.optimizer
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise ValueError(
                f"optimizer is {optimizer!r}; expected one of "
                f"{', '.join(map(repr, OPTIMIZERS))}, or an optax optimizer such as optax.lbfgs()."
            )
        if learning_rate is None:
            raise ValueError(
                f"optimizer={optimizer!r} needs learning_rate=, a number or an optax schedule."
            )
        base = OPTIMIZERS[optimizer]
    elif optimizer is not None:
        if not isinstance(optimizer, optax.GradientTransformation):
            raise TypeError(
                f"optimizer is {optimizer!r} of type {type(optimizer).__name__}; expected an optax "
                "GradientTransformation such as optax.sgd(0.01) or optax.adam(0.05)."
            )
        if learning_rate is not None:
            raise ValueError(
                "learning_rate is that of the default optimizer; with optimizer=... give it there, "
                "as in optimizer=optax.sgd(learning_rate)."
            )
        return Rule(optimizer, None)
    if learning_rate is None:
        return default
    if callable(learning_rate):
        return Rule(base, learning_rate)
    number = isinstance(learning_rate, int | float | np.number)
    if not number or isinstance(learning_rate, bool):
        raise TypeError(
            f"learning_rate is {learning_rate!r}; expected a positive number or an optax schedule."
        )
    if not (np.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate is {learning_rate:g}; expected a positive finite number.")
    return Rule(base, optax.constant_schedule(float(learning_rate)))


@partial(jax.jit, static_argnums=0)
def initial_states(optimizer: optax.GradientTransformation, parameters: Any) -> Any:
    """States of the optimizer for parameters with a leading axis over restarts."""
    return jax.vmap(optimizer.init)(parameters)


def own_rate(state: Any) -> Array:
    """The learning rate in an optimizer's state (`optax.inject_hyperparams`), or NaN."""
    found = optax.tree_utils.tree_get_all_with_path(state, "learning_rate")
    return jnp.asarray(found[-1][1] if found else jnp.nan, float)


def describe_divergence(update: int, epoch: int, rate: float) -> str:
    """Sentence on the step at which the loss ceased to be finite.

    Both are counted from 1; the rate is NaN when the optimizer does not tell.
    """
    of = "the optimizer's own learning rate" if np.isnan(rate) else f"learning rate {rate:g}"
    return f"the loss is not finite at update {update} (epoch {epoch}, {of})"


def apply(
    optimizer: optax.GradientTransformation,
    gradient: Any,
    state: Any,
    parameters: Any,
    factor: Array,
    **extra: Any,
) -> tuple[Any, Any]:
    """Parameters and optimizer state after one update.

    Updates are multiplied by `factor`; `extra` are `value` and `value_fn`, for optimizers that
    search along a line.
    """
    full = optax.with_extra_args_support(optimizer)
    updates, state = full.update(gradient, state, parameters, grad=gradient, **extra)
    moved = jax.tree.map(lambda value, step: value + factor * step, parameters, updates)
    return moved, state


def describe_rule(rule: Rule, parameters: dict[str, Array], num_updates: int) -> str:
    """Fingerprint of an optimizer, whose functions have no identity but the program they trace to.

    That of the program of an update and what it captures, of the state that it begins with, and of
    the learning rates.
    """
    first = rule.optimizer.init(parameters)
    leaves, structure = jax.tree.flatten((parameters, first))

    def value_fn(values: dict[str, Array]) -> Array:
        return sum((jnp.sum(jnp.square(v)) for v in values.values()), jnp.zeros(()))

    def update(*leaves: Array) -> list[Array]:
        values, state = jax.tree.unflatten(structure, leaves)
        moved = apply(
            rule.optimizer, values, state, values, jnp.asarray(1.0), value=value_fn(values),
            value_fn=value_fn,
        )  # fmt: skip
        return jax.tree.leaves(moved)

    closed = jax.make_jaxpr(update)(*leaves)
    return fingerprint(
        ADDRESS.sub("", str(closed.jaxpr)), _captured(closed), jax.tree.leaves(first),
        rule.factors(0, num_updates),
    )  # fmt: skip


def _captured(program: Any) -> list[np.ndarray]:
    """Arrays that a traced program holds besides its text, with those of programs that it calls."""
    found = [np.asarray(const) for const in getattr(program, "consts", ())]
    for equation in getattr(program, "jaxpr", program).eqns:
        for value in equation.params.values():
            for part in value if isinstance(value, list | tuple) else [value]:
                if hasattr(part, "eqns"):
                    found += _captured(part)
    return found
