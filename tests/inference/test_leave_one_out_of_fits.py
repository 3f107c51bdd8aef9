"""`leave_one_out` of mixed models against dense algebra and integrals on a grid, at given draws."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm, poisson

from probmf import MixedEffects
from probmf.inference.mixed.leave_one_out import leave_one_out
from probmf.results import MixedFit
from probmf.run.driver import FitWarning

rng = np.random.default_rng(0)
ROWS = 12
g = np.arange(ROWS) % 4
TABLE: dict[str, Any] = {
    "y": rng.normal(size=ROWS), "n": rng.poisson(3.0, ROWS), "x": rng.normal(size=ROWS),
    "g": np.array(list("abcd"))[g], "c": np.arange(ROWS) % 3, "up": np.full(ROWS, 2.5),
}  # fmt: skip


def made(model: MixedEffects, **draws: Any) -> MixedFit:
    """A fit of one chain with given draws; effects are whatever they are."""
    samples = {name: np.asarray(value, float)[None] for name, value in draws.items()}
    return MixedFit(model, model.design(TABLE), samples, "made")


def gaussian() -> MixedFit:
    sigma, tau = [[0.7, 1.2], [[0.9], [0.4]]]
    return made(
        MixedEffects("y ~ 1 + x + (1 | g)"), noise_scale=sigma, g_scale=tau,
        coefficients=np.zeros((2, 2)), g_effects=np.zeros((2, 4, 1)),
    )  # fmt: skip


@pytest.mark.parametrize("by", [None, "g"])
def test_gaussian_rows_and_groups(by: str | None) -> None:
    fit = gaussian()
    found = leave_one_out(fit, by=by)
    prior = fit.design.data.priors["coefficients"]
    columns = np.stack([np.ones(ROWS), TABLE["x"]], axis=1)
    mean = columns @ np.asarray(prior.mean)
    fixed = (columns * np.asarray(prior.variance)) @ columns.T
    for draw, (sigma, tau) in enumerate([(0.7, 0.9), (1.2, 0.4)]):
        cover = sigma**2 * np.eye(ROWS) + tau**2 * (g[:, None] == g) + fixed
        whole = multivariate_normal(mean, cover).logpdf(TABLE["y"])
        for part, keep in enumerate(
            g != k if by else np.arange(ROWS) != k for k in range(4 if by else ROWS)
        ):
            rest = multivariate_normal(mean[keep], cover[np.ix_(keep, keep)])
            want = whole - rest.logpdf(TABLE["y"][keep])
            assert found[0, draw, part] == pytest.approx(want, abs=1e-8)


def test_digits_lost_by_differences_are_said() -> None:
    """Of groups; a row's are there, as they are no difference."""
    sigma, x = 1e-7, np.linspace(-1.0, 1.0, ROWS)
    y = 1.0 + x + np.array([0.3, -1.0, 0.8, 0.1])[g] + sigma * rng.normal(size=ROWS)
    model = MixedEffects("y ~ 0 + x + (1 | g)")
    fit = MixedFit(
        model, model.design({"y": y, "x": x, "g": g}), {
            "noise_scale": np.full((1, 1), sigma), "g_scale": np.ones((1, 1, 1)),
            "coefficients": np.zeros((1, 1, 1)), "g_effects": np.zeros((1, 1, 4, 1)),
        }, "made",
    )  # fmt: skip
    # The group's other rows all but determine its effect, and the slope.
    columns = np.column_stack([x, np.eye(4)[g]])
    expected = []
    for row in range(ROWS):
        keep = np.arange(ROWS) != row
        beta, *_ = np.linalg.lstsq(columns[keep], y[keep])
        wide = columns[row] @ np.linalg.pinv(columns[keep].T @ columns[keep]) @ columns[row]
        expected.append(norm(columns[row] @ beta, sigma * np.sqrt(1 + wide)).logpdf(y[row]))
    np.testing.assert_allclose(leave_one_out(fit)[0, 0], expected, atol=1e-5)
    with pytest.warns(FitWarning, match="can't be relied upon, as rounding may change it"):
        leave_one_out(fit, by="g")


@pytest.mark.parametrize(
    ("kind", "by"),
    [("counts", None), ("counts", "g"), pytest.param("bounds", None, marks=pytest.mark.slow)],
)
def test_other_responses_by_quadrature(kind: str, by: str | None) -> None:
    beta, tau = np.array([0.8, 0.3]), 0.9
    u = np.linspace(-8, 8, 4001)
    scores = (beta[0] + beta[1] * TABLE["x"])[:, None] + u
    if kind == "counts":
        model, own = MixedEffects("n ~ 1 + x + (1 | g)", likelihood="poisson"), {}
        logs = poisson.logpmf(TABLE["n"][:, None], np.exp(scores))
    else:
        model, own = MixedEffects("y | cens(c, up) ~ 1 + x + (1 | g)"), {"noise_scale": [0.7]}
        y = TABLE["y"][:, None]
        law, mirrored = norm(scores, 0.7), norm(-scores, 0.7)
        # Far above an interval its probability is a difference of lower tails, far below of upper.
        inside = np.where(
            scores > y, law.cdf(2.5) - law.cdf(y), mirrored.cdf(-y) - mirrored.cdf(-2.5)
        )
        with np.errstate(divide="ignore"):
            laws = [law.logpdf(y), law.logsf(y), np.log(inside)]
        logs = np.choose(TABLE["c"][:, None], laws)
    fit = made(model, g_scale=[[tau]], coefficients=[beta], g_effects=np.zeros((1, 4, 1)), **own)
    found = leave_one_out(fit, by=by)[0, 0]
    for part in range(4 if by else ROWS):
        own = g == (part if by else g[part])
        keep = own & ((np.arange(ROWS) != part) if by is None else False)
        both = [
            np.logaddexp.reduce(norm.logpdf(u, 0, tau) + logs[rows].sum(axis=0))
            for rows in (own, keep)
        ]
        assert found[part] == pytest.approx(both[0] - both[1], abs=1e-5)


@pytest.mark.parametrize("by", [None, g])
def test_without_groups_rows_are_independent(by: Any) -> None:
    fit = made(MixedEffects("n ~ 1 + x", likelihood="poisson"), coefficients=[[0.8, 0.3]])
    want = poisson.logpmf(TABLE["n"], np.exp(0.8 + 0.3 * TABLE["x"]))
    found = leave_one_out(fit, by=by)[0, 0]
    np.testing.assert_allclose(found, want if by is None else np.bincount(g, want), atol=1e-10)


def test_arviz_takes_them() -> None:
    fit = gaussian()
    rows, groups = leave_one_out(fit), leave_one_out(fit, by=TABLE["g"])
    tree = fit.to_arviz(log_likelihood=rows)
    np.testing.assert_array_equal(tree["log_likelihood"]["y"], rows)
    tree = fit.to_arviz(log_likelihood=groups)
    np.testing.assert_array_equal(tree["log_likelihood"]["y_by_group"], groups)
    with pytest.raises(ValueError, match=r"has shape \(3, 2\); expected .* axes \(1, 2\)"):
        fit.to_arviz(log_likelihood=np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("h", "by is 'h'; the grouping factors are: 'g'"),
        ([0, 1], r"by has shape \(2,\); expected a label for each of 12 rows"),
    ],
)
def test_bad_groups_are_refused(by: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        leave_one_out(gaussian(), by=by)


def test_other_fits_are_refused() -> None:
    with pytest.raises(TypeError, match="fit is of type int; expected a fit of a mixed model"):
        leave_one_out(3)  # type: ignore[arg-type]
