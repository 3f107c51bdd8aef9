"""BPR and WARP: losses, gradients and negatives by hand, and lists that are better than popular."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_array

from probmf import metrics
from probmf.data import Ratings
from probmf.inference.point.map import fit_map
from probmf.inference.point.minibatch import RatingBatch
from probmf.inference.point.optimizer import ADAGRAD
from probmf.inference.point.ranking_objective import (
    LOSSES,
    Contest,
    RankingObjective,
    Unseen,
    UserItemPairs,
)
from probmf.inference.point.row_updates import unseen as scratch
from probmf.inference.point.row_updates import update_rows
from probmf.likelihoods import Ordinal
from probmf.models import MatrixFactorization, Network
from probmf.models.observations import Observations

USERS, ITEMS = 7, 6
MODEL = MatrixFactorization(
    2, intercept=None, user_bias=False, user_scale=0.7, item_scale=np.linspace(0.5, 1.0, ITEMS),
    item_bias_scale=0.4,
)  # fmt: skip


def pairs() -> Ratings:
    """Pairs with weights; the last item is in none of them, and the last user in one."""
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((USERS, ITEMS - 1)) < 0.5)
    user, item = np.append(user[user < USERS - 1], USERS - 1), np.append(item[user < USERS - 1], 0)
    columns = {"user": user, "item": item, "weight": rng.uniform(0.5, 2, len(user))}
    return Ratings.from_frame(
        columns, rating=None, weight="weight", users=range(USERS), items=range(ITEMS)
    )


def problem(name: str, data: Ratings | None = None) -> tuple[RankingObjective, Any]:
    data = pairs() if data is None else data
    observations = Observations.from_ratings(data, 1.0)
    known = UserItemPairs(data.user, data.item)
    return RankingObjective.build(MODEL, observations, known, ADAGRAD, LOSSES[name])


def point(seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    shapes = MODEL.site_shapes(USERS, ITEMS)
    return {site: jnp.asarray(0.7 * rng.normal(size=shape)) for site, shape in shapes.items()}


def batch(objective: RankingObjective, given: Any) -> Contest:
    """Three positives, one user twice, and a place that is not filled."""
    own: RatingBatch = jax.tree.map(lambda of: of[jnp.array([0, 1, -1, 0])], given[1])
    filled = jnp.array([1.0, 1.0, 1.0, 0.0])
    own = own._replace(weight=own.weight * filled, present=filled)
    rng = np.random.default_rng(1)
    count = objective.pair_loss.num_negatives
    return Contest(own, jnp.asarray(rng.integers(0, ITEMS, (4, count)), jnp.int32))


def by_hand(name: str, sites: dict[str, Any], given: Any, contest: Contest) -> Any:
    """The batch's part, one positive and one negative after the other."""
    users, items, bias = (sites[n] for n in ("user_factors", "item_factors", "item_bias"))
    shares, total = given[0].shares, 0.0

    def score(user: int, item: int) -> Any:
        return bias[item] + users[user] @ items[item]

    for place in range(3):
        user, item = int(contest.positives.user[place]), int(contest.positives.item[place])
        others = [int(own) for own in contest.other[place]]
        if name == "bpr":
            loss = jnp.log1p(jnp.exp(score(user, others[0]) - score(user, item)))
        else:
            loss = jnp.asarray(0.0)
            for tries, other in enumerate(others, 1):
                short = 1 - score(user, item) + score(user, other)
                if short > 0:
                    rank = (ITEMS - 1) // tries
                    loss = sum(1 / k for k in range(1, rank + 1)) * short
                    break
        total = total + contest.positives.weight[place] * loss
        total = total + 0.5 * jnp.sum(shares["user_factors"][user] * users[user] ** 2)
        for one in [item, *others]:
            total = total + 0.5 * jnp.sum(shares["item_factors"][one] * items[one] ** 2)
            total = total + 0.5 * shares["item_bias"][one] * bias[one] ** 2
    return total


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_those_by_hand(name: str) -> None:
    objective, given = problem(name)
    contest = batch(objective, given)
    part = jax.jit(jax.value_and_grad(partial(objective.part, batch=contest, given=given)))
    for seed in range(3):
        at = point(seed)
        value, slope = part(at)
        expected, gradient = jax.value_and_grad(lambda at: by_hand(name, at, given, contest))(at)
        assert float(value) == pytest.approx(float(expected), rel=1e-5)
        for site, own in gradient.items():
            np.testing.assert_allclose(slope[site], own, rtol=1e-4, atol=1e-6)


