"""Record of a sampler's run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from jaxtyping import Shaped

from probmf import html
from probmf.results.pickled import Pickled, frozen
from probmf.results.table import Table


@dataclass(frozen=True, eq=False, repr=False)
class Sampling(Pickled):
    """Record of a sampler's run, beside the draws.

    Attributes:
        stats: Statistics of single draws under ArviZ's names ("diverging", "energy", "lp",
            "n_steps", "tree_depth", "acceptance_rate", "step_size"), each of shape
            (chain, draw); empty for samplers that have none. Read-only.
        num_warmup: Draws per chain that were thrown away first.
        seconds: Wall-clock time of the whole run, compilation included.
        complete: False after an interruption: there are fewer draws than were asked for.
        info: Single numbers and words, such as "k_hat", "num_densities", "effective_fraction" or
            "max_tree_depth". Of independent draws of an approximation "approximation" says which,
            and "converged" ("yes" or "no") whether the search for it was done; of independent draws
            by importance sampling "effective" says how many the proposals are worth. "verdict" is
            what was found at the end of the run, in a few words.

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
        stats = frozen(self.stats)
        shape = next((value.shape for value in stats.values()), (0, 0))
        for name, value in stats.items():
            if value.ndim != 2 or value.shape != shape:
                raise ValueError(
                    f"The statistic {name!r} has shape {value.shape}, expected (chains, draws)"
                    f"{f' = {shape}' if len(shape) == 2 else ''}."
                )
        object.__setattr__(self, "stats", stats)
        object.__setattr__(self, "info", MappingProxyType(dict(self.info)))

    @property
    def is_independent(self) -> bool:
        """True for independent draws, which are of no chain."""
        return "approximation" in self.info or "effective" in self.info

    def num_effective(self, num_draws: int) -> float:
        """Effective number of independent draws."""
        return min(float(num_draws), float(self.info.get("effective", num_draws)))

    @property
    def verdict(self) -> str:
        """Verdict at the end of the run, in a few words; empty where nobody looked."""
        divergent = int(np.sum(self.stats.get("diverging", 0)))
        return str(self.info.get("verdict", f"{divergent:,} divergent" if divergent else ""))

    @property
    def _statistics(self) -> Table:
        """Each statistic's mean and extremes."""
        return Table(
            tuple(
                {
                    "statistic": name, "mean": float(np.mean(value)),
                    "least": float(np.min(value)), "greatest": float(np.max(value)),
                }
                for name, value in self.stats.items()
                if value.size
            )
        )  # fmt: skip

    def __repr__(self) -> str:
        """The time, each statistic's mean and extremes, and what else is known."""
        ended = "" if self.complete else ", incomplete"
        lines = [f"Sampling({self.num_warmup:,} draws of warmup, {self.seconds:.3g} s{ended})"]
        if len(self._statistics):
            lines.append(repr(self._statistics))
        lines += [f"{name}: {_told(value)}" for name, value in self.info.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        head, *_ = repr(self).split("\n")
        told = html.facts({name: _told(value) for name, value in self.info.items()})
        table = self._statistics._repr_html_() if len(self._statistics) else ""
        return html.together(html.lines([head]), table, told)

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


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
