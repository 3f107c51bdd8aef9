"""Structure of our own mixed models' effects, read from their data: nothing has to be found."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpyro.distributions import Distribution

from probmf.inference.marginal.injection import MarginalizeError
from probmf.inference.marginal.layout import Found, SiteLayout, Structure
from probmf.inference.marginal.structure import MAX_DENSE_SITE, several_groups
from probmf.models.mixed.arrays import GroupTerm, MixedData, Predictor
from probmf.models.mixed.program import MixedProgram


def mixed_structure(
    model: Any, sites: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Structure | None:
    """The structure of a Gaussian or log-normal mixed model.

    Args:
        model: Any model.
        sites: The effect sites.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Returns:
        The same as probing finds; None where the model is of another kind, or something is wrong
        with the call that probing has a message for.

    Raises:
        MarginalizeError: If there are too many coefficients, or the data are not those of a design.
    """
    if not isinstance(model, MixedProgram) or len(args) != 1 or kwargs:
        return None
    (data,) = args
    if not isinstance(data, MixedData) or not model.likelihood.normal:
        return None
    terms = {model.sampled_site(term): term for term in data.groups}
    effects = set(model.effect_sites(data.mean))
    if data.response is None or not effects.issuperset(sites):
        return None
    latent = _latent_shapes(model, data)
    value = np.asarray(data.response, np.float64)
    return Structure(
        target=data.response_name,
        hidden=frozenset(
            term.effects_site for name, term in terms.items()
            if name in sites and name != term.effects_site
        ),
        shapes={name: latent[name] for name in sites},
        latent_shapes={name: shape for name, shape in latent.items() if name not in sites},
        found=[
            term_effects(name, terms[name]) if name in terms else population_effects(data.mean)
            for name in sites
        ],
        fixed_priors=not any(_has_sampled_prior(data, name, terms.get(name)) for name in sites),
        fixed_targets=effects <= set(sites),
        observed={
            "loc": _location(data),
            "scale": np.zeros(1 if _one_noise(data) else len(value)),
            "value": model.likelihood.to_score(value),
            "keep": None,
        },
    )  # fmt: skip


def _latent_shapes(model: MixedProgram, data: MixedData) -> dict[str, tuple[int, ...]]:
    """Shapes of all latent sites, in the model's order."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(site: str) -> None:
        prior = data.priors[site]
        if isinstance(prior, Distribution):
            shapes[site] = tuple(prior.batch_shape) + tuple(prior.event_shape)

    for predictor in data.predictors:
        if predictor is data.mean and data.mixing is not None:
            note(data.mixing.site)
        if predictor.names:
            note(predictor.site)
        for term in predictor.groups:
            note(f"{term.name}_scale")
            if term.correlated:
                note(f"{term.name}_correlation")
            shapes[model.sampled_site(term)] = (term.num_groups, len(term.names))
    if data.noise is None:
        note("noise_scale")
    return shapes


def term_effects(name: str, term: GroupTerm) -> Found:
    """Layout and design of a group term's effects, by the name of their site."""
    z, group = np.asarray(term.z, np.float64), np.asarray(term.group, np.int32)
    wrong = (group < 0) | (group >= term.num_groups)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise MarginalizeError(
            f"The group codes of {term.name!r} hold {group[row]} in row {row}; expected "
            f"0..{term.num_groups - 1}, as MixedEffects.design makes them."
        )
    _refuse_not_finite(z, term.name)
    axis = None if term.num_groups == 1 else 0
    known = np.any(z != 0, axis=1)
    shape = (term.num_groups, z.shape[1])
    group = np.where(known, group, 0).astype(np.int32)
    # Standardized effects enter by their scale as well, which is sampled.
    constant = name == term.effects_site
    return Found(SiteLayout(name, shape, axis), group, known, z, constant)


def population_effects(mean: Predictor) -> Found:
    """Layout and design of the coefficients: one block.

    Too many columns for one are groups, if each row has one column only.
    """
    columns = np.asarray(mean.population, np.float64)
    _refuse_not_finite(columns, mean.site)
    rows, size = columns.shape
    if size <= MAX_DENSE_SITE:
        group, known = np.zeros(rows, np.int32), np.ones(rows, bool)
        return Found(SiteLayout(mean.site, (size,), None), group, known, columns, constant=True)
    nonzero = columns != 0
    if np.any(np.sum(nonzero, axis=1) > 1):
        raise several_groups("Some rows involve two or more columns of", mean.site, (size,))
    group = np.argmax(nonzero, axis=1).astype(np.int32)
    layout, design = SiteLayout(mean.site, (size,), 0), columns[np.arange(rows), group][:, None]
    return Found(layout, group, nonzero.any(axis=1), design, constant=True)


def _location(data: MixedData) -> np.ndarray:
    """At the prior mean of the coefficients; the effects' is zero."""
    mean = data.mean
    found = np.zeros(data.num_observations)
    if mean.offset is not None:
        found = found + np.asarray(mean.offset, np.float64)
    if not mean.names:
        return found
    prior: Any = data.priors[mean.site]
    return found + np.asarray(mean.population, np.float64) @ np.asarray(prior.mean, np.float64)


def _one_noise(data: MixedData) -> bool:
    """True where all rows have one noise scale."""
    return data.noise is None and data.cells is None and data.weight is None


def _has_sampled_prior(data: MixedData, name: str, term: GroupTerm | None) -> bool:
    """True where the prior covariance of a site depends on sampled scales or correlations."""
    if term is None:
        return data.mixing is not None
    if name != term.effects_site:
        return False
    return term.correlated or isinstance(data.priors[f"{term.name}_scale"], Distribution)


def _refuse_not_finite(columns: np.ndarray, name: str) -> None:
    bad = ~np.all(np.isfinite(columns), axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise MarginalizeError(
            f"The columns of {name!r} are not finite in row {row}; look for missing values in the "
            "data."
        )
