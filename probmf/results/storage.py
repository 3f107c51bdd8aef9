"""Fits on disk: a directory of JSON, safetensors and Parquet. Never pickle."""

import hashlib
import json
import shutil
import uuid
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
from probmf.results import rating_files
from probmf.results.config import read_history, read_model, write_history, write_model
from probmf.results.history import History

FORMAT = "probmf-fit"
VERSION = 1
MANIFEST = "fit.json"
ARRAYS = "arrays.safetensors"
FILES = (MANIFEST, ARRAYS, *rating_files.FILES)
#: Files that every fit has; side tables only some.
ALWAYS = {ARRAYS, rating_files.RATINGS, *rating_files.IDS.values()}
#: Prefix of the names of the samples' arrays.
SAMPLE = "sample/"


def save(
    path: str | PathLike[str],
    model: MatrixFactorization,
    data: Ratings,
    samples: Mapping[str, np.ndarray],
    method: str,
    history: History | None,
) -> None:
    """Write a fit to a directory, all of it or nothing; see `Fit.save`."""
    target = Path(path).resolve()
    _check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    staging.mkdir()
    try:
        arrays = {SAMPLE + name: np.ascontiguousarray(value) for name, value in samples.items()}
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "method": method,
            "model": write_model(model, arrays),
            "history": write_history(history, arrays),
            "types": rating_files.write_ratings(data, staging),
        }
        save_file(arrays, staging / ARRAYS)
        manifest["sha256"] = {file.name: _digest(file) for file in sorted(staging.iterdir())}
        text = json.dumps(manifest, indent=1, allow_nan=False)
        (staging / MANIFEST).write_text(text, encoding="utf-8")
        _put(staging, target)
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
        data = rating_files.read_ratings(source, manifest["types"])
        model = read_model(manifest["model"], arrays)
        history = read_history(manifest["history"], arrays)
    except (SafetensorError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{source} does not hold what its {MANIFEST} says ({type(error).__name__}: {error}); "
            "save the fit again."
        ) from error
    samples = {
        name.removeprefix(SAMPLE): value
        for name, value in arrays.items()
        if name.startswith(SAMPLE)
    }
    return model, data, samples, manifest["method"], history


def _check_target(target: Path) -> None:
    """Refuse to write over anything but a fit."""
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(f"{target} is a file; give the path of a directory to make.")
    names = {file.name for file in target.iterdir()}
    if names and (MANIFEST not in names or _format(target) not in (FORMAT, None)):
        raise FileExistsError(
            f"{target} exists and is not a saved fit (it has no {MANIFEST} of probmf); give "
            "another path."
        )
    others = sorted(names - set(FILES))
    if others:
        raise FileExistsError(
            f"{target} holds more than a saved fit ({', '.join(others[:3])}), which would be lost; "
            "give another path, or move these files."
        )


def _format(target: Path) -> Any:
    """What a manifest calls its format; None if it is truncated."""
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        return None
    return manifest.get("format", "") if isinstance(manifest, dict) else ""


def _put(staging: Path, target: Path) -> None:
    """Move the new directory into place; the old one is deleted only after that."""
    if not target.exists():
        staging.rename(target)
        return
    old = target.with_name(f"{staging.name}-old")
    target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _read_manifest(source: Path) -> dict[str, Any]:
    if not source.exists():
        raise FileNotFoundError(f"There is no saved fit at {source}.")
    if not source.is_dir():
        raise ValueError(
            f"{source} is a file; a saved fit is a directory made by Fit.save (pickled and other "
            "foreign files are never opened)."
        )
    if not (source / MANIFEST).is_file():
        raise ValueError(
            f"{source} is not a saved fit: it has no {MANIFEST}. Give the directory that "
            "Fit.save(path) or `probmf fit --out` wrote."
        )
    try:
        manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
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
    lacking = {"method", "model", "history", "types", "sha256"} - manifest.keys()
    if lacking:
        raise ValueError(f"{source / MANIFEST} lacks {', '.join(sorted(lacking))}.")
    files = set(manifest["sha256"])
    if ALWAYS - files or files - set(FILES):
        raise ValueError(f"{source / MANIFEST} lists other files than a fit has.")
    return manifest


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
