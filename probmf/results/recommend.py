"""The best items for each user, and the items most like an item."""

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from probmf.data import Ratings, as_generator
from probmf.data.column import objects
from probmf.results.asked import Asked, check_count, check_interval, read_some
from probmf.results.choices import Exclude, read_choice, read_exclusions
from probmf.results.draws import Draws
from probmf.results.exclusions import Exclusions
from probmf.results.plug_in import PlugIn
from probmf.results.predict import expected, summarize_draws, summarize_scores
from probmf.results.predictions import ids_to_arrow, plain_text
from probmf.results.probabilities import check_at_least, tail_probabilities, top_by_probability
from probmf.results.ranking import RankBy as RankBy
from probmf.results.ranking import top_products, top_uncertain
from probmf.results.ranking_of_draws import top_cosines, top_of_draws, unit_rows
from probmf.results.summaries import Summary


@dataclass(frozen=True, eq=False)
class Recommendations:
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
    """

    user: np.ndarray
    item: np.ndarray
    code: Int[np.ndarray, "users k"]
    score: Float[np.ndarray, "users k"]
    lower: Float[np.ndarray, "users k"] | None
    upper: Float[np.ndarray, "users k"] | None
    known_user: Bool[np.ndarray, " users"]
    probability: Float[np.ndarray, "users k"] | None = None

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
        return (
            f"Recommendations({self.code.shape[1]} items for each of {len(self):,}; "
            f"for {plain_text(self.user[0])}: {first or 'nothing left'}"
            f"{told_unknown(self.known_user)})"
        )

    def to_arrow(self) -> pa.Table:
        """One line per recommendation, with its rank from 1; empty places are left out.

        Returns:
            Columns "user", "rank", "item", "score", and "lower", "upper" and "probability" if
            there are any.

        Raises:
            TypeError: If the kind of the ids has no Arrow type.
        """
        users, places = np.nonzero(self.code >= 0)
        columns: dict[str, Any] = {
            "user": ids_to_arrow(self.user[users], "user"),
            "rank": places + 1,
            "item": ids_to_arrow(self.item[users, places], "item"),
            "score": self.score[users, places],
        }
        for name in ("lower", "upper", "probability"):
            values = getattr(self, name)
            if values is not None:
                columns[name] = values[users, places]
        return pa.table(columns)


def told_unknown(known: bool | Bool[np.ndarray, " n"]) -> str:
    """For `repr`: that users, or items, have no ratings in the fit; empty if all have some."""
    every = np.atleast_1d(known)
    unknown = int(np.sum(~every))
    if not unknown:
        return ""
    if len(every) == 1:
        return "; no ratings in the fit, so by the prior alone"
    return f"; {unknown:,} of {len(every):,} have no ratings in the fit: by the prior alone"


def recommend(
    source: PlugIn | Draws,
    users: Any,
    k: int,
    *,
    exclude: Exclude,
    candidates: Any,
    rank_by: RankBy,
    interval: float | None,
    key: ArrayLike | None,
    at_least: float | None,
    seen: Exclusions,
) -> Recommendations:
    """The k best items of each user; see `RatingsFit.recommend`."""
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
    if at_least is not None:
        at_least = check_at_least(at_least)
    if interval is not None:
        check_interval(interval)
    data = source.data if isinstance(source, Draws) else source.conditionals.data
    if users is None:
        asked = Asked(data.users.ids, np.arange(data.num_users, dtype=np.int32))
    else:
        asked = read_some(users, data.users, "users")
    choice = read_choice(candidates, exclude, data)
    items, k = choice.items, choice.count(k)
    exclusions = read_exclusions(choice.exclude, asked, data, seen)
    if exclusions is not None and len(items) < data.num_items:
        exclusions = exclusions.among(items, data.num_items)
    rng = as_generator(key) if rank_by == "thompson" and key is not None else None
    level = 0.9 if interval is None else interval
    if isinstance(source, Draws) and rank_by == "probability" and at_least is not None:
        places = top_by_probability(source, asked.codes, items, k, exclusions, at_least)
    elif isinstance(source, Draws):
        places = top_of_draws(
            source, asked.codes, items, k, exclusions, rank_by=rank_by, interval=level, rng=rng
        )
    elif rank_by == "mean":
        places, score = _best_by_mean(source, asked.codes, items, k, exclusions)
    else:
        places, _ = top_uncertain(
            source, asked.codes, items, k, exclusions, rank_by=rank_by, interval=level, rng=rng,
            at_least=at_least,
        )  # fmt: skip
    code = np.where(places < 0, -1, items[places])
    if users is not None and (code[:, 0] < 0).any():
        user = plain_text(asked.ids[int(np.argmax(code[:, 0] < 0))])
        raise ValueError(
            f"All {len(items):,} candidates are excluded for user {user}. Give other candidates, "
            "or exclude=None to allow items that were rated already."
        )
    probability = None
    if at_least is not None:
        own = np.broadcast_to(asked.codes[:, None], code.shape)[code >= 0]
        probability = tail_probabilities(source, own, code[code >= 0], at_least)
    if isinstance(source, Draws):
        found = _chosen_of_draws(source, asked, code, interval)
        return described(source, data, asked, code, found, probability)
    if rank_by != "mean":
        score = _scores(source, asked.codes, code)
    found = _chosen(source, asked, code, score, interval)
    return described(source, data, asked, code, found, probability)


def similar_items(source: PlugIn | Draws, items: Any, k: int) -> Recommendations:
    """The items whose factors point most nearly the same way; see `RatingsFit.similar_items`."""
    of = source if isinstance(source, Draws) else source.conditionals
    if not of.model.num_factors:
        raise ValueError("similar_items compares factors, and this model has num_factors=0.")
    asked = read_some(items, of.data.items, "items", known=True)
    if of.data.num_items == 1:
        raise ValueError("The fit knows one item only, so there is nothing to compare it with.")
    k = check_count(k, of.data.num_items - 1, "other items")
    every = np.arange(of.data.num_items)
    own = Exclusions.from_pairs(every, every, len(every)).for_lines(asked.codes)
    if isinstance(source, Draws):
        code, cosine = top_cosines(source, asked.codes, k, own)
    else:
        unit = unit_rows(source.conditionals.rows["item"][:, 1:])
        code, cosine = top_products(unit[asked.codes], unit, k, own)
    return Recommendations(
        user=asked.ids, item=of.data.items.ids[code], code=code, score=cosine,
        lower=None, upper=None, known_user=source.known("item", asked.codes),
    )  # fmt: skip


def _best_by_mean(
    plug_in: PlugIn, codes: np.ndarray, items: np.ndarray, k: int, exclusions: Exclusions | None
) -> tuple[np.ndarray, np.ndarray]:
    """Places of the items with the highest expected ratings, and scores at the fit's values.

    Ratings that are not linear in the score are averaged over the prior of rows without ratings.
    """
    known, rated = plug_in.known("user", codes), plug_in.known("item", items)
    if plug_in.conditionals.model.likelihood.quadratic or (known.all() and rated.all()):
        return _best_by_score(plug_in, codes, items, k, exclusions)
    places = np.full((len(codes), k), -1)
    for lines, some in (
        (np.flatnonzero(known), (np.flatnonzero(rated), np.flatnonzero(~rated))),
        (np.flatnonzero(~known), (np.arange(0), np.arange(len(items)))),
    ):
        if len(lines):
            own = None if exclusions is None else exclusions.for_lines(exclusions.group[lines])
            places[lines] = _merged(plug_in, codes[lines], items, k, own, some)
    return places, _scores(plug_in, codes, np.where(places < 0, -1, items[places]))


def _merged(
    plug_in: PlugIn, codes: np.ndarray, items: np.ndarray, k: int, exclusions: Exclusions | None,
    parts: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:  # fmt: skip
    """Places of the best: of the first part of the items by score, of the second by mean."""
    found = [np.full((len(codes), k), -1)]
    for some, by_score in zip(parts, (True, False), strict=True):
        if not len(some):
            continue
        own = None if exclusions is None else exclusions.among(some, len(items))
        num = min(k, len(some))
        if by_score:
            place, _ = _best_by_score(plug_in, codes, items[some], num, own)
        else:
            place, _ = top_uncertain(
                plug_in, codes, items[some], num, own, rank_by="mean", interval=0.9
            )
        found.append(np.where(place < 0, -1, some[place]))
    place = np.concatenate(found, axis=1)
    code, filled = items[place], place >= 0
    user = np.broadcast_to(codes[:, None], code.shape)[filled]
    mean = np.full(code.shape, -np.inf)
    mean[filled] = expected(plug_in, _scores(plug_in, codes, code)[filled], user, code[filled])
    order = np.argsort(-mean, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(place, order, axis=1)


def _best_by_score(
    plug_in: PlugIn, codes: np.ndarray, items: np.ndarray, k: int, exclusions: Exclusions | None
) -> tuple[np.ndarray, np.ndarray]:
    """Places of the items with the highest scores at the fit's values, and these."""
    lines, table = plug_in.tables["user"][codes], plug_in.tables["item"]
    offset = lines[:, :1].astype(np.float64) + float(plug_in.conditionals.parameters["intercept"])
    # A user's bias does not change the order; the item's has a one to be multiplied with.
    lines[:, 0] = 1.0
    table = table[:-1] if len(items) == len(table) - 1 else table[items]
    places, products = top_products(lines, table, k, exclusions)
    return places, products + offset


