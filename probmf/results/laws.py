"""NumPyro distributions as plain values for JSON."""

from typing import Any

import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import Distribution


def write_law(name: str, law: Distribution) -> dict[str, Any]:
    """A distribution by its name and arguments.

    Args:
        name: What it is the prior of, for messages.
        law: A distribution that numpyro.distributions has, its arguments numbers or arrays; it may
            be expanded.

    Returns:
        What JSON can hold.

    Raises:
        ValueError: If it would not read back the same.
    """
    if isinstance(law, dist.ExpandedDistribution):
        return write_law(name, law.base_dist) | {"shape": list(law.batch_shape)}
    kind = type(law)
    try:
        if getattr(dist, kind.__name__, None) is not kind:
            raise TypeError(f"numpyro.distributions has no {kind.__name__}")
        names = [*kind.arg_constraints, *(["dimension"] if hasattr(law, "dimension") else [])]
        arguments = {key: np.asarray(getattr(law, key)) for key in names}
        written = {
            "law": kind.__name__,
            "arguments": {key: _plain(value) for key, value in arguments.items()},
        }
        back = read_law(written)
        for key, value in arguments.items():
            if not np.array_equal(np.asarray(getattr(back, key)), value):
                raise TypeError(f"its {key} would be another")
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"The prior of {name}, a {kind.__name__}, has no file form ({error}); use one of "
            "NumPyro's own distributions with numbers as arguments."
        ) from None
    return written


def read_law(written: dict[str, Any]) -> Distribution:
    """The distribution that `write_law` wrote."""
    kind = getattr(dist, written["law"], None)
    if not (isinstance(kind, type) and issubclass(kind, Distribution)):
        raise ValueError(f"{written['law']!r} is no distribution of NumPyro's.")
    law = kind(**{key: _array(value) for key, value in written["arguments"].items()})
    return law.expand(tuple(written["shape"])) if "shape" in written else law


def is_law(written: object) -> bool:
    """Whether a plain value stands for a distribution."""
    return isinstance(written, dict) and written.keys() - {"shape"} == {"law", "arguments"}


def _array(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, list) else value


def _plain(value: np.ndarray) -> Any:
    if value.dtype.kind not in "fiub":
        raise TypeError(f"an argument is of type {value.dtype}")
    return value.tolist()
