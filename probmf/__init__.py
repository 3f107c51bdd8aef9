"""Probabilistic matrix factorization and mixed-effects models on JAX."""

import lazy_loader

__version__ = "0.1.0"

# A name is imported when it is first used, so that a look at the version or a completion in a shell
# does not wait for JAX; the names are those of __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
