"""Joint draws of the effects, and what must not matter: order of rows, mapping, unused groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from dense_effects import Case, conditional, make_case, ordered, statistics_of

from probmf.effects import (
    Grouping,
    Pattern,
    RemainderTooLargeError,
    Statistics,
    draw_effects,
    log_evidence,
    make_pattern,
)
from probmf.effects import pattern as pattern_module

CASE = make_case([8, 4, 1], [2, 1, 2], by_group=[0], unused=1)._replace(weight=np.ones(40))
COST = {"pairs": 0, "dense": 10**9}
NUM_DRAWS = 20_000

draw = jax.jit(draw_effects)
draw_many = jax.jit(jax.vmap(draw_effects, in_axes=(None, None, None, None, 0)))
evidence = jax.jit(log_evidence)


@pytest.fixture(params=COST)
def pattern(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Pattern:
    monkeypatch.setattr(pattern_module, "PAIR_COST", COST[request.param])
    return make_pattern(CASE.blocks)


def side_by_side(pattern: Pattern, effects: list[jax.Array]) -> np.ndarray:
    """All effects on the last axis, in the order of the case's blocks."""
    by_block = dict(zip(pattern.order, effects, strict=True))
    parts = [np.asarray(by_block[i]) for i in sorted(by_block)]
    return np.concatenate([p.reshape(*p.shape[:-2], -1) for p in parts], axis=-1)


def arguments(case: Case, pattern: Pattern) -> tuple[Pattern, Statistics, list[jax.Array], float]:
    return pattern, statistics_of(case, pattern), ordered(pattern, case.trils), case.precision


def test_without_a_key_the_mean_comes_back(pattern: Pattern, x64: bool) -> None:
    parts = arguments(CASE, pattern)
    value, effects = draw(*parts, None)
    mean, _, _ = conditional(CASE)
    tolerance = 1e-11 if x64 else 1e-5
    np.testing.assert_allclose(side_by_side(pattern, effects), mean, atol=tolerance)
    assert value == pytest.approx(float(evidence(*parts)), rel=tolerance)


@jax.enable_x64(True)
@pytest.mark.parametrize("case", [CASE, make_case([9], [3], unused=2)], ids=["three", "one"])
def test_draws_have_the_conditional_mean_and_covariance(case: Case) -> None:
    """Squared distances from the mean are chi-square; all second moments lie within noise."""
    pattern = make_pattern(case.blocks)
    keys = jax.random.split(jax.random.key(3), NUM_DRAWS)
    value, effects = draw_many(*arguments(case, pattern), keys)
    assert value.shape == (NUM_DRAWS,)
    drawn = side_by_side(pattern, effects)
    mean, covariance, _ = conditional(case)
    size = len(mean)
    half = np.linalg.solve(np.linalg.cholesky(covariance), (drawn - mean).T)
    assert np.abs(half.mean(1)).max() < 4.5 / np.sqrt(NUM_DRAWS)
    second = half @ half.T / NUM_DRAWS - np.eye(size)
    assert np.abs(second).max() < 4.5 * np.sqrt(2 / NUM_DRAWS)
    distance = np.sum(half**2, axis=0)
    assert scipy.stats.kstest(distance, scipy.stats.chi2(size).cdf).pvalue > 1e-3
    # One direction across all blocks, ranked in thirds of its own Normal.
    direction = np.random.default_rng(0).normal(size=size)
    along = (drawn - mean) @ direction / np.sqrt(direction @ covariance @ direction)
    counts = np.bincount(np.digitize(scipy.stats.norm.cdf(along), np.arange(0.1, 1, 0.1)))
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@jax.enable_x64(True)
def test_groups_without_rows_are_drawn_from_their_prior(pattern: Pattern) -> None:
    _, covariance, factor = conditional(CASE)
    unused = slice(2 * 7, 2 * 8)
    assert 7 not in CASE.blocks[0].group
    np.testing.assert_allclose(covariance[unused, unused], (factor @ factor.T)[unused, unused])
    _, effects = draw(*arguments(CASE, pattern), None)
    np.testing.assert_array_equal(side_by_side(pattern, effects)[unused], 0.0)


@jax.enable_x64(True)
def test_the_order_of_rows_and_blocks_changes_nothing(pattern: Pattern) -> None:
    order = np.random.default_rng(1).permutation(len(CASE.target))
    moved = CASE._replace(
        blocks=[b._replace(group=b.group[order]) for b in CASE.blocks[::-1]],
        designs=[d[order] for d in CASE.designs[::-1]],
        trils=CASE.trils[::-1],
        target=CASE.target[order],
    )
    other = make_pattern(moved.blocks)
    value, effects = draw(*arguments(CASE, pattern), None)
    same, others = draw(*arguments(moved, other), None)
    assert same == pytest.approx(float(value), rel=1e-12)
    by_block = dict(zip(other.order, others, strict=True))
    for i, effect in zip(pattern.order, effects, strict=True):
        np.testing.assert_allclose(by_block[2 - i], effect, atol=1e-12)


@jax.enable_x64(True)
def test_parameters_may_be_mapped_over() -> None:
    """Value and gradient by vmap are those of a loop, a scale of zero among them."""
    pattern = make_pattern(CASE.blocks)
    statistics = statistics_of(CASE, pattern)
    trils = ordered(pattern, CASE.trils)

    def value(size: jax.Array, precision: jax.Array) -> jax.Array:
        scaled = [size * tril for tril in trils]
        return log_evidence(pattern, statistics, scaled, precision)

    both = jax.value_and_grad(value, argnums=(0, 1))
    sizes, precisions = jnp.array([0.0, 0.3, 1.0, 4.0]), jnp.array([0.5, 1.0, 2.0, 9.0])
    mapped = jax.jit(jax.vmap(both))(sizes, precisions)
    one_by_one = jax.jit(lambda *both_of: jax.lax.map(lambda x: both(*x), both_of))
    for got, want in zip(
        jax.tree.leaves(mapped), jax.tree.leaves(one_by_one(sizes, precisions)), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


def test_one_group_never_leads() -> None:
    fixed = Grouping("fixed", np.zeros(6, np.int32), 1, 50)
    grouped = Grouping("groups", np.arange(6, dtype=np.int32) % 2, 2, 1)
    assert make_pattern([fixed, grouped]).order == (1, 0)
    assert make_pattern([fixed]).order == (0,)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (
            "MAX_REMAINDER",
            r"After eliminating users \(9 coefficients\) a dense matrix of 14 coefficients remains "
            r"\(items \(8\), fixed \(6\)\); at most 10 can be factored\. Integrate fewer groupings "
            "out and let the others be sampled, non-centred",
        ),
        (
            "MAX_PAIRS",
            r"Eliminating users joins \d+ pairs of the other groupings' coefficients; at most 10 "
            "fit in memory. Integrate fewer groupings out",
        ),
    ],
)
def test_what_is_too_large_is_named(
    limit: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = np.arange(20, dtype=np.int32)
    blocks = [
        Grouping("users", group % 9, 9, 1),
        Grouping("items", group % 4, 4, 2),
        Grouping("fixed", 0 * group, 1, 6),
    ]
    monkeypatch.setattr(pattern_module, limit, 10)
    monkeypatch.setattr(pattern_module, "PAIR_COST", 0)
    with pytest.raises(RemainderTooLargeError, match=message):
        make_pattern(blocks)
