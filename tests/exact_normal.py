"""Log density of a multivariate normal in sixty decimal digits: an oracle of any conditioning."""

from collections.abc import Sequence
from decimal import Decimal, localcontext
from typing import Any

import numpy as np

DIGITS = 60
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")


def exact(values: Any) -> np.ndarray:
    """Floats as decimals, none rounded."""
    array = np.asarray(values, np.float64)
    flat = [Decimal(value) for value in array.ravel().tolist()]
    return np.array([*flat, None], object)[:-1].reshape(array.shape)


def exact_log_density(
    value: np.ndarray, mean: np.ndarray, noise: np.ndarray, halves: Sequence[np.ndarray]
) -> float:
    """That of N(mean, diag(noise^2) + sum H H^T), all of them decimals of dtype object."""
    with localcontext() as context:
        context.prec = DIGITS
        covariance = np.diag(noise * noise)
        for half in halves:
            covariance = covariance + half @ half.T
        residual, logdet, square = value - mean, Decimal(0), Decimal(0)
        # Elimination row by row.
        for i in range(len(residual)):
            pivot = covariance[i, i]
            logdet += pivot.ln()
            square += residual[i] * residual[i] / pivot
            column = covariance[i + 1 :, i] / pivot
            residual[i + 1 :] = residual[i + 1 :] - column * residual[i]
            rest = covariance[i + 1 :, i + 1 :]
            covariance[i + 1 :, i + 1 :] = rest - column[:, None] * covariance[i, i + 1 :][None]
        constant = len(residual) * (2 * PI).ln()
        return float(-(constant + logdet + square) / 2)
