"""Predictions of a mixed-effects model, averaged over draws."""

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from probmf.likelihoods import Likelihood
from probmf.models.mixed import Design, Encoded, EncodedTerm
from probmf.models.mixed.design import PredictorCoding
from probmf.results.arviz_tree import at_draws
from probmf.results.mixtures import row_blocks
from probmf.results.prediction_intervals import (
    NODES,
    PLACES,
    WEIGHTS,
    Kind,
    ScoreMixture,
    evaluate,
    joined,
    summarize,
    tail_probability,
)
from probmf.results.predictions import Predictions

#: Which effects count: those of all groups, none, or those of some groupings.
type Level = Literal["groups", "population"] | Collection[str]
#: What is told of a row: its expected response, its linear predictor, or the probability of each
#: level.
type Scale = Literal["mean", "link", "probabilities"]


class RowParameters(NamedTuple):
    """Parameters of the rows' responses at each draw.

    `mean` is the linear predictor, or its mean over the effects of new groups; `variance` that by
    these effects, which are Normal, None without new groups. `own` has the likelihood's own
    parameters: noise scale, of shape (draws, 1) or (draws, n), or cutpoints, of shape (draws, 1,
    c). That of a `scale_formula` has its predictor in `scale`, with the variance `spread`.
    """

    likelihood: Likelihood
    mean: Float[np.ndarray, "draws n"]
    variance: Float[np.ndarray, "draws n"] | None
    own: dict[str, np.ndarray]
    scale: Float[np.ndarray, "draws n"] | None = None
    spread: Float[np.ndarray, "draws n"] | None = None

    def parameters(self, shift: Any = 0.0) -> dict[str, np.ndarray]:
        """Own parameters, that of a `scale_formula` with something added to its predictor."""
        if self.scale is None:
            return self.own
        with jax.enable_x64(True):  # Nodes far out have numbers that single precision lacks.
            found = np.asarray(self.likelihood.from_scale_predictor(self.scale + shift))
        return {**self.own, self.likelihood.scale_parameter: found}


class SiteDraws:
    """Draws of sites, chains joined; what the model has fixed is repeated."""

    def __init__(
        self, design: Design, samples: Mapping[str, np.ndarray], likelihood: Likelihood
    ) -> None:
        """Keep all; the likelihood is that of the responses as they are coded."""
        self.design, self.samples, self.likelihood = design, samples, likelihood
        first = next(iter(samples.values()))
        self.num_draws = int(first.shape[0] * first.shape[1])

    def __getitem__(self, site: str) -> Float[np.ndarray, "draws ..."]:
        """Draws of a site."""
        if site in self.samples:
            value = self.samples[site]
            return value.reshape(-1, *value.shape[2:])
        prior = self.design.data.priors.get(site)
        if prior is not None and not hasattr(prior, "log_prob"):
            fixed = np.asarray(prior)
            return np.broadcast_to(fixed, (self.num_draws, *fixed.shape))
        if not site.endswith(("_effects", "coefficients")):
            raise ValueError(
                f"The fit has no draws of {site}, whose prior is a distribution; they belong in "
                "samples."
            )
        instead = ", or predict with level='population'" * site.endswith("_effects")
        raise ValueError(
            f"The fit has no draws of {site}: the sampler integrated them out and did not draw "
            f"them afterwards. Sample again and have them recovered{instead}."
        )


def predict_rows(
    draws: SiteDraws, rows: Encoded, *, interval: float | None, kind: Kind
) -> Predictions:
    """Predict encoded rows; see `MixedFit.predict`."""
    levels = draws.design.response_levels
    values = level_values(levels) if levels else None
    parts = []
    for part, given in blocks(draws, rows):
        found = summarize(draws.likelihood, mixture(given), interval, kind, values)
        if (endless := endless_means(given)).any():
            found = found._replace(mean=np.where(endless, np.inf, found.mean))
            if found.sd is not None:
                found = found._replace(sd=np.where(endless, np.inf, found.sd))
        parts.append((part, found))
    found = joined(parts, len(rows.population))
    if not levels:
        found = found._replace(probabilities=None)
    return Predictions(**found._asdict(), levels=levels, known=known_rows(rows))


def endless_means(given: RowParameters) -> Bool[np.ndarray, " n"]:
    """True where the expected response has no bound: E exp(sigma^2 / 2), log(sigma) Normal."""
    likelihood = given.likelihood
    if given.spread is None or not likelihood.normal or likelihood.quadratic:
        return np.zeros(given.mean.shape[1], bool)
    return given.spread.any(axis=0)


def tail_rows(
    draws: SiteDraws, rows: Encoded, at_least: float | np.ndarray
) -> Float[np.ndarray, " n"]:
    """Probabilities that responses, numbers without levels, reach a number, or one for each row."""
    found = np.empty(len(rows.population))
    at = np.broadcast_to(np.asarray(at_least, np.float64), found.shape)
    for part, given in blocks(draws, rows):
        found[part] = tail_probability(draws.likelihood, mixture(given), at[part])
    return found


