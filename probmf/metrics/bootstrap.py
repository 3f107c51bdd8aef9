"""Intervals of means over users, and of differences of two systems, by the bootstrap."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from probmf.data.keys import as_generator

#: Numbers drawn at once.
BLOCK_NUMBERS = 1 << 22


class BootstrapMean(NamedTuple):
    """A mean with its interval.

    Attributes:
        mean: The mean over users.
        lower: Lower end of the interval.
        upper: Upper end.
        positive: Share of the resampled means above zero; of a difference, how surely it is one.
    """

    mean: float
    lower: float
    upper: float
    positive: float


def bootstrap(
    values: ArrayLike,
    other: ArrayLike | None = None,
    *,
    key: ArrayLike,
    interval: float = 0.9,
    num_resamples: int = 2_000,
) -> BootstrapMean:
    """Interval of a metric's mean over users, or of the mean difference of two systems.

    Users are drawn with replacement. The differences are paired: both systems are judged on the
    same users, so that what makes users differ cancels.

    Args:
        values: One value per user, as of `recall_at_k(..., per_user=True)`; NaN is left out.
        other: Those of another system on the same users, which are subtracted.
        key: JAX key or int.
        interval: Probability of the central interval.
        num_resamples: Number of resampled means.

    Returns:
        The mean, the interval of the resampled means, and the share of them above zero.

    Raises:
        ValueError: If the shapes differ, there are fewer than two users, or an argument is out of
            range.

    Example:
        >>> found = bootstrap([0.2, 0.4, 0.6, 0.3], [0.1, 0.3, 0.4, 0.3], key=0)
        >>> round(found.mean, 3), found.lower >= 0.0
        (0.1, True)

    Source: Efron and Tibshirani (1993), An introduction to the bootstrap, section 13.3.
    """
    own = np.asarray(values, np.float64)
    if own.ndim != 1 or (other is not None and np.shape(other) != own.shape):
        against = "" if other is None else f" and other {np.shape(other)}"
        raise ValueError(f"values has shape {own.shape}{against}; expected one value per user.")
    if not 0 < interval < 1 or num_resamples < 1:
        raise ValueError(
            f"interval is {interval!r} and num_resamples {num_resamples!r}; expected a probability "
            "such as 0.9, and a whole number, at least 1."
        )
    own = own if other is None else own - np.asarray(other, np.float64)
    own = own[~np.isnan(own)]
    if len(own) < 2:
        raise ValueError(f"values holds {len(own)} users with a value; expected at least two.")
    rng, means = as_generator(key), np.empty(num_resamples)
    step = max(1, BLOCK_NUMBERS // len(own))
    for start in range(0, num_resamples, step):
        part = means[start : start + step]
        part[:] = own[rng.integers(len(own), size=(len(part), len(own)))].mean(axis=1)
    lower, upper = np.quantile(means, [(1 - interval) / 2, (1 + interval) / 2])
    return BootstrapMean(float(own.mean()), float(lower), float(upper), float((means > 0).mean()))
