"""Effects integrated out of any likelihood: brute force, dense algebra, differences."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from rings import slow

from probmf import Bernoulli, MixedEffects, NegativeBinomial, Ordinal, Poisson
from probmf.effects.conditional_draws import Near, draw_effects_of_groups
from probmf.inference.mixed.approximate_problem import ApproximateProblem, Objective
from probmf.inference.mixed.integral import Integral, IntegralDensity, Rest

#: A likelihood and its responses, from whole numbers of at most 5.
LIKELIHOODS: dict[str, tuple[Any, Any]] = {
    "logit": (Bernoulli(), lambda y: (y > 1).astype(int)),
    "probit": (Bernoulli("probit"), lambda y: (y > 1).astype(int)),
    "Poisson": (Poisson(), lambda y: y),
    "NegativeBinomial": (NegativeBinomial(), lambda y: y),
    "ordinal logit": (Ordinal(), lambda y: np.minimum(y, 2)),
    "ordinal probit": (Ordinal(link="probit"), lambda y: np.minimum(y, 2)),
}  # fmt: skip
CROSSED = "y ~ 1 + x + (1 + x | g) + (1 | h)"


def table(name: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    g, h, x = np.repeat(np.arange(6), 5), np.tile(np.arange(5), 6), rng.normal(size=30)
    score = 0.3 + 0.4 * x + rng.normal(0, 0.7, 6)[g] + rng.normal(0, 0.4, 5)[h]
    return {
        "y": LIKELIHOODS[name][1](np.minimum(rng.poisson(np.exp(score)), 5)),
        "x": x,
        "g": g,
        "h": h,
    }


def problem(
    name: str, formula: str, objective: Objective = "likelihood", num_nodes: int = 1
) -> tuple[ApproximateProblem, np.ndarray]:
    """An objective, and a point to look at it."""
    model = MixedEffects(formula, likelihood=LIKELIHOODS[name][0])
    design = model.design(table(name))
    made = ApproximateProblem(model.program, model.arguments(design), objective, num_nodes)
    start = made.start()
    return made, start + np.random.default_rng(2).normal(-0.2, 0.3, len(start))


def rest_at(integral: Integral, made: ApproximateProblem, vector: np.ndarray) -> Rest:
    density = made.target.density
    return jax.jit(lambda v: density.rest(density.latents(v)))(jnp.asarray(vector))


def log_joint(integral: Integral, rest: Rest, grid: np.ndarray) -> np.ndarray:
    """Density of each group's rows and whitened effects at points, (points, groups)."""
    normal = -0.5 * np.sum(grid**2, axis=1) - 0.5 * grid.shape[1] * np.log(2 * np.pi)

    def joint(rest: Rest) -> Any:
        groups = integral.integrand(rest).groups

        def at(point: Any) -> Any:
            return groups.sum(groups.rows(groups.offset + groups.columns @ point))

        return jax.vmap(at)(jnp.asarray(grid))

    return np.asarray(jax.jit(joint)(rest)) + normal[:, None]


def brute_force(integral: Integral, rest: Rest, dim: int) -> float:
    """The trapezoid rule over whitened effects, group by group."""
    places = np.linspace(-9.0, 9.0, 181 if dim > 1 else 1801)
    grid = np.stack(np.meshgrid(*[places] * dim, indexing="ij"), -1).reshape(-1, dim)
    volume = dim * np.log(places[1] - places[0])
    found = log_joint(integral, rest, grid)
    return float(np.sum(np.logaddexp.reduce(found, axis=0) + volume))


@pytest.mark.parametrize(
    ("name", "dim"), [("probit", 1), ("Poisson", 1), ("ordinal logit", 1), ("NegativeBinomial", 2)]
)
def test_quadrature_is_the_integral(name: str, dim: int) -> None:
    with jax.enable_x64(True):
        made, vector = problem(
            name, ("y ~ x + (1 | g)", "y ~ x + (1 + x | g)")[dim - 1], num_nodes=40
        )
        got, _ = made.score(vector)
        rest = rest_at(made.integral, made, vector)
        np.testing.assert_allclose(got, brute_force(made.integral, rest, dim), rtol=1e-9)


