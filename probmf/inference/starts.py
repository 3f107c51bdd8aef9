"""Starting points of fits, and checks before the start."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probmf.data import Ratings
from probmf.data.confidence import heavy_tail
from probmf.inference.point.validation import RankingValidation, Validation
from probmf.models.factorization import MatrixFactorization
from probmf.models.factorization_program import PRIOR_SCALES
from probmf.models.network import Network, NetworkData
from probmf.models.observations import Observations
from probmf.models.row_means import prior_means
from probmf.results import NetworkFit, RatingsFit
from probmf.run.driver import FitWarning
from probmf.run.fingerprint import fingerprint

#: Standard deviation of random starting factors, unless the prior's is smaller.
START_SCALE = 0.1


def row_identity(
    model: MatrixFactorization, observations: Observations, start: RatingsFit | None, *further: Any
) -> str:
    """Fingerprint of a run that solves for rows or draws them."""
    # Features count as they are encoded, among the observations.
    told = replace(model, user_features=None, item_features=None)
    return fingerprint(told, observations, None if start is None else start.point(), *further)


def warn_of_heavy_weights(model: MatrixFactorization, data: Ratings, stacklevel: int) -> None:
    """Say it where confidence weights look like raw counts; see `confidence_weights`."""
    if not model.unobserved_weight or data.weight is None:
        return
    share = heavy_tail(np.asarray(data.weight))
    if share is not None:
        warnings.warn(
            f"The largest hundredth of the weights holds {share:.0%} of all weight, so that a few "
            "pairs decide the fit, as raw counts of plays or clicks do. Weights of "
            "1 + log(1 + plays) mostly rank better; data.confidence_weights(plays) gives them.",
            FitWarning,
            stacklevel=stacklevel,
        )


def network_start(
    model: Network, data: NetworkData, start: Any
) -> Callable[[Array], dict[str, Array]]:
    """A function from a key to starting values: the network's random ones, or those of a fit."""
    if start is None:
        return lambda key: model.start(key, data)
    if not isinstance(start, NetworkFit):
        raise TypeError(f"start is of type {type(start).__name__}; expected a NetworkFit.")
    given, shapes = start.point(), model.site_shapes(data)
    _check_shapes(given, shapes, "network to the same features")
    dtype = jnp.result_type(float)
    return lambda key: {site: jnp.asarray(given[site], dtype) for site in shapes}


def _check_shapes(
    given: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], same: str
) -> None:
    for site, shape in shapes.items():
        got = given[site].shape if site in given else None
        if got != shape:
            raise ValueError(
                f"The fit to start from has {site} of shape {got}, but the model needs {shape}; "
                f"start from a fit of the same {same}."
            )


def initial_parameters(
    model: MatrixFactorization, observations: Observations, start: RatingsFit | None
) -> Callable[[Array], dict[str, Array]]:
    """A function from a key to starting values.

    They are biases at zero, factors Normal with sd `START_SCALE` or the prior's if smaller, the
    intercept at the best constant, learned cutpoints where they fit the levels' shares at that
    score; with features, rows as much above their prior means at random weights; or the values of
    `start`, whatever the key.
    """
    shapes = model.site_shapes(observations.num_users, observations.num_items)
    means = model.row_means(observations.features)
    weights = {site: shape for mean in means.values() for site, shape in mean.shapes.items()}
    own = _own_start(model, observations)
    intercept = model.fixed_intercept(observations.base_score)
    if start is not None:
        if not isinstance(start, RatingsFit):
            raise TypeError(f"start is of type {type(start).__name__}; expected a RatingsFit.")
        given = start.point()
        _check_shapes(
            given, shapes | model.learned_shapes | weights, "model to the same users and items"
        )
        # The fit may have been made in another precision.
        dtype = jnp.result_type(float)
        values = {site: jnp.asarray(given[site], dtype) for site in [*shapes, *own, *weights]}
        first = given["intercept"] if model.learns_intercept else intercept
        return lambda key: {"intercept": jnp.asarray(first, dtype), **values}

    def draw(key: Array) -> dict[str, Array]:
        parameters = {"intercept": intercept, **own}
        for index, (site, shape) in enumerate(shapes.items()):
            if len(shape) == 1:
                parameters[site] = jnp.zeros(shape)
                continue
            prior = np.asarray(getattr(model, PRIOR_SCALES[site]), jnp.result_type(float))
            scale = np.broadcast_to(np.minimum(prior, START_SCALE), shape[:1])
            parameters[site] = _noise(key, index, scale, shape)
        for place, mean in enumerate(means.values()):
            parameters |= mean.start(jax.random.fold_in(key, len(shapes) + place))
        for site, center in prior_means(means, parameters).items():
            parameters[site] = parameters[site] + center
        return parameters

    return draw


def _own_start(model: MatrixFactorization, observations: Observations) -> dict[str, Array]:
    """The likelihood's learned parameters where they fit the ratings at the intercept alone."""
    weight = None if observations.weight is None else np.asarray(observations.weight)
    score = float(model.fixed_intercept(observations.base_score))
    start = model.likelihood.start(np.asarray(observations.rating), weight, score)
    return {name: jnp.asarray(value, jnp.result_type(float)) for name, value in start.items()}


@partial(jax.jit, static_argnames="shape")
def _noise(key: Array, index: int, scale: np.ndarray, shape: tuple[int, ...]) -> Array:
    # As one program: one by one, the operations under a draw take longer to compile.
    return jnp.asarray(scale)[:, None] * jax.random.normal(jax.random.fold_in(key, index), shape)


def prepare_validation(
    model: MatrixFactorization, data: Ratings, validation: Ratings | None
) -> Validation | None:
    """Held-out ratings in the training data's codes."""
    if validation is None:
        return None
    recoded = _recoded(data, validation)
    model.likelihood.check_ratings(recoded.rating)
    return Validation(Observations.from_ratings(recoded, 0.0), model.likelihood)


def prepare_ranking_validation(
    data: Ratings, validation: Ratings | None
) -> RankingValidation | None:
    """Held-out pairs that lists are judged by."""
    return (
        None
        if validation is None
        else RankingValidation.build(data, _recoded(data, validation).counted)
    )


def _recoded(data: Ratings, validation: Ratings) -> Ratings:
    if not isinstance(validation, Ratings):
        raise TypeError(
            f"validation is of type {type(validation).__name__}; expected Ratings, for example the "
            "second part of ratings.split(key=...)."
        )
    return validation.recode(users=data.users, items=data.items)
