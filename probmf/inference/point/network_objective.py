"""The objective of a network, whole or in batches of examples."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probmf.inference.point.objective import to_moved, to_sites
from probmf.likelihoods.base import likelihood_scales
from probmf.models.network import Network
from probmf.models.network_data import NetworkData
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
        """Cutpoints in their order."""
        return to_sites(moved)

    def moved(self, sites: dict[str, Array], given: NetworkTerms) -> dict[str, Array]:
        """The inverse."""
        return to_moved(sites)

    def whole(self, moved: dict[str, Array], given: NetworkTerms) -> Float[Array, ""]:
        """Minus log posterior up to a constant. Cost O(number of examples x that of weights)."""
        return self._loss(moved, given.examples, jnp.ones(given.examples.num_rows), given)

    def batches(self, key: Array, given: NetworkTerms, size: int) -> tuple[Array, Array]:
        """Places of the examples, and 1 for each, 0 where the last batch has none left."""
        count = given.examples.num_rows
        order = jax.random.permutation(key, jnp.arange(count, dtype=jnp.int32))
        filled = (jnp.pad(values, (0, -count % size)) for values in (order, jnp.ones(count)))
        places, weight = (values.reshape(-1, size) for values in filled)
        return places, weight

    def part(
        self, moved: dict[str, Array], batch: tuple[Array, Array], given: NetworkTerms
    ) -> Float[Array, ""]:
        """The batch's part of the objective."""
        places, weight = batch
        return self._loss(moved, given.examples.take(places), weight, given)

    def _loss(
        self, moved: dict[str, Array], data: NetworkData, weight: Array, given: NetworkTerms
    ) -> Float[Array, ""]:
        sites = to_sites(moved)
        # The canonical likelihood does not tell whether cutpoints are learned.
        own = {name: sites[name] for name in self.network.likelihood.learned if name in sites}
        losses = self.network.losses(sites, data, given.scales | own)
        each = jnp.sum(losses.reshape(len(weight), -1), axis=1)
        prior = normal_loss(sites, given.precision)
        # Not a product: the loss of what fills the last batch need not be finite.
        return jnp.sum(weight) / given.examples.num_rows * prior + jnp.sum(
            jnp.where(weight > 0, each, 0.0)
        )
