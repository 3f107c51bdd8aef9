r"""Default priors, scaled by the data, and the user's own in their place.

With :math:`s` the standard deviation of the response on the predictor's scale (one for logits and
logarithms of rates; the root mean square where no coefficients make a constant) and :math:`r` the
root mean square of what the other columns leave of a column, a coefficient is
:math:`N(0, (2.5 s / r)^2)` and a group scale is HalfNormal with :math:`2.5 s / r`. Of columns that
are apart that is as in rstanarm: a change of one standard deviation hardly moves the response by
more than a few of its own. Of others it allows as much, wherever a column has its zero: beside a
year the intercept is far from the data, and so is what a product of columns does to their own
coefficients.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions import Distribution, constraints

from probmf.effects.standard import orthogonalize
from probmf.likelihoods.parameters import check_scale, check_support, is_number
from probmf.models.mixed.arrays import Mixing

type Prior = Distribution | Array
type Priors = Mapping[str, Any]

#: Standard deviations of less than this share of a response's size are rounding.
ROUNDING = 1e-14
#: Accuracy of a constant, and of a column's part in it.
SAME = 1e-8
#: Prior scales are this many standard deviations of the response.
WIDTH = 2.5


class Scaling(NamedTuple):
    """Facts of columns that priors of their coefficients depend on.

    Attributes:
        width: One over the root mean square of what the other columns leave of each.
        constant: Coefficients of a predictor that is one in all rows; None where there are none.
        aside: The width of a constant that is no column, but stands beside them.
    """

    width: np.ndarray
    constant: np.ndarray | None
    aside: float = 1.0

    @classmethod
    def of(cls, columns: np.ndarray, *, aside: bool = False) -> "Scaling":
        """Of a matrix; `aside` says that a constant stands beside it."""
        if aside:
            found = cls.of(np.column_stack([np.ones(len(columns)), columns]))
            return cls(found.width[1:], np.zeros(columns.shape[1]), float(found.width[0]))
        if not columns.shape[1]:
            return cls(np.zeros(0), None)
        moved, standard = orthogonalize(columns)
        width = np.linalg.norm(standard.backward, axis=1)
        own = np.linalg.lstsq(moved, np.ones(len(moved)), rcond=None)[0]
        if np.max(np.abs(moved @ own - 1.0)) > SAME:
            return cls(width, None)
        constant = standard.backward @ own
        return cls(width, np.where(np.abs(constant) > SAME * width, constant, 0.0))


class PredictorColumns(NamedTuple):
    """Facts of a predictor that priors depend on.

    Attributes:
        site: Name of the site of its coefficients.
        names: Names of the population columns.
        scaling: That of these columns.
        groups: For each group term its name, column names, columns of shape (n, d), and whether
            its effects are correlated.
    """

    site: str
    names: tuple[str, ...]
    scaling: Scaling
    groups: Sequence[tuple[str, tuple[str, ...], np.ndarray, bool]]


class ColumnLaws(Distribution):
    """Priors of coefficients that are not all Normal, each its own.

    Args:
        laws: A scalar distribution for each column.
        validate_args: As for all of NumPyro's distributions.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("laws",)
    support = constraints.real_vector

    def __init__(self, laws: Sequence[Any], *, validate_args: bool | None = None) -> None:
        """Keep them."""
        self.laws = tuple(laws)
        super().__init__((), (len(self.laws),), validate_args=validate_args)

    @property
    def mean(self) -> Array:
        """Means; zero of a law that has none."""
        means = [own.mean if hasattr(own, "mean") else np.nan for own in self.laws]
        return jnp.nan_to_num(jnp.stack([as_array(one) for one in means]), posinf=0.0, neginf=0.0)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Coefficients."""
        keys = jax.random.split(key, len(self.laws))
        drawn = [own.sample(one, sample_shape) for own, one in zip(self.laws, keys, strict=True)]
        return jnp.stack(drawn, axis=-1)

    def log_prob(self, value: Any, intermediates: Any = None) -> Any:
        """Log densities of coefficients."""
        each = [own.log_prob(value[..., place]) for place, own in enumerate(self.laws)]
        return jnp.sum(jnp.stack(each), axis=0)


class ResponsePlace(NamedTuple):
    """Place of the response on a predictor's scale: its centre, and the prior's width there."""

    center: float
    width: float


def mean_target(response: np.ndarray | float, *, has_constant: bool) -> ResponsePlace:
    """Target of the linear predictor.

    `response` is on the predictor's scale; or, if it has no place there (as a count of zero has
    none on that of logarithms), where an intercept is expected. Without a constant the predictor
    starts from zero. Mean and 2.5 standard deviations, or 0 and 2.5 root mean squares; a width of
    2.5 without such a place.
    """
    if not isinstance(response, np.ndarray):
        return ResponsePlace(response if has_constant else 0.0, WIDTH)
    mean, size = float(np.mean(response)), float(np.sqrt(np.mean(np.square(response)))) or 1.0
    spread = float(np.std(response))
    if not has_constant or spread <= ROUNDING * np.max(np.abs(response)):
        spread = size
    return ResponsePlace(mean if has_constant else 0.0, WIDTH * spread)


def default_priors(columns: PredictorColumns, target: ResponsePlace) -> dict[str, Prior]:
    r"""Priors of a predictor's sites.

    That of an intercept beside columns that are apart is what :math:`N(\mathrm{center}, w^2)` for
    the predictor at the mean of the columns says of it where they are zero: its sd is
    :math:`w \sqrt{1 + \sum_j (\bar x_j / \mathrm{sd}(x_j))^2}`. A correlation matrix is uniform
    (LKJ with concentration one).
    """
    priors: dict[str, Prior] = {}
    if columns.names:
        constant, width = columns.scaling.constant, target.width * columns.scaling.width
        loc = np.zeros_like(width) if constant is None else target.center * constant
        priors[columns.site] = dist.Normal(as_array(loc), as_array(width))
    for name, names, z, correlated in columns.groups:
        blocks = [z] if correlated else np.split(z, z.shape[1], axis=1)
        each = np.concatenate([Scaling.of(block).width for block in blocks])
        priors[f"{name}_scale"] = dist.HalfNormal(as_array(target.width * each))
        if correlated and len(names) > 1:
            priors[f"{name}_correlation"] = _uniform_correlation(len(names))
    return priors


@partial(jax.jit, static_argnums=0)
def _uniform_correlation(size: int) -> Distribution:
    """In one program: by themselves its operations take ten times as long to compile."""
    return dist.LKJCholesky(size, 1.0)


def heavy_tails(
    site: str, given: Any, names: tuple[str, ...]
) -> tuple[Mixing, Distribution] | None:
    """Mixtures of Normals for Student-t and Laplace priors of coefficients.

    The mixtures and the prior of what they are mixed by; None where there are none.
    """
    chosen = given if isinstance(given, Mapping) else dict.fromkeys(names, given)
    laws = [(place, chosen.get(name)) for place, name in enumerate(names)]
    heavy = [(place, law) for place, law in laws if isinstance(law, dist.StudentT | dist.Laplace)]
    if not heavy:
        return None
    # A Student-t's half degrees of freedom, or 1.
    shape = [float(law.df) / 2 if isinstance(law, dist.StudentT) else 1.0 for _, law in heavy]
    is_t = np.array([isinstance(law, dist.StudentT) for _, law in heavy])
    mixing = Mixing(
        np.array([place for place, _ in heavy]), np.where(is_t, shape, 2.0),
        np.where(is_t, -1.0, 1.0), f"{site}_mixing",
    )  # fmt: skip
    return mixing, dist.Gamma(as_array(shape), as_array(np.ones(len(heavy))))


def replace_priors(
    defaults: dict[str, Prior],
    given: Priors,
    coefficient_names: Mapping[str, tuple[str, ...]],
    integrated: str = "",
) -> dict[str, Prior]:
    """The default priors with the user's own put in.

    The user's are by site: for coefficients a distribution of one number or a mapping of column
    names to such, for scales a distribution of positive numbers or fixed numbers, for correlations
    a concentration or an LKJCholesky. Priors of the site `integrated`, which is integrated out, are
    Normal, or Student-t or Laplace: the result has the places and scales of these as a Normal's,
    see `heavy_tails`. An array is a fixed value.
    """
    for site, columns in coefficient_names.items():
        if own := next((name for name in given if name in columns and name not in defaults), None):
            raise ValueError(
                f"priors has the key {own!r}, a column: write {{{site!r}: {{{own!r}: ...}}}} for "
                "the prior of its coefficient."
            )
    _require_known(given, defaults, "priors has the key", "this model's sites with priors")
    priors = dict(defaults)
    for site, prior in given.items():
        default: Any = defaults[site]
        if site in coefficient_names:
            names = coefficient_names[site]
            make = _integrated if site == integrated else _sampled
            priors[site] = make(default, _by_column(site, prior, names), names)
        elif site.endswith("_correlation"):
            priors[site] = _correlation(site, default, prior)
        elif site.endswith("_scale"):
            priors[site] = _scale(site, default, prior)
        else:
            priors[site] = _of_shape(site, prior, (), default.event_shape)
            support = default.support
            least, most = (getattr(support, f"{end}_bound", None) for end in ("lower", "upper"))
            if least is not None:
                check_support(f"priors[{site!r}]", prior, least, np.inf if most is None else most)
    return priors


def _by_column(site: str, given: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Priors that the user gave, by column."""
    chosen = given if isinstance(given, Mapping) else dict.fromkeys(names, given)
    _require_known(chosen, names, f"priors[{site!r}] has the key", "the columns")
    return {name: own for name, own in chosen.items() if own is not None}


