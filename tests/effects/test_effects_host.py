"""The evidence by LAPACK against dense algebra over all observations and the XLA programs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense_effects import Case, conditional, dense_evidence, make_case, spread_design
from rings import slow_but
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal

from probmf.effects import compress, log_evidence, make_pattern, sum_on_host
from probmf.effects import host as host_module
from probmf.effects import lapack as routines
from probmf.effects import pattern as pattern_module
from probmf.effects.host import HostEvidence, has_host_form
from probmf.effects.pattern import Pattern

CASES = {
    "two scalars": make_case([9, 5], [1, 1], unused=1),
    "scalars and a population": make_case([9, 5, 1], [1, 1, 2]),
    "slopes": make_case([4, 6, 3], [2, 3, 1]),
    "by group": make_case([10, 4, 1], [1, 2, 3], by_group=[0, 1]),
    "slopes by group": make_case([8, 3], [5, 3], by_group=[0]),
    "one scalar by group": make_case([12, 5], [1, 1], by_group=[1]),
}


def plain(case: Case) -> Case:
    """Without weights, which the host's sums may have but the oracle's derivatives need not."""
    return case._replace(weight=np.ones(len(case.target)))


def pattern_of(case: Case, monkeypatch: pytest.MonkeyPatch, path: str = "pairs") -> Pattern:
    """Eliminated by pairs, listed for programs or not, or by dense products."""
    monkeypatch.setattr(pattern_module, "PAIR_COST", 10**9 if path == "dense" else 0)
    monkeypatch.setattr(pattern_module, "MAX_LISTED", -1 if path == "unlisted" else 10**9)
    pattern = make_pattern(case.blocks)
    assert (pattern.pairs is not None) == (path == "pairs")
    assert (pattern.element is not None) == (path != "dense")
    return pattern


def ordered(pattern: Pattern, values: Any) -> list[np.ndarray]:
    return [np.asarray(values[i]) for i in pattern.order]


def host_of(case: Case, pattern: Pattern, flat: tuple[int, ...] = (), **options: Any) -> Any:
    sums = sum_on_host(pattern, ordered(pattern, case.designs), case.target)
    return HostEvidence(pattern, compress(pattern, sums), flat, **options)


@pytest.mark.parametrize("path", ["pairs", "unlisted", "dense"])
@pytest.mark.parametrize("name", CASES)
def test_evidence_and_score_agree_with_dense_algebra(
    name: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = plain(CASES[name])
    pattern = pattern_of(case, monkeypatch, path)
    host, trils = host_of(case, pattern), ordered(pattern, case.trils)
    value, (slopes, for_precision, *_) = dense_evidence(case)
    score = host.score(trils, case.precision)
    assert host.log_evidence(trils, case.precision) == pytest.approx(value, abs=1e-10)
    assert score.value == pytest.approx(value, abs=1e-10)
    assert score.precision == pytest.approx(for_precision, abs=1e-9)
    for got, want in zip(score.trils, ordered(pattern, slopes), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "path", "flat"),
    [
        ("scalars and a population", "pairs", (2,)), ("slopes", "unlisted", ()),
        ("slopes", "dense", (2,)), ("slopes by group", "pairs", ()), ("by group", "pairs", (2,)),
    ],
)  # fmt: skip
def test_average_information_and_covariances_of_dense_algebra(
    name: str, path: str, flat: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of y' P V_i P V_j P y, from the whole covariance and its derivatives."""
    case = plain(CASES[name])
    case = case._replace(
        trils=[np.eye(len(t[-1])) if i in flat else t for i, t in enumerate(case.trils)]
    )
    pattern, rng = pattern_of(case, monkeypatch, path), np.random.default_rng(1)
    host = host_of(case, pattern, tuple(pattern.order.index(i) for i in flat))
    moves = [rng.normal(size=(*t.shape, 3)) * (i not in flat) for i, t in enumerate(case.trils)]
    noise = rng.normal(size=3)
    columns = [z.reshape(len(z), -1) for z in spread_design(case)]

    def spread(left: np.ndarray, right: np.ndarray, block: int) -> np.ndarray:
        count = case.blocks[block].num_groups
        product = np.broadcast_to(left @ np.swapaxes(right, -1, -2), (count, *left.shape[-2:]))
        return block_diag(*product)

    whole, ways = np.eye(len(case.target)) / case.precision, np.zeros((3, *2 * case.target.shape))
    ways -= (noise / case.precision**2)[:, None, None] * np.eye(len(case.target))
    for block, (z, tril, move) in enumerate(zip(columns, case.trils, moves, strict=True)):
        if block not in flat:
            whole += z @ spread(tril, tril, block) @ z.T
        for place in range(3):
            half = z @ spread(move[..., place], tril, block) @ z.T
            ways[place] += half + half.T
    inverse = np.linalg.inv(whole)
    if flat:
        x = np.concatenate([columns[block] for block in flat], axis=1)
        covariance = np.linalg.inv(x.T @ inverse @ x)
        place = pattern.order.index(flat[0])
        got = host.block_covariance(ordered(pattern, case.trils), case.precision, place)
        np.testing.assert_allclose(got, covariance, rtol=1e-8)
        inverse -= inverse @ x @ covariance @ x.T @ inverse
    variates = ways @ (inverse @ case.target)
    got = host.information(
        ordered(pattern, case.trils), case.precision, [noise[None], *ordered(pattern, moves)]
    )
    np.testing.assert_allclose(got, 0.5 * variates @ inverse @ variates.T, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("zero", "path"), [(0, "pairs"), (1, "pairs"), (0, "dense"), (2, "dense")])
