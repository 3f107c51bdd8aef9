"""Confidence intervals of a best fit: Wald's, by profile likelihood, by parametric bootstrap."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import jax
import numpy as np
import numpyro.distributions as dist
import scipy.optimize
from jax.typing import ArrayLike
from numpyro import handlers
from scipy.special import ndtri

from probmf.data import as_key
from probmf.inference.importance import climb
from probmf.inference.mixed.maximum_likelihood import minus_score, pose
from probmf.inference.mixed.search_end import FLAT
from probmf.inference.mixed.standard_errors import shown
from probmf.models.mixed.arrays import MixedData
from probmf.results import MixedFit
from probmf.results.asked import check_choice, check_interval
from probmf.results.mixed_summary import is_effect, scalars
from probmf.results.mixtures import tails
from probmf.results.priors import draw_prior
from probmf.results.table import Table
from probmf.run.checks import check_counts
from probmf.run.threads import blas_cores
from probmf.settings import own_settings

type Method = Literal["wald", "profile", "bootstrap"]

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
#: Nats by which the likelihood may differ from that of the fit.
SAME = 1e-3


def confint(
    fit: MixedFit,
    *,
    method: Method = "profile",
    interval: float = 0.95,
    num_samples: int = 500,
    num_nodes: int = 1,
    key: ArrayLike | None = None,
) -> Table:
    r"""Confidence intervals of coefficients, scales, correlations and own parameters.

    .. math::
        \text{wald: } \hat\theta \pm z\, \mathrm{se}, \quad
        \text{profile: } \{\theta : 2 (\log L(\hat\theta) - \max_{\text{others}} \log L(\theta))
        \le z^2\}

    The parametric bootstrap fits data sets that the fitted model makes, with new effects, and takes
    quantiles of their estimates. There is none of censored responses, as the model does not say
    when one of them is censored, nor of weights that count rows.

    Args:
        fit: A fit of `fit_marginal(objective="likelihood")`.
        method: "wald", "profile" or "bootstrap".
        interval: Probability of the intervals.
        num_samples: Number of data sets of the bootstrap.
        num_nodes: As the fit was made with.
        key: JAX key or int, for the bootstrap.

    Returns:
        One row for each parameter: "name", "estimate", "lower" and "upper". Without a standard
        error there is no Wald interval. Profiles leave out parameters of which none has a
        coordinate of its own: correlations of three effects or more, and cutpoints but the first.
        Where the likelihood stays high however far a parameter goes, the end of its interval is
        that of its range: zero for a scale, infinity for a coefficient.

    Raises:
        TypeError: If `fit` is no MixedFit.
        ValueError: If it is another fit, an option is out of range, a key is missing, or the model
            does not make data sets.

    Example:
        >>> from probmf import MixedEffects, fit_marginal
        >>> table = {"y": [1, 2, 4.5, 3, 6.5, 7.5], "x": [0, 1, 2] * 2, "g": [*"aabbcc"]}
        >>> fit = fit_marginal(MixedEffects("y ~ x + (1 | g)"), table)
        >>> found = confint(fit, method="wald")["coefficients[x]"]
        >>> round(found["lower"], 2), round(found["upper"], 2)
        (0.7, 0.97)

    References:
        Bates, Maechler, Bolker and Walker (2015), Fitting linear mixed-effects models using lme4,
        section 5.1; Davison and Hinkley (1997), Bootstrap methods and their application, chapter 5.
    """
    if not isinstance(fit, MixedFit):
        raise TypeError(f"fit is a {type(fit).__name__}, expected a MixedFit of fit_marginal.")
    if fit.maximum is None or fit.method != "marginal/likelihood":
        raise ValueError(
            f"The fit is by {fit.method!r}, expected one of fit_marginal(objective='likelihood'): "
            "draws have their own intervals, in fit.summary()."
        )
    check_choice("method", method, get_args(Method.__value__))
    check_interval(interval)
    check_counts(num_samples=num_samples, num_nodes=num_nodes)
    if method == "bootstrap":
        _check_simulated(fit)
    estimates = _named(fit, fit.samples)
    if method == "wald":
        return _wald(fit, estimates, interval)
    search = _Search(fit, num_nodes)
    with own_settings(True), blas_cores(1):
        search.check()
        if method == "profile":
            ends = search.profiles(float(ndtri(tails(interval)[1]) ** 2))
            return _table(estimates, ends)
        if key is None:
            raise ValueError("The bootstrap draws at random; give key=, a JAX key or an int.")
        drawn, failed = search.bootstrap(as_key(key), num_samples)
    low, high = tails(interval)
    ends = {}
    for name, own in drawn.items():
        lower, upper = np.quantile(own, [low, high])
        ends[name] = float(lower), float(upper)
    note = f"{failed} of {num_samples} fits found no maximum and are left out."
    return _table(estimates, ends, (note,) if failed else ())


def _check_simulated(fit: MixedFit) -> None:
    """Refuse models that do not say how their data came about."""
    law, why = fit.model.likelihood, ""
    if "censored" in law.known:
        why = "cens(...) tells which responses are censored, and not when others would be"
    elif fit.design.data.weight is not None and not law.normal:
        why = (
            f"weights={fit.model.weights!r} counts rows, each of which would have a response of "
            "its own"
        )
    if why:
        raise ValueError(
            f"method is 'bootstrap', which makes data sets as the model says: {why}. Use "
            "method='profile' or 'wald'."
        )


def _named(fit: MixedFit, samples: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Numbers by name, but effects."""
    return {
        name: float(value[0, 0])
        for site, own in samples.items()
        if not is_effect(site)
        for name, value in scalars(site, np.asarray(own), fit.model.sites(fit.design))
    }


