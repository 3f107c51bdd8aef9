"""Half-sweeps: every row of one side, solved given the other side.

One program per bucket serves every worker; on a CPU each worker is a thread that runs its share
of the chunks. Losses that are quadratic in the score have loops of their own on a CPU, in
`probmf.rows.cpu`.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from probmf.backend import platform, uses_loops
from probmf.likelihoods import Likelihood
from probmf.memory import require_memory
from probmf.rows import conditionals
from probmf.rows.blocks import MAX_WIDTH, Bucket, RowBlocks, SideBlocks, Span, build_blocks
from probmf.rows.cpu import RowLists, solve_lists
from probmf.rows.placement import RowShards, deal_rows, map_rows, solve_shards
from probmf.rows.store import OTHER, SIDES, RowStore, Side, num_workers
from probmf.rows.values import Noise, Prior, RowResult, Rows, RowSums, RowValues
from probmf.settings import as_here

#: Share of the free memory that a fit may take: its estimate leaves little out.
SHARE = 0.9

Method = Literal["cg", "cholesky", "coordinate"]
Layout = RowBlocks | RowLists | RowShards


def lay_out(
    store: RowStore,
    likelihood: Likelihood,
    method: Method,
    *,
    num_columns: int,
    num_tables: int,
    workers: int | None = None,
    mesh: Mesh | None = None,
) -> Layout:
    """Ratings as the quickest way to solve their rows reads them.

    Args:
        store: The ratings.
        likelihood: Their likelihood.
        method: How rows are solved; see `half_sweep`.
        num_columns: Columns of factors of the tables of rows.
        num_tables: Tables of all rows that the method will hold at the same time, of which the
            memory is asked; measured, and rather too few than too many.
        workers: Threads that share a half-sweep; by default `num_workers()`.
        mesh: Devices that share it, instead of threads; see `probmf.rows.placement`.

    Returns:
        Shards for a mesh; lists for the loops of a CPU where the loss is quadratic in the score;
        else blocks.

    Raises:
        ValueError: If blocks and tables do not fit into the memory of a CPU.
    """
    workers = workers or num_workers()
    # XLA's programs take so many times as long as the loops, on two quiet cores. MovieLens-1M:
    # drawing 1.6, 1.2 and 1.2 at 16, 32 and 64 factors, Cholesky 1.6 and 1.2 at 16 and 64,
    # conjugate gradients 1.1. 874,000 ratings of 217,000 items, 8 factors: drawing 3.5, Cholesky
    # 3.4, conjugate gradients 0.9 (0.7 at 32). One choice serves all methods: besides,
    # the first fit of a process (10 sweeps of MovieLens-1M by conjugate gradients) takes 1.5 s with
    # the loops and 7 s with the programs, and the loops read opened files where they lie.
    loops = mesh is None and uses_loops() and likelihood.quadratic and method != "coordinate"
    require_room(store, (1 + num_columns) * num_tables, mesh, loops=loops)
    if mesh is not None:
        return deal_rows(store, mesh)
    return RowLists.of(store, workers) if loops else build_blocks(store, workers=workers)


def by_loops(layout: Layout) -> bool:
    """True where Numba's loops solve the rows, whose last digits are others than XLA's."""
    return isinstance(layout, RowLists)


def require_room(
    store: RowStore, width: int, mesh: Mesh | None = None, *, loops: bool = False
) -> None:
    """Refuse a fit whose layout and tables do not fit into the memory of a CPU.

    Args:
        store: The ratings.
        width: Numbers of each row in all tables.
        mesh: Devices that each have their share of the ratings, and all tables.
        loops: Whether the ratings are read where they are, and not copied into blocks.

    Raises:
        ValueError: If they don't fit.
    """
    if platform() != "cpu":
        return
    own = 1 if mesh is None else len(mesh.local_devices)
    share, width = 0.0 if loops else own / (1 if mesh is None else mesh.size), own * width
    number, rows = store.dtype.itemsize, [store.num_rows(side) for side in SIDES]
    slot = 4 + number * (1 if store.user.weight is None else 2)
    # Blocks hold every rating with its user and with its item.
    size = 2 * share * store.num_ratings * slot + sum(rows) * width * number
    opened = (
        " Gaussian ratings that were opened from files (Ratings.open) take no memory themselves, "
        'with the backend "auto" and without devices=.'
    )
    require_memory(
        size,
        f"A fit of {store.num_ratings:,} ratings of {rows[1]:,} items by {rows[0]:,} users, at "
        "the least,",
        "Lower num_factors or num_chains, compute in single precision, or leave out users and "
        "items of few ratings." + (opened if share else ""),
        share=SHARE,
    )  # fmt: skip


def half_sweep(
    layout: Layout,
    side: Side,
    table: Rows,
    prior: Prior,
    *,
    likelihood: Likelihood,
    method: Method,
    cg_steps: int,
    pool: ThreadPoolExecutor,
    key: Array | None = None,
) -> tuple[Rows, RowSums]:
    """Solve every row of one side, or draw it from its conditional.

    Args:
        layout: The ratings; see `lay_out`.
        side: Whose rows to solve.
        table: Parameters of both sides.
        prior: The side's prior.
        likelihood: Static and hashable; its scales are in `prior`.
        method: "cg", "cholesky" or "coordinate".
        cg_steps: Steps of "cg".
        pool: One thread per worker of the layout.
        key: Draws the rows instead of solving them (with "cholesky"), each by the key and its
            code alone; see `Noise`. The result's sums of slope and curvature are then those
            of the likelihood given its latent variables, and that of the loss is left out unless
            it is quadratic.

    Returns:
        The table with the side's rows replaced, and the sums of each of these (over all of them,
        of length one, where the layout is for a mesh).
    """
    own, other = table[side], table[OTHER[side]]
    if isinstance(layout, RowShards):
        given = {"own": own, "other": other, "prior": prior, "key": key}
        shards = layout.sides[side]
        rows, sums = solve_shards(
            _solve_bucket, layout.mesh, shards.buckets, shards.source, given,
            likelihood=likelihood, method=method, cg_steps=cg_steps,
        )  # fmt: skip
        return table | {side: rows}, sums
    if isinstance(layout, RowLists):
        steps = cg_steps if method == "cg" else None
        rows, sums = solve_lists(layout, side, own, other, prior, likelihood, steps, pool, key)
        return table | {side: rows}, sums
    run = partial(
        _bucket_program(platform()), own=own, other=other, prior=prior, likelihood=likelihood,
        method=method, cg_steps=cg_steps, key=key,
    )  # fmt: skip
    outputs = run_spans(run, layout.sides[side], pool)
    rows, sums = _split(join_rows(outputs, layout.sides[side].source))
    return table | {side: rows}, sums


@jax.jit
def _split(result: RowResult) -> tuple[RowValues, RowSums]:
    return RowValues(result.value[:, 0], result.value[:, 1:]), result.sums


def by_row(
    program: Any, layout: RowBlocks | RowShards, side: Side, pool: ThreadPoolExecutor, **given: Any
) -> Any:
    """Results of a program for every row of one side.

    Args:
        program: Compiled; called with (bucket, first chunk, number of chunks, capacity=...,
            **given). Returns a pytree of arrays with one entry for each line of `capacity` chunks.
        layout: The ratings.
        side: The side.
        pool: One thread per worker of the layout.
        given: Arrays that the program wants.

    Returns:
        The results by code.
    """
    if isinstance(layout, RowShards):
        shards = layout.sides[side]
        return map_rows(program, layout.mesh, shards.buckets, shards.source, given)
    blocks = layout.sides[side]
    return join_rows(run_spans(partial(program, **given), blocks, pool), blocks.source)


def run_spans(run: Any, blocks: SideBlocks, pool: ThreadPoolExecutor) -> list[Any]:
    """Run a program on all rows of one side, each worker on its share.

    Args:
        run: Called with (bucket, first chunk, number of chunks, capacity=...); returns a pytree of
            arrays with one entry for each line of `capacity` chunks.
        blocks: The side's ratings.
        pool: One thread per worker of the blocks.

    Returns:
        The outputs in the order that the blocks' `source` counts in; see `join_rows`.
    """

    def work(worker: int) -> list[Any]:
        spans = blocks.spans[worker]
        # Each worker starts at another bucket, so that on the first call they compile
        # different programs at the same time.
        shift = worker * len(spans) // len(blocks.spans)
        results: list[Any] = [None] * len(spans)
        for span in spans[shift:] + spans[:shift]:
            results[span.bucket] = _run_span(run, blocks, span)
        return jax.block_until_ready(results)

    parts = list(pool.map(as_here(work), range(len(blocks.spans))))
    return [result for part in parts for result in part]


def _run_span(run: Any, blocks: SideBlocks, span: Span) -> Any:
    bucket, capacity = blocks.buckets[span.bucket], blocks.capacity[span.bucket]
    return run(bucket, span.first, span.num_chunks, capacity=capacity)


@jax.jit
def join_rows[Result](outputs: list[Result], source: Int[Array, " rows"]) -> Result:
    """Results of `run_spans` by row."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[source], *outputs)


