"""Groups of an effect site's values, and the coefficients that they enter with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array


@dataclass(frozen=True)
class SiteLayout:
    """Arrangement of a site's values as (groups, coefficients).

    Attributes:
        name: The site.
        shape: Shape of its values.
        axis: The axis of the groups; None when all values belong to one group.
        is_flat: Whether the prior's density is one everywhere.
    """

    name: str
    shape: tuple[int, ...]
    axis: int | None
    is_flat: bool = False

    @property
    def num_groups(self) -> int:
        """Number of groups."""
        return 1 if self.axis is None else self.shape[self.axis]

    @property
    def dim(self) -> int:
        """Coefficients per group."""
        return int(np.prod(self.shape)) // self.num_groups

    def restore[Values: (Array, np.ndarray)](self, table: Values) -> Values:
        """A table (groups, coefficients) in the site's shape."""
        if self.axis is None:
            return table.reshape(self.shape)
        others: list[int] = [axis for axis in range(len(self.shape)) if axis != self.axis]
        stacked = table.reshape(self.num_groups, *(self.shape[axis] for axis in others))
        return stacked.transpose(np.argsort([self.axis, *others]))


@dataclass(frozen=True, eq=False)
class Found:
    """A site's layout and design.

    Attributes:
        layout: How its values are arranged.
        group: Group of each row; 0 when there is one, or the row does not involve the site.
        known: Rows whose group is known, as their coefficients are not all zero.
        design: Coefficients (rows, dim), at the latents of the probe.
        constant: Whether they depend on no latent value.
    """

    layout: SiteLayout
    group: np.ndarray
    known: np.ndarray
    design: np.ndarray
    constant: bool


class Shapes(dict[str, tuple[int, ...]]):
    """Shapes by site, which never change."""

    def __hash__(self) -> int:  # type: ignore[override]
        """By value, as compiled programs are told apart by it."""
        return hash(frozenset(self.items()))


class SiteChoice(NamedTuple):
    """The fate of a latent site.

    Attributes:
        site: The site.
        done: "integrated out exactly", "... by quadrature", "... by Laplace's approximation", or
            "sampled".
        reason: Why it is not integrated out, or how it enters.
    """

    site: str
    done: str
    reason: str


class Structure(NamedTuple):
    """Parts of a model that its evidence is computed from.

    Attributes:
        target: The observed site that the effects enter.
        hidden: Deterministic sites that depend on effects.
        shapes: Shape of every effect site.
        latent_shapes: Shape of every other latent site.
        found: Layout and design of every effect site.
        fixed_priors: Whether the effects' prior covariances depend on no latent.
        fixed_targets: Whether values, mask and the location without effects depend on no latent.
        observed: Location without effects, scale, value and mask of the rows.
        is_gaussian: Whether the observations are Normal or LogNormal, given the effects.
    """

    target: str
    hidden: frozenset[str]
    shapes: Mapping[str, tuple[int, ...]]
    latent_shapes: Mapping[str, tuple[int, ...]]
    found: Sequence[Found]
    fixed_priors: bool
    fixed_targets: bool
    observed: Mapping[str, Any]
    is_gaussian: bool = True
