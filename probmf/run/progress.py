"""A progress bar for work in several stages."""

from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar(progress: bool | None) -> Progress:
    """A bar with a status text; None shows it where it can be drawn.

    That is on a terminal, and in a notebook that has ipywidgets.
    """
    console = Console(stderr=True)
    drawn = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
    show = drawn if progress is None else progress
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not show,
        transient=True,
    )