@cache
def _bucket_program(backend: str) -> Any:
    """The compiled form of `_solve_bucket`.

    On a CPU LLVM's level 2 compiles in two thirds of level 3's time, and the loops over short
    rows run up to a third faster (measured at 16 to 128 factors).
    """
    faster = backend == "cpu" and not jax.config.read("jax_disable_most_optimizations")
    return jax.jit(
        _solve_bucket,
        static_argnames=("likelihood", "method", "cg_steps", "capacity"),
        compiler_options={"xla_backend_optimization_level": 2} if faster else None,
    )


def _solve_bucket(
    bucket: Bucket,
    start: int,
    count: int,
    *,
    own: RowValues,
    other: RowValues,
    prior: Prior,
    likelihood: Likelihood,
    method: Method,
    cg_steps: int,
    capacity: int,
    key: Array | None = None,
) -> RowResult:
    """Chunks `start..start+count-1` of a bucket; results of further chunks are zero."""
    lines, width = bucket.partner.shape[1:]
    solve = _solve_chunk if width <= MAX_WIDTH else _solve_long_rows
    dtype, size = own.factors.dtype, 1 + own.factors.shape[1]
    empty = jnp.zeros((capacity, lines), dtype)
    start_out = RowResult(jnp.zeros((capacity, lines, size), dtype), RowSums(*[empty] * 3))

    # Measured at 16 and 64 factors: with Cholesky a sweep takes a quarter less when the rows' own
    # values are gathered for all chunks at once, with conjugate gradients a tenth more.
    at_once = method == "cholesky"
    rows = bucket.row[start + jnp.arange(capacity)] if at_once else bucket.row[:0]
    gathered = own.at(rows), prior.precision[rows]
    noise = None if key is None else Noise.of(key, rows, prior.precision)
    gathered_pull = None if prior.pull is None else prior.pull[rows]

    def body(i: int, out: RowResult) -> RowResult:
        chunk = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, start + i, 0, False), bucket)
        if at_once:
            x, precision = gathered[0][i], gathered[1][i]
            pull = None if gathered_pull is None else gathered_pull[i]
        else:
            x, precision = own.at(chunk.row), prior.precision[chunk.row]
            pull = None if prior.pull is None else prior.pull[chunk.row]
        here = prior._replace(precision=precision, pull=pull)
        random = None if noise is None else Noise(noise.rows[i], noise.keys[i])
        result = solve(chunk, x, other, here, likelihood, method, cg_steps, random)
        return jax.tree.map(
            lambda whole, x: lax.dynamic_update_index_in_dim(whole, x, i, 0), out, result
        )

    out = lax.fori_loop(0, count, body, start_out)
    return jax.tree.map(lambda x: x.reshape((capacity * lines, *x.shape[2:])), out)


