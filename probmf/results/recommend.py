"""The best items for each user, and the items most like an item."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import pyarrow as pa
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from probmf.data import Ratings, as_generator, encode_pairs
from probmf.data.column import objects
from probmf.data.rating_summary import headline_count
from probmf.models.factorization import MatrixFactorization
from probmf.results.asked import Asked, check_count, check_interval, read_some
from probmf.results.draw_scores import DrawScores
from probmf.results.draws import Draws
from probmf.results.fit import Fit
from probmf.results.point_scores import PointScores
from probmf.results.prediction_intervals import Summary
from probmf.results.predictions import id_columns, plain_text, told_unknown, with_ids
from probmf.results.ranking import Exclusions, Order, RankBy
from probmf.results.row_conditionals import Conditionals
from probmf.results.scores import Scores
from probmf.results.table import Tabular
from probmf.rows.placement import Devices, line_devices
from probmf.rows.store import Side
from probmf.settings import own_settings

#: Items that are not offered: the training pairs, other pairs, a list of item ids, or nothing.
type Exclude = Ratings | Literal["seen"] | Collection[Any] | None


#: How methods begin that rank and do not predict.
RANKING = "map/ranking/"
#: What needs a likelihood, and what to do without: modes of rows, and probabilities.
MODES = "rows for what is most likely given their ratings", "Fit again with the new pairs"
PROBABILITIES = "probabilities of scores or ratings", "Take the plain order of the scores"


@dataclass(frozen=True, eq=False)
class Recommendations(Tabular):
    """The k best items of each user, best first.

    Attributes:
        user: User ids, shape (users,).
        item: Item ids, shape (users, k); None where a user has fewer than k items left.
        code: Item codes, shape (users, k); -1 where there is none. For `metrics.recall_at_k`.
        score: Expected rating (probability for yes/no data), NaN where there is no item. Of a
            point fit that of `predict` without an interval: at the fit's values, averaged over the
            prior of users and items without ratings.
        lower: Lower end of the interval, or None if not asked for.
        upper: Upper end of the interval, or None.
        known_user: False for users without ratings in the fit, who get the prior's ranking.
        probability: That the rating is at least `at_least`, or None if not asked for.
        id_columns: Names of the columns of users and items in the training data.
    """

    user: np.ndarray
    item: np.ndarray
    code: Int[np.ndarray, "users k"]
    score: Float[np.ndarray, "users k"]
    lower: Float[np.ndarray, "users k"] | None
    upper: Float[np.ndarray, "users k"] | None
    known_user: Bool[np.ndarray, " users"]
    probability: Float[np.ndarray, "users k"] | None = None
    id_columns: tuple[str, str] = ("user", "item")

    def __len__(self) -> int:
        """Number of users."""
        return len(self.user)

    def __repr__(self) -> str:
        """Number of lines, the first one, and the number of users without ratings."""
        found = self.code[0] >= 0
        best = [
            f"{plain_text(item)} ({score:.4g})"
            for item, score in zip(self.item[0][found], self.score[0][found], strict=True)
        ]
        first = ", ".join(best[:5]) + ", ..." * (len(best) > 5)
        whom = plain_text(self.user[0])
        if len(self) > 1:
            whom = f"each of {len(self):,}; for {whom}"
        return (
            f"Recommendations({headline_count(self.code.shape[1], 'item')} for {whom}: "
            f"{first or 'nothing left'}"
            f"{told_unknown(self.known_user)})"
        )

    def to_arrow(self) -> pa.Table:
        """One line per recommendation, with its rank from 1; empty places are left out.

        Returns:
            Columns of users and items, called as in the training data, "rank", "score", and
            "lower", "upper" and "probability" if there are any.

        Raises:
            TypeError: If the kind of the ids has no Arrow type.
        """
        users, places = np.nonzero(self.code >= 0)
        columns: dict[str, Any] = {"rank": places + 1, "score": self.score[users, places]}
        for name in ("lower", "upper", "probability"):
            values = getattr(self, name)
            if values is not None:
                columns[name] = values[users, places]
        ids = {"user": self.user[users], "item": self.item[users, places]}
        return pa.table(with_ids(ids, self.id_columns, columns))

    _num_ids = 2


class RecommendingFit(Fit):
    """A fit of ratings that recommends."""

    model: MatrixFactorization
    data: Ratings

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

    def _require_likelihood(self, asked: str, words: tuple[str, str] = MODES) -> None:
        """Refuse a fit of an objective that ranks; words on what is taken, and what to do."""
        if self.method.startswith(RANKING):
            raise ValueError(
                f"{asked} takes {words[0]}, and this fit lowered "
                f"objective={self.method.removeprefix(RANKING)!r}, under which no rating is likely "
                f"or unlikely. {words[1]}, or use fit_als of a model with unobserved_weight."
            )

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
                devices or nothing for them to do; of fits of objectives that rank, if anything but
                the order of the scores is asked for.

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
        if rank_by != "mean" or interval is not None or at_least is not None:
            self._require_likelihood(
                "recommend with an interval, at_least, or another order than rank_by='mean'",
                PROBABILITIES,
            )
        if user_features is not None or item_features is not None:
            first, key = _split(key)
            known: Any = cast(Any, self).extend(
                user_features=user_features, item_features=item_features, key=first
            )
            return cast(
                Recommendations,
                known.recommend(
                    users, k, exclude=exclude, candidates=candidates, rank_by=rank_by,
                    interval=interval, at_least=at_least, key=key, devices=devices,
                ),
            )  # fmt: skip
        if at_least is not None:
            at_least = self._scores.check_at_least(at_least)
        order = _read_order(rank_by, interval, key, at_least)
        shared, data = line_devices(devices), self.data
        if users is None:
            asked = Asked(data.users.ids, np.arange(data.num_users, dtype=np.int32))
        else:
            asked = read_some(users, data.users, "users")
        choice = read_choice(candidates, exclude, data)
        items, k = choice.items, choice.count(k)
        exclusions = read_exclusions(choice.exclude, asked, data, self._seen)
        if exclusions is not None and len(items) < data.num_items:
            exclusions = exclusions.among(items, data.num_items)
        places, mean = self._scores.best(asked.codes, items, k, exclusions, order, shared)
        code = np.where(places < 0, -1, items[places])
        filled = code >= 0
        if users is not None and not filled[:, 0].all():
            user = plain_text(asked.ids[int(np.argmin(filled[:, 0]))])
            raise ValueError(
                f"All {len(items):,} candidates are excluded for user {user}. Give other "
                "candidates, or exclude=None to allow items that were rated already."
            )
        pairs = np.broadcast_to(asked.codes[:, None], code.shape)[filled], code[filled]
        found = self._scores.summary(*pairs, None) if mean is None else Summary(mean[filled])
        if interval is not None:
            found = self._scores.summary(*pairs, interval)._replace(mean=found.mean)
        probability = None if at_least is None else self._scores.tail(*pairs, at_least)

        def by_place(values: np.ndarray | None) -> Any:
            if values is None:
                return None
            column = np.full(code.shape, np.nan)
            column[filled] = values
            return column

        return Recommendations(
            user=asked.ids, item=_ids(data, code), code=code, score=by_place(found.mean),
            lower=by_place(found.lower), upper=by_place(found.upper),
            known_user=self._scores.known("user", asked.codes), probability=by_place(probability),
            id_columns=id_columns(data),
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
        return self._similar("item", items, k)

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
        return self._similar("user", users, k)

    def _similar(self, side: Side, ids: Any, k: int | None) -> Recommendations:
        """The rows of a side whose factors point most nearly the same way, and their cosines."""
        data = self.data
        if not self.model.num_factors:
            raise ValueError(f"similar_{side}s compares factors, and this model has num_factors=0.")
        vocabulary = data.users if side == "user" else data.items
        asked = read_some(ids, vocabulary, f"{side}s", known=True)
        count = len(vocabulary)
        if count == 1:
            raise ValueError(
                f"The fit knows one {side} only, so there is nothing to compare it with."
            )
        k = check_count(k, count - 1, f"other {side}s")
        every = np.arange(count)
        own = Exclusions.from_pairs(every, every, count).for_lines(asked.codes)
        code, cosine = self._scores.similar(side, asked.codes, k, own)
        return Recommendations(
            user=asked.ids, item=vocabulary.ids[code], code=code, score=cosine,
            lower=None, upper=None, known_user=self._scores.known(side, asked.codes),
            id_columns=(vocabulary.column, f"similar {vocabulary.column}"),
        )  # fmt: skip


def _split(key: ArrayLike | None) -> tuple[int | None, int | None]:
    """Two seeds from one key."""
    if key is None:
        return None, None
    first, second = as_generator(key).integers(1 << 31, size=2)
    return int(first), int(second)


def _read_order(
    rank_by: RankBy, interval: float | None, key: ArrayLike | None, at_least: float | None
) -> Order:
    """The order of a ranking, its arguments checked."""
    if rank_by not in get_args(RankBy):
        names = ", ".join(map(repr, get_args(RankBy)))
        raise ValueError(f"rank_by is {rank_by!r}; expected one of {names}.")
    if rank_by == "thompson" and key is None:
        raise ValueError("rank_by='thompson' draws at random; give key=, a JAX key or an int.")
    if rank_by == "probability" and at_least is None:
        raise ValueError(
            "rank_by='probability' ranks by the probability of a rating that is high enough; give "
            "at_least=, the least rating that is."
        )
    if interval is not None:
        check_interval(interval)
    return Order(
        rank_by,
        0.9 if interval is None else interval,
        as_generator(key) if rank_by == "thompson" and key is not None else None,
        at_least if rank_by == "probability" else None,
    )


def _ids(data: Ratings, code: np.ndarray) -> np.ndarray:
    """Ids of items; None where there is none."""
    item = data.items.ids[code]
    if (code < 0).any():
        # Dates would turn into numbers as Python objects.
        plain = list(item.flat) if item.dtype.kind in "mM" else item.ravel().tolist()
        item = objects(plain).reshape(item.shape)
        item[code < 0] = None
    return item


class ItemChoice(NamedTuple):
    """Items that may be recommended to anybody, in order, and pairs to leave out besides."""

    items: Int[np.ndarray, " some"]
    exclude: Ratings | Literal["seen"] | None
    of_what: str

    def count(self, k: object) -> int:
        """The length of the lists, if it is one that there are items for."""
        return check_count(k, len(self.items), self.of_what)


def read_choice(candidates: Any, exclude: Exclude, data: Ratings) -> ItemChoice:
    """The candidates without the items of a block list, and the pairs to leave out."""
    items, of_what = np.arange(data.num_items), "items"
    if candidates is not None:
        items = np.unique(read_some(candidates, data.items, "candidates", known=True).codes)
        of_what = "candidates"
    expected = "expected 'seen', Ratings, a list of item ids, or None"
    if isinstance(exclude, str) and exclude != "seen":
        raise ValueError(f"exclude is {exclude!r}; {expected}.")
    if exclude is None or isinstance(exclude, Ratings | str):
        return ItemChoice(items, exclude, of_what)  # type: ignore[arg-type]
    if not _is_list(exclude):
        raise TypeError(f"exclude is a {type(exclude).__name__}; {expected}.")
    blocked = list(exclude) if isinstance(exclude, set | frozenset) else exclude
    if len(blocked):
        items = np.setdiff1d(items, read_some(blocked, data.items, "exclude").codes)
    if not len(items):
        raise ValueError(
            f"exclude holds all {of_what}, so that none is left to recommend. Give a shorter list."
        )
    return ItemChoice(items, "seen", f"{of_what} that are left")


def read_exclusions(
    exclude: Ratings | Literal["seen"] | None, asked: Asked, data: Ratings, seen: Exclusions
) -> Exclusions | None:
    """The pairs that users who were asked about must not be offered."""
    if exclude is None:
        return None
    if isinstance(exclude, str) or exclude is data:
        return seen.for_lines(asked.codes)
    # By their own users, so that a user whom the fit does not know has exclusions too.
    group = exclude.users.encode(asked.ids, unknown="flag", what="the list of users")
    _, item = encode_pairs(exclude, users=exclude.users, items=data.items)
    there = item >= 0
    pairs = exclude.user[there], item[there]
    return Exclusions.from_pairs(*pairs, exclude.num_users).for_lines(group)


def read_candidates(
    data: Ratings, user: Any, candidates: Any, exclude: Exclude, seen: Exclusions
) -> tuple[Asked, Int[np.ndarray, " items"]]:
    """One user, and the codes of the candidates that are left for it, in order."""
    asked = read_some(user, data.users, "users")
    if len(asked.codes) != 1:
        raise ValueError(f"user holds {len(asked.codes)} ids; give one, and ask for each in turn.")
    items, pairs, _ = read_choice(candidates, exclude, data)
    exclusions = read_exclusions(pairs, asked, data, seen)
    if exclusions is not None:
        items = np.setdiff1d(items, exclusions.block(0, 1)[1])
    if not len(items):
        raise ValueError(
            f"All candidates are excluded for user {plain_text(asked.ids[0])}. Give other "
            "candidates, or exclude=None to allow items that were rated already."
        )
    return asked, items


def _is_list(values: Any) -> bool:
    """True for a list, set, array or series; False for a table or a single value."""
    if isinstance(values, bytes | Mapping) or hasattr(values, "columns"):
        return False
    return hasattr(values, "__len__") and getattr(values, "ndim", 1) == 1
