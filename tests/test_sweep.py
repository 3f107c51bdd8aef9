"""Half-sweeps by compiled programs against a NumPy solution of every row by itself."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from row_problems import INTERCEPT, ITEMS, OPTIONS, SIZE, USERS, check_rest, draw, solutions

from probmf.likelihoods import Bernoulli, Gaussian
from probmf.rows import blocks as row_blocks
from probmf.rows import sweep
from probmf.rows.blocks import build_blocks
from probmf.rows.store import RowStore, Side
from probmf.rows.sweep import half_sweep, zero_moments
from probmf.rows.values import Noise, Prior, RowResult, Rows, RowValues

#: Problems and sides whose rows are compared with what they end at, or go through.
ENDS = (
    ("plain", "user"), ("all", "user"), ("all", "item"),
    pytest.param("plain", "item", marks=pytest.mark.slow),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "side", "x64"),
    [
        *((name, "user", True) for name in OPTIONS), ("all", "user", False),
        *((name, "item", True) for name in ("plain", "no own bias", "all")),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (
            ("weights", "item", True), ("weak zeros", "item", True), ("all", "item", False),
        )),
    ],
    indirect=["x64"],
)  # fmt: skip
def test_cholesky_solves_every_row(name: str, x64: bool, side: Side) -> None:
    rtol = 1e-10 if x64 else 2e-4
    problem = OPTIONS[name]
    new, result, _ = problem.solve(side, "cholesky")
    for row, wanted in solutions(problem, side):
        np.testing.assert_allclose(new[row], wanted, rtol=rtol, atol=rtol, err_msg=f"row {row}")
    check_rest(problem, side, result, new, 5 * rtol)


@pytest.mark.parametrize(("name", "side"), ENDS)
def test_enough_cg_steps_solve_every_row(name: str, side: Side) -> None:
    problem = OPTIONS[name]
    with jax.enable_x64(True):
        new, result, _ = problem.solve(side, "cg", cg_steps=SIZE + 1)
        for row, wanted in solutions(problem, side):
            np.testing.assert_allclose(new[row], wanted, rtol=1e-7, atol=1e-8, err_msg=f"row {row}")
        check_rest(problem, side, result, new, 1e-9)


@pytest.mark.parametrize(("name", "side"), ENDS)
def test_coordinates_one_after_another(name: str, side: Side) -> None:
    problem = OPTIONS[name]
    with jax.enable_x64(True):
        new, result, _ = problem.solve(side, "coordinate")
        for row in problem.own(side):
            matrix, gradient = problem.system(side, row)
            step = np.zeros(SIZE)
            for j in np.flatnonzero(problem.free):
                step[j] += (gradient[j] - matrix[j] @ step) / matrix[j, j]
            wanted = np.append(problem.bias[row], problem.factors[row]) + step
            np.testing.assert_allclose(new[row], wanted, rtol=1e-9, atol=1e-9, err_msg=f"row {row}")
        check_rest(problem, side, result, new, 1e-9)


def test_logit_rows_solve_the_bound(x64: bool) -> None:
    problem = draw(weighted=True)
    problem = replace(
        problem, rating=(problem.rating > 0).astype(float), likelihood=Bernoulli("logit")
    )
    rtol = 1e-10 if x64 else 2e-4
    new, result, _ = problem.solve("user", "cholesky")
    for row, wanted in solutions(problem, "user"):
        np.testing.assert_allclose(new[row], wanted, rtol=rtol, atol=rtol, err_msg=f"row {row}")
    check_rest(problem, "user", result, new, 5 * rtol)


def test_the_other_side_stays_as_it_is() -> None:
    problem = OPTIONS["plain"]
    for side in ("user", "item"):
        new, *_ = problem.solve(side, "cholesky")
        other = problem.other(side)
        np.testing.assert_array_equal(new[other, 0], problem.bias[other].astype(np.float32))
        np.testing.assert_array_equal(new[other, 1:], problem.factors[other].astype(np.float32))


def test_fixed_bias_stays_even_if_it_is_not_zero() -> None:
    problem = OPTIONS["all"]
    new, *_ = problem.solve("user", "cg")
    own = problem.own("user")
    np.testing.assert_array_equal(new[own, 0], problem.bias[own].astype(np.float32))
    assert (new[own, 1:] != problem.factors[own].astype(np.float32)).all()


@pytest.mark.parametrize("method", ["cholesky", "cg", "coordinate"])
def test_rows_without_ratings_go_to_the_prior_mean(method: sweep.Method) -> None:
    for side, last in (("user", USERS - 1), ("item", USERS + ITEMS - 1)):
        new, *_ = OPTIONS["plain"].solve(side, method, cg_steps=SIZE + 1)
        np.testing.assert_allclose(new[last], 0, atol=1e-5)


@pytest.mark.parametrize(("workers", "slots"), [(1, 1024), (2, 16), (3, 16)])
def test_number_of_workers_and_chunk_size_change_nothing(workers: int, slots: int) -> None:
    with jax.enable_x64(True):
        problem = OPTIONS["weights"]
        wanted, one, _ = problem.solve("item", "cg", workers=2, slots=64)
        got, other, _ = problem.solve("item", "cg", workers=workers, slots=slots)
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(other.loss, one.loss, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "likelihood", [Bernoulli(), pytest.param(Bernoulli("probit"), marks=pytest.mark.slow)]
)
def test_draws_are_those_of_the_key_and_the_row(likelihood: Bernoulli) -> None:
    """For any number of threads bit for bit, and for any chunks and widths of buckets."""
    problem = draw()
    problem = replace(problem, rating=(problem.rating > 0) * 1.0, likelihood=likelihood)
    key = jax.random.key(3)
    with jax.enable_x64(True):
        wanted, sums, _ = problem.solve("user", "cholesky", key=key)
        for workers in (1, 3):
            got, other, _ = problem.solve("user", "cholesky", workers=workers, key=key)
            np.testing.assert_array_equal(got, wanted)
            np.testing.assert_array_equal(other.slope, sums.slope)
        # With a much longer row there are other widths.
        more = np.full(40, USERS - 1), np.arange(40) % (ITEMS - 1), np.zeros(40)
        longer = replace(
            problem, user=np.append(problem.user, more[0]), item=np.append(problem.item, more[1]),
            rating=np.append(problem.rating, more[2]),
        )  # fmt: skip
        for changed, slots in ((problem, 16), (longer, 64)):
            got, *_ = changed.solve("user", "cholesky", slots=slots, key=key)
            rows = np.arange(USERS - 1)
            np.testing.assert_allclose(got[rows], wanted[rows], rtol=1e-9, atol=1e-10)
        again, *_ = problem.solve("user", "cholesky", key=jax.random.key(4))
        assert np.abs(again - wanted)[:USERS].min() > 0


def test_numbers_go_with_the_codes() -> None:
    codes, like = np.random.default_rng(0).permutation(30), jnp.zeros((1, SIZE))
    whole, some = (Noise.of(jax.random.key(1), at, like) for at in (jnp.arange(30), codes[:12]))
    np.testing.assert_array_equal(some.rows, whole.rows[codes[:12]])
    words = [jax.random.key_data(noise.keys) for noise in (some, whole)]
    np.testing.assert_array_equal(words[0], words[1][codes[:12]])
    assert len(np.unique(whole.rows)) == whole.rows.size
    assert len(np.unique(words[1], axis=0)) == 30


def test_precisions_from_1e_minus_8_to_1e8() -> None:
    """Backward error: the new row satisfies its normal equations to rounding."""
    problem = draw(weighted=True)
    precision = 10.0 ** np.random.default_rng(5).uniform(-8, 8, problem.precision.shape)
    problem = replace(problem, precision=precision)
    with jax.enable_x64(True):
        for side in ("user", "item"):
            new, result, _ = problem.solve(side, "cholesky")
            assert np.isfinite(np.asarray(result.loss)).all()
            for row in problem.own(side):
                matrix, gradient = problem.system(side, row)
                step = new[row] - np.append(problem.bias[row], problem.factors[row])
                size = np.linalg.norm(matrix) * np.linalg.norm(step) + np.linalg.norm(gradient)
                assert np.linalg.norm(matrix @ step - gradient) <= 1e-13 * size
            for method in ("cg", "coordinate"):
                new, *_ = problem.solve(side, method)
                for row in problem.own(side):
                    matrix, gradient = problem.system(side, row)
                    step = new[row] - np.append(problem.bias[row], problem.factors[row])
                    before = gradient @ gradient / np.abs(matrix).max()
                    assert 0.5 * step @ matrix @ step - gradient @ step <= 1e-12 * before


def cut_rows(monkeypatch: pytest.MonkeyPatch, limit: int) -> list[int]:
    """Read rows in pieces of `limit`, by a program that knows no other limit.

    Returns:
        A list that grows with every program that reads rows in pieces.
    """
    programs: list[int] = []
    in_pieces = sweep._solve_long_rows

    def solve_bucket(*args: object, **options: object) -> RowResult:
        return sweep._solve_bucket(*args, **options)

    def solve_long_rows(*args: object) -> RowResult:
        programs.append(limit)
        return in_pieces(*args)

    names = ("likelihood", "method", "cg_steps", "capacity")
    program = jax.jit(solve_bucket, static_argnames=names)
    monkeypatch.setattr(sweep, "_bucket_program", lambda backend: program)
    monkeypatch.setattr(sweep, "_solve_long_rows", solve_long_rows)
    monkeypatch.setattr(row_blocks, "MAX_WIDTH", limit)
    monkeypatch.setattr(sweep, "MAX_WIDTH", limit)
    return programs


@pytest.mark.parametrize(
    ("limit", "name", "method"),
    [(8, "all", "cholesky"), (10, "plain", "cg"), (8, "all", "coordinate")],
)
def test_rows_in_pieces_equal_whole_rows(
    limit: int, name: str, method: sweep.Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest item has more than 16 ratings: three pieces of 8, and two of 10."""
    problem = OPTIONS[name]
    assert np.bincount(problem.item).max() > 16
    with jax.enable_x64(True):
        whole = {side: problem.solve(side, method) for side in ("user", "item")}
        programs = cut_rows(monkeypatch, limit)
        for side in ("user", "item"):
            new, result, _ = problem.solve(side, method, slots=40)
            np.testing.assert_allclose(new, whole[side][0], rtol=1e-11, atol=1e-11)
            for part, got, wanted in zip(result._fields, result, whole[side][1], strict=True):
                np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9, err_msg=part)
        assert programs


