"""From a formula and a data frame to the design of a mixed model."""

import re
from typing import Any

import numpy as np
from numpyro.distributions import Distribution

from probmf.data.column import Column
from probmf.data.tables import Frame
from probmf.likelihoods import Likelihood
from probmf.likelihoods.responses import ResponseValues, naming_column
from probmf.models.mixed.arrays import GroupTerm, MixedData, Predictor
from probmf.models.mixed.design import (
    Design,
    Encoded,
    EncodedTerm,
    PredictorCoding,
    TermCoding,
    read_data,
)
from probmf.models.mixed.distinct import (
    refuse_clashes,
    refuse_collinear,
    refuse_own_response,
    refuse_repeats,
    refuse_same_names,
)
from probmf.models.mixed.encoding import ColumnEncoder, GroupEncoder
from probmf.models.mixed.formula import GroupFormula, ParsedFormula, variables
from probmf.models.mixed.priors import (
    WIDTH,
    PredictorColumns,
    Prior,
    Priors,
    ResponsePlace,
    Scaling,
    as_array,
    default_priors,
    heavy_tails,
    mean_target,
    replace_priors,
)
from probmf.numpyro_setup import run_unchecked


def columns_of(formula: ParsedFormula) -> list[str]:
    """Columns that a formula's right side uses, in order."""
    names = [name for part in formula.parts for name in variables(part)]
    for term in formula.groups:
        names += term.factors
    return list(dict.fromkeys(names))


def build_design(
    data: Any,
    formula: ParsedFormula,
    scale_formula: ParsedFormula | None,
    likelihood: Likelihood,
    priors: Priors,
    weights: str | None = None,
) -> Design:
    """Encode training data.

    `weights` is the column of the rows' weights.
    """
    name = str(formula.response)
    formulas = [formula] if scale_formula is None else [formula, scale_formula]
    names = [name, *(column for part in formulas for column in columns_of(part))]
    known = dict(formula.known)
    names += [*known.values(), *([] if weights is None else [weights])]
    refuse_own_response(name, formulas)
    table = read_data(data, list(dict.fromkeys(names)), gaps=formula.with_gaps)
    read = likelihood.read_column(table[name], name)
    # "noise_", "concentration_", "zero_".
    prefix = likelihood.scale_parameter.partition("_")[0] + "_"
    parts = [
        _encode_predictor(part, table, prefix * place, place > 0 or not likelihood.learned)
        for place, part in enumerate(formulas)
    ]
    codings = tuple(coding for coding, _ in parts)
    likelihood = likelihood.coded(len(read.levels))
    resolved = _priors(parts, read, likelihood, priors)
    site = codings[0].site
    heavy = heavy_tails(site, priors.get(site), codings[0].names)
    if heavy is not None:
        resolved[heavy[0].site] = heavy[1]
    if known:
        values = {site: likelihood.read_known(site, table[one]) for site, one in known.items()}
        with naming_column(name):
            resolved |= likelihood.settle_known(read.values, values)
    refuse_clashes(name, list(likelihood.scale_sites()), codings)
    predictors = [_predictor(coding, encoded) for coding, encoded in parts]
    levels = {term.groups.name: term.groups.labels for part in codings for term in part.terms}
    arrays = MixedData(
        mean=predictors[0],
        mixing=None if heavy is None else heavy[0],
        noise=predictors[1] if len(predictors) > 1 else None,
        response=read.values,
        priors=resolved,
        response_name=name,
        num_observations=table.num_rows,
        num_levels=len(read.levels),
        weight=None if weights is None else _weights(table[weights]),
    )
    noise = codings[1] if len(codings) > 1 else None
    return Design(arrays, codings[0], noise, levels, read.levels, known)


def _encode_predictor(
    formula: ParsedFormula, table: Frame, prefix: str, has_intercept: bool
) -> tuple[PredictorCoding, Encoded]:
    columns, population = ColumnEncoder.fit(formula.population, table)
    places = tuple(
        place for place in range(len(columns.names)) if has_intercept or place != columns.intercept
    )
    population = population[:, list(places)]
    names = [columns.names[place] for place in places]
    refuse_same_names(names)
    refuse_collinear(population, names)
    terms: list[TermCoding] = []
    encoded: dict[str, EncodedTerm] = {}
    for group in formula.groups:
        left, z = ColumnEncoder.fit(group.left, table)
        if not left.names:
            raise ValueError(
                f"The group term {group.text} has no columns; write (1 | {':'.join(group.factors)})"
                " for a group intercept, or leave the term out."
            )
        groups, codes = GroupEncoder.fit(group.factors, table)
        for block in _blocks(left, group):
            refuse_same_names([left.names[place] for place in block])
            refuse_repeats(left, block, groups, terms, group.text)
            name = _term_name(prefix, groups.name, [left.terms[place] for place in block], terms)
            terms.append(TermCoding(name, left, block, groups, group.correlated))
            encoded[name] = EncodedTerm(codes, z[:, list(block)])
    site = f"{prefix}coefficients"
    if not formula.offset:
        return PredictorCoding(site, columns, places, tuple(terms)), Encoded(population, encoded)
    for used in variables(formula.offset):
        table[used].numbers()  # Refuses categories.
    offset, added = ColumnEncoder.fit(formula.offset, table)
    coding = PredictorCoding(site, columns, places, tuple(terms), offset)
    return coding, Encoded(population, encoded, offset=added[:, 0])


