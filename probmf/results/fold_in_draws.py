"""Rows of users drawn at each draw of a fit, given its items."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from probmf.models.factorization_program import PRIOR_SCALES
from probmf.results.draws import Draws
from probmf.results.predictions import plain_text
from probmf.results.row_conditionals import BATCH_BYTES
from probmf.rows.batches import PIECE, Batch, batches, power_of_two, rows_of
from probmf.rows.problem import RowProblem
from probmf.rows.problem_draws import STEPS, cells, draw_rows
from probmf.rows.sweep import zero_moments

#: Share of accepted proposals below which the Metropolis steps may not have forgotten their start.
LEAST_ACCEPTED = 0.15

#: Items that a batch has at least, so that small batches are few programs.
FEWEST = 256


def draw_users(
    draws: Draws, codes: Int[np.ndarray, " rows"], rng: np.random.Generator
) -> Iterator[tuple[slice, np.ndarray, Float[np.ndarray, "draws rows d"]]]:
    """Rows of users given their ratings and the items of each draw.

    Yields which draws and which users, and their rows, in double precision and bounded memory.
    """
    model = draws.model
    width = 1 + int(model.num_factors)
    ratings = rows_of(draws.data, "user", unobserved_weight=model.unobserved_weight)
    likelihood = model.likelihood.canonical()
    precision = 1.0 / draws.prior_variance("user", codes)
    accepted = np.ones(len(codes))
    with jax.enable_x64(True):
        for batch in batches(ratings, codes, width, BATCH_BYTES // 8):
            # A key for each draw, so that blocks of draws change nothing.
            seeds = rng.integers(1 << 32, size=(draws.num_draws, 2), dtype=np.uint32)
            total = np.zeros(len(batch.rating))
            for some, size in _blocks(draws.num_draws, batch, width):
                problems = _problems(draws, batch, codes, some, precision[some], size)
                keys = jnp.asarray(np.resize(seeds[some], (size, 2)))
                rows, share = draw_rows(problems, keys, likelihood=likelihood)
                count = some.stop - some.start
                found = _colored(draws, some, np.asarray(rows)[:count, : len(batch.chosen)])
                yield some, codes[batch.chosen], found
                total += np.asarray(share)[:count].sum(axis=0)
            accepted[batch.chosen] = total[: len(batch.chosen)] / draws.num_draws
    if accepted.min(initial=1.0) < LEAST_ACCEPTED:
        user = draws.data.users.ids[codes[int(np.argmin(accepted))]]
        warnings.warn(
            f"Only {accepted.min():.0%} of the Metropolis proposals for the row of user "
            f"{plain_text(user)} were accepted in {STEPS} steps, so its draws may not follow its "
            "posterior; this happens under a prior so wide that the ratings don't bound the row. "
            "Give narrower scales, or sample again with the new ratings.",
            RuntimeWarning,
            stacklevel=5,
        )


def _blocks(num_draws: int, batch: Batch, num_columns: int) -> Iterator[tuple[slice, int]]:
    """Slices of draws, and how many a block has that is full."""
    lines, width = batch.rating.shape
    numbers = cells(lines, min(width, PIECE), num_columns)
    numbers += max(FEWEST, lines * width) * num_columns
    size = min(num_draws, max(1, BATCH_BYTES // (8 * numbers)))
    for start in range(0, num_draws, size):
        yield slice(start, min(start + size, num_draws)), size


def _problems(
    draws: Draws,
    batch: Batch,
    codes: Int[np.ndarray, " rows"],
    some: slice,
    precision: np.ndarray,
    size: int,
) -> RowProblem:
    """The rows of a batch at some draws, those items only that they have rated.

    The last draws are repeated until there are as many as in a full block, so that all blocks are
    one program.
    """

    def full(values: Any) -> Any:
        padding = ((0, size - len(values)), *[(0, 0)] * (np.ndim(values) - 1))
        return jnp.asarray(np.pad(np.asarray(values, np.float64), padding, mode="edge"))

    items, place = np.unique(batch.partner, return_inverse=True)
    items = np.pad(items, (0, max(FEWEST, power_of_two(len(items))) - len(items)))
    scales = draws.likelihood_scales(some)
    gram, gram_shift = _weak_zeros(draws, some, scales)
    width = 1 + int(draws.model.num_factors)
    free = np.ones(width)
    free[0] = draws.model.user_bias
    center = draws.centers("user", codes[batch.chosen], some)
    if center is not None:
        center = _whitened_means(draws, some, center)
        center = np.pad(center, ((0, 0), (0, len(batch.rating) - center.shape[1]), (0, 0)))
    return RowProblem(
        value=jnp.asarray(np.zeros((len(batch.rating), width))),
        partners=full(_whitened(draws, some, draws.rows("item", items, some))),
        partner=jnp.asarray(place.reshape(batch.partner.shape).astype(np.int32)),
        rating=jnp.asarray(batch.rating),
        weight=jnp.asarray(batch.weight),
        precision=full(_padded(precision, batch)),
        free=jnp.asarray(free),
        intercept=full(draws.sites["intercept"][some]),
        scales={name: full(values) for name, values in scales.items()},
        gram=None if gram is None else full(gram),
        gram_shift=None if gram_shift is None else full(gram_shift),
        center=None if center is None else full(center),
    )


def _weak_zeros(
    draws: Draws, some: slice, scales: Mapping[str, np.ndarray]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Part of weak zeros at all items in a row's precision and gradient, by draw."""
    if not draws.model.unobserved_weight:
        return None, None
    every, found = np.arange(draws.data.num_items), []
    for place, draw in enumerate(range(some.start, some.stop)):
        one = slice(draw, draw + 1)
        rows = _whitened(draws, one, draws.rows("item", every, one))[0]
        weight = draws.model.unobserved_weight / np.square(scales["noise_scale"][place])
        intercept = np.float64(draws.sites["intercept"][draw])
        found.append(zero_moments(rows[:, 0], rows[:, 1:], intercept, weight))
    gram, shift = zip(*found, strict=True)
    return np.stack(gram), np.stack(shift)


