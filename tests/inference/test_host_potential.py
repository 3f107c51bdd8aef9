"""The evidence by LAPACK inside a compiled sampler, and starts at the mode with few transitions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats
from lapack_designs import FORMULA, density_of, table, use_lapack

from probmf import MixedEffects, sample_nuts
from probmf.inference.marginal.density import MarginalDensity
from probmf.inference.marginal.host_potential import HostPotential
from probmf.inference.nuts import nuts as nuts_module
from probmf.run import driver

SIMPLE = "y ~ 1 + x + (1 | g)"


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small designs go by LAPACK as large ones do."""
    use_lapack(monkeypatch)


@pytest.mark.parametrize("float64", [True, False])
def test_value_and_gradient_are_those_of_the_other_program(float64: bool, large: None) -> None:
    with jax.enable_x64(float64):
        density = density_of(MixedEffects(FORMULA), table())
        assert density.host is not None
        own = HostPotential(density)
        vector = jnp.asarray(np.random.default_rng(0).normal(-0.5, 0.3, density.num_dims))
        got, slopes = jax.jit(jax.value_and_grad(own.log_density))(vector)
        want, gradient = density.value_and_grad(vector)
        apart = own.value_and_grad(vector)
    close = {"rtol": 1e-9, "atol": 1e-9} if float64 else {"rtol": 1e-4, "atol": 1e-2}
    np.testing.assert_allclose(got, want, **close)
    np.testing.assert_allclose(slopes, gradient, **close)
    for one, other in zip(apart, (want, gradient), strict=True):
        np.testing.assert_allclose(one, other, **close)


def test_it_is_the_same_for_the_same_data_only(large: None) -> None:
    with jax.enable_x64(True):
        trees = [
            jax.tree.structure(HostPotential(density_of(MixedEffects(FORMULA), table(seed))))
            for seed in (1, 1, 2)
        ]
    assert trees[0] == trees[1]
    assert hash(trees[0]) == hash(trees[1])
    assert trees[0] != trees[2]


def run(formula: str = FORMULA, **options: Any) -> Any:
    settings = {"key": 0, "num_warmup": 20, "num_samples": 20, "num_chains": 2, "progress": False}
    return sample_nuts(MixedEffects(formula), table(), marginalize="all", **{**settings, **options})


def test_chains_go_by_lapack_where_the_design_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the chains move on is what was compared above; their draws are a long test's."""

    def begin(target: Any, potential: Any, *_: Any) -> None:
        raise RuntimeError(type(potential).__name__)

    monkeypatch.setattr(nuts_module, "_start", begin)
    with pytest.raises(RuntimeError, match=f"^{MarginalDensity.__name__}$"):
        run(SIMPLE)
    use_lapack(monkeypatch)
    with pytest.raises(RuntimeError, match=f"^{HostPotential.__name__}$"):
        run(SIMPLE)


@pytest.mark.slow
def test_chains_are_those_of_the_other_program(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def noted(density: Any) -> Any:
        made.append(density)
        return HostPotential(density)

    monkeypatch.setattr(nuts_module, "HostPotential", noted)
    plain = run(SIMPLE)
    assert not made
    use_lapack(monkeypatch)
    ours = run(SIMPLE)
    assert len(made) == 1
    for name, value in plain.samples.items():
        np.testing.assert_allclose(ours.samples[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_interrupted_and_resumed_bit_for_bit(
    tmp_path: Any, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(num_samples=120)
    advance = driver._Loop.advance

    def stop(self: Any, each: Any) -> str:
        if self.run.num_pieces:
            raise KeyboardInterrupt
        return advance(self, each)

    with monkeypatch.context() as patch:
        patch.setattr(driver._Loop, "advance", stop)
        with pytest.warns(UserWarning, match="incomplete"):
            part = run(num_samples=120, checkpoint=tmp_path / "kept")
    assert part.num_draws == 50
    resumed = run(num_samples=120, checkpoint=tmp_path / "kept")
    for name, value in whole.samples.items():
        np.testing.assert_array_equal(resumed.samples[name], value)


@pytest.mark.slow
def test_a_short_warmup_is_enough_from_the_mode() -> None:
    fit = run(SIMPLE, num_warmup=30, num_samples=300, recover=False)
    assert not fit.sampling.stats["diverging"].any()
    # The mass matrix of the mode is kept: few steps, and draws that hardly depend on the last.
    assert fit.sampling.stats["n_steps"].mean() <= 12
    for name in ("g_scale", "noise_scale"):
        draws = fit.samples[name].reshape(2, 300)
        assert array_stats.ess(draws, chain_axis=0, draw_axis=1, method="bulk") > 300
