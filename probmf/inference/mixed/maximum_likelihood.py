"""Maximum likelihood, restricted likelihood or MAP of the variance parameters of a mixed model."""

import time
import warnings
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array
from numpyro.infer.util import log_density

from probmf.effects import collect_targets, draw_effects, log_evidence
from probmf.inference.importance import climb
from probmf.inference.marginal.host_density import HostDensity
from probmf.inference.marginal.injection import read_observed
from probmf.inference.marginal.lost_digits import lost_digits
from probmf.inference.marginal.model_cache import kept, kept_density
from probmf.inference.mixed.boundary import find_boundary
from probmf.inference.mixed.exact_fit import refuse_exact_fit
from probmf.inference.mixed.identifiability import Finding, confounded_variances
from probmf.inference.mixed.search_end import DECREMENT, End, look_around, told
from probmf.models import MixedEffects
from probmf.models.mixed.design import Design
from probmf.models.mixed.program import MixedProgram
from probmf.models.mixed.structure import MixedData
from probmf.results import History, MixedFit
from probmf.run.checks import check_counts, require
from probmf.run.compile_cache import Program, compiled, quick_jit, trace_program, trace_tree
from probmf.run.driver import FitWarning
from probmf.run.threads import blas_cores
from probmf.settings import own_settings

Objective = Literal["likelihood", "restricted", "map"]


