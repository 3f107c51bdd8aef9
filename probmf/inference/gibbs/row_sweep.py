"""Gibbs sweeps of a factorization: users, items, then everything else."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from probmf.inference.gibbs.chains import Contents, Gathered
from probmf.inference.gibbs.plan import GibbsConstants, GibbsState, Plan
from probmf.inference.gibbs.updates import (
    make_ready,
    own_scales,
    pair_scores,
    update,
)
from probmf.rows.placement import RowShards
from probmf.rows.store import SIDES, Side
from probmf.rows.sweep import Layout, half_sweep
from probmf.rows.values import Prior, RowSums

#: What a Normal-Wishart prior adds for a side.
PARTS = ("mean", "precision")


class CodedPairs(NamedTuple):
    """Pairs by code; a pytree."""

    user: Int[Array, " n"]
    item: Int[Array, " n"]


class RowChain(NamedTuple):
    """All that a chain needs, besides where it stands; an engine of `run_gibbs`.

    Attributes:
        plan: What is drawn.
        given: Priors.
        layout: The ratings by row.
        free: For each side, 1 for coordinates that are drawn.
        probes: Pairs whose scores are noted at every sweep.
        watched: Pairs whose expected ratings are averaged over all sweeps.
        contents: What is kept of a state.
    """

    plan: Plan
    given: GibbsConstants
    layout: Layout
    free: dict[Side, Array]
    probes: CodedPairs
    watched: CodedPairs
    contents: Contents

    @property
    def num_watched(self) -> int:
        """Watched pairs."""
        return len(self.watched.user)

    @property
    def num_threads(self) -> int:
        """Threads that the layout is cut for."""
        return self.layout.workers

    @property
    def side_by_side(self) -> bool:
        """False where a sweep takes several devices."""
        return not isinstance(self.layout, RowShards)

    def sweep(
        self, key: Array, state: GibbsState, hold: bool, pool: ThreadPoolExecutor
    ) -> tuple[GibbsState, Array]:
        """Users, items, then everything else."""
        plan = self.plan
        keys = _keys(key, state.sweep)
        ready = make_ready(plan, self.given, state)
        result: RowSums | None = None
        for side, own_key in zip(SIDES, keys, strict=False):
            prior = Prior(
                state.intercept, own_scales(plan.likelihood, state.scales), ready.precision[side],
                self.free[side], ready.gram[side], ready.shift[side], ready.pull[side],
            )  # fmt: skip
            table, result = half_sweep(
                self.layout, side, state.table, prior, likelihood=plan.likelihood,
                method="cholesky", cg_steps=1, pool=pool, key=own_key,
            )  # fmt: skip
            state = state._replace(table=table)
        return update(plan, self.given, keys[2], state, result, jnp.asarray(hold))

    def observe(
        self, state: GibbsState, log_joint: Array, gathered: Gathered
    ) -> tuple[Array, Array, Gathered]:
        """One sweep's numbers in a row, its rows, and the moments with that sweep."""
        return _observe(self.plan, self.probes, self.watched, state, gathered, log_joint)


def contents_of(
    plan: Plan,
    probes: CodedPairs,
    rows: dict[str, tuple[int, ...]],
    shapes: dict[str, tuple[int, ...]],
) -> Contents:
    """Part of a state that is kept as a draw."""
    traces: dict[str, tuple[int, ...]] = {"lp": (), "intercept": ()}
    traces |= {name: shapes[name] for name in _traced(plan, shapes)}
    return Contents(rows, traces | {"probe_score": probes.user.shape})


@jax.jit
def _keys(key: Array, sweep: Array) -> tuple[Array, Array, Array]:
    first, second, third = jax.random.split(jax.random.fold_in(key, sweep), 3)
    return first, second, third


@partial(jax.jit, static_argnames="plan")
def _observe(
    plan: Plan,
    probes: CodedPairs,
    watched: CodedPairs,
    state: GibbsState,
    gathered: Gathered,
    log_joint: Array,
) -> tuple[Array, Array, Gathered]:
    moments = gathered.watched
    if watched.user.size:
        scores = pair_scores(state, *watched)
        own = own_scales(plan.likelihood, state.scales)
        moments = moments.add(plan.likelihood.mean(scores, own))
    parts = [log_joint, state.intercept]
    parts += [jnp.ravel(state.scales[name]) for name in _traced(plan, state.scales)]
    parts.append(pair_scores(state, *probes))
    # Joined before the moments read them: joining in their loops takes twice as long.
    rows = jax.lax.optimization_barrier(
        jnp.concatenate([jnp.ravel(plan.values(site, state.table)) for site in plan.sites])
    )
    trace = jnp.concatenate([jnp.atleast_1d(part) for part in parts])
    return trace, rows, Gathered(moments, gathered.rows.add(rows))


def _traced(plan: Plan, scales: Mapping[str, Any]) -> list[str]:
    """Names of what is sampled besides rows and intercept."""
    drawn = {f"{s.side}_{part}" for s in plan.sites if s.kind == "wishart" for part in PARTS}
    drawn |= {*plan.random, *plan.weights}
    return [name for name in sorted(scales) if name in drawn]
