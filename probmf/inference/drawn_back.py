"""Draws whose effects are drawn back piece by piece, of which Ctrl-C keeps those that came."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Int

type SiteArrays = dict[str, np.ndarray]

#: Draws of each chain whose effects are drawn back by one call.
PIECE = 64


def joined(pieces: Iterable[SiteArrays], axis: int) -> SiteArrays:
    """Draws that come in pieces: after an interruption those that came.

    Args:
        pieces: By site, in order.
        axis: The axis of the draws.

    Raises:
        KeyboardInterrupt: After an interruption before the first piece.
    """
    found: list[SiteArrays] = []
    try:
        found.extend(pieces)
    except KeyboardInterrupt:
        if not found:
            raise KeyboardInterrupt(
                "Interrupted while the first effects were drawn: there are no draws to return."
            ) from None
    return {name: np.concatenate([piece[name] for piece in found], axis) for name in found[0]}


def drawn_back(
    draw: Callable[[Int[np.ndarray, " piece"]], SiteArrays], num_draws: int, size: int = PIECE
) -> SiteArrays:
    """Sites at each draw, (chain, draw, ...); after an interruption at the first of them.

    Args:
        draw: Gives them for draws of some numbers, of all chains.
        num_draws: Draws of each chain.
        size: Draws of each chain that are drawn back together.

    Raises:
        KeyboardInterrupt: After an interruption before the first piece.
    """
    size = even_size(num_draws, size)

    def pieces() -> Iterator[SiteArrays]:
        for start in range(0, num_draws, size):
            # A last short piece would be a program of its own.
            at = np.minimum(np.arange(start, start + size), num_draws - 1)
            found = draw(at)
            yield {name: value[:, : num_draws - start] for name, value in found.items()}

    return joined(pieces(), 1)


def even_size(num_draws: int, most: int = PIECE) -> int:
    """Draws of each piece, at most so many, that leave the fewest of the last piece over."""
    return -(-num_draws // -(-num_draws // most))


def few_drawn_back(samples: SiteArrays, num_draws: int) -> str:
    """A sentence where an interruption has left fewer draws than were asked for, else empty."""
    count = next(iter(samples.values())).shape[1]
    if count == num_draws:
        return ""
    return f"Interrupted while effects were drawn: the fit has {count:,} of {num_draws:,} draws."
