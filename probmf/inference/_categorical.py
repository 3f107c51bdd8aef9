"""Gradient methods for categorical factorizations: starts and held-out data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probmf.data import Ratings
from probmf.models import CategoricalFactorization, ClassObservations
from probmf.results import CategoricalFit


def require_fixed_priors(model: CategoricalFactorization, method: str) -> None:
    """Refuse scales with a prior: they have no joint mode with the rows that they govern.

    Args:
        model: The factorization.
        method: The function that was called, for the message.

    Raises:
        ValueError: If any scale is a distribution; the message says which.
    """
    random = model.random_scales()
    if random:
        raise ValueError(
            f"{method} needs fixed scales, but {', '.join(random)} has a prior distribution. A "
            "point estimate of a scale together with its rows is degenerate: the density grows "
            "without bound as the scale goes to 0. Give a number, or sample the posterior with "
            "sample_nuts."
        )


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


def class_start(
    model: CategoricalFactorization, data: ClassObservations, start: CategoricalFit | None
) -> Callable[[Array], dict[str, Array]]:
    """A function from a key to starting values: random ones, or those of a fit.

    Args:
        model: The factorization.
        data: Its data.
        start: A fit to start from, or None.

    Returns:
        The function.

    Raises:
        TypeError: If `start` is no such fit.
        ValueError: If it has other sites or shapes.
    """
    if start is None:
        return lambda key: model.start(key, data)
    if not isinstance(start, CategoricalFit):
        raise TypeError(f"start is of type {type(start).__name__}; expected a CategoricalFit.")
    given = start.point()
    shapes = model.site_shapes(data)
    for site, shape in shapes.items():
        got = given[site].shape if site in given else None
        if got != shape:
            raise ValueError(
                f"The fit to start from has {site} of shape {got}, but the model needs {shape}; "
                "start from a fit of the same model to the same users and items."
            )
    dtype = jnp.result_type(float)
    return lambda key: {site: jnp.asarray(given[site], dtype) for site in shapes}


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
