"""Rows to ask a mixed model about: grids, counterfactual rows, and what is compared with what."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probmf.data.column import BOOLEANS, Column, objects, python_values, some_of
from probmf.data.tables import Frame, load
from probmf.likelihoods.parameters import is_number
from probmf.models.mixed import Design


def _log_ratio(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    _check_range("lnratio", "positive numbers", np.inf, high, low)
    return np.log(high / low)


def _log_odds_ratio(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    _check_range("lnor", "numbers between 0 and 1", 1.0, high, low)
    return np.log(high / (1.0 - high)) - np.log(low / (1.0 - low))


def _check_range(comparison: str, what: str, most: float, *values: np.ndarray) -> None:
    for own in values:
        if (outside := (own < 0.0) | (own > most)).any():
            raise ValueError(
                f"comparison is {comparison!r}, which is defined for {what}, and an expectation is "
                f"{own[outside][0]:.4g}; use 'difference'."
            )


#: Comparisons of expectations under a higher and a lower value, and how they are written.
COMPARISONS: dict[str, tuple[Callable[..., np.ndarray], str]] = {
    "difference": (lambda high, low: high - low, "{} - {}"),
    "ratio": (lambda high, low: high / low, "{} / {}"),
    "lift": (lambda high, low: high / low - 1.0, "{} / {} - 1"),
    "lnratio": (_log_ratio, "ln({} / {})"),
    "lnor": (_log_odds_ratio, "ln(odds({}) / odds({}))"),
}
#: Differences of numbers that have a name.
SPREADS = ("sd", "2sd", "iqr", "minmax")
#: Pairs of levels that have a name.
PAIRINGS = ("reference", "sequential", "pairwise")
#: Step of a derivative, as a share of a value or of the training data's range, whichever is less,
#: and the least that it is, as a share of the range: a logarithm bends within a share of the value.
STEP, LEAST_STEP = 1e-4, 1e-8


class Contrast(NamedTuple):
    """A lower and a higher value of a column for each row, and the higher and lower in words."""

    name: str
    low: Any
    high: Any
    texts: tuple[str, str]


class Steps(NamedTuple):
    """Three values of a column for each row, and the parabola through expectations there.

    `slope` and `value` are weights of the expectations in its slope and its value at the row's own.
    """

    places: list[Float[np.ndarray, " n"]]
    slope: list[Float[np.ndarray, " n"]]
    value: list[Float[np.ndarray, " n"]]


class Columns(NamedTuple):
    """Levels of the columns that a model uses, None for numbers; predictors; known parameters."""

    choices: dict[str, list[Any] | None]
    predictors: tuple[str, ...]
    known: tuple[str, ...]


def columns_of(design: Design, leave_out: Collection[str]) -> Columns:
    """Columns that a model uses, but for some group terms."""
    choices: dict[str, list[Any] | None] = {}
    predictors: list[str] = []
    for coding in design.codings:
        terms = [term for term in coding.terms if term.name not in leave_out]
        for own in (coding.columns, *(term.columns for term in terms)):
            choices |= own.choices
            predictors += own.choices
        for name in () if coding.offset is None else coding.offset.levels:
            choices.setdefault(name, None)
        for term in terms:
            parts = zip(term.groups.factors, term.groups.vocabularies, strict=True)
            for name, vocabulary in parts:
                choices.setdefault(name, python_values(vocabulary.ids))
    known = tuple(design.known_of_rows.values())
    choices = dict.fromkeys(known) | choices
    return Columns(choices, tuple(dict.fromkeys(predictors)), known)


def choose(
    wanted: Any, columns: Columns, *, numbers: bool = False, what: str = "variables"
) -> dict[str, Any]:
    """Variables that are asked about, and what is said of each; None stands for all predictors."""
    if wanted is None:
        kept = [n for n in columns.predictors if not numbers or columns.choices[n] is None]
        if not kept:
            what = "columns of numbers" if numbers else "predictors"
            raise ValueError(f"The formula has no {what} to vary; name a column in variables=.")
        return dict.fromkeys(kept)
    if isinstance(wanted, str):
        wanted = [wanted]
    found = dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted)
    if not found:
        raise ValueError("variables is empty; name a column, or leave it out for all of them.")
    for name in found:
        if name not in columns.choices:
            raise ValueError(
                f"{what} holds {name!r}, which the formula does not use, or only left-out "
                f"groupings do; expected some of: {some_of(list(columns.choices), 20)}."
            )
        if numbers and columns.choices[name] is not None:
            raise ValueError(
                f"variables holds {name!r}, a column of levels, which has no slope; see "
                "comparisons, which compares its levels."
            )
    return found


def contrasts(
    name: str, said: Any, table: Frame, levels: list[Any] | None, two: list[Any] | None,
    training: Callable[[], Column],
) -> list[Contrast]:  # fmt: skip
    """Pairs of values that are compared, as the user said, or the usual ones."""
    size = table.num_rows
    if isinstance(said, np.ndarray):
        said = said.tolist()
    if two is not None and (said is None or said in PAIRINGS or two == [False, True]):
        levels = two
    if levels is not None:
        return [
            Contrast(name, objects([low] * size), objects([high] * size), (str(high), str(low)))
            for low, high in _pairs(name, said, levels)
        ]
    x = table[name].numbers()
    if said is None or is_number(said):
        gap = 1.0 if said is None else float(said)
        return [Contrast(name, x, x + gap, (f"({name} + {gap:g})", name))]
    if _is_pair(said) and all(map(is_number, said)):
        low, high = map(float, said)
        ends = np.full(size, low), np.full(size, high)
        return [Contrast(name, *ends, (f"{high:g}", f"{low:g}"))]
    if not isinstance(said, str) or said not in SPREADS:
        raise ValueError(
            f"variables[{name!r}] is {said!r}; expected a number to add, a pair of numbers, or "
            f"{' or '.join(map(repr, SPREADS))}."
        )
    own = training().numbers()
    if said in ("sd", "2sd"):
        half = float(own.std(ddof=1)) / (2.0 if said == "sd" else 1.0)
        by = "sd/2" if said == "sd" else "sd"
        return [Contrast(name, x - half, x + half, (f"({name} + {by})", f"({name} - {by})"))]
    share, texts = ((0.25, 0.75), ("Q3", "Q1")) if said == "iqr" else ((0.0, 1.0), ("max", "min"))
    low, high = np.quantile(own, share)
    return [Contrast(name, np.full(size, low), np.full(size, high), texts)]


def binary_values(column: Column) -> list[Any] | None:
    """Both values of a column of booleans, or of zeros and ones; None of others."""
    if column.kinds == {BOOLEANS}:
        return [False, True]
    return [0, 1] if np.isin(column.numbers(), (0.0, 1.0)).all() else None


def written(contrast: Contrast, comparison: str) -> str:
    """A contrast in words."""
    high, low = contrast.texts
    if comparison == "difference" and high.startswith(f"({low} + "):
        return high.removeprefix(f"({low} ").removesuffix(")").replace(" ", "")
    return COMPARISONS[comparison][1].format(high, low)


def steps(name: str, table: Frame, training: Callable[[], Column]) -> Steps:
    """Values about those of a column, for a derivative, within the range of the training data."""
    x, own = table[name].numbers(), training().numbers()
    low, high = float(own.min()), float(own.max())
    width = (high - low) or float(np.abs(own).max()) or 1.0
    step = np.clip(STEP * np.abs(x), LEAST_STEP * width, STEP * width)
    inside = (low <= x) & (x <= high) & (low < high)
    center = np.where(inside, np.clip(x, low + step, high - step), x)
    places = [center - step, center, center + step]
    slope, value = [], []
    for one, (two, three) in zip(
        places, [(places[1], places[2]), (places[0], places[2]), (places[0], places[1])],
        strict=True,
    ):  # fmt: skip
        below = (one - two) * (one - three)
        slope.append(((x - two) + (x - three)) / below)
        value.append((x - two) * (x - three) / below)
    return Steps(places, slope, value)


def varied(table: Frame, name: str, *values: Any) -> Frame:
    """Copies of rows one after the other, each with other values of a column."""
    rows = np.tile(np.arange(table.num_rows), len(values))
    joined = [value for own in values for value in np.asarray(own).tolist()]
    return _taken(table, rows, {name: joined})


def counterfactual(
    table: Frame, said: Mapping[str, Any], columns: Columns, training: Callable[[str], Column]
) -> Frame:
    """All rows, once for each combination of the values of some columns."""
    options = [_values(name, own, columns, training) for name, own in said.items()]
    combined = list(product(*options))
    rows = np.tile(np.arange(table.num_rows), len(combined))
    values = {
        name: [own for line in combined for own in [line[place]] * table.num_rows]
        for place, name in enumerate(said)
    }
    return _taken(table, rows, values)


def grid(
    said: Mapping[str, Any], columns: Columns, training: Callable[[str], Column]
) -> dict[str, np.ndarray]:
    """Every combination of some values, other predictors at a typical one."""
    choose(said or None, columns, what="datagrid")
    names = [*columns.predictors, *columns.known]
    names += [name for name, own in columns.choices.items() if own is None]
    typical: dict[str, Any] = {
        name: _typical(training(name), columns.choices[name] is None and name not in columns.known)
        for name in dict.fromkeys(names)
        if name not in said
    }
    options = [_values(name, own, columns, training) for name, own in said.items()]
    lines = list(product(*options))
    found = {name: _array([line[place] for line in lines]) for place, name in enumerate(said)}
    return found | {name: _array([value] * len(lines)) for name, value in typical.items()}


def cells(table: Frame, by: Sequence[str]) -> tuple[Int[np.ndarray, " n"], dict[str, np.ndarray]]:
    """Cell of each row, and the cells' values of some columns, in order."""
    codes = np.zeros(table.num_rows, np.int64)
    for name in by:
        own = _codes(table[name])
        codes = codes * (own.max() + 1) + own
    _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    return codes, {name: table[name].to_numpy()[first] for name in by}


