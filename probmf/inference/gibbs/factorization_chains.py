"""Gibbs sampling of a factorization: its problem, its checks, and its fit."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from probmf.data import Ratings
from probmf.data.keys import as_generator
from probmf.inference.gibbs.chains import GibbsChains, GibbsSettings, RunningMoments
from probmf.inference.gibbs.job import Job, row_moments, sampling_of
from probmf.inference.gibbs.plan import GibbsConstants, Plan, RatedPairs
from probmf.inference.gibbs.row_sweep import CodedPairs, RowChain, contents_of
from probmf.inference.gibbs.starting_points import start_scales, start_states
from probmf.inference.point.feature_weights import regressions
from probmf.inference.starts import row_identity
from probmf.models.factorization import MatrixFactorization
from probmf.models.observations import Observations
from probmf.models.parameter_table import ParameterTable
from probmf.results import RatingsFit
from probmf.results.asked import read_pairs
from probmf.results.records import Traces, Watched
from probmf.rows.placement import RowShards
from probmf.rows.store import SIDES, num_workers
from probmf.rows.sweep import by_loops, lay_out
from probmf.run.draw_stream import stream_sites

#: Pairs whose scores are noted at every sweep, half of them rated.
PROBES = 64
#: Tables of all rows that a chain holds, with its moments: measured, 13.
TABLES_OF_CHAIN = 11


def factorization_job(
    model: MatrixFactorization,
    data: Ratings,
    key: Array,
    start_key: Array,
    probe_key: Array,
    num_chains: int,
    watch: Any,
    start: RatingsFit | None,
    mesh: Mesh | None = None,
) -> Job:
    """All that a run needs to know of a factorization and its ratings.

    `start_key` is for random starts and `probe_key` chooses the probes, both made of `key`. `watch`
    are pairs whose expected ratings are averaged.
    """
    (observations,) = model.arguments(data)
    _check_data(model, observations)
    watched = None if watch is None else _known_pairs(watch, data)
    scales = start_scales(model, data, Plan.of(model))
    problem = make_problem(model, observations, scales, num_chains, probe_key, watched, mesh)

    def finish(settings: GibbsSettings, chains: GibbsChains, info: dict[str, Any]) -> RatingsFit:
        return _fit(model, data, settings, problem, chains, watched, info)

    return Job(
        engine=problem,
        starts=start_states(model, observations, scales, start_key, num_chains, start),
        identity=row_identity(model, observations, start, watched, by_loops(problem.layout), key),
        stream=stream_sites(model.sites(data), _streamed(problem)),
        coords=model.sites(data).labels,
        finish=finish,
    )


def make_problem(
    model: MatrixFactorization,
    observations: Observations,
    scales: dict[str, Array],
    num_chains: int,
    key: Array,
    watched: tuple[np.ndarray, np.ndarray] | None,
    mesh: Mesh | None = None,
) -> RowChain:
    """The problem, as arrays; `scales` are starting ones, for their shapes."""
    users, items = observations.num_users, observations.num_items
    plan = Plan.of(model)
    packing = ParameterTable(model, users, items)
    workers = max(1, num_workers() // num_chains)
    layout = lay_out(
        observations.by_row(), model.likelihood, "cholesky", num_columns=packing.num_columns,
        num_tables=TABLES_OF_CHAIN * num_chains, workers=workers, mesh=mesh,
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
        rated = RatedPairs(
            observations.user, observations.item, observations.rating,
            jnp.asarray(prior_scale, dtype),
        )  # fmt: skip
    means = model.row_means(observations.features)
    weights = {name: shape for mean in means.values() for name, shape in mean.shapes.items()}
    given = GibbsConstants(
        laws, (jnp.asarray(center, dtype), jnp.asarray(precision, dtype)),
        jnp.asarray(len(observations.user), dtype), rated,
        means, regressions(model, observations, "sample_gibbs"),
    )  # fmt: skip
    rng = as_generator(key)
    seen = rng.integers(len(observations.user), size=PROBES // 2)
    probe_user = np.concatenate(
        [np.asarray(observations.user)[seen], rng.integers(users, size=PROBES // 2)]
    )
    probe_item = np.concatenate(
        [np.asarray(observations.item)[seen], rng.integers(items, size=PROBES // 2)]
    )
    none = np.zeros(0, int)
    probes = _pairs(probe_user, probe_item)
    if isinstance(layout, RowShards):
        given = layout.replicate(given)
    return RowChain(
        plan=plan,
        given=given,
        layout=layout,
        free={side: packing.free(side) * real for side in SIDES},
        probes=probes,
        watched=_pairs(*(watched or (none, none))),
        contents=contents_of(
            plan,
            probes,
            model.site_shapes(users, items),
            {name: value.shape for name, value in scales.items()} | weights,
        ),
    )


def _pairs(user: np.ndarray, item: np.ndarray) -> CodedPairs:
    return CodedPairs(jnp.asarray(user, jnp.int32), jnp.asarray(item, jnp.int32))


def _fit(
    model: MatrixFactorization,
    data: Ratings,
    settings: GibbsSettings,
    problem: RowChain,
    chains: GibbsChains,
    watched: tuple[np.ndarray, np.ndarray] | None,
    info: dict[str, Any],
) -> RatingsFit:
    num_kept = next(iter(chains.kept.values())).shape[1]
    at = settings.thin * np.arange(1, num_kept + 1) - 1
    samples: dict[str, Any] = dict(chains.kept)
    for name, value in chains.traces.items():
        if name not in ("lp", "probe_score"):
            samples[name] = value[:, at]
    averages = None
    if watched is not None:
        mean, sd = _pooled(chains.watched)
        averages = Watched(watched[0], watched[1], mean, sd)
    traces = Traces(
        chains.traces, np.asarray(problem.probes.user),
        np.asarray(problem.probes.item), settings.thin, averages,
    )  # fmt: skip
    return RatingsFit(
        model, data, samples, "gibbs", sampling=sampling_of(settings, chains, at, info),
        traces=traces, moments=row_moments(chains),
    )  # fmt: skip


def _streamed(problem: RowChain) -> dict[str, tuple[int, ...]]:
    """Shapes of what is written of each draw."""
    shapes = problem.contents.rows | problem.contents.traces
    return {name: shape for name, shape in shapes.items() if name != "probe_score"}


def _pooled(moments: list[RunningMoments]) -> tuple[np.ndarray, np.ndarray]:
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


def _check_data(model: MatrixFactorization, observations: Observations) -> None:
    if observations.weight is not None and not model.likelihood.quadratic:
        raise ValueError(
            "sample_gibbs takes weights of Gaussian ratings only: with them a yes/no or ordinal "
            "likelihood is not Gaussian given a latent variable. Leave the weights out, or use "
            "sample_nuts."
        )
