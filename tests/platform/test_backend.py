"""XLA's programs do everything that loops for a CPU do, and run where there are none."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import toys

from probmf import (
    Gaussian,
    MatrixFactorization,
    MixedEffects,
    fit_als,
    fit_marginal,
    sample_gibbs,
)
from probmf.backend import HAS_NUMBA, platform, use_backend, uses_loops
from probmf.inference.marginal import marginalize
from probmf.inference.marginal.host_density import HostDensity
from probmf.rows.blocks import RowBlocks
from probmf.rows.cpu import RowLists
from probmf.rows.sweep import lay_out


def estimates() -> tuple[bool, bool, list[float]]:
    """Point estimates of a factorization and of a mixed model; if Numba is there, and its loops."""
    rows = fit_als(MatrixFactorization(2, Gaussian(0.5)), toys.ratings(), key=0, num_sweeps=5)
    mixed = fit_marginal(MixedEffects("y ~ x + (1 | g) + (1 | h)"), toys.mixed())
    numbers = [*rows.point()["user_factors"].ravel().tolist(), float(mixed.point()["noise_scale"])]
    return HAS_NUMBA, uses_loops(), numbers


def test_without_numba_the_estimates_are_the_same() -> None:
    installed, loops, found = estimates()
    assert (installed, loops) == (True, True)
    here = Path(__file__).parent
    script = (
        "import json, sys; sys.modules['numba'] = None; "
        f"sys.path[:0] = {[str(here), str(here.parent)]!r}; "
        "from test_backend import estimates; print(json.dumps(estimates()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    installed, loops, without = json.loads(done.stdout)
    assert (installed, loops) == (False, False)
    np.testing.assert_allclose(without, found, rtol=1e-3, atol=1e-4)


def test_the_choice_holds_within_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MatrixFactorization(2).arguments(toys.ratings())[0].by_row()
    model = MixedEffects("y ~ x + (1 | g) + (1 | h)")
    design = model.design(toys.mixed())
    prepared = marginalize(model, model.effect_sites(design)).prepare(*model.arguments(design))
    assert isinstance(lay_out(store, Gaussian(1.0), "cg", num_columns=16, num_tables=1), RowLists)
    assert HostDensity.serves(prepared)
    with use_backend("xla"):
        assert isinstance(
            lay_out(store, Gaussian(1.0), "cg", num_columns=16, num_tables=1), RowBlocks
        )
        assert not HostDensity.serves(prepared)
        with use_backend("auto"):
            assert uses_loops()
    assert uses_loops()
    monkeypatch.setenv("PROBMF_BACKEND", "xla")
    assert not uses_loops()


def test_the_platform_is_that_of_the_device_arrays_go_to() -> None:
    assert platform() == "cpu"
    with jax.default_device(jax.devices("cpu")[0]):
        assert platform() == "cpu"
    with jax.default_device("cpu"):
        assert platform() == "cpu"


def test_an_unknown_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = pytest.raises(ValueError, match="The backend is 'gpu'; expected 'auto' or 'xla'")
    with refusal, use_backend("gpu"):  # type: ignore[arg-type]
        pass
    monkeypatch.setenv("PROBMF_BACKEND", "numba")
    with pytest.raises(ValueError, match="PROBMF_BACKEND is 'numba'; expected 'auto' or 'xla'"):
        uses_loops()


def test_a_run_goes_on_with_the_backend_it_was_begun_with(tmp_path: Path) -> None:
    model = MatrixFactorization(2, Gaussian(0.5))
    short: dict[str, Any] = {"num_warmup": 2, "num_samples": 4, "num_chains": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Four draws are few, and say so.
        sample_gibbs(model, toys.ratings(), key=0, checkpoint=tmp_path / "run", **short)
    with use_backend("xla"), pytest.raises(ValueError, match="holds another run"):
        sample_gibbs(model, toys.ratings(), key=0, checkpoint=tmp_path / "run", **short)


@pytest.mark.slow
def test_the_contract_holds_without_numba() -> None:
    source = (
        "import sys; sys.modules['numba'] = None; import pytest; "
        "sys.exit(pytest.main(['test_contract.py', '-q', '-p', 'no:cacheprovider']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False,
        cwd=Path(toys.__file__).parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
