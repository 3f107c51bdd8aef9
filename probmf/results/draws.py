"""Rows and scores of a factorization at draws of its parameters; a point is one draw."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpyro.distributions import Distribution

from probmf.data import Ratings
from probmf.models.factorization import MatrixFactorization
from probmf.models.factorization_program import PRIOR_SCALES
from probmf.models.row_means import RowMean
from probmf.rows.store import SIDES, Side


def row_centers(
    mean: RowMean, weights: Mapping[str, np.ndarray], codes: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, "draws rows d"]:
    """Prior means of rows at many draws of the weights; the bias is zero where there is none."""
    own = {site: jnp.asarray(weights[site]) for site in mean.shapes}
    return np.asarray(_centers(own, mean.at(jnp.asarray(codes))))


@jax.jit
def _centers(weights: dict[str, Array], mean: RowMean) -> Array:
    return jax.lax.map(partial(_center, mean), weights)


def _center(mean: RowMean, weights: Mapping[str, Array]) -> Array:
    outputs = mean.layers.apply(mean.name, weights, mean.features)
    return outputs if mean.has_bias else jnp.pad(outputs, ((0, 0), (1, 0)))


def stranger_moments(
    mean: RowMean, weights: Mapping[str, np.ndarray]
) -> tuple[Float[np.ndarray, "draws d"], Float[np.ndarray, "draws d d"]]:
    """Mean and covariance of f over the rows at each draw: all that is known of a stranger."""
    own = {site: jnp.asarray(weights[site]) for site in mean.shapes}
    center, covariance = _moments(own, mean)
    return np.asarray(center, np.float64), np.asarray(covariance, np.float64)


@jax.jit
def _moments(weights: dict[str, Array], mean: RowMean) -> tuple[Array, Array]:
    def one(own: dict[str, Array]) -> tuple[Array, Array]:
        rows = _center(mean, own)
        center = jnp.mean(rows, axis=0)
        apart = rows - center[None]
        return center, apart.T @ apart / len(rows)

    return jax.lax.map(one, weights)


@dataclass(frozen=True, eq=False)
class Draws:
    r"""Scores :math:`\mu + b + c + u \cdot v` at each draw, chains joined.

    Code -1 stands for a row that the fit does not know. At each draw it has that draw's prior, so
    that the score is Normal about that of a row of zeros; with features, which of such a row are
    not known, about the average of the prior means, whose covariance adds to the prior's.
    """

    model: MatrixFactorization
    data: Ratings
    samples: Mapping[str, np.ndarray]

    @property
    def num_draws(self) -> int:
        """Number of draws of all chains."""
        first = next(iter(self.samples.values()))
        return int(first.shape[0] * first.shape[1])

    @cached_property
    def sites(self) -> dict[str, Float[np.ndarray, "draws ..."]]:
        """Draws by site, chains joined, fixed ones repeated; rows that are missing are refused."""
        sites = {name: value.reshape(-1, *value.shape[2:]) for name, value in self.samples.items()}
        wanted = self.model.site_shapes(self.data.num_users, self.data.num_items)
        missing = [site for site in wanted if site not in sites]
        if missing:
            raise ValueError(
                f"The fit has no draws of {' and '.join(missing)}: the sampler integrated them out "
                "and did not draw them afterwards. Predictions need them; sample again and have "
                "them recovered."
            )
        if "intercept" not in sites:
            counted = self.data.counted
            base = self.model.likelihood.base_score(counted.rating, counted.weight)
            fixed = np.asarray(self.model.fixed_intercept(base))
            sites["intercept"] = np.broadcast_to(fixed, self.num_draws)
        return sites

    def known(self, side: Side, codes: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """True where rows have a rating in the fit (one of weight zero is none)."""
        return (codes >= 0) & self._rated[side][codes]

    @cached_property
    def _rated(self) -> dict[Side, Bool[np.ndarray, " rows"]]:
        counted = self.data.counted
        return {"user": counted.user_degree > 0, "item": counted.item_degree > 0}

    def likelihood_scales(
        self, draws: slice = slice(None)
    ) -> dict[str, Float[np.ndarray, "draws ..."]]:
        """The likelihood's own parameters at draws, by name."""
        given = self.model.likelihood.scale_sites()
        return {name: self._at(name, value, draws) for name, value in given.items()}

    def prior_scale(self, site: str, draws: slice = slice(None)) -> Float[np.ndarray, "draws r c"]:
        """Prior scales of a site at draws; one number stands for rows or columns that are alike."""
        name = PRIOR_SCALES[site]
        scale = self._at(name, getattr(self.model, name), draws)
        return scale if scale.ndim == 3 else scale.reshape(len(scale), -1, 1)

    def prior_variance(
        self, side: Side, codes: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "draws r d"]:
        """Prior variances of rows at each draw; one row stands for all unless they differ."""
        parts, widths = [], (1, int(self.model.num_factors))
        for site in (f"{side}_bias", f"{side}_factors"):
            scale = np.ones((self.num_draws, 1, 1))
            full = site.endswith("factors") and f"{side}_precision" in self.samples
            if site in self.sites and not full:
                scale = self.prior_scale(site)
                scale = scale[:, codes] if scale.shape[1] > 1 else scale
            parts.append(np.square(scale))
        shape = np.broadcast_shapes(*(part.shape[:2] for part in parts))
        wide = [np.broadcast_to(p, (*shape, w)) for p, w in zip(parts, widths, strict=True)]
        return np.concatenate(wide, axis=2)

    def _at(self, name: str, given: object, draws: slice) -> Float[np.ndarray, "draws ..."]:
        """A parameter at draws; what the model has fixed is repeated."""
        if name in self.samples:
            return np.asarray(self.sites[name][draws], np.float64)
        if isinstance(given, Distribution):
            raise ValueError(
                f"{name} has a prior distribution in the model, but the fit has no draws of it; "
                "they belong in samples."
            )
        fixed = np.asarray(given, np.float64)
        return np.broadcast_to(fixed, (len(range(self.num_draws)[draws]), *fixed.shape))

    @cached_property
    def functions(self) -> dict[Side, RowMean]:
        """Prior means as functions of features, of the sides that have one."""
        model = self.model
        return model.row_means(model.encode(self.data)) if model.mean_sides else {}

    @cached_property
    def strangers(self) -> dict[Side, tuple[np.ndarray, np.ndarray]]:
        """Mean and covariance of the prior means over the rows at each draw."""
        return {side: stranger_moments(mean, self.sites) for side, mean in self.functions.items()}

    def centers(
        self, side: Side, codes: Int[np.ndarray, " rows"], draws: slice
    ) -> Float[np.ndarray, "draws rows d"] | None:
        """Prior means of rows from their features at draws, or None where they are zero."""
        if side not in self.functions:
            return None
        mean = self.functions[side]
        return row_centers(mean, {name: self.sites[name][draws] for name in mean.shapes}, codes)

    def new_roots(self, side: Side) -> Float[np.ndarray, "draws d d"]:
        """Roots R of the covariances R R' of a row that is not known, (bias, factors), by draw."""
        roots = self.prior_roots(side)
        if side not in self.strangers:
            return roots
        covariance = roots @ np.swapaxes(roots, 1, 2) + self.strangers[side][1]
        values, vectors = np.linalg.eigh(covariance)
        return vectors * np.sqrt(np.maximum(values, 0.0))[:, None]

    def prior_roots(self, side: Side) -> Float[np.ndarray, "draws d d"]:
        """Roots R of the prior covariances R R' of a row about its mean, at each draw.

        Zero for a bias that is left out. Where scales differ by row, they are the root of their
        mean square.
        """
        k = int(self.model.num_factors)
        roots = np.zeros((self.num_draws, 1 + k, 1 + k))
        if f"{side}_bias" in self.sites:
            square = np.square(self.prior_scale(f"{side}_bias"))
            roots[:, 0, 0] = np.sqrt(np.mean(square, axis=(1, 2)))
        if f"{side}_precision" in self.sites:
            lower = np.linalg.cholesky(np.asarray(self.sites[f"{side}_precision"], np.float64))
            roots[:, 1:, 1:] = np.swapaxes(np.linalg.inv(lower), 1, 2)
        elif k:
            square = np.square(self.prior_scale(f"{side}_factors"))
            roots[:, 1:, 1:] = np.sqrt(np.mean(square, axis=1, keepdims=True)) * np.eye(k)
        return roots

    def rows(
        self, side: Side, codes: Int[np.ndarray, " rows"], draws: slice = slice(None)
    ) -> Float[np.ndarray, "draws rows d"]:
        """Rows (bias, factors) at draws; for code -1 the prior mean of a row that is not known."""
        parts = []
        for site in (f"{side}_bias", f"{side}_factors"):
            if site in self.sites:
                values = np.take(self.sites[site][draws], np.maximum(codes, 0), axis=1)
                parts.append(values.reshape(*values.shape[:2], -1))
            elif site.endswith("bias"):
                parts.append(np.zeros((len(self.sites["intercept"][draws]), len(codes), 1), "f4"))
        rows = np.concatenate(parts, axis=2)
        rows[:, codes < 0] = 0.0
        if f"{side}_mean" in self.sites and (codes < 0).any():
            rows[:, codes < 0, 1:] = self.sites[f"{side}_mean"][draws][:, None]
        if side in self.functions and (codes < 0).any():
            rows[:, codes < 0] += self.strangers[side][0][draws][:, None].astype(rows.dtype)
        return rows

    def scores(
        self, user: Int[np.ndarray, " n"], item: Int[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "draws n"], Float[np.ndarray, "draws n"]]:
        """Means of the scores of pairs at each draw, and variances, which only new rows have."""
        mean = np.empty((self.num_draws, len(user)))
        variance = np.zeros_like(mean)
        new_user, new_item = user < 0, item < 0
        # Rows are gathered once each, since pairs share them.
        own, at_user = np.unique(user, return_inverse=True)
        other, at_item = np.unique(item, return_inverse=True)
        for draw in range(self.num_draws):
            here = slice(draw, draw + 1)
            x, y = (
                self.rows("user", own, here)[0][at_user],
                self.rows("item", other, here)[0][at_item],
            )
            products = np.einsum("nd,nd->n", x[:, 1:], y[:, 1:])
            mean[draw] = np.float64(self.sites["intercept"][draw]) + x[:, 0] + y[:, 0] + products
            if new_user.any() or new_item.any():
                variance[draw] = self._new_variance(draw, x, y, new_user, new_item)
        return mean, variance

    def _new_variance(
        self, draw: int, x: np.ndarray, y: np.ndarray, new_user: np.ndarray, new_item: np.ndarray
    ) -> np.ndarray:
        root, own_root = self._new["user"][draw], self._new["item"][draw]
        # A row's design is (1, factors) of the other.
        designs = (np.hstack([np.ones((len(own), 1)), own[:, 1:]]) for own in (y, x))
        of_user, of_item = (
            np.square(design @ own).sum(axis=1)
            for design, own in zip(designs, (root, own_root), strict=True)
        )
        both = np.square(root[1:].T @ own_root[1:]).sum()
        return new_user * of_user + new_item * of_item + (new_user & new_item) * both

    @cached_property
    def _new(self) -> dict[Side, Float[np.ndarray, "draws d d"]]:
        return {side: self.new_roots(side) for side in SIDES}
