r"""Newton's method for a top near which minus the second derivatives are about known.

With g the gradient and J about minus the second derivatives, a step is

.. math:: (J + \tfrac12 \operatorname{diag} |g|)^{-1} g ,

which is Newton's at the top. Where the logarithm of a scale goes to minus infinity the density
becomes flat as :math:`e^{2x}`, and J, of the order of :math:`e^{4x}`, does so before the gradient;
with the second term each step still goes a fixed way.
"""

from collections.abc import Callable

import numpy as np
import scipy.optimize

#: Share of the size of the gradient that is added to J.
DAMPING = 0.5
#: The longest step of a coordinate: a factor of seven for a scale.
LONGEST = 2.0
#: How far a search goes from its start: a factor of three million for a scale.
REACH = 15.0
#: Largest derivative, as a share of the value, at which a search that stops has arrived.
FLAT = 1e-6
#: Gain, as a share of the value, below which the quadratic's promise is let be: ten thousand times
#: the rounding of a sum over all observations.
LEAST = 1e-12
#: Share of what the slope promises that a step must gain, and how often it is made shorter.
ENOUGH, MOST_SHORTER = 1e-4, 20

Point = tuple[float, np.ndarray, np.ndarray]
InformedScore = Callable[[np.ndarray], Point]


def newton(
    score: InformedScore,
    start: np.ndarray,
    max_iterations: int = 200,
    callback: Callable[[scipy.optimize.OptimizeResult], None] | None = None,
    reach: float = REACH,
) -> scipy.optimize.OptimizeResult:
    """Climb a log density until its quadratic promises next to nothing more.

    Args:
        score: Log density, gradient, and about minus the second derivatives; any may be NaN.
        start: Where to begin.
        max_iterations: The most iterations.
        callback: Called after each.
        reach: How far each coordinate may go from its start.

    Returns:
        SciPy's result for minus the log density; `success` is False unless a stationary point was
        found.
    """
    start = np.asarray(start, np.float64)
    nit = nfev = 0

    def counted(vector: np.ndarray) -> Point:
        nonlocal nfev
        nfev += 1
        return score(vector)

    x, here = start, counted(start)
    success = _is_finite(here)
    while success:
        step, gain, least = _step(*here)
        success = gain <= least
        if success or nit >= max_iterations:
            break
        move = np.clip(x + step, start - reach, start + reach) - x
        found = _go(counted, x, here, move, least)
        if found is None:
            success = bool(np.max(np.abs(here[1])) <= FLAT * (1 + abs(here[0])))
            break
        x, here = found
        success, nit = True, nit + 1
        if callback is not None:
            callback(scipy.optimize.OptimizeResult(x=x, fun=-here[0]))
    return scipy.optimize.OptimizeResult(
        x=x, fun=-here[0], jac=-here[1], nit=nit, nfev=nfev, success=success
    )


def _step(
    value: float, slope: np.ndarray, information: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """The step, what the quadratic promises of it, and the least that is worth while."""
    least = LEAST * (1.0 + abs(value))
    curvatures, axes = np.linalg.eigh(information + DAMPING * np.diag(np.abs(slope)))
    # Along what is flat but for rounding there is nothing to gain, nor to divide by.
    step = axes @ ((axes.T @ slope) / np.maximum(curvatures, 10.0 * least))
    shorter = LONGEST / max(LONGEST, float(np.max(np.abs(step), initial=0.0)))
    return shorter * step, 0.5 * float(slope @ step), least


def _go(
    score: InformedScore, x: np.ndarray, here: Point, move: np.ndarray, least: float
) -> tuple[np.ndarray, Point] | None:
    """A point along a move that is high enough; None without one."""
    value, rise = here[0], float(here[1] @ move)
    if rise <= least:
        return None  # At the end of its reach.
    share = 1.0
    for _ in range(MOST_SHORTER):
        there = score(x + share * move)
        if not _is_finite(there):
            share *= 0.1
            continue
        if there[0] >= value + ENOUGH * share * rise:
            return x + share * move, there
        # To the top of the parabola through both values.
        lost = share * rise - (there[0] - value)
        share *= min(0.5, max(0.1, 0.5 * share * rise / lost))
    return None


def _is_finite(point: Point) -> bool:
    return all(np.all(np.isfinite(part)) for part in point)
