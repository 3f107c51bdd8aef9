"""The posterior of a factorization by Gibbs sampling: every row from its exact conditional."""

import hashlib
import time
import warnings
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.typing import ArrayLike
from jaxtyping import Array

from probmf.data import Ratings
from probmf.inference._checkpoint import Checkpoint
from probmf.inference._gibbs import (
    GibbsChains,
    GibbsSettings,
    Moments,
    Pairs,
    Problem,
    run_gibbs,
)
from probmf.inference._gibbs_start import start_scales, start_states
from probmf.inference._gibbs_update import Given, Plan, Rated
from probmf.inference._identity import described
from probmf.inference._loop import FitWarning
from probmf.inference._regression import regressions
from probmf.inference._start import as_key, check_counts, check_warmup
from probmf.models.factorization import MatrixFactorization
from probmf.models.likelihood import Gaussian
from probmf.models.observations import Observations
from probmf.models.priors import NormalWishart
from probmf.models.table import Table
from probmf.results import Fit, Sampling
from probmf.results.asked import read_pairs
from probmf.results.traces import Traces, Watched
from probmf.rows import SIDES, build_rows, num_workers

#: Pairs whose scores are noted at every sweep, half of them rated.
PROBES = 64
#: Draws of the rows that are kept by default, of all chains.
KEPT = 200
#: Bytes that kept draws may take by default, if they are more than so many.
KEPT_BYTES = 1 << 28
#: Share of the machine's memory that kept draws may take.
MEMORY_SHARE = 0.5


def sample_gibbs(
    model: MatrixFactorization,
    data: Ratings,
    *,
    key: ArrayLike,
    num_warmup: int = 200,
    num_samples: int = 400,
    num_chains: int = 2,
    thin: int | None = None,
    watch: Any = None,
    start: Fit | None = None,
    float64: bool = False,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool | None = None,
) -> Fit:
    r"""Sample a factorization's posterior, one side's rows after the other's.

    Given the items, every user's row (bias and factors jointly) is Gaussian,
    :math:`N(\Lambda^{-1} h, \Lambda^{-1})`, and is drawn exactly; then the items' given the users;
    then intercept, scales and cutpoints from their conditionals, and with `user_mean=Linear()` its
    weights from theirs, the regression of the rows on their features. Yes/no and ordinal ratings
    become Gaussian given a latent variable (Polya-Gamma, or a truncated normal), drawn exactly too.
    Two more moves leave the scores as they are and help the chain along: a constant between
    intercept and biases, and a factor between the two sides.

    Rows are kept at every `thin`-th sweep only; scales, the scores of probe pairs and the averages
    of the watched pairs count every sweep (`fit.traces`).

    Args:
        model: The factorization. Scales may be numbers, arrays by row, NumPyro distributions
            (positive, of shape (), (rows,) or (1, num_factors)), or `NormalWishart`.
        data: The ratings.
        key: JAX key or int.
        num_warmup: Sweeps per chain that are thrown away first.
        num_samples: Sweeps per chain after them.
        num_chains: Chains; they run side by side on the cores.
        thin: Keep the rows of every `thin`-th sweep; None keeps about 200 draws of all chains.
        watch: Pairs (as for `Fit.predict`) whose expected ratings are averaged over all sweeps.
        start: A point fit of the same shape to start from; by default small random factors.
        float64: Compute in double precision, whatever JAX is set to elsewhere.
        checkpoint: Directory to keep the run in. Called again with the same model, data, settings,
            start and key, on as many cores, it goes on where it was, bit for bit.
        progress: Show a progress bar; None shows it on a terminal or in a notebook.

    Returns:
        The fit. After Ctrl-C, or when the disk of the checkpoint is full, what there is so far,
        marked incomplete.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model has no such conditionals, an argument is out of range, the
            checkpoint holds another run, or the draws to keep don't fit into memory.

    Example:
        >>> import numpyro.distributions as dist
        >>> from probmf import Gaussian, MatrixFactorization, Ratings
        >>> ratings = Ratings.from_frame(
        ...     {"user": [1, 1, 2, 2, 3], "item": [1, 2, 1, 3, 2], "rating": [5, 3, 4, 2, 3]}
        ... )
        >>> model = MatrixFactorization(1, Gaussian(dist.HalfNormal(1.0)))
        >>> fit = sample_gibbs(model, ratings, key=0, num_warmup=20, num_samples=40)
        >>> fit.samples["user_factors"].shape
        (2, 40, 3, 1)

    References:
        Salakhutdinov and Mnih (2008); Polson, Scott and Windle (2013); Albert and Chib (1993);
        Liu and Wu (1999) for the moves. A sweep costs O(n k^2 + (M + N) k^3).
    """
    begin = time.perf_counter()
    check_counts(num_samples=num_samples, num_chains=num_chains)
    if thin is not None:
        check_counts(thin=thin)
    check_warmup(num_warmup)
    _check_model(model)
    with jax.enable_x64(float64 or bool(jax.config.jax_enable_x64)):
        (observations,) = model.arguments(data)
        _check_data(model, observations)
        settings = _settings(model, data, num_warmup, num_samples, num_chains, thin)
        random_key = as_key(key)
        run_key, start_key, probe_key = jax.random.split(random_key, 3)
        watched = None if watch is None else _known_pairs(watch, data)
        problem = _problem(model, observations, num_chains, probe_key, watched)
        scales = start_scales(model, data, problem.plan)
        states = start_states(model, observations, scales, start_key, num_chains, start)
        store = None
        if checkpoint is not None:
            identity = _identity(model, data, settings, random_key, watched, start)
            store = Checkpoint(checkpoint, identity)
        chains = run_gibbs(
            problem, settings, run_key, states, checkpoint=store, progress=progress,
            note=_size_note(model, data, settings),
        )  # fmt: skip
    if not chains.complete:
        done = chains.traces["lp"].shape[1]
        warnings.warn(
            f"{chains.trouble or 'Interrupted'}: each chain has {done} of {num_samples} sweeps; "
            "the fit is marked incomplete.",
            FitWarning,
            stacklevel=2,
        )
    return _fit(model, data, settings, problem, chains, watched, time.perf_counter() - begin)


