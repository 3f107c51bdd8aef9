"""Scores of a factorization from its parameters."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from probmf.models.observations import Observations

#: Values by site name.
Parameters = Mapping[str, Array]


def linear_predictor(
    parameters: Parameters, user: Int[Array, " n"], item: Int[Array, " n"]
) -> Float[Array, " n"]:
    r"""Scores :math:`\mu + b_m + c_n + u_m \cdot v_n` of pairs; terms that are absent count zero.

    Cost O(num_pairs x num_factors).
    """
    scores = jnp.broadcast_to(parameters["intercept"], user.shape)
    if "user_bias" in parameters:
        scores = scores + parameters["user_bias"][user]
    if "item_bias" in parameters:
        scores = scores + parameters["item_bias"][item]
    if "user_factors" in parameters:
        products = parameters["user_factors"][user] * parameters["item_factors"][item]
        scores = scores + jnp.sum(products, axis=-1)
    return scores


def unobserved_loss(
    parameters: Parameters, observations: Observations, weight: float, scores: Array
) -> Array:
    """Half the weighted sum of squared scores over the pairs that are not observed."""
    everywhere = squared_scores(parameters, observations.num_users, observations.num_items)
    return 0.5 * weight * (everywhere - jnp.sum(jnp.square(scores)))


def squared_scores(parameters: Parameters, num_users: int, num_items: int) -> Float[Array, ""]:
    """Sum of squared scores over all pairs in O((users + items) d^2), from both sides' moments."""
    ones = {"user": jnp.ones((num_users, 1)), "item": jnp.ones((num_items, 1))}
    bias = {
        side: parameters[f"{side}_bias"][:, None]
        if f"{side}_bias" in parameters
        else 0 * ones[side]
        for side in ones
    }
    user = [bias["user"] + parameters["intercept"], ones["user"]]
    item = [ones["item"], bias["item"]]
    if "user_factors" in parameters:
        user.append(parameters["user_factors"])
        item.append(parameters["item_factors"])
    left, right = jnp.concatenate(user, axis=1), jnp.concatenate(item, axis=1)
    return jnp.sum((left.T @ left) * (right.T @ right))
