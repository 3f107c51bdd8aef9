"""Responses that coefficients and effects fit in every row, so that the likelihood has no top."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import scipy.linalg
import scipy.optimize
import scipy.sparse
from jaxtyping import Bool, Float
from numpyro.distributions import Distribution
from scipy.sparse.linalg import LinearOperator, lsqr

from probmf.likelihoods.censored import CENSORING, KIND, UPPER
from probmf.models import MixedEffects
from probmf.models.mixed.arrays import GroupTerm, MixedData
from probmf.models.mixed.design import Design

#: Share of the response that sums of squares in double precision can't tell from nothing.
RESOLVED = 1e-8
#: Accuracies of the search for values that fit every row, each asked for where the one before left
#: almost nothing, and its iterations.
ACCURACIES, MOST_ITERATIONS = (1e-4, 1e-7, 1e-10), 300
#: Rows that are looked at first: where they can't be fitted, all can't.
FIRST_ROWS = (4_000, 40_000)
#: The most numbers of columns whose rank is found.
MOST_NUMBERS = 4_000_000
WITHIN = CENSORING["interval"]


def refuse_exact_fit(
    model: MixedEffects, design: Design, *, flat: bool = False, mode: bool = False
) -> None:
    r"""Refuse a response that columns and effects fit in every row, so that no noise is left.

    The likelihood then grows as :math:`s^{-m}` when the noise scale s goes to zero, with m the rows
    less the rank of the effects (and of the coefficients where they have a prior), and has no
    maximum; from m = 1 on there is no posterior either, unless the prior forbids small scales.
    Other scales may go along, where coefficients and the other effects do alone. Of responses some
    of which are bounds the observed ones count, if what fits them keeps the bounds.

    Args:
        model: A mixed model; others than of a Gaussian or log-normal response, censored or not, are
            let through.
        design: Its design.
        flat: Whether priors play no part.
        mode: Whether the highest point is asked for, and not the posterior.

    Raises:
        ValueError: If it does, naming the noise.
    """
    data, law = design.data, model.likelihood.uncensored
    if not law.normal or data.response is None:
        return
    noise = "noise_scale" if data.noise is None else data.noise.site
    if not isinstance(data.priors[noise], Distribution):
        return
    if data.noise is not None and not flat and isinstance(data.priors[noise], dist.Normal):
        return  # A Normal prior of the logarithm forbids small scales.
    response = law.to_score(np.asarray(data.response, np.float64))
    if data.mean.offset is not None:
        response = response - np.asarray(data.mean.offset, np.float64)
    kind = np.broadcast_to(np.asarray(data.priors.get(KIND, 0.0)), response.shape)
    whole, seen = data, kind == 0
    if not seen.any():
        return  # A probability is bounded.
    if not seen.all():
        ends = _ends(data, law, response, kind)
        data, response = _some(data, seen), response[seen]
    by_row = [term for term in data.groups if len(np.unique(term.group)) == len(response)]
    for left in ([], *([by_row] if by_row else []), data.groups):
        laws = [data.priors[noise], *(data.priors[f"{term.name}_scale"] for term in left)]
        if not all(isinstance(law, Distribution) for law in laws):
            continue
        names = {term.name for term in left}
        kept = [term for term in data.groups if term.name not in names]
        missing = len(response) - _rank(data, kept, coefficients=not flat)
        # Of one scale s for all of them, with the volume of the others.
        power = 0.0 if flat or data.noise is not None else sum(map(_power_at_zero, laws)) - 1
        if not (power - missing < 0 if mode else power - missing <= -1):
            continue
        if _is_spanned(data, kept, response):
            if not seen.all() and not _keeps_bounds(whole, names, ends, kind):
                continue
            also = "".join(f" and {term.name}_scale" for term in left)
            raise ValueError(
                f"{_why(data, response, bounds=not seen.all())} Nothing is left for the noise, and "
                f"the likelihood grows without bound with {noise}{also} going to zero, so that "
                f"there is {'no best fit' if mode else 'no posterior'}. Look at the response, "
                "leave terms out of the formula, or give noise_scale as a number in priors=."
            )
        if not left:
            return  # Fewer effects don't fit it, either.


def _some(data: MixedData, rows: Bool[np.ndarray, " n"]) -> MixedData:
    """Some rows of the linear predictor and the response."""
    groups = []
    for term in data.groups:
        known, group = np.unique(np.asarray(term.group)[rows], return_inverse=True)
        z = np.asarray(term.z)[rows]
        groups.append(replace(term, group=group, z=z, num_groups=len(known)))
    mean = replace(
        data.mean, population=np.asarray(data.population)[rows], groups=tuple(groups), offset=None
    )
    response = np.asarray(data.response)[rows]
    return replace(data, mean=mean, response=response, num_observations=len(response))


def _ends(
    data: MixedData, law: Any, response: np.ndarray, kind: np.ndarray
) -> Float[np.ndarray, "2 n"]:
    """The ends of intervals on the scale of the predictor; twice what other rows have."""
    upper = np.array(response)
    within = kind == WITHIN
    if within.any():
        offset = 0.0 if data.mean.offset is None else np.asarray(data.mean.offset, np.float64)
        given = law.to_score(np.asarray(data.priors[UPPER], np.float64)) - offset
        upper[within] = given[within]
    return np.stack([response, upper])


def _keeps_bounds(
    data: MixedData, left: Collection[str], ends: np.ndarray, kind: np.ndarray
) -> bool:
    """True if some of all coefficients and effects that give observed responses keep the bounds."""
    terms = [term for term in data.groups if term.name not in left]
    columns = scipy.sparse.hstack(
        [_effects(terms, len(kind)), scipy.sparse.csr_array(data.population)], format="csr"
    )
    width = scipy.sparse.linalg.norm(columns, axis=0)
    scaled = columns @ scipy.sparse.diags_array(1.0 / np.where(width > 0, width, 1.0))
    least, most = ends / (np.max(np.abs(ends)) or 1.0)
    seen, above, below = kind == 0, kind > 0, (kind < 0) | (kind == WITHIN)
    bounded = scipy.sparse.vstack([-scaled[above], scaled[below]], format="csr")
    found = scipy.optimize.linprog(
        np.zeros(scaled.shape[1]), bounded, np.append(-least[above], most[below]), scaled[seen],
        least[seen], bounds=(None, None),
    )  # fmt: skip
    return bool(found.status == 0)


def _why(data: MixedData, response: np.ndarray, *, bounds: bool) -> str:
    """The reason that the response is fitted in every row, in a sentence."""
    name = repr(data.response_name)
    if bounds:
        return (
            f"Coefficients and effects fit the observed responses {name} in every row, and keep "
            "the bounds."
        )
    if np.ptp(response) == 0:
        return f"The response {name} is constant, {np.asarray(data.response)[0]:g} in all rows."
    for term in data.groups:
        order = np.argsort(term.group, kind="stable")
        inner = np.diff(np.asarray(term.group)[order]) == 0
        if inner.any() and np.all(np.diff(response[order])[inner] == 0):
            return f"The response {name} does not vary within the groups of {term.plate!r}."
    if data.population.shape[1] >= data.num_observations:
        return (
            f"The formula has as many coefficients as there are rows, {len(response):,}. (Text and "
            "categories have one for each level but the first: if a column of text holds numbers, "
            "convert it.)"
        )
    return f"Coefficients and effects fit the response {name} in every row."


def _is_spanned(data: MixedData, terms: Sequence[GroupTerm], response: np.ndarray) -> bool:
    """True if some coefficients and effects of terms give the response, but for rounding."""
    population = np.asarray(data.population, np.float64)
    effects = _effects(terms, len(response))
    # Whole groups of the largest term, whose effects a few rows each determine.
    largest = max(terms, key=lambda term: term.num_groups, default=None)
    order = np.arange(len(response)) if largest is None else np.argsort(largest.group)
    for count in (*(num for num in FIRST_ROWS if num < len(order) / 2), len(order)):
        rows = order[:count]
        if not _rows_are_spanned(population[rows], effects[rows], response[rows]):
            return False
    return True


def _rows_are_spanned(population: np.ndarray, effects: Any, response: np.ndarray) -> bool:
    basis = scipy.linalg.qr(population, mode="economic")[0] if population.size else population

    def rest(vector: np.ndarray) -> np.ndarray:
        return vector - basis @ (basis.T @ vector)

    target = rest(rest(response))
    size = np.linalg.norm(target)
    if size <= 100 * np.finfo(float).eps * np.linalg.norm(response):
        return True
    width = scipy.sparse.linalg.norm(effects, axis=0)
    scaled = effects[:, width > 0] @ scipy.sparse.diags_array(1.0 / width[width > 0])
    if not scaled.shape[1]:
        return False
    operator = LinearOperator(
        scaled.shape, matvec=lambda v: rest(scaled @ np.ravel(v)),
        rmatvec=lambda u: scaled.T @ rest(np.ravel(u)), dtype=np.float64,
    )  # fmt: skip
    left = 1.0
    for accuracy in ACCURACIES:
        found = lsqr(operator, target, atol=accuracy, btol=accuracy, iter_lim=MOST_ITERATIONS)
        left = found[3] / size
        if left > 100 * accuracy:
            return False
    return bool(left <= RESOLVED)


def _effects(terms: Sequence[GroupTerm], num_rows: int) -> Any:
    """Columns of all effects of terms, sparse."""
    rows = np.arange(num_rows)
    blocks = [
        scipy.sparse.csr_array((z, (rows, np.asarray(term.group))), (num_rows, term.num_groups))
        for term in terms
        for z in np.asarray(term.z, np.float64).T
    ]
    return scipy.sparse.hstack([*blocks, scipy.sparse.csr_array((num_rows, 0))], format="csr")


def _rank(data: MixedData, terms: Sequence[GroupTerm], *, coefficients: bool) -> int:
    """Rank of the columns of terms and of coefficients, or more; at most the rows."""
    rows = data.num_observations
    if any(t.num_groups == rows and np.all(t.z[:, 0] != 0) for t in terms):
        return rows
    columns = _effects(terms, rows)
    if coefficients:
        columns = scipy.sparse.hstack([columns, np.asarray(data.population)], format="csr")
    if columns.shape[1] < rows or rows * columns.shape[1] > MOST_NUMBERS:
        return int(min(rows, columns.shape[1]))
    width = scipy.sparse.linalg.norm(columns, axis=0)
    scaled = columns @ scipy.sparse.diags_array(1.0 / np.where(width > 0, width, 1.0))
    return int(np.linalg.matrix_rank(scaled.toarray()))


def _power_at_zero(law: Any) -> float:
    """The power of a common factor by which prior probability rises from zero.

    That of the density, and one for each number; infinite where small numbers are forbidden.
    """
    if np.any(np.asarray(getattr(law.support, "lower_bound", 0.0)) > 0):
        return np.inf
    small = np.exp(np.array([-200.0, -150.0]))
    with jax.enable_x64(True):  # Where such numbers are not zero.
        low, high = (float(np.sum(np.asarray(law.log_prob(one), np.float64))) for one in small)
    size = int(np.prod(law.batch_shape))
    return (high - low) / 50.0 + size if np.isfinite(low) and np.isfinite(high) else np.inf
