r"""Predictions, comparisons and slopes of mixed models, by rows or averaged, with their intervals.

With m the expected response at a draw, or the linear predictor,

.. math::
    \text{predictions: } m(x), \quad \text{comparisons: } m(x_1) - m(x_0), \quad
    \text{slopes: } \partial m(x) / \partial x,

each averaged over rows at every draw, so that intervals hold what the draws know. The vocabulary is
that of marginaleffects (Arel-Bundock, Greifer and Heiss, 2024).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import scipy.sparse
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from scipy.special import ndtri

from probmf.data import as_generator
from probmf.data.column import Column, objects
from probmf.data.tables import Frame
from probmf.models.mixed import Encoded
from probmf.models.mixed.design import encode_rows, read_data
from probmf.models.mixed.encoding import Unseen
from probmf.results.asked import check_choice, check_interval
from probmf.results.estimates import NUMBERS, Estimates
from probmf.results.grids import (
    COMPARISONS,
    Columns,
    Steps,
    binary_values,
    choose,
    columns_of,
    contrasts,
    counterfactual,
    grid,
    steps,
    varied,
    written,
)
from probmf.results.grids import cells as cells_of
from probmf.results.mixed_predict import (
    Level,
    Scale,
    SiteDraws,
    expected,
    given_rows,
    known_rows,
    left_out,
    level_values,
    with_drawn_groups,
)
from probmf.results.mixtures import row_blocks, tails
from probmf.results.point_errors import ERROR_STEP, PointErrors, derivatives
from probmf.results.prediction_intervals import over_draws

type Comparison = (
    Literal["difference", "ratio", "lift", "lnratio", "lnor"]
    | Callable[[np.ndarray, np.ndarray], np.ndarray]
)
type Slope = Literal["dydx", "eyex", "eydx", "dyex"]
#: What is averaged: nothing, all rows, or the rows of each combination of some columns' values.
type By = bool | str | Sequence[str]


class _Question(NamedTuple):
    """One quantity of every row.

    `rows` holds some copies of the rows, one after the other. From the expectations under the
    copies, and places of rows, `each` gives what is averaged; from the averages `combine` gives the
    estimate.
    """

    labels: dict[str, str]
    rows: Frame
    copies: int
    each: Callable[[list[np.ndarray], slice], list[np.ndarray]]
    combine: Callable[..., np.ndarray]


@dataclass(frozen=True, eq=False, kw_only=True)
class EffectQuery:
    """A question to a fit, checked; see `MixedFit.predictions`, where `keep` is called `draws`."""

    draws: SiteDraws
    training: Any
    errors: PointErrors | None = None
    is_point: bool = False
    data: Any = None
    by: By = False
    kind: Scale = "mean"
    interval: float | None = 0.9
    unseen: Unseen = "error"
    level: Level = "groups"
    keep: bool = False
    key: ArrayLike | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        if self.interval is not None:
            check_interval(self.interval)
        names = isinstance(self.by, Collection) and all(isinstance(n, str) for n in self.by)
        if not (names or isinstance(self.by, bool | np.bool_)):
            raise TypeError(
                f"by is {self.by!r}; expected False, where nothing is averaged, True for the "
                "average of all rows, or names of columns."
            )
        check_choice("unseen", self.unseen, get_args(Unseen.__value__))
        check_choice("kind", self.kind, get_args(Scale.__value__))
        if self.kind == "probabilities" and not self._levels:
            raise ValueError(
                f"kind is 'probabilities', but a response of {self.draws.likelihood!r} has no "
                "levels; expected 'mean' or 'link'."
            )

    def predictions(self, variables: Any) -> Estimates:
        """Answer of `MixedFit.predictions`."""
        table, columns = self._table(), self._columns
        if variables is not None:
            table = counterfactual(table, choose(variables, columns), columns, self._trained)
        return self._answer("predictions", table, [_Question({}, table, 1, _same, _alone)])

    def comparisons(self, variables: Any, comparison: Comparison) -> Estimates:
        """Answer of `MixedFit.comparisons`."""
        if not callable(comparison):
            check_choice("comparison", comparison, list(COMPARISONS))
        table, columns = self._table(variables), self._columns
        combine = comparison if callable(comparison) else COMPARISONS[comparison][0]
        asked = []
        for name, said in choose(variables, columns).items():
            levels = columns.choices[name]
            two = None if levels is not None else self._two(name, table)
            for one in contrasts(name, said, table, levels, two, partial(self._trained, name)):
                text = ", ".join(one.texts) if callable(comparison) else written(one, comparison)
                rows = varied(table, name, one.high, one.low)
                asked.append(_Question({"term": name, "contrast": text}, rows, 2, _same, combine))
        named = None if callable(comparison) else comparison
        return self._answer("comparisons", table, asked, named)

    def slopes(self, variables: Any, slope: Slope) -> Estimates:
        """Answer of `MixedFit.slopes`."""
        check_choice("slope", slope, get_args(Slope.__value__))
        if isinstance(variables, Mapping):
            raise TypeError("variables is a mapping; slopes takes names of columns, or one name.")
        table, columns = self._table(variables), self._columns
        asked = []
        names = list(choose(variables, columns, numbers=True))
        binary = [name for name in names if self._two(name, table) is not None]
        if binary and (variables is not None or binary == names):
            what = "The formula varies with" if variables is None else "variables holds"
            raise ValueError(
                f"{what} {binary[0]!r}, a column of two values, which has no slope; see "
                "comparisons, which compares them."
            )
        for name in (name for name in names if name not in binary):
            near = steps(name, table, partial(self._trained, name))
            x = table[name].numbers()

            def each(
                values: list[np.ndarray], part: slice, near: Steps = near, x: np.ndarray = x
            ) -> list[np.ndarray]:
                found = _weighted(near.slope, values, part)
                if slope in ("eyex", "dyex"):
                    found = found * x[part, None]
                if slope in ("eyex", "eydx"):
                    found = found / _weighted(near.value, values, part)
                return [found]

            rows = varied(table, name, *near.places)
            asked.append(_Question({"term": name, "contrast": slope}, rows, 3, each, _alone))
        return self._answer("slopes", table, asked)

    def grid(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Answer of `MixedFit.datagrid`."""
        return grid(values, self._columns, self._trained)

    @property
    def _levels(self) -> tuple[Any, ...]:
        """Levels of the response; empty if it has none."""
        return tuple(self.draws.design.response_levels or self.draws.likelihood.levels)

    @property
    def _columns(self) -> Columns:
        return columns_of(self.draws.design, left_out(self.draws.design, self.level))

    @property
    def _averages(self) -> list[str] | None:
        """Columns that are averaged by; None for no averages."""
        if isinstance(self.by, bool | np.bool_):
            return [] if self.by else None
        return [self.by] if isinstance(self.by, str) else list(self.by)

    def _table(self, variables: Any = None) -> Frame:
        """Columns of the rows that are needed."""
        data = self.training if self.data is None else self.data
        if data is None:
            raise ValueError(
                "This fit was made from a design and does not have the training table; give the "
                "rows that are asked about: data=table."
            )
        named = [] if variables is None else choose(variables, self._columns)
        names = [*self._needed, *named, *(self._averages or [])]
        return read_data(data, list(dict.fromkeys(names)), hints=self._hints)

    @property
    def _hints(self) -> dict[str, str]:
        """Advice by column of groups, for where it is missing."""
        told = " The effects of its groups need it; level='population' leaves them out."
        terms = [term for own in self.draws.design.codings for term in own.terms]
        return {name: told for term in terms for name in term.groups.factors}

    @property
    def _needed(self) -> list[str]:
        """Columns that the formula needs, but for what is left out."""
        design = self.draws.design
        terms = left_out(design, self.level)
        names = [name for coding in design.codings for name in coding.columns_used(terms)]
        return list(dict.fromkeys([*names, *design.known_of_rows.values()]))

    def _two(self, name: str, table: Frame) -> list[Any] | None:
        """Both values of a column that has no others, in the training data if there are any."""
        return binary_values(table[name] if self.training is None else self._trained(name))

    def _trained(self, name: str) -> Column:
        """A column of the training data."""
        if self.training is None:
            raise ValueError(
                f"The training values of {name!r} are needed, and this fit was made from a design "
                "and does not have the training table. Fit the table itself."
            )
        return read_data(self.training, [name])[name]

    def _answer(
        self, what: str, table: Frame, asked: Iterable[_Question], comparison: str | None = None
    ) -> Estimates:
        by, levels = self._averages, self._levels
        codes, about = None, {name: table[name].to_numpy() for name in self._needed}
        if by is not None:
            codes, about = cells_of(table, by)
        each = len(levels) if self.kind == "probabilities" else 1
        parts: list[dict[str, Any]] = []
        for question in asked:
            found = self._summaries(question, codes)
            lines = len(found["mean"]) // each
            ours = {*question.labels, *NUMBERS, *(["level"] if each > 1 else [])}
            columns = {n: objects([text] * (lines * each)) for n, text in question.labels.items()}
            for name, own in about.items():
                columns[f"{name} of the data" if name in ours else name] = np.repeat(own, each)
            if each > 1:
                columns["level"] = np.array(levels * lines, object)
            parts.append({"columns": columns} | found)
        first = parts[0]
        joined = _joined([{n: v for n, v in part.items() if n != "columns"} for part in parts])
        columns = {
            name: np.concatenate([part["columns"][name] for part in parts])
            for name in first["columns"]
        }
        return Estimates(
            what=what, response=self.draws.design.data.response_name, columns=columns,
            interval=self.interval if "sd" in joined else None, comparison=comparison, **joined,
        )  # fmt: skip

    def _summaries(self, question: _Question, codes: np.ndarray | None) -> dict[str, Any]:
        """Numbers of all lines, summarized block by block, as draws of all rows may not fit."""
        rows = encode_rows(
            self.draws.design, question.rows, self.unseen,
            left_out(self.draws.design, self.level),
        )  # fmt: skip
        if self.errors is not None and self.interval is not None:
            values = self._values(self.errors.beside, rows, question, codes)
            variances = self._variances(self.errors, rows, question, codes)
            pairs = zip(values, variances, strict=True)
            return _joined([self._of_point(*pair, self.interval) for pair in pairs])
        draws = self.draws
        # Effects of new groups are drawn, but those of a point fit, which are integrated out.
        if not self.is_point and not known_rows(rows).all():
            if self.key is None:
                raise ValueError(
                    "Effects of new groups are drawn at random; give key=, a JAX key or an int. "
                    "level='population' leaves them out."
                )
            draws, rows = with_drawn_groups(draws, rows, as_generator(self.key))
        return _joined([self._summary(own) for own in self._values(draws, rows, question, codes)])

    def _values(
        self, draws: SiteDraws, rows: Encoded, question: _Question, codes: np.ndarray | None
    ) -> Iterator[Float[np.ndarray, "draws m"]]:
        """Estimates at each draw, or at a point and beside it, by blocks of lines."""

        def blocks() -> Iterator[tuple[slice, list[np.ndarray]]]:
            for part, places in self._blocks(question):
                given = given_rows(draws, rows, places)
                found = expected(given, self.kind, level_values(self._levels))
                yield part, question.each(np.split(found, question.copies, axis=1), part)

        for own in _averaged(blocks(), codes):
            values = _combined(question, own)
            yield values.reshape(len(values), -1)

    def _variances(
        self, errors: PointErrors, rows: Encoded, question: _Question, codes: np.ndarray | None
    ) -> Iterator[Float[np.ndarray, " m"]]:
        """Variances of a point fit's estimates by what it integrated out, by blocks of lines."""
        draws, copies, values = self.draws, question.copies, level_values(self._levels)

        def blocks() -> Iterator[tuple[slice, list[Any]]]:
            for part, places in self._blocks(question):
                given = given_rows(draws, rows, places)
                mean, slope = (
                    np.split(expected(given, self.kind, values, slope=which), copies, 1)
                    for which in (False, True)
                )
                columns = errors.columns(rows, places)
                slopes = derivatives(question.each, part, mean, slope)
                yield part, [*question.each(mean, part), *(own @ columns for own in slopes)]

        for own in _averaged(blocks(), codes):
            size = len(own) // 2
            combine = partial(_combined, question)
            yield errors.variances(combine, own[:size], own[size:])

    def _blocks(self, question: _Question) -> Iterator[tuple[slice, Int[np.ndarray, " part"]]]:
        """Rows that are asked about, as many as fit in memory, and their places in all copies."""
        size, copies = question.rows.num_rows // question.copies, question.copies
        draws = self.draws if self.errors is None else self.errors.beside
        for part in row_blocks(size, draws.num_draws * copies * max(1, len(self._levels))):
            here = np.arange(part.start, part.stop)
            yield part, np.concatenate([here + copy * size for copy in range(copies)])

    def _summary(self, values: Float[np.ndarray, "draws m"]) -> dict[str, Any]:
        """Mean, sd and interval, and the draws if they are wanted."""
        kept = {"draws": values[:1] if self.is_point else values} if self.keep else {}
        if self.is_point:
            return {"mean": values[0]} | kept
        return dict(zip(NUMBERS, over_draws(values, self.interval), strict=False)) | kept

    def _of_point(
        self,
        values: Float[np.ndarray, "points m"],
        variance: Float[np.ndarray, " m"],
        interval: float,
    ) -> dict[str, Any]:
        """The same of a point with errors, by the delta method."""
        # What was searched for, from differences in both directions; the rest is given it.
        up, down = np.split(values[1:], 2)
        sd = np.sqrt(np.square((up - down) / (2 * ERROR_STEP)).sum(axis=0) + variance)
        ends = [values[0] + ndtri(tail) * sd for tail in tails(interval)]
        found = dict(zip(NUMBERS, (values[0], sd, *ends), strict=True))
        return found | ({"draws": values[:1]} if self.keep else {})


