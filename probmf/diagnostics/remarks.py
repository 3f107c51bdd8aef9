"""Sentences under an evaluation: what its figures say when they say little."""

from typing import Any

import numpy as np

#: Measures that are the better the larger they are.
LARGER = frozenset({"log score", "AUC"})


def baseline_wins(errors: dict[str, Any], others: dict[str, Any], what: str) -> list[str]:
    """A sentence if a simple prediction is better than the fit by any measure.

    `what` says what that is, such as "the constant does".
    """
    better = []
    for name, own in errors.items():
        other = others[name]
        if own is None or other is None:
            continue
        if (other > own) if name in LARGER else (other < own):
            better.append(name)
    if not better:
        return []
    return [
        f"By {' and '.join(better)} {what} better than this fit: the data are too few, "
        "or its scales do not suit them (those of a factorization are learned by sample_gibbs or "
        "fit_variational)."
    ]


def events_alone(training: np.ndarray, observed: np.ndarray) -> list[str]:
    """A sentence if all responses are the same, so that errors would tell nothing."""
    value = training[0]
    if np.any(training != value) or np.any(observed != value):
        return []
    return [
        f"All training and test data are {value:g}, as of events: errors would need pairs that did "
        "not occur as well, so that only lists are judged."
    ]


def wide_intervals(training: np.ndarray, width: float, level: float) -> list[str]:
    """A sentence if the intervals are on average wider than the scale of the responses.

    That scale is the range of the training responses.
    """
    span = float(np.ptp(training))
    if not width > span > 0:
        return []
    return [
        f"The {level:.0%} intervals are {width:.3g} wide on average, but all training data lie "
        f"within {span:.3g} ({training.min():g} to {training.max():g}): the fit's scales are far "
        "too large (those of a factorization are learned by sample_gibbs or fit_variational)."
    ]


def seen_items(num_relevant: int, num_seen: int) -> list[str]:
    """A sentence if test pairs were trained on, whose items the lists leave out."""
    if not num_seen:
        return []
    if num_seen == num_relevant:
        return [
            "The fit was trained on every one of these pairs, and lists leave out what a user has "
            "rated: the measures of lists are 0 for that reason alone, and the errors are those of "
            "training. Evaluate on ratings that the fit has not seen."
        ]
    return [
        f"The fit was trained on {num_seen:,} of the {num_relevant:,} relevant pairs, and lists "
        "leave out what a user has rated: these count as missed. Evaluate on ratings that the fit "
        "has not seen."
    ]


def no_lists(relevant: str) -> list[str]:
    """A sentence where no list can be judged; `relevant` says which test items are relevant."""
    return [
        f"No list is judged: no test pair is relevant ({relevant}) and of a user and an item with "
        "training ratings."
    ]
