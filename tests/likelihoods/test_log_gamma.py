"""The logarithm of the Gamma function beside SciPy's."""

import jax
import numpy as np
import pytest
from scipy import special

from probmf.likelihoods.log_gamma import log_beta, log_gamma, log_gamma_rest


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_log_gamma_and_its_slope_are_right_to_the_last_digits(kind: type) -> None:
    small, large = np.logspace(-30, -1, 60), np.logspace(2, 30, 60)
    x = np.concatenate([small, np.linspace(0.1, 40, 400), large]).astype(kind)
    with jax.enable_x64(True):
        found, slope = jax.jit(jax.vmap(jax.value_and_grad(log_gamma)))(x)
        rest = np.asarray(jax.jit(log_gamma_rest)(x))
        beta = np.asarray(jax.jit(log_beta)(x, x))
    assert found.dtype == kind
    few = 40 * np.finfo(kind).eps
    exact = x.astype(np.float64)
    np.testing.assert_allclose(found, special.gammaln(exact), rtol=few, atol=few)
    np.testing.assert_allclose(slope, special.digamma(exact), rtol=few, atol=few)
    below = exact[exact < 100.0]
    wanted = special.gammaln(below) - below * np.log(below) + below
    np.testing.assert_allclose(rest[: len(below)], wanted, rtol=few, atol=10 * few)
    np.testing.assert_allclose(rest[-1], 0.5 * np.log(2 * np.pi / exact[-1]), rtol=few)
    np.testing.assert_allclose(beta, special.betaln(exact, exact), rtol=10 * few, atol=10 * few)
