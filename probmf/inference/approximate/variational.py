"""Mean-field variational Bayes for factorizations, in closed form, with learned scales."""

import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array

from probmf.data import Ratings, as_key
from probmf.inference.approximate.row_covariances import (
    residual_sums,
    row_spread,
    sum_blocks,
    update_rows,
)
from probmf.inference.approximate.variational_start import (
    SWEEPS,
    by_factor,
    is_nothing,
    loosen,
    to_principal_axes,
)
from probmf.inference.approximate.variational_updates import (
    VariationalConstants,
    VariationalState,
    finish,
    linearize,
    prior_precision,
    scale_bounds,
    spread_of_rows,
    sum_partners,
    update_variances,
    with_partners,
)
from probmf.inference.gibbs.plan import Plan
from probmf.inference.gibbs.starting_points import start_scales, start_states
from probmf.inference.starts import prepare_validation, row_identity
from probmf.likelihoods import Gaussian
from probmf.memory import require_memory
from probmf.models.factorization import MatrixFactorization
from probmf.models.observations import Observations
from probmf.models.parameter_table import ParameterTable
from probmf.results import History, RatingsFit, Sampling
from probmf.rows.blocks import RowBlocks, build_blocks
from probmf.rows.cpu import RowLists
from probmf.rows.placement import Devices, RowShards, row_mesh, spans_processes
from probmf.rows.store import OTHER, SIDES, Side, num_workers
from probmf.rows.sweep import Layout, by_loops, half_sweep, lay_out
from probmf.rows.values import Prior, Rows, RowSums
from probmf.run.checkpoint import open_checkpoint
from probmf.run.checks import check_counts, check_tol, require
from probmf.run.driver import FitWarning
from probmf.run.estimate import ADVICE, Info, estimate, warn_unconverged
from probmf.settings import own_settings

#: Tables of all rows that a fit holds: means, variances and precisions, each present and new.
NUM_TABLES = 6
#: Prefix of the variances among the parameters.
VARIANCE = "variance of "
#: Name of the rows' covariances among them.
COVARIANCE = "covariance"

Covariance = Literal["diagonal", "block"]
ScalePer = Literal["factor", "side"]


