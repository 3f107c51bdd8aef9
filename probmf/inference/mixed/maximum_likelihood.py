"""Maximum likelihood, restricted likelihood or MAP of the variance parameters of a mixed model."""

import time
import warnings
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array

from probmf.effects import collect_targets, draw_effects, log_evidence
from probmf.inference.importance import climb
from probmf.inference.marginal.density import MarginalDensity
from probmf.inference.marginal.host_density import HostDensity
from probmf.inference.marginal.injection import read_observed
from probmf.inference.marginal.lost_digits import lost_digits
from probmf.inference.marginal.prepared import Prepared
from probmf.inference.mixed.boundary import find_boundary
from probmf.inference.mixed.exact_fit import refuse_exact_fit
from probmf.inference.mixed.identifiability import Finding, confounded_variances
from probmf.inference.mixed.search_end import DECREMENT, End, look_around, told
from probmf.models import MixedEffects
from probmf.models.mixed.arrays import MixedData
from probmf.models.mixed.design import Design
from probmf.models.mixed.program import MixedProgram
from probmf.results import History, MixedFit
from probmf.run.checks import check_counts, require
from probmf.run.compilation import count_numbers, traced_jit
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
        problem = _Problem(centred.program, arguments, objective)
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
            end = look_around(minus, found.x, problem.density.places, boundaries)
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


@partial(
    jax.tree_util.register_dataclass, data_fields=["density", "volume"],
    meta_fields=["objective", "flat"],
)  # fmt: skip
@dataclass(frozen=True, eq=False)
class _Target:
    """The objective over the unconstrained scales and correlations; a pytree.

    Attributes:
        density: That of all sites but coefficients and effects.
        volume: Logarithm of the volume of the coefficients' units.
        objective: Which one.
        flat: Blocks without a prior.
    """

    density: MarginalDensity
    volume: float
    objective: Objective
    flat: tuple[int, ...]

    @property
    def prepared(self) -> Prepared:
        """The marginal model with its data."""
        return self.density.prepared

    @property
    def vector(self) -> np.ndarray:
        """An example of a vector."""
        vector: np.ndarray = self.density.vector
        return vector

    def medians(self) -> Array:
        """A start, to be traced."""
        return self.density.medians()

    def _trils(self, run: Any, coefficients: Any) -> list[Array]:
        """Prior factors; `coefficients` makes that of the population's block."""
        trils = self.prepared.trils(run)
        for index in self.flat:
            trils[index] = coefficients(len(trils[index]))
        return trils

    def terms(self, vector: Array) -> tuple[Array, Array, list[Array]]:
        """Terms that the evidence depends on; see `HostDensity`."""
        latents = self.density.constrain_prior(vector)
        run = self.prepared.run(latents)
        _, precision, extra = self.prepared.system(run, latents)
        if self.objective == "map":
            extra = extra + self.density.log_prior(latents)
        return extra - self.volume, precision, self._trils(run, jnp.eye)

    def value(self, vector: Array) -> Array:
        """The objective, to be traced."""
        latents = self.density.constrain_prior(vector)
        run = self.prepared.run(latents)
        statistics, precision, extra = self.prepared.system(run, latents)
        pattern = self.prepared.pattern
        if self.objective == "map":
            value = log_evidence(pattern, statistics, self._trils(run, None), precision)
            return self.density.log_prior(latents) + extra + value
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

    def means(self, vector: Array) -> list[Array]:
        """Conditional means of the effects, to be traced."""
        latents = self.density.constrain_prior(vector)
        run = self.prepared.run(latents)
        statistics, precision, _ = self.prepared.system(run, latents)
        free = self._trils(run, jnp.eye)
        _, means = draw_effects(self.prepared.pattern, statistics, free, precision, None, self.flat)
        return means


def _score(target: _Target, vector: Array) -> tuple[Array, Array]:
    return jax.value_and_grad(target.value)(vector)


class _Problem:
    """The objective for a search, by LAPACK where there is one effect for many rows."""

    def __init__(
        self, program: MixedProgram, arguments: tuple[MixedData], objective: Objective
    ) -> None:
        """Prepare the marginal model."""
        mean = arguments[0].mean
        self.density = MarginalDensity.of_mixed(program, arguments, program.effect_sites(mean))
        self.prepared = self.density.prepared
        names = [[layout.name for layout in block.layouts] for block in self.prepared.blocks]
        fixed = [index for index, own in enumerate(names) if mean.site in own]
        flat = tuple(fixed) if objective != "map" else ()
        # The integral is over the coefficients, not over what they are in other coordinates.
        standards = [self.prepared.standards[index] for index in flat]
        volume = sum(standard.log_volume for standard in standards if standard is not None)
        self.target = _Target(
            self.density, float(volume) if objective == "restricted" else 0.0, objective, flat
        )
        self.host: HostDensity | None = None
        if HostDensity.serves(self.prepared):
            best = objective == "likelihood"
            self.host = HostDensity(self.target, self.prepared, flat, best=best)

    def start(self) -> np.ndarray:
        """Starting point."""
        return self.density.start() if self.host is None else self.host.start()

    def score(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient; compiled."""
        if self.host is not None:
            return self.host.score(vector)
        value, gradient = self._score(self.target, jnp.asarray(vector, self.target.vector.dtype))
        return float(value), np.asarray(gradient, np.float64)

    @cached_property
    def _score(self) -> Any:
        numbers = count_numbers(self.prepared.args)
        return traced_jit(_score, numbers, self.target, self.target.vector)

    def lost_digits(self, vector: np.ndarray) -> str:
        """A sentence where rounding leaves too little of the objective, else empty."""
        if self.density.vector.dtype != np.float64:
            return ""
        # A flat prior of the coefficients says no less than their own wide one.
        density = self.density if self.host is None else self.host
        return lost_digits(self.prepared, [density.rounding(vector)])

    def estimates(self, vector: np.ndarray) -> dict[str, Array]:
        """All sites at a vector: effects at their conditional means."""
        own = jnp.asarray(vector, self.target.vector.dtype)
        if self.host is not None:
            means = [jnp.asarray(table) for table in self.host.draw(vector, None)[1]]
        else:
            numbers = count_numbers(self.prepared.args)
            means = traced_jit(_Target.means, numbers, self.target, own)(self.target, own)
        found: dict[str, Array] = self.density.compiled(MarginalDensity.sites_at, own, means)(
            self.density, own, means
        )
        return found
