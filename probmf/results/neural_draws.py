"""Scores of neural factorizations under draws, and the best items by them."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution

from probmf.models.factorization import PRIOR_SCALES
from probmf.models.neural_factorization import NAME, NeuralFactorization
from probmf.models.observations import Observations
from probmf.results.draws import Draws
from probmf.results.exclusions import Exclusions
from probmf.results.normal_points import NUM_STRANGERS, normal_points
from probmf.results.ranking import BLOCK_SCORES, top_scores
from probmf.results.row_problem import to_device
from probmf.results.side_ratings import power_of_two
from probmf.rows.layout import SIDES, Side

#: Numbers that a layer's outputs for one block of pairs may have.
BLOCK_NUMBERS = 1 << 22


@dataclass(frozen=True, eq=False)
class NeuralDraws(Draws):
    r"""Scores :math:`\mu + b + c + [u \cdot v] + f(u, v)` at each draw, chains joined.

    Code -1 stands for a row that the fit does not know. At each draw one such row of each side is
    is taken from that draw's prior: through a network its score is not Normal. The rows are those
    of a quasi-random sequence, always the same ones.

    Args:
        model: The factorization without the network.
        data: The training ratings.
        samples: Parameters with leading (chain, draw) axes.
        neural: The model itself.
    """

    neural: NeuralFactorization

    def rows(
        self, side: Side, codes: Int[np.ndarray, " rows"], draws: slice = slice(None)
    ) -> Float[np.ndarray, "draws rows d"]:
        """Rows (bias, factors) at draws; for code -1 a row of the prior."""
        rows = super().rows(side, codes, draws)
        if (codes < 0).any():
            rows[:, codes < 0] = self._unknown[side][draws, None].astype(rows.dtype)
        return rows

    @cached_property
    def _unknown(self) -> dict[Side, Float[np.ndarray, "draws d"]]:
        """A row of each side at every draw, from the prior."""
        width = 1 + int(self.model.num_factors)
        places = normal_points(self.num_draws, 2 * width)
        found: dict[Side, np.ndarray] = {}
        for side, own in zip(SIDES, (places[:, :width], places[:, width:]), strict=True):
            scale = [self.prior_bias_scale(side)[:, None], self._factor_scale(side)]
            found[side] = np.concatenate(scale, axis=1) * own
        return found

    def _factor_scale(self, side: Side) -> Float[np.ndarray, "draws k"]:
        """Prior scale of each factor of a new row; where scales differ by row, their mean square's.

        Raises:
            ValueError: If it was sampled and there are no draws of it.
        """
        name = PRIOR_SCALES[f"{side}_factors"]
        given = getattr(self.model, name)
        if isinstance(given, Distribution) and name in self.samples and self.sites[name].ndim == 3:
            return np.asarray(self.sites[name][:, 0], np.float64)
        shape = (self.num_draws, int(self.model.num_factors))
        return np.broadcast_to(self._scale(name, given)[:, None], shape)

    def repeated(self, times: int) -> "NeuralDraws":
        """The one draw of a point fit as many, which differ in the rows that it does not know."""
        samples = {
            site: np.broadcast_to(value, (1, times, *value.shape[2:]))
            for site, value in self.samples.items()
        }
        return NeuralDraws(self.model, self.data, samples, self.neural)

    def layers_at(self, draw: int) -> dict[str, Array]:
        """Intercept, weights and biases of the network at a draw, on the device."""
        names = ("intercept", *self.neural.layer_shapes)
        return {name: to_device(np.asarray(self.sites[name][draw])) for name in names}

    def scores(
        self, user: Int[np.ndarray, " n"], item: Int[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "draws n"], Float[np.ndarray, "draws n"]]:
        """Scores of pairs at each draw, and zeros: nothing is left to integrate.

        Args:
            user: User codes.
            item: Item codes.

        Returns:
            Both in float64. Cost O(draws n weights) time and O(draws n) memory.
        """
        found = np.empty((self.num_draws, len(user)))
        own, at_user = np.unique(user, return_inverse=True)
        other, at_item = np.unique(item, return_inverse=True)
        step = self._block(len(user))
        for draw in range(self.num_draws):
            here, layers = slice(draw, draw + 1), self.layers_at(draw)
            rows = [
                _padded(self.rows(side, codes, here)[0], power_of_two(len(codes)))
                for side, codes in zip(SIDES, (own, other), strict=True)
            ]
            for start in range(0, len(user), step):
                part = slice(start, min(start + step, len(user)))
                count = part.stop - part.start
                both = [np.pad(x[part], (0, step - count)) for x in (at_user, at_item)]
                scores = _pair_scores(
                    layers, *map(to_device, (*rows, *both)), network=self._canonical
                )
                found[draw, part] = np.asarray(scores)[:count]
        return found, np.zeros_like(found)

    def means(
        self, user: Int[np.ndarray, " users"], item: Int[np.ndarray, " items"]
    ) -> Float[np.ndarray, "users items"]:
        """Expected ratings of all pairs of some rows, averaged over the draws.

        Args:
            user: User codes.
            item: Item codes.

        Returns:
            The table. Cost O(draws users items (k + weights beyond the first layer)); memory is
            that of the table and a bounded amount.
        """
        total = np.zeros((len(user), len(item)))
        scales = self.likelihood_scales()
        step = self._block(len(item))
        for draw in range(self.num_draws):
            here, layers = slice(draw, draw + 1), self.layers_at(draw)
            own = {name: to_device(np.asarray(value[draw])) for name, value in scales.items()}
            users = _padded(self.rows("user", user, here)[0], power_of_two(len(user)))
            items = self.rows("item", item, here)[0]
            for start in range(0, len(item), step):
                part = slice(start, min(start + step, len(item)))
                means = _table_means(
                    layers, own, to_device(users), to_device(_padded(items[part], step)),
                    network=self._canonical,
                )  # fmt: skip
                total[:, part] += np.asarray(means)[: len(user), : part.stop - part.start]
        return total / self.num_draws

    def _block(self, count: int) -> int:
        """Pairs, or items, whose hidden layers are computed at once."""
        widest = max(2 * int(self.neural.num_factors), 1, *self.neural.network.hidden)
        return min(power_of_two(count), max(256, BLOCK_NUMBERS // power_of_two(widest)))

    @cached_property
    def _canonical(self) -> NeuralFactorization:
        return self.neural.canonical()


@dataclass(frozen=True, eq=False)
class Scorer:
    """Where a fit's scores come from: its own draws, and those for rows without ratings.

    A point fit has one draw, at which a row that it does not know would be one row of the prior:
    pairs with such rows are averaged over many of them.

    Args:
        draws: The fit's draws.
        is_point: Whether they are one point.
    """

    draws: NeuralDraws
    is_point: bool

    @cached_property
    def for_strangers(self) -> NeuralDraws:
        """The draws for pairs with rows that are not known."""
        return self.draws.repeated(NUM_STRANGERS) if self.is_point else self.draws

    def codes(self, side: Side, codes: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Codes with -1 for what has the prior; of a point fit all rows without ratings have."""
        return np.where(self.draws.known(side, codes), codes, -1) if self.is_point else codes

    def means(
        self, user: Int[np.ndarray, " users"], item: Int[np.ndarray, " items"]
    ) -> Float[np.ndarray, "users items"]:
        """Expected ratings of all pairs of rows; see `NeuralDraws.means`."""
        user, item = self.codes("user", user), self.codes("item", item)
        if not self.is_point or min(user.min(), item.min()) >= 0:
            return self.draws.means(user, item)
        found = np.empty((len(user), len(item)))
        old_user, old_item = np.flatnonzero(user >= 0), np.flatnonzero(item >= 0)
        if len(old_user) and len(old_item):
            known = self.draws.means(user[old_user], item[old_item])
            found[np.ix_(old_user, old_item)] = known
        # Rows that are not known all have the same expectation.
        if (user < 0).any():
            own, place = np.unique(item, return_inverse=True)
            found[user < 0] = self.for_strangers.means(np.array([-1]), own)[0, place]
        if len(old_user) and (item < 0).any():
            column = self.for_strangers.means(user[old_user], np.array([-1]))
            found[np.ix_(old_user, np.flatnonzero(item < 0))] = column
        return found

    def top(
        self,
        codes: Int[np.ndarray, " lines"],
        items: Int[np.ndarray, " items"],
        k: int,
        exclusions: Exclusions | None,
    ) -> tuple[Int[np.ndarray, "lines k"], Float[np.ndarray, "lines k"]]:
        """Places in `items` of those with the highest expected ratings, and these.

        Args:
            codes: User codes.
            items: Item codes.
            k: How many.
            exclusions: Pairs to leave out, their items as places in `items`.

        Returns:
            Places, -1 where none is left, and expected ratings. By blocks of users, so that memory
            is bounded whatever their number.
        """
        size = min(power_of_two(len(codes)), max(8, BLOCK_SCORES // power_of_two(len(items))))
        places, best = np.empty((len(codes), k), np.int64), np.empty((len(codes), k))
        for start in range(0, len(codes), size):
            part = slice(start, min(start + size, len(codes)))
            means = self.means(codes[part], items)
            places[part], best[part] = top_scores(means, k, exclusions, part, size)
        return places, best


def layer_dims(model: NeuralFactorization) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    """ArviZ's dims of the sites of the layers, and the coordinates of these dims."""
    last = model.layers.num_layers - 1
    names = [f"{NAME}_input", *(f"{NAME}_hidden_{n}" for n in range(last)), f"{NAME}_output"]
    dims = {}
    for site, shape in model.layer_shapes.items():
        place = int(site.rpartition("_")[2])
        dims[site] = names[place : place + 2] if len(shape) == 2 else [names[place + 1]]
    inputs = [f"{side} factor {k}" for side in SIDES for k in range(model.num_factors)]
    hidden = {names[1 + n]: np.arange(width) for n, width in enumerate(model.layers.hidden)}
    return dims, {names[0]: np.asarray(inputs), **hidden, names[-1]: np.asarray(["score"])}


def _padded(rows: np.ndarray, length: int) -> np.ndarray:
    return np.pad(rows, ((0, length - len(rows)), (0, 0)))


@partial(jax.jit, static_argnames="network")
def _pair_scores(
    layers: dict[str, Array], users: Array, items: Array, user: Array, item: Array,
    *, network: NeuralFactorization,
) -> Array:  # fmt: skip
    values = dict(layers)
    for side, rows in (("user", users), ("item", items)):
        values |= {f"{side}_bias": rows[:, 0], f"{side}_factors": rows[:, 1:]}
    pairs = Observations(user, item, None, None, layers["intercept"], len(users), len(items))
    return network.scores(values, pairs)


@partial(jax.jit, static_argnames="network")
def _table_means(
    layers: dict[str, Array], scales: dict[str, Any], users: Array, items: Array,
    *, network: NeuralFactorization,
) -> Array:  # fmt: skip
    scores = network.score_table(layers, users, items)
    return jnp.asarray(network.likelihood.mean(scores, scales))