def _solve_chunk(
    chunk: Bucket,
    x: Float[Array, "r d"],
    other: RowValues,
    prior: Prior,
    likelihood: Likelihood,
    method: Method,
    cg_steps: int,
    noise: Noise | None = None,
) -> RowResult:
    slots = _Slots.read(chunk, other, prior)
    scores = slots.offset + conditionals.project(slots.design, x)
    curvature, slope = slots.quadratic(likelihood, scores, prior, noise)
    first = conditionals.collect(slots.design, slope)
    batch = conditionals.RowBatch(
        design=slots.design,
        curvature=curvature,
        rhs=_gradient(first, x, prior),
        precision=prior.precision,
        free=prior.free,
        gram=prior.gram,
    )
    if noise is not None:
        step, curved = conditionals.draw_step(batch, noise.rows)
        loss = jnp.zeros(x.shape[0], x.dtype)
        if likelihood.quadratic:
            loss = slots.loss(likelihood, scores, prior)
        total = jnp.sum(curvature, axis=1)
        return _moved(x, step, loss, first, curved, total, quadratic=likelihood.quadratic)
    if method == "cg":
        step, change = conditionals.cg_step(batch, cg_steps)
    elif method == "coordinate":
        step, change = conditionals.coordinate_step(batch)
    else:
        step = conditionals.exact_step(batch)
        change = conditionals.project(slots.design, step)
    return RowResult(x + step, slots.sums(likelihood, scores + change, prior))


