"""Confidence in what was chosen, from counts of how often it was."""

from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from probmf.data.column import refuse
from probmf.data.tables import load

type Transform = Literal["log", "linear"]

#: The largest weights of a table, as a share of its rows, and how many times that share of all
#: weight they hold before the tail is called heavy.
LARGEST, TIMES = 0.01, 10.0


def confidence_weights(
    counts: Any, *, alpha: float = 1.0, transform: Transform = "log", unit: float = 1.0
) -> Float[np.ndarray, " n"]:
    r"""Weights of chosen pairs, from how often each was chosen (plays, clicks, purchases).

    .. math:: c = 1 + \alpha \log(1 + r / \epsilon) \quad \text{or} \quad c = 1 + \alpha r

    For a weight column beside `unobserved_weight=1`. Counts have heavy tails: taken as they are, a
    few pairs decide the fit. The logarithm lets a hundred plays count for more than one, not for
    a hundred times as much.

    Args:
        counts: Counts r, none negative, shape (n,).
        alpha: How much more a chosen pair counts than one that was not.
        transform: "log" or "linear".
        unit: The count :math:`\epsilon` from which on the logarithm bends, for "log".

    Returns:
        The weights, at least 1.

    Raises:
        TypeError: If the counts are no numbers.
        ValueError: If one is negative or not finite, or an argument is out of its range.

    Example:
        >>> confidence_weights([0, 1, 99], alpha=2.0).round(2).tolist()
        [1.0, 2.39, 10.21]

    Source: Hu, Koren and Volinsky (2008), Collaborative filtering for implicit feedback datasets,
    equations 3 to 6; they have alpha 40 with "linear".
    """
    if transform not in get_args(Transform.__value__):
        raise ValueError(f"transform is {transform!r}; expected 'log' or 'linear'.")
    for name, value in (("alpha", alpha), ("unit", unit)):
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not 0 < value < np.inf:
            raise ValueError(f"{name} is {value!r}; expected a finite number above 0.")
    values = load(counts, "the list of counts").numbers()
    refuse(values < 0, values, "the list of counts", "; expected numbers of at least 0.")
    return 1.0 + alpha * (np.log1p(values / unit) if transform == "log" else values)


def heavy_tail(weight: Float[np.ndarray, " n"]) -> float | None:
    """Share of all weight that the largest hundredth holds, if it is ten times what is equal."""
    counted = weight[weight > 0]
    if not len(counted):
        return None
    most = int(np.ceil(LARGEST * len(counted)))
    largest = np.partition(counted, len(counted) - most)[len(counted) - most :]
    share = float(largest.sum(dtype=np.float64) / counted.sum(dtype=np.float64))
    return share if share > TIMES * most / len(counted) else None
