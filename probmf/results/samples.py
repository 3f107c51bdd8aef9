"""Draws by site name, checked against the model."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from probmf.results.sampling import Sampling


def checked_samples(
    samples: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> Mapping[str, Float[np.ndarray, "chain draw ..."]]:
    """Draws, frozen, that fit the model's sites.

    Args:
        samples: Draws by site name.
        shapes: Shapes of the model's sites, without chain and draw.

    Returns:
        The same, read-only.

    Raises:
        ValueError: If there are none, a site is unknown, has another shape, or is not finite.
    """
    frozen = {name: np.asarray(value).view() for name, value in samples.items()}
    if not frozen:
        raise ValueError("samples is empty; expected draws by site name.")
    leading = next(iter(frozen.values())).shape[:2]
    for site, value in frozen.items():
        if site not in shapes:
            raise ValueError(
                f"samples holds {site!r}, which is no site of the model; its sites are "
                f"{', '.join(map(repr, shapes))}."
            )
        shape = shapes[site]
        if value.shape != (*leading, *shape) or len(leading) != 2 or 0 in leading:
            raise ValueError(
                f"{site} has shape {value.shape}, expected (chains, draws"
                f"{''.join(f', {size}' for size in shape)}), the first two as in all sites."
            )
        if not np.isfinite(value).all():
            raise ValueError(f"{site} is not finite everywhere, so nothing can be predicted.")
        value.flags.writeable = False
    return MappingProxyType(frozen)


def laid_out(
    groups: Mapping[str, Mapping[str, np.ndarray]], sampling: Sampling | None
) -> dict[str, dict[str, np.ndarray]]:
    """Independent draws as four chains, or as many fewer as divide them evenly, four draws or more.

    They are of no chain, so that any division of them is as good as another, and measures that
    compare chains have something to compare.

    Args:
        groups: Arrays by group and name, each with leading (chain, draw) axes.
        sampling: How the draws came about.

    Returns:
        The same; draws of chains as they are.
    """
    plain = {group: dict(values) for group, values in groups.items()}
    if sampling is None or not sampling.is_independent:
        return plain
    for group, values in plain.items():
        for name, value in values.items():
            size = value.shape[0] * value.shape[1]
            even = (count for count in (4, 3, 2) if size % count == 0 and size >= 4 * count)
            count = next(even, 1)
            plain[group][name] = value.reshape(count, size // count, *value.shape[2:])
    return plain
