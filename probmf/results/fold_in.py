"""New users from their ratings, the items held where they are."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from numpyro.distributions import Distribution

from probmf.data import Ratings
from probmf.likelihoods.parameters import check_scale
from probmf.models.factorization import MatrixFactorization
from probmf.models.factorization_program import PRIOR_SCALES
from probmf.results.draws import Draws
from probmf.results.fold_in_draws import draw_users, refuse_laws_per_user
from probmf.results.new_rows import set_rows, with_rows
from probmf.results.row_conditionals import Conditionals


def add_users(
    fitted: Draws,
    new_ratings: Ratings,
    scales: Mapping[str, ArrayLike | None],
    rng: np.random.Generator | None,
) -> Draws:
    """The draws with the rows of the users in `new_ratings`; see `RatingsFit.fold_in`.

    Args:
        fitted: The fit's draws.
        new_ratings: Ratings of known items.
        scales: Scales of new users, by name, where the model has one per user.
        rng: Seeds the draws of the rows; None for the modes, of a point fit.

    Returns:
        The draws, ratings and model with the new users in.
    """
    check_new_ratings(fitted.model, new_ratings)
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


def check_new_ratings(model: MatrixFactorization, new_ratings: Ratings) -> None:
    """Refuse what is no ratings, or ratings that don't suit the model."""
    # Without scales per row: the new users are others.
    alike: dict[str, Any] = dict.fromkeys(PRIOR_SCALES.values(), 1.0)
    # Features are looked at when the new users are among the others.
    alike |= dict.fromkeys(("user_mean", "item_mean", "user_features", "item_features"))
    replace(model, **alike).check_data(new_ratings)


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
