"""Loops are compiled where nothing can be kept on disk."""

import builtins
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from probmf.rows.cpu.kernels import compiled


def make_loops() -> Callable[[np.ndarray], np.ndarray]:
    """One loop that calls another, not compiled yet."""

    @compiled
    def inner(x: np.ndarray) -> np.ndarray:
        return x + 1

    @compiled
    def outer(x: np.ndarray) -> np.ndarray:
        return 2 * inner(x)

    return outer


def check() -> None:
    np.testing.assert_array_equal(make_loops()(np.arange(3.0)), [2.0, 4.0, 6.0])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Numba keeps compiled loops."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_loops_are_kept_on_disk(folder: Path) -> None:
    check()
    assert {path.suffix for path in folder.rglob("*.*.*")} == {".nbi", ".nbc"}


def test_a_full_disk_is_no_reason_to_fail(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, refused = builtins.open, []

    def full(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if str(file).startswith(str(folder)) and set(mode) & set("wax+"):
            refused.append(file)
            raise OSError(errno.ENOSPC, "No space left on device", file)
        return opened(file, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", full)
    check()
    assert refused


def test_a_disk_that_can_not_be_read_is_no_reason_to_fail(folder: Path) -> None:
    check()
    for path in folder.rglob("*.nbi"):
        path.unlink()
        path.mkdir()
    check()


def test_no_place_is_no_reason_to_fail(folder: Path) -> None:
    folder.write_text("a file where the folder would be")
    check()
