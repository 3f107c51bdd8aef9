"""`probmf mixed`: from a formula and a table to a summary, and a saved fit if asked for."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from probmf.cli import shared_options as options
from probmf.cli.console import as_printed, note, out, plain_errors, say
from probmf.cli.reading import check_place, read_rows, refuse_to_replace
from probmf.inference.mixed.maximum_likelihood import fit_marginal
from probmf.inference.mixed.quadrature_sampler import NoGroupingError
from probmf.inference.mixed.sampling import sample_marginal
from probmf.inference.nuts.nuts import sample_nuts
from probmf.likelihoods import LIKELIHOODS, read_likelihood
from probmf.models import MixedEffects
from probmf.results import MixedFit
from probmf.results.table import Table

Method = Literal["auto", "likelihood", "restricted", "marginal", "nuts"]
_NETCDF, _ZARR = (".nc", ".netcdf"), (".zarr",)


def mixed(
    formula: Annotated[
        str, typer.Argument(metavar="FORMULA", help='Such as "y ~ 1 + x + (1 + x | g)".')
    ],
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="CSV or Parquet file.")],
    method: Annotated[
        Method,
        typer.Option(
            help="Maximum likelihood; restricted likelihood (REML); independent posterior draws "
            "with effects integrated out; or NUTS. Default: marginal, and nuts where no effects "
            "can be integrated out."
        ),
    ] = "auto",
    likelihood: Annotated[
        str,
        typer.Option(metavar=f"[{'|'.join(LIKELIHOODS)}]", help="Distribution of the response."),
    ] = "gaussian",
    scale_formula: Annotated[
        str | None,
        typer.Option(
            metavar="FORMULA",
            help='Of the log noise scale or concentration, such as "~ 1 + (1 | g)".',
        ),
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option(help="Draws; of nuts for each chain. Default: 1000; 500.")
    ] = None,
    num_chains: Annotated[int | None, typer.Option(help="Of nuts. Default: 4.")] = None,
    effects: Annotated[
        bool, typer.Option("--effects", metavar="", help="List every effect of every group, too.")
    ] = False,
    interval: Annotated[float, typer.Option(help="Probability of the intervals.")] = 0.9,
    directory: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to save the fit in.")
    ] = None,
    arviz: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="ArviZ file to write: NetCDF (.nc) or zarr (.zarr)."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print JSON instead of a table.")
    ] = False,
    seed: options.Seed = 0,
    force: options.Force = False,
    debug: options.Debug = False,
) -> None:
    """Fit a mixed-effects model to a table and print its summary."""
    with plain_errors(debug):
        if directory is not None:
            refuse_to_replace(directory, force)
        _check_tree(arviz, force)
        model = MixedEffects(
            formula, likelihood=read_likelihood(likelihood), scale_formula=scale_formula
        )
        given = {"num_samples": num_samples, "num_chains": num_chains}
        known = {n: v for n, v in given.items() if v is not None}
        fit = _fit(method, model, read_rows(table, model), seed, _settings(method, known))
        summary = fit.summary(interval=interval, effects=effects)
        if as_json:
            groups = {site: len(groups) for site, groups in fit.design.levels.items()}
            told = {
                "formula": fit.model.formula, "method": fit.method,
                "observations": fit.design.data.num_observations, "groups": groups,
                "summary": [dict(row) for row in summary], "notes": list(summary.notes),
            }  # fmt: skip
            typer.echo(json.dumps(told, indent=2))
        else:
            show(fit, summary)
        if directory is not None:
            fit.save(directory)
            note(f"Saved in {directory}: probmf.load({str(directory)!r}) reads it.")
        if arviz is not None:
            _write_tree(fit, arviz, seed)
            note(f"Wrote {arviz}: arviz.from_netcdf or from_zarr reads it.")


def show(fit: MixedFit, summary: Table) -> None:
    """Print what was fitted to what, and its summary."""
    say(repr(fit).removeprefix("MixedFit(").removesuffix(")"), "bold")
    for site, groups in fit.design.levels.items():
        say(f"{site}: {len(groups):,} groups")
    say("")
    out.print(as_printed(summary), "")
    for sentence in summary.notes:
        note(sentence)


def _fit(
    method: Method, model: MixedEffects, data: Any, seed: int, settings: dict[str, Any]
) -> MixedFit:
    """The fit by the method that the command line names."""
    if method == "likelihood" or method == "restricted":
        return fit_marginal(model, data, objective=method, **settings)
    if method == "nuts":
        return sample_nuts(model, data, key=seed, **settings)
    try:
        return sample_marginal(model, data, key=seed, **settings)
    except ValueError as error:
        if method == "marginal" or not isinstance(error.__cause__, NoGroupingError):
            raise
        note(f"No effects can be integrated out ({error.__cause__}), so NUTS draws all of them.")
        return sample_nuts(replace(model, centered=False), data, key=seed, **settings)


def _settings(method: Method, given: dict[str, Any]) -> dict[str, Any]:
    """The options given, those of another method refused."""
    of = {"num_samples": ("marginal", "nuts"), "num_chains": ("nuts",)}
    for name in given:
        if method not in (*of[name], "auto" if "marginal" in of[name] else ""):
            raise ValueError(
                f"--{name.replace('_', '-')} belongs to --method {' or '.join(of[name])}, but the "
                f"method is {method}; leave it out, or change the method."
            )
    return given


def _check_tree(path: Path | None, force: bool) -> None:
    """Refuse names of files that ArviZ has no format for, and those that are there."""
    if path is None:
        return
    if path.suffix not in (*_NETCDF, *_ZARR):
        raise ValueError(f"--arviz is {path}; expected a name that ends in .nc or in .zarr.")
    check_place(path)
    if path.exists() and not force:
        raise FileExistsError(f"{path} is there already. Give another name, or --force.")
    packages = ("zarr",) if path.suffix in _ZARR else ("h5netcdf", "netCDF4")
    if not any(find_spec(package) for package in packages):
        raise ModuleNotFoundError(
            f"--arviz {path} needs the package {' or '.join(packages)}: pip install {packages[0]}."
        )


def _write_tree(fit: MixedFit, path: Path, seed: int) -> None:
    tree = fit.to_arviz(posterior_predictive=not fit.is_point, log_likelihood=True, key=seed)
    if path.suffix in _ZARR:
        tree.to_zarr(path, mode="w", consolidated=False)
    else:
        tree.to_netcdf(path)
