"""Drawing back in pieces, and what Ctrl-C leaves of it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from approximated_models import hours

from probmf import fit_laplace, fit_svi
from probmf.inference import target
from probmf.inference.drawn_back import drawn_back
from probmf.inference.marginal.prepared_model import PreparedModel
from probmf.run.driver import FitWarning


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


@pytest.mark.parametrize(
    "method", [fit_laplace, pytest.param(partial(fit_svi, num_steps=5), marks=pytest.mark.slow)]
)
def test_an_approximation_keeps_the_draws_that_have_their_effects(
    method: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = PreparedModel.draw_all, []

    def twice(self: Any, *given: Any) -> Any:
        made.append(1)
        if len(made) > 2:
            raise KeyboardInterrupt
        return real(self, *given)

    monkeypatch.setattr(target, "DRAWN_AT_ONCE", 20)
    monkeypatch.setattr(PreparedModel, "draw_all", twice)
    model, table = hours()
    with pytest.warns(FitWarning, match="the fit has 40 of 100 draws"):
        fit = method(model, table, key=0, num_samples=100, marginalize="all")
    assert (fit.num_draws, fit.sampling.complete) == (40, False)
