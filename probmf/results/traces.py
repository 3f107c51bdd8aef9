"""Numbers noted at every sweep of a sampler that keeps rows at few of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from probmf.results.pickled import Pickled, frozen


@dataclass(frozen=True, eq=False)
class Watched:
    """Expected ratings of chosen pairs, averaged over all sweeps of all chains.

    Attributes:
        user: Codes of the users, in the order of the pairs that were asked for.
        item: Codes of the items.
        mean: Posterior mean of the expected rating.
        sd: Its posterior standard deviation (noise left out).
    """

    user: Int[np.ndarray, " n"]
    item: Int[np.ndarray, " n"]
    mean: Float[np.ndarray, " n"]
    sd: Float[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Traces(Pickled):
    """Numbers of every sweep after the warm-up.

    Attributes:
        values: By name, (chain, sweep, ...): "lp" (log joint density up to a constant),
            "intercept", every scale that is sampled, and "probe_score", scores of the probes.
            Read-only.
        probe_user: Codes of the probes' users.
        probe_item: Codes of the probes' items.
        thin: Rows were kept at every `thin`-th sweep.
        watched: Averages of the pairs that were asked for, or None.
    """

    values: Mapping[str, Float[np.ndarray, "chain sweep ..."]]
    probe_user: Int[np.ndarray, " p"]
    probe_item: Int[np.ndarray, " p"]
    thin: int
    watched: Watched | None = None

    def __post_init__(self) -> None:
        """Freeze the arrays."""
        object.__setattr__(self, "values", frozen(self.values))

    def __repr__(self) -> str:
        """Names, and the number of sweeps."""
        chains, sweeps = next(iter(self.values.values())).shape[:2]
        return (
            f"Traces({', '.join(self.values)}: {sweeps:,} sweeps of {chains} "
            f"chain{'s'[: chains != 1]})"
        )
