"""A run on disk: safetensors and JSON, replaced whole, so that a kill loses a chunk."""

import importlib.metadata
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probmf import processes, shards
from probmf.locks import alone_in
from probmf.run.fingerprint import fingerprint

FORMAT, VERSION = "probmf-checkpoint", 7
#: Packages whose versions decide the bits of a run.
PACKAGES = ("probmf", "jax", "jaxlib", "numpyro")
#: Entries of the manifest that tell of the run.
ENTRIES: dict[str, type] = {
    "digest": str, "done": int, "pieces": list, "state": dict, "texts": dict, "note": dict
}  # fmt: skip
#: Files that a run writes.
OWN = re.compile(r"((state|draws)-\d+\.\d+\.safetensors|run\.json)(\.new)?")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Versions of packages that are installed."""
    return {name: importlib.metadata.version(name) for name in packages}


@contextmanager
def _damage_told() -> Iterator[None]:
    """Say what to do where a file is not the one that was written."""
    try:
        yield
    except (shards.ShardError, OSError) as error:
        raise ValueError(
            f"{error}, so the run can't go on. Remove the directory to begin anew."
        ) from None


@dataclass(frozen=True)
class Kept:
    """Leaves of a run's pytree, and the pieces that were kept one after the other."""

    leaves: list[np.ndarray | str]
    pieces: list[dict[str, np.ndarray]]

    def restore(self, example: Any) -> Any:
        """The pytree that was written.

        The leaves of `example`, of the same structure, tell of what type each is: numbers, texts
        and NumPy arrays (of any length) stay such, others are for the device.
        """
        kinds, structure = jax.tree.flatten(example)
        if len(kinds) != len(self.leaves):
            raise ValueError(
                f"The checkpoint holds {len(self.leaves)} arrays, and the run has {len(kinds)}; it "
                "is that of another version of the package. Name another directory."
            )
        return jax.tree.unflatten(structure, list(map(_like, kinds, self.leaves)))


def stored(tree: Any) -> Any:
    """The same pytree with typed keys as plain numbers."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _like(kind: Any, leaf: np.ndarray | str) -> Any:
    if isinstance(kind, int | float | str):
        return type(kind)(leaf)
    if isinstance(kind, np.ndarray):
        return leaf
    if _is_key(kind):
        return jax.random.wrap_key_data(jnp.asarray(leaf), impl=jax.random.key_impl(kind))
    return jnp.asarray(leaf, kind.dtype)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def join(pieces: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays by name, (chain, draw, ...), of pieces one after the other."""
    if not pieces:
        return {}
    return {name: np.concatenate([one[name] for one in pieces], axis=1) for name in pieces[0]}


