"""Base class of likelihoods: the questions that each of them answers.

A likelihood is the distribution of a rating given its score, and everything that follows from it:
a loss, a quadratic that touches the loss at a score and lies above it (which alternating least
squares solves), a latent variable given which the loss is quadratic (which Gibbs sampling draws),
moments and tail probabilities, and all of these where the score itself is Normal; how the column
of responses is checked and encoded; its own parameters with their priors and starts; the errors
that judge predictions. Models, methods, results and the command line ask it, and never its class;
optional methods are asked for by `has`, from which `probmf.run.checks` knows what a method can't do
with it. They know it by name from `probmf.likelihoods` alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, biject_to

from probmf import metrics
from probmf.data.column import Column, such_rows
from probmf.data.examples import Examples
from probmf.likelihoods.responses import (
    ResponseValues,
    level_values,
    measured_values,
    naming_column,
    refuse_classes,
)

#: Scores or ratings of any shape, on the host or the device.
Scores = Any

#: Methods that not every likelihood has; what needs them is refused without.
type Optional = Literal[
    "augment", "bound", "cutpoint_terms", "expected_bound", "in_units", "log_tails", "mean_variance"
]


class Predicted(NamedTuple):
    """Predictions that are judged by a likelihood's `errors`.

    Attributes:
        mean: Expected ratings.
        sd: Standard deviations of the ratings, or None.
        probabilities: Probabilities of the levels, or None.
    """

    mean: Float[np.ndarray, " n"]
    # As None where the likelihood does not ask for them.
    sd: Any
    probabilities: Any = None


class BaseLikelihood(ABC):
    """Distribution of a response given its score, or given its scores, one for each class.

    Attributes:
        binary: Responses are 0 or 1.
        by_class: There is a score for each class, on the last axis.
        quadratic: The loss is a quadratic function of rating less score.
        normal: A function of the rating, `to_score`, is Normal about the score.
        defaults: Own parameters that are fields of the class, and their values where none is given.
        known: Own parameters that are data: a number, or in a mixed model a column.
        scale_parameter: The own parameter that the `scale_formula` of a mixed model is for; empty
            where none is.
        step: Distance between neighbouring ratings; 0 where any number between two is one.
    """

    binary: ClassVar[bool] = False
    by_class: ClassVar[bool] = False
    quadratic: ClassVar[bool] = False
    normal: ClassVar[bool] = False
    step: ClassVar[float] = 0.0
    defaults: ClassVar[Mapping[str, float]] = {}
    known: ClassVar[tuple[str, ...]] = ()
    scale_parameter: ClassVar[str] = ""

    @property
    def levels(self) -> Any:
        """The levels that responses are at, increasing, or codes of the classes; else empty."""
        return ()

    def has(self, method: Optional) -> bool:
        """True for an optional method that this likelihood has."""
        nothing = getattr(Likelihood, method)
        return getattr(type(self), method, nothing) is not nothing

    @property
    def kind(self) -> str:
        """Its name in messages."""
        return type(self).__name__

    @property
    def learned(self) -> tuple[str, ...]:
        """Parameters of its own that point estimates find together with the rows.

        A shift of all scores undoes one of theirs, so that there is no learned intercept beside.
        """
        return ()

    def learned_among(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Those of some values by site that are learned parameters of its own."""
        return {name: values[name] for name in self.learned if name in values}

    def constrain(self, free: Mapping[str, Array]) -> dict[str, Array]:
        """Sites from what an optimizer moves: learned parameters go to the support of their prior.

        There is no Jacobian: the minimum of an objective of the sites is their joint mode.
        """
        laws = self.scale_sites()
        own = self.learned_among(free).items()
        return dict(free) | {name: biject_to(laws[name].support)(value) for name, value in own}

    def unconstrain(self, sites: Mapping[str, Array]) -> dict[str, Array]:
        """The inverse of `constrain`."""
        laws = self.scale_sites()
        own = self.learned_among(sites).items()
        return dict(sites) | {name: biject_to(laws[name].support).inv(value) for name, value in own}

    @property
    def labels(self) -> dict[str, dict[str, list[str]]]:
        """Labels along the dimension of each own parameter that is a vector, by site."""
        return {}

    def require_levels(self) -> None:  # noqa: B027 (most have nothing to refuse)
        """Refuse a likelihood whose levels are left to the data."""

    @property
    def stated(self) -> dict[str, Any]:
        """Own parameters that the user has given: numbers, or priors."""
        given = {name: getattr(self, name) for name in self.defaults}
        return {name: value for name, value in given.items() if value is not None}

    def scale_sites(self) -> dict[str, Any]:
        """The likelihood's own parameters by site name: numbers, arrays or prior distributions."""
        return {**self.defaults, **self.stated}

    def canonical(self) -> Self:
        """The likelihood without its parameters: compiled programs are keyed by it."""
        nothing: Any = dict.fromkeys(self.defaults)
        return replace(self, **nothing) if nothing else self  # type: ignore[type-var]

    def prior_precisions(self) -> dict[str, float]:
        """Precision of the Normal prior about zero that each learned parameter has."""
        return {}

    def start(
        self, rating: np.ndarray, weight: np.ndarray | None, score: float
    ) -> dict[str, np.ndarray]:
        """First values of the learned parameters, where all ratings have one and the same score."""
        return {}

    @abstractmethod
    def distribution(self, scores: Scores, scales: Mapping[str, Array]) -> Distribution:
        """NumPyro distribution of ratings of weight one."""

    def observe(
        self,
        scores: Scores,
        rating: Scores | None,
        weight: Scores | None,
        scales: Mapping[str, Array],
        *,
        site: str = "rating",
    ) -> Array:
        """The observed NumPyro site; a weight counts a rating that many times."""
        found = self.distribution(scores, scales)
        if weight is None:
            return numpyro.sample(site, found, obs=rating)
        with numpyro.handlers.scale(scale=weight):
            return numpyro.sample(site, found, obs=rating)

    def log_density(
        self, scores: Scores, rating: Scores, weight: Scores, scales: Mapping[str, Array]
    ) -> Scores:
        """Log density of weighted ratings, as `observe` has it."""
        return weight * self.distribution(scores, scales).log_prob(jnp.asarray(rating))

    def draw(
        self, key: Array, scores: Scores, weight: Scores, scales: Mapping[str, Array]
    ) -> Scores:
        """Draws of ratings; a weight that only counts a rating does not change them."""
        return self.distribution(scores, scales).sample(key)

    @abstractmethod
    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood, up to a constant given rating and own parameters."""

    @abstractmethod
    def read_examples(
        self, data: Examples, *, complete: bool = True
    ) -> Float[np.ndarray, "n responses"]:
        """Responses of a network as the likelihood takes them, checked.

        Standardized numbers if the likelihood has `in_units`, else numbers, levels or codes. They
        are `complete` if every level has to occur whose cutpoints are learned.
        """


class Likelihood(BaseLikelihood):
    """Distribution of a rating given its score.

    A rating is `normal` in some function of it, or at one of a few `levels`, or else asked for its
    `tail`, from which quantiles are found: of counts, whose `step` is one, and of other numbers.
    """

    @property
    def num_levels(self) -> int:
        """Number of levels; 0 if ratings are not at a few levels."""
        return len(self.levels)

    def codes(self, rating: np.ndarray) -> np.ndarray:
        """Places of the nearest levels, 0 to K - 1."""
        levels = np.asarray(self.levels)
        return np.searchsorted(0.5 * (levels[:-1] + levels[1:]), rating)

    @classmethod
    def of_ratings(cls, rating: np.ndarray, noise_scale: float) -> Self:
        """The likelihood that the command line means by its name.

        With that noise scale, if it has one.
        """
        return cls()

    @abstractmethod
    def check_ratings(self, rating: np.ndarray, noun: str = "ratings") -> None:
        """Refuse ratings that have no density; the error names the first bad row.

        `noun` is their name in the message.
        """

    def _refuse(self, bad: np.ndarray, rating: np.ndarray, needs: str, advice: str) -> None:
        """Raise a ValueError that names the first of some rows, if there are any."""
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"A {type(self).__name__} likelihood needs {needs}, but row {row} has "
                f"{rating[row]:g} ({such_rows(bad)}). {advice}"
            )

    @property
    def uncensored(self) -> "Likelihood":
        """The likelihood of responses of which none is a bound."""
        return self

    def read_known(self, site: str, column: Column) -> Float[np.ndarray, " n"]:
        """An own parameter that a mixed model's data have by row, checked by itself."""
        return column.numbers()

    def settle_known(
        self, response: np.ndarray, known: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Own parameters that a mixed model's data have, checked against the responses.

        They are own parameters by row, such as numbers of trials; those that do not allow a
        response are refused. Gives the same, or what stands for values that do not count.
        """
        return dict(known)

    def from_scale_predictor(self, predictor: Scores) -> Scores:
        """The `scale_parameter` whose linear predictor is given: its exponential, by default."""
        return jnp.exp(predictor)

    def scale_place(self, spread: float) -> tuple[float, float]:
        """Mean and sd that a priori the linear predictor of the `scale_parameter` has.

        `spread` is the standard deviation of the responses on the scale of scores.
        """
        return 0.0, 1.0

    def check_training(self, rating: np.ndarray, weight: np.ndarray | None) -> None:
        """Refuse training ratings that say nothing about a learned parameter."""

    def read_column(self, column: Column, name: str) -> ResponseValues:
        """The response of a mixed model, checked and encoded.

        Raises:
            TypeError: If the column's type does not suit.
            ValueError: If a value has no density, or a learned parameter is left open.
        """
        values = measured_values(column, name)
        with naming_column(name):
            self.check_ratings(values, "responses")
        return ResponseValues(values)

    def read_examples(
        self, data: Examples, *, complete: bool = True
    ) -> Float[np.ndarray, "n responses"]:
        """Responses of a network, checked; see the base class."""
        if not self.levels:
            refuse_classes(data, type(self).__name__)
        if self.has("in_units"):
            return (data.response - data.response_center) / data.response_scale
        values = level_values(data, self) if self.levels else data.response
        for name, column in zip(data.responses, values.T, strict=True):
            with naming_column(name):
                self.check_ratings(column, "responses")
                if complete:
                    self.check_training(column, None)
        return values

    def coded(self, num_levels: int) -> Self:
        """The likelihood of the codes 0, 1, ... of levels that a column has; else itself."""
        return self

    def place(self, response: np.ndarray) -> np.ndarray | float:
        """Responses on the scale of scores, by which default priors are scaled.

        Where they have no place there: the score about which an intercept is expected, within a
        few units.
        """
        return 0.0

    def middle(self, offset: np.ndarray) -> float:
        """The one offset in place of those of all rows, where responses have no place."""
        return float(np.mean(offset))

    def default_priors(self, width: float) -> dict[str, Distribution]:
        """Priors of the own parameters in a mixed model, if nothing else is stated.

        `width` is the scale of priors of the linear predictor.
        """
        return {}

    def moved_priors(self, center: float, spread: float) -> dict[str, Distribution]:
        """Default priors of learned parameters from which a Normal number is subtracted.

        It is what the linear predictor has where all columns are zero, more than at their means.
        """
        return {}

    @abstractmethod
    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """The score that fits all ratings best when it is the same for all."""

    def slope(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus the derivative of the loss by the score."""
        return self.bound(scores, rating, scales)[1]

    def bound(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> tuple:
        """Curvature and minus slope at `scores` of a quadratic that is never below the loss.

        It touches the loss there, so that its slope is the loss's own. Optional.
        """
        raise NotImplementedError

    def expected_bound(self, mean: Scores, variance: Scores, rating: Scores) -> tuple:
        r"""Target t, curvature w, constant c of a bound for a score Normal(mean, variance).

        The expected log likelihood is at least :math:`c - w E (t - \eta)^2 / 2`. Optional.
        """
        raise NotImplementedError

    def augment(
        self, key: Array, scores: Scores, rating: Scores, scales: Mapping[str, Array]
    ) -> tuple:
        """Curvature and minus slope at `scores` of the loss given a draw of its latent variable.

        Optional.
        """
        raise NotImplementedError

    def cutpoint_terms(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Any:
        """Derivatives of the loss by the cutpoints beside each rating. Optional."""
        raise NotImplementedError

    def log_tails(
        self, scores: Scores, rating: Scores, scales: Mapping[str, Array]
    ) -> tuple[Array, Array]:
        """Logarithms of P(R >= rating) and of P(R <= rating) given the score. Optional."""
        raise NotImplementedError

    def in_units(
        self, scores: Scores, scales: Mapping[str, Any], center: Any, unit: Any
    ) -> tuple[Scores, dict[str, Any]]:
        """Scores and own parameters of center + unit x response from those of the response.

        Optional; a network then takes its responses standardized.
        """
        raise NotImplementedError

    @abstractmethod
    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score."""

    def log_expected(self, scores: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Logarithm of E exp(score), or of the expected rating, of Normal scores, on the host."""
        return scores + 0.5 * variance

    def latent_variance(self, log_rate: np.ndarray, scales: Mapping[str, Any]) -> np.ndarray:
        """Variance of what is left besides the score, on the scale of scores, on the host.

        `log_rate` is the logarithm of the mean of what `log_expected` tells, over rows and effects.
        A ValueError says that no such variance is defined.
        """
        raise ValueError(
            f"No variance on the scale of the linear predictor is defined for a {self.kind} "
            "response, and so no share of it is explained."
        )

    @abstractmethod
    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Expected rating given the score."""

    def mean_variance(self, scores: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """Variance of the expected rating when the score is Normal, on the host.

        Optional; for an expected rating that rises with the score, whatever the own parameters.
        """
        raise NotImplementedError

    @abstractmethod
    def tail(
        self, scores: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Scores:
        """P(rating of weight one >= threshold) given the score, or when it is Normal with an sd."""

    def tail_order(
        self, mean: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores
    ) -> Scores:
        """Numbers in the order of the tail probabilities."""
        return self.tail(mean, threshold, scales, sd)

    def level_probabilities(
        self, scores: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Scores:
        """Probabilities of the levels, on a new last axis, when the score is Normal(scores, sd)."""
        raise TypeError(f"Ratings of a {type(self).__name__} likelihood have no levels.")

    @abstractmethod
    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a rating whose score is Normal(mean, sd)."""

    def errors(
        self, rating: np.ndarray, predicted: Predicted, weight: np.ndarray | None = None
    ) -> dict[str, float | None]:
        """Measures of predictions of ratings, by name, weighted if they have weights."""
        return {
            "RMSE": metrics.rmse(rating, predicted.mean, weight=weight),
            "MAE": metrics.mae(rating, predicted.mean, weight=weight),
        }

    def constant(self, rating: np.ndarray, weight: np.ndarray | None, size: int) -> Predicted:
        """The best prediction that is the same for all rows."""
        mean = float(np.average(rating, weights=weight))
        spread = float(np.sqrt(np.average(np.square(rating - mean), weights=weight)))
        return Predicted(np.full(size, mean), np.full(size, max(spread, 1e-12)))

    def by_group(
        self, rating: np.ndarray, weight: np.ndarray | None, codes: np.ndarray, count: int
    ) -> Predicted:
        r"""Predictions that are the same for all rows of a group.

        .. math:: m_g = \frac{\sum_i w_i r_i + \bar w m}{\sum_i w_i + \bar w}

        over the group's training ratings, with the constant m and the mean weight: as if each
        group had one more rating, so that none is judged by a single one.

        Last comes that of a group without training ratings.
        """
        center = float(self.constant(rating, weight, 1).mean[0])
        sums = np.zeros((3, count + 1))
        for rows, own in weighted_pieces(weight, len(rating)):
            apart = rating[rows] - center
            for total, values in zip(sums, (own, own * apart, own * apart**2), strict=True):
                total += np.bincount(codes[rows], values, count + 1)
        size, total, square = sums
        shift = total / (size + size.sum() / len(rating))
        loss = np.sum(square - 2.0 * shift * total + shift**2 * size) / size.sum()
        spread = float(np.sqrt(max(loss, 0.0)))
        return Predicted(center + shift, np.full(count + 1, max(spread, 1e-12)))


def weighted_pieces(
    weight: np.ndarray | None, count: int
) -> Iterator[tuple[slice, Float[np.ndarray, " n"]]]:
    """Pieces of many rows, and the weights of these."""
    for start in range(0, count, 1 << 20):
        rows = slice(start, min(start + (1 << 20), count))
        own = np.ones(rows.stop - start) if weight is None else np.asarray(weight[rows])
        yield rows, own


def likelihood_scales(likelihood: BaseLikelihood, values: Mapping[str, Any]) -> dict[str, Array]:
    """The likelihood's own parameters: those in `values`, else those that are numbers.

    In JAX's present precision; a parameter with a prior is left out if it has no value.
    """
    sites = likelihood.scale_sites()
    given = {name: values.get(name, scale) for name, scale in sites.items()}
    dtype = jnp.result_type(float)
    return {
        name: jnp.asarray(scale, dtype)
        for name, scale in given.items()
        if not isinstance(scale, Distribution)
    }
