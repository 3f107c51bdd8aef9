"""Fits of mixed models on disk: JSON, safetensors, and the training columns as Parquet.

What formulaic remembers of the training data has no file form, so the design is made anew from the
columns that it used: exact, and nothing is unpickled.
"""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from numpyro.distributions import Distribution
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from probmf.models.mixed import Design, MixedEffects
from probmf.models.mixed.build import columns_of
from probmf.models.mixed.columns import Table
from probmf.results import directory
from probmf.results.config import (
    read_history,
    read_moments,
    read_samples,
    read_sampling,
    write_history,
    write_moments,
    write_samples,
    write_sampling,
)
from probmf.results.formula_code import refuse_foreign_code
from probmf.results.history import History
from probmf.results.laws import is_law, read_law, write_law
from probmf.results.moments import RowMoments
from probmf.results.rating_files import column_from_arrow, column_to_arrow, read_file, write_file
from probmf.results.sampling import Sampling

ARRAYS, TRAINING, LEVELS = "arrays.safetensors", "training.parquet", "levels.parquet"
#: Type of a column that was an Arrow array, before the unit of its times.
ARROW = "arrow "
FORM = directory.Form(
    format="probmf-mixed-fit",
    version=1,
    owner="MixedFit",
    files=frozenset({ARRAYS, TRAINING, LEVELS}),
    always=frozenset({ARRAYS, TRAINING, LEVELS}),
    entries=frozenset({"method", "model", "history", "sampling", "types"}),
)


def save(
    path: str | PathLike[str],
    model: MixedEffects,
    design: Design,
    data: Any,
    samples: Mapping[str, np.ndarray],
    method: str,
    sampling: Sampling | None,
    history: History | None,
    moments: RowMoments | None = None,
) -> None:
    """Write a fit to a directory, all of it or nothing; see `MixedFit.save`."""

    def fill(folder: Path) -> dict[str, Any]:
        types = _write_columns(model, design, data, folder)
        _check_same(design, model.design(_read_columns(folder, types)))
        arrays = write_samples(samples)
        manifest = {
            "method": method,
            "model": _write_model(model),
            "history": write_history(history, arrays),
            "sampling": write_sampling(sampling, arrays),
            "moments": write_moments(moments, arrays),
            "types": types,
        }
        save_file(arrays, folder / ARRAYS)
        return manifest

    directory.write(path, FORM, fill)


def load(path: str | PathLike[str]) -> dict[str, Any]:
    """Fields of a fit by name, as `save` wrote them; see `MixedFit.load`."""
    source = Path(path)
    manifest = directory.read_manifest(source, FORM)
    try:
        arrays = load_file(source / ARRAYS)
        model = _read_model(manifest["model"])
        refuse_foreign_code(model)
        data = _read_columns(source, manifest["types"])
        return {
            "model": model,
            "design": model.design(data),
            "samples": read_samples(arrays),
            "method": manifest["method"],
            "sampling": read_sampling(manifest["sampling"], arrays),
            "history": read_history(manifest["history"], arrays),
            "data": data,
            "moments": read_moments(manifest.get("moments"), arrays),
        }
    except (SafetensorError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{source} does not hold what its {directory.MANIFEST} says "
            f"({type(error).__name__}: {error}); save the fit again."
        ) from error


def _write_columns(
    model: MixedEffects, design: Design, data: Any, folder: Path
) -> dict[str, str | None]:
    """Write the columns that the formulas use; the types of the columns, None for categories."""
    formulas = [part for part in (model.parsed, model.parsed_scale) if part is not None]
    names = [design.data.response_name, *(name for part in formulas for name in columns_of(part))]
    table = Table(data, list(dict.fromkeys(names)))
    columns: dict[str, pa.Array] = {}
    levels: dict[str, pa.Array] = {}
    types: dict[str, str | None] = {}
    for name, column in table.columns.items():
        order = table.orders[name]
        if order is not None:
            # Parquet does not keep the order of a dictionary, so codes and order are stored.
            vocabulary, codes = table.categories(name)
            place = {value: place for place, value in enumerate(order)}
            ranks = np.array([place[value] for value in vocabulary.ids.tolist()], np.int32)
            columns[name], types[name] = pa.array(ranks[codes]), None
            levels[name] = pa.array([order])
        elif isinstance(column, pa.Array):
            columns[name], types[name] = column, ARROW
            if pa.types.is_timestamp(column.type):
                types[name] = ARROW + column.type.unit
        else:
            columns[name], types[name] = column_to_arrow(column, name), column.dtype.str
    write_file(pa.table(columns), folder / TRAINING, "training data")
    write_file(pa.table(levels or {"": pa.nulls(1)}), folder / LEVELS, "levels")
    return types


def _read_columns(folder: Path, types: Mapping[str, str | None]) -> dict[str, Any]:
    table, levels = read_file(folder / TRAINING), read_file(folder / LEVELS)
    columns: dict[str, Any] = {}
    for name, kind in types.items():
        if kind is None:
            order = levels[name].combine_chunks().flatten()
            codes = table[name].combine_chunks().cast(pa.int32())
            columns[name] = pa.DictionaryArray.from_arrays(codes, order, ordered=True)
        elif kind.startswith(ARROW):
            columns[name] = table[name]
            if kind != ARROW:
                # Parquet has no seconds.
                own = pa.timestamp(kind.removeprefix(ARROW), tz=table[name].type.tz)
                columns[name] = table[name].cast(own)
        else:
            columns[name] = column_from_arrow(table[name], kind)
    return columns


def _check_same(design: Design, again: Design) -> None:
    """Refuse data that do not give the design that was fitted."""
    ours, theirs = (
        jax.tree.leaves((part.data.predictors, part.data.response)) for part in (design, again)
    )
    same = len(ours) == len(theirs) and all(
        a.shape == b.shape and np.array_equal(np.float32(a), np.float32(b))
        for a, b in zip(ours, theirs, strict=True)
    )
    same = same and design.levels.keys() == again.levels.keys()
    same = same and all(
        list(map(str, design.levels[name])) == list(map(str, again.levels[name]))
        for name in design.levels
    )
    if not same or design.response_levels != again.response_levels:
        raise ValueError(
            "The training data give another design than the one that was fitted: they are other "
            "data, or a column has no file form that reads back the same. Give save(path, "
            "data=...) the table that the fit was made from, with ids as numbers or text."
        )


def _write_model(model: MixedEffects) -> dict[str, Any]:
    centered = model.centered
    return {
        "formula": model.formula,
        "likelihood": model.likelihood,
        "scale_formula": model.scale_formula,
        "centered": centered if isinstance(centered, bool) else sorted(centered),
        "priors": {site: _write_prior(site, prior) for site, prior in model.priors.items()},
    }


def _read_model(config: Mapping[str, Any]) -> MixedEffects:
    fields = dict(config)
    priors = {site: _read_prior(prior) for site, prior in fields.pop("priors").items()}
    return MixedEffects(fields.pop("formula"), priors=priors, **fields)


def _write_prior(site: str, prior: Any) -> Any:
    if isinstance(prior, Distribution):
        return write_law(site, prior)
    if isinstance(prior, Mapping):
        columns = {str(name): _write_prior(f"{site}[{name}]", own) for name, own in prior.items()}
        return {"columns": columns}
    return np.asarray(prior, np.float64).tolist()


def _read_prior(written: Any) -> Any:
    if is_law(written):
        return read_law(written)
    if isinstance(written, dict):
        return {name: _read_prior(own) for name, own in written["columns"].items()}
    return np.asarray(written) if isinstance(written, list) else written
