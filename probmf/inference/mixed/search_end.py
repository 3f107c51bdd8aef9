"""Verdict on the point where a search for the best scales and correlations ended."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from probmf.inference.mixed.boundary import Boundary
from probmf.inference.mixed.identifiability import Finding

#: Nats by which the quadratic at the end may promise a higher point.
DECREMENT = 1e-3
#: Nats below which a change of a scale by a factor of e counts as none.
FLAT = 1e-3
#: Step of differences of the gradient, on the unconstrained scale.
STEP = 1e-3
#: Share of the largest element from which on a direction is said to go along a coordinate.
ALONG = 0.3


class End(NamedTuple):
    """The likelihood about a point, along all that is not on the boundary.

    Attributes:
        gain: Nats by which it is higher elsewhere, by its quadratic.
        flat: Sites of each direction along which it does not change.
        rising: Sites of each direction along which it bends upwards.
        inside: Which elements of the vector are not on the boundary.
        curvature: Minus second derivatives by these.
    """

    gain: float
    flat: list[frozenset[str]]
    rising: list[frozenset[str]]
    inside: np.ndarray
    curvature: np.ndarray


def look_around(
    minus: Callable[[np.ndarray], tuple[float, np.ndarray]],
    vector: np.ndarray,
    slope: np.ndarray,
    places: Mapping[str, np.ndarray],
    boundaries: Sequence[Boundary],
    *,
    one_sided: bool = False,
) -> End:
    """Gradient and curvature where a search ended.

    Args:
        minus: Minus log likelihood and its gradient.
        vector: The point.
        slope: The gradient there.
        places: Places of each site in the vector.
        boundaries: What lies on the boundary, where nothing is to be expected of the curvature.
        one_sided: Where a gradient is dear: differences from the one there, of a tenth of the step,
            which are good to about a ten-thousandth.

    Returns:
        The likelihood about it. Two more gradients for each element of the vector, or one.
    """
    names = np.empty(len(vector), object)
    inside = np.ones(len(vector), bool)
    for site, own in places.items():
        names[np.ravel(own)] = site
    for one in boundaries:
        inside[np.ravel(places[f"{one.term.name}_scale"])[one.zero]] = False
        if one.term.correlated:
            inside[np.ravel(places[f"{one.term.name}_correlation"])] = False
    step = 0.1 * STEP if one_sided else STEP
    moves = step * np.eye(len(vector))[inside]
    before = [slope if one_sided else minus(vector - move)[1] for move in moves]
    length = step if one_sided else 2 * step
    rows = np.array(
        [
            (minus(vector + move)[1] - own)[inside] / length
            for move, own in zip(moves, before, strict=True)
        ]
    )
    rows = rows.reshape(len(moves), len(moves))
    curvature = (rows + rows.T) / 2
    if not np.all(np.isfinite(curvature)):
        return End(np.inf, [], [], inside, curvature)
    values, axes = np.linalg.eigh(curvature)
    along = axes.T @ slope[inside]
    curved = values > FLAT
    gain = 0.5 * np.sum(along[curved] ** 2 / values[curved]) + np.sum(np.abs(along[~curved]))

    def sites(which: np.ndarray) -> list[frozenset[str]]:
        sizes = np.abs(axes[:, which].T)
        return [frozenset(names[inside][own >= ALONG * own.max()]) for own in sizes]

    flat, rising = sites(np.abs(values) <= FLAT), sites(values < -FLAT)
    return End(float(gain), flat, rising, inside, curvature)


def told(end: End, boundaries: Sequence[Boundary], known: Sequence[Finding]) -> list[Finding]:
    """Findings about a point where a search has arrived.

    Args:
        end: The likelihood about it.
        boundaries: What lies on the boundary there.
        known: What was found before the search, which is not said twice.

    Returns:
        One finding for all of the boundary, and for each direction without a maximum.
    """
    found = [_singular(boundaries)] if boundaries else []
    for sites, why in (
        *((own, "is flat along") for own in end.flat),
        *((own, "has no maximum, its Hessian not being definite, along") for own in end.rising),
    ):
        if not any(sites <= one.sites for one in (*known, *found)):
            listed = " and ".join(sorted(sites))
            text = (
                f"Where the search ended the likelihood {why} {listed}: the rows do not tell how "
                "large it is, and the value given is one of many. Leave a term of the formula out, "
                "or give a scale as a number in priors=."
            )
            found.append(Finding(sites, text))
    return found


def _singular(boundaries: Sequence[Boundary]) -> Finding:
    names = [name for one in boundaries for name in one.names]
    words = {"_scale": "is zero", "_correlation": "is one or minus one"}
    parts = [
        f"{name} "
        + next((w for end, w in words.items() if end in name), "has a covariance of lower rank")
        for name in names
    ]
    sites = {f"{one.term.name}_{part}" for one in boundaries for part in ("scale", "correlation")}
    why = "the rows show no such effect apart from the others and from noise. Leave it out"
    if all("_correlation" in name for name in names):
        why = (
            "the rows show no two effects but one, in a fixed proportion to the other. Write || "
            "in the formula for effects without a correlation, leave one of them out"
        )
    text = (
        f"The fit is singular, as {', '.join(parts)}: {why} of the formula, or use "
        "sample_marginal, which averages over all values that the rows allow."
    )
    return Finding(frozenset(sites), text)
