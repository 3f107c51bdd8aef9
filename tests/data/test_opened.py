"""Ratings opened from files: the same as those in memory, in the order of their rows."""

import gzip
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from numpyro.distributions import HalfNormal

from probmf import (
    Gaussian,
    MatrixFactorization,
    Ratings,
    fit_als,
    fit_map,
    fit_variational,
    memory,
    sample_gibbs,
)
from probmf.backend import use_backend
from probmf.data import open_files, row_files, sort_files, sort_parts
from probmf.rows.store import RowStore

TABLE = {
    "who": ["bob", "ann", "bob", "eve", "ann", "007", "eve"],
    "what": [9, 7, 7, 8, 9, 8, 7],
    "stars": [4.0, 3.5, 5.0, 1.0, 2.0, 3.0, 4.5],
    "w": [1.0, 2.0, 0.5, 0.0, 1.5, 1.0, 2.0],
    "at": [2**54 + 1, 3, 1, 5, 8, 7, 2],
}
ROLES: dict[str, Any] = {
    "user": "who", "item": "what", "rating": "stars", "weight": "w", "time": "at",
}  # fmt: skip


def write(path: Path, table: dict[str, Any] = TABLE) -> Path:
    pl.DataFrame(table).write_parquet(path)
    return path


def by_rows(ratings: Ratings) -> Ratings:
    return ratings.select(np.lexsort((ratings.item, ratings.user)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "ratings.parquet")


@pytest.fixture(params=["parquet", "folder", "csv"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Ratings]:
    """Files of ratings and the same in memory."""
    if request.param == "csv":
        path = tmp_path / "ratings.csv"
        pl.DataFrame(TABLE).write_csv(path)
        return path, Ratings.from_csv(path, **ROLES)
    if request.param == "parquet":
        path = write(tmp_path / "ratings.parquet")
        return path, Ratings.from_parquet(path, **ROLES)
    path = tmp_path / "ratings"
    path.mkdir()
    pl.DataFrame(TABLE)[:3].write_parquet(path / "a.parquet")
    pl.DataFrame(TABLE)[3:].write_parquet(path / "b.parquet")
    return path, Ratings.from_parquet(path, **ROLES)


def test_the_same_ratings_sorted(
    files: tuple[Path, Ratings], assert_same: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, in_memory = files
    assert_same(Ratings.open(path, **ROLES), by_rows(in_memory))
    # What is there is not made again, and is opened by its own name, too.
    monkeypatch.setattr(open_files, "sort_files", None)
    folder = path.with_name(path.name + ".sorted")
    assert_same(Ratings.open(path, **ROLES), by_rows(in_memory))
    assert_same(Ratings.open(folder), by_rows(in_memory))


def test_times_may_be_dates(tmp_path: Path, assert_same: Any) -> None:
    dates = (np.datetime64("2024-01-01") + np.arange(len(TABLE["at"]))).tolist()
    path = write(tmp_path / "ratings.parquet", TABLE | {"at": dates})
    assert_same(Ratings.open(path, **ROLES), by_rows(Ratings.from_parquet(path, **ROLES)))


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("policy", ["mean", "sum"])
def test_repeated_pairs(
    policy: Any, batch: int, tmp_path: Path, assert_same: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sort_files, "BATCH", batch)
    table = {name: [*values, *values[2:6], values[2]] for name, values in TABLE.items()}
    table["stars"][-1] = 1.25
    path = write(tmp_path / "ratings.parquet", table)
    wanted = Ratings.from_parquet(path, duplicates=policy, **ROLES)
    assert_same(Ratings.open(path, duplicates=policy, **ROLES), by_rows(wanted))
    with pytest.raises(ValueError, match=r"User '007' and item 8 occur together in several rows"):
        Ratings.open(path, folder=tmp_path / "other", **ROLES)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "ratings.parquet",
        "ratings.parquet.sorted",
    ]
    with pytest.raises(ValueError, match="'first'; expected 'error', 'mean' or 'sum'"):
        Ratings.open(path, duplicates="first")  # type: ignore[arg-type]


@pytest.mark.parametrize("unobserved_weight", [0.0, 0.25])
def test_a_fit_reads_the_files(
    unobserved_weight: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = TABLE | {"w": [1.0, 2.0, 0.5, 0.0, 1.5, 1.0, 2.0]}
    opened = Ratings.open(write(tmp_path / "ratings.parquet", table), **ROLES)
    in_memory = by_rows(Ratings.from_frame(table, **ROLES))
    model = MatrixFactorization(2, unobserved_weight=unobserved_weight)
    wanted = fit_als(model, in_memory, key=0, num_sweeps=3)
    monkeypatch.setattr("probmf.rows.store.sort_rows", None)  # Nothing is sorted in memory.
    found = fit_als(model, opened, key=0, num_sweeps=3)
    for site, values in wanted.samples.items():
        np.testing.assert_array_equal(found.samples[site], values)
    with pytest.raises(TypeError, match="not callable"):
        fit_als(model, opened.select(opened.rating > 1), key=0)


SPLITS: dict[str, Any] = {
    "split": {"key": 3, "test_fraction": 0.3},
    "split_within_users": {"key": 3, "test_fraction": 0.4},
    "hold_out_users": {"key": 3, "user_fraction": 0.5},
    "split_last": {"num_last": 2},
    "split_at": {"time": 30},
    "split_on": {"column": "rating", "test": [1.0, 4.0]},
}


@pytest.mark.parametrize("method", SPLITS)
@pytest.mark.parametrize("opened", [True, False])
def test_splits_into_folders_are_those_in_memory(
    method: str, opened: bool, tmp_path: Path, assert_same: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    user, item = np.nonzero(rng.random((9, 12)) < 0.5)
    rows = rng.permutation(len(user))
    table = {
        "who": user[rows], "what": item[rows], "stars": 1.0 + rows % 5, "w": (rows % 3) / 2,
        "at": rows * 7 % 60,
    }  # fmt: skip
    titles = {"what": np.arange(12), "title": [*"abcdefghijkl"]}
    path = write(tmp_path / "ratings.parquet", table)
    in_memory = by_rows(Ratings.from_frame(table, item_features=titles, **ROLES))
    wanted = getattr(in_memory, method)(**SPLITS[method])
    whole = Ratings.open(path, item_features=titles, **ROLES) if opened else in_memory
    monkeypatch.setattr(sort_parts, "BATCH", 7)
    monkeypatch.setattr("probmf.data.rating_table.BLOCK", 7)
    parts = getattr(whole, method)(folder=tmp_path / "parts", **SPLITS[method])
    for name, part, own in zip(("train", "test"), parts, wanted, strict=True):
        assert_same(part, own)
        assert_same(
            Ratings.open(
                tmp_path / "parts" / name, user="who", users=own.users, item_features=titles
            ),
            own,
        )
        for side in ("user", "item"):
            counts = own.weight > 0
            stored, sorted_here = part.rows[side], RowStore.of(
                *(getattr(own, column)[counts] for column in ("user", "item", "rating", "weight")),
                num_users=own.num_users, num_items=own.num_items,
            )[side]  # fmt: skip
            for column in ("start", "partner", "rating", "weight"):
                np.testing.assert_array_equal(
                    getattr(stored, column), getattr(sorted_here, column), err_msg=column
                )


def test_folds_in_folders_are_those_in_memory(path: Path, assert_same: Any) -> None:
    opened, folder = Ratings.open(path, **ROLES), path.parent / "folds"
    kept = opened.folds(key=0, num_folds=3, folder=folder)
    assert not folder.exists()
    for place, wanted in enumerate(opened.folds(key=0, num_folds=3)):
        for name, part, own in zip(("train", "test"), next(kept), wanted, strict=True):
            assert_same(part, own)
            assert part.rows is not None
            assert len(Ratings.open(folder / f"fold-{place}" / name)) == len(own)
    with pytest.raises(ValueError, match=r"fold-0/train holds a part of a split already\. Replace"):
        next(opened.folds(key=0, num_folds=3, folder=folder))


def test_splits_that_no_folder_can_keep(path: Path) -> None:
    kept = Ratings.from_parquet(path, keep=["at"], **ROLES | {"time": None})
    with pytest.raises(ValueError, match="keep the column 'at', which folders of sorted ratings"):
        kept.split(key=0, folder=path.parent / "parts")
    train, _ = Ratings.open(path, **ROLES).split(key=0, folder=path.parent / "parts")
    parts = path.parent / "parts"
    with pytest.raises(ValueError, match=r"parts/train, which the split would replace; name anot"):
        train.split(key=0, folder=parts, rebuild=True)
    assert len(Ratings.open(parts / "train")) == len(train)
    (parts / "test" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds 'thesis\.tex', which is no file of sorted rat"):
        Ratings.open(path, **ROLES).split(key=0, folder=parts, rebuild=True)
    (parts / "train" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds 'thesis\.tex', which is no file of sorted rat"):
        train.split(key=0, folder=path.parent / "parts")


def test_splits_replace_only_what_they_may(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = Ratings.open(path, **ROLES), path.parent / "parts"
    first = whole.split(key=0, folder=parts)
    with pytest.raises(ValueError, match=r"parts/train holds a part of a split already\. Replace"):
        whole.split(key=1, test_fraction=0.5, folder=parts)
    with pytest.raises(ValueError, match="give the path of the files instead, or rebuild=True to"):
        Ratings.open(parts / "train", rebuild=True)
    # All or nothing: the training part is written when the test part fails.
    real, made = sort_parts._write_part, []

    def full(*arguments: Any) -> None:
        made.append(1)
        if len(made) == 2:
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(sort_parts, "_write_part", full)
    with pytest.raises(OSError, match="No space left"):
        whole.split(key=1, test_fraction=0.5, folder=parts, rebuild=True)
    monkeypatch.undo()
    rename = Path.rename

    def kept_out(self: Path, target: Path) -> Path:
        if self.name.startswith(".test-") and not self.name.endswith("-before"):
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", kept_out)
    with pytest.raises(PermissionError):
        whole.split(key=1, test_fraction=0.5, folder=parts, rebuild=True)
    monkeypatch.undo()
    assert sorted(entry.name for entry in parts.iterdir()) == ["test", "train"]
    for name, part in zip(("train", "test"), first, strict=True):
        assert len(Ratings.open(parts / name)) == len(part)
    again, _ = whole.split(key=1, test_fraction=0.5, folder=parts, rebuild=True)
    assert len(Ratings.open(parts / "train")) == len(again) != len(first[0])
    (parts / "train" / "item.npy").unlink()
    with pytest.raises(
        ValueError, match="Make it again: the split that wrote it, with folder= and"
    ):
        Ratings.open(parts / "train")


def test_further_ids_and_side_tables(path: Path) -> None:
    train = Ratings.open(path, **ROLES)
    test = write(path.with_name("test.parquet"), {k: v[:2] for k, v in TABLE.items()})
    titles = {"what": [7, 8, 9], "title": ["A", "B", "C"]}
    opened = Ratings.open(test, users=train.users, items=train.items, item_features=titles, **ROLES)
    assert opened.num_users == 4
    assert opened.item_labels([2]) == ["C"]
    with pytest.raises(ValueError, match="was made with other ids than users="):
        Ratings.open(test, users=["ann", "bob", "cho"], **ROLES)
    with pytest.raises(ValueError, match=r"id 'bob', which is not among the 2 known users"):
        Ratings.open(test, users=["ann", "cho"], rebuild=True, **ROLES)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"stars": ["x"] * 7}, TypeError, "Column 'stars' must hold numbers, but is of type"),
        ({"stars": [1.0, None, *[2.0] * 5]}, ValueError, r"'stars' is missing in row 1 \(1 such"),
        ({"stars": [1.0, 2.0, np.inf, *[np.nan] * 4]}, ValueError, r"not finite in row 2 \(5 such"),
        ({"w": [1.0, 2.0, 0.0, -1.0, 1.0, 1.0, -2.0]}, ValueError, r"'w' is negative in row 3 \(2"),
        ({"at": [True, None, *[False] * 5]}, ValueError, "'at' is missing in row 1"),
        ({"who": ["a", "b", None, "c", None, "d", "e"]}, ValueError, "2 missing .*first in row 2"),
        ({"stars": [1e30] * 7}, ValueError, "divide it by a constant"),
    ],
)  # fmt: skip
def test_bad_columns(
    change: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        Ratings.open(write(tmp_path / "ratings.parquet", TABLE | change), **ROLES)


def test_bad_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="has no column 'user'"):
        Ratings.open(path)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        Ratings.open(path.with_name("none.parquet"), **ROLES)
    empty = path.with_name("empty")
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no Parquet file"):
        Ratings.open(empty, **ROLES)
    nothing = pl.DataFrame(TABLE)[:0]
    nothing.write_parquet(empty / "a.parquet")
    with pytest.raises(ValueError, match="has no rows"):
        Ratings.open(empty, **ROLES)
    write(empty / "a.parquet")
    write(empty / "b.parquet", TABLE | {"stars": ["1"] * 7})
    for way in (Ratings.open, Ratings.from_parquet):
        with pytest.raises(
            ValueError, match=r"'stars' is of type .*string.* in the file .*b.parquet, but"
        ):
            way(empty, **ROLES)
    (empty / "b.parquet").write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"file .*b\.parquet can't be read as Parquet: .*rupted"):
        Ratings.open(empty, **ROLES)
    (empty / "b.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"file .*b\.parquet is empty\. Write it again"):
        Ratings.open(empty, **ROLES)
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)
    (empty / "b.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"file .*b\.parquet can't be read: .* Correct it, or"):
        Ratings.open(empty, **ROLES)
    with pytest.raises(ValueError, match=r"empty could not be read as Parquet: .* Write it again"):
        Ratings.from_parquet(empty, **ROLES)
    broken = path.with_name("broken.parquet")
    broken.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="can't be read"):
        Ratings.open(broken, **ROLES)
    bad = path.with_name("bad.csv")
    bad.write_text("who,what,stars,w,at\na,1,2,1,1\nb,2,many,1,1\n")
    with pytest.raises(
        ValueError,
        match=r"bad\.csv can't be read: invalid value 'many' in column 'stars' in line 3",
    ):
        Ratings.open(bad, **ROLES)
    packed = path.with_name("bad.csv.gz")
    packed.write_bytes(gzip.compress(bad.read_bytes()))
    with pytest.raises(ValueError, match="invalid value 'many' in column 'stars' in line 3"):
        Ratings.open(packed, **ROLES)
    bad.write_text("who,what,stars,w,at\na,1,2,1,1\nb,2\n")
    with pytest.raises(ValueError, match="can't be read: line 3: Expected 5 columns, got 2: b,2"):
        Ratings.open(bad, **ROLES)


def test_numbers_may_be_whole_in_one_file_and_not_in_another(
    tmp_path: Path, assert_same: Any
) -> None:
    table = {"who": [1, 2], "what": ["a", "b"], "stars": [3, 4], "w": [1, 1], "at": [None, None]}
    narrow = {"who": pl.Int32, "w": pl.Int8}
    whole = pl.DataFrame(table, schema_overrides=narrow)
    folder = tmp_path / "days"
    folder.mkdir()
    whole.write_parquet(folder / "a.parquet")
    other = {
        "who": [2**40, 2],
        "what": ["c", "a"],
        "stars": [3.5, 1.0],
        "w": [0.5, 2],
        "at": [1, 2],
    }
    write(folder / "b.parquet", other)
    roles = ROLES | {"time": None}
    found = Ratings.from_parquet(folder, **roles)
    assert (found.rating.tolist(), found.users.ids[-1]) == ([3, 4, 3.5, 1], 2**40)
    assert_same(Ratings.open(folder, **roles), by_rows(found))
    with pytest.raises(ValueError, match="Column 'at' is missing in row 0"):
        Ratings.open(folder, rebuild=True, **ROLES)


@pytest.mark.parametrize("rows", [3, 300_000])
def test_quotes_that_are_not_closed(rows: int, tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("user,item,rating\na,1,2\n" + '"b,2,3\n' + "c,3,4\n" * rows)
    for way in (Ratings.open, Ratings.from_csv):
        with pytest.raises(
            ValueError, match=r'ratings\.csv .*: a quote \("\) that begins in line 3 is not closed'
        ):
            way(path)


@pytest.mark.parametrize("change", ["grown", "cut", "gone"])
def test_files_that_change_while_they_are_read(
    change: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = {"grown": "write", "cut": "encode", "gone": "deal_out"}[change]
    real, content = getattr(sort_files._Sort, step), path.read_bytes()

    def changed(*args: Any) -> Any:
        path.write_bytes(content + b"more" if change == "grown" else content[:100])
        if change == "gone":
            path.unlink()
        return real(*args)

    monkeypatch.setattr(sort_files._Sort, step, changed)
    with pytest.raises(ValueError, match="changed while it was read; wait until it is written"):
        Ratings.open(path, **ROLES)
    assert not path.with_name("ratings.parquet.sorted").exists()


def test_a_folder_that_does_not_fit(path: Path) -> None:
    Ratings.open(path, **ROLES)
    with pytest.raises(ValueError, match="was made from other options than are given now"):
        Ratings.open(path, **ROLES | {"weight": None})
    assert Ratings.open(path, rebuild=True, **ROLES | {"weight": None}).weight is None
    write(path, {name: values[:-1] for name, values in TABLE.items()})
    with pytest.raises(ValueError, match="was made from other files than"):
        Ratings.open(path, **ROLES | {"weight": None})
    assert len(Ratings.open(path, rebuild=True, **ROLES)) == 6


def test_another_way_to_write_the_path_is_the_same_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ratings.open(path, **ROLES)
    monkeypatch.chdir(path.parent)
    assert len(Ratings.open(path.name, **ROLES)) == 7
    with pytest.raises(ValueError, match="give the path of the files instead"):
        Ratings.open(f"{path.name}.sorted", rebuild=True)


def test_a_folder_of_sorted_ratings_knows_its_columns(path: Path) -> None:
    first = Ratings.open(path, **ROLES)
    folder = path.with_name(path.name + ".sorted")
    ages = {"who": ["ann", "bob", "eve", "007"], "age": [3, 1, 4, 2]}
    again = Ratings.open(folder, user_features=ages)
    assert again.users == first.users
    assert again.user_features is not None
    assert len(Ratings.open(folder, **ROLES)) == len(first)
    for option, value, made in (("rating", "grade", "'stars'"), ("duplicates", "sum", "'error'")):
        with pytest.raises(ValueError, match=rf"{option} is '{value}'.*{option}={made}"):
            Ratings.open(folder, **{option: value})  # type: ignore[arg-type]


def test_a_folder_that_was_changed(path: Path) -> None:
    folder = path.with_name("ratings.parquet.sorted")
    Ratings.open(path, **ROLES)
    manifest = folder / "manifest.json"
    stated = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(stated | {"format": 99}))
    with pytest.raises(ValueError, match="is of form 99; this version of probmf reads form 1"):
        Ratings.open(path, **ROLES)
    manifest.write_text("{")
    with pytest.raises(ValueError, match=r"holds no ratings that Ratings\.open made"):
        Ratings.open(folder)
    for files, words in (
        ({k: v for k, v in stated["files"].items() if k != "rating.npy"}, "not list rating.npy"),
        (stated["files"] | {"../spy": {}}, "lists '../spy'"),
    ):
        manifest.write_text(json.dumps(stated | {"files": files}))
        with pytest.raises(ValueError, match=rf"was changed: manifest\.json .*{words}\. Make it"):
            Ratings.open(path, **ROLES)
    manifest.write_text(json.dumps(stated))
    part = folder / "item_partner.npy"
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    with pytest.raises(ValueError, match=r"was changed: item_partner.npy has .* checksum"):
        Ratings.open(path, **ROLES)
    part.unlink()
    with pytest.raises(ValueError, match=r"lacks the file item_partner.npy. Make it again"):
        Ratings.open(path, **ROLES)


def test_a_folder_of_other_files_is_left_alone(path: Path) -> None:
    """The folder would be replaced, and the ratings may well lie in it."""
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"holds 'ratings.parquet', which is no file of sorted"):
        Ratings.open(path, folder=path.parent, **ROLES)
    with pytest.raises(ValueError, match="is a file, not a folder for sorted ratings"):
        Ratings.open(path, folder=path, **ROLES)
    folder = path.with_name("ratings.parquet.sorted")
    Ratings.open(path, **ROLES)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'notes.txt'"):
        Ratings.open(path, rebuild=True, **ROLES)
    assert (folder / "notes.txt").read_text() == "mine"
    assert path.read_bytes() == content


def test_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, values: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_files.ColumnFile, "append", full)
    with pytest.raises(OSError, match="No space left"):
        Ratings.open(path, **ROLES)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    monkeypatch.undo()
    resource = pytest.importorskip("resource", reason="only Unix has limits of files' sizes")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="ratings can't be sorted on disk, in"):
            Ratings.open(path, **ROLES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in path.parent.iterdir()] == [path.name]

    def forbidden(**_: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(row_files.tempfile, "mkdtemp", forbidden)
    with pytest.raises(OSError, match=r"sorted: Permission denied\. Name a folder elsewhere"):
        Ratings.open(path, **ROLES)


def test_what_a_killed_process_left_is_removed(path: Path) -> None:
    whole = Ratings.open(path, **ROLES)
    sorted_before = path.with_name("ratings.parquet.sorted")
    left, aside, foreign = (
        path.with_name(f".{sorted_before.name}-{end}")
        for end in ("abcdefgh", "12345678-before", "87654321")
    )
    for folder in (left, foreign):
        (folder / row_files.SPILLED).mkdir(parents=True)
    (foreign / "mine.txt").write_text("")
    sorted_before.rename(aside)
    Ratings.open(path, **ROLES)
    # The folder was not there, so that what was put aside was the only one.
    assert (left.exists(), aside.exists()) == (False, True)
    assert len(Ratings.open(path, rebuild=True, **ROLES)) == len(whole)
    assert (aside.exists(), foreign.exists()) == (False, True)


def test_little_memory(tmp_path: Path) -> None:
    rows = np.arange(300_000)
    path = write(
        tmp_path / "ratings.parquet", {"user": rows // 100, "item": rows % 100, "rating": rows % 5}
    )
    with pytest.raises(ValueError, match="memory_limit is 'much'; expected a text such as '2GB'"):
        Ratings.open(path, memory_limit="much")
    with pytest.raises(MemoryError, match="memory_limit='1MB' does not suffice"):
        Ratings.open(path, memory_limit="1MB")
    assert pq.read_metadata(path).num_rows == len(Ratings.open(path, memory_limit="200MB"))


def test_a_file_that_memory_does_not_hold(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 4 GiB for a hundred million ratings, each of them 60 bytes, in proportion.
    monkeypatch.setattr("probmf.memory.free_memory", lambda: 4 * 2**30 * len(TABLE["who"]) // 10**8)
    with pytest.raises(
        ValueError, match=r"has 7 rows, and to read them takes .* Ratings.open sorts"
    ):
        Ratings.from_parquet(path, **ROLES)
    monkeypatch.setattr("probmf.memory.free_memory", lambda: 10**6)
    assert len(Ratings.from_parquet(path, **ROLES)) == 7


@pytest.mark.parametrize(
    "method", [fit_als, sample_gibbs, fit_variational, partial(fit_map, num_epochs=1)]
)
def test_fits_that_do_not_fit_are_refused_before_they_start(
    path: Path, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, half = Ratings.open(path, user="who", item="what", rating="stars"), HalfNormal(1.0)
    model = MatrixFactorization(2, Gaussian(half), user_scale=half, item_scale=half)
    model = model if method in (sample_gibbs, fit_variational) else MatrixFactorization(2)
    monkeypatch.setattr("probmf.memory.free_memory", lambda: 200)
    words = r"A fit of \d+ ratings of \d+ items by \d+ users.* Lower num_factors or num_chains"
    with pytest.raises(ValueError, match=words) as told:
        method(model, opened, key=0)
    assert ("Ratings.open" in str(told.value)) == isinstance(method, partial)
    with use_backend("xla"), pytest.raises(ValueError, match=r"opened from files \(Ratings.open\)"):
        method(model, opened, key=0)


@pytest.mark.parametrize(("limit", "free"), [("max", 7_000), ("5000", 4_000), ("900", 0)])
def test_free_memory_is_that_of_the_container(
    limit: str, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("1000\n")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=7_000))
    assert memory.free_memory() == free
