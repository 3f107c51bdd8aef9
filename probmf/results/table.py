"""Results that are tables: Arrow, pandas, polars, text, and a view in notebooks."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa

from probmf import html

#: Rows that are printed; of longer tables the first and the last of them.
PRINTED = 60
#: Characters of a line of notes.
NOTE_WIDTH = 88
#: Rows of a longer table that a notebook shows.
SHOWN = 10


class Tabular:
    """Results with rows: tables of other packages, and a view in notebooks."""

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """The rows as a pandas data frame; see `to_arrow` for its columns."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """The rows as a polars data frame; see `to_arrow` for its columns.

        Raises:
            ModuleNotFoundError: If polars is not installed.
        """
        return nw.from_native(self.to_arrow(), eager_only=True).to_polars()

    #: Number of columns of ids, the first ones, which are shown as they are: 1984, not 1,984.
    _num_ids = 0

    def _repr_html_(self) -> str:
        """A headline and the first rows, for notebooks."""
        try:
            rows = self.to_arrow()
        except TypeError:  # Of ids that have no Arrow type, such as tuples.
            return html.lines([self._headline])
        ids = rows.column_names[: self._num_ids]
        first = rows.slice(0, SHOWN).to_pylist()
        shown = Table(tuple(row | {name: str(row[name]) for name in ids} for row in first))
        more = rows.num_rows - len(shown)
        told = [f"{more:,} more {'row' if more == 1 else 'rows'}"] if more else []
        return html.together(html.lines([self._headline]), shown._repr_html_(), html.lines(told))

    @property
    def _headline(self) -> str:
        """The result in one line."""
        return repr(self)


@dataclass(frozen=True, eq=False, repr=False)
class Table(Tabular):
    """Rows of named values, all with the same names.

    Attributes:
        rows: The rows, from names of columns to numbers or text.
        notes: Sentences about them, which are printed below.

    Example:
        >>> Table(({"name": "a", "mean": 1.25}, {"name": "b[x]", "mean": -10.0}))
        name   mean
        a      1.25
        b[x]  -10.0
    """

    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """The rows."""
        return iter(self.rows)

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        """The row whose first column is a name.

        Raises:
            KeyError: If there is none.
        """
        for row in self.rows:
            if next(iter(row.values())) == name:
                return row
        raise KeyError(name)

    def __repr__(self) -> str:
        """Columns one below the other: text to the left, numbers to the right."""
        if not self.rows:
            return "(no rows)"
        cells = [self.column_names, *self._cells()]
        widths = [
            max(len(line[place]) for line in cells) for place in range(len(self.column_names))
        ]
        lines = [
            "  ".join(
                cell.ljust(width) if to_left else cell.rjust(width)
                for cell, width, to_left in zip(line, widths, self._to_left, strict=True)
            )
            for line in cells
        ]
        notes = (textwrap.fill(note, NOTE_WIDTH) for note in self.notes)
        return "\n".join([*(line.rstrip() for line in lines), *notes])

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        if not self.rows:
            return html.lines(["(no rows)"])
        return html.together(self.to_html(), html.lines(self.notes))

    def to_html(self, caption: str = "") -> str:
        """The rows as an HTML table, without notes.

        Args:
            caption: Line above it.
        """
        if not self.rows:
            return ""
        kept = self._filled
        return html.table(
            [self.column_names[n] for n in kept],
            [[row[n] for n in kept] for row in self._cells()],
            [self._to_left[n] for n in kept],
            caption,
        )

    @property
    def _filled(self) -> list[int]:
        """Places of the columns that are not empty, as R-hat of independent draws is."""
        cells = self._cells()
        return [
            n for n, _ in enumerate(self.column_names) if {row[n] for row in cells} - {"", "..."}
        ]

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return list(self.rows[0]) if self.rows else []

    @property
    def _to_left(self) -> list[bool]:
        """Columns of words."""
        return [isinstance(value, str) for value in self.rows[0].values()]

    def _cells(self) -> Sequence[list[str]]:
        """The rows as they are printed."""
        shown = list(self.rows)
        if len(shown) > PRINTED:
            shown = [*shown[: PRINTED // 2], {}, *shown[-PRINTED // 2 :]]
        return [[_cell(row[name]) if row else "..." for name in self.column_names] for row in shown]

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        return pa.Table.from_pylist([dict(row) for row in self.rows])


def shown(table: Table) -> tuple[list[str], Sequence[list[str]]]:
    """Names of a table's columns, and its rows as they are printed, without empty columns."""
    kept = table._filled
    return [table.column_names[n] for n in kept], [[row[n] for n in kept] for row in table._cells()]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        number = float(value)
        text = f"{number:.4g}"
        if "e+" in text and abs(number) < 1e6:
            return f"{number:,.0f}"
        digits = text.lstrip("-")
        return f"{text}.0" if digits.isdigit() and len(digits) < 3 else text
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)
