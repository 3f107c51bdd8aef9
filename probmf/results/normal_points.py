"""Points for integrals over independent Normals in many dimensions."""

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri
from scipy.stats import qmc

#: Rows of the prior over which a point fit averages what it predicts of a row without ratings.
NUM_STRANGERS = 256


def normal_points(count: int, size: int) -> Float[np.ndarray, "count size"]:
    """Points of a scrambled Sobol sequence, always the same, as standard Normal numbers.

    Averages over them are far nearer to the integrals than those over as many random draws.

    Args:
        count: How many points; a power of two is best.
        size: Dimensions.

    Returns:
        The points.
    """
    power = max(0, int(count - 1).bit_length())
    points = qmc.Sobol(size, rng=17).random_base2(power)[:count]
    return np.asarray(ndtri(np.clip(points, 1e-12, 1 - 1e-12)))
