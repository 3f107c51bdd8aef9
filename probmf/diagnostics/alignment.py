"""Rotate the factors of every draw alike, so that they can be looked at."""

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment

from probmf.results import RatingsFit
from probmf.results.records import RowMoments

Method = Literal["procrustes", "varimax"]

#: Rounds of aligning all draws to their mean.
ROUNDS = 3
#: Steps of varimax; a handful is enough as a rule.
MAX_STEPS = 100


def align(fit: RatingsFit, *, method: Method = "procrustes") -> RatingsFit:
    r"""The same fit with each draw's users and items rotated together.

    .. math:: U_s \to U_s Q_s, \quad V_s \to V_s Q_s, \quad Q_s^\top Q_s = I

    so that :math:`U_s V_s^\top` and hence all predictions stay what they are, to rounding. Under
    priors that are alike for all factors the posterior does not tell such draws apart.

    Args:
        fit: A fit with draws of both sides' factors; of a point fit the reference's rotation is
            all there is to choose.
        method: "procrustes" brings each draw as near as can be to the mean of all, and that mean
            to its principal axes, the largest factor first. "varimax" rotates each draw's items to
            the varimax criterion, on which few items have much of each factor, and then permutes
            the factors and their signs to match.

    Returns:
        A fit whose draws of one factor may be averaged and compared. Its `moments` are those of
        the biases alone: sweeps that were not kept can't be rotated afterwards.

    Raises:
        TypeError: If it is no `RatingsFit`.
        ValueError: If the model has no factors, draws of them are missing, or the method is
            unknown.

    Example:
        >>> from probmf import MatrixFactorization, Ratings, fit_als
        >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
        >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
        >>> bool(abs(align(fit).predict([("b", 2)]).mean - fit.predict([("b", 2)]).mean) < 1e-5)
        True

    Cost: O(draws (users + items) k^2), a few times.

    References:
        Schoenemann (1966) for Procrustes; Kaiser (1958) for varimax; Papastamoulis and Ntzoufras
        (2022), On the identifiability of Bayesian factor analytic models, for the permutation.
    """
    users, items = _factors(fit)
    if method not in get_args(Method):
        raise ValueError(f"method is {method!r}; expected 'procrustes' or 'varimax'.")
    turns = _procrustes(users, items)
    if method == "varimax":
        turns = _varimax_turns(items, turns)
    samples = dict(fit.samples)
    for name, values in (("user_factors", users), ("item_factors", items)):
        turned = np.empty_like(values)
        for draw, turn in enumerate(turns):
            turned[draw] = values[draw].astype(np.float64) @ turn
        samples[name] = turned.reshape(fit.samples[name].shape)
    q = turns.reshape(fit.num_chains, fit.num_draws, *turns.shape[1:])
    for side in ("user", "item"):
        # A learned mean and covariance of the factors turn with them.
        if f"{side}_mean" in samples:
            samples[f"{side}_mean"] = np.einsum("csk,cskl->csl", samples[f"{side}_mean"], q)
        if f"{side}_precision" in samples:
            samples[f"{side}_precision"] = np.swapaxes(q, 2, 3) @ samples[f"{side}_precision"] @ q
    for side in fit.model.mean_sides:
        # So do prior means from features: the last layer gives the bias, then the factors.
        first = int(getattr(fit.model, f"{side}_bias"))
        last = getattr(fit.model, f"{side}_mean").num_layers - 1
        for name in (f"{side}_mean_weight_{last}", f"{side}_mean_bias_{last}"):
            if name in samples:
                turned = np.array(samples[name])
                own = "csk,cskl->csl" if turned.ndim == 3 else "cspk,cskl->cspl"
                turned[..., first:] = np.einsum(own, turned[..., first:], q)
                samples[name] = turned
    return replace(fit, samples=samples, moments=_unturned(fit.moments))


def _unturned(moments: RowMoments | None) -> RowMoments | None:
    """Moments of the biases; those of the factors are of sweeps that were not rotated."""
    if moments is None:
        return None
    mean, sd = (
        {site: value for site, value in part.items() if site.endswith("_bias")}
        for part in (moments.mean, moments.sd)
    )
    return RowMoments(mean, sd, moments.num_sweeps) if mean else None


