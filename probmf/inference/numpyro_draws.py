"""Draws of any NumPyro model with effects integrated out: importance sampling, else NUTS."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from arviz_base.io_numpyro import infer_dims
from jaxtyping import Array

from probmf.diagnostics.judgement import DiagnosticWarning, complaints, statistics
from probmf.diagnostics.quantities import Quantity
from probmf.diagnostics.summary import measured_rows
from probmf.inference.drawn_back import SiteArrays
from probmf.inference.final_warning import OPENING, PACKAGE
from probmf.inference.importance_rounds import most_densities
from probmf.inference.marginal.marginal_model import MarginalModel
from probmf.inference.nuts.transitions import constrain_chains
from probmf.inference.potential import Potential
from probmf.inference.vector_draws import draw_vectors
from probmf.models.sites import Sites
from probmf.numpyro_setup import run_unchecked
from probmf.results.arviz_tree import arviz_tree
from probmf.results.records import Sampling


def draw_posterior(
    model: MarginalModel,
    data: Mapping[str, Any] | Sequence[Any],
    num_samples: int,
    key: Array,
    max_densities: int | None,
    progress: bool | None,
) -> Any:
    """Draws of all sites; see `sample_marginal`.

    An ArviZ DataTree, dimensions called after the model's plates.
    """
    begin = time.perf_counter()
    args, kwargs = _arguments(data)
    potential = Potential(model, args, kwargs)
    draw_key, recover_key = jax.random.split(key)
    limit = most_densities(num_samples, max_densities)
    found = draw_vectors(potential, num_samples, draw_key, limit, progress)
    samples = constrain_chains(potential, found.vectors)
    effects = model.recover(recover_key, {n: samples[n] for n in potential.sites}, *args, **kwargs)
    samples |= {name: np.asarray(value) for name, value in effects.items()}
    sampling = found.sampling(time.perf_counter() - begin)
    _judge(sampling, samples)
    # NumPyro's draws of first values broadcast as NumPy does.
    with run_unchecked(), jax.numpy_rank_promotion("allow"):
        prepared = model.prepare(*args, **kwargs)
        dims = infer_dims(prepared.model, prepared.args, dict(prepared.kwargs))
    sites = Sites({name: own for name, own in dims.items() if name in samples}, {})
    method = "marginal/importance" if sampling.is_independent else "nuts/marginal"
    tree = arviz_tree({"posterior": samples}, {}, sites, sampling, method)
    tree.attrs |= dict(found.info)
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


def _judge(sampling: Sampling, samples: SiteArrays) -> None:
    """Warn of draws that should not be relied upon."""
    rows: list[dict[str, Any]] = []
    num_chains, num_draws = next(iter(samples.values())).shape[:2]
    if not sampling.is_independent:
        flat = {name: value.reshape(num_chains, num_draws, -1) for name, value in samples.items()}
        rows = measured_rows([Quantity(name, own, False) for name, own in flat.items()], 1)
    told = replace(sampling, complete=True)  # An interruption has been told of.
    found = list(complaints(told, statistics(sampling), rows, num_chains, num_draws))
    if found:
        sentences = (OPENING, *(complaint.sentence for complaint in found))
        warnings.warn(" ".join(sentences), DiagnosticWarning, skip_file_prefixes=(PACKAGE,))
