r"""Rows that differ in their response only, joined into one each.

The n rows of a cell have one predictor and one noise scale, so that their mean and their sum of
squares about it are all that they say:

.. math::
    \prod_i N(y_i \mid \eta, \sigma^2) = N(\bar y \mid \eta, \sigma^2 / n) \cdot
      (2 \pi \sigma^2)^{-(n-1)/2}\, n^{-1/2}\, e^{-\sum_i (y_i - \bar y)^2 / 2 \sigma^2}
"""

from dataclasses import replace

import jax
import numpy as np

from probmf.likelihoods.gaussian import NormalNoise
from probmf.models.mixed.arrays import Cells, MixedData, Predictor

#: Rows are joined when that leaves at most this share of them.
WORTHWHILE = 0.5


def join_rows(data: MixedData, likelihood: NormalNoise) -> MixedData:
    """The same model of means by cell, where the noise has a predictor and many rows are alike.

    Args:
        data: A design's.
        likelihood: That of its response.

    Returns:
        Data of cells, or `data` itself where joining does not pay. Cost O(n log n), on the host.
    """
    if data.noise is None or data.response is None or data.weight is not None:
        return data
    columns = [
        np.asarray(part, np.float64).reshape(data.num_observations, -1)
        for predictor in data.predictors
        for part in jax.tree.leaves(predictor)
    ]
    _, first, cell, count = np.unique(
        np.concatenate(columns, axis=1), axis=0, return_index=True, return_inverse=True,
        return_counts=True,
    )  # fmt: skip
    if len(first) > WORTHWHILE * data.num_observations:
        return data
    cell = cell.ravel()
    values = likelihood.place(np.asarray(data.response, np.float64))
    mean = np.bincount(cell, values) / count
    within = np.bincount(cell, np.square(values - mean[cell]))
    jacobian = np.sum(likelihood.log_slope(mean)) - np.sum(likelihood.log_slope(values))

    def taken(predictor: Predictor) -> Predictor:
        groups = tuple(
            replace(term, group=term.group[first], z=term.z[first]) for term in predictor.groups
        )
        offset = None if predictor.offset is None else predictor.offset[first]
        population = predictor.population[first]
        return replace(predictor, population=population, groups=groups, offset=offset)

    return replace(
        data, mean=taken(data.mean), noise=taken(data.noise),
        response=likelihood.from_score(mean), num_observations=len(first),
        cells=Cells(count.astype(np.float64), within, np.asarray(jacobian)),
    )  # fmt: skip
