"""The probability that a rating is at least so high, when its score is Normal."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probmf.models.likelihood import Gaussian, Likelihood, is_number
from probmf.results.plug_in import PlugIn

#: Nodes and weights of a standard Normal expectation, exact for polynomials up to degree 39.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


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


def tail_of_normal(
    likelihood: Likelihood, mean: Array, sd: Array, threshold: Array, scales: Mapping[str, Array]
) -> Array:
    """P(rating >= threshold) when the score is Normal(mean, sd).

    Exact for Gaussian ratings; otherwise by Gauss-Hermite quadrature with 20 nodes.
    """
    if isinstance(likelihood, Gaussian):
        total = jnp.sqrt(jnp.square(sd) + jnp.square(scales["noise_scale"]))
        return likelihood.tail(mean, threshold, {"noise_scale": total})
    found = jnp.zeros_like(mean)
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        score = mean + float(node) * sd
        found = found + float(weight) * likelihood.tail(score, threshold, scales)
    return found


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
    return tail_of_normal(likelihood, mean, sd, threshold, scales)
