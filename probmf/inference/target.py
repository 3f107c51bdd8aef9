"""Target of a method: any model of the package, effects integrated out or not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from probmf.data import Ratings
from probmf.data.tables import own_copy
from probmf.inference.drawn_back import SiteArrays, drawn_back
from probmf.inference.marginal import MarginalModel, marginalize
from probmf.inference.marginal.captured_arrays import fresh_arrays
from probmf.inference.marginal.lost_digits import lost_digits_of_draws
from probmf.inference.marginal.prepared_model import PreparedModel
from probmf.inference.marginal_rows import RowsMarginal, rows_marginal
from probmf.inference.mixed.exact_fit import refuse_exact_fit
from probmf.models import MatrixFactorization, MixedEffects, Network
from probmf.models.mixed.design import Design
from probmf.results import MixedFit, NetworkFit, RatingsFit

#: Draws of all chains together whose effects are drawn back by one call.
DRAWN_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Target:
    """A NumPyro model and where it comes from.

    Attributes:
        source: The model as it was given.
        data: Its data as they were given.
        design: The design of a mixed model, else None.
        model: The NumPyro model to fit, without the effects that are integrated out.
        arguments: Arguments of the model as it was given.
        sites: The sites that are integrated out.
    """

    source: Any
    data: Any
    design: Design | None
    model: Any
    arguments: tuple[Any, ...]
    sites: tuple[str, ...]

    @classmethod
    def build(
        cls, source: Any, data: Any, chosen: Sequence[str] | str = (), mesh: Mesh | None = None
    ) -> "Target":
        """The target that the arguments of a method ask for.

        `chosen` is the argument `marginalize`: names of effect sites to integrate out, or "all".
        Rows of a factorization that are integrated out are dealt out to `mesh`.

        Raises:
            TypeError: If model or data are of the wrong type.
            ValueError: If a site is unknown or can't be integrated out, or a mixed model's columns
                and effects leave no noise.
        """
        if not isinstance(chosen, str | Sequence):
            raise TypeError(
                f"marginalize is {chosen!r}; expected the name of a site, a list of names, or for "
                "a mixed model 'all'. Leave it out to integrate nothing out."
            )
        design: Design | None = None
        allowed: tuple[str, ...] = ()
        also = ""
        if isinstance(source, MixedEffects):
            design = source.design(data)
            refuse_exact_fit(source, design)
            arguments: Any = source.arguments(design, join=True)
            allowed, also = source.effect_sites(design), "'all' or "
        elif isinstance(source, MatrixFactorization):
            if not isinstance(data, Ratings):
                raise TypeError(f"data is of type {type(data).__name__}; expected Ratings.")
            arguments, allowed = source.arguments(data), tuple(source.site_shapes(1, 1))
        else:
            source.layers.check_trainable()
            if len(chosen):
                raise ValueError(
                    f"marginalize is {chosen!r}, but the weights of a network are all sampled; "
                    "leave it out."
                )
            arguments = source.arguments(data)
        sites = (chosen,) if isinstance(chosen, str) else tuple(chosen)
        if sites == ("all",) and design is not None:
            sites = allowed
        for site in sites:
            if site not in allowed:
                raise ValueError(
                    f"marginalize names {site!r}; expected {also}any of "
                    f"{', '.join(map(repr, allowed))}."
                )
        arguments = fresh_arrays(arguments)
        model = source
        if sites:
            by_rows = None
            if isinstance(source, MatrixFactorization):
                # All rows of one side have derivatives written for them.
                by_rows = rows_marginal(source, arguments[0], sites, mesh)
            model = marginalize(source, sites) if by_rows is None else by_rows
        return cls(source, data, design, model, arguments, sites)

    @property
    def told(self) -> tuple[Any, ...]:
        """Program, arguments and sites, which checkpoints are told apart by."""
        program = self.source if isinstance(self.source, Network) else self.source.program
        return program, self.arguments, self.sites

    @property
    def args(self) -> tuple[Any, ...]:
        """Arguments of the model to fit."""
        return () if isinstance(self.model, RowsMarginal) else self.arguments

    def by_loops(self) -> "Target":
        """The same for samplers, which ask for one gradient at a time."""
        if isinstance(self.model, RowsMarginal):
            return replace(self, model=self.model.by_loops())
        return self

    @cached_property
    def prepared(self) -> PreparedModel | None:
        """Structure of the effects that are integrated out, unless they are a side's rows."""
        if isinstance(self.model, MarginalModel):
            return self.model.prepare(*self.args)
        return None

    def with_effects(self, samples: SiteArrays, keys: Array, *, recover: bool = True) -> SiteArrays:
        """Draws by site with what was integrated out drawn back.

        Draws are (chain, draw, ...), with a key for each. Without `recover` only the intercept
        beside a side's rows is drawn back.
        """
        lead, keys = keys.shape, keys.reshape(-1)
        if isinstance(self.model, RowsMarginal):
            return self.model.recover_each(keys, samples, rows=recover)
        if self.prepared is None or not recover:
            return dict(samples)
        latents = {
            name: jnp.asarray(samples[name]).reshape(-1, *shape)
            for name, shape in self.prepared.latent_shapes.items()
        }
        _, effects = self.prepared.draw_all(latents, keys)
        return dict(samples) | {
            name: np.asarray(value).reshape(*lead, *value.shape[1:])
            for name, value in effects.items()
        }

    def drawn_back(self, samples: SiteArrays, key: Array) -> SiteArrays:
        """The same for all draws: after an interruption for the first of them."""
        if not self.sites:
            return samples
        chains, draws = next(iter(samples.values())).shape[:2]
        keys = jax.random.split(key, (chains, draws))
        return drawn_back(
            lambda at: self.with_effects({n: v[:, at] for n, v in samples.items()}, keys[:, at]),
            draws, max(1, DRAWN_AT_ONCE // chains),
        )  # fmt: skip

    def lost_digits(self, samples: SiteArrays) -> str:
        """A sentence where rounding leaves too little of the density at the draws, else empty."""
        return "" if self.prepared is None else lost_digits_of_draws(self.prepared, samples)

    def fit(self, samples: SiteArrays, method: str, **record: Any) -> Any:
        """The result class of the model, with these draws.

        `record` is history, sampling, or what else a fit keeps.
        """
        if self.design is not None:
            data = own_copy(self.data)
            return MixedFit(self.source, self.design, samples, method, data=data, **record)
        family: Any = NetworkFit if isinstance(self.source, Network) else RatingsFit
        return family(self.source, self.data, samples, method, **record)
