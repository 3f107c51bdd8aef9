"""A marginal density whose evidence is found on the CPU by LAPACK, and the rest by a program."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from probmf.backend import uses_loops
from probmf.effects.host import LEAST_COLUMNS, HostEvidence, has_host_form
from probmf.effects.rounding import Rounding
from probmf.inference.marginal.prepared import Prepared
from probmf.rows.layout import num_workers
from probmf.run.compile_cache import Program, compiled, quick_jit, trace_program

#: Points of one call.
CHUNK = 32
#: What the evidence depends on: what else the log density has, noise precision, trils.
Terms = Callable[[Array], tuple[Array, Array, list[Array]]]


class HostDensity:
    """Log density over one unconstrained vector, and its gradient.

    Args:
        prepared: A model with its data; `serves` says which.
        terms: What the evidence depends on, at a vector.
        medians: A start, as a program.
        flat: See `HostEvidence`.
        best: See `HostEvidence`.
    """

    def __init__(
        self,
        prepared: Prepared,
        terms: Terms,
        medians: Program,
        flat: Collection[int] = (),
        *,
        best: bool = False,
    ) -> None:
        """Trace the terms."""
        if prepared.statistics is None:
            raise ValueError("The design depends on sampled parameters; see HostDensity.serves.")
        self.evidence = HostEvidence(prepared.pattern, prepared.statistics, flat, best=best)
        self.medians = medians
        (start,) = jax.eval_shape(medians.evaluate, medians.consts)
        self.example = np.zeros(start.shape, start.dtype)

        def leaves(vector: Array) -> list[Array]:
            extra, precision, trils = terms(vector)
            return [extra, precision, *trils]

        self.program = trace_program(leaves, self.example)

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
        (extra, precision, *trils), slopes = self.terms_at(vector)
        score = self.evidence.score(trils, float(precision))
        gradient = np.zeros(len(vector))
        parts = [np.asarray(part) for part in (1.0, score.precision, *score.trils)]
        for part, slope in zip(parts, slopes, strict=True):
            gradient += part.ravel() @ slope.reshape(part.size, len(vector))
        return float(extra) + score.value, gradient

    def draw(
        self, vector: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[float, list[np.ndarray]]:
        """Log density, and a draw of all effects, or their conditional means."""
        (extra, precision, *trils), _ = self.terms_at(vector)
        value, tables = self.evidence.draw(trils, float(precision), rng)
        return float(extra) + value, tables

    def rounding(self, vector: np.ndarray) -> Rounding:
        """The evidence with its error by rounding at a vector."""
        (_, precision, *trils), _ = self.terms_at(vector)
        return self.evidence.rounding(trils, float(precision))

    def terms(self, vectors: Float[np.ndarray, "n d"]) -> list[np.ndarray]:
        """The terms at vectors, in double precision."""
        evaluate = self.program.evaluate
        run = compiled(
            (self.program.text, "terms"),
            lambda: quick_jit(
                lambda consts, x: jax.lax.map(lambda one: evaluate(consts, one), x),
                self.program.numbers,
            ),
        )
        found = in_chunks(
            lambda x: run(self.program.consts, x), CHUNK, np.asarray(vectors, self.example.dtype)
        )
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
        evaluate, medians = self.program.evaluate, self.medians

        def together(
            consts: tuple[list[Any], list[Any]], vector: Array
        ) -> tuple[list[Array], list[Array], Array]:
            def twice(x: Array) -> tuple[list[Array], list[Array]]:
                found = evaluate(consts[0], x)
                return found, found

            slopes, values = jax.jacfwd(twice, has_aux=True)(vector)
            return values, slopes, medians.evaluate(consts[1])[0]

        run = compiled(
            (self.program.text, medians.text, "slopes"),
            lambda: quick_jit(together, self.program.numbers + medians.numbers),
        )
        return run((self.program.consts, medians.consts), np.asarray(vector, self.example.dtype))


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
