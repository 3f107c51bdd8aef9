"""The one call for people who want no choices: a posterior whose scales are learned."""

from os import PathLike
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from numpyro.distributions import HalfNormal

from probmf.data import Ratings
from probmf.inference.gibbs.gibbs import sample_gibbs
from probmf.likelihoods import Bernoulli, Gaussian
from probmf.models import MatrixFactorization, NormalWishart
from probmf.results import RatingsFit
from probmf.rows.placement import Devices
from probmf.run.checks import check_counts

#: Sweeps of each chain, a quarter of them to warm up: as many as go through so many ratings, but
#: neither fewer nor more than these.
RATINGS, LEAST_SWEEPS, MOST_SWEEPS = 60_000_000, 300, 3_200
#: Draws of the rows that each chain keeps, if they take no more numbers than this in all.
NUM_KEPT, MOST_NUMBERS = 50, 500_000_000


def fit(
    ratings: Ratings,
    *,
    num_factors: int = 16,
    num_sweeps: int | None = None,
    key: ArrayLike = 0,
    devices: Devices | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool | None = None,
) -> RatingsFit:
    r"""Fit a factorization whose scales, means and covariances are learned, by Gibbs sampling.

    .. math:: r_{mn} \sim N(\mu + u_m \cdot v_n,\ \sigma^2), \quad
       u_m \sim N(m_u, \Lambda_u^{-1}), \quad v_n \sim N(m_v, \Lambda_v^{-1})

    with Normal-Wishart priors of the factors' means and precisions and a half-normal prior, as wide
    as the ratings vary, of the noise. The means of the factors do what biases would. Ratings of 0
    and 1 are yes and no. Nothing has to be chosen: factors that the ratings don't call for shrink
    by themselves.

    Args:
        ratings: The ratings: numbers, or 0 and 1.
        num_factors: The most directions of taste; the time grows with it, and errors hardly do.
        num_sweeps: Sweeps of each of the two chains, a quarter of them to warm up; None takes as
            many as go through 60 million ratings, at least 300 and at most 3,200. Where a warning
            says that the chains disagree, take a few times as many.
        key: JAX key or int.
        devices: Devices to deal the rows out to; see `sample_gibbs`.
        checkpoint: Directory to keep the run in; see `sample_gibbs`.
        progress: Show a progress bar; None shows it on a terminal or in a notebook.

    Returns:
        The fit: two chains with 50 draws of the rows each, or fewer where they would not fit in
        memory. `predict`, `recommend` and all else average over them.

    Raises:
        TypeError: If `ratings` is not Ratings.
        ValueError: If all ratings are the same, as of events, which need another model; if there
            are not so many devices, or the checkpoint holds another run.

    Warns:
        DiagnosticWarning: If the draws should not be relied upon; see `diagnostics.summary`.

    Example:
        >>> table = {"user": [1, 1, 2, 3], "item": [1, 2, 1, 2], "rating": [5.0, 3.0, 4.0, 2.0]}
        >>> found = fit(Ratings.from_frame(table), num_factors=1, num_sweeps=400)
        >>> found.recommend(2, k=1).item.tolist()
        [[2]]

    References:
        Salakhutdinov and Mnih (2008), Bayesian probabilistic matrix factorization using Markov
        chain Monte Carlo.

    Cost: 300 sweeps of two chains (up to 3,200 of few ratings), O(n d^2 + rows d^3) each.
    """
    model = default_model(ratings, num_factors)
    if num_sweeps is None:
        num_sweeps = min(max(RATINGS // len(ratings), LEAST_SWEEPS), MOST_SWEEPS)
    check_counts(num_sweeps=num_sweeps)
    rows = (ratings.num_users + ratings.num_items) * (1 + num_factors)
    kept = max(1, min(NUM_KEPT, MOST_NUMBERS // (2 * rows)))
    drawn = num_sweeps - num_sweeps // 4
    thin = max(1, drawn // kept)
    return sample_gibbs(
        model, ratings, key=key, num_warmup=num_sweeps // 4, num_samples=thin * min(kept, drawn),
        num_chains=2, thin=thin, devices=devices, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip


def default_model(ratings: Ratings, num_factors: int) -> MatrixFactorization:
    """The factorization that `fit` fits."""
    if not isinstance(ratings, Ratings):
        raise TypeError(
            f"ratings is a {type(ratings).__name__}, expected Ratings. Make them with "
            "Ratings.from_frame(frame, user=..., item=..., rating=...)."
        )
    rating = ratings.counted.rating
    width = float(np.std(rating))
    if not width:
        raise ValueError(
            f"All ratings are {rating[0]:g}, so that they tell nobody's taste. Pairs that "
            "occurred, such as purchases, need the pairs that did not as weak zeros: "
            "fit_als(MatrixFactorization(64, Gaussian(1.0), intercept=None, user_bias=False, "
            "item_bias=False, user_scale=0.35, item_scale=0.35, unobserved_weight=0.1), ratings, "
            "key=0)."
        )
    binary = bool(np.isin(rating, (0.0, 1.0)).all())
    likelihood: Any = Bernoulli() if binary else Gaussian(HalfNormal(width))
    # A mean of the other side's factors makes a bias of each row, and a second one would not mix.
    return MatrixFactorization(
        num_factors, likelihood, user_bias=False, item_bias=False, user_scale=NormalWishart(),
        item_scale=NormalWishart(),
    )  # fmt: skip
