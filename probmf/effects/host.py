r"""The evidence of many crossed effects on a CPU: LAPACK and compiled loops, without XLA.

The same quantities as in `evidence_and_draws.py` and `remainder.py`, for a constant design. Nothing
is compiled for a new model, and with many columns the factor of what remains,

.. math:: S = D + \beta P^\top M P = R R^\top ,

costs all of the time, the score one inverse more. Columns with a flat prior (D is zero there)
are put last, so that the likelihood at the best values of their effects,

.. math::
    \max_w \log p(y \mid w) = \log \textstyle\int p(y \mid w)\, dw
      - \tfrac p2 \log 2\pi + \sum_{i > D - p} \log R_{ii} ,

needs no second factorization; its score has the inverse of the other columns' part of S in place of
that of S.
"""

import threading
from collections.abc import Collection
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse

from probmf.effects import lapack
from probmf.effects.elimination import Elimination, Lead
from probmf.effects.loops import (
    ColumnPlaces,
    Trils,
    collect,
    place,
)
from probmf.effects.pattern import Pattern
from probmf.effects.rounding import Rounding, factor_error, rounding_error
from probmf.effects.statistics import Statistics
from probmf.effects.working_variates import working_variates

#: With fewer columns many calls of XLA's program cost less, once it is compiled.
LEAST_COLUMNS = 200


class Score(NamedTuple):
    """Log evidence, and its derivatives by the trils and the precision."""

    value: float
    trils: list[np.ndarray]
    precision: float


class _Factored(NamedTuple):
    """R (in this thread's workspace), R^-1 b, and the unscaled M and c."""

    factor: np.ndarray
    half: np.ndarray
    products: np.ndarray
    target: np.ndarray


def has_host_form(pattern: Pattern, statistics: Statistics | None) -> bool:
    """True if `HostEvidence` serves: a constant design, with columns that remain.

    Many columns that are eliminated by dense products are left to XLA, which has no lists either.
    """
    few = 0 < pattern.num_columns < LEAST_COLUMNS
    return statistics is not None and (few or pattern.element is not None)


