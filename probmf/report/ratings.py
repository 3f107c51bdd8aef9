"""Sections of the report of a fit of ratings."""

from typing import Any

import numpy as np

from probmf import plots
from probmf.data import as_generator
from probmf.report import shared
from probmf.report.page import Section, Tile, columns, facts, heading, picture, raw, table, text
from probmf.report.shared import INTERVAL, INTERVAL_NAME, Surprise, surprise_words, surprises
from probmf.results import RatingsFit
from probmf.results.mixtures import tails
from probmf.results.table import Table

#: Items of a table; users that samples of recommendations are for, and items of each.
_ITEMS, _USERS, _LIST = 10, 3, 8
#: Training ratings whose errors are looked at, of more a random part.
_MOST = 50_000


def data_section(fit: RatingsFit) -> Section:
    """The training ratings."""
    degrees = picture(
        plots.degree_distribution(fit.data),
        "Numbers of ratings of users and of items, from the one with the most.",
        "Ratings of users and items, from the one with the most; both axes are logarithmic.",
    )
    return Section("Data", [columns(raw(fit.data._repr_html_(), "Training ratings"), degrees)])


def model_section(fit: RatingsFit) -> Section:
    """The model and its scales."""
    model = fit.model
    parts = {"intercept": True, "user bias": model.user_bias, "item bias": model.item_bias,
             "user factors \N{MIDDLE DOT} item factors": bool(model.num_factors)}  # fmt: skip
    terms = " + ".join(name for name, there in parts.items() if there)
    own = model.likelihood.scale_sites().items()
    told = ", ".join(f"{site} {shared.prior_words(law)}" for site, law in own)
    kind = model.likelihood.kind
    return Section(
        "Model",
        [
            facts({"score of a pair": terms, "factors": f"{model.num_factors}",
                   "rating given the score": f"{kind}({told})" if told else kind}),
            table(_scales(fit), "Scales and parameters of the likelihood"),
        ],
    )  # fmt: skip


def _scales(fit: RatingsFit) -> Table:
    """Learned scales with intervals, others as they were set."""
    rows: list[dict[str, Any]] = []
    sites: dict[str, Any] = dict(fit.model.likelihood.scale_sites())
    sides = [side for side in ("user", "item") if f"{side}_bias" in fit.samples]
    sites |= {f"{side}_bias_scale": getattr(fit.model, f"{side}_bias_scale") for side in sides}
    if fit.model.num_factors:
        sites |= {f"{side}_scale": getattr(fit.model, f"{side}_scale") for side in ("user", "item")}
    for name, given in sites.items():
        values = fit.samples.get(name)
        if values is None:
            value = _mean_of(given)
            told = "fixed" if value is not None else f"{type(given).__name__}, not drawn"
            rows.append({"parameter": name, "value": value, INTERVAL_NAME: told})
            continue
        flat = values.reshape(values.shape[0] * values.shape[1], -1)
        row = {"parameter": name + (f" (mean of {flat.shape[1]})" if flat.shape[1] > 1 else "")}
        flat = flat.mean(axis=1)
        low, high = np.quantile(flat, tails(INTERVAL))
        told = "estimated" if fit.is_point else f"{low:.4g} to {high:.4g}"
        rows.append(row | {"value": float(flat.mean()), INTERVAL_NAME: told})
    return Table(tuple(rows))


def _mean_of(given: Any) -> float | None:
    """Mean of a number or an array of them; None of anything else."""
    values = np.asarray(given)
    return float(values.mean()) if np.issubdtype(values.dtype, np.number) else None


def factors_section(fit: RatingsFit) -> Section:
    """The directions of taste, where there are at least two."""
    parts = []
    if fit.model.num_factors and _has_rows(fit):
        parts.append(
            picture(plots.spectrum(fit), "Directions of taste by size, the largest first.")
        )
        if fit.model.num_factors > 1:
            parts.append(
                picture(
                    plots.factor_map(fit), "Items in the plane in which users' tastes differ most.",
                    "Items that lie near each other please the same people.",
                )
            )  # fmt: skip
    return Section("Factors", parts)


def items_section(fit: RatingsFit) -> Section:
    """Popular items, those predicted worst, and those liked most and least."""
    data = fit.data
    rows = np.arange(len(data))
    told = ""
    if len(rows) > _MOST:
        rows = as_generator(0).choice(len(data), _MOST, replace=False)
        told = f"Errors are those of {_MOST:,} training ratings chosen at random."
    popular = np.argsort(-data.item_degree, kind="stable")[:_ITEMS]
    if not _has_rows(fit) or fit.ranks_only:
        plain = {"ratings": data.item_degree[popular].tolist()}
        return Section("Items", [table(_items(fit, popular, plain), "Most rated items")])
    pairs = (data.users.decode(data.user[rows]), data.items.decode(data.item[rows]))
    found = surprises(
        np.asarray(data.rating[rows], np.float64), fit.predict(pairs, interval=None).mean,
        data.item[rows], data.num_items,
    )  # fmt: skip
    worst = np.argsort(-found.surprise, kind="stable")[:_ITEMS]
    return Section(
        "Items",
        [
            columns(
                table(_judged(fit, popular, found), "Most rated items"),
                table(_judged(fit, worst, found), "Surprising items: predicted worst"),
            ),
            text(surprise_words("rating", "an item"), told, kind="muted"),
            _liked(fit),
        ],
    )  # fmt: skip


