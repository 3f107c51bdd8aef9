"""Pictures of draws, drawn by arviz-plots: ranks, forests, energies, predictive checks."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import arviz_base
import arviz_plots
import matplotlib.pyplot as plt
import numpy as np
from jax.typing import ArrayLike
from matplotlib.figure import Figure

from probmf.diagnostics.quantities import AnyFit, check_fit, of_fit

#: Sites that a picture shows at most if none are named.
MOST = 20
#: Pairs of which a prediction each could be shown.
_PROBES = 1


def ranks(fit: AnyFit, *, var_names: Collection[str] | None = None) -> Figure:
    """Distributions of ranks by chain, for each quantity that the data identify.

    Each panel shows how the share of a chain's draws below each rank differs from what it would
    be if all chains explored the same distribution; a chain that lies outside of the band did not.

    Args:
        fit: A fit of a sampler.
        var_names: Which quantities, as in the table of `diagnostics.summary`; None for all that
            are single numbers, at most 20.

    Returns:
        The figure.

    Raises:
        TypeError: If it is no fit.
        ValueError: If it is a point fit, or there is no such quantity.
    """
    _check_sampled(fit)
    found: dict[str, np.ndarray] = {}
    for quantity in of_fit(fit, _PROBES, np.random.default_rng(0)):
        varies = np.ptp(quantity.draws) > 0
        if varies and (not quantity.grouped or quantity.name == "prediction"):
            found[quantity.name] = np.asarray(quantity.draws[:, :, 0])
    names = _chosen(found, var_names)
    tree = arviz_base.from_dict({"posterior": {name: found[name] for name in names}})
    options = {"layout": "constrained"}
    return _drawn(
        lambda: arviz_plots.plot_rank(tree, backend="matplotlib", col_wrap=4, figure_kwargs=options)
    )


def forest(
    fit: AnyFit,
    *,
    var_names: Collection[str] | None = None,
    coords: dict[str, Any] | None = None,
) -> Figure:
    """Means and intervals of parameters, one line each, with the user's own labels.

    Args:
        fit: A fit of a sampler.
        var_names: Names of sites, such as "coefficients" or "school_effects"; None for those
            without effects, factors and biases of single rows.
        coords: Labels to choose, by dimension, as in ArviZ: {"school": ["north", "lake"]}.

    Returns:
        The figure. The thick lines are 50 %, the thin ones 94 % intervals.

    Raises:
        TypeError: If it is no fit.
        ValueError: If it is a point fit, or there is no such site.
    """
    _check_sampled(fit)
    tree = fit.to_arviz()
    sites = dict(tree["posterior"].data_vars)
    small = {
        name: values
        for name, values in sites.items()
        if not name.endswith(("_effects", "_effects_raw", "_correlation"))
        and not {"user", "item"} & {*values.dims}
    }
    names = _chosen(small if var_names is None else sites, var_names)
    return _drawn(
        lambda: arviz_plots.plot_forest(
            tree, var_names=names, coords=coords, combined=True, ci_probs=(0.5, 0.94),
            backend="matplotlib",
        )
    )  # fmt: skip


def energy(fit: AnyFit) -> Figure:
    """The distribution of the energy beside that of its changes, and E-BFMI of each chain.

    Changes that are much narrower mean that the sampler moves slowly into the tails.

    Args:
        fit: A fit of a Hamiltonian sampler.

    Returns:
        The figure.

    Raises:
        TypeError: If it is no fit.
        ValueError: If there are no energies.
    """
    _check_sampled(fit)
    if fit.sampling is None or "energy" not in fit.sampling.stats:
        raise ValueError(
            f"The fit by {fit.method!r} has no energies; only Hamiltonian samplers, such as "
            "sample_nuts, have them."
        )
    tree = arviz_base.from_dict(
        {"posterior": {}, "sample_stats": {"energy": fit.sampling.stats["energy"]}}
    )
    return _drawn(lambda: arviz_plots.plot_energy(tree, backend="matplotlib"))


def predictive_check(fit: AnyFit, *, key: ArrayLike, num_samples: int = 50) -> Figure:
    """Predictive check: replicated responses of the fitted model over the observed ones.

    Args:
        fit: A fit of a sampler.
        key: JAX key or int.
        num_samples: How many data sets to generate, each at a draw of its own.

    Returns:
        The figure: cumulative distributions, that of the data in black.

    Raises:
        TypeError: If it is no fit.
        ValueError: If it is a point fit, or `num_samples` is less than one.
    """
    _check_sampled(fit)
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1.")
    total = fit.num_chains * fit.num_draws
    chosen = np.linspace(0, total - 1, min(num_samples, total)).astype(int)
    samples = {
        name: value.reshape(1, total, *value.shape[2:])[:, chosen]
        for name, value in fit.samples.items()
    }
    run = None if fit.sampling is None else replace(fit.sampling, stats={})
    few = replace(fit, samples=samples, sampling=run)
    tree = few.to_arviz(posterior_predictive=True, key=key)
    return _drawn(
        lambda: arviz_plots.plot_ppc_dist(
            tree, kind="ecdf", num_samples=len(chosen), backend="matplotlib"
        )
    )


def _check_sampled(fit: AnyFit) -> None:
    check_fit(fit)
    if fit.is_point:
        raise ValueError(
            f"The fit by {fit.method!r} is a point without draws; this picture needs those of a "
            "sampler."
        )


def _chosen(found: dict[Any, Any], names: Collection[str] | None) -> list[str]:
    if names is None:
        return list(found)[:MOST]
    wanted = [names] if isinstance(names, str) else list(names)
    chosen = [own for own in found if {own, own.partition("[")[0]} & {*wanted}]
    told = {*found, *(own.partition("[")[0] for own in found)}
    unknown = [name for name in wanted if name not in told]
    if unknown:
        raise ValueError(
            f"var_names holds {unknown[0]!r}, but there are: {', '.join(map(str, found))}."
        )
    return chosen


def _drawn(draw: Callable[[], Any]) -> Figure:
    """The figure of a picture by arviz-plots, which pyplot need not keep."""
    figure: Figure = draw().viz["figure"].item()
    plt.close(figure)
    return figure
