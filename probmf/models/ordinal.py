"""Ratings at a few ordered levels: the ordered probit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import numpyro
from jax.scipy.special import ndtr
from jaxtyping import Array, Float
from numpyro.distributions import Distribution
from scipy.optimize import minimize_scalar
from scipy.special import ndtri
from scipy.stats import norm

from probmf.models.augmentation import draw_between
from probmf.models.ordered import (
    OrderedNormal,
    OrderedProbit,
    cutpoint,
    edges,
    log_interval,
    tail_probabilities,
    truncated_mean,
)

#: Scores or ratings of any shape, on the host or the device.
Scores = Any
#: Levels must differ by more than this share of the largest, to be told apart in single precision.
RESOLUTION = 1e-5


@dataclass(frozen=True)
class Ordinal:
    r"""Ratings at K ordered levels, :math:`P(r \le \ell_k) = \Phi(c_k - \eta)` (ordered probit).

    A rating is the level whose interval between cutpoints a latent Normal(:math:`\eta`, 1) falls
    in, so nothing is said about how far apart the levels are. Learned cutpoints have the prior of
    K - 1 independent Normal(0, `cutpoint_scale`) numbers put in order, whose density is
    :math:`(K - 1)! \prod_k N(c_k; 0, s^2)` on :math:`c_1 < \dots < c_{K-1}`. The quadratic bound
    is that of the EM algorithm with the latent Normal, with curvature one.

    Args:
        levels: The levels as the ratings have them, increasing, or their number K for 1, ..., K.
        cutpoints: "learned", or K - 1 increasing numbers.
        cutpoint_scale: The prior's scale, in units of the score (whose noise has sd 1).

    Raises:
        TypeError: If levels or cutpoints are no numbers.
        ValueError: If there are fewer than two levels, levels or cutpoints don't increase, there
            isn't one cutpoint fewer than levels, or the scale is not positive.

    Example:
        >>> Ordinal(5).levels
        (1.0, 2.0, 3.0, 4.0, 5.0)
        >>> stars = Ordinal(levels=(1, 2, 3), cutpoints=(-1.0, 1.0))
        >>> float(stars.mean(0.0, {"cutpoints": stars.cutpoints}))
        2.0

    References:
        McCullagh (1980), Regression models for ordinal data; Albert and Chib (1993), section 4.
    """

    # Whatever is given, a tuple of floats after __post_init__.
    levels: Any
    cutpoints: Literal["learned"] | Sequence[float] = "learned"
    cutpoint_scale: float = 5.0
    binary = False
    quadratic = False
    discrete = True

    def __post_init__(self) -> None:
        """Check at the door; levels and cutpoints are kept as tuples."""
        object.__setattr__(self, "levels", _levels(self.levels))
        scale = self.cutpoint_scale
        if isinstance(scale, bool) or not isinstance(scale, int | float | np.number):
            raise TypeError(f"cutpoint_scale is {scale!r}; expected a positive number.")
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"cutpoint_scale is {scale!r}; expected a positive finite number.")
        object.__setattr__(self, "cutpoint_scale", float(scale))
        if isinstance(self.cutpoints, str) and self.cutpoints == "learned":
            return
        given = _increasing("cutpoints", self.cutpoints)
        if len(given) != self.num_levels - 1:
            raise ValueError(
                f"There are {len(given)} cutpoints for {self.num_levels} levels; give "
                f"{self.num_levels - 1}, one between each level and the next, or 'learned'."
            )
        object.__setattr__(self, "cutpoints", given)

    @property
    def num_levels(self) -> int:
        """Number of levels, K."""
        return len(self.levels)

    @property
    def cutpoint_names(self) -> list[str]:
        """The levels that each cutpoint lies between, as "1|2"."""
        return [f"{low:g}|{high:g}" for low, high in pairwise(self.levels)]

    @property
    def learned(self) -> tuple[str, ...]:
        """Parameters of its own that are found together with the rows."""
        return ("cutpoints",) if self.cutpoints == "learned" else ()

    def scale_sites(self) -> dict[str, Any]:
        """The likelihood's own parameters, by site name."""
        if self.learned:
            return {"cutpoints": OrderedNormal(self.cutpoint_scale, self.num_levels - 1)}
        return {"cutpoints": np.asarray(self.cutpoints)}

    def cutpoint_log_prior(self, cutpoints: Float[Array, " c"]) -> Float[Array, ""]:
        """Log density of the prior of learned cutpoints at increasing ones; log-concave."""
        return OrderedNormal(self.cutpoint_scale, self.num_levels - 1).log_prob(cutpoints)

    def canonical(self) -> "Ordinal":
        """The likelihood without its parameters: compiled programs are keyed by it."""
        return Ordinal(self.levels)

    def check_ratings(self, rating: np.ndarray) -> None:
        """Refuse what is none of the levels."""
        levels = np.asarray(self.levels)
        values = np.asarray(rating, np.float64)
        nearest = levels[self.codes(values)]
        bad = ~(np.abs(values - nearest) <= 0.1 * RESOLUTION * np.abs(levels).max())
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"Row {row} has rating {values[row]:g}, which is none of the levels "
                f"{_words(self.levels)} ({int(bad.sum())} such rows). Declare all levels, as in "
                "Ordinal(levels=sorted(set(ratings.rating))), or use a Gaussian likelihood."
            )

    def check_training(self, rating: np.ndarray, weight: np.ndarray | None) -> None:
        """Refuse to learn the cutpoints beside a level that no rating has."""
        counts = self.counts(rating, weight)
        if self.learned and np.any(counts == 0):
            empty = tuple(level for level, n in zip(self.levels, counts, strict=True) if not n)
            raise ValueError(
                f"No rating is at level {_words(empty)}, so the data say nothing about the "
                "cutpoints beside it. Leave the level out of Ordinal(levels=...), merge it with "
                "a neighbour, or give the cutpoints as numbers."
            )

    def codes(self, rating: np.ndarray) -> np.ndarray:
        """Places of the nearest levels, 0 to K - 1."""
        levels = np.asarray(self.levels)
        return np.searchsorted(0.5 * (levels[:-1] + levels[1:]), rating)

    def counts(self, rating: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """Number of ratings of each level, weighted."""
        return np.bincount(self.codes(rating), weight, self.num_levels)

    def start(self, rating: np.ndarray, weight: np.ndarray | None, score: float) -> np.ndarray:
        """Cutpoints under which each level has its share of the ratings at one and the same score.

        Args:
            rating: Ratings, every level among them.
            weight: Their weights.
            score: That score.

        Returns:
            Increasing cutpoints.
        """
        share = np.cumsum(self.counts(rating, weight))
        return score + ndtri(share[:-1] / share[-1])

    def base_score(self, rating: np.ndarray, weight: np.ndarray | None) -> float:
        """Zero where cutpoints are learned, else the score that fits all ratings best.

        If all ratings are at the first or the last level, half a rating is added at the next one.
        """
        if self.learned:
            return 0.0
        counts = self.counts(rating, weight).astype(np.float64)
        for end, beside in ((0, 1), (-1, -2)):
            if counts[end] == counts.sum():
                counts[beside] += 0.5
        inner = np.asarray(self.cutpoints, np.float64)
        ends = np.concatenate([[-np.inf], inner, [np.inf]])

        def loss(score: float) -> float:
            a, b = ends[:-1] - score, ends[1:] - score
            mirrored = a + b > 0
            a, b = np.where(mirrored, -b, a), np.where(mirrored, -a, b)
            mass = np.maximum(norm.cdf(b) - norm.cdf(a), 1e-300)
            return -float(counts @ np.log(mass))

        found = minimize_scalar(
            loss, bounds=(inner[0] - 6.0, inner[-1] + 6.0), method="bounded",
            options={"xatol": 1e-9},
        )  # fmt: skip
        return float(found.x)

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
        law = OrderedProbit(scores, scales["cutpoints"], self.levels)
        if weight is None:
            return numpyro.sample(site, law, obs=rating)
        with numpyro.handlers.scale(scale=weight):
            return numpyro.sample(site, law, obs=rating)

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood."""
        return -log_interval(*self._around(scores, rating, scales))

    def bound(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> tuple:
        """Curvature and minus slope at `scores` of a quadratic that is never below the loss."""
        slope = truncated_mean(*self._around(scores, rating, scales))
        return jnp.ones_like(slope), slope

    def augment(
        self, key: Array, scores: Scores, rating: Scores, scales: Mapping[str, Array]
    ) -> tuple:
        """Curvature and minus slope of the loss given a draw of the latent number."""
        lower, upper = edges(rating, scales["cutpoints"], self.levels)
        latent = draw_between(key, scores, lower, upper)
        return jnp.ones_like(scores), latent - scores

    def _around(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> tuple:
        """The ends of the rating's interval, seen from the score."""
        scores = jnp.asarray(scores)
        lower, upper = edges(jnp.asarray(rating), scales["cutpoints"], self.levels)
        return lower - scores, upper - scores

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score: the mean square of the loss's slope."""
        scores = jnp.asarray(scores)
        total = jnp.zeros_like(scores)
        for level in self.levels:
            ends = self._around(scores, jnp.full_like(scores, level), scales)
            total = total + jnp.exp(log_interval(*ends)) * jnp.square(truncated_mean(*ends))
        return total

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Expected rating given the score."""
        scores = jnp.asarray(scores)
        tails = tail_probabilities(scores, scales["cutpoints"], self.num_levels - 1)
        total = jnp.full_like(scores, self.levels[0])
        for step, tail in zip(self._steps, tails, strict=True):
            total = total + step * tail
        return total

    @property
    def _steps(self) -> list[float]:
        return np.diff(self.levels).tolist()

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a rating whose score is Normal(mean, sd); exact."""
        flat, narrowed = self._flattened(mean, sd, scales)
        # The rating is its first level plus a step for each cutpoint passed; those indicators
        # have covariances P(above the higher) P(below the lower), none of them negative.
        above = tail_probabilities(flat, narrowed["cutpoints"], self.num_levels - 1)
        below = tail_probabilities(-flat, -narrowed["cutpoints"], self.num_levels - 1)
        variance = jnp.zeros_like(flat)
        for i, step in enumerate(self._steps):
            for j in range(i, self.num_levels - 1):
                twice = 1.0 if i == j else 2.0
                variance = variance + twice * step * self._steps[j] * below[i] * above[j]
        return self.mean(flat, narrowed), jnp.sqrt(variance)

    def _flattened(
        self, mean: Scores, sd: Scores, scales: Mapping[str, Array]
    ) -> tuple[Scores, dict[str, Array]]:
        """Score and cutpoints of the probit that a Normal score leaves when integrated out.

        The latent number is Normal(mean, 1 + sd^2); divided by its sd it has noise one again. The
        cutpoints then differ by score, so they are kept as a stack on a last axis.
        """
        mean, sd = jnp.broadcast_arrays(jnp.asarray(mean), jnp.asarray(sd))
        width = jnp.sqrt(1 + jnp.square(sd))
        cuts = [cutpoint(scales["cutpoints"], k) / width for k in range(self.num_levels - 1)]
        return mean / width, {"cutpoints": jnp.stack(cuts, axis=-1)}

    def tail(
        self, scores: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Scores:
        """P(rating >= threshold) given the score, or when it is Normal with an sd."""
        if sd is not None:
            scores, scales = self._flattened(scores, sd, scales)
        scores = jnp.asarray(scores)
        found = jnp.ones_like(scores)
        for place in range(self.num_levels):
            last = place == self.num_levels - 1
            above = 0.0 if last else ndtr(scores - cutpoint(scales["cutpoints"], place))
            found = jnp.where(jnp.asarray(threshold) > self.levels[place], above, found)
        return found

    def level_probabilities(
        self, scores: Scores, scales: Mapping[str, Array], sd: Scores = 0.0
    ) -> Float[Array, "... K"]:
        """Probabilities of the levels, on a new last axis, when the score is Normal(scores, sd)."""
        flat, narrowed = self._flattened(scores, sd, scales)
        parts = []
        for level in self.levels:
            ends = self._around(flat, jnp.full_like(flat, level), narrowed)
            parts.append(jnp.exp(log_interval(*ends)))
        return jnp.stack(parts, axis=-1)


def _levels(given: Any) -> tuple[float, ...]:
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        if given < 2:
            raise ValueError(f"levels is {given}; ratings need at least two levels.")
        return tuple(float(level) for level in range(1, int(given) + 1))
    levels = _increasing("levels", given)
    if len(levels) < 2:
        raise ValueError(f"levels is {given!r}; ratings need at least two levels.")
    if min(np.diff(levels)) <= RESOLUTION * max(map(abs, levels)):
        raise ValueError(
            f"The levels {_words(levels)} lie too close to be told apart in single precision; "
            "subtract their mean, or number them 1, 2, ...."
        )
    return levels


def _increasing(name: str, given: Any) -> tuple[float, ...]:
    try:
        if isinstance(given, str | bytes | bool | Distribution):
            raise TypeError
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {given!r}; expected increasing numbers.") from None
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"{name} is {given!r}; expected a sequence of finite numbers.")
    falls = np.flatnonzero(np.diff(values) <= 0)
    if len(falls):
        place = int(falls[0])
        raise ValueError(
            f"{name} must increase, but {values[place]:g} is followed by {values[place + 1]:g}."
        )
    return tuple(values.tolist())


def _words(levels: Sequence[float]) -> str:
    return ", ".join(f"{level:g}" for level in levels)
