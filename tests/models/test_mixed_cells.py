"""Rows joined into cells have the posterior of the rows."""

from typing import Any, Literal

import jax
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density

from probmf import MixedEffects, sample_nuts
from probmf.inference.potential import Potential

FORMULA, NOISE = "y ~ 1 + x + (1 + x | g)", "~ 1 + x + (1 + x | g)"


def table(repeats: int = 5) -> dict[str, np.ndarray]:
    """Each of six groups under each of two conditions, several times."""
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(6), 2 * repeats), np.tile(np.repeat([0.0, 1.0], repeats), 6)
    y = np.exp(0.3 * rng.normal(size=len(g)) + 0.1 * g + 0.2 * x)
    order = rng.permutation(len(g))
    return {"y": y[order], "g": g[order], "x": x[order]}


def potentials(likelihood: Any) -> tuple[Potential, Potential]:
    model = MixedEffects(FORMULA, likelihood=likelihood, scale_formula=NOISE, centered=False)
    design = model.design(table())
    rows, cells = (Potential(model, model.arguments(design, join=j), {}) for j in (False, True))
    assert (rows.args[0].num_observations, cells.args[0].num_observations) == (60, 12)
    return rows, cells


@pytest.mark.parametrize("likelihood", ["gaussian", "lognormal"])
def test_density_of_cells_is_that_of_rows(likelihood: Literal["gaussian", "lognormal"]) -> None:
    with jax.enable_x64(True):
        rows, cells = potentials(likelihood)
        rng = np.random.default_rng(1)
        for _ in range(3):
            vector = rng.normal(0, 0.5, rows.num_dims)
            want, slope = rows.value_and_grad(vector)
            got, other = cells.value_and_grad(vector)
            np.testing.assert_allclose(got, want, rtol=1e-12)
            np.testing.assert_allclose(other, slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ({"scale_formula": None}, 60),  # One noise scale: nothing to gain where effects are gone.
        ({"likelihood": "bernoulli", "scale_formula": None}, 16),
        ({}, 12),
    ],
)
def test_who_is_joined(change: dict[str, Any], rows: int) -> None:
    data = table()
    if change.get("likelihood") == "bernoulli":
        data["y"] = (data["y"] > 1).astype(float)
    model = MixedEffects(FORMULA, **({"scale_formula": NOISE} | change))
    (joined,) = model.arguments(data, join=True)
    assert joined.num_observations == rows
    (whole,) = model.arguments(data)
    assert (whole.num_observations, whole.cells) == (60, None)


@pytest.mark.parametrize(
    ("response", "likelihood", "weights"),
    [
        ("y", "poisson", None), ("y", "poisson", "w"), ("y", "negativebinomial", "w"),
        ("y", "ordinal", "w"), ("y | cens(c)", "poisson", "w"), ("y | trials(n)", "binomial", "w"),
    ],
)  # fmt: skip
def test_rows_of_one_response_are_counted(
    response: str, likelihood: str, weights: str | None
) -> None:
    """The log density is that of all rows, with weights and an offset, too."""
    rng = np.random.default_rng(0)
    data = {name: rng.integers(2, size=200) for name in ("x", "g", "e", "c")}
    data |= {"y": rng.integers(3, size=200), "w": rng.integers(1, 3, size=200)}
    data["n"] = 2 + data["c"]
    scale = "~ x" if likelihood == "negativebinomial" else None
    model = MixedEffects(
        f"{response} ~ x + offset(e) + (1 + x | g)", likelihood=likelihood, weights=weights,
        scale_formula=scale,
    )  # fmt: skip
    with jax.enable_x64(True):
        (joined,), (whole,) = model.arguments(data, join=True), model.arguments(data)
        names = "xgey" if response == "y" else "xgeyc"
        cells = len(np.unique([data[n] for n in names], axis=1).T)
        assert (
            np.count_nonzero(joined.weight) == cells <= joined.num_observations < 9 / 8 * cells + 1
        )
        trace = handlers.trace(handlers.seed(model, 0)).get_trace(whole)
        values = {
            name: site["value"] for name, site in trace.items()
            if site["type"] == "sample" and not site["is_observed"]
        }  # fmt: skip
        run = jax.jit(lambda own: log_density(model, (own,), {}, values)[0])
        found = [run(own) for own in (joined, whole)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


def test_normal_rows_with_bounds_are_not_counted() -> None:
    """Their weights are of their precision, so that two of one row are no row of weight two."""
    data = table() | {"y": np.tile([0.0, 1.0], 30), "c": np.zeros(60)}
    (joined,) = MixedEffects("y | cens(c) ~ x").arguments(data, join=True)
    assert (joined.num_observations, joined.weight) == (60, None)


def test_rows_that_are_hardly_alike_stay() -> None:
    data = table()
    data["x"] = np.random.default_rng(2).normal(size=60)
    (joined,) = MixedEffects(FORMULA, scale_formula=NOISE).arguments(data, join=True)
    assert (joined.num_observations, joined.cells) == (60, None)


@pytest.mark.slow
def test_draws_tell_of_all_rows() -> None:
    """What is sampled from cells is judged and predicted by row."""
    model = MixedEffects("y ~ 1 + (1 | g)", scale_formula="~ 1 + x")
    fit = sample_nuts(
        model, table(), key=0, num_warmup=20, num_samples=20, num_chains=1, marginalize="all",
        progress=False,
    )  # fmt: skip
    tree = fit.to_arviz(log_likelihood=True)
    assert tree["log_likelihood"]["y"].shape == (1, 20, 60)
    assert tree["observed_data"]["y"].shape == (60,)
