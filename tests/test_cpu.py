"""The CPU's loops over rows against NumPy and against the compiled programs."""

import ast
import inspect
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from row_problems import OPTIONS, SIZE, USERS, check_rest, draw, solutions

from probmf.effects import loops
from probmf.likelihoods import Gaussian
from probmf.rows.blocks import build_blocks
from probmf.rows.cpu import RowLists, evidence, few, kernels, rows, share
from probmf.rows.cpu.few import LANES
from probmf.rows.cpu.rows import BLOCK, BY_COLUMN
from probmf.rows.store import RowStore, Side
from probmf.rows.sweep import half_sweep
from probmf.rows.values import Prior, RowSums, RowValues


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize(
    ("name", "x64"), [*((name, True) for name in OPTIONS), ("all", False)], indirect=["x64"]
)
def test_exact_rows(name: str, x64: bool, side: Side) -> None:
    rtol = 1e-10 if x64 else 2e-4
    problem = OPTIONS[name]
    new, sums, _ = problem.solve(side, "cholesky", lists=True)
    for row, wanted in solutions(problem, side):
        np.testing.assert_allclose(new[row], wanted, rtol=rtol, atol=rtol, err_msg=f"row {row}")
    check_rest(problem, side, sums, new, 5 * rtol)


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("name", list(OPTIONS))
def test_enough_steps_solve_every_row(name: str, side: Side) -> None:
    problem = OPTIONS[name]
    with jax.enable_x64(True):
        new, sums, _ = problem.solve(side, "cg", cg_steps=SIZE + 1, lists=True)
        for row, wanted in solutions(problem, side):
            np.testing.assert_allclose(new[row], wanted, rtol=1e-7, atol=1e-8, err_msg=f"row {row}")
        check_rest(problem, side, sums, new, 1e-9)


def test_steps_beyond_the_solution_stay_there() -> None:
    """A row without ratings so near zero that its step's length is below the smallest number."""
    problem = draw()
    bias, factors = problem.bias.copy(), problem.factors.copy()
    bias[USERS - 1], factors[USERS - 1] = 0.0, 3e-22
    problem = replace(
        problem, precision=np.full_like(problem.precision, 0.1), bias=bias, factors=factors
    )
    new, sums, _ = problem.solve("user", "cg", lists=True)
    assert np.isfinite(new).all()
    assert all(np.isfinite(np.asarray(part)).all() for part in sums)


@pytest.mark.parametrize("workers", [1, 3])
def test_number_of_workers_changes_nothing(workers: int) -> None:
    problem = OPTIONS["weights"]
    for method in ("cg", "cholesky"):
        wanted, one, _ = problem.solve("item", method, lists=True)
        got, other, _ = problem.solve("item", method, workers=workers, lists=True)
        np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(other.loss, one.loss)


def inner_loops(module: ModuleType) -> Iterator[ast.For]:
    """Loops without a loop in them."""
    for loop in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(loop, ast.For) and not any(
            isinstance(part, ast.For | ast.While) for own in loop.body for part in ast.walk(own)
        ):
            yield loop


@pytest.mark.parametrize("module", [kernels, rows, few, evidence, loops])
def test_no_inner_loop_sums_up_and_writes(module: ModuleType) -> None:
    """Else last digits depend on how far apart arrays lie, as `kernels.compiled` says."""
    found = list(inner_loops(module))
    assert found
    for loop in found:
        parts = [part for own in loop.body for part in ast.walk(own)]
        sums = [
            part for part in parts
            if isinstance(part, ast.AugAssign) and isinstance(part.target, ast.Name)
        ]  # fmt: skip
        stores = [
            part for part in parts
            if isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Store)
        ]  # fmt: skip
        assert not (sums and stores), f"{module.__name__}, line {loop.lineno}"


@pytest.mark.parametrize("method", ["cg", "cholesky"])
def test_places_in_memory_change_nothing(method: str) -> None:
    """The same rows again and again, with memory taken and given back in between."""
    random = np.random.default_rng(0)
    held: list[np.ndarray] = []
    problem, seen = OPTIONS["weights"], set()
    with jax.enable_x64(True):
        for _ in range(50):
            held.append(np.ones(random.integers(1, 40)))
            if random.random() < 0.5:
                held.pop(random.integers(len(held)))
            new, *_ = problem.solve("user", method, lists=True)
            seen.add(np.asarray(new).tobytes())
    assert len(seen) == 1


