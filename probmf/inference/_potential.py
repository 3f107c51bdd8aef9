"""A NumPyro model's log density as a function of one unconstrained vector, compiled once.

Arrays that the model captures become arguments of the compiled program, and programs are kept by
the text of what they compute: another data set of the same shapes compiles nothing.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.extend.core import Jaxpr, Literal, Var
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from numpyro.distributions.transforms import biject_to
from numpyro.infer.util import constrain_fn, potential_energy

from probmf._precision import fresh_arrays
from probmf.inference._captured import captured_digest
from probmf.inference.marginal.probe import moderate_value

#: Compiled programs kept, by what they compute.
PROGRAMS_KEPT = 64
_programs: dict[Any, Any] = {}


def quick_jit(function: Callable[..., Any]) -> Any:
    """`jax.jit` for programs that run for less time than they take to compile.

    On a CPU the optimizer's expensive passes double the time of compilation and gain nothing here,
    where the time goes to a few calls of linear algebra.
    """
    if jax.default_backend() != "cpu":
        return jax.jit(function)
    options = {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=options)


def compiled(key: Any, make: Callable[[], Any]) -> Any:
    """The program under a key, made when it is not there; the oldest is dropped when full."""
    if key not in _programs:
        while len(_programs) >= PROGRAMS_KEPT:
            del _programs[next(iter(_programs))]
        _programs[key] = make()
    return _programs[key]


class Program(NamedTuple):
    """A function of arrays, traced: its text, its captured arrays, and how to evaluate it.

    Attributes:
        text: What it computes, up to the captured arrays' values.
        consts: The captured arrays.
        evaluate: (consts, *leaves) -> list of output leaves; differentiable, not compiled.
    """

    text: str
    consts: list[Any]
    evaluate: Callable[..., list[Array]]


def trace_program(function: Callable[..., Any], *example: Any) -> Program:
    """Trace a function of arrays (no pytrees) so that what it captures can be passed in."""
    closed = jax.make_jaxpr(function)(*example)
    jaxpr, scalars = _lift_scalars(closed.jaxpr)
    consts = [*closed.consts, *scalars]
    shapes = [f"{np.shape(c)}{np.asarray(c).dtype}" for c in consts]
    text = f"{jaxpr}|{shapes}|{captured_digest(jaxpr)}|{jax.config.jax_enable_x64}"

    def evaluate(consts: list[Any], *leaves: Array) -> list[Array]:
        return jax.core.eval_jaxpr(jaxpr, consts, *leaves)

    return Program(text, [jnp.asarray(c) for c in consts], evaluate)


def _lift_scalars(jaxpr: Jaxpr) -> tuple[Jaxpr, list[Any]]:
    """Captured scalars, which JAX writes into the program as numbers, made captured arrays.

    Numbers of the source text have no type of their own and stay.
    """
    variables, values = [], []

    def lift(atom: Any) -> Any:
        aval: Any = atom.aval
        if not isinstance(atom, Literal) or aval.weak_type or aval.dtype.kind != "f":
            return atom
        variables.append(Var(atom.aval))
        values.append(atom.val)
        return variables[-1]

    equations = [eqn.replace(invars=[lift(atom) for atom in eqn.invars]) for eqn in jaxpr.eqns]
    lifted = jaxpr.replace(eqns=equations, constvars=[*jaxpr.constvars, *variables])
    return lifted, values


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
        shapes = jax.eval_shape(self._sites)
        self.sites = tuple(shapes)
        # Zeros made on the host: every small operation on a device is a program to compile.
        start = {
            name: np.zeros(shape.shape, jnp.result_type(float)) for name, shape in shapes.items()
        }
        self.vector, self.unravel = ravel_pytree(start)
        self.program = trace_program(self._log_density, self.vector)

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
            lambda: quick_jit(lambda consts, x: self.program.evaluate(consts, x)[0]),
        )
        return run(self.program.consts, vector)

    def value_and_grad(self, vector: Array) -> tuple[Array, Array]:
        """Log density and its gradient; compiled."""
        evaluate = self.program.evaluate
        run = compiled(
            (self.program.text, "gradient"),
            lambda: quick_jit(
                lambda consts, x: jax.value_and_grad(lambda v: evaluate(consts, v)[0])(x)
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
        tree, program = self._constrained
        run = compiled(
            (program.text, "constrain"),
            lambda: quick_jit(
                lambda consts, x: jax.lax.map(lambda v: program.evaluate(consts, v), x)
            ),
        )
        return jax.tree.unflatten(tree, run(program.consts, vectors))

    @cached_property
    def _constrained(self) -> tuple[Any, Program]:
        tree = jax.tree.structure(jax.eval_shape(self.constrain, self.vector))
        return tree, trace_program(lambda x: jax.tree.leaves(self.constrain(x)), self.vector)
