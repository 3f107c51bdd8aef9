"""Fits of neural factorizations on disk: JSON, safetensors and Parquet."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from probmf.data import Ratings
from probmf.models.factorization import PRIOR_SCALES
from probmf.models.neural_factorization import NeuralFactorization
from probmf.results import directory, rating_files
from probmf.results.config import (
    read_history,
    read_model,
    read_samples,
    read_sampling,
    write_history,
    write_model,
    write_samples,
    write_sampling,
)
from probmf.results.history import History
from probmf.results.mean_config import read_layers, write_layers
from probmf.results.sampling import Sampling

ARRAYS = "arrays.safetensors"
#: What the model shares with a plain factorization.
SHARED = (
    "num_factors", "likelihood", "intercept", "user_bias", "item_bias", *PRIOR_SCALES.values(),
)  # fmt: skip
FORM = directory.Form(
    format="probmf-neural-fit",
    version=1,
    owner="NeuralFit",
    files=frozenset({ARRAYS, *rating_files.FILES}),
    # Side tables only some have.
    always=frozenset({ARRAYS, rating_files.RATINGS, *rating_files.IDS.values()}),
    entries=frozenset({"method", "model", "history", "sampling", "types"}),
)


def save(
    path: str | PathLike[str],
    model: NeuralFactorization,
    data: Ratings,
    samples: Mapping[str, np.ndarray],
    method: str,
    sampling: Sampling | None,
    history: History | None,
) -> None:
    """Write a fit to a directory, all of it or nothing; see `NeuralFit.save`."""

    def fill(folder: Path) -> dict[str, Any]:
        arrays = write_samples(samples)
        manifest = {
            "method": method,
            "model": {
                "factorization": write_model(model.factorization, arrays),
                "network": write_layers("network", model.network),
                "product": bool(model.product),
            },
            "history": write_history(history, arrays),
            "sampling": write_sampling(sampling, arrays),
            "types": rating_files.write_ratings(data, folder),
        }
        save_file(arrays, folder / ARRAYS)
        return manifest

    directory.write(path, FORM, fill)


def load(path: str | PathLike[str]) -> dict[str, Any]:
    """Fields of a fit by name, as `save` wrote them; see `NeuralFit.load`."""
    source = Path(path)
    manifest = directory.read_manifest(source, FORM)
    try:
        arrays = load_file(source / ARRAYS)
        own = manifest["model"]
        plain = read_model(own["factorization"], arrays)
        return {
            "model": NeuralFactorization(
                network=read_layers(own["network"]), product=own["product"],
                **{name: getattr(plain, name) for name in SHARED},
            ),
            "data": rating_files.read_ratings(source, manifest["types"]),
            "samples": read_samples(arrays),
            "method": manifest["method"],
            "sampling": read_sampling(manifest["sampling"], arrays),
            "history": read_history(manifest["history"], arrays),
        }  # fmt: skip
    except (SafetensorError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{source} does not hold what its {directory.MANIFEST} says "
            f"({type(error).__name__}: {error}); save the fit again."
        ) from error