def _moved(
    x: Array,
    step: Array,
    loss: Array,
    first: Array,
    curved: Array,
    total: Array,
    *,
    quadratic: bool,
) -> RowResult:
    r"""Rows after a step, and their sums: a quadratic's move with it, the latent variables staying.

    With the sums :math:`g = \sum e z` and :math:`M = \sum w z z^\top`, the loss changes by
    :math:`-g \cdot \delta + \delta \cdot M \delta / 2` and g by :math:`-M \delta`.
    """
    if quadratic:
        loss = loss + jnp.sum(step * (0.5 * curved - first), axis=1)
    return RowResult(x + step, RowSums(loss, first[:, 0] - curved[:, 0], total))


def _solve_long_rows(
    chunk: Bucket,
    x: Float[Array, "r d"],
    other: RowValues,
    prior: Prior,
    likelihood: Likelihood,
    method: Method,
    cg_steps: int,
    noise: Noise | None = None,
) -> RowResult:
    """Rows longer than MAX_WIDTH: their moments are summed over the pieces that are not empty."""
    pieces = (jnp.max(chunk.length) + MAX_WIDTH - 1) // MAX_WIDTH

    def piece(index: int) -> "_Slots":
        def cut(a: Array) -> Array:
            return lax.dynamic_slice_in_dim(a, index * MAX_WIDTH, MAX_WIDTH, axis=1)

        weight = None if chunk.weight is None else cut(chunk.weight)
        rest = chunk.length - index * MAX_WIDTH
        part = Bucket(chunk.row, rest, cut(chunk.partner), cut(chunk.rating), weight)
        return _Slots.read(part, other, prior)

    def moments(index: int, total: tuple) -> tuple:
        slots = piece(index)
        scores = slots.offset + conditionals.project(slots.design, x)
        curvature, slope = slots.quadratic(likelihood, scores, prior, noise, index)
        second = conditionals.second_moments(slots.design, curvature)
        loss = jnp.zeros(x.shape[0], x.dtype)
        if noise is not None and likelihood.quadratic:
            loss = slots.loss(likelihood, scores, prior)
        here = (second, conditionals.collect(slots.design, slope), loss)
        return jax.tree.map(jnp.add, total, here)

    empty = jnp.zeros(x.shape[0], x.dtype)
    start = (jnp.zeros((*x.shape, x.shape[1]), x.dtype), jnp.zeros_like(x), empty)
    data_second, first, loss = lax.fori_loop(0, pieces, moments, start)
    second = data_second if prior.gram is None else data_second + prior.gram[None]
    rhs = _gradient(first, x, prior)
    precision = conditionals.mask_precision(second, prior.precision, prior.free)
    if noise is not None:
        step = conditionals.cholesky_step(precision, rhs, noise.rows * prior.free[None])
        curved, total = jnp.einsum("rde,re->rd", data_second, step), data_second[:, 0, 0]
        return _moved(x, step, loss, first, curved, total, quadratic=likelihood.quadratic)
    if method == "cg":
        step = conditionals.cg_step_dense(precision, rhs, cg_steps)
    elif method == "coordinate":
        step = conditionals.coordinate_step_dense(precision, rhs)
    else:
        step = conditionals.cholesky_step(precision, rhs)
    x = x + step

    def sums(index: int, total: RowSums) -> RowSums:
        slots = piece(index)
        scores = slots.offset + conditionals.project(slots.design, x)
        return jax.tree.map(jnp.add, total, slots.sums(likelihood, scores, prior))

    return RowResult(x, lax.fori_loop(0, pieces, sums, RowSums(empty, empty, empty)))


