"""Draws on disk that may be more than memory holds: zarr stores, read lazily."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray

if TYPE_CHECKING:
    from xarray import DataTree

FORMAT, VERSION = "probmf-draws", 1
#: Groups of a store.
POSTERIOR, STATS = "posterior", "sample_stats"


def import_zarr() -> Any:
    """The package zarr, or an error that says what to install."""
    try:
        import zarr
    except ImportError:
        raise ImportError(
            "Streams of draws need the package zarr, which is not installed: "
            "pip install 'zarr>=3.1'."
        ) from None
    return zarr


def open_draws(path: str | PathLike[str]) -> "DataTree":
    """Open the draws that a sampler streamed to disk, without reading them.

    Args:
        path: The store, as given to `sample_gibbs(stream=...)` or `sample_nuts(stream=...)`.

    Returns:
        An ArviZ DataTree with the groups `posterior` and `sample_stats`, whose dimensions are named
        as in `RatingsFit.to_arviz` and have the user's ids as coordinates. Of a run that is going
        on or was interrupted, the draws so far. Arrays are read from disk where they are looked at,
        so choose first: `tree["posterior"]["user_factors"].sel(user="ann")`.

    Raises:
        ImportError: If zarr is not installed.
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If it is no store of draws, or holds none yet.

    Example:
        >>> import tempfile
        >>> from probmf import MatrixFactorization, Ratings, sample_gibbs
        >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fit = sample_gibbs(MatrixFactorization(1), Ratings.from_frame(table), key=0,
        ...                        num_warmup=5, num_samples=20, stream=f"{folder}/draws.zarr")
        ...     draws = open_draws(fit.sampling.info["stream"])["posterior"]
        ...     draws["user_factors"].sel(user="b").shape
        (2, 20, 1)
    """
    written = read_attributes(path)
    if written is None:
        raise ValueError(
            f"{path} is not a store of draws that sample_gibbs or sample_nuts wrote with stream=."
        )
    count = int(written["draws"])
    if not count:
        raise ValueError(f"{path} holds no draws yet: the run was stopped before the first one.")
    tree = xarray.open_datatree(Path(path), engine="zarr", consolidated=False, chunks=None)
    return tree.isel(draw=slice(0, count)) if count < int(written["of"]) else tree


def read_attributes(path: str | PathLike[str]) -> dict[str, Any] | None:
    """Attributes of a store; None if it is none of ours. Other versions are refused."""
    zarr = import_zarr()
    folder = Path(path)
    if not folder.exists():
        raise FileNotFoundError(f"There are no draws at {path}.")
    if not (folder / "zarr.json").is_file():
        return None
    try:
        written = dict(zarr.open_group(folder, mode="r").attrs)
    except (ValueError, TypeError, KeyError, zarr.errors.BaseZarrError):
        return None
    if written.get("format") != FORMAT:
        return None
    if written.get("version") != VERSION:
        raise ValueError(
            f"{path} was written in version {written.get('version')} of its format; this probmf "
            f"reads version {VERSION}."
        )
    return written
