"""Gradient methods for networks: full batches or minibatches, all restarts in one program."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int
from numpyro.distributions.transforms import OrderedTransform

from probmf.data.examples import Examples
from probmf.inference.point.objective import to_sites
from probmf.inference.point.optimizer import (
    OPTIMIZERS,
    Rule,
    apply,
    describe_divergence,
    initial_states,
    own_rate,
)
from probmf.likelihoods.base import likelihood_scales
from probmf.models.network import Network
from probmf.models.network_data import NetworkData
from probmf.run.estimate import Info

#: Learning rates of the default, Adam: of full batches, and the first of minibatches.
RATES = (0.05, 0.01)


class Terms(NamedTuple):
    """Terms of the objective besides the examples; a pytree.

    Attributes:
        precision: Prior precision of each site.
        scales: The likelihood's own scales, where they are fixed.
    """

    precision: dict[str, Array]
    scales: dict[str, Array]


class Runs(NamedTuple):
    """State of all restarts; every array has a leading axis over them outside `vmap`.

    Attributes:
        parameters: What is moved; see `to_sites`.
        optimizer: State of the optimizer.
    """

    parameters: dict[str, Array]
    optimizer: Any


class State(NamedTuple):
    """State of a fit.

    Attributes:
        runs: All restarts.
        epoch: Number of epochs done.
        sites: Values by site name of all restarts, on the host.
    """

    runs: Runs
    epoch: int
    sites: dict[str, np.ndarray]


class Outcome(NamedTuple):
    """Result of an epoch; see `_minibatch.Outcome`."""

    objective: Float[Array, " runs"]
    bad_update: Int[Array, " runs"]
    bad_rate: Float[Array, " runs"]


class NetworkDescent:
    """Gradient descent on the objective of a network, for `estimate`."""

    unit = "epoch"

    def __init__(
        self,
        model: Network,
        data: NetworkData,
        start: Callable[[Array], dict[str, Array]],
        rule: Rule,
        num_runs: int,
        batch_size: int | None,
    ) -> None:
        """Place the examples; see `fit_map` for the arguments."""
        self.rule, self.num_runs, self.data, self.start = rule, num_runs, data, start
        self.canonical, self.batch_size = model.canonical(), batch_size
        self.num_updates = 1 if batch_size is None else -(-data.num_rows // batch_size)
        dtype = jnp.result_type(float)
        precision = model.prior_precisions(data)
        self.terms = Terms(
            {site: jnp.asarray(value, dtype) for site, value in precision.items()},
            likelihood_scales(model.likelihood, {}),
        )

    def init(self, key: Array) -> State:
        """Random or given starting values, one for each restart."""
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(self.num_runs))
        parameters = jax.vmap(lambda own: to_moved(self.start(own)))(keys)
        runs = Runs(parameters, initial_states(self.rule.optimizer, parameters))
        return State(runs, 0, _on_host(parameters))

    def step(self, key: Array, state: State) -> tuple[State, list[Info]]:
        """One epoch: every example once; minibatches in an order drawn by the key."""
        done = state.epoch * self.num_updates
        factors = self.rule.factors(done, self.num_updates)
        runs, outcome = _run_epoch(
            state.runs, key, factors, self.data, self.terms, network=self.canonical,
            optimizer=self.rule.optimizer, batch_size=self.batch_size,
        )  # fmt: skip
        infos = []
        for objective, bad, rate in zip(*map(np.asarray, outcome), strict=True):
            trouble = None
            if bad >= 0 or not np.isfinite(objective):
                at = int(bad) if bad >= 0 else self.num_updates - 1
                known = rate if self.rule.schedule is None else -factors[at]
                trouble = describe_divergence(done + at + 1, state.epoch + 1, float(known))
            infos.append(Info(float(objective), trouble))
        return State(runs, state.epoch + 1, _on_host(runs.parameters)), infos

    def parameters(self, state: State, run: int) -> dict[str, Any]:
        """The parameters of one restart by site name."""
        return {site: value[run].copy() for site, value in state.sites.items()}


def to_moved(sites: Mapping[str, Array]) -> dict[str, Array]:
    """Parameters that an optimizer moves; the inverse of `to_sites`."""
    moved = dict(sites)
    if "cutpoints" in moved:
        moved["cutpoints"] = OrderedTransform().inv(moved["cutpoints"])
    return moved


def network_objective(
    moved: Mapping[str, Array],
    data: NetworkData,
    weight: Float[Array, " n"],
    share: Float[Array, ""],
    terms: Terms,
    network: Network,
) -> Float[Array, ""]:
    """A batch's part of the objective; over an epoch the parts sum to the objective.

    Args:
        moved: Parameters; see `to_sites`.
        data: The batch.
        weight: 1 for an example, 0 where the last batch has none left.
        share: Part of the prior that the batch carries.
        terms: Priors and scales.
        network: In canonical form.

    Returns:
        The part. Cost O(batch x number of weights).
    """
    sites = to_sites(moved)
    # The canonical likelihood does not tell whether cutpoints are learned.
    own = {name: sites[name] for name in network.likelihood.learned if name in sites}
    scales = terms.scales | own
    losses = network.losses(sites, data, scales)
    each = jnp.sum(losses.reshape(len(weight), -1), axis=1)
    # Not a product: the loss of what fills the last batch need not be finite.
    return share * network.prior_loss(sites, terms.precision) + jnp.sum(
        jnp.where(weight > 0, each, 0.0)
    )


@partial(jax.jit, static_argnames=("network", "optimizer", "batch_size"))
def _run_epoch(
    runs: Runs,
    key: Array,
    factors: Array,
    data: NetworkData,
    terms: Terms,
    *,
    network: Network,
    optimizer: optax.GradientTransformation,
    batch_size: int | None,
) -> tuple[Runs, Outcome]:
    """One epoch of every restart, all in the same order of examples."""
    count = data.num_rows
    size = count if batch_size is None else batch_size
    order = jnp.arange(count, dtype=jnp.int32)
    if batch_size is not None:
        order = jax.random.permutation(key, order)
    places = jnp.pad(order, (0, -count % size)).reshape(-1, size)
    weights = jnp.pad(jnp.ones(count), (0, -count % size)).reshape(-1, size)

    def one(run: Runs) -> tuple[Runs, Outcome]:
        def body(carry: tuple, step: tuple) -> tuple[tuple, None]:
            run, bad, bad_rate = carry
            places, weight, factor, number = step
            batch = data if batch_size is None else data.take(places)

            def value_fn(parameters: dict[str, Array]) -> Array:
                share = jnp.sum(weight) / count
                return network_objective(parameters, batch, weight, share, terms, network)

            loss, gradient = jax.value_and_grad(value_fn)(run.parameters)
            moved, kept = apply(
                optimizer, gradient, run.optimizer, run.parameters, factor, value=loss,
                value_fn=value_fn,
            )  # fmt: skip
            first = (bad < 0) & ~jnp.isfinite(loss)
            bad_rate = jnp.where(first, own_rate(kept), bad_rate)
            return (Runs(moved, kept), jnp.where(first, number, bad), bad_rate), None

        start = (run, jnp.asarray(-1, jnp.int32), jnp.asarray(jnp.nan))
        steps = (places, weights, factors, jnp.arange(len(factors), dtype=jnp.int32))
        (run, bad, bad_rate), _ = lax.scan(body, start, steps)
        whole = network_objective(
            run.parameters, data, jnp.ones(count), jnp.ones(()), terms, network
        )
        return run, Outcome(whole, bad, bad_rate)

    return jax.vmap(one)(runs)


def _on_host(moved: dict[str, Array]) -> dict[str, np.ndarray]:
    """Sites of all restarts: one copy for all, from which the loop keeps what is best."""
    return {site: np.asarray(value) for site, value in jax.vmap(to_sites)(moved).items()}


def adam_rule(full_batch: bool, num_updates: int) -> Rule:
    """Adam: at one rate for full batches, at one that falls to zero for minibatches."""
    constant, first = RATES
    if full_batch:
        return Rule(OPTIMIZERS["adam"], optax.constant_schedule(constant))
    return Rule(OPTIMIZERS["adam"], optax.linear_schedule(first, 0.0, num_updates))


@dataclass(frozen=True)
class NetworkValidation:
    """Held-out examples to stop by.

    The error is the root mean square of Gaussian responses, in their own units (of several, in
    standard deviations), and the mean log loss of the others.

    Args:
        model: The network.
        data: The held-out examples, coded as the training ones.
        unit: What the root mean square is multiplied by.
    """

    model: Network
    data: NetworkData
    unit: float

    @classmethod
    def build(cls, model: Network, data: Examples, validation: Any) -> "NetworkValidation":
        """Code held-out examples as the training data.

        Raises:
            TypeError: If they are no Examples.
            ValueError: If features or classes are others, or the responses do not suit.
        """
        if not isinstance(validation, Examples):
            raise TypeError(
                f"validation is of type {type(validation).__name__}; expected Examples, for "
                "example the second part of examples.split(key=...)."
            )
        unit = float(data.response_scale[0]) if len(data.responses) == 1 else 1.0
        return cls(model, model.held_out(data, validation), unit)

    def error(self, parameters: Mapping[str, Array]) -> float:
        """Mean held-out error of the parameters."""
        scales = likelihood_scales(self.model.likelihood, parameters)
        losses = _losses(dict(parameters), self.data, scales, network=self.model.canonical())
        mean = float(np.mean(np.asarray(losses, np.float64)))
        if self.model.likelihood.discrete:
            return mean
        # The loss is half the square over the noise variance.
        return self.unit * float(np.sqrt(2.0 * mean) * float(scales["noise_scale"]))


@partial(jax.jit, static_argnames="network")
def _losses(
    parameters: dict[str, Array], data: NetworkData, scales: dict[str, Array], *, network: Network
) -> Array:
    return network.losses(parameters, data, scales)
