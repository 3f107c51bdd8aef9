"""A NumPyro model's log density as a function of one unconstrained vector, compiled once."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from numpyro.distributions.transforms import biject_to
from numpyro.infer.util import constrain_fn, potential_energy

from probmf.inference.marginal.probe import moderate_value
from probmf.inference.standard_coordinates import Coordinates
from probmf.numpyro_setup import run_unchecked
from probmf.precision import fresh_arrays
from probmf.run.compile_cache import Program, compiled, quick_jit, trace_program, trace_tree


class Potential:
    """Log density of a model over the unconstrained real line.

    Args:
        model: A NumPyro model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        coordinates: What the vector's elements are, if not the sites' unconstrained values.
    """

    def __init__(
        self,
        model: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        coordinates: Coordinates | None = None,
    ) -> None:
        """Run the model once for its sites, and trace its log density."""
        self.model, self.coordinates = model, coordinates
        self.args, self.kwargs = fresh_arrays((args, dict(kwargs)))
        self.supports: dict[str, Any] = {}
        with run_unchecked():  # Data are checked at the door.
            shapes = jax.eval_shape(self._sites)
        self.sites = tuple(shapes)
        start = {
            name: np.zeros(shape.shape, jnp.result_type(float)) for name, shape in shapes.items()
        }
        # Zeros made on the host, for the same reason.
        flat = jax.eval_shape(lambda: self._ravel(start))
        self.vector: Any = np.zeros(flat.shape, flat.dtype)

    def _ravel(self, values: Mapping[str, Any]) -> Array:
        vector, self._unravel = ravel_pytree(values)
        return vector

    def unravel(self, vector: Float[Array, " d"]) -> dict[str, Array]:
        """Unconstrained values by site."""
        values: dict[str, Array] = self._unravel(vector)
        return values if self.coordinates is None else self.coordinates.apply(values)

    @cached_property
    def program(self) -> Program:
        """The log density, traced."""
        return trace_program(self._log_density, self.vector)

    def _sites(self) -> dict[str, Array]:
        """Unconstrained values of the latent sites; notes their supports."""
        seeded = numpyro.handlers.seed(self.model, rng_seed=0)
        # Not a draw from the prior, which may be flat.
        moderate = numpyro.handlers.substitute(seeded, substitute_fn=moderate_value)
        trace = numpyro.handlers.trace(moderate).get_trace(*self.args, **self.kwargs)
        found = {}
        for name, site in trace.items():
            if site["type"] == "sample" and not site["is_observed"]:
                self.supports[name] = site["fn"].support
                found[name] = biject_to(site["fn"].support).inv(site["value"])
        return found

    @property
    def places(self) -> dict[str, np.ndarray]:
        """Places of each site in the vector."""
        numbers = jnp.arange(self.num_dims, dtype=self.vector.dtype)
        return {name: np.asarray(own, int) for name, own in self._unravel(numbers).items()}

    @property
    def num_dims(self) -> int:
        """Length of the vector."""
        return len(self.vector)

    def _log_density(self, vector: Float[Array, " d"]) -> Float[Array, ""]:
        return -potential_energy(self.model, self.args, self.kwargs, self.unravel(vector))

    def value(self, vector: Array) -> Array:
        """Log density at a vector; compiled."""
        run = compiled(
            (self.program.text, "value"),
            lambda: quick_jit(
                lambda consts, x: self.program.evaluate(consts, x)[0], self.program.numbers
            ),
        )
        return run(self.program.consts, vector)

    def value_and_grad(self, vector: Array) -> tuple[Array, Array]:
        """Log density and its gradient; compiled."""
        evaluate = self.program.evaluate
        run = compiled(
            (self.program.text, "gradient"),
            lambda: quick_jit(
                lambda consts, x: jax.value_and_grad(lambda v: evaluate(consts, v)[0])(x),
                self.program.numbers,
            ),
        )
        return run(self.program.consts, vector)

    def unconstrain(self, values: Mapping[str, Array]) -> Array:
        """The vector of values given by site; the inverse of `constrain`."""
        inner = {name: biject_to(self.supports[name]).inv(values[name]) for name in self.sites}
        if self.coordinates is not None:
            inner = self.coordinates.invert(inner)
        return ravel_pytree(inner)[0]

    def constrain(self, vector: Array) -> dict[str, Array]:
        """Sites, and what they determine, at a vector."""
        values = constrain_fn(
            self.model, self.args, self.kwargs, self.unravel(vector), return_deterministic=True
        )
        return dict(values)

    def constrain_all(self, vectors: Float[Array, "n d"]) -> dict[str, Array]:
        """`constrain` for many vectors; compiled."""
        program, tree = self._constrained
        run = compiled(
            (program.text, "constrain"),
            lambda: quick_jit(
                lambda consts, x: jax.lax.map(lambda v: program.evaluate(consts, v), x),
                program.numbers,
            ),
        )
        return jax.tree.unflatten(tree, run(program.consts, vectors))

    @cached_property
    def _constrained(self) -> tuple[Program, Any]:
        return trace_tree(self.constrain, self.vector)
