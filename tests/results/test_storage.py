"""Fits on disk: back bit for bit, or a message that says what is wrong."""

import json
import os
import pickle
import stat
import uuid
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pyarrow as pa
import pytest
from safetensors import SafetensorError

from probmf import Bernoulli, Gaussian, MatrixFactorization, Ratings, load, shards
from probmf.results import History, RatingsFit, Sampling, directory
from probmf.results.storage import Parts, decode

ARRAYS = "arrays.0.safetensors"

IDS: dict[str, Any] = {
    "integers": [2**40, -3, 7],
    "large unsigned": np.array([2**63 + 5, 1, 2**64 - 1], np.uint64),
    "text": ["ann", "é ", ""],
    "uuids": [uuid.UUID(int=2**127), uuid.UUID(int=5), uuid.UUID(int=0)],
    "bytes": [b"\x00", b"b", b""],
    "seconds": np.array(["2020-01-01", "1969-01-01", "2021-06-01"], "datetime64[s]"),
    "nanoseconds": np.array([1, 2, 3], "datetime64[ns]"),
    "days": np.array(["2020-01-01", "1969-01-01", "2021-06-01"], "datetime64[D]"),
    "durations": np.array([1, 2, 3], "timedelta64[ms]"),
}


def everything(users: Any = IDS["text"], items: Any = IDS["integers"]) -> Ratings:
    """Three ratings with all that a table can have."""
    return Ratings.from_frame(
        {
            "user": users,
            "item": items,
            "rating": [0.1, 1e-300, 3.0],
            "weight": [1.0, 0.0, 2.5],
            "time": np.array(["2020-01-01", "2021-01-01", "2019-01-01"], "datetime64[s]"),
            "fold": np.array([1, 2, 3], np.int8),
            "column/note": ["x", None, "z"],
            "flag": [True, False, True],
            "part": [0.5, np.nan, np.inf],
        },
        weight="weight", time="time", keep=["fold", "column/note", "flag", "part"],
        user_features={"user": users, "age": [1, None, 3], "tags": [["a"], [], ["b", "c"]]},
        item_features=pa.table({"item": pa.array(items), "kind": pa.array(["u", "v", "u"])
                                .dictionary_encode()}),
    )  # fmt: skip


