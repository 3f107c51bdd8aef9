"""Successes among a number of trials."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid
from jax.scipy.special import betainc
from jaxtyping import Array
from numpyro.distributions import constraints
from scipy import special

from probmf.data.column import such_rows
from probmf.likelihoods.base import Scores
from probmf.likelihoods.links import LINKS, log_sigmoid
from probmf.likelihoods.log_gamma import log_gamma
from probmf.likelihoods.normal_integrals import sigmoid_moments
from probmf.likelihoods.parameters import is_number
from probmf.likelihoods.quadrature import QuadratureLikelihood


@dataclass(frozen=True)
class Binomial(QuadratureLikelihood):
    r"""Successes in n trials, each with the probability :math:`p = 1 / (1 + e^{-\eta})`.

    The bound is that of `Bernoulli`, n times.

    Args:
        trials: The number n of trials of every rating; None in a mixed model whose formula has a
            column of them, as in "y | trials(n) ~ x + (1 | g)", and 1 elsewhere.

    Raises:
        ValueError: If it is no whole number of at least 1.

    Example:
        >>> float(Binomial(10).mean(0.0, {"trials": 10.0}))
        5.0

    References:
        McCullagh and Nelder (1989), Generalized linear models, chapter 4.
    """

    trials: int | None = None
    support = constraints.nonnegative_integer
    step = 1.0
    defaults = {"trials": 1.0}  # noqa: RUF012
    known = ("trials",)

    def __post_init__(self) -> None:
        """Check the number at the door."""
        given = self.trials
        if given is not None and not (is_number(given) and given >= 1 and given == round(given)):
            raise ValueError(
                f"trials is {given!r}; expected a whole number of at least 1, or in a mixed model "
                "a column in the formula: 'y | trials(n) ~ x'."
            )

    @classmethod
    def of_ratings(cls, rating: np.ndarray, noise_scale: float) -> Self:
        """As many trials as the most successes."""
        return cls(max(int(np.max(rating)), 1))

    @property
    def stated(self) -> dict[str, Any]:
        """The number of trials, if it was given."""
        return {name: float(given) for name, given in super().stated.items()}

    def check_ratings(self, rating: np.ndarray, noun: str = "ratings") -> None:
        """Refuse what is no count, or more than the number of trials."""
        self.check_trials(rating, np.full(rating.shape, self.trials or np.inf), noun)

    def check_training(self, rating: np.ndarray, weight: np.ndarray | None) -> None:
        """Refuse more successes than the one trial that ratings have if nothing is said."""
        bad = rating > 1
        if self.trials is None and bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"Binomial() takes every rating for the successes in one trial, but row {row} has "
                f"{rating[row]:g} ({such_rows(bad)}). Say how many trials there were: "
                f"Binomial({int(rating.max())}) if {rating.max():g} is all of them; or use "
                "Poisson() for counts that have no end."
            )

    def settle_known(
        self, response: np.ndarray, known: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The trials; those below successes are refused."""
        self.check_trials(response, known["trials"], "responses")
        return dict(known)

    def check_trials(self, rating: np.ndarray, trials: np.ndarray, noun: str) -> None:
        """Refuse numbers of trials that are no counts, and successes that are not among them.

        Args:
            rating: Successes.
            trials: Trials of each; infinite where they are not known.
            noun: Name of the successes in the message.

        Raises:
            ValueError: If there are any, naming the first row.
        """
        self._refuse(
            ~(trials >= 1) | (np.isfinite(trials) & (trials != np.round(trials))), trials,
            "whole numbers of trials of at least 1", "Correct or drop them.",
        )  # fmt: skip
        bad = ~((rating >= 0) & (rating <= trials)) | (rating != np.round(rating))
        if bad.any():
            row = int(np.argmax(bad))
            most = f" to {trials[row]:g}, its trials" if np.isfinite(trials[row]) else ", 2, ..."
            raise ValueError(
                f"A Binomial likelihood needs {noun} that are counts of successes, but row {row} "
                f"has {rating[row]:g} ({such_rows(bad)}); expected 0, 1{most}."
            )

    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """Logit of the share of successes (kept off 0 and 1 by half a success)."""
        total = float(rating.size if weight is None else weight.sum()) * (self.trials or 1)
        wins = float(np.sum(rating if weight is None else rating * weight))
        share = (wins + 0.5) / (total + 1.0) if wins in (0.0, total) else wins / total
        return float(special.logit(share))

    def sample(
        self, key: Array, scores: Array, scales: Mapping[str, Array], shape: tuple[int, ...]
    ) -> Array:
        """Numbers of successes."""
        trials = jnp.broadcast_to(jnp.asarray(scales["trials"], scores.dtype), shape)
        return jax.random.binomial(key, trials, jnp.broadcast_to(sigmoid(scores), shape))

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood."""
        trials, count = jnp.asarray(scales["trials"]), jnp.asarray(rating)
        ways = log_gamma(trials + 1.0) - log_gamma(count + 1.0) - log_gamma(trials - count + 1.0)
        return -trials * log_sigmoid(-jnp.asarray(scores)) - count * scores - ways

    def bound(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> tuple:
        """Curvature and minus slope at `scores` of a quadratic that is never below the loss."""
        trials = scales["trials"]
        slope = rating - trials * sigmoid(jnp.asarray(scores))
        return trials * LINKS["logit"].curvature(scores), slope

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score: the variance of the successes."""
        return scales["trials"] * LINKS["logit"].information(jnp.asarray(scores))

    def latent_variance(self, log_rate: np.ndarray, scales: Mapping[str, Any]) -> np.ndarray:
        """That of the logistic distribution, of each trial."""
        return np.full_like(log_rate, LINKS["logit"].variance)

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Expected number of successes given the score."""
        return scales["trials"] * sigmoid(jnp.asarray(scores))

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of the successes when the score is Normal(mean, sd), within 1e-8."""
        trials = scales["trials"]
        center, noise, varying = sigmoid_moments(mean, sd)
        return trials * center, jnp.sqrt(trials * noise + jnp.square(trials) * varying)

    def reach(self, scores: Array, threshold: Array, scales: Mapping[str, Array]) -> Array:
        r"""The incomplete beta function :math:`I_p(k, n - k + 1)`."""
        trials = jnp.asarray(scales["trials"], scores.dtype)
        least = jnp.ceil(threshold)
        inside = jnp.clip(least, 1.0, jnp.maximum(trials, 1.0))
        found = betainc(inside, jnp.maximum(trials, 1.0) - inside + 1.0, sigmoid(scores))
        return jnp.where(least <= 0, 1.0, jnp.where(least > trials, 0.0, found))

    def steepness(self, threshold: Array, scales: Mapping[str, Array]) -> Array:
        """Half the root of the number of trials."""
        return 0.5 * jnp.sqrt(scales["trials"])
