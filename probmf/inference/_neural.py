"""Gradient methods for neural factorizations: starts, held-out data, and what is refused."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from probmf.data import Ratings
from probmf.inference._loop import held_out_error
from probmf.inference._optimizer import OPTIMIZERS, Rule
from probmf.models import NeuralFactorization, Observations
from probmf.results import NeuralFit

#: Learning rate of the default, Adam: of full batches, and the first of minibatches, from which it
#: falls linearly to zero.
RATE = 0.02


def neural_rule(full_batch: bool, num_updates: int) -> Rule:
    """Adam: at one rate for full batches, at one that falls to zero for minibatches."""
    if full_batch:
        return Rule(OPTIMIZERS["adam"], optax.constant_schedule(RATE))
    return Rule(OPTIMIZERS["adam"], optax.linear_schedule(RATE, 0.0, num_updates))


def require_fixed_neural(model: NeuralFactorization, method: str) -> None:
    """Refuse scales with a prior, and activations without a gradient.

    Args:
        model: The factorization.
        method: The function that was called, for the message.

    Raises:
        ValueError: If there are any; the message says which.
    """
    model.network.check_trainable()
    random = model.random_scales()
    if random:
        raise ValueError(
            f"{method} needs fixed scales, but {', '.join(random)} has a prior distribution. A "
            "point estimate of a scale together with what it governs is degenerate. Give a "
            "number, or sample the posterior with sample_nuts."
        )


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


def neural_start(
    model: NeuralFactorization, data: Observations, start: NeuralFit | None
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
    if not isinstance(start, NeuralFit):
        raise TypeError(f"start is of type {type(start).__name__}; expected a NeuralFit.")
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
