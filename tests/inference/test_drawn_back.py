"""Drawing back in pieces, and what Ctrl-C leaves of it."""

import numpy as np
import pytest

from probmf.inference.drawn_back import drawn_back


class Draws:
    """Numbers of draws in place of draws, and Ctrl-C after so many pieces."""

    def __init__(self, pieces: int = 100) -> None:
        self.left = pieces

    def __call__(self, at: np.ndarray) -> dict[str, np.ndarray]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        assert len(at) == 4
        return {"u": np.stack([at, at + 100])}


def test_pieces_are_joined() -> None:
    found = drawn_back(Draws(), 10, 4)["u"]
    np.testing.assert_array_equal(found, [np.arange(10), np.arange(100, 110)])


def test_an_interruption_keeps_the_first_draws_of_each_chain() -> None:
    found = drawn_back(Draws(2), 10, 4)["u"]
    np.testing.assert_array_equal(found, [np.arange(8), np.arange(100, 108)])
    with pytest.raises(KeyboardInterrupt, match="while the first effects were drawn"):
        drawn_back(Draws(0), 10, 4)
