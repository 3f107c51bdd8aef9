"""Rows dealt out to devices: the same fits, less memory on each, and bytes by a formula."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import toys
from jax.sharding import Mesh

from probmf import (
    Gaussian,
    MatrixFactorization,
    MixedEffects,
    Network,
    fit_als,
    fit_map,
    fit_variational,
    sample_gibbs,
    sample_nuts,
)
from probmf.rows.placement import row_mesh

COUNTS, SOME = (1, 2, 4, 8), (2, 8)


def answers(**asked: tuple[int, ...]) -> dict[str, Any]:
    """Answers of `on_devices`, to each question for no devices named, and for so many."""
    flags = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    done = subprocess.run(
        [sys.executable, "on_devices.py", json.dumps(asked)], capture_output=True, text=True,
        check=False, cwd=Path(__file__).parent, env=os.environ | flags,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What every suite asks, of one process."""
    return answers(rows=SOME, held=(1,), chains=(2, 4), integrated=(8,), lists=(3,))


@pytest.fixture(scope="module")
def rows(told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = told["rows"]
    return found


@pytest.mark.parametrize("count", SOME)
def test_rows_are_solved_and_drawn_as_on_one_device(rows: dict[str, Any], count: int) -> None:
    assert len(rows["None"]) == 8
    for name, wanted in rows["None"].items():
        got = rows[str(count)][name]
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-10, err_msg=name)


@pytest.mark.slow
def test_fits_and_draws_are_those_of_one_device() -> None:
    found = answers(fits=COUNTS)["fits"]
    for count in COUNTS:
        for name, wanted in found["None"].items():
            got = np.array(found[str(count)][name])
            np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-9, err_msg=name)


@pytest.mark.slow
def test_other_methods_agree_on_eight_devices() -> None:
    found = answers(others=(8,))["others"]
    for count, calls in (("None", []), ("8", ["deal_rows", "share_slots"])):
        assert found[count].pop("calls") == calls
        assert found[count].pop("dealt") == (3 if calls else 0)
    assert len(found["None"]) == 12
    for name, wanted in found["None"].items():
        got = np.array(found["8"][name])
        np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-9, err_msg=name)


def test_chains_run_on_devices_of_their_own(told: dict[str, Any]) -> None:
    """Three chains."""
    found = told["chains"]
    assert {count: found[count]["places"] for count in found} == {"None": 1, "2": 2, "4": 3}
    for count in ("2", "4"):
        np.testing.assert_array_equal(found[count]["draws"], found["None"]["draws"])