def fit_variational(
    model: MatrixFactorization,
    data: Ratings,
    *,
    key: ArrayLike,
    covariance: Covariance = "diagonal",
    scale_per: ScalePer = "factor",
    num_sweeps: int = 500,
    tol: float = 1e-5,
    num_draws: int = 100,
    validation: Ratings | None = None,
    patience: int = 5,
    start: RatingsFit | None = None,
    devices: Devices | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool | None = None,
) -> RatingsFit:
    r"""Approximate the posterior by independent Normals, and learn the scales on the way.

    Under q every bias and every entry of every factor is Normal(m, v), independent of all others;
    with covariance="block" every row (bias and factors jointly) is Normal(m, S), independent of
    all other rows, with S the inverse of the row's whole precision. Each half-sweep gives all rows
    of a side the best means (jointly) and variances:

    .. math:: \Lambda = A + \sum_n w_n (m_n m_n^\top + \mathrm{diag}\, v_n), \quad
        m = \Lambda^{-1} \sum_n w_n m_n t_n, \quad v_j = 1 / \Lambda_{jj}

    with the moments of the other side's rows. After each sweep a learned intercept, and every scale
    that has a distribution in the model, are set to what maximizes the evidence's lower bound:
    empirical Bayes. Such a distribution counts by its support alone; its density is left out. No
    sweep lowers the bound. Yes/no ratings have a bound of Jaakkola and Jordan at
    :math:`\xi^2 = E \eta^2` (logit), or a latent normal (probit).

    Independent Normals are narrower than the posterior's margins, independent rows less so: for
    uncertainty that can be relied on see `sample_gibbs`.

    Args:
        model: The factorization. Scales may be numbers, arrays by row, or NumPyro distributions,
            of shape (), (rows,) or (1, num_factors), which are learned.
        data: Training ratings.
        key: JAX key or int, for the starting values and the draws.
        covariance: "diagonal" or "block". A block's bound is the tighter one; it takes the memory
            of (M + N) (k + 1)^2 numbers and, at 16 factors, three to four times as long.
        scale_per: A distribution of shape () for a side's factors is taken for that of the scale of
            each factor ("factor"; the fit's model and samples have shape (1, num_factors)), or of
            one scale for all of them ("side"). One scale has to fit factors that the data support
            and those that they do not: with more of them than the data support, all shrink away.
        num_sweeps: The most sweeps (one updates both sides once).
        tol: Stop when a sweep changes the bound by less than this share of it; 0 never stops.
        num_draws: Independent draws of q in the result; each takes the memory of all rows.
        validation: Held-out ratings; stops when the error of the means has not improved for
            `patience` sweeps and keeps the best sweep.
        patience: See `validation`.
        start: A point fit of the same model shape to start from, instead of a few sweeps of least
            squares with little regularization.
        devices: Devices to deal the rows out to; see `fit_als`.
        checkpoint: Directory to keep the run in. Called again with the same model, data, settings
            and key, it goes on where it was, bit for bit; with other versions of the packages it
            refuses to.
        progress: Show a progress bar; None shows it on a terminal or in a notebook.

    Returns:
        The fit: one chain of draws from q, learned scales and intercept repeated; its history's
        objective is minus the bound, and `sampling.info["elbo"]` the bound where it was kept.

    Raises:
        TypeError: If model, data or devices are of the wrong type.
        ValueError: If the model has no such updates, an argument is out of range, the blocks
            don't fit into memory, the numbers of the ratings and scales overflow, there are not
            so many devices, or the checkpoint holds another run or can't be written.

    Warns:
        FitWarning: If `num_sweeps` were over before the bound had converged, or all factors have
            shrunk to zero. After Ctrl-C, or when the disk of the checkpoint is full.

    Example:
        >>> import numpy as np, numpyro.distributions as dist
        >>> from probmf import Gaussian, MatrixFactorization, Ratings
        >>> user, item = np.divmod(np.arange(48), 6)
        >>> rating = 0.5 * (user - 3) * (item - 2) + np.sin(np.arange(48.0))
        >>> ratings = Ratings.from_frame({"user": user, "item": item, "rating": rating})
        >>> model = MatrixFactorization(1, Gaussian(dist.HalfNormal(1.0)))
        >>> fit = fit_variational(model, ratings, key=0)
        >>> fit.samples["user_factors"].shape
        (1, 100, 8, 1)

    References:
        Lim and Teh (2007), Variational Bayesian approach to movie rating prediction; Raiko, Ilin
        and Karhunen (2007) for variances of single entries; Jaakkola and Jordan (2000).

    Cost: a sweep O(n k^2 + (M + N) k^3), as of alternating least squares with Cholesky.
    """
    begin = time.perf_counter()
    check_counts(num_sweeps=num_sweeps, num_draws=num_draws, patience=patience)
    check_tol(tol)
    require("fit_variational", model)
    if covariance not in get_args(Covariance):
        raise ValueError(f"covariance is {covariance!r}; expected 'diagonal' or 'block'.")
    if scale_per not in get_args(ScalePer):
        raise ValueError(f"scale_per is {scale_per!r}; expected 'factor' or 'side'.")
    mesh = None if devices is None else row_mesh(devices)
    shared = spans_processes(mesh)
    if scale_per == "factor":
        model = by_factor(model)
    with own_settings():
        random_key = as_key(key)
        loop_key, start_key, draw_key = jax.random.split(random_key, 3)
        (observations,) = model.arguments(data)
        held_out = prepare_validation(model, data, validation)
        with ThreadPoolExecutor(num_workers()) as pool:
            algorithm = Variational(
                model, data, observations, start_key, start, pool, covariance, mesh
            )
            settings = (covariance, num_sweeps, tol, patience, by_loops(algorithm.layout))
            store = open_checkpoint(
                checkpoint,
                lambda: row_identity(model, observations, start, held_out, settings, random_key),
                shared=shared,
            )
            best, history = estimate(
                algorithm, key=loop_key, num_steps=num_sweeps, tol=tol, validation=held_out,
                patience=patience, progress=progress, checkpoint=store, shared=shared,
            )  # fmt: skip
        warn_unconverged(history, tol, "bound")
        if history.stopped in ("tol", "validation") and _all_shrunk(model, data, best):
            hint = " give each factor a scale of its own (scale_per='factor')," * (
                by_factor(model) is not model
            )
            warnings.warn(
                f"All factors ({model.num_factors}) have shrunk to zero, so the predictions are "
                "those of the biases alone. Either the ratings hold nothing more, and "
                "num_factors=0 says the same; or they are too few for this "
                f"approximation:{hint} try fewer factors, or "
                "sample_gibbs.",
                FitWarning,
                stacklevel=2,
            )
        seconds = time.perf_counter() - begin
        return _fit(model, data, best, history, draw_key, num_draws, seconds)


