"""Draws by inversion: the exact distribution function at the draws is what was asked for."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate
import scipy.optimize
import scipy.stats

from probmf.effects import inversion
from probmf.effects.inversion import draw_by_inversion, find_ends


class Density(NamedTuple):
    """exp(slope eta - rate e^eta - answers log(1 + e^eta) - v^2 / 2), eta = offset + scale v.

    With the mode of v, its sd by the curvature there, and the largest error allowed.
    """

    slope: float
    rate: float
    answers: float
    offset: float
    scale: float
    error: float

    def log(self, v: np.ndarray) -> np.ndarray:
        eta = self.offset + self.scale * v
        rows = self.slope * eta - self.rate * np.exp(eta) - self.answers * np.logaddexp(0.0, eta)
        return rows - 0.5 * v**2

    def mode(self) -> tuple[float, float]:
        def look(v: float) -> tuple[float, float]:
            eta = self.offset + self.scale * v
            rate, chance = self.rate * np.exp(eta), 1.0 / (1.0 + np.exp(-eta))
            slope = self.scale * (self.slope - rate - self.answers * chance) - v
            bend = rate + self.answers * chance * (1.0 - chance)
            return slope, 1.0 + self.scale**2 * bend

        ends = [max(-60.0, -40.0 / self.scale), min(60.0, 40.0 / self.scale)]
        mode = scipy.optimize.brentq(lambda v: look(v)[0], *ends, xtol=1e-13)
        return mode, float(1.0 / np.sqrt(look(mode)[1]))


#: Counts of 0 to 10,000, and one to five answers, with narrow to very wide priors.
DENSITIES = [
    Density(0, 0, 0, 0.0, 1.0, 3e-6),
    *(Density(0, 1, 0, 0.5, scale, 1e-5) for scale in (0.1, 0.7, 2.0)),
    *(Density(3, 1, 0, 0.5, scale, 1e-5) for scale in (0.1, 0.7, 2.0)),
    Density(3, 1, 0, 0.5, 20.0, 5e-5),
    *(Density(10_000, 1, 0, 0.5, scale, 5e-6) for scale in (0.7, 2.0, 20.0)),
    *(Density(1, 0, 1, 0.3, scale, 6e-6) for scale in (0.1, 1.0)),
    *(Density(2, 0, 5, 0.3, scale, 3e-5) for scale in (0.1, 1.0, 5.0)),
    # All of what is seen says one thing, and the prior hardly says how much.
    *(Density(0, 1, 0, 0.5, scale, 5e-4) for scale in (5.0, 20.0)),
    *(Density(4, 0, 4, 0.3, scale, 8e-4) for scale in (5.0, 20.0)),
]


@pytest.fixture(autouse=True)
def in_double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def test_distribution_functions_at_draws() -> None:
    u = np.concatenate([[1e-5, 1e-3], (np.arange(998) + 0.5) / 998])
    modes, sds = np.array([one.mode() for one in DENSITIES]).T
    own = [np.repeat(np.array(part, float), len(u)) for part in zip(*DENSITIES, strict=True)]
    slope, rate, answers, offset, scale, _ = (jnp.asarray(part) for part in own)
    mode, sd = (jnp.asarray(np.repeat(part, len(u))) for part in (modes, sds))

    def log_density(x: jax.Array) -> jax.Array:
        v = mode + sd * x
        eta = offset + scale * v
        rows = slope * eta - rate * jnp.exp(eta) - answers * jnp.logaddexp(0.0, eta)
        return rows - 0.5 * v**2

    uniform = jnp.asarray(np.tile(u, len(DENSITIES)))
    drawn = np.asarray(jax.jit(lambda u: draw_by_inversion(log_density, u))(uniform))
    for one, m, s, x in zip(DENSITIES, modes, sds, drawn.reshape(-1, len(u)), strict=True):
        v = m + s * np.linspace(-30.0, 30.0, 60_001)
        with np.errstate(over="ignore", under="ignore"):
            density = np.exp(one.log(v) - one.log(np.array(m)))
        below = scipy.interpolate.CubicSpline(v, density).antiderivative()
        found = below(m + s * x) / below(v[-1])
        assert np.max(np.abs(found - u)) < one.error, one


def test_a_density_that_breaks_off_is_drawn_up_to_its_end() -> None:
    def log_density(x: jax.Array) -> jax.Array:
        return jnp.where(x < 1.0, -0.5 * jnp.square(x), -jnp.inf)

    u = jnp.asarray((np.arange(400) + 0.5) / 400)
    drawn = np.asarray(jax.jit(lambda u: draw_by_inversion(log_density, u))(u))
    exact = scipy.stats.truncnorm(-np.inf, 1.0).cdf(drawn)
    np.testing.assert_allclose(exact, u, atol=1e-5)


def test_blocks_and_first_guesses_of_the_ends_change_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    u = jnp.asarray(np.random.default_rng(0).random(25))
    skew = jnp.linspace(-0.4, 0.4, 25)

    def log_density(x: jax.Array) -> jax.Array:
        return -jnp.expm1(skew * x) * 2.0 - 0.5 * jnp.square(x) + 2.0 * skew * x

    def drawn(*given: Any) -> Any:
        return jax.jit(lambda *at: draw_by_inversion(log_density, *at))(u, *given)

    whole = drawn()
    monkeypatch.setattr(inversion, "BLOCK", 8)
    np.testing.assert_allclose(drawn(), whole, atol=2e-5)
    near = jnp.stack([jnp.linspace(0.01, 9.0, 25), jnp.linspace(300.0, 4.0, 25)])
    np.testing.assert_allclose(drawn(near), whole, atol=1e-4)
    # Those that will do are looked at once.
    ends = find_ends(log_density, log_density(jnp.zeros_like(u)))
    np.testing.assert_allclose(drawn(ends), drawn(), atol=2e-5)
