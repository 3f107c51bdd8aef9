r"""Rows on many devices: the one place that knows meshes.

The rows of a side are dealt out to the devices of a mesh like cards, bucket by bucket in order of
their degree, so that all have the same work. In a half-sweep each device solves its own rows, given
tables that every device holds whole; then the new rows are gathered once, and what is summed over
ratings is summed on the devices. Lines that need no others, such as users who are recommended to,
are shared between devices by `LineDevices`.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from probmf.rows.blocks import Bucket, choose_widths, chunk_lines, default_slots, fill_bucket
from probmf.rows.store import SIDES, RowRatings, RowStore, Side
from probmf.rows.values import RowResult, RowSums, RowValues
from probmf.settings import in_precision

#: Axes of a mesh that rows and chains are dealt out along.
AXIS, CHAINS = "row", "chain"
#: Arrays with an axis of devices in front, and arrays that every device has whole.
BY_DEVICE, WHOLE = PartitionSpec(AXIS), PartitionSpec()
#: Rows whose sums are added up first: a plain sum of millions loses digits in single precision.
SUMMED = 256

Devices = int | Sequence[jax.Device] | Mesh


@dataclass(frozen=True, eq=False)
class SideShards:
    """One side's rows by device.

    Attributes:
        buckets: The buckets with an axis of devices in front, each device's part on it.
        source: Where in the gathered lines (device by device, bucket by bucket) each row lies.
    """

    buckets: tuple[Bucket, ...]
    source: Int[Array, " rows"]


@dataclass(frozen=True, eq=False)
class RowShards:
    """Both sides' rows by device.

    Attributes:
        sides: The rows of each side.
        mesh: The devices.
    """

    sides: dict[Side, SideShards]
    mesh: Mesh

    #: Threads that the work is cut for: devices need none.
    workers = 1

    def replicate[Tree](self, tree: Tree) -> Tree:
        """Arrays whole on every device."""
        placed: Tree = jax.tree.map(partial(_on_all, self.mesh), tree)
        return placed


def row_mesh(devices: Devices) -> Mesh:
    """The mesh that the caller means.

    Args:
        devices: A number of devices, devices, or a mesh with an axis 'row'.

    Returns:
        A mesh with that axis.

    Raises:
        TypeError: If it is none of these.
        ValueError: If there are not so many devices, one is named twice or none is, the mesh
            lacks the axis, or this process would have none of them.
    """
    mesh = _mesh_of(devices, AXIS)
    if jax.process_index() not in {device.process_index for device in mesh.devices.flat}:
        raise ValueError(
            f"None of the {mesh.size} devices belongs to process {jax.process_index()}. Give "
            f"devices of every process, such as devices={jax.device_count()} for all."
        )
    return mesh


def chain_devices(devices: Devices) -> list[jax.Device]:
    """The devices that chains are dealt out to, one after the other.

    Args:
        devices: A number of devices, devices, or a mesh with an axis 'chain', of which other axes
            repeat the same computation, so that the first device along them serves.

    Returns:
        The devices.

    Raises:
        TypeError: If it is none of these.
        ValueError: If there are not so many devices, one is named twice or none is, the mesh
            lacks the axis, or a device belongs to another process.
    """
    found = list(_along(_mesh_of(devices, CHAINS), CHAINS)[:, 0])
    _require_own(found, "chains run on")
    return found


def chain_meshes(devices: Devices | None) -> list[Mesh]:
    """The meshes, each with an axis 'row', that chains whose rows are in shards are dealt out to.

    Args:
        devices: As of `chain_devices`. A mesh with an axis 'row' gives a mesh for each place along
            its axis 'chain', or one for all chains where it has none.

    Returns:
        The meshes; none unless rows are to be in shards.

    Raises:
        ValueError: If a device belongs to another process.
    """
    if not isinstance(devices, Mesh) or AXIS not in devices.axis_names:
        return []
    _require_own(devices.devices.flat, "chains run on")
    if CHAINS not in devices.axis_names:
        return [Mesh(_along(devices, AXIS)[:, 0], (AXIS,))]
    return [Mesh(own[:, 0], (AXIS,)) for own in _along(devices, CHAINS, AXIS)]


def _along(mesh: Mesh, *axes: str) -> np.ndarray:
    """The devices along some axes, and along all others together as the last."""
    first = [mesh.axis_names.index(axis) for axis in axes]
    moved = np.moveaxis(mesh.devices, first, range(len(first)))
    return moved.reshape(*(mesh.shape[axis] for axis in axes), -1)


def on_all(mesh: Mesh) -> NamedSharding:
    """The place of arrays that are whole on every device."""
    return NamedSharding(mesh, WHOLE)


def share_out[Tree](tree: Tree, mesh: Mesh) -> Tree:
    """Arrays with an axis of devices in front, from the host or another mesh, on their devices."""
    shared: Tree = jax.device_put(tree, NamedSharding(mesh, BY_DEVICE))
    return shared


def deal(count: int, num: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Turn in which each of some rows is dealt out, and which of the devices it goes to."""
    turn, place = np.divmod(np.arange(count), num)
    # Every other turn goes back, or the last device would have the longest of each.
    return turn, np.where(turn % 2, num - 1 - place, place)


