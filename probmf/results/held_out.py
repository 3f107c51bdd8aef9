"""Predictions beside the responses that were observed, of data that a fit has not seen."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from probmf.data import Ratings
from probmf.data.tables import MissingColumnError
from probmf.data.vocabulary import read_levels
from probmf.likelihoods import Likelihood
from probmf.likelihoods.base import Predicted
from probmf.likelihoods.responses import listed, naming_column
from probmf.models.mixed.design import read_data
from probmf.results.mixed_fit import MixedFit
from probmf.results.mixed_predict import level_values
from probmf.results.mixtures import tails
from probmf.results.predictions import Predictions
from probmf.results.ratings_fit import RatingsFit


class HeldOut(NamedTuple):
    """Test responses and their predictions, noise included, with the likelihood that judges them.

    The likelihood is that of the responses as they are coded here: ordered levels that are no
    numbers are counted from 0. `below` and `at_most` are predicted probabilities of a response
    below the observed one, and of one at most as large. The training responses are coded alike.
    `weight` is theirs, `test_weight` that of test ratings (rows of a mixed model count alike).
    """

    likelihood: Likelihood
    predicted: Predictions
    observed: Float[np.ndarray, " n"]
    below: Float[np.ndarray, " n"]
    at_most: Float[np.ndarray, " n"]
    training: Float[np.ndarray, " m"]
    weight: np.ndarray | None
    test_weight: np.ndarray | None
    name: str

    @property
    def rows(self) -> str:
        """Name of several of them."""
        return "ratings" if self.predicted.user is not None else "rows"

    def errors(self) -> dict[str, float | None]:
        """Measures of the predictions, by name."""
        own = self.predicted
        predicted = Predicted(own.mean, own.sd, own.probabilities)
        return self.likelihood.errors(self.observed, predicted, self.test_weight)

    def covered(self, interval: float) -> float:
        """Share of the responses inside the predicted central intervals of a probability."""
        low, high = tails(interval)
        return float(np.mean((self.at_most >= low) & (self.below < high)))


def held_out(fit: RatingsFit | MixedFit, test: Any, *, interval: float = 0.9) -> HeldOut:
    """Predict test responses, those of new users, items and groups by the prior."""
    if isinstance(fit, MixedFit):
        return _of_mixed_model(fit, test, interval)
    if not isinstance(fit, RatingsFit):
        raise TypeError(f"fit is a {type(fit).__name__}, expected a RatingsFit or a MixedFit.")
    if not isinstance(test, Ratings):
        raise TypeError(
            f"test is a {type(test).__name__}, expected Ratings that the fit has not seen; make "
            "them with Ratings.from_frame."
        )
    test = test.counted
    likelihood, observed = fit.model.likelihood, np.asarray(test.rating)
    likelihood.check_ratings(observed)
    predicted = fit.predict(test, interval=interval)
    chances = _chances(likelihood, predicted, observed, partial(fit._reach, test))
    training = fit.data.counted
    return HeldOut(
        likelihood, predicted, observed, *chances, np.asarray(training.rating), training.weight,
        test.weight, "rating",
    )  # fmt: skip


def _chances(
    likelihood: Likelihood,
    predicted: Predictions,
    observed: Float[np.ndarray, " n"],
    reach: Callable[[np.ndarray], np.ndarray],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Predicted probabilities of responses below the observed ones, and of at most these."""
    if not likelihood.levels:
        step = likelihood.step or 1e-12 * np.abs(observed) + np.finfo(np.float64).tiny
        return 1.0 - reach(observed), 1.0 - reach(observed + step)
    chance = predicted.probabilities
    if chance is None:
        chance = np.stack([1.0 - predicted.mean, predicted.mean], axis=1)
    below = np.pad(np.cumsum(chance, axis=1), ((0, 0), (1, 0)))
    row, at = np.arange(len(observed)), likelihood.codes(observed)
    return below[row, at], below[row, at + 1]


def _of_mixed_model(fit: MixedFit, test: Any, interval: float) -> HeldOut:
    likelihood: Any = fit.model.likelihood
    training = np.asarray(fit.design.data.response, np.float64)
    values = level_values(fit.design.response_levels)
    if len(values):
        likelihood = replace(likelihood, levels=tuple(values.tolist()))
        training = values[training.astype(int)]
    predicted = fit.predict(test, interval=interval, unseen="prior", kind="response")
    weight, observed = fit.design.data.weight, _responses(fit, test)
    chances = _chances(likelihood, predicted, observed, partial(fit._reach, test))
    return HeldOut(
        likelihood, predicted, observed, *chances, training,
        None if weight is None else np.asarray(weight, np.float64), None,
        fit.design.data.response_name,
    )  # fmt: skip


def _refuse_bounds(fit: MixedFit, test: Any) -> None:
    """Refuse test responses that are bounds; of a table that does not say so, none is."""
    column = fit.design.known.get("censored")
    if column is None:
        return
    try:
        read = read_data(test, [column])[column]
    except MissingColumnError:
        return
    read.refuse(
        fit.model.likelihood.read_known("censored", read) != 0,
        "; a bound can't be compared with a prediction. Leave these rows out of the test data.",
    )


def _responses(fit: MixedFit, test: Any) -> Float[np.ndarray, " n"]:
    """Responses of a table, coded as the training ones."""
    name, levels = fit.design.data.response_name, fit.design.response_levels
    _refuse_bounds(fit, test)
    column = read_data(test, [name])[name]
    if not levels:
        with naming_column(name):
            values = column.numbers()
            fit.model.likelihood.check_ratings(values, "responses")
        return values
    if column.is_numeric:
        found = column.numbers().tolist()
    else:
        known, codes = read_levels(column, name)
        found = known.ids[codes].tolist()
    place = dict(zip(levels, level_values(levels).tolist(), strict=True))
    for row, value in enumerate(found):
        if value not in place:
            raise ValueError(
                f"The response {name!r} is {value!r} in row {row}, a level that the training data "
                f"do not have; they have {listed(levels)}."
            )
    return np.array([place[value] for value in found])
