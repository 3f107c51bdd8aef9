"""Running a model with the effects put in from outside: their deviations become its inputs.

At every effect site the value becomes prior mean + deviation, where the mean may itself depend on
effects drawn before (nested means). The observed site's location is then affine in the deviations.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions import Distribution, constraints
from numpyro.primitives import Messenger

from probmf.numpyro_setup import run_alone

#: Priors of effects, and observations that they are integrated out of exactly.
EFFECTS = dist.Normal, dist.MultivariateNormal
GAUSSIAN = dist.Normal, dist.LogNormal

Values = Mapping[str, Array]
Model = Callable[..., Any]


class MarginalizeError(ValueError):
    """Error that a model or a site can't be integrated out, and why.

    Args:
        reason: What is in the way.
        hint: What to do about it.
        sites: Effect sites to blame; without them the others might be integrated out.
    """

    def __init__(self, reason: str, hint: str = "", sites: Iterable[str] = ()) -> None:
        """See the class."""
        self.reason, self.sites = reason, tuple(sites)
        super().__init__(f"{reason} {hint}".rstrip())


class NothingObservedError(MarginalizeError):
    """The model was called without observations."""


class Site(NamedTuple):
    """An effect site as the model declares it, plates included."""

    law: Distribution
    name: str

    @property
    def base(self) -> Distribution:
        """The Normal or MultivariateNormal under expansions and reinterpreted dimensions."""
        return unwrap(self.law)

    @property
    def is_flat(self) -> bool:
        """True for a density of one on the whole line."""
        return is_flat(self.law)

    @property
    def center(self) -> Array:
        """Prior mean, of the site's shape; zero of a flat prior."""
        return (
            jnp.zeros(self.shape) if self.is_flat else jnp.broadcast_to(self.base.loc, self.shape)
        )

    @property
    def scale(self) -> Array:
        """The scale of a Normal or the lower factor of a MultivariateNormal, unexpanded."""
        if self.is_flat:
            return jnp.ones(())
        return self.base.scale if isinstance(self.base, dist.Normal) else self.base.scale_tril

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a value."""
        return tuple(self.law.batch_shape) + tuple(self.law.event_shape)


class ObservedRows(NamedTuple):
    """The observed site, flattened over its rows.

    Attributes:
        name: Its name.
        law: Its distribution, as declared.
        loc: Location of each row.
        scale: Noise scale: (1,) when it is shared, else (n,).
        value: Observed values on the Normal's scale: logarithms for a LogNormal.
        jacobian: What the change of variables adds to the log density.
        keep: Rows that are not masked, or None.
    """

    name: str
    law: Distribution
    loc: Array
    scale: Array
    value: Array
    jacobian: Array
    keep: Array | None


def unwrap(law: Distribution) -> Distribution:
    """The distribution under expand, to_event and mask."""
    while isinstance(law, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        law = law.base_dist
    return law


def is_kind(law: type, *kinds: type) -> bool:
    """True for one of some classes of distributions, or a class made of it with its density."""
    return any(issubclass(law, own) and law.log_prob is own.log_prob for own in kinds)  # type: ignore[attr-defined]


def is_flat(law: Distribution) -> bool:
    """True for an improper prior of density one on the whole line."""
    base = unwrap(law)
    if not isinstance(base, dist.ImproperUniform):
        return False
    support = base.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return isinstance(support, type(constraints.real))


def mask_of(law: Distribution) -> Any:
    """The mask of a distribution, to be broadcast to the shape of its values; or None."""
    found = None
    while isinstance(law, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        if isinstance(law, dist.MaskedDistribution):
            # A mask has the batch's axes only, and masks whole events.
            own = jnp.reshape(law._mask, jnp.shape(law._mask) + (1,) * law.event_dim)
            found = own if found is None else jnp.logical_and(found, own)
        law = law.base_dist
    return found


@dataclass
class ModelRun:
    """Sites and values of one run of the model."""

    effects: dict[str, Site] = field(default_factory=dict)
    observed: dict[str, dict[str, Any]] = field(default_factory=dict)
    computed: dict[str, Array] = field(default_factory=dict)
    latent: dict[str, Distribution] = field(default_factory=dict)
    scales: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)


class Inject(Messenger):
    """Puts effects in as prior mean + deviation, hides them, and notes all other sites.

    Args:
        fn: The model.
        deviations: Deviation from the prior mean by effect site.
        target: Name of the observed site to hide as well, or None.
        hidden: Names of deterministic sites to hide, as they depend on effects.
    """

    def __init__(
        self,
        fn: Model,
        deviations: Values,
        target: str | None = None,
        hidden: frozenset[str] = frozenset(),
    ) -> None:
        """See the class."""
        self.deviations, self.target, self.hidden = deviations, target, hidden
        self.run = ModelRun()
        self._names: dict[int, str] = {}
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        """Called by NumPyro for every site, after the plates within the model."""
        name, kind = msg.get("name"), msg["type"]
        if kind == "deterministic":
            if name in self.hidden:
                msg["stop"] = True
            return
        if kind not in ("sample", "param"):
            return
        # Handlers outside may rename the site, or make another kind of it.
        self._names[id(msg)] = str(name)
        if kind == "param":
            return
        if name in self.deviations:
            self._effect(msg)
        elif msg["is_observed"]:
            self._observed(msg)
        else:
            self.run.latent[str(name)] = msg["fn"]
            self.run.scales[str(name)] = msg.get("scale")

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        """Note values, now that they are known."""
        name = self._names.pop(id(msg), None)
        if name is None:
            if msg["type"] == "deterministic":
                self.run.computed[msg["name"]] = msg["value"]
            return
        if name not in self.run.observed:
            self.run.values[name] = msg["value"]
        law = self.run.latent.get(name)
        if law is not None and jnp.ndim(msg["value"]) > len(law.shape()):
            raise MarginalizeError(
                f"The site {name!r} has a value of shape {jnp.shape(msg['value'])}; expected "
                f"{law.shape()}. A plate around the marginal model belongs into the model."
            )

    def _effect(self, msg: dict[str, Any]) -> None:
        name, law = msg["name"], msg["fn"]
        if msg["is_observed"]:
            raise MarginalizeError(f"The site {name!r} is observed, so it can't be integrated out.")
        if msg.get("_control_flow_done"):
            raise MarginalizeError(
                f"The site {name!r} is sampled within scan, step by step, so it can't be "
                "integrated out.",
                "Sample all steps before, and hand them to scan as inputs.",
                [name],
            )
        if msg["value"] is not None:
            raise MarginalizeError(
                f"The site {name!r} has been given a value (by handlers.substitute or replay), so "
                "there is nothing to integrate out.",
                "Take the value away, or leave the site out.",
                [name],
            )
        if not is_one(msg.get("scale")):
            raise MarginalizeError(
                f"The site {name!r} is scaled (by handlers.scale or a subsampled plate); its exact "
                "marginal does not exist then.",
                "Remove the scaling.",
                [name],
            )
        site = Site(law, name)
        if not (is_kind(type(site.base), *EFFECTS) or site.is_flat):
            hint = ""
            if isinstance(site.base, dist.TransformedDistribution):
                hint = (
                    "Where it is an affine transform of one, write it so, or reparametrize it "
                    f"with TransformReparam and name '{name}_base'."
                )
            raise MarginalizeError(
                f"The prior of {name!r} is {type(site.base).__name__}; only Normal and "
                "MultivariateNormal effects can be integrated out exactly, and those of a flat "
                "prior on the whole line.",
                hint,
                [name],
            )
        if mask_of(law) is not None:
            raise MarginalizeError(f"The prior of {name!r} is masked;", "remove the mask.", [name])
        self.run.effects[name] = site
        msg["value"] = site.center + self.deviations[name].reshape(site.shape)
        msg["stop"] = True

    def _observed(self, msg: dict[str, Any]) -> None:
        name = msg["name"]
        self.run.observed[name] = {
            "law": msg["fn"],
            "value": msg["value"],
            "scale": msg.get("scale"),
        }
        if name == self.target:
            msg["stop"] = True


def is_one(scale: Any) -> bool:
    """True for a scale of one, which is none at all."""
    if scale is None:
        return True
    return not isinstance(scale, jax.core.Tracer) and bool(np.all(np.asarray(scale) == 1))


def refuse_scaled(name: str, site: Mapping[str, Any]) -> None:
    """Refuse an observed site whose log density is multiplied."""
    if not is_one(site["scale"]):
        raise MarginalizeError(
            f"The observed site {name!r} is scaled (by handlers.scale or a subsampled plate); "
            "integrating out needs all observations as they are. Where scales are weights, divide "
            "the noise scale by their square roots instead."
        )


def refuse_outside(name: str, site: Mapping[str, Any]) -> None:
    """Refuse observed values that their distribution can't have."""
    base, mask = unwrap(site["law"]), mask_of(site["law"])
    if base.event_shape:
        return
    shape = tuple(site["law"].batch_shape) + tuple(site["law"].event_shape)
    value = jnp.broadcast_to(jnp.asarray(site["value"]), shape)
    bad = ~np.asarray(jnp.broadcast_to(base.support(value), shape))
    if mask is not None:
        bad &= np.asarray(jnp.broadcast_to(mask, shape))
    if bad.any():
        row = int(np.argmax(bad.ravel()))
        raise MarginalizeError(
            f"The observed value of {name!r} in row {row} is {np.ravel(value)[row]:g}, which "
            f"{type(base).__name__} can't have. Drop those rows or mask them."
        )


