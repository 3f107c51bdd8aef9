"""Inputs and outputs of the loops over rows: arrays by table row, users first."""

from typing import NamedTuple

import numpy as np


class Observed(NamedTuple):
    """The observations of one side's rows, row by row.

    Attributes:
        row: Table row of each row.
        start: Where each row's observations start, and where the last one's end.
        partner: Table row of the other side of each observation.
        rating: The observations.
        weight: Their weights; of length 0 when all are one.
    """

    row: np.ndarray
    start: np.ndarray
    partner: np.ndarray
    rating: np.ndarray
    weight: np.ndarray


class Present(NamedTuple):
    """Present values of the rows of both sides.

    Attributes:
        bias: Biases, by table row.
        factors: Factors.
    """

    bias: np.ndarray
    factors: np.ndarray


class Given(NamedTuple):
    """Values that the rows are conditioned on.

    Attributes:
        intercept: Added to every score.
        curvature: Of the loss of an observation of weight one.
        precision: Diagonal prior precision of every table row's (bias, factors).
        free: 1 for coordinates to solve for, 0 for fixed ones.
        gram: Added to every row's precision, of bias and the factors that are solved for; of size
            0 when there is none.
        shift: Subtracted from every row's gradient; likewise.
        pull: The prior's precision times its mean, of every table row; of size 0 where it is zero.
    """

    intercept: np.ndarray
    curvature: np.ndarray
    precision: np.ndarray
    free: np.ndarray
    gram: np.ndarray
    shift: np.ndarray
    pull: np.ndarray


class Solved(NamedTuple):
    """Outputs by table row; the rows hold their present values at the start.

    Attributes:
        bias: Biases.
        factors: Factors.
        loss: Sums of the loss over a row's observations.
        slope: Sums of minus its derivative with respect to the score.
        curvature: Sums of its curvature.
    """

    bias: np.ndarray
    factors: np.ndarray
    loss: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray
