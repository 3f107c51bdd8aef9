"""Users and items of whom only features are known: rows at their prior, given these."""

from typing import Any

import numpy as np

from probmf.data import Ratings
from probmf.models.factorization import MatrixFactorization
from probmf.models.factorization_program import PRIOR_SCALES
from probmf.results.draws import Draws
from probmf.results.new_rows import num_rows, set_rows, with_rows
from probmf.rows.store import SIDES, Side


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
            rows[:, :, 0] += noise[:, :, 0] * fitted.prior_bias_scale(side)[:, None]
            rows[:, :, 1:] += noise[:, :, 1:] @ np.swapaxes(fitted.prior_roots(side), 1, 2)
        if f"{side}_precision" in fitted.sites:
            rows[:, :, 1:] += fitted.sites[f"{side}_mean"][:, None]
        set_rows(grown, side, codes, rows)
    return grown
