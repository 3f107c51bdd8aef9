"""The posterior by Gibbs sampling: every row, and all effects, from their exact conditional."""

import time
from os import PathLike
from typing import Any, TypedDict, Unpack, overload

import jax
from jax.typing import ArrayLike

from probmf.data import Ratings, as_key
from probmf.inference.final_warning import concluded
from probmf.inference.gibbs.chains import GibbsChains, Sweeps
from probmf.inference.gibbs.factorization_chains import factorization_job
from probmf.inference.gibbs.job import Job, choose_settings, size_note
from probmf.inference.gibbs.mixed_effects import mixed_job
from probmf.models import MatrixFactorization, MixedEffects
from probmf.results import MixedFit, RatingsFit
from probmf.rows.placement import Devices, row_mesh, spans_processes
from probmf.run.checkpoint import open_checkpoint
from probmf.run.checks import check_counts, check_warmup, require
from probmf.run.draw_stream import DrawStream
from probmf.run.driver import drive, warn_incomplete
from probmf.settings import own_settings


class _GibbsOptions(TypedDict, total=False):
    """Arguments that both families take; for type checkers."""

    num_warmup: int
    num_samples: int
    num_chains: int
    thin: int | None
    float64: bool | None
    checkpoint: str | PathLike[str] | None
    stream: str | PathLike[str] | None
    progress: bool | None


