"""`probmf demo`: everything once, on simulated ratings whose truth is known."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import jax.numpy as jnp
import numpy as np
import optax
import typer
from matplotlib.figure import Figure
from rich.markup import escape
from rich.rule import Rule
from rich.text import Text
from scipy.stats import norm

from probmf import load, metrics, plots
from probmf.cli import shared_options as options
from probmf.cli.console import out, plain_errors, plain_table
from probmf.cli.reading import refuse_to_replace
from probmf.cli.recommend import show as show_recommendations
from probmf.data import Ratings, Vocabulary
from probmf.datasets import Simulation, simulate_catalogue, simulate_ratings
from probmf.inference.point.als import fit_als
from probmf.inference.point.map import fit_map
from probmf.likelihoods import Gaussian
from probmf.models import MatrixFactorization
from probmf.results import RatingsFit

#: Ratings that the new user of the demo starts with.
NUM_FIRST = 5
# Objectives nearer than this share are of one minimum.
_SAME = 1e-3
# Of stochastic gradient descent.
_EPOCHS, _BATCH = 100, 256


def demo(
    directory: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the fit and the plots.")
    ],
    seed: options.Seed = 0,
    small: Annotated[
        bool, typer.Option("--small", metavar="", help="A tiny catalogue: seconds.")
    ] = False,
    force: options.Force = False,
    debug: options.Debug = False,
) -> None:
    """Fit, evaluate and recommend on simulated ratings; needs no data and no network."""
    with plain_errors(debug):
        refuse_to_replace(directory / "fit", force)
        begin = time.perf_counter()
        directory.mkdir(parents=True, exist_ok=True)
        stage = set_up(seed, small=small)
        fits = fit_all(stage, seed)
        fit = fits["ALS, block"]
        judge(stage, fit, seed)
        user = recommend(stage, fit)
        welcome(stage, fit)
        keep(stage, fits, user, directory)
        out.print(
            f"Done in {time.perf_counter() - begin:.0f} s, compilation included.\n"
            "With your own ratings:  [bold]probmf fit ratings.csv --out fit[/bold]"
        )


@dataclass(frozen=True)
class Stage:
    """Data of the demo, and the model with the true scales; no fit sees the newcomer."""

    simulation: Simulation
    train: Ratings
    test: Ratings
    newcomer: Ratings
    model: MatrixFactorization

    def true_scores(self, user: int, items: np.ndarray) -> np.ndarray:
        """True scores of items for a user, by code in the simulation (id less one)."""
        truth = self.simulation.truth
        taste = truth["item_factors"][items] @ truth["user_factors"][user]
        return truth["intercept"] + truth["user_bias"][user] + truth["item_bias"][items] + taste


def set_up(seed: int, *, small: bool) -> Stage:
    """Simulate, and set ratings aside."""
    if small:
        simulation = simulate_ratings(
            key=seed, num_users=80, num_items=50, num_ratings=1_500, num_factors=2
        )
    else:
        simulation = simulate_catalogue(key=seed)
    ratings, truth = simulation.ratings, simulation.truth
    # Somebody of pronounced taste is left out altogether, to come in later.
    taste = np.linalg.norm(truth["user_factors"], axis=1)
    away = int(np.argmax(taste * (ratings.user_degree >= np.median(ratings.user_degree))))
    others = Vocabulary("user", np.delete(ratings.users.ids, away))
    seen = ratings.select(ratings.user != away).recode(users=others)
    train, test = seen.split(key=seed + 1, test_fraction=0.1)
    model = MatrixFactorization(
        num_factors=truth["user_factors"].shape[1],
        likelihood=Gaussian(noise_scale=float(truth["noise_scale"])),
        intercept="learned",
        user_scale=float(truth["user_scale"]),
        item_scale=float(truth["item_scale"]),
        user_bias_scale=float(truth["user_bias_scale"]),
        item_bias_scale=float(truth["item_bias_scale"]),
    )
    out.print(
        f"[bold]{ratings.num_users} users rated {ratings.num_items} films "
        f"{len(ratings):,} times.[/bold]\n"
        "They are simulated: the truth is known, so every answer can be checked.\n"
    )
    return Stage(simulation, train, test, ratings.select(ratings.user == away), model)


def fit_all(stage: Stage, seed: int) -> dict[str, RatingsFit]:
    """Fit one model in four ways and show that they agree."""
    _heading(1, "One model, four ways to fit it")
    updates = _EPOCHS * -(-len(stage.train) // _BATCH)
    falling = optax.linear_schedule(0.3, 0.0, updates)
    ways: dict[str, Callable[[], RatingsFit]] = {
        "ALS, block": lambda: fit_als(
            stage.model, stage.train, key=seed, num_sweeps=100, tol=1e-7, progress=False
        ),
        "ALS, coordinate": lambda: fit_als(
            stage.model, stage.train, key=seed, num_sweeps=100, tol=1e-7, update="coordinate",
            progress=False,
        ),
        "SGD, minibatches": lambda: fit_map(
            stage.model, stage.train, key=seed, num_epochs=_EPOCHS, batch_size=_BATCH,
            learning_rate=falling, progress=False,
        ),
        "gradient, full": lambda: fit_map(
            stage.model, stage.train, key=seed, num_epochs=500, progress=False
        ),
    }  # fmt: skip
    fits = {}
    with out.status("") as status:
        for name, way in ways.items():
            status.update(f"Fitting: {name}")
            fits[name] = way()
    (observations,) = stage.model.arguments(stage.train)
    objective = {
        name: float(
            stage.model.objective(
                {site: jnp.asarray(value) for site, value in fit.point().items()}, observations
            )
        )
        for name, fit in fits.items()
    }
    lowest = min(objective.values())
    table = plain_table("method", "objective", "above lowest", "steps", "per step", "total")
    for name, fit in fits.items():
        history = fit.history
        if history is None:
            continue
        step = np.median(np.diff(history.seconds)) if len(history) > 1 else history.seconds[0]
        table.add_row(
            name, f"{objective[name]:,.1f}", f"{objective[name] / lowest - 1:.4%}",
            f"{len(history)} {history.unit}s", f"{1000 * step:.1f} ms",
            f"{history.seconds[-1]:.1f} s",
        )  # fmt: skip
    out.print(table, "")
    worst = max(objective.values()) / lowest - 1
    percent = f"{max(100 * worst, 1e-4):.1g}%"
    out.print(
        f"All four find the same minimum, to {percent}.\n"
        if worst < _SAME
        else f"They end up to {percent} apart: the objective has several minima.\n",
        end="",
    )
    out.print("Most of the time goes into compiling, which happens once.\n")
    return fits


def judge(stage: Stage, fit: RatingsFit, seed: int) -> None:
    """Held-out error beside what is easy and what is impossible, and coverage."""
    _heading(2, f"Predicting {len(stage.test):,} ratings that were set aside")
    without = replace(stage.model, num_factors=0)
    biases = fit_als(without, stage.train, key=seed, progress=False)
    observed = stage.test.rating
    predicted = fit.predict(stage.test)
    means = {
        "the mean rating": np.full(len(observed), stage.train.mean),
        "biases of users and films": biases.predict(stage.test, interval=None).mean,
        "biases and factors": predicted.mean,
    }
    table = plain_table("prediction", "RMSE")
    for name, mean in means.items():
        table.add_row(name, f"{metrics.rmse(observed, mean):.3f}")
    table.add_row("the truth (noise)", f"{stage.simulation.noise_floor:.3f}", style="dim")
    out.print(table, "")
    shares = {
        level: metrics.coverage(observed, *norm.interval(level, predicted.mean, predicted.sd))
        for level in (0.5, 0.9)
    }
    out.print(
        "Ratings are noisy: even the truth misses by that much.\n"
        f"50% intervals hold {shares[0.5]:.1%} of the ratings, "
        f"90% intervals {shares[0.9]:.1%}.\n"
    )


def recommend(stage: Stage, fit: RatingsFit) -> int:
    """Recommendations for an average user beside the true scores; returns the user's code."""
    degree = stage.train.user_degree
    user = int(np.argmin(np.abs(degree - np.median(degree))))
    name = stage.train.users.ids[user]
    _heading(3, f"Films for user {name}, who rated {degree[user]}")
    recommended = fit.recommend([name], k=6, interval=0.9)
    truth = stage.true_scores(int(name) - 1, recommended.code[0])
    show_recommendations(fit, recommended, 0, 0.9, extra={"true score": truth})
    mean = stage.true_scores(int(name) - 1, np.arange(stage.train.num_items)).mean()
    out.print(f"Their true scores average {truth.mean():.2f}; those of all films {mean:.2f}.\n")
    return user


