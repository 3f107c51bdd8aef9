"""A model with its data: structure and sums found once, the evidence evaluated many times."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probmf.effects import (
    Pattern,
    Standard,
    Statistics,
    collect_statistics,
    collect_targets,
    compress,
    draw_effects,
    log_evidence,
    make_pattern,
    standardize,
    sum_on_host,
)
from probmf.effects.host import HostEvidence
from probmf.effects.rounding import Rounding
from probmf.inference.marginal.blocks import Block, make_blocks
from probmf.inference.marginal.forms import quoted
from probmf.inference.marginal.injection import (
    MarginalizeError,
    Model,
    Run,
    Values,
    read_observed,
    run_with,
)
from probmf.inference.marginal.layout import Found, Shapes, Structure
from probmf.inference.marginal.mixed import mixed_structure
from probmf.inference.marginal.probe import Probe
from probmf.inference.marginal.search import Choice, find_structure, named_choices
from probmf.inference.marginal.structure import probed_structure, site_design
from probmf.models.mixed.program import MixedProgram
from probmf.numpyro_setup import run_unchecked
from probmf.precision import fresh_arrays
from probmf.run.compilation import count_numbers, quick_jit
from probmf.run.fingerprint import fingerprint

#: Numbers that effects drawn side by side may take up.
DRAW_NUMBERS = 4_000_000


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "model", "args", "kwargs", "pattern", "designs", "standards", "statistics", "sums",
    ],
    meta_fields=[
        "target", "hidden", "shapes", "latent_shapes", "blocks", "shared_noise",
        "fixed_priors", "choices",
    ],
)  # fmt: skip
@dataclass(eq=False)
class Prepared:
    """Structure of a model with its data; a pytree of arrays, if the model's arguments are some.

    Attributes:
        model: The model with its effects.
        args: Its arguments.
        kwargs: Its keyword arguments.
        target: The observed site that the effects enter.
        hidden: Deterministic sites that depend on effects.
        shapes: Shape of every effect site.
        latent_shapes: Shape of every other latent site.
        blocks: The blocks in the pattern's order.
        pattern: Which effects meet.
        designs: Coefficients of each block (float64), or None where they depend on latents; in the
            standard coordinates, where it has any.
        standards: Coordinates of each block's effects in which its columns are apart, or None.
        statistics: All sums when nothing in them depends on latents; else None.
        sums: The others of a constant design, without those of the target; else None.
        shared_noise: Whether all rows have one noise scale.
        fixed_priors: Whether the effects' prior covariances depend on no latent.
        choices: What becomes of each latent site.
    """

    model: Model
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: str
    hidden: frozenset[str]
    shapes: Shapes
    latent_shapes: Shapes
    blocks: tuple[Block, ...]
    pattern: Pattern
    designs: tuple[np.ndarray | None, ...]
    standards: tuple[Standard | None, ...]
    statistics: Statistics | None
    sums: Statistics | None
    shared_noise: bool
    fixed_priors: bool
    choices: tuple[Choice, ...]

    @property
    def flat(self) -> tuple[int, ...]:
        """Positions of blocks whose prior is flat."""
        return tuple(place for place, block in enumerate(self.blocks) if block.is_flat)

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume of the units of flat blocks."""
        own = [self.standards[place] for place in self.flat]
        return float(sum(standard.log_volume for standard in own if standard is not None))

    def zeros(self) -> dict[str, Array]:
        """Deviations of zero."""
        return {name: jnp.zeros(shape) for name, shape in self.shapes.items()}

    def run(self, latents: Values) -> Run:
        """The model at given latents, effects at their prior mean."""
        return run_with(self.model, latents, self.zeros(), self.args, self.kwargs, self.target)

    def log_density(
        self, run: Run, latents: Values, value: Array | None = None
    ) -> Float[Array, ""]:
        """The exact log density of the observations, in their own units.

        Args:
            run: A run at these latents.
            latents: Values of the other latent sites; used where the design depends on them.
            value: Other observations than those of the run, or None.
        """
        statistics, precision, extra = self.system(run, latents, value)
        trils = self.trils(run)
        return extra + log_evidence(self.pattern, statistics, trils, precision, self.flat)

    def rounding(self, latents: Values) -> Rounding:
        """An estimate of what rounding leaves of the log density in double precision."""
        run, own = self._compiled_terms
        with run_unchecked():
            statistics, precision, trils = run(*own, dict(latents))
        sums = statistics if self.statistics is None else self.statistics
        return HostEvidence(self.pattern, sums, self.flat).rounding(trils, float(precision))

    def _terms(self, latents: Values) -> tuple[Statistics | None, Array, list[Array]]:
        """Terms that the evidence depends on; sums only where they are not constant."""
        run = self.run(latents)
        statistics, precision, _ = self.system(run, latents)
        varying = statistics if self.statistics is None else None
        return varying, precision, self.trils(run)

    def draw(self, latents: Values, key: Array) -> tuple[Array, dict[str, Array]]:
        """The log density, and a joint draw of the effect sites' values and what they determine."""
        run = self.run(latents)
        statistics, precision, extra = self.system(run, latents)
        value, tables = draw_effects(
            self.pattern, statistics, self.trils(run), precision, key, self.flat
        )
        return value + extra, self.site_values(latents, tables)

    def site_values(self, latents: Values, tables: Sequence[Array]) -> dict[str, Array]:
        """Values of the effect sites, and of what they determine, from each block's deviations."""
        deviations: dict[str, Array] = {}
        for block, standard, table in zip(self.blocks, self.standards, tables, strict=True):
            own = table if standard is None else standard.effects(table)
            deviations.update(block.split(own))
        # Running the model adds the prior means, which may be effects themselves.
        values = run_with(self.model, latents, deviations, self.args, self.kwargs)
        found = {name: values.values[name] for name in self.shapes}
        return {**found, **{name: values.computed[name] for name in self.hidden}}

    def draw_all(self, latents: Values, keys: Array) -> tuple[Array, dict[str, Array]]:
        """`draw` for every draw of the latents, in bounded memory."""
        size = self.pattern.num_columns**2 + 4 * sum(
            groups * dim**2 for groups, dim in self.pattern.shapes
        )
        if self.pattern.pairs is not None:
            size += len(self.pattern.pairs.left)
        if self.statistics is None:
            size += 4 * self.pattern.num_rows
        batch = max(1, min(len(keys), DRAW_NUMBERS // size))
        if isinstance(keys, jax.core.Tracer):
            # Within the caller's jit, where a program with compiler options of its own may not be.
            with run_unchecked():
                return self._mapped(batch, dict(latents), keys)
        run, own = self._compiled_draws
        with run_unchecked():
            run.trace(*own, batch, dict(latents), keys)  # Runs the model; the call below does not.
        return run(*own, batch, dict(latents), keys)

    def _mapped(self, batch: int, latents: Values, keys: Array) -> tuple[Array, dict[str, Array]]:
        return jax.lax.map(lambda both: self.draw(*both), (latents, keys), batch_size=batch)

    @cached_property
    def _compiled_draws(self) -> tuple[Any, tuple[Any, ...]]:
        return self._compile(Prepared._mapped, self.pattern.num_columns**2, static=True)

    @cached_property
    def _compiled_terms(self) -> tuple[Any, tuple[Any, ...]]:
        return self._compile(Prepared._terms, 0)

    def _compile(
        self, method: Callable[..., Any], numbers: int, *, static: bool = False
    ) -> tuple[Any, tuple[Any, ...]]:
        """A method, and what it takes first: data are arguments where they are arrays only.

        Args:
            method: One of this class.
            numbers: How many numbers it works with beside the model's arguments.
            static: Whether its first argument is a number that the program is made for.
        """
        numbers += count_numbers((self.args, self.kwargs))
        if isinstance(self.model, MixedProgram):
            return quick_jit(method, numbers, static_argnums=1 if static else None), (self,)
        return quick_jit(partial(method, self), numbers, static_argnums=0 if static else None), ()

    def simulate(self, latents: Values, key: Array) -> Array:
        """Observations given latents, the effects from their prior."""
        if self.flat:
            names = quoted(layout.name for i in self.flat for layout in self.blocks[i].layouts)
            raise MarginalizeError(
                f"The prior of {names} is flat, so that there is no draw from it.",
                "Give it a proper prior to draw observations.",
            )
        run = self.run(latents)
        effects_key, noise_key = jax.random.split(key)
        deviations: dict[str, Array] = {}
        for index, block in enumerate(self.blocks):
            noise = jax.random.normal(
                jax.random.fold_in(effects_key, index), (block.num_groups, block.dim)
            )
            tril = block.tril(run.effects)
            row = "mab" if tril.ndim == 3 else "ab"
            deviations.update(block.split(jnp.einsum(f"{row},mb->ma", tril, noise)))
        values = run_with(self.model, latents, deviations, self.args, self.kwargs)
        law = values.observed[self.target]["law"]
        return law.sample(noise_key)

    def trils(self, run: Run) -> list[Array]:
        """Lower factor of each block's prior covariance, in the designs' coordinates."""
        # A model may hold arrays of single precision in a run in double.
        dtype = jnp.result_type(float)
        trils = [block.tril(run.effects).astype(dtype) for block in self.blocks]
        return [
            tril if standard is None or block.is_flat else standard.root(tril)
            for tril, standard, block in zip(trils, self.standards, self.blocks, strict=True)
        ]

    def system(
        self, run: Run, latents: Values, value: Array | None = None
    ) -> tuple[Statistics, Array, Array]:
        """Sums, noise precision, and what else the log density has."""
        site = dict(run.observed[self.target])
        if value is not None:
            site["value"] = value
        observed = read_observed(self.target, site)
        kept = observed.keep
        jacobian = observed.jacobian if kept is None else jnp.where(kept, observed.jacobian, 0.0)
        extra = jnp.sum(jacobian) - self.log_volume
        if self.shared_noise:
            weight = None if kept is None else kept.astype(observed.loc.dtype)
            precision = 1.0 / jnp.square(observed.scale[0])
        else:
            weight = 1.0 / jnp.square(observed.scale)
            log_scale = jnp.log(observed.scale)
            extra = extra - jnp.sum(log_scale if kept is None else jnp.where(kept, log_scale, 0.0))
            weight = weight if kept is None else jnp.where(kept, weight, 0.0)
            precision = jnp.ones((), observed.loc.dtype)
        if kept is not None:
            dropped = len(kept) - jnp.sum(kept)
            extra = extra - 0.5 * dropped * (jnp.log(precision) - np.log(2 * np.pi))
        dtype = observed.loc.dtype
        if self.statistics is not None and value is None:
            return _cast(self.statistics, dtype), precision, extra
        residual = observed.value - observed.loc
        if kept is not None:
            residual = jnp.where(kept, residual, 0.0)
        constant = self.statistics if self.sums is None else self.sums
        if constant is not None and kept is None:
            lead, rest, square = collect_targets(
                self.pattern, self.designs_at(latents, dtype), residual
            )
            sums = _cast(constant, dtype)._replace(lead=lead, rest=rest, square=square)
            return sums, precision, extra
        statistics = collect_statistics(
            self.pattern, self.designs_at(latents, dtype), residual, weight
        )
        return statistics, precision, extra

    def designs_at(self, latents: Values, dtype: Any) -> list[Array]:
        """Coefficients of the blocks at these latents."""
        found = []
        for block, design in zip(self.blocks, self.designs, strict=True):
            if design is not None:
                found.append(jnp.asarray(design, dtype))
                continue
            columns = [site_design(self, latents, layout) for layout in block.layouts]
            found.append(jnp.concatenate(columns, axis=1))
        return found


def prepare(
    model: Model, sites: tuple[str, ...] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Prepared:
    """Find out how the effects enter and sum what can be summed once.

    Args:
        model: The NumPyro model.
        sites: The effect sites; None for as many as can be integrated out.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Returns:
        The structure.

    Raises:
        MarginalizeError: If the effects can't be integrated out.
    """
    _check_concrete((args, kwargs))
    fresh_args, fresh_kwargs = fresh_arrays((args, dict(kwargs)))
    try:
        prepared = _prepare(model, sites, fresh_args, fresh_kwargs)
    except (TypeError, jax.errors.JaxRuntimeError) as error:
        if jax.config.jax_enable_x64 or not _is_stale(error):
            raise
        raise MarginalizeError(
            "The model captures a NumPy array that JAX holds in single precision, as the model was "
            "sampled before, so that its structure can't be read in double precision. Hand the "
            "array over as an argument, make it a JAX array, or call numpyro.enable_x64() first."
        ) from error
    # Copied again: those above have been used in double precision.
    fresh_args, fresh_kwargs = fresh_arrays((args, dict(kwargs)))
    return replace(prepared, args=fresh_args, kwargs=fresh_kwargs)


def _outside_of_traces() -> AbstractContextManager[Any]:
    """Lets a first call within vmap or a loop, as by `log_likelihood`, see concrete values.

    Compiles every operation by itself, so it is left out where nothing is being traced.
    """
    traced = isinstance(jnp.zeros(()), jax.core.Tracer)
    return jax.ensure_compile_time_eval() if traced else nullcontext()


def _is_stale(error: Exception) -> bool:
    """True if JAX remembers an array of the model's closure in another precision."""
    return "same dtypes" in str(error) or "RuntimeProgramInputMismatch" in str(error)


def _structure(
    model: Model, sites: tuple[str, ...] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Structure, tuple[Choice, ...]]:
    """How the effects enter, and what becomes of each site."""
    if sites is None:
        structure, choices = find_structure(model, args, kwargs)
    else:
        known = mixed_structure(model, sites, args, kwargs)
        structure = known or probed_structure(Probe(model, sites, args, kwargs))
        choices = named_choices(structure, sites)
        if known is not None:
            return structure, choices
    _check_indices(structure.found, (args, kwargs))
    return structure, choices


def _prepare(
    model: Model, sites: tuple[str, ...] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Prepared:
    # Missing values are reported with their rows below.
    with run_unchecked(), jax.enable_x64(True), _outside_of_traces():
        structure, choices = _structure(model, sites, args, kwargs)
        observed, found = structure.observed, structure.found
        _check_rows(observed, structure.target)
        grouped = make_blocks(found)
        pattern = make_pattern([block.grouping(group) for block, group, _ in grouped])
        grouped = [grouped[index] for index in pattern.order]
        designs: list[np.ndarray | None] = []
        standards: list[Standard | None] = []
        for _, _, members in grouped:
            design, standard = None, None
            if all(found[i].constant for i in members):
                design, standard = standardize(
                    np.concatenate([found[i].design for i in members], axis=1)
                )
            designs.append(design)
            standards.append(standard)
        shared = observed["scale"].size == 1
        statistics = sums = None
        constant = [design for design in designs if design is not None]
        if shared and len(constant) == len(designs):
            add = partial(sum_on_host, pattern, constant)
            if structure.fixed_targets:
                residual, weight = np.asarray(observed["value"] - observed["loc"], np.float64), None
                if observed["keep"] is not None:
                    weight = np.asarray(observed["keep"], np.float64)
                    residual = np.where(weight > 0, residual, 0.0)
                statistics = compress(pattern, add(residual, weight))
            elif observed["keep"] is None:
                sums = compress(pattern, add(np.zeros(pattern.num_rows)))
    blocks = tuple(block for block, *_ in grouped)
    known = sums if statistics is None else statistics
    if known is not None and any(block.is_flat for block in blocks):
        _refuse_improper(blocks, pattern, known)
    return Prepared(
        model=model, args=args, kwargs=kwargs, target=structure.target, hidden=structure.hidden,
        shapes=Shapes(structure.shapes), latent_shapes=Shapes(structure.latent_shapes),
        blocks=blocks, pattern=pattern, designs=tuple(designs),
        standards=tuple(standards), statistics=statistics, sums=sums,
        shared_noise=shared, fixed_priors=structure.fixed_priors, choices=choices,
    )  # fmt: skip


def _refuse_improper(blocks: Sequence[Block], pattern: Pattern, sums: Statistics) -> None:
    """Refuse flat priors of effects that the rows don't tell apart, whatever the other effects."""
    flat = [place for place, block in enumerate(blocks) if block.is_flat]
    trils = [(np.eye if block.is_flat else _zero)(block.dim) for block in blocks]
    try:
        found = HostEvidence(pattern, sums, flat).rounding(trils, 1.0)
    except np.linalg.LinAlgError:
        found = None
    if found is None or not found.is_small:
        names = [layout.name for place in flat for layout in blocks[place].layouts]
        raise MarginalizeError(
            f"The flat prior of {quoted(names)} leaves no posterior: the rows don't tell all of "
            "its values apart, as columns depend on each other or a group has no row.",
            "Give it a proper prior, or take the columns out.",
            names,
        )


def _zero(size: int) -> np.ndarray:
    return np.zeros((size, size))


def _cast(statistics: Statistics, dtype: Any) -> Statistics:
    def one(array: np.ndarray) -> Array:
        kind = dtype if np.issubdtype(array.dtype, np.floating) else array.dtype
        return jnp.asarray(array, kind)

    return jax.tree.map(one, statistics)


def argument_fingerprint(arguments: Any, *more: Any) -> str:
    """Fingerprint of concrete arguments: values by content, objects that have none by identity.

    What is prepared holds its arguments, so that no other object takes their identity.
    """
    _check_concrete(arguments)
    leaves, tree = jax.tree.flatten(arguments)
    precision = bool(jax.config.jax_enable_x64)
    return fingerprint(more, repr(tree), precision, leaves, others=id)


def _check_concrete(arguments: Any) -> None:
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
        raise MarginalizeError(
            "The arguments of a marginalized model are traced, so its groups can't be read. Call "
            "it with concrete arrays: outside of jit and vmap, and MCMC without jit_model_args."
        )


def _check_rows(observed: Mapping[str, Any], target: str) -> None:
    values = observed["value"]
    if len(values) == 0:
        raise MarginalizeError(f"The observed site {target!r} has no rows.")
    bad = ~np.isfinite(values)
    if observed["keep"] is not None:
        bad &= observed["keep"]
    if bad.any():
        row = int(np.argmax(bad))
        raise MarginalizeError(
            f"The observed value of {target!r} in row {row} is not finite, or not positive "
            "where its logarithm is taken. Drop those rows or mask them."
        )


def _check_indices(found: Sequence[Found], arguments: Any) -> None:
    """JAX clamps indices beyond the end and wraps negative ones: look for such an argument."""
    leaves = [
        (jax.tree_util.keystr(path), np.asarray(leaf))
        for path, leaf in jax.tree.leaves_with_path(arguments)
        if isinstance(leaf, np.ndarray | jax.Array | list)
        and np.issubdtype(np.asarray(leaf).dtype, np.integer)
    ]
    for one in found:
        layout = one.layout
        if layout.axis is None:
            continue
        size = layout.num_groups
        for name, array in leaves:
            if array.size != len(one.group):
                continue
            index = array.ravel()
            bad = (index < 0) | (index >= size)
            wrapped = np.clip(np.where(index < 0, index + size, index), 0, size - 1)
            if bad.any() and np.array_equal(wrapped[one.known], one.group[one.known]):
                row = int(np.argmax(bad))
                raise MarginalizeError(
                    f"The argument {name} indexes the site {layout.name!r}, which has {size} "
                    f"groups, and holds {index[row]} in row {row}; expected 0..{size - 1}. (JAX "
                    "itself would silently take another group.)"
                )
