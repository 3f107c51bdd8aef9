"""Profile likelihood: the search for the places where it is low enough."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpyro.distributions as dist
import scipy.optimize

from probmf.inference.importance import climb
from probmf.inference.mixed.maximum_likelihood import minus_score, search
from probmf.inference.mixed.refit import Refit, alone, named
from probmf.inference.mixed.search_end import FLAT
from probmf.inference.mixed.standard_errors import shown
from probmf.models.mixed.arrays import MixedData
from probmf.results import MixedFit
from probmf.results.mixed_summary import scalars
from probmf.run.threads import Workers

#: Distance on the scale of logarithms and linear predictors beyond which a likelihood that has not
#: changed so far never does, and its digits may not suffice.
FAR = 15.0
#: Twice the nats below which it has not changed.
STILL = 1e-2
#: The most steps of a search for a place where the profile is low enough, each longer than the one
#: before it; and halvings back to where it can be computed.
MOST_STEPS, GROWTH, HALVINGS = 25, 1.6, 12
#: First step without a standard error, as a share of what changes a linear predictor by one.
START = 0.3
#: Accuracy of an end of a profile's interval, as a share of its first step.
ACCURACY = 1e-4


def profiles(refit: Refit, height: float, pool: Workers) -> dict[str, tuple[float, float]]:
    """Ends of the intervals of all parameters that have a profile, by name.

    Args:
        refit: The fit's search.
        height: Twice the drop of the log likelihood at an end.
        pool: Threads, for coefficients, each of which has problems of its own.
    """
    vector, found, mean = np.asarray(refit.top.x), {}, refit.data.mean
    minus, errors = minus_score(refit.problem), _errors(refit.fit)
    slopes = _slopes(refit, vector)
    places = {}
    for name, slope in slopes.items():
        # Its own coordinates; a cutpoint goes along with coefficients, too.
        own = np.ravel(refit.problem.places[name.partition("[")[0]])
        if len(moving := own[slope[own] != 0]) == 1 and not name.startswith(f"{mean.site}["):
            places[name] = int(moving[0])
    units = _units(refit.data)
    for name, place in places.items():
        rest = np.delete(np.arange(len(vector)), place)
        # What holds the number where the others move.
        along = -slopes[name][rest] / slopes[name][place]

        def profile(
            value: float, start: np.ndarray, place: int = place, rest: np.ndarray = rest,
            along: np.ndarray = along,
        ) -> tuple[float, np.ndarray]:  # fmt: skip
            return _constrained(minus, vector, place, rest, along, value, start)

        rise, unit = float(np.abs(slopes[name][place])), units.get(name, 1.0)
        step = float(min(errors.get(name, START * rise * unit) / rise, unit))
        ends = _ends(profile, vector[place], vector[rest], refit.top.fun, height, step, unit)
        lower, upper = (_value(refit, name, place, end) for end in ends)
        found[name] = lower, upper

    def of_coefficient(place: int) -> tuple[float, float]:
        name = f"{mean.site}[{mean.names[place]}]"
        center = float(refit.fit.samples[mean.site][0, 0, place])

        def without(value: float, start: np.ndarray) -> tuple[float, np.ndarray]:
            problem = refit.pose(_with_fixed(refit.data, place, value))
            end = search(problem, start if len(start) else problem.start())
            return float(end.fun), np.asarray(end.x)

        # Squares of residuals rise without end; other likelihoods may become flat.
        law, unit = refit.fit.model.likelihood, units[name]
        step = errors.get(name, START * unit)
        if law.normal:
            unit = np.inf
        step = min(step, unit)
        return _ends(without, center, np.zeros(0), refit.top.fun, height, step, unit)

    names = [f"{mean.site}[{column}]" for column in mean.names]
    return found | dict(zip(names, pool.map(of_coefficient, range(len(names))), strict=True))


def _units(data: MixedData) -> dict[str, float]:
    """Changes of coefficients that change a linear predictor by one somewhere."""
    return {
        f"{predictor.site}[{name}]": 1.0 / float(np.abs(column).max())
        for predictor in data.predictors
        for name, column in zip(predictor.names, predictor.population.T, strict=True)
    }


def _slopes(refit: Refit, vector: np.ndarray) -> dict[str, np.ndarray]:
    """Derivatives of each named number by the vector."""
    found: dict[str, np.ndarray] = {}
    values = refit.problem.estimates(vector)
    for site, slopes in shown(refit.problem.slopes(vector), values).items():
        for place in range(len(vector)):
            for name, value in _shown(refit.fit, site, slopes[..., place]):
                found.setdefault(name, np.zeros(len(vector)))[place] = value
    return found


def _value(refit: Refit, name: str, place: int, end: float) -> float:
    """The number of a name where a coordinate has some value, or its limit there."""
    if not np.isfinite(end):
        site = name.partition("[")[0]
        if site.endswith("_correlation"):
            return float(np.sign(end))
        support: Any = getattr(refit.data.priors[site], "support", None)
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        return float(getattr(support, "lower_bound" if end < 0 else "upper_bound", end))
    vector = np.array(refit.top.x)
    vector[place] = end
    return named(refit.fit, alone(refit.problem.estimates(vector)))[name]


def _errors(fit: MixedFit) -> dict[str, float]:
    return {row["name"]: row["se"] for row in fit.summary() if row["se"]}


def _shown(fit: MixedFit, site: str, values: np.ndarray) -> list[tuple[str, float]]:
    """Names of a site's numbers; of correlations `values` has the correlations themselves."""
    sites = fit.model.sites(fit.design)
    if not site.endswith("_correlation"):
        return [(n, float(v[0, 0])) for n, v in scalars(site, values[None, None], sites)]
    names = [name for name, _ in scalars(site, np.eye(len(values))[None, None], sites)]
    return list(zip(names, values[np.tril_indices(len(values), -1)].tolist(), strict=True))


