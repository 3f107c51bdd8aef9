"""Maximum a posteriori by alternating least squares."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from os import PathLike
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probmf.data import Ratings, as_key
from probmf.inference.point.cutpoints import CutpointStep
from probmf.inference.point.feature_weights import (
    Regression,
    center_rows,
    regressions,
    solve,
    to_weights,
)
from probmf.inference.starts import (
    initial_parameters,
    prepare_validation,
    row_identity,
    warn_of_heavy_weights,
)
from probmf.models.factorization import MatrixFactorization
from probmf.models.observations import Observations
from probmf.models.parameter_table import ParameterTable
from probmf.models.row_means import RowMean, prior_means
from probmf.results import RatingsFit
from probmf.rows.placement import Devices, RowShards, row_mesh, spans_processes
from probmf.rows.store import OTHER, SIDES, Side, num_workers, shift_weak_zeros
from probmf.rows.sweep import Method, by_loops, half_sweep, lay_out, zero_moments
from probmf.rows.values import Prior, Rows, RowSums
from probmf.run.checkpoint import open_checkpoint
from probmf.run.checks import check_counts, check_tol, require
from probmf.run.estimate import Info, estimate, warn_unconverged
from probmf.settings import own_settings

#: Tables of all rows that a fit holds: measured, 7 with loops and 9 with XLA's programs.
NUM_TABLES = 6
#: The share of the objective by which a sweep must lower it, where none is given.
TOL = 1e-5


def fit_als(
    model: MatrixFactorization,
    data: Ratings,
    *,
    key: ArrayLike,
    num_sweeps: int = 30,
    tol: float | None = None,
    update: Literal["block", "coordinate"] = "block",
    solver: Literal["cg", "cholesky"] = "cg",
    cg_steps: int = 3,
    validation: Ratings | None = None,
    patience: int = 3,
    start: RatingsFit | None = None,
    devices: Devices | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool | None = None,
) -> RatingsFit:
    r"""Fit by solving for all users' rows, then all items' rows, and so on.

    Each row's bias and factors solve, jointly and given the other side,

    .. math:: (A + \sum_n w_n z_n z_n^\top)\, x = A m + \sum_n w_n z_n t_n .

    For Bernoulli and Ordinal likelihoods the weights and targets are those of a quadratic bound at
    the present scores (Jaakkola and Jordan 2000), so that the objective never rises there either.
    Learned cutpoints take a Newton step after each sweep, shortened where it would raise it. With
    `user_mean=Linear()` the weights follow each half-sweep, by the ridge regression of the rows on
    their features.

    Args:
        model: The factorization; its scales must be numbers or arrays.
        data: Training ratings.
        key: JAX key or int that draws the starting values.
        num_sweeps: The most sweeps (one solves both sides once).
        tol: Stop when a sweep lowers the objective by less than this share; 0 never stops. None
            is 1e-5, without a warning if the sweeps end before: as a rule the last of them change
            the predictions little (`history.stopped` says how the run ended).
        update: "block" solves a row jointly, "coordinate" one coordinate after another.
        solver: For blocks: "cg" takes a few warm-started conjugate-gradient steps and is
            fastest; "cholesky" is exact. Both have the same optimum.
        cg_steps: Conjugate-gradient steps per row and sweep.
        validation: Held-out ratings; stops when their error has not improved for `patience`
            sweeps and keeps the best sweep.
        patience: See `validation`.
        start: A fit of the same model shape to start from, instead of random values.
        devices: Devices to deal the rows out to: a number of them, JAX devices, or a
            `jax.sharding.Mesh` with an axis 'row'; None computes on one. See `docs/devices.md`.
        checkpoint: Directory to keep the run in. Called again with the same model, data, settings
            and key, it goes on where it was, bit for bit; with other versions of the packages it
            refuses to.
        progress: Show a progress bar; None shows it on a terminal or in a notebook.

    Returns:
        The fit, with its history of objective and held-out error.

    Raises:
        TypeError: If model, data or devices are of the wrong type.
        ValueError: If the data do not suit the model, an argument is out of range, there are
            not so many devices, or the checkpoint holds another run or can't be written; if
            processes that share the fit have different models, data, settings or keys.
        ConnectionError: If another of these processes has ended.

    Warns:
        FitWarning: If `num_sweeps` were over before a `tol` that was given, or the weights beside
            `unobserved_weight` have a heavy tail (their largest hundredth holds more than a tenth
            of all weight). After Ctrl-C, or when the disk of the checkpoint is full.

    Example:
        >>> from probmf import MatrixFactorization, Ratings, fit_als
        >>> ratings = Ratings.from_frame(
        ...     {"user": [1, 1, 2, 2, 3], "item": [1, 2, 1, 3, 2], "rating": [5, 3, 4, 2, 3]}
        ... )
        >>> fit = fit_als(MatrixFactorization(num_factors=1), ratings, key=0)
        >>> bool(fit.history.objective[-1] <= fit.history.objective[0])
        True

    References:
        Zhou, Wilkinson, Schreiber and Pan (2008); Hu, Koren and Volinsky (2008), equation 4;
        Pilaszy, Zibriczky and Tikk (2010).

    Cost: a sweep reads O(n k) numbers per conjugate-gradient step; with Cholesky it takes
    O(n k^2 + (M + N) k^3).
    """
    if update not in ("block", "coordinate"):
        raise ValueError(f"update is {update!r}; expected 'block' or 'coordinate'.")
    if solver not in ("cg", "cholesky"):
        raise ValueError(f"solver is {solver!r}; expected 'cg' or 'cholesky'.")
    require("fit_als", model)
    check_counts(num_sweeps=num_sweeps, cg_steps=cg_steps, patience=patience)
    asked, tol = tol, TOL if tol is None else tol
    check_tol(tol)
    mesh = None if devices is None else row_mesh(devices)
    with own_settings():
        random_key = as_key(key)
        method: Method = "coordinate" if update == "coordinate" else solver
        (observations,) = model.arguments(data)
        warn_of_heavy_weights(model, data, stacklevel=3)
        shared = spans_processes(mesh)
        held_out = prepare_validation(model, data, validation)
        first = initial_parameters(model, observations, start)
        with ThreadPoolExecutor(num_workers()) as pool:
            algorithm = AlternatingLeastSquares(
                model, observations, first, method, cg_steps, pool, mesh
            )
            settings = (num_sweeps, tol, method, cg_steps, patience, by_loops(algorithm.layout))
            store = open_checkpoint(
                checkpoint,
                lambda: row_identity(model, observations, start, held_out, settings, random_key),
                shared=shared,
            )
            best, history = estimate(
                algorithm, key=random_key, num_steps=num_sweeps, tol=tol, validation=held_out,
                patience=patience, progress=progress, checkpoint=store, shared=shared,
            )  # fmt: skip
        warn_unconverged(history, asked, "objective")
        return RatingsFit.from_point(model, data, best, history=history, method=f"als/{method}")


class ALSState(NamedTuple):
    """State of a fit.

    Attributes:
        table: Rows of each side.
        intercept: The intercept.
        move: What to add to a learned intercept before the next sweep.
        own: Learned parameters of the likelihood.
        weights: Weights of the prior means.
        center: The prior means of the rows of the sides that have any.
    """

    table: Rows
    intercept: Float[Array, ""]
    move: Float[Array, ""]
    own: dict[str, Array]
    weights: dict[str, Array]
    center: dict[Side, Float[Array, "rows d"]]


class AlternatingLeastSquares:
    """The algorithm under `fit_als`, for `estimate`."""

    unit = "sweep"
    num_runs = 1

    def __init__(
        self,
        model: MatrixFactorization,
        observations: Observations,
        start: Callable[[Array], dict[str, Array]],
        method: Method,
        cg_steps: int,
        pool: ThreadPoolExecutor,
        mesh: Mesh | None = None,
    ) -> None:
        """Lay out the rows; see `fit_als` for the arguments."""
        self.model, self.start, self.pool = model, start, pool
        self.method, self.cg_steps = method, cg_steps
        self.packing = ParameterTable(model, observations.num_users, observations.num_items)
        self.constant = _weak_zero_constant(model, observations)
        store = observations.by_row(model.unobserved_weight)
        self.layout = lay_out(
            store,
            model.likelihood,
            method,
            num_columns=self.packing.num_columns,
            num_tables=NUM_TABLES,
            mesh=mesh,
        )
        self.scales = model.fixed_scales()
        self.means = model.row_means(observations.features)
        self.regressions = regressions(model, observations, "fit_als")
        self.cutpoint_step = None
        if model.likelihood.learned:
            self.cutpoint_step = CutpointStep(model.likelihood, observations)
        self.precision = {side: self.packing.precision(side) for side in SIDES}
        self.free = {side: self.packing.free(side) for side in SIDES}
        if isinstance(self.layout, RowShards):
            self.precision, self.free = self.layout.replicate((self.precision, self.free))
        self.zero_weight = None
        if model.unobserved_weight > 0:
            self.zero_weight = model.unobserved_weight / jnp.square(self.scales["noise_scale"])

    def init(self, key: Array) -> ALSState:
        """Small random factors and no biases; or the given start."""
        parameters = self.start(key)
        intercept = parameters["intercept"]
        own = {name: parameters[name] for name in self.model.learned_shapes}
        weights = {name: parameters[name] for mean in self.means.values() for name in mean.shapes}
        table = self.packing.pack(parameters)
        weights, center = self._regress(table, weights, solves=False)
        return ALSState(table, intercept, jnp.zeros_like(intercept), own, weights, center)

    def step(self, key: Array, state: ALSState) -> tuple[ALSState, list[Info]]:
        """Intercept, users, items, cutpoints. Deterministic: the key is not used."""
        intercept, own = state.intercept + state.move, state.own
        weights, center = state.weights, state.center
        table, _ = self._half("user", state.table, intercept, own, center)
        weights, center = self._regress(table, weights, solves=True)
        table, result = self._half("item", table, intercept, own, center)
        weights, center = self._regress(table, weights, solves=True)
        squares, zero_loss, slope, curvature = _finish(
            table, result, intercept, self.precision, self.free, self.zero_weight, center
        )
        move = jnp.zeros_like(intercept)
        objective = self.constant + float(zero_loss)
        if self.cutpoint_step is None:
            objective += float(np.sum(np.asarray(result.loss), dtype=np.float64))
        else:
            values = {"intercept": intercept, **self.packing.unpack(table), **own}
            own, loss = self.cutpoint_step(values)
            objective += loss
        for side in SIDES:
            objective += 0.5 * float(np.sum(np.asarray(squares[side]), dtype=np.float64))
        objective += sum(float(mean.loss(weights)) for mean in self.means.values())
        if self.model.learns_intercept:
            mean, precision = self.model.intercept_prior()
            objective += 0.5 * precision * float((intercept - mean) ** 2)
            move = (slope - precision * (intercept - mean)) / (curvature + precision)
        return ALSState(table, intercept, move, own, weights, center), [Info(objective)]

    def parameters(self, state: ALSState, run: int) -> dict[str, Array]:
        """The parameters by site name; there is one run."""
        rows = self.packing.unpack(state.table)
        return {"intercept": state.intercept, **rows, **state.own, **state.weights}

    def _regress(
        self, table: Rows, weights: dict[str, Array], *, solves: bool
    ) -> tuple[dict[str, Array], dict[Side, Array]]:
        """The weights of the prior means given the rows, and the means."""
        if not self.means:
            return weights, {}
        return _regress(
            table, weights, self.means, self.regressions, self.precision, solves,
            packing=self.packing,
        )  # fmt: skip

    def _half(
        self,
        side: Side,
        table: Rows,
        intercept: Array,
        own: dict[str, Array],
        center: dict[Side, Array],
    ) -> tuple[Rows, RowSums]:
        gram = gram_shift = None
        if self.zero_weight is not None:
            gram, gram_shift = zero_moments(*table[OTHER[side]], intercept, self.zero_weight)
        precision = self.precision[side]
        pull = precision * center[side] if side in center else None
        prior = Prior(
            intercept, self.scales | own, precision, self.free[side], gram, gram_shift, pull
        )
        return half_sweep(
            self.layout, side, table, prior, likelihood=self.model.likelihood.canonical(),
            method=self.method, cg_steps=self.cg_steps, pool=self.pool,
        )  # fmt: skip


def _weak_zero_constant(model: MatrixFactorization, observations: Observations) -> float:
    """Part of the objective that `shift_weak_zeros` leaves out."""
    if not model.unobserved_weight > 0:
        return 0.0
    rating = np.asarray(observations.rating, np.float64)
    weight = np.ones_like(rating)
    if observations.weight is not None:
        weight = np.asarray(observations.weight, np.float64)
    shifted, above = shift_weak_zeros(rating, weight, model.unobserved_weight)
    precision = float(model.fixed_scales()["noise_scale"]) ** -2
    return 0.5 * precision * float(np.sum(weight * rating**2 - above * shifted**2))


@partial(jax.jit, static_argnames="packing")
def _regress(
    table: Rows,
    weights: dict[str, Array],
    means: dict[Side, RowMean],
    found: dict[str, Regression],
    precision: dict[Side, Array],
    solves: Array,
    *,
    packing: ParameterTable,
) -> tuple[dict[str, Array], dict[Side, Array]]:
    """Weights given the rows, unless they are to stay, and the prior means that they give."""
    turned, rows = {}, packing.unpack(table)
    for site, regression in found.items():
        side: Side = "user" if site.startswith("user") else "item"
        values = rows[site].reshape(len(rows[site]), -1)
        # A scale of each row's own is in the regression's row weights; else all rows have one.
        first = precision[side][0, 0 if site.endswith("bias") else 1]
        first = first / regression.row_weight[0]
        turned[site] = solve(regression, values, jnp.broadcast_to(first, values.shape[1:]))
    solved = to_weights(turned, found, means)
    weights = jax.tree.map(lambda new, old: jnp.where(solves, new, old), solved, weights)
    return weights, center_rows(prior_means(means, weights), table)


@jax.jit
def _finish(
    table: Rows,
    result: RowSums,
    intercept: Array,
    precision: dict[Side, Array],
    free: dict[Side, Array],
    zero_weight: Array | None,
    center: dict[Side, Array],
) -> tuple[dict[Side, Array], Array, Array, Array]:
    """Prior squares by row, loss of the weak zeros, and slope and curvature of the intercept."""
    squares: dict[Side, Array] = {}
    for side, rows in table.items():
        values = rows.at(slice(None))
        apart = values - center[side] if side in center else values
        squares[side] = jnp.sum(precision[side] * jnp.square(apart) * free[side][None], axis=1)
    slope, curvature = jnp.sum(result.slope), jnp.sum(result.curvature)
    zero_loss = jnp.zeros_like(intercept)
    if zero_weight is not None:
        # All scores are products of (intercept + bias, 1, factors) and (1, bias, factors).
        bias = {side: rows.bias[:, None] for side, rows in table.items()}
        ones = jax.tree.map(jnp.ones_like, bias)
        users = jnp.concatenate(
            [intercept + bias["user"], ones["user"], table["user"].factors], axis=1
        )
        items = jnp.concatenate([ones["item"], bias["item"], table["item"].factors], axis=1)
        zero_loss = 0.5 * zero_weight * jnp.sum((users.T @ users) * (items.T @ items))
        slope = slope - zero_weight * jnp.dot(users.sum(axis=0), items.sum(axis=0))
        curvature = curvature + zero_weight * len(users) * len(items)
    return squares, zero_loss, slope, curvature
