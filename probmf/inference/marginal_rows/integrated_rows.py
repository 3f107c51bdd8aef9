r"""The NumPyro model of what remains when one side's rows are integrated out.

The other side's biases are sampled as levels :math:`c'_n = \mu + c_n`, about which the data say
more than about the two apart, and a learned intercept is integrated out given the levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.sharding import Mesh
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from probmf.backend import uses_loops
from probmf.inference.marginal_rows.evidence import Inputs, draw, rows_evidence
from probmf.inference.marginal_rows.loops import RatingLists, list_ratings, listed_evidence
from probmf.inference.marginal_rows.shards import TileShards, deal_tiles, sharded_evidence
from probmf.inference.marginal_rows.tiles import TileLayout, lay_out
from probmf.models.factorization import MatrixFactorization
from probmf.models.factorization_program import PRIOR_SCALES, FactorizationProgram
from probmf.models.normal_wishart import NormalWishart, sample_scale
from probmf.models.observations import Observations
from probmf.rows.store import SIDES, Side
from probmf.run.compilation import as_tree, quick_jit

#: Site of intercept plus bias of the rows that are left.
LEVEL = "level"
#: Ratings times squares of the moments' size from which loops on a CPU are quicker than a program:
#: with fewer, chains side by side wait for Python's interpreter, which calls the loops.
LEAST_WORK = 2_000_000
#: Numbers drawn at once when rows are drawn back.
DRAWN_AT_ONCE = 20_000_000


class Flat(dist.ImproperUniform):
    """A flat density over the reals that gives zeros for draws, so that the model can be run.

    Args:
        shape: Shape of a value.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        """See the class."""
        super().__init__(dist.constraints.real, (), shape)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Zeros."""
        return jnp.zeros(sample_shape + self.event_shape)


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class RowsMarginal:
    """A Gaussian factorization without one side's rows: a NumPyro model without arguments.

    A pytree, within which the factorization is its program.

    Attributes:
        model: The factorization.
        observations: Its data; within a program their sizes alone.
        side: The side that is integrated out.
        layout: The ratings by that side's rows, or each device's on it.
        lists: The same, where loops on the CPU find the evidence; see `by_loops`.
    """

    model: MatrixFactorization
    observations: Observations
    side: Side
    layout: TileLayout | TileShards
    lists: RatingLists | None = None

    def tree_flatten(self) -> tuple[tuple[Any, ...], Side]:
        """Program and data."""
        sizes = self.observations.without_pairs()
        return (self.program, sizes, self.layout, self.lists), self.side

    @classmethod
    def tree_unflatten(cls, side: Side, parts: tuple[Any, ...]) -> "RowsMarginal":
        """The same with other arrays."""
        model, observations, layout, lists = parts
        return cls(model, observations, side, layout, lists)

    @property
    def program(self) -> FactorizationProgram:
        """The factorization, apart from its data."""
        found: FactorizationProgram = as_tree(self.model)
        return found

    def by_loops(self) -> "RowsMarginal":
        """The same for samplers on a CPU, where it pays: differentiable once, and not batched."""
        work = len(self.observations.user) * (self.model.num_factors + 2) ** 2
        if not uses_loops() or work < LEAST_WORK:
            return self
        return replace(self, lists=list_ratings(self.observations, self.side))

    @property
    def mesh(self) -> Mesh | None:
        """The devices that the rows are dealt out to, if they are."""
        return self.layout.mesh if isinstance(self.layout, TileShards) else None

    def evidence(self, inputs: Inputs) -> Float[Array, ""]:
        """Log density of the ratings with the rows integrated out."""
        if isinstance(self.layout, TileShards):
            return sharded_evidence(self.layout, inputs)
        inputs = inputs.by_row(self.num_rows[self.side])
        if self.lists is None:
            return rows_evidence(self.layout, inputs)
        return listed_evidence(self.lists, inputs)

    @property
    def other(self) -> Side:
        """The side that is left."""
        return "item" if self.side == "user" else "user"

    @property
    def num_rows(self) -> dict[Side, int]:
        """Numbers of rows."""
        return {"user": self.observations.num_users, "item": self.observations.num_items}

    def sites_of(self, side: Side) -> list[str]:
        """The factorization's sites of a side."""
        return [site for site in self.model.site_shapes(1, 1) if site.startswith(side)]

    def __call__(self) -> None:
        """Sample what remains, and score the ratings, in NumPyro's sense."""
        values = {name: sample_scale(name, scale) for name, scale in self.scales().items()}
        rows = self.num_rows[self.other]
        if f"{self.other}_bias" in self.sites_of(self.other):
            flat = Flat((rows,))
            values[LEVEL] = numpyro.sample(LEVEL, flat)
            numpyro.factor("level_prior", self.level_law(values)[0])
        elif self.model.learns_intercept:
            flat = Flat(())
            given = self.program.intercept
            law = dist.Normal(*given) if isinstance(given, tuple) else flat
            values["intercept"] = numpyro.sample("intercept", law)
        if self.model.num_factors:
            site = f"{self.other}_factors"
            scale = jnp.broadcast_to(values[PRIOR_SCALES[site]], (rows,))
            by_row = jnp.broadcast_to(scale[:, None], (rows, self.model.num_factors))
            values[site] = numpyro.sample(site, dist.Normal(0.0, by_row).to_event(2))
        numpyro.factor("evidence", self.evidence(self.inputs(values)))

    def scales(self) -> dict[str, Any]:
        """Every scale that the model uses, by name: numbers, arrays or distributions."""
        names = [PRIOR_SCALES[site] for site in self.model.site_shapes(1, 1)]
        scales = self.program.scales
        return {name: scales[name] for name in (*names, "noise_scale")}

    def inputs(self, values: Mapping[str, Array]) -> Inputs:
        """The evidence's inputs from values by site."""
        level = values[LEVEL] if LEVEL in values else self._intercept(values)
        own = {site: values[PRIOR_SCALES[site]] for site in self.sites_of(self.side)}
        return Inputs(
            level=jnp.broadcast_to(level, (self.num_rows[self.other],)),
            factors=values.get(f"{self.other}_factors"),
            bias_scale=own.get(f"{self.side}_bias"),
            factor_scale=own.get(f"{self.side}_factors"),
            noise_scale=values["noise_scale"],
        )

    def _intercept(self, values: Mapping[str, Array]) -> Array:
        fixed = self.model.fixed_intercept(self.observations.base_score)
        return values.get("intercept", fixed)

    def level_law(self, values: Mapping[str, Array]) -> tuple[Array, Array, Array]:
        r"""The levels' log prior with the intercept integrated out, and the intercept given them.

        .. math:: p(c') = \int p(\mu) \prod_n N(c'_n; \mu, s_n^2)\, d\mu

        Args:
            values: Levels and scales by site.

        Returns:
            The log prior, and the mean and standard deviation of the intercept.
        """
        level = values[LEVEL]
        scale = jnp.broadcast_to(values[PRIOR_SCALES[f"{self.other}_bias"]], level.shape)
        if not self.model.learns_intercept:
            fixed = self.model.fixed_intercept(self.observations.base_score)
            return jnp.sum(dist.Normal(fixed, scale).log_prob(level)), fixed, jnp.zeros_like(fixed)
        center, precision = self.model.intercept_prior()
        weight = 1.0 / jnp.square(scale)
        total = precision + jnp.sum(weight)
        mean = (precision * center + jnp.sum(weight * level)) / total
        sd = 1.0 / jnp.sqrt(total)
        log_prior = jnp.sum(dist.Normal(mean, scale).log_prob(level))
        log_prior = log_prior - dist.Normal(mean, sd).log_prob(mean)
        if precision > 0:
            prior = dist.Normal(jnp.asarray(center, mean.dtype), precision**-0.5)
            log_prior = log_prior + prior.log_prob(mean)
        return log_prior, mean, sd

    def recover(
        self, key: Array, samples: Mapping[str, np.ndarray], *, rows: bool = True
    ) -> dict[str, np.ndarray]:
        """Draw what was integrated out from its exact conditional, for each draw of the rest.

        Args:
            key: JAX key.
            samples: Draws of this model's sites, (chain, draw, ...).
            rows: Whether to draw the rows, too, and not only the intercept.

        Returns:
            The factorization's sites and sampled scales, (chain, draw, ...).
        """
        count = int(np.prod(next(iter(samples.values())).shape[:2]))
        return self.recover_each(jax.random.split(key, count), samples, rows=rows)

    def recover_each(
        self, keys: Array, samples: Mapping[str, np.ndarray], *, rows: bool = True
    ) -> dict[str, np.ndarray]:
        """`recover` with a key for each draw, (chain * draw,)."""
        kept = {name: np.asarray(value) for name, value in samples.items()}
        latent = {name: kept[name] for name in self._latent() if name in kept}
        lead = next(iter(latent.values())).shape[:2]
        flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in latent.items()}
        count = lead[0] * lead[1]
        width = sum(self.num_rows[side] for side in SIDES) * (self.model.num_factors + 1)
        step = max(1, min(count, DRAWN_AT_ONCE // width))
        draw, pieces = quick_jit(RowsMarginal._draw_all, static_argnums=1), []
        for begin in range(0, count, step):
            # A last short piece would be a program of its own.
            at = np.minimum(np.arange(begin, begin + step), count - 1)
            some = {name: jnp.asarray(value[at]) for name, value in flat.items()}
            piece = draw(self, rows, (keys[at], some))
            pieces.append({n: np.asarray(v)[: count - begin] for n, v in piece.items()})
        found = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        found |= {name: value for name, value in flat.items() if name != LEVEL}
        return {name: value.reshape(*lead, *value.shape[1:]) for name, value in found.items()}

    def _latent(self) -> list[str]:
        random = [n for n, scale in self.scales().items() if isinstance(scale, Distribution)]
        return [*random, LEVEL, "intercept", f"{self.other}_factors"]

    def _draw_all(self, rows: bool, given: tuple[Array, Mapping[str, Array]]) -> dict[str, Array]:
        return jax.lax.map(partial(self._draw, rows), given)

    def _draw(self, rows: bool, given: tuple[Array, Mapping[str, Array]]) -> dict[str, Array]:
        key, latent = given
        fixed = {n: s for n, s in self.scales().items() if not isinstance(s, Distribution)}
        dtype = jnp.result_type(float)
        values = {name: jnp.asarray(scale, dtype) for name, scale in fixed.items()} | dict(latent)
        first, second = jax.random.split(key)
        found = {"intercept": self._intercept(values)}
        if LEVEL in values:
            _, mean, sd = self.level_law(values)
            found["intercept"] = mean + sd * jax.random.normal(first, (), mean.dtype)
            found[f"{self.other}_bias"] = values[LEVEL] - found["intercept"]
        return found | (self.draw_rows(second, self.inputs(values)) if rows else {})

    def draw_rows(self, key: Array, inputs: Inputs) -> dict[str, Float[Array, "rows ..."]]:
        """Draw the rows from their exact conditional; those without ratings from their prior."""
        rows = self.num_rows[self.side]
        size = (inputs.bias_scale is not None) + self.model.num_factors
        noise = jax.random.normal(key, (rows + 1, size), inputs.level.dtype)
        if isinstance(self.layout, TileShards):
            effects = self.layout.draw(inputs, noise)
        else:
            effects = draw(self.layout, inputs.by_row(rows), noise[:-1])
        found = {}
        if inputs.bias_scale is not None:
            found[f"{self.side}_bias"], effects = effects[:, 0], effects[:, 1:]
        if self.model.num_factors:
            found[f"{self.side}_factors"] = effects
        return found


def rows_marginal(
    model: MatrixFactorization,
    observations: Observations,
    sites: Sequence[str],
    mesh: Mesh | None = None,
) -> RowsMarginal | None:
    """The model with one side's rows integrated out, if the named sites are just that.

    Args:
        model: The factorization.
        observations: Its data.
        sites: Names of the sites to integrate out.
        mesh: Devices to deal the rows out to; None has all on JAX's default one.

    Returns:
        The model, or None where only the general transform can do it.

    Raises:
        ValueError: If the ratings are not Gaussian, or factors of both sides are named.
    """
    if not model.likelihood.quadratic:
        raise ValueError(
            f"marginalize names {', '.join(map(repr, sites))}, but the likelihood is "
            f"{model.likelihood!r}; rows can be integrated out exactly under a Gaussian likelihood "
            "only. Leave marginalize out, or use Gaussian(noise_scale)."
        )
    if {"user_factors", "item_factors"} <= set(sites):
        raise ValueError(
            "marginalize names 'user_factors' and 'item_factors'; the score has their product, so "
            "only one side can be integrated out exactly. Name the sites of the side with more "
            "rows."
        )
    # Means and covariances of whole sides are left to the transform of any model.
    wishart = any(isinstance(s, NormalWishart) for s in (model.user_scale, model.item_scale))
    if model.unobserved_weight > 0 or model.mean_sides or wishart or len(set(sites)) != len(sites):
        return None
    for side in SIDES:
        if set(sites) == {site for site in model.site_shapes(1, 1) if site.startswith(side)}:
            layout = (
                lay_out(observations, side)
                if mesh is None
                else deal_tiles(observations, side, mesh)
            )
            return RowsMarginal(model, observations, side, layout)
    return None
