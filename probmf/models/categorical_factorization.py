"""Factorization of classes without an order: a score for each class of each pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution

from probmf.data import Ratings
from probmf.models.categorical import Categorical
from probmf.models.categorical_data import ClassObservations
from probmf.models.factorization import PRIOR_SCALES
from probmf.models.likelihood import is_number

Parameters = Mapping[str, Array]

#: Factors start Normal with this sd, or the prior's if smaller.
START_SCALE = 0.1


@dataclass(frozen=True)
class CategoricalFactorization:
    r"""One of C classes for each pair, by a score for each class and factors of users they share.

    .. math::
        \eta_{mnc} = \mu_c + b_{mc} + a_{nc} + u_m \cdot v_{nc}, \quad
        P(r_{mn} = c) = \frac{e^{\eta_{mnc}}}{\sum_j e^{\eta_{mnj}}}, \quad
        b_{mc} \sim N(0, s_b^2),\ a_{nc} \sim N(0, s_a^2),\
        u_m \sim N(0, s_u^2 I),\ v_{nc} \sim N(0, s_v^2 I)

    No class is a reference: all C have their own parameters, and permuting the classes permutes
    the posterior. A shift of all scores of a pair says the same, and the priors settle it (at a
    mode with fixed scales, the biases and item factors of a row sum to zero over the classes).
    The object is itself a NumPyro model of :class:`ClassObservations`.

    Args:
        num_factors: Length k of the factors; 0 leaves biases only.
        classes: Number C of classes, or a label for each of them. Ratings are codes 0..C-1.
        intercept: "mean" fixes it at the log frequencies of the classes, C numbers fix it there, a
            NumPyro Normal(0, s) learns it under that prior, and None leaves it out.
        user_bias: Whether users have a bias for each class.
        item_bias: Whether items have a bias for each class.
        user_scale: Prior standard deviation of user factors: a number, or a NumPyro distribution
            (then it is sampled).
        item_scale: The same for item factors.
        user_bias_scale: The same for user biases.
        item_bias_scale: The same for item biases.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a scale or size is out of its range, or a label is repeated.

    Example:
        >>> table = {"user": [1, 1, 2, 2], "item": [7, 8, 7, 8], "rating": [0, 1, 2, 1]}
        >>> model = CategoricalFactorization(1, classes=["no", "maybe", "yes"])
        >>> (observations,) = model.arguments(Ratings.from_frame(table))
        >>> jnp.exp(observations.intercept).round(2).tolist()
        [0.25, 0.5, 0.25]
    """

    num_factors: int
    classes: int | Sequence[Any]
    intercept: Literal["mean"] | Sequence[float] | Distribution | None = "mean"
    user_bias: bool = True
    item_bias: bool = True
    user_scale: float | Distribution = 1.0
    item_scale: float | Distribution = 1.0
    user_bias_scale: float | Distribution = 1.0
    item_bias_scale: float | Distribution = 1.0

    def __post_init__(self) -> None:
        """Check the configuration at the door."""
        if isinstance(self.num_factors, bool) or not isinstance(self.num_factors, int | np.integer):
            raise TypeError(
                f"num_factors is {self.num_factors!r}; expected a whole number such as 16."
            )
        if self.num_factors < 0:
            raise ValueError(f"num_factors is {self.num_factors}; expected 0 or more.")
        for name in ("user_bias", "item_bias"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise TypeError(
                    f"{name} is {getattr(self, name)!r}; expected True or False. The size of the "
                    f"biases is {name}_scale."
                )
        object.__setattr__(self, "classes", _labels(self.classes))
        object.__setattr__(self, "intercept", _intercept(self.intercept, self.labels))
        for name in PRIOR_SCALES.values():
            _check_scale(name, getattr(self, name))
        if not self.row_shapes(1, 1):
            raise ValueError(
                "The model has no term but the intercept: num_factors=0 and no biases. Keep one."
            )

    @property
    def labels(self) -> tuple[Any, ...]:
        """Labels of the classes, in the order of their codes."""
        labels: Any = self.classes
        return labels

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    @property
    def likelihood(self) -> Categorical:
        """The likelihood of a pair's class given its scores."""
        return Categorical(self.num_classes)

    @property
    def learns_intercept(self) -> bool:
        """True where the intercept is a parameter rather than a constant."""
        return isinstance(self.intercept, Distribution)

    def canonical(self) -> "CategoricalFactorization":
        """The model without scales and labels: compiled programs are keyed by it."""
        return CategoricalFactorization(
            self.num_factors, self.num_classes, None, self.user_bias, self.item_bias
        )

    def row_shapes(self, num_users: int, num_items: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the sites of users and items.

        Args:
            num_users: Number of users.
            num_items: Number of items.

        Returns:
            Site name to shape, in the order in which the model samples them.
        """
        count, k = self.num_classes, int(self.num_factors)
        shapes: dict[str, tuple[int, ...]] = {}
        if self.user_bias:
            shapes["user_bias"] = (num_users, count)
        if self.item_bias:
            shapes["item_bias"] = (num_items, count)
        if k:
            shapes["user_factors"] = (num_users, k)
            shapes["item_factors"] = (num_items, count, k)
        return shapes

    def site_shapes(self, data: ClassObservations) -> dict[str, tuple[int, ...]]:
        """Shapes of what a gradient method moves: the rows, and a learned intercept."""
        shapes = self.row_shapes(data.num_users, data.num_items)
        return shapes | ({"intercept": (self.num_classes,)} if self.learns_intercept else {})

    def random_scales(self) -> list[str]:
        """Names of the scales that have a prior distribution instead of a value."""
        used = (PRIOR_SCALES[site] for site in self.row_shapes(1, 1))
        return [name for name in used if isinstance(getattr(self, name), Distribution)]

    def arguments(self, ratings: Ratings) -> tuple[ClassObservations]:
        """Arguments of the model: `MCMC(NUTS(model)).run(key, *model.arguments(ratings))`.

        Args:
            ratings: Table whose ratings are codes of classes.

        Returns:
            The observations, as the model's only argument.

        Raises:
            TypeError: If `ratings` are no Ratings.
            ValueError: If a rating is no code, all are of one class, or a class has no rating and
                the intercept is to be its log frequency.
        """
        if not isinstance(ratings, Ratings):
            raise TypeError(
                f"Expected Ratings, got {type(ratings).__name__}. "
                "Make them with Ratings.from_frame(frame, user=..., item=..., rating=...)."
            )
        self.likelihood.check_ratings(ratings.rating)
        counts = np.bincount(ratings.rating.astype(int), ratings.weight, self.num_classes)
        empty = [label for label, count in zip(self.labels, counts, strict=True) if not count]
        if len(empty) == self.num_classes - 1:
            only = self.labels[int(np.argmax(counts))]
            raise ValueError(
                f"All ratings are of class {only!r}, so there is nothing to tell apart. Check "
                "that the column of ratings holds the codes of all classes."
            )
        if empty and isinstance(self.intercept, str):
            raise ValueError(
                f"No rating is of class {', '.join(map(repr, empty))}, whose log frequency would "
                "be minus infinity. Leave it out of classes= (and number the others without a "
                "gap), or give intercept=None or numbers."
            )
        return (ClassObservations.from_ratings(ratings, self._fixed_intercept(counts)),)

    def _fixed_intercept(self, counts: np.ndarray) -> np.ndarray:
        if isinstance(self.intercept, str):
            return np.asarray(np.log(counts / counts.sum()))
        if isinstance(self.intercept, tuple):
            return np.asarray(self.intercept, np.float64)
        return np.zeros(self.num_classes)

    def held_out(self, training: Ratings, ratings: Ratings) -> ClassObservations:
        """Other ratings in the training ratings' codes, with their intercept.

        Args:
            training: The training ratings.
            ratings: The others.

        Returns:
            Their arrays.

        Raises:
            ValueError: If an id is unknown or a rating is no code.
        """
        recoded = ratings.recode(users=training.users, items=training.items)
        self.likelihood.check_ratings(recoded.rating)
        (own,) = self.arguments(training)
        return ClassObservations.from_ratings(recoded, np.asarray(own.intercept))

    def __call__(self, data: ClassObservations) -> Array:
        """Sample the model in NumPyro's sense.

        Args:
            data: Pairs and their classes; without classes these are sampled.

        Returns:
            The value of the site `rating`.
        """
        if isinstance(self.intercept, dist.Normal):
            law: Any = self.intercept.expand([self.num_classes]).to_event(1)
            values = {"intercept": numpyro.sample("intercept", law)}
        else:
            values = {"intercept": numpyro.deterministic("intercept", data.intercept)}
        for site, shape in self.row_shapes(data.num_users, data.num_items).items():
            name = PRIOR_SCALES[site]
            scale: Any = getattr(self, name)
            if isinstance(scale, Distribution):
                scale = numpyro.sample(name, scale)
            law = dist.Normal(0.0, scale).expand(shape).to_event(len(shape) - 1)
            with numpyro.plate(site.split("_")[0], shape[0]):
                values[site] = numpyro.sample(site, law)
        with numpyro.plate("rating_row", data.num_rows):
            return self.likelihood.observe(
                class_scores(values, data.user, data.item), data.rating, data.weight, {}
            )

    def prior_precisions(self, data: ClassObservations) -> dict[str, float]:
        """Prior precision of every site of `site_shapes`; all scales must be fixed."""
        found: dict[str, float] = {}
        for site in self.row_shapes(1, 1):
            scale: Any = getattr(self, PRIOR_SCALES[site])
            found[site] = float(scale) ** -2
        if isinstance(self.intercept, dist.Normal):
            found["intercept"] = float(self.intercept.scale) ** -2
        return found

    def start(self, key: Array, data: ClassObservations) -> dict[str, Array]:
        """Starting values: biases at zero, small random factors.

        Args:
            key: JAX key.
            data: From `arguments`.

        Returns:
            Values by site name.
        """
        values: dict[str, Array] = {}
        for place, (site, shape) in enumerate(self.site_shapes(data).items()):
            values[site] = jnp.zeros(shape)
            if site.endswith("factors"):
                given: Any = getattr(self, PRIOR_SCALES[site])
                noise = jax.random.normal(jax.random.fold_in(key, place), shape)
                values[site] = min(float(given), START_SCALE) * noise
        return values

    def objective(self, parameters: Parameters, data: ClassObservations) -> Float[Array, ""]:
        r"""Minus log posterior density up to a constant.

        .. math::
            \sum w_{mn} \Big[ \log \sum_c e^{\eta_{mnc}} - \eta_{mn r_{mn}} \Big]
            + \tfrac12 \sum_{sites} |x|^2 / s_x^2

        All scales must be fixed.

        Args:
            parameters: Values by site name; `intercept` may be missing when it is fixed.
            data: From `arguments`.

        Returns:
            The objective, a scalar.
        """
        prior = self.prior_loss(parameters, self.prior_precisions(data))
        return prior + jnp.sum(self.losses(parameters, data, {}))

    def losses(
        self, parameters: Parameters, data: ClassObservations, scales: Mapping[str, Array]
    ) -> Float[Array, " n"]:
        """Minus log likelihood of each pair times its weight."""
        values = {"intercept": data.intercept, **parameters}
        scores = class_scores(values, data.user, data.item)
        found = jnp.asarray(self.likelihood.loss(scores, data.rating, scales))
        return found if data.weight is None else data.weight * found

    @staticmethod
    def prior_loss(parameters: Parameters, precisions: Mapping[str, Any]) -> Float[Array, ""]:
        """The prior's part of the objective, half the squares times their precisions."""
        total = jnp.zeros((), jnp.result_type(float))
        for site, precision in precisions.items():
            total = total + 0.5 * precision * jnp.sum(jnp.square(parameters[site]))
        return total


def class_scores(
    parameters: Parameters, user: Int[Array, " n"], item: Int[Array, " n"]
) -> Float[Array, "n classes"]:
    r"""Scores :math:`\mu_c + b_{mc} + a_{nc} + u_m \cdot v_{nc}`; absent terms count zero.

    Args:
        parameters: Values by site name.
        user: User codes, checked to be in range.
        item: Item codes, checked to be in range.

    Returns:
        A score for each pair and class. Cost O(pairs x classes x num_factors).
    """
    intercept = parameters["intercept"]
    scores = jnp.broadcast_to(intercept, (len(user), len(intercept)))
    if "user_bias" in parameters:
        scores = scores + parameters["user_bias"][user]
    if "item_bias" in parameters:
        scores = scores + parameters["item_bias"][item]
    if "user_factors" in parameters:
        products = parameters["user_factors"][user][:, None, :] * parameters["item_factors"][item]
        scores = scores + jnp.sum(products, axis=-1)
    return scores


def _labels(given: Any) -> tuple[Any, ...]:
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        return tuple(range(Categorical(int(given)).num_levels))
    if isinstance(given, str | bytes | bool) or not hasattr(given, "__len__"):
        raise TypeError(f"classes is {given!r}; expected a number of classes or their labels.")
    labels = tuple(label.item() if isinstance(label, np.generic) else label for label in given)
    for place, label in enumerate(labels):
        if not isinstance(label, str | int | float | bool):
            raise TypeError(f"classes holds {label!r}; labels are text or numbers.")
        if label in labels[:place]:
            raise ValueError(f"classes holds {label!r} twice; each class needs its own label.")
    if len(labels) < 2:
        raise ValueError(f"classes is {given!r}; there must be at least two classes.")
    return labels


def _intercept(given: Any, labels: tuple[Any, ...]) -> Any:
    if given is None or (isinstance(given, str) and given == "mean"):
        return given
    if isinstance(given, dist.Normal) and given.batch_shape == () and float(given.loc) == 0:
        return given
    if isinstance(given, list | tuple | np.ndarray) and all(map(is_number, given)):
        if len(given) != len(labels):
            raise ValueError(f"intercept has {len(given)} numbers for {len(labels)} classes.")
        return tuple(float(number) for number in given)
    raise ValueError(
        f"intercept is {given!r}; expected 'mean', a finite number for each class, a NumPyro "
        "Normal(0, s), or None. A flat prior would leave a shift of all scores without bounds."
    )


def _check_scale(name: str, scale: object) -> None:
    if isinstance(scale, Distribution):
        if scale.batch_shape + scale.event_shape:
            raise ValueError(
                f"{name} has shape {scale.batch_shape + scale.event_shape}; expected a "
                "distribution of one number."
            )
        return
    if not is_number(scale):
        raise TypeError(
            f"{name} is {scale!r}; expected a positive number or a NumPyro distribution."
        )
    value: Any = scale
    if value <= 0:
        raise ValueError(
            f"{name} is {value:g}; a scale is a standard deviation and must be positive. To leave "
            "a term out, switch it off (user_bias=False, item_bias=False, num_factors=0)."
        )
