"""Fits of ratings: predictions, recommendations, similar items, new users, ArviZ."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from probmf.data import Ratings, as_generator
from probmf.likelihoods import Likelihood
from probmf.models.factorization import MatrixFactorization
from probmf.models.sites import Sites
from probmf.results.asked import check_interval, read_pairs
from probmf.results.draw_scores import DrawScores
from probmf.results.draws import Draws
from probmf.results.fit import Fit
from probmf.results.new_rows import add_users, extend, extend_ratings
from probmf.results.one_user import (
    Explanation,
    Questions,
    RankPosterior,
    choose_next,
    explain,
    rank_posterior,
)
from probmf.results.point_scores import PointScores
from probmf.results.prediction_intervals import Mixtures
from probmf.results.predictions import Predictions, id_columns
from probmf.results.ranking import Exclusions, RankBy
from probmf.results.recommend import Exclude, Recommendations, recommend, similar
from probmf.results.records import History, RowMoments, Sampling, Traces
from probmf.results.row_conditionals import Conditionals
from probmf.results.scores import Scores
from probmf.rows.placement import Devices
from probmf.rows.store import SIDES, Side
from probmf.settings import own_settings

#: How methods begin that rank and do not predict.
RANKING = "map/ranking/"


@dataclass(frozen=True, eq=False, repr=False)
class RatingsFit(Fit):
    """A fitted factorization.

    Attributes:
        model: The model that was fitted, with the encodings of its features.
        data: The training ratings; their vocabularies give ids their codes.
        samples: Parameters by site name, each with leading (chain, draw) axes; a point fit has
            one chain of one draw. Read-only.
        method: How it was fitted, such as "als/cg".
        history: Objective and held-out error by step, or None.
        sampling: How a sampler's run went, or None. Samples of a sampler hold the scales that were
            sampled, too, and may lack rows that it integrated out.
        traces: What a Gibbs sampler noted at every sweep, or None.
        moments: Means and standard deviations of biases and factors over all its sweeps, by chain,
            or None.

    Raises:
        ValueError: If a parameter is missing, has another shape than the model gives it, or is
            not finite.
    """

    model: MatrixFactorization
    data: Ratings
    samples: Mapping[str, Float[np.ndarray, "chain draw ..."]]
    method: str
    history: History | None = None
    sampling: Sampling | None = None
    traces: Traces | None = None
    moments: RowMoments | None = None

    def __post_init__(self) -> None:
        """Check the parameters against the model and freeze them, with encodings of features."""
        object.__setattr__(self, "model", self.model.with_encoders(self.data))
        super().__post_init__()

    @property
    def ranks_only(self) -> bool:
        """True where scores order items and are no ratings.

        Unobserved pairs count as zeros, or `fit_map` lowered an objective that ranks.
        """
        return self.model.unobserved_weight > 0 or self.method.startswith(RANKING)

    @property
    def _sites_of(self) -> str:
        return f" for {self.data.num_users:,} users and {self.data.num_items:,} items"

    @property
    def site_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the sites that the fit must have, and of those that it has besides."""
        samples = self.samples
        users, items = self.data.num_users, self.data.num_items
        shapes: dict[str, tuple[int, ...]] = {"intercept": ()}
        shapes |= self.model.site_shapes(users, items) | self.model.learned_shapes
        shapes |= self.model.mean_shapes
        if self.sampling is not None:
            shapes = {
                site: shape
                for site, shape in shapes.items()
                if site in samples or not shape or site in self.model.learned_shapes
            }
            if not self.model.learns_intercept and "intercept" not in samples:
                del shapes["intercept"]
        for name in self.model.random_scales():
            if name in samples:
                own = self.model.likelihood.scale_sites()
                law: Any = own[name] if name in own else getattr(self.model, name)
                shapes[name] = tuple(law.batch_shape + law.event_shape)
        return shapes

    @classmethod
    def from_point(
        cls,
        model: MatrixFactorization,
        data: Ratings,
        parameters: Mapping[str, ArrayLike],
        *,
        method: str,
        history: History | None = None,
    ) -> "RatingsFit":
        """A fit of one draw.

        Args:
            model: The model.
            data: The training ratings.
            parameters: Point values by site name, `intercept` included.
            method: How they were found.
            history: How the search went.

        Returns:
            The fit.

        Raises:
            ValueError: If a parameter is missing, misshapen or not finite.
        """
        samples = {name: np.asarray(value)[None, None] for name, value in parameters.items()}
        return cls(model, data, samples, method, history)

    @property
    def _model_words(self) -> str:
        return f"{self.model.num_factors} factors, {type(self.model.likelihood).__name__}"

    @property
    def _data_words(self) -> str:
        return (
            f"{self.data.num_ratings:,} ratings, {self.data.num_users:,} users, "
            f"{self.data.num_items:,} items"
        )

    # What every prediction needs is kept after its first use; the class is frozen otherwise.
    @cached_property
    def _conditionals(self) -> Conditionals:
        return Conditionals(self._draws)

    @cached_property
    def _draws(self) -> Draws:
        return Draws(self.model, self.data, self.samples)

    @cached_property
    def _scores(self) -> Scores:
        return PointScores(self._conditionals) if self.is_point else DrawScores(self._draws)

    @cached_property
    def _seen(self) -> Exclusions:
        return Exclusions.of_ratings(self.data)

    @own_settings()
    def predict(
        self,
        pairs: Any,
        *,
        interval: float | None = 0.9,
        at_least: float | None = None,
        user: str | None = None,
        item: str | None = None,
        user_features: Any = None,
        item_features: Any = None,
        key: ArrayLike | None = None,
    ) -> Predictions:
        r"""Predict the ratings of pairs.

        The score of a pair is :math:`\eta = \mu + b + c + u \cdot v` at the fitted values. A
        point fit's uncertainty is that of the user's row and of the item's row, each given the
        other side (plug-in; `docs/predicting.md`), to which a Gaussian rating adds its noise.
        Users and items that the fit does not know get the prior and are flagged.

        With many draws `mean` is the average over the draws, and `sd`, `lower` and `upper` are
        those of the mixture of the draws' ratings, noise included (for yes/no data quantiles of
        the probability).

        Args:
            pairs: Ratings; a data frame or dict with a column of users and one of items; a tuple
                (users, items) of two sequences; or a list of (user, item) tuples.
            interval: Probability of the central interval; None leaves uncertainty out, which is
                much faster.
            at_least: Also tell the `probability` of a rating of at least this, noise included: of
                a point fit with the score's plug-in variance, otherwise averaged over the draws.
            user: Name of the column of users, in a table; None for that of the training ratings.
            item: The same of items.
            user_features: Table of what is known of users that the fit does not know; see `extend`.
            item_features: The same for items.
            key: JAX key or int, for features and many draws.

        Returns:
            The predictions, in the order of the pairs.

        Raises:
            TypeError: If the pairs are of none of these forms.
            ValueError: If the interval is not in (0, 1), `at_least` is not finite or above
                all levels of the ratings, the pairs are malformed, or the ids are of another kind
                than the fit's.

        Example:
            >>> from probmf import MatrixFactorization, Ratings, fit_als
            >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
            >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
            >>> predicted = fit.predict([("b", 2), ("nobody", 1)])
            >>> predicted.known_user.tolist()
            [True, False]

        Cost: O(n d) without an interval. With one, an exact half-sweep over the users and items
        asked about, O(d^3) each and O(d^2) per training rating of theirs, and O(n d^2). With S
        draws O(S n d) time; memory is bounded.
        """
        if user_features is not None or item_features is not None:
            known = self.extend(user_features=user_features, item_features=item_features, key=key)
            return known.predict(pairs, interval=interval, at_least=at_least, user=user, item=item)
        return _predict(
            self._scores, pairs, interval=interval, user=user, item=item, at_least=at_least
        )

    @own_settings()
    def _reach(self, pairs: Ratings, numbers: np.ndarray) -> Float[np.ndarray, " n"]:
        """Probabilities that ratings of pairs are at least some numbers, one for each."""
        users, items = read_pairs(pairs, self.data, user=None, item=None)
        return self._scores.tail(users.codes, items.codes, numbers)

    @own_settings()
    def recommend(
        self,
        users: Any = None,
        k: int | None = None,
        *,
        exclude: Exclude = "seen",
        candidates: Any = None,
        rank_by: RankBy = "mean",
        interval: float | None = None,
        at_least: float | None = None,
        key: ArrayLike | None = None,
        user_features: Any = None,
        item_features: Any = None,
        devices: Devices | None = None,
    ) -> Recommendations:
        """The k best items of each user.

        Args:
            users: One id, several ids, or None for all users of the fit. Unknown users get the
                prior's ranking and are flagged.
            k: How many items, at most the number of candidates; None for ten, or all if there are
                fewer.
            exclude: "seen" leaves out the pairs of the training data, Ratings those pairs (of users
                whom the fit does not know, too), a list of item ids these items for everybody and
                the training pairs, None nothing.
            candidates: Ids of the items to choose from; None for all.
            rank_by: "mean"; the "lower" or "upper" end of the interval of the score, that is of
                the rating without its noise; "thompson", a joint draw of the scores (which
                needs a key; with many draws, one of them for each user); or "probability", that of
                a rating of at least `at_least`.
            interval: Probability of the intervals to report beside the score; None for none
                (with "lower" and "upper" 0.9 is ranked by).
            at_least: The least rating that is high enough, for "probability"; with any order the
                `probability` of such a rating is reported.
            key: JAX key or int, for "thompson", or for features and many draws.
            user_features: Table of what is known of users that the fit does not know; see `extend`.
            item_features: The same for items, which are then candidates.
            devices: Devices that share the users, each with all items: a number of them, JAX
                devices of this process, or a `jax.sharding.Mesh` with an axis 'row'; None ranks on
                JAX's default one. With many draws, by "mean" and "probability" only.

        Returns:
            The recommendations, one line per user. A user with fewer than k items left has None
            in the last places.

        Raises:
            TypeError: If k is no whole number, or `exclude` or devices are of the wrong type.
            ValueError: If k is out of range, an item is unknown, an id is of another kind than the
                fit's, every candidate of a user who was named is excluded, or there are not so many
                devices or nothing for them to do.

        Example:
            >>> from probmf import MatrixFactorization, Ratings, fit_als
            >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
            >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
            >>> fit.recommend("b", k=1).item.tolist()
            [[2]]

        Cost: O(users x items x d) by "mean", some 130,000 users a second for 3,700 items and 64
        factors on two cores; O(users x items x d^2) otherwise. With S draws O(S x users x items x
        d). Memory is bounded.
        """
        if user_features is not None or item_features is not None:
            first, key = _split(key)
            known = self.extend(user_features=user_features, item_features=item_features, key=first)
            return known.recommend(
                users, k, exclude=exclude, candidates=candidates, rank_by=rank_by,
                interval=interval, at_least=at_least, key=key, devices=devices,
            )  # fmt: skip
        return recommend(
            self._scores, users, k, exclude=exclude, candidates=candidates, rank_by=rank_by,
            interval=interval, key=key, at_least=at_least, devices=devices, seen=self._seen,
        )  # fmt: skip

    @own_settings()
    def similar_items(self, items: Any, k: int | None = None) -> Recommendations:
        r"""The items whose factors point most nearly the same way.

        The score is the cosine :math:`v \cdot v' / |v| |v'|`; biases have no part in it.
        With many draws it is averaged over them.

        Args:
            items: One item id or several.
            k: How many, at most the number of items less one; None for ten, or all if there are
                fewer.

        Returns:
            One line per item given (its id in the field `user`), the scores being cosines.

        Raises:
            TypeError: If k is no whole number.
            ValueError: If an item is unknown, k is out of range, or the model has no factors.

        Example:
            >>> from probmf import MatrixFactorization, Ratings, fit_als
            >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
            >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
            >>> fit.similar_items(1, k=1).item.tolist()
            [[2]]
        """
        return similar(self._scores, "item", items, k)

    @own_settings()
    def similar_users(self, users: Any, k: int | None = None) -> Recommendations:
        """The users whose factors point most nearly the same way; see `similar_items`.

        Args:
            users: One user id or several.
            k: How many, at most the number of users less one; None for ten, or all if there are
                fewer.

        Returns:
            One line per user given, with the ids of the others in the field `item`, the scores
            being cosines.

        Raises:
            TypeError: If k is no whole number.
            ValueError: If a user is unknown, k is out of range, or the model has no factors.

        Example:
            >>> from probmf import MatrixFactorization, Ratings, fit_als
            >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
            >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
            >>> fit.similar_users("a", k=1).item.tolist()
            [['b']]
        """
        return similar(self._scores, "user", users, k)

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
        self._require_likelihood("explain")
        self._require_point("explain")
        return explain(self._conditionals, self.data, user, item)

    @own_settings()
    def vectors(self, side: Side) -> Float[np.ndarray, "rows d"]:
        r"""Rows of one side with the biases folded in, for an index of nearest neighbours.

        Of a user :math:`(\mu + b, 1, u)` and of an item :math:`(1, c, v)`, whose inner product is
        the score. An index by inner product finds the items of `recommend`.

        Args:
            side: "user" or "item".

        Returns:
            One row for each code, float32, of length 2 + `num_factors`.

        Raises:
            ValueError: If the side is neither, or there are several draws, whose mean score is no
                product of two vectors.

        Example:
            >>> from probmf import MatrixFactorization, Ratings, fit_als
            >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
            >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
            >>> scores = fit.vectors("user") @ fit.vectors("item").T
            >>> bool(abs(scores[1, 1] - fit.predict([("b", 2)], interval=None).mean[0]) < 1e-5)
            True
        """
        if side not in SIDES:
            raise ValueError(f"side is {side!r}; expected 'user' or 'item'.")
        self._require_point("vectors")
        rows = self._conditionals.tables[side][:-1].astype(np.float64)
        ones = np.ones((len(rows), 1))
        if side == "user":
            bias = rows[:, :1] + float(self._conditionals.intercept)
            return np.hstack([bias, ones, rows[:, 1:]]).astype(np.float32)
        return np.hstack([ones, rows]).astype(np.float32)

    def _require_likelihood(self, method: str) -> None:
        if self.method.startswith(RANKING):
            raise ValueError(
                f"{method} takes rows for what is most likely given their ratings, and this "
                f"fit lowered objective={self.method.removeprefix(RANKING)!r}, under which no "
                "rating is likely or unlikely. Fit again with the new pairs, or use fit_als of a "
                "model with unobserved_weight."
            )

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
        return choose_next(
            self._scores, user, k, candidates=candidates, exclude=exclude, seen=self._seen
        )

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
                missing.

        Example:
            >>> from probmf import MatrixFactorization, Ratings, fit_als
            >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
            >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
            >>> ranks = fit.rank_posterior("b", [1, 2], k=1, exclude=None, key=0)
            >>> round(ranks.top.sum(), 6)
            np.float64(1.0)

        Cost: O(S items (d + log items)) for S draws, twice; memory S x the items reported.
        """
        return rank_posterior(
            self._scores, user, items, k, candidates=candidates, exclude=exclude,
            interval=interval, num_draws=num_draws, key=key, seen=self._seen,
        )  # fmt: skip

    @own_settings()
    def fold_in(
        self,
        new_ratings: Ratings,
        *,
        key: ArrayLike | None = None,
        user_scale: ArrayLike | None = None,
        user_bias_scale: ArrayLike | None = None,
    ) -> "RatingsFit":
        """Add users from their ratings, the items held where they are.

        Each user in `new_ratings` gets the exact mode of its row given the items; users that the
        fit has already are solved again with the new ratings added (a pair rated twice keeps
        the new rating). Nothing else changes and nothing is retrained. With many draws a row is
        drawn at each of them, given that draw's items and scales: for Gaussian ratings exactly,
        otherwise by 32 Metropolis steps from the Laplace approximation. What the new ratings tell
        of the items is left out.

        Args:
            new_ratings: Ratings of known items by new or known users.
            key: JAX key or int, needed for many draws.
            user_scale: Prior scale of the new users' factors, one number or one for each new user
                in the order of `new_ratings.users`; needed only if the model has one per user.
            user_bias_scale: The same for their biases.

        Returns:
            A fit that knows the new users, with codes after those of all others.

        Raises:
            TypeError: If `new_ratings` is not Ratings.
            ValueError: If an item is unknown to the fit, a rating does not suit the likelihood, or
                scales are missing, or many draws need a key; of fits of objectives that rank.

        Warns:
            RuntimeWarning: If Metropolis steps were accepted too rarely to be relied upon.

        Example:
            >>> from probmf import MatrixFactorization, Ratings, fit_als
            >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
            >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
            >>> new = Ratings.from_frame({"user": ["c"], "item": [2], "rating": [1.0]})
            >>> fit.fold_in(new).recommend("c", k=1).item.tolist()
            [[1]]

        Cost: O(n d^2) for the n ratings of these users and O(d^3) per user, at each draw, besides
        sorting the training ratings anew. Memory beyond that of the result is bounded.
        """
        self._require_likelihood("fold_in")
        scales = {"user_scale": user_scale, "user_bias_scale": user_bias_scale}
        if not self.is_point and key is None:
            raise ValueError(
                "fold_in draws the new users' rows at each draw of the fit; give key=, a JAX "
                "key or an int."
            )
        rng = None if self.is_point or key is None else as_generator(key)
        more = add_users(self._draws, new_ratings, scales, rng)
        return replace(self, model=more.model, data=more.data, samples=more.samples, moments=None)

    @own_settings()
    def extend(
        self,
        *,
        user_features: Any = None,
        item_features: Any = None,
        key: ArrayLike | None = None,
    ) -> "RatingsFit":
        r"""Add users and items of whom only features are known.

        Their rows are those of the prior given the features x, :math:`N(f(x), s^2)`: of a point fit
        the mean (predictions know of the variance), of many draws one draw at each. They have no
        rating and are flagged as unknown. Ratings of such users can be folded in afterwards.

        Args:
            user_features: A table with a column of ids, called as in the training data or "user",
                and the columns that the model encodes. Users that the fit knows stay as they are.
            item_features: The same for items.
            key: JAX key or int, needed for many draws.

        Returns:
            A fit that knows them, with codes after those of all others.

        Raises:
            TypeError: If one is no table, or a column has another type than in training.
            ValueError: If the model has no prior mean of that side, a value is missing or was not
                there in training (see `Features`), scales are the rows' own, or a key is missing.

        Example:
            >>> from probmf import Linear, MatrixFactorization, Ratings, fit_als
            >>> table = {"user": ["a", "b", "c"], "item": [1, 1, 1], "rating": [5.0, 3.0, 4.0]}
            >>> ages = {"user": ["a", "b", "c"], "age": [20, 60, 40]}
            >>> ratings = Ratings.from_frame(table, user_features=ages)
            >>> fit = fit_als(MatrixFactorization(0, user_mean=Linear()), ratings, key=0)
            >>> more = fit.extend(user_features={"user": ["y", "z"], "age": [25, 55]})
            >>> young, old = more.predict([("y", 1), ("z", 1)]).mean
            >>> bool(young > old)
            True
        """
        data = extend_ratings(self.model, self.data, user_features, item_features)
        if not self.is_point and key is None:
            raise ValueError(
                "extend draws the new rows at each draw of the fit; give key=, a JAX key or an int."
            )
        more = extend(
            self._draws, data, None if self.is_point or key is None else as_generator(key)
        )
        return replace(self, data=data, samples=more.samples)

    _response_name = "rating"

    def _sites(self) -> Sites:
        return self.model.sites(self.data)

    def _observed(self) -> np.ndarray:
        return self.data.rating

    def _observed_coords(self) -> dict[str, tuple[str, np.ndarray]]:
        names = self._sites().labels
        return {
            "rated_user": ("rating_row", names["user"][self.data.user]),
            "rated_item": ("rating_row", names["item"][self.data.item]),
        }

    def _training_scores(self) -> tuple[Likelihood, Mixtures, np.ndarray | None]:
        mixtures = DrawScores(self._draws).mixtures(self.data.user, self.data.item)
        return self.model.likelihood, mixtures, self.data.weight


def _split(key: ArrayLike | None) -> tuple[int | None, int | None]:
    """Two seeds from one key."""
    if key is None:
        return None, None
    first, second = as_generator(key).integers(1 << 31, size=2)
    return int(first), int(second)


def _predict(
    scores: Scores, pairs: Any, *, interval: float | None, user: str | None, item: str | None,
    at_least: float | None,
) -> Predictions:  # fmt: skip
    """Predict pairs; see `RatingsFit.predict`."""
    if at_least is not None:
        at_least = scores.check_at_least(at_least)
    if interval is not None:
        check_interval(interval)
    users, items = read_pairs(pairs, scores.data, user=user, item=item)
    found = scores.summary(users.codes, items.codes, interval)
    known_user, known_item = scores.known("user", users.codes), scores.known("item", items.codes)
    likelihood = scores.model.likelihood
    ordered = bool(likelihood.levels) and not likelihood.binary
    if not ordered:
        found = found._replace(probabilities=None)
    return Predictions(
        **found._asdict(), levels=likelihood.levels if ordered else (),
        probability=None if at_least is None else scores.tail(users.codes, items.codes, at_least),
        user=users.ids, item=items.ids, known_user=known_user, known_item=known_item,
        known=known_user & known_item, id_columns=id_columns(scores.data),
    )  # fmt: skip
