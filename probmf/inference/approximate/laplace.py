"""Laplace's approximation: a normal distribution at the mode, on the unconstrained scale."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probmf.data import as_key
from probmf.data.keys import as_generator
from probmf.inference.approximate.first_values import first_values, scales_without_mode
from probmf.inference.approximate.guides import weigh
from probmf.inference.drawn_back import few_drawn_back
from probmf.inference.final_warning import concluded
from probmf.inference.importance import climb
from probmf.inference.nuts.transitions import constrain_chains
from probmf.inference.point.als import fit_als
from probmf.inference.potential import Potential
from probmf.inference.standard_coordinates import mixed_coordinates
from probmf.inference.target import Target
from probmf.memory import require_memory
from probmf.models import MatrixFactorization
from probmf.results import History, MixedFit, NetworkFit, RatingsFit, Sampling
from probmf.run.checks import check_counts, refusal, require, require_mode
from probmf.run.compilation import traced_jit
from probmf.settings import own_settings

#: Unknowns beyond which the Hessian and its factor take minutes.
MOST_UNKNOWNS = 5000
#: Matrices of the Hessian's size that exist together.
COPIES = 4
#: Nats by which the quadratic at the end may promise a higher point.
DECREMENT = 1e-3
#: Newton steps after the search.
NEWTON_STEPS = 5
#: Step of differences of the gradient, in standard deviations of the coordinate.
STEP = 1e-3
#: Eigenvalues of the Hessian's correlation below this are no curvature.
FLAT = 1e-9


def fit_laplace(
    model: Any,
    data: Any,
    *,
    key: ArrayLike,
    num_samples: int = 1000,
    marginalize: Sequence[str] | str = (),
    max_iterations: int = 2000,
    float64: bool = True,
) -> RatingsFit | MixedFit | NetworkFit:
    r"""Approximate the posterior by the normal distribution that fits it at its mode.

    .. math:: q(\theta) = N(\hat\theta, H^{-1}), \quad
        H = -\nabla^2 \log p(y, \theta) \big|_{\hat\theta}

    on the unconstrained scale (logarithms of scales, say). The mode is found by L-BFGS, for
    factorizations from that of `fit_als`, and settled by Newton steps. It is exact where the
    posterior is normal, as for Gaussian models with known scales.

    Two or more factors may be rotated without any change to the density, so that the Hessian is
    zero along these turns; they are left out, and change no prediction. The evidence of a model
    with one factor counts the modes of both its signs; of a network with hidden units, whose modes
    are as many as their orders and signs, it counts one.

    Args:
        model: A model of the package. A factorization's scales must be numbers or arrays.
        data: Its data: `Ratings` for a factorization, any data frame (or a design) for a mixed
            model, `Examples` for a network.
        key: JAX key or int.
        num_samples: Independent draws in the result.
        marginalize: Effects of a mixed model to integrate out exactly first and draw back
            afterwards, "all" or names of `model.effect_sites(design)`. Without it the joint
            density of centred effects and their scale has no mode.
        max_iterations: The most iterations of L-BFGS.
        float64: Compute in double precision, whatever JAX is set to elsewhere.

    Returns:
        The fit with one chain of independent draws. Its history's objective is minus the log joint
        density by iteration; `sampling.info` has "log_evidence" (Laplace's) and, for up to 500
        unknowns, "k_hat".

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, there are more unknowns than a dense Hessian
            is made for, the density has no highest point, or the Hessian where the search ended
            is not positive definite.

    Warns:
        FitWarning: If the search stopped before the mode, or the rows of a mixed model do not tell
            variances apart, so that priors alone do.
        DiagnosticWarning: Otherwise, if k-hat is above 0.7.

    Example:
        >>> from probmf.models import MixedEffects
        >>> table = {"y": [1.0, 2.0, 4.0, 3.0, 2.5, 3.5], "g": ["a", "b", "a", "b", "c", "c"]}
        >>> fit = fit_laplace(MixedEffects("y ~ 1 + (1 | g)"), table, key=0, marginalize="all")
        >>> fit.samples["g_effects"].shape
        (1, 1000, 3, 1)

    References:
        Tierney and Kadane (1986), Accurate approximations for posterior moments and marginal
        densities.

    Cost: two gradients for each of d unknowns, and O(d^3).
    """
    begin = time.perf_counter()
    require("fit_laplace", model)
    check_counts(num_samples=num_samples, max_iterations=max_iterations)
    with own_settings(float64 or None):
        start_key, draw_key, recover_key = jax.random.split(as_key(key), 3)
        if isinstance(model, MatrixFactorization) and marginalize:
            raise ValueError(
                "fit_laplace integrates effects out of mixed models only; leave marginalize out, "
                "or use sample_nuts."
            )
        target = Target.build(model, data, marginalize)
        require_mode("fit_laplace", model, scales_without_mode(target))
        coordinates = None
        if target.design is not None:
            coordinates = mixed_coordinates(target.source.program, target.args[0])
        potential = Potential(target.model, target.args, {}, coordinates)
        _check_size(potential.num_dims)
        start = _start(target, potential, start_key)
        mode, history = _find_mode(potential, start, max_iterations, begin)
        hessian = _hessian(potential, mode)
        turns = _turns(target, potential, mode)
        mode, factor, decrement = _settle(potential, mode, hessian, turns)
        vectors, log_normal = _draw(draw_key, mode, factor, turns, num_samples)
        samples = target.drawn_back(constrain_chains(potential, vectors[None]), recover_key)
        lost_digits = target.lost_digits(samples)
        top = float(potential.value(jnp.asarray(mode, potential.vector.dtype)))
        rank = len(mode) - turns.shape[1]
        volume = 0.5 * rank * np.log(2 * np.pi) - float(np.sum(np.log(np.diag(factor))))
        info: dict[str, Any] = {"approximation": "normal at the mode"}
        if not turns.shape[1]:
            if coordinates is not None:
                volume += coordinates.log_volume(dict(potential.form.shapes))
            info["log_evidence"] = float(top + volume + _log_modes(model, potential, mode, factor))
            info |= _weigh(potential, vectors, log_normal)
    # Where a line search fails at the very top, the Newton steps have settled it.
    info["converged"] = "no" if decrement > DECREMENT else "yes"
    trouble = ""
    if decrement > DECREMENT:
        trouble = (
            f"The search stopped before the mode after {len(history) - 1} of {max_iterations} "
            f"iterations: by its quadratic the log density is {decrement:.2g} higher there. Raise "
            "max_iterations, or standardize columns of very different scales."
        )
    cut = few_drawn_back(samples, num_samples)
    sampling = Sampling({}, 0, time.perf_counter() - begin, not cut, info)
    method = "laplace" + ("/marginal" if target.sites else "")
    fit = target.fit(samples, method, history=history, sampling=sampling)
    trouble = " ".join(filter(None, (trouble, cut)))
    return concluded(fit, trouble, lost_digits=lost_digits)


def _check_size(num_dims: int) -> None:
    if not num_dims:
        raise ValueError(
            "Nothing is left to fit: every site is fixed or integrated out. Leave some of "
            "marginalize out, or use sample_marginal."
        )
    advice = (
        "Use fit_variational or sample_gibbs for a factorization; integrate the effects of a mixed "
        "model out (marginalize='all'); or use fit_svi(guide='normal')."
    )
    if num_dims > MOST_UNKNOWNS:
        raise ValueError(
            f"The model has {num_dims:,} unknowns, and fit_laplace forms the dense Hessian of at "
            f"most {MOST_UNKNOWNS:,}. {advice}"
        )
    size = float(num_dims) ** 2 * COPIES * jnp.dtype(jnp.result_type(float)).itemsize
    require_memory(size, f"A dense Hessian of {num_dims:,} unknowns", advice)


def _start(target: Target, potential: Potential, key: Array) -> np.ndarray:
    """The mode by alternating least squares where there is one, else a moderate point."""
    model = target.source
    if isinstance(model, MatrixFactorization) and not refusal("fit_als", model):
        point = fit_als(model, target.data, key=key, num_sweeps=200, progress=False).point()
        values = {name: point[name] for name in potential.sites if name in point}
        if len(values) == len(potential.sites):
            exact = {n: jnp.asarray(v, potential.vector.dtype) for n, v in values.items()}
            return np.asarray(potential.unconstrain(exact), np.float64)
    return np.asarray(potential.unconstrain(first_values(target, potential, key)), np.float64)


def _score(potential: Potential, vector: np.ndarray) -> tuple[float, np.ndarray]:
    """Minus log density and its gradient."""
    value, gradient = potential.value_and_grad(jnp.asarray(vector, potential.vector.dtype))
    return -float(value), -np.asarray(gradient, np.float64)


def _find_mode(
    potential: Potential, start: np.ndarray, max_iterations: int, begin: float
) -> tuple[np.ndarray, History]:
    curve: list[float] = []
    times: list[float] = []

    def note(intermediate_result: Any) -> None:
        curve.append(float(intermediate_result.fun))
        times.append(time.perf_counter() - begin)

    found = climb(
        lambda vector: _score(potential, vector), start, max_iterations, note, reach=np.inf
    )
    if not np.isfinite(found.fun):
        raise ValueError(
            "The log density is not finite at the starting values; look for observations of "
            "extreme scale, or priors that contradict the data."
        )
    curve.append(float(found.fun))
    times.append(time.perf_counter() - begin)
    stopped = "tol" if found.success else "num_iterations"
    return np.asarray(found.x), History(
        objective=np.asarray(curve), validation=None, seconds=np.asarray(times), best=len(curve),
        stopped=stopped, unit="iteration",
    )  # fmt: skip


def _hessian(potential: Potential, mode: np.ndarray) -> Float[np.ndarray, "d d"]:
    """Minus the second derivatives of the log density, by central differences of its gradient.

    Not by autodiff: the evidence of effects that are integrated out has a hand-written gradient.
    A first pass finds how wide each coordinate is, a second takes steps that suit it.
    """
    vector = jnp.asarray(mode, potential.vector.dtype)
    steps = np.full(len(mode), 1e-4, vector.dtype)
    run = traced_jit(_rows, None, potential, vector, steps)
    for _ in range(2):
        found = np.asarray(run(potential, vector, steps), np.float64)
        curvature = np.diag(found)
        wide = np.where(curvature > 0, 1.0 / np.sqrt(np.maximum(curvature, 1e-300)), 1.0)
        steps = (STEP * np.minimum(wide, 1e3)).astype(vector.dtype)
    return (found + found.T) / 2


def _rows(potential: Potential, vector: Array, steps: Array) -> Array:
    slope = jax.grad(lambda v: -potential.log_density(v))

    def one(index: Array) -> Array:
        step = steps[index]
        ahead, behind = vector.at[index].add(step), vector.at[index].add(-step)
        return (slope(ahead) - slope(behind)) / (ahead[index] - behind[index])

    return jax.lax.map(one, jnp.arange(len(vector)))


def _turns(target: Target, potential: Potential, mode: np.ndarray) -> Float[np.ndarray, "d t"]:
    """Orthonormal directions in which the factors turn without any change of the density."""
    model = target.source
    if not isinstance(model, MatrixFactorization) or model.num_factors < 2:
        return np.zeros((len(mode), 0))
    columns = [
        _moved(potential, mode, {a: (b, 1.0), b: (a, -1.0)})
        for a in range(model.num_factors)
        for b in range(a)
    ]
    return scipy.linalg.orth(np.stack(columns, axis=1), rcond=1e-6)


def _moved(
    potential: Potential, mode: np.ndarray, by: dict[int, tuple[int, float]]
) -> Float[np.ndarray, " d"]:
    """A direction in which factors move by multiples of factors."""
    vector = jnp.asarray(mode, potential.vector.dtype)
    sites = {name: np.asarray(value) for name, value in potential.unravel(vector).items()}
    moved = {name: np.zeros(value.shape) for name, value in sites.items()}
    for name in ("user_factors", "item_factors"):
        for own, (other, times) in by.items():
            moved[name][:, own] = times * sites[name][:, other]
    return np.concatenate([moved[name].ravel() for name in sorted(moved)])


def _log_modes(model: Any, potential: Potential, mode: np.ndarray, factor: np.ndarray) -> float:
    """Log of the number of modes: of one factor two, unless its signs are hardly told apart."""
    if not isinstance(model, MatrixFactorization) or model.num_factors != 1:
        return 0.0
    apart = _moved(potential, mode, {0: (0, 2.0)})
    return float(np.log(2.0)) if np.sum(np.square(factor.T @ apart)) > 1.0 else 0.0


def _settle(
    potential: Potential, mode: np.ndarray, hessian: np.ndarray, turns: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Newton steps with one Hessian; the mode, the Hessian's lower factor, and what is left."""
    # Along the turns the density is flat: a unit of curvature there makes the matrix regular.
    regular = hessian - turns @ (turns.T @ hessian)
    regular = regular - (regular @ turns) @ turns.T + turns @ turns.T
    regular = (regular + regular.T) / 2
    width = np.sqrt(np.maximum(np.diag(regular), 1e-300))
    least = float("nan")
    if np.all(np.isfinite(regular)):
        shape = regular / np.outer(width, width)
        least = float(scipy.linalg.eigvalsh(shape, subset_by_index=[0, 0])[0])
    if not (least > FLAT and np.all(np.diag(regular) > 0)):
        raise ValueError(
            "The Hessian is not positive definite where the search ended (least eigenvalue of its "
            f"correlation {least:.2g}): the density has no isolated highest point there, and no "
            "normal distribution fits it. Give unknowns that the data do not tell apart narrower "
            "priors, integrate effects out (marginalize='all'), or use fit_svi or a sampler."
        )
    factor = np.linalg.cholesky(regular)
    value, gradient = _score(potential, mode)
    step = scipy.linalg.cho_solve((factor, True), gradient)
    decrement = 0.5 * float(gradient @ step)
    for _ in range(NEWTON_STEPS):
        trial, slope = _score(potential, mode - step)
        if decrement < 1e-12 or not trial <= value:
            break
        mode, value, gradient = mode - step, trial, slope
        step = scipy.linalg.cho_solve((factor, True), gradient)
        decrement = 0.5 * float(gradient @ step)
    return mode, factor, decrement


def _draw(
    key: Array, mode: np.ndarray, factor: np.ndarray, turns: np.ndarray, num: int
) -> tuple[Float[np.ndarray, "draw d"], Float[np.ndarray, " draw"]]:
    """Draws, and their log density under the normal distribution up to a constant."""
    rng = as_generator(key)
    noise = rng.standard_normal((len(mode), num))
    moves = scipy.linalg.solve_triangular(factor, noise, lower=True, trans=1)
    moves = moves - turns @ (turns.T @ moves)
    return mode + moves.T, -0.5 * np.sum(np.square(noise), axis=0)


def _weigh(potential: Potential, vectors: np.ndarray, log_normal: np.ndarray) -> dict[str, float]:
    if not weigh(np.zeros(len(vectors)), vectors.shape[1]):
        return {}
    dtype = potential.vector.dtype
    log_joint = [float(potential.value(jnp.asarray(vector, dtype))) for vector in vectors]
    ratios = np.nan_to_num(np.asarray(log_joint), nan=-np.inf) - log_normal
    return weigh(ratios, vectors.shape[1])
