"""Operations of programs, against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from probmf.inference.operation_count import (
    EACH,
    FUSED_GAIN,
    MATRIX_GAIN,
    count_operations,
    gradient_operations,
)
from probmf.inference.potential import Potential


def count(function: object, *shapes: tuple[int, ...]) -> float:
    return count_operations(jax.make_jaxpr(function)(*map(np.zeros, shapes)).jaxpr)


def test_each_kind() -> None:
    assert count(jnp.exp, (10, 12)) == EACH + 120 / FUSED_GAIN
    assert count(jnp.matmul, (20, 30), (30, 40)) == EACH + 20 * 30 * 40 / MATRIX_GAIN
    assert count(lambda x: x[np.array([1, 1, 2, 2, 3])], (100, 1)) >= EACH + 100
    root = count(lambda x: jax.lax.linalg.cholesky(x, symmetrize_input=False), (90, 90))
    assert root >= EACH + 90**3 / 3 / MATRIX_GAIN
    assert count(lambda x: x.reshape(20).T, (4, 5)) == 0


def test_programs_within_programs() -> None:
    one = count(jnp.exp, (50,))

    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, _: (jnp.exp(y), None), x, length=7)[0]

    assert count(loop, (50,)) == 7 * one
    assert count(jax.jit(jnp.exp), (50,)) == one

    def either(x: jax.Array) -> jax.Array:
        return jax.lax.cond(x[0] > 0, jnp.exp, lambda y: jnp.exp(jnp.exp(y)), x)

    assert count(either, (50,)) >= 2 * one


@pytest.mark.parametrize("rows", [1000, 2000])
def test_of_a_density_by_its_rows(rows: int) -> None:
    def model(x: np.ndarray) -> None:
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=x)

    least, most = (gradient_operations(Potential(model, (np.ones(n),), {})) for n in (1, rows))
    # A dozen operations on every row, and no more.
    assert rows < most - least < 20 * rows / FUSED_GAIN
