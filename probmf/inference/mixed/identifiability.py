r"""Mixed models that the data leave open somewhere, told from their columns before any search.

The rows' covariance is linear in the variances, :math:`V = \sum_i \theta_i M_i`, with a matrix
:math:`M_{ab} = \tfrac12 (Z_a Z_b^\top + Z_b Z_a^\top)` for each two columns of a group term whose
effects are correlated, :math:`Z_a Z_a^\top` where they are not, and the identity of the noise.
Where these matrices are linearly dependent the data tell no more than what they add up to. Of
responses without a noise scale V is the predictor's covariance.
"""

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse
from numpyro.distributions import Distribution

from probmf.models.mixed.arrays import GroupTerm
from probmf.models.mixed.design import Design
from probmf.models.mixed.distinct import dependent_columns

#: Cosines are rounded to this: matrices nearer to dependence can't be told from dependent ones.
ROUNDING = 1e-10

#: Coefficients of the logarithm of a noise scale.
NOISE = "noise_coefficients"


class _Matrix(NamedTuple):
    """One matrix of the covariance: two columns of a term, or diagonal numbers of the noise."""

    site: str
    label: str
    term: GroupTerm | None
    left: np.ndarray
    right: np.ndarray


class CovarianceTerms(NamedTuple):
    """The matrices whose variances and covariances are to be found, and their inner products."""

    matrices: list[_Matrix]
    gram: np.ndarray


class Finding(NamedTuple):
    """Something that a fit can't tell: the sites that it is about, and a sentence or two."""

    sites: frozenset[str]
    text: str


def covariance_terms(design: Design) -> CovarianceTerms:
    """Terms of the rows' covariance; cost O(n log n) for each two group terms."""
    matrices = _matrices(design)
    return CovarianceTerms(matrices, _products(matrices))


def confounded_variances(
    design: Design, terms: CovarianceTerms | None = None, *, prior: bool
) -> list[Finding]:
    """Variances that the data do not tell apart, or with priors not from coefficients.

    Args:
        design: A model's; of any response.
        terms: The terms of its covariance, if they are known.
        prior: Whether priors of the scales count, which then decide what the data leave open.

    Returns:
        One finding for each set of them.
    """
    spanned = _spanned(design) if prior else []
    matrices, gram = terms or covariance_terms(design)
    if not matrices:
        return spanned
    size = np.sqrt(np.diag(gram))
    size[size == 0] = 1.0
    values, vectors = np.linalg.eigh(gram / np.outer(size, size))
    null = vectors[:, values < ROUNDING]
    together = np.abs(null @ null.T) > np.sqrt(ROUNDING)
    count, part = scipy.sparse.csgraph.connected_components(together)
    sets = [np.flatnonzero(part == one) for one in range(count)]
    return spanned + [
        _confounded(design, [matrices[place] for place in own], prior=prior)
        for own in sets
        if together[own[0], own[0]]
    ]


def _spanned(design: Design) -> list[Finding]:
    """Terms whose effects are sums of the population's columns, which then tell the same."""
    columns = np.asarray(design.data.population, np.float64)
    basis = scipy.linalg.qr(columns, mode="economic")[0] if columns.shape[1] else columns
    found = []
    for term in design.data.groups:
        site, z = f"{term.name}_scale", np.asarray(term.z, np.float64)
        num = term.num_groups * z.shape[1]
        if not isinstance(design.data.priors[site], Distribution) or num > columns.shape[1]:
            continue
        effects = (np.eye(term.num_groups)[term.group][:, :, None] * z[:, None]).reshape(-1, num)
        left = np.linalg.norm(effects - basis @ (basis.T @ effects), axis=0)
        if np.all(left <= ROUNDING * np.linalg.norm(effects, axis=0)):
            text = (
                f"Every effect of {term.plate} is a sum of the coefficients' columns, so that the "
                f"{design.data.num_observations:,} rows tell next to nothing of {site}: it is left "
                f"to its prior. Leave the group term of {term.plate} or those columns out of the "
                "formula, or give the scale as a number in priors=."
            )
            found.append(Finding(frozenset([site]), text))
    return found


