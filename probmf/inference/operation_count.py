"""Arithmetic of a traced program, counted from its shapes.

Which of two programs costs less is so decided alike on a busy machine and on an idle one.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr

from probmf.inference.potential import Potential
from probmf.numpyro_setup import run_unchecked

#: Multiplications of matrix products and factorizations that take as long as to move one number.
#: With the two below, about one a nanosecond: six gradients of 20 to 7,700 microseconds, of
#: marginal and of non-centred models on a CPU core, took 0.9 to 2.9 times what is counted.
MATRIX_GAIN = 8.0
#: The same of operations element by element, of which a compiler makes one loop of several.
FUSED_GAIN = 4.0
#: What each operation on arrays costs besides, however small they are.
EACH = 30.0
#: Operations that move numbers.
MOVING = frozenset({"gather", "scatter", "scatter-add", "dynamic_slice", "dynamic_update_slice"})
#: Operations that only say where numbers stand, and cost nothing once a program is compiled.
FREE = frozenset(
    {
        "broadcast_in_dim", "concatenate", "convert_element_type", "copy", "empty", "iota", "pad",
        "platform_index", "reshape", "slice", "split", "squeeze", "stack", "transpose",
    }
)  # fmt: skip


def gradient_operations(potential: Potential) -> float:
    """Operations of one evaluation of a log density and its gradient.

    In the cost of moving one number.
    """
    with run_unchecked():
        traced = jax.make_jaxpr(jax.value_and_grad(potential.log_density))(potential.vector)
    return count_operations(traced.jaxpr)


def count_operations(jaxpr: Jaxpr) -> float:
    """Cost of a traced program, by the shapes of what it computes with.

    Of alternatives the dearest counts, and of a loop of unknown length one turn.
    """
    return sum(_count(equation) for equation in jaxpr.eqns)


def _count(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    inner = [count_operations(own) for value in params.values() for own in _programs(value)]
    if name == "cond":
        return max(inner)
    if inner:
        return sum(inner) * params.get("length", 1)
    if name in FREE:
        return 0.0
    shapes = [np.shape(atom.aval) for atom in (*equation.invars, *equation.outvars)]
    size: float = max(map(math.prod, shapes), default=0)
    size = size if name in MOVING else size / FUSED_GAIN
    return EACH + max(_matrix(name, params, shapes) / MATRIX_GAIN, size)


def _matrix(name: str, params: Any, shapes: list[tuple[int, ...]]) -> float:
    """Multiplications of a matrix product, factorization or solution."""
    if name == "dot_general":
        (summed, _), _ = params["dimension_numbers"]
        return float(math.prod(shapes[-1]) * math.prod(shapes[0][axis] for axis in summed))
    if name == "cholesky":
        return math.prod(shapes[0]) * shapes[0][-1] / 3
    if name == "triangular_solve":
        return math.prod(shapes[1]) * shapes[0][-1] / 2
    return 0.0


def _programs(value: Any) -> list[Jaxpr]:
    """Programs among the parameters of an operation."""
    values = value if isinstance(value, list | tuple) else [value]
    found = [getattr(one, "jaxpr", one) for one in values]
    return [one for one in found if isinstance(one, Jaxpr)]
