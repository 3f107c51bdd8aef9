"""The program `probmf` and its commands."""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

import probmf
from probmf.cli.words import MEANT

#: The commands, each a function of the file of its name.
COMMANDS = ("demo", "fit", "evaluate", "recommend", "report", "mixed", "launch")


class Command(TyperCommand):
    """A command that knows what options are called elsewhere."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as always, but name the option that was meant by one of another program."""
        own = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        for word in args:
            name = word.partition("=")[0]
            meant = MEANT.get(name, "").split(", ")
            if name not in own and set(meant) <= own:
                raise typer.BadParameter(
                    f"There is no option {name}; it is called {' or '.join(meant)} here.", ctx=ctx
                )
        return super().parse_args(ctx, args)


class Commands(TyperGroup):
    """Commands that are imported when they are called, or listed by --help."""

    def __init__(self, **options: Any) -> None:
        """Take the names for suggestions."""
        super().__init__(**options)
        self.commands: Any = dict.fromkeys(COMMANDS)

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, or None."""
        if cmd_name not in COMMANDS:
            return None
        function = getattr(import_module(f"probmf.cli.{cmd_name}"), cmd_name)
        single = typer.Typer(add_completion=False)
        single.command(cmd_name, cls=Command)(function)
        return get_command(single)


app = typer.Typer(
    name="probmf",
    cls=Commands,
    no_args_is_help=True,
    # Our errors are one message; with --debug a plain traceback is wanted, not a page of locals.
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"probmf {probmf.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Probabilistic matrix factorization and mixed-effects models, with uncertainty."""
