"""Results whose arrays are read-only, and how they are pickled."""

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

import numpy as np


def frozen(arrays: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
    """Read-only views of arrays by name; the caller's own stay writable."""
    views = {name: np.asarray(array).view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    return MappingProxyType(views)


class Pickled:
    """A frozen dataclass that is pickled as its fields; made of them, it is checked and frozen."""

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """The class and its arguments; what is kept for later calls is left out."""
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        # A read-only mapping can't be pickled.
        return type(self), tuple(dict(v) if isinstance(v, Mapping) else v for v in values)
