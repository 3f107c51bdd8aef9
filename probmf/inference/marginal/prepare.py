"""Preparing a model with its data: how the effects enter, and what can be summed once."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probmf.effects import (
    Pattern,
    Statistics,
    compress,
    sum_on_host,
)
from probmf.effects.host import HostEvidence
from probmf.inference.marginal.approximated import Approximated
from probmf.inference.marginal.captured_arrays import fresh_arrays, with_fresh_captures
from probmf.inference.marginal.effect_blocks import Block, lay_out_blocks
from probmf.inference.marginal.forms import quoted
from probmf.inference.marginal.injection import (
    MarginalizeError,
    Model,
)
from probmf.inference.marginal.layout import Found, Shapes, SiteChoice, Structure
from probmf.inference.marginal.left_out import spread_blocks
from probmf.inference.marginal.mixed_structure import mixed_structure
from probmf.inference.marginal.prepared import Prepared
from probmf.inference.marginal.prepared_model import PreparedModel
from probmf.inference.marginal.probe import Probe, draw_values
from probmf.inference.marginal.recession import open_direction, open_sides
from probmf.inference.marginal.search import find_structure
from probmf.inference.marginal.site_choices import named_choices, quadrature_nodes
from probmf.inference.marginal.structure import probed_structure
from probmf.models.mixed.program import MixedProgram
from probmf.numpyro_setup import run_unchecked
from probmf.run.fingerprint import fingerprint


def prepare(
    model: Model,
    sites: tuple[str, ...] | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    num_nodes: int | None = None,
) -> PreparedModel:
    """Find out how the effects enter and sum what can be summed once.

    Args:
        model: The NumPyro model.
        sites: The effect sites; None for as many as can be integrated out.
        args: Its arguments.
        kwargs: Its keyword arguments.
        num_nodes: Nodes of a quadrature for each effect; 1 for Laplace's approximation.

    Returns:
        The structure.

    Raises:
        MarginalizeError: If the effects can't be integrated out.
    """
    _check_concrete((args, kwargs))
    # Those that have been used in double precision go.
    own = model if isinstance(model, MixedProgram) else with_fresh_captures(model)
    own_args, own_kwargs = fresh_arrays((args, dict(kwargs)))
    try:
        prepared = _prepare(own, sites, own_args, own_kwargs, num_nodes)
    except (TypeError, jax.errors.JaxRuntimeError) as error:
        if not _is_stale(error):
            raise
        raise MarginalizeError(
            "The model uses a NumPy array, out of our reach, that JAX remembers in the precision "
            "of another program. Hand the array over as an argument, or make it a JAX array."
        ) from error
    fresh_args, fresh_kwargs = fresh_arrays((args, dict(kwargs)))
    return replace(prepared, model=model, args=fresh_args, kwargs=fresh_kwargs)


def _outside_of_traces() -> AbstractContextManager[Any]:
    """Lets a first call within vmap or a loop, as by `log_likelihood`, see concrete values.

    Compiles every operation by itself, so it is left out where nothing is being traced.
    """
    traced = isinstance(jnp.zeros(()), jax.core.Tracer)
    return jax.ensure_compile_time_eval() if traced else nullcontext()


def _is_stale(error: Exception) -> bool:
    """True if JAX remembers an array of the model's in another precision."""
    return "same dtypes" in str(error) or "RuntimeProgramInputMismatch" in str(error)


def _structure(
    model: Model,
    sites: tuple[str, ...] | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    num_nodes: int | None,
) -> tuple[Structure, tuple[SiteChoice, ...]]:
    """The structure of the effects, and the fate of each site."""
    if sites is None:
        structure, choices = find_structure(model, args, kwargs, num_nodes)
    else:
        if isinstance(model, MixedProgram) and not model.likelihood.normal:
            raise MarginalizeError(
                f"The likelihood is {model.likelihood!r}; the effects of a mixed model's sites can "
                "be integrated out of Normal and LogNormal observations only.",
                "Use sample_marginal, which does so by quadrature.",
            )
        known = mixed_structure(model, sites, args, kwargs)
        structure = known or probed_structure(Probe(model, sites, args, kwargs))
        choices = named_choices(structure, num_nodes)
        if known is not None:
            return structure, choices
    _check_indices(structure.found, (args, kwargs))
    return structure, choices


