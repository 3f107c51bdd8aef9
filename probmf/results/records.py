"""Records of how a fit was found: the search, the sampler's run, traces and moments."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Shaped

from probmf import html
from probmf.results.table import Table, Tabular


def frozen(arrays: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
    """Read-only views of arrays by name; the caller's own stay writable."""
    views = {name: np.asarray(array).view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    return MappingProxyType(views)


class Pickled:
    """A frozen dataclass that is pickled as its fields; made of them, it is checked and frozen."""

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """The class and its arguments; what is kept for later calls is left out."""
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        # A read-only mapping can't be pickled.
        return type(self), tuple(dict(v) if isinstance(v, Mapping) else v for v in values)


@dataclass(frozen=True, eq=False, repr=False)
class History(Tabular):
    """Objective and held-out error after every step of a point fit.

    Attributes:
        objective: Minus log posterior up to a constant after each step, shape (steps,).
        validation: Held-out error after each step (RMSE, or log loss for yes/no data), or None.
        seconds: Seconds from the start to the end of each step, compilation included.
        best: The step whose parameters were kept, counted from 1 (0: the start).
        stopped: Why it ended: "tol", "validation", "num_sweeps" (or "num_epochs"),
            "interrupted" or "diverged".
        unit: What a step is: "sweep" or "epoch".
        restarts: Objectives of all restarts, shape (restarts, steps), or None.
        notes: What the search did not find, in sentences.
    """

    objective: Float[np.ndarray, " steps"]
    validation: Float[np.ndarray, " steps"] | None
    seconds: Float[np.ndarray, " steps"]
    best: int
    stopped: str
    unit: str
    restarts: Float[np.ndarray, "restarts steps"] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of steps taken."""
        return len(self.objective)

    @property
    def words(self) -> str:
        """Number of steps, the objective that was kept, and why the search ended."""
        if not len(self):
            return f"no {self.unit}, stopped by {self.stopped}"
        kept = self.objective[max(self.best - 1, 0)]
        return f"{len(self)} {self.unit}s, objective {kept:,.6g}, stopped by {self.stopped}"

    def __repr__(self) -> str:
        """The same, and the last held-out error."""
        told = ""
        if self.validation is not None and len(self):
            told = f", held-out error {self.validation[max(self.best - 1, 0)]:.4g}"
        return f"History({self.words}{told})"

    def to_arrow(self) -> pa.Table:
        """One line per step.

        Returns:
            Columns "sweep" (or "epoch"), "objective", "validation" if there is any, and "seconds".
        """
        columns = {"objective": self.objective, "validation": self.validation}
        present = {name: of for name, of in columns.items() if of is not None}
        steps = {self.unit: np.arange(1, len(self) + 1)}
        return pa.table(steps | present | {"seconds": self.seconds})


@dataclass(frozen=True, eq=False, repr=False)
class Sampling(Pickled):
    """Record of a sampler's run, beside the draws.

    Attributes:
        stats: Statistics of single draws under ArviZ's names ("diverging", "energy", "lp",
            "n_steps", "tree_depth", "acceptance_rate", "step_size"), each of shape
            (chain, draw); empty for samplers that have none. Read-only.
        num_warmup: Draws per chain that were thrown away first.
        seconds: Wall-clock time of the whole run, compilation included.
        complete: False after an interruption: there are fewer draws than were asked for.
        info: Single numbers and words, such as "k_hat", "num_densities", "effective_fraction" or
            "max_tree_depth". Of independent draws of an approximation "approximation" says which,
            and "converged" ("yes" or "no") whether the search for it was done; of independent draws
            by importance sampling "effective" says how many the proposals are worth. "verdict" is
            what was found at the end of the run, in a few words.

    Raises:
        ValueError: If a statistic is not of shape (chain, draw), or they differ in shape.

    Example:
        >>> import numpy as np
        >>> sampling = Sampling({"diverging": np.zeros((4, 100), bool)}, 500, 2.5)
        >>> sampling.stats["diverging"].sum()
        np.int64(0)
    """

    stats: Mapping[str, Shaped[np.ndarray, "chain draw"]]
    num_warmup: int
    seconds: float
    complete: bool = True
    info: Mapping[str, float | int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the shapes and freeze the arrays."""
        stats = frozen(self.stats)
        shape = next((value.shape for value in stats.values()), (0, 0))
        for name, value in stats.items():
            if value.ndim != 2 or value.shape != shape:
                raise ValueError(
                    f"The statistic {name!r} has shape {value.shape}, expected (chains, draws)"
                    f"{f' = {shape}' if len(shape) == 2 else ''}."
                )
        object.__setattr__(self, "stats", stats)
        object.__setattr__(self, "info", MappingProxyType(dict(self.info)))

    @property
    def is_independent(self) -> bool:
        """True for independent draws, which are of no chain."""
        return "approximation" in self.info or "effective" in self.info

    def num_effective(self, num_draws: int) -> float:
        """Effective number of independent draws."""
        return min(float(num_draws), float(self.info.get("effective", num_draws)))

    @property
    def verdict(self) -> str:
        """Verdict at the end of the run, in a few words; empty where nobody looked."""
        divergent = int(np.sum(self.stats.get("diverging", 0)))
        return str(self.info.get("verdict", f"{divergent:,} divergent" if divergent else ""))

    @property
    def _statistics(self) -> Table:
        """Each statistic's mean and extremes."""
        return Table(
            tuple(
                {
                    "statistic": name, "mean": float(np.mean(value)),
                    "least": float(np.min(value)), "greatest": float(np.max(value)),
                }
                for name, value in self.stats.items()
                if value.size
            )
        )  # fmt: skip

    def __repr__(self) -> str:
        """The time, each statistic's mean and extremes, and what else is known."""
        ended = "" if self.complete else ", incomplete"
        lines = [f"Sampling({self.num_warmup:,} draws of warmup, {self.seconds:.3g} s{ended})"]
        if len(self._statistics):
            lines.append(repr(self._statistics))
        lines += [f"{name}: {_told(value)}" for name, value in self.info.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        head, *_ = repr(self).split("\n")
        told = html.facts({name: _told(value) for name, value in self.info.items()})
        table = self._statistics._repr_html_() if len(self._statistics) else ""
        return html.together(html.lines([head]), table, told)

    def check_draws(self, num_chains: int, num_draws: int) -> None:
        """Refuse statistics of another number of draws.

        Args:
            num_chains: Chains of the samples.
            num_draws: Draws per chain.

        Raises:
            ValueError: If a statistic has another shape.
        """
        for name, value in self.stats.items():
            if value.shape != (num_chains, num_draws):
                raise ValueError(
                    f"The statistic {name!r} of sampling has shape {value.shape}, but the samples "
                    f"have {num_chains} chains of {num_draws} draws."
                )


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, eq=False)
class Watched:
    """Expected ratings of chosen pairs, averaged over all sweeps of all chains.

    Attributes:
        user: Codes of the users, in the order of the pairs that were asked for.
        item: Codes of the items.
        mean: Posterior mean of the expected rating.
        sd: Its posterior standard deviation (noise left out).
    """

    user: Int[np.ndarray, " n"]
    item: Int[np.ndarray, " n"]
    mean: Float[np.ndarray, " n"]
    sd: Float[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Traces(Pickled):
    """Numbers of every sweep after the warm-up.

    Attributes:
        values: By name, (chain, sweep, ...): "lp" (log joint density up to a constant),
            "intercept", every scale that is sampled, and "probe_score", scores of the probes.
            Read-only.
        probe_user: Codes of the probes' users.
        probe_item: Codes of the probes' items.
        thin: Rows were kept at every `thin`-th sweep.
        watched: Averages of the pairs that were asked for, or None.
    """

    values: Mapping[str, Float[np.ndarray, "chain sweep ..."]]
    probe_user: Int[np.ndarray, " p"]
    probe_item: Int[np.ndarray, " p"]
    thin: int
    watched: Watched | None = None

    def __post_init__(self) -> None:
        """Freeze the arrays."""
        object.__setattr__(self, "values", frozen(self.values))

    def __repr__(self) -> str:
        """Names, and the number of sweeps."""
        chains, sweeps = next(iter(self.values.values())).shape[:2]
        return (
            f"Traces({', '.join(self.values)}: {sweeps:,} sweeps of {chains} "
            f"chain{'s'[: chains != 1]})"
        )


@dataclass(frozen=True, eq=False, repr=False)
class RowMoments(Pickled):
    """Running moments of biases and factors, or of the effects of a mixed model, by chain.

    They count every sweep after the warm-up, also those whose rows were not kept. Biases and
    effects can be compared between chains. Factors can't: their posterior is the same under a
    common rotation of both sides, so each chain has settled on one of its own, and a chain that
    wanders among rotations has means that shrink towards zero. Rotate the chains' means towards
    each other before they are averaged; for predictions look at scores.

    Attributes:
        mean: Means by site, (chain, ...). Read-only.
        sd: Standard deviations over the sweeps of a chain, (chain, ...). Read-only.
        num_sweeps: Sweeps of each chain.

    Raises:
        ValueError: If a site lacks one of both, or their shapes differ.

    Example:
        >>> import numpy as np
        >>> moments = RowMoments({"user_bias": np.array([[0.0], [2.0]])},
        ...                      {"user_bias": np.array([[1.0], [1.0]])}, 100)
        >>> [value.tolist() for value in moments.pooled("user_bias")]
        [[1.0], [1.4142135623730951]]
    """

    mean: Mapping[str, Float[np.ndarray, "chain ..."]]
    sd: Mapping[str, Float[np.ndarray, "chain ..."]]
    num_sweeps: int

    def __post_init__(self) -> None:
        """Check the shapes and freeze the arrays."""
        for name in ("mean", "sd"):
            object.__setattr__(self, name, frozen(getattr(self, name)))
        shapes = [{name: v.shape for name, v in part.items()} for part in (self.mean, self.sd)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"mean has the shapes {shapes[0]}, but sd has {shapes[1]}.")

    def __repr__(self) -> str:
        """Sites, and the number of sweeps."""
        chains = len(next(iter(self.mean.values()), ()))
        return (
            f"RowMoments(mean and sd of {', '.join(self.mean)} over {self.num_sweeps:,} sweeps of "
            f"{chains} chain{'s'[: chains != 1]})"
        )

    def pooled(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over the sweeps of all chains.

        Args:
            site: A site that chains can be compared in: biases, or effects of a mixed model.

        Returns:
            Both, without the axis of the chains.

        Raises:
            ValueError: If there is no such site, or it holds factors, which have to be aligned
                first.
        """
        if site not in self.mean:
            raise ValueError(
                f"There are no moments of {site!r}, but of: {', '.join(map(repr, self.mean))}."
            )
        if site in ("user_factors", "item_factors") and len(self.mean[site]) > 1:
            raise ValueError(
                f"{site} of different chains may be rotated against each other, so their mean says "
                "nothing. Align the chains' means first, or predict pairs."
            )
        mean = self.mean[site].astype(np.float64)
        center = mean.mean(axis=0)
        square = np.square(self.sd[site].astype(np.float64)) + np.square(mean - center)
        return center, np.sqrt(square.mean(axis=0))


@dataclass(frozen=True, eq=False, repr=False)
class Maximum(Pickled):
    r"""A best fit's likelihood and standard errors.

    Attributes:
        errors: Standard errors by site, from the inverse of the curvature there; of correlations
            those of the correlations themselves, a square matrix. NaN where there is none, as on
            the boundary of what variances can be.
        num_parameters: Number k of scales, correlations, coefficients and the likelihood's own.
        num_observations: Number n of rows.
        log_likelihood: Logarithm of the maximized likelihood, or restricted likelihood; None where
            priors count.
        loadings: The joint distribution of the errors: for each site that was searched for, what k
            independent standard Normal numbers add to it, k on the last axis (for correlations,
            to their Cholesky factors); for effects whose modes follow such sites, what they add
            to the modes. Zero for what is held on the boundary, NaN where the curvature has no
            inverse. A site that is missing was integrated out, and has errors of its own given
            these. Empty where nothing was searched for; None where the errors are not known.

    Example:
        >>> top = Maximum({}, 3, 60, -100.0)
        >>> top.aic, round(top.bic, 2)
        (206.0, 212.28)
    """

    errors: Mapping[str, Float[np.ndarray, "..."]]
    num_parameters: int
    num_observations: int
    log_likelihood: float | None = None
    loadings: Mapping[str, Float[np.ndarray, "... k"]] | None = None

    def __post_init__(self) -> None:
        """Freeze the arrays."""
        object.__setattr__(self, "errors", frozen(self.errors))
        if self.loadings is not None:
            object.__setattr__(self, "loadings", frozen(self.loadings))

    @property
    def aic(self) -> float | None:
        r"""Akaike's criterion, :math:`2 k - 2 \log L`."""
        return self._penalized(2.0)

    @property
    def bic(self) -> float | None:
        r"""The Bayesian criterion, :math:`k \log n - 2 \log L`."""
        return self._penalized(float(np.log(self.num_observations)))

    def _penalized(self, price: float) -> float | None:
        if self.log_likelihood is None:
            return None
        return price * self.num_parameters - 2.0 * self.log_likelihood

    def __repr__(self) -> str:
        """The likelihood, its criteria, and how many parameters and observations there are."""
        return f"Maximum({self.note or self._sizes})"

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        return html.lines([self.note or f"{self._sizes}."])

    @property
    def _sizes(self) -> str:
        return f"{self.num_parameters:,} parameters, {self.num_observations:,} observations"

    @property
    def note(self) -> str:
        """All of it in a sentence; empty without a likelihood."""
        if self.log_likelihood is None:
            return ""
        return (
            f"Log likelihood {self.log_likelihood:.6g}, AIC {self.aic:.6g}, BIC {self.bic:.6g} "
            f"({self._sizes})."
        )
