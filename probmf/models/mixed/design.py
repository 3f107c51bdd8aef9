"""A formula applied to data: arrays, their labels, dimensions, and the coding of new rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from probmf.data.tables import Frame, read_table
from probmf.models.mixed.arrays import MixedData
from probmf.models.mixed.encoding import ColumnEncoder, GroupEncoder, Unseen, joined

#: What is told of the responses of the training data alone.
OF_RESPONSES = {"censored", "upper"}


class EncodedTerm(NamedTuple):
    """A group term of some rows: groups, int32 of shape (n,), columns of shape (n, d).

    Of groups that the training data lack the first has the code -1, the second -2, and so on.
    """

    group: np.ndarray
    z: np.ndarray


class Encoded(NamedTuple):
    """Rows in the training data's coding.

    Attributes:
        population: Float64 of shape (n, p).
        groups: Group terms by name.
        noise: The same for the predictor of the noise scale, if there is one.
        offset: What is added to the predictor, of shape (n,), or None.
        known: Own parameters of the likelihood that the data have by row, of shape (n,).
    """

    population: np.ndarray
    groups: dict[str, EncodedTerm]
    noise: "Encoded | None" = None
    offset: np.ndarray | None = None
    known: Mapping[str, np.ndarray] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class TermCoding:
    """Encoding of a group term: its name, and which columns of which encoder it has."""

    name: str
    columns: ColumnEncoder
    places: tuple[int, ...]
    groups: GroupEncoder
    correlated: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its columns."""
        return tuple(self.columns.names[place] for place in self.places)


@dataclass(frozen=True, eq=False)
class PredictorCoding:
    """Encoding of a predictor.

    Attributes:
        site: Name of the site of its coefficients.
        columns: Encoder of the population part.
        places: Which of its columns are used; an ordinal model has no intercept.
        terms: The group terms.
        offset: Encoder of the offset, or None.
    """

    site: str
    columns: ColumnEncoder
    places: tuple[int, ...]
    terms: tuple[TermCoding, ...]
    offset: ColumnEncoder | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the population columns."""
        return tuple(self.columns.names[place] for place in self.places)

    def columns_used(self, leave_out: Collection[str] = ()) -> list[str]:
        """Columns of the data that it needs, but for some group terms."""
        names = [*self.columns.levels, *(() if self.offset is None else self.offset.levels)]
        for term in self.terms:
            if term.name not in leave_out:
                names += [*term.columns.levels, *term.groups.factors]
        return names

    def encode(self, table: Frame, unseen: Unseen, leave_out: Collection[str] = ()) -> Encoded:
        """New rows in this coding, but for some group terms."""
        population = self.columns.encode(table)[:, list(self.places)]
        offset = None if self.offset is None else self.offset.encode(table)[:, 0]
        terms = {
            term.name: EncodedTerm(
                term.groups.encode(table, unseen=unseen),
                term.columns.encode(table)[:, list(term.places)],
            )
            for term in self.terms
            if term.name not in leave_out
        }
        return Encoded(population, terms, offset=offset)


@dataclass(frozen=True, eq=False)
class Design:
    """A formula applied to data: the arrays, and the labels that belong to them.

    Attributes:
        data: The model's arguments, without labels.
        mean: How the linear predictor is encoded.
        noise: How the predictor of the noise scale is, if there is one.
        levels: Labels of the groups, by grouping factor.
        response_levels: Levels of an ordinal response, in order.
        known: Columns of own parameters of the likelihood, by site: {"trials": "n"}.
    """

    data: MixedData
    mean: PredictorCoding
    noise: PredictorCoding | None
    levels: dict[str, np.ndarray]
    response_levels: tuple[Any, ...]
    known: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The sizes and names."""
        terms = [
            f"{term.name} ({term.groups.num_groups:,} groups: {', '.join(term.names)})"
            for coding in self.codings
            for term in coding.terms
        ]
        columns = [f"{coding.site}: {', '.join(coding.names) or 'none'}" for coding in self.codings]
        return (
            f"Design({self.data.num_observations:,} observations of {self.data.response_name!r}; "
            f"{'; '.join(columns)}; effects: {', '.join(terms) or 'none'})"
        )

    @property
    def codings(self) -> tuple[PredictorCoding, ...]:
        """Coding of the linear predictor, and of that of the noise if there is one."""
        return (self.mean,) if self.noise is None else (self.mean, self.noise)

    @property
    def known_of_rows(self) -> dict[str, str]:
        """Those of `known` that new rows need, too."""
        return {site: name for site, name in self.known.items() if site not in OF_RESPONSES}

    @property
    def group_codes(self) -> dict[str, np.ndarray]:
        """Code of each row's group, by grouping factor."""
        found: dict[str, np.ndarray] = {}
        for coding, part in zip(self.codings, self.data.predictors, strict=True):
            for term, own in zip(coding.terms, part.groups, strict=True):
                found.setdefault(term.groups.name, np.asarray(own.group))
        return found


