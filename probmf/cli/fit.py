"""`probmf fit`: from a file of ratings to a saved fit."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import jax
import numpy as np
import typer
from numpyro.distributions import HalfNormal
from rich.table import Table

from probmf import processes
from probmf.cli import shared_options as options
from probmf.cli.console import out, plain_errors, plain_table, say
from probmf.cli.reading import (
    RatingsOrigin,
    add_features,
    read_ratings,
    refuse_to_replace,
)
from probmf.cli.words import option_of
from probmf.data import Duplicates, Ratings
from probmf.diagnostics.judgement import statistics
from probmf.inference import default_fit
from probmf.inference.approximate.svi import fit_svi
from probmf.inference.approximate.variational import fit_variational
from probmf.inference.gibbs.gibbs import sample_gibbs
from probmf.inference.nuts.nuts import sample_nuts
from probmf.inference.point.als import fit_als
from probmf.inference.point.map import fit_map
from probmf.likelihoods import LIKELIHOODS, read_likelihood
from probmf.models import MatrixFactorization, NormalWishart
from probmf.models.factorization_program import PRIOR_SCALES
from probmf.results import RatingsFit

Method = Literal["auto", "als", "map", "gibbs", "nuts", "variational", "svi"]
Priors = Literal["fixed", "learned", "wishart"]
#: Methods of many draws, which don't stop by ratings set aside.
SAMPLERS: tuple[Method, ...] = ("auto", "gibbs", "nuts", "svi")
#: Epochs of `--method map` by default: full batches stop by themselves when they are done.
EPOCHS, EPOCHS_FULL = 30, 500
_ALS, _MAP, _VARIATIONAL = "Alternating least squares", "Gradient descent", "Variational inference"
_SAMPLING = "Sampling"

#: Options of the model, most of which the automatic method chooses or learns: type, default, help.
_OF_MODEL: dict[str, tuple[Any, Any, str]] = {
    "likelihood": (str, "gaussian", "Distribution of ratings: of numbers; of positive ones; of "
        "yes/no data; of levels that have an order and no more; of counts, and more."),
    "num_factors": (int, 16, "Length of the factors."),
    "noise_scale": (float, 1.0, "Standard deviation of a rating's noise."),
    "user_scale": (float, 1.0, "The same of each user factor."),
    "item_scale": (float, 1.0, "The same of each item factor."),
    "user_bias_scale": (float, 1.0, "The same of user biases."),
    "item_bias_scale": (float, 1.0, "The same of item biases."),
    "user_bias": (bool, True, "Whether users have biases."),
    "item_bias": (bool, True, "Whether items have biases."),
    "intercept": (str, "mean", "mean, learned, none, or a number."),
    "unobserved_weight": (float, 0.0,
        "Weight of pairs that are not in the table, taken as zeros."),
}  # fmt: skip
#: Options of methods: type, heading, the methods that have it, help.
_OF_METHOD: dict[str, tuple[Any, str | None, tuple[Method, ...], str]] = {
    "update": (Literal["block", "coordinate"], _ALS, ("als",), "Default: block."),
    "solver": (Literal["cg", "cholesky"], _ALS, ("als",), "Default: cg."),
    "num_sweeps": (int, _ALS, ("auto", "als", "variational"), "Of auto, als and variational. "
        "Default: by the number of ratings; 30; at most 500."),
    "num_epochs": (int, _MAP, ("map",),
        f"Default: {EPOCHS}, or {EPOCHS_FULL} with all ratings at once."),
    "objective": (Literal["likelihood", "bpr", "warp"], _MAP, ("map",), "What is lowered: minus "
        "the log posterior, or a loss that ranks pairs that occurred before others. Default: "
        "likelihood."),
    "batch_size": (int, _MAP, ("map",), "Ratings per update. Default: all."),
    "learning_rate": (float, _MAP, ("map", "svi"), "Of AdaGrad (Adam for all ratings at once)."),
    "restarts": (int, _MAP, ("map",), "Random starts, the best of which is kept. Default: 1."),
    "priors": (Priors, _SAMPLING, ("gibbs", "nuts", "variational", "svi"), "The scales as given; "
        "learned, with half-normal priors of these scales; or wishart: learned, with a mean and "
        "full covariance of the factors. Default: learned."),
    "num_warmup": (int, _SAMPLING, ("gibbs", "nuts"),
        "Sweeps to throw away. Default: 200; of nuts 500."),
    "num_samples": (int, _SAMPLING, ("gibbs", "nuts", "svi"),
        "Sweeps after them. Default: 400; of nuts 500."),
    "num_chains": (int, _SAMPLING, ("gibbs", "nuts"), "Default: 2; of nuts 4."),
    "thin": (int, _SAMPLING, ("gibbs",), "Keep the rows of every so many sweeps."),
    "marginalize": (Literal["user", "item"], _SAMPLING, ("nuts",),
        "Side whose rows nuts integrates out and draws back; of Gaussian ratings."),
    "stream": (Path, _SAMPLING, ("gibbs", "nuts"), "Zarr store to write all draws to while they "
        "are made; needs the package zarr."),
    "covariance": (Literal["diagonal", "block"], _VARIATIONAL, ("variational",),
        "Of variational: of single numbers or of whole rows. Default: diagonal."),
    "guide": (Literal["normal", "low_rank", "multivariate"], _VARIATIONAL, ("svi",),
        "Of svi. Default: normal."),
    "num_steps": (int, _VARIATIONAL, ("svi",), "Of svi. Default: 4000."),
    "checkpoint": (Path, None, ("auto", "als", "map", "gibbs", "nuts", "variational", "svi"),
        "Folder to keep the run in every ten seconds or so; the same command resumes it."),
    "devices": (int, None, ("auto", "als", "map", "gibbs", "variational"), "Devices to deal users "
        "and items out to, of all methods but nuts and svi. Default: one; all, where several "
        "processes fit together."),
}  # fmt: skip
#: Values of options as --help shows them, where that is not the type.
_SHOWN = {"likelihood": f"[{'|'.join(LIKELIHOODS)}]"} | dict.fromkeys(
    ("user_bias", "item_bias"), ""
)
_SHOWN |= dict.fromkeys(("checkpoint", "stream"), "DIR")


def _with_options[F: Callable[..., None]](command: F) -> F:
    """The command with the options of both tables, which it takes by name."""
    found: dict[str, tuple[Any, Any, str | None, str]] = {
        name: (kind, default, "Model", told) for name, (kind, default, told) in _OF_MODEL.items()
    }
    for name, (kind, heading, _, told) in _OF_METHOD.items():
        found[name] = kind | None, None, heading, told
    own = inspect.signature(command)
    more = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[
                kind,
                typer.Option(help=told, rich_help_panel=heading, metavar=_SHOWN.get(name)),
            ],
        )
        for name, (kind, default, heading, told) in found.items()
    ]  # fmt: skip
    signature: Any = own.replace(parameters=[*list(own.parameters.values())[:-1], *more])
    command.__signature__ = signature  # type: ignore[attr-defined]
    return command


@_with_options
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
    validation_fraction: Annotated[
        float,
        typer.Option(help="Share of the ratings to stop by and not to learn from."),
    ] = 0.0,
    seed: options.Seed = 0,
    force: options.Force = False,
    debug: options.Debug = False,
    **given: Any,
) -> None:
    """Fit a factorization to a file of ratings and save it."""
    with plain_errors(debug):
        refuse_to_replace(directory, force, given["checkpoint"], given["stream"])
        if method == "auto":
            _refuse_choices(context)
        terms = {name: given.pop(name) for name in _OF_MODEL}
        settings = _settings(method, given)
        if method in SAMPLERS and validation_fraction:
            raise ValueError(
                f"--validation-fraction sets ratings aside to stop by, and --method {method} does "
                "not stop by them; leave it out."
            )
        rating_column = None if pairs_only else rating
        data = read_ratings(
            ratings, user=user, item=item, rating=rating_column, weight=weight, time=time,
            duplicates=duplicates,
        )  # fmt: skip
        for vocabulary in (data.users, data.items):
            vocabulary.to_arrow()  # Refuses ids that could not be saved at the end.
        data = data if threshold is None else data.binarize(threshold)
        likelihood = type(read_likelihood(terms.pop("likelihood")))
        own = likelihood.of_ratings(data.rating, terms.pop("noise_scale"))
        terms["intercept"] = read_intercept(terms["intercept"])
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
            RatingsOrigin(rating_column, threshold).keep(directory)
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
        if name != "num_factors" and source is not None and source.name == "COMMANDLINE":
            raise ValueError(
                f"{option_of(name)} is for the methods that leave the model to you, and --method "
                "is auto, which learns it from the ratings; leave it out, or give --method als, "
                "gibbs, ..."
            )


def _settings(method: Method, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the method that were given; one of another method is refused.

    Devices are all, where several processes fit together.
    """
    present = {name: value for name, value in given.items() if value is not None}
    for name in present:
        if method not in (own := _OF_METHOD[name][2]):
            raise ValueError(
                f"{option_of(name)} belongs to --method {' or '.join(own)}, but the method is "
                f"{method}; leave it out, or change the method."
            )
    if processes.num_processes() > 1 and "devices" not in present:
        if method not in (own := _OF_METHOD["devices"][2]):
            raise ValueError(
                f"--method {method} computes in one process; take one of {', '.join(own)}, or "
                "leave out probmf launch."
            )
        present["devices"] = jax.device_count()
    return present


