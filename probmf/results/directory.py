"""Directories that hold a saved fit: written whole or not at all, and checked when read."""

import glob
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from probmf import processes, shards

MANIFEST = "fit.json"
FORMAT, VERSION = "probmf-fit", 6
#: Name of the shards with arrays of numbers, and the file of columns of anything else.
ARRAYS, COLUMNS = "arrays", "columns.parquet"
#: Files of side tables, by what they are.
TABLES = {
    "data.user_features": "user_features.parquet",
    "data.item_features": "item_features.parquet",
}
FILES = frozenset({COLUMNS, *TABLES.values()})
SHARD = re.compile(rf"{ARRAYS}\.\d+{re.escape(shards.SUFFIX)}")
#: End of the name of a fit that is being replaced.
OLD = "-old"
#: Entries of the manifest.
ENTRIES: dict[str, type] = {"kind": str, "fields": dict, "files": list, "arrays": dict}


def write(
    path: str | PathLike[str],
    arrays: Mapping[str, np.ndarray],
    fill: Callable[[Path], dict[str, Any]],
    *,
    shared: bool = False,
) -> None:
    """Make a directory, or replace one that holds a fit; anything else is left alone.

    `fill` writes the other files into the directory that it is given and returns entries of the
    manifest. Where all processes are here (`shared`), each writes a range of every array, and the
    first does all else; what fails in one fails in all.
    """
    target = Path(path).resolve()
    group = processes.ProcessGroup(shared)

    def begin() -> str:
        if group.rank:
            return ""
        check_target(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
        staging.mkdir()
        return staging.name

    def finish() -> str:
        if not group.rank:
            manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION, **fill(staging)}
            others = [file for file in sorted(staging.iterdir()) if not SHARD.fullmatch(file.name)]
            for file in others:
                shards.sync(file)
            manifest |= {"files": [shards.facts(file) for file in others], "arrays": written}
            _put_manifest(staging, manifest)
            _put(staging, target)
        return ""

    staging = target.with_name(group.each(begin)[0])
    try:
        written = shards.write(staging, ARRAYS, arrays, shared=shared)
        group.each(finish)
    finally:
        if not group.rank:
            shutil.rmtree(staging, ignore_errors=True)


def add_entry(path: str | PathLike[str], name: str, value: Any) -> None:
    """Add an entry to the manifest of a saved fit, such as what a program wants to remember."""
    folder = Path(path)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    _put_manifest(folder, manifest | {name: value})


def _put_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    shards.put_text(folder / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False))


def entry(path: str | PathLike[str], name: str) -> Any:
    """An entry of the manifest of a saved fit, or None if it has none of this name."""
    return json.loads((Path(path) / MANIFEST).read_text(encoding="utf-8")).get(name)


def read_manifest(source: Path) -> dict[str, Any]:
    """The manifest of a saved fit, whose files are all there and as they were written."""
    manifest = _read(source)
    with damage_told(source):
        for told in manifest["files"]:
            shards.check(source, told)
    return manifest


@contextmanager
def damage_told(source: Path) -> Iterator[None]:
    """Say what to do where a file of a fit, or its manifest, is not the one that was written."""
    try:
        with shards.manifest_told(source / MANIFEST):
            yield
    except shards.ShardError as error:
        raise ValueError(f"{error}. Save the fit again, or fetch another copy.") from None


def check_target(path: str | PathLike[str]) -> None:
    """Refuse to write over anything but a fit, of this format or an earlier one."""
    target = Path(path).resolve()
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(f"{target} is a file; give the path of a directory to make.")
    names = {file.name for file in target.iterdir()}
    manifest = _manifest(target) if MANIFEST in names else {}
    if names and manifest.get("format") != FORMAT:
        raise FileExistsError(
            f"{target} exists and is not a saved fit (it has no {MANIFEST} of probmf's); give "
            "another path."
        )
    # Earlier formats listed all files by checksum, and had others.
    own = FILES | {MANIFEST, f"{MANIFEST}.new", *manifest.get("sha256", ())}
    others = sorted(name for name in names - own if not SHARD.fullmatch(name))
    if others:
        raise FileExistsError(
            f"{target} holds more than a saved fit ({', '.join(others[:3])}), which would be lost; "
            "give another path, or move these files."
        )


def _manifest(target: Path) -> dict[str, Any]:
    """A manifest; one that is truncated is taken for that of a fit."""
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        return {"format": FORMAT}
    return manifest if isinstance(manifest, dict) else {}


def _put(staging: Path, target: Path) -> None:
    """Move the new directory into place; the old one is deleted only after that."""
    if not target.exists():
        staging.rename(target)
        shards.sync(target.parent)
        return
    old = target.with_name(f"{staging.name}{OLD}")
    target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        old.rename(target)
        raise
    shards.sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _read(source: Path) -> dict[str, Any]:
    if not source.exists():
        target = source.resolve()
        left = sorted(target.parent.glob(f".{glob.escape(target.name)}-*{OLD}"))
        raise FileNotFoundError(
            f"There is no saved fit at {source}."
            + "".join(f" A save that was cut off has left {old}; rename it." for old in left[-1:])
        )
    if not source.is_dir():
        raise ValueError(
            f"{source} is a file; a saved fit is a directory that fit.save(path) made (pickled and "
            "other foreign files are never opened)."
        )
    if not (source / MANIFEST).is_file():
        raise ValueError(
            f"{source} is not a saved fit: it has no {MANIFEST}. Give the directory that "
            "fit.save(path) or `probmf fit --out` wrote."
        )
    try:
        manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{source / MANIFEST} is truncated or not JSON ({error}); save the fit again."
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(
            f"{source / MANIFEST} was not written by probmf; give the directory of a saved fit."
        )
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"{source} has format version {manifest.get('version')}, this probmf reads "
            f"{VERSION}; load it with the version that wrote it, and save it anew."
        )
    lacking = ENTRIES.keys() - manifest.keys()
    if lacking:
        raise ValueError(f"{source / MANIFEST} lacks {', '.join(sorted(lacking))}.")
    with damage_told(source):
        for name, kind in ENTRIES.items():
            if not isinstance(manifest[name], kind):
                raise TypeError(f"{name} is {manifest[name]!r}")
        foreign = {told["file"] for told in manifest["files"]} - FILES
    if foreign:
        raise ValueError(f"{source / MANIFEST} lists other files than a fit has.")
    return manifest
