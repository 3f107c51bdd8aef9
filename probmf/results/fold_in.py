"""New users from their ratings, the items held where they are."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array
from numpyro.distributions import Distribution

from probmf.data import Ratings
from probmf.models.factorization import PRIOR_SCALES, MatrixFactorization, Parameters
from probmf.results.conditional import Conditionals, SideRatings


def add_users(
    model: MatrixFactorization,
    data: Ratings,
    parameters: Parameters,
    new_ratings: Ratings,
    scales: Mapping[str, ArrayLike],
) -> tuple[MatrixFactorization, Ratings, dict[str, Array]]:
    """Solve the rows of the users in `new_ratings`; see `Fit.fold_in`.

    Args:
        model: The fitted model.
        data: Its training ratings.
        parameters: Its point values.
        new_ratings: Ratings of known items.
        scales: Scales of new users, by name, where the model has one per user.

    Returns:
        The model, the ratings and the parameters, all with the new users in.
    """
    model.likelihood.check_ratings(new_ratings.rating)
    merged = data.append(new_ratings, duplicates="last")
    added = merged.num_users - data.num_users
    model = _extend_scales(model, data.num_users, added, scales)
    changed = np.unique(merged.users.encode(new_ratings.users.decode(np.unique(new_ratings.user))))
    grown = dict(parameters)
    for site in ("user_bias", "user_factors"):
        if site in grown:
            old = np.asarray(grown[site])
            grown[site] = np.concatenate([old, np.zeros((added, *old.shape[1:]), old.dtype)])
    rows = Conditionals(model, grown, merged.num_users, merged.num_items)
    solved, _ = rows.solve("user", SideRatings.from_ratings(merged, "user"), changed)
    if "user_bias" in grown:
        grown["user_bias"][changed] = solved[:, 0]
    if "user_factors" in grown:
        grown["user_factors"][changed] = solved[:, 1:]
    return model, merged, grown


def _extend_scales(
    model: MatrixFactorization, num_users: int, added: int, scales: Mapping[str, ArrayLike]
) -> MatrixFactorization:
    own = [PRIOR_SCALES[site] for site in model.site_shapes(1, 1) if site.startswith("user")]
    unknown = set(scales) - set(own)
    if unknown:
        raise ValueError(f"fold_in has no scale named {sorted(unknown)}; this model has {own}.")
    changes = {}
    for name in own:
        present = getattr(model, name)
        if isinstance(present, Distribution) or np.ndim(present) == 0:
            if name in scales:
                raise ValueError(
                    f"{name} is one number for all users of this model; new users have it too. "
                    f"Leave {name} out."
                )
            continue
        if added and name not in scales:
            raise ValueError(
                f"{name} has one number per user, and the {added} new users have none. Give "
                f"fold_in(new_ratings, {name}=...), one number or {added} of them."
            )
        extra = np.broadcast_to(np.asarray(scales.get(name, 1.0), float), (added,))
        changes[name] = np.concatenate([np.asarray(present, float), extra])
    return replace(model, **changes) if changes else model
