"""Names of the dimensions of a model's sites, and labels along them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Sites(NamedTuple):
    """Dimensions of sites by name, without chain and draw, and their coordinates.

    Attributes:
        dims: Names of dimensions by site.
        coords: Ids, levels or names by dimension, as the user has them.
    """

    dims: Mapping[str, list[str]]
    coords: Mapping[str, Any]

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Coordinates as arrays: numbers and dates as they are, other kinds as text."""
        return {name: _labels(values) for name, values in self.coords.items()}

    def shapes(self, *without: str) -> dict[str, tuple[int, ...]]:
        """Shapes of the sites, without chain and draw.

        Args:
            *without: Sites to leave out.
        """
        return {
            site: tuple(len(self.coords[name]) for name in names)
            for site, names in self.dims.items()
            if site not in without
        }

    def named(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Draws by site, without an axis of length one that has no name.

        One scale for each factor has shape (1, k), so that it isn't taken for one per row.

        Args:
            values: Draws by site, each with leading (chain, draw) axes.
        """
        return {
            site: value[:, :, 0]
            if site in self.dims and value.ndim == len(self.dims[site]) + 3
            else value
            for site, value in values.items()
        }


def _labels(values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim == 1 and array.dtype.kind in "iufmMb":
        return array
    return np.asarray([str(value) for value in values])