def _joined(parts: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Numbers of several blocks or questions, as far as there are any."""
    return {
        name: np.concatenate([part[name] for part in parts], axis=-1)
        for name, own in parts[0].items()
        if own is not None
    }


def _combined(question: _Question, values: list[np.ndarray]) -> Float[np.ndarray, "draws lines k"]:
    found = np.asarray(question.combine(*values))
    if found.shape != values[0].shape:
        raise ValueError(
            f"comparison returned an array of shape {found.shape}; expected {values[0].shape}, "
            "(draws, lines, levels), like its arguments."
        )
    return found


def _weighted(
    weights: list[np.ndarray], values: list[np.ndarray], part: slice
) -> Float[np.ndarray, "draws part k"]:
    found: np.ndarray = sum(w[part, None] * v for w, v in zip(weights, values, strict=True))
    return found


def _same(values: list[np.ndarray], part: slice) -> list[np.ndarray]:
    del part
    return values


def _alone(value: np.ndarray) -> np.ndarray:
    return value


def _averaged(
    parts: Iterable[tuple[slice, list[Any]]], codes: np.ndarray | None
) -> Iterator[list[Any]]:
    """Findings of each block of rows, or their averages over the rows of each cell."""
    if codes is None:
        yield from (found for _, found in parts)
        return
    share, totals = 1.0 / np.bincount(codes), None
    for part, found in parts:
        own = codes[part]
        shape = (len(share), len(own))
        cell = scipy.sparse.csr_array((share[own], (own, np.arange(len(own)))), shape)
        sums = [_summed(cell, one) for one in found]
        totals = sums if totals is None else [a + b for a, b in zip(totals, sums, strict=True)]
    if totals is not None:
        yield totals


def _summed(cell: Any, values: Any) -> Any:
    """Sums of (draws, part, k), or of sparse lines (part x k, m), by cell."""
    if scipy.sparse.issparse(values):
        each = values.shape[0] // cell.shape[1]
        return scipy.sparse.kron(cell, scipy.sparse.eye_array(each), "csr") @ values
    return np.stack([values[..., place] @ cell.T for place in range(values.shape[2])], axis=2)
