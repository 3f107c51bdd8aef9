"""Importance sampling in few dimensions: mode, mixtures of t distributions, Pareto k-hat."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special
from arviz_stats.base.array import array_stats

from probmf.inference.newton import FLAT, REACH, InformedScore, newton

#: Degrees of freedom and inflation of the covariance of the proposals.
DEGREES, INFLATION = 6.0, 1.2
#: Share and inflation of the defensive component, which bounds the weights.
DEFENSIVE_SHARE, DEFENSIVE_INFLATION = 0.1, 6.0
#: Above this Pareto k-hat importance sampling is not to be trusted (Vehtari et al. 2024).
K_HAT_GATE = 0.7
#: Relative gain of an iteration at which a search ends. The value is a sum over all observations,
#: whose rounding a line search would mistake for a slope if it went on.
FTOL = 1e-11
#: How often a search is begun anew.
MOST_STARTS = 4


class NoModeError(ValueError):
    """The density has no mode that could be found."""


class Mode(NamedTuple):
    """A mode and the curvature there."""

    vector: np.ndarray
    log_density: float
    covariance: np.ndarray
    num_evaluations: int


Score = Callable[[np.ndarray], tuple[float, np.ndarray]]


def find_mode(
    score: Score,
    start: np.ndarray,
    *,
    step: float = 1e-4,
    side_by_side: Callable[[np.ndarray], Sequence[np.ndarray]] | None = None,
    informed: InformedScore | None = None,
) -> Mode:
    """Climb with the analytic score; the Hessian is by differences of the score.

    Args:
        score: Log density and gradient at a vector.
        start: Where to begin.
        step: Step of the differences.
        side_by_side: Gradients at the rows of a matrix, if that is quicker than one by one.
        informed: The same with about minus the second derivatives, for Newton's method in place of
            L-BFGS.

    Returns:
        The mode with minus the inverse Hessian as covariance.

    Raises:
        NoModeError: If the density is not finite at the start, or the Hessian not negative.
    """
    count, size = 0, len(start)

    def minus(vector: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal count
        count += 1
        value, gradient = score(vector)
        if not (np.isfinite(value) and np.all(np.isfinite(gradient))):
            return np.inf, np.zeros_like(vector)
        return -value, -np.asarray(gradient, np.float64)

    def slopes(vectors: np.ndarray) -> np.ndarray:
        nonlocal count
        count += len(vectors)
        if side_by_side is not None:
            return -np.array(side_by_side(vectors)).reshape(len(vectors), size)
        return np.array([-score(vector)[1] for vector in vectors]).reshape(len(vectors), size)

    if informed is None:
        found = climb(minus, start)
    else:
        found = newton(informed, start)
        count += found.nfev
    if not np.isfinite(found.fun):
        raise NoModeError("The log density is not finite at the starting values.")
    hessian = differences(slopes, found.x, step)
    if not np.all(np.isfinite(hessian)):
        raise NoModeError("The log density has no curvature where the search ended.")
    values, axes = np.linalg.eigh(hessian)
    if size and values[-1] <= 0:
        raise NoModeError("The log density has no curvature where the search ended.")
    # A nearly flat direction gets a wide, but finite, proposal.
    values = np.clip(values, max(np.max(values, initial=0.0) * 1e-8, 1.0 / 25.0), None)
    covariance = (axes / values) @ axes.T
    return Mode(np.asarray(found.x), -float(found.fun), covariance, count)


def differences(
    slopes: Callable[[np.ndarray], np.ndarray], vector: np.ndarray, step: float
) -> np.ndarray:
    """The matrix of second derivatives by differences of slopes, two for each number.

    Args:
        slopes: Slopes at the rows of a matrix.
        vector: Where.
        step: Step of the differences.
    """
    moves = step * np.eye(len(vector))
    ahead, behind = np.split(slopes(np.concatenate([vector + moves, vector - moves])), 2)
    hessian = (ahead - behind) / (2 * step)
    return (hessian + hessian.T) / 2


def climb(
    minus: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    max_iterations: int = 200,
    callback: Callable[..., None] | None = None,
    reach: float = REACH,
) -> scipy.optimize.OptimizeResult:
    """Minimize by L-BFGS, whose first step has length one, within reach of the start.

    A plain BFGS jumps by the gradient, which is of the size of the data, and may land where a scale
    is so small that nothing leads back. (So does L-BFGS-B when it is given bounds.) A line search
    that fails away from a stationary point is begun anew from the best point.

    Args:
        minus: Value and gradient; the value may be infinite or NaN.
        start: Where to begin.
        max_iterations: The most iterations.
        callback: Called after each.
        reach: How far each coordinate may go from its start.

    Returns:
        SciPy's result; `success` is False unless a stationary point was found.
    """
    start = np.asarray(start, np.float64)
    value, gradient = minus(start)
    found = scipy.optimize.OptimizeResult(x=start, fun=value, jac=gradient, nit=0, success=True)
    if not len(start) or not np.isfinite(value) or not np.all(np.isfinite(gradient)):
        return found
    first, wall, best, nit = (value, gradient), value, (value, start, gradient), 0

    def walled(move: np.ndarray) -> tuple[float, np.ndarray]:
        # The line search divides by differences of values, so beyond the wall they are finite.
        nonlocal wall, best
        if np.max(np.abs(move), initial=0.0) <= reach:
            value, gradient = minus(start + move) if np.any(move) else first
            if np.isfinite(value) and np.all(np.isfinite(gradient)):
                wall = max(wall, value)
                if value < best[0]:
                    best = value, start + move, gradient
                return value, gradient
        return wall + 1e3 * (1 + abs(wall)), np.zeros_like(move)

    for _ in range(MOST_STARTS):
        found = scipy.optimize.minimize(
            walled, best[1] - start, jac=True, method="L-BFGS-B", callback=callback,
            options={
                "maxiter": max_iterations - nit, "maxcor": 30, "ftol": FTOL, "gtol": 1e-5,
            },
        )  # fmt: skip
        nit += found.nit
        found.fun, found.x, found.jac = best  # It may end beyond the wall.
        flat = np.max(np.abs(found.jac)) <= FLAT * (1 + abs(found.fun))
        found.success = bool(found.success or (flat and nit < max_iterations))
        if found.success or nit >= max_iterations:
            break
    found.nit = nit
    return found


@dataclass(frozen=True)
class Mixture:
    """A mixture of multivariate t distributions.

    Attributes:
        weights: Shares, summing to one.
        means: Centre of each component.
        factors: Lower factor of each component's scale matrix.
        degrees: Degrees of freedom of all.
    """

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray
    degrees: float = DEGREES

    @classmethod
    def around(cls, mean: np.ndarray, covariance: np.ndarray) -> "Mixture":
        """One component, slightly inflated, and a wide defensive one."""
        factor = np.linalg.cholesky(covariance * INFLATION)
        wide = np.sqrt(DEFENSIVE_INFLATION)
        return cls(
            np.array([1 - DEFENSIVE_SHARE, DEFENSIVE_SHARE]),
            np.stack([mean, mean]),
            np.stack([factor, factor * wide]),
        )

    def sample(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """Draws, stratified over the components, in random order."""
        which = np.searchsorted(np.cumsum(self.weights), (np.arange(num) + rng.random()) / num)
        which = rng.permutation(np.minimum(which, len(self.weights) - 1))
        normal = rng.normal(size=(num, self.means.shape[1]))
        scale = np.sqrt(self.degrees / rng.chisquare(self.degrees, size=num))
        moves = np.einsum("nij,nj->ni", self.factors[which], normal)
        return self.means[which] + scale[:, None] * moves

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Log density at points."""
        parts = [
            np.log(weight) + _log_t(points, mean, factor, self.degrees)
            for weight, mean, factor in zip(self.weights, self.means, self.factors, strict=True)
        ]
        return scipy.special.logsumexp(np.stack(parts), axis=0)