def fit_marginal(
    model: MixedEffects,
    data: Any,
    *,
    objective: Objective = "likelihood",
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

    Args:
        model: A mixed model with a Gaussian or log-normal response.
        data: Any data frame, or a design.
        objective: "likelihood" (lme4's REML = FALSE), "restricted" (REML = TRUE) or "map".
        max_iterations: The most iterations of L-BFGS.
        float64: Compute in double precision, whatever JAX is set to elsewhere.

    Returns:
        A fit of one draw: scales, correlations, the coefficients' estimates and the effects'
        conditional means. `fit.history.objective` is minus the maximized logarithm, iteration by
        iteration; -2 log L is twice its last value. `fit.history.notes` has the warnings.

    Raises:
        TypeError: If `model` is no MixedEffects.
        ValueError: If the response is neither Gaussian nor log-normal, the formula has no group
            term or that of the noise has one, an argument is out of range, or there is no best fit
            as coefficients and effects leave no noise.

    Warns:
        FitWarning: If the rows do not tell variances apart, the fit is singular (a scale at zero,
            a correlation at one; see `probmf.inference.mixed.boundary.boundary`), the search
            stopped before it arrived, or rounding leaves too little of the likelihood.

    Example:
        >>> from probmf.models import MixedEffects
        >>> table = {"y": [1.0, 2.0, 4.0, 3.0, 6.5, 7.5], "g": ["a", "a", "b", "b", "c", "c"]}
        >>> fit = fit_marginal(MixedEffects("y ~ 1 + (1 | g)"), table)
        >>> round(float(fit.samples["coefficients"][0, 0, 0]), 3)
        4.0

    References:
        Bates, Maechler, Bolker and Walker (2015), equations 34 to 42. One evaluation costs one
        factorization of all effects but the largest grouping's, and nothing in the observations.
    """
    require("fit_marginal", model)
    if objective not in ("likelihood", "restricted", "map"):
        raise ValueError(
            f"objective is {objective!r}; expected 'likelihood', 'restricted' or 'map'."
        )
    check_counts(max_iterations=max_iterations)
    begin = time.perf_counter()
    with own_settings(float64 or bool(jax.config.jax_enable_x64)):
        design = data if isinstance(data, Design) else model.design(data)
        if not design.data.groups:
            raise ValueError(
                f"The formula {model.formula!r} has no group term such as (1 | g); there are no "
                "variances to estimate. Use an ordinary regression."
            )
        if design.data.noise is not None and design.data.noise.groups:
            raise ValueError(
                f"scale_formula {model.scale_formula!r} has group terms, whose effects can't be "
                "integrated out exactly, so there is no marginal likelihood. Use sample_nuts."
            )
        centred = model if model.centered is True else replace(model, centered=True)
        arguments = centred.arguments(design)
        problem = _problem(centred.program, arguments, objective)
        refuse_exact_fit(model, design, flat=objective != "map", mode=True)
        known = confounded_variances(design, prior=objective == "map")
        curve: list[float] = []
        times: list[float] = []

        def minus(vector: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = problem.score(vector)
            if not (np.isfinite(value) and np.all(np.isfinite(gradient))):
                return np.inf, np.zeros_like(vector)
            return -value, -gradient

        def note(intermediate_result: scipy.optimize.OptimizeResult) -> None:
            curve.append(float(intermediate_result.fun))
            times.append(time.perf_counter() - begin)

        with blas_cores(1 if problem.host is None else problem.host.cores):
            found = climb(minus, problem.start(), max_iterations, note)
            if not np.isfinite(found.fun):
                raise ValueError(
                    "The marginal likelihood is not finite at the starting values; look for a "
                    "response of extreme scale, and standardize it."
                )
            samples = problem.estimates(found.x)
            point = {name: np.asarray(value)[None, None] for name, value in samples.items()}
            table = None if isinstance(data, Design) else data
            fit = MixedFit(model, design, point, f"marginal/{objective}", data=table)
            boundaries = find_boundary(fit)
            digits = problem.lost_digits(found.x)
            end = look_around(minus, found.x, problem.density.potential.places, boundaries)
    curve.append(float(found.fun))
    times.append(time.perf_counter() - begin)
    arrived = end.gain <= DECREMENT
    findings = [*known, *(told(end, boundaries, known) if arrived else [])]
    if digits:
        findings.append(Finding(frozenset(), digits))
    if not arrived:
        findings.append(_stopped(found, end, max_iterations))
    notes = tuple(finding.text for finding in findings)
    if notes:
        warnings.warn(" ".join(notes), FitWarning, stacklevel=2)
    history = History(
        objective=np.asarray(curve), validation=None, seconds=np.asarray(times), best=len(curve),
        stopped="tol" if arrived else "num_iterations", unit="iteration", notes=notes,
    )  # fmt: skip
    return replace(fit, history=history)


def _stopped(found: scipy.optimize.OptimizeResult, end: End, max_iterations: int) -> Finding:
    """A search that has not arrived."""
    text = (
        f"The search stopped after {found.nit} of {max_iterations} iterations, where the "
        f"gradient's largest element is {np.max(np.abs(found.jac)):.2g} and by its quadratic the "
        f"log likelihood is {end.gain:.2g} higher elsewhere: raise max_iterations, or standardize "
        "columns of very different scales."
    )
    return Finding(frozenset(), text)


class _Problem:
    """The objective over the unconstrained scales and correlations."""

    def __init__(
        self, program: MixedProgram, arguments: tuple[MixedData], objective: Objective
    ) -> None:
        """Prepare the marginal model and trace the objective."""
        self.objective = objective
        mean = arguments[0].mean
        self.density = kept_density(program, arguments, program.effect_sites(mean))
        self.prepared = self.density.prepared
        names = [[layout.name for layout in block.layouts] for block in self.prepared.blocks]
        fixed = [index for index, own in enumerate(names) if mean.site in own]
        self.flat = tuple(fixed) if objective != "map" else ()
        # The integral is over the coefficients, not over what they are in other coordinates.
        standards = [self.prepared.standards[index] for index in self.flat]
        self.volume = sum(standard.log_volume for standard in standards if standard is not None)
        if objective != "restricted":
            self.volume = 0.0
        self.host: HostDensity | None = None
        if HostDensity.serves(self.prepared):
            self.host = HostDensity(
                self.prepared, self._terms, self.density.medians, self.flat,
                best=objective == "likelihood",
            )  # fmt: skip
        else:
            self.program = trace_program(self._value, self.density.potential.vector)

    def start(self) -> np.ndarray:
        """Starting point."""
        return self.density.start() if self.host is None else self.host.start()

    def score(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient; compiled."""
        if self.host is not None:
            return self.host.score(vector)
        evaluate = self.program.evaluate
        run = compiled(
            (self.program.text, "gradient"),
            lambda: quick_jit(
                lambda consts, x: jax.value_and_grad(lambda v: evaluate(consts, v)[0])(x),
                self.program.numbers,
            ),
        )
        dtype = self.density.potential.vector.dtype
        value, gradient = run(self.program.consts, jnp.asarray(vector, dtype))
        return float(value), np.asarray(gradient, np.float64)

    def lost_digits(self, vector: np.ndarray) -> str:
        """A sentence where rounding leaves too little of the objective, else empty."""
        if self.density.potential.vector.dtype != np.float64:
            return ""
        # A flat prior of the coefficients says no less than their own wide one.
        density = self.density if self.host is None else self.host
        return lost_digits(self.prepared, [density.rounding(vector)])

    def estimates(self, vector: np.ndarray) -> dict[str, Array]:
        """All sites at a vector: effects at their conditional means."""
        if self.host is not None:
            _, means = self.host.draw(vector, None)
            return self.density.sites_at(jnp.asarray(vector), list(map(jnp.asarray, means)))
        program, tree = self._estimator
        run = compiled(
            (program.text, "estimates"), lambda: quick_jit(program.evaluate, program.numbers)
        )
        example = self.density.potential.vector
        return jax.tree.unflatten(tree, run(program.consts, jnp.asarray(vector, example.dtype)))

    @cached_property
    def _estimator(self) -> tuple[Program, Any]:
        return trace_tree(self._estimates, self.density.potential.vector)

    def _trils(self, run: Any, coefficients: Any) -> list[Array]:
        """Prior factors; `coefficients` makes that of the population's block."""
        trils = self.prepared.trils(run)
        for index in self.flat:
            trils[index] = coefficients(len(trils[index]))
        return trils

    def _terms(self, vector: Array) -> tuple[Array, Array, list[Array]]:
        """Terms that the evidence depends on; see `HostDensity`."""
        latents = self.density.constrain_prior(vector)
        run = self.prepared.run(latents)
        _, precision, extra = self.prepared.system(run, latents)
        if self.objective == "map":
            extra = extra + self._prior(latents)
        return extra - self.volume, precision, self._trils(run, jnp.eye)

    def _prior(self, latents: dict[str, Array]) -> Array:
        density = self.density
        return log_density(density.prior, density.args, density.kwargs, latents)[0]

    def _value(self, vector: Array) -> Array:
        latents = self.density.constrain_prior(vector)
        run = self.prepared.run(latents)
        statistics, precision, extra = self.prepared.system(run, latents)
        pattern = self.prepared.pattern
        if self.objective == "map":
            trils = self._trils(run, None)
            return (
                self._prior(latents) + extra + log_evidence(pattern, statistics, trils, precision)
            )
        free = self._trils(run, jnp.eye)
        if self.objective == "restricted" or not self.flat:
            value = log_evidence(pattern, statistics, free, precision, self.flat)
            return extra - self.volume + value
        # By the envelope theorem the gradient treats the best coefficients as constants.
        _, means = draw_effects(pattern, statistics, free, precision, None, self.flat)
        observed = read_observed(self.prepared.target, run.observed[self.prepared.target])
        designs = self.prepared.designs_at(latents, observed.loc.dtype)
        residual = observed.value - observed.loc
        for index in self.flat:
            residual = residual - designs[index] @ jax.lax.stop_gradient(means[index][0])
        if not self.prepared.shared_noise:
            root = 1.0 / observed.scale  # of the observations' weights
            residual, designs = residual * root, [design * root[:, None] for design in designs]
        lead, rest, square = collect_targets(pattern, designs, residual)
        statistics = statistics._replace(lead=lead, rest=rest, square=square)
        held = self._trils(run, lambda size: jnp.zeros((size, size)))
        return extra + log_evidence(pattern, statistics, held, precision)

    def _estimates(self, vector: Array) -> dict[str, Array]:
        latents = self.density.constrain_prior(vector)
        run = self.prepared.run(latents)
        statistics, precision, _ = self.prepared.system(run, latents)
        free = self._trils(run, jnp.eye)
        _, means = draw_effects(self.prepared.pattern, statistics, free, precision, None, self.flat)
        return self.density.sites_at(vector, means)


_problem = kept(_Problem)