def read_observed(name: str, site: Mapping[str, Any]) -> ObservedRows:
    """Flatten the observed site; checks that it is Normal or LogNormal."""
    law, value = site["law"], site["value"]
    base = unwrap(law)
    if not is_kind(type(base), *GAUSSIAN):
        raise MarginalizeError(
            f"The observed site {name!r} is {type(base).__name__}; effects can be integrated out "
            "of Normal and LogNormal observations only. Use the model as it is, or augment it."
        )
    refuse_scaled(name, site)
    shape = tuple(law.batch_shape) + tuple(law.event_shape)
    rows = jnp.broadcast_to(jnp.asarray(value, jnp.result_type(float)), shape).ravel()
    jacobian = jnp.zeros(len(rows), rows.dtype)
    if isinstance(base, dist.LogNormal):
        rows, jacobian = jnp.log(rows), -jnp.log(rows)
    scale = as_float(base.scale)
    shared = scale.size == 1
    mask = mask_of(law)
    return ObservedRows(
        name=name,
        law=law,
        loc=jnp.broadcast_to(as_float(base.loc), shape).ravel(),
        scale=scale.reshape(1) if shared else jnp.broadcast_to(scale, shape).ravel(),
        value=rows,
        jacobian=jacobian,
        keep=None if mask is None else jnp.broadcast_to(mask, shape).ravel(),
    )


class NoDraws(Messenger):
    """Refuses random numbers that belong to no site that can be seen."""

    def process_message(self, msg: dict[str, Any]) -> None:
        """Called by NumPyro for every site, and where a handler asks for a key."""
        if msg["type"] == "prng_key" and msg["value"] is None and msg["kwargs"]["rng_key"] is None:
            raise MarginalizeError(
                "The model draws random numbers that are no site of it, in a site hidden by "
                "handlers.block or through numpyro.prng_key, so it has no density given its sites. "
                "Leave the site visible, or give it a value within the block, with "
                "handlers.substitute or handlers.condition."
            )


@run_alone()
def run_with(
    model: Model,
    latents: Values,
    deviations: Values,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    target: str | None = None,
) -> ModelRun:
    """Run the model as a pure function of its latent values and the effects' deviations."""
    inject = Inject(model, deviations, target)
    with numpyro.handlers.block(), numpyro.handlers.seed(rng_seed=0):
        numpyro.handlers.substitute(NoDraws(inject), data=dict(latents))(*args, **kwargs)
    return inject.run


def as_float(values: Any) -> Array:
    """An array of floats; models may well write Normal(0, 5)."""
    array = jnp.asarray(values)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)
