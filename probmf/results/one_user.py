"""Answers of a fit about the items of one user: shares of a score, questions to ask, and ranks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from scipy.special import entr

from probmf.data import Ratings, as_generator
from probmf.results.asked import check_count, check_interval, read_some
from probmf.results.mixtures import row_blocks, tails
from probmf.results.prediction_intervals import evaluate
from probmf.results.predictions import plain_text, told_unknown, with_ids
from probmf.results.recommend import PROBABILITIES, Exclude, RecommendingFit, read_candidates
from probmf.results.scores import Column, Scores
from probmf.results.table import Tabular
from probmf.settings import own_settings


class ItemLines(Tabular):
    """Results with a line for each of some items of one user."""

    id_column: str
    #: Fields that make the lines, the items' ids first.
    _lines: ClassVar[tuple[str, ...]]
    _num_ids = 1

    def __len__(self) -> int:
        """Number of lines."""
        return len(getattr(self, self._lines[0]))

    def to_arrow(self) -> pa.Table:
        """One line per item: its id, called as in the training data, and its numbers by name.

        Raises:
            TypeError: If the kind of the ids has no Arrow type.
        """
        ids, *names = self._lines
        columns = {name: getattr(self, name) for name in names}
        return pa.table(with_ids({"item": getattr(self, ids)}, ("user", self.id_column), columns))


@dataclass(frozen=True, eq=False)
class Explanation(ItemLines):
    """A score as a sum over the user's ratings, the largest share first.

    Attributes:
        user: The user's id.
        item: The item's id.
        score: Score of the pair: `baseline` + the sum of `share` + `remainder`.
        baseline: What no rating of the user carries: the intercept, the item's bias, the prior's
            mean and the weak zeros of pairs that were not observed.
        rated: Ids of the items that the user has rated, shape (n,).
        rating: The ratings of these, as given.
        share: Contribution of each rating to the score.
        remainder: What the user's row differs from the exact mode given the items; zero up to
            rounding where a search has converged.
        id_column: Name of the column of items in the training data.
    """

    user: Any
    item: Any
    score: float
    baseline: float
    rated: np.ndarray
    rating: Float[np.ndarray, " n"]
    share: Float[np.ndarray, " n"]
    remainder: float
    id_column: str = "item"

    _lines = ("rated", "rating", "share")

    def __repr__(self) -> str:
        """The score, what all users share, and the ratings that count most."""
        parts = [
            f"{plain_text(item)} {share:+.3g}"
            for item, share in zip(self.rated[:3], self.share, strict=False)
        ]
        more = ", ..." * (len(self) > 3)
        return (
            f"Explanation({plain_text(self.user)}, {plain_text(self.item)}: score "
            f"{self.score:.4g} = {' '.join([f'{self.baseline:.4g}', *parts])}{more})"
        )


@dataclass(frozen=True, eq=False)
class Questions(ItemLines):
    """Items to ask a user about, best first.

    Attributes:
        user: The user's id.
        item: Item ids, shape (k,).
        code: Item codes.
        information: Expected information of each answer, in nats; for ratings at a few levels of
            each alone, else given the answers to the questions before it.
        known_user: False if the user has no ratings in the fit.
        id_column: Name of the column of items in the training data.
    """

    user: Any
    item: np.ndarray
    code: Int[np.ndarray, " k"]
    information: Float[np.ndarray, " k"]
    known_user: bool
    id_column: str = "item"

    _lines = ("item", "information")

    def __repr__(self) -> str:
        """The user and the first items."""
        first = ", ".join(
            f"{plain_text(item)} ({nats:.3g} nats)"
            for item, nats in zip(self.item[:5], self.information, strict=False)
        )
        more = ", ..." * (len(self) > 5) + told_unknown(self.known_user)
        return f"Questions(for {plain_text(self.user)}: {first}{more})"


def _greedy(
    variance: Float[np.ndarray, " items"],
    column: Column,
    noise: Float[np.ndarray, " items"],
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Items of the largest variance, each given the answers to those before it."""
    variance = variance.copy()
    open_ = np.ones(len(variance), bool)
    factor = np.empty((k, len(variance)))
    places, information = np.empty(k, np.int64), np.empty(k)
    for step in range(k):
        place = int(np.argmax(np.where(open_, variance, -np.inf)))
        places[step], open_[place] = place, False
        information[step] = 0.5 * np.log1p(variance[place] / noise[place])
        if step + 1 < k:
            done = factor[:step]
            left = column(place) - done[:, place] @ done
            factor[step] = left / np.sqrt(variance[place] + noise[place])
            variance = np.maximum(variance - np.square(factor[step]), 0.0)
    return places, information