def _judged(fit: RatingsFit, items: np.ndarray, found: Surprise) -> Table:
    return _items(
        fit, items,
        {"ratings": fit.data.item_degree[items].tolist(), "mean": found.mean[items].tolist(),
         "error": found.error[items].tolist(), "surprise": found.surprise[items].tolist()},
    )  # fmt: skip


def _liked(fit: RatingsFit) -> str:
    if "item_bias" not in fit.samples or fit.data.num_items < 2:
        return ""
    draws = fit.samples["item_bias"].reshape(-1, fit.data.num_items)
    order = np.argsort(-draws.mean(axis=0), kind="stable")
    count = min(_ITEMS // 2, fit.data.num_items // 2)
    made = []
    for caption, items in (("Liked most", order[:count]), ("Liked least", order[-count:])):
        values: dict[str, list[Any]] = {
            "ratings": fit.data.item_degree[items].tolist(),
            "bias": draws[:, items].mean(axis=0).tolist(),
        }
        if len(draws) > 1:
            ends = np.quantile(draws[:, items], tails(INTERVAL), axis=0)
            values[INTERVAL_NAME] = [f"{low:.2f} to {high:.2f}" for low, high in ends.T]
        made.append(table(_items(fit, items, values), f"{caption}: the item's bias"))
    return columns(*made)


def _items(fit: RatingsFit, items: np.ndarray, values: dict[str, list[Any]]) -> Table:
    names = [str(own) for own in fit.data.item_labels(items)]
    lines = zip(names, *values.values(), strict=True)
    return Table(tuple(dict(zip(["item", *values], line, strict=True)) for line in lines))


def recommendations_section(fit: RatingsFit) -> Section:
    """Samples of recommendations, for users with many, some and few ratings."""
    degree = fit.data.user_degree
    order = np.argsort(-degree, kind="stable")
    order = order[(degree[order] > 0) & (degree[order] < fit.data.num_items)]
    if not len(order) or not _has_rows(fit):
        return Section("Recommendations", [])
    users = order[np.unique(np.linspace(0, len(order) - 1, _USERS).astype(int))]
    interval = None if fit.ranks_only else INTERVAL
    parts = [
        text(
            "Samples: for the user with the most ratings, one with some, and the one with the "
            "fewest. The best of many predictions tend to be too high, as those that err upwards "
            "come first; the intervals say how far each can be trusted." if interval else
            "Samples: for the user with the most ratings, one with some, and the one with the "
            "fewest. Unobserved pairs count as zeros or negatives: scores order items and are no "
            "ratings.", kind="muted",
        )
    ]  # fmt: skip
    return Section(
        "Recommendations", parts + [_for_user(fit, int(user), interval) for user in users]
    )


def _for_user(fit: RatingsFit, user: int, interval: float | None) -> str:
    data = fit.data
    count = int(data.user_degree[user])
    found = fit.recommend(
        data.users.decode(np.array([user])), k=min(_LIST, data.num_items - count),
        interval=interval,
    )  # fmt: skip
    there = np.flatnonzero(found.code[0] >= 0)
    rows = []
    for place in there:
        row: dict[str, Any] = {
            "": place + 1, "item": str(data.item_labels(found.code[0, [place]])[0]),
            "prediction" if interval else "score": float(found.score[0, place]),
        }  # fmt: skip
        if found.lower is not None and found.upper is not None:
            row[INTERVAL_NAME] = f"{found.lower[0, place]:.2f} to {found.upper[0, place]:.2f}"
        rows.append(row)
    rated = np.flatnonzero(data.user == user)
    best = rated[np.argsort(-data.rating[rated], kind="stable")[:5]]
    liked = ", ".join(
        f"{name} ({value:.3g})"
        for name, value in zip(data.item_labels(data.item[best]), data.rating[best], strict=True)
    )
    title = f"User {data.user_labels([user])[0]}: {count:,} rating{'s' * (count != 1)}"
    return (
        heading(title) + text(f"Rated highest: {liked}.") + table(Table(tuple(rows)), "Recommended")
    )


def ratings_tiles(fit: RatingsFit) -> list[Tile]:
    """Sizes."""
    data = fit.data
    sizes = f"{data.num_users:,} users, {data.num_items:,} items"
    return [Tile("ratings", f"{len(data):,}", sizes)]


def _has_rows(fit: RatingsFit) -> bool:
    """True if all rows are there; samplers may have integrated out those of a side."""
    return all(site in fit.samples for site in fit.model.site_shapes(1, 1))
