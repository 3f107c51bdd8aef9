"""Starting points around the mode, for chains over scales and correlations only."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from probmf.data.keys import as_generator
from probmf.effects.lapack import on_cores
from probmf.inference.importance import NoModeError, find_mode
from probmf.inference.marginal.density import MarginalDensity
from probmf.inference.mixed.importance_sampler import MAX_DIMS


class ModeStart(NamedTuple):
    """Starting points and a first inverse mass matrix.

    Attributes:
        vectors: One per chain, drawn from the normal approximation at the mode.
        inverse_mass: Its covariance.
    """

    vectors: Float[np.ndarray, "chain d"]
    inverse_mass: Float[np.ndarray, "d d"]


def start_at_mode(density: MarginalDensity, key: Array, num_chains: int) -> ModeStart | None:
    """Draw starting points from the normal approximation at the mode.

    Args:
        density: The density of what is left.
        key: JAX key.
        num_chains: How many points.

    Returns:
        The start; None if there are too many parameters, no mode, or a point of it where the
        density is not finite.
    """
    size = density.num_dims
    if not 0 < size <= MAX_DIMS:
        return None
    try:
        with on_cores(1 if density.host is None else density.host.cores):
            mode = find_mode(density.score, density.start())
    except NoModeError:
        return None
    rng = as_generator(key)
    noise = rng.standard_normal((num_chains, size))
    vectors = mode.vector + noise @ np.linalg.cholesky(mode.covariance).T
    if not all(np.isfinite(density.score(vector)[0]) for vector in vectors):
        return None
    return ModeStart(vectors, mode.covariance)