class Variational:
    """The algorithm under `fit_variational`, for `estimate`."""

    unit = "sweep"
    num_runs = 1

    def __init__(
        self,
        model: MatrixFactorization,
        data: Ratings,
        observations: Observations,
        key: Array,
        start: RatingsFit | None,
        pool: ThreadPoolExecutor,
        covariance: Covariance = "diagonal",
        mesh: Mesh | None = None,
    ) -> None:
        """Lay out the rows; see `fit_variational` for the arguments."""
        users, items = observations.num_users, observations.num_items
        self.model, self.pool = model, pool
        self.plan, self.packing = Plan.of(model), ParameterTable(model, users, items)
        dtype = jnp.result_type(float)
        store = observations.by_row()
        self.layout = lay_out(
            store,
            model.likelihood,
            "cholesky",
            num_columns=self.packing.num_columns,
            num_tables=NUM_TABLES,
            mesh=mesh,
        )
        self.blocks = build_blocks(store) if isinstance(self.layout, RowLists) else self.layout
        # Columns that only pad the factors must have neither mean nor variance.
        real = jnp.asarray(np.arange(1 + self.packing.num_columns) <= model.num_factors, dtype)
        self.free = {side: self.packing.free(side) * real for side in SIDES}
        own: dict[str, Any] = model.likelihood.scale_sites()
        laws = {n: own[n] if n in own else getattr(model, n) for n in self.plan.random}
        scales = start_scales(model, data, self.plan)
        if start is None:
            scales = loosen(model.likelihood, self.plan, scales)
        bounds = {name: scale_bounds(law, scales[name]) for name, law in laws.items()}
        scales |= {name: jnp.clip(scales[name], *ends) for name, ends in bounds.items()}
        chain = start_states(model, observations, scales, key, 1, start)[0]
        nothing = jax.tree.map(jnp.zeros_like, chain.table)
        self.start = VariationalState(chain.table, nothing, chain.intercept, scales)
        if covariance == "block":
            width = 1 + self.packing.num_columns
            require_memory(
                4.0 * (users + items) * width**2 * jnp.dtype(dtype).itemsize
                * (1 if mesh is None else len(mesh.local_devices)),
                f"A covariance for each of {users + items:,} rows", "Use covariance='diagonal'.",
            )  # fmt: skip
            volume = {side: rows.bias for side, rows in nothing.items()}
            blocks = {
                side: jnp.zeros((*size.shape, width, width), dtype)
                for side, size in volume.items()
            }  # fmt: skip
            self.start = self.start._replace(covariance=blocks, volume=volume)
        counted = np.ones(len(observations.user))
        if observations.weight is not None:
            counted = np.asarray(observations.weight, np.float64)
        center, precision = model.intercept_prior()
        self.given = VariationalConstants(
            (jnp.asarray(center, dtype), jnp.asarray(precision, dtype)),
            jnp.asarray(len(counted), dtype),
            bounds,
        )
        self.num_ratings = len(counted)
        self.constant = 0.0
        if model.likelihood.quadratic:
            self.constant += 0.5 * float(np.sum(np.log(counted / (2.0 * np.pi))))
        if precision > 0:
            self.constant += 0.5 * float(np.log(precision / (2.0 * np.pi)))
        self.sweeps_before = SWEEPS if start is None and model.num_factors else 0

    def init(self, key: Array) -> VariationalState:
        """The start: means, and variances of zero, which the first sweep replaces."""
        state = self.start
        for _ in range(self.sweeps_before):
            state = self._least_squares(state)
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(state.mean)):
            raise ValueError(
                f"The least squares that fit_variational starts from overflow. {ADVICE['sweep']}"
            )
        mean, found = to_principal_axes(self.plan, state.mean, state.scales)
        scales = {name: jnp.clip(x, *self.given.bounds[name]) for name, x in found.items()}
        return state._replace(mean=mean, scales=state.scales | scales)

    def _least_squares(self, state: VariationalState) -> VariationalState:
        """A sweep of the means alone: variances stay zero, intercept and scales as they are."""
        likelihood, layout = self.model.likelihood, self.layout
        noise_scale = state.scales.get("noise_scale", jnp.ones_like(state.intercept))
        if not likelihood.quadratic:
            layout, _ = linearize(self.blocks, likelihood, state)
        prior = prior_precision(self.plan, state)
        for side in SIDES:
            mean, _ = self._solve(side, layout, state, prior[side], noise_scale)
            state = state._replace(mean=mean)
        return state

    def _solve(
        self,
        side: Side,
        layout: Layout,
        state: VariationalState,
        precision: Array,
        noise_scale: Array,
    ) -> tuple[Rows, RowSums]:
        """The means of a side under a diagonal precision."""
        rows = Prior(
            state.intercept, {"noise_scale": noise_scale}, precision, self.free[side], None, None
        )
        return half_sweep(
            layout, side, state.mean, rows, likelihood=Gaussian(), method="cholesky", cg_steps=1,
            pool=self.pool,
        )  # fmt: skip

    def step(self, key: Array, state: VariationalState) -> tuple[VariationalState, list[Info]]:
        """Users, items, intercept, scales. Deterministic: the key is not used."""
        likelihood, constant = self.model.likelihood, self.constant
        layout, blocks = self.layout, self.blocks
        noise_scale = state.scales.get("noise_scale", jnp.ones_like(state.intercept))
        if not likelihood.quadratic:
            blocks, sums = linearize(blocks, likelihood, state)
            layout = blocks
            constant += float(sum(np.sum(np.asarray(x), dtype=np.float64) for x in sums))
        prior = prior_precision(self.plan, state)
        if state.covariance is None or state.volume is None:
            state, result, spread = self._diagonal(state, layout, blocks, prior, noise_scale)
        else:
            state, result, spread = self._blocks(state, blocks, prior, noise_scale)
        state, parts = finish(self.plan, self.given, state, result, spread, noise_scale)
        elbo = constant - float(parts.loss) + float(parts.intercept)
        for side in SIDES:
            elbo += float(np.sum(np.asarray(parts.rows[side]), dtype=np.float64))
        if "noise_scale" in state.scales:
            elbo -= self.num_ratings * float(np.log(float(state.scales["noise_scale"])))
        return state, [Info(-elbo)]

    def _diagonal(
        self,
        state: VariationalState,
        layout: Layout,
        blocks: RowBlocks | RowShards,
        prior: dict[Side, Array],
        noise_scale: Array,
    ) -> tuple[VariationalState, RowSums, Array]:
        """Both sides' means and variances; the items' losses, and spreads of their scores."""
        for side in SIDES:
            other = OTHER[side]
            moments = sum_partners(
                blocks, side, state.mean[other], state.variance[other], self.pool
            )
            total = with_partners(prior[side], moments, noise_scale)
            mean, result = self._solve(side, layout, state, total, noise_scale)
            own = update_variances(total, moments, self.free[side], noise_scale)
            state = state._replace(mean=mean, variance=state.variance | {side: own})
        return state, result, spread_of_rows(mean[side], own, moments)

    def _blocks(
        self,
        state: VariationalState,
        blocks: RowBlocks | RowShards,
        prior: dict[Side, Array],
        noise_scale: Array,
    ) -> tuple[VariationalState, RowSums, Array]:
        """The same with a covariance for each row."""
        parts = [part or {} for part in (state.covariance, state.volume)]
        for side in SIDES:
            other, intercept = state.mean[OTHER[side]], state.intercept
            covariance = parts[0][OTHER[side]]
            sums = sum_blocks(blocks, side, other, covariance, intercept, self.pool)
            rows = update_rows(state.mean[side], sums, prior[side], self.free[side], noise_scale)
            parts = [parts[0] | {side: rows.covariance}, parts[1] | {side: rows.volume}]
            state = VariationalState(
                state.mean | {side: rows.mean}, state.variance | {side: rows.variance}, intercept,
                state.scales, *parts,
            )  # fmt: skip
        result = residual_sums(blocks, side, rows.mean, other, intercept, noise_scale, self.pool)
        return state, result, row_spread(rows.mean, rows.covariance, sums)

    def parameters(self, state: VariationalState, run: int) -> dict[str, Array]:
        """Means by site name, variances, and learned scales; there is one run."""
        variances = self.packing.unpack(state.variance)
        blocks = state.covariance or {}
        return {
            **{f"{COVARIANCE} of {side}": value for side, value in blocks.items()},
            "intercept": state.intercept,
            **self.packing.unpack(state.mean),
            **{VARIANCE + site: value for site, value in variances.items()},
            **{name: state.scales[name] for name in self.plan.random},
        }


