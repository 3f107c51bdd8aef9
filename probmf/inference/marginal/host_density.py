"""A marginal density whose evidence is found on the CPU by LAPACK, and the rest by a program."""

from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Array, Float

from probmf.backend import uses_loops
from probmf.effects.host import LEAST_COLUMNS, HostEvidence, Score, has_host_form
from probmf.effects.rounding import Rounding
from probmf.inference.marginal.prepared import Prepared
from probmf.rows.store import num_workers
from probmf.run.compilation import count_numbers, traced_jit

#: Points of one call.
CHUNK = 32


class EvidenceTerms(Protocol):
    """Terms that the evidence depends on; a pytree."""

    @property
    def vector(self) -> np.ndarray:
        """An example of a vector."""

    def terms(self, vector: Array) -> tuple[Array, Array, list[Array]]:
        """Rest of the log density, noise precision, and prior factors."""

    def medians(self) -> Array:
        """A start."""


class HostDensity:
    """Log density over one unconstrained vector, and its gradient.

    Args:
        parts: What the evidence depends on.
        prepared: A model with its data; `serves` says which.
        flat: See `HostEvidence`.
        best: See `HostEvidence`.
    """

    def __init__(
        self,
        parts: EvidenceTerms,
        prepared: Prepared,
        flat: Collection[int] = (),
        *,
        best: bool = False,
    ) -> None:
        """Nothing is traced yet."""
        if prepared.statistics is None:
            raise ValueError("The design depends on sampled parameters; see HostDensity.serves.")
        self.evidence = HostEvidence(prepared.pattern, prepared.statistics, flat, best=best)
        self.parts, self.example = parts, parts.vector
        self._numbers = count_numbers(prepared.args)

    @staticmethod
    def serves(prepared: Prepared) -> bool:
        """True if the evidence has such a form, and there is no accelerator to prefer."""
        return uses_loops() and has_host_form(prepared.pattern, prepared.statistics)

    @property
    def cores(self) -> int:
        """Cores that one evaluation after the other makes use of."""
        return num_workers() if self.is_large else 1

    @property
    def is_large(self) -> bool:
        """True if it is quicker than a program even when that need not be compiled."""
        return len(self.evidence.rest) >= LEAST_COLUMNS

    def score(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density and its gradient."""
        terms, slopes = self.terms_at(vector)
        score = self.evidence.score(terms[2:], float(terms[1]))
        return float(terms[0]) + score.value, _gradient(score, slopes)

    def informed(self, vector: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Log density, gradient, and average information; see `HostEvidence.information`."""
        terms, slopes = self.terms_at(vector)
        at = terms[2:], float(terms[1])
        score, information = self.evidence.score(*at), self.evidence.information(*at, slopes[1:])
        return float(terms[0]) + score.value, _gradient(score, slopes), information

    def draw(
        self, vector: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[float, list[np.ndarray]]:
        """Log density, and a draw of all effects, or their conditional means."""
        (extra, precision, *trils), _ = self.terms_at(vector)
        value, tables = self.evidence.draw(trils, float(precision), rng)
        return float(extra) + value, tables

    def block_covariance(self, vector: np.ndarray, block: int) -> np.ndarray:
        """Covariance of the effects of a block after the leading one, given the vector."""
        (_, precision, *trils), _ = self.terms_at(vector)
        return self.evidence.block_covariance(trils, float(precision), block)

    def rounding(self, vector: np.ndarray) -> Rounding:
        """The evidence with its error by rounding at a vector."""
        (_, precision, *trils), _ = self.terms_at(vector)
        return self.evidence.rounding(trils, float(precision))

    def terms(self, vectors: Float[np.ndarray, "n d"]) -> list[np.ndarray]:
        """The terms at vectors, in double precision."""
        points = np.asarray(vectors, self.example.dtype)
        found = in_chunks(lambda x: self._terms(self.parts, x), CHUNK, points)
        return [np.asarray(part, np.float64) for part in found]

    def terms_at(self, vector: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The terms at one vector, and their derivatives by its elements, the last axis."""
        values, slopes, _ = self._all_at(vector)
        return [np.asarray(v, np.float64) for v in values], [np.asarray(s) for s in slopes]

    def start(self) -> np.ndarray:
        """Starting point of a search."""
        return np.asarray(self._all_at(self.example)[2], np.float64)

    def _all_at(self, vector: np.ndarray) -> tuple[list[Array], list[Array], Array]:
        """Terms, derivatives, and the start: one program for all, or there were two to compile."""
        found: tuple[list[Array], list[Array], Array] = self.slopes(
            self.parts, np.asarray(vector, self.example.dtype)
        )
        return found

    @cached_property
    def slopes(self) -> Any:
        """Compiled: terms, derivatives, and the start."""
        return traced_jit(_slopes, self._numbers, self.parts, self.example)

    @cached_property
    def _terms(self) -> Any:
        example = np.zeros((CHUNK, len(self.example)), self.example.dtype)
        return traced_jit(_terms, self._numbers, self.parts, example)


def _gradient(score: Score, slopes: list[np.ndarray]) -> np.ndarray:
    """By the vector, from derivatives of the terms by it, the last axis."""
    parts = [np.asarray(part) for part in (1.0, score.precision, *score.trils)]
    return np.sum(
        [part.ravel() @ s.reshape(part.size, -1) for part, s in zip(parts, slopes, strict=True)], 0
    )


def _leaves(parts: EvidenceTerms, vector: Array) -> list[Array]:
    extra, precision, trils = parts.terms(vector)
    return [extra, precision, *trils]


def _terms(parts: EvidenceTerms, vectors: Array) -> list[Array]:
    return jax.lax.map(lambda one: _leaves(parts, one), vectors)


def _slopes(parts: EvidenceTerms, vector: Array) -> tuple[list[Array], list[Array], Array]:
    def twice(x: Array) -> tuple[list[Array], list[Array]]:
        found = _leaves(parts, x)
        return found, found

    slopes, values = jax.jacfwd(twice, has_aux=True)(vector)
    return values, slopes, parts.medians()


def in_chunks(run: Callable[..., list[Array]], size: int, *parts: np.ndarray) -> list[np.ndarray]:
    """Results of a program for arrays of any length, from calls that all have one length.

    Args:
        run: From arrays of `size` rows to a list of such.
        size: Rows of one call; the last one's are filled up by repetition.
        parts: The arrays, of one length.

    Returns:
        The results, of that length.
    """
    count = len(parts[0])
    pieces = []
    for start in range(0, count, size):
        index = np.minimum(np.arange(start, start + size), count - 1)
        pieces.append([np.asarray(leaf) for leaf in run(*(part[index] for part in parts))])
    return [np.concatenate(leaves)[:count] for leaves in zip(*pieces, strict=True)]