def test_negatives_are_the_items_without_a_pair_all_alike() -> None:
    data = pairs()
    unseen = Unseen.of(UserItemPairs(data.user, data.item), USERS, ITEMS)
    users = jnp.arange(USERS, dtype=jnp.int32)
    drawn = np.asarray(jax.jit(unseen.draw, static_argnums=2)(jax.random.key(0), users, 3000))
    for user in range(USERS):
        free = np.setdiff1d(np.arange(ITEMS), data.item[data.user == user])
        count = np.bincount(drawn[user], minlength=ITEMS)
        assert set(np.flatnonzero(count)) == set(free)
        sd = np.sqrt(3000 * (1 / len(free)) * (1 - 1 / len(free)))
        assert np.all(np.abs(count[free] - 3000 / len(free)) <= 5 * sd)


@pytest.mark.parametrize(("name", "few"), [("bpr", False), ("warp", False), ("bpr", True)])
def test_an_epoch_carries_the_prior_once(name: str, few: bool) -> None:
    # Of few pairs most items are drawn less than once an epoch.
    objective, given = problem(name, pairs().select(np.arange(1)) if few else None)
    terms, ratings, _ = given
    batches = jax.jit(partial(objective.batches, given=given, size=4))
    seen = np.zeros((2000, ITEMS))
    for epoch in range(len(seen)):
        contest = batches(jax.random.key(epoch))
        present = np.asarray(contest.positives.present)
        items = np.asarray(contest.positives.item)[present > 0]
        others = np.asarray(contest.other)[present > 0]
        seen[epoch] = np.bincount(np.append(items, others), minlength=ITEMS)
        users = np.asarray(contest.positives.user)[present > 0]
        np.testing.assert_array_equal(np.bincount(users), np.bincount(ratings.user))
    assert not few or np.median(seen.mean(axis=0)) < 0.9
    carried = seen * np.asarray(terms.shares["item_bias"])
    error = carried.std(axis=0) / np.sqrt(len(seen))
    assert np.all(np.abs(carried.mean(axis=0) - np.asarray(terms.precision["item_bias"]))
                  <= 5 * error + 1e-5)  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_updates_of_the_batch_s_rows_equal_updates_of_all(name: str) -> None:
    objective, given = problem(name)
    assert objective.by_rows
    at, contest = point(), batch(objective, given)
    state = ADAGRAD.init(at)
    part = partial(objective.part_of_rows, batch=contest, given=given)
    rows, _, _, loss = jax.jit(
        lambda at, state: update_rows(
            at, state, scratch(at), objective.index(contest), jnp.asarray(-0.3), part, ADAGRAD
        )
    )(at, state)
    value, slope = jax.jit(jax.value_and_grad(partial(objective.part, batch=contest, given=given)))(
        at
    )
    step, _ = ADAGRAD.update(slope, state, at)
    assert float(loss) == pytest.approx(float(value), rel=1e-6)
    for site, own in rows.items():
        np.testing.assert_allclose(own, at[site] - 0.3 * step[site], rtol=1e-5, atol=1e-6)


