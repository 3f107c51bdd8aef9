"""How the linear predictor of a mixed model becomes a response.

Every kind of response answers the same questions: what values it may have, what its own parameters
are called, where it lies on the predictor's scale (for the default priors), and its distribution.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from probmf.data.column import Column
from probmf.data.kinds import BOOLEANS
from probmf.data.vocabulary import read_levels
from probmf.models.mixed.variables import some

type Family = Literal["gaussian", "lognormal", "bernoulli", "ordinal"]


class ResponseValues(NamedTuple):
    """Checked values of the response.

    Attributes:
        values: Float64 of shape (n,); for "bernoulli" and "ordinal" int32 codes from 0.
        levels: What the codes of an ordinal response stand for, in order; empty for the others.
    """

    values: np.ndarray
    levels: tuple[Any, ...] = ()


class Response(Protocol):
    """What a kind of response has to answer.

    Attributes:
        site: Its own parameter, "noise_scale" or "cutpoints"; None if it has none.
        has_intercept: Whether the predictor may have an intercept.
    """

    site: ClassVar[Literal["noise_scale", "cutpoints"] | None]
    has_intercept: ClassVar[bool]

    def read(self, column: Column, name: str) -> ResponseValues:
        """The checked column."""
        ...

    def on_predictor_scale(self, values: np.ndarray) -> np.ndarray | None:
        """The response where it can be compared with the predictor; None where it can't."""
        ...

    def law(self, predictor: Float[Array, " n"], parameters: Mapping[str, Array]) -> Distribution:
        """Distribution of the responses given predictor and own parameters."""
        ...


class GaussianResponse:
    r"""Any number, :math:`y \sim N(\eta, \sigma^2)`."""

    site: ClassVar[Literal["noise_scale", "cutpoints"] | None] = "noise_scale"
    has_intercept: ClassVar[bool] = True

    def read(self, column: Column, name: str) -> ResponseValues:
        """Finite numbers."""
        return ResponseValues(_measured(column, name))

    def on_predictor_scale(self, values: np.ndarray) -> np.ndarray | None:
        """As it is."""
        return values

    def law(self, predictor: Float[Array, " n"], parameters: Mapping[str, Array]) -> Distribution:
        """Normal about the predictor."""
        return dist.Normal(predictor, parameters["noise_scale"])


class LogNormalResponse(GaussianResponse):
    r"""Positive numbers, :math:`\log y \sim N(\eta, \sigma^2)`."""

    def read(self, column: Column, name: str) -> ResponseValues:
        """Finite positive numbers."""
        values = _measured(column, name)
        rows = np.flatnonzero(values <= 0)
        if rows.size:
            raise ValueError(
                f"A lognormal response must be positive, but column {name!r} is "
                f"{values[rows[0]]:g} in row{'s'[: rows.size > 1]} {some(rows)}; drop these rows "
                "or use likelihood='gaussian'."
            )
        return ResponseValues(values)

    def on_predictor_scale(self, values: np.ndarray) -> np.ndarray | None:
        """Its logarithm."""
        return np.log(values)

    def law(self, predictor: Float[Array, " n"], parameters: Mapping[str, Array]) -> Distribution:
        """LogNormal whose logarithm lies about the predictor."""
        return dist.LogNormal(predictor, parameters["noise_scale"])


class BernoulliResponse:
    r"""Zeros and ones, :math:`P(y = 1) = 1 / (1 + e^{-\eta})`."""

    site: ClassVar[Literal["noise_scale", "cutpoints"] | None] = None
    has_intercept: ClassVar[bool] = True

    def read(self, column: Column, name: str) -> ResponseValues:
        """Zeros and ones, or booleans."""
        try:
            values = column.numbers()
        except TypeError as error:
            raise TypeError(
                f"{error} Which value of a bernoulli response counts as 1 has to be said: make the "
                "column 0 and 1 or booleans, as in frame['answer'] == 'yes'."
            ) from None
        rows = np.flatnonzero((values != 0) & (values != 1))
        if rows.size:
            raise ValueError(
                f"A bernoulli response must be 0 or 1, but column {name!r} is "
                f"{values[rows[0]]:g} in row{'s'[: rows.size > 1]} {some(rows)}; recode it, or use "
                "likelihood='ordinal' or 'gaussian'."
            )
        return ResponseValues(values.astype(np.int32))

    def on_predictor_scale(self, values: np.ndarray) -> np.ndarray | None:
        """Nothing: a zero or one has no logit."""
        return None

    def law(self, predictor: Float[Array, " n"], parameters: Mapping[str, Array]) -> Distribution:
        """Bernoulli with the predictor as logit."""
        return dist.Bernoulli(logits=predictor)


