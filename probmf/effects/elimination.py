r"""Elimination of the leading groups on a CPU, by group, and its adjoint.

Their whitened precision is :math:`A = I + \beta L^\top C_{11} L`, with :math:`H = L A^{-1} L^\top`
the covariance of their effects given the columns. They leave

.. math:: M = C_{22} - \beta C_{21} H C_{12}, \quad c = c_2 - \beta C_{21} H c_1 .
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import scipy.sparse

from probmf.backend import HAS_NUMBA
from probmf.effects import lapack
from probmf.effects.loops import (
    SHARES,
    Meetings,
    find_meetings,
    interpolate,
    join_pairs,
    part_pairs,
    weigh,
)
from probmf.effects.pattern import Pattern
from probmf.effects.statistics import Statistics


class _Sums(NamedTuple):
    """Those of `Statistics` by leading group, by entry and by element."""

    lead_lead: np.ndarray
    lead_rest: np.ndarray
    rest_rest: np.ndarray
    lead: np.ndarray
    square: np.ndarray


class Lead(NamedTuple):
    """The leading groups: A and its inverse, H, the means H c_1, and their share of the value."""

    system: np.ndarray
    inverse: np.ndarray
    spread: np.ndarray
    mean: np.ndarray
    value: float


class Elimination:
    """The leading groups of a constant design.

    Args:
        pattern: Which effects meet.
        statistics: Sums over the observations, with nothing traced.
        element: Flat positions of the stored elements, in the pattern's numbers.
        new: New number of each column.
        row: Row of each stored element, in these.
        column: Its column.
        flat: Positions of blocks whose prior is flat.
    """

    def __init__(
        self,
        pattern: Pattern,
        statistics: Statistics,
        element: np.ndarray,
        new: np.ndarray,
        row: np.ndarray,
        column: np.ndarray,
        flat: Collection[int],
    ) -> None:
        """Sums by group, and what they are joined by."""
        self.sums = _Sums(*(np.asarray(getattr(statistics, n), np.float64) for n in _Sums._fields))
        self.row, self.column, self.shape = row, column, pattern.shapes[0]
        self.prior = 0.0 if 0 in flat else 1.0
        products = self.sums.rest_rest
        self.base = products if pattern.element is not None else products.ravel()[element]
        self.meetings: Meetings | None = None
        if pattern.element is not None and HAS_NUMBA:
            self.meetings = find_meetings(pattern)
        self.table = None
        if statistics.table is not None and self.prior:
            knot, terms, _ = statistics.table
            self.table = np.asarray(knot), np.ascontiguousarray(terms)
        groups, dim = self.shape
        entry_group = np.asarray(pattern.entry_group)
        self.cross = scipy.sparse.csr_matrix(
            (
                self.sums.lead_rest.ravel(),
                (
                    (entry_group[:, None] * dim + np.arange(dim)).ravel(),
                    np.repeat(new[np.asarray(pattern.entry_column)], dim),
                ),
            ),
            shape=(groups * dim, len(new)),
        )
        self.cross_transposed = self.cross.T.tocsr()

    @property
    def contents(self) -> list[np.ndarray]:
        """All numbers that it depends on."""
        cross = self.cross
        own = [cross.data, cross.indices, cross.indptr, np.asarray(self.prior)]
        return [*self.sums, self.base, *(self.table or ()), *own]

    def onto_columns(self, means: np.ndarray) -> np.ndarray:
        """The product C_21 m of effects of the groups."""
        found: np.ndarray = self.cross_transposed @ means.ravel()
        return found

    def onto_groups(self, effects: np.ndarray) -> np.ndarray:
        """The product C_12 u of effects of the columns, (groups, d)."""
        found: np.ndarray = self.cross @ effects
        return found.reshape(self.shape)

    def products(self, tril: np.ndarray, precision: float, lead: Lead) -> np.ndarray:
        """The stored elements of M."""
        if self.table is None or np.ndim(tril) == 3:
            return self.base - precision * self._join(lead.spread)
        knot, terms = self.table
        ratio, found = precision * np.square(tril[0, 0]), np.empty(len(self.row))
        interpolate(self.base, terms, ratio / (1.0 + ratio * knot), found)
        return found

    def eliminate(self, tril: np.ndarray, precision: float) -> Lead:
        """The groups given their tril and the noise precision."""
        tril = np.broadcast_to(tril, self.sums.lead_lead.shape)
        product = np.einsum("mab,mac,mcd->mbd", tril, self.sums.lead_lead, tril, optimize=True)
        system = self.prior * np.eye(tril.shape[-1]) + precision * product
        inverse = np.linalg.inv(system)
        spread = np.einsum("mab,mbc,mdc->mad", tril, inverse, tril, optimize=True)
        mean = np.einsum("mab,mb->ma", spread, self.sums.lead)
        square = self.sums.square - precision * np.sum(mean * self.sums.lead)
        value = -0.5 * (np.sum(np.linalg.slogdet(system)[1]) + precision * square)
        return Lead(system, inverse, spread, mean, float(value))

    def score(
        self,
        tril: np.ndarray,
        precision: float,
        lead: Lead,
        for_products: np.ndarray,
        for_target: np.ndarray,
    ) -> tuple[np.ndarray, float]:
        """Derivatives by the leading tril and, but for the columns' share, by the precision."""
        sums, by_table = self.sums, self.table is not None and np.ndim(tril) == 2
        shared = np.ndim(tril) == 2
        whole = np.broadcast_to(tril, lead.spread.shape)
        pulled = self.cross @ for_target
        for_mean = -precision * pulled.reshape(lead.mean.shape) + 0.5 * precision**2 * sums.lead
        for_precision = -pulled @ lead.mean.ravel()
        for_precision += -0.5 * sums.square + precision * np.sum(lead.mean * sums.lead)
        for_spread = for_mean[:, :, None] * sums.lead[:, None, :]
        extra = 0.0
        if by_table and self.table is not None:
            knot, terms = self.table
            scale = tril[0, 0]
            ratio = precision * scale**2
            for_ratio = -np.sum(weigh(for_products, terms) / np.square(1.0 + ratio * knot))
            extra = 2.0 * precision * scale * for_ratio
            for_precision += for_ratio * scale**2
        else:
            part = self._part(for_products)
            for_spread = for_spread - precision * part
            for_precision += -np.sum(part * lead.spread)
        both = for_spread + np.swapaxes(for_spread, -1, -2)
        for_tril = np.einsum("mab,mbc,mcd->mad", both, whole, lead.inverse, optimize=True)
        for_inverse = np.einsum("mab,mac,mcd->mbd", whole, for_spread, whole, optimize=True)
        for_system = -0.5 * lead.inverse - np.einsum(
            "mab,mbc,mcd->mad", lead.inverse, for_inverse, lead.inverse, optimize=True
        )
        onto = np.einsum("mab,mbc->mac", sums.lead_lead, whole)
        for_precision += np.sum(for_system * np.einsum("mab,mac->mbc", whole, onto))
        twice = for_system + np.swapaxes(for_system, -1, -2)
        for_tril = np.tril(for_tril + precision * np.einsum("mab,mbc->mac", onto, twice))
        if shared:
            return np.sum(for_tril, axis=0) + extra, float(for_precision)
        return for_tril, float(for_precision)

    def _join(self, spread: np.ndarray) -> np.ndarray:
        """Elements of the sum of C^T H C over the leading groups."""
        if (meetings := self.meetings) is not None:
            out = np.zeros(len(self.row))
            given = self.sums.lead_rest, spread, out
            lapack.each(lambda share: join_pairs(meetings, share, *given), range(SHARES))
            return out
        cross = self.cross.toarray()
        by_group = cross.reshape(*self.shape, -1)
        product = cross.T @ np.einsum("mab,mbc->mac", spread, by_group).reshape(cross.shape)
        return product[self.row, self.column]

    def _part(self, cotangent: np.ndarray) -> np.ndarray:
        """The adjoint of `_join`, by leading group."""
        groups, dim = self.shape
        if (meetings := self.meetings) is not None:
            parts = np.zeros((SHARES, groups, dim, dim))
            given = self.sums.lead_rest, cotangent
            lapack.each(
                lambda share: part_pairs(meetings, share, *given, parts[share]), range(SHARES)
            )
            return np.sum(parts, axis=0)
        cross = self.cross.toarray()
        size = cross.shape[1]
        whole = np.zeros((size, size))
        whole[self.row, self.column] = cotangent
        pulled = (cross @ whole).reshape(groups, dim, size)
        return np.einsum("mac,mbc->mab", pulled, cross.reshape(groups, dim, size))