def encode_rows(
    design: Design, data: Any, unseen: Unseen, leave_out: Collection[str] = ()
) -> Encoded:
    """Encode new data with the training data's coding; no response is needed.

    Columns that only terms use which are left out need not be there.
    """
    names = [name for coding in design.codings for name in coding.columns_used(leave_out)]
    asked = design.known_of_rows
    table = read_data(data, list(dict.fromkeys([*names, *asked.values()])))
    parts = [coding.encode(table, unseen, leave_out) for coding in design.codings]
    known = {site: table[column].numbers() for site, column in asked.items()}
    return parts[0]._replace(noise=parts[1] if len(parts) > 1 else None, known=known)


def dims(design: Design, raw: Collection[str] = ()) -> dict[str, list[str]]:
    """Dimensions of each site, chain and draw left out.

    `raw` are sites of effects that are not centred; `{name}_effects_raw` goes with them.
    `{name}_correlation` is the Cholesky factor of the correlations, with `{name}_coefficient_other`
    as its second dimension.
    """
    found: dict[str, list[str]] = {design.data.response_name: ["observation"]}
    for coding in design.codings:
        if coding.names:
            found[coding.site] = [_single(coding.site)]
        if coding is design.mean and design.data.mixing is not None:
            found[design.data.mixing.site] = ["coefficient_mixing"]
        for term in coding.terms:
            own = f"{term.name}_coefficient"
            found[f"{term.name}_scale"] = [own]
            if len(term.names) > 1 and term.correlated:
                found[f"{term.name}_correlation"] = [own, f"{own}_other"]
            site = f"{term.name}_effects"
            found[site] = [term.groups.name, own]
            if site in raw:
                found[f"{site}_raw"] = [term.groups.name, own]
    return found


def coords(design: Design) -> dict[str, list[Any]]:
    """Coordinates of each dimension.

    Names of columns, levels of grouping factors as the user has them, rows counted from 0, and
    "a|b" for the cutpoint between levels a and b.
    """
    found: dict[str, list[Any]] = {"observation": list(range(design.data.num_observations))}
    for coding in design.codings:
        if coding.names:
            found[_single(coding.site)] = list(coding.names)
        if coding is design.mean and (mixing := design.data.mixing) is not None:
            found["coefficient_mixing"] = [coding.names[place] for place in mixing.place]
        for term in coding.terms:
            own = f"{term.name}_coefficient"
            found[own] = list(term.names)
            if len(term.names) > 1 and term.correlated:
                found[f"{own}_other"] = list(term.names)
    found |= {factor: _plain(labels) for factor, labels in design.levels.items()}
    levels = design.response_levels
    if levels:
        found["cutpoint"] = [joined(pair, "|") for pair in pairwise(levels)]
    return found


def _plain(labels: np.ndarray) -> list[Any]:
    """Levels as Python values; dates and durations as text, since nanoseconds would be integers."""
    if labels.dtype.kind == "M":
        return list(np.datetime_as_string(labels, unit="auto").tolist())
    if labels.dtype.kind == "m":
        return [str(pd.Timedelta(label)) for label in labels]
    return list(labels.tolist())


def _single(site: str) -> str:
    return site.removesuffix("s")


def read_data(
    data: Any,
    names: Sequence[str],
    *,
    hints: Mapping[str, str] | None = None,
    gaps: Collection[str] = (),
) -> Frame:
    """The columns that formulas use; without a missing value, and at least one row.

    `hints` say what to do when a column is missing; columns in `gaps` need no value in every row.
    """
    table = read_table(data, names, "the data", hints=hints)
    if not table.num_rows:
        raise ValueError("The data has no rows; at least one is needed.")
    for name, column in table.items():
        if name not in gaps:
            column.refuse_missing()
    return table
