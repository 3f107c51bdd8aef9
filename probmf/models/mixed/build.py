"""From a formula and a data frame to the design of a mixed model."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpyro
from scipy.linalg import qr

from probmf.models.mixed.columns import Table, variables
from probmf.models.mixed.design import Design, Encoded, EncodedTerm, PredictorCoding, TermCoding
from probmf.models.mixed.encoding import INTERCEPT, ColumnEncoder
from probmf.models.mixed.formula import GroupFormula, ParsedFormula
from probmf.models.mixed.grouping import GroupEncoder
from probmf.models.mixed.priors import (
    PredictorColumns,
    Prior,
    Priors,
    cutpoint_prior,
    default_priors,
    mean_target,
    noise_prior,
    noise_target,
    replace_priors,
)
from probmf.models.mixed.response import Response, ResponseValues
from probmf.models.mixed.structure import GroupTerm, MixedData, Predictor

#: Columns whose part outside the span of the others is smaller than this are dependent, as in R.
COLLINEAR = 1e-7


def columns_of(formula: ParsedFormula) -> list[str]:
    """Columns that a formula's right side uses, in order."""
    names = variables(formula.population)
    for term in formula.groups:
        names += [*variables(term.left), *term.factors]
    return list(dict.fromkeys(names))


def build_design(
    data: Any,
    formula: ParsedFormula,
    scale_formula: ParsedFormula | None,
    response: Response,
    priors: Priors,
) -> Design:
    """Encode training data.

    Args:
        data: Any table.
        formula: The parsed formula, with a response.
        scale_formula: The parsed formula of the logarithm of the noise scale, or None.
        response: The kind of response.
        priors: The user's priors.

    Returns:
        The design.

    Raises:
        TypeError: If a column has the wrong type.
        ValueError: If the data do not suit the formula; see the model.
    """
    name = str(formula.response)
    formulas = [formula] if scale_formula is None else [formula, scale_formula]
    names = [name, *(column for part in formulas for column in columns_of(part))]
    table = Table(data, list(dict.fromkeys(names)))
    read = response.read(table, name)
    parts = [
        _encode_predictor(part, table, "noise_" * place, response.has_intercept or place > 0)
        for place, part in enumerate(formulas)
    ]
    codings = tuple(coding for coding, _ in parts)
    resolved = _priors(parts, read, response, priors)
    _refuse_clashes(name, codings, resolved)
    predictors = [_predictor(coding, encoded) for coding, encoded in parts]
    levels = {term.groups.name: term.groups.labels for part in codings for term in part.terms}
    arrays = MixedData(
        mean=predictors[0],
        noise=predictors[1] if len(predictors) > 1 else None,
        response=read.values,
        priors=resolved,
        response_name=name,
        num_observations=table.length,
    )
    noise = codings[1] if len(codings) > 1 else None
    return Design(arrays, codings[0], noise, levels, read.levels)


def _encode_predictor(
    formula: ParsedFormula, table: Table, prefix: str, has_intercept: bool
) -> tuple[PredictorCoding, Encoded]:
    columns, population = ColumnEncoder.fit(formula.population, table)
    places = tuple(
        place for place, name in enumerate(columns.names) if has_intercept or name != INTERCEPT
    )
    population = population[:, list(places)]
    _refuse_collinear(population, [columns.names[place] for place in places])
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
            _refuse_repeats(left, block, groups.name, terms, group.text)
            name = _term_name(prefix, groups.name, [left.terms[place] for place in block], terms)
            terms.append(TermCoding(name, left, block, groups, group.correlated))
            encoded[name] = EncodedTerm(codes, z[:, list(block)])
    coding = PredictorCoding(f"{prefix}coefficients", columns, places, tuple(terms))
    return coding, Encoded(population, encoded)


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


