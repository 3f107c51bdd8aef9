"""Fits of random draws, and the scores of all pairs at each of them."""

from typing import Any

import numpy as np

from probmf import MatrixFactorization
from probmf.results import RatingsFit, Sampling

DRAWS = (2, 15)


def many(model: MatrixFactorization, data: Any) -> RatingsFit:
    """Independent random draws of everything."""
    rng = np.random.default_rng(0)
    samples: dict[str, Any] = {"intercept": rng.normal(0.7, 0.2, DRAWS)}
    for site, shape in model.site_shapes(data.num_users, data.num_items).items():
        center = rng.normal(0, 0.6, shape)
        samples[site] = (center + rng.normal(0, 0.3, (*DRAWS, *shape))).astype(np.float32)
    for name in model.random_scales():
        samples[name] = rng.uniform(0.3, 0.9, DRAWS)
    return RatingsFit(model, data, samples, "test", sampling=Sampling({}, 10, 0.1))


def flat(fit: RatingsFit, site: str) -> np.ndarray:
    value = np.asarray(fit.samples[site], np.float64)
    return value.reshape(-1, *value.shape[2:])


def all_scores(fit: RatingsFit) -> np.ndarray:
    products = np.einsum("smk,snk->smn", flat(fit, "user_factors"), flat(fit, "item_factors"))
    biases = flat(fit, "user_bias")[:, :, None] + flat(fit, "item_bias")[:, None, :]
    return flat(fit, "intercept")[:, None, None] + biases + products
