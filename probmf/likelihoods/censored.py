"""Responses of which some are known to lie above or below a number, or between two, only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from probmf.data.column import TEXT, Column, such_rows
from probmf.likelihoods.base import Likelihood, Scores
from probmf.likelihoods.gaussian import weighted
from probmf.likelihoods.quadrature import QuadratureLikelihood

#: What a row's number, or word, says of its response.
CENSORING = {"left": -1.0, "none": 0.0, "right": 1.0, "interval": 2.0}
#: What the data have of each response: its kind, and the upper end of intervals.
KIND, UPPER = "censored", "upper"
#: An interval that has less than this share of the smaller tail about it is integrated over, as the
#: difference of two tails would lose digits; its density hardly changes between so many nodes.
SHARE = 0.1
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(8)


def _of_law(name: str) -> Any:
    """A method that is that of the likelihood of the responses."""

    def asked(self: "Censored", *args: Any, **options: Any) -> Any:
        return getattr(self.law, name)(*args, **options)

    return asked


@dataclass(frozen=True)
class Censored(QuadratureLikelihood):
    r"""Another likelihood, of whose responses some are bounds.

    .. math:: p(r) = \begin{cases} f(r) & \text{observed} \\ P(R \ge r) & \text{right-censored} \\
       P(R \le r) & \text{left-censored} \\
       P(r \le R \le r') & \text{interval-censored} \end{cases}

    Means, draws and tails are those of responses that are not censored. In a formula it is
    "y | cens(c) ~ x", with the column c of what each row's response is, or "y | cens(c, upper) ~ x"
    with the upper ends r' of intervals.

    Args:
        law: The likelihood of the responses, one that has `log_tails`.
        interval: Whether some responses are intervals, so that the data have their upper ends.

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
    interval: bool = False

    def __post_init__(self) -> None:
        """Check the likelihood at the door."""
        if not (isinstance(self.law, Likelihood) and self.law.has("log_tails")):
            raise ValueError(
                f"The formula has cens(...), and likelihood={self.law!r} has no probabilities of "
                "bounds; use 'gaussian', 'lognormal', 'gamma' or 'poisson'."
            )

    @property
    def known(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the columns: the kind of censoring and, with intervals, the upper end."""
        return (KIND, UPPER) if self.interval else (KIND,)

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

    @property
    def stated(self) -> dict[str, Any]:
        """Parameters that were given."""
        return dict(self.law.stated)

    # Asked of responses that are not censored. A bound has to be a possible response, too, and the
    # information is the most that it can be.
    check_ratings = _of_law("check_ratings")
    read_column = _of_law("read_column")
    place = _of_law("place")
    middle = _of_law("middle")
    base_score = _of_law("base_score")
    default_priors = _of_law("default_priors")
    scale_place = _of_law("scale_place")
    from_scale_predictor = _of_law("from_scale_predictor")
    mean = _of_law("mean")
    integrate = _of_law("integrate")
    tail = _of_law("tail")
    information = _of_law("information")
    latent_variance = _of_law("latent_variance")
    errors = _of_law("errors")

    def scale_sites(self) -> dict[str, Any]:
        """Those of the likelihood, and what each response is: observed, elsewhere than in data."""
        return {**self.law.scale_sites(), **dict.fromkeys(self.known, 0.0)}

    def canonical(self) -> Self:
        """The likelihood without its parameters: compiled programs are keyed by it."""
        return type(self)(self.law.canonical(), self.interval)

    def read_known(self, site: str, column: Column) -> Float[np.ndarray, " n"]:
        """Kind of each response, or the upper ends, which rows that are no interval need not have.

        A kind is -1, 0, 1, 2, or "left", "none", "right", "interval", or True for "right".
        """
        if site == UPPER:
            return column.numbers(gaps=True)
        column.refuse_missing()
        words = column.kinds == {TEXT}
        given = column.to_list() if words else column.numbers()
        code: Any = CENSORING if words else {number: number for number in CENSORING.values()}
        column.refuse(
            np.array([own not in code for own in given]),
            "; expected 'none', 'left' (at most the response), 'right' (at least) or 'interval'."
            if words
            else "; expected 0 for an observed response, 1 for one that is at least as large "
            "(right-censored), -1 for one that is at most as large (left-censored), 2 for an "
            "interval.",
        )
        values = np.array([code[own] for own in given])
        if not self.interval:
            column.refuse(
                values == CENSORING["interval"],
                ", an interval; name the column of its upper end, too: y | cens(c, upper).",
            )
        return values

    def settle_known(
        self, response: np.ndarray, known: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Censoring and upper ends, checked; upper ends of rows without an interval do not count.

        There has to be a response that is observed, or an interval.
        """
        kind = known[KIND]
        within = kind == CENSORING["interval"]
        if np.all((kind != 0) & ~within):
            raise ValueError(
                f"all {len(response):,} responses are bounds. In cens(c) the number 0 stands for "
                "an observed response."
            )
        if not self.interval:
            return dict(known)
        upper = known[UPPER]
        for bad, problem in (
            (np.isnan(upper), "no upper end"),
            (upper < response, "an upper end below the lower one"),
            (
                (upper == response) & (self.step == 0),
                "an upper end that is the lower one, and no probability: say that it was observed",
            ),
        ):
            if (within & bad).any():
                row = int(np.argmax(within & bad))
                ends = "" if np.isnan(upper[row]) else f", {response[row]:g} and {upper[row]:g}"
                raise ValueError(
                    f"the interval in row {row} has {problem}{ends} ({such_rows(within & bad)})."
                )
        self.law.check_ratings(np.where(within, upper, response), "upper ends of intervals")
        return {KIND: kind, UPPER: np.where(within, upper, response + np.abs(response) + 1.0)}

    def loss(self, scores: Scores, rating: Scores, scales: Mapping[str, Array]) -> Scores:
        """Minus log likelihood."""
        observed = -self.law.distribution(scores, scales).log_prob(jnp.asarray(rating))
        above, below = self.law.log_tails(scores, rating, scales)
        kind = jnp.asarray(scales[KIND])
        loss = jnp.where(kind == 0, observed, jnp.where(kind > 0, -above, -below))
        if not self.interval:
            return loss
        is_interval = kind == CENSORING["interval"]
        return jnp.where(is_interval, -self._log_between(scores, rating, scales), loss)

    def _log_between(self, scores: Scores, low: Scores, scales: Mapping[str, Array]) -> Array:
        """Log of the probability of the intervals, both ends included."""
        low, high = jnp.asarray(low), jnp.asarray(scales[UPPER], jnp.result_type(float))
        step = self.step
        # Of counts, those beyond an interval are one more and one less.
        before = jnp.maximum(low - step, 0.0) if step else low
        from_low, to_low = self.law.log_tails(scores, low, scales)
        from_high, to_high = self.law.log_tails(scores, high, scales)
        if step:
            to_low = jnp.where(low >= step, self.law.log_tails(scores, before, scales)[1], -jnp.inf)
            from_high = self.law.log_tails(scores, high + step, scales)[0]
        # The tail with the fewer responses has the digits.
        upper = from_low < to_high
        whole = jnp.where(upper, from_low, to_high)
        rest = jnp.where(upper, from_high, to_low) - whole
        if step:
            return whole + jnp.log(-jnp.expm1(rest))
        narrow = jax.lax.stop_gradient(rest) > np.log1p(-SHARE)
        apart = whole + jnp.log(-jnp.expm1(jnp.where(narrow, -1.0, rest)))
        return jnp.where(narrow, self._log_integral(scores, low, high, scales), apart)

    def _log_integral(
        self, scores: Scores, low: Array, high: Array, scales: Mapping[str, Array]
    ) -> Array:
        """Log of the integral of the density over short intervals, by Gauss and Legendre's rule.

        Of positive responses over their logarithms, in which a power of them is smooth.
        """
        positive = self.support is constraints.positive

        def weighed(node: Array, weight: Array) -> Array:
            share = 0.5 * (1.0 + node)
            place = low + share * (high - low)
            if positive:
                place = low * (high / low) ** share
                weight = weight * place
            return self.law.distribution(scores, scales).log_prob(place) + jnp.log(weight)

        kind = low.dtype
        each = jax.vmap(weighed)(jnp.asarray(NODES, kind), jnp.asarray(NODE_WEIGHTS, kind))
        width = jnp.log(high / low) if positive else high - low
        return logsumexp(each, axis=0) + jnp.log(0.5 * width)

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

    def sample(
        self, key: Array, scores: Array, scales: Mapping[str, Array], shape: tuple[int, ...]
    ) -> Array:
        """Responses that are not censored."""
        return self.law.distribution(jnp.broadcast_to(scores, shape), scales).sample(key)

    def reach(self, scores: Array, threshold: Array, scales: Mapping[str, Array]) -> Array:
        """P(response >= threshold) given the score."""
        return jnp.asarray(self.law.tail(scores, threshold, scales))
