r"""Starting values of variational fits: a few sweeps of least squares, turned to principal axes.

A factor that starts too small shrinks away before it has found anything, and does not come back: a
mean of zero on both sides solves the updates. A factor that starts too large is shrunk later, when
its scale is learned. So the start has little regularization, and all factors that there might be.

Products of factors are the same under any rotation, independent entries are not: they are best
along the axes of :math:`U V^\top`, where each factor's scale can tell whether it is needed.
"""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from probmf.inference.gibbs.plan import Plan
from probmf.likelihoods import Likelihood
from probmf.models.factorization import MatrixFactorization
from probmf.rows.values import Rows

#: Sweeps of least squares.
SWEEPS = 15
#: A learned noise scale during these, as a share of where it starts in a sampler; and the standard
#: deviation of all factors' products together, where their scales are learned, as a share of it.
NOISE_SHARE, PRODUCT_SHARE = 0.6, 0.8
#: Root mean square of products of factors, as a share of the noise, below which they are nothing:
#: the error changes by less than a ten-thousandth.
NOTHING = 0.01


def by_factor(model: MatrixFactorization) -> MatrixFactorization:
    """The model with a scale of its own for each factor, where a side has one that is learned."""
    own: dict[str, Any] = {}
    for name in ("user_scale", "item_scale"):
        law = getattr(model, name)
        if isinstance(law, Distribution) and model.num_factors > 1 and not law.batch_shape:
            own[name] = law.expand((1, model.num_factors))
    return replace(model, **own) if own else model


def loosen(likelihood: Likelihood, plan: Plan, scales: dict[str, Array]) -> dict[str, Array]:
    """Starting scales under which the factors are hardly held back.

    Of a yes/no rating the noise is that of its quadratic bound.
    """
    scales = dict(scales)
    if "noise_scale" in plan.random:
        scales["noise_scale"] = NOISE_SHARE * scales["noise_scale"]
    noise = scales.get("noise_scale")
    if noise is None:
        curvature, _ = likelihood.bound(jnp.zeros(1), jnp.ones(1), {})
        noise = 1.0 / jnp.sqrt(curvature[0])
    for site in plan.sites:
        if site.kind == "random" and not site.is_bias:
            size = jnp.sqrt(PRODUCT_SHARE * noise / np.sqrt(plan.num_factors))
            scales[site.scale] = jnp.full_like(scales[site.scale], size)
    return scales


def to_principal_axes(
    plan: Plan, table: Rows, scales: dict[str, Array]
) -> tuple[Rows, dict[str, Array]]:
    """The same scores with factors along the axes of their products, and scales to match.

    Each axis is shared out so that both sides are equally many times their scales, and the longest
    axes go to the factors of the largest scales.

    The learned scales of single factors are the factors' root mean squares. Cost O((M + N) k^2).
    """
    sites = [site for site in plan.sites if not site.is_bias]
    if not sites:
        return table, {}
    scale = {site.side: np.asarray(scales[site.scale], np.float64) for site in sites}
    own = {site.side: np.asarray(plan.values(site, table), np.float64) for site in sites}
    size = {side: np.sqrt(np.mean(np.square(value))) for side, value in scale.items()}
    (left, upper), (right, lower) = (np.linalg.qr(own[side]) for side in ("user", "item"))
    turn, length, back = np.linalg.svd(upper @ lower.T, full_matrices=False)
    ratio = size["user"] / size["item"]
    turned = {
        "user": left @ turn * np.sqrt(length * ratio),
        "item": right @ back.T * np.sqrt(length / ratio),
    }
    widths = [np.broadcast_to(s, (1, plan.num_factors)) for s in scale.values() if s.ndim != 1]
    order = np.argsort(-np.prod(widths, axis=0).ravel(), kind="stable") if widths else None
    found, dtype = {}, table["user"].factors.dtype
    for site in sites:
        rows = np.zeros_like(own[site.side])
        rows[:, : len(length)] = turned[site.side]
        if order is not None:
            rows[:, order] = rows.copy()
        table = plan.replace(site, table, jnp.asarray(rows, dtype))
        if site.kind == "random" and scale[site.side].ndim == 2:
            root = np.sqrt(np.mean(np.square(rows), axis=0, keepdims=True))
            found[site.scale] = jnp.asarray(root, dtype)
    return table, found


def is_nothing(products: Float[np.ndarray, " n"], noise_scale: float) -> bool:
    """True where the factors' part of the ratings' scores is nothing beside the noise."""
    return bool(np.sqrt(np.mean(np.square(products))) < NOTHING * noise_scale)
