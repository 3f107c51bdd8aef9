"""Maximum a posteriori by gradients."""

import optax
from jax.typing import ArrayLike

from probmf.data import Ratings
from probmf.inference._full_batch import FullBatch
from probmf.inference._loop import Algorithm, run
from probmf.inference._minibatch import Minibatch
from probmf.inference._optimizer import Schedule, choose_rule
from probmf.inference._start import (
    as_key,
    check_counts,
    check_tol,
    initial_parameters,
    prepare_validation,
    require_fixed_scales,
)
from probmf.models.factorization import MatrixFactorization
from probmf.results import Fit

#: Tolerance of the convergence test of full batches.
FULL_BATCH_TOL = 1e-6


def fit_map(
    model: MatrixFactorization,
    data: Ratings,
    *,
    key: ArrayLike,
    num_epochs: int,
    optimizer: optax.GradientTransformation | None = None,
    learning_rate: float | Schedule | None = None,
    batch_size: int | None = None,
    num_restarts: int = 1,
    validation: Ratings | None = None,
    patience: int = 3,
    tol: float | None = None,
    start: Fit | None = None,
    progress: bool | None = None,
) -> Fit:
    r"""Fit by gradient descent: full batches, minibatches, or one rating at a time.

    Lowers minus the log posterior,

    .. math::
        J = \sum_{mn} w_{mn}\, \ell(r_{mn}, \eta_{mn}) + \sum_{rows\ i} \frac{|x_i|^2}{2 s_i^2}
          = \sum_{mn} \Big[ w_{mn}\, \ell(r_{mn}, \eta_{mn})
          + \frac{|x_m|^2}{2 s_m^2 n_m} + \frac{|x_n|^2}{2 s_n^2 n_n} \Big] ,

    where a row's prior is spread over its :math:`n_i` ratings. A batch's gradient is that of the
    bracket summed over its ratings: over an epoch the batches' gradients sum to that of J, so n /
    batch_size times a random batch's gradient is unbiased; and only rows in the batch have one.

    Args:
        model: The factorization; its scales must be numbers or arrays.
        data: Training ratings.
        key: JAX key or int that draws starting values and the order of the ratings.
        num_epochs: The most passes over the ratings; with full batches, the most updates.
        optimizer: Any optax optimizer. It is given the gradient of J, or the batch's part of it,
            by site name. One that leaves rows alone whose gradient is zero (gradient descent,
            AdaGrad, clipping, any schedule) is run on the rows of the batch only, with the same
            result; others (momentum, Adam) update all rows for every batch. By default AdaGrad
            for minibatches and Adam for full batches.
        learning_rate: Number or optax schedule (of updates) for the default optimizer. By
            default it falls linearly from 0.5 to 0 for minibatches, and is 0.1 for full batches.
        batch_size: Ratings per update: None takes all, 1 is single-rating descent.
        num_restarts: Random starts, run as one vectorized program; the best is kept.
        validation: Held-out ratings; a restart stops when their error has not improved for
            `patience` epochs, and the best epoch of all restarts is kept. Without them, that of
            the lowest objective.
        patience: See `validation`.
        tol: A restart stops when an epoch changes the objective by less than this share; 0 never
            stops. By default 1e-6 for full batches, 0 for minibatches.
        start: A fit of the same model shape to start from, instead of random values.
        progress: Show a progress bar; None shows it on a terminal or in a notebook.

    Returns:
        The fit. Its history has the objective (and held-out error) after every epoch of the best
        restart, and the objectives of all.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the data do not suit the model, or an argument is out of range.

    Warns:
        FitWarning: If the loss ceases to be finite, with the update and its learning rate; that
            restart ends, and its best epoch so far counts.

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
        for recommender systems; Duchi, Hazan and Singer (2011) for AdaGrad. An epoch of n ratings
        costs O(n k), plus O((M + N) k) per update where all rows are updated.
    """
    if not isinstance(model, MatrixFactorization):
        raise TypeError(f"model is of type {type(model).__name__}; expected MatrixFactorization.")
    check_counts(num_epochs=num_epochs, num_restarts=num_restarts, patience=patience)
    if batch_size is not None:
        check_counts(batch_size=batch_size)
    full_batch = batch_size is None
    tol = (FULL_BATCH_TOL if full_batch else 0.0) if tol is None else tol
    check_tol(tol)
    random_key = as_key(key)
    (observations,) = model.arguments(data)
    require_fixed_scales(model, "fit_map")
    if not model.site_shapes(1, 1) and not model.learns_intercept:
        raise ValueError("fit_map needs something to fit; the model has a fixed intercept only.")
    if start is not None and num_restarts > 1:
        raise ValueError(
            f"num_restarts is {num_restarts}, but start fixes where to start: the restarts would "
            "be the same. Leave out one of the two."
        )
    num_ratings = len(observations.user)
    if batch_size is not None:
        _check_minibatch(model, batch_size, num_ratings)
    updates = num_epochs * (1 if batch_size is None else -(-num_ratings // batch_size))
    rule = choose_rule(optimizer, learning_rate, full_batch=full_batch, num_updates=updates)
    first = initial_parameters(model, observations, start)
    held_out = prepare_validation(model, data, validation)
    algorithm: Algorithm
    if batch_size is None:
        algorithm = FullBatch(model, observations, first, rule, num_restarts)
    else:
        algorithm = Minibatch(model, observations, first, rule, num_restarts, batch_size)
    best, history = run(
        algorithm, key=random_key, num_steps=num_epochs, tol=tol, validation=held_out,
        patience=patience, progress=progress,
    )  # fmt: skip
    return Fit.from_point(model, data, best, history=history, method=_method(batch_size))


def _check_minibatch(model: MatrixFactorization, batch_size: int, num_ratings: int) -> None:
    if batch_size > num_ratings:
        raise ValueError(
            f"batch_size is {batch_size}, but there are {num_ratings} ratings; give at most that "
            "many, or batch_size=None for full batches."
        )
    if model.unobserved_weight > 0:
        raise ValueError(
            f"unobserved_weight is {model.unobserved_weight:g}: every pair counts, rated or not, "
            "which minibatches of ratings cannot do. Use batch_size=None, or fit_als."
        )


def _method(batch_size: int | None) -> str:
    if batch_size is None:
        return "map/full-batch"
    return "map/single-rating" if batch_size == 1 else "map/minibatch"
