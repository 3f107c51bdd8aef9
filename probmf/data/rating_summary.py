"""Summary of a table of ratings, as text and as a small HTML table."""

import sys
from typing import Any, Self

import numpy as np

from probmf import html
from probmf.data.column import plain
from probmf.data.rating_table import RatingTable

_QUANTILES = {"min": 0.0, "5%": 0.05, "50%": 0.5, "95%": 0.95, "max": 1.0}


class RatingSummary(str):
    """The summary of a table of ratings: text that shows itself, as tables in a notebook."""

    _html: str

    def __new__(cls, table: RatingTable) -> Self:
        """Describe a table."""
        made = super().__new__(cls, describe(table))
        made._html = describe_html(table)
        return made

    def __repr__(self) -> str:
        """The text itself."""
        return str(self)

    def _repr_html_(self) -> str:
        return self._html


def describe(table: RatingTable) -> str:
    """Counts, in the first line, rating statistics, degree quantiles and memory as aligned text."""
    facts = _facts(table)
    width = max(map(len, facts))
    lines = [_headline(table), ""]
    lines += [f"{name:<{width}}  {value}" for name, value in facts.items()]
    degrees = _degrees(table)
    columns = [max(map(len, column)) for column in zip(*degrees, strict=True)]
    lines.append("")
    for name, *values in degrees:
        cells = [f"{value:>{size}}" for value, size in zip(values, columns[1:], strict=True)]
        lines.append("  ".join([f"{name:<{columns[0]}}", *cells]))
    return "\n".join(lines)


def describe_html(table: RatingTable) -> str:
    """The same as small HTML tables, self-contained."""
    head, *rows = _degrees(table)
    to_left = [True, *(False for _ in head[1:])]
    facts = html.facts({"": _headline(table)} | _facts(table))
    return html.together(facts, html.table(head, rows, to_left))


def headline_count(count: int, noun: str) -> str:
    """A count with its noun: "1 item", "2,000 items"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _headline(table: RatingTable) -> str:
    ratings = headline_count(table.num_ratings, "rating")
    items = headline_count(table.num_items, "item")
    return f"{ratings} of {items} by {headline_count(table.num_users, 'user')}"


def _facts(table: RatingTable) -> dict[str, str]:
    facts = {"density": f"{100 * table.density:.3g} %"}
    low, high = table.rating.min(), table.rating.max()
    if low >= 0 and high <= 1 and not np.any(table.rating % 1):
        ones = int(table.rating.sum())
        facts["ratings"] = f"0 or 1; {100 * ones / table.num_ratings:.1f} % are 1 ({ones:,})"
    else:
        facts["ratings"] = (
            f"from {low:g} to {high:g}, mean {table.rating.mean():.4g}, "
            f"standard deviation {table.rating.std():.4g}"
        )
    if table.weight is not None:
        facts["weights"] = f"from {table.weight.min():g} to {table.weight.max():g}"
        if table.weight.any():
            facts["weights"] += f"; weighted mean rating {table.mean:.4g}"
    if table.time is not None:
        facts["times"] = f"from {plain(table.time.min())} to {plain(table.time.max())}"
    if table.columns:
        facts["columns"] = _listed(list(table.columns))
    for features, name in ((table.user_features, "users"), (table.item_features, "items")):
        if features is not None:
            facts[f"known of {name}"] = _listed(features.column_names[1:])
    arrays: list[Any] = [table.user, table.item, table.rating, table.weight, table.time]
    arrays += [*table.columns.values(), table.user_features, table.item_features]
    total = sum(array.nbytes for array in arrays if array is not None)
    for ids in (table.users.ids, table.items.ids):
        total += ids.nbytes + (sum(map(sys.getsizeof, ids)) if ids.dtype == object else 0)
    facts["memory"] = _size(total)
    return facts


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 9 else ""
    return ", ".join(names[:8] if more else names) + more or "nothing"


def _degrees(table: RatingTable) -> list[list[str]]:
    rows = [["ratings per", *_QUANTILES, "mean", "without"]]
    for name, degree in (("user", table.user_degree), ("item", table.item_degree)):
        values = [*np.quantile(degree, list(_QUANTILES.values())), degree.mean()]
        cells = [f"{value:,.1f}".removesuffix(".0") for value in values]
        rows.append([name, *cells, f"{int((degree == 0).sum()):,}"])
    return rows


def _size(count: int) -> str:
    size, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