def varimax(loadings: Float[np.ndarray, "rows k"]) -> Float[np.ndarray, "k k"]:
    r"""The rotation that maximizes the varimax criterion, from the loadings as they are.

    .. math:: \sum_j \left[ \tfrac1n \sum_i b_{ij}^4 - (\tfrac1n \sum_i b_{ij}^2)^2 \right],
       \qquad B = L Q

    Orthogonal; a local maximum, by steps of singular value decompositions.

    Example:
        >>> simple = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        >>> turned = simple @ np.array([[0.8, -0.6], [0.6, 0.8]])
        >>> np.round(np.abs(turned @ varimax(turned)), 4)[2:]
        array([[0., 1.],
               [0., 3.]])
    """
    size = loadings.shape[1]
    turn = np.eye(size)
    before = 0.0
    for _ in range(MAX_STEPS):
        turned = loadings @ turn
        slope = turned**3 - turned * np.mean(np.square(turned), axis=0)
        left, value, right = np.linalg.svd(loadings.T @ slope)
        turn = left @ right
        if value.sum() <= before * (1 + 1e-13):
            break
        before = value.sum()
    return turn


def _factors(fit: RatingsFit) -> tuple[np.ndarray, np.ndarray]:
    """Draws of users' and items' factors, chains joined."""
    if not isinstance(fit, RatingsFit):
        raise TypeError(f"fit is a {type(fit).__name__}, expected a RatingsFit.")
    if not fit.model.num_factors:
        raise ValueError("align rotates factors, and this model has num_factors=0.")
    for name in ("user_scale", "item_scale"):
        if fit.samples.get(name, np.zeros(0)).ndim == 4:
            raise ValueError(
                f"{name} has draws of one scale per factor, which a rotation would mix up: this "
                "prior tells the factors apart but for their order and signs."
            )
    found = []
    for name in ("user_factors", "item_factors"):
        if name not in fit.samples:
            raise ValueError(
                f"The fit has no draws of {name}: the sampler integrated them out and did not draw "
                "them afterwards. Sample again and have them recovered."
            )
        values = fit.samples[name]
        found.append(values.reshape(-1, *values.shape[2:]))
    return found[0], found[1]


def _procrustes(users: np.ndarray, items: np.ndarray) -> Float[np.ndarray, "draws k k"]:
    """Rotations of all draws to their mean, and of the mean to its principal axes."""
    stacked = [np.concatenate([u, v]).astype(np.float64) for u, v in zip(users, items, strict=True)]
    target = stacked[-1]
    turns = np.broadcast_to(np.eye(users.shape[2]), (len(users), *2 * users.shape[2:])).copy()
    for _ in range(ROUNDS if len(stacked) > 1 else 0):
        for draw, rows in enumerate(stacked):
            turns[draw] = orthogonal_procrustes(rows, target)[0]
        target = np.mean([rows @ turn for rows, turn in zip(stacked, turns, strict=True)], axis=0)
    axes = np.linalg.svd(target, full_matrices=False)[2].T
    # Each axis points to where its longer tail is, so that runs agree on the signs.
    skew = np.sum((target @ axes) ** 3, axis=0)
    return turns @ (axes * np.where(skew < 0, -1.0, 1.0))


def _varimax_turns(
    items: np.ndarray, starts: Float[np.ndarray, "draws k k"]
) -> Float[np.ndarray, "draws k k"]:
    """Varimax of each draw's items, then permutations and signs that match their mean."""
    turned, turns = [], np.empty_like(starts)
    for draw, start in enumerate(starts):
        rows = items[draw].astype(np.float64)
        turns[draw] = start @ varimax(rows @ start)
        turned.append(rows @ turns[draw])
    pivot = turned[-1]
    swaps = np.empty_like(turns)
    for _ in range(ROUNDS):
        for draw, rows in enumerate(turned):
            product = rows.T @ pivot
            own, place = linear_sum_assignment(-np.abs(product))
            swaps[draw] = 0.0
            swaps[draw, own, place] = np.where(product[own, place] < 0, -1.0, 1.0)
        pivot = np.mean([rows @ swap for rows, swap in zip(turned, swaps, strict=True)], axis=0)
    order = np.argsort(-np.square(pivot).sum(axis=0), kind="stable")
    signs = np.where(np.sum(pivot**3, axis=0) < 0, -1.0, 1.0)
    return turns @ (swaps * signs)[:, :, order]
