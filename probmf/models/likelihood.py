"""Likelihoods: how a score becomes a rating.

Every likelihood answers the same few questions, and nothing else in the package asks which one
it is: its NumPyro site, its loss, the quadratic that touches that loss at a score and lies above
it (what alternating least squares solves), and the mean, sd and tails of a rating given a score.
`binary` says that ratings are 0 or 1, `discrete` that they have levels with probabilities, and
`learned` which parameters of its own point estimates find together with the rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr, ndtr
from jaxtyping import Array
from numpyro.distributions import Distribution

from probmf.models.augmentation import draw_between, draw_polya_gamma
from probmf.models.logistic import expected_sigmoid
from probmf.models.ordinal import Ordinal

#: Scores or ratings of any shape, on the host or the device.
Scores = Any


def likelihood_scales(likelihood: Any, values: Mapping[str, Any]) -> dict[str, Array]:
    """The likelihood's own parameters: those in `values`, else those that are numbers.

    Args:
        likelihood: The likelihood.
        values: Parameters by site name, such as learned cutpoints.

    Returns:
        Arrays in JAX's present precision; a parameter with a prior is left out if it has no value.
    """
    sites = likelihood.scale_sites()
    given = {name: values.get(name, scale) for name, scale in sites.items()}
    dtype = jnp.result_type(float)
    return {
        name: jnp.asarray(scale, dtype)
        for name, scale in given.items()
        if not isinstance(scale, Distribution)
    }


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite real number (and no bool).

    Args:
        value: Anything.

    Returns:
        The answer; a type checker then takes the value for a float.
    """
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and bool(np.isfinite(value))  # type: ignore[call-overload]


def check_scale(name: str, scale: object) -> None:
    """Refuse a scale that is not positive and finite (a distribution is let through).

    Args:
        name: The argument's name, for the message.
        scale: A number, an array or a NumPyro distribution.

    Raises:
        TypeError: If it is neither number, array nor distribution.
        ValueError: If any entry is negative, zero, NaN or infinite.
    """
    if isinstance(scale, Distribution):
        return
    try:
        no_number = scale is None or isinstance(scale, str | bytes | bool)
        values = None if no_number else np.asarray(scale, dtype=np.float64)
    except (TypeError, ValueError):
        values = None
    if values is None:
        raise TypeError(
            f"{name} is {scale!r} of type {type(scale).__name__}; "
            "give a positive number, an array with one scale per row, or a NumPyro distribution."
        )
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        where = "" if values.ndim == 0 else f" at position {int(np.argmax(bad.ravel()))}"
        raise ValueError(
            f"{name} is {values.ravel()[np.argmax(bad.ravel())]:g}{where}; a scale is a standard "
            "deviation and must be positive and finite. To leave a term out, switch it off "
            "(user_bias=False, item_bias=False, num_factors=0)."
        )


