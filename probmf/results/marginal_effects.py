r"""Predictions, comparisons and slopes of mixed models, by rows or averaged, with their intervals.

With m the expected response at a draw, or the linear predictor,

.. math::
    \text{predictions: } m(x), \quad \text{comparisons: } m(x_1) - m(x_0), \quad
    \text{slopes: } \partial m(x) / \partial x,

each averaged over rows at every draw, so that intervals hold what the draws know. The vocabulary is
that of marginaleffects (Arel-Bundock, Greifer and Heiss, 2024).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import scipy.sparse
from jax.typing import ArrayLike
from jaxtyping import Float
from scipy.special import ndtri

from probmf.data import as_generator
from probmf.data.column import Column, objects
from probmf.data.tables import Frame
from probmf.likelihoods import Likelihood
from probmf.models.mixed import Encoded
from probmf.models.mixed.design import encode_rows
from probmf.models.mixed.grouping import Unseen
from probmf.models.mixed.variables import read_data
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
from probmf.results.prediction_intervals import over_draws

type Comparison = (
    Literal["difference", "ratio", "lift", "lnratio", "lnor"]
    | Callable[[np.ndarray, np.ndarray], np.ndarray]
)
type Slope = Literal["dydx", "eyex", "eydx", "dyex"]
#: What is averaged: nothing, all rows, or the rows of each combination of some columns' values.
type By = bool | str | Sequence[str]

#: Step of a derivative by an error of a point fit, in standard errors.
ERROR_STEP = 1e-2
#: Share of a standard error that an estimate may change with the effects of known groups, by their
#: scales, and still counts as free of them.
FREE = 1e-3


class _Question(NamedTuple):
    """One quantity of every row.

    Attributes:
        labels: What it is about, in words by column.
        rows: One, two copies of the rows, one after the other.
        copies: Number of copies.
        each: From the expectations under the copies, and places of rows, what is averaged.
        combine: From the averages the estimate.
    """

    labels: dict[str, str]
    rows: Frame
    copies: int
    each: Callable[[list[np.ndarray], slice], list[np.ndarray]]
    combine: Callable[..., np.ndarray]


@dataclass(frozen=True, eq=False, kw_only=True)
class EffectQuery:
    """A question to a fit, checked.

    Attributes:
        draws: Draws of the fit.
        likelihood: The model's.
        training: The training table, or None.
        loadings: Joint errors of a point fit's sites, as `Maximum` has them.
        is_point: Whether it is a point fit.
        data: The rows that are asked about, None for those of the training table.
        by: What is averaged.
        kind: Scale of the expectations.
        interval: Probability of the intervals, or None.
        unseen: What a new group does.
        level: Which effects count.
        keep: Whether draws are returned.
        key: Draws effects of new groups; None without.
    """

    draws: SiteDraws
    likelihood: Likelihood
    training: Any
    loadings: Mapping[str, np.ndarray] = field(default_factory=dict)
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
                f"kind is 'probabilities', but a response of {self.likelihood!r} has no levels; "
                "expected 'mean' or 'link'."
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
    def _coded(self) -> Any:
        return self.likelihood.coded(len(self.draws.design.response_levels))

    @property
    def _levels(self) -> tuple[Any, ...]:
        """Levels of the response; empty if it has none."""
        return tuple(self.draws.design.response_levels or self._coded.levels)

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
        if self.is_point and "sd" in joined and np.isnan(joined["sd"]).all():
            joined = {name: own for name, own in joined.items() if name in ("mean", "draws")}
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
        change, place, parts = self._change(question, codes), 0, []
        for values in self._values(self._beside, question, codes):
            flat = values.reshape(len(values), -1)
            own = None if change is None else change[place : place + flat.shape[1]]
            parts.append(self._summary(flat, own))
            place += flat.shape[1]
        return _joined(parts)

    def _values(
        self, draws: SiteDraws, question: _Question, codes: np.ndarray | None
    ) -> Iterator[Float[np.ndarray, "draws lines k"]]:
        """Estimates at each draw, or at a point and beside it, by blocks of lines."""
        rows = encode_rows(
            self.draws.design, question.rows, self.unseen,
            left_out(self.draws.design, self.level),
        )  # fmt: skip
        draws, rows = self._with_groups(draws, rows)
        size, copies = question.rows.num_rows // question.copies, question.copies
        coded, values = self._coded, level_values(self._levels)
        numbers = draws.num_draws * copies * max(1, len(values))
        totals: list[np.ndarray] | None = None
        for part in row_blocks(size, numbers):
            here = np.arange(part.start, part.stop)
            places = np.concatenate([here + copy * size for copy in range(copies)])
            given = given_rows(draws, rows, places, coded)
            found = expected(coded, given, self.kind, values)
            own = question.each(np.split(found, copies, axis=1), part)
            if codes is None:
                yield _combined(question, own)
                continue
            sums = [_summed(one, codes[part], codes.max() + 1) for one in own]
            totals = sums if totals is None else [a + b for a, b in zip(totals, sums, strict=True)]
        if codes is not None and totals is not None:
            count = np.bincount(codes)[:, None]
            yield _combined(question, [total / count for total in totals])

    def _with_groups(self, draws: SiteDraws, rows: Encoded) -> tuple[SiteDraws, Encoded]:
        """Effects of new groups drawn, but those of a point fit, which are integrated out."""
        if self.is_point or known_rows(rows).all():
            return draws, rows
        if self.key is None:
            raise ValueError(
                "Effects of new groups are drawn at random; give key=, a JAX key or an int. "
                "level='population' leaves them out."
            )
        return with_drawn_groups(draws, rows, as_generator(self.key))

    @cached_property
    def _beside(self) -> SiteDraws:
        """The draws; of a point with errors the point and points beside it for derivatives."""
        if not self.loadings or self.interval is None:
            return self.draws
        width = 1 + 2 * next(iter(self.loadings.values())).shape[-1]
        samples = {
            name: np.broadcast_to(value, (1, width, *value.shape[2:]))
            for name, value in self.draws.samples.items()
        }
        for site, own in self.loadings.items():
            shift = ERROR_STEP * np.moveaxis(own, -1, 0)
            moved = np.concatenate([np.zeros_like(shift[:1]), shift, -shift])
            samples[site] = np.asarray(samples[site], np.float64) + moved
        return SiteDraws(self.draws.design, samples)

    def _change(
        self, question: _Question, codes: np.ndarray | None
    ) -> Float[np.ndarray, " m"] | None:
        """Changes of a point fit's estimates if the effects of known groups change by their scales.

        None where no interval is wanted, or there are no effects.
        """
        design = self.draws.design
        terms = {term.name for own in design.codings for term in own.terms}
        terms -= left_out(design, self.level)
        if self._beside is self.draws or not terms:
            return None
        rng, samples = np.random.default_rng(0), dict(self.draws.samples)
        for name in terms:
            site, scale = f"{name}_effects", self.draws[f"{name}_scale"][:, None, :]
            shift = scale * rng.normal(size=self.draws[site].shape)
            samples[site] = (self.draws[site] + shift)[None]
        moved = self._values(SiteDraws(design, samples), question, codes)
        still = self._values(self.draws, question, codes)
        return np.concatenate([np.abs(a - b).ravel() for a, b in zip(moved, still, strict=True)])

    def _summary(
        self, values: Float[np.ndarray, "draws m"], change: Float[np.ndarray, " m"] | None
    ) -> dict[str, Any]:
        """Mean, sd and interval, and the draws if they are wanted."""
        kept = {"draws": values[:1] if self.is_point else values} if self.keep else {}
        if not self.is_point:
            found = over_draws(values, self.interval)
            return dict(zip(NUMBERS, found, strict=False)) | kept
        if self._beside is self.draws or self.interval is None:
            return {"mean": values[0]} | kept
        # By the delta method, from differences in both directions.
        up, down = np.split(values[1:], 2)
        sd = np.linalg.norm((up - down) / (2 * ERROR_STEP), axis=0)
        if change is not None:
            sd = np.where(change <= FREE * sd, sd, np.nan)
        ends = [values[0] + ndtri(tail) * sd for tail in tails(self.interval)]
        return dict(zip(NUMBERS, (values[0], sd, *ends), strict=True)) | kept


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


def _summed(
    values: Float[np.ndarray, "draws part k"], codes: np.ndarray, size: int
) -> Float[np.ndarray, "draws cells k"]:
    """Sums of the rows of each cell."""
    rows = np.arange(len(codes))
    cell = scipy.sparse.csr_array((np.ones(len(codes)), (rows, codes)), (len(codes), size))
    return np.stack([values[..., place] @ cell for place in range(values.shape[2])], axis=2)
