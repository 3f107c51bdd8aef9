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

from probmf._numpyro import run_unchecked
from probmf._precision import fresh_arrays
from probmf.inference._program import Program, compiled, quick_jit, trace_program, trace_tree
from probmf.inference.marginal.probe import moderate_value


class Potential:
    """Log density of a model over the unconstrained real line.

    Args:
        model: A NumPyro model.
        args: Its arguments.
        kwargs: Its keyword arguments.
    """

    def __init__(self, model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Run the model once for its sites, and trace its log density."""
        self.model = model
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
        vector, self.unravel = ravel_pytree(values)
        return vector

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
