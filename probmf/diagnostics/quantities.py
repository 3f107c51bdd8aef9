"""Identified quantities, which convergence is judged on.

The posterior of a factorization does not change when users' and items' factors are rotated
together, so factors are never judged as such; what they predict, and how large they are, is.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from probmf.results import MixedFit, NetworkFit, RatingsFit
from probmf.results.draws import Draws
from probmf.results.mixed_summary import is_effect, scalars
from probmf.results.network_fit import mixtures

#: Fits whose draws can be judged.
type AnyFit = RatingsFit | MixedFit | NetworkFit

#: Numbers of a batch of factors that are decomposed at once.
BATCH_NUMBERS = 1 << 24


class Quantity(NamedTuple):
    """Draws of one or many numbers, which are `grouped` if their worst alone is told of."""

    name: str
    draws: Float[np.ndarray, "chain draw m"]
    grouped: bool


def check_fit(fit: object) -> None:
    """Refuse what is no fit."""
    if not isinstance(fit, RatingsFit | MixedFit | NetworkFit):
        raise TypeError(
            f"fit is a {type(fit).__name__}, expected a RatingsFit, a MixedFit or a NetworkFit."
        )


def of_fit(
    fit: AnyFit, probes: int, rng: np.random.Generator, *, quick: bool = False
) -> Iterator[Quantity]:
    """Identified quantities of a fit of any kind.

    `probes` pairs, or rows, are predicted. `quick` leaves out what takes long: singular values and
    biases, and most effects.
    """
    if isinstance(fit, RatingsFit):
        return of_factorization(fit, probes, rng, quick=quick)
    if isinstance(fit, MixedFit):
        return of_mixed_model(fit, probes if quick else None, rng)
    return of_network(fit, probes, rng)


def of_factorization(
    fit: RatingsFit, probes: int, rng: np.random.Generator, *, quick: bool = False
) -> Iterator[Quantity]:
    """Predictions of probe pairs, singular values of U V', biases, scales, intercept.

    Half of the probe pairs are rated ones; of as many rows biases are looked at. `quick` leaves out
    singular values and biases. Quantities that need rows which the sampler did not recover are left
    out.
    """
    samples, data = fit.samples, fit.data
    chains = fit.num_chains
    draws = Draws(fit.model, data, samples)
    # Of a sampler that keeps few of its draws, what it noted at every sweep.
    traces = {} if fit.traces is None else dict(fit.traces.values)
    if "probe_score" in traces:
        yield Quantity("prediction", traces["probe_score"], True)
    elif all(site in samples for site in fit.model.site_shapes(1, 1)):
        rated = rng.integers(len(data), size=probes - probes // 2)
        user = np.concatenate([data.user[rated], rng.integers(data.num_users, size=probes // 2)])
        item = np.concatenate([data.item[rated], rng.integers(data.num_items, size=probes // 2)])
        score = draws.scores(user, item)[0]
        yield Quantity("prediction", score.reshape(chains, -1, probes), True)
    if not quick and "user_factors" in samples and "item_factors" in samples:
        for place, values in enumerate(singular_values(draws).T):
            yield Quantity(f"singular_value[{place}]", values.reshape(chains, -1, 1), False)
    for site in ("user_bias", "item_bias"):
        if site in samples and not quick:
            size = samples[site].shape[2]
            rows = rng.choice(size, size=min(size, probes), replace=False)
            yield Quantity(site, samples[site][:, :, rows], True)
    for site, value in samples.items():
        if site in ("intercept", "cutpoints") or site.endswith("_scale"):
            found = traces.get(site, value)
            yield Quantity(site, found.reshape(*found.shape[:2], -1), found.ndim > 2)


def of_mixed_model(
    fit: MixedFit, probes: int | None, rng: np.random.Generator
) -> Iterator[Quantity]:
    """Every parameter, and the effects of some groups (None: all) of each term together."""
    sites = fit.model.sites(fit.design)
    for site, value in fit.samples.items():
        if is_effect(site):
            if probes is not None and value.shape[2] > probes:
                value = value[:, :, rng.choice(value.shape[2], size=probes, replace=False)]
            yield Quantity(site, value.reshape(*value.shape[:2], -1), True)
        else:
            for name, draws in scalars(site, value, sites):
                yield Quantity(name, draws[:, :, None], False)


def of_network(fit: NetworkFit, probes: int, rng: np.random.Generator) -> Iterator[Quantity]:
    """Scores of training rows, scales and cutpoints; weights only where no unit is hidden.

    Hidden units can be exchanged, and the signs of some flipped, without any change of the scores.
    """
    rows = rng.choice(len(fit.data), size=min(len(fit.data), probes), replace=False)
    inputs = fit.data.inputs()[rows]
    shape = (fit.num_chains, fit.num_draws, -1)
    blocks = mixtures(fit.model, fit.data, fit.samples, inputs)
    parts = [scores.mean.reshape(shape) for _, scores in blocks]
    yield Quantity("prediction", np.concatenate(parts, axis=2), True)
    sites = fit.model.sites(fit.data)
    for site, value in fit.samples.items():
        if not fit.model.hidden or "_scale" in site or site == "cutpoints":
            for name, draws in scalars(site, value, sites):
                yield Quantity(name, draws[:, :, None], False)


def singular_values(draws: Draws) -> Float[np.ndarray, "draws k"]:
    """Singular values of U V' at each draw, from the two sides' k x k moments.

    With U'U = R R' they are the square roots of the eigenvalues of R' (V'V) R. Values below 1e-8 of
    the largest are lost in rounding. Cost O(draws rows k^2).
    """
    u, v = draws.sites["user_factors"], draws.sites["item_factors"]
    step = max(1, BATCH_NUMBERS // (u[0].size + v[0].size))
    found = []
    for start in range(0, draws.num_draws, step):
        moments = []
        for side in (u, v):
            factors = np.asarray(side[start : start + step], np.float64)
            moments.append(np.swapaxes(factors, 1, 2) @ factors)
        value, vector = np.linalg.eigh(moments[0])
        root = vector * np.sqrt(np.maximum(value, 0.0))[:, None, :]
        squares = np.linalg.eigvalsh(np.swapaxes(root, 1, 2) @ moments[1] @ root)
        found.append(np.sqrt(np.maximum(squares[:, ::-1], 0.0)))
    return np.concatenate(found)[:, : min(u.shape[1:] + v.shape[1:2])]


def chosen(
    found: Iterable[str], names: Collection[str] | None, most: int | None = None
) -> list[str]:
    """Names that were asked for, as such or by their site; without any the first."""
    found = list(found)
    if names is None:
        return found[:most]
    wanted = [names] if isinstance(names, str) else list(names)
    sites = dict.fromkeys(own.partition("[")[0] for own in found)
    unknown = [name for name in wanted if name not in {*found, *sites}]
    if unknown:
        raise ValueError(f"var_names holds {unknown[0]!r}, but there are: {', '.join(sites)}.")
    return [own for own in found if {own, own.partition("[")[0]} & {*wanted}]
