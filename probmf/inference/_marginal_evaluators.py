"""Log densities and effects of proposals, by whichever way is quickest for the model."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.infer.util import potential_energy

from probmf.inference._host_density import CHUNK, HostDensity, in_chunks
from probmf.inference._marginal_density import MarginalDensity
from probmf.inference._program import Program, compiled, quick_jit
from probmf.inference._spectral import Spectrum
from probmf.inference._workers import Workers

#: Draws of all effects made by one matrix product.
BATCH = 500


class NotServedError(ValueError):
    """Importance sampling can't be trusted with this density; the message says why."""


class Evaluator:
    """Evaluates proposals by XLA's program, in chunks, side by side.

    Args:
        density: The density.
        made: The traced program, its structure, and it compiled for a chunk.
        pool: Threads.
        rng: Random numbers, for JAX keys of the effects.
    """

    def __init__(
        self,
        density: MarginalDensity,
        made: tuple[Program, Any, Any],
        pool: Workers,
        rng: np.random.Generator,
    ) -> None:
        """Keep them."""
        self.density, self.pool, self.rng = density, pool, rng
        self.program, self.tree, self.run = made

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Log densities, and sites with their effects."""
        dtype = self.density.potential.vector.dtype
        count = math.ceil(len(points) / CHUNK)
        padded = np.concatenate([points, np.repeat(points[-1:], count * CHUNK - len(points), 0)])
        padded = padded.astype(dtype)
        # Not split from one of JAX, whose programs would be compiled for every number of points.
        keys = self.rng.integers(2**32, size=(len(padded), 2), dtype=np.uint32)
        pieces = [
            (padded[i : i + CHUNK], keys[i : i + CHUNK]) for i in range(0, len(padded), CHUNK)
        ]
        outputs = self.pool.map(self._one, pieces)
        values = np.concatenate([output[0] for output in outputs])[: len(points)]
        names = outputs[0][1].keys()
        sites = {
            name: np.concatenate([output[1][name] for output in outputs])[: len(points)]
            for name in names
        }
        return np.where(np.isfinite(values), values, -np.inf), sites

    def sites(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """All sites at points, effects drawn anew."""
        return self(points)[1]

    def _one(
        self, piece: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        leaves = self.run(self.program.consts, *piece)
        value, sites = jax.tree.unflatten(self.tree, leaves)
        return np.asarray(value), {name: np.asarray(site) for name, site in sites.items()}


class _Sites:
    """Sites at points, from tables of effects; one program for every number of points."""

    def __init__(self, density: MarginalDensity) -> None:
        self.dtype = density.potential.vector.dtype
        self.program, self.tree = density.sites

    def __call__(self, points: np.ndarray, tables: list[np.ndarray]) -> dict[str, np.ndarray]:
        evaluate = self.program.evaluate
        run = compiled(
            (self.program.text, "sites"),
            lambda: quick_jit(
                lambda consts, *parts: jax.lax.map(lambda one: evaluate(consts, *one), parts)
            ),
        )
        leaves = in_chunks(
            lambda *parts: run(self.program.consts, *parts), CHUNK,
            *(np.asarray(part, self.dtype) for part in (points, *tables)),
        )  # fmt: skip
        return jax.tree.unflatten(self.tree, leaves)


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
        self._sites = _Sites(density)

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Log densities, and sites with their effects."""
        extra, precision, *trils = self.host.terms(points)
        seeds = self.rng.integers(2**63, size=len(points))

        def one(index: int) -> tuple[float, list[np.ndarray]]:
            rng = np.random.default_rng(seeds[index])
            return self.host.evidence.draw(
                [tril[index] for tril in trils], float(precision[index]), rng
            )

        found = self.pool.map(one, range(len(points)))
        values = extra + np.asarray([value for value, _ in found])
        tables = [np.stack(parts) for parts in zip(*(own for _, own in found), strict=True)]
        return np.where(np.isfinite(values), values, -np.inf), self._sites(points, tables)

    def sites(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """All sites at points, effects drawn anew."""
        return self(points)[1]


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
        run = prepared.run(density.constrain_prior(density.potential.vector))
        trils = [np.asarray(tril) for tril in prepared.trils(run)]
        self.spectrum = Spectrum(prepared.pattern, prepared.statistics, trils)
        self._terms = quick_jit(jax.vmap(self._prior_and_precision))
        self._sites = _Sites(density)

    def _prior_and_precision(self, vector: Array) -> tuple[Array, Array]:
        density = self.density
        unravelled = density.potential.unravel(vector)
        prior = -potential_energy(density.prior, density.args, density.kwargs, unravelled)
        latents = density.constrain_prior(vector)
        _, precision, extra = density.prepared.system(density.prepared.run(latents), latents)
        return prior + extra, precision

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Log densities, and no sites."""
        prior, precision = self._terms(jnp.asarray(points, self.density.potential.vector.dtype))
        values = np.asarray(prior) + self.spectrum.log_evidence(np.asarray(precision))
        return np.where(np.isfinite(values), values, -np.inf), {}

    def sites(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """All sites at points, by one matrix product for many."""
        dtype = self.density.potential.vector.dtype
        pieces = []
        for start in range(0, len(points), BATCH):
            some = jnp.asarray(points[start : start + BATCH], dtype)
            _, precision = self._terms(some)
            tables = self.spectrum.draw(np.asarray(precision), self.rng)
            pieces.append(self._sites(np.asarray(some), tables))
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
