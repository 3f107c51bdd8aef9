"""Pickling of results, whose mappings are read-only."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any


class Pickled:
    """A frozen dataclass that is pickled as its fields; made of them, it is checked and frozen."""

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """The class and its arguments; what is kept for later calls is left out."""
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        # A read-only mapping can't be pickled.
        return type(self), tuple(dict(v) if isinstance(v, Mapping) else v for v in values)
