"""Gradient methods for categorical factorizations: held-out data, and what is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import Array

from probmf.data import Ratings
from probmf.models import CategoricalFactorization, ClassObservations


def refuse_categorical(model: object, method: str) -> None:
    """Refuse a categorical factorization where its likelihood has no form that the method needs.

    Args:
        model: Any model.
        method: The function that was called, for the message.

    Raises:
        ValueError: If it is one.
    """
    if isinstance(model, CategoricalFactorization):
        raise ValueError(
            f"{method} has no categorical likelihood; fit a CategoricalFactorization with fit_map "
            "or sample_nuts."
        )


@dataclass(frozen=True)
class ClassValidation:
    """Held-out ratings to stop by: their mean log loss.

    Args:
        model: The factorization, in canonical form.
        data: The held-out ratings in the training data's codes.
    """

    model: CategoricalFactorization
    data: ClassObservations

    @classmethod
    def build(
        cls, model: CategoricalFactorization, data: Ratings, validation: Ratings
    ) -> "ClassValidation":
        """Code held-out ratings as the training data.

        Raises:
            TypeError: If they are no Ratings.
            ValueError: If they have unknown ids, or ratings that are no codes of classes.
        """
        if not isinstance(validation, Ratings):
            raise TypeError(
                f"validation is of type {type(validation).__name__}; expected Ratings, for example "
                "the second part of ratings.split(key=...)."
            )
        return cls(model.canonical(), model.held_out(data, validation))

    def error(self, parameters: Mapping[str, Array]) -> float:
        """Mean held-out log loss of the parameters, weighted."""
        losses = np.asarray(_losses(dict(parameters), self.data, model=self.model), np.float64)
        weight = 1.0 if self.data.weight is None else np.asarray(self.data.weight, np.float64)
        return float(losses.sum() / (np.ones(len(losses)) * weight).sum())


@partial(jax.jit, static_argnames="model")
def _losses(
    parameters: dict[str, Array], data: ClassObservations, *, model: CategoricalFactorization
) -> Array:
    return model.losses(parameters, data, {})
