"""Gradient fits that are killed, interrupted or run out of disk, and go on bit for bit."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from killed import kill_after_writes, run_whole
from probmf.run.state_arrays import restore, stored

from probmf import Fit, Gaussian, MatrixFactorization, Ratings, fit_map
from probmf.inference.point.full_batch import FullBatch
from probmf.inference.point.minibatch import Minibatch
from probmf.run import driver as loop
from probmf.run.checkpoint import Checkpoint
from probmf.run.driver import FitWarning


def ratings(seed: int = 0) -> Ratings:
    rng = np.random.default_rng(seed)
    user, item = np.nonzero(rng.random((12, 9)) < 0.7)
    return Ratings.from_frame({"user": user, "item": item, "rating": rng.normal(3, 1, len(user))})


MODEL = MatrixFactorization(2, Gaussian(0.7))
ADAM = optax.inject_hyperparams(optax.adam)
KINDS: dict[str, dict[str, Any]] = {
    "full": {"num_restarts": 2, "optimizer": ADAM(0.03), "tol": 0.0},
    "mini": {"num_restarts": 2, "batch_size": 16},
}


def fit(kind: str, num_epochs: int = 12, **options: Any) -> Fit:
    train, test = ratings().split(key=0, test_fraction=0.2)
    given = {"validation": test, "patience": num_epochs} if kind == "mini" else {}
    settings: dict[str, Any] = {"key": 3, **KINDS[kind], **given, **options}
    return fit_map(settings.pop("model", MODEL), train, num_epochs=num_epochs, **settings)


def curves(found: Fit) -> dict[str, np.ndarray]:
    assert found.history is not None
    assert found.history.restarts is not None
    kept = {"objective": found.history.objective, "restarts": found.history.restarts}
    if found.history.validation is not None:
        kept["validation"] = found.history.validation
    return {**kept, **found.samples, "best": np.asarray(found.history.best)}


def assert_same(one: Fit, other: Fit) -> None:
    left, right = curves(one), curves(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_and_on_again(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(kind)
    owner = FullBatch if kind == "full" else Minibatch
    real, calls = owner.step, []

    def sometimes(self: Any, key: Any, state: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(self, key, state)

    monkeypatch.setattr(loop, "WRITE_EVERY", 0.0)
    monkeypatch.setattr(owner, "step", sometimes)
    with pytest.warns(FitWarning, match="Interrupted after 5 epochs"):
        part = fit(kind, checkpoint=tmp_path / "run")
    assert part.history is not None
    assert len(part.history) == 5
    assert_same(whole, fit(kind, checkpoint=tmp_path / "run"))
    steps = len(calls)
    # What is done is not done again.
    assert_same(whole, fit(kind, checkpoint=tmp_path / "run"))
    assert steps == len(calls) == 13


def test_a_killed_fit_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """SIGKILL in the middle, from outside."""
    script = f"""
        sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parent)]!r}
        import numpy as np, probmf.run.driver as loop
        from test_map_checkpoint import curves, fit
        loop.WRITE_EVERY = 0.0
        for kind in sys.argv[2:]:
            found = fit(kind, 150, checkpoint=f"{{sys.argv[1]}}-{{kind}}")
            np.savez(f"{{sys.argv[1]}}-{{kind}}.npz", **curves(found))
        """
    killed = tmp_path / "killed"
    for kind in KINDS:
        kill_after_writes(3, script, str(killed), kind)
        assert not Path(f"{killed}-{kind}.npz").exists()
    run_whole(script, str(killed), *KINDS)
    for kind in KINDS:
        whole = curves(fit(kind, 150))
        with np.load(f"{killed}-{kind}.npz") as found:
            assert set(found.files) == set(whole)
            for name in found.files:
                np.testing.assert_array_equal(found[name], whole[name], err_msg=name)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls, last = Checkpoint.write, [], 3

    def full(self: Checkpoint, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) > last:
            raise OSError(28, "No space left on device")
        real(self, *arguments)

    monkeypatch.setattr(loop, "WRITE_EVERY", 0.0)
    monkeypatch.setattr(Checkpoint, "write", full)
    with pytest.warns(FitWarning, match=r"can't be written \(.*No space left.*after 3 epochs"):
        part = fit("mini", checkpoint=tmp_path / "run")
    assert part.history is not None
    assert part.history.stopped == "interrupted"
    last = 0
    with pytest.raises(ValueError, match=r"checkpoint='.*new' can't be written: .*No space left"):
        fit("mini", checkpoint=tmp_path / "new")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="can't be made a directory"):
        fit("mini", checkpoint=tmp_path / "file")


def test_other_runs_and_versions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit("full", 3, checkpoint=tmp_path / "run")
    changes: list[dict[str, Any]] = [
        {"key": 4}, {"num_restarts": 3}, {"tol": 0.1}, {"optimizer": ADAM(0.031)},
        {"optimizer": optax.adam(0.03)},
        {"optimizer": optax.sgd(0.03)}, {"optimizer": None, "learning_rate": 0.03},
        {"model": MatrixFactorization(2, Gaussian(0.8))}, {"num_epochs": 4},
        {"validation": ratings()}, {"model": MatrixFactorization(2, Gaussian(0.7), 3.0)},
        {"batch_size": 20},
    ]  # fmt: skip
    for change in changes:
        arguments = {"num_epochs": 3} | change
        with pytest.raises(ValueError, match="holds another run"):
            fit("full", checkpoint=tmp_path / "run", **arguments)
    real = __import__("importlib").metadata.version
    monkeypatch.setattr(
        "importlib.metadata.version", lambda name: "0.0" if name == "optax" else real(name)
    )
    with pytest.raises(ValueError, match=r"was written with optax .*; now optax 0\.0 runs"):
        fit("full", 3, checkpoint=tmp_path / "run")


def test_states_of_all_kinds() -> None:
    state = {
        "count": 3, "name": np.asarray("tol"), "key": jax.random.key(1), "curve": np.zeros(0),
        "value": jnp.asarray([1.0, 2.0]),
    }  # fmt: skip
    later = state | {"count": 5, "curve": np.arange(4.0)}
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(stored(later))]
    found = restore(state, leaves)
    assert (found["count"], str(found["name"])) == (5, "tol")
    np.testing.assert_array_equal(found["curve"], np.arange(4.0))
    np.testing.assert_array_equal(found["value"], state["value"])
    assert bool(jnp.all(jax.random.key_data(found["key"]) == jax.random.key_data(state["key"])))
    with pytest.raises(ValueError, match="holds 4 arrays, and the run has 5"):
        restore(state, leaves[1:])
