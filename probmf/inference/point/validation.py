"""Held-out ratings that a point fit stops by."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array

from probmf.likelihoods import Likelihood
from probmf.likelihoods.base import likelihood_scales
from probmf.models.observations import Observations
from probmf.models.scores import linear_predictor


@dataclass(frozen=True)
class Validation:
    """Held-out ratings to stop by.

    The error is the root mean square of Gaussian ratings, the log loss of yes/no and ordinal ones.

    Args:
        observations: The held-out pairs.
        likelihood: Decides which error is taken.
    """

    observations: Observations
    likelihood: Likelihood

    def error(self, parameters: Mapping[str, Array]) -> float:
        """Mean held-out error of the parameters."""
        found = _scores(dict(parameters), self.observations)
        scores = np.asarray(found, dtype=np.float64)
        rating = np.asarray(self.observations.rating, dtype=np.float64)
        given = self.observations.weight
        weight = None if given is None else np.asarray(given)
        if not self.likelihood.quadratic:
            scales = likelihood_scales(self.likelihood, parameters)
            losses = np.asarray(self.likelihood.loss(scores, rating, scales), dtype=np.float64)
            return float(np.average(losses, weights=weight))
        return float(np.sqrt(np.average(np.square(rating - scores), weights=weight)))


@jax.jit
def _scores(parameters: dict[str, Array], observations: Observations) -> Array:
    return linear_predictor(parameters, observations.user, observations.item)