def _disagreement(scores: Scores, code: int, items: np.ndarray) -> Float[np.ndarray, " items"]:
    """Entropy of the mean probabilities less the mean entropy, by item."""
    likelihood = scores.model.likelihood
    chance = np.zeros((len(items), likelihood.num_levels))
    entropy = np.zeros(len(items))
    for block, weight, scales in scores.weighted(code, items):
        scales = {name: value[:, None] for name, value in scales.items()}
        for some in row_blocks(len(items), len(block) * likelihood.num_levels):
            each = evaluate(likelihood, "level_probabilities", block[:, some], scales=scales)
            chance[some] += np.tensordot(weight, each, 1)
            entropy[some] += weight @ entr(each).sum(axis=2)
    return entr(chance).sum(axis=1) - entropy


def _precision(scores: Scores, code: int, items: np.ndarray) -> Float[np.ndarray, " items"]:
    """Mean Fisher information of a score, by item: what a Normal answer's precision would be."""
    total = np.zeros(len(items))
    for block, weight, scales in scores.weighted(code, items):
        scales = {name: value[:, None] for name, value in scales.items()}
        total += weight @ evaluate(scores.model.likelihood, "information", block, scales=scales)
    return total


@dataclass(frozen=True, eq=False)
class RankPosterior(ItemLines):
    """Ranks of items among a user's candidates, over draws of the scores; 1 is the best.

    Attributes:
        user: The user's id.
        item: Item ids, shape (n,).
        code: Item codes.
        top: Probability of a rank of at most k.
        mean: Mean rank.
        lower: Lower end of the interval of the rank.
        upper: Upper end.
        k: How many are the top.
        num_candidates: Number of items that were ranked.
        known_user: False if the user has no ratings in the fit.
        id_column: Name of the column of items in the training data.
    """

    user: Any
    item: np.ndarray
    code: Int[np.ndarray, " n"]
    top: Float[np.ndarray, " n"]
    mean: Float[np.ndarray, " n"]
    lower: Int[np.ndarray, " n"]
    upper: Int[np.ndarray, " n"]
    k: int
    num_candidates: int
    known_user: bool
    id_column: str = "item"

    _lines = ("item", "top", "mean", "lower", "upper")

    def __repr__(self) -> str:
        """The first item, and among how many it is ranked."""
        return (
            f"RankPosterior({len(self)} of {self.num_candidates:,} items for "
            f"{plain_text(self.user)}; {plain_text(self.item[0])}: rank {self.lower[0]} to "
            f"{self.upper[0]}, in the top {self.k} with probability {self.top[0]:.2g}"
            f"{told_unknown(self.known_user)})"
        )