def test_row_a_little_longer_than_one_piece() -> None:
    """4,300 ratings of one user: the second piece holds 204, none of them counted twice."""
    count = row_blocks.MAX_WIDTH + 204
    store = RowStore.of(
        np.zeros(count, int), np.arange(count), np.ones(count), num_users=1, num_items=count
    )
    layout = build_blocks(store, workers=1)
    table: Rows = {
        "user": RowValues(jnp.zeros(1), jnp.zeros((1, 0))),
        "item": RowValues(jnp.zeros(count), jnp.zeros((count, 0))),
    }
    prior = Prior(
        jnp.zeros(()), {"noise_scale": jnp.ones(())}, jnp.ones((1, 1)), jnp.ones(1), None, None
    )
    with ThreadPoolExecutor(1) as pool:
        new, result = half_sweep(
            layout, "user", table, prior, likelihood=Gaussian(), method="cholesky",
            cg_steps=1, pool=pool,
        )  # fmt: skip
    np.testing.assert_allclose(new["user"].bias[0], count / (count + 1), rtol=1e-6)
    np.testing.assert_allclose(result.curvature[0], count, rtol=1e-6)


def test_zero_moments() -> None:
    problem = OPTIONS["plain"]
    other = problem.other("user")
    with jax.enable_x64(True):
        gram, shift = zero_moments(
            jnp.asarray(problem.bias[other]), jnp.asarray(problem.factors[other]),
            jnp.asarray(INTERCEPT), jnp.asarray(0.2),
        )  # fmt: skip
        z = np.column_stack([np.ones(ITEMS), problem.factors[other]])
        np.testing.assert_allclose(gram, 0.2 * z.T @ z, rtol=1e-12)
        np.testing.assert_allclose(shift, 0.2 * z.T @ (INTERCEPT + problem.bias[other]), rtol=1e-12)


def test_nothing_is_compiled_twice_for_other_values() -> None:
    problem = OPTIONS["plain"]
    problem.solve("user", "cg")
    program = sweep._bucket_program(jax.default_backend())
    before = program._cache_size()
    assert before > 0
    replace(problem, rating=problem.rating + 1, bias=problem.bias * 2).solve("user", "cg")
    assert program._cache_size() == before
    problem.solve("user", "cg", cg_steps=2)
    assert program._cache_size() > before
