"""A marginal density by LAPACK as part of a compiled program, for samplers that are one."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from probmf.inference.marginal.host_density import HostDensity
from probmf.run.compile_cache import Program
from probmf.run.fingerprint import fingerprint
from probmf.run.host_callback import ask_host


def host_program(host: HostDensity) -> Program:
    """The density as a program, which asks LAPACK for the evidence.

    Args:
        host: The density.

    Returns:
        The program: of a vector, a list of the log density; differentiable. Its text tells the
        observations, too, which are not among its captured arrays: a sampler is compiled anew for
        every data set.
    """
    text = f"{host.program.text}|evidence {fingerprint(host.evidence.contents)}"
    evidence = _as_primitive(host)

    def evaluate(consts: list[Any], vector: Array) -> list[Array]:
        extra, *terms = host.program.evaluate(consts, vector)
        return [extra + evidence(terms)]

    return Program(text, host.program.consts, evaluate)


def _as_primitive(host: HostDensity) -> Any:
    """The evidence of [noise precision, *trils] as a differentiable function of JAX arrays."""
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
