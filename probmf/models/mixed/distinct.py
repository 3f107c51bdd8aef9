"""Parts of a design that could not be told apart, by name or by value, are refused."""

from collections import Counter

import numpy as np
from scipy.linalg import qr

from probmf.models.mixed.design import PredictorCoding, TermCoding
from probmf.models.mixed.encoding import ColumnEncoder, GroupEncoder
from probmf.models.mixed.formula import ParsedFormula, variables

#: Columns whose part outside the span of the others is smaller than this share of their standard
#: deviation are dependent (R has the same share of their size, so that a year may be a constant).
COLLINEAR = 1e-7
#: The same as a share of their size, where the digits end.
ROUNDING = 1e-14


def refuse_own_response(response: str, formulas: list[ParsedFormula]) -> None:
    """Refuse the response among the terms."""
    for part in [part for one in formulas for part in one.parts]:
        if response in variables(part):
            raise ValueError(
                f"The response {response!r} is also among the terms, in {part!r}, and would "
                "explain itself; leave it out there."
            )


def refuse_same_names(names: list[str]) -> None:
    """Refuse two columns of one name."""
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise ValueError(
            f"Two columns of one part of the model are called {twice[0]!r}, and could not be told "
            "apart in priors and results; rename the column in the data and the formula. (The "
            "constant column is called 'Intercept'.)"
        )


def refuse_repeats(
    left: ColumnEncoder,
    block: tuple[int, ...],
    groups: GroupEncoder,
    terms: list[TermCoding],
    text: str,
) -> None:
    """Refuse a second effect of the same column in the same groups."""
    # The combinations of a and b are those of b and a.
    same = [term for term in terms if set(term.groups.factors) == set(groups.factors)]
    earlier = {
        (term.columns.terms[place], term.columns.names[place])
        for term in same
        for place in term.places
    }
    twice = [
        left.names[place] for place in block if (left.terms[place], left.names[place]) in earlier
    ]
    if twice:
        raise ValueError(
            f"The group term {text} gives the factor {groups.name!r} a second effect of "
            f"{twice[0]!r}, and the two could not be told apart. Take it out of one of the terms: "
            "a term has an intercept unless it says 0, as in (0 + x | g)."
        )


def refuse_collinear(population: np.ndarray, names: list[str]) -> None:
    """Refuse columns that are combinations of others."""
    dependent = [names[place] for place in dependent_columns(population)]
    if dependent:
        listed = ", ".join(map(repr, dependent))
        advice = "Leave such terms out of the formula."
        if any(name.startswith(("cr(", "cc(")) for name in dependent):
            advice = (
                "A cubic spline beside an intercept is written cr(x, df=4, constraints='center'); "
                "leave other such terms out of the formula."
            )
        raise ValueError(
            f"The population columns are collinear: {listed} "
            f"{'is a combination' if len(dependent) == 1 else 'are combinations'} of those before "
            f"(rank {len(names) - len(dependent)} of {len(names)} columns in "
            f"{len(population):,} rows). {advice}"
        )


def dependent_columns(matrix: np.ndarray) -> list[int]:
    """Columns that are combinations of columns before them.

    Cost O(n p^2).
    """
    size = np.linalg.norm(matrix, axis=0)
    spread = np.linalg.norm(matrix - matrix.mean(axis=0), axis=0)
    share = spread / np.where(size > 0, size, 1.0)
    least = np.maximum(COLLINEAR * np.where(share > ROUNDING, share, 1.0), ROUNDING)
    # The triangle has the same inner products as the columns, and p rows only.
    (triangle,) = qr(matrix / np.where(size > 0, size, 1.0), mode="r", check_finite=False)
    basis = np.zeros((triangle.shape[0], 0))
    dependent = []
    for place, column in enumerate(triangle.T):
        rest = column - basis @ (basis.T @ column)
        rest -= basis @ (basis.T @ rest)
        length = np.linalg.norm(rest)
        if length <= least[place]:
            dependent.append(place)
        else:
            basis = np.column_stack([basis, rest / length])
    return dependent


def refuse_clashes(response: str, sites: list[str], codings: tuple[PredictorCoding, ...]) -> None:
    """Refuse columns whose names make two sites, plates or dimensions have the same name."""
    terms = [term for coding in codings for term in coding.terms]
    own = ["observation", "chain", "draw", *sites]
    own += ["cutpoint"] * ("cutpoints" in sites)
    own += [name for coding in codings for name in (coding.site, coding.site.removesuffix("s"))]
    factors = [":".join(names) for names in {term.groups.factors for term in terms}]
    made = [(name, name) for name in [response, *own, *factors]]
    for term in terms:
        for ending in ("scale", "correlation", "effects", "effects_raw", "coefficient"):
            made.append((f"{term.name}_{ending}", term.groups.name))
        made.append((f"{term.name}_coefficient_other", term.groups.name))
    names = Counter(name for name, _ in made)
    clash = next(((name, column) for name, column in reversed(made) if names[name] > 1), None)
    if clash is not None:
        name, column = clash
        raise ValueError(
            f"Two parts of the model would be called {name!r}, because of the column {column!r}; "
            "rename it in the data and the formula."
        )
