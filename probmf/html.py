"""Small HTML tables for notebooks: self-contained, in the notebook's own style."""

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_LEFT, _RIGHT = "text-align: left", "text-align: right"


def facts(values: Mapping[str, str]) -> str:
    """A table of names and what they are, one below the other.

    Example:
        >>> print(facts({"method": "als"}))
        <table>
        <tr><th style="text-align: left">method</th><td style="text-align: left">als</td></tr>
        </table>
    """
    lines = [
        f"<tr>{_cell('th', name, to_left=True)}{_cell('td', value, to_left=True)}</tr>"
        for name, value in values.items()
    ]
    return "\n".join(["<table>", *lines, "</table>"])


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], to_left: Sequence[bool], caption: str = ""
) -> str:
    """Rows under the names of their columns; those of words are set to the left."""
    lines = ["<table>"]
    if caption:
        lines.append(f'<caption style="{_LEFT}">{escape(caption)}</caption>')
    # Paper repeats a head on each page.
    lines += ["<thead>", _row("th", head, to_left), "</thead>", "<tbody>"]
    return "\n".join([*lines, *(_row("td", row, to_left) for row in rows), "</tbody>", "</table>"])


def fields(of: Any) -> str:
    """A dataclass's name and its fields, one below the other."""
    values = {own.name: repr(getattr(of, own.name)) for own in dataclasses.fields(of) if own.repr}
    return together(lines([type(of).__name__]), facts(values))


def lines(sentences: Sequence[str]) -> str:
    """Sentences below a table, one paragraph each."""
    return "\n".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def together(*parts: str) -> str:
    """One piece of HTML of several; empty ones are left out."""
    return "\n".join(["<div>", *filter(None, parts), "</div>"])


def _row(kind: str, cells: Sequence[str], to_left: Sequence[bool]) -> str:
    found = (_cell(kind, own, to_left=left) for own, left in zip(cells, to_left, strict=True))
    return f"<tr>{''.join(found)}</tr>"


def _cell(kind: str, text: str, *, to_left: bool) -> str:
    return f'<{kind} style="{_LEFT if to_left else _RIGHT}">{escape(text)}</{kind}>'
