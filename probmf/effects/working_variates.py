r"""Columns of the average information of variances (Gilmour, Thompson and Cullis, 1995).

With V the covariance of the observations and :math:`P y` their residuals at the conditional means
of all effects, over the noise variance, it is the average of the observed and of the expected
information about numbers that V is linear in,

.. math::
    J_{ij} = \tfrac12 f_i^\top P f_j, \quad f_i = \frac{\partial V}{\partial \theta_i} P y ,

and takes one solution for each number. A block's part of V is :math:`Z L L^\top Z^\top`, so that
:math:`f = Z w` with :math:`w = (\dot L L^\top + L \dot L^\top) s` and :math:`s = Z^\top P y`.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse

from probmf.effects.elimination import Elimination, Lead
from probmf.effects.loops import ColumnPlaces, Trils


class WorkingVariates(NamedTuple):
    """The columns f, by what is needed of them.

    Attributes:
        lead: Their sums of products with each leading group's design, (groups, d, p).
        rest: The same with each column of the remainder, (D, p).
        products: With each other, (p, p).
    """

    lead: np.ndarray
    rest: np.ndarray
    products: np.ndarray


def working_variates(
    elimination: Elimination,
    columns: ColumnPlaces,
    rest: np.ndarray,
    inner: scipy.sparse.csr_matrix,
    trils: Trils,
    precision: float,
    lead: Lead,
    effects: np.ndarray,
    moves: Trils,
) -> WorkingVariates:
    """The columns where the effects have some means.

    Args:
        elimination: The leading groups.
        columns: Places of the blocks.
        rest: Sums of products of each column with the target.
        inner: The same of columns with each other.
        trils: See `HostEvidence.log_evidence`.
        precision: Noise precision.
        lead: The leading groups there.
        effects: The columns' conditional means.
        moves: Derivatives of the precision and of each tril, on the last axis.

    Returns:
        The columns. Cost O(entries p).
    """
    sums = elimination.sums
    pulled = sums.lead - elimination.onto_groups(effects)
    leading = precision * np.einsum("mab,mb->ma", lead.spread, pulled)
    # Sums of products of the residuals.
    for_lead = pulled - np.einsum("mab,mb->ma", sums.lead_lead, leading)
    for_rest = rest - elimination.onto_columns(leading) - inner @ effects
    square = sums.square - np.sum((sums.lead + for_lead) * leading) - (rest + for_rest) @ effects
    # Of the noise f is a multiple of the residuals.
    noise = -np.reshape(moves[0], -1) / precision
    first = _moved(trils[0], moves[1], precision * for_lead)
    others = np.empty((len(effects), len(noise)))
    for block, own in columns.own.items():
        slope = precision * for_rest[own].reshape(columns.shapes[block])
        moved = _moved(trils[block], moves[1 + block], slope)
        others[own] = moved.reshape(slope.size, len(noise))
    flat = first.reshape(for_lead.size, len(noise))
    onto_lead = np.einsum("mab,mbp->map", sums.lead_lead, first)
    onto_lead += (elimination.cross @ others).reshape(first.shape) + noise * for_lead[:, :, None]
    onto_rest = elimination.cross_transposed @ flat + inner @ others + np.outer(for_rest, noise)
    with_residuals = flat.T @ for_lead.ravel() + others.T @ for_rest + noise * square
    products = flat.T @ onto_lead.reshape(flat.shape) + others.T @ onto_rest
    return WorkingVariates(onto_lead, onto_rest, products + np.outer(noise, with_residuals))


def _moved(tril: np.ndarray, move: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Derivatives of L L^T, times the slope of each group's effects: (groups, d, p)."""
    root, ways = ("ab", "abp") if np.ndim(tril) == 2 else ("gab", "gabp")
    white = np.einsum(f"{root},ga->gb", tril, slope)
    turned = np.einsum(f"{ways},ga->gbp", move, slope)
    return np.einsum(f"{ways},gb->gap", move, white) + np.einsum(f"{root},gbp->gap", tril, turned)