def _log_t(points: np.ndarray, mean: np.ndarray, factor: np.ndarray, degrees: float) -> np.ndarray:
    solved = scipy.linalg.solve_triangular(factor, (points - mean).T, lower=True)
    return log_standard_t(solved.T, degrees) - np.sum(np.log(np.diag(factor)))


def standard_t(rng: np.random.Generator, num: int, size: int, degrees: float) -> np.ndarray:
    """Draws of a multivariate t distribution of scale one, (num, size)."""
    normal = rng.standard_normal((num, size))
    return normal * np.sqrt(degrees / rng.chisquare(degrees, size=num))[:, None]


def log_standard_t(points: np.ndarray, degrees: float) -> np.ndarray:
    """Its log density at points, (num, size)."""
    size = points.shape[1]
    constant = (
        scipy.special.gammaln((degrees + size) / 2)
        - scipy.special.gammaln(degrees / 2)
        - 0.5 * size * np.log(degrees * np.pi)
    )
    found: np.ndarray = constant - 0.5 * (degrees + size) * np.log1p(
        np.sum(np.square(points), axis=1) / degrees
    )
    return found


def refit(points: np.ndarray, log_weights: np.ndarray, components: int, seed: int) -> Mixture:
    """A mixture fitted to weighted points by a few steps of EM, and a wide defensive component.

    Weights are truncated at the square root of the sample size times their mean (Ionides 2008), so
    that no single point makes a component.
    """
    weights = truncate(log_weights)
    rng = np.random.default_rng(seed)
    size = points.shape[1]
    mean = weights @ points
    centred = points - mean
    whole = (centred * weights[:, None]).T @ centred + 1e-12 * np.eye(size)
    means = points[rng.choice(len(points), size=components, p=weights)]
    covariances = np.stack([whole] * components)
    shares = np.full(components, 1 / components)
    for _ in range(20):
        logs = np.stack(
            [
                np.log(shares[c])
                + _log_t(points, means[c], np.linalg.cholesky(covariances[c]), DEGREES)
                for c in range(components)
            ]
        )
        owned = np.exp(logs - scipy.special.logsumexp(logs, axis=0)) * weights
        total = np.maximum(owned.sum(axis=1), 1e-12)
        shares = total / total.sum()
        for c in range(components):
            # The t's own weights: far points count less for its location and scale.
            factor = np.linalg.cholesky(covariances[c])
            square = np.sum(
                scipy.linalg.solve_triangular(factor, (points - means[c]).T, lower=True) ** 2,
                axis=0,
            )
            near = owned[c] * (DEGREES + size) / (DEGREES + square)
            means[c] = near @ points / max(near.sum(), 1e-12)
            centred = points - means[c]
            fitted = (centred * near[:, None]).T @ centred / total[c]
            # Few points must not make a component thin: shrink towards the whole.
            effective = total[c] ** 2 / max(np.sum(owned[c] ** 2), 1e-300)
            share = effective / (effective + 2 * size)
            covariances[c] = share * fitted + (1 - share) * whole
    factors = np.linalg.cholesky(
        np.concatenate([covariances * 1.05, whole[None] * DEFENSIVE_INFLATION])
    )
    return Mixture(
        np.append(shares * (1 - DEFENSIVE_SHARE), DEFENSIVE_SHARE),
        np.concatenate([means, mean[None]]),
        factors,
    )