def dense(integral: Integral, rest: Rest) -> float:
    """Laplace's approximation with matrices of all effects."""
    pattern = integral.pattern
    indices = [np.asarray(pattern.group)]
    for start, (_, dim) in zip(pattern.offsets, pattern.shapes[1:], strict=True):
        own = np.asarray(pattern.column)[:, _first(pattern, start)]
        indices.append((own - start) // dim)
    z = np.concatenate(
        [
            (np.eye(groups)[index][:, :, None] * design[:, None, :]).reshape(len(index), -1)
            for index, design, (groups, _) in zip(
                indices, integral.designs, pattern.shapes, strict=True
            )
        ],
        axis=1,
    )
    prior = np.concatenate(
        [
            np.full(groups * dim, 0.0 if place in integral.flat else 1.0)
            for place, (groups, dim) in enumerate(pattern.shapes)
        ]
    )

    def minus(v: Any, rest: Rest) -> Any:
        system = integral.system(rest)
        factors = zip(pattern.shapes, system.trils, strict=True)
        wide = jax.scipy.linalg.block_diag(*(jnp.kron(jnp.eye(g), t) for (g, _), t in factors))
        value = system.rows(system.offset + jnp.asarray(z) @ (wide @ v))
        return 0.5 * jnp.sum(jnp.asarray(prior) * v**2) - jnp.sum(value)

    def look(v: Any, rest: Rest) -> Any:
        return minus(v, rest), jax.grad(minus)(v, rest), jax.hessian(minus)(v, rest)

    at, v = jax.jit(look), np.zeros(z.shape[1])
    for _ in range(30):
        value, slope, curvature = (np.asarray(part) for part in at(v, rest))
        step = np.linalg.solve(curvature, slope)
        v = v - step / max(1.0, float(np.linalg.norm(step)))
    volume = 0.5 * np.log(2 * np.pi) * np.sum(1 - prior) - integral.log_volume
    return float(-value - 0.5 * np.linalg.slogdet(curvature)[1] + volume)


def _first(pattern: Any, start: int) -> int:
    """Where a block's columns begin in the pattern's lists."""
    dims = [dim for _, dim in pattern.shapes[1:]]
    return int(sum(dims[: pattern.offsets.index(start)]))


@pytest.mark.parametrize(
    "name", slow(["logit", "NegativeBinomial", "ordinal probit"], "NegativeBinomial")
)
def test_laplace_is_that_of_dense_algebra(name: str) -> None:
    with jax.enable_x64(True):
        made, vector = problem(name, CROSSED)
        got, gradient = made.score(vector)
        wanted = dense(made.integral, rest_at(made.integral, made, vector))
        np.testing.assert_allclose(got, wanted, rtol=1e-9)
        np.testing.assert_allclose(gradient, slopes(made, vector), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("objective", ["restricted", pytest.param("map", marks=pytest.mark.slow)])
def test_coefficients_integrated_out(objective: Objective) -> None:
    with jax.enable_x64(True):
        made, vector = problem("Poisson", CROSSED, objective)
        got, gradient = made.score(vector)
        density = made.target.density
        wanted = dense(made.integral, rest_at(made.integral, made, vector))
        if objective == "map":
            point = jnp.asarray(vector)
            wanted += float(jax.jit(lambda v: density.log_prior(density.latents(v)))(point))
        np.testing.assert_allclose(got, wanted, rtol=1e-9)
        np.testing.assert_allclose(gradient, slopes(made, vector), rtol=2e-6, atol=1e-6)


def slopes(made: ApproximateProblem, vector: np.ndarray) -> list[float]:
    steps = 1e-5 * np.eye(len(vector))
    return [(made.score(vector + s)[0] - made.score(vector - s)[0]) / 2e-5 for s in steps]


@pytest.mark.parametrize(("dim", "num_nodes"), [(1, 5), (2, 3)])
def test_quadrature_with_few_nodes_has_its_own_gradient(dim: int, num_nodes: int) -> None:
    """The nodes move with the mode, which counts as long as the quadrature is not exact."""
    formula = ("y ~ x + (1 | g)", "y ~ x + (1 + x | g)")[dim - 1]
    with jax.enable_x64(True):
        made, vector = problem("logit", formula, num_nodes=num_nodes)
        _, gradient = made.score(vector)
        np.testing.assert_allclose(gradient, slopes(made, vector), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("dim", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_held_nodes_give_the_same_where_there_are_enough(dim: int) -> None:
    formula = ("y ~ x + (1 | g)", "y ~ x + (1 + x | g)")[dim - 1]
    with jax.enable_x64(True):
        made, vector = problem("NegativeBinomial", formula, num_nodes=21)
        value, gradient = made.score(vector)
        held = replace(made.integral, near=Near(jnp.zeros((6, dim)), jnp.ones((dim, 2, 6))))
        density = IntegralDensity.of_integral(held)

        def evidence(density: Any, vector: Any) -> Any:
            return density.integral.evidence(density.rest(density.latents(vector)))[0]

        found = jax.jit(jax.value_and_grad(evidence, argnums=1))(density, jnp.asarray(vector))
        np.testing.assert_allclose(found[0], value, rtol=1e-9)
        np.testing.assert_allclose(found[1], gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "dim"), [("logit", 1), ("Poisson", 2)])
def test_draws_of_effects_are_of_their_conditional(name: str, dim: int) -> None:
    """The exact distribution function of each group's effects, at the draws, is uniform."""
    formula = ("y ~ x + (1 | g)", "y ~ x + (1 + x | g)")[dim - 1]
    size, places = 4000, np.linspace(-7.0, 7.0, 281)
    with jax.enable_x64(True):
        made, vector = problem(name, formula, num_nodes=9)
        vector[made.places["g_scale"]] += 1.0
        rest = rest_at(made.integral, made, vector)

        def draw(uniform: Any, rest: Rest) -> Any:
            return draw_effects_of_groups(made.integral.integrand(rest).groups, uniform)

        uniform = np.random.default_rng(0).random((size, dim, 6))
        draws = np.asarray(jax.jit(jax.vmap(draw, (0, None)))(uniform, rest))
        grid = np.stack(np.meshgrid(*[places] * dim, indexing="ij"), -1).reshape(-1, dim)
        joint = log_joint(made.integral, rest, grid)
    mass = np.exp(joint - joint.max(axis=0)).T.reshape(6, *[len(places)] * dim)
    for axis in range(dim):
        own = mass if dim == 1 else mass.sum(axis=2 - axis)
        below = np.cumsum(own, axis=1) - 0.5 * own
        below /= own.sum(axis=1, keepdims=True)
        for group in range(6):
            uniform = np.interp(draws[:, group, axis], places, below[group])
            assert scipy.stats.kstest(uniform, "uniform").pvalue > 1e-4
    if dim == 2:
        product = np.einsum("mab,a,b->m", mass, places, places) / mass.sum(axis=(1, 2))
        error = np.std(np.prod(draws, axis=2), axis=0) / np.sqrt(size)
        assert np.all(np.abs(np.prod(draws, axis=2).mean(axis=0) - product) < 4 * error)


def test_one_node_is_laplace() -> None:
    """And two terms of one grouping are one block, whose effects have a prior that is diagonal."""
    with jax.enable_x64(True):
        made, vector = problem("Poisson", "y ~ x + (1 | g) + (0 + x | g)")
        by_node = Integral.of(made.integral.program, made.integral.data, ["g", "g_x"], num_nodes=1)
        rest = rest_at(made.integral, made, vector)
        assert by_node.pattern.shapes == ((6, 2),)
        got, _ = jax.jit(by_node.evidence)(rest)
        np.testing.assert_allclose(got, made.score(vector)[0], rtol=1e-10)


@pytest.mark.parametrize("num_nodes", [1, 9])
def test_zero_scales_have_their_gradient(num_nodes: int) -> None:
    """A scale of zero is a regression without the effect, and the evidence is even in the scale."""
    with jax.enable_x64(True):
        made, vector = problem("logit", "y ~ x + (1 | g)", num_nodes=num_nodes)
        vector[made.places["g_scale"]] = -300.0
        got, gradient = made.score(vector)
        rest = rest_at(made.integral, made, vector)
        population = made.integral.data.mean.population @ rest.values["coefficients"]
        y = np.asarray(made.integral.data.response)
        wanted = -np.sum(np.logaddexp(0.0, (1 - 2 * y) * np.asarray(population)))
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
        assert np.all(np.isfinite(gradient))
        np.testing.assert_allclose(gradient[made.places["g_scale"]], 0.0, atol=1e-12)
