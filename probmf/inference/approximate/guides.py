"""NumPyro's guides by name, class or instance, and the draws that a fitted one gives."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array, Float
from numpyro.infer import autoguide
from numpyro.infer.util import log_density

from probmf.inference.approximate.target import Target, require_memory
from probmf.inference.importance import smooth
from probmf.run.compile_cache import compiled, quick_jit, trace_tree

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


def make_guide(guide: Any, target: Target, num_dims: int, key: Array) -> autoguide.AutoGuide:
    """The guide that was asked for, starting where the model's searches start.

    Args:
        guide: A name, a class of `numpyro.infer.autoguide`, or a guide made of the model.
        target: What to fit.
        num_dims: Number of unknowns.
        key: JAX key of the starting values.

    Returns:
        The guide.

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
    return guide(target.model, init_loc_fn=target.init_strategy(key))


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


def draw_guide(
    target: Target, guide: autoguide.AutoGuide, params: dict[str, Any], key: Array, num: int
) -> GuideDraws:
    """Draws of a fitted guide, each with its weight against the posterior.

    Args:
        target: What was fitted.
        guide: The guide.
        params: Its parameters.
        key: JAX key.
        num: Number of draws.

    Returns:
        The draws. One evaluation of the model for each.
    """
    leaves, structure = jax.tree.flatten(params)

    def one(key_data: Array, *values: Array) -> tuple[dict[str, Array], Array]:
        own = jax.tree.unflatten(structure, values)
        guide_key, model_key = jax.random.split(key_data)
        seeded = numpyro.handlers.seed(guide, guide_key)
        log_guide, trace = log_density(seeded, target.args, {}, own)
        replayed = numpyro.handlers.replay(numpyro.handlers.seed(target.model, model_key), trace)
        log_model, trace = log_density(replayed, target.args, {}, own)
        sites = {
            name: site["value"]
            for name, site in trace.items()
            if site["type"] == "deterministic"
            or (site["type"] == "sample" and not site["is_observed"])
        }
        return sites, log_model - log_guide

    keys = jax.random.key_data(jax.random.split(key, num))
    program, tree = trace_tree(one, keys[0], *leaves)
    run = compiled(
        (program.text, "guide draws"),
        lambda: quick_jit(
            lambda consts, keys, *values: jax.lax.map(
                lambda own: program.evaluate(consts, own, *values), keys
            )
        ),
    )
    samples, weights = jax.tree.unflatten(tree, run(program.consts, keys, *leaves))
    found = {name: np.asarray(value) for name, value in samples.items()}
    return GuideDraws(found, np.asarray(weights, np.float64))


def weigh(log_weights: Float[np.ndarray, " draw"], num_dims: int) -> dict[str, float]:
    """Pareto k-hat of importance weights, where it can tell anything.

    Args:
        log_weights: Of independent draws.
        num_dims: Number of unknowns.

    Returns:
        "k_hat", or nothing with too many unknowns or too few draws.

    References:
        Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work? Evaluating variational
        inference.
    """
    if num_dims > MOST_WEIGHED or len(log_weights) < 100:
        return {}
    return {"k_hat": smooth(log_weights)[1]}