@dataclass(frozen=True, eq=False)
class LineDevices:
    """Devices that share lines of which none needs another, such as users who are ranked for.

    Attributes:
        mesh: The devices; None is JAX's default one.
    """

    mesh: Mesh | None = None

    @property
    def count(self) -> int:
        """Number of parts that lines are cut into."""
        return 1 if self.mesh is None else int(self.mesh.shape[AXIS])

    def replicate(self, tree: Any) -> Any:
        """Arrays in the present precision, whole on every device."""
        return in_precision(tree) if self.mesh is None else _put(tree, self.mesh, WHOLE)

    def map(
        self, program: Callable[..., Any], lines: tuple[Any, ...], whole: tuple[Any, ...],
        **static: Hashable,
    ) -> Any:  # fmt: skip
        """Results of a program for lines, each device's on it.

        Args:
            program: Called with (*lines, *whole, **static); returns a pytree of arrays by line.
            lines: Pytrees of NumPy arrays with an axis of devices in front.
            whole: Pytrees of arrays from `replicate`.
            static: Static arguments.

        Returns:
            The results as NumPy arrays, those of one device after those of the one before.
        """
        if self.mesh is None:
            found = program(*_rounded(_own(lines)), *whole, **static)
            return jax.tree.map(np.asarray, found)
        own = _put(lines, self.mesh, BY_DEVICE)
        found = _map_lines(program, self.mesh, own, whole, tuple(static.items()))
        return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), found)