class HostEvidence:
    """Evidence, score and draws of the effects of a constant design, in double precision.

    Args:
        pattern: Which effects meet; `has_host_form` says whether it will do.
        statistics: Sums over the observations, with nothing traced.
        flat: Positions of blocks whose prior is flat, with a tril of ones.
        best: The likelihood at the best values of the flat effects, in place of their integral.
    """

    def __init__(
        self,
        pattern: Pattern,
        statistics: Statistics,
        flat: Collection[int] = (),
        *,
        best: bool = False,
    ) -> None:
        """Number the columns anew, the flat ones last."""
        self.num_rows, self.shapes = pattern.num_rows, pattern.shapes
        order = sorted(range(1, len(pattern.shapes)), key=lambda block: (block in flat, block))
        size = pattern.num_columns
        new, start = np.empty(size, np.int64), 0
        own: dict[int, slice] = {}
        for block in order:
            groups, dim = pattern.shapes[block]
            own[block] = slice(start, start + groups * dim)
            old = pattern.offsets[block - 1]
            new[old : old + groups * dim] = np.arange(start, start + groups * dim)
            start += groups * dim
        self.columns = ColumnPlaces(own, pattern.shapes, size)
        sizes = {b: pattern.shapes[b][0] * pattern.shapes[b][1] for b in flat}
        self.num_flat = sum(count for b, count in sizes.items() if b)
        self.num_inverted = size - (self.num_flat if best else 0)
        self.volume = 0.0 if best else 0.5 * np.log(2 * np.pi) * sum(sizes.values())
        self.prior = np.where(np.arange(size) < size - self.num_flat, 1.0, 0.0)
        self.rest = np.empty(size)
        self.rest[new] = np.asarray(statistics.rest)
        self._number_elements(pattern, statistics, new, flat)
        self._workspace = threading.local()

    def _number_elements(
        self,
        pattern: Pattern,
        statistics: Statistics,
        new: np.ndarray,
        flat: Collection[int],
    ) -> None:
        size = len(new)
        cell = np.empty(size, np.int64)
        for block, own in self.columns.own.items():
            groups, dim = pattern.shapes[block]
            cell[own] = own.start + np.repeat(np.arange(groups), dim)
        if pattern.element is None:
            old = cell[new]
            element = np.flatnonzero(np.tri(size, dtype=bool) | (old[:, None] == old[None]))
        else:
            element = np.asarray(pattern.element)
        row, column = new[element // size], new[element % size]
        together = cell[row] == cell[column]
        swap = ~together & (row < column)
        self.row, self.column = np.where(swap, column, row), np.where(swap, row, column)
        # What lies below the diagonal blocks is stored once, for two.
        self.times = np.where(together, 1.0, 2.0)
        self.elimination = Elimination(
            pattern, statistics, element, new, self.row, self.column, flat
        )

    @property
    def contents(self) -> list[np.ndarray]:
        """All numbers that the evidence depends on."""
        found = [*self.elimination.contents, self.rest, self.prior, self.row, self.column]
        counts = np.asarray([self.num_rows, self.num_inverted, self.num_flat])
        order = np.asarray([(block, own.start) for block, own in self.columns.own.items()])
        return [*found, counts, order, np.asarray(self.shapes)]

    def log_evidence(self, trils: Trils, precision: float) -> float:
        """Log density of all observations; NaN where a matrix is not positive definite.

        Args:
            trils: Lower factors L of the prior covariance of each block in the pattern's order:
                (d, d) shared by the groups, or (groups, d, d).
            precision: Noise precision.

        Returns:
            The log density.
        """
        lead, found = self._at(trils, precision)
        return np.nan if found is None else self._value(precision, lead, found)

    def draw(
        self, trils: Trils, precision: float, rng: np.random.Generator | None
    ) -> tuple[float, list[np.ndarray]]:
        """The log density, and a joint draw of all effects from their exact conditional.

        Args:
            trils: See `log_evidence`.
            precision: Noise precision.
            rng: Random numbers; None gives the conditional mean in place of a draw.

        Returns:
            The log density and the effects (groups, d) of each block in the pattern's order.
        """
        lead, found = self._at(trils, precision)
        if found is None:
            return np.nan, [np.full(shape, np.nan) for shape in self.shapes]

        def noise(like: np.ndarray) -> np.ndarray | float:
            return 0.0 if rng is None else rng.standard_normal(like.shape)

        whitened = lapack.solve(found.factor, found.half + noise(found.half), transpose=True)
        effects = self.columns.scale_vector(trils, whitened)
        tables = [
            effects[self.columns.own[block]].reshape(self.shapes[block])
            for block in range(1, len(self.shapes))
        ]
        pulled = self.elimination.sums.lead - self.elimination.onto_groups(effects)
        tril = np.broadcast_to(trils[0], lead.spread.shape)
        vector = precision * np.einsum("mab,ma->mb", tril, pulled)
        # The inverse's upper root U has A^-1 = U U^T, so U z is noise of that covariance.
        root = np.swapaxes(np.linalg.inv(np.linalg.cholesky(lead.system)), -1, -2)
        white = np.einsum("mab,mb->ma", lead.inverse, vector)
        white = white + np.einsum("mab,mb->ma", root, np.zeros_like(white) + noise(white))
        tables.insert(0, np.einsum("mab,mb->ma", tril, white))
        return self._value(precision, lead, found), tables

    def rounding(self, trils: Trils, precision: float) -> Rounding:
        """The log density with an estimate of its error; see `probmf.effects.rounding`.

        Args:
            trils: See `log_evidence`.
            precision: Noise precision.

        Returns:
            Both; the error is infinite where a matrix is not positive definite, and NaN at a point
            that is no number. Costs as much as the log density where a bound of the error is small
            already, else as much as a score.
        """
        trils = [np.asarray(tril, np.float64) for tril in trils]
        if not np.isfinite(precision) or not all(np.all(np.isfinite(t)) for t in trils):
            return Rounding(np.nan, np.nan, ())
        seen, sizes = self._sizes(trils, precision)
        largest = tuple(float(np.max(size, initial=0.0)) for size in sizes)
        lead, found = self._at(trils, precision)
        if found is None:
            return Rounding(np.nan, np.inf, largest)
        size = np.empty(len(self.rest))
        for block, own in self.columns.own.items():
            size[own] = np.sqrt(self.prior[own] + np.square(sizes[block].ravel()))
        pivots = (np.diagonal(part, axis1=-2, axis2=-1) for part in (lead.system, lead.inverse))
        shares = np.multiply(*pivots)
        # None is below one but for rounding, which has taken everything where one is negative.
        if np.any(shares <= 0):
            return Rounding(np.nan, np.inf, largest)
        by_group = np.sum(shares, axis=-1)
        square = precision * float(self.elimination.sums.square)
        factors = sum(factor_error(tril, own) for tril, own in zip(trils, seen, strict=True))
        value = self._value(precision, lead, found)
        fitted = float(size @ np.abs(lapack.solve(found.factor, found.half, transpose=True)))
        # Without flat columns' no element of the inverse's diagonal is above one.
        first = len(size) - self.num_flat
        most = np.ones(len(size))
        most[first:] = np.diag(_inverted(found.factor[first:, first:]))
        error = rounding_error(by_group, float(np.square(size) @ most), fitted, square)
        if not (rounding := Rounding(value, factors + error, largest)).is_small:
            spread = float(np.square(size) @ np.diag(_inverted(found.factor)))
            error = rounding_error(by_group, spread, fitted, square)
            rounding = Rounding(value, factors + error, largest)
        return rounding

    def _sizes(self, trils: Trils, precision: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Norms of each block's columns over noise, and bounds of those times L: (groups, d)."""
        norm = np.zeros(len(self.rest))
        diagonal = self.row == self.column
        norm[self.row[diagonal]] = np.sqrt(precision * self.elimination.base[diagonal])
        seen = [
            np.sqrt(precision * np.diagonal(self.elimination.sums.lead_lead, axis1=-2, axis2=-1))
        ]
        seen += [norm[own].reshape(self.shapes[b]) for b, own in sorted(self.columns.own.items())]
        sizes = [
            np.einsum("mab,ma->mb", np.broadcast_to(np.abs(tril), (*own.shape, own.shape[1])), own)
            for tril, own in zip(trils, seen, strict=True)
        ]
        return seen, sizes

    def score(self, trils: Trils, precision: float) -> Score:
        """The log density and its derivatives.

        Args:
            trils: See `log_evidence`.
            precision: Noise precision.

        Returns:
            The score; NaN throughout where a matrix is not positive definite.
        """
        lead, found = self._at(trils, precision)
        if found is None:
            return Score(np.nan, [np.full(np.shape(tril), np.nan) for tril in trils], np.nan)
        value = self._value(precision, lead, found)
        mean = lapack.solve(found.factor, found.half, transpose=True)
        inverse, count = self._matrix("inverse"), self.num_inverted
        # That of S, or of its part without flat columns; the rest stays zero.
        lapack.invert(found.factor[:count, :count], inverse[:count, :count])
        excess = self.prior @ (np.diag(inverse) + mean**2) - count
        for_precision = 0.5 / precision * (excess + found.half @ found.half + self.num_rows)
        scores = [
            self._score_block(block, trils, precision, found, inverse, mean)
            for block in range(1, len(self.shapes))
        ]
        pulled = self.columns.scale_vector(trils, mean)
        self.columns.scale_wide(trils, inverse, transpose=False)
        moment = collect(self.row, self.column, self.columns.scales(trils), inverse, pulled)
        for_lead, more = self.elimination.score(
            trils[0], precision, lead, -0.5 * precision * self.times * moment, precision * pulled
        )
        return Score(value, [for_lead, *scores], for_precision + more)

    def information(self, trils: Trils, precision: float, moves: Trils) -> np.ndarray:
        """The average information; see `probmf.effects.working_variates`.

        Args:
            trils: See `log_evidence`.
            precision: Noise precision.
            moves: Derivatives of the precision and of each tril by some numbers, the last axis.

        Returns:
            The information about these, NaN where a matrix is not positive definite. After `score`
            at the same point it takes no factorization.
        """
        lead, found = self._at(trils, precision)
        if found is None:
            return np.full(2 * np.shape(moves[0])[-1:], np.nan)
        mean = lapack.solve(found.factor, found.half, transpose=True)
        effects = self.columns.scale_vector(trils, mean)
        variates = working_variates(
            self.elimination, self.columns, self.rest, self._inner, trils, precision, lead, effects,
            moves,
        )  # fmt: skip
        taken = self._covariance(trils, precision, variates.lead, variates.rest)
        information = 0.5 * precision * (variates.products - precision * taken)
        return 0.5 * (information + information.T)

    def block_covariance(self, trils: Trils, precision: float, block: int) -> np.ndarray:
        """Covariance of the effects of a block after the leading one, given scales and noise.

        Args:
            trils: See `log_evidence`.
            precision: Noise precision.
            block: Its position.
        """
        own = self.columns.own[block]
        units = np.eye(len(self.rest))[:, own]
        lead = np.zeros((*self.shapes[0], units.shape[1]))
        return self._covariance(trils, precision, lead, units)

    def _covariance(
        self, trils: Trils, precision: float, for_lead: np.ndarray, for_rest: np.ndarray
    ) -> np.ndarray:
        """Covariance of sums of effects with coefficients (groups, d, p) and (D, p)."""
        lead, found = self._at(trils, precision)
        size, count = int(np.prod(for_lead.shape[:2])), for_rest.shape[1]
        if found is None:
            return np.full((count, count), np.nan)
        spread = np.einsum("mab,mbp->map", lead.spread, for_lead).reshape(size, count)
        left = for_rest - precision * (self.elimination.cross_transposed @ spread)
        half = np.array(
            [
                lapack.solve(found.factor, self.columns.scale_vector(trils, own, transpose=True))
                for own in np.ascontiguousarray(left.T)
            ]
        ).reshape(count, len(for_rest))
        return for_lead.reshape(size, count).T @ spread + half @ half.T

    @cached_property
    def _inner(self) -> scipy.sparse.csr_matrix:
        """Sums of products of columns."""
        return _symmetric(self.row, self.column, self.elimination.base, len(self.rest))

    def _at(self, trils: Trils, precision: float) -> tuple[Lead, _Factored | None]:
        """The leading groups and the factor, None where S is not positive definite.

        Those of this thread's last point are kept.
        """
        point, last = [np.asarray(precision), *trils], getattr(self._workspace, "point", [])
        if len(last) != len(point) or not all(map(np.array_equal, point, last)):
            self._workspace.point = []
            lead = self.elimination.eliminate(trils[0], precision)
            self._workspace.found = lead, self._factor(trils, precision, lead)
            self._workspace.point = [np.array(part) for part in point]
        found: tuple[Lead, _Factored | None] = self._workspace.found
        return found

    def _factor(self, trils: Trils, precision: float, lead: Lead) -> _Factored | None:
        products = self.elimination.products(trils[0], precision, lead)
        target = self.rest - precision * self.elimination.onto_columns(lead.mean)
        matrix = self._matrix("factor")
        place(self.row, self.column, self.columns.scales(trils), precision * products, matrix)
        self.columns.scale_wide(trils, matrix, transpose=True)
        matrix[np.diag_indices_from(matrix)] += self.prior
        if not lapack.factor(matrix):
            return None
        vector = precision * self.columns.scale_vector(trils, target, transpose=True)
        return _Factored(matrix, lapack.solve(matrix, vector), products, target)

    def _matrix(self, name: str) -> np.ndarray:
        """One of this thread's workspaces, at first zero."""
        if not hasattr(self._workspace, name):
            size = len(self.rest)
            setattr(self._workspace, name, np.zeros((size, size), order="F"))
        matrix: np.ndarray = getattr(self._workspace, name)
        return matrix

    def _value(self, precision: float, lead: Lead, found: _Factored) -> float:
        diagonal = np.diag(found.factor)[: self.num_inverted]
        rest = 0.5 * found.half @ found.half - np.sum(np.log(diagonal)) + self.volume
        return 0.5 * self.num_rows * np.log(precision / (2 * np.pi)) + lead.value + float(rest)

    def _score_block(
        self,
        block: int,
        trils: Trils,
        precision: float,
        found: _Factored,
        inverse: np.ndarray,
        mean: np.ndarray,
    ) -> np.ndarray:
        """L^-T (W - I) summed over the groups that share L; see `remainder`."""
        tril, own, (groups, dim) = trils[block], self.columns.own[block], self.shapes[block]
        values = mean[own].reshape(groups, dim)
        index = np.arange(own.start, own.stop).reshape(groups, dim)
        covariance = inverse[index[:, :, None], index[:, None, :]]
        lower = np.tril(covariance)
        covariance = lower + np.swapaxes(np.tril(covariance, -1), -1, -2)
        excess = covariance + values[:, :, None] * values[:, None, :] - np.eye(dim)
        if np.ndim(tril) == 2:
            excess = np.sum(excess, axis=0)
        if dim == 1:
            # At a scale of zero the evidence is flat.
            return np.divide(excess, tril, out=np.zeros(np.shape(tril)), where=tril != 0)
        if np.all(np.diagonal(tril, axis1=-2, axis2=-1) != 0):
            return np.tril(np.linalg.solve(np.swapaxes(tril, -1, -2), excess))
        score = self._singular_score(index, precision, found, inverse, mean, trils)
        return np.tril(score if np.ndim(tril) == 3 else np.sum(score, axis=0))

    def _singular_score(
        self,
        index: np.ndarray,
        precision: float,
        found: _Factored,
        inverse: np.ndarray,
        mean: np.ndarray,
        trils: Trils,
    ) -> np.ndarray:
        """Diagonal blocks of beta (c m^T - M P W): the score where no L^-1 exists."""
        products = _symmetric(self.row, self.column, found.products, len(mean))
        flat = index.ravel()
        lower = np.tril(inverse)
        moment = (lower + np.tril(lower, -1).T)[:, flat] + np.outer(mean, mean[flat])
        scaled = np.stack([self.columns.scale_vector(trils, column) for column in moment.T], axis=1)
        product = (products @ scaled)[flat].reshape(*index.shape, *index.shape)
        every = np.arange(len(index))
        outer = found.target[index][:, :, None] * mean[index][:, None, :]
        return precision * (outer - product[every, :, every, :])


def _symmetric(
    row: np.ndarray, column: np.ndarray, values: np.ndarray, size: int
) -> scipy.sparse.csr_matrix:
    """The matrix of which the lower triangle and whole diagonal blocks are stored."""
    there = values != 0
    stored = (values[there], (row[there], column[there]))
    matrix = scipy.sparse.csr_matrix(stored, shape=(size, size))
    # What lies above the diagonal already is that of the diagonal blocks.
    above = scipy.sparse.triu(matrix, 1)
    return (matrix + scipy.sparse.tril(matrix, -1).T - above).tocsr()


def _inverted(factor: np.ndarray) -> np.ndarray:
    """The lower triangle of the inverse of what was factored."""
    inverse = np.array(factor, order="F")
    lapack.invert(inverse, inverse)
    return inverse