def _fit(
    model: MatrixFactorization,
    data: Ratings,
    parameters: dict[str, Array],
    history: History,
    key: Array,
    num_draws: int,
    seconds: float,
) -> RatingsFit:
    """Draws of q as a fit."""
    sites = list(model.site_shapes(data.num_users, data.num_items))
    is_block = f"{COVARIANCE} of user" in parameters
    if is_block:
        moves = _block_moves(parameters, sites, key, num_draws)
    else:
        moves = {}
        for site, own in zip(sites, jax.random.split(key, max(len(sites), 1)), strict=False):
            variance = parameters[VARIANCE + site]
            noise = jax.random.normal(own, (num_draws, *variance.shape), variance.dtype)
            moves[site] = np.asarray(jnp.sqrt(variance)[None] * noise)
    samples = {site: (np.asarray(parameters[site])[None] + moves[site])[None] for site in sites}
    for name in ("intercept", *model.random_scales()):
        samples[name] = np.repeat(np.asarray(parameters[name])[None, None], num_draws, axis=1)
    elbo = -float(history.objective[history.best - 1]) if history.best else float("nan")
    kind = "rows" if is_block else "numbers"
    info: dict[str, Any] = {
        "approximation": f"independent {kind}",
        "elbo": elbo,
        "stopped": history.stopped,
    }
    sampling = Sampling(
        stats={}, num_warmup=0, seconds=seconds, complete=history.stopped != "interrupted",
        info=info,
    )  # fmt: skip
    return RatingsFit(model, data, samples, "variational", history, sampling)