def level_values(levels: tuple[Any, ...]) -> Float[np.ndarray, " levels"]:
    """Levels that are numbers as they are, others by their places from 0."""
    if all(isinstance(level, int | float | np.number) for level in levels):
        return np.asarray(levels, np.float64)
    return np.arange(len(levels), dtype=np.float64)


def mixture(given: RowParameters) -> ScoreMixture:
    """Scores at draws, or at draws and nodes of the parameter that has a `scale_formula`."""
    sd = None if given.variance is None else np.sqrt(given.variance)
    if given.spread is None:
        return ScoreMixture(given.mean, sd, given.parameters())
    draws = len(given.mean)
    mean = np.tile(given.mean, (NODES, 1))
    shift = np.multiply.outer(PLACES, np.sqrt(given.spread))
    own = {
        site: np.tile(each, (NODES, *(1,) * (each.ndim - 1))) for site, each in given.own.items()
    }
    name = given.likelihood.scale_parameter
    varying = given.parameters(shift)[name]
    own[name] = varying.reshape(NODES * draws, -1)
    return ScoreMixture(
        mean, None if sd is None else np.tile(sd, (NODES, 1)), own,
        np.repeat(WEIGHTS / draws, draws),
    )  # fmt: skip


def blocks(
    draws: SiteDraws, rows: Encoded
) -> Iterator[tuple[Int[np.ndarray, " part"], RowParameters]]:
    """Parameters of the responses at each draw, by blocks of rows of known or of new groups."""
    numbers = draws.num_draws * max(1, len(draws.design.response_levels))
    known = known_rows(rows)
    for chosen, each in ((known, numbers), (~known, numbers * NODES)):
        places = np.flatnonzero(chosen)
        for part in row_blocks(len(places), each):
            yield places[part], given_rows(draws, rows, places[part])


def given_rows(draws: SiteDraws, rows: Encoded, part: Int[np.ndarray, " part"]) -> RowParameters:
    """Parameters of the responses of some rows at each draw."""
    design, likelihood = draws.design, draws.likelihood
    mean, variance = _linear(draws, design.mean, rows, part)
    sites, scale, spread = set(likelihood.scale_sites()), None, None
    if design.noise is not None and rows.noise is not None:
        scale, spread = _linear(draws, design.noise, rows.noise, part)
        sites.remove(likelihood.scale_parameter)
    own = {
        site: np.broadcast_to(rows.known[site][part], mean.shape) if site in rows.known
        else np.asarray(draws[site], np.float64)[:, None]
        for site in sites
    }  # fmt: skip
    return RowParameters(likelihood, mean, variance, own, scale, spread)


def known_rows(rows: Encoded) -> Bool[np.ndarray, " n"]:
    """True where all groups of a row are known."""
    known = np.ones(len(rows.population), bool)
    for part in (rows, rows.noise):
        for term in part.groups.values() if part is not None else ():
            known &= term.group >= 0
    return known


def training_rows(design: Design) -> Encoded:
    """The rows of the training data."""
    parts = []
    for predictor in design.data.predictors:
        terms = {
            term.name: EncodedTerm(np.asarray(term.group), np.asarray(term.z, np.float64))
            for term in predictor.groups
        }
        offset = None if predictor.offset is None else np.asarray(predictor.offset, np.float64)
        parts.append(Encoded(np.asarray(predictor.population, np.float64), terms, offset=offset))
    known = {site: np.asarray(design.data.priors[site], np.float64) for site in design.known}
    return parts[0]._replace(noise=parts[1] if len(parts) > 1 else None, known=known)


def left_out(design: Design, level: Level) -> frozenset[str]:
    """Names of the group terms that a level leaves out."""
    factor = {term.name: term.groups.name for own in design.codings for term in own.terms}
    if level == "groups":
        return frozenset()
    if level == "population":
        return frozenset(factor)
    known = list(dict.fromkeys([*factor.values(), *factor]))
    listed = ", ".join(map(repr, known)) or "none"
    if isinstance(level, str):
        raise ValueError(
            f"level is {level!r}; expected 'groups' or 'population', or a list of groupings whose "
            f"effects count; there are: {listed}."
        )
    if not isinstance(level, Collection):
        raise TypeError(
            f"level is {level!r}; expected 'groups' or 'population', or a list of groupings whose "
            f"effects count; there are: {listed}."
        )
    wanted = set(level)
    if unknown := wanted - set(known):
        raise ValueError(
            f"level holds {sorted(map(str, unknown))[0]!r}, which is no grouping of the model; "
            f"its groupings are: {listed}."
        )
    return frozenset(name for name, own in factor.items() if not wanted & {name, own})


def without(rows: Encoded, terms: Collection[str]) -> Encoded:
    """The same rows, some group terms left out."""
    kept = {name: term for name, term in rows.groups.items() if name not in terms}
    noise = None if rows.noise is None else without(rows.noise, terms)
    return rows._replace(groups=kept, noise=noise)


