"""Draws by site name, checked against the model."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from probmf.results.pickled import frozen


def checked_samples(
    samples: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], *, of: str = ""
) -> Mapping[str, Float[np.ndarray, "chain draw ..."]]:
    """Draws, frozen, that fit the model's sites.

    Args:
        samples: Draws by site name.
        shapes: Shapes of the model's sites, without chain and draw.
        of: For messages, what all these sites are for; then there may be others. Without it some
            may be missing, and there may be no others.

    Returns:
        The same, read-only.

    Raises:
        ValueError: If there are none, a site is missing or unknown, has another shape, or is not
            finite.
    """
    checked = frozen(samples)
    if not checked:
        raise ValueError("samples is empty; expected draws by site name.")
    unknown = [site for site in checked if site not in shapes]
    if unknown and not of:
        raise ValueError(
            f"samples holds {unknown[0]!r}, which is no site of the model; its sites are "
            f"{', '.join(map(repr, shapes))}."
        )
    leading = next((checked[site].shape[:2] for site in shapes if site in checked), ())
    for site, shape in shapes.items():
        if site not in checked and not of:
            continue
        got = checked[site].shape if site in checked else None
        if got != (*leading, *shape) or len(leading) != 2 or 0 in leading:
            raise ValueError(
                f"{site} has shape {got}, expected (chains, draws"
                f"{''.join(f', {size}' for size in shape)}){of}, the first two as in all sites."
            )
        if not np.isfinite(checked[site]).all():
            raise ValueError(f"{site} is not finite everywhere, so nothing can be predicted.")
    return checked