class OneUserFit(RecommendingFit):
    """A fit of ratings that answers what is asked of one user."""

    @own_settings()
    def explain(self, user: Any, item: Any) -> Explanation:
        r"""Shares of a user's ratings in the score of an item.

        A row that is the mode given the items is a linear function of the user's ratings (for
        other than Gaussian ones of their working values), so that the score is a sum,

        .. math:: \mu + c + \sum_n (1, v)^\top C\, (1, v_n)\, w_n (r_n - \mu - c_n) / \sigma^2,

        with C the covariance of the user's row. A rating's share is what it adds to the score.

        Args:
            user: The user's id.
            item: The item's id, rated or not.

        Returns:
            The shares, the largest first; they sum to the score with `baseline` and `remainder`.

        Raises:
            ValueError: If there are several draws, an id is unknown to the fit, or its objective
                ranks.

        Example:
            >>> from probmf import MatrixFactorization, Ratings, fit_als
            >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
            >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
            >>> told = fit.explain("b", 2)
            >>> bool(abs(told.baseline + told.share.sum() + told.remainder - told.score) < 1e-6)
            True

        References:
            Hu, Koren and Volinsky (2008), Collaborative filtering for implicit feedback datasets,
            section 5.
        """
        self._require_point("explain")
        self._require_likelihood("explain")
        # At the mode x of the user's row, x = C (P m - g + sum_n w_n z_n (I_n z_n . x + s_n)), with
        # the Fisher information I_n and slope s_n of rating n, the prior's P and m, G and g of weak
        # zeros, and the covariance C = (P + G + sum_n w_n I_n z_n z_n')^-1. The score is its
        # product with the item's (1, v), and so a sum over ratings.
        asked = read_some(user, self.data.users, "user", known=True)
        wanted = read_some(item, self.data.items, "item", known=True)
        for name, found in (("user", asked), ("item", wanted)):
            if len(found.codes) != 1:
                raise ValueError(f"{name} holds {len(found.codes)} ids; give one.")
        code, own = int(asked.codes[0]), self._conditionals.ratings["user"]
        part = slice(int(own.start[code]), int(own.start[code + 1]))
        partner = own.partner[part]
        row = self._conditionals.tables["user"][code].astype(np.float64)
        table = self._conditionals.tables["item"].astype(np.float64)
        intercept = float(self._conditionals.intercept)
        design, target = table[partner], table[wanted.codes[0]]
        offset = intercept + design[:, 0]
        design[:, 0] = 1.0
        ((_, problem),) = self._conditionals.problems("user", np.asarray([code]))
        likelihood = self._conditionals.draws.model.likelihood
        scales = {name: np.asarray(value) for name, value in problem.scales.items()}
        along = design @ row
        information = evaluate(likelihood, "information", offset + along, scales=scales)
        slope = evaluate(likelihood, "slope", offset + along, own.rating[part], scales=scales)
        weight = (
            np.ones(len(partner)) if own.weight is None else own.weight[part].astype(np.float64)
        )
        ((_, roots),) = self._conditionals.roots("user", np.asarray([code]))
        # The item's direction seen through the covariance of the user's row.
        toward = roots[0].T.astype(np.float64) @ (roots[0] @ np.append(1.0, target[1:]))
        share = (design @ toward) * weight * (information * along + slope)
        baseline = intercept + target[0]
        if problem.center is not None:
            baseline += toward @ (np.asarray(problem.precision)[0] * np.asarray(problem.center)[0])
        if problem.gram_shift is not None:
            baseline -= toward @ np.asarray(problem.gram_shift, np.float64)
        score = intercept + target[0] + row[0] + row[1:] @ target[1:]
        order = np.argsort(-np.abs(share), kind="stable")
        rows = np.flatnonzero(self.data.user == code)
        given = dict(
            zip(self.data.item[rows].tolist(), self.data.rating[rows].tolist(), strict=True)
        )
        return Explanation(
            asked.ids[0], wanted.ids[0], float(score), float(baseline),
            self.data.items.ids[partner[order]],
            np.array([given[item] for item in partner[order].tolist()]), share[order],
            float(score - baseline - share.sum()), self.data.items.column,
        )  # fmt: skip

    def _require_point(self, method: str) -> None:
        if not self.is_point:
            raise ValueError(
                f"{method} is for point fits, such as of fit_als; this fit has "
                f"{self.num_chains} chains of {self.num_draws:,} draws."
            )

    @own_settings()
    def choose_next(
        self,
        user: Any,
        k: int = 1,
        *,
        candidates: Any = None,
        exclude: Exclude = "seen",
    ) -> Questions:
        r"""The items whose ratings by a user would tell the most, in nats.

        The expected information of an answer is the mutual information of the answer and what is
        uncertain. For Gaussian ratings it is :math:`\tfrac12 \log(1 + v / \sigma^2)` with v the
        score's variance. Of a point fit v is that of the user's row given the items, and this is
        exact; of many draws v is the variance over the draws, :math:`\sigma^2` its mean, and this
        takes the scores as Gaussian and counts what the answer tells of the item, too. For
        levels it is the entropy of the mean probabilities less the mean entropy (BALD; Houlsby et
        al. 2011); for counts that of a Normal answer with the mean Fisher information of the score
        in place of :math:`1 / \sigma^2`. Of k such questions each is chosen given the answers to
        those before it, which need not be known; of levels each is judged alone.

        Args:
            user: An id; one that the fit does not know has the prior's row.
            k: How many, at most the number of candidates that are left.
            candidates: Ids of the items to choose from; None for all.
            exclude: "seen" leaves out the training pairs, Ratings those pairs, a list of item ids
                these items and the training pairs, None nothing.

        Returns:
            The items, best first.

        Raises:
            TypeError: If k is no whole number, or `exclude` is of the wrong type.
            ValueError: If k is out of range, an item is unknown, or no candidate is left; of fits
                of objectives that rank.

        Example:
            >>> from probmf import MatrixFactorization, Ratings, fit_als
            >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
            >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
            >>> fit.choose_next("b").item.tolist()
            [2]

        Cost: O(items d^2) of a point fit, O(S items (d + k)) of S draws. Memory is bounded.
        """
        self._require_likelihood("choose_next")
        data, likelihood = self.data, self.model.likelihood
        asked, items = read_candidates(data, user, candidates, exclude, self._seen)
        k = check_count(k, len(items), "candidates that are left")
        code = int(asked.codes[0])
        if likelihood.normal:
            variance, column, scales = self._scores.covariance(code, items)
            noise = np.full(len(items), np.mean(np.square(scales["noise_scale"])))
            places, information = _greedy(variance, column, noise, k)
        elif likelihood.levels:
            every = _disagreement(self._scores, code, items)
            places = np.argsort(-every, kind="stable")[:k]
            information = every[places]
        else:
            variance, column, _ = self._scores.covariance(code, items)
            places, information = _greedy(
                variance, column, 1.0 / _precision(self._scores, code, items), k
            )
        return Questions(
            asked.ids[0], data.items.ids[items[places]], items[places], information,
            bool(self._scores.known("user", asked.codes)[0]), data.items.column,
        )  # fmt: skip

    @own_settings()
    def rank_posterior(
        self,
        user: Any,
        items: Any = None,
        k: int | None = None,
        *,
        candidates: Any = None,
        exclude: Exclude = "seen",
        interval: float = 0.9,
        num_draws: int = 1000,
        key: ArrayLike | None = None,
    ) -> RankPosterior:
        """Rank of items among a user's candidates, and the probability of the top k.

        At each draw all candidates are ranked by their scores, that is by the expected rating. The
        draws are those of the fit; those of a point fit are drawn from the rows' conditionals, as
        by `rank_by="thompson"`.

        Args:
            user: An id.
            items: Ids of the candidates to report; None for the k that are most probably among
                the top k.
            k: How many are the top; None for ten, or all candidates if there are fewer.
            candidates: Ids of the items to rank; None for all.
            exclude: "seen" leaves out the training pairs, Ratings those pairs, a list of item ids
                these items and the training pairs, None nothing.
            interval: Probability of the interval of the rank.
            num_draws: How many draws of a point fit.
            key: JAX key or int, for a point fit (for many draws it matters to unknown users only).

        Returns:
            The ranks, 1 for the best, in the order of `items` or by the probability of the top k.

        Raises:
            TypeError: If k is no whole number, or `exclude` is of the wrong type.
            ValueError: If k is out of range, an item is unknown or no candidate, or a key is
                missing; of fits of objectives that rank.

        Example:
            >>> from probmf import MatrixFactorization, Ratings, fit_als
            >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
            >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
            >>> ranks = fit.rank_posterior("b", [1, 2], k=1, exclude=None, key=0)
            >>> round(ranks.top.sum(), 6)
            np.float64(1.0)

        Cost: O(S items (d + log items)) for S draws, twice; memory S x the items reported.
        """
        self._require_likelihood("rank_posterior", PROBABILITIES)
        check_interval(interval)
        asked, among = read_candidates(self.data, user, candidates, exclude, self._seen)
        k = check_count(k, len(among), "candidates that are left")
        data = self.data
        if self._scores.is_point:
            if key is None:
                raise ValueError(
                    "rank_posterior draws the scores of a point fit at random; give key=, a JAX "
                    "key or an int."
                )
            if num_draws < 1:
                raise ValueError(f"num_draws is {num_draws}; expected a whole number, at least 1.")
        # Gone through twice, so that ranks of all items at all draws are never held.
        seed = as_generator(0 if key is None else key).integers(1 << 63)
        code = int(asked.codes[0])

        def ranks() -> Iterator[np.ndarray]:
            rng = np.random.default_rng(seed)
            for block in self._scores.draw(code, among, rng, num_draws):
                order = np.argsort(-block, axis=1, kind="stable")
                rank = np.empty(order.shape, np.int32)
                every = np.broadcast_to(np.arange(1, len(among) + 1, dtype=np.int32), order.shape)
                np.put_along_axis(rank, order, every, axis=1)
                yield rank

        if items is None:
            often = np.zeros(len(among))
            for rank in ranks():
                often += (rank <= k).sum(axis=0)
            places = np.argsort(-often, kind="stable")[:k]
        else:
            places = _places(items, among, data)
        found = np.concatenate([rank[:, places] for rank in ranks()])
        lower, upper = np.quantile(found, tails(interval), axis=0, method="inverted_cdf")
        return RankPosterior(
            asked.ids[0], data.items.ids[among[places]], among[places], (found <= k).mean(axis=0),
            found.mean(axis=0), lower, upper, k, len(among),
            bool(self._scores.known("user", asked.codes)[0]), data.items.column,
        )  # fmt: skip


def _places(items: Any, among: np.ndarray, data: Ratings) -> np.ndarray:
    codes = read_some(items, data.items, "items", known=True).codes
    places = np.minimum(np.searchsorted(among, codes), len(among) - 1)
    missing = among[places] != codes
    if missing.any():
        item = plain_text(data.items.ids[codes[int(np.argmax(missing))]])
        raise ValueError(
            f"items holds {item}, which is not among the candidates: it is none of candidates=, "
            "or excluded. Give exclude=None to rank items that were rated already."
        )
    return places
