"""Posterior draws where only scales and correlations are left: importance sampling, else NUTS."""

import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from arviz_stats.base.array import array_stats
from jax.typing import ArrayLike

from probmf.inference._importance import K_HAT_GATE
from probmf.inference._marginal_density import MarginalDensity
from probmf.inference._marginal_evaluators import NotServedError
from probmf.inference._marginal_sampler import Draws, draw_marginal
from probmf.inference._nuts import Settings, constrain_chains, run_nuts, warn_incomplete
from probmf.inference._potential import Potential
from probmf.inference._start import as_key, check_counts
from probmf.inference.marginal import marginalize
from probmf.models import MixedEffects
from probmf.models.mixed.design import Design
from probmf.results import MixedFit
from probmf.results.sampling import Sampling

#: NUTS in place of importance sampling.
FALLBACK_WARMUP, FALLBACK_CHAINS = 500, 4
#: Draws of the trial that decides between the two ways of running it. Its warmup is of the same
#: length, as a program is compiled for that.
TRIAL_SAMPLES = 100


class FallbackWarning(UserWarning):
    """Importance sampling could not serve; NUTS took its place."""


def sample_marginal(
    model: MixedEffects,
    data: Any,
    *,
    key: ArrayLike,
    num_samples: int = 1000,
    max_densities: int | None = None,
    float64: bool = True,
    progress: bool | None = None,
) -> MixedFit:
    r"""Independent draws of a Gaussian mixed model with all its effects integrated out.

    With fixed and random effects integrated out, a few scales and correlations remain, whose
    density is smooth. Proposals are drawn from a multivariate t around its mode, and from mixtures
    refitted to them where that is too narrow, and are weighted by

    .. math:: w_i = p(y \mid \theta_i)\, p(\theta_i) / q(\theta_i).

    Proposals go on until `num_samples` of them are effective; as many are drawn by weight, with
    their effects from the exact conditional. Pareto k-hat of the weights says whether they can be
    trusted; above 0.7, with more than 20 parameters, or without a mode, NUTS takes over: on the
    marginal density or on the non-centred model, whichever a short trial shows to be faster.

    Args:
        model: A mixed model with a Gaussian or log-normal response.
        data: Any data frame, or a design.
        key: JAX key or int.
        num_samples: Draws to return, all in one chain.
        max_densities: The most evaluations of the density; by default 40 per draw and at least
            20,000.
        float64: Compute in double precision, whatever JAX is set to elsewhere.
        progress: Show a progress bar; None shows it on a terminal or in a notebook.

    Returns:
        The fit; `fit.sampling.info` has k_hat, num_densities, effective and the seconds by stage.

    Raises:
        TypeError: If `model` is no MixedEffects.
        ValueError: If the response is neither Gaussian nor log-normal, or an argument is out of
            range.

    Example:
        >>> from probmf.models import MixedEffects
        >>> table = {"y": [1.0, 2.0, 4.0, 3.0, 2.5, 3.5], "g": ["a", "b", "a", "b", "c", "c"]}
        >>> fit = sample_marginal(MixedEffects("y ~ 1 + (1 | g)"), table, key=0, num_samples=100)
        >>> fit.samples["coefficients"].shape, bool(fit.sampling.info["k_hat"] < 0.7)
        ((1, 100, 1), True)

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.
    """
    begin = time.perf_counter()
    if not isinstance(model, MixedEffects):
        raise TypeError(
            f"model is of type {type(model).__name__}; expected MixedEffects. Other NumPyro models "
            "can be sampled with marginalize(model, sites) and NumPyro's own MCMC."
        )
    if model.likelihood not in ("gaussian", "lognormal"):
        raise ValueError(
            f"likelihood is {model.likelihood!r}: effects can be integrated out exactly of "
            "Gaussian and log-normal responses only. Use sample_nuts."
        )
    check_counts(num_samples=num_samples)
    if max_densities is not None:
        check_counts(max_densities=max_densities)
    model = model if model.centered is True else replace(model, centered=True)
    with jax.enable_x64(float64 or bool(jax.config.jax_enable_x64)):
        random_key = as_key(key)
        draw_key, nuts_key = jax.random.split(random_key)
        design = data if isinstance(data, Design) else model.design(data)
        table = None if isinstance(data, Design) else data
        arguments = model.arguments(design, join=True)
        density = MarginalDensity(marginalize(model, model.effect_sites(design)), arguments, {})
        try:
            draws = draw_marginal(
                density, int(num_samples), draw_key, max_densities=max_densities, progress=progress
            )
        except NotServedError as error:
            fit = _by_nuts(
                model, design, density, str(error), int(num_samples), nuts_key, begin, progress
            )
            return replace(fit, data=table)
    return MixedFit(
        model, design, {n: v[None] for n, v in draws.samples.items()}, "marginal/importance",
        sampling=Sampling({}, 0, time.perf_counter() - begin, info=_info(draws)), data=table,
    )  # fmt: skip


