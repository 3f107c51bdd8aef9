"""The evidence and its gradient against the dense multivariate normal, on every path."""

import itertools
from decimal import Decimal, getcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense_effects import (
    Case,
    conditional,
    dense_evidence,
    make_case,
    ordered,
    spread_design,
    statistics_of,
)

from probmf.effects import (
    collect_statistics,
    collect_targets,
    compress,
    draw_effects,
    log_evidence,
    make_pattern,
)
from probmf.effects import pattern as pattern_module
from probmf.effects.pattern import Pattern

CASES = {
    "one of two": make_case([7], [2], unused=2),
    "one of five by group": make_case([6], [5], by_group=[0]),
    "one group": make_case([1], [3]),
    "two scalars": make_case([9, 5], [1, 1], unused=1),
    "two of three and one": make_case([4, 6], [1, 3]),
    "three by group": make_case([10, 4, 1], [1, 2, 3], by_group=[0, 1]),
    "five and three": make_case([8, 3], [5, 3], by_group=[1]),
}
#: Elimination by lists of pairs, or by dense products, of a remainder that is stored in part or
#: whole; one block has neither.
COST = {"pairs": (0, 10**9), "unlisted": (0, -1), "dense": (10**9, 0)}


def pattern_of(case: Case, path: str, monkeypatch: pytest.MonkeyPatch) -> Pattern:
    for name, value in zip(("PAIR_COST", "MAX_LISTED"), COST[path], strict=True):
        monkeypatch.setattr(pattern_module, name, value)
    pattern = make_pattern(case.blocks)
    several = len(case.blocks) > 1
    assert (pattern.pairs is not None) == (path == "pairs" and several)
    assert (pattern.element is not None) == (path != "dense" and several)
    return pattern


def parts_of(case: Case) -> tuple[Any, ...]:
    """Trils, precision, designs, target and weight as JAX arrays."""
    parts = (case.trils, case.precision, case.designs, case.target, case.weight)
    return tuple(jax.tree.map(jnp.asarray, parts))


def evidence_of(pattern: Pattern, parts: Any) -> Any:
    trils, precision, designs, target, weight = parts
    statistics = collect_statistics(pattern, ordered(pattern, designs), target, weight)
    half_logs = 0.5 * jnp.sum(jnp.log(weight))
    return half_logs + log_evidence(pattern, statistics, ordered(pattern, trils), precision)


# Patterns are pytrees: cases of one shape share a program.
evidence_and_slope = jax.jit(jax.value_and_grad(evidence_of, argnums=1))


