"""Data of a factorization: checked device arrays, without labels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probmf.data import Ratings
from probmf.rows.store import RowStore, Side, shift_weak_zeros


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "user",
        "item",
        "rating",
        "weight",
        "base_score",
        "user_features",
        "item_features",
    ],
    meta_fields=["num_users", "num_items"],
)
@dataclass(frozen=True)
class Observations:
    """Rated pairs as arrays on the device; a pytree whose sizes are static.

    Attributes:
        user: Codes of the users, in 0..num_users-1.
        item: Codes of the items, in 0..num_items-1.
        rating: Ratings, or None to simulate them.
        weight: Positive weights of the pairs, or None when all are one.
        base_score: The one score that fits all the ratings best: the "mean" intercept.
        num_users: Number of users, rated or not.
        num_items: Number of items, rated or not.
        user_features: Encoded features of the users, where the model uses any.
        item_features: Those of the items.
    """

    user: Int[Array, " n"]
    item: Int[Array, " n"]
    rating: Float[Array, " n"] | None
    weight: Float[Array, " n"] | None
    base_score: Float[Array, ""]
    num_users: int
    num_items: int
    user_features: Float[Array, "users p"] | None = None
    item_features: Float[Array, "items p"] | None = None
    #: The ratings by row in the files that they were opened from; lost where anything changes.
    rows: ClassVar[RowStore | None] = None

    @property
    def features(self) -> dict[Side, Float[Array, "rows p"]]:
        """Encoded features of the sides that have any."""
        both: dict[Side, Array | None] = {"user": self.user_features, "item": self.item_features}
        return {side: features for side, features in both.items() if features is not None}

    @classmethod
    def from_ratings(
        cls,
        ratings: Ratings,
        base_score: float,
        features: Mapping[Side, np.ndarray] = MappingProxyType({}),
    ) -> "Observations":
        """Place checked ratings on the device; ratings of weight zero are left out.

        In the table's order and JAX's default precision. `base_score` is the "mean" intercept that
        belongs to them.
        """
        counted = ratings.counted
        dtype = jnp.result_type(float)
        weight = None
        if counted.weight is not None and np.any(counted.weight != 1):
            weight = jnp.asarray(counted.weight, dtype)
        observations = cls(
            user=jnp.asarray(counted.user),
            item=jnp.asarray(counted.item),
            rating=jnp.asarray(counted.rating, dtype),
            weight=weight,
            base_score=jnp.asarray(base_score, dtype),
            num_users=ratings.num_users,
            num_items=ratings.num_items,
            **{f"{side}_features": jnp.asarray(x, dtype) for side, x in features.items()},
        )
        object.__setattr__(observations, "rows", ratings.rows)
        return observations

    def by_row(self, unobserved_weight: float = 0.0) -> RowStore:
        """The ratings sorted by user and by item; see `shift_weak_zeros` for the weight.

        Where they were opened from files that hold them in JAX's present precision, their rows are
        those of the files.
        """
        if self.rows is not None and self.rows.dtype == jnp.result_type(float):
            return self.rows.shift(unobserved_weight)
        # Weak zeros are taken off in double precision; else nothing is copied.
        wide = np.float64 if unobserved_weight > 0 else None
        rating = np.asarray(self.rating, wide)
        weight = None if self.weight is None else np.asarray(self.weight, wide)
        return RowStore.of(
            np.asarray(self.user), np.asarray(self.item),
            *shift_weak_zeros(rating, weight, unobserved_weight),
            num_users=self.num_users, num_items=self.num_items,
        )  # fmt: skip

    def without_pairs(self) -> "Observations":
        """The same without pairs and features, for programs that ask for sizes and base score."""
        nothing: Any = None
        return replace(
            self, user=nothing, item=nothing, rating=None, weight=None, user_features=None,
            item_features=None,
        )  # fmt: skip

    def without_ratings(self) -> "Observations":
        """The same pairs with the ratings left open, for NumPyro's `Predictive`."""
        return replace(self, rating=None)
