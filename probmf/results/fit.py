"""Base class of fits: draws by site name, checked, counted, saved and shown."""

from collections.abc import Mapping
from dataclasses import fields
from os import PathLike
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Shaped

from probmf import html
from probmf.data import as_generator, wrap_words
from probmf.likelihoods.base import BaseLikelihood
from probmf.models.sites import Sites
from probmf.results.arviz_tree import arviz_tree, at_draws, draw_prior
from probmf.results.arviz_tree import log_prior as log_prior_at
from probmf.results.asked import check_num_draws
from probmf.results.prediction_intervals import Mixtures
from probmf.results.records import History, Pickled, Sampling, frozen
from probmf.results.storage import write_fit
from probmf.settings import own_settings


def checked_samples(
    samples: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], *, of: str = ""
) -> Mapping[str, Float[np.ndarray, "chain draw ..."]]:
    """Draws, frozen, that fit the model's sites.

    Shapes are without chain and draw. `of` says in messages what all these sites are for; then
    there may be others. Without it some may be missing, and there may be no others.
    """
    checked = frozen(samples)
    if not checked:
        raise ValueError("samples is empty; expected draws by site name.")
    unknown = [site for site in checked if site not in shapes]
    if unknown and not of:
        raise ValueError(
            f"samples holds {unknown[0]!r}, which is no site of the model; its sites are "
            f"{', '.join(map(repr, shapes))}."
        )
    leading = next((checked[site].shape[:2] for site in shapes if site in checked), ())
    for site, shape in shapes.items():
        if site not in checked and not of:
            continue
        got = checked[site].shape if site in checked else None
        if got != (*leading, *shape) or len(leading) != 2 or 0 in leading:
            raise ValueError(
                f"{site} has shape {got}, expected (chains, draws"
                f"{''.join(f', {size}' for size in shape)}){of}, the first two as in all sites."
            )
        if not np.isfinite(checked[site]).all():
            raise ValueError(f"{site} is not finite everywhere, so nothing can be predicted.")
    return checked


