"""Fits as ArviZ DataTrees with the user's own ids as coordinates."""

from typing import TYPE_CHECKING, Any

import arviz_base
import numpy as np

from probmf.data import Ratings, Vocabulary
from probmf.models.factorization import MatrixFactorization
from probmf.models.likelihood import Likelihood
from probmf.models.ordinal import Ordinal
from probmf.results.draws import Draws
from probmf.results.mixtures import row_blocks
from probmf.results.samples import laid_out
from probmf.results.sampling import Sampling

if TYPE_CHECKING:
    from xarray import DataTree

DIMS = {
    "user_bias": ["user"],
    "item_bias": ["item"],
    "user_factors": ["user", "factor"],
    "item_factors": ["item", "factor"],
    "rating": ["rating_row"],
    "cutpoints": ["cutpoint"],
    "user_mean": ["factor"],
    "item_mean": ["factor"],
    "user_precision": ["factor", "other_factor"],
    "item_precision": ["factor", "other_factor"],
}
#: Scales that may be one per factor.
FACTOR_SCALES = ("user_scale", "item_scale")


def to_datatree(
    draws: Draws,
    method: str,
    sampling: Sampling | None,
    *,
    is_point: bool,
    log_likelihood: bool,
    rng: np.random.Generator | None,
) -> "DataTree":
    """A DataTree with the groups `posterior` or `point`, and `observed_data`.

    A point fit is no sample of a posterior, so it is not called one: plots take it with
    `group="point"`.

    Args:
        draws: The parameters and the ratings; their ids become coordinates.
        method: How they were fitted, kept as an attribute.
        sampling: How the sampler went; its statistics become `sample_stats`.
        is_point: Whether the only draw is a point fit.
        log_likelihood: Whether to add that group.
        rng: Draws ratings for the group `posterior_predictive`; None leaves it out.

    Returns:
        The tree. Coordinates `rated_user` and `rated_item` of `observed_data` say whose rating
        each is.
    """
    data, samples = draws.data, draws.samples
    user, item = labels_of(data.users), labels_of(data.items)
    coords = {"user": user, "item": item}
    for site in ("user_factors", "item_factors"):
        if site in samples:
            coords["factor"] = coords["other_factor"] = np.arange(samples[site].shape[-1])
    if isinstance(draws.model.likelihood, Ordinal):
        coords["cutpoint"] = np.asarray(draws.model.likelihood.cutpoint_names)
    # One scale per factor has shape (1, k), so that it isn't taken for one per row.
    values = {
        name: value[:, :, 0] if name in FACTOR_SCALES and value.ndim == 4 else value
        for name, value in samples.items()
    }
    groups: dict[str, Any] = {"point" if is_point else "posterior": values}
    if sampling is not None and sampling.stats:
        groups["sample_stats"] = dict(sampling.stats)
    if rng is not None:
        groups["posterior_predictive"] = {"rating": _draw_ratings(draws, rng)}
    if log_likelihood:
        groups["log_likelihood"] = {"rating": _log_likelihood(draws)}
    groups = laid_out(groups, sampling)
    groups["observed_data"] = {"rating": data.rating}
    scales = {
        name: ["factor" if samples[name].ndim == 4 else name.split("_")[0]]
        for name, value in values.items()
        if name.endswith("_scale") and value.ndim == 3
    }
    layers, names = weight_dims(draws.model)
    tree = arviz_base.from_dict(
        groups,
        coords=coords | names | {"rating_row": np.arange(len(data))},
        dims=DIMS | scales | layers,
        attrs={"/": {"method": method}},
    )
    rated = {"rated_user": ("rating_row", user[data.user]),
             "rated_item": ("rating_row", item[data.item])}  # fmt: skip
    tree["observed_data"].dataset = tree["observed_data"].to_dataset().assign_coords(rated)
    return tree


