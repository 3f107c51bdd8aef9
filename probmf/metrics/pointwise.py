"""Errors of single predictions and scores of predictive distributions.

Everything here runs on the host in float64, whatever the precision of the arrays that come in,
and takes one-dimensional arrays only: `(n, 1)` against `(n,)` would broadcast to `(n, n)`.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import xlog1py, xlogy


def _vector(value: ArrayLike, name: str) -> np.ndarray:
    """`value` as a float64 vector, or an error that names the argument and the first bad entry."""
    if isinstance(value, np.ma.MaskedArray):
        # Else the mask would be dropped unseen.
        value = np.ma.filled(value.astype(np.float64), np.nan)
    try:
        array = np.asarray(value)
        # Kind V is also how bfloat16 presents itself; text and objects would convert silently.
        values = array.astype(np.float64) if array.dtype.kind in "biufV" else None
    except (TypeError, ValueError):
        values = None
    if values is None:
        raise TypeError(
            f"{name} is a {type(value).__name__} that is not an array of real numbers; "
            "give a one-dimensional sequence of numbers (convert text or objects first)."
        )
    if values.ndim != 1:
        advice = (
            f"flatten it with {name}.reshape(-1)"
            if values.ndim > 1 and values.size == max(values.shape)
            else "give one number per prediction"
        )
        raise ValueError(f"{name} has shape {values.shape}, expected one dimension (n,); {advice}.")
    if values.size == 0:
        raise ValueError(f"{name} is empty; at least one entry is needed.")
    _refuse(name, values, ~np.isfinite(values), "every entry must be finite; drop or fill it first")
    return values


def _refuse(name: str, values: np.ndarray, bad: np.ndarray, rule: str) -> None:
    """Raise a ValueError for the first entry marked in `bad`, if there is one."""
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{name}[{row}] is {values[row]:g}; {rule}.")


def _vectors(**arguments: ArrayLike) -> list[np.ndarray]:
    """All arguments as float64 vectors of one length (that of the first)."""
    vectors = [_vector(value, name) for name, value in arguments.items()]
    (first, *names), (head, *others) = arguments, vectors
    for name, other in zip(names, others, strict=True):
        if other.size != head.size:
            raise ValueError(
                f"{name} has {other.size} entries and {first} has {head.size}; "
                "give both the same length, in the same order."
            )
    return vectors


def _average(values: np.ndarray, weight: ArrayLike | None) -> float:
    """The mean of `values`, weighted if `weight` is given (a zero weight leaves an entry out)."""
    if weight is None:
        return float(values.mean())
    weights = _weights(weight, values.size)
    used = weights > 0
    # Leaving zero weights out, not multiplying by zero: the value there may be minus infinity.
    return float(np.average(values[used], weights=weights[used]))


def _weights(weight: ArrayLike, size: int) -> np.ndarray:
    """Weights of so many predictions, checked."""
    weights = _vector(weight, "weight")
    if weights.size != size:
        raise ValueError(
            f"weight has {weights.size} entries, but there are {size} predictions; "
            "give one weight per prediction."
        )
    _refuse("weight", weights, weights < 0, "a weight must not be negative")
    if not weights.any():
        raise ValueError("weight is zero everywhere; at least one weight must be positive.")
    return weights


def _check_binary(observed: np.ndarray, probability: np.ndarray | None, name: str) -> None:
    """Refuse outcomes other than 0 and 1, and probabilities outside [0, 1]."""
    rule = "a yes/no outcome must be 0 or 1 (Ratings.binarize makes such ratings)"
    _refuse("observed", observed, (observed != 0) & (observed != 1), rule)
    if probability is not None:
        rule = "a probability must lie in [0, 1]; pass probabilities, not scores"
        _refuse(name, probability, (probability < 0) | (probability > 1), rule)


def rmse(observed: ArrayLike, mean: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    r"""Root mean squared error, in units of the rating; lower is better.

    .. math:: \sqrt{\textstyle\sum_i w_i (y_i - m_i)^2 / \sum_i w_i}

    Args:
        observed: Ratings y, shape (n,).
        mean: Predictions m, shape (n,).
        weight: Weights w, shape (n,), not negative; None counts every rating once.

    Returns:
        The error, a Python float.

    Raises:
        TypeError: If an argument is not numeric.
        ValueError: If an argument is empty, not one-dimensional, not finite, of another length
            than `observed`, or if the weights are negative or all zero.

    Example:
        >>> rmse([3.0, 4.0, 5.0], [3.0, 4.0, 2.0])
        1.7320508075688772
    """
    y, m = _vectors(observed=observed, mean=mean)
    return float(np.sqrt(_average((y - m) ** 2, weight)))


def mae(observed: ArrayLike, mean: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    r"""Mean absolute error, in units of the rating; lower is better.

    .. math:: \textstyle\sum_i w_i |y_i - m_i| / \sum_i w_i

    Args:
        observed: Ratings y, shape (n,).
        mean: Predictions m, shape (n,).
        weight: Weights w, shape (n,), not negative; None counts every rating once.

    Returns:
        The error, a Python float.

    Raises:
        TypeError: If an argument is not numeric.
        ValueError: As for `rmse`.

    Example:
        >>> mae([3.0, 4.0, 5.0], [3.0, 4.0, 2.0])
        1.0
    """
    y, m = _vectors(observed=observed, mean=mean)
    return _average(np.abs(y - m), weight)


def log_score(
    observed: ArrayLike,
    mean: ArrayLike,
    sd: ArrayLike | None = None,
    *,
    weight: ArrayLike | None = None,
) -> float:
    r"""Mean log predictive density of the ratings, in nats; higher is better.

    .. math:: \tfrac1n \textstyle\sum_i \log N(y_i \mid m_i, s_i^2)
       \quad\text{or}\quad \tfrac1n \sum_i y_i \log m_i + (1 - y_i) \log(1 - m_i)

    the second when `sd` is None. Nothing is clipped: a certain prediction that is wrong scores
    minus infinity.

    Args:
        observed: Ratings y, shape (n,); 0 or 1 if `sd` is None.
        mean: Predictive means m, shape (n,); probabilities of a 1 if `sd` is None.
        sd: Predictive standard deviations s of a rating (noise included), shape (n,) or one
            number for all; None for yes/no ratings.
        weight: Weights of the mean, shape (n,), not negative; None counts every rating once.

    Returns:
        The score, a Python float; minus infinity is possible for yes/no ratings only.

    Raises:
        TypeError: If an argument is not numeric.
        ValueError: As for `rmse`; if an `sd` is not positive; or, without `sd`, if a rating is
            not 0 or 1 or a mean not in [0, 1].

    Example:
        >>> round(log_score([3.0, 4.0], [3.0, 5.0], sd=1.0), 6)
        -1.168939
        >>> round(log_score([1, 0], [0.5, 0.5]), 6)
        -0.693147

    Source: Gneiting and Raftery (2007), Strictly proper scoring rules, JASA 102, section 4.1.
    """
    y, m = _vectors(observed=observed, mean=mean)
    if sd is None:
        _check_binary(y, m, "mean")
        return _average(xlogy(y, m) + xlog1py(1.0 - y, -m), weight)
    one_for_all = np.ndim(sd) == 0
    s = _vector(np.full(y.size, sd) if one_for_all else sd, "sd")
    if s.size != y.size:
        raise ValueError(
            f"sd has {s.size} entries and observed has {y.size}; give one per rating, or one "
            "number for all."
        )
    _refuse("sd", s, s <= 0, "a standard deviation must be positive")
    return _average(-0.5 * ((y - m) / s) ** 2 - np.log(s) - 0.5 * np.log(2.0 * np.pi), weight)


def level_log_score(
    observed: ArrayLike,
    probability: ArrayLike,
    levels: ArrayLike,
    *,
    weight: ArrayLike | None = None,
) -> float:
    r"""Mean log predictive probability of ordinal ratings, in nats; higher is better.

    .. math:: \textstyle\sum_i w_i \log p_{i, k(i)} / \sum_i w_i

    with :math:`k(i)` the level of rating i. Nothing is clipped.

    Args:
        observed: Ratings, each one of the levels, shape (n,).
        probability: Predicted probabilities of the levels, shape (n, K).
        levels: The K levels, increasing.
        weight: Weights w, shape (n,), not negative; None counts every rating once.

    Returns:
        The score, a Python float; -inf if a rating was said to be impossible.

    Raises:
        TypeError: If an argument is not numeric.
        ValueError: If shapes do not fit, a rating is none of the levels, or a probability lies
            outside [0, 1].

    Example:
        >>> chance = [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]
        >>> round(level_log_score([1, 3], chance, levels=[1, 2, 3]), 4)
        -0.6931
    """
    ratings, names = _vector(observed, "observed"), _vector(levels, "levels")
    table = np.asarray(probability, dtype=np.float64)
    if table.shape != (ratings.size, names.size):
        raise ValueError(
            f"probability has shape {table.shape}; expected ({ratings.size}, {names.size}), a line "
            "for each rating and a column for each level."
        )
    outside = ~((table >= 0) & (table <= 1)).all(axis=1)
    _refuse("observed", ratings, outside, "its probabilities must lie in [0, 1]")
    _refuse("observed", ratings, ~np.isin(ratings, names), "it must be one of the levels")
    chosen = table[np.arange(ratings.size), np.searchsorted(names, ratings)]
    with np.errstate(divide="ignore"):
        return _average(np.log(chosen), weight)


def log_loss(
    observed: ArrayLike, probability: ArrayLike, *, weight: ArrayLike | None = None
) -> float:
    """Minus the mean log probability of yes/no outcomes, in nats; lower is better.

    Equal to `-log_score(observed, probability)`; infinite if a certain prediction is wrong.

    Args:
        observed: Outcomes, 0 or 1, shape (n,).
        probability: Predicted probabilities of a 1, shape (n,).
        weight: Weights, shape (n,), not negative; None counts every outcome once.

    Returns:
        The loss, a Python float.

    Raises:
        TypeError: If an argument is not numeric.
        ValueError: As for `rmse`, or if an outcome is not 0 or 1 or a probability not in [0, 1].

    Example:
        >>> round(log_loss([1, 0, 1], [0.9, 0.2, 0.6]), 6)
        0.279777
    """
    y, p = _vectors(observed=observed, probability=probability)
    _check_binary(y, p, "probability")
    # 0 - x, not -x: a perfect prediction is to give 0.0 and not -0.0.
    return 0.0 - _average(xlogy(y, p) + xlog1py(1.0 - y, -p), weight)


def brier(observed: ArrayLike, probability: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    r"""Brier score of yes/no predictions, in [0, 1]; lower is better.

    .. math:: \textstyle\sum_i w_i (y_i - p_i)^2 / \sum_i w_i

    Args:
        observed: Outcomes y, 0 or 1, shape (n,).
        probability: Predicted probabilities p of a 1, shape (n,).
        weight: Weights w, shape (n,), not negative; None counts every outcome once.

    Returns:
        The score, a Python float.

    Raises:
        TypeError: If an argument is not numeric.
        ValueError: As for `log_loss`.

    Example:
        >>> round(brier([1, 0], [0.8, 0.4]), 6)
        0.1

    Source: Brier (1950), Monthly Weather Review 78; the half of his sum over both classes.
    """
    y, p = _vectors(observed=observed, probability=probability)
    _check_binary(y, p, "probability")
    return _average((y - p) ** 2, weight)


def auc(observed: ArrayLike, score: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    r"""Area under the ROC curve: how often a 1 is scored above a 0; higher is better.

    .. math:: \frac{\sum_{i, j} w_i w_j ([s_i > s_j] + \tfrac12 [s_i = s_j])}
       {\sum_i w_i \sum_j w_j}

    over the ones i and the zeros j.

    Args:
        observed: Outcomes, 0 or 1, shape (n,), both present.
        score: Scores, shape (n,); any increasing function of them gives the same area.
        weight: Weights w, shape (n,), not negative; None counts every outcome once.

    Returns:
        The area, a Python float in [0, 1].

    Raises:
        TypeError: If an argument is not numeric.
        ValueError: As for `rmse`, if an outcome is not 0 or 1, or if all outcomes are the same.

    Example:
        >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        0.75

    Source: Hanley and McNeil (1982), Radiology 143 (the Mann-Whitney statistic). Time O(n log n).
    """
    y, s = _vectors(observed=observed, score=score)
    _check_binary(y, None, "score")
    weights = np.ones(y.size) if weight is None else _weights(weight, y.size)
    place = np.unique(s, return_inverse=True)[1]
    zeros, ones = (np.bincount(place, weights * (y == answer)) for answer in (0, 1))
    if not (zeros.any() and ones.any()):
        raise ValueError(
            f"observed holds {zeros.sum():g} zeros and {ones.sum():g} ones; the area under the ROC "
            "curve compares the two classes and needs at least one of each."
        )
    below = np.cumsum(zeros) - 0.5 * zeros
    return float(ones @ below / (ones.sum() * zeros.sum()))


def coverage(observed: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> float:
    r"""Share of the ratings inside their interval, ends included.

    .. math:: \tfrac1n \#\{i : l_i \le y_i \le u_i\}

    A calibrated 90 % interval covers about 0.9; more means too wide, less too narrow.

    Args:
        observed: Ratings y, shape (n,).
        lower: Lower ends l, shape (n,).
        upper: Upper ends u, shape (n,), none below its lower end.

    Returns:
        The share, a Python float in [0, 1].

    Raises:
        TypeError: If an argument is not numeric.
        ValueError: As for `rmse`, or if an upper end is below its lower end.

    Example:
        >>> coverage([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0])
        0.5
    """
    y, low, high = _vectors(observed=observed, lower=lower, upper=upper)
    crossed = high < low
    if crossed.any():
        row = int(np.argmax(crossed))
        raise ValueError(
            f"upper[{row}] is {high[row]:g}, below lower[{row}] = {low[row]:g}; "
            "give the lower end of each interval first."
        )
    return float(((low <= y) & (y <= high)).mean())