def _scores(plug_in: PlugIn, codes: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Scores of items by line and place at the fit's values."""
    return plug_in.means(np.repeat(codes, code.shape[1]), code.ravel()).reshape(code.shape)


def _chosen(
    plug_in: PlugIn, asked: Asked, code: np.ndarray, score: np.ndarray, interval: float | None
) -> Summary:
    """Expected ratings and intervals of chosen items under a point fit, by line and place."""
    filled = code >= 0
    user = np.broadcast_to(asked.codes[:, None], code.shape)[filled]
    mean = expected(plug_in, score[filled], user, code[filled])
    if interval is None:
        return Summary(mean)
    score_sd = np.sqrt(plug_in.variances(user, code[filled]))
    return summarize_scores(plug_in, score[filled], score_sd, interval)._replace(mean=mean)


def _chosen_of_draws(
    draws: Draws, asked: Asked, code: np.ndarray, interval: float | None
) -> Summary:
    filled = code >= 0
    user = np.broadcast_to(asked.codes[:, None], code.shape)[filled]
    return summarize_draws(draws, user, code[filled], interval)


def described(
    source: PlugIn | Draws,
    data: Ratings,
    asked: Asked,
    code: np.ndarray,
    found: Summary,
    probability: np.ndarray | None,
) -> Recommendations:
    """Ids, expected ratings and intervals of chosen items."""
    filled = code >= 0
    columns: dict[str, Any] = {}
    for name, values in (
        ("score", found.mean), ("lower", found.lower), ("upper", found.upper),
        ("probability", probability),
    ):  # fmt: skip
        columns[name] = None
        if values is not None:
            columns[name] = np.full(code.shape, np.nan)
            columns[name][filled] = values
    item = data.items.ids[code]
    if not filled.all():
        # Dates would turn into numbers as Python objects.
        plain = list(item.flat) if item.dtype.kind in "mM" else item.ravel().tolist()
        item = objects(plain).reshape(item.shape)
        item[~filled] = None
    return Recommendations(
        user=asked.ids, item=item, code=code, **columns,
        known_user=source.known("user", asked.codes),
    )  # fmt: skip


def read_candidates(
    source: PlugIn | Draws,
    user: Any,
    candidates: Any,
    exclude: Exclude,
    seen: Exclusions,
) -> tuple[Asked, Int[np.ndarray, " items"]]:
    """One user, and the codes of the candidates that are left for it, in order.

    Args:
        source: The fit.
        user: The user's id.
        candidates: Ids of items, or None for all.
        exclude: As in `RatingsFit.recommend`.
        seen: The training pairs.

    Returns:
        The user and the items.

    Raises:
        ValueError: If there are several users, an item is unknown, or none is left.
    """
    data = source.data if isinstance(source, Draws) else source.conditionals.data
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
