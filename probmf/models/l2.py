"""The L2-regularized forms of the literature as priors, and back."""

from typing import Literal

import numpy as np
from jax.typing import ArrayLike
from numpyro.distributions import Distribution

from probmf.data import Ratings
from probmf.likelihoods import Likelihood
from probmf.likelihoods.parameters import is_number

Loss = Literal["sum", "mean"]


def prior_scale(
    strength: float,
    likelihood: Likelihood,
    *,
    loss: Loss = "sum",
    num_ratings: int | None = None,
    counts: np.ndarray | None = None,
    name: str = "regularization",
) -> float | np.ndarray:
    r"""The prior scale that a regularization strength stands for.

    With prior precision :math:`\alpha` and noise precision :math:`\beta = 1/\sigma^2` the forms

    .. math::
        \tfrac12 \sum e^2 + \tfrac{\lambda}{2} |x|^2 , \qquad
        \tfrac1n \sum e^2 + \lambda_1 |x|^2 , \qquad
        \sum \ell + \tfrac{\lambda}{2} |x|^2 , \qquad \tfrac1n \sum \ell + \lambda_1 |x|^2

    (squares for Gaussian, log losses for yes/no data) have :math:`\alpha = \lambda\beta`,
    :math:`n \lambda_1 \beta`, :math:`\lambda` and :math:`2 n \lambda_1`. The log loss carries no
    factor 1/2, hence the 2.

    `num_ratings` is n, needed for "mean". With `counts`, the number of ratings of every row, each
    row's strength is multiplied by its count (a row without ratings counts as one). The standard
    deviation :math:`1/\sqrt\alpha`: a number, or one per row with `counts`.
    """
    if not is_number(strength):
        raise ValueError(f"{name} is {strength!r}; expected a positive number.")
    if strength <= 0:
        raise ValueError(
            f"{name} is {strength:g}; expected a positive number (0 would be a flat prior)."
        )
    if loss not in ("sum", "mean"):
        raise ValueError(f"loss is {loss!r}; expected 'sum' or 'mean'.")
    precision = float(strength)
    if loss == "mean":
        if num_ratings is None:
            raise ValueError(
                "The averaged loss depends on the number of ratings: give ratings=, the training "
                "data."
            )
        precision *= num_ratings
    if likelihood.normal:
        noise_scale = likelihood.scale_sites()["noise_scale"]
        if isinstance(noise_scale, Distribution):
            raise ValueError(
                "from_l2 needs a noise_scale that is a number: lambda is a ratio to it."
            )
        precision /= float(noise_scale) ** 2
    elif loss == "mean":
        precision *= 2
    if counts is None:
        return precision**-0.5
    return (precision * np.maximum(counts, 1)) ** -0.5


def l2_scales(
    likelihood: Likelihood,
    *,
    regularization: float | None,
    separate: dict[str, float | None],
    loss: Loss,
    ratings: Ratings | None,
    per_rating: bool,
) -> dict[str, ArrayLike]:
    """Prior scales by argument name, of terms with a strength of their own or a shared one."""
    if per_rating and ratings is None:
        raise ValueError(
            "per_rating=True counts each row's ratings: give ratings=, the training data."
        )
    scales: dict[str, ArrayLike] = {}
    for term, own in separate.items():
        strength = regularization if own is None else own
        if strength is None:
            continue
        counts = None
        if per_rating and ratings is not None:
            counted = ratings.counted
            counts = counted.user_degree if term.startswith("user") else counted.item_degree
        scales[f"{term}_scale"] = prior_scale(
            strength, likelihood, loss=loss, counts=counts, name=term if own is not None else
            "regularization", num_ratings=None if ratings is None else ratings.counted.num_ratings,
        )  # fmt: skip
    return scales
