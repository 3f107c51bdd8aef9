"""Points on the boundary of what variances can be, and verdicts on where a search ended."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probmf import MixedEffects, fit_marginal, load
from probmf.inference.mixed.boundary import boundary
from probmf.inference.mixed.search_end import look_around
from probmf.results import MixedFit
from probmf.run.driver import FitWarning

ROWS = np.arange(60)
TIME = ROWS % 6 - 1.0
OTHER = np.cos(ROWS)
#: Factors of covariances of (Intercept, t, o), and names of what is on the boundary.
FACTORS = [
    (np.diag([1.0, 0.5, 0.8]), []),
    ([[1.0, 0, 0], [0.4, 0.3, 0], [0.1, 0.1, 0.5]], []),
    ([[1.0, 0, 0], [0.0, 1e-5, 0], [0.0, 0, 0.5]], ["g_scale[t]"]),
    ([[1e-5, 0, 0], [0.0, 1e-5, 0], [0.0, 0, 0.5]], ["g_scale[Intercept]", "g_scale[t]"]),
    ([[1.0, 0, 0], [0.4, 1e-5, 0], [0.1, 0.2, 0.5]], ["g_correlation[Intercept, t]"]),
    ([[1.0, 0, 0], [-0.4, 1e-5, 0], [0.1, 0.2, 0.5]], ["g_correlation[Intercept, t]"]),
    ([[1.0, 0, 0], [0.4, 0.3, 0], [0.1, 0.2, 1e-5]], ["g_effects"]),
]


def point(tril: Any, *, unit: float = 1.0, noise: float = 1.0) -> MixedFit:
    """A fit of one draw with effects of such a factor, t in other units, y in others."""
    table = {"y": np.sin(ROWS * 1.0), "t": TIME * unit, "o": OTHER, "g": ROWS // 6}
    model = MixedEffects("y ~ t + (t + o | g)")
    factor = noise * np.asarray(tril) * np.array([[1.0], [1 / unit], [1.0]])
    scale = np.linalg.norm(factor, axis=1)
    samples = {
        "g_scale": scale, "g_correlation": factor / scale[:, None],
        "noise_scale": np.asarray(noise), "coefficients": np.zeros(2),
        "g_effects": np.zeros((10, 3)),
    }  # fmt: skip
    draws = {name: value[None, None] for name, value in samples.items()}
    return MixedFit(model, model.design(table), draws, "marginal/likelihood")


@pytest.mark.parametrize(("tril", "names"), FACTORS)
@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("noise", [1.0, 1e-4, 1e4])
def test_names(tril: Any, names: list[str], unit: float, noise: float) -> None:
    """In any units of a column and of the response."""
    assert boundary(point(tril, unit=unit, noise=noise)) == names


def test_draws_tell_by_themselves() -> None:
    one = point(np.eye(3))
    draws = {name: np.repeat(value, 5, axis=1) for name, value in one.samples.items()}
    with pytest.raises(ValueError, match="has 1 chains of 5 draws, which tell"):
        boundary(MixedFit(one.model, one.design, draws, "nuts"))


def grouped(seed: int = 0) -> dict[str, np.ndarray]:
    """Intercepts and slopes of groups in proportion, so that they correlate perfectly."""
    rng = np.random.default_rng(seed)
    g, t = np.repeat(np.arange(9), 8), np.tile(np.arange(8.0), 9)
    y = 3 + 0.5 * t + rng.normal(0, 1, 9)[g] * (1 + 0.4 * t) + rng.normal(0, 1, 72)
    return {"y": y, "t": t, "g": g}


def test_a_correlation_of_one_is_told(tmp_path: Path) -> None:
    model = MixedEffects("y ~ t + (t | g)")
    with pytest.warns(FitWarning, match=r"as g_correlation\[Intercept, t\] is one or mi") as told:
        fit = fit_marginal(model, grouped())
    assert [one.filename for one in told] == [__file__]
    assert "in a fixed proportion to the other. Write ||" in str(told[0].message)
    tril = fit.point()["g_correlation"]
    assert (tril @ tril.T)[0, 1] == pytest.approx(1.0, abs=1e-3)
    assert boundary(fit) == ["g_correlation[Intercept, t]"]
    assert fit.history is not None
    assert fit.notes == fit.history.notes == (str(told[0].message),)
    assert "The fit is singular" in str(fit.summary())
    fit.save(tmp_path / "fit")
    assert load(tmp_path / "fit").notes == fit.notes


def test_effects_of_every_row() -> None:
    """Noise and effects can't be told apart, and their sum is the residuals' variance."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 30))
    table = {"y": 1 + x + y, "x": x, "g": np.arange(30)}
    with pytest.warns(FitWarning, match="variances of g_scale and noise_scale the 30 rows") as told:
        fit = fit_marginal(MixedEffects("y ~ x + (1 | g)"), table)
    assert len(told) == 1
    columns = np.stack([np.ones(30), x], axis=1)
    rest = table["y"] - columns @ np.linalg.lstsq(columns, table["y"], rcond=None)[0]
    values = fit.point()
    total = values["g_scale"] ** 2 + values["noise_scale"] ** 2
    np.testing.assert_allclose(total, np.mean(rest**2), rtol=1e-6)
    assert "one choice of many" in fit.notes[0]


def test_groups_that_coefficients_stand_for() -> None:
    """Restricted likelihood knows nothing of a scale whose effects are all coefficients."""
    table = grouped() | {"h": grouped()["g"]}
    with pytest.warns(FitWarning, match="likelihood is flat along h_scale: the rows do not"):
        fit_marginal(MixedEffects("y ~ C(g) + (1 | h)"), table, objective="restricted")


PLACES = {"a_scale": np.array([0]), "b_scale": np.array([1, 2])}


class TestLookAround:
    """Of quadratics whose top and curvature are known."""

    @staticmethod
    def around(curvature: list[float], vector: list[float]) -> Any:
        diagonal = np.asarray(curvature)

        def minus(x: np.ndarray) -> tuple[float, np.ndarray]:
            return 0.5 * float(diagonal @ x**2), diagonal * x

        return look_around(minus, np.asarray(vector), minus(np.asarray(vector))[1], PLACES, [])

    def test_at_the_top(self) -> None:
        end = self.around([2.0, 1.0, 30.0], [0.0, 0.0, 0.0])
        assert (end.gain, end.flat, end.rising) == (0.0, [], [])

    def test_from_one_side(self) -> None:
        slope = np.array([2.0, 0.1, -3.0])

        def minus(x: np.ndarray) -> tuple[float, np.ndarray]:
            return float(slope @ np.exp(x)), slope * np.exp(x)

        end = look_around(minus, np.zeros(3), slope, PLACES, [], one_sided=True)
        np.testing.assert_allclose(end.curvature, np.diag(slope), atol=3e-4)

    def test_before_it(self) -> None:
        end = self.around([2.0, 1.0, 30.0], [0.3, 0.0, -0.1])
        assert end.gain == pytest.approx(0.5 * (2 * 0.09 + 30 * 0.01), rel=1e-6)

    def test_flat_and_rising_directions(self) -> None:
        end = self.around([0.0, -2.0, 30.0], [5.0, 0.0, 0.0])
        assert end.gain == 0
        assert end.flat == [frozenset({"a_scale"})]
        assert end.rising == [frozenset({"b_scale"})]

    def test_a_slope_that_goes_on(self) -> None:
        slope = np.array([-1.0, 0.0, 0.0])
        end = look_around(lambda x: (-float(x[0]), slope), np.zeros(3), slope, PLACES, [])
        assert end.gain == pytest.approx(1.0)