def _table(
    estimates: Mapping[str, float],
    ends: Mapping[str, tuple[float, ...]],
    notes: tuple[str, ...] = (),
) -> Table:
    rows: list[dict[str, Any]] = []
    for name, value in estimates.items():
        lower, upper = ends.get(name, (None, None))
        rows.append({"name": name, "estimate": value, "lower": lower, "upper": upper})
    return Table(tuple(rows), notes)


def _wald(fit: MixedFit, estimates: Mapping[str, float], interval: float) -> Table:
    width, ends = float(ndtri(tails(interval)[1])), {}
    errors = {row["name"]: row["se"] for row in fit.summary()}
    for name, value in estimates.items():
        if (error := errors.get(name)) is not None:
            ends[name] = value - width * error, value + width * error
    return _table(estimates, ends)


@dataclass(frozen=True)
class _Search:
    """The search that made a fit, to be made again.

    Attributes:
        fit: The fit.
        num_nodes: Nodes of its quadrature.
    """

    fit: MixedFit
    num_nodes: int

    @cached_property
    def program(self) -> Any:
        """The model, centred."""
        model = self.fit.model
        return model.centred.program

    @cached_property
    def data(self) -> MixedData:
        """Its argument."""
        found: MixedData = self.fit.model.arguments(self.fit.design)[0]
        return found

    @cached_property
    def problem(self) -> Any:
        """The objective."""
        return self.pose(self.data)

    @cached_property
    def top(self) -> Any:
        """Its top."""
        return climb(minus_score(self.problem), self.problem.start())

    def pose(self, data: MixedData) -> Any:
        """The objective of other data."""
        return pose(self.program, (data,), "likelihood", self.num_nodes)

    def check(self) -> None:
        """Refuse another number of nodes than the fit's."""
        known = float(getattr(self.fit.maximum, "log_likelihood", 0.0))
        if not abs(known + self.top.fun) < SAME:
            raise ValueError(
                f"With num_nodes={self.num_nodes} the log likelihood is {-self.top.fun:.6g}, and "
                f"that of the fit is {known:.6g}; give the num_nodes that it was fitted with."
            )

    def profiles(self, height: float) -> dict[str, tuple[float, float]]:
        """Ends of the intervals of all parameters that have a profile, by name."""
        vector, found = np.asarray(self.top.x), {}
        minus, errors = minus_score(self.problem), _errors(self.fit)
        slopes = self._slopes(vector)
        places = {
            name: int(np.flatnonzero(slope)[0])
            for name, slope in slopes.items()
            if np.sum(slope != 0) == 1 and not name.startswith(f"{self.data.mean.site}[")
        }
        units = self._units()
        for name, place in places.items():
            rest = np.delete(np.arange(len(vector)), place)

            def profile(
                value: float, start: np.ndarray, place: int = place, rest: np.ndarray = rest
            ) -> tuple[float, np.ndarray]:
                return _constrained(minus, vector, place, rest, value, start)

            slope, unit = abs(slopes[name][place]), units.get(name, 1.0)
            step = min(errors.get(name, START * slope * unit) / slope, unit)
            ends = _ends(profile, vector[place], vector[rest], self.top.fun, height, step, unit)
            lower, upper = (self._value(name, place, end) for end in ends)
            found[name] = lower, upper
        for place, column in enumerate(self.data.mean.names):
            name = f"{self.data.mean.site}[{column}]"
            center = float(self.fit.samples[self.data.mean.site][0, 0, place])

            def without(
                value: float, start: np.ndarray, place: int = place
            ) -> tuple[float, np.ndarray]:
                problem = self.pose(_with_fixed(self.data, place, value))
                end = climb(minus_score(problem), start if len(start) else problem.start())
                return float(end.fun), np.asarray(end.x)

            # Squares of residuals rise without end; other likelihoods may become flat.
            law, unit = self.fit.model.likelihood, units[name]
            step = errors.get(name, START * unit)
            if law.normal:
                unit = np.inf
            found[name] = _ends(
                without, center, np.zeros(0), self.top.fun, height, min(step, unit), unit
            )
        return found

    def _units(self) -> dict[str, float]:
        """Changes of coefficients that change a linear predictor by one somewhere."""
        return {
            f"{predictor.site}[{name}]": 1.0 / float(np.abs(column).max())
            for predictor in self.data.predictors
            for name, column in zip(predictor.names, predictor.population.T, strict=True)
        }

    def _slopes(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Derivatives of each named number by the vector."""
        found: dict[str, np.ndarray] = {}
        values = self.problem.estimates(vector)
        for site, slopes in shown(self.problem.slopes(vector), values).items():
            for place in range(len(vector)):
                for name, value in _shown(self.fit, site, slopes[..., place]):
                    found.setdefault(name, np.zeros(len(vector)))[place] = value
        return found

    def _value(self, name: str, place: int, end: float) -> float:
        """The number of a name where a coordinate has some value, or its limit there."""
        if not np.isfinite(end):
            site = name.partition("[")[0]
            if site.endswith("_correlation"):
                return float(np.sign(end))
            support: Any = getattr(self.data.priors[site], "support", None)
            while hasattr(support, "base_constraint"):
                support = support.base_constraint
            return float(getattr(support, "lower_bound" if end < 0 else "upper_bound", end))
        vector = np.array(self.top.x)
        vector[place] = end
        return _named(self.fit, _alone(self.problem.estimates(vector)))[name]

    def bootstrap(self, key: Any, count: int) -> tuple[dict[str, np.ndarray], int]:
        """Estimates of data sets that the model makes, by name, and the number of failures."""
        parameters = {
            site: np.asarray(value[0, 0])
            for site, value in self.fit.samples.items()
            if not is_effect(site)
        }
        known = handlers.substitute(self.program, parameters)
        made = draw_prior(known, (self.data,), count, key)[self.data.response_name][0]
        found: list[dict[str, float]] = []
        for response in made:
            own = np.asarray(response, np.asarray(self.data.response).dtype)
            problem = self.pose(replace(self.data, response=jax.numpy.asarray(own)))
            end = climb(minus_score(problem), np.asarray(self.top.x))
            if np.isfinite(end.fun):
                found.append(_named(self.fit, _alone(problem.estimates(end.x))))
        if not found:
            raise ValueError(
                f"None of the {count} data sets of the bootstrap has a likelihood with a maximum. "
                "Use method='profile'."
            )
        drawn = {name: np.array([one[name] for one in found]) for name in found[0]}
        return drawn, count - len(found)


def _errors(fit: MixedFit) -> dict[str, float]:
    return {row["name"]: row["se"] for row in fit.summary() if row["se"]}


def _alone(sites: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A point as draws of one chain of one draw."""
    return {site: np.asarray(value)[None, None] for site, value in sites.items()}


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
    rest: np.ndarray, value: float, start: np.ndarray,
) -> tuple[float, np.ndarray]:  # fmt: skip
    """The best value with one coordinate held, and the others there."""
    full = np.array(vector)
    full[place] = value

    def some(others: np.ndarray) -> tuple[float, np.ndarray]:
        full[rest] = others
        height, slope = minus(full)
        return height, slope[rest]

    if not len(rest):
        return minus(full)[0], start
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
    found = []
    for side in (-1.0, 1.0):
        others = start

        def excess(value: float) -> float:
            nonlocal others
            fun, near_others = profile(value, others)
            if np.isfinite(fun):
                others = near_others
            return 2.0 * (fun - least) - height

        near, last, width, end = center, -height, step, side * np.inf
        for _ in range(MOST_STEPS):
            still = last + height < STILL
            if still:
                width = min(width, FAR * unit - abs(near - center))
            far = near + side * width
            now = excess(far)
            for _ in range(HALVINGS):
                if np.isfinite(now):
                    break
                width /= 2.0
                far = near + side * width
                now = excess(far)
            if not np.isfinite(now):
                break
            if now > 0:
                end = float(scipy.optimize.brentq(excess, near, far, xtol=ACCURACY * step))
                break
            if now + height < STILL:
                if abs(far - center) > 0.999 * FAR * unit:
                    break
            elif width >= unit and now - last < FLAT * width / unit:
                break
            near, last, width = far, now, width * GROWTH
        found.append(end)
    return found[0], found[1]