@overload
def sample_gibbs(
    model: MatrixFactorization,
    data: Ratings,
    *,
    key: ArrayLike,
    watch: Any = None,
    start: RatingsFit | None = None,
    devices: Devices | None = None,
    **options: Unpack[_GibbsOptions],
) -> RatingsFit: ...
@overload
def sample_gibbs(
    model: MixedEffects, data: Any, *, key: ArrayLike, **options: Unpack[_GibbsOptions]
) -> MixedFit: ...
def sample_gibbs(
    model: MatrixFactorization | MixedEffects,
    data: Any,
    *,
    key: ArrayLike,
    num_warmup: int = 200,
    num_samples: int = 400,
    num_chains: int = 2,
    thin: int | None = None,
    watch: Any = None,
    start: RatingsFit | None = None,
    devices: Devices | None = None,
    float64: bool | None = None,
    checkpoint: str | PathLike[str] | None = None,
    stream: str | PathLike[str] | None = None,
    progress: bool | None = None,
) -> RatingsFit | MixedFit:
    r"""Sample a posterior, one block of parameters after the other.

    Of a factorization, given the items, every user's row (bias and factors jointly) is Gaussian,
    :math:`N(\Lambda^{-1} h, \Lambda^{-1})`, and is drawn exactly; then the items' given the users;
    then intercept, scales and cutpoints from their conditionals. Yes/no and ordinal ratings become
    Gaussian given a latent variable (Polya-Gamma, or a truncated normal), drawn exactly too. Two
    more moves leave the scores as they are and help the chain along: a constant between intercept
    and biases, and a factor between the two sides.

    Of a mixed model with a Gaussian or log-normal response, all coefficients and effects are drawn
    at once from their exact conditional; then scales and correlations, given the effects and once
    more given the effects divided by their scales, so that scales near zero are no trap.

    Rows and effects are kept at every `thin`-th sweep only. Their means and standard deviations
    count every sweep (`fit.moments`), and so do a factorization's scales, the scores of probe pairs
    and the averages of the watched pairs (`fit.traces`).

    Args:
        model: A factorization, whose scales may be numbers, arrays by row, NumPyro distributions
            (positive, of shape (), (rows,) or (1, num_factors)), or `NormalWishart`; or a mixed
            model.
        data: `Ratings` for the one, any data frame (or a design) for the other.
        key: JAX key or int.
        num_warmup: Sweeps per chain that are thrown away first.
        num_samples: Sweeps per chain after them.
        num_chains: Chains; they run side by side on the cores.
        thin: Keep the rows of every `thin`-th sweep; None keeps about 200 draws of all chains, or
            more where they are small. With `stream` those are written to it (None: every one), and
            some of them are kept.
        watch: Pairs (as for `RatingsFit.predict`) whose expected ratings are averaged over all
            sweeps.
        start: A point fit of the same shape to start from; by default small random factors.
        devices: Of a factorization, devices to deal the rows out to, one chain after the other: a
            number of them, JAX devices, or a `jax.sharding.Mesh` with an axis 'row'; None computes
            on one. See `docs/devices.md`.
        float64: Compute in double precision, whatever JAX is set to elsewhere; None does for mixed
            models.
        checkpoint: Directory to keep the run in. Called again with the same model, data, settings
            and key, it goes on where it was, bit for bit.
        stream: Directory of a zarr store to write the draws to while they are made, so that memory
            need not hold them; `open_draws` reads it. It needs the package zarr. With `checkpoint`
            a run that goes on writes on where it was.
        progress: Show a progress bar, and what the draws take; None shows them on a terminal or in
            a notebook.

    Returns:
        The fit. After Ctrl-C, or when the disk of checkpoint or stream is full, what there is so
        far, marked incomplete.

    Warns:
        FitWarning: If the rows of a mixed model do not tell variances apart, so that priors alone
            do; what is wrong with the draws is then said in the same warning.
        DiagnosticWarning: If R-hat above 1.01 or effective sizes below 100 per chain say that the
            draws should not be relied upon; see `diagnostics.summary`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model has no such conditionals, an argument is out of range, checkpoint
            or stream hold another run, or the draws don't fit into memory or onto the disk; if
            processes that share the run have different models, data, settings or keys.
        ConnectionError: If another of these processes has ended.
        ImportError: If `stream` is given and zarr is not installed.

    Example:
        >>> import numpyro.distributions as dist
        >>> from probmf import Gaussian, MatrixFactorization, Ratings
        >>> ratings = Ratings.from_frame(
        ...     {"user": [1, 1, 2, 2, 3], "item": [1, 2, 1, 3, 2], "rating": [5, 3, 4, 2, 3]}
        ... )
        >>> model = MatrixFactorization(1, Gaussian(dist.HalfNormal(1.0)))
        >>> fit = sample_gibbs(model, ratings, key=0, num_warmup=20, num_samples=40)
        >>> fit.samples["user_factors"].shape
        (2, 40, 3, 1)

    References:
        Salakhutdinov and Mnih (2008); Polson, Scott and Windle (2013); Albert and Chib (1993);
        Liu and Wu (1999) for the moves; Yu and Meng (2011) for scales drawn twice.

    Cost of a sweep: O(n k^2 + (M + N) k^3); of a mixed model O(n p^2) with p the elements of the
    effects' covariances, and one factorization of all effects but the largest grouping's.
    """
    begin = time.perf_counter()
    check_counts(num_samples=num_samples, num_chains=num_chains)
    if thin is not None:
        check_counts(thin=thin)
    check_warmup(num_warmup)
    is_mixed = _check_family(model, data, watch=watch, start=start, devices=devices)
    mesh = None if devices is None else row_mesh(devices)
    double = is_mixed if float64 is None else float64
    with own_settings(double or None):
        random_key = as_key(key)
        run_key, start_key, probe_key = jax.random.split(random_key, 3)
        if isinstance(model, MixedEffects):
            job: Job = mixed_job(model, data, random_key, start_key, int(num_chains))
        else:
            job = factorization_job(
                model, data, random_key, start_key, probe_key, int(num_chains), watch, start, mesh
            )
        settings = choose_settings(
            job.engine, int(num_warmup), int(num_samples), int(num_chains), thin,
            streamed=stream is not None,
        )  # fmt: skip
        identity, layout = f"{job.identity}|{settings}", job.layout(settings)
        shared = spans_processes(mesh)
        store = open_checkpoint(checkpoint, lambda: identity, shared=shared)
        draws = None
        if stream is not None:
            draws = DrawStream(stream, identity, layout, resumable=store is not None)
        result = drive(
            Sweeps(job.engine, settings, run_key, job.starts), settings.schedule, checkpoint=store,
            stream=draws, progress=progress,
            note=f"sample_gibbs {size_note(job.engine, settings, layout, stream)}",
            shared=shared,
        )  # fmt: skip
        chains = GibbsChains.of(job.engine, result, checkpointed=store is not None)
    warn_incomplete(result, chains.traces["lp"].shape[1], num_samples, stacklevel=2)
    info: dict[str, Any] = {"seconds": time.perf_counter() - begin}
    if draws is not None:
        info |= {"stream": str(draws.path.absolute()), "streamed_draws": draws.written}
    return concluded(job.finish(settings, chains, info))


def _check_family(model: object, data: Any, **for_ratings: Any) -> bool:
    """True for a mixed model."""
    require("sample_gibbs", model)
    if not isinstance(model, MixedEffects):
        if not isinstance(data, Ratings):
            raise TypeError(f"data is of type {type(data).__name__}; expected Ratings.")
        return False
    for name, value in for_ratings.items():
        if value is not None:
            raise ValueError(f"{name} is for factorizations; leave it out for a mixed model.")
    return True
