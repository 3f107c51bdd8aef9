"""Fits of networks on disk: JSON and safetensors."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpyro.distributions import Distribution
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from probmf.data.examples import Examples
from probmf.models.network import Network
from probmf.results import directory
from probmf.results.config import (
    read_history,
    read_likelihood,
    read_samples,
    read_sampling,
    write_history,
    write_likelihood,
    write_samples,
    write_sampling,
)
from probmf.results.history import History
from probmf.results.laws import is_law, read_law, write_law
from probmf.results.sampling import Sampling

ARRAYS = "arrays.safetensors"
FORM = directory.Form(
    format="probmf-network-fit",
    version=1,
    owner="NetworkFit",
    files=frozenset({ARRAYS}),
    always=frozenset({ARRAYS}),
    entries=frozenset({"method", "model", "history", "sampling", "examples"}),
)
#: Fields of Examples that are arrays.
FIELDS = (
    "x", "response", "feature_center", "feature_scale", "response_center", "response_scale",
)  # fmt: skip


def save(
    path: str | PathLike[str],
    model: Network,
    data: Examples,
    samples: Mapping[str, np.ndarray],
    method: str,
    sampling: Sampling | None,
    history: History | None,
) -> None:
    """Write a fit to a directory, all of it or nothing; see `NetworkFit.save`."""

    def fill(folder: Path) -> dict[str, Any]:
        arrays = write_samples(samples)
        arrays |= {f"data/{name}": np.ascontiguousarray(getattr(data, name)) for name in FIELDS}
        manifest = {
            "method": method,
            "model": {
                "hidden": list(model.hidden),
                "activation": model.activation,
                "likelihood": write_likelihood(model.likelihood),
                "weight_scale": _write_scale("weight_scale", model.weight_scale),
                "bias_scale": _write_scale("bias_scale", model.bias_scale),
            },
            "history": write_history(history, arrays),
            "sampling": write_sampling(sampling, arrays),
            "examples": {
                "features": list(data.features),
                "responses": list(data.responses),
                "classes": [_write_label(label) for label in data.classes],
            },
        }
        save_file(arrays, folder / ARRAYS)
        return manifest

    directory.write(path, FORM, fill)


def load(path: str | PathLike[str]) -> dict[str, Any]:
    """Fields of a fit by name, as `save` wrote them; see `NetworkFit.load`."""
    source = Path(path)
    manifest = directory.read_manifest(source, FORM)
    try:
        arrays = load_file(source / ARRAYS)
        own, examples = manifest["model"], manifest["examples"]
        fields: dict[str, Any] = {name: arrays[f"data/{name}"] for name in FIELDS}
        fields |= {name: tuple(examples[name]) for name in ("features", "responses", "classes")}
        return {
            "model": Network(
                tuple(own["hidden"]), own["activation"], read_likelihood(own["likelihood"]),
                _read_scale(own["weight_scale"]), _read_scale(own["bias_scale"]),
            ),
            "data": Examples(**fields),
            "samples": read_samples(arrays),
            "method": manifest["method"],
            "sampling": read_sampling(manifest["sampling"], arrays),
            "history": read_history(manifest["history"], arrays),
        }  # fmt: skip
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{source} does not hold what its {directory.MANIFEST} says "
            f"({type(error).__name__}: {error}); save the fit again."
        ) from error


def _write_scale(name: str, scale: Any) -> Any:
    if isinstance(scale, tuple):
        return [_write_scale(f"{name}[{place}]", own) for place, own in enumerate(scale)]
    if isinstance(scale, Distribution):
        return write_law(name, scale)
    return scale if scale is None or isinstance(scale, str) else float(scale)


def _read_scale(written: Any) -> Any:
    if isinstance(written, list):
        return tuple(_read_scale(own) for own in written)
    return read_law(written) if is_law(written) else written


def _write_label(label: Any) -> Any:
    plain = label.item() if isinstance(label, np.generic) else label
    if not isinstance(plain, str | int | float | bool):
        raise ValueError(
            f"The class {label!r} of type {type(label).__name__} has no file form; use text or "
            "numbers for classes."
        )
    return plain
