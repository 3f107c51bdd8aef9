"""Inputs and outputs of the loops over the rows of one side: arrays by row."""

from typing import NamedTuple

import numpy as np


class RowObservations(NamedTuple):
    """The observations of one side's rows, row after row.

    Attributes:
        order: The rows in the order of work.
        start: Where each row's observations start, and where the last one's end.
        partner: Row of the other side of each observation.
        rating: The observations.
        weight: Their weights; of length 0 when all are one.
    """

    order: np.ndarray
    start: np.ndarray
    partner: np.ndarray
    rating: np.ndarray
    weight: np.ndarray


class Present(NamedTuple):
    """Present values of the rows of both sides.

    Attributes:
        bias: Biases of the side that is solved for.
        factors: Its factors.
        other_bias: Biases of the other side.
        other_factors: Its factors.
    """

    bias: np.ndarray
    factors: np.ndarray
    other_bias: np.ndarray
    other_factors: np.ndarray


class RowInputs(NamedTuple):
    """Values that the rows are conditioned on.

    Attributes:
        intercept: Added to every score.
        curvature: Of the loss of an observation of weight one.
        precision: Diagonal prior precision of every row's (bias, factors).
        free: 1 for coordinates to solve for, 0 for fixed ones.
        gram: Added to every row's precision, of bias and the factors that are solved for; of size
            0 when there is none.
        shift: Subtracted from every row's gradient; likewise.
        pull: The prior's precision times its mean, of every row; of size 0 where it is zero.
    """

    intercept: np.ndarray
    curvature: np.ndarray
    precision: np.ndarray
    free: np.ndarray
    gram: np.ndarray
    shift: np.ndarray
    pull: np.ndarray


class RowOutputs(NamedTuple):
    """Outputs by row; rows hold their present values at the start.

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
