"""Yes/no data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from probmf import metrics
from probmf.data.column import Column
from probmf.likelihoods.augmentation import draw_between, draw_polya_gamma
from probmf.likelihoods.base import Likelihood, Optional, Predicted, Scores
from probmf.likelihoods.links import ANSWERS, LINKS, AnswerLink, Answers, check_link, log_sigmoid
from probmf.likelihoods.normal_integrals import host_variance
from probmf.likelihoods.responses import ResponseValues, naming_column


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    r"""Yes/no data, :math:`r \sim \mathrm{Bernoulli}(F(\eta))`.

    The quadratic bounds are those of Jaakkola and Jordan (2000) for the logit, with curvature
    :math:`w = \tanh(\eta / 2) / 2 \eta`, and of the EM algorithm with a latent Normal for the
    probit, with curvature one. For the complementary log-log there is none.

    Args:
        link: "logit" (F is the sigmoid), "probit" (the Normal distribution function) or "cloglog"
            (:math:`F(\eta) = 1 - e^{-e^\eta}`: whether any of a Poisson's events comes).

    Raises:
        ValueError: If the link is another.

    Example:
        >>> float(Bernoulli().mean(0.0, {}))
        0.5
    """

    link: AnswerLink = "logit"
    binary = True
    levels = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Check the link at the door."""
        check_link(self.link, ANSWERS)

    @property
    def _link(self) -> Answers:
        return ANSWERS[self.link]

    def has(self, method: Optional) -> bool:
        """Under a link that is not symmetric there is no bound, and no latent variable."""
        return super().has(method) and (self.link in LINKS or method == "mean_variance")

    @property
    def kind(self) -> str:
        """Its class's name, and the link if it is not the logit."""
        return "Bernoulli" if self.link == "logit" else f"Bernoulli({self.link!r})"

    def check_ratings(self, rating: np.ndarray, noun: str = "ratings") -> None:
        """Refuse anything but 0 and 1."""
        self._refuse(
            (rating != 0) & (rating != 1), rating, f"{noun} 0 or 1",
            "Make them 0/1, of ratings for example with ratings.binarize(threshold), or use a "
            "Gaussian likelihood.",
        )  # fmt: skip

    def read_column(self, column: Column, name: str) -> ResponseValues:
        """Numbers 0 and 1, or booleans."""
        try:
            values = column.numbers()
        except TypeError as error:
            raise TypeError(
                f"{error} Which value of a bernoulli response counts as 1 has to be said: make the "
                "column 0 and 1 or booleans, as in frame['answer'] == 'yes'."
            ) from None
        with naming_column(name):
            self.check_ratings(values, "responses")
        return ResponseValues(values.astype(np.int32))

    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """The link of the share of ones (kept off 0 and 1 by half an observation)."""
        total = float(rating.size if weight is None else weight.sum())
        ones = float(np.sum(rating if weight is None else rating * weight))
        share = (ones + 0.5) / (total + 1.0) if ones in (0.0, total) else ones / total
        return float(self._link.quantile(np.asarray(share)))

    def distribution(self, scores: Scores, scales: Mapping[str, Array]) -> Distribution:
        """Bernoulli, by its logits."""
        if self.link == "logit":
            return dist.Bernoulli(logits=scores)
        yes, no = (self._link.log_mass(answer, jnp.asarray(scores)) for answer in (1, 0))
        return dist.Bernoulli(logits=yes - no)

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood."""
        return -self._link.log_mass(rating, scores)

    def slope(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus the derivative of the loss by the score."""
        return self._link.mass_slope(rating, scores)

    def log_density(
        self, scores: Scores, rating: Scores, weight: Scores, scales: Mapping[str, Array]
    ) -> Scores:
        """Log density of weighted ratings, whose second derivative at zero is right, too.

        NumPyro's is made of |score|, of which JAX takes the slope at zero for constant.
        """
        return -weight * self.loss(scores, rating, scales)

    def bound(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> tuple:
        """Curvature and minus slope at `scores` of a quadratic that is never below the loss."""
        return LINKS[self.link].curvature(scores), self.slope(scores, rating, scales)

    def expected_bound(self, mean: Scores, variance: Scores, rating: Scores) -> tuple:
        r"""Target, curvature and constant of the bound that is best for a Normal score.

        For the logit that of Jaakkola and Jordan at :math:`\xi^2 = E \eta^2`; for the probit that
        of the latent normal, :math:`t = E z`, w = 1.
        """
        if self.link == "probit":
            curvature, slope = self.bound(mean, rating, {})
            constant = 0.5 * jnp.square(slope) - self.loss(mean, rating, {})
            return mean + slope, curvature, constant
        place = jnp.sqrt(jnp.square(mean) + variance)
        curvature, _ = self.bound(place, rating, {})
        target = (rating - 0.5) / curvature
        constant = 0.5 * place + log_sigmoid(-place)
        constant = constant + 0.5 * curvature * (jnp.square(place) + jnp.square(target))
        return target, curvature, constant

    def augment(
        self, key: Array, scores: Scores, rating: Scores, scales: Mapping[str, Array]
    ) -> tuple:
        """Curvature and minus slope of the loss given a draw of its latent variable."""
        if self.link == "logit":
            curvature = draw_polya_gamma(key, scores)
            return curvature, rating - 0.5 - curvature * scores
        lower = jnp.where(rating > 0, 0.0, -jnp.inf)
        upper = jnp.where(rating > 0, jnp.inf, 0.0)
        latent = draw_between(key, scores, lower, upper)
        return jnp.ones_like(scores), latent - scores

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score."""
        return self._link.information(scores)

    def latent_variance(self, log_rate: np.ndarray, scales: Mapping[str, Any]) -> np.ndarray:
        """That of the link's distribution."""
        return np.full_like(log_rate, self._link.variance)

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Probability of a one given the score."""
        return self._link.cdf(jnp.asarray(scores))

    def mean_variance(self, scores: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """Variance of the probability of a one, on the host, as the score varies."""
        return host_variance(self._link.host_cdf, scores, sd)

    def tail(
        self, scores: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Scores:
        """P(rating >= threshold) given the score, or when it is Normal with an sd."""
        one = self.mean(scores, scales) if sd is None else self.integrate(scores, sd, scales)[0]
        threshold = jnp.asarray(threshold)
        return jnp.where(threshold > 1, 0.0, jnp.where(threshold > 0, one, 1.0))

    def level_probabilities(
        self, scores: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Float[Array, "... 2"]:
        """Probabilities of 0 and 1, on a new last axis, when the score is Normal(scores, sd)."""
        return jnp.stack(self._link.masses(jnp.asarray(scores), sd), axis=-1)

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Probability of a one, and sd of the rating, when the score is Normal(mean, sd).

        Exact for the probit; for the logit within 3e-9 (see `expected_sigmoid`).
        """
        no, yes = self._link.masses(jnp.asarray(mean), jnp.asarray(sd))
        return yes, jnp.sqrt(yes * no)

    def errors(
        self, rating: np.ndarray, predicted: Predicted, weight: np.ndarray | None = None
    ) -> dict[str, float | None]:
        """Measures of probabilities; without both answers there is no AUC."""
        probability = np.asarray(predicted.mean, dtype=np.float64)
        counted = rating if weight is None else rating[weight > 0]
        both = 0 < counted.sum() < len(counted)
        return {
            "log loss": metrics.log_loss(rating, probability, weight=weight),
            "Brier score": metrics.brier(rating, probability, weight=weight),
            "AUC": metrics.auc(rating, probability, weight=weight) if both else None,
        }

    def constant(self, rating: np.ndarray, weight: np.ndarray | None, size: int) -> Predicted:
        """The share of ones."""
        share = np.clip(np.average(rating, weights=weight), 1e-6, 1 - 1e-6)
        return Predicted(np.full(size, share), None)