def test_precisions_from_1e_minus_8_to_1e8() -> None:
    """Backward error: the new row satisfies its normal equations to rounding."""
    problem = draw(weighted=True)
    precision = 10.0 ** np.random.default_rng(5).uniform(-8, 8, problem.precision.shape)
    problem = replace(problem, precision=precision)
    with jax.enable_x64(True):
        for side in ("user", "item"):
            new, sums, _ = problem.solve(side, "cholesky", lists=True)
            assert np.isfinite(np.asarray(sums.loss)).all()
            for row in problem.own(side):
                matrix, gradient = problem.system(side, row)
                step = new[row] - np.append(problem.bias[row], problem.factors[row])
                size = np.linalg.norm(matrix) * np.linalg.norm(step) + np.linalg.norm(gradient)
                assert np.linalg.norm(matrix @ step - gradient) <= 1e-13 * size


def both_ways(
    num_factors: int, method: str, *, lengths: tuple[int, ...], drawn: bool, weighted: bool,
    gram: bool, pull: bool = False, zero_columns: int = 0, ways: tuple[bool, ...] = (False, True),
) -> list[tuple[RowValues, RowSums]]:  # fmt: skip
    """A half-sweep over users of given numbers of ratings, by the program and by the loops."""
    rng = np.random.default_rng(3)
    items = max(lengths) + 3
    user = np.repeat(np.arange(len(lengths)), lengths)
    item = np.concatenate([rng.permutation(items)[:n] for n in lengths])
    d, table = 1 + num_factors, {}
    dtype = jnp.result_type(float)
    weight = rng.uniform(0.5, 2, len(user)) if weighted else None
    sizes: dict[Side, int] = {"user": len(lengths), "item": items}
    for side, size in sizes.items():
        factors = rng.normal(size=(size, num_factors)) / np.sqrt(num_factors)
        factors[:, num_factors - zero_columns :] = 0
        bias = jnp.asarray(rng.normal(size=size), dtype)
        table[side] = RowValues(bias, jnp.asarray(factors, dtype))
    size = sizes["user"]
    # With a gram it is one for all rows, as of every model with fixed or Normal-Wishart priors.
    precision = rng.uniform(0.5, 2, (1 if gram else size, d))
    shared = rng.normal(size=(d, d))
    free = np.append(np.ones(d - zero_columns), np.full(zero_columns, float(not drawn)))
    prior = Prior(
        jnp.asarray(0.2, dtype), {"noise_scale": jnp.asarray(0.7, dtype)},
        jnp.asarray(np.broadcast_to(precision, (size, d)), dtype), jnp.asarray(free, dtype),
        jnp.asarray(shared @ shared.T * np.outer(free, free), dtype) if gram else None,
        jnp.asarray(rng.normal(size=d) * free, dtype) if gram else None,
        jnp.asarray(rng.normal(size=(size, d)) * free, dtype) if pull else None,
    )  # fmt: skip
    answers = []
    rating = rng.normal(size=len(user))
    store = RowStore.of(user, item, rating, weight, num_users=len(lengths), num_items=items)
    for lists in ways:
        layout = RowLists.of(store, 2) if lists else build_blocks(store, workers=2)
        with ThreadPoolExecutor(2) as pool:
            new, sums = half_sweep(
                layout, "user", table, prior, likelihood=Gaussian(), method=method, cg_steps=3,
                pool=pool, key=jax.random.key(0) if drawn else None,
            )  # fmt: skip
            answers.append((new["user"], sums))
    return answers


#: Of few buckets, each of which is a program; rows of few ratings fill more than all lanes.
LENGTHS = (0, *[1, 2] * LANES, 2, 5, BLOCK, 2 * BLOCK + 3)


