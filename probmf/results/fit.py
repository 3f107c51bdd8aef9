"""The one result class: a point fit is a posterior with one draw."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from probmf.data import Ratings, as_generator, encode_pairs
from probmf.models.factorization import MatrixFactorization
from probmf.results import fold_in, storage
from probmf.results.arviz import to_datatree
from probmf.results.conditional import Conditionals, SideRatings
from probmf.results.history import History
from probmf.results.predict import Predictions, intervals, score_means, score_moments
from probmf.results.recommend import (
    Exclusions,
    RankBy,
    Recommendations,
    all_rows,
    nearest_rows,
    rank_with_uncertainty,
    ratings_by_side,
    top_items,
)
from probmf.rows import Side


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted factorization.

    Attributes:
        model: The model that was fitted.
        data: The training ratings; their vocabularies give ids their codes.
        samples: Parameters by site name, each with leading (chain, draw) axes; a point fit has
            one chain of one draw.
        method: How it was fitted, such as "als/cg".
        history: Objective and held-out error by step, or None.
    """

    model: MatrixFactorization
    data: Ratings
    samples: Mapping[str, np.ndarray]
    method: str
    history: History | None = None

    @classmethod
    def from_point(
        cls,
        model: MatrixFactorization,
        data: Ratings,
        parameters: Mapping[str, ArrayLike],
        *,
        method: str,
        history: History | None = None,
    ) -> "Fit":
        """A fit of one draw.

        Args:
            model: The model.
            data: The training ratings.
            parameters: Point values by site name, `intercept` included.
            method: How they were found.
            history: How the search went.

        Returns:
            The fit.
        """
        samples = {name: np.asarray(value)[None, None] for name, value in parameters.items()}
        return cls(model, data, samples, method, history)

    def point(self) -> dict[str, np.ndarray]:
        """Parameters of a point fit by site name, without chain and draw axes."""
        return {name: value[0, 0] for name, value in self.samples.items()}

    def __repr__(self) -> str:
        """One line: what was fitted to what, and how."""
        steps = ""
        if self.history is not None and len(self.history):
            steps = (
                f", {len(self.history)} {self.history.unit}s, objective "
                f"{self.history.objective[max(self.history.best - 1, 0)]:,.6g}, "
                f"stopped by {self.history.stopped}"
            )
        return (
            f"Fit({self.method}: {self.model.num_factors} factors, "
            f"{type(self.model.likelihood).__name__}; {self.data.num_ratings:,} ratings, "
            f"{self.data.num_users:,} users, {self.data.num_items:,} items{steps})"
        )

    # The two caches below hold what every prediction needs; the class is frozen otherwise.
    @cached_property
    def _rows(self) -> Conditionals:
        values = {name: jnp.asarray(value) for name, value in self.point().items()}
        return Conditionals(self.model, values, self.data.num_users, self.data.num_items)

    @cached_property
    def _by_side(self) -> dict[Side, SideRatings]:
        return ratings_by_side(self.data)

    @cached_property
    def _device_rows(self) -> tuple[Array, Array]:
        return all_rows(self._rows)

    def predict(self, pairs: Any, *, interval: float | None = 0.9) -> Predictions:
        """Predict the ratings of pairs.

        A point fit's uncertainty is that of the user's row and of the item's row, each given the
        other side (plug-in; see `predict.score_moments`), to which a Gaussian rating adds its
        noise. Users and items that the fit does not know get the prior and are flagged.

        Args:
            pairs: Ratings, a data frame or dict with columns "user" and "item", a tuple
                (users, items) of two sequences, or a list of (user, item) tuples.
            interval: Probability of the central interval; None leaves uncertainty out, which is
                much faster.

        Returns:
            The predictions, in the order of the pairs.

        Raises:
            ValueError: If the interval is not in (0, 1) or the pairs are malformed.

        Example:
            >>> from probmf import MatrixFactorization, Ratings, fit_als
            >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
            >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
            >>> predicted = fit.predict([("b", 2), ("nobody", 1)])
            >>> predicted.known_user.tolist()
            [True, False]
        """
        if interval is not None:
            check_interval(interval)
        user, item = encode_pairs(pairs, users=self.data.users, items=self.data.items)
        user_ids, item_ids = _ids_of(pairs, user, item, self.data)
        sd = lower = upper = None
        if interval is None:
            mean = np.asarray(self.model.likelihood.mean(score_means(self._rows, user, item)))
        else:
            score, variance = score_moments(self._rows, self._by_side, user, item)
            mean, sd = map(
                np.asarray,
                self.model.likelihood.integrate(score, np.sqrt(variance), self._scales()),
            )
            lower, upper = self._interval(score, np.sqrt(variance), sd, interval)
        return Predictions(
            user=user_ids, item=item_ids, mean=mean, sd=sd, lower=lower, upper=upper,
            known_user=self._known("user", user), known_item=self._known("item", item),
        )  # fmt: skip

    def _interval(
        self, score: np.ndarray, score_sd: np.ndarray, sd: np.ndarray, interval: float
    ) -> tuple[np.ndarray, np.ndarray]:
        if not self.model.likelihood.binary:
            return intervals(score, sd, interval)
        ends = intervals(score, score_sd, interval)
        return tuple(np.asarray(self.model.likelihood.mean(end)) for end in ends)

    def _scales(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in self.model.fixed_scales().items()}

    def _known(self, side: Side, codes: np.ndarray) -> np.ndarray:
        degree = self.data.user_degree if side == "user" else self.data.item_degree
        return (codes >= 0) & (degree[codes] > 0)

    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        exclude: Ratings | Literal["seen"] | None = "seen",
        candidates: Any = None,
        rank_by: RankBy = "mean",
        interval: float | None = None,
        key: ArrayLike | None = None,
    ) -> Recommendations:
        """The k best items of each user.

        Args:
            users: One id, several ids, or None for all users of the fit. Unknown users get the
                prior's ranking and are flagged.
            k: How many items, at most the number of candidates.
            exclude: "seen" leaves out the pairs of the training data, Ratings those pairs, None
                nothing.
            candidates: Ids of the items to choose from; None for all.
            rank_by: "mean", "lower" or "upper" end of the interval of the score, or "thompson"
                (a joint draw of the scores, which needs a key).
            interval: Probability of the intervals to report beside the score; None for none
                (with "lower" and "upper" 0.9 is ranked by).
            key: JAX key or int, for "thompson".

        Returns:
            The recommendations, one line per user.

        Raises:
            ValueError: If k is out of range, an item is unknown, or every candidate of a user is
                excluded.

        Example:
            >>> from probmf import MatrixFactorization, Ratings, fit_als
            >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
            >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
            >>> fit.recommend("b", k=1).item.tolist()
            [[2]]
        """
        if rank_by not in ("mean", "lower", "upper", "thompson"):
            raise ValueError(
                f"rank_by is {rank_by!r}; expected 'mean', 'lower', 'upper' or 'thompson'."
            )
        if rank_by == "thompson" and key is None:
            raise ValueError("rank_by='thompson' draws at random; give key=, a JAX key or an int.")
        if interval is not None:
            check_interval(interval)
        codes, ids = self._user_codes(users)
        items = self._candidates(candidates)
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= len(items):
            raise ValueError(
                f"k is {k!r}; expected a whole number from 1 to {len(items)}, the number of "
                + ("candidates." if candidates is not None else "items.")
            )
        exclusions = self._exclusions(exclude, items)
        _check_something_left(codes, ids, exclusions, len(items))
        if rank_by == "mean":
            user_rows, item_rows = self._device_rows
            if len(items) < len(item_rows):
                item_rows = item_rows[items]
            places, _ = top_items(user_rows, item_rows, codes, int(k), exclusions)
        else:
            places, _ = rank_with_uncertainty(
                self._rows, self._by_side, codes, items, int(k), exclusions, rank_by=rank_by,
                interval=interval or 0.9, rng=None if key is None else as_generator(key),
            )  # fmt: skip
        code = np.where(places < 0, -1, items[places])
        return self._describe(codes, ids, code, interval)

    def _describe(
        self, codes: np.ndarray, ids: np.ndarray, code: np.ndarray, interval: float | None
    ) -> Recommendations:
        """Ids, scores and intervals of chosen items."""
        filled = code >= 0
        user, item = np.broadcast_to(codes[:, None], code.shape)[filled], code[filled]
        columns = {name: np.full(code.shape, np.nan) for name in ("score", "lower", "upper")}
        if interval is None:
            score = score_means(self._rows, user, item)
            columns["score"][filled] = np.asarray(self.model.likelihood.mean(score))
        else:
            score, variance = score_moments(self._rows, self._by_side, user, item)
            score_sd = np.sqrt(variance)
            mean, sd = self.model.likelihood.integrate(score, score_sd, self._scales())
            columns["score"][filled] = np.asarray(mean)
            ends = self._interval(score, score_sd, np.asarray(sd), interval)
            columns["lower"][filled], columns["upper"][filled] = ends
        found = self.data.items.ids[np.where(filled, code, 0)]
        if not filled.all():
            found = np.where(filled, found.astype(object), None)
        return Recommendations(
            user=ids, item=found, code=code, score=columns["score"],
            lower=None if interval is None else columns["lower"],
            upper=None if interval is None else columns["upper"],
            known_user=self._known("user", codes),
        )  # fmt: skip

    def similar_items(self, items: Any, k: int = 10) -> Recommendations:
        """The items whose factors point most nearly the same way.

        Args:
            items: One item id or several.
            k: How many, at most the number of items less one.

        Returns:
            One line per item given (its id in the field `user`), the scores being cosines.

        Raises:
            ValueError: If an item is unknown, k is out of range, or the model has no factors.
        """
        if not self.model.num_factors:
            raise ValueError("similar_items compares factors, and this model has num_factors=0.")
        codes = self.data.items.encode(_as_ids(items))
        most = self.data.num_items - 1
        if not 1 <= k <= most:
            raise ValueError(f"k is {k!r}; expected 1 to {most}, the number of other items.")
        places, cosine = nearest_rows(self._rows, codes, int(k))
        return Recommendations(
            user=self.data.items.decode(codes), item=self.data.items.ids[places], code=places,
            score=cosine, lower=None, upper=None, known_user=self._known("item", codes),
        )  # fmt: skip

    def fold_in(self, new_ratings: Ratings, **scales: ArrayLike) -> "Fit":
        """Add users from their ratings, the items held where they are.

        Each user in `new_ratings` gets the exact mode of its row given the items; users that the
        fit has already are solved again with the new ratings added (a pair rated twice keeps
        the new rating). Nothing else changes and nothing is retrained.

        Args:
            new_ratings: Ratings of known items by new or known users.
            **scales: `user_scale` and `user_bias_scale` of the new users, needed only if the
                model has one scale per user.

        Returns:
            A fit that knows the new users.

        Raises:
            ValueError: If an item is unknown to the fit, or scales are missing.

        Example:
            >>> from probmf import MatrixFactorization, Ratings, fit_als
            >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
            >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
            >>> new = Ratings.from_frame({"user": ["c"], "item": [2], "rating": [1.0]})
            >>> fit.fold_in(new).recommend("c", k=1).item.tolist()
            [[1]]
        """
        model, data, parameters = fold_in.add_users(
            self.model, self.data, self._rows.parameters, new_ratings, scales
        )
        return Fit.from_point(model, data, parameters, method=self.method, history=self.history)

    def to_arviz(self) -> Any:
        """The fit as an ArviZ DataTree with the user's own ids as coordinates.

        Returns:
            Groups `point` (every parameter, with chain and draw of length one) and
            `observed_data`.
        """
        return to_datatree(self.samples, self.data)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fit to a directory: JSON, safetensors and Parquet; never pickle.

        Args:
            path: Directory to make; an existing fit there is replaced.

        Raises:
            ValueError: If the ids or the configuration have no faithful file form.
            FileExistsError: If `path` exists and is not a saved fit.
        """
        storage.save(path, self.model, self.data, self.samples, self.method, self.history)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Fit":
        """Read a fit that `save` wrote.

        Args:
            path: The directory.

        Returns:
            The fit.

        Raises:
            ValueError: If a file is missing, truncated, altered or not of this package.
        """
        model, data, samples, method, history = storage.load(path)
        return cls(model, data, samples, method, history)

    def _user_codes(self, users: Any) -> tuple[np.ndarray, np.ndarray]:
        if users is None:
            return np.arange(self.data.num_users, dtype=np.int32), self.data.users.ids
        ids = _as_ids(users)
        return self.data.users.encode(ids, unknown="flag"), ids

    def _candidates(self, candidates: Any) -> np.ndarray:
        if candidates is None:
            return np.arange(self.data.num_items)
        codes = self.data.items.encode(_as_ids(candidates))
        if not len(codes):
            raise ValueError("candidates is empty; give item ids, or None for all items.")
        return np.unique(codes)

    def _exclusions(
        self, exclude: Ratings | Literal["seen"] | None, items: np.ndarray
    ) -> Exclusions | None:
        if exclude is None:
            return None
        if isinstance(exclude, str) and exclude != "seen":
            raise ValueError(f"exclude is {exclude!r}; expected 'seen', Ratings or None.")
        if isinstance(exclude, str):
            pairs = self.data
        else:
            pairs = exclude.recode(users=self.data.users, items=self.data.items, unknown="drop")
        user, item = pairs.user, pairs.item
        if len(items) < self.data.num_items:
            place = np.full(self.data.num_items, -1)
            place[items] = np.arange(len(items))
            user, item = user[place[item] >= 0], place[item][place[item] >= 0]
        return Exclusions.from_pairs(user, item, self.data.num_users)


def check_interval(interval: float) -> None:
    """Refuse a probability outside (0, 1).

    Args:
        interval: Probability of a central interval.

    Raises:
        ValueError: If it is out of range.
    """
    if not 0 < interval < 1:
        raise ValueError(f"interval is {interval!r}; expected a probability such as 0.9.")


def _as_ids(ids: Any) -> np.ndarray:
    """A 1-d array of ids from one id or a sequence of them."""
    if isinstance(ids, list | np.ndarray) or hasattr(ids, "__array__") or hasattr(ids, "to_list"):
        values = list(ids)
    else:
        values = [ids]
    array = np.empty(len(values), dtype=object)
    array[:] = values
    kinds = {type(value) for value in values}
    if len(kinds) == 1 and issubclass(kinds.pop(), str | int | np.generic):
        return np.asarray(values)
    return array


def _ids_of(
    pairs: Any, user: np.ndarray, item: np.ndarray, data: Ratings
) -> tuple[np.ndarray, np.ndarray]:
    """The ids that were asked about."""
    if isinstance(pairs, Ratings):
        return pairs.users.decode(pairs.user), pairs.items.decode(pairs.item)
    if isinstance(pairs, list):
        return _as_ids([pair[0] for pair in pairs]), _as_ids([pair[1] for pair in pairs])
    if isinstance(pairs, tuple):
        return _as_ids(list(pairs[0])), _as_ids(list(pairs[1]))
    return _as_ids(list(pairs["user"])), _as_ids(list(pairs["item"]))


def _check_something_left(
    codes: np.ndarray, ids: np.ndarray, exclusions: Exclusions | None, num_items: int
) -> None:
    if exclusions is None:
        return
    count = np.where(codes >= 0, exclusions.begin[codes + 1] - exclusions.begin[codes], 0)
    if (count >= num_items).any():
        user = ids[int(np.argmax(count >= num_items))]
        raise ValueError(
            f"All {num_items} candidates are excluded for user {user!r}. Give other candidates, or "
            "exclude=None to allow items that were rated already."
        )