def _codes(column: Column) -> Int[np.ndarray, " n"]:
    """Codes in the order of a column's categories, or of its values."""
    values = column.to_numpy().tolist()
    if column.categories is not None:
        place = {value: place for place, value in enumerate(column.categories)}
    else:
        try:
            place = {value: place for place, value in enumerate(sorted(set(values)))}
        except TypeError:  # Values of several kinds have no order but that of the rows.
            place = {value: place for place, value in enumerate(dict.fromkeys(values))}
    return np.array([place[value] for value in values])


def _values(name: str, said: Any, columns: Columns, training: Callable[[str], Column]) -> list[Any]:
    """Values of a column that are asked about."""
    levels = columns.choices[name]
    if said is None:
        if levels is not None:
            return levels
        own = training(name)
        if (two := binary_values(own)) is not None:
            return two
        return np.quantile(own.numbers(), np.linspace(0, 1, 5)).tolist()
    if callable(said):
        said = said(training(name).to_numpy())
    values = [said] if isinstance(said, str) or not hasattr(said, "__len__") else list(said)
    if not values:
        raise ValueError(f"The values of {name!r} are empty; give at least one.")
    # Dates stay NumPy's own: nanoseconds would be integers.
    numbers = [isinstance(own, np.generic) and own.dtype.kind not in "mM" for own in values]
    return [own.item() if is_one else own for own, is_one in zip(values, numbers, strict=True)]


