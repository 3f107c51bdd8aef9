"""A model of any density with its data: effects integrated out by quadrature, or by Laplace's."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probmf.effects.laplace import Blocks
from probmf.effects.row_densities import Rows
from probmf.inference.marginal.injection import ModelRun, Values
from probmf.inference.marginal.integrand import Integrand
from probmf.inference.marginal.predictor import RowProgram
from probmf.inference.marginal.prepared_model import PreparedModel
from probmf.numpyro_setup import run_unchecked


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["model", "args", "kwargs", "pattern", "designs", "standards"],
    meta_fields=[
        "target", "hidden", "shapes", "latent_shapes", "blocks", "choices", "num_nodes",
    ],
)  # fmt: skip
@dataclass(eq=False)
class Approximated(PreparedModel):
    """Structure of a model that is not Gaussian with its data; a pytree.

    Attributes:
        num_nodes: Nodes of the quadrature for each effect; 0 for Laplace's approximation.
    """

    num_nodes: int

    def log_density(
        self, run: ModelRun, latents: Values, value: Array | None = None
    ) -> Float[Array, ""]:
        """The log density of the observations; see the base class."""
        return self.integrand(run, latents, value).evidence()[0] - self.log_volume

    def draw(
        self, latents: Values, key: Array, run: ModelRun | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """The log density, and a joint draw of the effect sites' values and what they determine."""
        integrand = self.integrand(run or self.run(latents), latents)
        value = integrand.evidence()[0] - self.log_volume
        return value, self.site_values(latents, integrand.draw(key))

    def rows_left_out(self, latents: Values) -> Float[Array, " n"]:
        """Log density of each row given the others; see `Integrand`."""
        return self.integrand(self.run(latents), latents).rows_left_out()

    def parts_left_out(
        self, latents: Values, part: Int[np.ndarray, " n"], count: int
    ) -> Float[Array, " parts"]:
        """Log density of each part of the rows given the others; see `Integrand`."""
        return self.integrand(self.run(latents), latents).parts_left_out(part, count)

    def missed(self, latents: Values) -> Float[np.ndarray, " groups"] | None:
        """Error of the nodes in each group's log integral; see the base class."""
        if not self.num_nodes:
            return None
        run, own = self._compiled_missed
        with run_unchecked():
            return np.asarray(run(*own, dict(latents)), np.float64)

    def _missed(self, latents: Values) -> Float[Array, " groups"]:
        return self.integrand(self.run(latents), latents).missed()

    @cached_property
    def _compiled_missed(self) -> tuple[Any, tuple[Any, ...]]:
        return self._compile(Approximated._missed, 0)

    def predictor(self, latents: Values, deviations: Values) -> Float[Array, " n"]:
        """The rows' linear predictor at deviations of the effects."""
        program = self._program(latents, deviations)
        return program.predictor(program.require_predictor(tuple(self.shapes)))

    @property
    def draw_numbers(self) -> int:
        """Numbers that one draw takes up."""
        size = self.pattern.num_columns**2 + sum(g * d**2 for g, d in self.pattern.shapes)
        return size + self.pattern.num_rows * max(self.num_nodes, 1) ** self.pattern.shapes[0][1]

    def integrand(self, run: ModelRun, latents: Values, value: Array | None = None) -> Integrand:
        """The rows with the effects, given all else.

        Args:
            run: A run at the latents.
            latents: Values of the other latent sites.
            value: Other observations than those of the run, or None.
        """
        program = self._program(latents, self.zeros(), value)
        number = program.require_predictor(tuple(self.shapes))
        rows = Rows(partial(program.density, number), program.parameters)
        offset = program.predictor(number)
        designs = self.designs_at(latents, offset.dtype)
        trils = [tril.astype(offset.dtype) for tril in self.trils(run)]
        return Integrand(
            Blocks(self.pattern, rows, offset, designs, trils, self.flat), self.num_nodes
        )

    def _program(
        self, latents: Values, deviations: Values, value: Array | None = None
    ) -> RowProgram:
        kind = jnp.result_type(float)
        latents = {name: jnp.asarray(one) for name, one in latents.items()}
        deviations = {name: jnp.asarray(one, kind) for name, one in deviations.items()}
        return RowProgram(
            self.model, self.target, latents, deviations, self.args, self.kwargs, value
        )
