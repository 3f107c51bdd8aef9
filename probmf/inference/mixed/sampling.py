"""Posterior draws where only scales and correlations are left: importance sampling, else NUTS."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import jax
import numpy as np
from jax.typing import ArrayLike

from probmf.data import as_key
from probmf.diagnostics.judgement import FallbackWarning
from probmf.inference.final_warning import PACKAGE, concluded
from probmf.inference.importance import K_HAT_GATE, NoModeError
from probmf.inference.importance_rounds import ImportanceDraws, most_densities
from probmf.inference.marginal.density import MarginalDensity
from probmf.inference.marginal.evaluators import NotServedError
from probmf.inference.marginal.marginal_model import MarginalModel
from probmf.inference.mixed.importance_sampler import draw_marginal
from probmf.inference.mixed.noise_sampler import has_noise_integral, sample_noise
from probmf.inference.mixed.quadrature_importance import NUM_CHAINS
from probmf.inference.mixed.quadrature_sampler import NoGroupingError, sample_by_quadrature
from probmf.inference.numpyro_draws import draw_posterior
from probmf.inference.nuts.pooled_warmup import PooledNuts
from probmf.inference.nuts.transitions import NoStartError, constrain_chains
from probmf.inference.potential import mixed_potential
from probmf.inference.target import Target
from probmf.inference.vector_draws import draw_vectors
from probmf.models import MixedEffects
from probmf.results import MixedFit
from probmf.results.records import Sampling
from probmf.run.checks import check_counts, require
from probmf.run.driver import FitWarning, warn_incomplete
from probmf.settings import own_settings

#: NUTS in place of importance sampling.
FALLBACK_CHAINS = 4
#: Operations that take as long as a trial of a second way, most of whose time compiles it.
WORTH_A_TRIAL = 1e10


@overload
def sample_marginal(
    model: MixedEffects,
    data: Any,
    *,
    key: ArrayLike,
    num_samples: int = ...,
    max_densities: int | None = ...,
    float64: bool = ...,
    progress: bool | None = ...,
) -> MixedFit: ...


@overload
def sample_marginal(
    model: MarginalModel,
    data: Mapping[str, Any] | Sequence[Any],
    *,
    key: ArrayLike,
    num_samples: int = ...,
    max_densities: int | None = ...,
    float64: bool = ...,
    progress: bool | None = ...,
) -> Any: ...


def sample_marginal(
    model: MixedEffects | MarginalModel,
    data: Any,
    *,
    key: ArrayLike,
    num_samples: int = 1000,
    max_densities: int | None = None,
    float64: bool = True,
    progress: bool | None = None,
) -> Any:
    r"""Draws of a model with effects integrated out, of a mixed model or one of your own.

    With fixed and random effects of a Gaussian model integrated out, a few scales and correlations
    remain, whose density is smooth. Proposals are drawn from a multivariate t around its mode, and
    from mixtures refitted to them where that is too narrow, and are weighted by

    .. math:: w_i = p(y \mid \theta_i)\, p(\theta_i) / q(\theta_i).

    Proposals go on until `num_samples` of them are effective; as many are drawn by weight, with
    their effects from the exact conditional. Pareto k-hat of the weights says whether they can be
    trusted: above 0.7 a few have most of the weight.

    If k-hat is above 0.7, more than 20 parameters are left, or the density has no mode, NUTS takes
    over, with four chains that learn one mass matrix together. It samples the marginal density or
    the non-centred model, whichever needs fewer operations for an effective draw in a short trial
    (the gradients of the trial times the operations of one). Operations are counted and never
    timed, so the same key gives the same draws on a busy machine. The non-centred model is tried
    only where the draws would take longer than its trial.

    Effects in the noise are integrated out by quadrature where all group terms have one grouping
    and the noise has one or two effects for each group, with the mean's effects integrated out
    exactly at each node; else they are left, and so mostly drawn by NUTS.

    Where the response is neither Gaussian nor log-normal, the effects of the largest grouping with
    one or two for each group are integrated out by adaptive Gauss-Hermite quadrature,

    .. math:: p(y \mid \psi) = \prod_j \int N(u_j; 0, \Sigma) \prod_{n \in j}
       f(y_n \mid \eta_n(\psi) + z_n^\top u_j)\, du_j,

    and drawn from their conditional given each draw of what is left, :math:`\psi`. That is drawn by
    importance sampling, too: scales and the likelihood's own parameters as above, coefficients and
    the effects of other groupings given these by a t distribution about the mode of their
    conditional. Where that cannot serve, four chains of NUTS take over as above. Without group
    terms all is drawn by importance sampling.

    Of a NumPyro model of your own, marginalized, what is left is drawn by importance sampling in
    its unconstrained coordinates, up to 20 numbers, else by NUTS; then effects are drawn back.

    Args:
        model: A mixed model; or a NumPyro model from which `marginalize` takes effects.
        data: Any data frame, or a design; of a NumPyro model its arguments, a dict by name or a
            tuple in order.
        key: JAX key or int.
        num_samples: Draws to return: in one chain if they are independent, else in four.
        max_densities: The most proposals of importance sampling; by default 40 per draw and at
            least 20,000.
        float64: Compute in double precision, whatever JAX is set to elsewhere.
        progress: Show a progress bar; None shows it on a terminal or in a notebook.

    Returns:
        The fit; `fit.sampling.info` has k_hat, num_densities, effective and the seconds by stage,
        or what was integrated out and the number of nodes. After Ctrl-C as many draws as the
        proposals so far are good for, marked incomplete. Of a NumPyro model an ArviZ DataTree whose
        dimensions are called after plates, with the same numbers among its attributes.

    Raises:
        TypeError: If `model` is neither a mixed nor a marginalized model, or `data` no arguments of
            one.
        ValueError: If an argument is out of range, no grouping of a response that is not Gaussian
            has one or two effects for each group, or there is no posterior, as coefficients and
            effects leave no noise.

    Warns:
        FitWarning: If the rows do not tell variances apart, so that priors alone do. After Ctrl-C.
        FallbackWarning: If NUTS takes over.
        DiagnosticWarning: If the weights are worth fewer than 100 draws, or NUTS took over and its
            draws should not be relied upon; see `diagnostics.summary`.

    Example:
        >>> from probmf.models import MixedEffects
        >>> table = {"y": [1.0, 2.0, 4.0, 3.0, 2.5, 3.5], "g": ["a", "b", "a", "b", "c", "c"]}
        >>> fit = sample_marginal(MixedEffects("y ~ 1 + (1 | g)"), table, key=0, num_samples=100)
        >>> fit.samples["coefficients"].shape, bool(fit.sampling.info["k_hat"] < 0.7)
        ((1, 100, 1), True)

        >>> import numpyro, numpyro.distributions as dist
        >>> from probmf import marginalize
        >>> def model(group, y):
        ...     tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        ...     with numpyro.plate("group", 2):
        ...         u = numpyro.sample("u", dist.Normal(0.0, tau))
        ...     numpyro.sample("y", dist.Normal(u[group], 1.0), obs=y)
        >>> data = {"group": np.array([0, 0, 1]), "y": np.array([1.0, 2.0, 3.0])}
        >>> tree = sample_marginal(marginalize(model), data, key=0, num_samples=100)
        >>> dict(tree.posterior["u"].sizes)
        {'chain': 4, 'draw': 25, 'group': 2}

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.
    """
    begin = time.perf_counter()
    if not isinstance(model, MarginalModel):
        require("sample_marginal", model)
    check_counts(num_samples=num_samples)
    if max_densities is not None:
        check_counts(max_densities=max_densities)
    if isinstance(model, MarginalModel):
        with own_settings(float64 or None):
            return draw_posterior(
                model, data, int(num_samples), as_key(key), max_densities, progress
            )
    model = model.centred
    with own_settings(float64 or None):
        random_key = as_key(key)
        target = Target.build(model, data, "all")
        if not model.likelihood.normal:
            fit = _by_quadrature(
                target, int(num_samples), random_key, begin, max_densities, progress
            )
            return concluded(fit)
        if has_noise_integral(target.args[0]):
            fit = _with_noise(target, int(num_samples), random_key, begin, max_densities, progress)
            return concluded(fit, lost_digits=target.lost_digits(fit.samples))
        density = MarginalDensity.of_mixed(model.program, target.args, target.sites)
        try:
            draws = draw_marginal(
                density, int(num_samples), random_key, max_densities=max_densities,
                progress=progress,
            )  # fmt: skip
        except NotServedError as error:
            fit = _by_nuts(
                target, density, str(error), int(num_samples), random_key, begin, progress
            )
            lost_digits = target.lost_digits(fit.samples)
            return concluded(fit, lost_digits=lost_digits)
    fit = _weighted(target, draws, num_samples, begin, {})
    return concluded(fit, lost_digits=draws.lost_digits)


def _weighted(
    target: Target,
    draws: ImportanceDraws,
    num_samples: int,
    begin: float,
    info: Mapping[str, float | int | str],
) -> Any:
    """The fit of draws by importance sampling."""
    samples = {name: value[None] for name, value in draws.samples.items()}
    if not draws.complete:
        warnings.warn(
            f"Interrupted: the fit has {len(next(iter(draws.samples.values()))):,} of "
            f"{num_samples:,} draws, as many as its {draws.num_densities:,} proposals were good "
            "for or as had their effects drawn, and is marked incomplete.",
            FitWarning,
            skip_file_prefixes=(PACKAGE,),
        )
    seconds = time.perf_counter() - begin
    sampling = Sampling({}, 0, seconds, draws.complete, {**_info(draws), **info})
    return target.fit(samples, "marginal/importance", sampling=sampling)


def _info(draws: ImportanceDraws) -> Mapping[str, float | int | str]:
    return {
        "k_hat": draws.k_hat,
        "k_hat_gate": K_HAT_GATE,
        "num_densities": draws.num_densities,
        "num_gradients": draws.num_gradients,
        "effective": draws.effective,
        "effective_fraction": draws.effective / draws.num_densities,
        **{f"seconds_{stage}": seconds for stage, seconds in draws.seconds.items()},
    }


def _by_quadrature(
    target: Target,
    num_samples: int,
    key: jax.Array,
    begin: float,
    max_densities: int | None,
    progress: bool | None,
) -> Any:
    """One grouping integrated out by quadrature, all that is left by weights or NUTS."""
    model, (data,) = target.source, target.args
    if not data.groups and (data.noise is None or not data.noise.groups):
        return _all_sampled(target, num_samples, key, begin, max_densities, progress)
    try:
        found = sample_by_quadrature(
            model.program, data, num_samples, key, max_densities=max_densities, progress=progress
        )
    except (NoGroupingError, NoModeError) as error:
        how = ", with MixedEffects(..., centered=False)" if data.groups else ""
        raise ValueError(
            f"likelihood is {model.likelihood!r}, and sample_marginal can't serve: {error}. Use "
            f"sample_nuts{how}."
        ) from error
    info: dict[str, float | int | str] = {
        "num_nodes": found.num_nodes, "integrated": ", ".join(found.sites),
    }  # fmt: skip
    drawn = found.drawn
    if isinstance(drawn, ImportanceDraws):
        return _weighted(target, drawn, num_samples, begin, info)
    info["fallback"] = drawn.fallback
    warnings.warn(
        f"Importance sampling can't serve here: {drawn.fallback}. Going on with NUTS on what is "
        "left.",
        FallbackWarning,
        stacklevel=3,
    )
    chains = drawn.chains
    warn_incomplete(chains.result, chains.num_draws, -(-num_samples // NUM_CHAINS), stacklevel=3)
    sampling = Sampling(
        chains.stats, drawn.num_warmup, time.perf_counter() - begin, chains.complete, info
    )
    return target.fit(drawn.samples, "marginal/quadrature", sampling=sampling)


def _with_noise(
    target: Target,
    num_samples: int,
    key: jax.Array,
    begin: float,
    max_densities: int | None,
    progress: bool | None,
) -> Any:
    """Effects in the noise integrated out by quadrature, those of the mean exactly."""
    (data,) = target.args
    limit = most_densities(num_samples, max_densities)
    draw_key, recover_key = jax.random.split(key)
    found, samples = sample_noise(
        target.source.program, data, num_samples, draw_key, limit=limit, progress=progress
    )
    # Those that the mean's effects are integrated out with are drawn anew, given the rest.
    kept = {name: value for name, value in samples.items() if name not in target.sites}
    samples = target.drawn_back(kept, recover_key)
    sampling = found.sampling(time.perf_counter() - begin)
    method = "marginal/importance" if sampling.is_independent else "nuts/marginal"
    return target.fit(samples, method, sampling=sampling)


def _all_sampled(
    target: Target,
    num_samples: int,
    key: jax.Array,
    begin: float,
    max_densities: int | None,
    progress: bool | None,
) -> Any:
    """Draws where there are no effects to integrate out."""
    density = mixed_potential(target.source.program, target.args)
    if not density.num_dims:
        raise ValueError(
            "The formula and priors leave nothing to sample: no coefficient, no group term, and no "
            "parameter with a prior. Give the formula a term, or a parameter a distribution."
        )
    limit = most_densities(num_samples, max_densities)
    found = draw_vectors(density, num_samples, key, limit, progress)
    sampling = found.sampling(time.perf_counter() - begin)
    method = "importance" if sampling.is_independent else "nuts"
    return target.fit(constrain_chains(density, found.vectors), method, sampling=sampling)


def _by_nuts(
    target: Target,
    density: MarginalDensity,
    why: str,
    num_samples: int,
    key: jax.Array,
    begin: float,
    progress: bool | None,
) -> Any:
    """NUTS, the better of the marginal density and the non-centred model."""
    run_key, recover_key = jax.random.split(key)
    marginal = PooledNuts(density, FALLBACK_CHAINS, run_key, progress)
    best, name = marginal, "marginal"
    told: dict[str, str] = {}
    failure: NoStartError | None = None
    try:
        marginal.warm_up()
        told[name] = _cost(marginal)
    except NoStartError as error:
        failure, told[name] = error, "no starting point with a finite density was found"
    trials = {name: marginal}
    needed = num_samples * marginal.cost
    if needed > WORTH_A_TRIAL:
        loose = replace(target.source.program, centered=False)
        joint = mixed_potential(loose, density.prepared.args)
        other = PooledNuts(joint, FALLBACK_CHAINS, run_key, progress)
        try:
            other.warm_up(needed)
            told["noncentred"] = _cost(other)
        except NoStartError:
            told["noncentred"] = "no starting point with a finite density was found"
        trials["noncentred"] = other
        if other.cost < marginal.cost:
            best, name = other, "noncentred"
    if best is marginal and failure is not None:
        raise failure
    untried = "not tried, as a trial takes more than the draws will"
    warnings.warn(
        f"Importance sampling can't serve here: {why}. Going on with NUTS on the {name} model. "
        f"Marginal model: {told['marginal']}; non-centred model: "
        f"{told.get('noncentred', untried)}.",
        FallbackWarning,
        stacklevel=3,
    )
    num_draws = -(-num_samples // FALLBACK_CHAINS)
    chains = best.draw(num_draws)
    samples = constrain_chains(best.potential, chains.vectors)
    if best is marginal:
        samples = target.drawn_back(samples, recover_key)
        chains = chains.first(next(iter(samples.values())).shape[1])
    warn_incomplete(chains.result, chains.num_draws, num_draws, stacklevel=3)
    samples = {name: value for name, value in samples.items() if not name.endswith("_effects_raw")}
    info: dict[str, Any] = {
        "fallback": why,
        "max_tree_depth": best.settings.max_tree_depth,
        **{f"trial_{n}": trial.cost for n, trial in trials.items() if np.isfinite(trial.cost)},
    }
    sampling = Sampling(
        chains.stats, best.num_warmup, time.perf_counter() - begin, chains.complete, info
    )
    return target.fit(samples, f"nuts/{name}", sampling=sampling)


def _cost(trial: PooledNuts) -> str:
    """The finding of a trial, in words."""
    if not np.isfinite(trial.cost):
        return f"given up after {trial.spent:.2g} operations of warmup"
    return (
        f"{trial.gradients:.3g} gradients of {trial.operations:.2g} operations for an effective "
        "draw in a trial"
    )