def _put(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    """Arrays from the host to each device what it needs, and not by way of the first one."""
    return jax.device_put(_rounded(tree), NamedSharding(mesh, spec))


def _rounded(tree: Any) -> Any:
    """NumPy arrays in JAX's present precision."""
    real = np.dtype(jnp.result_type(float))

    def rounded(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        return array.astype(real, copy=False) if array.dtype.kind == "f" else array

    return jax.tree.map(rounded, tree)


@partial(jax.jit, static_argnames=("program", "mesh", "static"))
def _map_lines(
    program: Callable[..., Any], mesh: Mesh, lines: tuple[Any, ...], whole: tuple[Any, ...],
    static: tuple[tuple[str, Hashable], ...],
) -> Any:  # fmt: skip
    def own_part(lines: tuple[Any, ...], whole: tuple[Any, ...]) -> Any:
        found = program(*_own(lines), *whole, **dict(static))
        return jax.tree.map(lambda x: x[None], found)

    return _on_each(own_part, mesh, BY_DEVICE)(lines, whole)


def line_devices(devices: Devices | None) -> LineDevices:
    """The devices that users are shared between.

    Args:
        devices: A number of devices, devices, or a mesh with an axis 'row'; None is JAX's default
            one.

    Returns:
        The devices.

    Raises:
        TypeError: If it is none of these.
        ValueError: If there are not so many devices, one is named twice or none is, the mesh
            lacks the axis, or a device belongs to another process.
    """
    if devices is None:
        return LineDevices()
    mesh = _mesh_of(devices, AXIS)
    _require_own(mesh.devices.flat, "users are shared between")
    return LineDevices(mesh)


def _require_own(devices: Iterable[jax.Device], what: str) -> None:
    for device in devices:
        if device.process_index != jax.process_index():
            raise ValueError(
                f"{device} belongs to process {device.process_index}, and {what} devices of the "
                "process that calls. Give some of jax.local_devices()."
            )


def spans_processes(mesh: Mesh | None) -> bool:
    """True if the devices belong to several processes."""
    return mesh is not None and len({one.process_index for one in mesh.devices.flat}) > 1


def _mesh_of(devices: Devices, axis: str) -> Mesh:
    if isinstance(devices, Mesh):
        if axis not in devices.axis_names:
            raise ValueError(
                f"devices is a mesh with the axes {devices.axis_names}; {axis}s are dealt out "
                f"along an axis named {axis!r}. Name one of them so."
            )
        return devices
    if isinstance(devices, int | np.integer) and not isinstance(devices, bool):
        present = jax.devices()
        if not 1 <= devices <= len(present):
            raise ValueError(
                f"devices is {devices}, but JAX sees {len(present)} "
                f"({present[0].platform}); give a number from 1 to {len(present)}."
            )
        return Mesh(np.array(present[:devices]), (axis,))
    chosen = list(devices) if isinstance(devices, Sequence) else []
    if not chosen or not all(isinstance(device, jax.Device) for device in chosen):
        raise TypeError(
            f"devices is {devices!r}; expected a number, a list of JAX devices, or a "
            f"jax.sharding.Mesh with an axis {axis!r}."
        )
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"devices names a device more than once: {chosen}.")
    return Mesh(np.array(chosen), (axis,))


def deal_rows(store: RowStore, mesh: Mesh) -> RowShards:
    """Deal the rows of both sides out to the devices of a mesh.

    Args:
        store: The ratings.
        mesh: A mesh with an axis 'row'.

    Returns:
        The rows, each device's on it.
    """
    return RowShards({side: _deal(store[side], mesh) for side in SIDES}, mesh)


def _deal(ratings: RowRatings, mesh: Mesh) -> SideShards:
    present = _own_places(mesh)
    num, by_degree = mesh.shape[AXIS], np.argsort(ratings.degree, kind="stable")
    widths, slots = choose_widths(ratings.degree), default_slots()
    bucket_of = np.searchsorted(widths, ratings.degree[by_degree])
    device, within = np.zeros((2, len(by_degree)), np.int32)
    buckets, begin = [], 0
    for index, width in enumerate(widths):
        rows = by_degree[bucket_of == index]
        most = -(-len(rows) // num)
        lines = min(chunk_lines(len(rows), int(width), slots), most)
        shape = (-(-most // lines), lines, int(width))
        turn, place = deal(len(rows), num)
        device[rows], within[rows] = place, begin + turn
        begin += shape[0] * lines
        own = {one: fill_bucket(ratings, rows[place == one], shape) for one in present}
        buckets.append(_on_own(mesh, own))
    return SideShards(tuple(buckets), _on_all(mesh, device * begin + within))


def _own_places(mesh: Mesh) -> set[int]:
    """Places along the axis of rows of this process's devices."""
    axis = mesh.axis_names.index(AXIS)
    here = jax.process_index()
    return {
        place[axis] for place, device in np.ndenumerate(mesh.devices)
        if device.process_index == here
    }  # fmt: skip


def _on_own(mesh: Mesh, parts: dict[int, Bucket]) -> Bucket:
    """Parts by their place along the axis of rows, each on its device, as one bucket."""
    sharding = NamedSharding(mesh, BY_DEVICE)
    first = next(iter(parts.values()))

    def placed(leaf: np.ndarray, name: str) -> Array:
        def own(index: Any) -> np.ndarray:
            part: np.ndarray = getattr(parts[index[0].start or 0], name)
            return part[None]

        return jax.make_array_from_callback((mesh.shape[AXIS], *leaf.shape), sharding, own)

    leaves = {name: leaf for name, leaf in first._asdict().items() if leaf is not None}
    return first._replace(**{name: placed(leaf, name) for name, leaf in leaves.items()})


def _on_all(mesh: Mesh, array: Any) -> Array:
    """An array whole on every device; every process has it."""
    # Unlike `device_put` this asks no other process whether it has the same.
    whole = np.asarray(array)
    return jax.make_array_from_callback(
        whole.shape, NamedSharding(mesh, WHOLE), lambda index: whole[index]
    )


@partial(
    jax.jit, static_argnames=("solve", "mesh", "likelihood", "method", "cg_steps")
)  # fmt: skip
def solve_shards(
    solve: Callable[..., RowResult],
    mesh: Mesh,
    buckets: tuple[Bucket, ...],
    source: Int[Array, " rows"],
    given: dict[str, Any],
    **options: Any,
) -> tuple[RowValues, RowSums]:
    """A half-sweep, each device's rows on it.

    Args:
        solve: Solves chunks of a bucket.
        mesh: The devices.
        buckets: See `SideShards`.
        source: Likewise.
        given: Arrays that `solve` wants by name.
        options: Its static arguments.

    Returns:
        The new rows by code, and sums over all of them, of length one; whole on every device.
    """

    def own_part(buckets: tuple[Bucket, ...], given: dict[str, Any]) -> tuple[Array, Array]:
        value, sums = _own_rows(partial(solve, **options), _own(buckets), given)
        # Lines without a row have no ratings, and sums of zero.
        total = jnp.stack([_total(x) for x in sums])
        return jax.lax.all_gather(value, AXIS, tiled=True), jax.lax.psum(total, AXIS)

    value, total = _on_each(own_part, mesh)(buckets, given)
    value = value[source]
    return RowValues(value[:, 0], value[:, 1:]), RowSums(*total[:, None])


@partial(jax.jit, static_argnames=("program", "mesh"))
def map_rows(
    program: Callable[..., Any],
    mesh: Mesh,
    buckets: tuple[Bucket, ...],
    source: Int[Array, " rows"],
    given: dict[str, Any],
) -> Any:
    """Results of a program for every row, each device's rows on it.

    Args:
        program: Called with (bucket, first chunk, number of chunks, capacity=..., **given); returns
            a pytree of arrays with one entry for each line.
        mesh: The devices.
        buckets: See `SideShards`.
        source: Likewise.
        given: Arrays that the program wants by name.

    Returns:
        The results by row, whole on every device.
    """
    return gather_rows(partial(_own_rows, program), mesh, buckets, source, given)


@partial(jax.jit, static_argnames=("program", "mesh", "likelihood", "side"))
def map_chunks(
    program: Callable[..., tuple[Any, Any]], mesh: Mesh, bucket: Bucket, *given: Any, **options: Any
) -> tuple[Any, Any]:
    """Results of a program for the chunks of a bucket, each device's on it.

    Args:
        program: Called with (bucket, *given, **options); returns two pytrees of arrays with one
            entry for each chunk.
        mesh: The devices.
        bucket: The bucket.
        given: Arrays that the program wants.
        options: Its static arguments.

    Returns:
        The first left by device, as the bucket is, and the second of all chunks, on every device.
    """

    def own_part(bucket: Bucket, given: tuple[Any, ...]) -> tuple[Any, Any]:
        own, gathered = program(_own(bucket), *given, **options)
        gather = partial(jax.lax.all_gather, axis_name=AXIS, tiled=True)
        return jax.tree.map(lambda x: x[None], own), jax.tree.map(gather, gathered)

    return _on_each(own_part, mesh, (BY_DEVICE, WHOLE))(bucket, given)


def gather_rows(
    program: Callable[..., Any], mesh: Mesh, parts: Any, source: Int[Array, " rows"], given: Any
) -> Any:
    """Results of a program for the rows of each device, by row; within a program.

    Args:
        program: Called with (parts, given); returns a pytree of arrays with an entry for each line.
        mesh: The devices.
        parts: A pytree of arrays with an axis of devices in front.
        source: Where in the gathered lines each row lies.
        given: A pytree of arrays, whole on every device.

    Returns:
        The results, whole on every device.
    """

    def own_part(parts: Any, given: Any) -> Any:
        gather = partial(jax.lax.all_gather, axis_name=AXIS, tiled=True)
        return jax.tree.map(gather, program(_own(parts), given))

    found = _on_each(own_part, mesh)(parts, given)
    return jax.tree.map(lambda x: x[source], found)


def sum_devices(program: Callable[..., Any], mesh: Mesh, parts: Any, given: Any) -> Any:
    """Sums over the devices of a program's results for the rows of each; within a program.

    Args:
        program: Called with (parts, given); returns a pytree of arrays.
        mesh: The devices.
        parts: A pytree of arrays with an axis of devices in front.
        given: A pytree of arrays, whole on every device.

    Returns:
        The sums, whole on every device.
    """

    def own_part(parts: Any, given: Any) -> Any:
        return jax.lax.psum(program(_own(parts), given), AXIS)

    return _on_each(own_part, mesh)(parts, given)


def share_slots[Tree](batches: Tree, mesh: Mesh) -> Tree:
    """Arrays (batch, slot) whose slots are shared between devices; within a program."""
    spec = NamedSharding(mesh, PartitionSpec(None, AXIS))
    shared: Tree = jax.lax.with_sharding_constraint(batches, spec)
    return shared


def _own[Tree](buckets: Tree) -> Tree:
    """A device's part, without the axis of devices."""
    own: Tree = jax.tree.map(lambda x: x[0], buckets)
    return own


def _own_rows(program: Callable[..., Any], buckets: Any, given: dict[str, Any]) -> Any:
    """Results of a program for the lines of all buckets of a device."""
    results = []
    for bucket in buckets:
        count = len(bucket.row)
        results.append(program(bucket, 0, count, capacity=count, **given))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *results)


def _on_each(program: Callable[..., Any], mesh: Mesh, out: Any = WHOLE) -> Any:
    """A function of buckets by device and of arrays that every device has."""
    return jax.shard_map(
        program, mesh=mesh, in_specs=(BY_DEVICE, WHOLE), out_specs=out,
        check_vma=False,
    )  # fmt: skip


def _total(x: Float[Array, " n"]) -> Float[Array, ""]:
    """A sum whose rounding grows with the root of the number of rows."""
    return jnp.sum(jnp.sum(jnp.pad(x, (0, -len(x) % SUMMED)).reshape(-1, SUMMED), axis=1))
