"""Fits of networks: draws of weights and biases."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any, get_args

import equinox as eqx
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from probmf.data.examples import Examples
from probmf.models.network import NAME, Network
from probmf.results import network_storage
from probmf.results.asked import check_interval
from probmf.results.history import History
from probmf.results.mixed_response import Kind
from probmf.results.network_arviz import to_datatree
from probmf.results.network_predict import NetworkPredictions, predict_network
from probmf.results.samples import DrawCounts, checked_samples
from probmf.results.sampling import Sampling
from probmf.settings import own_settings


@dataclass(frozen=True, eq=False, repr=False)
class NetworkFit(DrawCounts):
    """A fitted network.

    Attributes:
        model: The network that was fitted.
        data: The training examples.
        samples: Draws by site name, each with leading (chain, draw) axes; a point fit has one
            chain of one draw. Read-only.
        method: How it was fitted, such as "map/full-batch".
        sampling: How the sampler's run went; None for a point fit.
        history: How an optimizer's search went, or None.

    Raises:
        ValueError: If there are no draws, a site is none of the model's, has another shape than
            the model gives it, or is not finite.
    """

    model: Network
    data: Examples
    samples: Mapping[str, Float[np.ndarray, "chain draw ..."]]
    method: str
    sampling: Sampling | None = None
    history: History | None = None

    def __post_init__(self) -> None:
        """Check the draws against the model and freeze them."""
        samples = checked_samples(self.samples, self.site_shapes)
        if self.sampling is not None:
            self.sampling.check_draws(*next(iter(samples.values())).shape[:2])
        object.__setattr__(self, "samples", samples)

    @classmethod
    def from_point(
        cls,
        model: Network,
        data: Examples,
        parameters: Mapping[str, Any],
        *,
        history: History | None,
        method: str,
    ) -> "NetworkFit":
        """A point fit from parameters by site name."""
        samples = {site: np.asarray(value)[None, None] for site, value in parameters.items()}
        return cls(model, data, samples, method, history=history)

    @cached_property
    def site_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all sites but the response, without chain and draw."""
        (arrays,) = self.model.arguments(self.data)
        scales: dict[str, tuple[int, ...]] = dict.fromkeys(self.model.random_scales(), ())
        return self.model.site_shapes(arrays) | scales

    def __repr__(self) -> str:
        """One line: what was fitted to what, and how."""
        shapes = self.model.layers.shapes(NAME, len(self.data.features), self._num_outputs)
        widths = [shapes[f"{NAME}_weight_0"][0]]
        widths += [shapes[f"{NAME}_weight_{i}"][1] for i in range(self.model.layers.num_layers)]
        return (
            f"NetworkFit({self.method}: {'-'.join(map(str, widths))}, "
            f"{type(self.model.likelihood).__name__}; {len(self.data):,} examples"
            f"{self._told_draws()})"
        )

    @cached_property
    def _num_outputs(self) -> int:
        return self.model.targets(self.data)[1]

    @own_settings()
    def predict(
        self, data: Any = None, *, interval: float | None = 0.9, kind: Kind = "mean"
    ) -> NetworkPredictions:
        """Predict the responses of rows, averaged over the draws.

        With kind="mean" the interval says how well the expected response is known, with
        kind="response" where a response will lie, its noise put in.

        Args:
            data: A table with the columns of the features, an array of shape (rows, features), or
                Examples; they need no response. None for the training examples.
            interval: Probability of the central interval; None for means only.
            kind: "mean" or "response".

        Returns:
            The predictions, in the order of the rows. A point fit knows no uncertainty of the
            mean: `sd`, `lower` and `upper` are then None with kind="mean", and of the noise alone
            with kind="response".

        Raises:
            TypeError: If `data` is none of these.
            ValueError: If an option is unknown, or a column or value is missing.

        Cost: O(draws x rows x number of weights); memory is bounded.
        """
        if interval is not None:
            check_interval(interval)
        if kind not in get_args(Kind.__value__):
            raise ValueError(f"kind is {kind!r}; expected 'mean' or 'response'.")
        x = self.data.inputs() if data is None else self.data.encode(data)
        return predict_network(
            self.model, self.data, self.samples, x, kind=kind,
            interval=None if self.is_point and kind == "mean" else interval,
        )  # fmt: skip

    @own_settings()
    def to_arviz(
        self,
        *,
        posterior_predictive: bool = False,
        log_likelihood: bool = False,
        key: ArrayLike | None = None,
    ) -> Any:
        """The fit as an ArviZ DataTree, names of features, responses and classes as coordinates.

        Args:
            posterior_predictive: Whether to draw a response of each training row at each draw
                (which needs a key); classes are codes.
            log_likelihood: Whether to compute the log density of each row at each draw.
            key: JAX key or int.

        Returns:
            Groups `posterior` (`point` for a point fit), `observed_data`, `sample_stats` if the
            sampler has any, and those that were asked for. Independent draws are laid out as four
            chains (or three or two, whatever divides their number).

        Raises:
            ValueError: If a key is missing.

        Memory: that of the result, draws x rows.
        """
        if posterior_predictive and key is None:
            raise ValueError(
                "posterior_predictive=True draws at random; give key=, a JAX key or an int."
            )
        return to_datatree(
            self.model, self.data, self.samples, self.method, self.sampling,
            is_point=self.is_point, log_likelihood=log_likelihood,
            key=key if posterior_predictive else None,
        )  # fmt: skip

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fit and its training data to a directory: JSON and safetensors.

        Args:
            path: Directory to make; a saved fit that is there is replaced.

        Raises:
            ValueError: If a prior or a label has no faithful file form.
            FileExistsError: If `path` exists and is not a saved fit, or holds other files as well.
        """
        network_storage.save(
            path, self.model, self.data, self.samples, self.method, self.sampling, self.history
        )

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "NetworkFit":
        """Read a fit that `save` wrote.

        Args:
            path: The directory.

        Returns:
            The fit.

        Raises:
            FileNotFoundError: If there is nothing at `path`.
            ValueError: If a file is missing, truncated, altered or not of this package.
        """
        return cls(**network_storage.load(path))

    def to_equinox(self) -> eqx.nn.Sequential:
        """The network of a point fit as an Equinox module of one row of standardized features.

        Raises:
            ValueError: If there are several draws.
        """
        return self.model.layers.to_equinox(NAME, self.point())