def _prepare(
    model: Model,
    sites: tuple[str, ...] | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    num_nodes: int | None,
) -> PreparedModel:
    # Missing values are reported with their rows below.
    with run_unchecked(), jax.enable_x64(True), _outside_of_traces():
        structure, choices = _structure(model, sites, args, kwargs, num_nodes)
        observed = structure.observed
        _check_rows(observed, structure.target)
        blocks, pattern, columns, standards, constant = lay_out_blocks(
            structure.found, len(observed["value"])
        )
        designs = tuple(c if is_so else None for c, is_so in zip(columns, constant, strict=True))
        standards = tuple(
            s if is_so else None for s, is_so in zip(standards, constant, strict=True)
        )
        parts: dict[str, Any] = {
            "model": model, "args": args, "kwargs": kwargs, "target": structure.target,
            "hidden": structure.hidden, "shapes": Shapes(structure.shapes),
            "latent_shapes": Shapes(structure.latent_shapes), "blocks": blocks, "pattern": pattern,
            "designs": designs, "standards": standards, "choices": choices,
        }  # fmt: skip
        if any(block.is_flat for block in blocks):
            _refuse_improper(blocks, pattern, columns, observed["keep"])
        if not structure.is_gaussian:
            nodes = quadrature_nodes(structure, num_nodes)
            approximated = Approximated(**parts, num_nodes=nodes)
            if approximated.flat:
                _refuse_endless(approximated)
            return approximated
        statistics, sums = _constant_sums(structure, pattern, designs)
    return Prepared(
        **parts, statistics=statistics, sums=sums,
        shared_noise=observed["scale"].size == 1, fixed_priors=structure.fixed_priors,
    )  # fmt: skip


def _constant_sums(
    structure: Structure, pattern: Pattern, designs: Sequence[np.ndarray | None]
) -> tuple[Statistics | None, Statistics | None]:
    """Sums over the rows where nothing in them depends on latents, or all but the target's."""
    observed = structure.observed
    constant = [design for design in designs if design is not None]
    if observed["scale"].size != 1 or len(constant) < len(designs):
        return None, None
    add = partial(sum_on_host, pattern, constant)
    if structure.fixed_targets:
        residual, weight = np.asarray(observed["value"] - observed["loc"], np.float64), None
        if observed["keep"] is not None:
            weight = np.asarray(observed["keep"], np.float64)
            residual = np.where(weight > 0, residual, 0.0)
        return compress(pattern, add(residual, weight)), None
    if observed["keep"] is None:
        return None, compress(pattern, add(np.zeros(pattern.num_rows)))
    return None, None


def _refuse_improper(
    blocks: Sequence[Block],
    pattern: Pattern,
    columns: Sequence[np.ndarray],
    keep: np.ndarray | None,
) -> None:
    """Refuse flat priors of effects that the rows don't tell apart, whatever the other effects.

    Weights of the rows and units of the columns have no part in it, so all rows count alike.
    """
    flat = [place for place, block in enumerate(blocks) if block.is_flat]
    trils = [(np.eye if block.is_flat else _zero)(block.dim) for block in blocks]
    weight = None if keep is None else np.asarray(keep, np.float64)
    sums = sum_on_host(pattern, columns, np.zeros(pattern.num_rows), weight)
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


def _refuse_endless(prepared: Approximated) -> None:
    """Refuse flat priors of effects along which the density of no row ever falls."""
    values = draw_values(prepared.model, prepared.args, prepared.kwargs, 0)[1]
    latents = {name: values[name] for name in prepared.latent_shapes}
    system = prepared.integrand(prepared.run(latents), latents).system
    columns = spread_blocks(prepared.pattern, prepared.flat, system.designs)
    sides = open_sides(lambda at: system.rows(at), system.offset)
    if open_direction(columns, *sides) is not None:
        raise MarginalizeError(
            f"The flat prior of {quoted(prepared.flat_sites)} leaves no posterior: along some of "
            "its values the density of some rows rises without end and that of no row falls, as "
            "where a column separates yes from no, or all counts of a group are zero.",
            "Give it a proper prior.",
            prepared.flat_sites,
        )


def _zero(size: int) -> np.ndarray:
    return np.zeros((size, size))


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


def _argument(path: tuple[Any, ...]) -> str:
    """Name in messages of a leaf of (args, kwargs)."""
    kind, name, *inner = path
    own = f"{name.key}" if kind.idx else f"number {name.idx + 1}"
    return own + jax.tree_util.keystr(tuple(inner))


def _check_indices(found: Sequence[Found], arguments: Any) -> None:
    """JAX clamps indices beyond the end and wraps negative ones: look for such an argument."""
    leaves = [
        (_argument(path), np.asarray(leaf))
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
