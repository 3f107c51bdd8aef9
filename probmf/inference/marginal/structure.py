"""Finding out, once and from concrete data, how the effects enter the observations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions.transforms import biject_to

from probmf.inference.marginal.dependence import Traced
from probmf.inference.marginal.injection import (
    MarginalizeError,
    Model,
    NothingObservedError,
    Site,
    Values,
    read_observed,
    run_with,
)

#: A site of which a row touches several elements is kept as one dense block up to this size.
MAX_DENSE_SITE = 256
#: Disagreement that rounding explains, relative to the size of the terms.
TOLERANCE = {np.dtype(np.float64): 1e-8, np.dtype(np.float32): 1e-3}


@dataclass(frozen=True, eq=False)
class Layout:
    """How a site's values are arranged as (groups, coefficients).

    Attributes:
        name: The site.
        shape: Shape of its values.
        axis: The axis of the groups; None when all values belong to one group.
        group: Group of each row; None when there is one, or the row does not involve the site.
        known: Rows whose group is known, as their coefficients are not all zero.
    """

    name: str
    shape: tuple[int, ...]
    axis: int | None
    group: np.ndarray
    known: np.ndarray

    @property
    def num_groups(self) -> int:
        """Number of groups."""
        return 1 if self.axis is None else self.shape[self.axis]

    @property
    def dim(self) -> int:
        """Coefficients per group."""
        return int(np.prod(self.shape)) // self.num_groups

    def arrange[Values: (Array, np.ndarray)](self, values: Values) -> Values:
        """Values of the site's shape as (groups, coefficients)."""
        if self.axis is None:
            return values.reshape(1, -1)
        others: list[int] = [axis for axis in range(len(self.shape)) if axis != self.axis]
        return values.transpose(self.axis, *others).reshape(self.num_groups, self.dim)

    def restore[Values: (Array, np.ndarray)](self, table: Values) -> Values:
        """The inverse of `arrange`."""
        if self.axis is None:
            return table.reshape(self.shape)
        others: list[int] = [axis for axis in range(len(self.shape)) if axis != self.axis]
        stacked = table.reshape(self.num_groups, *(self.shape[axis] for axis in others))
        return stacked.transpose(np.argsort([self.axis, *others]))


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
        self.traced = Traced(self._everything, self.latents, self.zeros())
        self.on_effects = self.traced.depends_on(1)
        self.on_latents = self.traced.depends_on(0)
        if not self.on_effects["observed"]:
            raise NothingObservedError(
                f"Can't integrate out {_list(self.sites)}: nothing is observed. Call the model "
                "with its observations."
            )
        self._check_other_sites()
        self.target = self._target(trace)
        self._check_target()

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

    def _prototype(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """The sites, and a value of moderate size for each latent one, from one program."""
        trace: dict[str, Any] = {}

        def draw() -> dict[str, Array]:
            seeded = numpyro.handlers.seed(self.model, rng_seed=0)
            moderate = numpyro.handlers.substitute(seeded, substitute_fn=moderate_value)
            with numpyro.handlers.block():
                trace.update(numpyro.handlers.trace(moderate).get_trace(*self.args, **self.kwargs))
            return {
                name: jnp.asarray(site["value"])
                for name, site in trace.items()
                if site["type"] in ("sample", "param") and not site.get("is_observed")
            }

        values = jax.jit(draw)()
        names = [
            name for name, site in trace.items()
            if site["type"] == "sample" and not site["is_observed"]
        ]  # fmt: skip
        for name in self.sites:
            if name in names:
                continue
            found = trace.get(name)
            if found is None:
                why = f"is not in the model; its latent sites are {', '.join(map(repr, names))}"
            elif found["type"] == "sample":
                why = "is observed"
            else:
                base = f"{name}_decentered"
                hint = f"; name {base!r} instead" if base in names else ""
                why = f"is a {found['type']} site, not a sample site{hint}"
            raise MarginalizeError(f"The site {name!r} {why}.")
        for name, site in trace.items():
            if site["type"] == "plate" and len(site["value"]) != site["args"][0]:
                raise MarginalizeError(
                    f"The plate {name!r} is subsampled; integrating out needs all observations."
                )
        return trace, values

    def _everything(self, latents: Values, deviations: Values) -> dict[str, Any]:
        run = run_with(self.model, latents, deviations, self.args, self.kwargs)
        self.correlated = {
            name
            for name, site in run.effects.items()
            if isinstance(site.base, dist.MultivariateNormal)
        }
        return {
            "observed": {n: _parameters(site["law"]) for n, site in run.observed.items()},
            "values": {n: site["value"] for n, site in run.observed.items()},
            "latent": {n: _parameters(law) for n, law in run.latent.items()},
            "effects": {n: prior_scale(site) for n, site in run.effects.items()},
            "factors": run.factors,
            "computed": run.computed,
        }

    def _target(self, trace: Mapping[str, Any]) -> str:
        names = [
            name for name, on in self.on_effects["observed"].items() if any(jax.tree.leaves(on))
        ]
        if not names:
            observed = [n for n in trace if n in self.on_effects["observed"]]
            empty = [n for n in observed if np.size(trace[n]["value"]) == 0]
            if empty:
                raise MarginalizeError(f"The observed site {empty[0]!r} has no rows.")
            raise MarginalizeError(
                f"Can't integrate out {_list(self.sites)}: no observed site depends on them "
                f"(observed: {_list(observed)})."
            )
        if len(names) > 1:
            raise MarginalizeError(
                f"{_list(self.sites)} enter several observed sites, {_list(names)}; put the "
                "observations into one site."
            )
        return names[0]

    def _check_other_sites(self) -> None:
        """The effects may not enter anything but locations of observations."""
        where = {
            "latent": "the prior of {0!r}", "factors": "the factor {0!r}",
            "values": "the observed values of {0!r}",
        }  # fmt: skip
        for kind, what in where.items():
            for name, on in self.on_effects[kind].items():
                if not any(jax.tree.leaves(on)):
                    continue
                hint = f", or name {name!r} as well, if it is an effect" if kind == "latent" else ""
                raise MarginalizeError(
                    f"{_list(self.sites)} enter {what.format(name)}; they may enter the location "
                    f"of the observations only. Leave them out of the sites to integrate{hint}."
                )
        for name, on in self.on_effects["effects"].items():
            if on:
                raise MarginalizeError(
                    f"The prior scale of {name!r} depends on another effect that is to be "
                    "integrated out; leave one of them out."
                )

    def _check_target(self) -> None:
        """The effects may enter the target's location only, if it has one."""
        for parameter, on in self.on_effects["observed"][self.target].items():
            if parameter in ("scale", "mask") and any(jax.tree.leaves(on)):
                raise MarginalizeError(
                    f"{_list(self.sites)} enter the {parameter} of the observed site "
                    f"{self.target!r}; they may enter its location only. Leave those sites out."
                )

    # The location as a function of the deviations, at given latents.

    def observations(self) -> dict[str, Any]:
        """Location, scale, value and mask of the observed rows at the probe's latents."""
        program = Traced(self._observations, self.latents, self.zeros())
        return jax.tree.map(np.asarray, program(self.latents, self.zeros()))

    def _observations(self, latents: Values, deviations: Values) -> dict[str, Any]:
        run = run_with(self.model, latents, deviations, self.args, self.kwargs)
        observed = read_observed(self.target, run.observed[self.target])
        return {name: getattr(observed, name) for name in ("loc", "scale", "value", "keep")}

    def location(self, latents: Values, deviations: Values) -> Array:
        """Locations of the observed rows."""
        run = run_with(self.model, latents, deviations, self.args, self.kwargs)
        return read_observed(self.target, run.observed[self.target]).loc


def _parameters(law: Any) -> dict[str, Any]:
    base = law
    masks = []
    while isinstance(base, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        if isinstance(base, dist.MaskedDistribution):
            masks.append(base._mask)
        base = base.base_dist
    names = [n for n in base.arg_constraints if n in vars(base)]
    found = {name: vars(base)[name] for name in names}
    if not found:
        found = dict(enumerate(jax.tree.leaves(base)))
    return {**{str(k): v for k, v in found.items()}, "mask": masks}


def prior_scale(site: Site) -> Array:
    """The scale of a Normal or the lower factor of a MultivariateNormal, unexpanded."""
    base = site.base
    return base.scale if isinstance(base, dist.Normal) else base.scale_tril


def moderate_value(site: Mapping[str, Any]) -> Array | None:
    """A value of moderate size for a latent site, wherever its prior may be heavy-tailed."""
    if site["type"] != "sample" or site["is_observed"] or site["value"] is not None:
        return None
    law = site["fn"]
    shape = tuple(law.batch_shape) + tuple(law.event_shape)
    if law.is_discrete:
        raise MarginalizeError(
            f"The site {site['name']!r} is discrete; sum it out first, or condition on it."
        )
    transform = biject_to(law.support)
    inner = transform.inverse_shape(shape)
    key = site["kwargs"].get("rng_key")
    return transform(jax.random.uniform(key, inner, minval=-1.0, maxval=1.0))


def _list(names: Any) -> str:
    return ", ".join(repr(name) for name in names)


@dataclass(frozen=True, eq=False)
class Found:
    """A site's layout and design.

    Attributes:
        layout: How its values are arranged.
        design: Coefficients (rows, dim), at the latents of the probe.
        constant: Whether they depend on no latent value.
    """

    layout: Layout
    design: np.ndarray
    constant: bool


def find_sites(probe: Probe) -> list[Found]:
    """The layout and design of every site, by numbering its elements in binary.

    Args:
        probe: The traced model.

    Returns:
        One entry per site, in order.

    Raises:
        MarginalizeError: If a site is not affine, or a row touches several groups of a large site.
    """
    location = Traced(probe.location, probe.latents, probe.zeros())
    offset = np.asarray(location(probe.latents, probe.zeros()))
    if not np.all(np.isfinite(offset)):
        row = int(np.argmin(np.isfinite(offset)))
        raise MarginalizeError(
            f"The location of {probe.target!r} is not finite in row {row}, with every latent site "
            "at a moderate value; look for missing values in the data."
        )
    found = [_find_site(probe, location, offset, name) for name in probe.sites]
    _check_together(probe, location, offset, found)
    return found


def site_slope(probe: Probe, name: str) -> Traced:
    """The change of the location by a move of one site: a function of latents and the move."""
    zeros = probe.zeros()

    def slope(latents: Values, move: Array) -> Array:
        def along(deviation: Array) -> Array:
            return probe.location(latents, {**zeros, name: deviation})

        return jax.jvp(along, (zeros[name],), (move,))[1]

    return Traced(slope, probe.latents, zeros[name])


def _find_site(probe: Probe, location: Traced, offset: np.ndarray, name: str) -> Found:
    shape = probe.shapes[name]
    traced = site_slope(probe, name)
    zeros = probe.zeros()

    def slopes(values: np.ndarray) -> np.ndarray:
        return np.asarray(traced(probe.latents, np.asarray(values, zeros[name].dtype)))

    rng = np.random.default_rng(1)
    test = rng.normal(size=shape)
    expected = slopes(test)
    for size in (1.0, 30.0):
        moved = {**zeros, name: np.asarray(size * test, zeros[name].dtype)}
        _check_affine(
            probe,
            name,
            np.asarray(location(probe.latents, moved)) - offset,
            size * expected,
            offset,
        )
    constant = not traced.depends_on(0)
    # Weights apart from each other, so that coefficients do not cancel.
    weight = rng.uniform(0.5, 1.5, size=shape)
    slack = 100 * _tolerance(expected) * max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    for axis in _candidate_axes(probe, name):
        same = np.broadcast_to(np.take(weight, [0], axis), shape)
        found = _group_by_bits(slopes, same, axis)
        if found is None:
            continue
        layout = Layout(name, shape, axis, *found)
        design = _design(layout, slopes)
        table = np.asarray(layout.arrange(test))
        if np.all(np.abs(np.sum(design * table[layout.group], axis=1) - expected) <= slack):
            return Found(layout, design, constant)
    if int(np.prod(shape)) > MAX_DENSE_SITE:
        if not _candidate_axes(probe, name):
            raise MarginalizeError(
                f"The prior of {name!r}, of shape {shape}, correlates all its values; at most "
                f"{MAX_DENSE_SITE} can be kept in one block. Leave it out, or give it a plate of "
                "groups."
            )
        raise MarginalizeError(
            f"Some rows of {probe.target!r} involve two or more groups of the site {name!r}, of "
            f"shape {shape}; a row may involve one. Split it into one site for each role, or "
            "leave it out."
        )
    rows = len(expected)
    layout = Layout(name, shape, None, np.zeros(rows, np.int32), np.ones(rows, bool))
    return Found(layout, _design(layout, slopes), constant)


def _check_affine(
    probe: Probe, name: str, got: np.ndarray, expected: np.ndarray, offset: np.ndarray
) -> None:
    """A finite move must change the location as the slope says."""
    size = np.abs(offset) + np.abs(expected) + np.max(np.abs(expected), initial=0.0)
    wrong = ~(np.abs(got - expected) <= _tolerance(got) * size)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise MarginalizeError(
            f"The site {name!r} does not enter the location of {probe.target!r} affinely (row "
            f"{row}: moving it changes the location by {got[row]:g}, its slope says "
            f"{expected[row]:g}); only affine effects can be integrated out."
        )


def _check_together(probe: Probe, location: Traced, offset: np.ndarray, found: list[Found]) -> None:
    """Moving all sites at once must add their moves up: no products of effects."""
    rng = np.random.default_rng(2)
    zeros = probe.zeros()
    moves, expected, size = {}, np.zeros(len(offset)), np.abs(offset)
    for one in found:
        layout = one.layout
        move = rng.normal(size=layout.shape)
        table = np.asarray(layout.arrange(move))
        change = np.sum(one.design * table[layout.group], axis=1)
        moves[layout.name] = np.asarray(move, zeros[layout.name].dtype)
        expected += change
        size = size + np.abs(change) + np.max(np.abs(change), initial=0.0)
    got = np.asarray(location(probe.latents, moves)) - offset
    wrong = ~(np.abs(got - expected) <= 100 * _tolerance(got) * size)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise MarginalizeError(
            f"{_list(probe.sites)} do not enter the location of {probe.target!r} affinely together "
            f"(row {row}: moving all changes it by {got[row]:g}, their slopes say "
            f"{expected[row]:g}); a product of effects can't be integrated out. Leave one of its "
            "sites out."
        )


def _tolerance(values: np.ndarray) -> float:
    return TOLERANCE.get(values.dtype, 1e-3)


def _candidate_axes(probe: Probe, name: str) -> list[int]:
    """Axes that may number the groups, the longest first; never that of a correlated vector."""
    shape, correlated = probe.shapes[name], name in probe.correlated
    axes = [axis for axis in range(len(shape) - correlated) if shape[axis] > 1]
    return sorted(axes, key=lambda axis: -shape[axis])


def _group_by_bits(
    slopes: Callable[[np.ndarray], np.ndarray], same: np.ndarray, axis: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Group of each row from the binary digits of its number; None if some row has several.

    A row's coefficients either take part in a digit's sum, all of them, or do not.
    """
    total = slopes(same)
    size = same.shape[axis]
    number = np.arange(size).reshape([-1 if a == axis else 1 for a in range(same.ndim)])
    floor = 1e-12 * max(float(np.max(np.abs(total), initial=0.0)), 1e-300)
    known = np.abs(total) > floor
    group = np.zeros(len(total), np.int32)
    for bit in range(int(size - 1).bit_length()):
        part = slopes(same * ((number >> bit) & 1))
        on = known & (np.abs(part - total) <= 1e-3 * np.abs(total))
        off = np.abs(part) <= np.maximum(1e-3 * np.abs(total), floor)
        if not np.all(on | off):
            return None
        group |= np.where(on, 1 << bit, 0).astype(np.int32)
    return group, known


def _design(layout: Layout, slopes: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Coefficients of every row, one slope for each."""
    columns = []
    for coefficient in range(layout.dim):
        one = np.zeros((layout.num_groups, layout.dim))
        one[:, coefficient] = 1.0
        columns.append(slopes(layout.restore(one)))
    return np.stack(columns, axis=1)


def site_design(source: Any, latents: Values, layout: Layout) -> Array:
    """Coefficients (rows, dim) of a site at given latents, inside a trace.

    Args:
        source: Has the model, its arguments, the target and `zeros`.
        latents: Values of the other latent sites.
        layout: The site's layout.
    """
    zeros = source.zeros()
    one = np.zeros((layout.dim, layout.num_groups, layout.dim))
    one[np.arange(layout.dim), :, np.arange(layout.dim)] = 1.0
    moves = jax.vmap(layout.restore)(jnp.asarray(one, zeros[layout.name].dtype))

    def along(deviation: Array) -> Array:
        run = run_with(
            source.model, latents, {**zeros, layout.name: deviation}, source.args, source.kwargs
        )
        return read_observed(source.target, run.observed[source.target]).loc

    _, slope = jax.linearize(along, zeros[layout.name])
    return jax.vmap(slope)(moves).T
