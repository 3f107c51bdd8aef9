"""The program `probmf` and its commands."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import probmf
from probmf.cli.demo import demo
from probmf.cli.evaluate import evaluate
from probmf.cli.fit import fit
from probmf.cli.mixed import mixed
from probmf.cli.recommend import recommend
from probmf.cli.words import MEANT


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


app = typer.Typer(
    name="probmf",
    no_args_is_help=True,
    # Our errors are one message; with --debug a plain traceback is wanted, not a page of locals.
    pretty_exceptions_enable=False,
)
for command in (demo, fit, evaluate, recommend, mixed):
    app.command(cls=Command)(command)


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
