"""NUTS for all families of models, with Gaussian effects integrated out on request."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from os import PathLike
from typing import Any, NamedTuple, TypedDict, Unpack, overload

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probmf.backend import use_backend, uses_loops
from probmf.data import Examples, Ratings, as_key
from probmf.data.keys import as_generator
from probmf.effects.lapack import on_cores
from probmf.inference.final_warning import concluded
from probmf.inference.importance import NoModeError, find_mode
from probmf.inference.importance_rounds import MAX_DIMS
from probmf.inference.marginal.density import MarginalDensity
from probmf.inference.marginal.host_potential import HostPotential
from probmf.inference.marginal_rows import RowsMarginal, Stretched, find_start
from probmf.inference.nuts.draws_by_site import NutsDraws, NutsStream
from probmf.inference.nuts.transitions import Settings, run_nuts
from probmf.inference.potential import Place, Potential
from probmf.inference.standard_coordinates import mixed_coordinates
from probmf.inference.target import Target
from probmf.memory import require_memory
from probmf.models import MatrixFactorization, MixedEffects, Network
from probmf.results import MixedFit, NetworkFit, RatingsFit
from probmf.results.records import Sampling
from probmf.rows.placement import Devices, chain_devices, chain_meshes, on_all
from probmf.run.checkpoint import Checkpoint, open_checkpoint
from probmf.run.checks import check_counts, check_warmup, require
from probmf.run.driver import warn_incomplete
from probmf.run.fingerprint import fingerprint
from probmf.settings import own_settings

#: A shorter warmup has no windows long enough to learn a mass matrix from (Stan's rule), and one
#: found at the mode is kept through it.
LEAST_WARMUP = 150


class _NutsOptions(TypedDict, total=False):
    """Arguments that both families take; for type checkers."""

    num_warmup: int
    num_samples: int
    num_chains: int
    marginalize: Sequence[str] | str
    recover: bool
    target_accept: float
    max_tree_depth: int
    dense_mass: bool | None
    float64: bool
    checkpoint: str | PathLike[str] | None
    stream: str | PathLike[str] | None
    devices: Devices | None
    progress: bool | None


@overload
def sample_nuts(
    model: MatrixFactorization, data: Ratings, *, key: ArrayLike, **options: Unpack[_NutsOptions]
) -> RatingsFit: ...
@overload
def sample_nuts(
    model: MixedEffects, data: Any, *, key: ArrayLike, **options: Unpack[_NutsOptions]
) -> MixedFit: ...
@overload
def sample_nuts(
    model: Network, data: Examples, *, key: ArrayLike, **options: Unpack[_NutsOptions]
) -> NetworkFit: ...
def sample_nuts(
    model: MatrixFactorization | MixedEffects | Network,
    data: Any,
    *,
    key: ArrayLike,
    num_warmup: int = 500,
    num_samples: int = 500,
    num_chains: int = 4,
    marginalize: Sequence[str] | str = (),
    recover: bool = True,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    dense_mass: bool | None = None,
    float64: bool = True,
    checkpoint: str | PathLike[str] | None = None,
    stream: str | PathLike[str] | None = None,
    devices: Devices | None = None,
    progress: bool | None = None,
) -> RatingsFit | MixedFit | NetworkFit:
    r"""Sample the posterior by NUTS, Gaussian effects integrated out and drawn back.

    Args:
        model: A factorization, a mixed model or a network.
        data: `Ratings` for a factorization, any data frame (or a design) for a mixed model,
            `Examples` for a network.
        key: JAX key or int.
        num_warmup: Transitions per chain that adapt the sampler and are thrown away. Where effects
            are integrated out and few parameters left, chains start around the mode with the mass
            matrix of its curvature, so that fewer than 150, which then adapt the step size only,
            may be enough.
        num_samples: Draws per chain.
        num_chains: Chains; on a CPU each runs in its own thread.
        marginalize: Effect sites to integrate out exactly (`marginalize`): for a factorization any
            of "user_bias" and "user_factors", or of "item_bias" and "item_factors"; for a mixed
            model names of `model.effect_sites(design)`, or "all" for all of them.
        recover: Whether to draw the integrated effects back.
        target_accept: Acceptance rate that the step size aims at; raise it against divergences.
        max_tree_depth: A trajectory has at most two to this power of steps.
        dense_mass: Whether to adapt a full mass matrix; None does with at most 20 parameters.
        float64: Compute in double precision, whatever JAX is set to elsewhere.
        checkpoint: Directory to keep the run in, every ten seconds and when it ends. Called again
            with the same model, data, settings and key, it goes on where it was, bit for bit; with
            another version of probmf, JAX or NumPyro it refuses to.
        stream: Directory of a zarr store to write the draws to while they are made, integrated
            effects too if they are recovered, so that memory need not hold them; `open_draws` reads
            it. The fit then keeps all draws where they are small, and about 200 of them where they
            are not. It needs the package zarr. With `checkpoint` a run that goes on writes on where
            it was.
        devices: Devices to deal the chains out to, each of which has all data: a number of them,
            JAX devices, or a `jax.sharding.Mesh` with an axis 'chain'. A device's chains share
            it, and XLA's programs do everything (`use_backend`), compiled for each device. Where
            all rows of one side are integrated out, an axis 'row' of the mesh deals them out, and
            all its devices take part in each step of a chain. None computes on JAX's default
            device. See `docs/devices.md`.
        progress: Show a progress bar; None shows it on a terminal or in a notebook.

    Returns:
        The fit with its draws and statistics. After Ctrl-C, or when the disk of checkpoint or
        stream is full, the draws so far, marked incomplete.

    Warns:
        FitWarning: If the rows of a mixed model do not tell variances apart, so that priors alone
            do; what is wrong with the draws is then said in the same warning.
        DiagnosticWarning: If divergences, R-hat above 1.01, effective sizes below 100 per chain or
            E-BFMI say that the draws should not be relied upon; see `diagnostics.summary`.

    Raises:
        TypeError: If model or data are of the wrong type.
        ValueError: If an argument is out of range, checkpoint or stream hold another run, the draws
            don't fit into memory or onto the disk, a site can't be integrated out, no finite
            starting point is found, there are not so many devices, or one is another process's.
        ImportError: If `stream` is given and zarr is not installed.

    Example:
        >>> from probmf.models import MixedEffects
        >>> table = {"y": [1.0, 2.0, 4.0, 3.0, 2.5, 3.5], "g": ["a", "b", "a", "b", "c", "c"]}
        >>> fit = sample_nuts(MixedEffects("y ~ 1 + (1 | g)"), table, key=0, num_warmup=50,
        ...                   num_samples=50, num_chains=1, marginalize="all")
        >>> fit.samples["g_effects"].shape
        (1, 50, 3, 1)

    References:
        Hoffman and Gelman (2014); Lai, Domke and Sheldon (2024). The sampler is NumPyro's.
    """
    begin = time.perf_counter()
    require("sample_nuts", model)
    check_counts(num_samples=num_samples, num_chains=num_chains, max_tree_depth=max_tree_depth)
    check_warmup(num_warmup)
    if not 0 < target_accept < 1:
        raise ValueError(f"target_accept is {target_accept!r}; expected a number between 0 and 1.")
    settings = Settings(
        int(num_warmup), int(num_samples), int(num_chains), float(target_accept),
        int(max_tree_depth), bool(dense_mass),
    )  # fmt: skip
    meshes = chain_meshes(devices)
    places: Sequence[Place] = [on_all(mesh) for mesh in meshes]
    if devices is not None and not meshes:
        places = chain_devices(devices)
    with own_settings(float64 or None), use_backend("xla") if places else nullcontext():
        random_key = as_key(key)
        run_key, recover_key = jax.random.split(random_key)
        target = Target.build(model, data, marginalize, *meshes[:1]).by_loops()
        if devices is not None and meshes and not isinstance(target.model, RowsMarginal):
            places = chain_devices(devices)
        potential, density = _density(target)
        if not potential.num_dims:
            raise ValueError(
                "Nothing is left to sample: every site is fixed or integrated out. Leave some of "
                "marginalize out, or use sample_marginal, whose draws are then independent."
            )
        if dense_mass is None:
            settings = replace(settings, dense_mass=potential.num_dims <= MAX_DIMS)
        identity = fingerprint(*target.told, settings, random_key, uses_loops())
        store = open_checkpoint(checkpoint, lambda: identity)
        if store is not None and store.begun:
            _check_stream(store, streamed=stream is not None)
        count = (settings.num_chains, settings.num_samples)
        draws = NutsDraws(target, potential, recover, jax.random.split(recover_key, count))
        sink = None
        if stream is None:
            require_memory(
                draws.num_bytes(settings),
                f"{settings.num_chains:,} chains of {settings.num_samples:,} draws",
                "Lower num_samples or num_chains, or write the draws to disk with stream=.",
            )
        method = "nuts/marginal" if target.sites else "nuts"
        if stream is not None:
            sink = NutsStream(
                stream, identity, draws, settings, method=method, resumable=store is not None,
            )  # fmt: skip
        if store is not None and store.begun:
            start: dict[str, Any] = {}
            adapt_mass = bool(store.note["adapt_mass"])
        else:
            start = _start(target, potential, density, random_key, settings)
            at_mode = density is not None and bool(start)
            adapt_mass = not (at_mode and settings.num_warmup < LEAST_WARMUP)
        if store is not None:
            store.note = {"adapt_mass": adapt_mass, "streamed": stream is not None}
        settings = replace(settings, adapt_mass=adapt_mass)
        chains = run_nuts(
            potential, settings, run_key, checkpoint=store, stream=sink, progress=progress,
            places=places, **start,
        )  # fmt: skip
        told: dict[str, Any] = {}
        if sink is None:
            samples = draws.all_of(chains.vectors)
            chains = chains.first(next(iter(samples.values())).shape[1])
            stats = chains.stats
        else:
            samples, stats, told = sink.read()
        lost_digits = target.lost_digits(samples)
    warn_incomplete(chains.result, chains.num_draws, settings.num_samples, stacklevel=2)
    sampling = Sampling(
        stats=stats,
        num_warmup=settings.num_warmup,
        seconds=time.perf_counter() - begin,
        complete=chains.complete,
        info={
            "max_tree_depth": settings.max_tree_depth,
            "seconds_of_setup": chains.setup,
            **told,
        },
    )
    fit: RatingsFit | MixedFit | NetworkFit = target.fit(samples, method, sampling=sampling)
    return concluded(fit, lost_digits=lost_digits)


def _density(target: Target) -> tuple[Potential, MarginalDensity | None]:
    """The density that is sampled; by LAPACK where that is quicker than XLA."""
    model, args = target.model, target.args
    if isinstance(model, RowsMarginal):
        return Stretched(model), None
    mixed = target.design is not None
    coordinates = mixed_coordinates(target.source.program, args[0]) if mixed else None
    if not target.sites:
        return Potential(model, args, {}, coordinates), None
    density = MarginalDensity(model, args, {}, coordinates)
    by_lapack = density.host is not None and density.host.is_large
    return HostPotential(density) if by_lapack else density, density


def _start(
    target: Target,
    potential: Potential,
    density: MarginalDensity | None,
    key: Any,
    settings: Settings,
) -> dict[str, Any]:
    """Around the mode where that is cheap, else wherever the sampler finds a start."""
    start_key = jax.random.fold_in(key, 2)
    if isinstance(target.model, RowsMarginal):
        start = find_start(target.model, potential, target.data, start_key, settings.num_chains)
        widths = np.diag(start.inverse_mass) if settings.dense_mass else start.inverse_mass
        return {"starts": start.vectors, "inverse_mass": widths}
    if density is None:
        return {}
    mode = start_at_mode(density, start_key, settings.num_chains)
    if mode is None:
        return {}
    mass = mode.inverse_mass if settings.dense_mass else np.diag(mode.inverse_mass)
    return {"starts": mode.vectors, "inverse_mass": mass}


def _check_stream(store: Checkpoint, *, streamed: bool) -> None:
    """A checkpoint holds the draws of a run itself, unless they were streamed."""
    if store.note["streamed"] and not streamed:
        raise ValueError(
            "The checkpoint is that of a run with stream=, whose draws are there and not in the "
            "checkpoint. Give the same stream to go on with it, or name another checkpoint."
        )
    if streamed and not store.note["streamed"]:
        raise ValueError(
            "The checkpoint is that of a run without stream=, and holds its draws itself. Leave "
            "stream out to go on with it, or name another checkpoint."
        )


class ModeStart(NamedTuple):
    """Starting points and a first inverse mass matrix.

    Attributes:
        vectors: One per chain, drawn from the normal approximation at the mode.
        inverse_mass: Its covariance.
    """

    vectors: Float[np.ndarray, "chain d"]
    inverse_mass: Float[np.ndarray, "d d"]


def start_at_mode(density: MarginalDensity, key: Array, num_chains: int) -> ModeStart | None:
    """Draw starting points from the normal approximation at the mode.

    None if there are too many parameters, no mode, or a point of it where the density is not
    finite.
    """
    size = density.num_dims
    if not 0 < size <= MAX_DIMS:
        return None
    try:
        with on_cores(1 if density.host is None else density.host.cores):
            mode = find_mode(density.score, density.start(), informed=density.informed)
    except NoModeError:
        return None
    rng = as_generator(key)
    noise = rng.standard_normal((num_chains, size))
    vectors = mode.vector + noise @ np.linalg.cholesky(mode.covariance).T
    if not all(np.isfinite(density.score(vector)[0]) for vector in vectors):
        return None
    return ModeStart(vectors, mode.covariance)
