"""Draws written to disk while a sampler runs, so that memory holds few of them."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import xarray

from probmf.models.sites import Sites
from probmf.results.draw_store import (
    FORMAT,
    POSTERIOR,
    STATS,
    VERSION,
    import_zarr,
    read_attributes,
)
from probmf.run.checkpoint import versions
from probmf.run.fingerprint import fingerprint

#: Bytes that a chunk of an array takes at most, if a single draw of it does not take more.
CHUNK_BYTES = 1 << 23
#: Bytes that wait in memory before they are written.
WAITING = 1 << 25


@dataclass(frozen=True)
class StreamSite:
    """An array of a store, by the shape of one draw; without a type that of the layout."""

    name: str
    group: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: np.dtype | None = None


@dataclass(frozen=True)
class StreamLayout:
    """Arrays of a store, and what to do when they take too much, as the start of a sentence."""

    sites: tuple[StreamSite, ...]
    coords: Mapping[str, np.ndarray]
    num_chains: int
    num_draws: int
    dtype: np.dtype
    method: str
    remedy: str = "Raise thin, lower num_samples or num_chains"

    def dtype_of(self, site: StreamSite) -> np.dtype:
        """Type of a site's numbers."""
        return self.dtype if site.dtype is None else site.dtype

    def bytes_of(self, site: StreamSite) -> int:
        """Bytes of one draw of a site."""
        return int(np.prod(site.shape)) * self.dtype_of(site).itemsize

    def chunk(self, site: StreamSite) -> int:
        """Draws of a chunk, so that the last one is hardly shorter than the others."""
        one = max(1, self.bytes_of(site))
        most = min(self.num_draws, max(1, CHUNK_BYTES // one))
        return -(-self.num_draws // -(-self.num_draws // most))

    @property
    def size(self) -> int:
        """Bytes of all arrays, which are not compressed: most bits of a draw are noise."""
        total = 0
        for site in self.sites:
            length = self.chunk(site)
            whole = -(-self.num_draws // length) * length
            total += whole * self.bytes_of(site)
        return total * self.num_chains


class DrawStream:
    """A zarr store that a run writes its draws to; made if it is not there.

    `identity` is what makes the run the same, as text. If it is `resumable`, a store of the same
    run may be there; anything else at the path is refused, and a disk that is too small.
    """

    def __init__(
        self, path: str | PathLike[str], identity: str, layout: StreamLayout, *, resumable: bool
    ) -> None:
        """Look at what is there; nothing is written yet."""
        import_zarr()
        self.path, self.layout = Path(path), layout
        self.digest = fingerprint(identity, versions())
        self._waiting: list[tuple[int, dict[str, np.ndarray]]] = []
        self._written = self._look(resumable)
        self._check_disk()

    def _look(self, resumable: bool) -> int | None:
        """Draws per chain that are there already; None if there is no store."""
        shown = f"stream={str(self.path)!r}"
        if not self.path.exists():
            return None
        if not self.path.is_dir():
            raise ValueError(f"{shown} is a file; name a directory to make.")
        found = read_attributes(self.path)
        if found is None:
            if any(self.path.iterdir()):
                raise ValueError(
                    f"{shown} holds other files and no draws; name a new or empty directory."
                )
            return None
        if found["digest"] != self.digest:
            raise ValueError(
                f"{shown} holds the draws of another run: its model, data, settings or key, the "
                "backend, or the versions of the packages differ. Name another directory."
            )
        if found["draws"] and not resumable:
            raise ValueError(
                f"{shown} holds draws of this run already. Give the checkpoint= that it was run "
                "with to go on with it, name another directory, or remove this one."
            )
        return int(found["draws"])

    def _check_disk(self) -> None:
        # What is there of an unfinished run is written over in place.
        there = sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())
        parent = next(
            p for p in (self.path.absolute(), *self.path.absolute().parents) if p.exists()
        )
        free = shutil.disk_usage(parent).free
        if self.layout.size - there > free:
            raise ValueError(
                f"The draws to stream take {self.layout.size / 2**20:,.1f} MiB, and the disk of "
                f"{str(self.path)!r} has {free / 2**20:,.1f} MiB free. {self.layout.remedy}, or "
                "name a directory on another disk."
            )

    def begin(self, done: int) -> None:
        """Make the store, or open it where a checkpoint counts `done` draws per chain."""
        if done > (self._written or 0):
            raise ValueError(
                f"The checkpoint counts {done} streamed draws per chain, but "
                f"stream={str(self.path)!r} holds {self._written or 0}: it was moved, removed or "
                "altered. Put it back, or begin anew with another checkpoint and stream."
            )
        if not self._written:
            # Of a store that was never written to, parts may be missing.
            try:
                self._make()
            except OSError as error:
                raise ValueError(f"stream={str(self.path)!r} can't be made: {error}") from None
        self._root = import_zarr().open_group(self.path, mode="r+")

    def _make(self) -> None:
        layout = self.layout
        self.path.mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT, "version": VERSION, "digest": self.digest, "draws": 0,
            "of": layout.num_draws, "method": layout.method,
        }  # fmt: skip
        root = import_zarr().open_group(self.path, mode="w", attributes=about)
        numbers = {"chain": np.arange(layout.num_chains), "draw": np.arange(layout.num_draws)}
        for group in (POSTERIOR, STATS):
            used = {dim for site in layout.sites if site.group == group for dim in site.dims}
            coords = numbers | {dim: v for dim, v in layout.coords.items() if dim in used}
            xarray.Dataset(coords=coords).to_zarr(
                self.path, group=group, mode="w", zarr_format=3, consolidated=False
            )
            for site in (s for s in layout.sites if s.group == group):
                dtype = layout.dtype_of(site)
                root[group].create_array(
                    site.name,
                    shape=(layout.num_chains, layout.num_draws, *site.shape),
                    chunks=(1, layout.chunk(site), *site.shape),
                    dtype=dtype, fill_value=np.nan if dtype.kind == "f" else 0, compressors=None,
                    dimension_names=["chain", "draw", *site.dims],
                )  # fmt: skip
        self._written = 0

    @property
    def written(self) -> int:
        """Draws per chain that are on disk."""
        return self._written or 0

    def append(self, start: int, draws: Mapping[str, np.ndarray]) -> None:
        """Take draws number start, start + 1, ... by site, (chain, draw, ...); they may wait."""
        self._drop(start)
        self._waiting.append((start, dict(draws)))
        if sum(value.nbytes for _, part in self._waiting for value in part.values()) > WAITING:
            self._write()

    def flush(self, done: int) -> None:
        """Write what waits of the first `done` draws per chain, and count it."""
        self._drop(done)
        self._write()

    def read(self, every: int = 1) -> dict[str, np.ndarray]:
        """Draws from disk by site, (chain, draw, ...): of each `every` that are there the last."""
        end = self.written
        return {
            site.name: np.asarray(self._root[site.group][site.name][:, every - 1 : end : every])
            for site in self.layout.sites
        }

    def count(self, name: str) -> int:
        """In how many of the draws on disk a statistic is true."""
        return int(np.sum(self._root[STATS][name][:, : self.written]))

    def _drop(self, start: int) -> None:
        """Forget what waits from a draw on: of a chunk that was interrupted."""
        self._waiting = [part for part in self._waiting if part[0] < start]

    def _write(self) -> None:
        if not self._waiting:
            return
        first = self._waiting[0][0]
        for site in self.layout.sites:
            values = np.concatenate([part[site.name] for _, part in self._waiting], axis=1)
            end = first + values.shape[1]
            self._put(site, first, end, values)
        if end > self.written:
            self._root.attrs["draws"] = end
            self._written = end
        self._waiting = []

    def _put(self, site: StreamSite, first: int, end: int, values: np.ndarray) -> None:
        """Write draws of one site; a file is replaced whole."""
        values = values.reshape(*values.shape[:2], *site.shape)
        self._root[site.group][site.name][:, first:end] = values


def stream_sites(sites: Sites, shapes: Mapping[str, tuple[int, ...]]) -> tuple[StreamSite, ...]:
    """The arrays of a stream by the shapes of one draw, dimensions named as by ArviZ."""
    found = []
    for name, shape in shapes.items():
        own, size = tuple(sites.dims.get(name, ())), tuple(shape)
        # One scale for each factor has shape (1, k).
        size = size[1:] if name in sites.dims and len(size) == len(own) + 1 else size
        if len(own) != len(size):
            own = tuple(f"{name}_dim_{axis}" for axis in range(len(size)))
        found.append(StreamSite(name, STATS if name == "lp" else POSTERIOR, size, own))
    return tuple(found)
