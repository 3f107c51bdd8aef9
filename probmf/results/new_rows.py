"""Further users and items in a fit's draws: from their ratings, or from their features alone."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from numpyro.distributions import Distribution

from probmf.data import Ratings
from probmf.likelihoods.parameters import check_scale
from probmf.models.factorization import MatrixFactorization
from probmf.models.factorization_program import PRIOR_SCALES
from probmf.results.draws import Draws
from probmf.results.predictions import plain_text
from probmf.results.row_conditionals import BATCH_BYTES, Conditionals
from probmf.rows.batches import PIECE, Batch, batches, power_of_two, rows_of
from probmf.rows.problem import RowProblem
from probmf.rows.problem_draws import STEPS, cells, draw_rows
from probmf.rows.store import SIDES, Side
from probmf.rows.sweep import zero_moments


def num_rows(data: Ratings, side: Side) -> int:
    """Number of users or items."""
    return data.num_users if side == "user" else data.num_items


def with_rows(
    fitted: Draws, model: MatrixFactorization, data: Ratings, sides: tuple[Side, ...]
) -> Draws:
    """The draws with zeros for rows of some sides that are new in the data; those are copied."""
    samples = dict(fitted.samples)
    shape = next(iter(samples.values())).shape[:2]
    # A fixed intercept is that of the ratings that were fitted, not of those with the new ones.
    samples["intercept"] = np.array(fitted.sites["intercept"]).reshape(shape)
    for side in sides:
        for site in (f"{side}_bias", f"{side}_factors"):
            if site in samples:
                widths = [(0, 0)] * samples[site].ndim
                widths[2] = (0, num_rows(data, side) - samples[site].shape[2])
                samples[site] = np.pad(samples[site], widths)
    return Draws(model, data, samples)


def set_rows(
    draws: Draws,
    side: Side,
    codes: Int[np.ndarray, " rows"],
    values: Float[np.ndarray, "draws rows d"],
    some: slice = slice(None),
) -> None:
    """Write rows (bias, factors) at some draws, in place."""
    for site, columns in ((f"{side}_bias", 0), (f"{side}_factors", slice(1, None))):
        if site in draws.samples:
            own = draws.samples[site]
            own.reshape(-1, *own.shape[2:])[some, codes] = values[:, :, columns]


def extend_ratings(
    model: MatrixFactorization, data: Ratings, user_features: Any, item_features: Any
) -> Ratings:
    """The ratings with further users and items, whose features the model can encode."""
    tables: dict[Side, Any] = {"user": user_features, "item": item_features}
    if user_features is None and item_features is None:
        raise ValueError(
            "There is nothing to add; give user_features=table or item_features=table."
        )
    for side in SIDES:
        if tables[side] is None:
            continue
        if side not in model.mean_sides:
            raise ValueError(
                f"The model has no {side}_mean, so {side}_features tell it nothing; fit one with "
                f"{side}_mean=Linear()."
            )
        for site in model.site_shapes(1, 1):
            name = PRIOR_SCALES[site]
            given: Any = getattr(model, name)
            shape = getattr(given, "batch_shape", None)
            shape = np.shape(given) if shape is None and np.ndim(given) else shape or ()
            if site.startswith(side) and len(shape) == 1:
                raise ValueError(
                    f"{name} has a number for each {side} of the fit, and none for new ones; fit a "
                    f"model with one {name} for all."
                )
    return data.extend(user_features=user_features, item_features=item_features)


def extend(fitted: Draws, data: Ratings, rng: np.random.Generator | None) -> Draws:
    """The draws with rows that are new in the data at their prior, drawn or (None) at its mean."""
    grown = with_rows(fitted, fitted.model, data, SIDES)
    for side in SIDES:
        codes = np.arange(num_rows(fitted.data, side), num_rows(data, side))
        rows = grown.centers(side, codes, slice(None)) if len(codes) else None
        if rows is None:
            continue
        rows = rows.astype(np.float64)
        if rng is not None:
            noise = rng.standard_normal(rows.shape)
            rows += noise @ np.swapaxes(fitted.prior_roots(side), 1, 2)
        if f"{side}_precision" in fitted.sites:
            rows[:, :, 1:] += fitted.sites[f"{side}_mean"][:, None]
        set_rows(grown, side, codes, rows)
    return grown


def add_users(
    fitted: Draws,
    new_ratings: Ratings,
    scales: Mapping[str, ArrayLike | None],
    rng: np.random.Generator | None,
) -> Draws:
    """The draws with the rows of the users in `new_ratings`, drawn or (None) their modes."""
    # Without scales per row, as the new users are others; features are looked at later.
    alike: dict[str, Any] = dict.fromkeys(PRIOR_SCALES.values(), 1.0)
    alike |= dict.fromkeys(("user_mean", "item_mean", "user_features", "item_features"))
    replace(fitted.model, **alike).check_data(new_ratings)
    if rng is not None:
        refuse_laws_per_user(fitted)
    data = fitted.data.append(new_ratings, duplicates="last")
    num_old, num_new = fitted.data.num_users, data.num_users - fitted.data.num_users
    model = extend_scales(fitted.model, num_old, num_new, scales)
    grown = with_rows(fitted, model, data, ("user",))
    changed = data.users.encode(new_ratings.users.decode(np.unique(new_ratings.user)))
    if rng is None:
        set_rows(grown, "user", changed, Conditionals(grown).modes("user", changed)[None])
        return grown
    for draws, rows, values in draw_users(grown, changed, rng):
        set_rows(grown, "user", rows, values, draws)
    return grown


def extend_scales(
    model: MatrixFactorization,
    num_old: int,
    num_new: int,
    scales: Mapping[str, ArrayLike | None],
) -> MatrixFactorization:
    """The model with scales for new users, where it has one per user."""
    used = [PRIOR_SCALES[site] for site in model.site_shapes(1, 1)]
    changes: dict[str, Any] = {}
    for name, given in scales.items():
        present = getattr(model, name)
        per_user = name in used and not isinstance(present, Distribution) and np.ndim(present) == 1
        if not per_user:
            if given is not None:
                raise ValueError(
                    f"{name} was given, but this model has no {name} of each user's own, which "
                    f"new users would need: leave {name} out."
                )
            continue
        if given is None and num_new:
            raise ValueError(
                f"{name} has one number per user, {num_old:,} in all, and none for the {num_new:,} "
                f"new users. Give fold_in(new_ratings, {name}=...): one number, or {num_new:,} of "
                "them in the order of the new users."
            )
        new = np.ones(0) if given is None else np.asarray(given, dtype=np.float64)
        check_scale(name, new)
        if new.shape not in ((), (num_new,)):
            raise ValueError(
                f"{name} has shape {new.shape}; expected one number, or {num_new:,} of them: one "
                "for each new user."
            )
        changes[name] = np.concatenate([np.asarray(present), np.broadcast_to(new, num_new)])
    return replace(model, **changes) if changes else model


#: Share of accepted proposals below which the Metropolis steps may not have forgotten their start.
LEAST_ACCEPTED = 0.15

#: Items that a batch has at least, so that small batches are few programs.
FEWEST = 256


def draw_users(
    draws: Draws, codes: Int[np.ndarray, " rows"], rng: np.random.Generator
) -> Iterator[tuple[slice, np.ndarray, Float[np.ndarray, "draws rows d"]]]:
    """Rows of users given their ratings and the items, by blocks of draws and users."""
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
    """The rows of a batch at some draws, repeated to `size` so that all blocks are one program."""

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
    if precision.shape[1] > 1:  # They differ by row.
        padded = np.ones((len(precision), len(batch.rating), precision.shape[2]))
        padded[:, : len(batch.chosen)] = precision[:, batch.chosen]
        precision = padded
    return RowProblem(
        value=jnp.asarray(np.zeros((len(batch.rating), width))),
        partners=full(_whitened(draws, some, draws.rows("item", items, some))),
        partner=jnp.asarray(place.reshape(batch.partner.shape).astype(np.int32)),
        rating=jnp.asarray(batch.rating),
        weight=jnp.asarray(batch.weight),
        precision=full(precision),
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
