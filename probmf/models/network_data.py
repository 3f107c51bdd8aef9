"""Data of a network: arrays, and responses as each likelihood takes them."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from probmf.data.examples import Examples
from probmf.likelihoods import Bernoulli, Gaussian, Ordinal
from probmf.likelihoods.categorical import Categorical

type NetworkLikelihood = Gaussian | Bernoulli | Ordinal | Categorical


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["x", "response"],
    meta_fields=["num_outputs"],
)
@dataclass(frozen=True)
class NetworkData:
    """Data of a network: a pytree of arrays.

    Attributes:
        x: Standardized features.
        response: Responses, shape (n,), or (n, outputs) for several; codes of classes for a
            Categorical likelihood. None to simulate them.
        num_outputs: Number of outputs of the last layer.
    """

    x: Float[Array, "n features"]
    response: Shaped[Array, "n ..."] | None
    num_outputs: int

    @property
    def num_rows(self) -> int:
        """Number of examples."""
        return len(self.x)

    def take(self, places: Int[Array, " batch"]) -> "NetworkData":
        """Some of the examples."""
        return jax.tree.map(lambda array: array[places], self)

    def without_response(self) -> "NetworkData":
        """The same rows with the responses left open, for NumPyro's `Predictive`."""
        return replace(self, response=None)


def read_targets(
    likelihood: NetworkLikelihood, data: Examples, *, complete: bool = True
) -> tuple[np.ndarray, int]:
    """Responses as the likelihood takes them, checked, and the number of outputs.

    Args:
        likelihood: That of the network.
        data: The examples.
        complete: Whether every level has to occur whose cutpoints are learned.

    Returns:
        Standardized numbers for a Gaussian likelihood, else codes or levels, of shape (n,), or
        (n, responses) for several.

    Raises:
        ValueError: If they do not suit the likelihood.
    """
    several = len(data.responses) > 1
    if isinstance(likelihood, Categorical):
        classes, codes = data.class_codes()
        if len(classes) != likelihood.num_levels:
            raise ValueError(
                f"The response has {len(classes)} classes ({_words(classes)}), but the "
                f"likelihood is Categorical({likelihood.num_levels}); use "
                f"Categorical({len(classes)})."
            )
        return codes, likelihood.num_levels
    if isinstance(likelihood, Gaussian):
        if data.classes:
            raise ValueError(
                f"The response {data.responses[0]!r} has classes ({_words(data.classes)}), "
                f"which a Gaussian likelihood can't take; use "
                f"{'Bernoulli()' if len(data.classes) == 2 else 'Categorical'}"
                f"{'' if len(data.classes) == 2 else f'({len(data.classes)})'}."
            )
        values = (data.response - data.response_center) / data.response_scale
    else:
        values = _levels(likelihood, data, complete)
    if isinstance(likelihood, Ordinal) and data.classes_sorted and len(data.classes) > 2:
        raise ValueError(
            f"The response {data.responses[0]!r} has classes without an order "
            f"({_words(data.classes)}), which an ordinal likelihood can't take. Give an ordered "
            "categorical, their order as classes=[...], or Categorical for a likelihood."
        )
    if isinstance(likelihood, Ordinal) and several:
        raise ValueError(
            f"An ordinal likelihood takes one response, but there are {len(data.responses)}."
        )
    if several:
        return values, values.shape[1]
    return values[:, 0], 1


def _levels(likelihood: Any, data: Examples, complete: bool) -> np.ndarray:
    """Yes/no and ordinal responses, checked; classes stand for the levels in their order."""
    levels = likelihood.levels
    values = data.response
    if data.classes:
        if len(data.classes) != len(levels):
            raise ValueError(
                f"The response {data.responses[0]!r} has {len(data.classes)} classes "
                f"({_words(data.classes)}), but the likelihood {likelihood!r} has "
                f"{len(levels)} levels."
            )
        values = np.asarray(levels)[values.astype(int)]
    for name, column in zip(data.responses, values.T, strict=True):
        try:
            likelihood.check_ratings(column)
            if complete:
                likelihood.check_training(column, None)
        except ValueError as error:
            raise ValueError(f"The response {name!r} does not suit: {error}") from None
    return values


def _words(classes: tuple[Any, ...]) -> str:
    return ", ".join(map(repr, classes[:5])) + ", ..." * (len(classes) > 5)
