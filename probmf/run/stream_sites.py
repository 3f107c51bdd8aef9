"""Arrays of a stream of draws, with the names and dimensions of `to_arviz`."""

from collections.abc import Mapping

from probmf.models.sites import Sites
from probmf.results.draw_store import POSTERIOR, STATS
from probmf.run.draw_stream import StreamSite


def stream_sites(sites: Sites, shapes: Mapping[str, tuple[int, ...]]) -> tuple[StreamSite, ...]:
    """The arrays of a stream; dimensions that have no name are called as ArviZ calls them.

    Args:
        sites: Names of the model's dimensions.
        shapes: Shapes of one draw by site; "lp" counts as a statistic.

    Returns:
        The arrays.
    """
    found = []
    for name, shape in shapes.items():
        own, size = tuple(sites.dims.get(name, ())), tuple(shape)
        # One scale for each factor has shape (1, k).
        size = size[1:] if name in sites.dims and len(size) == len(own) + 1 else size
        if len(own) != len(size):
            own = tuple(f"{name}_dim_{axis}" for axis in range(len(size)))
        found.append(StreamSite(name, STATS if name == "lp" else POSTERIOR, size, own))
    return tuple(found)
