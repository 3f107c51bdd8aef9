"""Arrays in shards: any number of processes write them, and what is not as written is refused."""

import json
import re
import signal
import subprocess
import sys
import textwrap
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
    written = write(tmp_path, count)
    told = written["shards"]
    assert [one["file"] for one in told] == [f"arrays.{i}.safetensors" for i in range(count)]
    assert sum(one["bytes"] for one in told) < 2000 + 200 * count**2
    for name, found in shards.read(tmp_path, "arrays", written).items():
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
        (lambda told: told.pop(), "the shards in .* lack a part of 'factors'"),
        (lambda told: told.clear(), "the shards in .* lack a part of 'factors'"),
    ],
)
def test_other_manifests(change: Any, message: str, write: Any, tmp_path: Path) -> None:
    written = json.loads(json.dumps(write(tmp_path, 3)))
    change(written["shards"])
    with pytest.raises(shards.ShardError, match=message):
        shards.read(tmp_path, "arrays", written)


@pytest.mark.parametrize(
    "change",
    [
        lambda written: written.pop("shapes"),
        lambda written: written.update(shards=3),
        lambda written: written["shards"][0].pop("sha256"),
        lambda written: written["shards"][0].update(ranges=["codes"]),
        lambda written: written["shards"].append("x"),
    ],
)
def test_entries_that_are_none(change: Any, write: Any, tmp_path: Path) -> None:
    written = json.loads(json.dumps(write(tmp_path, 2)))
    change(written)
    with (
        pytest.raises(shards.ShardError, match=r"run\.json is not as it was written \("),
        shards.manifest_told(tmp_path / "run.json"),
    ):
        shards.read(tmp_path, "arrays", written)


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="No limits of files here.")
def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    script = f"""
        import resource
        from pathlib import Path
        import numpy as np
        from probmf import shards
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            shards.write(Path({str(tmp_path)!r}), "arrays", {{"x": np.zeros(1000)}}, shared=False)
        except OSError as error:
            print(error)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert re.search(r"arrays\.0\.safetensors can't be written: .*large", done.stdout), done


def test_files_that_are_missing_or_were_changed(write: Any, tmp_path: Path) -> None:
    written = write(tmp_path, 3)
    file = tmp_path / "arrays.1.safetensors"
    whole = file.read_bytes()
    for wrong in (whole[:-1], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(wrong)
        with pytest.raises(shards.ShardError, match=r"arrays\.1\.safetensors is truncated or was"):
            shards.read(tmp_path, "arrays", written)
    file.write_bytes(b"pickled")
    written["shards"][1] |= shards.facts(file)
    with pytest.raises(shards.ShardError, match=r"arrays\.1\.safetensors holds no arrays"):
        shards.read(tmp_path, "arrays", written)
    file.unlink()
    with pytest.raises(shards.ShardError, match=r"lacks the file arrays\.1\.safetensors"):
        shards.read(tmp_path, "arrays", written)