def _problem(
    model: MatrixFactorization,
    observations: Observations,
    num_chains: int,
    key: Array,
    watched: tuple[np.ndarray, np.ndarray] | None,
) -> Problem:
    users, items = observations.num_users, observations.num_items
    plan = Plan.of(model, users, items)
    packing = Table(model, users, items)
    weight = None if observations.weight is None else np.asarray(observations.weight, np.float64)
    layout = build_rows(
        np.asarray(observations.user), np.asarray(observations.item),
        np.asarray(observations.rating, np.float64), weight, num_users=users, num_items=items,
        workers=max(1, num_workers() // num_chains),
    )  # fmt: skip
    dtype = jnp.result_type(float)
    # Columns that only pad the factors must stay zero: drawn, they would be more factors.
    real = jnp.asarray(np.arange(1 + packing.num_columns) <= model.num_factors, dtype)
    own: dict[str, Any] = model.likelihood.scale_sites()
    laws = {
        name: own[name] if name in own else getattr(model, name)
        for name in plan.random if name != "cutpoints"
    }  # fmt: skip
    center, precision = model.intercept_prior()
    rated = None
    if not model.likelihood.quadratic and observations.rating is not None:
        prior_scale = own["cutpoints"].scale if plan.draws_cutpoints else 1.0
        rated = Rated(
            observations.user, observations.item + users, observations.rating,
            jnp.asarray(prior_scale, dtype),
        )  # fmt: skip
    given = Given(
        laws, (jnp.asarray(center, dtype), jnp.asarray(precision, dtype)),
        jnp.asarray(len(observations.user), dtype), rated,
        model.row_means(observations.features), regressions(model, observations, "sample_gibbs"),
    )  # fmt: skip
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).astype(np.uint64))
    seen = rng.integers(len(observations.user), size=PROBES // 2)
    probe_user = np.concatenate(
        [np.asarray(observations.user)[seen], rng.integers(users, size=PROBES // 2)]
    )
    probe_item = np.concatenate(
        [np.asarray(observations.item)[seen], rng.integers(items, size=PROBES // 2)]
    )
    none = np.zeros(0, int)
    return Problem(
        plan=plan,
        given=given,
        layout=layout,
        free={side: packing.free(side) * real for side in SIDES},
        probes=_pairs(probe_user, probe_item, users),
        watched=_pairs(*(watched or (none, none)), users),
    )


def _pairs(user: np.ndarray, item: np.ndarray, users: int) -> Pairs:
    return Pairs(jnp.asarray(user, jnp.int32), jnp.asarray(item + users, jnp.int32))


def _fit(
    model: MatrixFactorization,
    data: Ratings,
    settings: GibbsSettings,
    problem: Problem,
    chains: GibbsChains,
    watched: tuple[np.ndarray, np.ndarray] | None,
    seconds: float,
) -> Fit:
    num_kept = next(iter(chains.kept.values())).shape[1]
    at = settings.thin * np.arange(1, num_kept + 1) - 1
    samples: dict[str, Any] = dict(chains.kept)
    for name, value in chains.traces.items():
        if name not in ("lp", "probe_score"):
            samples[name] = value[:, at]
    averages = None
    if watched is not None:
        mean, sd = _pooled(chains.moments)
        averages = Watched(watched[0], watched[1], mean, sd)
    traces = Traces(
        chains.traces, np.asarray(problem.probes.user),
        np.asarray(problem.probes.item) - data.num_users, settings.thin, averages,
    )  # fmt: skip
    sampling = Sampling(
        stats={"lp": chains.traces["lp"][:, at]}, num_warmup=settings.num_warmup, seconds=seconds,
        complete=chains.complete,
        info={"num_sweeps": chains.traces["lp"].shape[1], "thin": settings.thin},
    )  # fmt: skip
    return Fit(model, data, samples, "gibbs", sampling=sampling, traces=traces)


def _pooled(moments: list[Moments]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd over the sweeps of all chains."""
    means = np.stack([np.asarray(part.mean, np.float64) for part in moments])
    counts = np.asarray([float(part.sweeps) for part in moments])[:, None]
    mean = (counts * means).sum(axis=0) / counts.sum()
    square = sum(np.asarray(part.square, np.float64) for part in moments)
    square = square + (counts * np.square(means - mean)).sum(axis=0)
    return mean, np.sqrt(square / counts.sum())


def _known_pairs(watch: Any, data: Ratings) -> tuple[np.ndarray, np.ndarray]:
    user, item = read_pairs(watch, data, user="user", item="item")
    for name, asked in (("user", user), ("item", item)):
        if (asked.codes < 0).any():
            row = int(np.argmax(asked.codes < 0))
            raise ValueError(
                f"watch has a {name} in row {row}, {asked.ids[row]!r}, that the data lack: only "
                f"pairs of known users and items can be watched."
            )
    return user.codes, item.codes


def _settings(
    model: MatrixFactorization, data: Ratings, warmup: int, samples: int, chains: int,
    thin: int | None,
) -> GibbsSettings:  # fmt: skip
    draw = _draw_bytes(model, data)
    if thin is None:
        thin = max(1, -(-samples * chains // max(KEPT, KEPT_BYTES // draw)))
    if thin > samples:
        raise ValueError(
            f"thin is {thin}, but there are {samples} sweeps after the warm-up: no draw of the "
            "rows would be kept. Lower thin or raise num_samples."
        )
    settings = GibbsSettings(int(warmup), int(samples), int(chains), int(thin))
    _check_memory(draw * chains * settings.num_kept, settings)
    return settings


def _draw_bytes(model: MatrixFactorization, data: Ratings) -> int:
    """Memory of one draw of all rows."""
    shapes = model.site_shapes(data.num_users, data.num_items).values()
    numbers = sum(int(np.prod(shape)) for shape in shapes)
    return numbers * jnp.dtype(jnp.result_type(float)).itemsize


def _size_note(model: MatrixFactorization, data: Ratings, settings: GibbsSettings) -> str:
    """What the run will keep, in words."""
    count = settings.num_chains * settings.num_kept
    return f"keeps {count:,} draws, {count * _draw_bytes(model, data) / 2**20:,.0f} MiB"


def _check_memory(size: int, settings: GibbsSettings) -> None:
    free = psutil.virtual_memory().available
    # Pieces and what they are joined to exist together for a moment.
    if 2 * size > MEMORY_SHARE * free:
        raise ValueError(
            f"{settings.num_chains} chains x {settings.num_kept} kept draws of all rows take "
            f"{size / 2**30:,.1f} GiB, twice that while they are joined, and {free / 2**30:,.1f} "
            "GiB are free. Raise thin, or lower num_samples, num_chains or num_factors."
        )


def _check_model(model: object) -> None:
    if not isinstance(model, MatrixFactorization):
        raise TypeError(f"model is of type {type(model).__name__}; expected MatrixFactorization.")
    if not model.site_shapes(1, 1):
        raise ValueError("sample_gibbs draws rows, and the model has neither factors nor biases.")
    if model.unobserved_weight > 0:
        raise ValueError(
            "unobserved_weight takes pairs that were not observed for data, which is no model of "
            "them that could be sampled. Sample negatives, or use fit_als."
        )
    own = model.likelihood.scale_sites()
    for name in model.random_scales():
        law: Any = own[name] if name in own else getattr(model, name)
        if isinstance(law, NormalWishart) or name == "cutpoints":
            continue
        side = name.split("_")[0]
        if law.batch_shape and law.batch_shape[0] > 1 and side in model.mean_sides:
            raise ValueError(
                f"{name} has a distribution for each row, and with {side}_mean sample_gibbs draws "
                "weights given scales that rows share, or that are fixed. Give one distribution "
                "for all rows, or an array, or use sample_nuts."
            )
        if law.event_shape:
            raise ValueError(
                f"{name} has event shape {law.event_shape}; sample_gibbs draws scales that are "
                "independent given the rows. Give a distribution with batch shapes only."
            )


def _check_data(model: MatrixFactorization, observations: Observations) -> None:
    if observations.weight is not None and not isinstance(model.likelihood, Gaussian):
        raise ValueError(
            "The ratings have weights, and with them a yes/no or ordinal likelihood is not "
            "Gaussian given a latent variable. Leave the weights out, or use sample_nuts."
        )


def _identity(
    model: MatrixFactorization,
    data: Ratings,
    settings: GibbsSettings,
    key: Array,
    watched: tuple[np.ndarray, np.ndarray] | None,
    start: Fit | None,
) -> str:
    """Everything that the draws depend on, besides the versions of the programs."""
    digest = hashlib.blake2b(digest_size=16)
    arrays = [data.user, data.item, data.rating, jax.random.key_data(key)]
    arrays += [] if data.weight is None else [data.weight]
    arrays += list(model.encode(data).values())
    arrays += [] if watched is None else list(watched)
    arrays += [] if start is None else [value for _, value in sorted(start.point().items())]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    text = [model.num_factors, model.intercept, model.likelihood, model.user_bias, model.item_bias]
    texts = [described(value) for value in text]
    texts += [f"{side}={getattr(model, f'{side}_mean')!r}" for side in model.mean_sides]
    for name in ("user_scale", "item_scale", "user_bias_scale", "item_bias_scale"):
        texts.append(f"{name}={described(getattr(model, name))}")
    dtype = jnp.result_type(float)
    return f"gibbs|{texts}|{settings}|{num_workers()}|{dtype}|{digest.hexdigest()}"
