"""Responses of which some are known to lie above or below a number only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from probmf.data.column import Column
from probmf.data.kinds import TEXT
from probmf.likelihoods.base import Likelihood, Predicted, Scores
from probmf.likelihoods.gaussian import weighted
from probmf.likelihoods.quadrature import QuadratureLikelihood
from probmf.likelihoods.responses import ResponseValues

#: What a row's number, or word, says of its response.
CENSORING = {"left": -1.0, "none": 0.0, "right": 1.0}


@dataclass(frozen=True)
class Censored(QuadratureLikelihood):
    r"""Another likelihood, of whose responses some are bounds.

    .. math:: p(r) = \begin{cases} f(r) & \text{observed} \\ P(R \ge r) & \text{right-censored} \\
       P(R \le r) & \text{left-censored} \end{cases}

    Means, draws and tails are those of responses that are not censored. In a formula it is
    "y | cens(c) ~ x", with the column c of what each row's response is.

    Args:
        law: The likelihood of the responses, one that has `log_tails`.

    Raises:
        ValueError: If `law` has none.

    Example:
        >>> from probmf.likelihoods import Gaussian
        >>> own = {"noise_scale": 1.0, "censored": jnp.array([0.0, 1.0])}
        >>> print(Censored(Gaussian()).loss(jnp.zeros(2), jnp.zeros(2), own))
        [0.9189... 0.6931...]

    References:
        Tobin (1958), Estimation of relationships for limited dependent variables.
    """

    law: Any = None
    known = ("censored",)

    def __post_init__(self) -> None:
        """Check the likelihood at the door."""
        if not (isinstance(self.law, Likelihood) and self.law.has("log_tails")):
            raise ValueError(
                f"The formula has cens(...), and likelihood={self.law!r} has no probabilities of "
                "bounds; use 'gaussian', 'lognormal', 'gamma' or 'poisson'."
            )

    @property
    def uncensored(self) -> Likelihood:
        """That of the responses, which predictions are of."""
        own: Likelihood = self.law
        return own

    @property
    def kind(self) -> str:
        """Its name in messages."""
        return f"censored {self.law.kind}"

    @property
    def support(self) -> Any:
        """The responses that have a density."""
        return self.law.distribution(0.0, self.law.scale_sites()).support

    @property
    def step(self) -> float:  # type: ignore[override]
        """Distance between neighbouring responses."""
        return float(self.law.step)

    @property
    def scale_parameter(self) -> str:  # type: ignore[override]
        """The parameter that a `scale_formula` is for."""
        return str(self.law.scale_parameter)

    def from_scale_predictor(self, predictor: Scores) -> Scores:
        """The `scale_parameter` whose linear predictor is given."""
        return self.law.from_scale_predictor(predictor)

    def scale_place(self, spread: float) -> tuple[float, float]:
        """Mean and sd that a priori the linear predictor of the `scale_parameter` has."""
        found: tuple[float, float] = self.law.scale_place(spread)
        return found

    def scale_sites(self) -> dict[str, Any]:
        """Those of the likelihood, and what each response is: observed, elsewhere than in data."""
        return {**self.law.scale_sites(), "censored": 0.0}

    def canonical(self) -> Self:
        """The likelihood without its parameters: compiled programs are keyed by it."""
        return type(self)(self.law.canonical())

    @property
    def stated(self) -> dict[str, Any]:
        """Parameters that were given."""
        return dict(self.law.stated)

    def default_priors(self, width: float) -> dict[str, Distribution]:
        """Priors of the own parameters."""
        return dict(self.law.default_priors(width))

    def check_ratings(self, rating: np.ndarray, noun: str = "ratings") -> None:
        """Refuse ratings that have no density."""
        self.law.check_ratings(rating, noun)

    def read_column(self, column: Column, name: str) -> ResponseValues:
        """The response, checked; a bound has to be a possible response."""
        read: ResponseValues = self.law.read_column(column, name)
        return read

    def read_known(self, site: str, column: Column) -> Float[np.ndarray, " n"]:
        """Kind of each response: -1, 0, 1, or "left", "none", "right", or True for "right"."""
        column.refuse_missing()
        if column.kinds == {TEXT}:
            words = column.to_list()
            column.refuse(
                np.array([word not in CENSORING for word in words]),
                "; expected 'none', 'left' (at most the response) or 'right' (at least).",
            )
            return np.array([CENSORING[word] for word in words])
        values = column.numbers()
        column.refuse(
            ~np.isin(values, [-1.0, 0.0, 1.0]),
            "; expected 0 for an observed response, 1 for one that is at least as large "
            "(right-censored), -1 for one that is at most as large (left-censored).",
        )
        return values

    def check_known(self, response: np.ndarray, known: Mapping[str, np.ndarray]) -> None:
        """Refuse data without any response that is observed."""
        if known["censored"].all():
            raise ValueError(
                f"all {len(response):,} responses are censored. In cens(c) the number 0 stands for "
                "an observed response."
            )

    def place(self, response: np.ndarray) -> np.ndarray | float:
        """Responses, or bounds in their place, on the scale of scores."""
        found: np.ndarray | float = self.law.place(response)
        return found

    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """The score that fits the numbers best if all are responses."""
        return float(self.law.base_score(rating, weight))

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood."""
        observed = -self.law.distribution(scores, scales).log_prob(jnp.asarray(rating))
        above, below = self.law.log_tails(scores, rating, scales)
        kind = jnp.asarray(scales["censored"])
        return jnp.where(kind == 0, observed, jnp.where(kind > 0, -above, -below))

    def observe(
        self,
        scores: Scores,
        rating: Scores | None,
        weight: Scores | None,
        scales: Mapping[str, Array],
        *,
        site: str = "rating",
    ) -> Array:
        """The observed NumPyro site; weights count as they do without bounds."""
        if weight is None or not self.law.normal:
            return super().observe(scores, rating, weight, scales, site=site)
        own = {**scales, **weighted(scales, weight)}
        return numpyro.sample(site, self.distribution(scores, own), obs=rating)

    def log_density(
        self, scores: Scores, rating: Scores, weight: Scores, scales: Mapping[str, Array]
    ) -> Scores:
        """Log density of weighted ratings, as `observe` has it."""
        if not self.law.normal:
            return super().log_density(scores, rating, weight, scales)
        return -self.loss(scores, rating, {**scales, **weighted(scales, weight)})

    def slope(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus the derivative of the loss by the score."""
        return -jax.grad(lambda at: jnp.sum(self.loss(at, rating, scales)))(jnp.asarray(scores))

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of the score if all are observed: the most that it can be."""
        return self.law.information(scores, scales)

    def sample(
        self, key: Array, scores: Array, scales: Mapping[str, Array], shape: tuple[int, ...]
    ) -> Array:
        """Responses that are not censored."""
        return self.law.distribution(jnp.broadcast_to(scores, shape), scales).sample(key)

    def reach(self, scores: Array, threshold: Array, scales: Mapping[str, Array]) -> Array:
        """P(response >= threshold) given the score."""
        return jnp.asarray(self.law.tail(scores, threshold, scales))

    def tail(
        self, scores: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Scores:
        """P(response >= threshold) given the score, or when it is Normal with an sd."""
        return self.law.tail(scores, threshold, scales, sd)

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Expected response given the score."""
        return self.law.mean(scores, scales)

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a response whose score is Normal(mean, sd)."""
        found: tuple = self.law.integrate(mean, sd, scales)
        return found

    def latent_variance(self, log_rate: np.ndarray, scales: Mapping[str, Any]) -> np.ndarray:
        """Variance of what is left besides the score, of responses that are not censored."""
        return np.asarray(self.law.latent_variance(log_rate, scales))

    def errors(self, rating: np.ndarray, predicted: Predicted) -> dict[str, float | None]:
        """Measures of predictions, by name."""
        found: dict[str, float | None] = self.law.errors(rating, predicted)
        return found