def simulated() -> tuple[Ratings, Ratings]:
    """Each user's best items of all, by tastes, popularity and luck; some held out."""
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(80, 2)), rng.normal(size=(50, 2))
    score = 1.5 * users @ items.T + rng.normal(size=50) + rng.gumbel(size=(80, 50))
    best = np.argsort(-score, axis=1)[:, :10]
    table = {"user": np.repeat(np.arange(80), 10), "item": best.ravel()}
    return Ratings.from_frame(table, rating=None, items=range(50)).split_within_users(
        key=0, test_fraction=0.2
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.slow
def test_lists_are_better_than_those_of_popular_items(name: str) -> None:
    train, test = simulated()
    model = MatrixFactorization(2, intercept=None)
    fit = fit_map(
        model, train, key=0, num_epochs=25, batch_size=64, objective=name, validation=test,  # type: ignore[arg-type]
        patience=25,
    )  # fmt: skip
    relevant = csr_array((np.ones(len(test)), (test.user, test.item)), (80, 50))
    popular = np.where(
        csr_array((np.ones(len(train)), (train.user, train.item)), (80, 50)).toarray() > 0,
        -1, train.item_degree,
    )  # fmt: skip
    of_popular = metrics.ndcg_at_k(
        np.argsort(-popular, axis=1, kind="stable")[:, :10], relevant, 10
    )
    own = metrics.ndcg_at_k(fit.recommend(k=10).code, relevant, 10)
    assert own > 1.3 * of_popular
    assert fit.method == f"map/ranking/{name}"
    assert fit.ranks_only
    assert fit.predict(test).sd is None
    for call in (
        lambda: fit.predict(test, at_least=1),
        lambda: fit.rank_posterior(0, key=0),
        lambda: fit.recommend(interval=0.5),
        lambda: fit.recommend(rank_by="thompson", key=0),
    ):
        with pytest.raises(ValueError, match="takes probabilities of scores or ratings, and this"):
            call()
    assert fit.history is not None
    assert fit.history.validation is not None
    assert fit.history.validation[fit.history.best - 1] == pytest.approx(1 - own, abs=1e-6)
    assert fit.history.objective[-1] < fit.history.objective[0]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (MODEL, {"objective": "auc"}, "objective is 'auc'; expected one of 'likelihood', 'bpr', "),
        (MODEL, {"batch_size": None}, "draws negatives anew for each update, and batch_size is N"),
        (MODEL, {"batch_size": 99}, "batch_size is 99, but there are .* pairs that occurred"),
        (MatrixFactorization(2, intercept="learned"), {}, "a learned intercept, which all scores"),
        (MatrixFactorization(2, unobserved_weight=0.1), {}, "unobserved_weight, and it draws"),
        (MatrixFactorization(0, item_bias=False), {}, "neither factors nor item biases"),
        (MatrixFactorization(2, Ordinal(3)), {}, "Ordinal, whose own parameters it tells nothing"),
        (Network((2,)), {}, "ranks items for users, and the model is a Network"),
    ],
)  # fmt: skip
def test_bad_arguments(model: Any, options: dict[str, Any], message: str) -> None:
    given = {"objective": "bpr", "batch_size": 4, "num_epochs": 1} | options
    with pytest.raises(ValueError, match=message):
        fit_map(model, pairs(), key=0, **given)


def test_a_pair_of_weight_zero_is_no_negative() -> None:
    data = pairs()
    # The last item is nobody's otherwise.
    frame = {"user": np.append(data.user, range(USERS)),
             "item": np.append(data.item, [ITEMS - 1] * USERS),
             "weight": np.append(data.weight, np.zeros(USERS))}  # fmt: skip
    silent = Ratings.from_frame(
        frame, rating=None, weight="weight", users=range(USERS), items=range(ITEMS)
    )
    fits = [
        fit_map(MODEL, own, key=0, num_epochs=2, batch_size=4, objective="bpr")
        for own in (data, silent)
    ]
    drawn, never = (fit.samples["item_bias"].ravel()[-1] for fit in fits)
    assert drawn < 0
    assert never == 0


def test_pairs_that_did_not_occur() -> None:
    table = {"user": [1, 1, 2], "item": [1, 2, 1], "rating": [0.0, 0.0, 0.0]}
    options: dict[str, Any] = {"key": 0, "num_epochs": 1, "batch_size": 1, "objective": "bpr"}
    with pytest.raises(ValueError, match="there is none of a user who could have another item"):
        fit_map(MatrixFactorization(1), Ratings.from_frame(table), **options)
    none = Ratings.from_frame(table)
    some = Ratings.from_frame(table | {"rating": [1.0, 0.0, 1.0]})
    with pytest.raises(ValueError, match="validation has no rating above zero"):
        fit_map(MatrixFactorization(1), some, validation=none, **options)
