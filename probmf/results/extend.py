"""Users and items of whom only features are known: rows at their prior, given these."""

from typing import Any

import numpy as np

from probmf.data import Ratings
from probmf.models.factorization import PRIOR_SCALES, MatrixFactorization
from probmf.results.conditional import Conditionals
from probmf.results.draws import Draws
from probmf.rows.layout import SIDES, Side


def extend_ratings(
    model: MatrixFactorization, data: Ratings, user_features: Any, item_features: Any
) -> Ratings:
    """The ratings with further users and items, that the model can encode.

    Args:
        model: The factorization.
        data: Its ratings.
        user_features: A side table of users, or None.
        item_features: A side table of items, or None.

    Returns:
        The ratings.

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


def extend_point(fitted: Conditionals, data: Ratings) -> Conditionals:
    """Point values in which rows that are new in the data are at their prior means."""
    grown = Conditionals(fitted.model, data, _padded(fitted.parameters, data, axis=0))
    parameters = dict(grown.parameters)
    for side in SIDES:
        for site, columns in ((f"{side}_bias", 0), (f"{side}_factors", slice(1, None))):
            if site in parameters and side in grown.centers:
                begin = len(fitted.parameters[site])
                parameters[site][begin:] = grown.centers[side][begin:, columns]
    return Conditionals(fitted.model, data, parameters)


def extend_draws(fitted: Draws, data: Ratings, rng: np.random.Generator) -> Draws:
    """Draws in which rows that are new in the data are drawn from their prior, draw by draw."""
    samples = _padded(fitted.samples, data, axis=2)
    shape = next(iter(fitted.samples.values())).shape[:2]
    samples["intercept"] = np.array(fitted.sites["intercept"]).reshape(shape)
    grown = Draws(fitted.model, data, samples)
    for side in SIDES:
        old, new = _size(fitted.data, side), _size(data, side)
        if old == new:
            continue
        codes = np.arange(old, new)
        rows = grown.centers(side, codes, slice(None))
        if rows is None:
            continue
        noise = rng.standard_normal(rows.shape)
        rows = rows.astype(np.float64)
        rows[:, :, 0] += noise[:, :, 0] * fitted.prior_bias_scale(side)[:, None]
        rows[:, :, 1:] += noise[:, :, 1:] @ np.swapaxes(fitted.prior_roots(side), 1, 2)
        if f"{side}_precision" in fitted.sites:
            rows[:, :, 1:] += fitted.sites[f"{side}_mean"][:, None]
        for site, columns in ((f"{side}_bias", 0), (f"{side}_factors", slice(1, None))):
            if site in samples:
                values = rows[:, :, columns].reshape(*shape, *rows[:, :, columns].shape[1:])
                samples[site][:, :, old:] = values
    return Draws(fitted.model, data, samples)


def _size(data: Ratings, side: Side) -> int:
    return data.num_users if side == "user" else data.num_items


def _padded(parameters: Any, data: Ratings, *, axis: int) -> dict[str, np.ndarray]:
    """Parameters with zeros for rows that are new in the data."""
    padded = dict(parameters)
    for side in SIDES:
        for site in (f"{side}_bias", f"{side}_factors"):
            if site in padded:
                widths = [(0, 0)] * padded[site].ndim
                widths[axis] = (0, _size(data, side) - padded[site].shape[axis])
                padded[site] = np.pad(padded[site], widths)
    return padded
