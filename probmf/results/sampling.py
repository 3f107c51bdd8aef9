"""How a sampler's run went."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from jaxtyping import Shaped

from probmf.results.pickled import Pickled


@dataclass(frozen=True, eq=False)
class Sampling(Pickled):
    """What a sampler tells of its run, beside the draws.

    Attributes:
        stats: Statistics of single draws under ArviZ's names ("diverging", "energy", "lp",
            "n_steps", "tree_depth", "acceptance_rate", "step_size"), each of shape
            (chain, draw); empty for samplers that have none. Read-only.
        num_warmup: Draws per chain that were thrown away first.
        seconds: Wall-clock time of the whole run, compilation included.
        complete: False after an interruption: there are fewer draws than were asked for.
        info: Single numbers and words, such as "k_hat", "num_densities", "effective_fraction" or
            "max_tree_depth". Of independent draws of an approximation "approximation" says which,
            and "converged" ("yes" or "no") whether the search for it was done.

    Raises:
        ValueError: If a statistic is not of shape (chain, draw), or they differ in shape.

    Example:
        >>> import numpy as np
        >>> sampling = Sampling({"diverging": np.zeros((4, 100), bool)}, 500, 2.5)
        >>> sampling.stats["diverging"].sum()
        np.int64(0)
    """

    stats: Mapping[str, Shaped[np.ndarray, "chain draw"]]
    num_warmup: int
    seconds: float
    complete: bool = True
    info: Mapping[str, float | int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the shapes and freeze the arrays."""
        stats = {name: np.asarray(value).view() for name, value in self.stats.items()}
        shape = next((value.shape for value in stats.values()), (0, 0))
        for name, value in stats.items():
            if value.ndim != 2 or value.shape != shape:
                raise ValueError(
                    f"The statistic {name!r} has shape {value.shape}, expected (chains, draws)"
                    f"{f' = {shape}' if len(shape) == 2 else ''}."
                )
            value.flags.writeable = False
        object.__setattr__(self, "stats", MappingProxyType(stats))
        object.__setattr__(self, "info", MappingProxyType(dict(self.info)))

    def check_draws(self, num_chains: int, num_draws: int) -> None:
        """Refuse statistics of another number of draws.

        Args:
            num_chains: Chains of the samples.
            num_draws: Draws per chain.

        Raises:
            ValueError: If a statistic has another shape.
        """
        for name, value in self.stats.items():
            if value.shape != (num_chains, num_draws):
                raise ValueError(
                    f"The statistic {name!r} of sampling has shape {value.shape}, but the samples "
                    f"have {num_chains} chains of {num_draws} draws."
                )
