"""What fits of draws have in common whose ArviZ form and files are made by modules of their own."""

from os import PathLike
from typing import Any, ClassVar, Self

from jax.typing import ArrayLike

from probmf.results.history import History
from probmf.results.samples import DrawCounts
from probmf.results.sampling import Sampling
from probmf.settings import own_settings


class DrawFit(DrawCounts):
    """A fit of draws; a subclass names its module of storage, and makes or names its DataTree."""

    model: Any
    data: Any
    method: str
    sampling: Sampling | None
    history: History | None
    _storage: ClassVar[Any]
    _make_tree: ClassVar[Any]

    @own_settings()
    def to_arviz(
        self,
        *,
        posterior_predictive: bool = False,
        log_likelihood: bool = False,
        key: ArrayLike | None = None,
    ) -> Any:
        """The fit as an ArviZ DataTree, with the names and ids of its data as coordinates.

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
        return self._tree(log_likelihood, key if posterior_predictive else None)

    def _tree(self, log_likelihood: bool, key: ArrayLike | None) -> Any:
        """The DataTree, with a posterior predictive where there is a key."""
        return self._make_tree(
            self.model, self.data, self.samples, self.method, self.sampling,
            is_point=self.is_point, log_likelihood=log_likelihood, key=key,
        )  # fmt: skip

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fit and its training data to a directory: JSON, safetensors, Parquet.

        Args:
            path: Directory to make; a saved fit that is there is replaced.

        Raises:
            ValueError: If a prior, an id or a label has no faithful file form.
            FileExistsError: If `path` exists and is not a saved fit, or holds other files as well.
        """
        self._storage.save(
            path, self.model, self.data, self.samples, self.method, self.sampling, self.history
        )

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a fit that `save` wrote.

        Args:
            path: The directory.

        Returns:
            The fit.

        Raises:
            FileNotFoundError: If there is nothing at `path`.
            ValueError: If a file is missing, truncated, altered or not of this package.
        """
        return cls(**cls._storage.load(path))