def _confounded(design: Design, members: list[_Matrix], *, prior: bool) -> Finding:
    names = list(dict.fromkeys(member.label for member in members))
    factors = ", ".join(dict.fromkeys(m.term.plate for m in members if m.term is not None))
    rows = f"the {design.data.num_observations:,} rows"
    if len(names) == 1:
        open_ = f"Of the variances and correlations of {names[0]} {rows} tell combinations only, as"
        why = "its columns depend on each other within the groups"
    else:
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        open_ = f"Of the variances of {listed} {rows} tell no more than what they add up to, as"
        why = "they have the same columns and the same groups"
        if any(member.term is None for member in members):
            why = f"the groups of {factors} have too few rows each to tell effects from noise"
    divided = (
        "how it is divided among them is the prior's word alone"
        if prior
        else "the values given are one choice of many with the same likelihood"
    )
    text = (
        f"{open_} {why}; {divided}. Leave a group term of {factors} out of the formula, or give "
        "a scale as a number in priors=."
    )
    return Finding(frozenset(member.site for member in members), text)


def _matrices(design: Design) -> list[_Matrix]:
    """Those with a variance or covariance that is to be found."""
    data = design.data
    found: list[_Matrix] = []
    for term in data.groups:
        site = f"{term.name}_scale"
        if not isinstance(data.priors[site], Distribution):
            continue
        z = np.asarray(term.z, np.float64)
        if term.correlated:
            # Any basis of the columns does, and this one's numbers are of one size.
            dependent = dependent_columns(z)
            z = scipy.linalg.qr(z, mode="economic")[0]
            z[:, dependent] = 0.0
            pairs = combinations_with_replacement(range(z.shape[1]), 2)
            found += [_Matrix(site, site, term, z[:, a], z[:, b]) for a, b in pairs]
        else:
            labels = [f"{site}[{name}]" if len(term.names) > 1 else site for name in term.names]
            found += [_Matrix(site, labels[a], term, z[:, a], z[:, a]) for a in range(len(labels))]
    for name, weight in _noise(design):
        found.append(_Matrix(name, name, None, weight, np.ones(len(weight))))
    return found


def _noise(design: Design) -> list[tuple[str, np.ndarray]]:
    """Diagonals by which the noise's variances change, and what they are called by."""
    data, ones = design.data, np.ones(design.data.num_observations)
    # A formula may be for another parameter, which is no variance of the response's.
    other = data.noise is not None and data.noise.site != NOISE
    if other or (data.noise is not None and data.noise.groups):
        return []
    if data.noise is None:
        free = isinstance(data.priors.get("noise_scale"), Distribution)
        return [("noise_scale", ones)] if free else []
    columns = np.asarray(data.noise.population, np.float64)
    spread = np.where(np.ptp(columns, axis=0) > 0, np.std(columns, axis=0), 1.0)
    # Where the columns are of consequence: at a point where no two rows' noise is alike by chance.
    scaled = (columns - columns.mean(axis=0)) / spread
    variance = np.exp(scaled @ (0.3 + 0.1 * np.arange(columns.shape[1])))
    names = [f"{data.noise.site}[{name}]" for name in data.noise.names]
    return [(name, variance * columns[:, place]) for place, name in enumerate(names)]


def _products(matrices: list[_Matrix]) -> np.ndarray:
    """The sums of products of all elements, of each two matrices."""
    meetings: dict[tuple[str, str], np.ndarray] = {}

    def sums(one: GroupTerm, other: GroupTerm, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Of a b over the rows of every two groups that meet."""
        if (one.name, other.name) not in meetings:
            pair = np.asarray(one.group, np.int64) * other.num_groups + other.group
            meetings[one.name, other.name] = np.unique(pair, return_inverse=True)[1]
        return np.bincount(meetings[one.name, other.name], a * b)

    found = np.zeros((len(matrices), len(matrices)))
    for i, one in enumerate(matrices):
        for j, other in enumerate(matrices[: i + 1]):
            if one.term is None or other.term is None:
                value = (one.left * one.right) @ (other.left * other.right)
            else:
                pair = one.term, other.term
                value = sums(*pair, one.left, other.left) @ sums(*pair, one.right, other.right)
                value += sums(*pair, one.left, other.right) @ sums(*pair, one.right, other.left)
                value /= 2
            found[i, j] = found[j, i] = value
    return found
