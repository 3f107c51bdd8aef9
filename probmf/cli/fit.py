"""`probmf fit`: from a file of ratings to a saved fit."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import typer
from rich.table import Table

from probmf import processes
from probmf.cli import shared_options as options
from probmf.cli.console import out, plain_errors, plain_table, say
from probmf.cli.methods import (
    EPOCHS,
    EPOCHS_FULL,
    SAMPLERS,
    Method,
    Priors,
    read_intercept,
    run_method,
)
from probmf.cli.reading import (
    ColumnNames,
    RatingsOrigin,
    add_features,
    read_ratings,
    refuse_to_replace,
)
from probmf.data import Duplicates
from probmf.diagnostics.judgement import statistics
from probmf.likelihoods import LIKELIHOODS, read_likelihood
from probmf.models import MatrixFactorization
from probmf.results import RatingsFit

_OF_METHOD: dict[str, tuple[Method, ...]] = {
    "devices": ("auto", "als", "map", "gibbs", "variational"),
    "update": ("als",),
    "solver": ("als",),
    "num_sweeps": ("auto", "als", "variational"),
    "num_epochs": ("map",),
    "objective": ("map",),
    "batch_size": ("map",),
    "learning_rate": ("map", "svi"),
    "restarts": ("map",),
    "priors": ("gibbs", "nuts", "variational", "svi"),
    "num_warmup": ("gibbs", "nuts"),
    "num_samples": ("gibbs", "nuts", "svi"),
    "num_chains": ("gibbs", "nuts"),
    "thin": ("gibbs",),
    "marginalize": ("nuts",),
    "checkpoint": ("auto", "als", "map", "gibbs", "nuts", "variational", "svi"),
    "stream": ("gibbs", "nuts"),
    "covariance": ("variational",),
    "guide": ("svi",),
    "num_steps": ("svi",),
}
#: What the automatic method chooses or learns.
_OF_MODEL = (
    "likelihood", "noise_scale", "user_scale", "item_scale", "user_bias_scale", "item_bias_scale",
    "user_bias", "item_bias", "intercept", "unobserved_weight",
)  # fmt: skip
# Options of --help below a heading each.
_of_model = partial(typer.Option, rich_help_panel="Model")
_of_als = partial(typer.Option, rich_help_panel="Alternating least squares")
_of_map = partial(typer.Option, rich_help_panel="Gradient descent")
_of_samplers = partial(typer.Option, rich_help_panel="Sampling")
_of_variational = partial(typer.Option, rich_help_panel="Variational inference")


def fit(
    context: typer.Context,
    ratings: Annotated[
        Path,
        typer.Argument(
            metavar="RATINGS",
            help="CSV or Parquet file, one rating per line; or a folder of Parquet files, which "
            "need not fit in memory.",
        ),
    ],
    directory: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to save the fit in.")
    ],
    method: Annotated[
        Method,
        typer.Option(
            help="Default: auto, the posterior with all scales learned, as probmf.fit. Else "
            "alternating least squares; gradient descent; the posterior by Gibbs sampling or NUTS; "
            "or an approximation of it, in closed form or by stochastic gradients."
        ),
    ] = "auto",
    user: options.UserColumn = "user",
    item: options.ItemColumn = "item",
    rating: options.RatingColumn = "rating",
    pairs_only: options.PairsOnly = False,
    weight: options.WeightColumn = None,
    time: Annotated[
        str | None, typer.Option("--time", metavar="COLUMN", help="Column of times.")
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(metavar="TABLE", help="What is known of items: an id column, 'title', ..."),
    ] = None,
    users: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="What is known of users.")
    ] = None,
    duplicates: Annotated[
        Duplicates, typer.Option(help="What to do with a pair that is rated twice.")
    ] = "error",
    threshold: options.Threshold = None,
    likelihood: Annotated[
        str,
        _of_model(
            metavar=f"[{'|'.join(LIKELIHOODS)}]",
            help="Distribution of ratings: of numbers; of positive ones; of yes/no data; of levels "
            "that have an order and no more; of counts, and more.",
        ),
    ] = "gaussian",
    num_factors: Annotated[int, _of_model(help="Length of the factors.")] = 16,
    noise_scale: Annotated[float, _of_model(help="Standard deviation of a rating's noise.")] = 1.0,
    user_scale: Annotated[float, _of_model(help="The same of each user factor.")] = 1.0,
    item_scale: Annotated[float, _of_model(help="The same of each item factor.")] = 1.0,
    user_bias_scale: Annotated[float, _of_model(help="The same of user biases.")] = 1.0,
    item_bias_scale: Annotated[float, _of_model(help="The same of item biases.")] = 1.0,
    user_bias: Annotated[
        bool, _of_model("--user-bias/--no-user-bias", metavar="", help="Whether users have biases.")
    ] = True,
    item_bias: Annotated[
        bool, _of_model("--item-bias/--no-item-bias", metavar="", help="Whether items have biases.")
    ] = True,
    intercept: Annotated[str, _of_model(help="mean, learned, none, or a number.")] = "mean",
    unobserved_weight: Annotated[
        float, _of_model(help="Weight of pairs that are not in the table, taken as zeros.")
    ] = 0.0,
    update: Annotated[
        Literal["block", "coordinate"] | None, _of_als(help="Default: block.")
    ] = None,
    solver: Annotated[Literal["cg", "cholesky"] | None, _of_als(help="Default: cg.")] = None,
    num_sweeps: Annotated[
        int | None,
        _of_als(
            help="Of auto, als and variational. Default: by the number of ratings; 30; at most 500."
        ),
    ] = None,
    num_epochs: Annotated[
        int | None, _of_map(help=f"Default: {EPOCHS}, or {EPOCHS_FULL} with all ratings at once.")
    ] = None,
    objective: Annotated[
        Literal["likelihood", "bpr", "warp"] | None,
        _of_map(
            help="What is lowered: minus the log posterior, or a loss that ranks pairs that "
            "occurred before others. Default: likelihood."
        ),
    ] = None,
    batch_size: Annotated[int | None, _of_map(help="Ratings per update. Default: all.")] = None,
    learning_rate: Annotated[
        float | None, _of_map(help="Of AdaGrad (Adam for all ratings at once).")
    ] = None,
    restarts: Annotated[
        int | None, _of_map(help="Random starts, the best of which is kept. Default: 1.")
    ] = None,
    priors: Annotated[
        Priors | None,
        _of_samplers(
            help="The scales as given; learned, with half-normal priors of these scales; or "
            "wishart: learned, with a mean and full covariance of the factors. Default: learned."
        ),
    ] = None,
    num_warmup: Annotated[
        int | None, _of_samplers(help="Sweeps to throw away. Default: 200; of nuts 500.")
    ] = None,
    num_samples: Annotated[
        int | None, _of_samplers(help="Sweeps after them. Default: 400; of nuts 500.")
    ] = None,
    num_chains: Annotated[int | None, _of_samplers(help="Default: 2; of nuts 4.")] = None,
    thin: Annotated[int | None, _of_samplers(help="Keep the rows of every so many sweeps.")] = None,
    marginalize: Annotated[
        Literal["user", "item"] | None,
        _of_samplers(
            help="Side whose rows nuts integrates out and draws back; of Gaussian ratings."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder to keep the run in every ten seconds or so; the same command resumes it.",
        ),
    ] = None,
    stream: Annotated[
        Path | None,
        _of_samplers(
            metavar="DIR",
            help="Zarr store to write all draws to while they are made; needs the package zarr.",
        ),
    ] = None,
    covariance: Annotated[
        Literal["diagonal", "block"] | None,
        _of_variational(
            help="Of variational: of single numbers or of whole rows. Default: diagonal."
        ),
    ] = None,
    guide: Annotated[
        Literal["normal", "low_rank", "multivariate"] | None,
        _of_variational(help="Of svi. Default: normal."),
    ] = None,
    num_steps: Annotated[int | None, _of_variational(help="Of svi. Default: 4000.")] = None,
    validation_fraction: Annotated[
        float,
        typer.Option(help="Share of the ratings to stop by and not to learn from."),
    ] = 0.0,
    devices: Annotated[
        int | None,
        typer.Option(
            help="Devices to deal users and items out to, of all methods but nuts and svi. "
            "Default: one; all, where several processes fit together."
        ),
    ] = None,
    seed: options.Seed = 0,
    force: options.Force = False,
    debug: options.Debug = False,
) -> None:
    """Fit a factorization to a file of ratings and save it."""
    with plain_errors(debug):
        refuse_to_replace(directory, force, checkpoint, stream)
        if method == "auto":
            _refuse_choices(context)
        settings = _settings(
            method, devices=_devices(method, devices), update=update, solver=solver,
            num_sweeps=num_sweeps, num_epochs=num_epochs, objective=objective,
            batch_size=batch_size, learning_rate=learning_rate, restarts=restarts, priors=priors,
            num_warmup=num_warmup, num_samples=num_samples, num_chains=num_chains, thin=thin,
            marginalize=marginalize, checkpoint=checkpoint, stream=stream, covariance=covariance,
            guide=guide, num_steps=num_steps,
        )  # fmt: skip
        if method in SAMPLERS and validation_fraction:
            raise ValueError(
                f"--validation-fraction sets ratings aside to stop by, and --method {method} does "
                "not stop by them; leave it out."
            )
        columns = ColumnNames(user, item, None if pairs_only else rating, weight, time)
        terms: dict[str, Any] = {
            "num_factors": num_factors, "intercept": read_intercept(intercept),
            "user_bias": user_bias, "item_bias": item_bias, "user_scale": user_scale,
            "item_scale": item_scale, "user_bias_scale": user_bias_scale,
            "item_bias_scale": item_bias_scale, "unobserved_weight": unobserved_weight,
        }  # fmt: skip
        data = read_ratings(ratings, columns, duplicates=duplicates)
        for vocabulary in (data.users, data.items):
            vocabulary.to_arrow()  # Refuses ids that could not be saved at the end.
        data = data if threshold is None else data.binarize(threshold)
        own = type(read_likelihood(likelihood)).of_ratings(data.rating, noise_scale)
        model = MatrixFactorization(likelihood=own, **terms)
        if items is not None:
            data = add_features(data, items, "item", item)
        if users is not None:
            data = add_features(data, users, "user", user)
        train, validation = data, None
        if validation_fraction:
            train, validation = data.split(key=seed, test_fraction=validation_fraction)
        fitted = run_method(method, model, train, key=seed, validation=validation, **settings)
        fitted.save(directory, shared=processes.num_processes() > 1)
        if processes.rank() == 0:
            RatingsOrigin(columns.rating, threshold).keep(directory)
        show(fitted)
        say(f"Saved in {directory}. Next: probmf evaluate {directory} TEST")


def show(fitted: RatingsFit) -> None:
    """Print what was fitted to what, and how it went."""
    data, history = fitted.data, fitted.history
    table = plain_table("", "")
    table.show_header = False
    table.columns[1].justify = "left"
    table.add_row(
        "ratings",
        f"{len(data):,} of {data.num_items:,} items by {data.num_users:,} users",
    )
    kind = type(fitted.model.likelihood).__name__
    table.add_row("model", f"{kind}, {fitted.model.num_factors} factors")
    table.add_row("method", fitted.method)
    if fitted.traces is not None and fitted.sampling is not None:
        chains, sweeps = fitted.traces.values["lp"].shape
        took = f"{chains} x {sweeps} sweeps in {fitted.sampling.seconds:.1f} s"
        table.add_row("chains", f"{took}, {fitted.num_draws} draws of the rows kept of each")
        _add_scales(table, fitted.traces.values)
    elif fitted.sampling is not None and "diverging" in fitted.sampling.stats:
        chains, draws = fitted.num_chains, fitted.num_draws
        told = statistics(fitted.sampling)
        diverging = f", {told['num_divergent']} diverging" if told["num_divergent"] else ""
        table.add_row(
            "chains", f"{chains} x {draws} draws in {fitted.sampling.seconds:.1f} s{diverging}"
        )
        _add_scales(table, fitted.samples)
    if fitted.sampling is not None and "stream" in fitted.sampling.info:
        info = fitted.sampling.info
        table.add_row("stream", f"{info['streamed_draws']:,} draws of each chain: {info['stream']}")
    if history is not None and len(history):
        kept = max(history.best - 1, 0)
        table.add_row(
            f"{history.unit}s", f"{len(history)} in {history.seconds[-1]:.1f} s, {_why(history)}"
        )
        table.add_row("objective", f"{history.objective[kept]:,.6g}")
        if history.validation is not None:
            name = "RMSE" if fitted.model.likelihood.quadratic else "log loss"
            table.add_row(f"held-out {name}", f"{history.validation[kept]:.4f}")
    out.print(table, "")


def _add_scales(table: Table, draws: Mapping[str, np.ndarray]) -> None:
    for name, value in draws.items():
        if name.endswith("_scale") and value.ndim == 2:
            table.add_row(name, f"{value.mean():.3g} (sd {value.std():.2g})")


def _why(history: Any) -> str:
    reasons = {
        "tol": "converged",
        "validation": f"held-out error rose, {history.unit} {history.best} kept",
        "interrupted": f"interrupted, {history.unit} {history.best} kept",
        "diverged": f"diverged, {history.unit} {history.best} kept",
    }
    return reasons.get(history.stopped, f"all that were asked for ({history.unit} limit)")


def _refuse_choices(context: typer.Context) -> None:
    """Refuse options of the model, which the automatic method chooses or learns."""
    for name in _OF_MODEL:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ValueError(
                f"--{name.replace('_', '-')} is for the methods that leave the model to you, and "
                "--method is auto, which learns it from the ratings; leave it out, or give "
                "--method als, gibbs, ..."
            )


def _devices(method: Method, given: int | None) -> int | None:
    """Number of devices: all, where several processes fit together."""
    if processes.num_processes() == 1 or given is not None:
        return given
    if method not in _OF_METHOD["devices"]:
        raise ValueError(
            f"--method {method} computes in one process; take one of "
            f"{', '.join(_OF_METHOD['devices'])}, or leave out probmf launch."
        )
    return jax.device_count()


def _settings(method: Method, **given: Any) -> dict[str, Any]:
    """The options of the method that were given; one of the other method is an error."""
    present = {name: value for name, value in given.items() if value is not None}
    for name in present:
        if method not in _OF_METHOD[name]:
            raise ValueError(
                f"--{name.replace('_', '-')} belongs to --method {' or '.join(_OF_METHOD[name])}, "
                f"but the method is {method}; leave it out, or change the method."
            )
    return present