def test_score_where_a_scale_is_zero(zero: int, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = plain(CASES["slopes"])
    trils = [tril.copy() for tril in case.trils]
    trils[zero][-1] = 0.0
    case = case._replace(trils=trils)
    pattern = pattern_of(case, monkeypatch, path)
    score = host_of(case, pattern).score(ordered(pattern, trils), case.precision)
    value, (slopes, *_) = dense_evidence(case)
    assert score.value == pytest.approx(value, abs=1e-10)
    for got, want in zip(score.trils, ordered(pattern, slopes), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)


def test_one_group_s_scale_of_zero_leaves_the_others_their_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = plain(CASES["one scalar by group"])
    trils = [case.trils[0], case.trils[1].copy()]
    trils[1][2] = 0.0
    case = case._replace(trils=trils)
    pattern = pattern_of(case, monkeypatch)
    score = host_of(case, pattern).score(ordered(pattern, trils), case.precision)
    _, (slopes, *_) = dense_evidence(case)
    for got, want in zip(score.trils, ordered(pattern, slopes), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)
    assert np.count_nonzero(score.trils[pattern.order.index(1)]) == 4


def test_many_columns_without_lists_are_left_to_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = plain(CASES["two scalars"])
    pattern = pattern_of(case, monkeypatch, "dense")
    sums = sum_on_host(pattern, ordered(pattern, case.designs), case.target)
    monkeypatch.setattr(host_module, "LEAST_COLUMNS", 3)
    assert not has_host_form(pattern, sums)
    assert has_host_form(pattern_of(case, monkeypatch), sums)


def test_scales_of_many_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = jax.jit(log_evidence)
    base = plain(CASES["scalars and a population"])
    for scale in (1e-8, 1e-4, 1e4, 1e8):
        case = base._replace(trils=[base.trils[0] * scale, base.trils[1] / scale, base.trils[2]])
        pattern = pattern_of(case, monkeypatch)
        trils = ordered(pattern, case.trils)
        sums = sum_on_host(pattern, ordered(pattern, case.designs), case.target)
        with jax.enable_x64(True):
            parts = [jnp.asarray(tril) for tril in trils]
            want = evidence(pattern, sums, parts, jnp.asarray(1.7))
        got = host_of(case, pattern).log_evidence(trils, 1.7)
        assert got == pytest.approx(float(want), rel=1e-9)


@pytest.mark.parametrize("best", [False, True])
def test_flat_effects_by_their_integral_or_at_their_best(
    best: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = plain(make_case([9, 1, 5], [1, 2, 2]))
    case = case._replace(trils=[case.trils[0], np.eye(2), case.trils[2]])
    pattern = pattern_of(case, monkeypatch)
    flat = pattern.order.index(1)
    host, trils = host_of(case, pattern, (flat,), best=best), ordered(pattern, case.trils)

    def dense(values: list[np.ndarray], precision: float) -> float:
        """Generalized least squares over the covariance of all observations."""
        covariance = np.eye(len(case.target)) / precision
        for i in (0, 2):
            own = np.eye(case.blocks[i].num_groups)[case.blocks[i].group]
            z = (own[:, :, None] * case.designs[i][:, None]) @ values[i]
            covariance += np.einsum("nga,mga->nm", z, z)
        x, inverse = case.designs[1], np.linalg.inv(covariance)
        weight = x.T @ inverse @ x
        coefficients = np.linalg.solve(weight, x.T @ inverse @ case.target)
        value = multivariate_normal(x @ coefficients, covariance).logpdf(case.target)
        integral = np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(weight)[1]
        return float(value if best else value + integral)

    score = host.score(trils, case.precision)
    assert score.value == pytest.approx(dense(case.trils, case.precision), abs=1e-9)
    step = 1e-6
    by_precision = [dense(case.trils, case.precision + s) for s in (step, -step)]
    assert score.precision == pytest.approx(np.diff(by_precision[::-1])[0] / (2 * step), abs=1e-6)
    for block in (0, 2):
        got = score.trils[pattern.order.index(block)]
        for row, column in zip(*np.tril_indices(len(got)), strict=True):
            moved = []
            for move in (-step, step):
                values = [tril.copy() for tril in case.trils]
                values[block][row, column] += move
                moved.append(dense(values, case.precision))
            slope = (moved[1] - moved[0]) / (2 * step)
            assert got[row, column] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["scalars and a population", "by group", "slopes by group"], "scalars and a population"
    ),
)
def test_draws_have_the_conditional_law(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = plain(CASES[name])
    pattern = pattern_of(case, monkeypatch)
    host, trils = host_of(case, pattern), ordered(pattern, case.trils)
    mean, covariance, _ = conditional(case)

    def flat(tables: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([tables[pattern.order.index(i)].ravel() for i in range(len(tables))])

    value, means = host.draw(trils, case.precision, None)
    assert value == pytest.approx(dense_evidence(case)[0], abs=1e-10)
    np.testing.assert_allclose(flat(means), mean, atol=1e-10)
    rng = np.random.default_rng(0)
    draws = np.stack([flat(host.draw(trils, case.precision, rng)[1]) for _ in range(4000)])
    scale = np.sqrt(np.diag(covariance)) + 1e-12
    assert np.max(np.abs(draws.mean(0) - mean) / scale) < 4.5 / np.sqrt(len(draws))
    found = np.cov(draws.T) / np.outer(scale, scale)
    assert np.max(np.abs(found - covariance / np.outer(scale, scale))) < 6 / np.sqrt(len(draws))


def test_no_positive_definite_system_gives_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    case = plain(CASES["two scalars"])
    pattern = pattern_of(case, monkeypatch)
    host, trils = host_of(case, pattern), ordered(pattern, case.trils)
    bad = [np.zeros_like(trils[0]), trils[1]]
    assert np.isnan(host.log_evidence(bad, -5.0))
    score = host.score(bad, -5.0)
    assert np.isnan(score.value)
    assert np.isnan(score.precision)
    value, tables = host.draw(bad, -5.0, np.random.default_rng(0))
    assert np.isnan(value)
    assert all(np.isnan(table).all() for table in tables)
    assert np.isnan(host.log_evidence([trils[0], np.full_like(trils[1], np.nan)], 1.0))
    assert np.isfinite(host.log_evidence(trils, 1.0))


def test_who_is_served() -> None:
    case = plain(CASES["two scalars"])
    pattern = make_pattern(case.blocks)
    sums = sum_on_host(pattern, ordered(pattern, case.designs), case.target)
    assert has_host_form(pattern, sums)
    assert not has_host_form(pattern, None)
    alone = plain(make_case([6], [2]))
    lone = make_pattern(alone.blocks)
    assert not has_host_form(lone, sum_on_host(lone, alone.designs, alone.target))


@pytest.mark.parametrize(
    "matrix", [np.ones((2, 3)), np.eye(3, dtype=np.float32), np.arange(4.0).reshape(2, 2)]
)
def test_routines_take_no_other_memory(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="stored by column"):
        routines.factor(matrix)


def test_routines_agree_with_numpy() -> None:
    rng = np.random.default_rng(0)
    half = rng.normal(size=(7, 9))
    whole, vector = half @ half.T, rng.normal(size=7)
    matrix = np.asfortranarray(whole)
    assert routines.factor(matrix)
    lower = np.linalg.cholesky(whole)
    np.testing.assert_allclose(np.tril(matrix), lower, atol=1e-12)
    np.testing.assert_allclose(
        routines.solve(matrix, vector), np.linalg.solve(lower, vector), atol=1e-12
    )
    np.testing.assert_allclose(
        routines.solve(matrix, vector, transpose=True), np.linalg.solve(lower.T, vector), atol=1e-12
    )
    routines.invert(matrix, matrix)
    np.testing.assert_allclose(np.tril(matrix), np.tril(np.linalg.inv(whole)), atol=1e-12)
    assert not routines.factor(np.asfortranarray(-whole))
