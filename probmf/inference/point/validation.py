"""Held-out errors that a point fit stops by; the rule is in `probmf.run.estimate`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int
from scipy.sparse import csr_array

from probmf.data import Ratings
from probmf.data.examples import Examples
from probmf.likelihoods import Likelihood
from probmf.likelihoods.base import likelihood_scales
from probmf.metrics import ndcg_at_k
from probmf.models.linear_predictor import linear_predictor
from probmf.models.network import Network, NetworkData
from probmf.models.observations import Observations
from probmf.results.ranking import Exclusions, top_products

#: Length of the lists that ranking is judged by.
LIST = 10


@dataclass(frozen=True)
class Validation:
    """Held-out ratings to stop by.

    The error is the root mean square of Gaussian ratings, the mean loss of others.

    Args:
        data: The held-out pairs.
        likelihood: Decides which error is taken.
    """

    data: Observations
    likelihood: Likelihood

    def error(self, parameters: Mapping[str, Array]) -> float:
        """Mean held-out error of the parameters."""
        found = _scores(dict(parameters), self.data)
        scores = np.asarray(found, dtype=np.float64)
        rating = np.asarray(self.data.rating, dtype=np.float64)
        given = self.data.weight
        weight = None if given is None else np.asarray(given)
        if not self.likelihood.quadratic:
            scales = likelihood_scales(self.likelihood, parameters)
            losses = np.asarray(self.likelihood.loss(scores, rating, scales), dtype=np.float64)
            return float(np.average(losses, weights=weight))
        return float(np.sqrt(np.average(np.square(rating - scores), weights=weight)))


@jax.jit
def _scores(parameters: dict[str, Array], observations: Observations) -> Array:
    return linear_predictor(parameters, observations.user, observations.item)


@dataclass(frozen=True)
class RankingValidation:
    """Held-out pairs to stop by; the error is one less the nDCG of lists of ten items.

    Args:
        users: Users with a held-out pair.
        relevant: Their held-out items, one line for each.
        seen: Training pairs, which lists leave out.
    """

    users: Int[np.ndarray, " m"]
    relevant: csr_array
    seen: Exclusions

    @classmethod
    def build(cls, data: Ratings, validation: Ratings) -> "RankingValidation":
        """Held-out pairs in the training data's codes, those with a rating above zero."""
        rows = validation.rating > 0
        if not rows.any():
            raise ValueError(
                "validation has no rating above zero; a list is judged by the pairs that occurred."
            )
        users, line = np.unique(validation.user[rows], return_inverse=True)
        relevant = csr_array(
            (np.ones(len(line)), (line, validation.item[rows])), (len(users), data.num_items)
        )
        return cls(users, relevant, Exclusions.from_pairs(data.user, data.item, data.num_users))

    def error(self, parameters: Mapping[str, Array]) -> float:
        """One less the mean nDCG."""
        given = {site: np.asarray(value, np.float64) for site, value in parameters.items()}
        rows = np.ones((len(self.users), 1))
        bias = given.get("item_bias", np.zeros(self.relevant.shape[1]))[:, None]
        if "user_factors" in given:
            rows = np.hstack([rows, given["user_factors"][self.users]])
            bias = np.hstack([bias, given["item_factors"]])
        k = min(LIST, self.relevant.shape[1])
        lists = top_products(rows, bias, k, self.seen.for_lines(self.users))[0]
        return 1.0 - ndcg_at_k(lists, self.relevant, k)


@dataclass(frozen=True)
class NetworkValidation:
    """Held-out examples to stop by.

    The error is the root mean square of Gaussian responses, in their own units (of several, in
    standard deviations), and the mean loss of the others.

    Args:
        model: The network.
        data: The held-out examples, coded as the training ones.
        unit: What the root mean square is multiplied by.
    """

    model: Network
    data: NetworkData
    unit: float

    @classmethod
    def build(cls, model: Network, data: Examples, validation: Any) -> "NetworkValidation":
        """Code held-out examples as the training data.

        Raises:
            TypeError: If they are no Examples.
            ValueError: If features or classes are others, or the responses do not suit.
        """
        if not isinstance(validation, Examples):
            raise TypeError(
                f"validation is of type {type(validation).__name__}; expected Examples, for "
                "example the second part of examples.split(key=...)."
            )
        unit = float(data.response_scale[0]) if len(data.responses) == 1 else 1.0
        return cls(model, model.held_out(data, validation), unit)

    def error(self, parameters: Mapping[str, Array]) -> float:
        """Mean held-out error of the parameters."""
        scales = likelihood_scales(self.model.likelihood, parameters)
        losses = _losses(dict(parameters), self.data, scales, network=self.model.canonical())
        mean = float(np.mean(np.asarray(losses, np.float64)))
        if not self.model.likelihood.quadratic:
            return mean
        # The loss is half the square over the noise variance.
        return self.unit * float(np.sqrt(2.0 * mean) * float(scales["noise_scale"]))


@partial(jax.jit, static_argnames="network")
def _losses(
    parameters: dict[str, Array], data: NetworkData, scales: dict[str, Array], *, network: Network
) -> Array:
    return network.losses(parameters, data, scales)