@dataclass(frozen=True)
class Gaussian:
    r"""Ratings with Gaussian noise, :math:`r \sim N(\eta, \sigma^2 / w)`.

    Args:
        noise_scale: Standard deviation sigma of a rating of weight one, in units of the rating:
            a positive number, or a NumPyro distribution (then it is sampled).

    Raises:
        ValueError: If `noise_scale` is not positive and finite.

    Example:
        >>> Gaussian(noise_scale=0.8).noise_scale
        0.8
    """

    noise_scale: float | Distribution = 1.0
    binary = False
    quadratic = True
    discrete = False
    learned: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check the scale at the door."""
        check_scale("noise_scale", self.noise_scale)
        if not isinstance(self.noise_scale, Distribution) and np.ndim(self.noise_scale) != 0:
            raise ValueError(
                f"noise_scale has shape {np.shape(self.noise_scale)}; give one number, and the "
                "precision of single ratings as a weight column of the ratings."
            )

    def scale_sites(self) -> dict[str, float | Distribution]:
        """The likelihood's own parameters, by site name."""
        return {"noise_scale": self.noise_scale}

    def canonical(self) -> "Gaussian":
        """The likelihood without its parameters: compiled programs are keyed by it."""
        return Gaussian()

    def check_ratings(self, rating: np.ndarray) -> None:
        """Any finite number is a rating; the data door has seen to that."""

    def check_training(self, rating: np.ndarray, weight: np.ndarray | None) -> None:
        """Ratings of any values tell what there is to tell."""

    def observe(
        self,
        scores: Scores,
        rating: Scores | None,
        weight: Scores | None,
        scales: Mapping[str, Array],
        *,
        site: str = "rating",
    ) -> Array:
        """The observed NumPyro site."""
        scale = scales["noise_scale"]
        if weight is not None:
            scale = scale / jnp.sqrt(weight)
        return numpyro.sample(site, dist.Normal(scores, scale), obs=rating)

    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """The score that fits all ratings best when it is the same for all: their mean."""
        return float(np.average(rating, weights=weight))

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        r"""Minus log likelihood up to a constant, :math:`(r - \eta)^2 / 2 \sigma^2`."""
        return 0.5 * jnp.square((rating - scores) / scales["noise_scale"])

    def bound(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> tuple:
        """Curvature and minus slope at `scores` of a quadratic that is never below the loss."""
        precision = 1.0 / jnp.square(scales["noise_scale"])
        return jnp.broadcast_to(precision, scores.shape), (rating - scores) * precision

    def augment(
        self, key: Array, scores: Scores, rating: Scores, scales: Mapping[str, Array]
    ) -> tuple:
        """Curvature and minus slope of the loss: it is quadratic as it is."""
        return self.bound(scores, rating, scales)

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score, 1 / sigma squared."""
        return jnp.broadcast_to(1.0 / jnp.square(scales["noise_scale"]), scores.shape)

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Expected rating given the score."""
        return scores

    def tail(
        self, scores: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Scores:
        """P(rating of weight one >= threshold) given the score, or when it is Normal with an sd."""
        width = scales["noise_scale"]
        width = width if sd is None else jnp.sqrt(jnp.square(sd) + jnp.square(width))
        return ndtr((jnp.asarray(scores) - threshold) / width)

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a rating whose score is Normal(mean, sd)."""
        return mean, jnp.sqrt(jnp.square(sd) + jnp.square(scales["noise_scale"]))


@dataclass(frozen=True)
class Bernoulli:
    r"""Yes/no data, :math:`r \sim \mathrm{Bernoulli}(g^{-1}(\eta))` with logit or probit link.

    The quadratic bounds are those of Jaakkola and Jordan (2000) for the logit, with curvature
    :math:`w = \tanh(\eta / 2) / 2 \eta`, and of the EM algorithm with a latent Normal for the
    probit, with curvature one.

    Args:
        link: "logit" (sigmoid) or "probit" (Normal distribution function).

    Raises:
        ValueError: If the link is another.

    Example:
        >>> float(Bernoulli().mean(0.0, {}))
        0.5
    """

    link: Literal["logit", "probit"] = "logit"
    binary = True
    quadratic = False
    discrete = True
    learned: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check the link at the door."""
        if self.link not in ("logit", "probit"):
            raise ValueError(f"link is {self.link!r}; expected 'logit' or 'probit'.")

    def scale_sites(self) -> dict[str, float | Distribution]:
        """No parameters of its own."""
        return {}

    def canonical(self) -> "Bernoulli":
        """The likelihood without its parameters: compiled programs are keyed by it."""
        return self

    def check_ratings(self, rating: np.ndarray) -> None:
        """Refuse anything but 0 and 1."""
        bad = (rating != 0) & (rating != 1)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"A Bernoulli likelihood needs ratings 0 or 1, but row {row} has {rating[row]:g} "
                f"({int(bad.sum())} such rows). Make them 0/1, for example with "
                "ratings.binarize(threshold), or use a Gaussian likelihood."
            )

    def check_training(self, rating: np.ndarray, weight: np.ndarray | None) -> None:
        """Zeros alone or ones alone will do: the rows have priors."""

    def observe(
        self,
        scores: Scores,
        rating: Scores | None,
        weight: Scores | None,
        scales: Mapping[str, Array],
        *,
        site: str = "rating",
    ) -> Array:
        """The observed NumPyro site; a weight counts the pair that many times."""
        if self.link == "logit":
            law = dist.Bernoulli(logits=scores)
        else:
            law = dist.Bernoulli(logits=log_ndtr(scores) - log_ndtr(-scores))
        if weight is None:
            return numpyro.sample(site, law, obs=rating)
        with numpyro.handlers.scale(scale=weight):
            return numpyro.sample(site, law, obs=rating)

    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """The link of the share of ones (kept off 0 and 1 by half an observation)."""
        total = float(rating.size if weight is None else weight.sum())
        ones = float(np.sum(rating if weight is None else rating * weight))
        share = (ones + 0.5) / (total + 1.0) if ones in (0.0, total) else ones / total
        law = jax.scipy.stats.norm.ppf if self.link == "probit" else jax.scipy.special.logit
        return float(law(share))

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood."""
        if self.link == "logit":
            return jax.nn.softplus(scores) - rating * scores
        return -log_ndtr((2 * rating - 1) * scores)

    def bound(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> tuple:
        """Curvature and minus slope at `scores` of a quadratic that is never below the loss."""
        if self.link == "logit":
            # tanh(s/2) / 2s by its series where s is small: 0/0 at s = 0.
            small = jnp.abs(scores) < 1e-2
            safe = jnp.where(small, 1.0, scores)
            curvature = jnp.where(
                small, 0.25 - jnp.square(scores) / 48, jnp.tanh(safe / 2) / (2 * safe)
            )
            return curvature, rating - jax.nn.sigmoid(scores)
        sign = 2 * rating - 1
        log_density = -0.5 * jnp.square(scores) - 0.5 * jnp.log(2 * jnp.pi)
        slope = sign * jnp.exp(log_density - log_ndtr(sign * scores))
        return jnp.ones_like(scores), slope

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
        if self.link == "logit":
            return jax.nn.sigmoid(scores) * jax.nn.sigmoid(-scores)
        log_density = -0.5 * jnp.square(scores) - 0.5 * jnp.log(2 * jnp.pi)
        return jnp.exp(2 * log_density - log_ndtr(scores) - log_ndtr(-scores))

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Probability of a one given the score."""
        scores = jnp.asarray(scores)
        if self.link == "logit":
            return jax.nn.sigmoid(scores)
        return ndtr(scores)

    def tail(
        self, scores: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Scores:
        """P(rating >= threshold) given the score, or when it is Normal with an sd."""
        one = self.mean(scores, scales) if sd is None else self.integrate(scores, sd, scales)[0]
        threshold = jnp.asarray(threshold)
        return jnp.where(threshold > 1, 0.0, jnp.where(threshold > 0, one, 1.0))

    def level_probabilities(
        self, scores: Scores, scales: Mapping[str, Array], sd: Scores = 0.0
    ) -> Scores:
        """Probabilities of 0 and 1, on a new last axis, when the score is Normal(scores, sd)."""
        scores = jnp.asarray(scores)
        ends = [self.integrate(sign * scores, sd, scales)[0] for sign in (-1.0, 1.0)]
        return jnp.stack(ends, axis=-1)

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Probability of a one, and sd of the rating, when the score is Normal(mean, sd).

        Exact for the probit; for the logit within 3e-9 (see `logistic.expected_sigmoid`).
        """
        if self.link == "probit":
            probability = self.mean(mean / jnp.sqrt(1 + jnp.square(sd)), scales)
        else:
            probability = expected_sigmoid(jnp.asarray(mean), jnp.asarray(sd))
        return probability, jnp.sqrt(probability * (1 - probability))


Likelihood = Gaussian | Bernoulli | Ordinal
