"""A mixed model apart from its data: a NumPyro model that hashes by value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from probmf.likelihoods import Likelihood
from probmf.likelihoods.base import likelihood_scales
from probmf.models.mixed.arrays import GroupTerm, MixedData, Mixing, Predictor
from probmf.models.mixed.priors import Prior


@jax.tree_util.register_static
@dataclass(frozen=True)
class MixedProgram:
    """The NumPyro model of all mixed models of one form; a pytree without leaves.

    Attributes:
        likelihood: That of the responses, without its parameters, which are among the data.
        centered: Whether effects are sampled as such, or the sites of those that are.
    """

    likelihood: Any
    centered: bool | tuple[str, ...]

    def sampled_site(self, term: GroupTerm) -> str:
        """The site of a term's effects, or of the standard Normals that its scales multiply."""
        given = self.centered
        as_such = given if isinstance(given, bool) else term.effects_site in given
        return term.effects_site if as_such else f"{term.effects_site}_raw"

    def effect_sites(self, mean: Predictor) -> tuple[str, ...]:
        """Sampled Gaussian sites that enter the linear predictor: coefficients, then effects."""
        coefficients = (mean.site,) if mean.names else ()
        return coefficients + tuple(map(self.sampled_site, mean.groups))

    def __call__(self, data: MixedData) -> Array:
        """The NumPyro model."""
        self._check_centered(data)
        values = self._sample(data.mean, data.priors, data.mixing)
        likelihood = self.likelihood.coded(data.num_levels)
        parameters = self.own_parameters(data)
        if data.cells is not None:
            scale = parameters["noise_scale"]
            numpyro.factor(f"{data.response_name}_within", data.cells.log_factor(scale))
            parameters = {"noise_scale": scale / jnp.sqrt(data.cells.count)}
        with numpyro.plate("observation", data.num_observations):
            return likelihood.observe(
                data.mean(values), data.response, data.weight, parameters, site=data.response_name
            )

    def log_densities(
        self, data: MixedData, scores: Array, parameters: Mapping[str, Array]
    ) -> Float[Array, " n"]:
        """Log densities of the responses at a linear predictor, smooth in it."""
        likelihood: Likelihood = self.likelihood.coded(data.num_levels)
        weight = jnp.ones((), scores.dtype) if data.weight is None else data.weight
        return likelihood.log_density(scores, data.response, weight, parameters)

    def own_parameters(self, data: MixedData) -> dict[str, Array]:
        """The likelihood's own parameters, such as noise scale or cutpoints: samples them."""
        likelihood: Likelihood = self.likelihood.coded(data.num_levels)
        found, sites = {}, list(likelihood.scale_sites())
        if data.noise is not None:
            predictor = data.noise(self._sample(data.noise, data.priors))
            found[likelihood.scale_parameter] = likelihood.from_scale_predictor(predictor)
        others = [site for site in sites if site not in found]
        return found | {site: _sample_or_fixed(site, data.priors[site]) for site in others}

    def parameters_at(self, data: MixedData, values: Mapping[str, Array]) -> dict[str, Array]:
        """The likelihood's own parameters where the sites have values."""
        likelihood: Likelihood = self.likelihood.coded(data.num_levels)
        found = likelihood_scales(likelihood, {**data.priors, **values})
        if data.noise is not None:
            predictor = data.noise(values)
            found[likelihood.scale_parameter] = likelihood.from_scale_predictor(predictor)
        return found

    def coefficients(
        self, predictor: Predictor, priors: Mapping[str, Prior], mixing: Mixing | None = None
    ) -> dict[str, Array]:
        """The coefficients by their site, if there are any: samples them."""
        if not predictor.names:
            return {}
        return {
            predictor.site: _sample_or_fixed(
                predictor.site, self.coefficients_law(predictor, priors, mixing)
            )
        }

    def coefficients_law(
        self, predictor: Predictor, priors: Mapping[str, Prior], mixing: Mixing | None = None
    ) -> Any:
        """Their prior, Normal given what heavy tails are mixed by: samples that."""
        prior: Any = priors[predictor.site]
        if mixing is None:
            return prior
        scale = mixing.widths(prior.scale, _sample_or_fixed(mixing.site, priors[mixing.site]))
        return dist.Normal(prior.loc, scale)

    def scales(
        self, term: GroupTerm, priors: Mapping[str, Prior]
    ) -> tuple[Float[Array, " d"], Float[Array, "d d"] | None]:
        """Scales of a term, and the lower factor of its covariance if it is correlated."""
        scale = _sample_or_fixed(f"{term.name}_scale", priors[f"{term.name}_scale"])
        if not term.correlated:
            return scale, None
        name = f"{term.name}_correlation"
        return scale, scale[:, None] * numpyro.sample(name, priors[name])

    def effects(self, term: GroupTerm, priors: Mapping[str, Prior]) -> Float[Array, "groups d"]:
        """Effects of a term with their scales: samples all of them."""
        scale, root = self.scales(term, priors)
        shape = (term.num_groups, len(term.names))
        site = term.effects_site
        with numpyro.plate(term.plate, term.num_groups):
            if self.sampled_site(term) != site:
                raw = numpyro.sample(
                    self.sampled_site(term), dist.Normal(jnp.zeros(shape), 1.0).to_event(1)
                )
                effects = raw * scale[None, :] if root is None else raw @ root.T
                return numpyro.deterministic(site, effects)
            if root is None:
                # Not spread over the groups: what they share need not be handled for each.
                law = dist.Normal(jnp.zeros(shape), scale[None, :])
                return numpyro.sample(site, law.to_event(1))
            return numpyro.sample(site, dist.MultivariateNormal(jnp.zeros(shape), scale_tril=root))

    def _sample(
        self, predictor: Predictor, priors: Mapping[str, Prior], mixing: Mixing | None = None
    ) -> dict[str, Array]:
        """Coefficients and effects of a predictor."""
        values = self.coefficients(predictor, priors, mixing)
        for term in predictor.groups:
            values[term.effects_site] = self.effects(term, priors)
        return values

    def _check_centered(self, data: MixedData) -> None:
        sites = [term.effects_site for part in data.predictors for term in part.groups]
        given = () if isinstance(self.centered, bool) else self.centered
        unknown = [site for site in given if site not in sites]
        if unknown:
            raise ValueError(
                f"centered holds {unknown[0]!r}, but the sites of effects are: "
                f"{', '.join(map(repr, sites)) or 'none'}."
            )


def _sample_or_fixed(site: str, prior: Prior) -> Array:
    if not isinstance(prior, Distribution):
        return prior
    return numpyro.sample(site, prior.to_event(len(prior.batch_shape)))
