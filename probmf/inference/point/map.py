"""Maximum a posteriori by gradients."""

from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from typing import Any, Literal, NamedTuple, Required, TypedDict, Unpack, overload

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array

from probmf.data import Examples, Ratings, as_key
from probmf.inference.point.descent import Descent, Objective
from probmf.inference.point.full_batch import FullBatchObjective
from probmf.inference.point.minibatch import MinibatchObjective
from probmf.inference.point.network_objective import NetworkObjective
from probmf.inference.point.optimizer import (
    Rule,
    Schedule,
    choose_rule,
    describe_rule,
    network_rule,
    rating_rule,
)
from probmf.inference.point.ranking_objective import LOSSES, RankingObjective, UserItemPairs
from probmf.inference.point.validation import NetworkValidation
from probmf.inference.starts import (
    initial_parameters,
    network_start,
    prepare_ranking_validation,
    prepare_validation,
    warn_of_heavy_weights,
)
from probmf.likelihoods import Gaussian
from probmf.models import MatrixFactorization, Network
from probmf.models.observations import Observations
from probmf.results import NetworkFit, RatingsFit
from probmf.results.recommend import RANKING
from probmf.rows.placement import Devices, row_mesh, spans_processes
from probmf.rows.store import num_workers
from probmf.run.checkpoint import PACKAGES, open_checkpoint
from probmf.run.checks import check_counts, check_tol, require
from probmf.run.estimate import HeldOutStop, estimate, warn_unconverged
from probmf.run.fingerprint import fingerprint
from probmf.settings import own_settings

#: What is lowered; all but the first are of `LOSSES`.
type MapObjective = Literal["likelihood", "bpr", "warp"]
#: Tolerance of the convergence test of full batches.
FULL_BATCH_TOL = 1e-6


class _MapOptions(TypedDict, total=False):
    """Options of both families; for type checkers."""

    num_epochs: Required[int]
    objective: MapObjective
    optimizer: optax.GradientTransformation | str | None
    learning_rate: float | Schedule | None
    batch_size: int | None
    num_restarts: int
    validation: Any
    patience: int
    tol: float | None
    start: Any
    devices: Devices | None
    checkpoint: str | PathLike[str] | None
    progress: bool | None


