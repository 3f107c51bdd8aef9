"""Factorization whose score is a network of both embeddings, alone or beside their product."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from probmf.data import Ratings
from probmf.models.factorization import PRIOR_SCALES, MatrixFactorization
from probmf.models.layers import MLP
from probmf.models.likelihood import Gaussian, Likelihood, likelihood_scales
from probmf.models.observations import Observations
from probmf.models.ordinal import Ordinal
from probmf.models.priors import NormalWishart
from probmf.models.scores import linear_predictor
from probmf.rows.layout import SIDES

type RowScale = float | ArrayLike | Distribution
Parameters = Mapping[str, Array]

#: What the names of the network's sites begin with.
NAME = "network"
#: Factors start Normal with this sd, or the prior's if smaller. Through a network alone small ones
#: have next to no slope, and many starts end where all factors are zero.
START_SCALE, START_SCALE_ALONE = 0.1, 0.5


@dataclass(frozen=True)
class NeuralFactorization:
    r"""Score = intercept + biases + inner product of the factors + a network of both.

    .. math::
        \eta_{mn} = \mu + b_m + c_n + [\,u_m \cdot v_n\,] + f(u_m, v_n), \qquad
        f \text{ an MLP of } 2k \text{ inputs and one output}

    with the priors of `MatrixFactorization` and those of the layers. Without the bracket
    (`product=False`) the network alone combines the factors. The object is itself a NumPyro model
    of :class:`Observations`.

    A network can represent the inner product, but has to learn it: on ratings that an inner
    product describes well, plain factorization is as a rule better, and much faster to fit and to
    rank by (Rendle et al. 2020). Compare the two on held-out ratings.

    Args:
        num_factors: Length k of the factors, at least 1.
        network: Its hidden layers, activation and priors. The last layer has no bias where the
            intercept or cutpoints are learned, which say the same.
        product: Whether the inner product is added.
        likelihood: `Gaussian(noise_scale)`, `Bernoulli(link)` or `Ordinal(levels)`.
        intercept: "mean" fixes it at the score that fits all ratings best, a number fixes it
            there, "learned" gives it a flat prior, and None leaves it out.
        user_bias: Whether users have a bias.
        item_bias: Whether items have a bias.
        user_scale: Prior standard deviation of user factors: a number, an array with one number
            per user, or a NumPyro distribution (then it is sampled).
        item_scale: The same for item factors.
        user_bias_scale: The same for user biases.
        item_bias_scale: The same for item biases.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a scale or size is out of its range.

    Example:
        >>> from probmf import NeuralFactorization, Ratings, fit_map
        >>> table = {"user": [1, 1, 2], "item": [7, 8, 7], "rating": [5.0, 3.0, 4.0]}
        >>> model = NeuralFactorization(2, MLP((8,)))
        >>> fit = fit_map(model, Ratings.from_frame(table), key=0, num_epochs=20)
        >>> fit.samples["network_weight_0"].shape
        (1, 1, 4, 8)

    References:
        He et al. (2017), Neural collaborative filtering, section 3; Rendle, Krichene, Zhang and
        Anderson (2020), Neural collaborative filtering vs. matrix factorization revisited.
    """

    num_factors: int = 16
    network: MLP = field(default_factory=MLP)
    product: bool = True
    likelihood: Likelihood = field(default_factory=Gaussian)
    intercept: Literal["mean", "learned"] | float | None = "mean"
    user_bias: bool = True
    item_bias: bool = True
    user_scale: RowScale = 1.0
    item_scale: RowScale = 1.0
    user_bias_scale: RowScale = 1.0
    item_bias_scale: RowScale = 1.0

    def __post_init__(self) -> None:
        """Check the configuration at the door."""
        if not isinstance(self.network, MLP):
            raise TypeError(
                f"network is {self.network!r} of type {type(self.network).__name__}; expected "
                "layers such as MLP(hidden=(32,)). Without a network use MatrixFactorization."
            )
        if not isinstance(self.product, bool | np.bool_):
            raise TypeError(f"product is {self.product!r}; expected True or False.")
        if isinstance(self.intercept, Distribution):
            raise TypeError(
                f"intercept is {self.intercept!r}; expected 'mean', 'learned' (a flat prior), a "
                "finite number, or None."
            )
        for name in PRIOR_SCALES.values():
            if isinstance(getattr(self, name), NormalWishart):
                raise TypeError(
                    f"{name} is a NormalWishart; expected a positive number, an array with one "
                    "scale per row, or a NumPyro distribution. The network's first layer turns and "
                    "stretches the factors already."
                )
        # The rest is that of a plain factorization, and checked there.
        if not self.factorization.num_factors:
            raise ValueError(
                "num_factors is 0, but the network needs factors for its inputs; expected 1 or "
                "more. For biases alone use MatrixFactorization(num_factors=0)."
            )

    @cached_property
    def factorization(self) -> MatrixFactorization:
        """The same model without the network, and with the product."""
        names = ("num_factors", "likelihood", "intercept", "user_bias", "item_bias")
        options: dict[str, Any] = {
            name: getattr(self, name) for name in (*names, *PRIOR_SCALES.values())
        }
        return MatrixFactorization(**options)

    @cached_property
    def layers(self) -> MLP:
        """The network's layers; the last has no bias where another parameter would shift it."""
        bias = self.network.bias
        if not (self.learns_intercept or self.likelihood.learned):
            return self.network
        each = bias if isinstance(bias, tuple) else (bias,) * self.network.num_layers
        return replace(self.network, bias=(*each[:-1], False))

    @property
    def learns_intercept(self) -> bool:
        """True where the intercept is a parameter rather than a constant."""
        return self.factorization.learns_intercept

    def canonical(self) -> "NeuralFactorization":
        """The model without its scales: compiled programs are keyed by it."""
        layers = MLP(self.network.hidden, self.network.activation, bias=self.layers.bias)
        return NeuralFactorization(
            int(self.num_factors), layers, bool(self.product), self.likelihood.canonical(), "mean",
            bool(self.user_bias), bool(self.item_bias),
        )  # fmt: skip

    def row_shapes(self, num_users: int, num_items: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the sites of users and items, in the order in which they are sampled."""
        return self.factorization.site_shapes(num_users, num_items)

    @property
    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the network's weights and biases by site."""
        return self.layers.shapes(NAME, *self._sizes)

    @property
    def _sizes(self) -> tuple[int, int]:
        return 2 * int(self.num_factors), 1

    def site_shapes(self, data: Observations) -> dict[str, tuple[int, ...]]:
        """Shapes of what a gradient method moves.

        Args:
            data: From `arguments`.

        Returns:
            Site name to shape: rows, layers, a learned intercept, learned cutpoints.
        """
        shapes = self.row_shapes(data.num_users, data.num_items) | self.layer_shapes
        learned: dict[str, tuple[int, ...]] = {"intercept": ()} if self.learns_intercept else {}
        return shapes | learned | self.factorization.learned_shapes

    def random_scales(self) -> list[str]:
        """Names of the scales that have a prior distribution instead of a value."""
        learned = self.factorization.learned_shapes
        own = [name for name in self.factorization.random_scales() if name not in learned]
        return own + self.layers.random_scales(NAME)

    def arguments(self, ratings: Ratings) -> tuple[Observations]:
        """Arguments of the model: `MCMC(NUTS(model)).run(key, *model.arguments(ratings))`.

        Args:
            ratings: Table of ratings.

        Returns:
            The observations, as the model's only argument. Their `base_score` is the intercept
            where that is fixed, else where a learned one starts.

        Raises:
            TypeError: If `ratings` are no Ratings.
            ValueError: If the ratings do not fit the likelihood, or an array of scales does not
                have one entry per row.
        """
        (data,) = self.factorization.arguments(ratings)
        return (replace(data, base_score=self.factorization.fixed_intercept(data.base_score)),)

    def held_out(self, training: Ratings, ratings: Ratings) -> Observations:
        """Other ratings in the training ratings' codes, with their intercept.

        Args:
            training: The training ratings.
            ratings: The others.

        Returns:
            Their arrays.

        Raises:
            ValueError: If an id is unknown, or a rating does not fit the likelihood.
        """
        recoded = ratings.recode(users=training.users, items=training.items)
        self.likelihood.check_ratings(recoded.rating)
        (own,) = self.arguments(training)
        return Observations.from_ratings(recoded, float(own.base_score))

    def __call__(self, data: Observations) -> Array:
        """Sample the model in NumPyro's sense.

        Args:
            data: Pairs and their ratings; without ratings these are sampled.

        Returns:
            The value of the site `rating`.
        """
        parameters, scales = self.factorization.sample(data)
        parameters |= self.layers.sample(NAME, *self._sizes)
        scores = self.scores(parameters, data)
        with numpyro.plate("rating_row", data.num_rows):
            return self.likelihood.observe(scores, data.rating, data.weight, scales)

    def scores(self, parameters: Parameters, data: Observations) -> Float[Array, " n"]:
        """Scores of pairs; a pure function.

        Args:
            parameters: Values by site name; `intercept` may be missing when it is fixed.
            data: The pairs.

        Returns:
            One score per pair. Cost O(pairs x number of weights).
        """
        values = {"intercept": data.base_score, **parameters}
        inputs = [values[f"{side}_factors"] for side in SIDES]
        first = jnp.concatenate([inputs[0][data.user], inputs[1][data.item]], axis=1)
        if not self.product:
            values = {site: x for site, x in values.items() if not site.endswith("_factors")}
        plain = linear_predictor(values, data.user, data.item)
        return plain + self.layers.apply(NAME, values, first)[:, 0]

    def score_table(
        self,
        parameters: Parameters,
        users: Float[Array, "users d"],
        items: Float[Array, "items d"],
    ) -> Float[Array, "users items"]:
        """Scores of all pairs of some rows (bias, factors).

        The first layer is applied to the two sides apart, and summed: a pair costs no more than
        the layers after it.

        Args:
            parameters: Intercept, weights and biases of the layers by site name.
            users: A row for each user, its bias in front.
            items: The same for items.

        Returns:
            The scores. Cost O(users x items x (k + weights beyond the first layer)), memory
            O(users x items + items x the widest layer).
        """
        weight, k = parameters[f"{NAME}_weight_0"], int(self.num_factors)
        own, other = users[:, 1:] @ weight[:k], items[:, 1:] @ weight[k:]
        if f"{NAME}_bias_0" in parameters:
            other = other + jnp.broadcast_to(parameters[f"{NAME}_bias_0"], other.shape)

        def line(row: Array) -> Array:
            summed = jnp.broadcast_to(row, other.shape) + other
            return self.layers.after_first(NAME, parameters, summed)[:, 0]

        scores = jax.lax.map(line, own) + users[:, :1] + jnp.expand_dims(items[:, 0], 0)
        if self.product:
            scores = scores + users[:, 1:] @ items[:, 1:].T
        return parameters["intercept"] + scores

    def prior_precisions(self, data: Observations) -> dict[str, Any]:
        """Prior precision of every site of `site_shapes`, 0 where flat; scales must be fixed.

        Args:
            data: From `arguments`.

        Returns:
            A number, or an array that is broadcast against the site.
        """
        found: dict[str, Any] = {}
        for site, shape in self.row_shapes(data.num_users, data.num_items).items():
            rows = np.asarray(self.factorization.prior_precision(site, shape[0]))
            found[site] = rows if len(shape) == 1 else rows[:, None]
        for site, scale in self.layers.scales(NAME, *self._sizes).items():
            found[site] = 0.0 if isinstance(scale, str) else float(scale) ** -2
        if self.learns_intercept:
            found["intercept"] = 0.0
        if isinstance(self.likelihood, Ordinal) and self.likelihood.learned:
            found["cutpoints"] = self.likelihood.cutpoint_scale**-2.0
        return found

    def start(self, key: Array, data: Observations) -> dict[str, Array]:
        """Starting values: no biases, small random factors, a random network.

        Args:
            key: JAX key.
            data: From `arguments`.

        Returns:
            Values by site name. Rows without ratings are zero, where their prior has its mode;
            learned cutpoints fit the levels' shares.
        """
        values: dict[str, Array] = {}
        for place, (site, shape) in enumerate(
            self.row_shapes(data.num_users, data.num_items).items()
        ):
            values[site] = jnp.zeros(shape)
            if site.endswith("factors"):
                given = np.asarray(getattr(self, PRIOR_SCALES[site]), jnp.result_type(float))
                most = START_SCALE if self.product else START_SCALE_ALONE
                scale = np.broadcast_to(np.minimum(given, most), shape[:1])
                codes = data.user if site.startswith("user") else data.item
                rated = np.bincount(np.asarray(codes), minlength=shape[0]) > 0
                noise = jax.random.normal(jax.random.fold_in(key, place), shape)
                values[site] = jnp.asarray((scale * rated)[:, None], noise.dtype) * noise
        values |= self.layers.start(NAME, jax.random.fold_in(key, len(values)), *self._sizes)
        if self.learns_intercept:
            values["intercept"] = data.base_score
        if isinstance(self.likelihood, Ordinal) and self.likelihood.learned:
            weight = None if data.weight is None else np.asarray(data.weight)
            score = float(data.base_score)
            first = self.likelihood.start(np.asarray(data.rating), weight, score)
            values["cutpoints"] = jnp.asarray(first, jnp.result_type(float))
        return values

    def objective(self, parameters: Parameters, data: Observations) -> Float[Array, ""]:
        r"""Minus log posterior density up to a constant.

        .. math::
            \sum w_{mn}\, \ell(r_{mn}, \eta_{mn}) + \tfrac12 \sum_{rows} |x|^2 / s^2
            + \tfrac12 \sum_l (|W_l|^2 / s_l^2 + |c_l|^2 / t_l^2)

        It equals minus NumPyro's log density of the model up to a constant (tested). All scales
        must be fixed.

        Args:
            parameters: Values by site name; `intercept` may be missing when it is fixed.
            data: From `arguments`.

        Returns:
            The objective, a scalar.
        """
        total = self.prior_loss(parameters, self.prior_precisions(data))
        scales = likelihood_scales(self.likelihood, parameters)
        return total + jnp.sum(self.losses(parameters, data, scales))

    def losses(
        self, parameters: Parameters, data: Observations, scales: Mapping[str, Array]
    ) -> Float[Array, " n"]:
        """Minus log likelihood of each pair, up to a constant, times its weight."""
        scores = self.scores(parameters, data)
        found = jnp.asarray(self.likelihood.loss(scores, data.rating, scales))
        return found if data.weight is None else data.weight * found

    @staticmethod
    def prior_loss(parameters: Parameters, precisions: Mapping[str, Any]) -> Float[Array, ""]:
        """The prior's part of the objective, half the squares times their precisions."""
        total = jnp.zeros((), jnp.result_type(float))
        for site, precision in precisions.items():
            squares = jnp.square(parameters[site])
            total = total + 0.5 * jnp.sum(jnp.broadcast_to(precision, squares.shape) * squares)
        return total
