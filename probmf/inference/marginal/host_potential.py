"""A marginal density by LAPACK as part of a compiled program, for samplers that are one."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from probmf.inference.marginal.density import MarginalDensity
from probmf.inference.marginal.host_density import HostDensity
from probmf.inference.potential import Form
from probmf.run.compilation import ask_host
from probmf.run.fingerprint import fingerprint


@jax.tree_util.register_pytree_node_class
class HostPotential(MarginalDensity):
    """The density as a function to be traced, which asks LAPACK for the evidence.

    The observations are no argument of it: a sampler is compiled anew for every data set.

    Args:
        density: The density; it has a `host`.
    """

    def __init__(self, density: MarginalDensity) -> None:
        """Nothing is traced yet."""
        host = density.host
        if host is None:
            raise ValueError("The density has no form for LAPACK; see HostDensity.serves.")
        self._density, self._host = density, host
        self.leaves = density.leaves
        self.form = Form(density.form.structure, density.form.shapes, _Evidence(host))

    def log_density(self, vector: Float[Array, " d"]) -> Float[Array, ""]:
        """Log density at a vector, to be traced."""
        extra, precision, trils = self.terms(vector)
        evidence: Any = self.form.mark
        return extra + evidence([precision, *trils])

    def value_and_grad(self, vector: Array) -> tuple[Array, Array]:
        """Log density and its gradient; nothing is compiled but the terms."""
        value, gradient = self._host.score(np.asarray(vector))
        return jnp.asarray(value, vector.dtype), jnp.asarray(gradient, vector.dtype)

    def constrain_all(self, vectors: Float[Array, "n d"]) -> dict[str, Array]:
        """`constrain` for many vectors; compiled for all data of the same shapes."""
        return self._density.constrain_all(vectors)


class _Evidence:
    """The evidence of [noise precision, *trils], differentiable; equal to that of equal data."""

    def __init__(self, host: HostDensity) -> None:
        self.text = fingerprint(host.evidence.contents)
        self.evidence = _as_primitive(host)

    def __call__(self, terms: list[Array]) -> Array:
        found: Array = self.evidence(terms)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Evidence) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def _as_primitive(host: HostDensity) -> Any:
    """The evidence as a differentiable function of JAX arrays."""
    dtype = host.example.dtype

    def ask(sizes: list[tuple[int, ...]], numbers: np.ndarray) -> np.ndarray:
        ends = np.cumsum([int(np.prod(shape)) for shape in sizes])[:-1]
        pieces = zip(np.split(numbers, ends), sizes, strict=True)
        precision, *trils = (piece.reshape(shape) for piece, shape in pieces)
        score = host.evidence.score(trils, float(precision))
        found: list[Any] = [score.value, score.precision, *score.trils]
        return np.concatenate([np.ravel(part) for part in found])

    @jax.custom_vjp
    def evidence(terms: list[Array]) -> Array:
        return forward(terms)[0]

    def forward(terms: list[Array]) -> tuple[Array, list[Array]]:
        vector, unravel = ravel_pytree([jnp.asarray(term, dtype) for term in terms])
        sizes = [jnp.shape(term) for term in terms]
        numbers = ask_host(partial(ask, sizes), len(vector) + 1, vector)
        return numbers[0], unravel(numbers[1:])

    def backward(slopes: list[Array], cotangent: Array) -> tuple[list[Array]]:
        return ([cotangent * slope for slope in slopes],)

    evidence.defvjp(forward, backward)
    return evidence
