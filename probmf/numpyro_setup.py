"""NumPyro, made fit for use however the program around it was set up, and by several threads."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpyro

# ArviZ's io_numpyro puts a lazy `numpyro` into sys.modules. An import of one of its packages, as
# `import numpyro.distributions`, then finds that in place of the parent; asking it for its path
# loads all of NumPyro, that package too, and the import goes on to load the package once more. The
# second copy takes the first one's place, but its modules, which are there already, are not set
# as its attributes again, and `numpyro.distributions.distribution` is not found (arviz-base 1.3,
# lazy_loader 0.6).
numpyro.__version__  # noqa: B018  # Loads a lazy NumPyro whole, before a part of it is asked for.
for _name, _module in tuple(sys.modules.items()):
    _package, _, _attribute = _name.rpartition(".")
    if _name.startswith("numpyro.") and _attribute not in vars(sys.modules[_package]):
        setattr(sys.modules[_package], _attribute, _module)

_lock = threading.RLock()


@contextmanager
def run_alone() -> Iterator[None]:
    """Keep other threads of ours from running NumPyro models; a decorator, too.

    NumPyro's stack of handlers and its switch of validation are global: a model that is run while
    another thread runs one meets the other's handlers. JAX's contexts and traces are each thread's
    own, and programs that were traced within this lock run outside of it. A function that JAX
    compiles for several threads must be traced within the lock, not take it while being traced:
    JAX has one thread trace it and lets the others wait, which may be holding the lock.
    """
    with _lock:
        yield


@contextmanager
def run_unchecked() -> Iterator[None]:
    """The same without NumPyro's validation, which would compile every operation by itself."""
    with _lock, numpyro.validation_enabled(False):
        yield
