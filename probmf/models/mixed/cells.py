r"""Rows that are alike, joined into one each.

The n rows of a cell that differ in their response only have one predictor and one noise scale, so
that the mean of Normal responses and their sum of squares about it are all that they say:

.. math::
    \prod_i N(y_i \mid \eta, \sigma^2) = N(\bar y \mid \eta, \sigma^2 / n) \cdot
      (2 \pi \sigma^2)^{-(n-1)/2}\, n^{-1/2}\, e^{-\sum_i (y_i - \bar y)^2 / 2 \sigma^2}

Of another likelihood rows of one response, too, count as one row of weight n.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from probmf.likelihoods.base import Likelihood
from probmf.models.mixed.arrays import Cells, MixedData, Predictor

#: Rows are joined when that leaves at most this share of them.
WORTHWHILE = 0.5


class _Alike(NamedTuple):
    """Rows that are alike: the first of each cell, the cell of each row, and how many there are."""

    first: Int[np.ndarray, " cells"]
    cell: Int[np.ndarray, " n"]
    number: Int[np.ndarray, " cells"]


def join_rows(data: MixedData, likelihood: Likelihood) -> MixedData:
    """The same model of fewer rows, where many are alike.

    Normal responses are joined where the noise has a predictor, to means by cell; without one the
    number of rows plays no part. Other responses are counted.

    Args:
        data: A design's.
        likelihood: That of its response.

    Returns:
        Data of cells, or `data` itself where joining does not pay. Cost O(n log n), on the host.
    """
    if data.response is None:
        return data
    if not likelihood.normal:
        # Trials, or which responses are bounds, by row.
        known = {site: data.priors[site] for site in likelihood.known if site in data.priors}
        known = {site: column for site, column in known.items() if np.ndim(column)}
        alike = _alike([data.predictors, data.response, known], data.num_observations)
        if alike is None:
            return data
        weight = np.ones(data.num_observations) if data.weight is None else data.weight
        # Rows that count nothing, as other responses in the same design make a few cells more or
        # less, and programs are for numbers of rows.
        size = min(_round_number(len(alike.first)), data.num_observations)
        rows = np.resize(alike.first, size)
        count = np.bincount(alike.cell, np.asarray(weight, np.float64), size)
        own = {site: np.asarray(column)[rows] for site, column in known.items()}
        return replace(
            _taken(data, rows), response=data.response[rows], weight=count,
            priors={**data.priors, **own},
        )  # fmt: skip
    if data.noise is None or data.weight is not None:
        return data
    alike = _alike([data.predictors], data.num_observations)
    if alike is None:
        return data
    values = likelihood.place(np.asarray(data.response, np.float64))
    mean = np.bincount(alike.cell, values) / alike.number
    within = np.bincount(alike.cell, np.square(values - mean[alike.cell]))
    law: Any = likelihood
    jacobian = np.sum(law.log_slope(mean)) - np.sum(law.log_slope(values))
    return replace(
        _taken(data, alike.first), response=law.from_score(mean),
        cells=Cells(alike.number.astype(np.float64), within, np.asarray(jacobian)),
    )  # fmt: skip


def _alike(parts: Sequence[Any], num_rows: int) -> _Alike | None:
    """Rows that have the same numbers in all parts, unless they are few."""
    arrays = [np.asarray(one, np.float64) for one in jax.tree.leaves(parts)]
    columns = np.concatenate([one.reshape(num_rows, -1) for one in arrays], axis=1)
    # One number for each row, the same for those that are alike: a tenth of the cost.
    marks = np.zeros(num_rows)
    for column, share in zip(columns.T, _shares(columns.shape[1]), strict=True):
        marks += share * column
    if len(np.unique(marks)) > WORTHWHILE * num_rows:
        return None
    _, first, cell, count = np.unique(
        columns, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    return None if len(first) > WORTHWHILE * num_rows else _Alike(first, cell.ravel(), count)


def _round_number(count: int) -> int:
    """The next of eight numbers from each power of two to the next."""
    step = max(1, 2 ** (count.bit_length() - 4))
    return -(-count // step) * step


def _shares(size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=size)


def _taken(data: MixedData, rows: Int[np.ndarray, " cells"]) -> MixedData:
    """Some of the rows, the response left as it was."""

    def taken(predictor: Predictor) -> Predictor:
        groups = tuple(
            replace(term, group=term.group[rows], z=term.z[rows]) for term in predictor.groups
        )
        offset = None if predictor.offset is None else predictor.offset[rows]
        population = predictor.population[rows]
        return replace(predictor, population=population, groups=groups, offset=offset)

    noise = None if data.noise is None else taken(data.noise)
    return replace(data, mean=taken(data.mean), noise=noise, num_observations=len(rows))
