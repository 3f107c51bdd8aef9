"""A progress bar for work in several stages."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar(progress: bool | None) -> Progress:
    """A bar with a status text; None shows it on a terminal or in a notebook."""
    console = Console(stderr=True)
    show = (console.is_terminal or console.is_jupyter) if progress is None else progress
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
