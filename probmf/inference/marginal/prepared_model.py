"""A model with its data, its effects laid out: what serves whatever their integral is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probmf.effects import Pattern, Standard
from probmf.effects.rounding import Rounding
from probmf.inference.marginal.captured_arrays import fresh_arrays, with_fresh_captures
from probmf.inference.marginal.effect_blocks import Block
from probmf.inference.marginal.forms import quoted
from probmf.inference.marginal.injection import MarginalizeError, Model, ModelRun, Values, run_with
from probmf.inference.marginal.integrand import site_tables
from probmf.inference.marginal.layout import Shapes, SiteChoice
from probmf.inference.marginal.structure import site_design
from probmf.models.mixed.program import MixedProgram
from probmf.numpyro_setup import run_unchecked
from probmf.run.compilation import count_numbers, quick_jit

#: Numbers that effects drawn side by side may take up.
DRAW_NUMBERS = 4_000_000


@dataclass(eq=False)
class PreparedModel:
    """Structure of a model with its data.

    Attributes:
        model: The model with its effects.
        args: Its arguments.
        kwargs: Its keyword arguments.
        target: The observed site that the effects enter.
        hidden: Deterministic sites that depend on effects.
        shapes: Shape of every effect site.
        latent_shapes: Shape of every other latent site.
        blocks: The blocks in the pattern's order.
        pattern: Which effects meet.
        designs: Coefficients of each block (float64), or None where they depend on latents; in the
            standard coordinates, where it has any.
        standards: Coordinates of each block's effects in which its columns are apart, or None.
        choices: What becomes of each latent site.
    """

    model: Model
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: str
    hidden: frozenset[str]
    shapes: Shapes
    latent_shapes: Shapes
    blocks: tuple[Block, ...]
    pattern: Pattern
    designs: tuple[np.ndarray | None, ...]
    standards: tuple[Standard | None, ...]
    choices: tuple[SiteChoice, ...]

    def log_density(
        self, run: ModelRun, latents: Values, value: Array | None = None
    ) -> Float[Array, ""]:
        """The log density of the observations, in their own units.

        Args:
            run: A run at these latents.
            latents: Values of the other latent sites.
            value: Other observations than those of the run, or None.
        """
        raise NotImplementedError

    def draw(
        self, latents: Values, key: Array, run: ModelRun | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """The log density, and a joint draw of the effect sites' values and what they determine.

        Args:
            latents: Values of the other latent sites.
            key: JAX key.
            run: The model at these, if it has been run.
        """
        raise NotImplementedError

    def rows_left_out(self, latents: Values) -> Float[Array, " n"]:
        """Log density of each row given the others, zero where it is masked."""
        raise NotImplementedError

    def parts_left_out(
        self, latents: Values, part: Int[np.ndarray, " n"], count: int
    ) -> Float[Array, " parts"]:
        """Log density of each part of the rows given the others.

        Args:
            latents: Values of the other latent sites.
            part: Part of each row.
            count: Number of parts.
        """
        raise NotImplementedError

    def left_out(
        self, latents: Values, part: Int[np.ndarray, " n"] | None, count: int
    ) -> Float[Array, "draws parts"]:
        """The log density of each row, or part, given the others at many draws of the latents."""

        def one(own: Values) -> Array:
            if part is None:
                return self.rows_left_out(own)
            return self.parts_left_out(own, part, count)

        with run_unchecked():
            return quick_jit(
                lambda own: jax.lax.map(one, own), count_numbers((self.args, self.kwargs))
            )(dict(latents))

    def predictor(self, latents: Values, deviations: Values) -> Float[Array, " n"]:
        """The rows' location or linear predictor at deviations of the effects."""
        raise NotImplementedError

    @property
    def draw_numbers(self) -> int:
        """Numbers that one draw takes up."""
        raise NotImplementedError

    def rounding(self, latents: Values) -> Rounding | None:
        """Digits that rounding leaves of the log density; None where nothing is subtracted."""
        del latents
        return None

    def missed(self, latents: Values) -> Float[np.ndarray, " groups"] | None:
        """Logarithm of the part of each group's integral that is missed; None where it is exact."""
        del latents
        return None

    @property
    def flat(self) -> tuple[int, ...]:
        """Positions of blocks whose prior is flat."""
        return tuple(place for place, block in enumerate(self.blocks) if block.is_flat)

    @property
    def flat_sites(self) -> list[str]:
        """Names of the sites with a flat prior."""
        return [layout.name for place in self.flat for layout in self.blocks[place].layouts]

    @property
    def log_volume(self) -> Any:
        """Logarithm of the volume of the units of flat blocks; may be traced."""
        own = [self.standards[place] for place in self.flat]
        return sum(standard.log_volume for standard in own if standard is not None)

    def zeros(self) -> dict[str, Array]:
        """Deviations of zero."""
        return {name: jnp.zeros(shape) for name, shape in self.shapes.items()}

    def run(self, latents: Values) -> ModelRun:
        """The model at given latents, effects at their prior mean."""
        return run_with(self.model, latents, self.zeros(), self.args, self.kwargs, self.target)

    def site_values(self, latents: Values, tables: Sequence[Array]) -> dict[str, Array]:
        """Values of the effect sites, and of what they determine, from each block's deviations."""
        deviations = site_tables(self.blocks, self.standards, list(tables))
        # Running the model adds the prior means, which may be effects themselves.
        values = run_with(self.model, latents, deviations, self.args, self.kwargs)
        found = {name: values.values[name] for name in self.shapes}
        return {**found, **{name: values.computed[name] for name in self.hidden}}

    def draw_all(self, latents: Values, keys: Array) -> tuple[Array, dict[str, Array]]:
        """`draw` for every draw of the latents, in bounded memory."""
        batch = max(1, min(len(keys), DRAW_NUMBERS // self.draw_numbers))
        if isinstance(keys, jax.core.Tracer):
            # Within the caller's jit, where a program with compiler options of its own may not be.
            with run_unchecked():
                return self._mapped(batch, dict(latents), keys)
        run, own = self._compiled_draws
        with run_unchecked():
            run.trace(*own, batch, dict(latents), keys)  # Runs the model; the call below does not.
        return run(*own, batch, dict(latents), keys)

    def _mapped(self, batch: int, latents: Values, keys: Array) -> tuple[Array, dict[str, Array]]:
        return jax.lax.map(lambda both: self.draw(*both), (latents, keys), batch_size=batch)

    @cached_property
    def _compiled_draws(self) -> tuple[Any, tuple[Any, ...]]:
        return self._compile(PreparedModel._mapped, self.pattern.num_columns**2, static=True)

    def _compile(
        self, method: Callable[..., Any], numbers: int, *, static: bool = False
    ) -> tuple[Any, tuple[Any, ...]]:
        """A method, and what it takes first: data are arguments where they are arrays only.

        Args:
            method: One of this class.
            numbers: How many numbers it works with beside the model's arguments.
            static: Whether its first argument is a number that the program is made for.
        """
        numbers += count_numbers((self.args, self.kwargs))
        if isinstance(self.model, MixedProgram):
            return quick_jit(method, numbers, static_argnums=1 if static else None), (self,)
        return quick_jit(partial(method, self), numbers, static_argnums=0 if static else None), ()

    def simulate(self, latents: Values, key: Array) -> Array:
        """Observations given latents, the effects from their prior."""
        if self.flat:
            raise MarginalizeError(
                f"The prior of {quoted(self.flat_sites)} is flat: there is no draw from it.",
                "Give it a proper prior to draw observations.",
            )
        run = self.run(latents)
        effects_key, noise_key = jax.random.split(key)
        deviations: dict[str, Array] = {}
        for index, block in enumerate(self.blocks):
            noise = jax.random.normal(
                jax.random.fold_in(effects_key, index), (block.num_groups, block.dim)
            )
            tril = block.tril(run.effects)
            row = "mab" if tril.ndim == 3 else "ab"
            deviations.update(block.split(jnp.einsum(f"{row},mb->ma", tril, noise)))
        values = run_with(self.model, latents, deviations, self.args, self.kwargs)
        law = values.observed[self.target]["law"]
        return law.sample(noise_key)

    def trils(self, run: ModelRun) -> list[Array]:
        """Lower factor of each block's prior covariance, in the designs' coordinates."""
        # A model may hold arrays of single precision in a run in double.
        dtype = jnp.result_type(float)
        trils = [block.tril(run.effects).astype(dtype) for block in self.blocks]
        return [
            tril if standard is None or block.is_flat else standard.root(tril)
            for tril, standard, block in zip(trils, self.standards, self.blocks, strict=True)
        ]

    def designs_at(self, latents: Values, dtype: Any) -> list[Array]:
        """Coefficients of the blocks at these latents."""
        found = []
        for block, design in zip(self.blocks, self.designs, strict=True):
            if design is not None:
                found.append(jnp.asarray(design, dtype))
                continue
            columns = [site_design(self, latents, layout) for layout in block.layouts]
            found.append(jnp.concatenate(columns, axis=1))
        return found


def in_double_precision[P: PreparedModel](prepared: P) -> P:
    """The same for programs in double precision, with arrays that JAX has not seen in single."""
    args, kwargs = fresh_arrays((prepared.args, dict(prepared.kwargs)))
    model = prepared.model
    own = model if isinstance(model, MixedProgram) else with_fresh_captures(model)
    return replace(prepared, model=own, args=args, kwargs=kwargs)
