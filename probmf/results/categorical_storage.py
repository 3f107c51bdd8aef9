"""Fits of categorical factorizations on disk: JSON, safetensors and Parquet."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpyro.distributions import Distribution
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from probmf.data import Ratings
from probmf.models.categorical_factorization import CategoricalFactorization
from probmf.models.factorization import PRIOR_SCALES
from probmf.results import directory, rating_files
from probmf.results.config import (
    read_history,
    read_samples,
    read_sampling,
    write_history,
    write_samples,
    write_sampling,
)
from probmf.results.history import History
from probmf.results.laws import is_law, read_law, write_law
from probmf.results.sampling import Sampling

ARRAYS = "arrays.safetensors"
FORM = directory.Form(
    format="probmf-categorical-fit",
    version=1,
    owner="CategoricalFit",
    files=frozenset({ARRAYS, *rating_files.FILES}),
    # Side tables only some have.
    always=frozenset({ARRAYS, rating_files.RATINGS, *rating_files.IDS.values()}),
    entries=frozenset({"method", "model", "history", "sampling", "types"}),
)


def save(
    path: str | PathLike[str],
    model: CategoricalFactorization,
    data: Ratings,
    samples: Mapping[str, np.ndarray],
    method: str,
    sampling: Sampling | None,
    history: History | None,
) -> None:
    """Write a fit to a directory, all of it or nothing; see `CategoricalFit.save`."""

    def fill(folder: Path) -> dict[str, Any]:
        arrays = write_samples(samples)
        intercept: Any = model.intercept
        own: dict[str, Any] = {
            "num_factors": int(model.num_factors),
            "classes": list(model.labels),
            "intercept": _write("intercept", intercept),
            "user_bias": bool(model.user_bias),
            "item_bias": bool(model.item_bias),
        }
        own |= {name: _write(name, getattr(model, name)) for name in PRIOR_SCALES.values()}
        manifest = {
            "method": method,
            "model": own,
            "history": write_history(history, arrays),
            "sampling": write_sampling(sampling, arrays),
            "types": rating_files.write_ratings(data, folder),
        }
        save_file(arrays, folder / ARRAYS)
        return manifest

    directory.write(path, FORM, fill)


def load(path: str | PathLike[str]) -> dict[str, Any]:
    """Fields of a fit by name, as `save` wrote them; see `CategoricalFit.load`."""
    source = Path(path)
    manifest = directory.read_manifest(source, FORM)
    try:
        arrays = load_file(source / ARRAYS)
        own = {
            name: read_law(value) if is_law(value) else value
            for name, value in manifest["model"].items()
        }
        return {
            "model": CategoricalFactorization(**own),
            "data": rating_files.read_ratings(source, manifest["types"]),
            "samples": read_samples(arrays),
            "method": manifest["method"],
            "sampling": read_sampling(manifest["sampling"], arrays),
            "history": read_history(manifest["history"], arrays),
        }
    except (SafetensorError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{source} does not hold what its {directory.MANIFEST} says "
            f"({type(error).__name__}: {error}); save the fit again."
        ) from error


def _write(name: str, value: Any) -> Any:
    if isinstance(value, Distribution):
        return write_law(name, value)
    if isinstance(value, tuple):
        return list(value)
    return value if value is None or isinstance(value, str) else float(value)
