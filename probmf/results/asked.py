"""Checks of queries: pairs, ids, numbers of items, intervals."""

from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from probmf.data import Ratings, Vocabulary, encode_pairs
from probmf.data.column import objects, plain
from probmf.data.ids import read_ids
from probmf.data.merge import pair_columns
from probmf.likelihoods.ordinal import SAME
from probmf.likelihoods.parameters import is_number

#: Length of a list of items that nobody gave a length for.
LIST = 10


class Asked(NamedTuple):
    """Ids of one side as they were asked about, and their codes, -1 for unknown ones."""

    ids: np.ndarray
    codes: Int[np.ndarray, " n"]


def read_pairs(
    pairs: Any, data: Ratings, *, user: str | None, item: str | None
) -> tuple[Asked, Asked]:
    """Users and items of pairs in any form; columns are called as in the training ratings."""
    # Read once: a lazy table may give its rows in another order the second time.
    names = user or data.users.column, item or data.items.column
    columns = pairs if isinstance(pairs, Ratings) else pair_columns(pairs, *names)
    codes = encode_pairs(columns, users=data.users, items=data.items)
    asked = []
    for side, vocabulary, its in zip((0, 1), (data.users, data.items), codes, strict=True):
        if its.min() >= 0:
            ids = vocabulary.ids[its]
        elif isinstance(columns, Ratings):
            ids = (columns.users.decode(columns.user), columns.items.decode(columns.item))[side]
        else:
            ids = read_ids(columns[side], "the pairs").to_numpy()
        asked.append(Asked(ids, its))
    return asked[0], asked[1]


def read_some(ids: Any, vocabulary: Vocabulary, name: str, *, known: bool = False) -> Asked:
    """One id or several; unknown ones have the code -1, unless they have to be `known`."""
    values = ids if _is_sequence(ids, vocabulary) else _alone(ids)
    what = f"the list of {name}"
    checked = read_ids(values, what)
    if not len(checked.values):
        raise ValueError(f"{name} is empty; give at least one {vocabulary.name} id.")
    codes = vocabulary.encode(values, unknown="flag", what=what)
    if known and (codes < 0).any():
        strange = dict.fromkeys(map(plain, checked.to_numpy()[codes < 0]))
        listed = ", ".join(map(repr, [*strange][:3])) + ", ..." * (len(strange) > 3)
        raise ValueError(
            f"{name} {'is' if len(codes) == 1 else 'holds'} {listed}, and the fit has no such "
            f"{vocabulary.name}; it has {len(vocabulary):,}, such as {plain(vocabulary.ids[0])!r}."
        )
    return Asked(checked.to_numpy(), codes)


def check_interval(interval: object) -> None:
    """Refuse what is no probability of an interval."""
    if isinstance(interval, bool | np.bool_) or not isinstance(interval, Real):
        raise TypeError(f"interval is {interval!r}; expected a probability such as 0.9, or None.")
    if not 0 < float(interval) < 1:
        raise ValueError(
            f"interval is {interval!r}; expected a probability between 0 and 1, such as 0.9."
        )


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse what is none of a few words."""
    if value not in choices:
        listed = " or ".join(map(repr, choices))
        raise ValueError(f"{name} is {value!r}; expected {listed}.")


def check_num_draws(name: str, value: object) -> None:
    """Refuse what is no number of draws, zero or more."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"{name} is {value!r}; expected a number of draws, such as 500.")


def check_at_least(at_least: object, levels: Sequence[float] | np.ndarray = ()) -> float:
    """A threshold that is a finite number, and not above all levels, if there are any."""
    if not is_number(at_least):
        raise ValueError(
            f"at_least is {at_least!r}; expected a finite number, the least rating that counts, "
            "such as 4.0."
        )
    if len(levels):
        at = np.asarray(levels, np.float64)
        nearest = float(at[np.argmin(np.abs(at - at_least))])
        # A level in single precision is that level.
        at_least = nearest if abs(nearest - at_least) <= SAME * np.abs(at).max() else at_least
    if len(levels) and at_least > levels[-1]:
        raise ValueError(
            f"at_least is {at_least:g}, and no rating reaches it: the highest is {levels[-1]:g}."
        )
    return float(at_least)


def check_count(k: object, most: int, of_what: str) -> int:
    """A number of items, from one to all there are; None is `LIST`, or all of them if fewer."""
    if k is None:
        return min(LIST, most)
    if isinstance(k, bool | np.bool_) or not isinstance(k, int | np.integer):
        raise TypeError(f"k is {k!r}; expected a whole number from 1 to {most:,}.")
    if not 1 <= k <= most:
        raise ValueError(
            f"k is {k}; expected a whole number from 1 to {most:,}, the number of {of_what}."
        )
    return int(k)


def _is_sequence(ids: Any, vocabulary: Vocabulary) -> bool:
    if isinstance(ids, str | bytes | np.generic) or getattr(ids, "ndim", 1) == 0:
        return False
    if isinstance(ids, tuple) and vocabulary.kind == "tuples":
        return False
    return hasattr(ids, "__len__")


def _alone(value: Any) -> np.ndarray:
    """One id as an array; of an array without dimensions, the id in it."""
    return np.asarray(value)[None] if hasattr(value, "ndim") else objects([value])
