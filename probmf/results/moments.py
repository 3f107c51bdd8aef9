"""Means and standard deviations over all sweeps of what a sampler draws."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from probmf.results.pickled import Pickled, frozen


@dataclass(frozen=True, eq=False, repr=False)
class RowMoments(Pickled):
    """Running moments of biases and factors, or of the effects of a mixed model, by chain.

    They count every sweep after the warm-up, also those whose rows were not kept. Biases and
    effects can be compared between chains. Factors can't: their posterior is the same under a
    common rotation of both sides, so each chain has settled on one of its own, and a chain that
    wanders among rotations has means that shrink towards zero. Rotate the chains' means towards
    each other before they are averaged; for predictions look at scores.

    Attributes:
        mean: Means by site, (chain, ...). Read-only.
        sd: Standard deviations over the sweeps of a chain, (chain, ...). Read-only.
        num_sweeps: Sweeps of each chain.

    Raises:
        ValueError: If a site lacks one of both, or their shapes differ.

    Example:
        >>> import numpy as np
        >>> moments = RowMoments({"user_bias": np.array([[0.0], [2.0]])},
        ...                      {"user_bias": np.array([[1.0], [1.0]])}, 100)
        >>> [value.tolist() for value in moments.pooled("user_bias")]
        [[1.0], [1.4142135623730951]]
    """

    mean: Mapping[str, Float[np.ndarray, "chain ..."]]
    sd: Mapping[str, Float[np.ndarray, "chain ..."]]
    num_sweeps: int

    def __post_init__(self) -> None:
        """Check the shapes and freeze the arrays."""
        for field in ("mean", "sd"):
            object.__setattr__(self, field, frozen(getattr(self, field)))
        shapes = [{name: v.shape for name, v in part.items()} for part in (self.mean, self.sd)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"mean has the shapes {shapes[0]}, but sd has {shapes[1]}.")

    def __repr__(self) -> str:
        """Sites, and the number of sweeps."""
        chains = len(next(iter(self.mean.values()), ()))
        return (
            f"RowMoments(mean and sd of {', '.join(self.mean)} over {self.num_sweeps:,} sweeps of "
            f"{chains} chain{'s'[: chains != 1]})"
        )

    def pooled(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over the sweeps of all chains.

        Args:
            site: A site that chains can be compared in: biases, or effects of a mixed model.

        Returns:
            Both, without the axis of the chains.

        Raises:
            ValueError: If there is no such site, or it holds factors, which have to be aligned
                first.
        """
        if site not in self.mean:
            raise ValueError(
                f"There are no moments of {site!r}, but of: {', '.join(map(repr, self.mean))}."
            )
        if site in ("user_factors", "item_factors") and len(self.mean[site]) > 1:
            raise ValueError(
                f"{site} of different chains may be rotated against each other, so their mean says "
                "nothing. Align the chains' means first, or predict pairs."
            )
        mean = self.mean[site].astype(np.float64)
        center = mean.mean(axis=0)
        square = np.square(self.sd[site].astype(np.float64)) + np.square(mean - center)
        return center, np.sqrt(square.mean(axis=0))