def assert_same(got: Any, want: Any, tolerance: float) -> None:
    """Errors are relative to the largest number of each array."""
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = float(np.max(np.abs(other)))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("one of two", "pairs"), ("one of five by group", "pairs"), ("one group", "pairs"),
        ("two scalars", "pairs"), ("two scalars", "unlisted"), ("two scalars", "dense"),
        ("two of three and one", "dense"),
        ("five and three", "pairs"),
        ("three by group", "dense"),
    ],
)  # fmt: skip
def test_evidence_and_gradient_are_those_of_the_dense_normal(
    name: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    pattern = pattern_of(case, path, monkeypatch)
    with jax.enable_x64(True):
        value, slope = evidence_and_slope(pattern, parts_of(case))
    lower = ([np.tril(one) for one in slope[0]], *slope[1:])
    assert_same((value, lower), dense_evidence(case), 1e-10)


@pytest.mark.parametrize(
    ("name", "path"),
    [("two scalars", "pairs"), ("five and three", "pairs")],
)
def test_single_precision_is_close(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    pattern = pattern_of(case, path, monkeypatch)
    value, slope = evidence_and_slope(pattern, parts_of(case))
    assert {leaf.dtype for leaf in jax.tree.leaves((value, slope))} == {np.dtype("float32")}
    lower = ([np.tril(one) for one in slope[0]], *slope[1:])
    assert_same((value, lower), dense_evidence(case), 1e-4)


@jax.enable_x64(True)
def test_the_table_of_a_constant_design_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over twelve orders of magnitude of the leading scale, zero among them."""
    case = make_case([12, 4, 2], [1, 1, 2], unused=1)
    pattern = pattern_of(case, "pairs", monkeypatch)
    plain = statistics_of(case, pattern)
    table = compress(pattern, plain)
    assert table.table is not None

    def value(trils: Any, statistics: Any) -> Any:
        return log_evidence(pattern, statistics, ordered(pattern, trils), 1.7)

    both = jax.jit(jax.value_and_grad(value))
    for scale in (0.0, 1e-6, 1e-3, 1.0, 1e3, 1e5):
        trils = [jnp.full((1, 1), scale), *map(jnp.asarray, case.trils[1:])]
        # The sums over groups cancel when the leading effects are free.
        assert_same(both(trils, table), both(trils, plain), 1e-11 + 1e-16 * scale**2)


def test_without_pairs_or_with_leading_vectors_there_is_no_table() -> None:
    for name in ("one of two", "two of three and one"):
        case = CASES[name]
        statistics = statistics_of(case, case.pattern)
        assert compress(case.pattern, statistics).table is None


def test_a_leading_design_of_zeros_has_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case([9, 3], [1, 1])
    case.designs[0][:] = 0
    pattern = pattern_of(case, "pairs", monkeypatch)
    with jax.enable_x64(True):
        plain = statistics_of(case, pattern)
        trils = ordered(pattern, case.trils)
        run = jax.jit(lambda sums: log_evidence(pattern, sums, trils, case.precision))
        got = run(compress(pattern, plain))
        assert got == pytest.approx(float(run(plain)))


def test_targets_alone_are_those_of_all_sums() -> None:
    case = CASES["three by group"]
    pattern = case.pattern
    full = statistics_of(case, pattern)
    designs = ordered(pattern, case.designs)
    got = collect_targets(pattern, designs, jnp.asarray(case.target))
    assert_same(got, (full.lead, full.rest, full.square), 1e-6)


def closed_form_flat(case: Case, flat: int) -> float:
    """The density with one block's effects integrated over all space: restricted likelihood."""
    rows = spread_design(case)
    fixed = rows[flat].reshape(len(case.target), -1)
    covariance = np.eye(len(case.target)) / case.precision
    for index, (design, tril) in enumerate(zip(rows, case.trils, strict=True)):
        if index != flat:
            white = (design[..., None, :] @ tril).reshape(len(design), -1)
            covariance += white @ white.T
    solved = np.linalg.solve(covariance, fixed)
    information = fixed.T @ solved
    best = np.linalg.solve(information, solved.T @ case.target)
    left = case.target - fixed @ best
    parts = [
        len(left) * np.log(2 * np.pi), np.linalg.slogdet(covariance)[1],
        left @ np.linalg.solve(covariance, left),
        np.linalg.slogdet(information)[1] - len(best) * np.log(2 * np.pi),
    ]  # fmt: skip
    return -0.5 * float(sum(parts))


@jax.enable_x64(True)
@pytest.mark.parametrize("path", COST)
def test_a_flat_block_gives_the_restricted_likelihood(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gradient is compared with differences; draws center on generalized least squares."""
    case = make_case([9, 4, 1], [2, 1, 3])
    case.trils[2] = np.eye(3)
    pattern = pattern_of(case, path, monkeypatch)
    assert pattern.order == (0, 1, 2)
    statistics = statistics_of(case, pattern)

    @jax.jit
    @jax.value_and_grad
    def value(log_size: Any) -> Any:
        trils = [jnp.exp(log_size[i]) * t for i, t in enumerate(case.trils[:2])]
        precision = jnp.exp(log_size[2])
        return log_evidence(pattern, statistics, [*trils, jnp.eye(3)], precision, flat=(2,))

    def reference(log_size: np.ndarray) -> float:
        trils = [np.exp(log_size[i]) * t for i, t in enumerate(case.trils[:2])]
        moved = case._replace(trils=[*trils, np.eye(3)], precision=float(np.exp(log_size[2])))
        return closed_form_flat(moved, flat=2)

    point = np.array([0.3, -0.4, 0.5])
    got, slope = value(jnp.asarray(point))
    assert got == pytest.approx(reference(point), rel=1e-11)
    steps = 1e-5 * np.eye(3)
    differences = [(reference(point + h) - reference(point - h)) / 2e-5 for h in steps]
    np.testing.assert_allclose(slope, differences, rtol=1e-6)

    run = jax.jit(
        lambda trils: draw_effects(pattern, statistics, trils, case.precision, None, flat=(2,))
    )
    evidence, effects = run(ordered(pattern, case.trils))
    assert evidence == pytest.approx(closed_form_flat(case, flat=2), rel=1e-11)
    mean, _, _ = conditional(case, flat=(2,))
    np.testing.assert_allclose(np.concatenate([e.ravel() for e in effects]), mean, rtol=1e-9)


def decimal_evidence(case: Case, scales: list[Decimal], precision: Decimal) -> Decimal:
    """The dense log density in sixty digits, by a Cholesky factorization."""
    n, target = len(case.target), [Decimal(float(t)) for t in case.target]
    cover = [[1 / precision if i == j else Decimal(0) for j in range(n)] for i in range(n)]
    for rows, scale in zip(spread_design(case), scales, strict=True):
        flat = [[Decimal(float(x)) for x in row] for row in rows.reshape(n, -1)]
        for i in range(n):
            for j in range(i + 1):
                shared = sum(a * b for a, b in zip(flat[i], flat[j], strict=True) if a and b)
                cover[i][j] += scale * scale * shared
    half, logs = [], Decimal(0)
    for i in range(n):
        for j in range(i + 1):
            done = sum(cover[i][k] * cover[j][k] for k in range(j))
            cover[i][j] = (
                (cover[i][j] - done).sqrt() if i == j else (cover[i][j] - done) / cover[j][j]
            )
        logs += cover[i][i].ln()
        half.append((target[i] - sum(cover[i][k] * half[k] for k in range(i))) / cover[i][i])
    return -logs - sum(h * h for h in half) / 2 - n * Decimal(float(np.log(2 * np.pi))) / 2


@pytest.mark.parametrize("path", COST)
@jax.enable_x64(True)
def test_extreme_variances_agree_with_sixty_digits(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variances of effects and noise from 1e-8 to 1e8, in all combinations.

    A density from sums over observations loses what the noise precision times the sum of squares
    has digits, and the remainder what the ratio of effects' to noise variance has.
    """
    case = make_case([4, 3], [1, 1], rows=9)
    pattern = pattern_of(case, path, monkeypatch)
    statistics = statistics_of(case, pattern)

    @jax.jit
    @jax.value_and_grad
    def value(logs: Any) -> Any:
        trils = [jnp.exp(logs[i]).reshape(1, 1) for i in range(2)]
        return log_evidence(pattern, statistics, ordered(pattern, trils), jnp.exp(-2 * logs[2]))

    monkeypatch.setattr(getcontext(), "prec", 60)
    exponents = [-4, 0, 4]
    for first, second, noise in itertools.product(exponents, repeat=3):
        logs = np.log(10.0) * np.array([first, second, noise], float)
        exact = [Decimal(float(x)).exp() for x in logs]
        want = decimal_evidence(case, exact[:2], 1 / exact[2] ** 2)
        got, slope = value(jnp.asarray(logs))
        lost = 1e-15 * (10.0 ** (-2 * noise) + 10.0 ** (2 * (max(first, second) - noise))) * 100
        assert abs(float(got) - float(want)) < 1e-11 * abs(float(want)) + lost
        tiny = Decimal("1e-20")
        for i in range(3):
            moved = [x * (tiny.exp() if j == i else 1) for j, x in enumerate(exact)]
            change = (decimal_evidence(case, moved[:2], 1 / moved[2] ** 2) - want) / tiny
            size = 1e-10 * (1 + abs(float(want))) + lost
            assert abs(float(slope[i]) - float(change)) < size, (first, second, noise, i)


@jax.enable_x64(True)
@pytest.mark.parametrize(
    ("where", "path"),
    [
        *itertools.product(("scale", "row", "correlated row", "all"), COST), ("one group", "pairs"),
        pytest.param("one group", "unlisted", marks=pytest.mark.slow),
        pytest.param("one group", "dense", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_zero_scales_have_their_gradient(
    where: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact zeros in the factors of all blocks, against the dense derivative."""
    case = make_case([9, 4, 3], [1, 2, 1], by_group=[1] if where == "one group" else ())
    if where == "scale":
        case.trils[0][:] = case.trils[2][:] = 0
    elif where == "row":
        case.trils[1][:, 0] = 0
    elif where == "correlated row":
        case.trils[1][0, 0] = 0
    elif where == "one group":
        case.trils[1][2] = 0
    else:
        for tril in case.trils:
            tril[:] = 0
    pattern = pattern_of(case, path, monkeypatch)
    value, slope = evidence_and_slope(pattern, parts_of(case))
    lower = ([np.tril(one) for one in slope[0]], *slope[1:])
    assert_same((value, lower), dense_evidence(case), 1e-10)
