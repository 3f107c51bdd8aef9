"""Log densities and effects of proposals, by whichever way is quickest for the model.

All come piece by piece, in the order of the points, so that a run can be interrupted anywhere and
keep what there is.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from probmf.inference.drawn_back import SiteArrays
from probmf.inference.marginal.density import MarginalDensity
from probmf.inference.marginal.host_density import CHUNK, HostDensity, in_chunks
from probmf.inference.marginal.spectral import Spectrum
from probmf.run.threads import Workers

#: Draws of all effects made by one matrix product.
BATCH = 500


class NotServedError(ValueError):
    """Importance sampling can't be trusted with this density; the message says why."""


class Evaluator:
    """Evaluates proposals by XLA's program, in chunks, side by side.

    Args:
        density: The density.
        run: The program of a chunk, compiled.
        pool: Threads.
        rng: Random numbers, for JAX keys of the effects.
    """

    def __init__(
        self,
        density: MarginalDensity,
        run: Any,
        pool: Workers,
        rng: np.random.Generator,
    ) -> None:
        """Keep them."""
        self.density, self.run, self.pool, self.rng = density, run, pool, rng

    def __call__(self, points: np.ndarray) -> Iterator[tuple[np.ndarray, SiteArrays]]:
        """Log densities, and sites with their effects."""
        outputs = self.pool.stream(self._one, self._pieces(points))
        for some, (values, sites) in zip(cut(points, CHUNK), outputs, strict=True):
            yield _finite(values[: len(some)]), {n: s[: len(some)] for n, s in sites.items()}

    def sites(self, points: np.ndarray) -> Iterator[SiteArrays]:
        """All sites at points, effects drawn anew."""
        return (sites for _, sites in self(points))

    def _pieces(self, points: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Points of one length, the last ones filled up, and keys."""
        for some in cut(points.astype(self.density.vector.dtype), CHUNK):
            whole = np.concatenate([some, np.repeat(some[-1:], CHUNK - len(some), axis=0)])
            # Not split from one of JAX, whose programs would be compiled for every number.
            yield whole, self.rng.integers(2**32, size=(CHUNK, 2), dtype=np.uint32)

    def _one(self, piece: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, SiteArrays]:
        value, sites = self.run(self.density, *piece)
        return np.asarray(value), {name: np.asarray(site) for name, site in sites.items()}


class _SitesAt:
    """Sites at points, from tables of effects; one program for every number of points."""

    def __init__(self, density: MarginalDensity) -> None:
        self.density, self.dtype = density, density.vector.dtype
        shapes = [(density.num_dims,), *density.prepared.pattern.shapes]
        parts = [np.zeros((CHUNK, *shape), self.dtype) for shape in shapes]
        self.run = density.compiled(_sites_at, *parts)

    def __call__(self, points: np.ndarray, tables: list[np.ndarray]) -> SiteArrays:
        parts = [np.asarray(part, self.dtype) for part in (points, *tables)]
        names: list[str] = []

        def run(*parts: np.ndarray) -> list[Array]:
            found = self.run(self.density, *parts)
            names[:] = found
            return list(found.values())

        return dict(zip(names, in_chunks(run, CHUNK, *parts), strict=True))


class HostEvaluator:
    """Evaluates proposals by LAPACK, side by side.

    Args:
        density: The density.
        host: The same by LAPACK.
        pool: Threads.
        rng: Random numbers of the effects.
    """

    def __init__(
        self, density: MarginalDensity, host: HostDensity, pool: Workers, rng: np.random.Generator
    ) -> None:
        """Nothing is compiled but the terms and sites, at the first call."""
        self.density, self.host, self.pool, self.rng = density, host, pool, rng
        self._sites = _SitesAt(density)

    def __call__(self, points: np.ndarray) -> Iterator[tuple[np.ndarray, SiteArrays]]:
        """Log densities, and sites with their effects."""
        found = self.pool.stream(self._one, self._tasks(points))
        for some in cut(points, CHUNK):
            values, tables = zip(*islice(found, len(some)), strict=True)
            stacked = [np.stack(parts) for parts in zip(*tables, strict=True)]
            yield _finite(np.asarray(values)), self._sites(some, stacked)

    def sites(self, points: np.ndarray) -> Iterator[SiteArrays]:
        """All sites at points, effects drawn anew."""
        return (sites for _, sites in self(points))

    def _tasks(self, points: np.ndarray) -> Iterator[tuple[float, float, list[np.ndarray], int]]:
        """Rest of the log density, noise precision, prior factors and a seed, by point."""
        for some in cut(points, CHUNK):
            extra, precision, *trils = self.host.terms(some)
            for index, seed in enumerate(self.rng.integers(2**63, size=len(some))):
                yield extra[index], precision[index], [tril[index] for tril in trils], seed

    def _one(
        self, task: tuple[float, float, list[np.ndarray], int]
    ) -> tuple[float, list[np.ndarray]]:
        extra, precision, trils, seed = task
        rng = np.random.default_rng(seed)
        value, tables = self.host.evidence.draw(trils, float(precision), rng)
        return extra + value, tables


class SpectralEvaluator:
    """Evaluates proposals of the one noise scale that is left when all prior scales are fixed.

    Args:
        density: A density of one dimension.
        rng: Random numbers of the effects.
    """

    def __init__(self, density: MarginalDensity, rng: np.random.Generator) -> None:
        """Decompose."""
        prepared = density.prepared
        if prepared.statistics is None:
            raise NotServedError("the design depends on sampled parameters")
        self.density, self.rng = density, rng
        _, _, trils = density.compiled(MarginalDensity.terms, density.vector)(
            density, density.vector
        )
        trils = [np.asarray(tril) for tril in trils]
        self.spectrum = Spectrum(prepared.pattern, prepared.statistics, trils)
        example = np.zeros((BATCH, density.num_dims), density.vector.dtype)
        self._terms = density.compiled(_prior_and_precision, example)
        self._sites = _SitesAt(density)

    def __call__(self, points: np.ndarray) -> Iterator[tuple[np.ndarray, SiteArrays]]:
        """Log densities, and no sites."""
        for some in cut(points, BATCH):
            prior, precision = self._terms_at(some)
            yield _finite(prior + self.spectrum.log_evidence(precision)), {}

    def sites(self, points: np.ndarray) -> Iterator[SiteArrays]:
        """All sites at points, by one matrix product for many."""
        for some in cut(points, BATCH):
            _, precision = self._terms_at(some)
            yield self._sites(some, self.spectrum.draw(precision, self.rng))

    def _terms_at(self, points: np.ndarray) -> list[np.ndarray]:
        """Prior and noise precision; one program for every number of points."""
        dtype = self.density.vector.dtype
        return in_chunks(lambda x: self._terms(self.density, x), BATCH, np.asarray(points, dtype))


def _sites_at(density: MarginalDensity, vectors: Array, *tables: Array) -> dict[str, Array]:
    return jax.lax.map(lambda one: density.sites_at(one[0], one[1:]), (vectors, *tables))


def _prior_and_precision(density: MarginalDensity, vectors: Array) -> list[Array]:
    return list(jax.vmap(lambda vector: density.terms(vector)[:2])(vectors))


def cut(points: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Points in pieces of a size, the last of what is left."""
    return (points[start : start + size] for start in range(0, len(points), size))


def _finite(values: np.ndarray) -> np.ndarray:
    """Log densities, minus infinity where there is none."""
    return np.where(np.isfinite(values), values, -np.inf)
