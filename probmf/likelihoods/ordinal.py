"""Ratings at a few ordered levels: cumulative logit and probit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from numpyro.distributions import Distribution
from scipy.optimize import minimize_scalar

from probmf import metrics
from probmf.data.column import Column, such_rows
from probmf.data.examples import Examples
from probmf.likelihoods.augmentation import draw_between, draw_polya_gamma
from probmf.likelihoods.base import Likelihood, Predicted, Scores, weighted_pieces
from probmf.likelihoods.links import LINKS, Link, LinkName, check_link
from probmf.likelihoods.ordered import (
    FAR,
    Ordered,
    OrderedNormal,
    edges,
    end_densities,
    interval_probability,
    interval_slope,
    log_interval,
    log_level,
)
from probmf.likelihoods.responses import ResponseValues, listed, naming_column, ordered_values

#: Different ratings that `of_ratings` takes for levels, at most.
MOST_LEVELS = 50
#: Levels must differ by more than this share of the largest, to be told apart in single precision.
RESOLUTION = 1e-5
#: Numbers that differ by no more than this share of the largest level are one level.
SAME = 0.1 * RESOLUTION


class CutpointTerms(NamedTuple):
    """Losses of ratings and their derivatives by the cutpoints beside them.

    Attributes:
        loss: Minus log likelihoods.
        lower: First derivatives by the cutpoint below.
        upper: Minus first derivatives by the cutpoint above.
        lower_curve: Second derivatives by the cutpoint below.
        upper_curve: Second derivatives by the cutpoint above; the mixed ones are -lower upper.
    """

    loss: Array
    lower: Array
    upper: Array
    lower_curve: Array
    upper_curve: Array


@dataclass(frozen=True)
class Ordinal(Likelihood):
    r"""Ratings at K ordered levels, :math:`P(r \le \ell_k) = F(c_k - \eta)` (cumulative link).

    A rating is the level whose interval between cutpoints the score plus noise of distribution F
    falls in, so nothing is said about how far apart the levels are. Learned cutpoints have the
    prior of K - 1 independent Normal(0, `cutpoint_scale`) numbers put in order, whose density is
    :math:`(K - 1)! \prod_k N(c_k; 0, s^2)` on :math:`c_1 < \dots < c_{K-1}`.

    The probability of an interval (a, b) of the noise is :math:`\propto F(b) F(-a)` for the logit:
    two yes/no answers, each with the bound and the Polya-Gamma variable of `Bernoulli`. For the
    probit the bound is that of the EM algorithm with the latent Normal, with curvature one.

    Args:
        levels: The levels as the ratings have them, increasing, or their number K for 1, ..., K.
            None for those that the response of a mixed model has; other models need them.
        cutpoints: "learned", or K - 1 increasing numbers.
        cutpoint_scale: The prior's scale, in units of the score (whose noise has sd 1.8 for the
            logit and 1 for the probit); in a mixed model where all columns are at their means.
        link: "logit" (F is the sigmoid) or "probit" (the Normal distribution function).

    Raises:
        TypeError: If levels or cutpoints are no numbers.
        ValueError: If there are fewer than two levels, levels or cutpoints don't increase, there
            isn't one cutpoint fewer than levels, the scale is not positive, or the link is another.

    Example:
        >>> Ordinal(5).levels
        (1.0, 2.0, 3.0, 4.0, 5.0)
        >>> stars = Ordinal(levels=(1, 2, 3), cutpoints=(-1.0, 1.0))
        >>> float(stars.mean(0.0, {"cutpoints": stars.cutpoints}))
        2.0

    References:
        McCullagh (1980), Regression models for ordinal data; Albert and Chib (1993), section 4.
    """

    # Whatever is given, a tuple of floats or None after __post_init__.
    levels: Any = None
    cutpoints: Literal["learned"] | Sequence[float] = "learned"
    cutpoint_scale: float = 5.0
    link: LinkName = field(default="logit", kw_only=True)

    def __post_init__(self) -> None:
        """Check at the door; levels and cutpoints are kept as tuples."""
        check_link(self.link, LINKS)
        if self.levels is not None:
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
        if self.levels is None:
            raise ValueError("Cutpoints that are numbers need the levels that they lie between.")
        if len(given) != self.num_levels - 1:
            raise ValueError(
                f"There are {len(given)} cutpoints for {self.num_levels} levels; give "
                f"{self.num_levels - 1}, one between each level and the next, or 'learned'."
            )
        object.__setattr__(self, "cutpoints", given)

    @property
    def _link(self) -> Link:
        return LINKS[self.link]

    @classmethod
    def of_ratings(cls, rating: np.ndarray, noise_scale: float) -> Self:
        """The levels are all that the ratings have."""
        levels = np.unique(rating)
        if len(levels) > MOST_LEVELS:
            raise ValueError(
                f"The file has {len(levels):,} different ratings, which is too many for levels "
                "with a cutpoint each. Use --likelihood gaussian, or round the ratings."
            )
        return cls(levels)

    @property
    def labels(self) -> dict[str, dict[str, list[str]]]:
        """The levels that each cutpoint lies between, as "1|2"."""
        between = [f"{low:g}|{high:g}" for low, high in pairwise(self.levels)]
        return {"cutpoints": {"cutpoint": between}}

    @property
    def learned(self) -> tuple[str, ...]:
        """Parameters of its own that are found together with the rows."""
        return ("cutpoints",) if self.cutpoints == "learned" else ()

    def require_levels(self) -> None:
        """Refuse a likelihood whose levels are left to the data.

        Raises:
            ValueError: If it has none.
        """
        if self.levels is None:
            raise ValueError(
                "Ordinal() leaves the levels to the response of a mixed model; here give them, as "
                "in Ordinal(5) or Ordinal(levels=sorted(set(ratings.rating)))."
            )

    def scale_sites(self) -> dict[str, Any]:
        """The likelihood's own parameters, by site name."""
        return self.default_priors(1.0) | self.stated

    def canonical(self) -> Self:
        """The likelihood without its parameters: compiled programs are keyed by it."""
        return type(self)(self.levels, link=self.link)

    def coded(self, num_levels: int) -> Self:
        """The likelihood of the codes 0, 1, ... of the levels."""
        return replace(self, levels=tuple(range(num_levels)))

    @property
    def stated(self) -> dict[str, Any]:
        """The cutpoints, if they are numbers."""
        return {} if self.learned else {"cutpoints": np.asarray(self.cutpoints)}

    def default_priors(self, width: float) -> dict[str, Distribution]:
        """Cutpoints in order."""
        return {"cutpoints": OrderedNormal(self.cutpoint_scale, self.num_levels - 1)}

    def moved_priors(self, center: float, spread: float) -> dict[str, Distribution]:
        """Cutpoints in order, seen from another zero; all together say as much of it as one."""
        count = self.num_levels - 1
        scale = float(np.hypot(self.cutpoint_scale, spread * np.sqrt(count)))
        return {"cutpoints": OrderedNormal(scale, count, loc=center)}

    def prior_precisions(self) -> dict[str, float]:
        """That of learned cutpoints."""
        return {"cutpoints": self.cutpoint_scale**-2.0} if self.learned else {}

    def read_column(self, column: Column, name: str) -> ResponseValues:
        """Levels of the likelihood, or whole numbers or a categorical column with an order."""
        if self.levels is None:
            return ordered_values(column, name)
        values = column.numbers()
        with naming_column(name):
            self.check_ratings(values, "responses")
            self.check_training(values, None)
        return ResponseValues(self.codes(values).astype(np.int32), self.levels)

    def read_examples(
        self, data: Examples, *, complete: bool = True
    ) -> Float[np.ndarray, "n responses"]:
        """Levels of one response, whose classes have an order."""
        values = super().read_examples(data, complete=complete)
        if data.classes_sorted and len(data.classes) > 2:
            raise ValueError(
                f"The response {data.responses[0]!r} has classes without an order "
                f"({listed(data.classes)}), which an ordinal likelihood can't take. Give an "
                "ordered categorical, their order as classes=[...], or Categorical for a "
                "likelihood."
            )
        if len(data.responses) > 1:
            raise ValueError(
                f"An ordinal likelihood takes one response, but there are {len(data.responses)}."
            )
        return values

    def check_ratings(self, rating: np.ndarray, noun: str = "ratings") -> None:
        """Refuse what is none of the levels."""
        levels = np.asarray(self.levels)
        values = np.asarray(rating, np.float64)
        nearest = levels[self.codes(values)]
        bad = ~(np.abs(values - nearest) <= SAME * np.abs(levels).max())
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"Row {row} has {noun[:-1]} {values[row]:g}, which is none of the levels "
                f"{_words(self.levels)} ({such_rows(bad)}). Declare all levels, as in "
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

    def counts(self, rating: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """Number of ratings of each level, weighted."""
        return np.bincount(self.codes(rating), weight, self.num_levels)

    def start(
        self, rating: np.ndarray, weight: np.ndarray | None, score: float
    ) -> dict[str, np.ndarray]:
        """Cutpoints under which each level has its share of the ratings at one and the same score.

        Args:
            rating: Ratings, every level among them.
            weight: Their weights.
            score: That score.

        Returns:
            Increasing cutpoints, if they are learned.
        """
        if not self.learned:
            return {}
        share = np.cumsum(self.counts(rating, weight))
        return {"cutpoints": score + self._link.quantile(share[:-1] / share[-1])}

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
            mass = np.maximum(self._link.host_cdf(b) - self._link.host_cdf(a), 1e-300)
            return -float(counts @ np.log(mass))

        # Further out, not a quarter of a rating would be expected at any other level.
        reach = float(self._link.quantile(np.asarray(1 - 0.25 / (1 + counts.sum()))))
        found = minimize_scalar(
            loss, bounds=(inner[0] - reach, inner[-1] + reach), method="bounded",
            options={"xatol": 1e-9},
        )  # fmt: skip
        return float(found.x)

    def distribution(self, scores: Scores, scales: Mapping[str, Array]) -> Distribution:
        """Levels of latent variables about the scores."""
        return Ordered(scores, scales["cutpoints"], self.levels, self.link)

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood."""
        scores, rating = jnp.asarray(scores), jnp.asarray(rating)
        return -log_level(scores, rating, scales["cutpoints"], self.levels, self.link)

    def bound(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> tuple:
        """Curvature and minus slope at `scores` of a quadratic that is never below the loss."""
        a, b = self._around(scores, rating, scales)
        slope = interval_slope(a, b, self.link)
        if self.link == "probit":
            return jnp.ones_like(slope), slope
        return self._link.curvature(a) + self._link.curvature(b), slope

    def augment(
        self, key: Array, scores: Scores, rating: Scores, scales: Mapping[str, Array]
    ) -> tuple:
        """Curvature and minus slope of the loss given a draw of its latent variables."""
        if self.link == "probit":
            lower, upper = edges(rating, scales["cutpoints"], self.levels)
            latent = draw_between(key, scores, lower, upper)
            return jnp.ones_like(scores), latent - scores
        a, b = self._around(scores, rating, scales)
        curvature, slope = jnp.zeros_like(a), jnp.zeros_like(a)
        for part, end, answer in zip(jax.random.split(key), (a, b), (0.5, -0.5), strict=True):
            # An end that is not there gives no answer.
            inner = jnp.abs(end) < 0.5 * FAR
            end = jnp.where(inner, end, 0.0)
            weight = jnp.where(inner, draw_polya_gamma(part, end), 0.0)
            curvature = curvature + weight
            slope = slope + jnp.where(inner, answer, 0.0) + weight * end
        return curvature, slope

    def _around(
        self, scores: Scores, rating: Scores, scales: Mapping[str, Array]
    ) -> tuple[Array, Array]:
        """The ends of the rating's interval, seen from the score."""
        scores = jnp.asarray(scores)
        lower, upper = edges(jnp.asarray(rating), scales["cutpoints"], self.levels)
        return lower - scores, upper - scores

    def cutpoint_terms(
        self, scores: Scores, rating: Scores, scales: Mapping[str, Array]
    ) -> "CutpointTerms":
        r"""Derivatives of the loss by the cutpoints below and above each rating.

        With :math:`l = f(a) / P` and :math:`u = f(b) / P` at the ends a, b of a rating's interval
        of probability P, and :math:`d = -f' / f`, the first derivatives are l and -u, the second
        ones :math:`l (l - d(a))` and :math:`u (u + d(b))`, and the mixed one :math:`-u l`.
        """
        a, b = self._around(scores, rating, scales)
        log_mass = log_interval(a, b, self.link)
        lower, upper = end_densities(a, b, log_mass, self.link)
        return CutpointTerms(
            -log_mass, lower, upper, lower * (lower - self._link.decay(a)),
            upper * (upper + self._link.decay(b)),
        )  # fmt: skip

    def information(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Fisher information of a score: the mean square of the loss's slope."""
        scores = jnp.asarray(scores)
        ends = self._ends(scores, scales)
        return sum(_at_each(_information, self.link, ends, scores, quick=self.link == "logit"))

    def _ends(self, scores: Array, scales: Mapping[str, Array]) -> tuple[Array, Array]:
        """Cutpoints below and above each level, levels along the first axis."""
        cutpoints = jnp.asarray(scales["cutpoints"])
        inner = jnp.moveaxis(cutpoints.astype(jnp.result_type(scores, cutpoints)), -1, 0)
        far = jnp.full_like(inner[:1], FAR)
        return jnp.concatenate([-far, inner]), jnp.concatenate([inner, far])

    def latent_variance(self, log_rate: np.ndarray, scales: Mapping[str, Any]) -> np.ndarray:
        """That of the link's distribution."""
        return np.full_like(log_rate, self._link.variance)

    def mean(self, scores: Scores, scales: Mapping[str, Array]) -> Scores:
        """Expected rating given the score."""
        return self._mean(self._passed(scores, scales, None))

    def _mean(self, passed: list[Array]) -> Array:
        total = jnp.full_like(passed[0], self.levels[0])
        for step, probability in zip(self._steps, passed, strict=True):
            total = total + step * probability
        return total

    @property
    def _steps(self) -> list[float]:
        return np.diff(self.levels).tolist()

    def _passed(
        self, scores: Scores, scales: Mapping[str, Array], sd: Scores, sign: float = 1.0
    ) -> list[Array]:
        """Probabilities that the latent variable lies above each cutpoint; below, if sign is -1."""
        scores = jnp.asarray(scores)
        inner = self._ends(scores, scales)[0][1:]
        return _at_each(_passed, self.link, inner, scores, sd, sign, quick=sd is None)

    def integrate(self, mean: Scores, sd: Scores, scales: Mapping[str, Array]) -> tuple:
        """Mean and sd of a rating whose score is Normal(mean, sd).

        Exact for the probit; for the logit probabilities are within 3e-9.
        """
        # The rating is its first level plus a step for each cutpoint passed; those indicators
        # have covariances P(above the higher) P(below the lower), none of them negative.
        above = self._passed(mean, scales, sd)
        below = self._passed(mean, scales, sd, -1.0)
        variance = jnp.zeros_like(above[0])
        for i, step in enumerate(self._steps):
            for j in range(i, self.num_levels - 1):
                twice = 1.0 if i == j else 2.0
                variance = variance + twice * step * self._steps[j] * below[i] * above[j]
        return self._mean(above), jnp.sqrt(variance)

    def tail(
        self, scores: Scores, threshold: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Scores:
        """P(rating >= threshold) given the score, or when it is Normal with an sd."""
        passed = self._passed(scores, scales, sd)
        found = jnp.ones_like(passed[0])
        for level, above in zip(self.levels, [*passed, jnp.zeros_like(found)], strict=True):
            found = jnp.where(jnp.asarray(threshold) > level, above, found)
        return found

    def level_probabilities(
        self, scores: Scores, scales: Mapping[str, Array], sd: Scores = None
    ) -> Float[Array, "... K"]:
        """Probabilities of the levels, on a new last axis, when the score is Normal(scores, sd)."""
        scores = jnp.asarray(scores)
        ends, quick = self._ends(scores, scales), sd is None and self.link == "logit"
        return jnp.stack(_at_each(_between, self.link, ends, scores, sd, quick=quick), axis=-1)

    def errors(
        self, rating: np.ndarray, predicted: Predicted, weight: np.ndarray | None = None
    ) -> dict[str, float | None]:
        """Besides those of all numbers the log of the probability of the rating's level."""
        levels = np.asarray(self.levels)
        at = levels[self.codes(rating)]
        score = metrics.level_log_score(at, predicted.probabilities, levels, weight=weight)
        return super().errors(rating, predicted, weight) | {"log score": score}

    def constant(self, rating: np.ndarray, weight: np.ndarray | None, size: int) -> Predicted:
        """The shares of the levels."""
        counts = self.counts(rating, weight)
        shares = np.tile(counts / counts.sum(), (size, 1))
        return Predicted(shares @ np.asarray(self.levels), None, shares)

    def by_group(
        self, rating: np.ndarray, weight: np.ndarray | None, codes: np.ndarray, count: int
    ) -> Predicted:
        """The shares of the levels in each group, and in one more rating of each."""
        num_levels = len(self.levels)
        flat = np.zeros((count + 1) * num_levels)
        for rows, own in weighted_pieces(weight, len(rating)):
            cell = codes[rows].astype(np.int64) * num_levels + self.codes(rating[rows])
            flat += np.bincount(cell, own, len(flat))
        counts = flat.reshape(count + 1, num_levels)
        counts += counts.sum(axis=0) / len(rating)
        shares = counts / counts.sum(axis=1, keepdims=True)
        return Predicted(shares @ np.asarray(self.levels), None, shares)


def _information(link: LinkName, ends: tuple[Array, Array], scores: Array) -> Array:
    """A level's part of the Fisher information."""
    a, b = (end - scores for end in ends)
    return interval_probability(a, b, link) * jnp.square(interval_slope(a, b, link))


def _passed(link: LinkName, own: Array, scores: Array, sd: Any, sign: Any) -> Array:
    """Probability that the latent variable lies above a cutpoint; below, if the sign is -1."""
    apart = sign * (scores - own)
    return LINKS[link].cdf(apart) if sd is None else LINKS[link].expected_cdf(apart, sd)


def _between(link: LinkName, ends: tuple[Array, Array], scores: Array, sd: Any) -> Array:
    """Probability of a level."""
    return interval_probability(ends[0] - scores, ends[1] - scores, link, sd)


def _at_each(
    one: Callable[..., Array], link: LinkName, ends: Any, *given: Any, quick: bool
) -> list[Array]:
    """A function of the link and each level or cutpoint, which lie along the first axis.

    One that is not quick is compiled, and once: written out for all levels, a program of Normal
    tails takes seconds to compile.
    """
    if quick:
        parts = [list(end) for end in jax.tree.leaves(ends)]
        each = zip(*parts, strict=True)
        form = jax.tree.structure(ends)
        return [one(link, jax.tree.unflatten(form, own), *given) for own in each]
    return list(_mapped(one, link, ends, *given))


@partial(jax.jit, static_argnums=(0, 1))
def _mapped(one: Callable[..., Array], link: LinkName, ends: Any, *given: Any) -> Array:
    found: Array = lax.map(lambda own: one(link, own, *given), ends)
    return found


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
