"""A NumPyro model's log density as a function of one unconstrained vector.

The model, its data and its coordinates are arguments of the compiled functions: a second data set
of the same shapes traces and compiles nothing.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding
from jaxtyping import Array, Float
from numpyro.distributions.transforms import biject_to
from numpyro.infer.util import constrain_fn, potential_energy

from probmf.inference.marginal.marginal_model import MarginalModel, sample_rest
from probmf.inference.marginal.probe import moderate_value
from probmf.inference.standard_coordinates import Coordinates, mixed_coordinates
from probmf.models.mixed.program import MixedProgram
from probmf.numpyro_setup import run_unchecked
from probmf.run.compilation import as_tree, count_numbers, traced_jit

#: Device, or devices of a mesh, that a chain runs on.
type Place = jax.Device | NamedSharding


class Structure(NamedTuple):
    """All of a density's parts but their arrays.

    Attributes:
        tree: The structure of the parts.
        fixed: Whole numbers among its leaves: place, value and type.
    """

    tree: Any
    fixed: tuple[tuple[int, Any, type], ...]

    def fill(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """The parts with their arrays."""
        leaves = list(arrays)
        for place, value, _ in self.fixed:
            leaves.insert(place, value)
        found: tuple[Any, ...] = jax.tree.unflatten(self.tree, leaves)
        return found


class Form:
    """All of a potential but its arrays; hashed once, as every call of a program asks for it.

    Args:
        structure: Structure of its parts.
        shapes: Shapes of the unconstrained values by site, sorted.
        mark: What else the density depends on.
    """

    def __init__(
        self,
        structure: Structure,
        shapes: tuple[tuple[str, tuple[int, ...]], ...],
        mark: Hashable = None,
    ) -> None:
        """Keep them."""
        self.structure, self.shapes, self.mark = structure, shapes, mark
        self._hash = hash((structure, shapes, mark))

    def __hash__(self) -> int:
        """By value."""
        return self._hash

    def __eq__(self, other: object) -> bool:
        """By value."""
        if self is other or not isinstance(other, Form):
            return self is other
        mine, theirs = (self.structure, self.shapes), (other.structure, other.shapes)
        return mine == theirs and self.mark == other.mark


@jax.tree_util.register_pytree_node_class
class Potential:
    """Log density of a model over the unconstrained real line; a pytree.

    Args:
        model: A NumPyro model; see `as_tree`.
        args: Its arguments, trees of arrays.
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
        """Find the sites."""
        if isinstance(model, MarginalModel):
            model, args, kwargs = sample_rest, (model.prepare(*args, **kwargs),), {}
        self._hold(as_tree(model), args, dict(kwargs), coordinates)

    def _hold(self, *parts: Any) -> None:
        """Take the parts of the density, and find the sites."""
        leaves, tree = jax.tree.flatten(parts)
        # Sizes of plates, for example; a program is made for these.
        fixed = tuple(
            (place, leaf, type(leaf))
            for place, leaf in enumerate(leaves)
            if isinstance(leaf, bool | int | np.bool_ | np.integer)
        )
        places = {place for place, *_ in fixed}
        self.leaves: list[Any] = [
            # `jnp.asarray` compiles a program for each shape.
            jax.device_put(leaf) if isinstance(leaf, np.ndarray) else jnp.asarray(leaf)
            for place, leaf in enumerate(leaves)
            if place not in places
        ]
        structure = Structure(tree, fixed)
        self.form = Form(structure, ())
        with run_unchecked():  # Data are checked at the door.
            found = jax.jit(Potential._unconstrained).eval_shape(self)
        shapes = tuple((name, tuple(shape.shape)) for name, shape in sorted(found.items()))
        self.form = Form(structure, shapes)

    def tree_flatten(self) -> tuple[list[Any], Form]:
        """Arrays, and all else."""
        return self.leaves, self.form

    @classmethod
    def tree_unflatten(cls, form: Form, leaves: Any) -> Self:
        """The same with other arrays."""
        found = object.__new__(cls)
        found.leaves, found.form = list(leaves), form
        return found

    def on(self, place: Place) -> Self:
        """The same on a device, or in a sharding."""
        placed: Self = jax.device_put(self, place)
        return placed

    @cached_property
    def _parts(self) -> tuple[Any, ...]:
        return self.form.structure.fill(self.leaves)

    @property
    def model(self) -> Any:
        """The model."""
        return self._parts[0]

    @property
    def prior(self) -> Any:
        """A model of the same latent sites and what they determine, perhaps without the data."""
        return self.model

    @property
    def args(self) -> tuple[Any, ...]:
        """Its arguments."""
        found: tuple[Any, ...] = self._parts[1]
        return found

    @property
    def kwargs(self) -> dict[str, Any]:
        """Its keyword arguments."""
        found: dict[str, Any] = self._parts[2]
        return found

    @property
    def coordinates(self) -> Coordinates | None:
        """Meaning of the elements of the vector, if not unconstrained values."""
        found: Coordinates | None = self._parts[3]
        return found

    @property
    def sites(self) -> tuple[str, ...]:
        """The latent sites, in the order in which they lie in the vector."""
        return tuple(name for name, _ in self.form.shapes)

    @property
    def num_dims(self) -> int:
        """Length of the vector."""
        return sum(math.prod(shape) for _, shape in self.form.shapes)

    @property
    def vector(self) -> Any:
        """Zeros, as many as the vector has elements."""
        return np.zeros(self.num_dims, jnp.result_type(float))

    @property
    def places(self) -> dict[str, np.ndarray]:
        """Places of each site in the vector."""
        return self._split(np.arange(self.num_dims))

    def _split(self, vector: Any) -> dict[str, Any]:
        values, start = {}, 0
        for name, shape in self.form.shapes:
            end = start + math.prod(shape)
            values[name], start = vector[start:end].reshape(shape), end
        return values

    def unravel(self, vector: Float[Array, " d"]) -> dict[str, Array]:
        """Unconstrained values by site."""
        values: dict[str, Array] = self._split(vector)
        return values if self.coordinates is None else self.coordinates.apply(values)

    def _unconstrained(self, values: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Unconstrained values of the latent sites: of moderate ones, or of those given."""
        seeded = numpyro.handlers.seed(self.prior, rng_seed=0)
        # Not a draw from the prior, which may be flat.
        moderate = numpyro.handlers.substitute(seeded, substitute_fn=moderate_value)
        trace = numpyro.handlers.trace(moderate).get_trace(*self.args, **self.kwargs)
        return {
            name: biject_to(site["fn"].support).inv((values or {}).get(name, site["value"]))
            for name, site in trace.items()
            if site["type"] == "sample" and not site["is_observed"]
        }

    def log_density(self, vector: Float[Array, " d"]) -> Float[Array, ""]:
        """Log density at a vector, to be traced."""
        return -potential_energy(self.model, self.args, self.kwargs, self.unravel(vector))

    def constrain(self, vector: Array) -> dict[str, Array]:
        """Sites, and what they determine, at a vector, to be traced."""
        values = constrain_fn(
            self.prior, self.args, self.kwargs, self.unravel(vector), return_deterministic=True
        )
        return dict(values)

    def invert(self, values: Mapping[str, Array]) -> Array:
        """The vector of values given by site, to be traced; the inverse of `constrain`."""
        return self.ravel(self._unconstrained(values))

    def ravel(self, inner: Mapping[str, Array]) -> Array:
        """The vector of unconstrained values by site, to be traced; the inverse of `unravel`."""
        if self.coordinates is not None:
            inner = self.coordinates.invert(inner)
        return ravel_pytree(dict(inner))[0]

    def value(self, vector: Array) -> Array:
        """Log density at a vector; compiled."""
        found: Array = self._value(self, vector)
        return found

    def value_and_grad(self, vector: Array) -> tuple[Array, Array]:
        """Log density and its gradient; compiled."""
        found: tuple[Array, Array] = self._value_and_grad(self, vector)
        return found

    def unconstrain(self, values: Mapping[str, Array]) -> Array:
        """`invert`, compiled."""
        own = {name: jnp.asarray(values[name]) for name in self.sites}
        found: Array = self.compiled(type(self).invert, own)(self, own)
        return found

    def constrain_all(self, vectors: Float[Array, "n d"]) -> dict[str, Array]:
        """`constrain` for many vectors; compiled."""
        found: dict[str, Array] = self.compiled(_constrain_all, vectors)(self, vectors)
        return found

    def compiled(self, function: Callable[..., Any], *example: Any, runs: int | None = None) -> Any:
        """A function of the potential and more, compiled.

        It is of a module or of this class, so that its programs are shared; `example` are its other
        arguments, for their shapes. `runs`: see `quick_jit`.
        """
        return traced_jit(function, self._numbers, self, *example, runs=runs)

    @cached_property
    def _numbers(self) -> int:
        return count_numbers(self.leaves)

    @cached_property
    def _value(self) -> Any:
        return self.compiled(type(self).log_density, self.vector)

    @cached_property
    def _value_and_grad(self) -> Any:
        return self.compiled(_value_and_grad, self.vector)


def mixed_potential(program: MixedProgram, args: tuple[Any, ...]) -> Potential:
    """The density of all sites of a mixed model, in standard coordinates."""
    return Potential(program, args, {}, mixed_coordinates(program, args[0]))


def _value_and_grad(potential: Potential, vector: Array) -> tuple[Array, Array]:
    return jax.value_and_grad(potential.log_density)(vector)


def _constrain_all(potential: Potential, vectors: Array) -> dict[str, Array]:
    return jax.lax.map(potential.constrain, vectors)
