"""Gradient methods for neural factorizations: held-out data, and what is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import Array

from probmf.data import Ratings
from probmf.models import NeuralFactorization, Observations
from probmf.run.driver import held_out_error


def refuse_neural(model: object, method: str) -> None:
    """Refuse a neural factorization where a method solves for rows or integrates them out.

    Args:
        model: Any model.
        method: The function that was called, for the message.

    Raises:
        ValueError: If it is one.
    """
    if isinstance(model, NeuralFactorization):
        raise ValueError(
            f"{method} takes one side's rows given the other's in closed form, and through a "
            "network the score is not linear in a row. Fit a NeuralFactorization with fit_map, "
            "sample_nuts, fit_svi or fit_laplace, or use MatrixFactorization."
        )


@dataclass(frozen=True)
class NeuralValidation:
    """Held-out ratings to stop by; the error is that of `_loop.Validation`.

    Args:
        model: The factorization.
        data: The held-out ratings in the training data's codes.
    """

    model: NeuralFactorization
    data: Observations

    @classmethod
    def build(
        cls, model: NeuralFactorization, data: Ratings, validation: Ratings
    ) -> "NeuralValidation":
        """Code held-out ratings as the training data.

        Raises:
            TypeError: If they are no Ratings.
            ValueError: If they have unknown ids, or ratings that do not fit the likelihood.
        """
        if not isinstance(validation, Ratings):
            raise TypeError(
                f"validation is of type {type(validation).__name__}; expected Ratings, for example "
                "the second part of ratings.split(key=...)."
            )
        return cls(model, model.held_out(data, validation))

    def error(self, parameters: Mapping[str, Array]) -> float:
        """Mean held-out error of the parameters."""
        scores = _scores(dict(parameters), self.data, model=self.model.canonical())
        return held_out_error(np.asarray(scores), parameters, self.data, self.model.likelihood)


@partial(jax.jit, static_argnames="model")
def _scores(
    parameters: dict[str, Array], data: Observations, *, model: NeuralFactorization
) -> Array:
    return model.scores(parameters, data)
