"""Columns of responses at the door: numbers, levels in an order, classes that stand for them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from probmf.data.column import BOOLEANS, Column
from probmf.data.examples import Examples
from probmf.data.vocabulary import read_levels


class ResponseValues(NamedTuple):
    """Checked values of a mixed model's response.

    Attributes:
        values: Float64 of shape (n,); of yes/no and ordinal responses int32 codes from 0.
        levels: Labels of the codes of an ordinal response, in order; empty for the others.
    """

    values: np.ndarray
    levels: tuple[Any, ...] = ()


@contextmanager
def naming_column(name: str) -> Iterator[None]:
    """Errors within name the column."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"The response {name!r} does not suit: {error}") from None


def measured_values(column: Column, name: str) -> np.ndarray:
    """Numbers; booleans would be read as 0 and 1, and are more likely meant as yes and no."""
    if column.kinds == {BOOLEANS}:
        raise TypeError(
            f"The response {name!r} holds booleans, expected numbers; use likelihood='bernoulli', "
            "or convert it to 0.0 and 1.0 if a share is to be linear in the predictors."
        )
    return column.numbers()


def ordered_values(column: Column, name: str) -> ResponseValues:
    """Levels of whole numbers, or of a categorical column with an order."""
    if column.is_numeric:
        return _consecutive(column.numbers(), name)
    order = column.categories
    if order is None:
        raise TypeError(
            f"An ordinal response needs levels in order, but column {name!r} holds plain "
            "values that are no numbers; make it a categorical column with its levels in "
            "order (for polars an Enum), or consecutive whole numbers."
        )
    if not column.ordered:
        raise TypeError(
            f"An ordinal response needs levels in order, but the categories of column {name!r} "
            f"are not ordered ({', '.join(map(repr, order[:8]))}{', ...' * (len(order) > 8)}); "
            "say their order: pandas.Categorical(values, categories=[...], ordered=True)."
        )
    levels, codes = read_levels(column, name)
    unused = [level for level in order if level not in set(levels.ids.tolist())]
    if unused:
        raise ValueError(
            f"The ordinal response {name!r} has levels that no row has: "
            f"{', '.join(map(repr, unused[:5]))}; nothing is known of the cutpoints about "
            "them. Remove these categories or merge them with their neighbours."
        )
    return _at_least_two(codes, tuple(levels.ids.tolist()), name)


def _consecutive(values: np.ndarray, name: str) -> ResponseValues:
    levels = np.unique(values)
    broken = np.flatnonzero(values != np.trunc(values))
    if broken.size:
        raise ValueError(
            f"An ordinal response must be whole numbers, but column {name!r} is "
            f"{values[broken[0]]:g} in row{'s'[: broken.size > 1]} {some_rows(broken)}."
        )
    gaps = np.flatnonzero(np.diff(levels) != 1)
    if gaps.size:
        below, above = levels[gaps[0]], levels[gaps[0] + 1]
        raise ValueError(
            f"The levels of an ordinal response must be consecutive, but column {name!r} has "
            f"{below:.0f} and {above:.0f} and nothing between; number the levels from 1 without "
            "gaps."
        )
    whole = tuple(int(level) for level in levels)
    return _at_least_two((values - levels[0]).astype(np.int32), whole, name)


def _at_least_two(codes: np.ndarray, levels: tuple[Any, ...], name: str) -> ResponseValues:
    if len(levels) < 2:
        raise ValueError(
            f"The ordinal response {name!r} has one level only, {levels[0]!r}; it needs two."
        )
    return ResponseValues(codes, levels)


def refuse_classes(data: Examples, kind: str) -> None:
    """Refuse a response with classes under a likelihood of numbers."""
    if data.classes:
        count = len(data.classes)
        raise ValueError(
            f"The response {data.responses[0]!r} has classes ({listed(data.classes)}), "
            f"which a {kind} likelihood can't take; use "
            f"{'Bernoulli()' if count == 2 else f'Categorical({count})'}."
        )


def level_values(data: Examples, likelihood: Any) -> Float[np.ndarray, "n responses"]:
    """Yes/no and ordinal responses; classes stand for the levels in their order."""
    if not data.classes:
        return data.response
    levels = likelihood.levels
    if len(data.classes) != len(levels):
        raise ValueError(
            f"The response {data.responses[0]!r} has {len(data.classes)} classes "
            f"({listed(data.classes)}), but the likelihood {likelihood!r} has "
            f"{len(levels)} levels."
        )
    return np.asarray(levels)[data.response.astype(int)]


def listed(classes: tuple[Any, ...]) -> str:
    """The first five classes, and dots if there are more."""
    return ", ".join(map(repr, classes[:5])) + ", ..." * (len(classes) > 5)


def some_rows(rows: Iterable[int]) -> str:
    """The first five rows, and dots if there are more."""
    found = [int(row) for row in rows]
    return ", ".join(map(str, found[:5])) + ", ..." * (len(found) > 5)