class Fit(Pickled):
    """A fit of any kind; a point fit is a posterior with one draw.

    Attributes:
        model: The model that was fitted.
        data: The training data.
        samples: Parameters by site name, each with leading (chain, draw) axes.
        method: How it was fitted, such as "als/cg".
        sampling: How a sampler's run went, or None.
        history: How an optimizer's search went, or None.
    """

    model: Any
    data: Any
    method: str
    history: History | None
    samples: Mapping[str, Float[np.ndarray, "chain draw ..."]]
    sampling: Sampling | None

    def __post_init__(self) -> None:
        """Check the draws against the model and freeze them."""
        samples = checked_samples(self.samples, self.site_shapes, of=self._sites_of)
        if self.sampling is not None:
            self.sampling.check_draws(*next(iter(samples.values())).shape[:2])
        object.__setattr__(self, "samples", samples)

    @property
    def _sites_of(self) -> str:
        """Purpose that needs all sites, for messages; empty where some may be missing."""
        return ""

    @property
    def site_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of all sites but the response, without chain and draw."""
        raise NotImplementedError

    @property
    def num_chains(self) -> int:
        """Number of chains."""
        return int(next(iter(self.samples.values())).shape[0])

    @property
    def num_draws(self) -> int:
        """Draws per chain."""
        return int(next(iter(self.samples.values())).shape[1])

    @property
    def is_point(self) -> bool:
        """True for a point fit: one draw, and not that of a sampler."""
        return self.sampling is None and (self.num_chains, self.num_draws) == (1, 1)

    @property
    def _model_words(self) -> str:
        """The model in a few words."""
        raise NotImplementedError

    @property
    def _data_words(self) -> str:
        """The training data in a few words."""
        raise NotImplementedError

    @property
    def _draws_words(self) -> str:
        """Number of draws and what was found of them; empty for a point."""
        told = "" if self.is_point else f"{self.num_chains} chains of {self.num_draws:,} draws"
        if self.sampling is None:
            return told
        if self.sampling.is_independent:
            told = f"{self.num_chains * self.num_draws:,} independent draws"
        if self.sampling.verdict:
            told += f", {self.sampling.verdict}"
        return told if self.sampling.complete else told + ", incomplete"

    def _facts(self) -> dict[str, str]:
        """Words about the fit, by what they are about."""
        facts = {"method": self.method, "model": self._model_words, "data": self._data_words}
        if self.history is not None and len(self.history):
            facts["search"] = self.history.words
        return facts | ({"draws": self._draws_words} if self._draws_words else {})

    def __repr__(self) -> str:
        """One line: what was fitted to what, and how."""
        method, model, *others = self._facts().values()
        return f"{type(self).__name__}({'; '.join([f'{method}: {model}', *others])})"

    def _repr_html_(self) -> str:
        """The same for notebooks, with the time that it took."""
        facts = self._facts()
        seconds = self.history.seconds[-1:].sum() if self.history is not None else 0.0
        seconds = seconds if self.sampling is None else self.sampling.seconds
        return html.facts(facts | ({"time": f"{seconds:.3g} s"} if seconds else {}))

    def point(self) -> dict[str, np.ndarray]:
        """Parameters of a point fit by site name, without chain and draw axes.

        Raises:
            ValueError: If there are several draws.
        """
        if (self.num_chains, self.num_draws) != (1, 1):
            raise ValueError(
                f"The fit has {self.num_chains} chains of {self.num_draws} draws and hence no "
                "point; see samples."
            )
        return {name: value[0, 0] for name, value in self.samples.items()}

    def save(self, path: str | PathLike[str], *, shared: bool = False) -> None:
        """Write the fit and its training data to a directory: JSON, safetensors, Parquet.

        Nothing is pickled; `probmf.load` reads it.

        Args:
            path: Directory to make; a saved fit that is there is replaced.
            shared: Whether all processes of a shared fit make this call (`docs/processes.md`): each
                writes its own range of rows then, and any number of processes can load the fit.

        Raises:
            ValueError: If a prior, an id, a column or a label has no faithful file form.
            FileExistsError: If `path` exists and is not a saved fit, or holds other files as well.
            ConnectionError: If another of these processes has ended.
        """
        write_fit(path, type(self).__name__, self._fields(), shared=shared)

    def _fields(self) -> dict[str, Any]:
        """Fields that the class is made of again."""
        return {own.name: getattr(self, own.name) for own in fields(self)}  # type: ignore[arg-type]

    @own_settings()
    def to_arviz(
        self,
        *,
        posterior_predictive: bool = False,
        log_likelihood: bool | ArrayLike = False,
        prior: int = 0,
        log_prior: bool = False,
        key: ArrayLike | None = None,
    ) -> Any:
        """The fit as an ArviZ DataTree, with the user's own ids, levels and names as coordinates.

        A point fit is no sample of a posterior, so its group is called `point`: plots take it
        with `group="point"`.

        Args:
            posterior_predictive: Whether to draw a response of each training row at each draw
                (which needs a key); classes are codes.
            log_likelihood: Whether to compute the log density of each training row at each draw; or
                log densities of shape (chain, draw, ...) to put there, such as those of
                `probmf.inference.mixed.leave_one_out.leave_one_out`, by row or by group.
            prior: How many draws of the prior to make (which needs a key): groups `prior`, and
                `prior_predictive` with a response of each training row.
            log_prior: Whether to compute the log density of each site's prior, given those above
                it, at each draw: one number a site, as for prior sensitivity by power scaling.
            key: JAX key or int.

        Returns:
            Groups `posterior` (`point` for a point fit, with chain and draw of length one),
            `observed_data`, `sample_stats` if the sampler has any, and those that were asked for.
            Independent draws are laid out as four chains (or three or two, whatever divides their
            number). Of ratings coordinates `rated_user` and `rated_item` of `observed_data` say
            whose each is.

        Raises:
            ValueError: If a key is missing, or draws of what is needed, or a prior is flat.

        Memory: that of the result, draws x rows, and a bounded amount besides.
        """
        check_num_draws("prior", prior)
        if (posterior_predictive or prior) and key is None:
            what = "posterior_predictive=True" if posterior_predictive else f"prior={prior}"
            raise ValueError(f"{what} draws at random; give key=, a JAX key or an int.")
        rng = None if key is None else as_generator(key)
        sites, response = self._sites(), self._response_name
        groups: dict[str, Any] = {
            "point" if self.is_point else "posterior": sites.named(self.samples)
        }
        if posterior_predictive and rng is not None:
            groups["posterior_predictive"] = {response: self._at_draws(rng)}
        if prior and rng is not None:
            drawn = self._prior_draws(rng, prior)
            groups["prior_predictive"] = {response: drawn.pop(response)}
            groups["prior"] = sites.named(drawn)
        if isinstance(log_likelihood, bool | np.bool_):
            if log_likelihood:
                groups["log_likelihood"] = {response: self._at_draws(None)}
        else:
            values, shape = np.asarray(log_likelihood), (self.num_chains, self.num_draws)
            if values.ndim < 2 or values.shape[:2] != shape:
                raise ValueError(
                    f"log_likelihood has shape {values.shape}; expected True, False, or log "
                    f"densities with leading axes {shape}, the fit's chains and draws."
                )
            of_rows = values.shape[2:] == self._observed().shape
            groups["log_likelihood"] = {response if of_rows else f"{response}_by_group": values}
        observed = {response: self._observed()}
        own = self._log_prior() if log_prior else None
        tree = arviz_tree(groups, observed, sites, self.sampling, self.method, own)
        data = tree["observed_data"]
        data.dataset = data.to_dataset().assign_coords(self._observed_coords())
        return tree

    @own_settings(True)  # Responses may lie far from zero.
    def _log_prior(self) -> dict[str, Float[np.ndarray, "chain draw"]]:
        """Log densities of the sites' priors at the draws."""
        return log_prior_at(self.model, self._arguments(), self.samples)

    @own_settings(True)
    def _prior_draws(
        self, rng: np.random.Generator, count: int
    ) -> dict[str, Shaped[np.ndarray, "chain draw ..."]]:
        """Draws of sites and responses from the prior."""
        words = jnp.asarray(rng.integers(2**32, size=2, dtype=np.uint32))
        found = draw_prior(self.model, self._arguments(), count, wrap_words(words))
        known = self._sites().dims
        return {name: value for name, value in found.items() if name in known}

    def _arguments(self) -> tuple[Any, ...]:
        """Arguments of the NumPyro model."""
        found: tuple[Any, ...] = self.model.arguments(self.data)
        return found

    @property
    def _response_name(self) -> str:
        """Name of the observed site."""
        raise NotImplementedError

    def _refuse_bounds(self) -> None:
        """Refuse to compare responses of which some are bounds."""

    def _sites(self) -> Sites:
        """Dimensions of the sites, and their coordinates."""
        raise NotImplementedError

    def _observed(self) -> np.ndarray:
        """The training responses."""
        raise NotImplementedError

    def _observed_coords(self) -> dict[str, tuple[str, np.ndarray]]:
        """Coordinates of the training responses, each with its dimension."""
        return {}

    def _training_scores(self) -> tuple[BaseLikelihood, Mixtures, np.ndarray | None]:
        """The training responses' likelihood, their scores at each draw, and weights or None."""
        raise NotImplementedError

    def _at_draws(self, rng: np.random.Generator | None) -> Shaped[np.ndarray, "chain draw ..."]:
        """Log density of each training response at each draw, or a response drawn there."""
        likelihood, mixtures, weight = self._training_scores()
        found = at_draws(likelihood, mixtures, self._observed(), weight=weight, rng=rng)
        return found.reshape(self.num_chains, self.num_draws, *found.shape[1:])
