"""Fits on disk: a directory of JSON, safetensors and Parquet. Never pickle."""

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpyro.distributions import Distribution
from numpyro.distributions import Normal
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from probmf.data import Ratings, Vocabulary
from probmf.models.factorization import PRIOR_SCALES, MatrixFactorization
from probmf.models.likelihood import Bernoulli, Gaussian, Likelihood
from probmf.results.history import History

FORMAT = "probmf-fit"
VERSION = 1
MANIFEST = "fit.json"
ARRAYS = "arrays.safetensors"
RATINGS = "ratings.parquet"
TABLES = {"user": "users.parquet", "item": "items.parquet"}


def save(
    path: str | PathLike[str],
    model: MatrixFactorization,
    data: Ratings,
    samples: Mapping[str, np.ndarray],
    method: str,
    history: History | None,
) -> None:
    """Write a fit to a directory, all of it or nothing; see `Fit.save`."""
    target = Path(path)
    if target.exists() and not (target / MANIFEST).is_file():
        if not target.is_dir() or any(target.iterdir()):
            raise FileExistsError(
                f"{target} exists and is not a saved fit (it has no {MANIFEST}); give another path."
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        arrays = {f"sample/{name}": np.ascontiguousarray(value) for name, value in samples.items()}
        config = _model_config(model, arrays)
        kinds = {}
        for side, vocabulary, features in (
            ("user", data.users, data.user_features),
            ("item", data.items, data.item_features),
        ):
            kinds[side], column = _id_column(vocabulary)
            table = pa.table({"id": column})
            if features is not None:
                for name, values in zip(features.column_names[1:], features.columns[1:], strict=True):
                    table = table.append_column(f"feature/{name}", values)
                kinds[f"{side}_feature_id"] = features.column_names[0]
            pq.write_table(table, staging / TABLES[side])
        columns = {"user": data.user, "item": data.item, "rating": data.rating}
        if data.weight is not None:
            columns["weight"] = data.weight
        if data.time is not None:
            columns["time"] = data.time
        columns |= {f"column/{name}": values for name, values in data.columns.items()}
        pq.write_table(pa.table(columns), staging / RATINGS)
        save_file(arrays, staging / ARRAYS)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "method": method,
            "model": config,
            "ids": kinds,
            "history": _history_config(history),
            "sha256": {
                file: _digest(staging / file) for file in (ARRAYS, RATINGS, *TABLES.values())
            },
        }
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=1))
        staging.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def load(
    path: str | PathLike[str],
) -> tuple[MatrixFactorization, Ratings, dict[str, np.ndarray], str, History | None]:
    """Read what `save` wrote; see `Fit.load`."""
    source = Path(path)
    manifest = _read_manifest(source)
    for file, digest in manifest["sha256"].items():
        if not (source / file).is_file():
            raise ValueError(f"The saved fit {source} lacks the file {file}; save it again.")
        if _digest(source / file) != digest:
            raise ValueError(
                f"{source / file} is truncated or was altered: its checksum is not the one that "
                f"{MANIFEST} has. Save the fit again, or fetch another copy."
            )
    try:
        arrays = load_file(source / ARRAYS)
    except SafetensorError as error:
        raise ValueError(f"{source / ARRAYS} is not a safetensors file: {error}.") from None
    vocabularies, features = {}, {}
    for side, file in TABLES.items():
        table = pq.read_table(source / file)
        ids = _ids_from_column(manifest["ids"][side], table["id"])
        vocabularies[side] = Vocabulary(name=side, ids=ids)
        features[side] = _features(table, manifest["ids"].get(f"{side}_feature_id"))
    table = pq.read_table(source / RATINGS)
    column = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    data = Ratings(
        users=vocabularies["user"],
        items=vocabularies["item"],
        user=column["user"],
        item=column["item"],
        rating=column["rating"],
        weight=column.get("weight"),
        time=column.get("time"),
        columns={n.removeprefix("column/"): v for n, v in column.items() if "column/" in n},
        user_features=features["user"],
        item_features=features["item"],
    )
    samples = {
        name.removeprefix("sample/"): value
        for name, value in arrays.items()
        if name.startswith("sample/")
    }
    model = _model_from_config(manifest["model"], arrays)
    return model, data, samples, manifest["method"], _history_from_config(manifest["history"])


