"""Search that made a best fit, made again, and its numbers by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from probmf.inference.mixed.maximum_likelihood import pose, search
from probmf.models.mixed.arrays import MixedData
from probmf.results import MixedFit
from probmf.results.mixed_summary import is_effect, scalars

#: Nats by which the likelihood may differ from that of the fit.
SAME = 1e-3


@dataclass(frozen=True)
class Refit:
    """The search that made a best fit, to be made again on other data or with a number held.

    Attributes:
        fit: The fit.
        num_nodes: Nodes of its quadrature.
    """

    fit: MixedFit
    num_nodes: int

    @cached_property
    def program(self) -> Any:
        """The model, centred."""
        return self.fit.model.centred.program

    @cached_property
    def data(self) -> MixedData:
        """Its argument."""
        found: MixedData = self.fit.model.arguments(self.fit.design)[0]
        return found

    @cached_property
    def problem(self) -> Any:
        """The objective."""
        return self.pose(self.data)

    @cached_property
    def top(self) -> Any:
        """Its top."""
        return search(self.problem, self.problem.start())

    def pose(self, data: MixedData) -> Any:
        """The objective of other data."""
        return pose(self.program, (data,), "likelihood", self.num_nodes)

    def check(self) -> None:
        """Refuse another number of nodes than the fit's."""
        known = float(getattr(self.fit.maximum, "log_likelihood", 0.0))
        if not abs(known + self.top.fun) < SAME:
            raise ValueError(
                f"With num_nodes={self.num_nodes} the log likelihood is {-self.top.fun:.6g}, and "
                f"that of the fit is {known:.6g}; give the num_nodes that it was fitted with."
            )


def named(fit: MixedFit, samples: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Numbers of a draw by name, but effects."""
    return {
        name: float(value[0, 0])
        for site, own in samples.items()
        if not is_effect(site)
        for name, value in scalars(site, np.asarray(own), fit.model.sites(fit.design))
    }


def alone(sites: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A point as draws of one chain of one draw."""
    return {site: np.asarray(value)[None, None] for site, value in sites.items()}
