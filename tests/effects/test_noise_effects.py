"""Effects in the noise, those of the mean integrated out, against dense algebra and sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from probmf.effects.noise_effects import NoiseGroups
from probmf.effects.pattern import Grouping, make_pattern
from probmf.effects.quadrature import held_integrals

GROUP = np.array([0, 1, 2, 0, 1, 0, 2, 1, 0, 1, 2, 2, 0])
SIZE = 3


def groups_of(dim: int, mean_dim: int = 2) -> NoiseGroups:
    """Single rows in three groups."""
    rng = np.random.default_rng(dim)
    rows = len(GROUP)
    arrays = (
        rng.normal(size=rows), rng.normal(-0.3, 0.2, rows), np.ones(rows), np.zeros(rows),
    )  # fmt: skip
    pattern = make_pattern([Grouping("g", GROUP, SIZE, dim)])
    columns = rng.normal(0, 0.7, (rows, mean_dim)), rng.normal(0, 0.5, (rows, dim))
    return NoiseGroups(*map(jnp.asarray, arrays), pattern, *map(jnp.asarray, columns))


def dense(groups: NoiseGroups, effects: np.ndarray) -> np.ndarray:
    """The integrand by the rows' joint Normal; of arrays of NumPy's nothing is compiled."""
    groups, found = jax.tree.map(np.asarray, groups), []
    for g, own in enumerate(effects):
        rows = np.equal(GROUP, g)
        scale = np.exp(groups.log_scale[rows] + groups.columns[rows] @ own)
        z = groups.mean_columns[rows]
        law = multivariate_normal(np.zeros(rows.sum()), z @ z.T + np.diag(scale**2))
        found.append(law.logpdf(groups.residual[rows]) - 0.5 * own @ own)
    return np.array(found)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_integrand_and_its_slope(dim: int) -> None:
    with jax.enable_x64(True):
        groups = groups_of(dim)
        effects = np.random.default_rng(5).normal(0, 0.6, (SIZE, dim))
        look = jax.tree.map(np.asarray, jax.jit(NoiseGroups.look)(groups, effects))
        want = dense(groups, effects)
        np.testing.assert_allclose(
            jax.jit(NoiseGroups.log_joint)(groups, effects), want, rtol=1e-10
        )
        np.testing.assert_allclose(look.joint, want, rtol=1e-10)
        for at in np.ndindex(SIZE, dim):
            move = np.zeros((SIZE, dim))
            move[at] = 1e-5
            slope = (dense(groups, effects + move) - dense(groups, effects - move)).sum() / 2e-5
            assert float(look.slope[at]) == pytest.approx(slope, abs=1e-7)
        total = jax.jit(jax.hessian(lambda e: jnp.sum(groups.log_joint(e))))(effects)
    bend = -np.array([np.asarray(total)[g, :, g] for g in range(SIZE)])
    # A step by a precision that is too large is too short, never too long.
    assert np.all(np.linalg.eigvalsh(look.precision - bend) > -1e-9)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_integral(dim: int) -> None:
    line = np.linspace(-7, 7, 141)
    grid = np.stack(np.meshgrid(*[line] * dim, indexing="ij"), -1).reshape(-1, dim)
    with jax.enable_x64(True):
        groups = groups_of(dim)
        found, _ = jax.jit(held_integrals, static_argnums=1)(groups, {1: 41, 2: 21}[dim])
        each = jax.jit(jax.vmap(lambda s: groups.log_joint(jnp.broadcast_to(s, (SIZE, dim)))))
        logs = np.asarray(each(grid)) - dim * 0.5 * np.log(2 * np.pi)
    want = np.logaddexp.reduce(logs, axis=0) + dim * np.log(line[1] - line[0])
    np.testing.assert_allclose(found, want, atol=2e-5)


def test_rows_may_stand_for_several() -> None:
    """A mean of three rows with their sum of squares says what the three say."""
    with jax.enable_x64(True):
        one = groups_of(1)
        values = np.array([0.3, -0.4, 1.3])
        joined = one._replace(
            residual=one.residual.at[4].set(values.mean()),
            number=one.number.at[4].set(3.0),
            within=one.within.at[4].set(float(np.sum((values - values.mean()) ** 2))),
        )
        effects = np.random.default_rng(1).normal(size=(SIZE, 1))
        got = float(joined.log_joint(jnp.asarray(effects))[GROUP[4]])
        one = jax.tree.map(np.asarray, one)
        z = one.mean_columns
        own = np.flatnonzero(np.equal(GROUP, GROUP[4]))
        rows = np.concatenate([own[own != 4], [4, 4, 4]])
        residual = np.concatenate([one.residual[own[own != 4]], values])
        scales = np.exp(one.log_scale[rows] + one.columns[rows] @ effects[GROUP[4]])
        law = multivariate_normal(np.zeros(len(rows)), z[rows] @ z[rows].T + np.diag(scales**2))
        want = law.logpdf(residual) - 0.5 * float(effects[GROUP[4], 0]) ** 2
        assert got == pytest.approx(want, rel=1e-10)


def test_without_effects_of_the_mean() -> None:
    """A column of zeros stands for none."""
    with jax.enable_x64(True):
        groups = groups_of(1)._replace(mean_columns=jnp.zeros((len(GROUP), 1)))
        effects = jnp.asarray([[0.2], [-0.5], [1.0]])
        scale = np.exp(groups.log_scale + (groups.columns * effects[GROUP]).sum(1))
        rows = norm.logpdf(groups.residual, 0, scale)
        want = np.bincount(GROUP, rows) - 0.5 * np.asarray(effects)[:, 0] ** 2
        np.testing.assert_allclose(groups.log_joint(effects), want, rtol=1e-10)
