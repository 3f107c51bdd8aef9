"""Programs that the tests of a process share, and forget before they take too much."""

import ctypes
import gc
import hashlib
import sys
from pathlib import Path
from typing import Any

import jax
import psutil
from jax._src import compiler  # The one place that every program passes.

#: Bytes of a process beyond which it forgets programs, of half a megabyte to ten of them each, and
#: maps of its memory, of six to forty each: Linux allows 65,530, and without one LLVM crashes.
MOST_MEMORY, MOST_MAPS = 2.1e9, 25_000
#: Programs made between two looks at them.
LEAST_PROGRAMS = 50


class Programs:
    """Compiled programs by their text: another function of the same text isn't compiled again.

    A jitted closure, a guide and a kernel are new functions in every test that makes one, and
    JAX's own cache goes by the function. A fourth of the seconds of compiling went there.
    """

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}
        self.wanted_again: set[str] = set()
        self.looked_at = 0
        self._compile = compiler.backend_compile_and_load
        compiler.backend_compile_and_load = self  # type: ignore[assignment]

    def __call__(
        self, backend: Any, module: Any, devices: Any, options: Any, host_callbacks: Any
    ) -> Any:
        """The program of this text and these options, compiled where there is none."""
        given = (backend, module, devices, options, host_callbacks)
        text = str(module)
        if host_callbacks or "callback" in text:  # A program that calls one Python function.
            return self._compile(*given)
        settings = options.SerializeAsString() + str(devices).encode()
        key = hashlib.sha256(text.encode() + settings).hexdigest()
        if key in self.made:
            self.wanted_again.add(key)
        else:
            self.made[key] = self._compile(*given)
        return self.made[key]

    @property
    def are_too_many(self) -> bool:
        """True if memory is short, looked at every `LEAST_PROGRAMS` programs."""
        if len(self.made) - self.looked_at < LEAST_PROGRAMS:
            return False
        self.looked_at = len(self.made)
        maps = Path("/proc/self/maps")
        too_many = maps.is_file() and len(maps.read_bytes().splitlines()) > MOST_MAPS
        return too_many or psutil.Process().memory_info().rss > MOST_MEMORY

    def forget(self) -> None:
        """Keep those that were wanted more than once since it was last done, and the youngest.

        The next tests of a file want what its last ones have made.
        """
        kept = self.wanted_again | set(list(self.made)[-2 * LEAST_PROGRAMS :])
        self.made = {key: program for key, program in self.made.items() if key in kept}
        self.wanted_again, self.looked_at = set(), len(self.made)
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":  # Memory that is free again goes back to the system.
            ctypes.CDLL("libc.so.6").malloc_trim(0)


# The search for doctests imports this file once more; a second copy about the first would keep all.
_there: Any = compiler.backend_compile_and_load
PROGRAMS: Programs = _there if hasattr(_there, "are_too_many") else Programs()
