"""`probmf recommend`: the best items for some or all users of a saved fit."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from probmf.cli import shared_options as options
from probmf.cli.console import heading, note, out, plain_errors, plain_table, say
from probmf.cli.reading import (
    check_writable,
    examples,
    load_fit,
    parse_ids,
    read_table,
    write_table,
)
from probmf.data.ids import MUST_BE_KNOWN
from probmf.data.rating_summary import headline_count
from probmf.data.tables import load
from probmf.results import RatingsFit, Recommendations
from probmf.results.ranking import RankBy


def recommend(
    directory: options.FitDirectory,
    user: Annotated[
        list[str] | None,
        typer.Option("--user", metavar="ID", help="Whom to recommend to; may be repeated."),
    ] = None,
    everybody: Annotated[
        bool, typer.Option("--all", metavar="", help="Recommend to all users; needs --out.")
    ] = False,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Items per user.")] = 10,
    out_file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write a CSV or Parquet file.")
    ] = None,
    candidates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only these items: a table with their ids."),
    ] = None,
    item: options.SameItemColumn = None,
    rank_by: Annotated[
        RankBy, typer.Option(help="Rank by mean, by an end of the interval, or by a random draw.")
    ] = "mean",
    interval: Annotated[
        float | None,
        typer.Option(help="Probability of the intervals; 0: none. Default: 0.9, none with --all."),
    ] = None,
    seen: Annotated[
        bool,
        typer.Option("--seen", metavar="", help="Also items that the user has rated already."),
    ] = False,
    devices: Annotated[
        int | None,
        typer.Option(min=1, help="Share the users between so many devices, which JAX sees."),
    ] = None,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Recommend items to users, with intervals."""
    with plain_errors(debug):
        _check_whom(user, everybody, out_file)
        fit = load_fit(directory)
        chosen: dict[str, Any] = {
            "users": None if everybody else _known_users(fit, user or []),
            "k": k,
            "exclude": None if seen else "seen",
            "candidates": None,
        }
        if candidates is not None:
            column = item or fit.data.items.column
            chosen["candidates"] = _read_candidates(fit, candidates, column)
        interval = _interval(fit, interval, everybody)
        recommended = fit.recommend(
            **chosen, rank_by=rank_by, interval=interval or None, key=seed, devices=devices
        )
        if out_file is not None:
            write_table(_as_table(fit, recommended), out_file)
            users = headline_count(len(recommended), "user")
            most = "" if np.all(recommended.code >= 0) else "up to "
            say(f"Wrote {out_file}: {most}{headline_count(k, 'item')} for each of {users}.")
            return
        labels = fit.data.user_labels(fit.data.users.encode(recommended.user))
        for row, label in enumerate(labels):
            heading(f"Recommended to user {label}")
            show(fit, recommended, row, interval)
            if not recommended.known_user[row]:
                note(f"User {label} has no training ratings; this is the ranking for anybody.")


def _interval(fit: RatingsFit, interval: float | None, everybody: bool) -> float:
    """Probability of the intervals, 0 for none."""
    if fit.ranks_only:
        if interval:
            raise ValueError(
                "This fit orders items and is no model of ratings, as pairs that were not observed "
                "count as zeros or negatives: its scores have no intervals. Leave --interval out."
            )
        return 0.0
    if interval is None:
        return 0.0 if everybody else 0.9
    return interval


def show(
    fit: RatingsFit,
    recommended: Recommendations,
    row: int,
    interval: float,
    *,
    extra: dict[str, np.ndarray] | None = None,
) -> None:
    """Print one user's recommendations; without an interval (0), and with further columns."""
    columns = [f"{interval:.0%} interval"] if interval else []
    titled = _has_titles(fit)
    score = "probability" if fit.model.likelihood.binary else "rating"
    if fit.ranks_only:
        score = "score"
    table = plain_table("", *(["title"] if titled else []), "item", score, *columns, *(extra or {}))
    if titled:
        table.columns[1].justify = "left"
    for place in np.flatnonzero(recommended.code[row] >= 0):
        cells = [str(place + 1)]
        if titled:
            cells.append(str(fit.data.item_labels(recommended.code[row, [place]])[0]))
        cells += [str(recommended.item[row, place]), f"{recommended.score[row, place]:.2f}"]
        if recommended.lower is not None and recommended.upper is not None:
            low, high = recommended.lower[row, place], recommended.upper[row, place]
            cells.append(f"{low:.2f} to {high:.2f}")
        cells += [f"{values[place]:.2f}" for values in (extra or {}).values()]
        table.add_row(*cells)
    out.print(table, "")


def _has_titles(fit: RatingsFit) -> bool:
    features = fit.data.item_features
    return features is not None and "title" in features.column_names


def _check_whom(user: list[str] | None, everybody: bool, out_file: Path | None) -> None:
    if everybody == bool(user):
        raise ValueError("Say whom to recommend to: either --user ID (once or more) or --all.")
    if everybody and out_file is None:
        raise ValueError("--all recommends to every user; give --out FILE to write them to.")
    if out_file is not None:
        check_writable(out_file)


def _known_users(fit: RatingsFit, words: list[str]) -> np.ndarray:
    ids = parse_ids(words, fit.data.users)
    unknown = [w for w, code in zip(words, fit.data.users.encode(ids, unknown="flag"), strict=True)
               if code < 0]  # fmt: skip
    if unknown:
        raise ValueError(
            f"The fit has no user {', '.join(unknown)}: it knows {fit.data.num_users:,} users, "
            f"such as {examples(fit.data.users)}. A new user's ratings can be folded in from "
            "Python: load(...).fold_in(ratings)."
        )
    return ids


def _read_candidates(fit: RatingsFit, path: Path, column: str) -> np.ndarray:
    table = read_table(path, text=(column,))
    if column not in table.column_names:
        raise ValueError(
            f"{path} has no column {column!r} with the ids of the candidates; its columns are "
            f"{', '.join(table.column_names)}. Name another with --item."
        )
    load(table[column], f"column {column!r} of {path}").refuse_missing(MUST_BE_KNOWN)
    return parse_ids([str(value) for value in table[column].to_pylist()], fit.data.items)


def _as_table(fit: RatingsFit, recommended: Recommendations) -> pa.Table:
    """The recommendations, with titles if there are any."""
    table = recommended.to_arrow()
    if _has_titles(fit):
        codes = recommended.code[recommended.code >= 0]
        titles = pa.array(fit.data.item_labels(codes).tolist(), pa.string())
        table = table.add_column(2, "title", titles)  # After both columns of ids.
    return table