def welcome(stage: Stage, fit: RatingsFit) -> None:
    """A new user comes in with a few ratings, and nothing is fitted again."""
    _heading(4, f"A new user of pronounced taste, with {NUM_FIRST} ratings")
    first = stage.newcomer.select(np.arange(NUM_FIRST))
    rest = stage.newcomer.select(np.arange(NUM_FIRST, len(stage.newcomer)))
    name = first.users.ids[first.user[0]]
    labels = fit.data.item_labels(first.item)
    for label, rating in zip(labels, first.rating, strict=True):
        out.print(f"  {rating:4.1f}  {escape(str(label))}")
    begin = time.perf_counter()
    grown = fit.fold_in(first)
    seconds = time.perf_counter() - begin
    out.print(f"\nFolded in after {seconds:.1f} s; nothing was fitted again. Recommended now:")
    recommended = grown.recommend([name], k=3, interval=0.9)
    truth = stage.true_scores(int(name) - 1, recommended.code[0])
    show_recommendations(grown, recommended, 0, 0.9, extra={"true score": truth})
    before, after = (
        metrics.rmse(rest.rating, fitted.predict(rest, interval=None).mean)
        for fitted in (fit, grown)
    )
    out.print(
        f"RMSE on this user's {len(rest)} other ratings: {before:.3f} before, {after:.3f} after.\n"
    )


