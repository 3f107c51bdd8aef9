"""The response of a mixed model: its column, read and checked as its likelihood needs it."""

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np

from probmf.data.column import Column
from probmf.data.kinds import BOOLEANS
from probmf.data.vocabulary import read_levels
from probmf.likelihoods import Bernoulli, Gaussian, Likelihood, LogNormal, Ordinal
from probmf.models.mixed.variables import some

type Name = Literal["gaussian", "lognormal", "bernoulli", "ordinal"]

#: Likelihoods by the names that `MixedEffects(likelihood=...)` takes.
LIKELIHOODS: dict[str, Likelihood] = {
    "gaussian": Gaussian(),
    "lognormal": LogNormal(),
    "bernoulli": Bernoulli(),
    "ordinal": Ordinal(),
}


class ResponseValues(NamedTuple):
    """Checked values of the response.

    Attributes:
        values: Float64 of shape (n,); of yes/no and ordinal responses int32 codes from 0.
        levels: Labels of the codes of an ordinal response, in order; empty for the others.
    """

    values: np.ndarray
    levels: tuple[Any, ...] = ()


def read_likelihood(given: object) -> Likelihood:
    """The likelihood by its name, or itself.

    Args:
        given: What the user gave.

    Returns:
        The likelihood.

    Raises:
        TypeError: If it is neither a name nor a likelihood.
        ValueError: If there is none of that name.
    """
    names = ", ".join(map(repr, LIKELIHOODS))
    if isinstance(given, str):
        if given not in LIKELIHOODS:
            raise ValueError(f"likelihood is {given!r}; expected one of {names}.")
        return LIKELIHOODS[given]
    if not isinstance(given, Likelihood):
        raise TypeError(
            f"likelihood is {given!r}; expected one of {names}, or a likelihood such as "
            "Bernoulli('probit')."
        )
    return given


def of_codes(likelihood: Likelihood, num_levels: int) -> Likelihood:
    """The likelihood of the codes of an ordinal response; others as they are."""
    if isinstance(likelihood, Ordinal):
        return replace(likelihood, levels=tuple(range(num_levels)))
    return likelihood


def read_response(column: Column, name: str, likelihood: Likelihood) -> ResponseValues:
    """The response's column.

    Args:
        column: The column.
        name: Its name.
        likelihood: Decides which values it may have.

    Returns:
        Its values.

    Raises:
        TypeError: If the column's type does not suit.
        ValueError: If a value has no density, or an ordinal response lacks a level.
    """
    if isinstance(likelihood, Bernoulli):
        return _zeros_and_ones(column, name)
    if isinstance(likelihood, Ordinal):
        return _ordered(column, name, likelihood)
    values = _measured(column, name)
    if isinstance(likelihood, LogNormal):
        rows = np.flatnonzero(values <= 0)
        if rows.size:
            raise ValueError(
                f"A lognormal response must be positive, but column {name!r} is "
                f"{values[rows[0]]:g} in row{'s'[: rows.size > 1]} {some(rows)}; drop these rows "
                "or use likelihood='gaussian'."
            )
    return ResponseValues(values)


def _zeros_and_ones(column: Column, name: str) -> ResponseValues:
    try:
        values = column.numbers()
    except TypeError as error:
        raise TypeError(
            f"{error} Which value of a bernoulli response counts as 1 has to be said: make the "
            "column 0 and 1 or booleans, as in frame['answer'] == 'yes'."
        ) from None
    rows = np.flatnonzero((values != 0) & (values != 1))
    if rows.size:
        raise ValueError(
            f"A bernoulli response must be 0 or 1, but column {name!r} is "
            f"{values[rows[0]]:g} in row{'s'[: rows.size > 1]} {some(rows)}; recode it, or use "
            "likelihood='ordinal' or 'gaussian'."
        )
    return ResponseValues(values.astype(np.int32))


def _ordered(column: Column, name: str, likelihood: Ordinal) -> ResponseValues:
    """Levels of the likelihood; without, whole numbers or a categorical column with an order."""
    if likelihood.levels is not None:
        values = column.numbers()
        try:
            likelihood.check_ratings(values)
            likelihood.check_training(values, None)
        except ValueError as error:
            raise ValueError(f"The response {name!r} does not suit: {error}") from None
        return ResponseValues(likelihood.codes(values).astype(np.int32), likelihood.levels)
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


def _measured(column: Column, name: str) -> np.ndarray:
    """Numbers; booleans would be read as 0 and 1, and are more likely meant as yes and no."""
    if column.kinds == {BOOLEANS}:
        raise TypeError(
            f"The response {name!r} holds booleans, expected numbers; use likelihood='bernoulli', "
            "or convert it to 0.0 and 1.0 if a share is to be linear in the predictors."
        )
    return column.numbers()


def _consecutive(values: np.ndarray, name: str) -> ResponseValues:
    levels = np.unique(values)
    broken = np.flatnonzero(values != np.trunc(values))
    if broken.size:
        raise ValueError(
            f"An ordinal response must be whole numbers, but column {name!r} is "
            f"{values[broken[0]]:g} in row{'s'[: broken.size > 1]} {some(broken)}."
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