def _integrated(default: Any, given: Mapping[str, Any], names: tuple[str, ...]) -> Distribution:
    """Normals, and of their mixtures the places and scales."""
    loc, scale = np.array(default.loc), np.array(default.scale)
    for name, prior in given.items():
        allowed = isinstance(prior, dist.Normal | dist.StudentT | dist.Laplace)
        if not allowed or prior.batch_shape != ():
            raise TypeError(
                f"The prior of coefficient {name!r} is {_named(prior)}; the effects are integrated "
                "out as Gaussians, so it must be a scalar numpyro.distributions.Normal, StudentT "
                "or Laplace."
            )
        place = names.index(name)
        loc[place], scale[place] = float(prior.loc), float(prior.scale)
    return dist.Normal(as_array(loc), as_array(scale))


def _sampled(default: Any, given: Mapping[str, Any], names: tuple[str, ...]) -> Distribution:
    """Any distributions of real numbers."""
    for name, prior in given.items():
        if not isinstance(prior, Distribution) or prior.batch_shape + prior.event_shape != ():
            raise TypeError(
                f"The prior of coefficient {name!r} is {_named(prior)}; expected a scalar "
                "numpyro.distributions.Normal, StudentT or other distribution of real numbers."
            )
        if prior.support is not constraints.real:
            raise ValueError(
                f"The prior of coefficient {name!r} is {_named(prior)}, which does not allow all "
                "real numbers, as a coefficient may be."
            )
        _require_pytree(name, prior)
    if all(isinstance(prior, dist.Normal) for prior in given.values()):
        return _integrated(default, given, names)
    defaults = map(dist.Normal, default.loc, default.scale)
    return ColumnLaws([given.get(name, own) for name, own in zip(names, defaults, strict=True)])


