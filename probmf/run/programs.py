"""NumPyro models as arguments of compiled functions."""

from typing import Any

import jax

from probmf.models import MatrixFactorization, MixedEffects, Network
from probmf.run.fingerprint import fingerprint


def as_tree(model: Any) -> Any:
    """A NumPyro model as a pytree, so that models of one form share their programs.

    Args:
        model: Any model.

    Returns:
        Of our own models the program, whose leaves are the numbers of the priors, or the model
        told apart by its contents; another one as it is if it is a pytree, else without leaves and
        told apart by identity.
    """
    # A subclass may do otherwise.
    if type(model) is MixedEffects or type(model) is MatrixFactorization:
        return model.program
    if type(model) is Network:
        return jax.tree_util.Partial(_ByContents(model))
    return jax.tree_util.Partial(model) if jax.tree_util.all_leaves([model]) else model


class _ByContents:
    """A model that is equal to all others of the same contents."""

    def __init__(self, model: Any) -> None:
        self.model, self.mark = model, fingerprint(model)

    def __call__(self, *args: Any) -> Any:
        return self.model(*args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByContents) and self.mark == other.mark

    def __hash__(self) -> int:
        return hash(self.mark)
