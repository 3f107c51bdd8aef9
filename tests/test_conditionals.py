"""The row conditionals against dense algebra in NumPy, with all coordinates free and some fixed."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import ArrayLike

from probmf.rows import conditionals
from probmf.rows.conditionals import RowBatch

ROWS, WIDTH, FACTORS = 5, 9, 4
SIZE = 1 + FACTORS

# Compiled once for all tests; the number of steps may change.
row_precision = jax.jit(conditionals.row_precision)
second_moments = jax.jit(conditionals.second_moments)
cholesky_step = jax.jit(conditionals.cholesky_step)
cg_step = jax.jit(conditionals.cg_step)
cg_step_dense = jax.jit(conditionals.cg_step_dense)
coordinate_step = jax.jit(conditionals.coordinate_step)
coordinate_step_dense = jax.jit(conditionals.coordinate_step_dense)
covariance = jax.jit(conditionals.covariance)


class Case(NamedTuple):
    """Rows in float64, as dense matrices, and the same as a batch on the device."""

    precision: np.ndarray
    rhs: np.ndarray
    free: np.ndarray
    batch: RowBatch
    columns: np.ndarray
    tolerance: float

    def solution(self) -> np.ndarray:
        return np.linalg.solve(self.precision, self.rhs[..., None])[..., 0]


FREE = {
    "all free": [1.0, 1, 1, 1, 1],
    "bias fixed": [0.0, 1, 1, 1, 1],
    "two fixed": [1.0, 0, 1, 1, 0],
}


@pytest.fixture(params=FREE)
def free(request: pytest.FixtureRequest) -> list[float]:
    return FREE[request.param]


@pytest.fixture(params=[False, True], ids=["plain", "gram"])
def with_gram(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def case(x64: bool, free: list[float], with_gram: bool) -> Case:
    return draw(x64, free, with_gram)


def draw(x64: bool, free: list[float], with_gram: bool) -> Case:
    rng = np.random.default_rng(7)
    design = rng.normal(size=(ROWS, WIDTH, FACTORS))
    curvature = rng.uniform(0.2, 2.0, size=(ROWS, WIDTH))
    # Rows of different length; the last has no rating at all.
    filled = np.arange(WIDTH) < np.array([WIDTH, 6, 3, 1, 0])[:, None]
    design, curvature = design * filled[..., None], curvature * filled
    prior = rng.uniform(0.5, 2.0, size=(ROWS, SIZE))
    mask = np.asarray(free)
    rhs = rng.normal(size=(ROWS, SIZE)) * mask
    half = rng.normal(size=(SIZE, SIZE))
    gram = 0.3 * half @ half.T if with_gram else None
    columns = np.concatenate([np.ones((ROWS, WIDTH, 1)), design], axis=2)
    precision = np.einsum("rw,rwd,rwe->rde", curvature, columns, columns)
    precision = precision + (0 if gram is None else gram)
    precision = precision + np.einsum("rd,de->rde", prior, np.eye(SIZE))
    kept = mask > 0
    precision = np.where(kept[:, None] & kept, precision, np.eye(SIZE))
    dtype = jnp.float64 if x64 else jnp.float32
    batch = RowBatch(
        *(jnp.asarray(x, dtype) for x in (design, curvature, rhs, prior, mask)),
        None if gram is None else jnp.asarray(gram, dtype),
    )
    return Case(precision, rhs, mask, batch, columns, 1e-10 if x64 else 1e-4)


def close(got: ArrayLike, wanted: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=tolerance, atol=tolerance)


def gauss_seidel(precision: np.ndarray, rhs: np.ndarray, free: np.ndarray) -> np.ndarray:
    """One pass over the coordinates of a dense system, from zero."""
    x = np.zeros_like(rhs)
    for j in np.flatnonzero(free):
        x[:, j] += (rhs[:, j] - np.einsum("rd,rd->r", precision[:, j], x)) / precision[:, j, j]
    return x


def test_row_precision(case: Case) -> None:
    got = row_precision(case.batch)
    assert got.dtype == case.batch.rhs.dtype
    close(got, case.precision, case.tolerance)


def test_second_moments(x64: bool) -> None:
    case = draw(x64, FREE["all free"], with_gram=False)
    got = second_moments(case.batch.design, case.batch.curvature)
    wanted = np.einsum(
        "rw,rwd,rwe->rde", np.asarray(case.batch.curvature, float), case.columns, case.columns
    )
    close(got, wanted, case.tolerance)


@pytest.mark.parametrize("rows", [0, 1, 256, 600])
def test_sum_products(rows: int) -> None:
    rng = np.random.default_rng(rows)
    x, y = rng.normal(size=(rows, 3)), rng.normal(size=(rows, 2))
    with jax.enable_x64(True):
        got = conditionals.sum_products(jnp.asarray(x), jnp.asarray(y))
        np.testing.assert_allclose(got, x.T @ y, rtol=1e-12, atol=1e-12)


def test_project_and_collect(x64: bool) -> None:
    case = draw(x64, FREE["all free"], with_gram=False)
    x = np.random.default_rng(1).normal(size=(ROWS, SIZE))
    e = np.random.default_rng(2).normal(size=(ROWS, WIDTH))
    dtype = case.batch.rhs.dtype
    products = conditionals.project(case.batch.design, jnp.asarray(x, dtype))
    close(products, np.einsum("rwd,rd->rw", case.columns, x), case.tolerance)
    sums = conditionals.collect(case.batch.design, jnp.asarray(e, dtype))
    close(sums, np.einsum("rwd,rw->rd", case.columns, e), case.tolerance)


def test_cholesky_step_is_the_solution(case: Case) -> None:
    step = cholesky_step(row_precision(case.batch), case.batch.rhs)
    close(step, case.solution(), case.tolerance)


def test_as_many_cg_steps_as_free_coordinates_are_exact(case: Case) -> None:
    step, change = cg_step(case.batch, int(case.free.sum()))
    close(step, case.solution(), 20 * case.tolerance)
    products = np.einsum("rwd,rd->rw", case.columns, np.asarray(step, float))
    close(change, products, 20 * case.tolerance)


def test_cg_is_conjugate_gradients(case: Case) -> None:
    """After s steps the step minimizes the quadratic over the s-th Krylov space."""
    for num_steps in range(1, 4):
        step = np.asarray(cg_step(case.batch, num_steps)[0])
        for row in range(ROWS):
            matrix, rhs = case.precision[row], case.rhs[row]
            powers = [np.linalg.matrix_power(matrix, p) @ rhs for p in range(num_steps)]
            basis, _ = np.linalg.qr(np.stack(powers, axis=1))
            best = basis @ np.linalg.solve(basis.T @ matrix @ basis, basis.T @ rhs)
            close(step[row], best, 50 * case.tolerance)


def test_matrix_free_and_dense_cg_agree(case: Case) -> None:
    for num_steps in (1, 2, 5):
        dense = cg_step_dense(row_precision(case.batch), case.batch.rhs, num_steps)
        step, _ = cg_step(case.batch, num_steps)
        close(dense, np.asarray(step, float), 20 * case.tolerance)


def test_cg_past_the_solution_stays_there(case: Case) -> None:
    """Nothing is divided by a residual of zero, nor is rounding blown up."""
    step, change = cg_step(case.batch, 60)
    close(step, case.solution(), 20 * case.tolerance)
    assert np.isfinite(np.asarray(change)).all()


def test_cg_from_the_solution_takes_no_step(case: Case) -> None:
    solved = case.batch._replace(rhs=jnp.zeros_like(case.batch.rhs))
    step, change = cg_step(solved, 3)
    assert not np.asarray(step).any()
    assert not np.asarray(change).any()


def test_coordinate_step_is_one_gauss_seidel_pass(case: Case) -> None:
    wanted = gauss_seidel(case.precision, case.rhs, case.free)
    step, change = coordinate_step(case.batch)
    close(step, wanted, case.tolerance)
    close(change, np.einsum("rwd,rd->rw", case.columns, wanted), 10 * case.tolerance)
    dense = coordinate_step_dense(row_precision(case.batch), case.batch.rhs)
    close(dense, wanted, case.tolerance)


def test_covariance_is_the_inverse_and_zero_where_fixed(case: Case) -> None:
    got = covariance(row_precision(case.batch), case.batch.free)
    wanted = np.linalg.inv(case.precision) * (case.free[:, None] * case.free)
    close(got, wanted, case.tolerance)


Solver = Callable[[RowBatch], jax.Array]
SOLVERS: dict[str, Solver] = {
    "cg": lambda batch: cg_step(batch, 3)[0],
    "cholesky": lambda batch: cholesky_step(row_precision(batch), batch.rhs),
    "coordinate": lambda batch: coordinate_step(batch)[0],
}


@pytest.fixture(params=SOLVERS)
def solver(request: pytest.FixtureRequest) -> Solver:
    return SOLVERS[request.param]


def test_fixed_coordinates_do_not_move(case: Case, solver: Solver) -> None:
    step = np.asarray(solver(case.batch))
    assert not step[:, case.free == 0].any()
    assert step[:, case.free == 1].all()


def test_the_prior_of_fixed_coordinates_does_not_matter(case: Case, solver: Solver) -> None:
    other = jnp.where(case.batch.free > 0, case.batch.precision, 1e6)
    changed = case.batch._replace(precision=other)
    close(solver(changed), np.asarray(solver(case.batch), float), case.tolerance)


def test_empty_slots_change_nothing(case: Case, solver: Solver) -> None:
    design, curvature = np.asarray(case.batch.design), np.asarray(case.batch.curvature)
    padded = case.batch._replace(
        design=jnp.asarray(np.pad(design, ((0, 0), (0, 7), (0, 0)))),
        curvature=jnp.asarray(np.pad(curvature, ((0, 0), (0, 7)))),
    )
    step = np.asarray(solver(padded))
    assert np.isfinite(step).all()
    close(solver(case.batch), step, case.tolerance)


def test_rows_do_not_touch_each_other(case: Case, solver: Solver) -> None:
    """A row of NaN (a diverged one) leaves the others as they are."""
    spoiled = case.batch._replace(rhs=case.batch.rhs.at[1].set(jnp.nan))
    step = np.asarray(solver(spoiled))
    others = [0, 2, 3, 4]
    close(np.asarray(solver(case.batch))[others], step[others], case.tolerance)


def test_row_without_ratings_goes_to_its_prior(solver: Solver, x64: bool) -> None:
    """From x with prior N(m, 1/A): rhs = -A (x - m), and one step (of any solver) lands on m."""
    case = draw(x64, FREE["all free"], with_gram=False)
    far = jnp.asarray(np.random.default_rng(3).normal(size=(ROWS, SIZE)), case.batch.rhs.dtype)
    batch = case.batch._replace(
        design=jnp.zeros_like(case.batch.design),
        curvature=jnp.zeros_like(case.batch.curvature),
        precision=jnp.full_like(case.batch.precision, 3.0),
        rhs=-3.0 * far,
    )
    close(solver(batch), -np.asarray(far, float), case.tolerance)


def test_no_factors_at_all(solver: Solver, x64: bool) -> None:
    """Biases only: the step is rhs / (A + sum w)."""
    case = draw(x64, FREE["all free"], with_gram=False)
    batch = RowBatch(
        case.batch.design[..., :0], case.batch.curvature, case.batch.rhs[:, :1],
        case.batch.precision[:, :1], case.batch.free[:1], None,
    )  # fmt: skip
    total = np.asarray(batch.precision, float)[:, 0] + np.asarray(batch.curvature, float).sum(1)
    close(solver(batch)[:, 0], case.rhs[:, 0] / total, case.tolerance)


@pytest.mark.parametrize("x64", [True], indirect=True, ids=["float64"])
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_extreme_precisions(scale: float, x64: bool, solver: Solver) -> None:
    """Flat and very strong priors: finite, and exact to the conditioning (backward error)."""
    case = draw(x64, FREE["all free"], with_gram=False)
    prior = np.asarray(case.batch.precision) * scale
    batch = case.batch._replace(precision=jnp.asarray(prior))
    step = np.asarray(solver(batch))
    assert np.isfinite(step).all()
    moments = np.einsum("rw,rwd,rwe->rde", np.asarray(batch.curvature), case.columns, case.columns)
    matrix = moments + np.einsum("rd,de->rde", prior, np.eye(SIZE))
    # All solvers lower the quadratic x' Lambda x / 2 - rhs' x from its value 0 at the start.
    quadratic = 0.5 * np.einsum("rd,rde,re->r", step, matrix, step) - np.sum(case.rhs * step, 1)
    assert (quadratic < 0).all()
    if solver is SOLVERS["cholesky"]:
        residual = np.einsum("rde,re->rd", matrix, step) - case.rhs
        size = np.linalg.norm(matrix, axis=(1, 2)) * np.linalg.norm(step, axis=1)
        assert (np.linalg.norm(residual, axis=1) <= 1e-14 * size).all()
