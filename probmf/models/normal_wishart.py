"""Priors of factors: scales, numbers or sampled, and `NormalWishart`.

Their defaults are those of the fields of `MatrixFactorization`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from probmf.likelihoods.parameters import is_number
from probmf.rows.conditionals import sum_products


def normal_loss(values: Mapping[str, Array], precision: Mapping[str, Any]) -> Float[Array, ""]:
    """Half the sum of squares times prior precisions, which are one for a site or for each row."""
    total = jnp.zeros((), jnp.result_type(float))
    for site, known in precision.items():
        squares = jnp.square(values[site])
        if squares.ndim > 1:
            squares = jnp.sum(squares, axis=-1)
        total = total + 0.5 * jnp.sum(known * squares)
    return total


@dataclass(frozen=True)
class NormalWishart:
    r"""Factors with a mean and a full precision matrix of their own, both learned.

    .. math::
        \Lambda \sim W(W_0, \nu_0), \quad m \sim N(0, (\beta_0 \Lambda)^{-1}), \quad
        u \sim N(m, \Lambda^{-1})

    The expected precision is :math:`\nu_0 W_0` with :math:`W_0 = w_0 I`. Its sites are
    `user_mean` and `user_precision`, or those of the items.

    Args:
        mean_weight: :math:`\beta_0`, in numbers of rows.
        dof: Degrees of freedom :math:`\nu_0`, more than the number of factors less one; None is
            the number of factors, the least informative whole number.
        scale: :math:`w_0`, a positive number.

    Raises:
        ValueError: If a number is not positive and finite.

    Example:
        >>> from probmf import MatrixFactorization, NormalWishart
        >>> MatrixFactorization(8, user_scale=NormalWishart()).random_scales()
        ['user_scale']

    References:
        Salakhutdinov and Mnih (2008), Bayesian probabilistic matrix factorization using Markov
        chain Monte Carlo, equations 5-7.
    """

    mean_weight: float = 2.0
    dof: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers at the door."""
        for name in ("mean_weight", "dof", "scale"):
            value = getattr(self, name)
            if value is None and name == "dof":
                continue
            if not (is_number(value) and value > 0):
                raise ValueError(f"{name} is {value!r}; expected a positive number.")

    def degrees(self, num_factors: int) -> float:
        """Degrees of freedom for so many factors; too few for a proper prior are refused."""
        dof = float(num_factors) if self.dof is None else float(self.dof)
        if dof <= num_factors - 1:
            raise ValueError(
                f"dof is {dof:g}, but a Wishart prior for {num_factors} factors needs more than "
                f"{num_factors - 1}."
            )
        return dof

    def sample(
        self, side: str, num_factors: int, shift: ArrayLike = 0.0
    ) -> dist.Distribution:  # fmt: skip
        """Sample mean and precision in NumPyro's sense; the distribution of a row's factors.

        A shift, one for each row, is added to the mean.
        """
        rate = jnp.eye(num_factors) / self.scale
        law = dist.Wishart(self.degrees(num_factors), rate_matrix=rate)
        precision = numpyro.sample(f"{side}_precision", law)
        zero = jnp.zeros(num_factors)
        center = dist.MultivariateNormal(zero, precision_matrix=self.mean_weight * precision)
        mean = numpyro.sample(f"{side}_mean", center)
        if np.ndim(shift):
            mean = jnp.broadcast_to(mean, np.shape(shift)) + shift
        return dist.MultivariateNormal(mean, precision_matrix=precision)


def wishart_draw(
    key: Any,
    prior: NormalWishart,
    factors: Float[Array, "rows k"],
) -> tuple[Float[Array, " k"], Float[Array, "k k"]]:
    r"""Mean and precision given the rows, from their Normal-Wishart conditional.

    With :math:`n` rows of mean :math:`\bar u` and scatter :math:`S`,

    .. math::
        W^{-1} = W_0^{-1} + S + \tfrac{\beta_0 n}{\beta_0 + n} \bar u \bar u^\top, \quad
        \Lambda \sim W(W, \nu_0 + n), \quad
        m \sim N(\tfrac{n \bar u}{\beta_0 + n}, ((\beta_0 + n) \Lambda)^{-1})
    """
    rows, k = factors.shape
    matrix_key, mean_key = jax.random.split(key)
    center = jnp.mean(factors, axis=0)
    spread = factors - center[None]
    weight = prior.mean_weight * rows / (prior.mean_weight + rows)
    rate = jnp.eye(k, dtype=factors.dtype) / prior.scale + sum_products(spread, spread)
    rate = rate + weight * jnp.outer(center, center)
    precision = dist.Wishart(prior.degrees(k) + rows, rate_matrix=rate).sample(matrix_key)
    total = prior.mean_weight + rows
    root = jnp.linalg.cholesky(precision * total)
    noise = jax.random.normal(mean_key, (k,), factors.dtype)
    step = jax.scipy.linalg.solve_triangular(root, noise, trans=1, lower=True)
    return rows * center / total + step, precision


def sample_scale(name: str, scale: Any) -> Array:
    """A scale's value: a NumPyro site where it has a prior."""
    if isinstance(scale, Distribution):
        return numpyro.sample(name, scale)
    return jnp.asarray(scale, jnp.result_type(float))
