"""Confidence intervals of a best fit: Wald's, by profile likelihood, by parametric bootstrap."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.typing import ArrayLike
from numpyro import handlers
from scipy.special import ndtri

from probmf.data import as_key
from probmf.inference.mixed.maximum_likelihood import search
from probmf.inference.mixed.profiles import profiles
from probmf.inference.mixed.refit import Refit, alone, named
from probmf.results import MixedFit
from probmf.results.arviz_tree import draw_prior
from probmf.results.asked import check_choice, check_interval
from probmf.results.mixed_summary import is_effect
from probmf.results.mixtures import tails
from probmf.results.table import Table
from probmf.run.checks import check_counts
from probmf.run.threads import Workers, workers
from probmf.settings import own_settings

type Method = Literal["wald", "profile", "bootstrap"]


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

    Cost: the bootstrap `num_samples` fits; profiles a fit at each place that is tried. Fits of the
    bootstrap, and the profiles of coefficients, go side by side on all cores.

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
    estimates = named(fit, fit.samples)
    if method == "wald":
        return _wald(fit, estimates, interval)
    refit = Refit(fit, num_nodes)
    with own_settings(True), workers(num_samples) as pool:
        refit.check()
        if method == "profile":
            ends = profiles(refit, float(ndtri(tails(interval)[1]) ** 2), pool)
            return _table(estimates, ends)
        if key is None:
            raise ValueError("The bootstrap draws at random; give key=, a JAX key or an int.")
        drawn, failed = _bootstrap(refit, as_key(key), num_samples, pool)
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


def _bootstrap(
    refit: Refit, key: Any, count: int, pool: Workers
) -> tuple[dict[str, np.ndarray], int]:
    """Estimates of data sets that the model makes, by name, and the number of failures."""
    parameters = {
        site: np.asarray(value[0, 0])
        for site, value in refit.fit.samples.items()
        if not is_effect(site)
    }
    known = handlers.substitute(refit.program, parameters)
    made = draw_prior(known, (refit.data,), count, key)[refit.data.response_name][0]
    dtype, start = np.asarray(refit.data.response).dtype, np.asarray(refit.top.x)

    def estimates(response: np.ndarray) -> dict[str, float] | None:
        own = jax.numpy.asarray(np.asarray(response, dtype))
        problem = refit.pose(replace(refit.data, response=own))
        end = search(problem, start)
        return named(refit.fit, alone(problem.estimates(end.x))) if np.isfinite(end.fun) else None

    found = [one for one in pool.stream(estimates, made) if one is not None]
    if not found:
        raise ValueError(
            f"None of the {count} data sets of the bootstrap has a likelihood with a maximum. "
            "Use method='profile'."
        )
    drawn = {name: np.array([one[name] for one in found]) for name in found[0]}
    return drawn, count - len(found)
