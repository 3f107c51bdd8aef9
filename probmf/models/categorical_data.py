"""Data of a categorical factorization: checked device arrays, without labels."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probmf.data import Ratings


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["user", "item", "rating", "weight", "intercept"],
    meta_fields=["num_users", "num_items"],
)
@dataclass(frozen=True)
class ClassObservations:
    """Pairs and the codes of their classes as arrays on the device; a pytree.

    Attributes:
        user: Codes of the users, in 0..num_users-1.
        item: Codes of the items, in 0..num_items-1.
        rating: Codes of the classes, or None to simulate them.
        weight: Positive weights of the pairs, or None when all are one.
        intercept: The intercept of each class where it is fixed, else where a learned one starts.
        num_users: Number of users, rated or not.
        num_items: Number of items, rated or not.
    """

    user: Int[Array, " n"]
    item: Int[Array, " n"]
    rating: Int[Array, " n"] | None
    weight: Float[Array, " n"] | None
    intercept: Float[Array, " classes"]
    num_users: int
    num_items: int

    @classmethod
    def from_ratings(cls, ratings: Ratings, intercept: np.ndarray) -> "ClassObservations":
        """Place checked codes on the device; pairs of weight zero are left out.

        Args:
            ratings: The table; its ratings are codes of classes.
            intercept: The intercept of each class.

        Returns:
            The observations, in the table's order, in JAX's default precision.
        """
        keep = slice(None) if ratings.weight is None else ratings.weight > 0
        dtype = jnp.result_type(float)
        weight = None
        if ratings.weight is not None and np.any(ratings.weight[keep] != 1):
            weight = jnp.asarray(ratings.weight[keep], dtype)
        return cls(
            user=jnp.asarray(ratings.user[keep]),
            item=jnp.asarray(ratings.item[keep]),
            rating=jnp.asarray(ratings.rating[keep], jnp.int32),
            weight=weight,
            intercept=jnp.asarray(intercept, dtype),
            num_users=ratings.num_users,
            num_items=ratings.num_items,
        )

    @property
    def num_rows(self) -> int:
        """Number of pairs."""
        return len(self.user)

    def take(self, places: Int[Array, " batch"]) -> "ClassObservations":
        """Some of the pairs."""
        return replace(
            self,
            user=self.user[places],
            item=self.item[places],
            rating=None if self.rating is None else self.rating[places],
            weight=None if self.weight is None else self.weight[places],
        )

    def without_ratings(self) -> "ClassObservations":
        """The same pairs with the ratings left open, for NumPyro's `Predictive`."""
        return replace(self, rating=None)