@jax.jit
def zero_moments(
    bias: Float[Array, " rows"],
    factors: Float[Array, "rows k"],
    intercept: Float[Array, ""],
    weight: Float[Array, ""],
) -> tuple[Float[Array, "d d"], Float[Array, " d"]]:
    """Terms that weak zeros at all of one side's rows add to the other side's conditionals.

    Args:
        bias: Biases of the side.
        factors: Its factors.
        intercept: The intercept.
        weight: Weight of a zero, in units of the precision.

    Returns:
        `gram` and `gram_shift` of a `Prior`.
    """
    design = jnp.concatenate([jnp.ones_like(bias)[:, None], factors], axis=1)
    return weight * design.T @ design, weight * design.T @ (intercept + bias)


class _Slots(NamedTuple):
    """The ratings of a chunk, gathered.

    Attributes:
        design: Factors of each slot's partner.
        offset: Intercept plus the partner's bias.
        rating: The rating.
        weight: Weight of the rating, 0 in empty slots.
    """

    design: Float[Array, "r w k"]
    offset: Float[Array, "r w"]
    rating: Float[Array, "r w"]
    weight: Float[Array, "r w"]

    @classmethod
    def read(cls, chunk: Bucket, other: RowValues, prior: Prior) -> "_Slots":
        offset = prior.intercept + other.bias[chunk.partner]
        weight = chunk.weights(other.bias.dtype)
        return cls(other.factors[chunk.partner], offset, chunk.rating, weight)

    def bound(self, likelihood: Likelihood, scores: Array, prior: Prior) -> tuple[Array, Array]:
        """Weighted curvature and minus slope of the bound at the scores."""
        curvature, slope = likelihood.bound(scores, self.rating, prior.scales)
        return self.weight * curvature, self.weight * slope

    def quadratic(
        self,
        likelihood: Likelihood,
        scores: Array,
        prior: Prior,
        noise: Noise | None,
        piece: int | Array = 0,
    ) -> tuple[Array, Array]:
        """The bound, or with noise the loss given a draw of the latent variables."""
        if noise is None:
            return self.bound(likelihood, scores, prior)
        keys = jax.vmap(jax.random.fold_in, (0, None))(noise.keys, piece)
        augment = jax.vmap(likelihood.augment, (0, 0, 0, None))
        curvature, slope = augment(keys, scores, self.rating, prior.scales)
        return self.weight * curvature, self.weight * slope

    def loss(self, likelihood: Likelihood, scores: Array, prior: Prior) -> Array:
        """Loss summed over each row."""
        return jnp.sum(self.weight * likelihood.loss(scores, self.rating, prior.scales), axis=1)

    def sums(self, likelihood: Likelihood, scores: Array, prior: Prior) -> RowSums:
        """Loss, slope and curvature summed over each row."""
        curvature, slope = self.bound(likelihood, scores, prior)
        loss = self.loss(likelihood, scores, prior)
        return RowSums(loss, jnp.sum(slope, axis=1), jnp.sum(curvature, axis=1))


def _gradient(from_ratings: Array, x: Array, prior: Prior) -> Array:
    gradient = from_ratings - prior.precision * x
    if prior.pull is not None:
        gradient = gradient + prior.pull
    if prior.gram is not None and prior.gram_shift is not None:
        gradient = gradient - x @ prior.gram - prior.gram_shift[None]
    return gradient * prior.free[None]
