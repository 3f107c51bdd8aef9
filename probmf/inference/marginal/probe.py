"""The model as a pure function of its effects, and what they may not enter."""

import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions.transforms import biject_to

from probmf.inference.marginal.forms import check_names, check_plates, hint_of, quoted
from probmf.inference.marginal.injection import (
    GAUSSIAN,
    MarginalizeError,
    Model,
    NothingObservedError,
    Values,
    is_kind,
    mask_of,
    read_observed,
    refuse_outside,
    refuse_scaled,
    run_with,
    unwrap,
)
from probmf.inference.marginal.predictor import RowProgram
from probmf.inference.marginal.traced import Traced


class Probe:
    """The model as a pure function, traced once, and what its outputs depend on.

    Args:
        model: The NumPyro model.
        sites: Names of the effect sites.
        args: Its arguments, concrete.
        kwargs: Its keyword arguments.
    """

    def __init__(
        self, model: Model, sites: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Run the model once, and trace it."""
        self.model, self.sites, self.args, self.kwargs = model, sites, args, kwargs
        # The trace's values belong to the program that draws them; only its sites are read.
        trace, values = self._prototype()
        self.latents = {
            name: values[name]
            for name, site in trace.items()
            if site["type"] in ("sample", "param")
            and not site.get("is_observed")
            and name not in sites
        }
        self.shapes = {name: jnp.shape(values[name]) for name in sites}
        self.correlated: set[str] = set()
        self.flat: set[str] = set()
        self.kinds: dict[str, type] = {}
        self.traced = Traced(self._everything, self.latents, self.zeros())
        self.on_effects = self.traced.depends_on(1)
        self.on_latents = self.traced.depends_on(0)
        if not self.on_effects["observed"]:
            raise NothingObservedError(
                f"Can't integrate out {quoted(self.sites)}: nothing is observed. Call the model "
                "with its observations."
            )
        self._empty = [n for n in self.on_effects["observed"] if np.size(trace[n]["value"]) == 0]

    def zeros(self) -> dict[str, Array]:
        """Deviations of zero."""
        kind = jnp.result_type(float)
        zeros: dict[str, Any] = {name: np.zeros(shape, kind) for name, shape in self.shapes.items()}
        return zeros

    @property
    def hidden(self) -> frozenset[str]:
        """Deterministic sites that depend on the effects."""
        return frozenset(
            name for name, on in self.on_effects["computed"].items() if any(jax.tree.leaves(on))
        )

    def values(self, seed: int) -> dict[str, Array]:
        """Other values of moderate size of the latent sites."""
        found = draw_values(self.model, self.args, self.kwargs, seed)[1]
        return {name: value for name, value in found.items() if name in self.latents}

    def _prototype(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """The sites and their values, checked."""
        trace, values = draw_values(self.model, self.args, self.kwargs, 0)
        check_names(self.sites, trace)
        check_plates(trace)
        return trace, values

    def _everything(self, latents: Values, deviations: Values) -> dict[str, Any]:
        run = run_with(self.model, latents, deviations, self.args, self.kwargs)
        self.correlated = {
            name
            for name, site in run.effects.items()
            if isinstance(site.base, dist.MultivariateNormal)
        }
        self.flat = {name for name, site in run.effects.items() if site.is_flat}
        laws = {n: site["law"] for n, site in run.observed.items()}
        given = {n: site["value"] for n, site in run.observed.items()}
        self.kinds = {name: type(unwrap(law)) for name, law in laws.items()}
        factors = {n for n, law in laws.items() if isinstance(unwrap(law), dist.Unit)}
        scales = {n: site["scale"] for n, site in run.observed.items()} | run.scales
        return {
            "observed": {n: _parts(laws[n], given[n]) for n in laws if n not in factors},
            "values": given,
            "latent": {n: _log_density(law, run.values[n]) for n, law in run.latent.items()},
            "effects": {n: site.scale for n, site in run.effects.items()},
            "centers": {n: site.center for n, site in run.effects.items()},
            "factors": {n: _log_density(laws[n], given[n]) for n in factors},
            "scales": {n: scale for n, scale in scales.items() if scale is not None},
            "computed": run.computed,
        }

    def check(self) -> None:
        """Refuse effects that enter anything but the location of one observed site.

        Raises:
            MarginalizeError: Naming those to blame.
        """
        for fault in self.faults():
            raise fault
        _ = self.target

    @cached_property
    def reached(self) -> dict[str, list[str]]:
        """Observed sites that effects enter, and which."""
        found = self.on_effects["observed"]
        reached = [name for name, on in found.items() if any(jax.tree.leaves(on))]
        return {name: self.blamed("observed", name) for name in reached}

    @cached_property
    def target(self) -> str:
        """The one observed site that the effects enter."""
        if not self.reached:
            if self._empty:
                raise MarginalizeError(f"The observed site {self._empty[0]!r} has no rows.")
            raise MarginalizeError(
                f"Can't integrate out {quoted(self.sites)}: no observed site depends on them "
                f"(observed: {quoted(self.on_effects['observed'])}).",
                sites=self.sites,
            )
        if len(self.reached) > 1:
            who = "; ".join(f"{_entering(own)} {name!r}" for name, own in self.reached.items())
            raise MarginalizeError(
                f"The effects enter several observed sites ({who});",
                "put the observations into one site.",
            )
        return next(iter(self.reached))

    def is_gaussian(self, target: str) -> bool:
        """True for a Normal or LogNormal observed site."""
        return is_kind(self.kinds[target], *GAUSSIAN)

    def faults(self) -> Iterator[MarginalizeError]:
        """Places that the effects may not enter, and do."""
        where = {
            "latent": "the prior of {0!r}", "factors": "the factor {0!r}",
            "values": "the observed values of {0!r}", "scales": "the handlers.scale of {0!r}",
        }  # fmt: skip
        for kind, what in where.items():
            for name, on in self.on_effects[kind].items():
                if not any(jax.tree.leaves(on)):
                    continue
                hint = hint_of(name) if kind == "latent" else ""
                who = self.blamed(kind, name)
                yield MarginalizeError(
                    f"{_entering(who)} {what.format(name)}; what is integrated out may enter the "
                    "location of the observations only.",
                    f"Leave {quoted(who)} out of the sites to integrate{hint}.",
                    who,
                )
        for name, on in self.on_effects["effects"].items():
            if on:
                who = self.blamed("effects", name)
                yield MarginalizeError(
                    f"The prior scale of {name!r} depends on another effect that is to be "
                    f"integrated out, {quoted(who)};",
                    "leave one of them out.",
                    who,
                )
        for target, parameters in self.on_effects["observed"].items():
            may_not = ("scale", "mask") if self.is_gaussian(target) else ("mask",)
            for parameter, on in parameters.items():
                if parameter in may_not and any(jax.tree.leaves(on)):
                    who = self.blamed("observed", target, parameter)
                    yield MarginalizeError(
                        f"{_entering(who)} the {parameter} of the observed site {target!r}; what "
                        "is integrated out may enter its location only.",
                        f"Leave {quoted(who)} out.",
                        who,
                    )

    def blamed(self, kind: str, name: str, parameter: str | None = None) -> list[str]:
        """Those of the effects that one output depends on."""
        found = []
        # The leaves of a mapping lie in the order of its sorted keys.
        for leaf, site in enumerate(sorted(self.shapes)):
            on = self.traced.depends_on(1, leaf)[kind][name]
            if any(jax.tree.leaves(on if parameter is None else on[parameter])):
                found.append(site)
        return sorted(found, key=self.sites.index)

    # The location as a function of the deviations, at given latents.

    def observations(self) -> dict[str, Any]:
        """Location, scale, value and mask of the observed rows at the probe's latents."""
        program = Traced(self._observations, self.latents, self.zeros())
        return jax.tree.map(np.asarray, program(self.latents, self.zeros()))

    def _observations(self, latents: Values, deviations: Values) -> dict[str, Any]:
        run = run_with(self.model, latents, deviations, self.args, self.kwargs)
        site = run.observed[self.target]
        if self.is_gaussian(self.target):
            observed = read_observed(self.target, site)
            return {name: getattr(observed, name) for name in ("loc", "scale", "value", "keep")}
        refuse_scaled(self.target, site)
        shape, mask = tuple(site["law"].batch_shape), mask_of(site["law"])
        shape += tuple(site["law"].event_shape)
        return {
            "loc": self.location(latents, deviations),
            "scale": jnp.ones(1),
            "value": jnp.broadcast_to(jnp.asarray(site["value"], float), shape).ravel(),
            "keep": None if mask is None else jnp.broadcast_to(mask, shape).ravel(),
        }

    def location(self, latents: Values, deviations: Values) -> Array:
        """Locations of the observed rows, or their linear predictors."""
        if self.is_gaussian(self.target):
            run = run_with(self.model, latents, deviations, self.args, self.kwargs)
            return read_observed(self.target, run.observed[self.target]).loc
        program = self.program(latents, deviations)
        return program.predictor(program.require_predictor(self.sites))

    def program(self, latents: Values, deviations: Values) -> RowProgram:
        """Log densities of the rows as a program."""
        return RowProgram(self.model, self.target, latents, deviations, self.args, self.kwargs)

    def check_rows(self) -> None:
        """Each row's density has to be a smooth one of its own predictor alone, and finite.

        Raises:
            MarginalizeError: Naming the first row.
        """

        def slopes(latents: Values, deviations: Values, move: Array) -> tuple[Array, Array, Array]:
            program = self.program(latents, deviations)
            number = program.require_predictor(self.sites)
            density = partial(program.density, number, parameters=program.parameters)

            def along(predictor: Array) -> tuple[Array, Array]:
                return jax.jvp(density, (predictor,), (move,))

            (value, slope), (_, bend) = jax.jvp(along, (program.predictor(number),), (move,))
            return value, slope, bend

        zeros = self.zeros()
        run = run_with(self.model, self.latents, zeros, self.args, self.kwargs)
        refuse_outside(self.target, run.observed[self.target])
        count = len(self.observations()["loc"])
        traced = Traced(slopes, self.latents, zeros, np.zeros(count))
        weight = np.random.default_rng(1).uniform(0.5, 1.5, count)
        is_sloped = is_bent = False
        for bit in range(max(1, int(count - 1).bit_length())):
            digit = (np.arange(count) >> bit) & 1
            for chosen in (digit, 1 - digit):
                value, slope, bend = (
                    np.asarray(x) for x in traced(self.latents, zeros, weight * chosen)
                )
                is_sloped = is_sloped or bool(np.any(slope != 0))
                is_bent = is_bent or bool(np.any(bend != 0))
                if not np.all(np.isfinite(value)):
                    raise MarginalizeError(
                        f"The log density of {self.target!r} is not finite in row "
                        f"{int(np.argmin(np.isfinite(value)))}, with every latent site at a "
                        "moderate value; look for responses that its distribution can't have."
                    )
                if np.any(slope[chosen == 0] != 0):
                    raise MarginalizeError(
                        f"The rows of {self.target!r} have no linear predictor each: that of one "
                        "enters the density of another.",
                        "Leave its effects in the model.",
                        self.sites,
                    )
        if is_sloped and not is_bent:
            raise MarginalizeError(
                f"The log density of {self.target!r} is linear in its predictor but for kinks, so "
                "that it has no curvature, which quadrature and Laplace's approximation go by.",
                "Leave its effects in the model.",
                self.sites,
            )


def draw_values(
    model: Model, args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int
) -> tuple[dict[str, Any], dict[str, Array]]:
    """The sites, and a value of moderate size for each latent one, from one program."""
    trace: dict[str, Any] = {}

    def draw() -> list[Array]:
        seeded = numpyro.handlers.seed(model, rng_seed=0)
        moderate = numpyro.handlers.substitute(
            seeded, substitute_fn=partial(moderate_value, seed=seed)
        )
        with numpyro.handlers.block():
            trace.update(numpyro.handlers.trace(moderate).get_trace(*args, **kwargs))
        return [jnp.asarray(site["value"]) for name, site in trace.items() if is_latent(site)]

    values = Traced(draw)()
    latent = [name for name, site in trace.items() if is_latent(site)]
    return trace, dict(zip(latent, values, strict=True))


def _log_density(law: Any, value: Any) -> Any:
    with jax.numpy_rank_promotion("allow"):  # NumPyro's densities broadcast as NumPy does.
        return law.log_prob(value)


def _parts(law: Any, value: Any) -> dict[str, Any]:
    """The log density at a value, as no other part of a distribution tells all that it is made of.

    Beside it the masks, and location and scale of what effects are integrated out of exactly.
    """
    base, masks = law, []
    while isinstance(base, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        if isinstance(base, dist.MaskedDistribution):
            masks.append(base._mask)
        base = base.base_dist
    found: dict[str, Any] = {"mask": masks, "density": _log_density(law, value)}
    if is_kind(type(base), *GAUSSIAN):
        found |= {"loc": base.loc, "scale": base.scale}
    return found


def is_latent(site: Mapping[str, Any]) -> bool:
    """True for a site that has to be given a value: sampled, or a param."""
    return site["type"] in ("sample", "param") and not site.get("is_observed")


def moderate_value(site: Mapping[str, Any], seed: int = 0) -> Array | None:
    """A value of moderate size for a latent site, wherever its prior may be heavy-tailed."""
    if site["type"] != "sample" or site["is_observed"] or site["value"] is not None:
        return None
    law = site["fn"]
    # Within scan a sample_shape is still there.
    shape = tuple(law.shape(site["kwargs"].get("sample_shape", ())))
    if law.is_discrete:
        raise MarginalizeError(
            f"The site {site['name']!r} is discrete; sum it out first, or condition on it."
        )
    transform = biject_to(law.support)
    inner = transform.inverse_shape(shape)
    # NumPy's random numbers, of which no program has to be compiled.
    rng = np.random.default_rng([zlib.crc32(str(site["name"]).encode()), seed])
    return transform(jnp.asarray(rng.uniform(-1.0, 1.0, inner), jnp.result_type(float)))


def _entering(names: list[str]) -> str:
    return f"{quoted(names)} {'enters' if len(names) == 1 else 'enter'}"
