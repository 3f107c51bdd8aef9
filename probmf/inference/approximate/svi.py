"""Stochastic variational inference of any model, through NumPyro's guides."""

import time
from collections.abc import Sequence
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from numpyro.infer.autoguide import AutoDelta, AutoGuide

from probmf.data import as_key
from probmf.inference.approximate.first_values import first_values, scales_without_mode
from probmf.inference.approximate.guides import (
    GuideName,
    Variation,
    choose_guide,
    draw_guide,
    weigh,
)
from probmf.inference.approximate.svi_loop import Course, nothing_yet, run_svi
from probmf.inference.drawn_back import few_drawn_back
from probmf.inference.final_warning import concluded
from probmf.inference.point.optimizer import (
    Rule,
    Schedule,
    choose_rule,
    describe_rule,
    rating_rule,
)
from probmf.inference.potential import Potential
from probmf.inference.target import Target
from probmf.memory import require_memory
from probmf.models import MixedEffects
from probmf.results import History, MixedFit, NetworkFit, RatingsFit, Sampling
from probmf.run.checkpoint import PACKAGES, open_checkpoint
from probmf.run.checks import check_counts, require, require_mode
from probmf.run.fingerprint import fingerprint
from probmf.settings import own_settings

#: Learning rate of the default optimizer, from when on it falls, and its share at the last step.
RATE, LEVEL_SHARE, LAST_SHARE = 0.05, 0.6, 0.01
#: A rise of the bound from one tenth of the steps to the next that counts: in Monte Carlo errors,
#: nats.
RISE_ERRORS, RISE_NATS = 4.0, 1.0


