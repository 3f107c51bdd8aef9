"""The objective of a network, whole or in batches of examples."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from probmf.inference.point.minibatch import shuffle
from probmf.likelihoods.base import likelihood_scales
from probmf.models.network import Network, NetworkData
from probmf.models.normal_wishart import normal_loss


class NetworkTerms(NamedTuple):
    """Data of the objective; a pytree.

    Attributes:
        precision: Prior precision of each site.
        scales: The likelihood's own scales, where they are fixed.
        examples: All examples.
    """

    precision: dict[str, Array]
    scales: dict[str, Array]
    examples: NetworkData


@dataclass(frozen=True)
class NetworkObjective:
    """The objective of a network; in parts, each example carries an equal share of the prior.

    Attributes:
        network: In canonical form.
    """

    network: Network
    by_rows = False

    @classmethod
    def build(cls, model: Network, data: NetworkData) -> tuple["NetworkObjective", NetworkTerms]:
        """The objective of a network, and its data."""
        dtype = jnp.result_type(float)
        found = model.prior_precisions(data).items()
        precision = {site: jnp.asarray(value, dtype) for site, value in found}
        scales = likelihood_scales(model.likelihood, {})
        return cls(model.canonical()), NetworkTerms(precision, scales, data)

    def sites(self, moved: dict[str, Array], given: NetworkTerms) -> dict[str, Array]:
        """Learned parameters of the likelihood where they may lie."""
        return self.network.likelihood.constrain(moved)

    def moved(self, sites: dict[str, Array], given: NetworkTerms) -> dict[str, Array]:
        """The inverse."""
        return self.network.likelihood.unconstrain(sites)

    def whole(self, moved: dict[str, Array], given: NetworkTerms) -> Float[Array, ""]:
        """Minus log posterior up to a constant. Cost O(number of examples x that of weights)."""
        return self._loss(moved, given.examples, jnp.ones(given.examples.num_rows), given)

    def batches(self, key: Array, given: NetworkTerms, size: int) -> tuple[Array, Array]:
        """Places of the examples, and 1 for each, 0 where the last batch has none left."""
        count = given.examples.num_rows
        return shuffle(key, (jnp.arange(count, dtype=jnp.int32), jnp.ones(count)), size)

    def part(
        self, moved: dict[str, Array], batch: tuple[Array, Array], given: NetworkTerms
    ) -> Float[Array, ""]:
        """The batch's part of the objective."""
        places, weight = batch
        return self._loss(moved, given.examples.take(places), weight, given)

    def _loss(
        self, moved: dict[str, Array], data: NetworkData, weight: Array, given: NetworkTerms
    ) -> Float[Array, ""]:
        likelihood = self.network.likelihood
        sites = likelihood.constrain(moved)
        scales = given.scales | likelihood.learned_among(sites)
        losses = self.network.losses(sites, data, scales)
        each = jnp.sum(losses.reshape(len(weight), -1), axis=1)
        prior = normal_loss(sites, given.precision)
        # Not a product: the loss of what fills the last batch need not be finite.
        return jnp.sum(weight) / given.examples.num_rows * prior + jnp.sum(
            jnp.where(weight > 0, each, 0.0)
        )
