"""Fits of factorizations on disk: JSON, safetensors and Parquet. Never pickle."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from probmf.data import Ratings
from probmf.models.factorization import MatrixFactorization
from probmf.results import directory, rating_files
from probmf.results.config import (
    read_history,
    read_model,
    read_moments,
    read_samples,
    read_sampling,
    read_traces,
    write_history,
    write_model,
    write_moments,
    write_samples,
    write_sampling,
    write_traces,
)
from probmf.results.history import History
from probmf.results.moments import RowMoments
from probmf.results.sampling import Sampling
from probmf.results.traces import Traces

ARRAYS = "arrays.safetensors"
FILES = (directory.MANIFEST, ARRAYS, *rating_files.FILES)
FORM = directory.Form(
    format="probmf-fit",
    version=1,
    owner="Fit",
    files=frozenset(FILES[1:]),
    # Side tables only some have.
    always=frozenset({ARRAYS, rating_files.RATINGS, *rating_files.IDS.values()}),
    entries=frozenset({"method", "model", "history", "types"}),
)


def save(
    path: str | PathLike[str],
    model: MatrixFactorization,
    data: Ratings,
    samples: Mapping[str, np.ndarray],
    method: str,
    history: History | None,
    sampling: Sampling | None,
    traces: Traces | None,
    moments: RowMoments | None,
) -> None:
    """Write a fit to a directory, all of it or nothing; see `Fit.save`."""

    def fill(folder: Path) -> dict[str, Any]:
        arrays = write_samples(samples)
        manifest = {
            "method": method,
            "model": write_model(model, arrays),
            "history": write_history(history, arrays),
            "sampling": write_sampling(sampling, arrays),
            "traces": write_traces(traces, arrays),
            "moments": write_moments(moments, arrays),
            "types": rating_files.write_ratings(data, folder),
        }
        save_file(arrays, folder / ARRAYS)
        return manifest

    directory.write(path, FORM, fill)


def load(
    path: str | PathLike[str],
) -> tuple[
    MatrixFactorization,
    Ratings,
    dict[str, np.ndarray],
    str,
    History | None,
    Sampling | None,
    Traces | None,
    RowMoments | None,
]:
    """Read what `save` wrote; see `Fit.load`."""
    source = Path(path)
    manifest = directory.read_manifest(source, FORM)
    try:
        arrays = load_file(source / ARRAYS)
        data = rating_files.read_ratings(source, manifest["types"])
        model = read_model(manifest["model"], arrays)
        history = read_history(manifest["history"], arrays)
        sampling = read_sampling(manifest.get("sampling"), arrays)
        traces = read_traces(manifest.get("traces"), arrays)
        moments = read_moments(manifest.get("moments"), arrays)
    except (SafetensorError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{source} does not hold what its {directory.MANIFEST} says "
            f"({type(error).__name__}: {error}); save the fit again."
        ) from error
    samples = read_samples(arrays)
    return model, data, samples, manifest["method"], history, sampling, traces, moments