def fit_svi(
    model: Any,
    data: Any,
    *,
    key: ArrayLike,
    guide: GuideName | type[AutoGuide] | AutoGuide = "normal",
    num_steps: int = 4000,
    optimizer: optax.GradientTransformation | str | None = None,
    learning_rate: float | Schedule | None = None,
    num_particles: int = 1,
    num_samples: int = 1000,
    marginalize: Sequence[str] | str = (),
    float64: bool | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool | None = None,
) -> RatingsFit | MixedFit | NetworkFit:
    r"""Approximate the posterior by the nearest member of a family, found by stochastic gradients.

    Raises the evidence's lower bound over the parameters of a guide q,

    .. math:: E_q[\log p(y, \theta) - \log q(\theta)] = \log p(y) - KL(q \,\|\, p(\cdot \mid y)) ,

    whose gradient is estimated from draws of q (reparametrized) at every step, with all data. Steps
    are of one size in all unknowns: standardize columns and the response of a mixed model first.

    Args:
        model: A model of the package.
        data: Its data: `Ratings` for a factorization, any data frame (or a design) for a mixed
            model, `Examples` for a network.
        key: JAX key or int.
        guide: "normal" (all unknowns independent, on the unconstrained scale), "low_rank",
            "multivariate" (a full covariance), "delta" (a point), or a class or instance of
            `numpyro.infer.autoguide`.
        num_steps: Steps of the optimizer.
        optimizer: Any optax optimizer, or the name of one as in `fit_map`; by default Adam.
        learning_rate: Number or optax schedule for the default optimizer. By default it is 0.05
            for six tenths of the steps, and then falls to a hundredth of that.
        num_particles: Draws of q for each gradient.
        num_samples: Independent draws of the fitted guide in the result.
        marginalize: Effects to integrate out exactly first and draw back afterwards, as of
            `sample_nuts`: for a mixed model "all" or names of `model.effect_sites(design)`.
        float64: Compute in double precision; None does for mixed models, whose responses may lie
            far from zero, and where anything is integrated out.
        checkpoint: Directory to keep the run in. Called again with the same model, data, settings
            and key, it goes on where it was, bit for bit; with other versions of the packages it
            refuses to. A guide is then given by its name or is a class of NumPyro's.
        progress: Show a progress bar; None shows it on a terminal or in a notebook.

    Returns:
        The fit with one chain of independent draws of the guide. Its history's objective is minus
        the estimated bound after each step; `sampling.info` has "elbo" with its Monte Carlo error
        "elbo_error" (over the last tenth of the steps), "elbo_rise" (by how much it rose from one
        tenth of the steps to the next, in the middle or at the end, less what may be chance), and
        "k_hat" for up to 500 unknowns. With "delta" and nothing integrated out it is a point fit.

    Raises:
        KeyboardInterrupt: After Ctrl-C while the model is traced, as there is nothing to return.
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, a guide's covariance does not fit into memory,
            the bound is not finite from the first steps on, with "delta" the density has no
            highest point, or the checkpoint holds another run or can't be written.

    Warns:
        FitWarning: If the bound ceases to be finite, with the step and its learning rate; the best
            parameters before count. If it still rose when the steps were over. After Ctrl-C, which
            keeps the steps so far and marks the fit incomplete, while they are compiled, too.
            When the disk of the checkpoint is full. If the rows of a mixed model do not tell
            variances apart, so that priors alone do.
        DiagnosticWarning: Otherwise, if k-hat is above 0.7.

    Example:
        >>> from probmf.models import MixedEffects
        >>> table = {"y": [1.0, 2.0, 4.0, 3.0, 2.5, 3.5], "g": ["a", "b", "a", "b", "c", "c"]}
        >>> model = MixedEffects("y ~ 1 + (1 | g)")
        >>> fit = fit_svi(model, table, key=0, num_steps=500, marginalize="all")
        >>> fit.samples["g_effects"].shape
        (1, 1000, 3, 1)

    References:
        Kucukelbir, Tran, Ranganath, Gelman and Blei (2017), Automatic differentiation variational
        inference.

    Cost: a step takes about one gradient of the log density for each particle.
    """
    begin = time.perf_counter()
    require("fit_svi", model)
    check_counts(num_steps=num_steps, num_particles=num_particles, num_samples=num_samples)
    precise = float64
    if precise is None:
        precise = bool(marginalize) or isinstance(model, MixedEffects)
    with own_settings(precise or None):
        random_key = as_key(key)
        start_key, run_key, draw_key, recover_key = jax.random.split(random_key, 4)
        with nothing_yet():
            target = Target.build(model, data, marginalize)
            potential = Potential(target.model, target.args, {})
            if not potential.num_dims:
                raise ValueError(
                    "Nothing is left to fit: every site is fixed or integrated out. Leave some of "
                    "marginalize out, or use sample_marginal."
                )
            own = choose_guide(guide, target, potential.num_dims)
            kind = own if isinstance(own, type) else type(own)
            name = guide if isinstance(guide, str) else kind.__name__
            point = issubclass(kind, AutoDelta)
            if point:
                require_mode(f"fit_svi with guide={name!r}", model, scales_without_mode(target))
            count = 1 if point and not target.sites else num_samples
            require_memory(
                2.0 * count * potential.num_dims * jnp.dtype(jnp.result_type(float)).itemsize,
                f"Keeping {count:,} draws of {potential.num_dims:,} unknowns", "Lower num_samples.",
            )  # fmt: skip
        rule = _rule(optimizer, learning_rate, num_steps)
        rates = None
        if rule.schedule is not None:
            rates = jnp.asarray(-rule.factors(0, num_steps))
        with nothing_yet():
            start = first_values(target, potential, start_key) if isinstance(own, type) else {}
            variation = Variation(
                potential.model, potential.args, start, rates, own, rule.optimizer,
                int(num_particles),
            )  # fmt: skip

        def identify() -> str:
            known = isinstance(guide, str) or kind.__module__.startswith("numpyro.")
            if not (known and isinstance(own, type)):
                raise ValueError(
                    "checkpoint keeps runs with a guide by name or a class of NumPyro's, since an "
                    "instance or a class of your own has no contents to tell it by; give "
                    f"guide={kind.__name__ if known else 'AutoNormal'}, or leave checkpoint out."
                )
            return fingerprint(
                *target.told, start, f"{kind.__module__}.{kind.__qualname__}", random_key,
                (int(num_steps), int(num_particles)), describe_rule(rule, start, num_steps),
            )  # fmt: skip

        store = open_checkpoint(checkpoint, identify, packages=(*PACKAGES, "optax"))
        course = run_svi(variation, run_key, num_steps, checkpoint=store, progress=progress)
        draws = draw_guide(variation, course.params, draw_key, count)
        samples = target.drawn_back({n: v[None] for n, v in draws.samples.items()}, recover_key)
        lost_digits = target.lost_digits(samples)
    info: dict[str, Any] = {"approximation": f"guide {name}", **_judge(course)}
    if not point:
        info |= weigh(draws.log_weights, potential.num_dims)
    still = course.stopped != "num_steps" or info["elbo_rise"] > RISE_NATS
    info["converged"] = "no" if still else "yes"
    sampling, cut = None, few_drawn_back(samples, count)
    if not point or target.sites:
        seconds = time.perf_counter() - begin
        complete = course.stopped != "interrupted" and not cut
        sampling = Sampling({}, 0, seconds, complete, info)
    method = f"svi/{name}" + ("/marginal" if target.sites else "")
    fit = target.fit(samples, method, history=_history(course), sampling=sampling)
    trouble = " ".join(filter(None, (_trouble(course, info, num_steps), cut)))
    return concluded(fit, trouble, lost_digits=lost_digits)


