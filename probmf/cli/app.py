"""The program `probmf` and its commands."""

from typing import Annotated

import typer

import probmf
from probmf.cli.demo import demo
from probmf.cli.evaluate import evaluate
from probmf.cli.fit import fit
from probmf.cli.recommend import recommend

app = typer.Typer(
    name="probmf",
    no_args_is_help=True,
    add_completion=False,
    # Our errors are one message; with --debug a plain traceback is wanted, not a page of locals.
    pretty_exceptions_enable=False,
)
for command in (demo, fit, evaluate, recommend):
    app.command()(command)


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
    """Probabilistic matrix factorization: fit, evaluate and recommend with uncertainty."""
