"""NumPyro's guides by name, class or instance, and the draws that a fitted one gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
from jaxtyping import Array, Float
from numpyro.infer import SVI, Trace_ELBO, autoguide, init_to_value
from numpyro.infer.svi import SVIState
from numpyro.infer.util import log_density

from probmf.inference.importance import smooth
from probmf.inference.target import Target
from probmf.memory import require_memory
from probmf.numpyro_setup import run_unchecked
from probmf.run.compilation import quick_jit

GuideName = Literal["delta", "normal", "low_rank", "multivariate"]

#: NumPyro's guides by our names.
GUIDES: dict[str, type[autoguide.AutoGuide]] = {
    "delta": autoguide.AutoDelta,
    "normal": autoguide.AutoNormal,
    "low_rank": autoguide.AutoLowRankMultivariateNormal,
    "multivariate": autoguide.AutoMultivariateNormal,
}
#: Arrays of the size of the parameters during a step: value, gradient, Adam's moments, and more.
COPIES = 6
#: Unknowns up to which k-hat is computed; with more of them it is large whatever the guide.
MOST_WEIGHED = 500


class GuideDraws(NamedTuple):
    """Draws of a guide.

    Attributes:
        samples: By site of the model, deterministic ones included, (draw, ...).
        log_weights: Log joint density less the guide's, at each draw.
    """

    samples: dict[str, np.ndarray]
    log_weights: Float[np.ndarray, " draw"]


class _Bound(Trace_ELBO):
    """NumPyro's bound, its parts by site added up in order: NumPyro's is that of a set of names."""

    def __init__(self, num_particles: int) -> None:
        """Ask for the parts."""
        super().__init__(num_particles, sum_sites=False)

    def loss_with_mutable_state(self, *given: Any, **more: Any) -> dict[str, Any]:
        """Minus the bound, and what the model changes."""
        found: dict[str, Any] = super().loss_with_mutable_state(*given, **more)
        parts = [found["loss"][site] for site in sorted(found["loss"])]
        return found | {"loss": sum(parts[1:], start=parts[0])}


@partial(
    jax.tree_util.register_dataclass, data_fields=["model", "args", "start", "rates"],
    meta_fields=["guide", "optimizer", "num_particles"],
)  # fmt: skip
@dataclass(frozen=True, eq=False)
class Variation:
    """All that a step depends on besides where it stands; a pytree.

    Attributes:
        model: What to fit, as a pytree.
        args: Its arguments.
        start: Values by site that a guide made of a class begins with.
        rates: Learning rate of each step, or None when the optimizer has its own.
        guide: The guide's class, or a guide, with which its programs go.
        optimizer: The optimizer.
        num_particles: Draws of an estimate of the bound.
    """

    model: Any
    args: tuple[Any, ...]
    start: Mapping[str, Array]
    rates: Float[Array, " steps"] | None
    guide: type[autoguide.AutoGuide] | autoguide.AutoGuide
    optimizer: optax.GradientTransformation
    num_particles: int

    def begin(self, words: Array) -> tuple[SVI, SVIState]:
        """NumPyro's algorithm, and its first state."""
        guide = self.guide
        if isinstance(guide, type):
            guide = guide(self.model, init_loc_fn=init_to_value(values=dict(self.start)))
        rule, rates = self.optimizer, self.rates
        if rates is not None:
            rule = optax.chain(rule, optax.scale_by_learning_rate(lambda step: rates[step]))
        svi = SVI(self.model, guide, rule, _Bound(self.num_particles))
        state = svi.init(words, *self.args)
        # Numbers are given types of their own, as every later state has them.
        return svi, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), state)

    def again(self) -> SVI:
        """The algorithm within a trace, whose guide knows the model."""
        return self.begin(jnp.zeros(2, jnp.uint32))[0]

    def compiled(self, function: Callable[..., Any], *example: Any, quick: bool = True) -> Any:
        """A function of this and more, compiled.

        `example` are its other arguments, for their shapes; `quick` says that it runs for less time
        than it takes to compile.
        """
        make = quick_jit if quick else jax.jit
        shared = isinstance(self.guide, type)
        run = make(function if shared else partial(function, self))
        first = (self,) if shared else ()
        with run_unchecked():
            run.trace(*first, *example)
        return partial(run, *first)