def weight_dims(
    model: MatrixFactorization,
) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    """Dims of the weights of prior means by site, and the names of features and outputs."""
    dims, coords = {}, {}
    for side in model.mean_sides:
        encoder: Any = getattr(model, f"{side}_features")
        has_bias, last = getattr(model, f"{side}_bias"), getattr(model, f"{side}_mean").num_layers
        coords[f"{side}_feature"] = np.asarray(encoder.names)
        outputs = ["bias"] * bool(has_bias) + [f"factor {k}" for k in range(model.num_factors)]
        coords[f"{side}_output"] = np.asarray(outputs)
        names = [f"{side}_feature", *(f"{side}_hidden_{n}" for n in range(last - 1))]
        names.append(f"{side}_output")
        for site, shape in model.mean_shapes.items():
            if site.startswith(side):
                place = int(site.rpartition("_")[2])
                dims[site] = names[place : place + 2] if len(shape) == 2 else [names[place + 1]]
    return dims, coords


def labels_of(vocabulary: Vocabulary) -> np.ndarray:
    """Ids as coordinates: numbers and dates as they are, other kinds as text."""
    ids = vocabulary.ids
    return ids if ids.dtype.kind in "iumM" else np.asarray([str(value) for value in ids])


def _log_likelihood(draws: Draws) -> np.ndarray:
    """Log densities of the ratings at each draw; 0 for ratings of weight zero."""
    data, likelihood = draws.data, draws.model.likelihood
    weight = _weights(data)
    noise = draws.noise_scale[:, None]
    scales = _by_draw(draws)
    found = np.empty((draws.num_draws, len(data)), np.float32)
    for rows in row_blocks(len(data), draws.num_draws):
        score, _ = draws.scores(data.user[rows], data.item[rows])
        loss = likelihood.loss(score, data.rating[None, rows], scales)
        found[:, rows] = -weight[rows] * np.asarray(loss)
        if not likelihood.discrete:
            own = np.where(weight[rows] > 0, weight[rows], 1.0)
            density = 0.5 * np.log(own / (2 * np.pi)) - np.log(noise)
            found[:, rows] += np.where(weight[rows] > 0, density, 0.0)
    return _by_chain(draws, found)


def _draw_ratings(draws: Draws, rng: np.random.Generator) -> np.ndarray:
    """A rating of each pair at each draw; one of weight zero as if it weighed one."""
    data, likelihood = draws.data, draws.model.likelihood
    weight = _weights(data)
    found = np.empty((draws.num_draws, len(data)), np.float32)
    for rows in row_blocks(len(data), draws.num_draws):
        score, _ = draws.scores(data.user[rows], data.item[rows])
        if likelihood.discrete:
            found[:, rows] = _draw_levels(likelihood, score, _by_draw(draws), rng)
        else:
            own = np.where(weight[rows] > 0, weight[rows], 1.0)
            noise = draws.noise_scale[:, None] / np.sqrt(own)
            found[:, rows] = score + noise * rng.standard_normal(score.shape)
    return _by_chain(draws, found)


def _draw_levels(
    likelihood: Likelihood, score: np.ndarray, scales: dict[str, Any], rng: np.random.Generator
) -> np.ndarray:
    """A level for each score: the number of tails above it that a uniform number lies below."""
    levels = likelihood.levels if isinstance(likelihood, Ordinal) else (0.0, 1.0)
    chance, found = rng.random(score.shape), np.full(score.shape, levels[0])
    for level in levels[1:]:
        found[chance < np.asarray(likelihood.tail(score, level, scales))] = level
    return found


def _by_draw(draws: Draws) -> dict[str, Any]:
    """The likelihood's own parameters, to broadcast against scores by draw and row."""
    return {name: value[:, None] for name, value in draws.likelihood_scales().items()}


def _weights(data: Ratings) -> np.ndarray:
    return np.ones(len(data)) if data.weight is None else np.asarray(data.weight)


def _by_chain(draws: Draws, values: np.ndarray) -> np.ndarray:
    first = next(iter(draws.samples.values()))
    return values.reshape(*first.shape[:2], *values.shape[1:])
