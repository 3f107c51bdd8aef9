"""Groups of rows that a fit predicts worse than others, as far as chance does not tell."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Surprise(NamedTuple):
    """Residuals by group.

    Attributes:
        size: Number of rows.
        mean: Mean observed response; NaN without rows.
        error: Root mean square of observed less predicted; NaN without rows.
        surprise: By how many standard errors the mean square lies above that of all rows.
    """

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

    Args:
        observed: Responses.
        predicted: Predictions.
        group: Group of each row.
        num_groups: Number of groups.

    Returns:
        Counts, means, errors and surprise.
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
