"""Draws of any NumPyro model with effects integrated out: importance sampling, else NUTS."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from arviz_base.io_numpyro import infer_dims
from jaxtyping import Array, Float

from probmf.data.keys import as_generator
from probmf.diagnostics.judgement import DiagnosticWarning, complaints, statistics
from probmf.diagnostics.quantities import Quantity
from probmf.diagnostics.summary import measured_rows
from probmf.diagnostics.verdict import OPENING
from probmf.inference.drawn_back import SiteArrays
from probmf.inference.final_warning import PACKAGE, FallbackWarning
from probmf.inference.importance import K_HAT_GATE, NoModeError, find_mode, resample
from probmf.inference.importance_rounds import MAX_DIMS, Rounds, most_densities
from probmf.inference.marginal.evaluators import NotServedError, cut
from probmf.inference.marginal.host_density import CHUNK
from probmf.inference.marginal.marginal_model import MarginalModel
from probmf.inference.nuts.pooled_warmup import PooledNuts
from probmf.inference.nuts.transitions import constrain_chains
from probmf.inference.potential import Potential
from probmf.models.sites import Sites
from probmf.numpyro_setup import run_unchecked
from probmf.results.arviz_tree import arviz_tree
from probmf.results.sampling import Sampling
from probmf.rows.store import num_workers
from probmf.run.driver import progress_bar
from probmf.run.threads import Workers, workers

#: Chains of NUTS.
NUM_CHAINS = 4


def draw_posterior(
    model: MarginalModel,
    data: Mapping[str, Any] | Sequence[Any],
    num_samples: int,
    key: Array,
    max_densities: int | None,
    progress: bool | None,
) -> Any:
    """Draws of all sites; see `sample_marginal`.

    Args:
        model: The model.
        data: Its arguments: by name, or in order.
        num_samples: Draws wanted.
        key: JAX key.
        max_densities: The most proposals.
        progress: Show a bar.

    Returns:
        An ArviZ DataTree, dimensions called after the model's plates.

    Raises:
        TypeError: If `data` is neither a mapping nor a sequence.
        NoStartError: If the density is finite nowhere that chains could start.
    """
    begin = time.perf_counter()
    args, kwargs = _arguments(data)
    potential = Potential(model, args, kwargs)
    draw_key, recover_key = jax.random.split(key)
    limit = most_densities(num_samples, max_densities)
    try:
        vectors, info = _weighted(potential, num_samples, draw_key, limit, progress)
        stats, num_warmup, method = {}, 0, "marginal/importance"
    except NotServedError as error:
        nuts = PooledNuts(potential, NUM_CHAINS, draw_key, progress)
        nuts.warm_up()
        chains = nuts.draw(-(-num_samples // NUM_CHAINS))
        vectors, stats, num_warmup = chains.vectors, chains.stats, nuts.num_warmup
        info, method = {"fallback": str(error)}, "nuts/marginal"
        warnings.warn(
            f"Importance sampling can't serve here: {error}. Going on with NUTS on what is left.",
            FallbackWarning, skip_file_prefixes=(PACKAGE,),
        )  # fmt: skip
    samples = constrain_chains(potential, vectors)
    effects = model.recover(recover_key, {n: samples[n] for n in potential.sites}, *args, **kwargs)
    samples |= {name: np.asarray(value) for name, value in effects.items()}
    sampling = Sampling(stats, num_warmup, time.perf_counter() - begin, True, info)
    _judge(sampling, samples)
    # NumPyro's draws of first values broadcast as NumPy does.
    with run_unchecked(), jax.numpy_rank_promotion("allow"):
        prepared = model.prepare(*args, **kwargs)
        dims = infer_dims(prepared.model, prepared.args, dict(prepared.kwargs))
    sites = Sites({name: own for name, own in dims.items() if name in samples}, {})
    tree = arviz_tree({"posterior": samples}, {}, sites, sampling, method)
    tree.attrs |= info
    return tree


def _arguments(data: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(data, Mapping):
        return (), dict(data)
    if isinstance(data, list | tuple):
        return tuple(data), {}
    raise TypeError(
        f"data is of type {type(data).__name__}; with a marginalized model give the model's "
        "arguments: a dict by name, or a tuple in order."
    )


def _weighted(
    potential: Potential, num_samples: int, key: Array, limit: int, progress: bool | None
) -> tuple[Float[np.ndarray, "1 draw d"], dict[str, Any]]:
    """Independent draws by weight, and how they came about.

    Raises:
        NotServedError: If too much is left, there is no mode, or k-hat stays above the gate.
        KeyboardInterrupt: After an interruption before there are draws that can be trusted.
    """
    size = potential.num_dims
    if size > MAX_DIMS:
        raise NotServedError(
            f"{size} parameters are left, more than the {MAX_DIMS} that importance sampling serves"
        )

    def score(vector: np.ndarray) -> tuple[float, np.ndarray]:
        point = jnp.asarray(vector, potential.vector.dtype)
        value, gradient = potential.value_and_grad(point)
        return float(value), np.asarray(gradient, np.float64)

    rng = as_generator(key)
    with workers(num_workers()) as pool, progress_bar(progress) as bar:
        task = bar.add_task("mode", total=None, status="")
        densities = _Densities(potential, pool)
        compiled = pool.submit(densities.compile)
        try:
            mode = find_mode(score, potential.vector.astype(np.float64)) if size else None
        except NoModeError as error:
            raise NotServedError(str(error)) from None
        compiled.result()
        rounds = Rounds(densities, rng, mode)
        count = rounds.run(num_samples, limit, bar, task)
    chosen = rounds.points[resample(rounds.weights, count, rng)]
    return chosen[None], {
        "k_hat": rounds.k_hat, "k_hat_gate": K_HAT_GATE, "num_densities": rounds.num,
        "effective": rounds.effective, "effective_fraction": rounds.effective / rounds.num,
    }  # fmt: skip


class _Densities:
    """Log densities of proposals, in chunks side by side; see `Rounds`."""

    def __init__(self, density: Potential, pool: Workers) -> None:
        """Trace the program of a chunk."""
        self.density, self.pool = density, pool
        self.example = np.zeros((CHUNK, density.num_dims), density.vector.dtype)
        self.run = density.compiled(_log_densities, self.example)

    def compile(self) -> None:
        """Have the program ready."""
        self.run.lower(self.density, self.example).compile()

    def __call__(self, points: np.ndarray) -> Iterator[tuple[np.ndarray, SiteArrays]]:
        """Log densities, and no sites: these are found for the proposals that are chosen."""
        found = self.pool.stream(self._one, self._pieces(points))
        for some, values in zip(cut(points, CHUNK), found, strict=True):
            yield values[: len(some)], {}

    def _pieces(self, points: np.ndarray) -> Iterator[np.ndarray]:
        for some in cut(points.astype(self.example.dtype), CHUNK):
            yield np.concatenate([some, np.repeat(some[-1:], CHUNK - len(some), axis=0)])

    def _one(self, piece: np.ndarray) -> np.ndarray:
        values = np.asarray(self.run(self.density, piece), np.float64)
        return np.where(np.isfinite(values), values, -np.inf)


def _log_densities(density: Potential, vectors: Array) -> Array:
    return jax.lax.map(density.log_density, vectors)


def _judge(sampling: Sampling, samples: SiteArrays) -> None:
    """Warn of draws that should not be relied upon."""
    rows: list[dict[str, Any]] = []
    num_chains, num_draws = next(iter(samples.values())).shape[:2]
    if not sampling.is_independent:
        flat = {name: value.reshape(num_chains, num_draws, -1) for name, value in samples.items()}
        rows = measured_rows([Quantity(name, own, False) for name, own in flat.items()], 1)
    found = list(complaints(sampling, statistics(sampling), rows, num_chains, num_draws))
    if found:
        sentences = (OPENING, *(complaint.sentence for complaint in found))
        warnings.warn(" ".join(sentences), DiagnosticWarning, skip_file_prefixes=(PACKAGE,))