def _correlation(site: str, default: Any, prior: Any) -> Distribution:
    size = default.dimension
    if is_number(prior) and prior > 0:
        return dist.LKJCholesky(size, float(prior))
    if isinstance(prior, dist.LKJCholesky) and prior.dimension == size:
        return prior
    raise TypeError(
        f"priors[{site!r}] is {_named(prior)}; expected a positive number, the concentration of "
        f"the LKJ distribution, or numpyro.distributions.LKJCholesky({size}, ...)."
    )


def _scale(site: str, default: Any, prior: Any) -> Prior:
    shape = default.batch_shape
    if not isinstance(prior, Distribution):
        check_scale(f"priors[{site!r}]", prior, "column", "take it out of the formula")
        if np.shape(prior) not in ((), shape):
            raise ValueError(_shape_message(site, np.shape(prior), shape))
        return jnp.broadcast_to(as_array(prior), shape)
    if isinstance(prior, dist.Delta):
        raise ValueError(
            f"priors[{site!r}] is {_named(prior)}; give a fixed scale as a number, or as an array "
            "with one number per column."
        )
    lower = getattr(prior.support, "lower_bound", None)
    if lower is None or np.any(np.asarray(lower) < 0):
        raise ValueError(
            f"priors[{site!r}] is {_named(prior)}, which allows negative numbers; a scale is a "
            "standard deviation. Use HalfNormal, HalfCauchy, Exponential, LogNormal or the like."
        )
    return _of_shape(site, prior, shape, ())


def _of_shape(
    site: str, prior: Any, batch_shape: tuple[int, ...], event_shape: tuple[int, ...]
) -> Distribution:
    if not isinstance(prior, Distribution):
        raise TypeError(f"priors[{site!r}] is {_named(prior)}; expected a NumPyro distribution.")
    if prior.event_shape != event_shape or prior.batch_shape not in ((), batch_shape):
        got = prior.batch_shape + prior.event_shape
        raise ValueError(_shape_message(site, got, batch_shape + event_shape))
    _require_pytree(site, prior)
    return prior.expand(batch_shape)


def _require_pytree(site: str, prior: Distribution) -> None:
    """Refuse a class of the user's own that JAX can't take apart and put together again."""
    if type(prior).__module__.partition(".")[0] == "numpyro":
        return
    leaves, tree = jax.tree.flatten(prior)
    lost = vars(prior).keys() - vars(jax.tree.unflatten(tree, leaves)).keys()
    if lost:
        names = ", ".join(sorted(map(repr, lost)))
        raise ValueError(
            f"priors[{site!r}] is {_named(prior)}, a class of your own that loses {names} when JAX "
            "takes it apart. Name arrays and numbers in the class's pytree_data_fields, and the "
            "rest in its pytree_aux_fields, as NumPyro's distributions do."
        )


def _shape_message(site: str, got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    return f"priors[{site!r}] has shape {got}; expected {expected or '() (a scalar)'}."


def _require_known(given: Mapping[str, Any], known: Any, what: str, names: str) -> None:
    for name in given:
        if name not in known:
            listed = ", ".join(map(repr, known)) or "none"
            raise ValueError(f"{what} {name!r}, but {names} are: {listed}.")


def _named(value: object) -> str:
    if isinstance(value, Distribution):
        return f"a {type(value).__name__} of shape {value.batch_shape + value.event_shape}"
    return f"{value!r} of type {type(value).__name__}"


def as_array(values: Any) -> Array:
    """An array in JAX's present precision."""
    return jnp.asarray(values, jnp.result_type(float))