def run_method(
    method: Method,
    model: MatrixFactorization,
    data: Ratings,
    *,
    key: int,
    **settings: Any,
) -> RatingsFit:
    """Fit by the method that the command line names."""
    if method == "auto":
        settings.pop("validation", None)
        return default_fit.fit(data, num_factors=int(model.num_factors), key=key, **settings)
    if method in (*SAMPLERS, "variational"):
        model = _with_priors(model, settings.pop("priors", "learned"))
    if method == "variational":
        return fit_variational(model, data, key=key, **settings)
    if method in SAMPLERS:
        settings.pop("validation", None)
    if method == "gibbs":
        return sample_gibbs(model, data, key=key, **settings)
    if method == "nuts":
        sites = _sites_of(model, settings.pop("marginalize", None))
        return sample_nuts(model, data, key=key, marginalize=sites, **settings)
    if method == "svi":
        return cast(RatingsFit, fit_svi(model, data, key=key, **settings))
    if method == "als":
        return fit_als(model, data, key=key, **settings)
    epochs = EPOCHS_FULL if settings.get("batch_size") is None else EPOCHS
    own = {"num_epochs": epochs, "num_restarts": settings.pop("restarts", 1)}
    return fit_map(model, data, key=key, **(own | settings))


def _sites_of(model: MatrixFactorization, side: str | None) -> list[str]:
    """Value of `--marginalize`."""
    if side is None:
        return []
    sites = [site for site in model.site_shapes(1, 1) if site.startswith(side)]
    if not sites:
        raise ValueError(
            f"--marginalize is {side}, but the model has neither {side} biases nor factors; leave "
            "it out."
        )
    return sites


def _with_priors(model: MatrixFactorization, priors: Priors) -> MatrixFactorization:
    """Half-normal priors of the scales in place of the scales."""
    if priors == "fixed":
        return model
    likelihood: Any = model.likelihood
    own = {
        name: HalfNormal(scale) for name, scale in likelihood.stated.items()
        if name.endswith("_scale")
    }  # fmt: skip
    laws: dict[str, Any] = {
        name: HalfNormal(getattr(model, name)) for name in PRIOR_SCALES.values()
    }
    if priors == "wishart":
        laws |= {"user_scale": NormalWishart(), "item_scale": NormalWishart()}
    return replace(model, likelihood=replace(likelihood, **own), **laws)


def read_intercept(word: str) -> Any:
    """Value of `--intercept`."""
    if word in ("mean", "learned"):
        return word
    if word == "none":
        return None
    try:
        return float(word)
    except ValueError:
        raise ValueError(
            f"--intercept is {word!r}; expected mean, learned, none, or a number."
        ) from None