@overload
def fit_map(
    model: MatrixFactorization, data: Ratings, *, key: ArrayLike, **options: Unpack[_MapOptions]
) -> RatingsFit: ...
@overload
def fit_map(
    model: Network, data: Examples, *, key: ArrayLike, **options: Unpack[_MapOptions]
) -> NetworkFit: ...
def fit_map(
    model: MatrixFactorization | Network,
    data: Any,
    *,
    key: ArrayLike,
    num_epochs: int,
    objective: MapObjective = "likelihood",
    optimizer: optax.GradientTransformation | str | None = None,
    learning_rate: float | Schedule | None = None,
    batch_size: int | None = None,
    num_restarts: int = 1,
    validation: Any = None,
    patience: int = 3,
    tol: float | None = None,
    start: Any = None,
    devices: Devices | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool | None = None,
) -> RatingsFit | NetworkFit:
    r"""Fit by gradient descent: full batches, minibatches, or one rating at a time.

    Lowers minus the log posterior,

    .. math::
        J = \sum_{mn} w_{mn}\, \ell(r_{mn}, \eta_{mn}) + \sum_{rows\ i} \frac{|x_i|^2}{2 s_i^2}
          = \sum_{mn} \Big[ w_{mn}\, \ell(r_{mn}, \eta_{mn})
          + \frac{|x_m|^2}{2 s_m^2 n_m} + \frac{|x_n|^2}{2 s_n^2 n_n} \Big] ,

    where a row's prior is spread over its :math:`n_i` ratings. A batch's gradient is that of the
    bracket summed over its ratings: over an epoch the batches' gradients sum to that of J, so n /
    batch_size times a random batch's gradient is unbiased; and only rows in the batch have one.

    For a network the rows are the weights, and every example carries an equal share of their prior.

    For pairs that occurred or did not, such as plays and purchases, two objectives rank instead of
    predicting: in place of the loss of a rating stands that of a pair whose rating is above zero
    against items j that the user has no such pair with, drawn anew for each update (a pair of
    weight 0 is neither),

    .. math::
        \text{bpr: } -\log \sigma(s_{ui} - s_{uj}) , \qquad
        \text{warp: } \sum_{k=1}^{r} \tfrac1k \, \max(0, 1 - s_{ui} + s_{uj}) ,

    with the positive's rank r as estimated from the number of draws until one violates the margin.
    The likelihood, the intercept and users' biases have no part in it. Scores order the items of a
    user and are no ratings: take `recommend` without intervals.

    Args:
        model: The factorization or network; its scales must be numbers or arrays.
        data: Training `Ratings`, or `Examples` for a network.
        key: JAX key or int that draws starting values and the order of the ratings.
        num_epochs: The most passes over the ratings; with full batches, the most updates.
        objective: "likelihood", the log posterior; or "bpr" or "warp", which need a batch size.
        optimizer: Any optax optimizer, or "sgd", "momentum", "rmsprop", "adagrad" or "adam" at the
            given learning rate. It is given the gradient of J, or the batch's part of it,
            by site name. One that leaves rows alone whose gradient is zero (gradient descent,
            AdaGrad, clipping, any schedule) is run on the rows of the batch only, with the same
            result; others (momentum, Adam) update all rows for every batch. By default AdaGrad
            for minibatches and Adam for full batches; for networks always Adam.
        learning_rate: Number or optax schedule (of updates) for the default optimizer, or the one
            named. By default it falls linearly from 0.5 to 0 for minibatches, and is 0.1 for full
            batches; for networks from 0.01 to 0, and 0.05.
        batch_size: Ratings per update: None takes all, 1 is single-rating descent.
        num_restarts: Random starts, run as one vectorized program; the best is kept.
        validation: Held-out ratings; a restart stops when their error (of an objective that
            ranks, one less the nDCG of lists of ten items) has not improved for `patience` epochs,
            and the best epoch of all restarts is kept. Without them, that of the lowest objective.
        patience: See `validation`.
        tol: A restart stops when an epoch changes the objective by less than this share; 0 never
            stops. By default 1e-6 for full batches, 0 for minibatches.
        start: A fit of the same model shape to start from, instead of random values.
        devices: Of a factorization, devices to share the work; see `fit_als`. Full batches deal
            the rows out. Of a minibatch each device takes a part, and all have all ratings, so that
            it pays for large ones only.
        checkpoint: Directory to keep the run in. Called again with the same model, data, settings
            and key, it goes on where it was, bit for bit; with another version of probmf, JAX,
            NumPyro or optax it refuses to.
        progress: Show a progress bar; None shows it on a terminal or in a notebook.

    Returns:
        The fit. Its history has the objective (and held-out error) after every epoch of the best
        restart, and the objectives of all.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the data do not suit the model, an argument is out of range, there are not
            so many devices, or the checkpoint holds another run or can't be written.

    Warns:
        FitWarning: If the loss ceases to be finite, with the update and its learning rate; that
            restart ends, and its best epoch so far counts. After Ctrl-C, or when the disk of the
            checkpoint is full. If `num_epochs` were over before a `tol` that was given, or the
            weights beside `unobserved_weight` have a heavy tail, as in `fit_als`.

    Example:
        >>> from probmf import MatrixFactorization, Ratings, fit_map
        >>> ratings = Ratings.from_frame(
        ...     {"user": ["a", "a", "b", "b"], "item": [1, 2, 1, 3], "rating": [5, 3, 4, 2]}
        ... )
        >>> model = MatrixFactorization(num_factors=1)
        >>> fit = fit_map(model, ratings, key=0, num_epochs=20, batch_size=2)
        >>> len(fit.history)
        20

    References:
        Robbins and Monro (1951); Koren, Bell and Volinsky (2009), Matrix factorization techniques
        for recommender systems; Duchi, Hazan and Singer (2011) for AdaGrad; Rendle et al. (2009)
        for BPR; Weston, Bengio and Usunier (2011) for WARP.

    Cost: an epoch of n ratings O(n k), and O((M + N) k) per update where all rows are updated.
    """
    require("fit_map", model)
    check_counts(num_epochs=num_epochs, num_restarts=num_restarts, patience=patience)
    if batch_size is not None:
        check_counts(batch_size=batch_size)
    mesh = None if devices is None else row_mesh(devices)
    if mesh is not None and not isinstance(model, MatrixFactorization):
        raise ValueError(
            "devices is for factorizations, and the model is a "
            f"{type(model).__name__}; leave it out."
        )
    shared = spans_processes(mesh)
    full_batch = batch_size is None
    asked, tol = tol, (FULL_BATCH_TOL if full_batch else 0.0) if tol is None else tol
    check_tol(tol)
    with own_settings():
        random_key = as_key(key)
        if start is not None and num_restarts > 1:
            raise ValueError(
                f"num_restarts is {num_restarts}, but start fixes where to start: the restarts "
                "would be the same. Leave out one of the two."
            )
        task = _task(model, data, start, validation, batch_size, objective)
        num_updates = 1 if batch_size is None else -(-task.num_rows // batch_size)
        updates = num_epochs * num_updates
        rule = choose_rule(optimizer, learning_rate, task.default(full_batch, updates))

        def identify() -> str:
            first = task.start(jax.random.clone(random_key))
            return fingerprint(
                task.told, task.held_out, first, random_key, num_workers(),
                (num_epochs, batch_size, num_restarts, patience, tol),
                describe_rule(rule, first, updates),
            )  # fmt: skip

        store = open_checkpoint(
            checkpoint, identify, packages=(*PACKAGES, "optax"), shared=shared
        )  # fmt: skip
        descent = Descent(
            *task.objective(rule.optimizer, mesh), task.start, rule, num_runs=num_restarts,
            num_updates=num_updates, batch_size=batch_size,
        )  # fmt: skip
        best, history = estimate(
            descent, key=random_key, num_steps=num_epochs, tol=tol, validation=task.held_out,
            patience=patience, progress=progress, checkpoint=store, shared=shared,
        )  # fmt: skip
        warn_unconverged(history, asked, "objective")
        return task.fit(model, data, best, history=history, method=_method(batch_size, objective))


class _Task(NamedTuple):
    """Parts that the fit of one family of models needs.

    Attributes:
        num_rows: Number of ratings or examples.
        held_out: Validation to stop by, or None.
        start: Starting values by key.
        default: The default rule by (full batch, number of updates).
        objective: The objective and its data, for an optimizer and devices.
        fit: Makes the result.
        told: The model and its data, which a checkpoint is told apart by.
    """

    num_rows: int
    held_out: HeldOutStop | None
    start: Callable[[Array], dict[str, Array]]
    default: Callable[[bool, int], Rule]
    objective: Callable[[optax.GradientTransformation, Mesh | None], tuple[Objective, Any]]
    fit: Callable[..., Any]
    told: Any


def _task(
    model: Any, data: Any, start: Any, validation: Any, batch_size: int | None,
    objective: MapObjective,
) -> _Task:  # fmt: skip
    if objective == "likelihood":
        make = _factorization_task if isinstance(model, MatrixFactorization) else _network_task
        return make(model, data, start, validation, batch_size)
    if objective not in LOSSES:
        raise ValueError(
            f"objective is {objective!r}; expected one of "
            f"{', '.join(map(repr, ('likelihood', *LOSSES)))}."
        )
    if batch_size is None:
        raise ValueError(
            f"objective={objective!r} draws negatives anew for each update, and batch_size is "
            "None; give a size such as 1024."
        )
    if not isinstance(model, MatrixFactorization):
        raise ValueError(
            f"objective={objective!r} ranks items for users, and the model is a "
            f"{type(model).__name__}; use objective='likelihood'."
        )
    return _ranking_task(model, data, start, validation, batch_size, objective)


def _ranking_task(
    model: MatrixFactorization, data: Ratings, start: Any, validation: Any, batch_size: int,
    objective: MapObjective,
) -> _Task:  # fmt: skip
    model.check_data(data)
    _check_ranked(model, objective)
    held_out = prepare_ranking_validation(data, validation)
    counts = np.ones(len(data), bool) if data.weight is None else data.weight > 0
    occurred = data.rating > 0
    # A pair without weight says nothing: it is no positive, and no negative either.
    known = UserItemPairs(data.user[occurred | ~counts], data.item[occurred | ~counts])
    # Of a user who has every item there is nothing to compare with.
    has_other = np.bincount(known.user, minlength=data.num_users) < data.num_items
    kept = occurred & counts & has_other[data.user]
    if not kept.any():
        raise ValueError(
            f"objective={objective!r} takes pairs with a rating above zero for those that "
            "occurred, and there is none of a user who could have another item."
        )
    pairs = data.select(kept)
    base = Gaussian().base_score(pairs.rating, pairs.weight)
    observations = Observations.from_ratings(pairs, base, model.encode(pairs))
    _check_batch_size(batch_size, len(pairs), "pairs that occurred")

    def build(optimizer: optax.GradientTransformation, mesh: Mesh | None) -> tuple[Objective, Any]:
        loss = LOSSES[objective]
        return RankingObjective.build(model, observations, known, optimizer, loss, mesh)

    told = (replace(model, user_features=None, item_features=None), observations, known, objective)
    return _Task(
        len(pairs), held_out, initial_parameters(model, observations, start), rating_rule, build,
        RatingsFit.from_point, told,
    )  # fmt: skip


def _check_ranked(model: MatrixFactorization, objective: MapObjective) -> None:
    """Refuse what the comparison of two items of a user says nothing about."""
    for has, words in (
        (model.learns_intercept, "a learned intercept, which all scores of a user share; set "
         "intercept=None"),
        (bool(model.learned_shapes), f"{type(model.likelihood).__name__}, whose own parameters it "
         "tells nothing about; use Bernoulli()"),
        (model.unobserved_weight > 0, "unobserved_weight, and it draws unobserved pairs as "
         "negatives; leave it out"),
        (not model.num_factors and not model.item_bias, "neither factors nor item biases; give "
         "num_factors"),
    ):  # fmt: skip
        if has:
            raise ValueError(
                f"objective={objective!r} compares the scores of two items of a user, and the "
                f"model has {words}."
            )


def _factorization_task(
    model: Any, data: Any, start: Any, validation: Any, batch_size: int | None
) -> _Task:
    (observations,) = model.arguments(data)
    warn_of_heavy_weights(model, data, stacklevel=5)
    if not model.site_shapes(1, 1) and not model.learns_intercept:
        raise ValueError("fit_map needs something to fit; the model has a fixed intercept only.")
    _check_batch_size(batch_size, len(observations.user), "ratings")
    if batch_size is not None and model.unobserved_weight > 0:
        raise ValueError(
            f"unobserved_weight is {model.unobserved_weight:g}: every pair counts, rated or not, "
            "which minibatches of ratings cannot do. Use batch_size=None, or fit_als."
        )

    def objective(
        optimizer: optax.GradientTransformation, mesh: Mesh | None
    ) -> tuple[Objective, Any]:
        if batch_size is None:
            return FullBatchObjective.build(model, observations, mesh)
        return MinibatchObjective.build(model, observations, optimizer, mesh)

    # Features are among the observations, encoded.
    told = (replace(model, user_features=None, item_features=None), observations)
    return _Task(
        len(observations.user), prepare_validation(model, data, validation),
        initial_parameters(model, observations, start), rating_rule, objective,
        RatingsFit.from_point, told,
    )  # fmt: skip


def _network_task(
    model: Any, data: Any, start: Any, validation: Any, batch_size: int | None
) -> _Task:
    (arrays,) = model.arguments(data)
    model.layers.check_trainable()
    _check_batch_size(batch_size, arrays.num_rows, "examples")
    first = network_start(model, arrays, start)
    held_out = None if validation is None else NetworkValidation.build(model, data, validation)
    return _Task(
        arrays.num_rows, held_out, first, network_rule,
        lambda *_: NetworkObjective.build(model, arrays), NetworkFit.from_point, (model, arrays),
    )  # fmt: skip


def _check_batch_size(batch_size: int | None, count: int, what: str) -> None:
    if batch_size is not None and batch_size > count:
        raise ValueError(
            f"batch_size is {batch_size}, but there are {count} {what}; give at most that "
            "many, or batch_size=None for full batches."
        )


def _method(batch_size: int | None, objective: MapObjective) -> str:
    if objective != "likelihood":
        return f"{RANKING}{objective}"
    if batch_size is None:
        return "map/full-batch"
    return "map/single-rating" if batch_size == 1 else "map/minibatch"
