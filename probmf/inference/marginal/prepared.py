"""A Gaussian model with its data: sums found once, the exact evidence evaluated many times."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probmf.effects import (
    Statistics,
    collect_statistics,
    collect_targets,
    draw_effects,
    log_evidence,
)
from probmf.effects.host import HostEvidence
from probmf.effects.leave_one_out import given_others, log_left_out
from probmf.effects.rounding import Rounding
from probmf.inference.marginal.injection import ModelRun, Values, read_observed, run_with
from probmf.inference.marginal.prepared_model import PreparedModel
from probmf.numpyro_setup import run_unchecked


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "model", "args", "kwargs", "pattern", "designs", "standards", "statistics", "sums",
    ],
    meta_fields=[
        "target", "hidden", "shapes", "latent_shapes", "blocks", "shared_noise",
        "fixed_priors", "choices",
    ],
)  # fmt: skip
@dataclass(eq=False)
class Prepared(PreparedModel):
    """Structure of a Gaussian model with its data; a pytree of arrays, if its arguments are some.

    Attributes:
        statistics: All sums when nothing in them depends on latents; else None.
        sums: The others of a constant design, without those of the target; else None.
        shared_noise: Whether all rows have one noise scale.
        fixed_priors: Whether the effects' prior covariances depend on no latent.
    """

    statistics: Statistics | None
    sums: Statistics | None
    shared_noise: bool
    fixed_priors: bool

    def log_density(
        self, run: ModelRun, latents: Values, value: Array | None = None
    ) -> Float[Array, ""]:
        """The exact log density of the observations, in their own units.

        Args:
            run: A run at these latents.
            latents: Values of the other latent sites; used where the design depends on them.
            value: Other observations than those of the run, or None.
        """
        statistics, precision, extra = self.system(run, latents, value)
        trils = self.trils(run)
        return extra + log_evidence(self.pattern, statistics, trils, precision, self.flat)

    def kept_density(
        self, run: ModelRun, latents: Values, keep: Bool[Array, " n"]
    ) -> Float[Array, ""]:
        """`log_density` of some of the rows; cost O(n q^2) more."""
        statistics, precision, extra = self.system(run, latents, keep=keep)
        trils = self.trils(run)
        return extra + log_evidence(self.pattern, statistics, trils, precision, self.flat)

    def parts_left_out(
        self, latents: Values, part: Int[np.ndarray, " n"], count: int
    ) -> Float[Array, " parts"]:
        """Log density of each part of the rows given the others: an evaluation for each part."""
        run = self.run(latents)
        number = jnp.asarray(part)
        without = jax.lax.map(
            lambda one: self.kept_density(run, latents, number != one), jnp.arange(count)
        )
        return self.log_density(run, latents) - without

    def rows_left_out(self, latents: Values) -> Float[Array, " n"]:
        """Log density of each row given the others, from one factorization; see `LeftOut`."""
        run = self.run(latents)
        statistics, precision, _ = self.system(run, latents)
        observed = read_observed(self.target, run.observed[self.target])
        designs = self.designs_at(latents, observed.loc.dtype)
        weight = jnp.broadcast_to(1.0 / jnp.square(observed.scale), observed.loc.shape)
        residual = observed.value - observed.loc
        if observed.keep is not None:
            weight, residual = (jnp.where(observed.keep, own, 0.0) for own in (weight, residual))
        terms = given_others(
            self.pattern, statistics, designs, self.trils(run), precision, residual, weight,
            self.flat,
        )  # fmt: skip
        found = log_left_out(terms) + observed.jacobian
        return found if observed.keep is None else jnp.where(observed.keep, found, 0.0)

    def predictor(self, latents: Values, deviations: Values) -> Float[Array, " n"]:
        """The rows' location at deviations of the effects."""
        run = run_with(self.model, latents, deviations, self.args, self.kwargs)
        return read_observed(self.target, run.observed[self.target]).loc

    @property
    def draw_numbers(self) -> int:
        """Numbers that one draw takes up."""
        size = self.pattern.num_columns**2 + 4 * sum(
            groups * dim**2 for groups, dim in self.pattern.shapes
        )
        if self.pattern.pairs is not None:
            size += len(self.pattern.pairs.left)
        else:
            size += int(np.prod(self.pattern.shapes[0])) * self.pattern.num_columns
        if self.statistics is None:
            size += 4 * self.pattern.num_rows
        return size

    def rounding(self, latents: Values) -> Rounding:
        """An estimate of what rounding leaves of the log density in double precision."""
        run, own = self._compiled_terms
        with run_unchecked():
            statistics, precision, trils = run(*own, dict(latents))
        sums = statistics if self.statistics is None else self.statistics
        return HostEvidence(self.pattern, sums, self.flat).rounding(trils, float(precision))

    def _terms(self, latents: Values) -> tuple[Statistics | None, Array, list[Array]]:
        """Terms that the evidence depends on; sums only where they are not constant."""
        run = self.run(latents)
        statistics, precision, _ = self.system(run, latents)
        varying = statistics if self.statistics is None else None
        return varying, precision, self.trils(run)

    def draw(
        self, latents: Values, key: Array, run: ModelRun | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """The log density, and a joint draw of the effect sites' values and what they determine."""
        run = run or self.run(latents)
        statistics, precision, extra = self.system(run, latents)
        value, tables = draw_effects(
            self.pattern, statistics, self.trils(run), precision, key, self.flat
        )
        return value + extra, self.site_values(latents, tables)

    @cached_property
    def _compiled_terms(self) -> tuple[Any, tuple[Any, ...]]:
        return self._compile(Prepared._terms, 0)

    def system(
        self,
        run: ModelRun,
        latents: Values,
        value: Array | None = None,
        keep: Bool[Array, " n"] | None = None,
    ) -> tuple[Statistics, Array, Array]:
        """Sums, noise precision, and what else the log density has; of some rows alone."""
        site = dict(run.observed[self.target])
        if value is not None:
            site["value"] = value
        observed = read_observed(self.target, site)
        kept = observed.keep
        if keep is not None:
            kept = keep if kept is None else kept & keep
        jacobian = observed.jacobian if kept is None else jnp.where(kept, observed.jacobian, 0.0)
        extra = jnp.sum(jacobian) - self.log_volume
        if self.shared_noise:
            weight = None if kept is None else kept.astype(observed.loc.dtype)
            precision = 1.0 / jnp.square(observed.scale[0])
        else:
            weight = 1.0 / jnp.square(observed.scale)
            log_scale = jnp.log(observed.scale)
            extra = extra - jnp.sum(log_scale if kept is None else jnp.where(kept, log_scale, 0.0))
            weight = weight if kept is None else jnp.where(kept, weight, 0.0)
            precision = jnp.ones((), observed.loc.dtype)
        if kept is not None:
            dropped = len(kept) - jnp.sum(kept)
            extra = extra - 0.5 * dropped * (jnp.log(precision) - np.log(2 * np.pi))
        dtype = observed.loc.dtype
        if self.statistics is not None and value is None and keep is None:
            return _cast(self.statistics, dtype), precision, extra
        residual = observed.value - observed.loc
        if kept is not None:
            residual = jnp.where(kept, residual, 0.0)
        constant = self.statistics if self.sums is None else self.sums
        if constant is not None and kept is None:
            lead, rest, square = collect_targets(
                self.pattern, self.designs_at(latents, dtype), residual
            )
            sums = _cast(constant, dtype)._replace(lead=lead, rest=rest, square=square)
            return sums, precision, extra
        statistics = collect_statistics(
            self.pattern, self.designs_at(latents, dtype), residual, weight
        )
        return statistics, precision, extra


def _cast(statistics: Statistics, dtype: Any) -> Statistics:
    def one(array: np.ndarray) -> Array:
        kind = dtype if np.issubdtype(array.dtype, np.floating) else array.dtype
        return jnp.asarray(array, kind)

    return jax.tree.map(one, statistics)
