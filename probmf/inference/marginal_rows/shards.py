"""Rows that are integrated out on many devices: each device's rows on it, and sums over all."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from probmf.inference.marginal_rows.evidence import Inputs, draw, value_and_gradient
from probmf.inference.marginal_rows.tiles import TileLayout, cut, num_partners, stack
from probmf.models.observations import Observations
from probmf.rows.placement import AXIS, deal, gather_rows, on_all, share_out, sum_devices
from probmf.rows.store import Side


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["tiles", "codes", "source"],
    meta_fields=["mesh"],
)
@dataclass(frozen=True, eq=False)
class TileShards:
    """Ratings by row of the side that is integrated out, by device; a pytree.

    Attributes:
        tiles: Each device's tiles, with an axis of devices in front.
        codes: Each device's rows; past the last row where a line has none.
        source: Where in the devices' lines, one device after the other, each row lies.
        mesh: The devices.
    """

    tiles: TileLayout
    codes: Int[Array, "devices lines"]
    source: Int[Array, " rows"]
    mesh: Mesh

    def on(self, mesh: Mesh) -> "TileShards":
        """The same on as many other devices."""
        tiles, codes = share_out((self.tiles, self.codes), mesh)
        source = jax.device_put(self.source, on_all(mesh))
        return replace(self, tiles=tiles, codes=codes, source=source, mesh=mesh)

    def draw(self, inputs: Inputs, noise: Float[Array, "rows1 d"]) -> Float[Array, "rows d"]:
        """Rows from their conditional, whole on every device; see `draw`."""

        def own_part(own: tuple[Array, TileLayout], given: tuple[Inputs, Array]) -> Array:
            (codes, tiles), (inputs, noise) = own, given
            return draw(tiles, _of_lines(codes, inputs), noise[codes])

        parts = self.codes, self.tiles
        found: Array = gather_rows(own_part, self.mesh, parts, self.source, (inputs, noise))
        return found


def deal_tiles(observations: Observations, side: Side, mesh: Mesh) -> TileShards:
    """Deal the rows of one side out to the devices of a mesh.

    Args:
        observations: The data.
        side: The side that is integrated out.
        mesh: A mesh with an axis 'row'.

    Returns:
        The rows, each device's on it.
    """
    rows = observations.by_row()[side]
    num, num_rows = mesh.shape[AXIS], len(rows.degree)
    lines, by_degree = -(-num_rows // num), np.argsort(rows.degree, kind="stable")
    turn, place = deal(num_rows, num)
    codes, source = np.full((num, lines), num_rows, np.int32), np.empty(num_rows, np.int32)
    codes[place, turn], source[by_degree] = by_degree, place * lines + turn
    parts = [rows.take(own[own < num_rows], lines) for own in codes]
    tiles = jax.tree.map(stack, *cut(parts, num_partners(observations, side)))
    shards = TileShards(tiles, jnp.asarray(codes), jnp.asarray(source), mesh)
    return shards.on(mesh)


@jax.custom_vjp
def sharded_evidence(shards: TileShards, inputs: Inputs) -> Float[Array, ""]:
    """`rows_evidence` on many devices.

    Args:
        shards: The ratings.
        inputs: Everything else, whole on every device.

    Returns:
        The log density, with its normalizing constants.
    """
    return _forward(shards, inputs)[0]


def _forward(shards: TileShards, inputs: Inputs) -> tuple[Array, Inputs]:
    def own_part(own: tuple[Array, TileLayout], inputs: Inputs) -> tuple[Array, Inputs]:
        codes, tiles = own
        local, back = jax.vjp(partial(_of_lines, codes), inputs)
        value, gradient = value_and_gradient(tiles, local)
        return value, back(gradient)[0]

    parts = shards.codes, shards.tiles
    found: tuple[Array, Inputs] = sum_devices(own_part, shards.mesh, parts, inputs)
    return found


def _of_lines(codes: Int[Array, " lines"], inputs: Inputs) -> Inputs:
    """Inputs with the scales of a device's lines; 1 for those without a row."""

    def own(scale: Array | None) -> Array | None:
        if scale is None or not scale.ndim:
            return scale
        return scale.at[codes].get(mode="fill", fill_value=1.0)

    of_lines = inputs._replace(
        bias_scale=own(inputs.bias_scale), factor_scale=own(inputs.factor_scale)
    )
    return of_lines.by_row(len(codes))


def _backward(gradient: Inputs, cotangent: Array) -> tuple[None, Inputs]:
    return None, jax.tree.map(lambda part: cotangent * part, gradient)


sharded_evidence.defvjp(_forward, _backward)