def _with_fixed(data: MixedData, place: int, value: float) -> MixedData:
    """The data with a coefficient as part of the offset."""
    mean, kept = data.mean, [i for i in range(len(data.mean.names)) if i != place]
    added = mean.population[:, place] * value
    fixed = replace(
        mean, population=mean.population[:, np.array(kept, int)],
        names=tuple(mean.names[i] for i in kept),
        offset=added if mean.offset is None else mean.offset + added,
    )  # fmt: skip
    law: Any = data.priors[mean.site]
    rest = dist.Normal(
        *(np.broadcast_to(x, (len(mean.names),))[kept] for x in (law.loc, law.scale))
    )
    return replace(data, mean=fixed, priors={**data.priors, mean.site: rest})


def _constrained(
    minus: Callable[[np.ndarray], tuple[float, np.ndarray]], vector: np.ndarray, place: int,
    rest: np.ndarray, along: np.ndarray, value: float, start: np.ndarray,
) -> tuple[float, np.ndarray]:  # fmt: skip
    """The best value with a number held, and the others there."""
    full = np.array(vector)

    def some(others: np.ndarray) -> tuple[float, np.ndarray]:
        full[rest], full[place] = others, value + along @ (others - vector[rest])
        height, slope = minus(full)
        return height, slope[rest] + slope[place] * along

    if not len(rest):
        return some(start)[0], start
    end = climb(some, start)
    return float(end.fun), np.asarray(end.x)


def _ends(
    profile: Callable[[float, np.ndarray], tuple[float, np.ndarray]], center: float,
    start: np.ndarray, least: float, height: float, step: float, unit: float,
) -> tuple[float, float]:  # fmt: skip
    """Places on both sides of the top at which twice the drop is a height; infinite without one.

    Args:
        profile: The least value with a coordinate held, and where, given a start.
        center: The coordinate at the top.
        start: The others there.
        least: The value there.
        height: The height.
        step: First step.
        unit: Change of the coordinate that changes a logarithm or a linear predictor by one.
    """

    def excess(value: float, *starts: np.ndarray) -> tuple[float, np.ndarray]:
        """Twice the drop less the height, and the others there: the best from some starts."""
        ends = [profile(value, own) for own in starts]
        fun, others = min(ends, key=lambda own: own[0] if np.isfinite(own[0]) else np.inf)
        return 2.0 * (fun - least) - height, others

    found = []
    for side in (-1.0, 1.0):
        near, last, width, end = center, -height, step, side * np.inf
        near_others = start
        for _ in range(MOST_STEPS):
            still = last + height < STILL
            if still:
                width = min(width, FAR * unit - abs(near - center))
            far = near + side * width
            now, others = excess(far, near_others)
            for _ in range(HALVINGS):
                if np.isfinite(now):
                    break
                width /= 2.0
                far = near + side * width
                now, others = excess(far, near_others)
            if not np.isfinite(now):
                break
            if now > 0:
                # The others may have gone to a corner that no search leaves, such as a correlation
                # of one, so that each place is searched from both ends.
                end = float(
                    scipy.optimize.brentq(
                        lambda value, *ends: excess(value, *ends)[0],
                        near, far, (near_others, others), xtol=ACCURACY * step,
                    )
                )  # fmt: skip
                break
            if now + height < STILL:
                if abs(far - center) > 0.999 * FAR * unit:
                    break
            elif width >= unit and now - last < FLAT * width / unit:
                break
            near, near_others, last, width = far, others, now, width * GROWTH
        found.append(end)
    return found[0], found[1]
