"""Files of ratings sorted by several processes: the folder is that of one process.

Processes are threads here, which tell each other what processes would; `test_processes.py` starts
real ones.
"""

import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from probmf import Ratings, processes
from probmf.data import database, row_files, sort_files

type Open = Callable[..., list[Any]]

NUM = 60
ROLES: dict[str, Any] = {"weight": "w", "time": "at"}
OWN = threading.local()


def table() -> dict[str, Any]:
    """Ratings of 20 users and 30 items, of which some are there twice."""
    rng = np.random.default_rng(3)
    pairs = np.concatenate([rng.permutation(600)[:50], rng.integers(0, 600, 10)])
    pairs[-3:] = pairs[:3]
    return {
        "user": [f"u{k}" for k in pairs // 30], "item": pairs % 30, "rating": pairs % 9 / 2,
        "w": rng.integers(0, 3, NUM) / 4, "at": rng.integers(0, 9, NUM),
    }  # fmt: skip


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Does something in so many processes: what comes of it in each, errors among it."""

    def work_in(count: int, work: Callable[[int], Any]) -> list[Any]:
        found: list[Any] = [None] * count
        said = [np.zeros(0)] * count
        all_here = threading.Barrier(count, timeout=60)

        def gather(value: np.ndarray) -> np.ndarray:
            try:
                said[OWN.rank] = value
                all_here.wait()
            except threading.BrokenBarrierError:
                raise ConnectionError(processes.LOST) from None
            rows = np.stack(said)
            # All have arrived here before any goes on, so one that ends meanwhile takes nothing.
            with suppress(threading.BrokenBarrierError):
                all_here.wait()
            return rows

        def run(rank: int) -> None:
            OWN.rank = rank
            try:
                found[rank] = work(rank)
            except BaseException as error:
                found[rank] = error
                all_here.abort()

        with monkeypatch.context() as patch:
            patch.setattr(processes, "_gather", gather)
            patch.setattr(processes, "num_processes", lambda: count)
            patch.setattr(processes, "rank", lambda: OWN.rank)
            threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return found

    return work_in


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(folder: Path, columns: dict[str, Any], rows: int = NUM) -> Path:
    """Two files of row groups of so many ratings, in a folder whose name is no pattern."""
    path = folder / "ratings [1]"
    path.mkdir()
    for name, part in (("a", slice(0, 40)), ("b", slice(40, None))):
        pl.DataFrame(columns)[part].write_parquet(path / f"{name}.parquet", row_group_size=rows)
    return path


CASES: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    "many row groups": ({}, 7, {"duplicates": "sum", **ROLES}),
    "few row groups": ({}, NUM, {"duplicates": "mean", **ROLES}),
    "no ratings": ({}, 7, {"duplicates": "mean", "rating": None}),
    "one user": ({"user": [5] * NUM, "item": np.arange(NUM)}, 7, {}),
    "no repeats": ({"item": np.arange(NUM)}, 7, {"items": np.arange(-2, NUM + 2)}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [2, 3])
def test_the_folder_is_that_of_one_process(
    case: str, count: int, together: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, rows, options = CASES[case]
    path = write(tmp_path, table() | change, rows)
    one = Ratings.open(path, folder=tmp_path / "one", **options)
    if case == "many row groups":  # As if on machines of their own.
        monkeypatch.setattr(sort_files.platform, "node", lambda: str(OWN.rank))
    opened = together(
        count, lambda _: Ratings.open(path, folder=tmp_path / "all [2]", shared=True, **options)
    )
    for found in opened:
        np.testing.assert_array_equal(found.rating, one.rating)
    assert contents(tmp_path / "all [2]") == contents(tmp_path / "one")
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, "one", "all [2]"}


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "missing id": ({"user": [*["a"] * 50, None, *["b"] * 9]}, {}, "1 missing .* first in row 50"),
    "ids not whole": (
        {"user": [*[1.0] * 45, 1.5, *[2.0] * 12, 1.5, 0.5]}, {}, r"holds 1\.5 in row 45 ",
    ),
    "unknown ids": (
        {"user": [*"a" * 45, *"dcb" * 5]}, {"users": ["a", "d"]},
        r"2 ids .*: 'b', 'c' \(first in row 46; 10 in all\)",
    ),
    "missing rating": ({"rating": [*[1.0] * 42, *[None] * 18]}, {}, r"missing in row 42 \(18 such"),
    "negative weight": ({"w": [*[1.0] * 59, -1.0]}, ROLES, r"'w' is negative in row 59 \(1 such"),
    "repeated pair": (
        {"user": [*range(58), 1, 0], "item": [*[3] * 58, 3, 3]}, {}, "User 0 and item 3 occur"
    ),
    "no numbers": ({"rating": ["x"] * NUM}, {}, "must hold numbers, but is of type"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_all_processes_name_the_row(case: str, together: Open, tmp_path: Path) -> None:
    change, options, words = BAD[case]
    path = write(tmp_path, table() | {"item": np.arange(NUM)} | change, 7)
    with pytest.raises((ValueError, TypeError), match=words) as told:
        Ratings.open(path, **options)
    for found in together(3, lambda _: Ratings.open(path, shared=True, **options)):
        assert (type(found), str(found)) == (told.type, str(told.value))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("step", ["encode", "deal_out", "write"])
def test_a_death_leaves_nothing(
    step: str, who: int, together: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(sort_files._Sort, step)

    def dies(*arguments: Any) -> None:
        if OWN.rank == who:
            raise SystemExit
        real(*arguments)

    monkeypatch.setattr(sort_files._Sort, step, dies)
    path = write(tmp_path, table(), 7)
    found = together(2, lambda _: Ratings.open(path, shared=True, duplicates="sum"))
    assert isinstance(found.pop(who), SystemExit)
    assert "Another process of this fit has ended" in str(found[0])
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_stops_all(
    together: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = row_files.ColumnFile.append

    def full(self: Any, values: Any) -> None:
        if OWN.rank == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, values)

    monkeypatch.setattr(row_files.ColumnFile, "append", full)
    path = write(tmp_path, table(), 7)
    found = together(2, lambda _: Ratings.open(path, shared=True, duplicates="sum"))
    assert str(found[0]) == f"In process 1: {found[1]}"
    assert isinstance(found[1], OSError)
    assert "No space left on device. If the disk is full, make room there" in str(found[1])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["no common disk", "CSV", "made before"])
def test_where_each_sorts_by_itself(
    kind: str, together: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, options = write(tmp_path, table(), 7), {"duplicates": "sum"}
    if kind == "CSV":
        path = tmp_path / "ratings.csv"
        pl.DataFrame(table()).write_csv(path)
    places = [tmp_path / ("0" if kind != "no common disk" else str(rank)) / "r" for rank in (0, 1)]
    if kind == "made before":
        Ratings.open(path, folder=places[0], **options)
    counts: list[int] = []
    real = sort_files._Sort.deal_out
    monkeypatch.setattr(
        sort_files._Sort, "deal_out", lambda self: (counts.append(self.group.count), real(self))[1]
    )
    together(2, lambda rank: Ratings.open(path, folder=places[rank], shared=True, **options))
    assert counts == {"no common disk": [1, 1], "CSV": [1], "made before": []}[kind]
    assert contents(places[0]).keys() == contents(places[1]).keys()


@pytest.mark.parametrize(
    ("limit", "expected"), [("2GB", "0.5GB"), (" 80 %", "20.0 %"), ("much", "much")]
)
def test_processes_of_a_machine_share_its_memory(limit: str, expected: str) -> None:
    assert database._share_of(limit, 4) == expected
