"""Maximum a posteriori by gradients."""

from typing import Any

from probmf.data import Ratings
from probmf.models.factorization import MatrixFactorization
from probmf.results import Fit


def fit_map(model: MatrixFactorization, data: Ratings, **arguments: Any) -> Fit:
    """Being written; replaced shortly."""
    raise NotImplementedError("fit_map is being written.")
