"""Fits of mixed-effects models: draws of coefficients, effects and scales."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from probmf.models.mixed import Design, MixedEffects
from probmf.results.history import History
from probmf.results.sampling import Sampling


@dataclass(frozen=True, eq=False, repr=False)
class MixedFit:
    """A fitted mixed-effects model.

    Attributes:
        model: The model that was fitted.
        design: The formula applied to the training data.
        samples: Draws by site name, each with leading (chain, draw) axes; a point fit has one
            chain of one draw. Sites whose priors are fixed values, and effects that the sampler
            integrated out, may be missing. Read-only.
        method: How it was fitted, such as "nuts".
        sampling: How the sampler's run went; None for a point fit.
        history: How an optimizer's search went, or None.

    Raises:
        ValueError: If there are no draws, a site is none of the model's, has another shape than
            the model gives it, or is not finite.
    """

    model: MixedEffects
    design: Design
    samples: Mapping[str, Float[np.ndarray, "chain draw ..."]]
    method: str
    sampling: Sampling | None = None
    history: History | None = None

    def __post_init__(self) -> None:
        """Check the draws against the model and freeze them."""
        samples = {name: np.asarray(value).view() for name, value in self.samples.items()}
        if not samples:
            raise ValueError("samples is empty; expected draws by site name.")
        leading = next(iter(samples.values())).shape[:2]
        shapes = self.site_shapes
        for site, value in samples.items():
            if site not in shapes:
                raise ValueError(
                    f"samples holds {site!r}, which is no site of the model; its sites are "
                    f"{', '.join(map(repr, shapes))}."
                )
            shape = shapes[site]
            if value.shape != (*leading, *shape) or len(leading) != 2 or 0 in leading:
                raise ValueError(
                    f"{site} has shape {value.shape}, expected (chains, draws"
                    f"{''.join(f', {size}' for size in shape)}), the first two as in all sites."
                )
            if not np.isfinite(value).all():
                raise ValueError(f"{site} is not finite everywhere, so nothing can be predicted.")
            value.flags.writeable = False
        if self.sampling is not None:
            self.sampling.check_draws(*leading)
        object.__setattr__(self, "samples", MappingProxyType(samples))

    @cached_property
    def site_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all sites but the response, without chain and draw."""
        dims, coords = self.model.dims(self.design), self.model.coords(self.design)
        shapes: dict[str, tuple[int, ...]] = {
            site: tuple(len(coords[name]) for name in names)
            for site, names in dims.items()
            if site != self.design.data.response_name
        }
        if self.model.response.site == "noise_scale" and self.design.noise is None:
            shapes["noise_scale"] = ()
        return shapes

    @property
    def num_chains(self) -> int:
        """Number of chains."""
        return int(next(iter(self.samples.values())).shape[0])

    @property
    def num_draws(self) -> int:
        """Draws per chain."""
        return int(next(iter(self.samples.values())).shape[1])

    def point(self) -> dict[str, np.ndarray]:
        """Parameters of a point fit by site name, without chain and draw axes.

        Raises:
            ValueError: If there are several draws.
        """
        if (self.num_chains, self.num_draws) != (1, 1):
            raise ValueError(
                f"The fit has {self.num_chains} chains of {self.num_draws} draws and hence no "
                "point; see samples."
            )
        return {name: value[0, 0] for name, value in self.samples.items()}

    def __repr__(self) -> str:
        """One line: what was fitted to what, and how."""
        draws = ""
        if (self.num_chains, self.num_draws) != (1, 1):
            draws = f"; {self.num_chains} chains of {self.num_draws:,} draws"
        if self.sampling is not None and not self.sampling.complete:
            draws += ", incomplete"
        return (
            f"MixedFit({self.method}: {self.model.formula}, {self.model.likelihood}; "
            f"{self.design.data.num_observations:,} observations{draws})"
        )
