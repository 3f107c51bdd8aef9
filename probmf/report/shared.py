"""Sections that reports of all fits have: search or sampler, residuals, held-out error."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probmf import plots
from probmf.diagnostics import summary
from probmf.diagnostics.evaluation import LEVELS, Evaluation, in_digits
from probmf.plots.prediction import draw_calibration, draw_observed
from probmf.report.page import Section, Tile, columns, picture, table, text
from probmf.results import MixedFit, RatingsFit
from probmf.results.held_out import HeldOut
from probmf.results.measures import fewest_draws

#: Probability of all intervals, and the name of their column.
INTERVAL = 0.9
INTERVAL_NAME = f"{INTERVAL:.0%} interval"


def convergence(fit: RatingsFit | MixedFit) -> Section:
    """The section on how far the fit can be relied upon as a computation."""
    parts = []
    if fit.history is not None and len(fit.history):
        alt = "Objective by step of the search, as its distance from the lowest that was reached."
        parts.append(text(fit.history.words.capitalize() + "."))
        parts.append(picture(plots.convergence(fit), alt))
    if fit.is_point:
        parts.append(
            text(
                "This is a point estimate: what it does not know of its parameters is not in it, "
                "and there are no draws whose convergence could be judged.", kind="muted",
            )
        )  # fmt: skip
        return Section("Convergence", parts)
    independent = fit.sampling is not None and fit.sampling.is_independent
    if fit.num_draws < (2 if independent else fewest_draws(fit.num_chains)):
        parts.append(text("There are too few draws for their convergence to be judged."))
        return Section("Convergence", parts)
    found = summary(fit)
    parts += [text(sentence, kind="warning") for sentence in found.warnings]
    if found.ok:
        parts.append(text("The diagnostics found nothing wrong."))
    parts += [table(found.table, "Measures of convergence, the worst of each quantity")]
    parts += [text(sentence, kind="muted") for sentence in found.remarks]
    if not independent:
        parts.append(
            picture(
                plots.trace(fit),
                "Draws of each chain in their order, beside their distributions, for "
                "quantities that the data identify.",
                "Converged chains lie on top of each other and show no trend.",
            )
        )
        if fit.sampling is not None and "energy" in fit.sampling.stats:
            alt = "Distribution of the sampler's energy beside that of its changes."
            parts.append(picture(plots.energy(fit), alt))
    return Section("Convergence", parts)


def prior_words(law: Any) -> str:
    """A prior, or the value that stands in its place, as text."""
    if law is None:
        return "learned"
    if not hasattr(law, "log_prob"):
        return _array(law)
    told = ", ".join(f"{name} {_array(getattr(law, name))}" for name in law.arg_constraints)
    return f"{type(law).__name__}({told})"


def _array(values: Any) -> str:
    return np.array2string(
        np.asarray(values), threshold=6, separator=", ",
        formatter={"float_kind": lambda value: f"{value:.5g}"},
    )  # fmt: skip


def held_out(
    fit: RatingsFit | MixedFit, found: HeldOut | None, scores: Evaluation | None
) -> Section:
    """The section on data that the fit has not seen."""
    if scores is None or found is None:
        return Section("Held-out data", [_without(fit)])
    parts = [
        columns(
            table(scores.error_table, f"Errors of {scores.num_ratings:,} test rows"),
            table(scores.coverage_table, "Coverage of predicted intervals"),
        ),
        table(scores.list_table, "Lists of recommendations, beside lists of the most rated items"),
    ]  # fmt: skip
    if scores.errors:
        parts.insert(1, text(f"{scores.baselines}.".capitalize(), kind="muted"))
    parts += [text(remark, kind="warning") for remark in scores.remarks]
    if scores.errors:
        told = coverage_words(scores)
        parts.append(
            columns(
                picture(draw_calibration(found), f"Calibration: {told}"),
                picture(
                    draw_observed(found, interval=INTERVAL),
                    "Observed against predicted test responses, with means in bins.",
                ),
            )
        )
    return Section("Held-out data", parts)


def _without(fit: RatingsFit | MixedFit) -> str:
    known = ""
    if fit.history is not None and fit.history.validation is not None and len(fit.history):
        kept = fit.history.validation[max(fit.history.best - 1, 0)]
        known = (
            f"While it was fitted, the error on the ratings set aside was {kept:.4g} at the step "
            "that was kept; as the search stopped by it, it is a little too low."
        )
    return text(
        known,
        "A saved fit keeps its training data only, so that errors, intervals and lists could not "
        "be judged here. Give test data that it has not seen: --test FILE on the command line, "
        "test= in Python.",
        kind="muted",
    )


def coverage_words(scores: Evaluation) -> str:
    """Coverage of intervals in words."""
    if not scores.coverage:
        return "predicted probabilities against observed shares."
    told = [f"{float(p):.0%} intervals cover {share:.1%}" for p, share in scores.coverage.items()]
    return f"{' and '.join(told)} of {scores.num_ratings:,} test rows."


def tiles(fit: RatingsFit | MixedFit, scores: Evaluation | None) -> list[Tile]:
    """Held-out error, coverage and the sampler's verdict."""
    shown = []
    if scores is not None and scores.errors:
        name, value = next(iter(scores.errors.items()))
        remark = f"constant: {in_digits(scores.constant[name])}"
        shown.append(Tile(f"held-out {name}", in_digits(value), remark))
        if scores.coverage:
            share = scores.coverage[f"{LEVELS[-1]:g}"]
            shown.append(Tile(f"{LEVELS[-1]:.0%} intervals cover", f"{share:.1%}"))
    elif scores is not None and scores.ranking:
        size, own = next(iter(scores.ranking.items()))
        remark = f"most rated items: {scores.popular[size]['NDCG']:.4f}"
        shown.append(Tile(f"NDCG of {size} items", f"{own['NDCG']:.4f}", remark))
    if fit.sampling is not None:
        draws = f"{fit.num_chains * fit.num_draws:,}"
        shown.append(Tile("draws", draws, fit.sampling.verdict or ""))
    return shown


class Surprise(NamedTuple):
    """Residuals by group: root mean square `error`, NaN without rows, and `surprise`."""

    size: Int[np.ndarray, " groups"]
    mean: Float[np.ndarray, " groups"]
    error: Float[np.ndarray, " groups"]
    surprise: Float[np.ndarray, " groups"]


def surprises(
    observed: Float[np.ndarray, " n"],
    predicted: Float[np.ndarray, " n"],
    group: Int[np.ndarray, " n"],
    num_groups: int,
) -> Surprise:
    r"""Errors of each group beside those of all others.

    A group of n rows with mean square :math:`q` has the surprise :math:`\sqrt{n} (q - \bar q) / s`,
    with the mean and standard deviation of the squares of all rows. It has no unit, and a group of
    few rows is as seldom surprising by chance as one of many.
    """
    square = np.square(observed - predicted)
    count = np.bincount(group, minlength=num_groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(group, observed, num_groups) / count
        own = np.bincount(group, square, num_groups) / count
        spread = square.std()
        surprise = np.sqrt(count) * (own - square.mean()) / spread if spread else 0.0 * own
    return Surprise(count, mean, np.sqrt(own), np.where(count > 0, surprise, -np.inf))


def surprise_words(response: str, group: str) -> str:
    """Explanation of a table of surprises, in words."""
    return (
        f"Error: root mean square of {response} less prediction, in training. Surprise: by how "
        f"many standard errors {group}'s mean square lies above that of all."
    )