def _info(draws: Draws) -> Mapping[str, float | int | str]:
    return {
        "k_hat": draws.k_hat,
        "k_hat_gate": K_HAT_GATE,
        "num_densities": draws.num_densities,
        "num_gradients": draws.num_gradients,
        "effective": draws.effective,
        "effective_fraction": draws.effective / draws.num_densities,
        **{f"seconds_{stage}": seconds for stage, seconds in draws.seconds.items()},
    }


class _Way(NamedTuple):
    """One way of running NUTS, and how well its trial went."""

    name: str
    potential: Potential
    marginal: Any
    arguments: tuple[Any, ...]
    effective_per_second: float


def _by_nuts(
    model: MixedEffects,
    design: Design,
    density: MarginalDensity,
    why: str,
    num_samples: int,
    key: jax.Array,
    begin: float,
    progress: bool | None,
) -> MixedFit:
    """NUTS, the better of the marginal density and the non-centred model."""
    trial_key, run_key, recover_key = jax.random.split(key, 3)
    loose = replace(model, centered=False)
    ways = [
        _trial("marginal", density.potential, density.model, density.args, trial_key),
        _trial(
            "noncentred",
            Potential(loose, loose.arguments(design, join=True), {}),
            None,
            (),
            trial_key,
        ),
    ]
    best = max(ways, key=lambda way: way.effective_per_second)
    warnings.warn(
        f"Importance sampling can't serve here: {why}. Going on with NUTS on the "
        f"{best.name} model ({ways[0].effective_per_second:.3g} effective draws a second on the "
        f"marginal, {ways[1].effective_per_second:.3g} on the non-centred model, in a trial).",
        FallbackWarning,
        stacklevel=3,
    )
    draws = -(-num_samples // FALLBACK_CHAINS)
    settings = Settings(FALLBACK_WARMUP, draws, FALLBACK_CHAINS)
    chains = run_nuts(best.potential, settings, run_key, progress=progress)
    warn_incomplete(chains, settings, stacklevel=3)
    samples = constrain_chains(best.potential, chains.vectors)
    if best.marginal is not None:
        effects = best.marginal.recover(recover_key, samples, *best.arguments)
        samples |= {name: np.asarray(value) for name, value in effects.items()}
    samples = {name: value for name, value in samples.items() if not name.endswith("_effects_raw")}
    info: dict[str, Any] = {
        "fallback": why,
        "max_tree_depth": settings.max_tree_depth,
        **{f"trial_{way.name}": way.effective_per_second for way in ways},
    }
    sampling = Sampling(
        chains.stats, settings.num_warmup, time.perf_counter() - begin, chains.complete, info
    )
    return MixedFit(model, design, samples, f"nuts/{best.name}", sampling=sampling)


def _trial(
    name: str, potential: Potential, marginal: Any, arguments: tuple[Any, ...], key: jax.Array
) -> _Way:
    """A short run on one chain: the smallest ESS of its coordinates, a second after the warmup."""
    settings = Settings(FALLBACK_WARMUP, TRIAL_SAMPLES, 1)
    try:
        chains = run_nuts(potential, settings, jax.random.clone(key), progress=False)
    except ValueError:
        return _Way(name, potential, marginal, arguments, 0.0)
    if not chains.complete:
        raise KeyboardInterrupt("Interrupted during a trial: there are no draws to return.")
    sizes = array_stats.ess(chains.vectors, chain_axis=0, draw_axis=1)
    return _Way(
        name, potential, marginal, arguments, float(np.min(sizes)) / chains.seconds["draws"]
    )
