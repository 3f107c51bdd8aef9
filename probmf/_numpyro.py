"""NumPyro, made fit for use however the program around it was set up."""

import sys

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
