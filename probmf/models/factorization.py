"""Probabilistic matrix factorization as a NumPyro model."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from probmf import html
from probmf.data import Encoder, Features, Ratings
from probmf.likelihoods import Gaussian, Likelihood
from probmf.likelihoods.base import likelihood_scales
from probmf.likelihoods.parameters import check_scale, is_number
from probmf.models.factorization_program import (
    PRIOR_SCALES,
    FactorizationProgram,
    FactorTerms,
)
from probmf.models.l2 import Loss, l2_scales
from probmf.models.layers import MLP
from probmf.models.linear_predictor import Parameters, linear_predictor, unobserved_loss
from probmf.models.normal_wishart import NormalWishart, normal_loss
from probmf.models.observations import Observations
from probmf.models.row_means import check_mean, prior_means
from probmf.models.sites import Sites
from probmf.rows.store import SIDES, Side

#: Distance of neighbouring numbers that is too much, as a share of the ratings' deviation.
LOST = 0.01
#: Where this package lies: warnings name the first line outside.
PACKAGE = str(Path(__file__).parents[1])

type Scale = float | ArrayLike | Distribution | NormalWishart


@dataclass(frozen=True, eq=False)
class MatrixFactorization(FactorTerms):
    r"""Score = intercept + user bias + item bias + inner product of user and item factors.

    .. math::
        \eta_{mn} = \mu + b_m + c_n + u_m \cdot v_n, \quad
        b_m \sim N(0, s_b^2),\ c_n \sim N(0, s_c^2),\
        u_m \sim N(0, s_u^2 I),\ v_n \sim N(0, s_v^2 I)

    The object is itself a NumPyro model of :class:`~probmf.models.Observations`.

    Args:
        num_factors: Length k of the factors; 0 leaves biases only.
        likelihood: `Gaussian(noise_scale)`, `LogNormal(noise_scale)` of positive ratings,
            `Bernoulli(link)`, `Ordinal(levels)` or any other of a single score.
        intercept: "mean" fixes it at the score that fits all ratings best, a number fixes it
            there, "learned" gives it a flat prior, a NumPyro Normal gives it that prior, and
            None leaves it out. With learned cutpoints of an Ordinal likelihood it is zero or a
            number, since a shift of all cutpoints says the same.
        user_bias: Whether users have a bias.
        item_bias: Whether items have a bias.
        user_scale: Prior standard deviation of user factors: a number, an array with one number
            per user, a NumPyro distribution (then it is sampled; of shape (1, num_factors) for one
            scale per factor), or a `NormalWishart` for a mean and a full covariance.
        item_scale: The same for item factors.
        user_bias_scale: The same for user biases, in units of the score.
        item_bias_scale: The same for item biases.
        unobserved_weight: Weight of every pair that is not in the table, taken as a zero
            (implicit feedback; Hu, Koren and Volinsky 2008). 0 ignores those pairs.
        user_mean: `Linear()` or `MLP(...)`: the prior mean of users' biases and factors is then
            that function of their features, instead of zero.
        item_mean: The same for items.
        user_features: Which columns of the ratings' `user_features` are features, and how they
            are encoded; None takes all columns by their types.
        item_features: The same for items.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a scale or size is out of its range.

    Example:
        >>> model = MatrixFactorization(num_factors=2, likelihood=Gaussian(noise_scale=0.5))
        >>> table = {"user": [1, 1, 2], "item": [7, 8, 7], "rating": [5, 3, 4]}
        >>> ratings = Ratings.from_frame(table)
        >>> (observations,) = model.arguments(ratings)
        >>> float(observations.base_score)
        4.0

    References:
        Salakhutdinov and Mnih (2008), Probabilistic matrix factorization, equations 1-3.
    """

    num_factors: int = 16
    likelihood: Likelihood = field(default_factory=Gaussian)
    intercept: Literal["mean", "learned"] | float | Distribution | None = "mean"
    user_bias: bool = True
    item_bias: bool = True
    user_scale: Scale = 1.0
    item_scale: Scale = 1.0
    user_bias_scale: Scale = 1.0
    item_bias_scale: Scale = 1.0
    unobserved_weight: float = 0.0
    user_mean: MLP | None = None
    item_mean: MLP | None = None
    user_features: Features | Encoder | None = None
    item_features: Features | Encoder | None = None

    def __post_init__(self) -> None:
        """Check the configuration at the door."""
        if isinstance(self.num_factors, bool) or not isinstance(self.num_factors, int | np.integer):
            raise TypeError(
                f"num_factors is {self.num_factors!r}; expected a whole number such as 16."
            )
        if self.num_factors < 0:
            raise ValueError(f"num_factors is {self.num_factors}; expected 0 or more.")
        if not isinstance(self.likelihood, Likelihood):
            raise TypeError(
                f"likelihood is {self.likelihood!r}; expected one such as Gaussian(), LogNormal(), "
                "Bernoulli() or Ordinal(5). Of classes without an order fit one Bernoulli() "
                "model each."
            )
        for name in ("user_bias", "item_bias"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise TypeError(
                    f"{name} is {getattr(self, name)!r}; expected True or False. The size of the "
                    f"biases is {name}_scale."
                )
        for site, name in PRIOR_SCALES.items():
            scale = getattr(self, name)
            if isinstance(scale, NormalWishart) and site.endswith("factors"):
                scale.degrees(self.num_factors)
            else:
                check_scale(name, scale)
        self.likelihood.require_levels()
        _check_intercept(self.intercept)
        if self.learns_intercept and self.likelihood.learned:
            raise ValueError(
                "The intercept and the cutpoints can't both be learned: a shift of the one undoes "
                "that of the others. Leave intercept out (it is then zero), or give the cutpoints "
                "as numbers."
            )
        weight = self.unobserved_weight
        if not (is_number(weight) and weight >= 0):
            raise ValueError(f"unobserved_weight is {weight!r}; expected a finite number >= 0.")
        if weight > 0 and not self.likelihood.quadratic:
            raise ValueError(
                "unobserved_weight counts unobserved pairs as zeros under a Gaussian likelihood; "
                f"the likelihood is {self.likelihood!r}. Use Gaussian(), or sample negatives."
            )
        for side in SIDES:
            has_rows = bool(self.num_factors) or getattr(self, f"{side}_bias")
            mean, features = getattr(self, f"{side}_mean"), getattr(self, f"{side}_features")
            check_mean(side, mean, features, has_rows)
        if not self.site_shapes(1, 1) and self.intercept is None:
            raise ValueError(
                "The model has no term: num_factors=0, no biases and no intercept. Keep one."
            )

    @classmethod
    def from_l2(
        cls,
        num_factors: int,
        *,
        regularization: float | None = None,
        user: float | None = None,
        item: float | None = None,
        user_bias: float | Literal[False] | None = None,
        item_bias: float | Literal[False] | None = None,
        loss: Loss = "sum",
        ratings: Ratings | None = None,
        per_rating: bool = False,
        likelihood: Likelihood | None = None,
        **options: Any,
    ) -> "MatrixFactorization":
        r"""The model whose MAP minimizes an L2-regularized loss of the literature.

        .. math::
            \text{sum: } \tfrac12 \sum e^2 + \tfrac{\lambda}{2} |x|^2 , \qquad
            \text{mean: } \tfrac1n \sum e^2 + \lambda |x|^2

        For yes/no data the log loss stands in place of :math:`\tfrac12 e^2` (sum) and of
        :math:`e^2` (mean). With `per_rating` each row's strength is multiplied by its number of
        ratings, as in ALS-WR (Zhou et al. 2008) and in SGD that shrinks at every rating (Koren,
        Bell and Volinsky 2009).

        Args:
            num_factors: Length k of the factors.
            regularization: Strength lambda shared by all terms that have none of their own.
            user: Strength of the user factors.
            item: Strength of the item factors.
            user_bias: Strength of the user biases; False, or None without a shared strength,
                leaves them out.
            item_bias: Strength of the item biases, likewise.
            loss: "sum" or "mean".
            ratings: The training data, needed for "mean" and `per_rating`.
            per_rating: Multiply each row's strength by its number of ratings.
            likelihood: As in the class; Gaussian with noise scale 1 by default (only the ratio
                of noise to prior matters for the MAP).
            **options: Other arguments of the class, such as `intercept`.

        Returns:
            The model.

        Raises:
            ValueError: If a strength is not positive or one that is needed is missing.

        Example:
            >>> MatrixFactorization.from_l2(8, regularization=4.0).user_scale
            0.5
        """
        likelihood = Gaussian() if likelihood is None else likelihood
        separate = {"user": user, "item": item, "user_bias": user_bias, "item_bias": item_bias}
        for name, bias in (("user_bias", user_bias), ("item_bias", item_bias)):
            if bias is False:
                separate.pop(name)
        scales = l2_scales(
            likelihood, regularization=regularization, separate=separate, loss=loss,
            ratings=ratings, per_rating=per_rating,
        )  # fmt: skip
        missing = [side for side in ("user", "item") if f"{side}_scale" not in scales]
        if num_factors and missing:
            raise ValueError(
                f"from_l2 has no strength for the {' and '.join(missing)} factors; give "
                "regularization=, shared by all terms, or user= and item=."
            )
        present = {f"{side}_bias": f"{side}_bias_scale" in scales for side in ("user", "item")}
        arguments: dict[str, Any] = {**present, **scales, **options}
        return cls(num_factors, likelihood, **arguments)

    def with_encoders(self, ratings: Ratings) -> "MatrixFactorization":
        """The model with the encodings of its features fitted, unless they are already.

        It encodes the features of any rows as those of the training ratings.
        """
        fitted = {}
        for side in self.mean_sides:
            features = getattr(self, f"{side}_features")
            if not isinstance(features, Encoder):
                table, ids = getattr(ratings, f"{side}_features"), getattr(ratings, f"{side}s")
                fitted[f"{side}_features"] = (features or Features()).fit(table, ids)
        changes: dict[str, Any] = fitted
        return replace(self, **changes) if fitted else self

    @property
    def mean_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights of the prior means, once the encodings are fitted."""
        widths = {side: getattr(self, f"{side}_features") for side in self.mean_sides}
        empty = {side: np.zeros((0, len(features.names))) for side, features in widths.items()}
        means = self.row_means(empty)
        return {site: shape for mean in means.values() for site, shape in mean.shapes.items()}

    def encode(self, ratings: Ratings) -> dict[Side, Float[np.ndarray, "rows p"]]:
        """Encoded features of the sides that need them, from a table's side tables."""
        fitted = self.with_encoders(ratings)
        return {
            side: getattr(fitted, f"{side}_features").encode(
                getattr(ratings, f"{side}_features"), getattr(ratings, f"{side}s")
            )
            for side in self.mean_sides
        }

    def random_scales(self) -> list[str]:
        """Names of the scales that have a prior distribution instead of a value."""
        used = {PRIOR_SCALES[site] for site in self.site_shapes(1, 1)}
        scales = {name: getattr(self, name) for name in PRIOR_SCALES.values() if name in used}
        scales |= self.likelihood.scale_sites()
        random = Distribution | NormalWishart
        return [name for name, scale in scales.items() if isinstance(scale, random)]

    @property
    def learned_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the likelihood's parameters that point estimates find with the rows."""
        laws: Mapping[str, Any] = self.likelihood.scale_sites()
        return {name: tuple(laws[name].event_shape) for name in self.likelihood.learned}

    def sites(self, ratings: Ratings) -> Sites:
        """Dimensions of every site that there may be, and ids and other labels along them."""
        model = self.with_encoders(ratings)
        factor = range(self.num_factors)
        coords: dict[str, Any] = {
            "user": ratings.users.ids, "item": ratings.items.ids, "factor": factor,
            "other_factor": factor, "rating_row": range(len(ratings)),
        }  # fmt: skip
        dims = {"rating": ["rating_row"]}
        for site, names in self.likelihood.labels.items():
            dims[site], coords = list(names), coords | names
        for site in self.site_shapes(1, 1):
            side = site.split("_")[0]
            by_factor = ["factor"] * site.endswith("factors")
            dims[site] = [side, *by_factor]
            given = getattr(self, PRIOR_SCALES[site])
            if isinstance(given, Distribution):
                shape = given.batch_shape + given.event_shape
                dims[PRIOR_SCALES[site]] = [[], [side], ["factor"]][len(shape)]
            if isinstance(given, NormalWishart):
                dims |= {
                    f"{side}_mean": ["factor"],
                    f"{side}_precision": ["factor", "other_factor"],
                }
        for side in self.mean_sides:
            layers, names = model.mean_dims(side)
            dims, coords = dims | layers, coords | names
        return Sites(dims, coords)

    def mean_dims(self, side: Side) -> tuple[dict[str, list[str]], dict[str, Any]]:
        """Dimensions of the weights of a side's prior mean; names of its features and outputs."""
        encoder: Any = getattr(self, f"{side}_features")
        has_bias, last = getattr(self, f"{side}_bias"), getattr(self, f"{side}_mean").num_layers
        outputs = ["bias"] * bool(has_bias) + [f"factor {k}" for k in range(self.num_factors)]
        ends = [f"{side}_feature", *(f"{side}_hidden_{n}" for n in range(last - 1))]
        ends.append(f"{side}_output")
        dims = {}
        for site, shape in self.mean_shapes.items():
            if site.startswith(side):
                place = int(site.rpartition("_")[2])
                dims[site] = ends[place : place + 2] if len(shape) == 2 else [ends[place + 1]]
        return dims, {ends[0]: encoder.names, ends[-1]: outputs}

    def arguments(self, ratings: Ratings) -> tuple[Observations]:
        """Arguments of the model: `MCMC(NUTS(model)).run(key, *model.arguments(ratings))`.

        Args:
            ratings: Table of ratings; its ids have been checked and coded.

        Returns:
            The observations, as the model's only argument.

        Raises:
            ValueError: If the ratings do not fit the likelihood, lie so far from zero that
                rounding takes their differences, or an array of scales does not have one entry per
                row.

        Warns:
            UserWarning: If all ratings are the same, which says nothing of what is not rated.
        """
        self.check_data(ratings)
        counted = ratings.counted
        self._warn_of_equal(counted.rating)
        self._check_digits(counted.rating)
        self.likelihood.check_training(counted.rating, counted.weight)
        base = self.likelihood.base_score(counted.rating, counted.weight)
        return (Observations.from_ratings(ratings, base, self.encode(ratings)),)

    def check_data(self, ratings: Ratings) -> None:
        """Refuse ratings that do not suit the model, whatever they tell of learned parameters."""
        if not isinstance(ratings, Ratings):
            raise TypeError(
                f"Expected Ratings, got {type(ratings).__name__}. "
                "Make them with Ratings.from_frame(frame, user=..., item=..., rating=...)."
            )
        self.likelihood.check_ratings(ratings.rating)
        self._check_rows(ratings.num_users, ratings.num_items)
        self._check_weights(ratings.weight)

    def _warn_of_equal(self, rating: np.ndarray) -> None:
        if self.unobserved_weight or len(rating) < 2 or np.any(rating != rating[0]):
            return
        warnings.warn(
            f"All ratings are {rating[0]:g}, so that {rating[0]:g} is the best prediction for any "
            "pair. Of events such as plays, count the pairs that did not occur as weak zeros "
            "(unobserved_weight=0.1), or rank with fit_map(objective='bpr').",
            UserWarning,
            stacklevel=2,
            skip_file_prefixes=(PACKAGE,),
        )

    def _check_digits(self, rating: np.ndarray) -> None:
        """Refuse ratings whose differences are lost in the precision that fits compute in."""
        dtype = jnp.result_type(float)
        step = float(np.spacing(np.abs(rating).max().astype(dtype)))
        spread = float(np.std(rating))
        if self.likelihood.has("in_units") and step > LOST * spread > 0:
            raise ValueError(
                f"The ratings lie about {np.mean(rating):g}, give or take {spread:.2g}, and "
                f"numbers as large as that are {step:.2g} apart in {dtype.name}: too little of "
                "their differences would be left. Subtract a constant from all ratings, such as "
                f"{np.mean(rating):.6g}, or set jax_enable_x64."
            )

    def _check_rows(self, num_users: int, num_items: int) -> None:
        for site, shape in self.site_shapes(num_users, num_items).items():
            name = PRIOR_SCALES[site]
            scale = getattr(self, name)
            if isinstance(scale, NormalWishart):
                continue
            allowed = [(), (shape[0],)]
            by_factor = ""
            if isinstance(scale, Distribution):
                got = scale.batch_shape + scale.event_shape
                if len(shape) == 2:
                    allowed.append((1, shape[1]))
                    by_factor = f", or shape (1, {shape[1]}), one per factor"
            else:
                got = np.shape(scale)
            if got not in allowed:
                raise ValueError(
                    f"{name} has shape {got}; expected one number or {shape[0]} of them, "
                    f"one per {site.split('_')[0]}{by_factor}."
                )

    def _check_weights(self, weight: np.ndarray | None) -> None:
        floor = self.unobserved_weight
        if weight is None:
            if floor >= 1:
                raise ValueError(
                    f"unobserved_weight is {floor:g}, but ratings without a weight column weigh 1: "
                    "an observed pair must count for more than an unobserved one. Lower it, or "
                    "give weight=, a column of larger weights."
                )
            return
        if not np.any(weight > 0):
            raise ValueError("All weights are zero: there is nothing to fit.")
        bad = (weight <= floor) & (weight > 0)
        if floor > 0 and bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"Row {row} has weight {weight[row]:g}, not above unobserved_weight={floor:g}: an "
                "observed pair must count for more than an unobserved one."
            )

    @property
    def program(self) -> FactorizationProgram:
        """The NumPyro model of all factorizations of this form; numbers of the priors are data."""
        names = [PRIOR_SCALES[site] for site in self.site_shapes(1, 1)]
        given = {name: getattr(self, name) for name in names}
        given |= self.likelihood.scale_sites()
        wishart = {name: s for name, s in given.items() if isinstance(s, NormalWishart)}
        intercept: Any = self.intercept
        if isinstance(intercept, dist.Normal):
            intercept = (float(intercept.loc), float(intercept.scale))
        return FactorizationProgram(
            {name: scale for name, scale in given.items() if name not in wishart},
            tuple(wishart.items()), int(self.num_factors), self.likelihood.canonical(), intercept,
            bool(self.user_bias), bool(self.item_bias), float(self.unobserved_weight),
            self.user_mean, self.item_mean,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        """The arguments, for notebooks."""
        return html.fields(self)

    def __call__(self, observations: Observations) -> Array:
        """Sample the model in NumPyro's sense.

        Args:
            observations: Pairs and their ratings; without ratings these are sampled.

        Returns:
            The value of the site `rating`.
        """
        return self.program(observations)

    def fixed_scales(self) -> dict[str, Array]:
        """The likelihood's own scales, when they are numbers."""
        return likelihood_scales(self.likelihood, {})

    def prior_precision(self, site: str, num_rows: int) -> Float[np.ndarray, " rows"]:
        """Prior precision, 1 / scale squared, of each row of a site with a fixed scale."""
        scale = np.asarray(getattr(self, PRIOR_SCALES[site]), jnp.result_type(float))
        return np.broadcast_to(1.0 / np.square(scale), (num_rows,))

    def prior_precisions(self, num_users: int, num_items: int) -> dict[str, Any]:
        """Prior precisions of all sites but the weights of prior means; scales must be fixed.

        One number for each row, for a learned intercept, and for learned cutpoints.
        """
        shapes = self.site_shapes(num_users, num_items)
        found: dict[str, Any] = {
            site: self.prior_precision(site, shape[0]) for site, shape in shapes.items()
        }
        if self.learns_intercept:
            found["intercept"] = self.intercept_prior()[1]
        return found | self.likelihood.prior_precisions()

    def objective(self, parameters: Parameters, observations: Observations) -> Float[Array, ""]:
        r"""Minus log posterior density up to a constant, in any differentiable dtype.

        .. math:: \sum w \ell(r, \eta) + \tfrac12 \sum_{rows} |x|^2 / s^2

        where with features x stands for a row less its prior mean, whose weights add their own
        prior.

        It equals minus NumPyro's log density of the model up to a constant (tested), and every
        optimizer of the package lowers it. All scales must be fixed.

        Args:
            parameters: Values by site name; `intercept` may be missing when it is fixed.
            observations: The data.

        Returns:
            The objective, a scalar.
        """
        means, apart = self.row_means(observations.features), dict(parameters)
        for site, mean in prior_means(means, parameters).items():
            apart[site] = apart[site] - mean
        if self.learns_intercept:
            apart["intercept"] = apart["intercept"] - self.intercept_prior()[0]
        total = normal_loss(
            apart, self.prior_precisions(observations.num_users, observations.num_items)
        )
        for own in means.values():
            total = total + own.loss(parameters)
        values = dict(parameters)
        values.setdefault("intercept", self.fixed_intercept(observations.base_score))
        scores = linear_predictor(values, observations.user, observations.item)
        scales = likelihood_scales(self.likelihood, parameters)
        losses = self.likelihood.loss(scores, observations.rating, scales)
        weight = 1.0 if observations.weight is None else observations.weight
        total = total + jnp.sum(weight * losses)
        if self.unobserved_weight > 0:
            zeros = unobserved_loss(values, observations, self.unobserved_weight, scores)
            total = total + zeros / jnp.square(scales["noise_scale"])
        return total


def _check_intercept(intercept: object) -> None:
    if intercept is None or (isinstance(intercept, str) and intercept in ("mean", "learned")):
        return
    if isinstance(intercept, dist.Normal) and intercept.batch_shape == ():
        return
    if is_number(intercept):
        return
    raise ValueError(
        f"intercept is {intercept!r}; expected 'mean', 'learned', a finite number, a scalar "
        "NumPyro Normal, or None."
    )
