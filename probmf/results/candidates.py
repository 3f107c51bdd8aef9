"""Items that may be recommended: candidates, block lists, and pairs to leave out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from probmf.data import Ratings, encode_pairs
from probmf.results.asked import Asked, check_count, read_some
from probmf.results.predictions import plain_text
from probmf.rows.store import sort_rows

#: Items that are not offered: the training pairs, other pairs, a list of item ids, or nothing.
type Exclude = Ratings | Literal["seen"] | Collection[Any] | None


@dataclass(frozen=True, eq=False)
class Exclusions:
    """Items to leave out, by line of what is ranked.

    Args:
        begin: Where each group's items begin, shape (groups + 1,).
        item: The items, by group.
        group: The group of each line; -1 has none. (Groups are users of some table of ratings,
            which need not be the users of the fit.)
    """

    begin: Int[np.ndarray, " groups1"]
    item: Int[np.ndarray, " n"]
    group: Int[np.ndarray, " lines"]

    @classmethod
    def from_pairs(
        cls, group: Int[np.ndarray, " n"], item: Int[np.ndarray, " n"], num_groups: int
    ) -> "Exclusions":
        """Collect pairs by group; line i is group i unless `for_lines` says otherwise."""
        order, begin = sort_rows(group, num_groups)
        return cls(begin, item[order], np.arange(num_groups))

    @classmethod
    def of_ratings(cls, data: Ratings) -> "Exclusions":
        """The items that each user has rated; those of sorted ratings are not copied."""
        order, begin = data.by_user
        return cls(
            begin, data.item if order is None else data.item[order], np.arange(data.num_users)
        )

    def for_lines(self, group: Int[np.ndarray, " lines"]) -> "Exclusions":
        """The same pairs for other lines."""
        return Exclusions(self.begin, self.item, group)

    def among(self, items: Int[np.ndarray, " some"], num_items: int) -> "Exclusions":
        """The pairs of some items, these called by their places in the list."""
        place = np.full(num_items, -1)
        place[items] = np.arange(len(items))
        inside = place[self.item] >= 0
        begin = np.concatenate([[0], np.cumsum(inside)])[self.begin]
        return Exclusions(begin, place[self.item][inside], self.group)

    @cached_property
    def counts(self) -> Int[np.ndarray, " lines"]:
        """Number of items that each line leaves out."""
        return np.where(self.group < 0, 0, self.begin[self.group + 1] - self.begin[self.group])

    def block(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(line - start, item) of the pairs of lines start..stop-1."""
        count, begin = self.counts[start:stop], self.begin[self.group[start:stop]]
        line = np.repeat(np.arange(stop - start), count)
        first = np.repeat(begin - np.cumsum(count) + count, count)
        return line, self.item[first + np.arange(len(line))]


class ItemChoice(NamedTuple):
    """Items that may be recommended to anybody, and what is left out for single users.

    Attributes:
        items: Codes of the items, in order.
        exclude: Pairs to leave out besides.
        of_what: What the items are, for messages.
    """

    items: Int[np.ndarray, " some"]
    exclude: Ratings | Literal["seen"] | None
    of_what: str

    def count(self, k: object) -> int:
        """The length of the lists, if it is one that there are items for."""
        return check_count(k, len(self.items), self.of_what)


def read_choice(candidates: Any, exclude: Exclude, data: Ratings) -> ItemChoice:
    """The candidates without the items of a block list.

    Args:
        candidates: Ids of items, or None for all.
        exclude: As in `RatingsFit.recommend`. A list of ids takes these items away for everybody,
            and leaves out the training pairs; ids that the fit does not know are none to take away.
        data: The training ratings.

    Returns:
        The items, and the pairs that are to be left out besides.

    Raises:
        TypeError: If `exclude` is none of these.
        ValueError: If a candidate is unknown, an id is of another kind, or no candidate is left.
    """
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
    """One user, and the codes of the candidates that are left for it, in order.

    Args:
        data: The training ratings.
        user: The user's id.
        candidates: Ids of items, or None for all.
        exclude: As in `RatingsFit.recommend`.
        seen: The training pairs.

    Returns:
        The user and the items.

    Raises:
        ValueError: If there are several users, an item is unknown, or none is left.
    """
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
