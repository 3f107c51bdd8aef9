"""A marginal density by LAPACK as part of a compiled program, for samplers that are one."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from probmf.inference._host_density import HostDensity
from probmf.inference._identity import digest
from probmf.inference._program import Program


def host_program(host: HostDensity) -> Program:
    """The density as a program, which asks LAPACK for the evidence.

    Args:
        host: The density.

    Returns:
        The program: of a vector, a list of the log density; differentiable. Its text tells the
        observations, too, which are not among its captured arrays: a sampler is compiled anew for
        every data set.
    """
    text = f"{host.program.text}|evidence {digest(host.evidence.contents)}"
    evidence = _as_primitive(host)

    def evaluate(consts: list[Any], vector: Array) -> list[Array]:
        extra, *terms = host.program.evaluate(consts, vector)
        return [extra + evidence(terms)]

    return Program(text, host.program.consts, evaluate)


def _as_primitive(host: HostDensity) -> Any:
    """The evidence of [noise precision, *trils] as a differentiable function of JAX arrays.

    What goes in and out is passed as bits: a program may call from a thread of its own, where JAX
    does not know of the caller's choice of precision, and would round.
    """
    dtype = host.example.dtype
    bits = dtype.itemsize // 4

    def ask(sizes: list[tuple[int, ...]], words: Any) -> np.ndarray:
        numbers = np.ascontiguousarray(words, np.uint32).view(dtype).astype(np.float64)
        ends = np.cumsum([int(np.prod(shape)) for shape in sizes])[:-1]
        pieces = zip(np.split(numbers, ends), sizes, strict=True)
        precision, *trils = (piece.reshape(shape) for piece, shape in pieces)
        score = host.evidence.score(trils, float(precision))
        found: list[Any] = [score.value, score.precision, *score.trils]
        return np.concatenate([np.ravel(part) for part in found]).astype(dtype).view(np.uint32)

    @jax.custom_vjp
    def evidence(terms: list[Array]) -> Array:
        return forward(terms)[0]

    def forward(terms: list[Array]) -> tuple[Array, list[Array]]:
        vector, unravel = ravel_pytree([jnp.asarray(term, dtype) for term in terms])
        words = jax.lax.bitcast_convert_type(vector, jnp.uint32).ravel()
        shape = jax.ShapeDtypeStruct(((len(vector) + 1) * bits,), jnp.uint32)
        sizes = [jnp.shape(term) for term in terms]
        answer = jax.pure_callback(partial(ask, sizes), shape, words)
        numbers = jax.lax.bitcast_convert_type(answer.reshape(-1, *[bits] * (bits > 1)), dtype)
        return numbers[0], unravel(numbers[1:])

    def backward(slopes: list[Array], cotangent: Array) -> tuple[list[Array]]:
        return ([cotangent * slope for slope in slopes],)

    evidence.defvjp(forward, backward)
    return evidence