def truncate(log_weights: np.ndarray) -> np.ndarray:
    """Normalized weights, truncated."""
    weights = np.exp(log_weights - np.max(log_weights))
    weights = np.minimum(weights, weights.mean() * np.sqrt(len(weights)))
    return weights / weights.sum()


def effective_size(log_weights: np.ndarray) -> float:
    """Effective number of draws, (sum w)^2 / sum w^2."""
    weights = np.exp(log_weights - np.max(log_weights))
    return float(weights.sum() ** 2 / np.sum(weights**2))


def smooth(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed normalized weights and k-hat (Vehtari et al. 2024), by ArviZ."""
    # A weight of zero is allowed, its logarithm is not.
    finite = np.maximum(np.asarray(log_weights, np.float64), np.max(log_weights) - 700.0)
    if np.ptp(finite) < 1e-12:
        return np.full(len(finite), 1 / len(finite)), 0.0
    # ArviZ takes log likelihoods, whose negatives are the log weights of leaving one out.
    smoothed, k_hat = array_stats.psislw(np.max(finite) - finite)
    weights = np.exp(smoothed)
    return weights / weights.sum(), float(k_hat)


def resample(weights: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Positions drawn by systematic resampling, in random order."""
    edges = np.cumsum(weights)
    where = (np.arange(num) + rng.random()) / num * edges[-1]
    return rng.permutation(np.minimum(np.searchsorted(edges, where), len(weights) - 1))
