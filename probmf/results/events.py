"""The probability that a rating is at least so high, when its score is Normal."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probmf.models.likelihood import Gaussian, Likelihood, is_number
from probmf.results.plug_in import PlugIn


def check_at_least(at_least: object) -> float:
    """A threshold for ratings that is a finite number.

    Args:
        at_least: The threshold.

    Returns:
        The threshold as a float.

    Raises:
        ValueError: If it is none.
    """
    if not is_number(at_least):
        raise ValueError(
            f"at_least is {at_least!r}; expected a finite number, the least rating that counts, "
            "such as 4.0."
        )
    return float(at_least)


def point_scales(plug_in: PlugIn) -> dict[str, np.ndarray]:
    """The likelihood's own parameters in a point fit."""
    return {name: np.asarray(value) for name, value in plug_in.conditionals.scales.items()}


def rank_by_tail(
    likelihood: Likelihood, mean: Array, sd: Array, threshold: Array, scales: Mapping[str, Array]
) -> Array:
    """What orders as that probability does; for Gaussian ratings it does not saturate."""
    if isinstance(likelihood, Gaussian):
        total = jnp.sqrt(jnp.square(sd) + jnp.square(scales["noise_scale"]))
        return (mean - threshold) / total
    return likelihood.tail(mean, threshold, scales, sd)