def _read_manifest(source: Path) -> dict[str, Any]:
    if source.is_file():
        raise ValueError(
            f"{source} is a file; a saved fit is a directory made by Fit.save (pickled or foreign "
            "files are never opened)."
        )
    if not (source / MANIFEST).is_file():
        raise ValueError(
            f"{source} is not a saved fit: it has no {MANIFEST}. Give the directory that "
            "Fit.save(path) or `probmf fit --out` wrote."
        )
    try:
        manifest = json.loads((source / MANIFEST).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{source / MANIFEST} is truncated or not JSON ({error}); save the fit again."
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{source / MANIFEST} was not written by probmf.")
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"{source} has format version {manifest.get('version')}, this probmf reads {VERSION}; "
            "load it with the version that wrote it, and save it anew."
        )
    needed = {"method", "model", "ids", "history", "sha256"}
    if needed - manifest.keys():
        raise ValueError(f"{source / MANIFEST} lacks {sorted(needed - manifest.keys())}.")
    if set(manifest["sha256"]) != {ARRAYS, RATINGS, *TABLES.values()}:
        raise ValueError(f"{source / MANIFEST} lists other files than a fit has.")
    return manifest


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _model_config(model: MatrixFactorization, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "num_factors": int(model.num_factors),
        "user_bias": bool(model.user_bias),
        "item_bias": bool(model.item_bias),
        "unobserved_weight": float(model.unobserved_weight),
        "intercept": _intercept_config(model.intercept),
        "likelihood": _likelihood_config(model.likelihood),
    }
    for name in PRIOR_SCALES.values():
        scale = getattr(model, name)
        if isinstance(scale, Distribution):
            raise ValueError(
                f"{name} is a distribution, which has no file form; a fit with sampled scales "
                "cannot be saved yet."
            )
        if np.ndim(scale):
            arrays[f"scale/{name}"] = np.ascontiguousarray(np.asarray(scale, np.float64))
        else:
            config[name] = float(scale)
    return config


def _model_from_config(
    config: dict[str, Any], arrays: dict[str, np.ndarray]
) -> MatrixFactorization:
    fields = dict(config)
    kind = fields.pop("likelihood")
    likelihood: Likelihood
    if kind["kind"] == "gaussian":
        likelihood = Gaussian(kind["noise_scale"])
    else:
        likelihood = Bernoulli(kind["link"])
    intercept = fields.pop("intercept")
    if isinstance(intercept, dict):
        intercept = Normal(intercept["loc"], intercept["scale"])
    scales = {
        name.removeprefix("scale/"): value
        for name, value in arrays.items()
        if name.startswith("scale/")
    }
    return MatrixFactorization(likelihood=likelihood, intercept=intercept, **fields, **scales)


def _intercept_config(intercept: Any) -> Any:
    if isinstance(intercept, Normal):
        return {"loc": float(intercept.loc), "scale": float(intercept.scale)}
    return intercept if intercept is None or isinstance(intercept, str) else float(intercept)


def _likelihood_config(likelihood: Likelihood) -> dict[str, Any]:
    if isinstance(likelihood, Bernoulli):
        return {"kind": "bernoulli", "link": likelihood.link}
    if isinstance(likelihood.noise_scale, Distribution):
        raise ValueError(
            "noise_scale is a distribution, which has no file form; a fit with sampled scales "
            "cannot be saved yet."
        )
    return {"kind": "gaussian", "noise_scale": float(likelihood.noise_scale)}


def _history_config(history: History | None) -> dict[str, Any] | None:
    if history is None:
        return None
    arrays = ("objective", "validation", "seconds", "restarts")
    config = {name: getattr(history, name) for name in arrays}
    config = {name: None if value is None else value.tolist() for name, value in config.items()}
    return config | {"best": history.best, "stopped": history.stopped, "unit": history.unit}


def _history_from_config(config: dict[str, Any] | None) -> History | None:
    if config is None:
        return None
    fields = {
        name: np.asarray(value, dtype=np.float64) if isinstance(value, list) else value
        for name, value in config.items()
    }
    return History(**fields)


def _id_column(vocabulary: Vocabulary) -> tuple[str, pa.Array]:
    """Ids as an Arrow column, and what they were."""
    ids = vocabulary.ids
    if ids.dtype.kind != "O":
        return "plain", pa.array(ids)
    if all(isinstance(value, uuid.UUID) for value in ids):
        return "uuid", pa.array([str(value) for value in ids])
    if all(isinstance(value, str) for value in ids):
        return "text", pa.array(ids.tolist(), pa.string())
    raise ValueError(
        f"The {vocabulary.name} ids are of type {type(ids[0]).__name__}, which has no file form. "
        "Make them strings, integers or UUIDs before fitting."
    )


def _ids_from_column(kind: str, column: pa.ChunkedArray) -> np.ndarray:
    values = column.to_pylist()
    if kind == "plain":
        array = column.to_numpy()
        return np.asarray(values, dtype=np.str_) if array.dtype.kind == "O" else array
    ids = np.empty(len(values), dtype=object)
    ids[:] = [uuid.UUID(value) for value in values] if kind == "uuid" else values
    return ids


def _features(table: pa.Table, id_name: str | None) -> pa.Table | None:
    if id_name is None:
        return None
    names = [name.removeprefix("feature/") for name in table.column_names[1:]]
    return table.rename_columns([id_name, *names])
