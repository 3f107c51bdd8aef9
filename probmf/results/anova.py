"""Likelihood-ratio tests between best fits of mixed models."""

from itertools import pairwise
from typing import Any, cast

import numpy as np
from scipy.special import chdtrc

from probmf.results.mixed_fit import MixedFit
from probmf.results.records import Maximum
from probmf.results.table import Table


def anova(*fits: MixedFit) -> Table:
    r"""Compare nested best fits by their likelihood ratio, as R's `anova(fm0, fm1)`.

    .. math:: \chi^2 = 2 (\log L_1 - \log L_0), \quad p = P(\chi^2_{k_1 - k_0} \ge \chi^2)

    Args:
        *fits: Two or more of `fit_marginal`, to the same rows, each model within the next larger
            one; that they are nested is not checked.

    Returns:
        One row per fit, the fewest parameters first: "model", "parameters", "log_likelihood",
        "AIC", "BIC", and of each against the one before it "chi2", "df" and "p".

    Raises:
        TypeError: If one is no `MixedFit`.
        ValueError: If there are fewer than two, one has no maximized likelihood, or they are of
            different rows, likelihoods or objectives, or their restricted likelihoods of different
            coefficients.

    Example:
        >>> import numpy as np
        >>> from probmf import MixedEffects, fit_marginal
        >>> x, g = np.arange(24) % 6, np.arange(24) % 4
        >>> table = {"y": np.sin(np.arange(24.0)) + 0.3 * x + g, "x": x, "g": g}
        >>> models = [MixedEffects(formula) for formula in ("y ~ 1 + (1 | g)", "y ~ x + (1 | g)")]
        >>> compared = anova(*(fit_marginal(model, table) for model in models))
        >>> [row["df"] for row in compared]
        [None, 1]

    Source: Wilks (1938); Pinheiro and Bates (2000), Mixed-effects models in S and S-PLUS, section
    2.4.1, for scales, whose null value lies on the boundary.
    """
    _check(fits)
    ordered = sorted(fits, key=lambda fit: _top(fit).num_parameters)
    rows = [_row(fit) for fit in ordered]
    for place, (small, large) in enumerate(pairwise(map(_top, ordered)), start=1):
        df = large.num_parameters - small.num_parameters
        ratio = 2.0 * (float(large.log_likelihood or 0.0) - float(small.log_likelihood or 0.0))
        p = float(chdtrc(df, max(ratio, 0.0))) if df else None
        rows[place] |= {"chi2": ratio, "df": df, "p": p}
    terms = [{term.name: term.names for term in fit.design.data.groups} for fit in ordered]
    note = (
        "The models differ in their group terms. A scale of zero lies on the boundary, where the "
        "test is conservative: of one scale p is twice as large as it should be."
    )
    return Table(tuple(rows), (note,) if any(a != b for a, b in pairwise(terms)) else ())


def _row(fit: MixedFit) -> dict[str, Any]:
    top = _top(fit)
    return {
        "model": fit.model.formula, "parameters": top.num_parameters,
        "log_likelihood": top.log_likelihood, "AIC": top.aic, "BIC": top.bic, "chi2": None,
        "df": None, "p": None,
    }  # fmt: skip


def _top(fit: MixedFit) -> Maximum:
    return cast("Maximum", fit.maximum)


def _weights(fit: MixedFit) -> Any:
    """Weights of the rows, or of all of them."""
    given = fit.design.data.weight
    return np.ones(fit.design.data.num_observations) if given is None else given


def _known(fit: MixedFit, name: str) -> Any:
    """A parameter of the likelihood that the data have by row, such as numbers of trials."""
    return fit.design.data.priors[name] if name in fit.design.known else None


def _check(fits: tuple[MixedFit, ...]) -> None:
    for fit in fits:
        if not isinstance(fit, MixedFit):
            raise TypeError(f"anova got a {type(fit).__name__}; expected fits of fit_marginal.")
    if len(fits) < 2:
        raise ValueError(f"anova got {len(fits)} fit; give two or more to compare.")
    first = fits[0]
    for place, fit in enumerate(fits):
        if fit.maximum is None or fit.maximum.log_likelihood is None:
            raise ValueError(
                f"Fit {place} ({fit.method}) has no maximized likelihood; fit it by "
                "fit_marginal(objective='likelihood')."
            )
        own, other = fit.design.data, first.design.data
        for name, mine, theirs in (
            ("responses", own.response, other.response),
            ("weights", _weights(fit), _weights(first)),
            *((name, _known(fit, name), _known(first, name))
              for name in {**fit.design.known, **first.design.known}),
        ):  # fmt: skip
            if not np.array_equal(np.asarray(mine), np.asarray(theirs)):
                raise ValueError(f"Fit {place} is of other {name} than fit 0; fit both to one.")
        for name, mine, theirs in (
            ("objective", fit.method, first.method),
            ("likelihood", *(repr(one.model.likelihood.canonical()) for one in (fit, first))),
        ):
            if mine != theirs:
                raise ValueError(
                    f"Fit {place} has the {name} {mine}, and fit 0 {theirs}; expected the same."
                )
        if fit.method.endswith("restricted") and own.mean.names != other.mean.names:
            raise ValueError(
                f"Fit {place} has other coefficients than fit 0, and restricted likelihoods of "
                "different coefficients can't be compared; use objective='likelihood'."
            )
