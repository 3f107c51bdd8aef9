"""Maximum likelihood, restricted likelihood or MAP of the variance parameters of a mixed model."""

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import scipy.optimize

from probmf.data.tables import own_copy
from probmf.effects.lapack import on_cores
from probmf.inference.importance import climb
from probmf.inference.mixed.approximate_problem import ApproximateProblem
from probmf.inference.mixed.boundary import find_boundary
from probmf.inference.mixed.exact_fit import refuse_exact_fit
from probmf.inference.mixed.exact_problem import ExactProblem, Objective
from probmf.inference.mixed.identifiability import (
    CovarianceTerms,
    Finding,
    confounded_variances,
    covariance_terms,
)
from probmf.inference.mixed.moments import moment_estimates
from probmf.inference.mixed.search_end import DECREMENT, End, look_around, told
from probmf.inference.mixed.separation import separated_coefficients
from probmf.inference.mixed.standard_errors import standard_errors
from probmf.inference.newton import newton
from probmf.models import MixedEffects
from probmf.models.mixed.arrays import MixedData
from probmf.models.mixed.design import Design
from probmf.models.mixed.program import MixedProgram
from probmf.results import History, Maximum, MixedFit
from probmf.run.checks import check_counts, require
from probmf.run.driver import FitWarning
from probmf.settings import own_settings


def fit_marginal(
    model: MixedEffects,
    data: Any,
    *,
    objective: Objective = "likelihood",
    num_nodes: int = 1,
    max_iterations: int = 200,
    float64: bool = True,
) -> MixedFit:
    r"""Fit scales and correlations with all effects integrated out, as lme4 does.

    .. math::
        \text{likelihood: } \max_{\theta, \beta} p(y \mid \theta, \beta), \quad
        \text{restricted: } \max_\theta \int p(y \mid \theta, \beta)\, d\beta, \quad
        \text{map: } \max_\theta p(y \mid \theta)\, p(\theta)

    The first two ignore all priors. The third integrates the coefficients out under theirs; it is
    the mode on the scale of the sites themselves.

    A formula without group terms is a linear or a generalized linear model. Effects of a Gaussian
    or log-normal response are integrated out exactly. Of another one the integral is Laplace's
    approximation about their mode, with the observed information; with `num_nodes` above 1 it is
    adaptive Gauss-Hermite quadrature about the same mode, which more nodes make as exact as one
    likes.

    Args:
        model: A mixed model.
        data: Any data frame, or a design.
        objective: "likelihood" (lme4's REML = FALSE), "restricted" (REML = TRUE) or "map".
        num_nodes: Nodes of the quadrature for each effect (lme4's nAGQ), where the effects are one
            or two of each group of one grouping, and the response is not Gaussian.
        max_iterations: The most iterations of the search: of Newton's method with the average
            information where the response is Gaussian, else of L-BFGS.
        float64: Compute in double precision, whatever JAX is set to elsewhere.

    Returns:
        A fit of one draw: scales, correlations, the coefficients' estimates and the effects'
        conditional means. `fit.history.objective` is minus the maximized logarithm, iteration by
        iteration; -2 log L is twice its last value. `fit.history.notes` has the warnings, and
        `fit.maximum` the log likelihood, AIC, BIC and standard errors.

    Raises:
        TypeError: If `model` is no MixedEffects.
        ValueError: If the formula of the noise has a group term, an argument is out of range, there
            is no quadrature of these effects, or there is no best fit as coefficients and effects
            leave no noise.

    Warns:
        FitWarning: If the rows do not tell variances apart, the fit is singular (a scale at zero,
            a correlation at one; see `probmf.inference.mixed.boundary.boundary`), columns separate
            the responses, so that their coefficients have no best value, the search stopped before
            it arrived, or rounding leaves too little of the likelihood.

    Example:
        >>> from probmf.models import MixedEffects
        >>> table = {"y": [1.0, 2.0, 4.0, 3.0, 6.5, 7.5], "g": ["a", "a", "b", "b", "c", "c"]}
        >>> fit = fit_marginal(MixedEffects("y ~ 1 + (1 | g)"), table)
        >>> round(float(fit.samples["coefficients"][0, 0, 0]), 3)
        4.0

    References:
        Bates, Maechler, Bolker and Walker (2015), equations 34 to 42. Gilmour, Thompson and Cullis
        (1995), Average information REML, for the search. Pinheiro and Bates (1995),
        Approximations to the log-likelihood function in the nonlinear mixed-effects model, for
        Laplace's approximation and the quadrature.

    Cost of an evaluation: one factorization of all effects but the largest grouping's, whatever the
    number of rows; with Laplace's approximation a factorization for each of some Newton steps and
    three for value and gradient; with a quadrature O(n num_nodes^d).
    """
    require("fit_marginal", model)
    if objective not in get_args(Objective):
        raise ValueError(
            f"objective is {objective!r}; expected 'likelihood', 'restricted' or 'map'."
        )
    check_counts(max_iterations=max_iterations, num_nodes=num_nodes)
    if num_nodes > 1 and model.likelihood.normal:
        raise ValueError(
            f"num_nodes is {num_nodes}, but likelihood is {model.likelihood!r}, whose effects are "
            "integrated out exactly, without quadrature. Leave num_nodes out."
        )
    begin = time.perf_counter()
    with own_settings(float64 or None):
        design = model.design(data)
        if design.data.noise is not None and design.data.noise.groups:
            raise ValueError(
                f"scale_formula {model.scale_formula!r} has group terms, whose effects can't be "
                "integrated out exactly, so there is no marginal likelihood. "
                f"Use sample_{'marginal' if model.likelihood.normal else 'nuts'}."
            )
        centred = model.centred
        if objective == "map" and design.data.mixing is not None:
            raise ValueError(
                "objective is 'map', which integrates the coefficients out under Normal priors, "
                "and priors['coefficients'] holds a Student-t or Laplace distribution. Use "
                "sample_marginal, or objective='likelihood', which ignores priors."
            )
        # Of a Gaussian response the sums are taken once, whatever the number of rows.
        arguments = centred.arguments(design, join=not model.likelihood.normal)
        problem = pose(centred.program, arguments, objective, num_nodes)
        minus = minus_score(problem)
        refuse_exact_fit(model, design, flat=objective != "map", mode=True)
        terms = covariance_terms(design)
        known = confounded_variances(design, terms, prior=objective == "map")
        curve: list[float] = []
        times: list[float] = []

        def note(intermediate_result: scipy.optimize.OptimizeResult) -> None:
            curve.append(float(intermediate_result.fun))
            times.append(time.perf_counter() - begin)

        with on_cores(problem.cores):
            found = search(problem, _start(problem, model, design, terms), max_iterations, note)
            if not np.isfinite(found.fun):
                raise ValueError(
                    "The marginal likelihood is not finite at the starting values; look for a "
                    "response of extreme scale, and standardize it."
                )
            samples = problem.estimates(found.x)
            point = {name: np.asarray(value)[None, None] for name, value in samples.items()}
            own = own_copy(data)
            fit = MixedFit(model, design, point, f"marginal/{objective}", data=own)
            boundaries = find_boundary(fit)
            digits = problem.lost_digits(found.x)
            end = look_around(
                minus, found.x, found.jac, problem.places, boundaries, one_sided=problem.is_dear
            )
            errors, loadings = standard_errors(problem, found.x, samples, end)
            maximum = Maximum(
                errors, _num_parameters(problem, design), design.data.num_observations,
                None if objective == "map" else -float(found.fun), loadings,
            )  # fmt: skip
    curve.append(float(found.fun))
    times.append(time.perf_counter() - begin)
    arrived = end.gain <= DECREMENT
    is_open = any(design.data.mean.site in sites for sites in (*end.flat, *end.rising))
    separated: list[Finding] = []
    if not model.likelihood.normal and objective == "likelihood" and (is_open or not arrived):
        separated = separated_coefficients(model, design, samples)
        known = [*known, *separated]
    findings = [*known, *(told(end, boundaries, known) if arrived else [])]
    if digits:
        findings.append(Finding(frozenset(), digits))
    if not arrived and not separated:
        findings.append(_stopped(found, end, max_iterations))
    notes = tuple(finding.text for finding in findings)
    if notes:
        warnings.warn(" ".join(notes), FitWarning, stacklevel=2)
    history = History(
        objective=np.asarray(curve), validation=None, seconds=np.asarray(times), best=len(curve),
        stopped="tol" if arrived else "num_iterations", unit="iteration", notes=notes,
    )  # fmt: skip
    return replace(fit, history=history, maximum=maximum)