def _block_moves(
    parameters: dict[str, Array], sites: list[str], key: Array, num_draws: int
) -> dict[str, np.ndarray]:
    """Draws of whole rows about their means, by site."""
    moves = {}
    for side, own_key in zip(SIDES, jax.random.split(key), strict=True):
        covariance = parameters[f"{COVARIANCE} of {side}"]
        # Coordinates that are not estimated have no variance, and get no factor.
        fixed = jnp.diagonal(covariance, axis1=1, axis2=2) <= 0
        identity = jnp.eye(covariance.shape[1], dtype=covariance.dtype)
        regular = covariance + identity[None] * fixed[:, None, :]
        root = jnp.where(fixed[:, :, None], 0.0, jnp.linalg.cholesky(regular))
        noise = jax.random.normal(own_key, (num_draws, *covariance.shape[:2]), covariance.dtype)
        rows = np.asarray(jnp.einsum("rde,sre->srd", root, noise))
        for site in (site for site in sites if site.startswith(side)):
            shape = parameters[site].shape
            moves[site] = rows[:, :, 0] if len(shape) == 1 else rows[:, :, 1 : 1 + shape[1]]
    return moves


def _all_shrunk(model: MatrixFactorization, data: Ratings, parameters: dict[str, Array]) -> bool:
    """True where no factor is left of those that the model has."""
    if not model.num_factors:
        return False
    factors = [np.asarray(parameters[f"{side}_factors"]) for side in SIDES]
    products = np.einsum("nk,nk->n", factors[0][data.user], factors[1][data.item])
    noise = parameters.get("noise_scale", model.likelihood.scale_sites().get("noise_scale", 1.0))
    return is_nothing(products, float(noise))
