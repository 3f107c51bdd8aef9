"""Arrays on disk in shards: each process writes its own range of the rows of every large array.

A shard is a safetensors file. The manifest of its folder has the shape of every array and lists the
shards, each with its size, its checksum and the range that it has of every array. One process
writes one shard with everything; whoever reads the shards puts the ranges together, and need not be
as many processes.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from probmf import processes

#: What the name of a shard ends with, after the name of what it is a part of and its number.
SUFFIX = ".safetensors"
#: Bytes from which on an array is cut. Below it nothing is gained.
CUT = 1 << 20


class ShardError(ValueError):
    """A file of the folder is missing, or is not the one that was written."""


@contextmanager
def manifest_told(manifest: Path) -> Iterator[None]:
    """Say of a manifest whose entries are missing or of other kinds that it is not as written."""
    try:
        yield
    except ShardError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ShardError(
            f"{manifest} is not as it was written ({type(error).__name__}: {error})"
        ) from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders.
        return
    opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def put_text(file: Path, text: str) -> None:
    """Write a file whole: whoever is killed meanwhile leaves the old one."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(text, encoding="utf-8")
    sync(new)
    new.replace(file)
    sync(file.parent)


def facts(file: Path) -> dict[str, Any]:
    """Name, size and SHA-256 of a file, as values for JSON."""
    with file.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"file": file.name, "bytes": file.stat().st_size, "sha256": checksum}


def check(folder: Path, told: Mapping[str, Any]) -> None:
    """Compare a file with what was told of it when it was written."""
    file = folder / told["file"]
    if not file.is_file():
        raise ShardError(f"{folder} lacks the file {told['file']}")
    size = file.stat().st_size
    if size != told["bytes"]:
        raise ShardError(
            f"{file} is truncated or was altered: it has {size:,} bytes, not {told['bytes']:,}"
        )
    if facts(file) != told:
        raise ShardError(
            f"{file} is truncated or was altered: its checksum is not the one that the manifest has"
        )


def write(
    folder: Path, name: str, arrays: Mapping[str, np.ndarray], *, shared: bool
) -> dict[str, Any]:
    """Write this process's ranges of arrays; gives shapes and the shards of all, for the manifest.

    The arrays are whole in every process. If it is `shared`, all processes are here and write a
    range each; what fails in one fails in all.
    """
    group = processes.ProcessGroup(shared)

    def write_own() -> str:
        file = folder / f"{name}.{group.rank}{SUFFIX}"
        new = file.with_name(f"{file.name}.new")
        cuts = {key: _cut(value, group.rank, group.count) for key, value in arrays.items()}
        new.touch()
        mode = new.stat().st_mode
        try:
            save_file({key: _part(arrays[key], cut) for key, cut in cuts.items() if cut}, new)
        except SafetensorError as error:
            # Also what the system said, such as that the disk is full.
            raise OSError(f"{file} can't be written: {error}") from error
        # safetensors writes through a file that only its owner may read; this is the umask's mode.
        new.chmod(mode)
        sync(new)
        new.replace(file)
        return json.dumps(facts(file))

    told, count = group.each(write_own), group.count
    return {
        "shapes": {key: list(value.shape) for key, value in arrays.items()},
        "shards": [
            json.loads(text) | {"ranges": {key: _cut(x, place, count) for key, x in arrays.items()}}
            for place, text in enumerate(told)
        ],
    }


def read(folder: Path, name: str, written: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that `write` wrote, whole, by what it returned."""
    parts: dict[str, list[np.ndarray]] = {}
    axes: dict[str, int] = {}
    ends: dict[str, int] = {}
    for shard in written["shards"]:
        told = {key: shard[key] for key in ("file", "bytes", "sha256")}
        if not re.fullmatch(rf"{re.escape(name)}\.\d+{re.escape(SUFFIX)}", str(told["file"])):
            raise ShardError(f"the manifest of {folder} names {told['file']!r} as a shard")
        check(folder, told)
        try:
            found = load_file(folder / told["file"])
        except SafetensorError as error:
            raise ShardError(f"{folder / told['file']} holds no arrays ({error})") from error
        own = {key: cut for key, cut in shard["ranges"].items() if cut}
        if found.keys() != own.keys():
            raise ShardError(f"{folder / told['file']} holds other arrays than the manifest names")
        for key, (axis, begin, end) in own.items():
            if begin != ends.get(key, 0) or (end - begin, axis) != (
                _length(found[key], axis), axes.setdefault(key, axis)
            ):  # fmt: skip
                raise ShardError(
                    f"{folder / told['file']} has not the range of {key!r} that comes next"
                )
            ends[key] = end
            parts.setdefault(key, []).append(found[key])
    whole = {
        key: own[0] if len(own) == 1 else np.concatenate(own, axis=axes[key])
        for key, own in parts.items()
    }
    for key, shape in written["shapes"].items():
        if key not in whole or list(whole[key].shape) != shape:
            raise ShardError(f"the shards in {folder} lack a part of {key!r}")
    if others := sorted(whole.keys() - written["shapes"].keys()):
        raise ShardError(f"the manifest of {folder} has no shape of {others[0]!r}")
    return whole


def _length(array: np.ndarray, axis: int) -> int:
    return array.shape[axis] if array.ndim else 1


def _cut(array: np.ndarray, rank: int, count: int) -> tuple[int, int, int] | None:
    """Axis, begin and end of a process's range of an array: of its longest axis, or nothing.

    A small array, or one of fewer rows than processes, is the first one's.
    """
    axis = int(np.argmax(array.shape)) if array.ndim else 0
    length = _length(array, axis)
    if length < count or array.nbytes < CUT:
        return (axis, 0, length) if rank == 0 else None
    return axis, length * rank // count, length * (rank + 1) // count


def _part(array: np.ndarray, cut: tuple[int, int, int]) -> np.ndarray:
    axis, begin, end = cut
    whole = begin == 0 and end == _length(array, axis)
    own = array if whole else array[(slice(None),) * axis + (slice(begin, end),)]
    return np.asarray(own, own.dtype.newbyteorder("="), order="C")