class Checkpoint:
    """A directory that a run is kept in; made if it is not there.

    `identity` is what makes the run the same: model, data, settings and key, as text. A directory
    that holds another run, or one of other versions of the packages that compute it, is refused.
    Where the run is shared, each process writes a range of every array.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: str,
        packages: tuple[str, ...] = PACKAGES,
        *,
        shared: bool = False,
    ) -> None:
        """Open or make the directory."""
        self.path, self.packages, self.group = Path(path), packages, processes.ProcessGroup(shared)
        self.digest = fingerprint(identity)
        #: Pieces that are written, by what `shards.write` said of each, and how many pieces of the
        #: run they hold: what is new at a write is one piece on disk.
        self._pieces: list[Any] = []
        self._num_kept, self._done = 0, -1
        #: What the run found out at its start and needs to go on; JSON.
        self.note: dict[str, Any] = {}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"checkpoint={str(path)!r} can't be made a directory: {error}"
            ) from None
        found = self._open()
        if found is not None:
            self.note = dict(found["note"])

    def _open(self) -> dict[str, Any] | None:
        """The manifest, if the folder holds this run; None if it holds none."""
        manifest = self.path / "run.json"
        if not self.begun:
            # A kill before the first manifest leaves files of our own, which count for nothing.
            others = [e.name for e in self.path.iterdir() if not OWN.fullmatch(e.name)]
            if others:
                raise ValueError(
                    f"checkpoint={str(self.path)!r} holds other files "
                    f"({', '.join(sorted(others)[:3])}) and no run; name a new or empty directory."
                )
            return None
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{manifest} is truncated or not JSON ({error}); remove it.") from None
        if not isinstance(found, dict):
            raise ValueError(f"{manifest} is not that of a run; name another directory.")
        if found.get("format") != FORMAT or found.get("version") != VERSION:
            raise ValueError(
                f"{manifest} was written by another program or version "
                f"({found.get('format')} {found.get('version')}); name another directory."
            )
        written, present = found.get("versions"), versions(self.packages)
        if not isinstance(written, dict):
            raise ValueError(f"{manifest} is not that of a run; name another directory.")
        # Other versions may compile other programs, so that the draws would not be the same.
        if others := [name for name in self.packages if written.get(name) != present[name]]:
            by = ", ".join(f"{name} {written.get(name)}" for name in others)
            now = ", ".join(f"{name} {present[name]}" for name in others)
            raise ValueError(
                f"{manifest} was written with {by}; now {now} runs, and would not go on with it "
                "bit for bit. Name another directory, or install the versions that wrote it."
            )
        with _damage_told(), shards.manifest_told(manifest):
            for name, kind in ENTRIES.items():
                if not isinstance(found[name], kind):
                    raise TypeError(f"{name} is {found[name]!r}")
        if found["digest"] != self.digest:
            raise ValueError(
                f"checkpoint={str(self.path)!r} holds another run: its model, data, settings or "
                "key, or a sampler's backend, differ. Give the same ones to resume it, or name "
                "another directory."
            )
        return found

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out of the directory; in all processes that share it."""
        with ExitStack() as stack:

            def lock() -> str:
                if self.group.rank:
                    return ""
                try:
                    stack.enter_context(alone_in(self.path, wait=False))
                except BlockingIOError:
                    raise ValueError(
                        f"checkpoint={str(self.path)!r} is in use: another run writes to this "
                        "directory now. Wait until it ends, or name another directory."
                    ) from None
                return ""

            self.group.each(lock)
            yield

    @property
    def begun(self) -> bool:
        """True where the folder holds a run."""
        return (self.path / "run.json").is_file()

    def read(self) -> Kept | None:
        """Contents of the folder; None when it is empty."""
        # Another process may have gone on with it since it was opened.
        found = self._open()
        if found is None:
            return None
        with _damage_told(), shards.manifest_told(self.path / "run.json"):
            state = shards.read(self.path, f"state-{found['done']}", found["state"])
            leaves: dict[str, Any] = state | found["texts"]
            ordered = [leaves[str(index)] for index in range(len(leaves))]
            pieces = [
                shards.read(self.path, f"draws-{index}", own)
                for index, own in enumerate(found["pieces"])
            ]
        self._pieces, self._num_kept, self._done = found["pieces"], len(pieces), int(found["done"])
        return Kept(ordered, pieces)

    def write(self, tree: Any, pieces: list[dict[str, np.ndarray]], done: int) -> None:
        """Keep a run and its new pieces; the manifest, replaced last, makes them count.

        Where the run is shared, all processes call it at the same step. What is there already is
        not written again: shards of another number of processes would take its place one by one.
        """
        if (done, len(pieces)) == (self._done, self._num_kept):
            return
        new = join(pieces[self._num_kept :])
        written = [self._save(f"draws-{len(self._pieces)}", new)] if new else []
        leaves = {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(stored(tree)))}
        texts = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, str)}
        arrays = {name: np.asarray(leaf) for name, leaf in leaves.items() if name not in texts}
        state, kept = self._save(f"state-{done}", arrays), [*self._pieces, *written]
        manifest = {
            "format": FORMAT, "version": VERSION, "digest": self.digest, "done": done,
            "state": state, "texts": texts, "pieces": kept,
            "versions": versions(self.packages), "note": self.note,
        }  # fmt: skip

        def finish() -> str:
            if self.group.rank:
                return ""
            shards.put_text(self.path / "run.json", json.dumps(manifest))
            for old in self.path.glob("state-*"):
                if not old.name.startswith(f"state-{done}."):
                    old.unlink()
            return ""

        self.group.each(finish)
        self._pieces, self._num_kept, self._done = kept, len(pieces), done

    def _save(self, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        return shards.write(self.path, name, arrays, shared=self.group.count > 1)


def open_checkpoint(
    path: str | os.PathLike[str] | None,
    identify: Callable[[], str],
    *,
    shared: bool = False,
    packages: tuple[str, ...] = PACKAGES,
) -> Checkpoint | None:
    """The checkpoint of a run that is the same in all processes which share it.

    None without a directory. `identify` gives the text of what makes the run the same, where it is
    needed. Processes that differ are refused.
    """
    if path is None and not shared:
        return None
    identity = identify()
    if shared:
        processes.agree("Model, data, settings or key", identity)
    return None if path is None else Checkpoint(path, identity, packages, shared=shared)