def assert_same(left: RatingsFit, right: RatingsFit) -> None:
    for name, value in left.samples.items():
        np.testing.assert_array_equal(value, right.samples[name])
        assert value.dtype == right.samples[name].dtype
    assert set(left.samples) == set(right.samples)
    assert left.method == right.method
    ours, theirs = left.data, right.data
    assert (ours.users, ours.items) == (theirs.users, theirs.items)
    assert ours.users.ids.dtype == theirs.users.ids.dtype
    for name in ("user", "item", "rating", "weight", "time"):
        first, second = getattr(ours, name), getattr(theirs, name)
        assert (first is None) == (second is None)
        if first is not None:
            np.testing.assert_array_equal(first, second)
            assert first.dtype == second.dtype
    assert list(ours.columns) == list(theirs.columns)
    for name, column in ours.columns.items():
        assert column.dtype == theirs.columns[name].dtype
        # NumPy does not take NaN for equal among objects.
        assert [*map(repr, column)] == [*map(repr, theirs.columns[name])]
    for name in ("user_features", "item_features"):
        assert (getattr(ours, name) is None) == (getattr(theirs, name) is None)
        if getattr(ours, name) is not None:
            # Parquet counts time in milliseconds where a table did in seconds.
            there = getattr(theirs, name).cast(getattr(ours, name).schema)
            assert there.equals(getattr(ours, name))
    pairs = left.data
    for interval in (None, 0.9):
        first, second = (fit.predict(pairs, interval=interval) for fit in (left, right))
        for name in ("mean", "sd", "lower", "upper", "known_user", "known_item"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def assert_same_model(left: MatrixFactorization, right: MatrixFactorization) -> None:
    for field in fields(left):
        first, second = getattr(left, field.name), getattr(right, field.name)
        if isinstance(first, dist.Normal):
            assert (float(first.loc), float(first.scale)) == (
                float(second.loc),
                float(second.scale),
            )
        else:
            assert isinstance(first, str) == isinstance(second, str)
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_all_kinds(kind: str, random_fit: Any, tmp_path: Path) -> None:
    for data in (everything(users=IDS[kind]), everything(items=IDS[kind])):
        fit = random_fit(MatrixFactorization(2, Gaussian(0.1)), data)
        fit.save(tmp_path / "fit")
        assert_same(fit, load(tmp_path / "fit"))


@pytest.mark.parametrize(
    "model",
    [
        MatrixFactorization(1, Gaussian(1 / 3), intercept="mean", unobserved_weight=0.1),
        MatrixFactorization(2, Bernoulli("probit"), intercept="learned", item_bias=False),
        MatrixFactorization(0, Bernoulli(), intercept=-1 / 7, user_bias_scale=0.1),
        MatrixFactorization(2, intercept=None, user_scale=np.array([0.1, 1 / 3, 7.0]),
                            item_bias_scale=np.float32(0.7), item_scale=np.array([1, 2, 3])),
        MatrixFactorization(np.int64(1), intercept=dist.Normal(0.25, 3.0), user_bias=False),
    ],
    ids=["weak zeros", "probit", "biases only", "scales by row", "Normal intercept"],
)  # fmt: skip
def test_models_of_all_kinds(model: MatrixFactorization, random_fit: Any, tmp_path: Path) -> None:
    table = {"user": [1, 2, 3], "item": ["a", "b", "c"], "rating": [0.0, 1.0, 1.0]}
    fit = random_fit(model, Ratings.from_frame(table))
    fit.save(tmp_path / "fit")
    loaded = load(tmp_path / "fit")
    assert_same(fit, loaded)
    assert_same_model(fit.model, loaded.model)
    assert loaded.history is None


@pytest.mark.parametrize("steps", [0, 3])
def test_history(steps: int, random_fit: Any, tmp_path: Path) -> None:
    history = History(
        objective=np.array([3.0, np.inf, 1 / 3])[:steps], validation=None,
        seconds=np.array([0.1, 0.2, 0.3])[:steps], best=steps, stopped="tol", unit="epoch",
        restarts=np.arange(6.0).reshape(2, 3)[:, :steps],
    )  # fmt: skip
    fit = random_fit(MatrixFactorization(1), everything())
    fit = RatingsFit(fit.model, fit.data, fit.samples, "map/adam", history)
    fit.save(tmp_path / "fit")
    loaded = load(tmp_path / "fit").history
    assert loaded is not None
    for field in fields(history):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(history, field.name))
    assert repr(load(tmp_path / "fit")) == repr(fit)


def test_float64_and_several_draws(random_fit: Any, tmp_path: Path) -> None:
    fit = random_fit(MatrixFactorization(2), everything(), dtype=np.float64)
    draws = {name: np.repeat(np.repeat(v, 2, 0), 3, 1) for name, v in fit.samples.items()}
    RatingsFit(fit.model, fit.data, draws, "gibbs").save(tmp_path / "fit")
    loaded = load(tmp_path / "fit")
    assert loaded.samples["user_factors"].shape == (2, 3, 3, 2)
    assert loaded.samples["user_factors"].dtype == np.float64


def test_saving_again_replaces(random_fit: Any, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "fit"
    first = random_fit(MatrixFactorization(1), everything(), seed=1)
    second = random_fit(MatrixFactorization(2), everything(items=["a", "b", "c"]), seed=2)
    first.save(path)
    assert path.stat().st_mode & 0o777 == path.parent.stat().st_mode & 0o777
    second.save(str(path))
    assert_same(second, load(path))
    path.mkdir(exist_ok=True)
    assert [file.name for file in path.parent.iterdir()] == ["fit"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_mode_that_the_umask_leaves(
    random_fit: Any, tmp_path: Path, umask: int
) -> None:
    fit = random_fit(MatrixFactorization(1), everything())
    old = os.umask(umask)
    try:
        fit.save(tmp_path / "fit")
        fit.save(tmp_path / "fit")
    finally:
        os.umask(old)
    files = list((tmp_path / "fit").iterdir())
    assert {file.name for file in files} >= {ARRAYS, directory.MANIFEST}
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "fit").stat().st_mode) == 0o777 & ~umask


