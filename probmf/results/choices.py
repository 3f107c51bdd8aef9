"""Items that may be recommended: candidates, block lists, and pairs to leave out."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from probmf.data import Ratings, encode_pairs
from probmf.results.asked import Asked, check_count, read_some
from probmf.results.exclusions import Exclusions
from probmf.results.predictions import plain_text

#: Items that are not offered: the training pairs, other pairs, a list of item ids, or nothing.
type Exclude = Ratings | Literal["seen"] | Collection[Any] | None


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
