"""Draws of NUTS by site: all at once, or chunk by chunk to a stream on disk."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from probmf.inference.drawn_back import drawn_back
from probmf.inference.gibbs.job import KEPT, KEPT_BYTES
from probmf.inference.nuts.transitions import CHUNK, STATS, Settings, constrain_chains, named_stats
from probmf.inference.potential import Potential
from probmf.inference.target import Target
from probmf.results.draw_store import STATS as STATS_GROUP
from probmf.results.draw_store import import_zarr
from probmf.run.draw_stream import WAITING, DrawStream, StreamLayout, StreamSite, stream_sites

#: Statistics that are no floating numbers.
KINDS = {"n_steps": np.dtype(int), "tree_depth": np.dtype(int), "diverging": np.dtype(bool)}


@dataclass(frozen=True)
class NutsDraws:
    """From draws on the unconstrained scale to draws by site.

    Attributes:
        target: What is sampled.
        potential: Its density.
        recover: Whether what was integrated out is drawn back.
        keys: A key for each draw, (chain, draw), so that no draw depends on how many there are.
    """

    target: Target
    potential: Potential
    recover: bool
    keys: Array

    def num_bytes(self, settings: Settings) -> int:
        """Memory of all draws: vectors, twice while they are joined, and effects drawn back."""
        target = self.target
        numbers = 2 * self.potential.num_dims
        if self.recover:
            named = target.source.sites(target.data if target.design is None else target.design)
            shapes = named.shapes()
            numbers += sum(math.prod(shapes.get(site, ())) for site in target.sites)
        size: int = numbers * jnp.dtype(jnp.result_type(float)).itemsize
        return size * settings.num_chains * settings.num_samples

    def all_of(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """All draws by site; after an interruption the first of them."""
        count = vectors.shape[1]
        if self.target.sites:
            return drawn_back(lambda at: self.of(vectors[:, at], at), count)
        return self.of(vectors, np.arange(count))

    def of(self, vectors: np.ndarray, at: Int[np.ndarray, " draw"]) -> dict[str, np.ndarray]:
        """Some draws of each chain by site."""
        keys = self.keys[:, np.minimum(at, self.keys.shape[1] - 1)]
        samples = constrain_chains(self.potential, vectors)
        return self.target.with_effects(samples, keys, recover=self.recover)


class NutsStream:
    """Stream that a run of NUTS writes its draws to.

    Args:
        path: The store.
        identity: What makes the run the same, as text.
        draws: From vectors to sites.
        settings: The run's.
        method: How the fit calls its method.
        resumable: Whether the run has a checkpoint.

    Raises:
        ImportError: If zarr is not installed.
        ValueError: If something else is at `path`, or the disk is too small.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        identity: str,
        draws: NutsDraws,
        settings: Settings,
        *,
        method: str,
        resumable: bool,
    ) -> None:
        """Find out what a draw holds, and look at what is there; nothing is written yet."""
        import_zarr()
        self._draws, chains = draws, settings.num_chains
        origin = np.zeros((chains, 1, draws.potential.num_dims))
        at = np.zeros(1, int)
        self._shapes = {name: value.shape[2:] for name, value in draws.of(origin, at).items()}
        target = draws.target
        named = target.source.sites(target.data if target.design is None else target.design)
        sites, coords = stream_sites(named, self._shapes), named.labels
        stats = tuple(
            StreamSite(name, STATS_GROUP, (), (), KINDS.get(name))
            for name in (*STATS, "tree_depth")
        )
        layout = StreamLayout(
            sites + stats, coords, chains, settings.num_samples,
            np.dtype(jnp.result_type(float)), method, "Lower num_samples or num_chains",
        )  # fmt: skip
        self._store = DrawStream(
            path, f"{identity}|recover={draws.recover}", layout, resumable=resumable
        )
        size = max(1, sum(layout.bytes_of(site) for site in sites))
        kept = max(KEPT, KEPT_BYTES // size)
        self.thin = max(1, -(-settings.num_samples * chains // kept))
        # Draws of a chunk that are by site at the same time, so that memory is bounded.
        self._step = int(np.clip(WAITING // (size * chains), 1, CHUNK))
        total = chains * settings.num_samples
        self.note = (
            f"keeps {total // self.thin:,} draws; writes {total:,} draws, "
            f"{layout.size / 2**20:,.0f} MiB, to {path}"
        )

    @property
    def written(self) -> int:
        """Draws per chain that are on disk."""
        return self._store.written

    def begin(self, done: int) -> None:
        """Make the store, or open it where a checkpoint counts `done` draws per chain."""
        self._store.begin(done)

    def append(self, start: int, draws: Mapping[str, np.ndarray]) -> None:
        """Take draws number start, start + 1, ... of each chain; they may wait in memory.

        They are "vectors", (chain, draw, dims), and "stats", (chain, draw, statistic).
        """
        vectors, stats = draws["vectors"], named_stats(draws["stats"])
        count = vectors.shape[1]
        for first in range(0, count, self._step):
            # A last short part would be a program of its own.
            at = np.minimum(np.arange(first, first + self._step), count - 1)
            own = min(self._step, count - first)
            part = self._draws.of(vectors[:, at], start + at)
            found = {name: value[:, :own] for name, value in part.items()}
            found |= {name: value[:, first : first + own] for name, value in stats.items()}
            self._store.append(start + first, found)

    def flush(self, done: int) -> None:
        """Write what waits of the first `done` draws per chain, and count it."""
        self._store.flush(done)

    def read(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
        """Samples and statistics of some of the draws, and what is told of the run."""
        every = min(self.thin, self.written)
        found = self._store.read(every)
        samples = {
            name: found[name].reshape(*found[name].shape[:2], *shape)
            for name, shape in self._shapes.items()
        }
        stats = {name: found[name] for name in (*STATS, "tree_depth")}
        info = {
            "stream": str(self._store.path.absolute()), "streamed_draws": self.written,
            "thin": every, "num_divergent": self._store.count("diverging"),
        }  # fmt: skip
        return samples, stats, info