class OrdinalResponse:
    r"""Ordered levels, :math:`P(y \le k) = 1 / (1 + e^{-(c_k - \eta)})`.

    The cutpoints take the place of the intercept.
    """

    site: ClassVar[Literal["noise_scale", "cutpoints"] | None] = "cutpoints"
    has_intercept: ClassVar[bool] = False

    def read(self, column: Column, name: str) -> ResponseValues:
        """Consecutive whole numbers, or a categorical column with an order of its own."""
        if column.is_numeric:
            return _consecutive(column.numbers(), name)
        order = column.categories
        if order is None:
            raise TypeError(
                f"An ordinal response needs levels in order, but column {name!r} holds plain "
                "values that are no numbers; make it a categorical column with its levels in "
                "order (for polars an Enum), or consecutive whole numbers."
            )
        if not column.ordered:
            raise TypeError(
                f"An ordinal response needs levels in order, but the categories of column {name!r} "
                f"are not ordered ({', '.join(map(repr, order[:8]))}{', ...' * (len(order) > 8)}); "
                "say their order: pandas.Categorical(values, categories=[...], ordered=True)."
            )
        levels, codes = read_levels(column, name)
        unused = [level for level in order if level not in set(levels.ids.tolist())]
        if unused:
            raise ValueError(
                f"The ordinal response {name!r} has levels that no row has: "
                f"{', '.join(map(repr, unused[:5]))}; nothing is known of the cutpoints about "
                "them. Remove these categories or merge them with their neighbours."
            )
        return _at_least_two(codes, tuple(levels.ids.tolist()), name)

    def on_predictor_scale(self, values: np.ndarray) -> np.ndarray | None:
        """Nothing: levels are no numbers."""
        return None

    def law(self, predictor: Float[Array, " n"], parameters: Mapping[str, Array]) -> Distribution:
        """Cumulative logit; the row of cutpoints is repeated for each observation."""
        cutpoints = parameters["cutpoints"]
        shape = (predictor.shape[0], cutpoints.shape[-1])
        return dist.OrderedLogistic(predictor, jnp.broadcast_to(cutpoints[None, :], shape))


def _measured(column: Column, name: str) -> np.ndarray:
    """Numbers; booleans would be read as 0 and 1, and are more likely meant as yes and no."""
    if column.kinds == {BOOLEANS}:
        raise TypeError(
            f"The response {name!r} holds booleans, expected numbers; use likelihood='bernoulli', "
            "or convert it to 0.0 and 1.0 if a share is to be linear in the predictors."
        )
    return column.numbers()


def _consecutive(values: np.ndarray, name: str) -> ResponseValues:
    levels = np.unique(values)
    broken = np.flatnonzero(values != np.trunc(values))
    if broken.size:
        raise ValueError(
            f"An ordinal response must be whole numbers, but column {name!r} is "
            f"{values[broken[0]]:g} in row{'s'[: broken.size > 1]} {some(broken)}."
        )
    gaps = np.flatnonzero(np.diff(levels) != 1)
    if gaps.size:
        below, above = levels[gaps[0]], levels[gaps[0] + 1]
        raise ValueError(
            f"The levels of an ordinal response must be consecutive, but column {name!r} has "
            f"{below:.0f} and {above:.0f} and nothing between; number the levels from 1 without "
            "gaps."
        )
    whole = tuple(int(level) for level in levels)
    return _at_least_two((values - levels[0]).astype(np.int32), whole, name)


def _at_least_two(codes: np.ndarray, levels: tuple[Any, ...], name: str) -> ResponseValues:
    if len(levels) < 2:
        raise ValueError(
            f"The ordinal response {name!r} has one level only, {levels[0]!r}; it needs two."
        )
    return ResponseValues(codes, levels)


#: The kinds of response by the name that `MixedEffects(likelihood=...)` takes.
RESPONSES: dict[str, Response] = {
    "gaussian": GaussianResponse(),
    "lognormal": LogNormalResponse(),
    "bernoulli": BernoulliResponse(),
    "ordinal": OrdinalResponse(),
}
