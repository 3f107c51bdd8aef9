"""Further users and items in a fit's draws: from their ratings, or from their features alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from numpyro.distributions import Distribution

from probmf.data import Ratings
from probmf.likelihoods.parameters import check_scale
from probmf.models.factorization import MatrixFactorization
from probmf.models.factorization_program import PRIOR_SCALES
from probmf.results.draws import Draws
from probmf.results.fold_in_draws import draw_users, refuse_laws_per_user
from probmf.results.row_conditionals import Conditionals
from probmf.rows.store import SIDES, Side


def num_rows(data: Ratings, side: Side) -> int:
    """Number of users or items."""
    return data.num_users if side == "user" else data.num_items


def with_rows(
    fitted: Draws, model: MatrixFactorization, data: Ratings, sides: tuple[Side, ...]
) -> Draws:
    """The draws with zeros for rows of some sides that are new in the data; those are copied."""
    samples = dict(fitted.samples)
    shape = next(iter(samples.values())).shape[:2]
    # A fixed intercept is that of the ratings that were fitted, not of those with the new ones.
    samples["intercept"] = np.array(fitted.sites["intercept"]).reshape(shape)
    for side in sides:
        for site in (f"{side}_bias", f"{side}_factors"):
            if site in samples:
                widths = [(0, 0)] * samples[site].ndim
                widths[2] = (0, num_rows(data, side) - samples[site].shape[2])
                samples[site] = np.pad(samples[site], widths)
    return Draws(model, data, samples)


def set_rows(
    draws: Draws,
    side: Side,
    codes: Int[np.ndarray, " rows"],
    values: Float[np.ndarray, "draws rows d"],
    some: slice = slice(None),
) -> None:
    """Write rows (bias, factors) at some draws, in place."""
    for site, columns in ((f"{side}_bias", 0), (f"{side}_factors", slice(1, None))):
        if site in draws.samples:
            own = draws.samples[site]
            own.reshape(-1, *own.shape[2:])[some, codes] = values[:, :, columns]


def extend_ratings(
    model: MatrixFactorization, data: Ratings, user_features: Any, item_features: Any
) -> Ratings:
    """The ratings with further users and items, that the model can encode.

    Raises:
        ValueError: If the model has no use for the features, or scales of each row's own.
    """
    tables: dict[Side, Any] = {"user": user_features, "item": item_features}
    if user_features is None and item_features is None:
        raise ValueError(
            "There is nothing to add; give user_features=table or item_features=table."
        )
    for side in SIDES:
        if tables[side] is None:
            continue
        if side not in model.mean_sides:
            raise ValueError(
                f"The model has no {side}_mean, so {side}_features tell it nothing; fit one with "
                f"{side}_mean=Linear()."
            )
        for site in model.site_shapes(1, 1):
            name = PRIOR_SCALES[site]
            given: Any = getattr(model, name)
            shape = getattr(given, "batch_shape", None)
            shape = np.shape(given) if shape is None and np.ndim(given) else shape or ()
            if site.startswith(side) and len(shape) == 1:
                raise ValueError(
                    f"{name} has a number for each {side} of the fit, and none for new ones; fit a "
                    f"model with one {name} for all."
                )
    return data.extend(user_features=user_features, item_features=item_features)


def extend(fitted: Draws, data: Ratings, rng: np.random.Generator | None) -> Draws:
    """The draws with rows that are new in the data at their prior given features.

    Args:
        fitted: The fit's draws.
        data: From `extend_ratings`.
        rng: Draws the rows, draw by draw; None for their prior means, of a point fit.

    Returns:
        The draws and ratings with the new rows in.
    """
    grown = with_rows(fitted, fitted.model, data, SIDES)
    for side in SIDES:
        codes = np.arange(num_rows(fitted.data, side), num_rows(data, side))
        rows = grown.centers(side, codes, slice(None)) if len(codes) else None
        if rows is None:
            continue
        rows = rows.astype(np.float64)
        if rng is not None:
            noise = rng.standard_normal(rows.shape)
            rows += noise @ np.swapaxes(fitted.prior_roots(side), 1, 2)
        if f"{side}_precision" in fitted.sites:
            rows[:, :, 1:] += fitted.sites[f"{side}_mean"][:, None]
        set_rows(grown, side, codes, rows)
    return grown


def add_users(
    fitted: Draws,
    new_ratings: Ratings,
    scales: Mapping[str, ArrayLike | None],
    rng: np.random.Generator | None,
) -> Draws:
    """The draws with the rows of the users in `new_ratings`; see `RatingsFit.fold_in`.

    `scales` are those of new users, where the model has one per user. `rng` seeds the draws of the
    rows; None for the modes, of a point fit.
    """
    check_new_ratings(fitted.model, new_ratings)
    if rng is not None:
        refuse_laws_per_user(fitted)
    data = fitted.data.append(new_ratings, duplicates="last")
    num_old, num_new = fitted.data.num_users, data.num_users - fitted.data.num_users
    model = extend_scales(fitted.model, num_old, num_new, scales)
    grown = with_rows(fitted, model, data, ("user",))
    changed = data.users.encode(new_ratings.users.decode(np.unique(new_ratings.user)))
    if rng is None:
        set_rows(grown, "user", changed, Conditionals(grown).modes("user", changed)[None])
        return grown
    for draws, rows, values in draw_users(grown, changed, rng):
        set_rows(grown, "user", rows, values, draws)
    return grown


def check_new_ratings(model: MatrixFactorization, new_ratings: Ratings) -> None:
    """Refuse what is no ratings, or ratings that don't suit the model."""
    # Without scales per row: the new users are others.
    alike: dict[str, Any] = dict.fromkeys(PRIOR_SCALES.values(), 1.0)
    # Features are looked at when the new users are among the others.
    alike |= dict.fromkeys(("user_mean", "item_mean", "user_features", "item_features"))
    replace(model, **alike).check_data(new_ratings)


def extend_scales(
    model: MatrixFactorization,
    num_old: int,
    num_new: int,
    scales: Mapping[str, ArrayLike | None],
) -> MatrixFactorization:
    """The model with scales for new users, where it has one per user."""
    used = [PRIOR_SCALES[site] for site in model.site_shapes(1, 1)]
    changes: dict[str, Any] = {}
    for name, given in scales.items():
        present = getattr(model, name)
        per_user = name in used and not isinstance(present, Distribution) and np.ndim(present) == 1
        if not per_user:
            if given is not None:
                raise ValueError(
                    f"{name} was given, but this model has no {name} of each user's own, which "
                    f"new users would need: leave {name} out."
                )
            continue
        if given is None and num_new:
            raise ValueError(
                f"{name} has one number per user, {num_old:,} in all, and none for the {num_new:,} "
                f"new users. Give fold_in(new_ratings, {name}=...): one number, or {num_new:,} of "
                "them in the order of the new users."
            )
        new = np.ones(0) if given is None else np.asarray(given, dtype=np.float64)
        check_scale(name, new)
        if new.shape not in ((), (num_new,)):
            raise ValueError(
                f"{name} has shape {new.shape}; expected one number, or {num_new:,} of them: one "
                "for each new user."
            )
        changes[name] = np.concatenate([np.asarray(present), np.broadcast_to(new, num_new)])
    return replace(model, **changes) if changes else model
