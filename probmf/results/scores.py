"""Scores of a fit of ratings, alike for a point with its conditionals and for many draws.

Predictions, rankings and questions to ask stand on this and don't know which of both a fit is.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from probmf.data import Ratings
from probmf.models.factorization import MatrixFactorization
from probmf.results.asked import check_at_least
from probmf.results.draws import Draws
from probmf.results.mixtures import mixture_quantiles, tails
from probmf.results.prediction_intervals import (
    Mixtures,
    Summary,
    evaluate,
    joined,
    summarize,
    tail_probability,
)
from probmf.results.ranking import Exclusions, Order
from probmf.results.row_conditionals import Conditionals
from probmf.rows.placement import LineDevices
from probmf.rows.store import Side

Codes = Int[np.ndarray, " n"]
#: The covariances of all scores with the one at a place.
type Column = Callable[[int], Float[np.ndarray, " n"]]


@dataclass(frozen=True, eq=False)
class Scores(ABC):
    """Scores of pairs of codes; code -1 is a row that the fit does not know, with the prior.

    Of a point any number of draws can be made, else there are those of the fit.
    """

    rows: Conditionals | Draws
    is_point: ClassVar[bool]

    @property
    def model(self) -> MatrixFactorization:
        """The factorization."""
        return self.rows.model

    @property
    def data(self) -> Ratings:
        """The training ratings."""
        return self.rows.data

    def known(self, side: Side, codes: Codes) -> Bool[np.ndarray, " n"]:
        """True where rows have a rating in the fit (one of weight zero is none)."""
        return self.rows.known(side, codes)

    @abstractmethod
    def mixtures(self, user: Codes, item: Codes, *, uncertain: bool = True) -> Mixtures:
        """Scores of pairs, Normal at each draw, by blocks; rated rows are `uncertain` or not."""

    @abstractmethod
    def draw(
        self, user: int, items: Codes, rng: np.random.Generator, num_draws: int
    ) -> Iterator[Float[np.ndarray, "draws n"]]:
        """Joint draws of one user's scores by blocks: all there are, of a point `num_draws`."""

    @abstractmethod
    def covariance(
        self, user: int, items: Codes
    ) -> tuple[Float[np.ndarray, " n"], Column, Mapping[str, np.ndarray]]:
        """Variances of one user's scores, their covariances, and the likelihood's parameters."""

    @abstractmethod
    def weighted(
        self, user: int, items: Codes
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Mapping[str, np.ndarray]]]:
        """One user's scores at draws or nodes, their weights, and the likelihood's parameters."""

    @abstractmethod
    def best(
        self, users: Codes, items: Codes, k: int, exclusions: Exclusions | None, order: Order,
        devices: LineDevices,
    ) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"] | None]:  # fmt: skip
        """The best items of each user.

        The items of `exclusions` are places in `items`. Gives places in `items`, -1 where none is
        left, and the expected ratings where they come with the ranking. Memory is bounded. Devices
        are refused where the order is found without any.
        """

    @abstractmethod
    def similar(
        self, side: Side, codes: Codes, k: int, exclusions: Exclusions
    ) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"]]:
        """Rows of a side whose factors have the largest cosines with those of some, and these."""

    def summary(self, user: Codes, item: Codes, interval: float | None) -> Summary:
        """Ratings of pairs; for yes/no data the interval is that of the probability.

        Without an interval only rows that have no ratings are uncertain in a point fit.
        """
        if not len(user):
            return Summary(*[np.empty(0)] * (1 if interval is None else 4))
        likelihood, parts = self.model.likelihood, []
        for places, scores in self.mixtures(user, item, uncertain=interval is not None):
            found = summarize(likelihood, scores, interval, "response")
            if interval is not None and likelihood.binary:
                # Quantiles of the score give those of the probability, whichever its mean is.
                sd = np.zeros((1, 1)) if scores.sd is None else scores.sd
                ends = mixture_quantiles(scores.mean, sd, tails(interval))
                lower, upper = (evaluate(likelihood, "mean", end, scales={}) for end in ends)
                found = found._replace(lower=lower, upper=upper)
            parts.append((places, found))
        return joined(parts, len(user))

    def check_at_least(self, at_least: object) -> float:
        """A threshold for ratings, as a float; warn if the ratings end below it."""
        found = check_at_least(at_least, self.model.likelihood.levels)
        if self.model.likelihood.quadratic and found > (most := self.data.counted.rating.max()):
            warnings.warn(
                f"at_least is {found:g}, above all training ratings, of which the highest is "
                f"{most:g}: the probabilities will be small.",
                UserWarning,
                stacklevel=4,
            )
        return found

    def tail(
        self, user: Codes, item: Codes, at_least: float | Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """Probabilities that the ratings of pairs are at least a threshold, or one for each."""
        found, at = np.empty(len(user)), np.asarray(at_least)
        for places, scores in self.mixtures(user, item):
            own = at if at.ndim == 0 else at[places]
            found[places] = tail_probability(self.model.likelihood, scores, own)
        return found
