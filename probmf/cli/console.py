"""Consoles of the commands: tables go to standard output, trouble to standard error."""

import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import probmf
from probmf.cli.words import in_options
from probmf.results.table import Table as Tabled
from probmf.results.table import shown

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
#: Who says what is wrong, where it is one of several processes.
speaker = ""

#: What our own checks raise when the user's input does not do.
MISTAKES = (ValueError, TypeError, LookupError, OSError, ImportError)
_PACKAGE = Path(probmf.__file__).parent


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """End a command with one clear message and exit code 1, with `debug` with a traceback."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
        except BrokenPipeError:
            raise  # Whoever reads our output, such as `head`, has enough: click ends quietly.
        except MISTAKES as error:
            if debug:
                raise
            say_error(in_options(_message(error)))
            if not _raised_by_us(error):
                err.print("This may be a bug in probmf; --debug shows where it happened.")
            raise typer.Exit(1) from None


def say_error(message: str) -> None:
    """Print a message in red on standard error; the terminal wraps it, not we."""
    err.print(Text(speaker + message, style="red"), soft_wrap=True)


def note(message: str) -> None:
    """Print a remark that is no error, such as what was left out, on standard error."""
    if not speaker:
        err.print(Text(message, style="yellow"), soft_wrap=True)


def say(message: str, style: str = "") -> None:
    """Print a sentence on standard output; the terminal wraps it, not we."""
    out.print(Text(message, style=style), soft_wrap=True)


def heading(text: str) -> None:
    """Print a line in bold above a table; a table's own title would be wrapped to its width."""
    say(text, "bold")


class PlainTable(Table):
    """A table whose cells are shown as they are: names such as `coefficients[x]` are no markup."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row of strings."""
        super().add_row(*(Text(c) if isinstance(c, str) else c for c in cells), **options)


def plain_table(*columns: str) -> Table:
    """A table with a line under its head and nothing else; first column left, others right."""
    table = PlainTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if place else "left")
    return table


def as_printed(table: Tabled, num_left: int = 1) -> Table:
    """A result's table for the terminal. The first `num_left` columns are set to the left."""
    names, rows = shown(table)
    made = plain_table(*names)
    for column in made.columns[:num_left]:
        column.justify = "left"
    for row in rows:
        made.add_row(*row)
    return made


def _message(error: BaseException) -> str:
    # str of a KeyError is the repr of its message.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}."
    return text or type(error).__name__


def _raised_by_us(error: BaseException) -> bool:
    """True if the exception was raised by a check in the package, or by the file system."""
    frames = traceback.extract_tb(error.__traceback__)
    own = bool(frames) and Path(frames[-1].filename).is_relative_to(_PACKAGE)
    return own or isinstance(error, OSError)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    """Our own warnings as remarks; those of libraries only where somebody asked for them."""
    if category.__module__.startswith("probmf") or sys.warnoptions:
        note(in_options(str(message)))
