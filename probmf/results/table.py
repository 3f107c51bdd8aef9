"""Small tables of numbers that print well."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

#: Rows that are printed; of longer tables the first and the last of them.
PRINTED = 60
#: Characters of a line of notes.
NOTE_WIDTH = 88


@dataclass(frozen=True, eq=False, repr=False)
class Table:
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
        shown = list(self.rows)
        if len(shown) > PRINTED:
            shown = [*shown[: PRINTED // 2], {}, *shown[-PRINTED // 2 :]]
        names = list(self.rows[0])
        cells = [names, *([_cell(row[name]) if row else "..." for name in names] for row in shown)]
        widths = [max(len(line[place]) for line in cells) for place in range(len(names))]
        left = [isinstance(self.rows[0][name], str) for name in names]
        lines = [
            "  ".join(
                cell.ljust(width) if to_left else cell.rjust(width)
                for cell, width, to_left in zip(line, widths, left, strict=True)
            )
            for line in cells
        ]
        notes = (textwrap.fill(note, NOTE_WIDTH) for note in self.notes)
        return "\n".join([*(line.rstrip() for line in lines), *notes])

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table (`.to_pandas()` and `polars.from_arrow` follow)."""
        return pa.Table.from_pylist([dict(row) for row in self.rows])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        number = float(value)
        text = f"{number:.4g}"
        return f"{number:,.0f}" if "e+" in text and abs(number) < 1e6 else _with_point(text)
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


def _with_point(text: str) -> str:
    return text if not text.lstrip("-").isdigit() or len(text.lstrip("-")) > 2 else f"{text}.0"