def choose_guide(
    guide: Any, target: Target, num_dims: int
) -> type[autoguide.AutoGuide] | autoguide.AutoGuide:
    """The guide that was asked for.

    A name, a class of `numpyro.infer.autoguide`, or a guide made of the model.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the name is unknown, the guide was made of another model, or its covariance
            would not fit into memory.
    """
    if isinstance(guide, autoguide.AutoGuide):
        _refuse(type(guide))
        if guide.model is not target.model:
            raise ValueError(
                f"The {type(guide).__name__} was made of another model than the one to fit; make "
                "it of the very same object, or give the class (with marginalize= the class is "
                "the only way)."
            )
        return guide
    if isinstance(guide, str):
        if guide not in GUIDES:
            raise ValueError(
                f"guide is {guide!r}; expected {', '.join(map(repr, get_args(GuideName)))}, or a "
                "class of numpyro.infer.autoguide."
            )
        guide = GUIDES[guide]
    if not isinstance(guide, type) or not issubclass(guide, autoguide.AutoGuide):
        raise TypeError(
            f"guide is {guide!r}; expected {', '.join(map(repr, get_args(GuideName)))}, or a class "
            "or instance of numpyro.infer.autoguide."
        )
    _refuse(guide)
    _check_size(guide, num_dims)
    return guide


def _refuse(kind: type) -> None:
    if issubclass(kind, autoguide.AutoLaplaceApproximation):
        raise ValueError("AutoLaplaceApproximation is what fit_laplace does; call that.")


def _check_size(kind: type, num_dims: int) -> None:
    itemsize = jnp.dtype(jnp.result_type(float)).itemsize
    if issubclass(kind, autoguide.AutoMultivariateNormal):
        require_memory(
            float(num_dims) ** 2 * COPIES * itemsize,
            f"A guide with a full covariance of {num_dims:,} unknowns",
            "Use guide='low_rank' or guide='normal', or for a mixed model integrate the effects "
            "out (marginalize='all').",
        )
    if issubclass(kind, autoguide.AutoLowRankMultivariateNormal):
        rank = round(num_dims**0.5)
        require_memory(
            float(num_dims) * rank * COPIES * itemsize,
            f"A guide of rank {rank:,} for {num_dims:,} unknowns",
            "Use guide='normal', or fit_variational for a factorization.",
        )


def draw_guide(variation: Variation, params: dict[str, Any], key: Array, num: int) -> GuideDraws:
    """Draws of a fitted guide, each with its weight against the posterior.

    One evaluation of the model for each.
    """
    keys = jax.random.key_data(jax.random.split(key, num))
    samples, weights = variation.compiled(_draws, params, keys)(params, keys)
    found = {name: np.asarray(value) for name, value in samples.items()}
    return GuideDraws(found, np.asarray(weights, np.float64))


def _draws(
    variation: Variation, params: dict[str, Any], keys: Array
) -> tuple[dict[str, Array], Array]:
    guide, model, args = variation.again().guide, variation.model, variation.args

    def one(words: Array) -> tuple[dict[str, Array], Array]:
        guide_key, model_key = jax.random.split(words)
        log_guide, trace = log_density(numpyro.handlers.seed(guide, guide_key), args, {}, params)
        replayed = numpyro.handlers.replay(numpyro.handlers.seed(model, model_key), trace)
        log_model, trace = log_density(replayed, args, {}, params)
        sites = {
            name: site["value"]
            for name, site in trace.items()
            if site["type"] == "deterministic"
            or (site["type"] == "sample" and not site["is_observed"])
        }
        return sites, log_model - log_guide

    return jax.lax.map(one, keys)


def weigh(log_weights: Float[np.ndarray, " draw"], num_dims: int) -> dict[str, float]:
    """Pareto k-hat of importance weights, where it can tell anything.

    "k_hat", or nothing with too many unknowns or too few draws.

    References:
        Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work? Evaluating variational
        inference.
    """
    if num_dims > MOST_WEIGHED or len(log_weights) < 100:
        return {}
    return {"k_hat": smooth(log_weights)[1]}