def pose(
    program: MixedProgram, arguments: tuple[MixedData], objective: Objective, num_nodes: int
) -> ExactProblem | ApproximateProblem:
    """The objective of a search, exact where the response is Gaussian.

    Args:
        program: The model, centred.
        arguments: Its arguments.
        objective: Which objective.
        num_nodes: Nodes of the quadrature for each effect; 1 is Laplace's approximation.
    """
    if objective != "map":
        arguments = (arguments[0].without_mixing(),)
    if program.likelihood.normal:
        return ExactProblem(program, arguments, objective)
    return ApproximateProblem(program, arguments, objective, num_nodes)


def _start(
    problem: ExactProblem | ApproximateProblem,
    model: MixedEffects,
    design: Design,
    terms: CovarianceTerms,
) -> np.ndarray:
    """Start of a search: at the prior's medians, or where an evaluation is dear by moments."""
    if isinstance(problem, ExactProblem) and problem.is_dear:
        values = moment_estimates(model, design, terms)
        point = None if values is None else problem.point_of(values)
        if point is not None:
            return point
    return problem.start()


def minus_score(
    problem: ExactProblem | ApproximateProblem,
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Minus an objective and its gradient; infinite where one of them is not finite."""

    def minus(vector: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem.score(vector)
        if not (np.isfinite(value) and np.all(np.isfinite(gradient))):
            return np.inf, np.zeros_like(vector)
        return -value, -gradient

    return minus


def search(
    problem: ExactProblem | ApproximateProblem,
    start: np.ndarray,
    max_iterations: int = 200,
    callback: Callable[..., None] | None = None,
) -> scipy.optimize.OptimizeResult:
    """The top of an objective, by Newton's method where second derivatives are about known.

    Args:
        problem: The objective.
        start: Where to begin.
        max_iterations: The most iterations.
        callback: Called after each.

    Returns:
        SciPy's result for minus the objective; see `newton` and `climb`.
    """
    if problem.informed is not None:
        return newton(problem.informed, start, max_iterations, callback)
    return climb(minus_score(problem), start, max_iterations, callback)


def _num_parameters(problem: ExactProblem | ApproximateProblem, design: Design) -> int:
    """All numbers that are estimated; the coefficients may not be searched for."""
    mean, places = design.data.mean, problem.places
    inside = 0 if mean.site in places else len(mean.names)
    return inside + sum(own.size for own in places.values())


def _stopped(found: scipy.optimize.OptimizeResult, end: End, max_iterations: int) -> Finding:
    """A search that has not arrived."""
    text = (
        f"The search stopped after {found.nit} of {max_iterations} iterations, where the "
        f"gradient's largest element is {np.max(np.abs(found.jac)):.2g} and by its quadratic the "
        f"log likelihood is {end.gain:.2g} higher elsewhere: raise max_iterations, or standardize "
        "columns of very different scales."
    )
    return Finding(frozenset(), text)
