"""JAX's settings as the programs of this package need them, and arrays in its present precision."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probmf.data.keys import IMPLEMENTATION

#: Name, value and context manager of the settings that change what a program means, or whether it
#: runs at all. Programs of ours mix precisions, hand NumPyro raw keys, and make values that are
#: not finite on purpose; without compilation they would take hours.
_OWN: tuple[tuple[str, Any, Callable[[Any], Any]], ...] = (
    ("jax_default_prng_impl", IMPLEMENTATION, jax.default_prng_impl),
    ("jax_threefry_partitionable", True, jax.threefry_partitionable),
    ("jax_legacy_prng_key", "allow", jax.legacy_prng_key),
    ("jax_numpy_dtype_promotion", "standard", jax.numpy_dtype_promotion),
    ("jax_disable_jit", False, jax.disable_jit),
    ("jax_debug_nans", False, jax.debug_nans),
    ("jax_debug_infs", False, jax.debug_infs),
)


@contextmanager
def own_settings(x64: bool | None = None) -> Iterator[None]:
    """JAX's settings for code of ours, in double precision or not (None: as the caller's)."""
    with ExitStack() as stack:
        for name, value, setting in _OWN:
            if getattr(jax.config, name) != value:
                stack.enter_context(setting(value))
        if x64 is not None:
            stack.enter_context(jax.enable_x64(x64))
        try:
            yield
        except KeyboardInterrupt as stop:
            # Loops return what they have, or say what there is; this came before them.
            stop.args = stop.args or ("Interrupted before there was anything to return.",)
            raise


#: Settings of the caller's that programs are traced under, too: what one thread has traced another
#: finds only under the same ones.
_FOLLOWED: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("jax_numpy_rank_promotion", jax.numpy_rank_promotion),
    ("jax_default_matmul_precision", jax.default_matmul_precision),
    ("jax_debug_key_reuse", jax.debug_key_reuse),
)


def as_here[**P, T](function: Callable[P, T]) -> Callable[P, T]:
    """A function for another thread that runs under this thread's settings and on its device."""
    x64, device = bool(jax.config.jax_enable_x64), jax.config.jax_default_device
    followed = [(setting, getattr(jax.config, name)) for name, setting in _FOLLOWED]

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with ExitStack() as stack:
            for setting, value in followed:
                stack.enter_context(setting(value))
            stack.enter_context(own_settings(x64))
            stack.enter_context(jax.default_device(device))
            return function(*args, **kwargs)

    return run


def in_precision(tree: Any) -> Any:
    """The same tree with all arrays JAX arrays, real numbers in JAX's present precision."""

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray | jax.Array):
            return leaf
        dtype = jnp.result_type(float) if leaf.dtype.kind == "f" else None
        return jnp.asarray(leaf, dtype)

    return jax.tree.map(convert, tree)