def _weights(column: Column) -> np.ndarray:
    """Weights of rows, all positive."""
    values = column.numbers()
    column.refuse(
        ~(values > 0), "; expected positive weights. Leave rows of weight zero out of the data."
    )
    return values


def _blocks(left: ColumnEncoder, group: GroupFormula) -> list[tuple[int, ...]]:
    """Columns of one block of effects; without correlations each term of the left side is one."""
    if group.correlated:
        return [tuple(range(len(left.names)))]
    return [
        tuple(place for place, name in enumerate(left.terms) if name == term)
        for term in dict.fromkeys(left.terms)
    ]


def _term_name(prefix: str, factor: str, terms: list[str], taken: list[TermCoding]) -> str:
    """The factor's name, and for its second block that with the columns' terms appended."""
    name = prefix + factor
    used = {term.name for term in taken}
    if name in used:
        words = [re.sub(r"\W+", "_", term).strip("_") for term in dict.fromkeys(terms)]
        name = "_".join([name, *(word for word in words if word != "1")])
    base, count = name, 2
    while name in used:
        name, count = f"{base}_{count}", count + 1
    return name


def _priors(
    parts: list[tuple[PredictorCoding, Encoded]],
    read: ResponseValues,
    likelihood: Likelihood,
    given: Priors,
) -> dict[str, Prior]:
    # Learned parameters of the likelihood stand for an intercept.
    scalings = [
        Scaling.of(encoded.population, aside=coding is parts[0][0] and bool(likelihood.learned))
        for coding, encoded in parts
    ]
    place = likelihood.place(read.values)
    if (offset := parts[0][1].offset) is not None:
        place = place - (offset if isinstance(place, np.ndarray) else likelihood.middle(offset))
    target = mean_target(place, has_constant=scalings[0].constant is not None)
    # The parameter that has a predictor has no prior of its own.
    varying = likelihood.scale_parameter if len(parts) > 1 else ""
    targets = [target, ResponsePlace(*likelihood.scale_place(target.width / WIDTH))]
    if varying and (offset := parts[1][1].offset) is not None:
        targets[1] = targets[1]._replace(center=targets[1].center - float(np.mean(offset)))
    defaults: dict[str, Prior] = {}
    names = {coding.site: coding.names for coding, _ in parts}
    with run_unchecked():  # The user's own were checked when they were made.
        for (coding, encoded), scaling, aim in zip(parts, scalings, targets, strict=False):
            groups = [
                (term.name, term.names, encoded.groups[term.name].z, term.correlated)
                for term in coding.terms
            ]
            columns = PredictorColumns(coding.site, coding.names, scaling, groups)
            defaults |= default_priors(columns, aim)
        moved = target.width * float(np.sqrt(max(scalings[0].aside ** 2 - 1.0, 0.0)))
        own = likelihood.default_priors(target.width) | likelihood.moved_priors(
            -target.center, moved
        )
        defaults |= {site: law for site, law in own.items() if site != varying}
        for site, value in likelihood.stated.items():
            _refuse_twice(likelihood, given, site)
            if isinstance(value, Distribution):
                given = {site: value, **given}
            else:
                defaults[site] = as_array(value)
        return replace_priors(defaults, given, names, parts[0][0].site)


def _refuse_twice(likelihood: Likelihood, given: Priors, site: str) -> None:
    """Refuse a prior of something that the likelihood has already."""
    if site in given:
        words = site.replace("_", " ")
        raise ValueError(
            f"likelihood is {likelihood!r} and priors[{site!r}] is {given[site]!r}: both say what "
            f"the {words} {'are' if words.endswith('s') else 'is'}. Leave one of them out."
        )


def _predictor(coding: PredictorCoding, encoded: Encoded) -> Predictor:
    terms = tuple(
        GroupTerm(
            group=encoded.groups[term.name].group,
            z=encoded.groups[term.name].z,
            name=term.name,
            plate=term.groups.name,
            names=term.names,
            num_groups=term.groups.num_groups,
            correlated=term.correlated and len(term.names) > 1,
        )
        for term in coding.terms
    )
    return Predictor(encoded.population, terms, coding.names, coding.site, encoded.offset)