def _typical(column: Column, is_number: bool) -> Any:
    """The mean of numbers; the most frequent of levels, booleans and known parameters."""
    if is_number and column.kinds != {BOOLEANS}:
        return float(column.numbers().mean())
    values = column.to_numpy().tolist()
    count: dict[Any, int] = {}
    for value in values:
        count[value] = count.get(value, 0) + 1
    return max(count, key=lambda value: count[value])


def _pairs(name: str, said: Any, levels: list[Any]) -> list[tuple[Any, Any]]:
    """Pairs of a lower and a higher level."""
    if said is None or said == "reference":
        return [(levels[0], own) for own in levels[1:]]
    if said == "sequential":
        return list(pairwise(levels))
    if said == "pairwise":
        return [(low, high) for place, low in enumerate(levels) for high in levels[place + 1 :]]
    if _is_pair(said) and all(own in levels for own in said):
        return [tuple(said)]
    raise ValueError(
        f"variables[{name!r}] is {said!r}; expected {' or '.join(map(repr, PAIRINGS))}, or a pair "
        f"of levels; there are: {some_of(levels, 8)}."
    )


def _is_pair(said: Any) -> bool:
    return isinstance(said, list | tuple | np.ndarray) and len(said) == 2


def _array(values: list[Any]) -> np.ndarray:
    """Numbers, booleans and text as an array of their own type; others as objects."""
    kinds = {type(value) for value in values}
    return np.array(values) if kinds <= {int, float} or kinds == {bool} else objects(values)


def _taken(table: Frame, rows: np.ndarray, values: Mapping[str, list[Any]]) -> Frame:
    """Rows of a table, with other values of some columns."""
    found = {
        name: load(_array(values[name]), column.what) if name in values
        else replace(column, values=column.values.take(rows))
        for name, column in table.items()
    }  # fmt: skip
    return Frame(found, len(rows))
