r"""Effects in the logarithm of the noise scale, those of the mean integrated out exactly.

With whitened effects s of a group in the noise and w in the mean, rows
:math:`y_n \sim N(\mu_n + z_n^\top w, \sigma_n^2), \log \sigma_n = o_n + c_n^\top s`,

.. math::
    \log \int N(w; 0, I) \prod_n N(y_n \mid \mu_n + z_n^\top w, \sigma_n^2)\, dw =
      \sum_n \log N(y_n \mid \mu_n, \sigma_n^2) + \tfrac12 b^\top A^{-1} b - \tfrac12 \log |A|,

with :math:`A = I + \sum_n z_n z_n^\top / \sigma_n^2` and
:math:`b = \sum_n z_n (y_n - \mu_n) / \sigma_n^2`. A row may stand for the mean of several.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from probmf.effects.linalg import cholesky, solve_lower
from probmf.effects.pattern import Pattern
from probmf.effects.quadrature import Look


class NoiseGroups(NamedTuple):
    """Groups whose effects in the noise are to be integrated out, given all else.

    Attributes:
        residual: Responses less their mean without effects.
        log_scale: Logarithms of the noise scales without these effects.
        number: Rows that each row is the mean of.
        within: Sums of squares of these about it.
        pattern: The group of each row.
        mean_columns: Columns of the mean's effects times their prior's factor; may be none.
        columns: Columns of the noise's effects times their prior's factor.
    """

    residual: Float[Array, " n"]
    log_scale: Float[Array, " n"]
    number: Float[Array, " n"]
    within: Float[Array, " n"]
    pattern: Pattern
    mean_columns: Float[Array, "n d"]
    columns: Float[Array, "n q"]

    @property
    def num_groups(self) -> int:
        """Number of groups."""
        return self.pattern.shapes[0][0]

    def held(self) -> "NoiseGroups":
        """The same as numbers that nothing is differentiated by."""
        kept = {"residual", "log_scale", "mean_columns", "columns"}
        return self._replace(**{name: lax.stop_gradient(getattr(self, name)) for name in kept})

    def log_joint(self, effects: Float[Array, "groups q"]) -> Float[Array, " groups"]:
        """Logarithm of the integrand by group, but for the constant of the Normal of s."""
        log_scale, precision, root, half = self._given(effects)
        square = precision * (self.number * jnp.square(self.residual) + self.within)
        rows = -self.number * (log_scale + 0.5 * np.log(2 * np.pi)) - 0.5 * square
        value = self.pattern.sum_by_group(rows) - 0.5 * jnp.sum(jnp.square(effects), axis=1)
        logs = jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1))
        return value + jnp.sum(0.5 * jnp.square(half) - logs, axis=1)

    def look(self, effects: Float[Array, "groups q"]) -> Look:
        """The same with slope, and the precision if the mean's effects were known.

        That is no less than the precision, so that no step leads too far; both by Fisher's
        identity.
        """
        _, precision, root, half = self._given(effects)
        mean = self.pattern.of_rows(solve_lower(root, half, transpose=True))
        roots = self.pattern.of_rows(root)
        spread = jnp.sum(jnp.square(solve_lower(roots, self.mean_columns)), axis=1)
        left = self.residual - jnp.sum(self.mean_columns * mean, axis=1)
        square = precision * (self.number * (jnp.square(left) + spread) + self.within)
        columns = self.columns
        slope = self.pattern.sum_by_group(columns * (square - self.number)[:, None]) - effects
        products = (2.0 * square)[:, None, None] * columns[:, :, None] * columns[:, None, :]
        eye = jnp.eye(columns.shape[1], dtype=columns.dtype)
        return Look(self.log_joint(effects), slope, eye[None] + self.pattern.sum_by_group(products))

    def _given(self, effects: Float[Array, "groups q"]) -> tuple[Array, Array, Array, Array]:
        """Log scales and precisions of the rows, the factor R of A, and R^-1 b."""
        own = self.pattern.of_rows(effects)
        log_scale = self.log_scale + jnp.sum(self.columns * own, axis=1)
        precision = jnp.exp(-2.0 * log_scale)
        columns = self.mean_columns
        weighted = (precision * self.number)[:, None] * columns
        products = self.pattern.sum_by_group(weighted[:, :, None] * columns[:, None, :])
        root = cholesky(products + jnp.eye(columns.shape[1], dtype=columns.dtype)[None])
        pulled = self.pattern.sum_by_group(weighted * self.residual[:, None])
        return log_scale, precision, root, solve_lower(root, pulled)