def _refuse_repeats(
    left: ColumnEncoder, block: tuple[int, ...], factor: str, terms: list[TermCoding], text: str
) -> None:
    earlier = {name for term in terms if term.groups.name == factor for name in term.names}
    twice = [left.names[place] for place in block if left.names[place] in earlier]
    if twice:
        raise ValueError(
            f"The group term {text} gives the factor {factor!r} a second effect of {twice[0]!r}, "
            "and the two could not be told apart. Take it out of one of the terms: a term has an "
            "intercept unless it says 0, as in (0 + x | g)."
        )


def _refuse_collinear(population: np.ndarray, names: list[str]) -> None:
    dependent = [names[place] for place in dependent_columns(population)]
    if dependent:
        listed = ", ".join(map(repr, dependent))
        raise ValueError(
            f"The population columns are collinear: {listed} "
            f"{'is a combination' if len(dependent) == 1 else 'are combinations'} of those before "
            f"(rank {len(names) - len(dependent)} of {len(names)} columns in "
            f"{len(population):,} rows). Leave such terms out of the formula."
        )


def dependent_columns(matrix: np.ndarray) -> list[int]:
    """Columns that are combinations of columns before them.

    Args:
        matrix: Finite, of shape (n, p).

    Returns:
        Their places, in order. Cost O(n p^2).
    """
    size = np.linalg.norm(matrix, axis=0)
    # The triangle has the same inner products as the columns, and p rows only.
    (triangle,) = qr(matrix / np.where(size > 0, size, 1.0), mode="r", check_finite=False)
    basis = np.zeros((triangle.shape[0], 0))
    dependent = []
    for place, column in enumerate(triangle.T):
        rest = column - basis @ (basis.T @ column)
        rest -= basis @ (basis.T @ rest)
        length = np.linalg.norm(rest)
        if length <= COLLINEAR:
            dependent.append(place)
        else:
            basis = np.column_stack([basis, rest / length])
    return dependent


def _priors(
    parts: list[tuple[PredictorCoding, Encoded]],
    read: ResponseValues,
    response: Response,
    given: Priors,
) -> dict[str, Prior]:
    target = mean_target(
        response.on_predictor_scale(read.values), has_intercept=INTERCEPT in parts[0][0].names
    )
    targets = [target, noise_target(target)]
    defaults: dict[str, Prior] = {}
    names = {coding.site: coding.names for coding, _ in parts}
    # The user's own were checked when they were made; NumPyro's checks compile every operation.
    with numpyro.validation_enabled(False):
        for (coding, encoded), aim in zip(parts, targets, strict=False):
            groups = [
                (term.name, term.names, encoded.groups[term.name].z, term.correlated)
                for term in coding.terms
            ]
            columns = PredictorColumns(coding.site, coding.names, encoded.population, groups)
            defaults |= default_priors(columns, aim)
        if response.site == "noise_scale" and len(parts) == 1:
            defaults |= noise_prior(target)
        if response.site == "cutpoints":
            defaults["cutpoints"] = cutpoint_prior(len(read.levels))
        return replace_priors(defaults, given, names)


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
    return Predictor(encoded.population, terms, coding.names, coding.site)


def _refuse_clashes(
    response: str, codings: tuple[PredictorCoding, ...], priors: Mapping[str, Prior]
) -> None:
    """Refuse columns whose names are those of other sites, plates or dimensions."""
    terms = [term for coding in codings for term in coding.terms]
    names = [term.name for term in terms]
    taken = {*priors, "observation", "coefficient", "noise_coefficient", "cutpoint"}
    for ending in ("effects", "effects_raw", "coefficient"):
        taken |= {f"{name}_{ending}" for name in names}
    plates = {term.groups.name for term in terms}
    twice = [name for name in names if names.count(name) > 1]
    clashes = sorted({response, *plates} & taken) or sorted({response} & plates) or twice
    if clashes:
        raise ValueError(
            f"The column {clashes[0]!r} has the name of another part of the model (there are "
            f"{', '.join(map(repr, sorted(taken)))}); rename it in the data and the formula."
        )
