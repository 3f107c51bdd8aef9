"""Sections of the report of a fit of a mixed model."""

from typing import Any

import numpy as np

from probmf import plots
from probmf.models.mixed.priors import ColumnLaws
from probmf.plots.style import LABELLED
from probmf.report import shared
from probmf.report.page import Section, Tile, columns, facts, heading, picture, table, text
from probmf.report.shared import INTERVAL, INTERVAL_NAME, surprise_words, surprises
from probmf.results import MixedFit
from probmf.results.mixtures import tails
from probmf.results.table import Table

#: Group terms that are shown with a picture, groups at each end of a table, rows of a table.
_TERMS, _ENDS, _GROUPS = 6, 5, 10
#: Columns of a summary that the section on convergence has.
_LEFT_OUT = ("ess_tail", "mcse_mean", "mcse_sd")


def data_section(fit: MixedFit) -> Section:
    """The training rows and their groups."""
    design = fit.design
    response = np.asarray(design.data.response, np.float64)
    told = {"response": design.data.response_name, "rows": f"{design.data.num_observations:,}"}
    if design.response_levels:
        told["levels"] = ", ".join(map(str, design.response_levels))
    else:
        told["range"] = (
            f"from {response.min():.4g} to {response.max():.4g}, mean {response.mean():.4g}, "
            f"standard deviation {response.std():.4g}"
        )
    rows = []
    for name, codes in fit.design.group_codes.items():
        size = np.bincount(codes, minlength=len(design.levels[name]))
        low, middle, high = np.quantile(size, [0.0, 0.5, 1.0])
        rows.append({"grouping": name, "groups": len(size), "fewest rows": int(low),
                     "median": float(middle), "most rows": int(high)})  # fmt: skip
    return Section("Data", [facts(told), table(Table(tuple(rows)), "Groups")])


def model_section(fit: MixedFit) -> Section:
    """The formula and the priors."""
    told = {"formula": fit.model.formula, "likelihood": fit.model.likelihood.kind}
    if fit.model.scale_formula is not None:
        words = fit.model.likelihood.scale_parameter.replace("_", " ")
        told[f"formula of the {words}"] = fit.model.scale_formula
    data = fit.design.data
    priors = {site: law for site, law in data.priors.items() if site not in fit.design.known}
    if data.mixing is not None:
        # The mixing of Normals is how these are computed with, no prior of the user's.
        del priors[data.mixing.site], priors[data.mean.site]
        own = data.coefficient_priors().items()
        priors = {f"{data.mean.site}[{name}]": law for name, law in own} | priors
    for site, law in tuple(priors.items()):
        if isinstance(law, ColumnLaws):
            del priors[site]
            each = zip(fit.design.codings[1].names, law.laws, strict=True)
            priors |= {f"{site}[{name}]": one for name, one in each}
    rows = [{"parameter": site, "prior": shared.prior_words(law)} for site, law in priors.items()]
    return Section("Model", [facts(told), table(Table(tuple(rows)), "Priors")])


def parameters_section(fit: MixedFit) -> Section:
    """Coefficients, scales and correlations."""
    found = fit.summary(interval=INTERVAL)
    rows = [{name: own for name, own in row.items() if name not in _LEFT_OUT} for row in found]
    parts = [table(Table(tuple(rows), found.notes), "Coefficients, scales and correlations")]
    if not fit.is_point:
        alt = "Means and intervals of coefficients, scales and correlations."
        parts.append(picture(plots.forest(fit), alt))
    return Section("Parameters", parts)


def effects_section(fit: MixedFit) -> Section:
    """Effects of the groups of each term."""
    parts = []
    terms = [own for coding in fit.design.codings for own in coding.terms]
    shown = [own for own in terms if f"{own.name}_effects" in fit.samples]
    for term in shown[:_TERMS]:
        count = term.groups.num_groups
        parts.append(heading(f"{term.name}: {count:,} groups"))
        alt = f"Effects of the groups of {term.name} in order of their means"
        parts.append(picture(plots.effects(fit, term.name), f"{alt}, with intervals."))
        if count > LABELLED:
            parts += [columns(*(_ends(fit, term, place) for place in range(len(term.names))))]
    if len(shown) > _TERMS:
        parts.append(text(f"{len(shown) - _TERMS} more terms are not shown.", kind="muted"))
    missing = [own.name for own in terms if own not in shown]
    if missing:
        parts.append(
            text(f"The sampler integrated out the effects of {', '.join(missing)} and did not "
                 "recover them.", kind="muted")
        )  # fmt: skip
    return Section("Effects", parts)