def _prior_roots(draws: Draws, some: slice) -> tuple[np.ndarray, np.ndarray] | None:
    """Means m and Cholesky factors L of the precisions of users' factors, if they were sampled."""
    if "user_precision" not in draws.samples:
        return None
    precision = np.asarray(draws.sites["user_precision"][some], np.float64)
    return np.asarray(draws.sites["user_mean"][some], np.float64), np.linalg.cholesky(precision)


def _whitened(
    draws: Draws, some: slice, items: Float[np.ndarray, "draws items d"]
) -> Float[np.ndarray, "draws items d"]:
    """Items' rows for users' factors m + L^-T x, where x has the prior N(0, I)."""
    items = items.astype(np.float64)
    prior = _prior_roots(draws, some)
    if prior is not None:
        mean, root = prior
        items[:, :, 0] += np.einsum("snk,sk->sn", items[:, :, 1:], mean)
        items[:, :, 1:] = np.swapaxes(
            np.linalg.solve(root, np.swapaxes(items[:, :, 1:], 1, 2)), 1, 2
        )
    return items


def _whitened_means(
    draws: Draws, some: slice, means: Float[np.ndarray, "draws rows d"]
) -> Float[np.ndarray, "draws rows d"]:
    """Prior means (b, L^T f) of rows (b, x), where users' factors are m + L^-T x."""
    prior = _prior_roots(draws, some)
    if prior is None:
        return means
    return np.concatenate([means[:, :, :1], means[:, :, 1:] @ prior[1]], axis=2)


def _colored(
    draws: Draws, some: slice, rows: Float[np.ndarray, "draws rows d"]
) -> Float[np.ndarray, "draws rows d"]:
    """Users' rows (b, m + L^-T x) from rows (b, x)."""
    prior = _prior_roots(draws, some)
    if prior is None:
        return rows
    mean, root = prior
    x = np.linalg.solve(np.swapaxes(root, 1, 2), np.swapaxes(rows[:, :, 1:], 1, 2))
    return np.concatenate([rows[:, :, :1], mean[:, None] + np.swapaxes(x, 1, 2)], axis=2)


def _padded(precision: np.ndarray, batch: Batch) -> np.ndarray:
    """Precisions of the lines of a batch, where they differ by row."""
    if precision.shape[1] == 1:
        return precision
    padded = np.ones((len(precision), len(batch.rating), precision.shape[2]))
    padded[:, : len(batch.chosen)] = precision[:, batch.chosen]
    return padded


def refuse_laws_per_user(fitted: Draws) -> None:
    """Refuse a prior scale for each user of its own: a new user has none."""
    for site in ("user_bias", "user_factors"):
        name = PRIOR_SCALES[site]
        drawn = fitted.samples.get(name)
        if site in fitted.sites and drawn is not None and drawn.ndim == 3:
            raise ValueError(
                f"{name} has a prior for each user of its own, and a new user has none. Sample "
                f"again with the new ratings, or fit a model with one {name} for all."
            )