@pytest.mark.parametrize(
    ("num_factors", "method", "options"),
    [
        (BY_COLUMN + 9, "cg", {"weighted": True, "gram": True}),
        (7, "cholesky", {"weighted": True}),
        pytest.param(BY_COLUMN + 9, "cholesky", {"gram": True}, marks=pytest.mark.slow),
        (6, "cholesky", {"drawn": True, "zero_columns": 2, "gram": True}),
        pytest.param(21, "cholesky", {"drawn": True, "weighted": True}, marks=pytest.mark.slow),
        (16, "cg", {"zero_columns": 5, "pull": True}),
        pytest.param(5, "cg", {"pull": True}, marks=pytest.mark.slow),
        (5, "cholesky", {"pull": True, "drawn": True}),
        (0, "cholesky", {"drawn": True}),
    ],
)
@pytest.mark.parametrize("x64", [True], indirect=True)
def test_agrees_with_the_program(num_factors: int, method: str, options: dict, x64: bool) -> None:
    options = {"drawn": False, "weighted": False, "gram": False} | options
    tolerance = 1e-10 if x64 else 1e-3
    (wanted, whole), (got, parts) = both_ways(num_factors, method, lengths=LENGTHS, **options)
    np.testing.assert_allclose(got.bias, wanted.bias, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(got.factors, wanted.factors, rtol=tolerance, atol=tolerance)
    # A slope sums the errors of a row over its ratings, each of precision 2.
    atol = 4 * max(LENGTHS) * tolerance
    for name, part, wanted_part in zip(RowSums._fields, parts, whole, strict=True):
        np.testing.assert_allclose(part, wanted_part, rtol=tolerance, atol=atol, err_msg=name)


@pytest.mark.parametrize("method", [pytest.param("cg", marks=pytest.mark.slow), "cholesky"])
def test_agrees_with_the_program_in_single_precision(method: str) -> None:
    options = {"drawn": method == "cholesky", "weighted": True, "gram": True}
    test_agrees_with_the_program(6, method, options, False)


def test_long_rows_are_solved_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "LONGEST", 30)
    lengths = (5, 37, BLOCK, 2 * BLOCK + 3)
    options = {
        "lengths": lengths, "drawn": False, "weighted": True, "gram": False, "ways": (True,),
    }  # fmt: skip
    with jax.enable_x64(True):
        ((steps, _),) = both_ways(5, "cg", **options)
        ((exact, _),) = both_ways(5, "cholesky", **options)
    np.testing.assert_array_equal(steps.factors[1:4], exact.factors[1:4])
    assert np.abs(steps.factors[0] - exact.factors[0]).max() > 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [4, 8, 24])
def test_factor_and_triangular_solves(size: int, dtype: type) -> None:
    rng = np.random.default_rng(size)
    root = rng.normal(size=(size, 2 * size))
    matrix = (root @ root.T).astype(dtype)
    factor = np.tril(matrix)
    kernels.factorize(factor, dtype(1))
    tolerance = 1e-12 if dtype is np.float64 else 1e-4
    np.testing.assert_allclose(
        np.tril(factor), np.linalg.cholesky(matrix), rtol=tolerance, atol=tolerance
    )
    x = rng.normal(size=size).astype(dtype)
    got = x.copy()
    kernels.solve_lower(factor, got, dtype(0))
    kernels.solve_upper(factor, got)
    np.testing.assert_allclose(matrix @ got, x, rtol=10 * tolerance, atol=10 * tolerance)


def test_an_indefinite_matrix_gives_nan() -> None:
    matrix = np.diag([1.0, 2.0, -1.0, 1.0])
    kernels.factorize(matrix, 1.0)
    assert np.isnan(matrix[2, 2])


def test_nan_in_a_row_is_not_lost() -> None:
    problem = replace(draw(), rating=np.full(draw().rating.shape, np.nan))
    for method in ("cg", "cholesky"):
        _, sums, _ = problem.solve("user", method, lists=True)
        assert np.isnan(np.asarray(sums.loss)).any()


@pytest.mark.parametrize("size", [1, 5, 11, 30])
def test_inverse_by_elimination(size: int) -> None:
    rng = np.random.default_rng(size)
    root = rng.normal(size=(size, 2 * size))
    matrix = np.eye(size) + root @ root.T
    padded = np.full((size + 3, size + 3), 7.0)
    padded[:size, :size] = matrix
    logdet = kernels.sweep(padded, size, 1.0)
    np.testing.assert_allclose(padded[:size, :size], np.linalg.inv(matrix), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(logdet, np.linalg.slogdet(matrix)[1], rtol=1e-12, atol=1e-12)
    assert (padded[size:] == 7.0).all()
    assert (padded[:, size:] == 7.0).all()


@pytest.mark.parametrize("count", [1, 6, 37])
def test_product_of_a_small_matrix_with_designs(count: int) -> None:
    rng = np.random.default_rng(count)
    matrix, design = rng.normal(size=(8, 12)), rng.normal(size=(12, count))
    out = np.full((8, count), np.nan)
    kernels.mix_columns(matrix, design, out)
    np.testing.assert_allclose(out, matrix @ design, rtol=1e-12, atol=1e-12)
