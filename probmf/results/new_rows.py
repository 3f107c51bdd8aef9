"""Room for further users and items in a fit's draws."""

import numpy as np
from jaxtyping import Float, Int

from probmf.data import Ratings
from probmf.models.factorization import MatrixFactorization
from probmf.results.draws import Draws
from probmf.rows.store import Side


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
