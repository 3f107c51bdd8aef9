"""How effects enter is found by what can be zero, never by what is small."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from exact_normal import exact, exact_log_density
from numpyro.infer.util import log_density

from probmf.inference.marginal import marginalize
from probmf.inference.marginal.injection import MarginalizeError

plate, sample, normal = numpyro.plate, numpyro.sample, dist.Normal
ROWS, SIGMA = 60, 0.5
_rng = np.random.default_rng(1)
g, h = _rng.integers(0, 10, ROWS), _rng.integers(0, 6, ROWS)
y = 3 * _rng.normal(size=ROWS)
one_hot, other_hot = np.eye(10)[g], np.eye(10)[h]

Model = Callable[[], None]


def density(model: Model, sites: Any, **latents: Any) -> float:
    with jax.enable_x64(True):
        return float(log_density(marginalize(model, sites), (), {}, latents)[0])


def dense(*parts: tuple[Any, Any]) -> float:
    """Log density of N(0, sum Z diag(scale^2) Z^T + noise), for pairs (Z, scale)."""
    halves = [exact(design) * exact(np.broadcast_to(s, len(design.T))) for design, s in parts]
    return exact_log_density(exact(y), exact(0 * y), exact(SIGMA + 0 * y), halves)


def groups(name: str = "u", size: int = 10, scale: Any = 1.0) -> Any:
    with plate(f"{name}_groups", size):
        return sample(name, normal(0.0, scale))


def observe(loc: Any) -> None:
    with plate("rows", ROWS):
        sample("y", normal(loc, SIGMA), obs=y.copy())


SCALES = [1e-9, 1e-5, 1.0, 1e5, 1e9]


@pytest.mark.parametrize("scale", SCALES)
def test_no_column_is_too_small_beside_another(scale: float) -> None:
    """A column in other units, with its prior, is the same column."""
    columns = np.column_stack([np.ones(ROWS), _column(), np.cos(np.arange(ROWS))])
    unit = np.array([1.0, scale, 1.0])

    def model() -> None:
        beta = sample("beta", normal(0.0, np.array([10.0, 3.0, 2.0]) / unit))
        observe((columns * unit) @ beta + groups()[g])

    expected = dense((columns, [10.0, 3.0, 2.0]), (one_hot, 1.0))
    assert density(model, ["beta", "u"]) == pytest.approx(expected, rel=1e-10)


def _column() -> np.ndarray:
    return np.asarray(np.random.default_rng(2).uniform(0.2, 1.0, ROWS))


def test_a_matrix_of_columns_far_apart() -> None:
    """Every row has one column a million times the others."""
    size = np.array([10.0, 1e-5])
    columns = np.column_stack([np.ones(ROWS), np.random.default_rng(3).uniform(2e6, 1e7, ROWS)])

    def model() -> None:
        beta = sample("beta", normal(0.0, size))
        observe(columns @ beta + groups()[g])

    expected = dense((columns, size), (one_hot, 1.0))
    assert density(model, ["beta", "u"]) == pytest.approx(expected, rel=1e-9)


def test_slopes_of_any_size_from_row_to_row() -> None:
    slope = 10.0 ** np.random.default_rng(4).uniform(-14, 14, ROWS)
    slope[::7] = 0.0

    def model() -> None:
        observe(groups(size=10, scale=1e-6)[g] * slope + groups("v", 6)[h])

    expected = dense((one_hot * slope[:, None], 1e-6), (np.eye(6)[h], 1.0))
    assert density(model, ["u", "v"]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("share", [1e-3, 1e-9, 1e-15])
def test_a_second_group_of_a_row_counts_however_small_its_share(share: float) -> None:
    """Ten groups are kept as one block, as many as 300 are refused."""

    def model(size: int) -> None:
        u = groups(size=size, scale=2.0 / share)
        observe(share * u[g] + 1.5 * share**2 * u[h])

    expected = dense((one_hot + 1.5 * share * other_hot, 2.0))
    assert density(lambda: model(10), "u") == pytest.approx(expected, rel=1e-9)
    with pytest.raises(MarginalizeError, match=r"rows of 'y' involve two or more .* 'u', .*300"):
        density(lambda: model(300), "u")


def test_exact_cancellation_is_no_second_group() -> None:
    """Contrasts that take a row's own group out again."""

    def model() -> None:
        u = groups(size=300)
        observe(u[g] + (u[h] - u[h]))

    assert density(model, "u") == pytest.approx(dense((one_hot, 1.0)), rel=1e-10)


def latent(size: int) -> Any:
    return sample("v", normal(0.0, 1.0).expand([size]).to_event(1))


def logprior(values: Any) -> float:
    return float(np.sum(scipy.stats.norm.logpdf(values)))


VALUES = np.array([0.7, -0.4, 1.1, -2.0, 0.3, 0.9])


def hinge() -> None:
    """Zero at many latent values."""
    observe(jax.nn.relu(latent(6) - 0.5)[h] * groups(size=300)[g])


def one_hot_times_latent() -> None:
    matrix = np.eye(300)[g] * np.arange(ROWS)[:, None]
    observe((matrix * latent(6)[h][:, None]) @ groups(size=300))


def chosen() -> None:
    observe(jnp.where(latent(6)[h] > 0, groups(size=300)[g], 0.0))