def with_drawn_groups(
    draws: SiteDraws, rows: Encoded, rng: np.random.Generator
) -> tuple[SiteDraws, Encoded]:
    """Draw the effects of new groups from their prior; they stand behind the known groups'."""
    samples = dict(draws.samples)

    def drawn(part: Encoded) -> Encoded:
        terms = dict(part.groups)
        for name, term in terms.items():
            count = -min(int(term.group.min(initial=0)), 0)
            if not count:
                continue
            effects = draws[f"{name}_effects"]
            size, num_groups, width = effects.shape
            normal = rng.normal(size=(size, count, width))
            if f"{name}_correlation" in draws.design.data.priors:
                normal = normal @ np.swapaxes(draws[f"{name}_correlation"], 1, 2)
            new = normal * draws[f"{name}_scale"][:, None, :]
            samples[f"{name}_effects"] = np.concatenate([effects, new], axis=1)[None]
            # The codes -1, -2, ... follow on those of the known groups.
            group = np.where(term.group < 0, num_groups - 1 - term.group, term.group)
            terms[name] = term._replace(group=group)
        return part._replace(groups=terms)

    noise = None if rows.noise is None else drawn(rows.noise)
    known = drawn(rows)._replace(noise=noise)
    return SiteDraws(draws.design, samples, draws.likelihood), known


def draw_rows(
    draws: SiteDraws, rows: Encoded, *, kind: Kind, rng: np.random.Generator | None
) -> Float[np.ndarray, "draws n"]:
    """Expected responses of encoded rows at each draw, or responses and new groups drawn there."""
    levels, size = draws.design.response_levels, len(rows.population)
    if rng is not None:
        draws, rows = with_drawn_groups(draws, rows, rng)
    likelihood = draws.likelihood
    values, given = level_values(levels or likelihood.levels), blocks(draws, rows)
    if kind == "response":
        like = np.zeros(size, np.asarray(draws.design.data.response).dtype)
        mixtures = ((part, mixture(own)) for part, own in given)
        found = at_draws(likelihood, mixtures, like, rng=rng)
        return values[found.astype(int)] if levels else found
    found = np.empty((draws.num_draws, size))
    for part, own in given:
        found[:, part] = expected(own, "mean", values)[..., 0]
    return found


def expected(
    given: RowParameters, scale: Scale, values: Float[np.ndarray, " levels"], *, slope: bool = False
) -> Float[np.ndarray, "draws n k"]:
    """Expected responses at each draw, linear predictors, or probabilities of levels.

    Of a new group the effects are integrated out. With `slope` derivatives by the linear predictor
    are given in their place. One number for each row, or one for each level; `values` are the
    numbers that levels stand for.
    """
    likelihood = given.likelihood
    if scale == "link" or likelihood.quadratic:
        return (np.ones_like(given.mean) if slope else given.mean)[..., None]
    asked = partial(evaluate, likelihood, slope=slope)
    sd = None if given.variance is None else np.sqrt(given.variance)
    if likelihood.levels:
        each = asked("level_probabilities", given.mean, scales=given.own, sd=sd)
        return np.asarray(each if scale == "probabilities" else (each @ values)[..., None])

    def mean(shift: Any) -> np.ndarray:
        own = given.parameters(shift)
        if sd is None:
            return np.asarray(asked("mean", given.mean, scales=own))
        return np.asarray(asked("integrate", given.mean, sd, scales=own)[0])

    if given.spread is None:
        return mean(0.0)[..., None]
    root = np.sqrt(given.spread)
    found = sum(w * mean(place * root) for place, w in zip(PLACES, WEIGHTS, strict=True))
    return np.where(endless_means(given), np.inf, found)[..., None]


def _linear(
    draws: SiteDraws, coding: PredictorCoding, rows: Encoded, part: Int[np.ndarray, " part"]
) -> tuple[Float[np.ndarray, "draws part"], Float[np.ndarray, "draws part"] | None]:
    """The linear predictor at each draw, and its variance by effects of new groups, if any."""
    x = rows.population[part]
    total = np.zeros((draws.num_draws, len(x)))
    variance = None
    if rows.offset is not None:
        total += rows.offset[part]
    if coding.names:
        total += draws[coding.site] @ x.T
    for term in coding.terms:
        if term.name not in rows.groups:
            continue
        group, z = rows.groups[term.name].group[part], rows.groups[term.name].z[part]
        effects = draws[f"{term.name}_effects"]
        new = group < 0
        for place in range(z.shape[1]):
            column = np.take(effects[:, :, place], np.maximum(group, 0), axis=1)
            column[:, new] = 0.0
            total += column * z[:, place]
        if new.any():
            variance = np.zeros_like(total) if variance is None else variance
            variance[:, new] += _new_variance(draws, term.name, z[new])
    return total, variance


def _new_variance(
    draws: SiteDraws, name: str, z: Float[np.ndarray, "rows d"]
) -> Float[np.ndarray, "draws rows"]:
    r"""Variance :math:`z' \Sigma z` of what the effects of a new group add, at each draw."""
    loading = draws[f"{name}_scale"][:, None, :] * z
    if f"{name}_correlation" in draws.design.data.priors:
        loading = loading @ draws[f"{name}_correlation"]
    return np.square(loading).sum(axis=2, dtype=np.float64)
