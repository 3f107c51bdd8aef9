"""Arrays in shards: any number of processes write them, and what is not as written is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probmf import processes, shards

ARRAYS: dict[str, np.ndarray] = {
    "factors": np.arange(2 * 3 * 7 * 2.0).reshape(2, 3, 7, 2),
    "codes": np.arange(11, dtype=np.int32),
    "turned": np.asfortranarray(np.arange(15, dtype=np.float32).reshape(3, 5)),
    "big endian": np.arange(6, dtype=">i8"),
    "number": np.asarray(-np.inf),
    "few": np.array([True, False]),
    "none": np.zeros((0, 3)),
}


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], Any]:
    """Let so many processes write one after the other; the shards that the last is told of."""
    monkeypatch.setattr(shards, "CUT", 0)

    def written(folder: Path, count: int) -> Any:
        told: list[str] = []
        monkeypatch.setattr(processes, "num_processes", lambda: count)
        monkeypatch.setattr(
            processes, "each", lambda work: [*told, told.append(work()) or told[-1]][:count]
        )
        for rank in range(count):
            monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
            found = shards.write(folder, "arrays", ARRAYS, shared=True)
        return found

    return written


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_any_number_of_processes(count: int, write: Any, tmp_path: Path) -> None:
    told = write(tmp_path, count)
    assert [one["file"] for one in told] == [f"arrays.{i}.safetensors" for i in range(count)]
    assert sum(one["bytes"] for one in told) < 2000 + 200 * count**2
    for name, found in shards.read(tmp_path, "arrays", told).items():
        np.testing.assert_array_equal(found, ARRAYS[name], err_msg=name)
        assert found.dtype == ARRAYS[name].dtype.newbyteorder("=")
    assert [one["ranges"]["factors"] for one in told] == [
        (2, 7 * i // count, 7 * (i + 1) // count) if count <= 7 else (2, 0, 7) if not i else None
        for i in range(count)
    ]


def test_small_arrays_are_the_first_process_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "CUT", ARRAYS["factors"].nbytes)
    assert shards._cut(ARRAYS["factors"], 1, 2) == (2, 3, 7)
    assert shards._cut(ARRAYS["codes"], 0, 2) == (0, 0, 11)
    assert shards._cut(ARRAYS["codes"], 1, 2) is None


def test_one_process_is_a_shard(tmp_path: Path, write: Any) -> None:
    alone = shards.write(tmp_path, "arrays", ARRAYS, shared=False)
    assert alone == write(tmp_path, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told.pop(1), r"arrays\.2\.safetensors has not the range of 'factors' that"),
        (lambda told: told.reverse(), r"arrays\.2\.safetensors has not the range of"),
        (lambda told: told[1].update(bytes=3), r"arrays\.1\.safetensors is truncated .* not 3$"),
        (lambda told: told[1].update(sha256="0"), r"arrays\.1\.safetensors .*its checksum is not"),
        (lambda told: told[1]["ranges"].update(codes=[0, 3, 8]), "1.safetensors has not the range"),
        (lambda told: told[1]["ranges"].pop("codes"), "1.safetensors holds other arrays than"),
        (lambda told: told[1].update(file="../run.json"), r"names '\.\./run\.json' as a shard"),
    ],
)
def test_other_manifests(change: Any, message: str, write: Any, tmp_path: Path) -> None:
    told = [dict(one) | {"ranges": dict(one["ranges"])} for one in write(tmp_path, 3)]
    change(told)
    with pytest.raises(shards.ShardError, match=message):
        shards.read(tmp_path, "arrays", told)


def test_files_that_are_missing_or_were_changed(write: Any, tmp_path: Path) -> None:
    told = write(tmp_path, 3)
    file = tmp_path / "arrays.1.safetensors"
    whole = file.read_bytes()
    for wrong in (whole[:-1], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(wrong)
        with pytest.raises(shards.ShardError, match=r"arrays\.1\.safetensors is truncated or was"):
            shards.read(tmp_path, "arrays", told)
    file.write_bytes(b"pickled")
    told[1] |= shards.facts(file)
    with pytest.raises(shards.ShardError, match=r"arrays\.1\.safetensors holds no arrays"):
        shards.read(tmp_path, "arrays", told)
    file.unlink()
    with pytest.raises(shards.ShardError, match=r"lacks the file arrays\.1\.safetensors"):
        shards.read(tmp_path, "arrays", told)