def keep(stage: Stage, fits: dict[str, RatingsFit], user: int, directory: Path) -> None:
    """Save and load a fit, and draw."""
    _heading(5, "Saved, loaded and drawn")
    fit = fits["ALS, block"]
    fit.save(directory / "fit")
    same = np.array_equal(
        load(directory / "fit").predict(stage.test, interval=None).mean,
        fit.predict(stage.test, interval=None).mean,
    )
    out.print(
        "The fit was saved and loaded again; it predicts "
        + ("the same to the last bit.\n" if same else "NOT the same, which is a bug.\n")
    )
    out.print(Text(f"In {directory}:"), soft_wrap=True)
    table = plain_table("", "")
    table.show_header = False
    table.columns[1].justify = "left"
    table.add_row("fit", "the fit: JSON, safetensors and Parquet")
    for name, what, picture in draw(stage, fits, user):
        path = directory / f"{name}.png"
        picture.savefig(path)
        table.add_row(path.name, what)
    out.print(table, "")


def draw(stage: Stage, fits: dict[str, RatingsFit], user: int) -> Iterator[tuple[str, str, Figure]]:
    """Every plot with its name and what it shows."""
    fit = fits["ALS, block"]
    histories = {name: each.history for name, each in fits.items() if each.history is not None}
    yield "convergence", "how the four fits went down", plots.convergence(histories)
    picture = plots.predicted_vs_observed(fit, stage.test)
    yield "predictions", "predicted and observed ratings", picture
    yield "calibration", "whether intervals keep their word", plots.calibration(fit, stage.test)
    name = stage.train.users.ids[user]
    recommended = fit.recommend([name], k=10, interval=0.9)
    code = recommended.code[0]
    picture = plots.recommendations(
        recommended,
        labels=fit.data.item_labels(code).tolist(),
        reference=stage.true_scores(int(name) - 1, code),
    )
    yield "recommendations", f"films for user {name}", picture
    yield "factors", "films where tastes differ most", plots.factor_map(fit)
    yield "degrees", "ratings per user and film", plots.degree_distribution(stage.train)


def _heading(number: int, text: str) -> None:
    out.print(Rule(f"[bold]{number}  {escape(text)}[/bold]", align="left", style="dim"))
