"""Gibbs sampling of a Gaussian mixed model: its problem, its checks, and its fit."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.distributions import Distribution

from probmf.data import as_key
from probmf.data.keys import as_generator
from probmf.effects import RemainderTooLargeError
from probmf.inference.gibbs.chains import GibbsChains, GibbsSettings
from probmf.inference.gibbs.job import Job, row_moments, sampling_of
from probmf.inference.gibbs.mixed_sweep import MixedProblem, MixedState
from probmf.inference.marginal import marginalize
from probmf.inference.marginal.prepared import Prepared
from probmf.inference.target import Target
from probmf.models.mixed import MixedEffects
from probmf.models.mixed.arrays import MixedData
from probmf.run.draw_stream import stream_sites
from probmf.run.fingerprint import fingerprint

#: Starting scales of the effects, and of the noise, as a share of the response's sd.
EFFECT_SHARE, NOISE_SHARE = 0.4, 0.8
#: Standard deviation of the logarithm of starting scales about those, from chain to chain.
SPREAD = 0.5


def mixed_job(model: MixedEffects, data: Any, key: Array, start_key: Array, num_chains: int) -> Job:
    """All that a run needs to know of a mixed model and its data."""
    target = Target.build(model.centred, data)
    model = target.source
    design: Any = target.design
    (arguments,) = target.args
    sites = model.sites(design)
    response = model.likelihood.to_score(np.asarray(arguments.response, np.float64))
    effects = _blocks(model, model.effect_sites(arguments), arguments)
    problem = MixedProblem(arguments, jnp.asarray(response, jnp.result_type(float)), effects)

    def finish(settings: GibbsSettings, chains: GibbsChains, info: dict[str, Any]) -> Any:
        num_kept = next(iter(chains.kept.values())).shape[1]
        at = settings.thin * np.arange(1, num_kept + 1) - 1
        samples = {n: v[:, at] for n, v in chains.traces.items() if n != "lp"} | chains.kept
        record = sampling_of(settings, chains, at, info)
        return target.fit(samples, "gibbs", sampling=record, moments=row_moments(chains))

    return Job(
        engine=problem,
        starts=_starts(problem, start_key, num_chains),
        identity=fingerprint(model, arguments, key),
        stream=stream_sites(sites, problem.contents.rows | problem.contents.traces),
        coords=sites.labels,
        finish=finish,
    )


def _blocks(
    model: MixedEffects, sites: tuple[str, ...], arguments: MixedData
) -> tuple[Prepared, ...]:
    """All effects at once, or by grouping factor where their precision is too large to factor."""
    try:
        return (_exactly(model, sites, arguments),)
    except RemainderTooLargeError:
        plates = dict.fromkeys(term.plate for term in arguments.groups)
        if len(plates) < 2:
            raise
    # The coefficients go along with every grouping factor, lest they crawl against its mean.
    own = {p: [t.effects_site for t in arguments.groups if t.plate == p] for p in plates}
    shared = [site for site in sites if site == arguments.mean.site]
    return tuple(_exactly(model, [*shared, *named], arguments) for named in own.values())


def _exactly(model: Any, sites: Sequence[str], arguments: Any) -> Prepared:
    """The model without some sites, whose integral is exact."""
    found = marginalize(model, sites).prepare(arguments)
    if not isinstance(found, Prepared):
        raise TypeError(f"The effects {sites} of {model} have no exact conditional.")
    return found


def _starts(problem: MixedProblem, key: Array, num_chains: int) -> list[MixedState]:
    """Moderate scales, not the same ones in all chains; the first sweep draws all effects."""
    rng = as_generator(key)
    dtype = jnp.result_type(float)
    spread = float(np.std(np.asarray(problem.response))) or 1.0
    sizes = {
        f"{t.name}_scale": np.sqrt(np.mean(np.square(np.asarray(t.z)), axis=0))
        for t in problem.data.groups
    }
    contents, states = problem.contents, []
    for _ in range(num_chains):
        varying, log_noise = [np.zeros(0)], np.zeros(())
        for name, law in problem.laws.items():
            jitter = np.exp(SPREAD * rng.standard_normal(law.batch_shape))
            if name == "noise_scale":
                log_noise = np.log(_supported(law, NOISE_SHARE * spread * jitter, rng))
            elif name.endswith("_correlation"):
                varying.append(np.zeros(law.event_shape[0] * (law.event_shape[0] - 1) // 2))
            else:
                size = np.where(sizes[name] > 0, sizes[name], 1.0)
                varying.append(np.log(_supported(law, EFFECT_SHARE * spread / size * jitter, rng)))
        states.append(
            MixedState(
                jnp.asarray(np.concatenate(varying), dtype), jnp.asarray(log_noise, dtype),
                jnp.zeros(contents.num_numbers, dtype),
                jnp.zeros(sum(int(np.prod(s)) for s in contents.traces.values()), dtype),
                jnp.zeros((), jnp.int32),
            )
        )  # fmt: skip
    return states


def _supported(law: Distribution, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A starting scale, or a draw from its prior where the prior does not allow it."""
    inside = np.asarray(law.support(value)) & np.isfinite(np.asarray(law.log_prob(value)))
    if np.all(inside):
        return value
    drawn = np.asarray(law.sample(as_key(int(rng.integers(2**31)))))
    return np.where(inside, value, drawn)
