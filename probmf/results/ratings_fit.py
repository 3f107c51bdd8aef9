"""Fits of ratings: predictions, recommendations, similar items, new users, ArviZ."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from probmf.results.new_rows import add_users, extend, extend_ratings
from probmf.results.one_user import OneUserFit
from probmf.results.prediction_intervals import Mixtures
from probmf.results.predictions import Predictions, id_columns
from probmf.results.recommend import PROBABILITIES, RANKING
from probmf.results.records import History, RowMoments, Sampling, Traces
from probmf.rows.store import SIDES, Side
from probmf.settings import own_settings


@dataclass(frozen=True, eq=False, repr=False)
class RatingsFit(OneUserFit):
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
                much faster. A fit of an objective that ranks ("bpr", "warp") has none at all: its
                scores have no likelihood, by which they would be more or less certain.
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
                all levels of the ratings, or given to a fit of an objective that ranks, the pairs
                are malformed, or the ids are of another kind than the fit's.

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
        scores = self._scores
        if at_least is not None:
            self._require_likelihood("predict(at_least=...)", PROBABILITIES)
            at_least = scores.check_at_least(at_least)
        if interval is not None:
            check_interval(interval)
        if self.method.startswith(RANKING):
            interval = None
        users, items = read_pairs(pairs, self.data, user=user, item=item)
        found = scores.summary(users.codes, items.codes, interval)
        known_user, known_item = (
            scores.known("user", users.codes), scores.known("item", items.codes)
        )  # fmt: skip
        ordered = bool(self.model.likelihood.levels) and not self.model.likelihood.binary
        if not ordered:
            found = found._replace(probabilities=None)
        tail = None if at_least is None else scores.tail(users.codes, items.codes, at_least)
        return Predictions(
            **found._asdict(), levels=self.model.likelihood.levels if ordered else (),
            probability=tail, user=users.ids, item=items.ids, known_user=known_user,
            known_item=known_item, known=known_user & known_item, id_columns=id_columns(self.data),
        )  # fmt: skip

    @own_settings()
    def _reach(self, pairs: Ratings, numbers: np.ndarray) -> Float[np.ndarray, " n"]:
        """Probabilities that ratings of pairs are at least some numbers, one for each."""
        users, items = read_pairs(pairs, self.data, user=None, item=None)
        return self._scores.tail(users.codes, items.codes, numbers)

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
            A fit that knows them, with codes after those of all others, and without `moments`,
            which count sweeps that the new rows were not in.

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
        return replace(self, data=data, samples=more.samples, moments=None)

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