def _ends(fit: MixedFit, term: Any, place: int) -> str:
    """Groups with the largest and the smallest effects."""
    draws = fit.samples[f"{term.name}_effects"][..., place]
    draws = draws.reshape(-1, draws.shape[-1])
    order = np.argsort(-draws.mean(axis=0), kind="stable")
    labels = fit.design.levels[term.groups.name]
    rows = []
    for group in [*order[:_ENDS], *order[-_ENDS:]]:
        row: dict[str, Any] = {"group": str(labels[group]), "effect": float(draws[:, group].mean())}
        if len(draws) > 1:
            low, high = np.quantile(draws[:, group], tails(INTERVAL))
            row[INTERVAL_NAME] = f"{low:.4g} to {high:.4g}"
        rows.append(row)
    return table(Table(tuple(rows)), f"{term.names[place]}: the largest and the smallest effects")


def groups_section(fit: MixedFit) -> Section:
    """Groups with the most rows, and those that are predicted worst."""
    if fit.design.response_levels or not _predictable(fit):
        return Section("Groups", [])
    observed = np.asarray(fit.design.data.response, np.float64)
    predicted = fit.predict(interval=None).mean
    if not np.all(np.isfinite(predicted)):
        return Section("Groups", [])
    parts = []
    for name, codes in fit.design.group_codes.items():
        labels = fit.design.levels[name]
        found = surprises(observed, predicted, codes, len(labels))
        tables: list[str] = []
        orders = {"predicted worst": found.surprise, "with the most rows": found.size}
        for caption, value in orders.items():
            if tables and len(labels) <= _GROUPS:
                break  # The same groups once more.
            some = np.argsort(-value, kind="stable")[:_GROUPS]
            rows = [
                {name: str(labels[own]), "rows": int(found.size[own]),
                 "mean": float(found.mean[own]), "error": float(found.error[own]),
                 "surprise": float(found.surprise[own])}
                for own in some if found.size[own]
            ]  # fmt: skip
            tables.append(table(Table(tuple(rows)), f"Groups of {name} {caption}"))
        parts.append(columns(*tables))
    if parts:
        parts.append(text(surprise_words("response", "a group"), kind="muted"))
    return Section("Groups", parts)


def check_section(fit: MixedFit) -> Section:
    """Predictive checks of draws."""
    if fit.is_point or not _predictable(fit):
        return Section("Predictive check", [])
    parts = [
        picture(
            plots.predictive_check(fit, key=0),
            "Distribution of the training responses over that of replicated data sets.",
        )
    ]
    grouping = list(fit.design.group_codes)
    if grouping:
        parts.append(
            picture(
                plots.predictive_check(fit, key=0, by=grouping[0]),
                f"Mean response of each group of {grouping[0]}, over that of replicated data sets.",
            )
        )
    told = "Bands are where 90 % of the data sets lie that the fitted model makes."
    return Section("Predictive check", [text(told, kind="muted"), columns(*parts)])


def mixed_tiles(fit: MixedFit) -> list[Tile]:
    """Sizes."""
    groups = ", ".join(f"{name}: {len(of):,}" for name, of in fit.design.levels.items())
    shown = [Tile("rows", f"{fit.design.data.num_observations:,}", groups)]
    if fit.maximum is not None and fit.maximum.log_likelihood is not None:
        top = fit.maximum
        shown.append(Tile("log likelihood", f"{top.log_likelihood:.6g}", f"AIC {top.aic:.6g}"))
    return shown


def _predictable(fit: MixedFit) -> bool:
    """True if all effects are there."""
    terms = [own.name for coding in fit.design.codings for own in coding.terms]
    return all(f"{name}_effects" in fit.samples for name in terms)