def _rule(
    optimizer: optax.GradientTransformation | str | None,
    learning_rate: float | Schedule | None,
    num_steps: int,
) -> Rule:
    """The optimizer and its learning rates."""
    if optimizer is None and learning_rate is None:
        level = int(LEVEL_SHARE * num_steps)
        learning_rate = optax.exponential_decay(
            RATE, max(1, num_steps - level), LAST_SHARE, transition_begin=level
        )
    return choose_rule(optimizer, learning_rate, rating_rule(True, num_steps))


def _judge(course: Course) -> dict[str, float]:
    """The bound at the end, its error, and how much it still rose; nothing of no steps."""
    if not len(course.losses):
        return {}
    tenths = np.array_split(-course.losses[np.isfinite(course.losses)], 10)
    tenths = [part for part in tenths if len(part)]
    error = [float(np.std(part) / np.sqrt(len(part))) for part in tenths]
    rises = [0.0]
    # In the middle, too: a learning rate that falls ends every rise.
    for place in {len(tenths) // 2, len(tenths) - 1} - {0}:
        chance = RISE_ERRORS * np.hypot(error[place], error[place - 1])
        rises.append(float(tenths[place].mean() - tenths[place - 1].mean() - chance))
    return {"elbo": float(tenths[-1].mean()), "elbo_error": error[-1], "elbo_rise": max(rises)}


def _trouble(course: Course, info: dict[str, Any], num_steps: int) -> str:
    """Sentence on the end of the search, if it did not end as it should."""
    if course.stopped == "diverged":
        return (
            f"The fit diverged: {course.trouble}; the best parameters before, of step "
            f"{course.best}, are kept. Lower the learning rate."
        )
    if course.stopped == "interrupted":
        far = "is that far" if len(course.losses) else "is where it starts, which no data moved"
        return f"Interrupted after {len(course.losses)} of {num_steps} steps; the fit {far}."
    if info["elbo_rise"] > RISE_NATS:
        return (
            f"The bound still rose, by {info['elbo_rise']:.3g} over a tenth of the steps: the fit "
            f"has not converged. Raise num_steps (it is {num_steps:,}), or choose another learning "
            "rate."
        )
    return ""


def _history(course: Course) -> History:
    return History(
        objective=course.losses, validation=None, seconds=course.seconds, best=course.best,
        stopped=course.stopped, unit="step",
    )  # fmt: skip
