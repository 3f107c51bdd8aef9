"""The HTML of a report: a page of sections with tables and pictures, everything in one file."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from probmf import html
from probmf.results.table import Table

#: Resolution of those parts of a picture that are too many for lines, such as clouds of points.
_DPI = 200
#: Pictures of more pixels are scrolled on a phone, where their letters would be too small.
_WIDE = 680


class Tile(NamedTuple):
    """A figure that is worth to be seen first, and a remark of what to compare it with."""

    name: str
    value: str
    remark: str = ""


class Section(NamedTuple):
    """A part of a report: its heading and pieces of HTML, of which empty ones are left out."""

    title: str
    parts: Sequence[str]


def page(title: str, lead: str, tiles: Sequence[Tile], sections: Sequence[Section]) -> str:
    """A whole page. It needs no other file, and no network; sections without parts are left out."""
    style = resources.files("probmf.report").joinpath("style.css").read_text(encoding="utf-8")
    shown = [(f"part-{place}", own) for place, own in enumerate(sections) if any(own.parts)]
    links = "".join(f'<li><a href="#{name}">{escape(own.title)}</a></li>' for name, own in shown)
    bodies = [
        f'<section id="{name}">\n<h2>{escape(own.title)}</h2>\n'
        + "\n".join(filter(None, own.parts))
        + "\n</section>"
        for name, own in shown
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # Without an icon of its own a browser would ask the server of the page for one.
            '<link rel="icon" href="data:,">',
            f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>",
            "<body>\n<main>",
            f'<header>\n<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>',
            _tiles(tiles),
            f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n</header>',
            *bodies,
            "</main>\n</body>\n</html>\n",
        ]
    )


def _tiles(tiles: Sequence[Tile]) -> str:
    cells = [
        f"<div><dt>{escape(own.name)}</dt><dd>{escape(own.value)}</dd>"
        + (f"<dd>{escape(own.remark)}</dd>" if own.remark else "")
        + "</div>"
        for own in tiles
    ]
    return f'<dl class="tiles">{"".join(cells)}</dl>' if cells else ""


def text(*sentences: str, kind: str = "") -> str:
    """A paragraph. `kind` is "muted", "warning", or neither. Empty without a sentence."""
    told = " ".join(filter(None, sentences))
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{escape(told)}</p>" if told else ""


def heading(words: str) -> str:
    """A heading within a section."""
    return f"<h3>{escape(words)}</h3>"


def facts(values: Mapping[str, str]) -> str:
    """Names and what they are, one below the other."""
    return raw(html.facts(values), "Facts")


def table(of: Table, caption: str = "") -> str:
    """A table with its notes, without empty columns, that scrolls where the screen is narrower."""
    if not len(of):
        return ""
    told = {name for row in of for name, value in row.items() if value is not None}
    of = Table(tuple({n: row[n] for n in row if n in told} for row in of), of.notes)
    notes = "".join(text(note, kind="muted") for note in of.notes)
    return raw(of.to_html(caption), caption or "Table") + notes


def raw(made: str, label: str) -> str:
    """HTML of tables, which those who have no mouse scroll by its focus."""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{made}</div>'
    )


def columns(*parts: str) -> str:
    """Pieces side by side where there is room."""
    some = [part for part in parts if part]
    return f'<div class="columns">{"".join(f"<div>{part}</div>" for part in some)}</div>'


def picture(figure: Figure, alt: str, caption: str = "") -> str:
    """A figure as SVG within the page. `alt` says what it shows, for those who can't see it."""
    file = io.StringIO()
    # The same fit gives the same file: no date, no random names.
    with mpl.rc_context({"svg.hashsalt": "probmf", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", dpi=_DPI, metadata={"Date": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    data = base64.b64encode(file.getvalue().encode()).decode()
    wide = ' class="wide" tabindex="0"' if width > _WIDE else ""
    told = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure{wide}><img alt="{escape(alt)}" width="{width}" height="{height}" '
        f'src="data:image/svg+xml;base64,{data}">{told}</figure>'
    )