def test_a_failed_save_leaves_the_old_fit(
    random_fit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fit"
    old = random_fit(MatrixFactorization(1), everything())
    old.save(path)
    odd = Ratings.from_frame({"user": [(1, 2)], "item": [1], "rating": [1.0]})
    with pytest.raises(ValueError, match="The user ids are tuples, such as"):
        random_fit(MatrixFactorization(1), odd).save(path)

    def full(*args: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        old.save(path)
    rename = Path.rename
    monkeypatch.undo()
    monkeypatch.setattr(
        Path, "rename",
        lambda own, to: full() if own.name.startswith(".fit-") and not own.name.endswith("old")
        else rename(own, to),
    )  # fmt: skip
    with pytest.raises(OSError, match="No space left"):
        old.save(path)
    assert_same(old, load(path))
    assert [file.name for file in tmp_path.iterdir()] == ["fit"]


def test_a_full_disk_is_an_error_of_the_system(
    random_fit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(OSError, match=r"arrays\.0\.safetensors can't be written: .*No space"):
        random_fit(MatrixFactorization(1), everything()).save(tmp_path / "fit")
    assert not list(tmp_path.iterdir())


def test_a_save_that_was_killed_between_two_renames(saved: Path) -> None:
    left = saved.with_name(".fit-123-old")
    saved.rename(left)
    with pytest.raises(FileNotFoundError, match=r"cut off has left .*-123-old; re"):
        load(saved)
    left.rename(saved)
    load(saved)


def test_fits_of_earlier_formats_are_replaced(random_fit: Any, saved: Path) -> None:
    """They had other files, which their manifest lists; no file beside these is lost."""
    earlier = {"format": directory.FORMAT, "version": 4, "sha256": {"arrays.safetensors": "0"}}
    (saved / directory.MANIFEST).write_text(json.dumps(earlier))
    (saved / "arrays.safetensors").write_text("")
    (saved / "ratings.parquet").write_text("mine")
    fit = random_fit(MatrixFactorization(2), everything())
    with pytest.raises(FileExistsError, match=r"more than a saved fit \(ratings\.parquet\)"):
        fit.save(saved)
    (saved / "ratings.parquet").unlink()
    fit.save(saved)
    assert_same(fit, load(saved))
    assert not (saved / "arrays.safetensors").exists()


def test_a_folder_named_like_a_partition(random_fit: Any, tmp_path: Path) -> None:
    fit = random_fit(MatrixFactorization(1), everything())
    fit.save(tmp_path / "user=7" / "fold=1")
    assert_same(fit, load(tmp_path / "user=7" / "fold=1"))


def test_an_empty_directory_will_do(random_fit: Any, tmp_path: Path) -> None:
    fit = random_fit(MatrixFactorization(1), everything())
    fit.save(tmp_path)
    assert_same(fit, load(tmp_path))
    fit.save(tmp_path, shared=True)  # A process alone is all processes.
    assert_same(fit, load(tmp_path))


def test_nothing_else_is_written_over(random_fit: Any, tmp_path: Path) -> None:
    fit = random_fit(MatrixFactorization(1), everything())
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(FileExistsError, match="is a file; give the path of a directory"):
        fit.save(file)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is not a saved fit \(it has no fit.json"):
        fit.save(foreign)
    (foreign / "fit.json").write_text('{"weight": 80}')
    with pytest.raises(FileExistsError, match="is not a saved fit"):
        fit.save(foreign)
    fit.save(tmp_path / "fit")
    (tmp_path / "fit" / "plot.png").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds more than a saved fit \(plot.png\), which"):
        fit.save(tmp_path / "fit")
    assert (foreign / "thesis.tex").read_text() == file.read_text() == "mine"
    (tmp_path / "fit" / "plot.png").unlink()
    (tmp_path / "fit" / "fit.json").write_text('{"format": ')
    fit.save(tmp_path / "fit")
    assert_same(fit, load(tmp_path / "fit"))


@pytest.fixture
def saved(random_fit: Any, tmp_path: Path) -> Path:
    random_fit(MatrixFactorization(1), everything()).save(tmp_path / "fit")
    return tmp_path / "fit"


@pytest.mark.parametrize("file", sorted({ARRAYS, *directory.FILES}))
def test_truncated_altered_and_missing_files(saved: Path, file: str) -> None:
    whole = (saved / file).read_bytes()
    for wrong in (whole[:-20], b"", whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]):
        (saved / file).write_bytes(wrong)
        with pytest.raises(ValueError, match=f"{file} is truncated or was altered"):
            load(saved)
    (saved / file).unlink()
    with pytest.raises(ValueError, match=f"lacks the file {file}"):
        load(saved)


def test_truncated_manifest(saved: Path) -> None:
    text = (saved / "fit.json").read_text()
    for wrong in (text[:100], "", "\x00"):
        (saved / "fit.json").write_text(wrong)
        with pytest.raises(ValueError, match=r"fit\.json is truncated or not JSON"):
            load(saved)
    (saved / "fit.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"fit\.json is truncated or not JSON"):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "was not written by probmf"),
        ({"version": 99}, "format version 99, this probmf reads 6; load it with the version"),
        ({"kind": "Other"}, "does not hold what its fit.json says"),
        ({"fields": {}}, "does not hold what its fit.json says"),
        ({"fields": {"model": {"kind": "Popen", "fields": {}}}}, "what its fit.json says"),
        ({"fields": {"model": {"array": "nowhere"}}}, "does not hold what its fit.json says"),
        ({"arrays": {}}, r"fit\.json is not as it was written .*Save the fit again"),
        ({"arrays": {"shapes": {}, "shards": []}}, "does not hold what its fit.json says"),
        ({"files": [{"file": directory.COLUMNS}]}, r"fit\.json is not as it was written"),
        ({"files": 3}, r"fit\.json is not as it was written"),
        ({"files": ["x"]}, r"fit\.json is not as it was written"),
        ({"fields": []}, r"fit\.json is not as it was written"),
        ({"kind": []}, r"fit\.json is not as it was written"),
    ],
)
def test_other_manifests(saved: Path, change: dict[str, Any], message: str) -> None:
    manifest = json.loads((saved / "fit.json").read_text())
    (saved / "fit.json").write_text(json.dumps(manifest | change))
    with pytest.raises(ValueError, match=message):
        load(saved)


def test_no_file_outside_is_read(saved: Path) -> None:
    manifest = json.loads((saved / "fit.json").read_text())
    manifest["files"].append({"file": "../secret"})
    (saved / "fit.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="lists other files than a fit has"):
        load(saved)
    del manifest["fields"], manifest["files"][-1]
    (saved / "fit.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="lacks fields"):
        load(saved)


def test_what_is_no_fit(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no saved fit at"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"is not a saved fit: it has no fit\.json"):
        load(tmp_path)


class Bomb:
    """Goes off when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("A pickle was loaded.",))


def test_a_pickle_is_never_opened(saved: Path, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb())
    (tmp_path / "fit.pkl").write_bytes(bomb)
    with pytest.raises(ValueError, match=r"is a file; a saved fit is a directory that fit\.save"):
        load(tmp_path / "fit.pkl")
    manifest = json.loads((saved / "fit.json").read_text())
    for told in (*manifest["files"], *manifest["arrays"]["shards"]):
        file, before = saved / told["file"], dict(told)
        whole = file.read_bytes()
        file.write_bytes(bomb)
        told |= shards.facts(file)
        (saved / "fit.json").write_text(json.dumps(manifest))
        with pytest.raises(ValueError, match=r"hold what its fit\.json says|holds no arrays"):
            load(saved)
        file.write_bytes(whole)
        told |= before
    (saved / "fit.json").write_bytes(bomb)
    with pytest.raises(ValueError, match="truncated or not JSON"):
        load(saved)


@pytest.mark.parametrize(
    ("ids", "kind"),
    [([(1, "a"), (2, "b")], "tuples"), ([frozenset("a"), frozenset("b")], "frozenset objects"),
     ([2**70, 1], "integers")],
)  # fmt: skip
def test_ids_without_a_file_form(ids: Any, kind: str, random_fit: Any, tmp_path: Path) -> None:
    data = Ratings.from_frame({"user": ids, "item": [1, 2], "rating": [1.0, 2.0]})
    message = f"The user ids are {kind}, such as .*Make them integers, text or UUIDs"
    with pytest.raises(ValueError, match=message):
        random_fit(MatrixFactorization(1), data).save(tmp_path / "fit")
    assert not list(tmp_path.iterdir())


def test_columns_without_a_file_form(random_fit: Any, tmp_path: Path) -> None:
    data = everything()
    for odd, message in (
        ([(1, 2), (3, 4), (5, 6)], r"Column 'odd' of the data has no .*\(row 0 holds \(1, 2\)"),
        ([1, "a", None], "Column 'odd' of the data has no file form that reads back the same"),
    ):
        column = np.empty(3, dtype=object)
        column[:] = odd
        fit = random_fit(MatrixFactorization(1), replace(data, columns={"odd": column}))
        with pytest.raises(ValueError, match=message):
            fit.save(tmp_path / "fit")


def sampled(model: MatrixFactorization, random_fit: Any, **info: Any) -> RatingsFit:
    fit = random_fit(model, everything())
    draws = {name: np.repeat(np.repeat(v, 2, 0), 3, 1) for name, v in fit.samples.items()}
    scales = {name: np.arange(1.0, 7.0).reshape(2, 3) for name in model.random_scales()}
    stats = {"diverging": np.eye(2, 3) > 0, "energy": np.arange(6.0).reshape(2, 3)}
    sampling = Sampling(stats, 7, 0.25, complete=False, info=info)
    return RatingsFit(model, fit.data, draws | scales, "nuts", sampling=sampling)


@pytest.mark.parametrize(
    "law",
    [dist.HalfNormal(1 / 3), dist.InverseGamma(2, 0.1), dist.LogNormal(0.0, np.float32(0.3)),
     dist.Gamma(2.0, 3.0), dist.StudentT(4.0, 0.0, 1.0)],
)  # fmt: skip
def test_sampled_scales(law: Any, random_fit: Any, tmp_path: Path) -> None:
    model = MatrixFactorization(1, Gaussian(law), user_scale=law)
    sampled(model, random_fit).save(tmp_path / "fit")
    loaded = load(tmp_path / "fit")
    assert_same(sampled(model, random_fit), loaded)
    assert isinstance(loaded.model.likelihood, Gaussian)
    for back in (loaded.model.user_scale, loaded.model.likelihood.noise_scale):
        assert type(back) is type(law)
        assert back.log_prob(0.7) == law.log_prob(0.7)


def test_an_expanded_law(random_fit: Any, tmp_path: Path) -> None:
    law = dist.HalfNormal(1 / 3).expand((1, 2))
    fit = random_fit(MatrixFactorization(2, user_scale=law), everything())
    samples = {**fit.samples, "user_scale": np.full((1, 1, 1, 2), 0.5)}
    RatingsFit(fit.model, fit.data, samples, "made").save(tmp_path / "fit")
    back: Any = load(tmp_path / "fit").model.user_scale
    assert (back.batch_shape, back.base_dist.scale) == ((1, 2), 1 / 3)


def test_how_sampling_went(random_fit: Any, tmp_path: Path) -> None:
    fit = sampled(MatrixFactorization(1), random_fit, k_hat=np.inf, num_densities=7, how="x")
    fit.save(tmp_path / "fit")
    loaded = load(tmp_path / "fit").sampling
    assert fit.sampling is not None
    assert loaded is not None
    for name, value in fit.sampling.stats.items():
        np.testing.assert_array_equal(loaded.stats[name], value)
        assert loaded.stats[name].dtype == value.dtype
    assert (loaded.num_warmup, loaded.seconds, loaded.complete) == (7, 0.25, False)
    assert dict(loaded.info) == {"k_hat": np.inf, "num_densities": 7, "how": "x"}


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (dist.TruncatedNormal(0.0, 1.0, low=0.0), "user_scale, a LeftTruncatedDistribution, has"),
        (type("HalfNormal", (dist.HalfNormal,), {})(1.0), "a HalfNormal, has no file form"),
    ],
)
def test_laws_without_a_file_form(law: Any, message: str, random_fit: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        sampled(MatrixFactorization(1, user_scale=law), random_fit).save(tmp_path / "fit")
    assert not (tmp_path / "fit").exists()


def test_other_things_are_no_laws() -> None:
    with pytest.raises(ValueError, match="'os' is no distribution"):
        decode({"law": "os", "arguments": {}}, {}, Parts())
