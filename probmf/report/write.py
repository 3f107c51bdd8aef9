"""`write_report`: one HTML file of a fit."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from probmf.diagnostics.evaluation import evaluation
from probmf.report import mixed, ratings, shared
from probmf.report.page import Section, facts, page
from probmf.results import MixedFit, RatingsFit
from probmf.results.held_out import held_out
from probmf.settings import own_settings


@own_settings()
def write_report(
    fit: RatingsFit | MixedFit,
    path: str | os.PathLike[str],
    *,
    test: Any = None,
    title: str | None = None,
) -> Path:
    """Write a report of a fit: data, model, convergence, held-out error, effects or factors.

    The file holds its pictures and tables, asks for nothing from the network, and suits screens,
    phones and print, light and dark.

    Args:
        fit: A fit of ratings, or of a mixed model.
        path: The file to write, which is replaced.
        test: Data that the fit has not seen: Ratings, or for a mixed model a table with its
            columns. Without them there are no errors and no calibration.
        title: Heading of the report.

    Returns:
        The path.

    Raises:
        TypeError: If the fit is of another kind, or the test data of the wrong type.
        ValueError: If the test data do not suit the fit.

    Example:
        >>> import tempfile
        >>> from probmf import MatrixFactorization, Ratings, fit_als
        >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
        >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(fit, f"{folder}/fit.html").name
        'fit.html'

    Cost: some seconds; the training ratings are predicted once, at most 50,000 of them.
    """
    if not isinstance(fit, RatingsFit | MixedFit):
        if isinstance(fit, str | Path):
            raise TypeError(
                f"fit is the path {str(fit)!r}; load the fit: probmf.load({str(fit)!r})."
            )
        raise TypeError(
            f"fit is a {type(fit).__name__}; a report is of a RatingsFit or a MixedFit. Of a "
            "network probmf.diagnostics.summary(fit) and plots.convergence(fit) tell."
        )
    found = None if test is None else held_out(fit, test, interval=shared.INTERVAL)
    scores = None if found is None else evaluation(fit, test, found=found)
    held = shared.held_out(fit, found, scores)
    if isinstance(fit, RatingsFit):
        name, tiles = f"Factorization of {len(fit.data):,} ratings", ratings.ratings_tiles(fit)
        sections = [
            ratings.data_section(fit), ratings.model_section(fit), shared.convergence(fit), held,
            ratings.factors_section(fit), ratings.items_section(fit),
            ratings.recommendations_section(fit),
        ]  # fmt: skip
    else:
        name, tiles = f"Mixed model of {fit.design.data.response_name}", mixed.mixed_tiles(fit)
        sections = [
            mixed.data_section(fit), mixed.model_section(fit), shared.convergence(fit),
            mixed.parameters_section(fit), mixed.effects_section(fit), mixed.groups_section(fit),
            held, mixed.check_section(fit),
        ]  # fmt: skip
    told = fit._facts() | {"made with": f"probmf {version('probmf')}"}
    sections.append(Section("This fit", [facts(told)]))
    method, model, data, *_ = fit._facts().values()
    lead = f"{model}, fitted to {data} by {method}."
    made = page(title or name, lead, [*tiles, *shared.tiles(fit, scores)], sections)
    target = Path(path)
    target.write_text(made, encoding="utf-8")
    return target