def covariate_times_latent() -> None:
    """A covariate that is zero in some rows."""
    observe(groups(size=300)[g] * (np.arange(ROWS) % 3) * latent(6)[h])


def decay_in_a_loop() -> None:
    """A function of a latent value, and a choice by it, at each step of a loop."""
    u, v = groups(size=300), jnp.asarray(latent(6))

    def step(total: Any, row: Any) -> Any:
        group, other = row
        chosen = jnp.where(v[0] > other, 1.0, 2.0)
        return jnp.tanh(v[1]) * total, jnp.exp(-v[other]) * chosen * u[group]

    observe(jax.lax.scan(step, 1.0, (g, h))[1])


ONE_GROUP: dict[str, tuple[Model, Callable[[np.ndarray], np.ndarray]]] = {
    "hinge": (hinge, lambda v: np.maximum(v - 0.5, 0)[h]),
    "one-hot": (one_hot_times_latent, lambda v: np.arange(ROWS) * v[h]),
    "chosen": (chosen, lambda v: 1.0 * (v > 0)[h]),
    "loop": (decay_in_a_loop, lambda v: (np.exp(-v) * np.where(v[0] > np.arange(6), 1.0, 2.0))[h]),
    "covariate": (covariate_times_latent, lambda v: (np.arange(ROWS) % 3) * v[h]),
}


@pytest.mark.parametrize("name", ONE_GROUP)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_groups_hold_at_all_latent_values(name: str, sign: float) -> None:
    model, factor = ONE_GROUP[name]
    values = sign * VALUES
    expected = dense((one_hot * factor(values)[:, None], 1.0)) + logprior(values)
    assert density(model, "u", v=values) == pytest.approx(expected, rel=1e-9)


def far_hinge(size: int) -> None:
    """A second group that only large latent values bring in."""
    u = groups(size=size)
    observe(u[g] + jax.nn.relu(sample("w", normal(0.0, 1.0)) - 4.0) * u[h])


def switch(size: int) -> None:
    """Groups that change at a latent time."""
    u = groups(size=size)
    late = np.arange(ROWS) > 40.0 * sample("w", normal(0.0, 1.0))
    observe(u[jnp.where(late, g, h)])


def hinge_in_a_loop(size: int) -> None:
    """Groups of rows before enter through a function that is zero at many latent values."""
    u, w = groups(size=size), sample("w", normal(0.0, 1.0))

    def step(total: Any, row: Any) -> Any:
        total = 0.5 * total + jax.nn.relu(w - 4.0) * u[row[1]]
        return total, total + u[row[0]]

    observe(jax.lax.scan(step, 0.0, (g, h))[1])


def while_below(size: int) -> None:
    """The number of steps is a latent value's."""
    u, w = groups(size=size), sample("w", normal(0.0, 1.0))

    def step(state: Any) -> Any:
        return state[0] + 1.0, state[1] + jnp.where(state[0] > 2.0, u[h], 0.0)

    observe(jax.lax.while_loop(lambda state: state[0] < w, step, (0.0, u[g]))[1])


def decayed(w: float) -> np.ndarray:
    powers = 0.5 ** np.maximum(np.arange(ROWS)[:, None] - np.arange(ROWS), 0)
    return one_hot + max(w - 4, 0) * np.tril(powers) @ other_hot


@pytest.mark.parametrize(
    ("model", "design"),
    [
        (hinge_in_a_loop, decayed),
        (while_below, lambda w: one_hot + max(np.ceil(w) - 3, 0) * other_hot),
        (far_hinge, lambda w: one_hot + max(w - 4, 0) * other_hot),
        (switch, lambda w: np.where((np.arange(ROWS) > 40 * w)[:, None], one_hot, other_hot)),
    ],
    ids=["hinge in a loop", "while", "hinge", "switch"],
)
@pytest.mark.parametrize("value", [0.0, 0.9, 7.0])
def test_groups_that_depend_on_latent_values(model: Any, design: Any, value: float) -> None:
    expected = dense((design(value), 1.0)) + logprior(value)
    assert density(lambda: model(10), "u", w=value) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(MarginalizeError, match=r"'u', of shape \(300,\); beyond 256 values each"):
        density(lambda: model(300), "u", w=value)


@pytest.mark.parametrize("size", [1.0, 1e6, 1e12])
def test_a_curve_is_not_hidden_by_a_large_offset(size: float) -> None:
    def model() -> None:
        observe(size * (1.0 + np.arange(ROWS)) + jnp.sin(groups()[g]))

    with pytest.raises(MarginalizeError, match=r"'u' does not enter the location of 'y' affinely"):
        density(model, "u")


def test_a_product_is_not_hidden_by_a_large_offset() -> None:
    def model() -> None:
        observe(1e13 * (1.0 + np.arange(ROWS)) + groups()[g] * groups("v")[g])

    with pytest.raises(MarginalizeError, match=r"'u', 'v' do not enter .* affinely together"):
        density(model, ["u", "v"])


def test_a_slope_without_a_value_is_refused() -> None:
    def model() -> None:
        observe(jnp.sqrt(jnp.square(groups()[g])))

    with pytest.raises(MarginalizeError, match=r"slope .* of 'y' by the site 'u' is not finite in"):
        density(model, "u")