def test_rows_are_integrated_out_as_on_one_device(told: dict[str, Any]) -> None:
    plain, shared = told["integrated"].values()
    for side, others, scales in (("user", 50, 1), ("item", 66, 50)):
        # Double precision: a level and three factors, and density, noise and scale of the biases.
        assert shared.pop(f"{side}, summed") == 8 * (others * (1 + 3) + 3 + scales)
    assert shared.keys() == plain.keys()
    for name, wanted in plain.items():
        np.testing.assert_allclose(shared[name], wanted, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.slow
def test_chains_of_rows_in_shards_are_those_of_one_device() -> None:
    plain, shared = answers(sampled=(8,))["sampled"].values()
    assert plain.keys() == shared.keys()
    for name, wanted in plain.items():
        np.testing.assert_allclose(shared[name], wanted, rtol=1e-6, atol=1e-6, err_msg=name)


def test_lists_of_many_users_are_those_of_one_device(told: dict[str, Any]) -> None:
    """Three devices: the last block is not full, and a part of it is empty."""
    plain, shared = told["lists"].values()
    assert plain.pop("places") == [1]
    assert shared.pop("places") == [3]
    assert shared.pop("calls") < plain.pop("calls")
    for name, wanted in plain.items():
        assert shared[name]["code"] == wanted["code"], name
        np.testing.assert_allclose(shared[name]["score"], wanted["score"], rtol=1e-10)


@pytest.mark.parametrize("count", SOME)
def test_ratings_are_dealt_out_evenly(told: dict[str, Any], count: int) -> None:
    one, found = told["held"]["1"], told["rows"][str(count)]
    (whole,) = one["bytes"]
    # A part of a bucket may end in empty lines.
    assert len(set(found["bytes"])) == 1
    assert whole / count <= found["bytes"][0] < 1.25 * whole / count
    assert sum(found["ratings"]) == one["ratings"][0]
    assert max(found["ratings"]) < 1.2 * min(found["ratings"])


@pytest.mark.parametrize("count", SOME)
def test_collectives_move_what_the_docs_say(rows: dict[str, Any], count: int) -> None:
    """Double precision, a bias and three factors."""
    for side, lines in rows[str(count)]["lines"].items():
        assert rows[str(count)][f"{side} gathered"] == 8 * (count * lines * (3 + 1) + 3)


def test_one_device_by_any_name_is_the_same() -> None:
    model, (device, *_) = MatrixFactorization(2, Gaussian(0.5)), jax.devices()
    for devices in (1, [device], Mesh(np.array([[device]]), ("chain", "row"))):
        assert row_mesh(devices).shape["row"] == 1
    fit = fit_als(model, toys.ratings(), key=0, num_sweeps=3, devices=[device])
    plain = fit_als(model, toys.ratings(), key=0, num_sweeps=3)
    for name, value in plain.point().items():
        # Loops and programs round differently, and single precision carries that on.
        np.testing.assert_allclose(fit.point()[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("devices", "error", "expected"),
    [
        (99, ValueError, r"devices is 99, but JAX sees \d+ \(cpu\); give a number from 1 to"),
        (0, ValueError, "devices is 0, but"),
        (True, TypeError, "devices is True; expected a number"),
        ("two", TypeError, "devices is 'two'; expected a number"),
        ([], TypeError, r"devices is \[\]; expected a number"),
        (2 * jax.devices()[:1], ValueError, "names a device more than once"),
        (Mesh(np.array(jax.devices()[:1]), ("x",)), ValueError, r"axes \('x',\); rows are dealt"),
    ],
)
def test_devices_that_are_none(devices: Any, error: type[Exception], expected: str) -> None:
    for fit in (fit_als, fit_variational, partial(fit_map, num_epochs=1), sample_gibbs):
        with pytest.raises(error, match=expected):
            fit(MatrixFactorization(1), toys.ratings(), key=0, devices=devices)


def test_lists_and_chains_without_work_for_devices() -> None:
    table = toys.ratings()
    fit = fit_als(MatrixFactorization(1), table, key=0, num_sweeps=1)
    with pytest.raises(ValueError, match="devices is 99, but JAX sees"):
        fit.recommend(devices=99)
    for axis in ("x", "row"):
        mesh = Mesh(np.array(jax.devices()[:1]), (axis,))
        with pytest.raises(
            ValueError, match=f"'{axis}',\\); chains are dealt out along an axis nam"
        ):
            sample_nuts(MatrixFactorization(1), table, key=0, devices=mesh)
    drawn = replace(fit, samples={n: np.repeat(x, 2, axis=1) for n, x in fit.samples.items()})
    with pytest.raises(ValueError, match="rank_by='lower' sorts or picks the draws"):
        drawn.recommend(rank_by="lower", devices=1)


def test_devices_of_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fit_als(MatrixFactorization(1), toys.ratings(), key=0, num_sweeps=1)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    for call, words in (
        (
            partial(fit_als, fit.model, fit.data, key=0),
            "None of the 1 devices belongs to process 1",
        ),
        (
            partial(sample_nuts, fit.model, fit.data, key=0),
            "process 0, and chains run on devices of",
        ),
        (fit.recommend, r"users are shared between devices of the process that calls\. Give some"),
    ):
        with pytest.raises(ValueError, match=words):
            call(devices=1)


def test_other_models_take_no_devices() -> None:
    with pytest.raises(ValueError, match="devices is for factorizations"):
        sample_gibbs(MixedEffects("y ~ x + (1 | g)"), toys.mixed(), key=0, devices=1)
    with pytest.raises(ValueError, match="devices is for factorizations"):
        fit_map(Network(), None, key=0, num_epochs=1, devices=1)  # type: ignore[call-overload]
