"""Second calls trace no model and compile nothing: data and numbers of priors are arguments."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from lapack_designs import table
from rings import slow

from probmf import (
    Gaussian,
    MatrixFactorization,
    MixedEffects,
    Ratings,
    fit_laplace,
    fit_marginal,
    fit_svi,
    sample_marginal,
    sample_nuts,
)
from probmf.inference.marginal_rows import RowsMarginal
from probmf.models.factorization_program import FactorizationProgram
from probmf.models.mixed.program import MixedProgram

FEW: dict[str, Any] = {"num_warmup": 5, "num_samples": 5, "num_chains": 1, "max_tree_depth": 3}


def mixed(seed: int) -> tuple[MixedEffects, dict[str, np.ndarray]]:
    prior = dist.HalfNormal(1.0 + seed)
    return MixedEffects("y ~ 1 + x + (1 | g)", priors={"g_scale": prior}), table(1) | {
        "y": table(seed)["y"]
    }


def ratings(seed: int) -> tuple[MatrixFactorization, Ratings]:
    prior = dist.HalfNormal(1.0 + seed)
    user, item = np.divmod(np.arange(48), 6)
    found = {"user": user, "item": item, "rating": np.random.default_rng(seed).normal(size=48)}
    model = MatrixFactorization(1, Gaussian(prior), user_scale=0.5 + seed)
    return model, Ratings.from_frame(found)


CALLS: dict[str, Callable[[int], Any]] = {
    "sample_nuts of a mixed model": lambda seed: sample_nuts(
        *mixed(seed), key=seed, marginalize="all", **FEW
    ),
    "sample_marginal": lambda seed: sample_marginal(*mixed(seed), key=seed, num_samples=50),
    "fit_marginal": lambda seed: fit_marginal(*mixed(seed)),
    "fit_laplace": lambda seed: fit_laplace(
        *mixed(seed), key=seed, num_samples=50, marginalize="all"
    ),
    "fit_svi": lambda seed: fit_svi(*ratings(seed), key=seed, num_steps=30, num_samples=10),
    "sample_nuts of a factorization": lambda seed: sample_nuts(*ratings(seed), key=seed, **FEW),
    "sample_nuts without its users": lambda seed: sample_nuts(
        *ratings(seed), key=seed, marginalize=("user_bias", "user_factors"), **FEW
    ),
}


@pytest.fixture
def log_compiles() -> Iterator[None]:
    """For all threads: `jax.log_compiles` is for the calling one, and others compile most."""
    jax.config.update("jax_log_compiles", True)
    yield
    jax.config.update("jax_log_compiles", False)


@pytest.mark.usefixtures("log_compiles")
@pytest.mark.filterwarnings("ignore::probmf.diagnostics.DiagnosticWarning")
@pytest.mark.filterwarnings("ignore:The bound still rose")
@pytest.mark.parametrize("name", slow(CALLS, "sample_nuts of a factorization"))
def test_other_data_of_the_same_shapes_trace_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs = []
    for kind in (MixedProgram, FactorizationProgram, RowsMarginal):
        run: Any = kind.__call__

        def counted(self: Any, *args: Any, run: Any = run) -> Any:
            if isinstance(jnp.zeros(()), jax.core.Tracer):
                runs.append(self)
            return run(self, *args)

        monkeypatch.setattr(kind, "__call__", counted)
    CALLS[name](1)
    assert runs
    runs.clear()
    with caplog.at_level(logging.WARNING, logger="jax"):
        caplog.clear()
        CALLS[name](2)
        assert "Compiling" not in caplog.text
        jax.jit(lambda x: x)(1.0)
        assert "Compiling" in caplog.text
    assert not runs
