"""Fingerprint of values by their contents, the same in every process: runs are told apart by it."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import Transform

from probmf.numpyro_setup import run_unchecked

#: Values that their representation tells in full.
PLAIN = (bool, int, float, complex, str, bytes, np.generic, type(None))
#: Where the densities of distributions are told apart that are not NumPyro's.
DENSITY_AT = (0.05, 0.3, 1.0, 2.5, 7.0)


def fingerprint(*parts: Any, others: Callable[[Any], Any] | None = None) -> str:
    """A digest of values.

    Of numbers, texts, arrays, keys, distributions, dataclasses, and mappings (in any order),
    sequences and sets of these: 32 hexadecimal digits, equal for equal types and contents. A value
    of another type is refused, or `others` gives what to count in its place, such as its `id`,
    which is good within a process while the value lives.

    Example:
        >>> fingerprint({"a": 1, "b": np.zeros(2)}) == fingerprint({"b": np.zeros(2), "a": 1})
        True
    """
    digest = hashlib.blake2b(digest_size=16)
    waiting: list[Any] = [parts]
    while waiting:
        value = waiting.pop()
        if isinstance(value, np.ndarray | jax.Array):
            head, inner = f"array {value.shape} {value.dtype}", _numbers(value)
        else:
            head, inner = f"{type(value).__module__}.{type(value).__qualname__}", []
            if isinstance(value, PLAIN):
                head = f"{head} {value!r}"
            else:
                inner = _contents(value, others)
        # With the number of parts of everything, no two values read the same.
        digest.update(f"{head} {len(inner)}\n".encode())
        if isinstance(inner, np.ndarray):
            digest.update(inner.data)
        else:
            waiting.extend(inner)
    return digest.hexdigest()


def _numbers(array: np.ndarray | jax.Array) -> np.ndarray | list[Any]:
    """The bytes of an array, or the objects that it holds."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    values = np.ascontiguousarray(array).reshape(-1)
    return values.tolist() if values.dtype.hasobject else values.view(np.uint8)


def _contents(value: Any, others: Callable[[Any], Any] | None) -> list[Any]:
    """Parts of a value."""
    if isinstance(value, Mapping):
        return [(key, value[key]) for key in sorted(value, key=repr)]
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, Distribution):
        return _arguments(value)
    if isinstance(value, Constraint | Transform):
        return list(value.tree_flatten())
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in fields(value)]
    if others is not None:
        return [others(value)]
    raise TypeError(
        f"A {type(value).__qualname__} has no contents by which one run is told from another; "
        "expected numbers, texts, arrays, distributions, dataclasses, and mappings and sequences "
        "of these."
    )


def _arguments(law: Distribution) -> list[Any]:
    """Parts that a distribution is made of.

    Not its leaves as a pytree: NumPyro takes their order from a set of names, whose order is
    another one in each process.
    """
    kind = type(law)
    names = {*kind.gather_pytree_data_fields(), *kind.gather_pytree_aux_fields()}
    found: list[Any] = [vars(law).get(name) for name in sorted(names)]
    if not kind.__module__.startswith("numpyro.") and not law.event_shape:
        # Its class may hold numbers, too.
        with run_unchecked():
            found += [law.log_prob(jnp.full(law.batch_shape, at)) for at in DENSITY_AT]
    return found
