"""The transform: a NumPyro model without its Gaussian effects, with the exact evidence instead."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpyro.distributions import Distribution, constraints

from probmf.data import as_key
from probmf.inference.marginal.captured_arrays import Captured
from probmf.inference.marginal.forms import OneEvent, Whole, quoted
from probmf.inference.marginal.injection import (
    Inject,
    MarginalizeError,
    Model,
    ModelRun,
    NothingObservedError,
)
from probmf.inference.marginal.left_out import LeftOut
from probmf.inference.marginal.lost_digits import (
    lost_digits,
    lost_digits_of_draws,
    trouble_of_draws,
)
from probmf.inference.marginal.prepare import argument_fingerprint, prepare
from probmf.inference.marginal.prepared import Prepared
from probmf.inference.marginal.prepared_model import PreparedModel, in_double_precision
from probmf.models.mixed.program import MixedProgram
from probmf.numpyro_setup import run_alone
from probmf.results.table import Table
from probmf.run.checks import check_counts
from probmf.run.compilation import as_tree
from probmf.run.driver import FitWarning

#: How many prepared data sets a model remembers.
REMEMBERED = 4


def marginalize(
    model: Model, sites: str | Sequence[str] | None = None, *, num_nodes: int | None = None
) -> "MarginalModel":
    r"""Integrate Gaussian effects out of a NumPyro model.

    .. math:: p(y \mid \theta) = \int p(y \mid u, \theta)\, p(u \mid \theta)\, du

    The sites have to be Normal, MultivariateNormal or flat (ImproperUniform on the whole line) and
    to enter the location of one Normal or LogNormal observed site affinely; the integral is exact.
    Those that enter any other observed site through a linear predictor, a number for each row, are
    integrated out by adaptive Gauss-Hermite quadrature, where they are one or two effects of each
    group of one grouping, or else by Laplace's approximation. Nothing else is asked of the model:
    how each effect enters is found by running it.

    Args:
        model: A NumPyro model, a function or callable object.
        sites: Name or names of the effect sites: random effects in plates, vectors and scalars
            (fixed effects), correlated effects. Sites of the same groups may be named together.
            None for as many values as can be integrated out exactly, or else one grouping by
            quadrature, where that pays; `report` says what becomes of each site, and why.
        num_nodes: Nodes of the quadrature for each effect, 1 for Laplace's approximation; by
            default 15 for one effect of each group and 9 for two.

    Returns:
        A NumPyro model of the remaining sites, with `recover`, which draws the effects back.

    Raises:
        TypeError: If `model` is not callable, a name is not a string, or `num_nodes` no number.
        ValueError: If no site or a site twice is named. When the result is first called:
            `MarginalizeError`, naming the site and what is in the way; without names, each site.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist
        >>> def model(group, y):
        ...     tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        ...     with numpyro.plate("groups", 2):
        ...         u = numpyro.sample("u", dist.Normal(0.0, tau))
        ...     numpyro.sample("y", dist.Normal(u[group], 1.0), obs=y)
        >>> group, y = jax.numpy.array([0, 0, 1]), jax.numpy.array([1.0, 2.0, 3.0])
        >>> marginal = marginalize(model)
        >>> marginal.report(group, y)
        site  done                    reason
        tau   sampled                 Its prior is HalfNormal, neither Gaussian nor flat.
        u     integrated out exactly  1 value for each of 2 groups
        >>> samples = {"tau": jax.numpy.ones(5)}
        >>> marginal.recover(0, samples, group, y)["u"].shape
        (5, 2)

    References:
        Lai, Domke and Sheldon (2024), Hamiltonian Monte Carlo inference of marginalized linear
        mixed-effects models.

    Cost of an evaluation: O(groups d^3) for one grouping with d effects in each group, whatever the
    number of rows if the design is constant. Several groupings leave a dense matrix of all but the
    largest, which is factored once.
    """
    if not callable(model):
        raise TypeError(
            f"model is of type {type(model).__name__}; expected a NumPyro model: the function "
            "itself, not what a call of it returns."
        )
    given = as_tree(model)
    model = given if isinstance(given, MixedProgram) else Whole(model)
    if num_nodes is not None:
        check_counts(num_nodes=num_nodes)
    if sites is None:
        return MarginalModel(model, None, num_nodes)
    if not isinstance(sites, Iterable):
        raise TypeError(
            f"sites is of type {type(sites).__name__}; expected a name or names of sites."
        )
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"sites has {name!r} in it; expected names of sites.")
    if not names:
        raise ValueError("sites is empty; name at least one effect site.")
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"sites names {doubled[0]!r} twice.")
    return MarginalModel(model, names, num_nodes)


@dataclass(eq=False)
class MarginalModel:
    """A NumPyro model with effects integrated out; made by `marginalize`.

    Called like the model. Without observations (as for a prior predictive draw) it samples the
    effects from their prior. The value of the call is None.

    Attributes:
        model: The model as it was, each site as large as its distribution.
        sites: The sites integrated out; None for those that are found.
        num_nodes: Nodes of a quadrature for each effect; None for enough of them.
    """

    model: Model
    sites: tuple[str, ...] | None
    num_nodes: int | None = None

    def __post_init__(self) -> None:
        """Start with nothing remembered."""
        self._prepared: dict[str, PreparedModel] = {}

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """Pickled without what is remembered."""
        return MarginalModel, (self.model, self.sites, self.num_nodes)

    @run_alone()
    def prepare(self, *args: Any, **kwargs: Any) -> PreparedModel:
        """Structure of the effects for these data; remembered for the last few.

        Args:
            *args: The model's arguments, concrete.
            **kwargs: Its keyword arguments.

        Returns:
            The structure and, where the design is constant, its sums.
        """
        own = Captured(self.model.fn) if isinstance(self.model, Whole) else None
        mark = argument_fingerprint((args, kwargs), self.sites, own and own.mark)
        if mark not in self._prepared:
            while len(self._prepared) >= REMEMBERED:
                del self._prepared[next(iter(self._prepared))]
            model, tree = self.model, as_tree(own.model) if own else None
            # Pytrees, as our own models are, hand their leaves over to programs as arguments.
            if own and isinstance(tree, jax.tree_util.Partial) and tree.func is own.model:
                # JAX remembers arrays by their identity, whatever is written into them.
                model = Whole(own.fresh({}))
            self._prepared[mark] = prepare(model, self.sites, args, kwargs, self.num_nodes)
        return self._prepared[mark]

    def report(self, *args: Any, **kwargs: Any) -> Table:
        """Table of the latent sites: what becomes of each, and why.

        Args:
            *args: The model's arguments.
            **kwargs: Its keyword arguments.

        Returns:
            A table with the columns "site", "done" and "reason", in the order of the model.
        """
        choices = self.prepare(*args, **kwargs).choices
        return Table(tuple(choice._asdict() for choice in choices))

    @run_alone()
    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Sample the remaining sites and score the observations, in NumPyro's sense."""
        try:
            prepared = self.prepare(*args, **kwargs)
        except NothingObservedError:
            self.model(*args, **kwargs)
            return
        sample_rest(prepared)

    def recover(
        self,
        key: ArrayLike,
        samples: Mapping[str, ArrayLike],
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Array]:
        """Draw the effects from their joint conditional given each draw of the rest.

        That is exact where their integral is, or a quadrature of many nodes; by Laplace's
        approximation it is the Normal about their mode.

        Args:
            key: JAX key or int.
            samples: Draws of the remaining sites, with one or more leading axes.
            *args: The model's arguments.
            **kwargs: Its keyword arguments.

        Returns:
            Draws of the effect sites, and of deterministic sites that depend on them, with the
            same leading axes. Memory beyond the result is bounded.

        Warns:
            FitWarning: If rounding leaves too little of the density in double precision, or a
                quadrature's nodes miss a part of an integral, as of several modes.
        """
        found = self.draw_back(key, samples, *args, **kwargs)[1]
        self._warn_of_trouble(samples, *args, **kwargs)
        return found

    def evidence_and_effects(
        self, key: ArrayLike, samples: Mapping[str, ArrayLike], *args: Any, **kwargs: Any
    ) -> tuple[Array, dict[str, Array]]:
        """Log density of the observations given each draw, and what `recover` returns."""
        found = self.draw_back(key, samples, *args, **kwargs)
        self._warn_of_trouble(samples, *args, **kwargs)
        return found

    def leave_one_out(
        self, samples: Mapping[str, ArrayLike], *args: Any, **kwargs: Any
    ) -> Float[Array, "... rows"]:
        r"""Log density of each row given the others and each draw, the effects integrated out.

        .. math:: \log p(y_n \mid y_{-n}, \theta)

        These are what Pareto-smoothed importance sampling takes in place of the densities given
        the effects; they vary far less from draw to draw.

        Args:
            samples: Draws of the remaining sites, with one or more leading axes.
            *args: The model's arguments.
            **kwargs: Its keyword arguments.

        Returns:
            The logarithms, rows on the last axis, computed in double precision and as exact as the
            integral is. Zero for rows that are masked.

        Raises:
            MarginalizeError: If a row alone determines an effect with a flat prior.

        Warns:
            FitWarning: If rounding leaves too little of the density of a row that alone holds
                nearly all of what is known of a combination of columns.

        Cost at each draw: one factorization, O(n D^2) with D columns beside the largest grouping's,
        and an evaluation more for each such row, at most D; by quadrature one pass for each row of
        the largest group; by Laplace's approximation one evaluation for each row.

        References:
            Vehtari, Mononen, Tolvanen, Sivula and Winther (2016), Bayesian leave-one-out
            cross-validation approximations for Gaussian latent variable models.
        """
        return self._left_out(None, samples, args, kwargs)

    def leave_group_out(
        self, group: ArrayLike, samples: Mapping[str, ArrayLike], *args: Any, **kwargs: Any
    ) -> Float[Array, "... groups"]:
        r"""Log density of the rows of each group given those of all others and each draw.

        Args:
            group: Group of each row, any labels.
            samples: Draws of the remaining sites, with one or more leading axes.
            *args: The model's arguments.
            **kwargs: Its keyword arguments.

        Returns:
            The logarithms, groups in the order of their sorted labels on the last axis.

        Raises:
            ValueError: If there are not as many labels as rows.

        Warns:
            FitWarning: If rounding leaves too little of the densities, of which these are
                differences.

        Cost at each draw: an evaluation for each group, and a second for a group that holds nearly
        all of what is known of a combination of coefficients; one in all where the effects of these
        groups are integrated out by quadrature.
        """
        return self._left_out(np.asarray(group), samples, args, kwargs)

    def _left_out(
        self,
        group: np.ndarray | None,
        samples: Mapping[str, ArrayLike],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Array:
        prepared = self.prepare(*args, **kwargs)
        latents, lead = _check_samples(prepared, samples)
        if not latents:
            raise ValueError("No site is left to have draws of; the model has one log density.")
        part, count = None, 0
        if group is not None:
            if np.shape(group) != (prepared.pattern.num_rows,):
                raise ValueError(
                    f"group has shape {np.shape(group)}; expected a label for each of "
                    f"{prepared.pattern.num_rows:,} rows."
                )
            labels, part = np.unique(group, return_inverse=True)
            count = len(labels)
        with jax.enable_x64(True):  # What is left of a row given the others may be next to nothing.
            double = {name: jnp.asarray(value, float) for name, value in latents.items()}
            own = in_double_precision(prepared)
            found = np.array(own.left_out(double, part, count))
            anew = isinstance(own, Prepared) and self._look_closely(
                LeftOut(own, double), found, part
            )
            # A difference of densities has their errors; a row's own terms are no difference.
            trouble = lost_digits_of_draws(own, double) if anew or part is not None else ""
        if trouble:
            warnings.warn(trouble, FitWarning, stacklevel=3)
        undetermined = np.isnan(found).any(axis=0)
        if undetermined.any():
            what = "row" if group is None else "group"
            sites = quoted(prepared.flat_sites or prepared.shapes)
            raise MarginalizeError(
                f"Without {what} {int(np.argmax(undetermined))} the others leave {sites} "
                f"undetermined, so that it has no density given them "
                f"({int(undetermined.sum()):,} such {what}s). Give the prior a (smaller) scale.",
            )
        return jnp.asarray(found.reshape(*lead, found.shape[-1]))

    @staticmethod
    def _look_closely(alone: LeftOut, found: np.ndarray, part: np.ndarray | None) -> bool:
        """Find anew what was a difference of numbers that are nearly the same; if there are any."""
        close = np.flatnonzero(np.isnan(found).any(axis=0) | alone.is_close(part))
        for one in close:
            left = np.arange(found.shape[1]) == one if part is None else part == one
            found[:, one] = alone(left)
        return len(close) > 0

    def _warn_of_trouble(self, samples: Mapping[str, ArrayLike], *args: Any, **kwargs: Any) -> None:
        if trouble := trouble_of_draws(self.prepare(*args, **kwargs), samples):
            warnings.warn(trouble, FitWarning, stacklevel=3)

    def draw_back(
        self, key: ArrayLike, samples: Mapping[str, ArrayLike], *args: Any, **kwargs: Any
    ) -> tuple[Array, dict[str, Array]]:
        """`evidence_and_effects` for callers that look for lost digits themselves."""
        prepared = self.prepare(*args, **kwargs)
        latents, lead = _check_samples(prepared, samples)
        count = int(np.prod(lead))
        if count == 0:
            raise ValueError(f"samples hold no draws (leading shape {lead}); draw at least one.")
        keys = jax.random.split(as_key(key), count)
        value, effects = prepared.draw_all(latents, keys)
        return value.reshape(lead), {n: v.reshape(lead + v.shape[1:]) for n, v in effects.items()}


def sample_rest(prepared: PreparedModel) -> None:
    """The NumPyro model of the remaining sites, as a function of arrays."""
    inject = Inject(prepared.model, prepared.zeros(), prepared.target, prepared.hidden)
    inject(*prepared.args, **prepared.kwargs)
    latents = {name: inject.run.values[name] for name in prepared.latent_shapes}
    law = Marginal(prepared, inject.run, latents)
    with OneEvent():
        numpyro.sample(prepared.target, law, obs=law.observed)


class Marginal(Distribution):
    """The observations with the effects integrated out: one event of all rows.

    Args:
        prepared: The structure.
        run: The model at the present latents.
        latents: Values of the present latents.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  # NumPyro's own declaration
    support = constraints.independent(constraints.real, 1)
    reparametrized_params: list[str] = []  # noqa: RUF012

    def __init__(
        self, prepared: PreparedModel, run: ModelRun, latents: Mapping[str, Array]
    ) -> None:
        """See the class."""
        self._prepared, self._run, self._latents = prepared, run, latents
        self.observed = jnp.asarray(run.observed[prepared.target]["value"])
        super().__init__((), self.observed.shape)

    def log_prob(self, value: Array, intermediates: Any = None) -> Array:
        """Log density of the observations, or of others in their place.

        Raises:
            MarginalizeError: If rounding leaves too little of it; within a compiled program that
                can't be told.
        """
        other = None if value is self.observed else value
        density = self._prepared.log_density(self._run, self._latents, other)
        if jax.config.jax_enable_x64 and not isinstance(density, jax.core.Tracer):
            found = self._prepared.rounding(self._latents)
            trouble = "" if found is None else lost_digits(self._prepared, [found])
            if trouble:
                raise MarginalizeError(trouble)
        return density

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Observations from the prior of the effects."""
        keys = jax.random.split(key, int(np.prod(sample_shape)))
        draw = jax.vmap(lambda one: self._prepared.simulate(self._latents, one))(keys)
        return draw.reshape(sample_shape + self.observed.shape)


def _check_samples(
    prepared: PreparedModel, samples: Mapping[str, ArrayLike]
) -> tuple[dict[str, Array], tuple[int, ...]]:
    """Draws of the latents on one leading axis, and the leading shape they came with."""
    lacking = [name for name in prepared.latent_shapes if name not in samples]
    if lacking:
        raise ValueError(
            f"samples lack the site {lacking[0]!r}; they need every remaining site: "
            f"{', '.join(map(repr, prepared.latent_shapes))}."
        )
    leads, latents = {}, {}
    for name, shape in prepared.latent_shapes.items():
        value = jnp.asarray(samples[name])
        cut = value.ndim - len(shape)
        if cut < 1 or value.shape[cut:] != shape:
            raise ValueError(
                f"samples[{name!r}] has shape {value.shape}; expected leading axes of draws before "
                f"{shape}."
            )
        leads[name] = value.shape[:cut]
        latents[name] = value.reshape(-1, *shape)
    if not leads:
        lead = max((np.shape(v)[:1] for v in samples.values()), default=(1,))
        return {}, lead
    first = next(iter(leads.values()))
    for name, lead in leads.items():
        if lead != first:
            raise ValueError(
                f"samples[{name!r}] has leading axes {lead}, others have {first}; give every site "
                "the same number of draws."
            )
    return latents, first
