"""Marginal likelihood of mixed models: dense algebra, and what lme4 prints."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pyarrow.parquet as pq
import pytest
import scipy.stats

from probmf import MatrixFactorization, MixedEffects, fit_marginal
from probmf.inference.importance import climb
from probmf.inference.mixed import standard_errors
from probmf.inference.mixed.boundary import boundary
from probmf.inference.mixed.exact_problem import ExactProblem, Objective
from probmf.inference.newton import newton
from probmf.run.driver import FitWarning

FORMULA = "y ~ 1 + x + (1 + x | g) + (1 | h)"
OBJECTIVES: tuple[Objective, ...] = ("likelihood", "restricted", "map")


def table(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    g, h, x = np.repeat(np.arange(8), 6), np.tile(np.arange(4), 12), rng.normal(0.5, 1.0, 48)
    slopes = rng.normal(size=(8, 2)) @ np.array([[0.8, 0.3], [0.0, 0.5]])
    mean = 2 - x + slopes[g, 0] + slopes[g, 1] * x + rng.normal(0, 0.7, 4)[h]
    return {"y": mean + rng.normal(0, 0.5, 48), "x": x, "g": g, "h": h}


class Dense(NamedTuple):
    """The model with matrices of all observations."""

    y: np.ndarray
    x: np.ndarray
    z: np.ndarray
    effects: np.ndarray
    noise: float

    @classmethod
    def of(cls, data: dict[str, np.ndarray], values: dict[str, Any]) -> "Dense":
        g, h, x = (data[name] for name in "ghx")
        z = np.zeros((len(x), 2 * 8 + 4))
        rows = np.arange(len(x))
        z[rows, 2 * g], z[rows, 2 * g + 1], z[rows, 16 + h] = 1.0, x, 1.0
        tril = np.diag(values["g_scale"]) @ values["g_correlation"]
        prior = np.eye(20) * np.square(values["h_scale"][0])
        prior[:16, :16] = np.kron(np.eye(8), tril @ tril.T)
        design = np.stack([np.ones(len(x)), x], axis=1)
        return cls(data["y"], design, z, prior, float(values["noise_scale"]))

    @property
    def covariance(self) -> np.ndarray:
        return self.z @ self.effects @ self.z.T + self.noise**2 * np.eye(len(self.y))

    def coefficients(self, mean: Any = 0.0, precision: Any = 0.0) -> np.ndarray:
        inverse = np.linalg.inv(self.covariance)
        weight = self.x.T @ inverse @ self.x + np.diag(np.broadcast_to(precision, 2))
        return np.linalg.solve(weight, self.x.T @ inverse @ self.y + precision * mean)

    def means(self, coefficients: np.ndarray) -> np.ndarray:
        residual = self.y - self.x @ coefficients
        return self.effects @ self.z.T @ np.linalg.solve(self.covariance, residual)


@pytest.fixture(scope="module")
def problems() -> dict[str, tuple[ExactProblem, np.ndarray]]:
    """Each objective and a point to look at it."""
    model, rng = MixedEffects(FORMULA), np.random.default_rng(3)
    with jax.enable_x64(True):
        made = {}
        for objective in OBJECTIVES:
            design = model.design(table())
            problem = ExactProblem(model.program, model.arguments(design), objective)
            made[objective] = (problem, rng.normal(-0.3, 0.3, problem.density.num_dims))
    return made


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objective_is_that_of_dense_algebra(objective: str, problems: Any) -> None:
    problem, vector = problems[objective]
    with jax.enable_x64(True):
        constrained = jax.jit(problem.density.constrain_prior)(jnp.asarray(vector))
        values = {name: np.asarray(v) for name, v in constrained.items()}
        got, gradient = problem.score(vector)
        steps = 1e-5 * np.eye(len(vector))
        slopes = [
            (problem.score(vector + step)[0] - problem.score(vector - step)[0]) / 2e-5
            for step in steps
        ]
    dense = Dense.of(table(), values)
    best = dense.coefficients()
    if objective == "likelihood":
        law = scipy.stats.multivariate_normal(dense.x @ best, dense.covariance)
        wanted = law.logpdf(dense.y)
    elif objective == "restricted":
        law = scipy.stats.multivariate_normal(dense.x @ best, dense.covariance)
        information = dense.x.T @ np.linalg.solve(dense.covariance, dense.x)
        wanted = law.logpdf(dense.y) - 0.5 * np.linalg.slogdet(information / (2 * np.pi))[1]
    else:
        design = MixedEffects(FORMULA).design(table())
        priors: dict[str, Any] = design.data.priors
        beta = priors["coefficients"]
        while not isinstance(beta, dist.Normal):
            beta = beta.base_dist
        spread = dense.x * np.asarray(beta.scale, np.float64)
        law = scipy.stats.multivariate_normal(
            dense.x @ np.asarray(beta.loc, np.float64), dense.covariance + spread @ spread.T
        )
        wanted = law.logpdf(dense.y)
        for site in ("g_scale", "h_scale", "noise_scale", "g_correlation"):
            with jax.enable_x64(True):
                wanted += float(jnp.sum(priors[site].log_prob(jnp.asarray(values[site]))))
    np.testing.assert_allclose(got, wanted, rtol=1e-7 if objective == "map" else 1e-10)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_estimates(objective: Objective) -> None:
    """Coefficients and effects are the conditional means, and no neighbour is better."""
    data = table()
    model = MixedEffects(FORMULA)
    fit = fit_marginal(model, data, objective=objective)
    assert (fit.method, fit.is_point, fit.history.stopped) == (f"marginal/{objective}", True, "tol")
    values = fit.point()
    dense = Dense.of(data, values)
    mean, precision = 0.0, 0.0
    if objective == "map":
        prior: Any = fit.design.data.priors["coefficients"]
        while not isinstance(prior, dist.Normal):
            prior = prior.base_dist
        mean, precision = np.asarray(prior.loc), 1 / np.square(np.asarray(prior.scale))
    beta = dense.coefficients(mean, precision)
    np.testing.assert_allclose(values["coefficients"], beta, rtol=1e-6)
    information = dense.x.T @ np.linalg.solve(dense.covariance, dense.x) + np.diag(
        np.broadcast_to(precision, 2)
    )
    errors = fit.maximum.errors["coefficients"]
    np.testing.assert_allclose(errors, np.sqrt(np.diag(np.linalg.inv(information))), rtol=1e-6)
    assert fit.summary()["coefficients[x]"]["se"] == errors[1]
    told = " ".join(fit.summary().notes)
    assert told.startswith("Log likelihood") == (objective != "map")
    effects = dense.means(beta)
    np.testing.assert_allclose(values["g_effects"], effects[:16].reshape(8, 2), atol=1e-6)
    np.testing.assert_allclose(values["h_effects"].ravel(), effects[16:], atol=1e-6)

    def log_likelihood(**changes: Any) -> float:
        other = Dense.of(data, values | changes)
        law = scipy.stats.multivariate_normal(other.x @ other.coefficients(), other.covariance)
        return float(law.logpdf(other.y))

    if objective == "likelihood":
        best = log_likelihood()
        np.testing.assert_allclose(-fit.history.objective[-1], best, rtol=1e-9)
        for name in ("g_scale", "h_scale", "noise_scale"):
            for factor in (0.95, 1.05):
                assert log_likelihood(**{name: values[name] * factor}) < best
    assert boundary(fit) == []
    assert fit.predict(data).mean.shape == (48,)
    assert not jax.config.jax_enable_x64


def test_lognormal_is_the_fit_of_the_logarithm() -> None:
    data = table()
    formula = "y ~ 1 + (1 | g)"
    gauss = fit_marginal(MixedEffects(formula), data)
    logs = fit_marginal(
        MixedEffects(formula, likelihood="lognormal"), data | {"y": np.exp(data["y"])}
    )
    for name, value in gauss.samples.items():
        np.testing.assert_allclose(logs.samples[name], value, atol=2e-4, err_msg=name)
    shift = np.sum(data["y"])  # of the change of variables
    np.testing.assert_allclose(
        logs.history.objective[-1], gauss.history.objective[-1] + shift, rtol=1e-7
    )


def test_centring_is_of_no_consequence() -> None:
    data = table()
    one, other = (fit_marginal(MixedEffects(FORMULA, centered=c), data) for c in (True, False))
    assert one.samples.keys() == other.samples.keys()
    np.testing.assert_array_equal(one.samples["g_effects"], other.samples["g_effects"])


def balanced(spread: float) -> dict[str, np.ndarray]:
    """Groups whose means are as far apart as said, in multiples of nothing at all."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(6, 5))
    noise -= noise.mean(axis=1, keepdims=True)
    means = np.linspace(-spread, spread, 6)[:, None]
    return {"y": 1 + (noise + means).ravel(), "g": np.repeat(np.arange(6), 5)}


@pytest.mark.parametrize("objective", ["likelihood", "restricted"])
def test_one_way_has_a_closed_form(objective: Objective) -> None:
    data = balanced(1.0)
    y = data["y"].reshape(6, 5)
    within = np.sum((y - y.mean(1, keepdims=True)) ** 2) / 24
    between = 5 * np.sum((y.mean(1) - y.mean()) ** 2) / (6 if objective == "likelihood" else 5)
    fit = fit_marginal(MixedEffects("y ~ 1 + (1 | g)"), data, objective=objective)
    values = fit.point()
    np.testing.assert_allclose(values["noise_scale"], np.sqrt(within), rtol=1e-5)
    np.testing.assert_allclose(values["g_scale"], np.sqrt((between - within) / 5), rtol=1e-5)
    shrunk = (1 - within / between) * (y.mean(1) - y.mean())
    np.testing.assert_allclose(values["g_effects"].ravel(), shrunk, rtol=1e-4, atol=1e-6)
    assert boundary(fit) == []


@pytest.mark.parametrize("objective", ["likelihood", "restricted"])
@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_no_variance_between_groups(objective: Objective, unit: float) -> None:
    data = balanced(0.0)
    with pytest.warns(FitWarning, match=r"singular, as g_scale\[Intercept\] is zero") as found:
        fit = fit_marginal(
            MixedEffects("y ~ 1 + (1 | g)"), data | {"y": unit * data["y"]}, objective=objective
        )
    assert [str(one.message) for one in found] == list(fit.history.notes)
    assert boundary(fit) == ["g_scale[Intercept]"]
    assert fit.history.stopped == "tol"
    np.testing.assert_allclose(fit.point()["g_effects"], 0, atol=1e-4 * unit)


def test_a_slope_on_the_boundary_is_named_whatever_its_unit() -> None:
    data = balanced(1.0)
    x = np.tile([-2.0, -1.0, 0.0, 1.0, 2.0], 6)
    # Noise without any slope within a group, so that slopes vary less than chance has it.
    y = data["y"] - x * np.repeat((data["y"] * x).reshape(6, 5).sum(1), 5) / 10
    for unit in (1e-3, 1e3):
        with pytest.warns(FitWarning, match=r"as g_x_scale\[x\] is zero: the rows show"):
            fit = fit_marginal(
                MixedEffects("y ~ 1 + x + (x || g)"), {"y": y, "x": x * unit, "g": data["g"]}
            )
        assert boundary(fit) == ["g_x_scale[x]"]


def test_scales_that_are_given_are_not_estimated() -> None:
    priors = {"noise_scale": 1.0, "g_scale": 0.5}
    data = balanced(1.0)
    fit = fit_marginal(MixedEffects("y ~ 1 + (1 | g)", priors=priors), data)
    y = data["y"].reshape(6, 5)
    shrunk = 0.25 / (0.25 + 1 / 5) * (y.mean(1) - y.mean())
    np.testing.assert_allclose(fit.point()["g_effects"].ravel(), shrunk, atol=1e-6)
    assert boundary(fit) == []
    # Nothing is searched for, and the coefficient's error is that given the scales.
    for objective in ("likelihood", "restricted", "map"):
        fit = fit_marginal(fit.model, data, objective=objective)
        law: Any = fit.design.data.priors["coefficients"]
        precision = 6 / (0.25 + 1 / 5) + (objective == "map") / float(law.variance[0])
        assert fit.maximum is not None
        np.testing.assert_allclose(fit.maximum.errors["coefficients"], precision**-0.5, rtol=1e-6)
        np.testing.assert_allclose(
            fit.predictions(data, level="population", by=True).sd, precision**-0.5, rtol=1e-6
        )


def test_errors_in_any_unit() -> None:
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 40))
    y = x + z + rng.normal(size=40)
    model = MixedEffects("y ~ x + z")
    first, other = (
        fit_marginal(model, {"y": y, "x": unit * x, "z": z}).maximum for unit in (1.0, 1e10)
    )
    assert first is not None
    assert other is not None
    expected = first.errors["coefficients"] * [1.0, 1e-10, 1.0]
    np.testing.assert_allclose(other.errors["coefficients"], expected, rtol=1e-5)


@pytest.mark.parametrize("unit", [1.0, 1e-5, 1e5])
def test_a_negative_variance_is_no_covariance(unit: float) -> None:
    covariance = unit**2 * np.diag([-1e-10, 1e-12])
    assert np.isnan(standard_errors._root(covariance)).all()


def test_noise_by_a_formula() -> None:
    """The noise's coefficients are estimated with the rest."""
    rng = np.random.default_rng(1)
    w = np.tile([0.0, 1.0], 60)
    y = rng.normal(0, np.exp(-0.5 + w)) + rng.normal(0, 0.5, 12).repeat(10)
    data = {"y": y, "w": w, "g": np.repeat(np.arange(12), 10)}
    fit = fit_marginal(MixedEffects("y ~ 1 + (1 | g)", scale_formula="~ 1 + w"), data)
    values = fit.point()
    np.testing.assert_allclose(values["noise_coefficients"], [-0.5, 1.0], atol=0.3)
    assert boundary(fit) == []

    def log_likelihood(noise: np.ndarray, scale: float) -> float:
        same = data["g"][:, None] == data["g"]
        covariance = scale**2 * same + np.diag(np.exp(2 * (noise[0] + noise[1] * w)))
        solved = np.linalg.solve(covariance, np.ones(120))
        mean = np.full(120, solved @ y / solved.sum())
        return float(scipy.stats.multivariate_normal(mean, covariance).logpdf(y))

    noise, scale = values["noise_coefficients"], values["g_scale"].item()
    best = log_likelihood(noise, scale)
    np.testing.assert_allclose(-fit.history.objective[-1], best, rtol=1e-9)
    for step in (-0.02, 0.02):
        assert log_likelihood(np.add(noise, [step, 0]), scale) < best
        assert log_likelihood(np.add(noise, [0, step]), scale) < best
        assert log_likelihood(noise, scale + step) < best


def test_effects_in_the_noise_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scale_formula.*has group terms"):
        fit_marginal(MixedEffects(FORMULA, scale_formula="~ 1 + (1 | g)"), table())


@pytest.mark.parametrize("objective", ["likelihood", "restricted"])
def test_without_group_terms_it_is_least_squares(objective: Any) -> None:
    data = table()
    fit = fit_marginal(MixedEffects("y ~ 1 + x"), data, objective=objective)
    columns = np.stack([np.ones(len(data["y"])), data["x"]], axis=1)
    best, (square,), *_ = np.linalg.lstsq(columns, np.asarray(data["y"]), rcond=None)
    free = len(columns) - (2 if objective == "restricted" else 0)
    point = fit.point()
    np.testing.assert_allclose(point["coefficients"], best, rtol=1e-6)
    np.testing.assert_allclose(point["noise_scale"], np.sqrt(square / free), rtol=1e-5)
    spread = np.linalg.inv(columns.T @ columns) * square / free
    np.testing.assert_allclose(
        fit.maximum.errors["coefficients"], np.sqrt(np.diag(spread)), rtol=1e-4
    )
    value = -0.5 * free * (np.log(2 * np.pi * square / free) + 1)
    if objective == "restricted":
        value -= 0.5 * np.linalg.slogdet(columns.T @ columns)[1]
    assert -fit.history.objective[-1] == pytest.approx(value, rel=1e-8)
    assert fit.maximum.num_parameters == 3


def test_without_group_terms_it_is_a_generalized_linear_model() -> None:
    """Poisson counts, by Newton's method."""
    data = table()
    data["n"] = np.random.default_rng(0).poisson(np.exp(0.5 + 0.3 * np.asarray(data["x"])))
    fit = fit_marginal(MixedEffects("n ~ 1 + x", likelihood="poisson"), data)
    columns, best = np.stack([np.ones(len(data["n"])), data["x"]], axis=1), np.zeros(2)
    for _ in range(30):
        rate = np.exp(columns @ best)
        information = (columns * rate[:, None]).T @ columns
        best = best + np.linalg.solve(information, columns.T @ (data["n"] - rate))
    np.testing.assert_allclose(fit.point()["coefficients"], best, atol=1e-6)
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    np.testing.assert_allclose(fit.maximum.errors["coefficients"], errors, rtol=1e-4)
    value = np.sum(scipy.stats.poisson.logpmf(data["n"], np.exp(columns @ best)))
    assert fit.maximum.log_likelihood == pytest.approx(value, rel=1e-10)
    with pytest.raises(ValueError, match="this model has no group term"):
        fit_marginal(MixedEffects("n ~ 1 + x", likelihood="poisson"), data, num_nodes=5)


def test_arguments() -> None:
    with pytest.raises(TypeError, match="expected MixedEffects"):
        fit_marginal(MatrixFactorization(2), table())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="objective is 'ml'; expected 'likelihood'"):
        fit_marginal(MixedEffects(FORMULA), table(), objective="ml")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"max_iterations is 0"):
        fit_marginal(MixedEffects(FORMULA), table(), max_iterations=0)


def test_too_few_iterations_warn() -> None:
    with pytest.warns(FitWarning, match="stopped after 2 of 2 iterations.*raise max_iterations"):
        fit = fit_marginal(MixedEffects(FORMULA), table(), max_iterations=2)
    assert fit.history.stopped == "num_iterations"
    assert len(fit.history.objective) == 3


def test_double_precision_is_left_alone_after_an_error() -> None:
    with pytest.raises(ValueError, match="num_nodes is 5, but likelihood"):
        fit_marginal(MixedEffects(FORMULA), table(), num_nodes=5)
    assert not jax.config.jax_enable_x64


class TestClimb:
    """Where a step of the gradient's length leads to ruin."""

    @staticmethod
    def minus(vector: np.ndarray) -> tuple[float, np.ndarray]:
        """120 observations of variance 9: NaN if the scale underflows, as in float32."""
        with np.errstate(over="ignore", invalid="ignore"):
            log_scale = vector[0]
            square = 120 * 9 * np.exp(-2 * log_scale) if log_scale > -8 else np.nan
        return 120 * log_scale + square / 2, np.array([120 - square])

    @pytest.mark.parametrize("start", [0.0, 5.0, 12.0, -3.0])
    def test_arrives(self, start: float) -> None:
        found = climb(self.minus, np.array([start]))
        assert found.success
        np.testing.assert_allclose(found.x, [np.log(3)], rtol=1e-5)

    def test_says_that_it_has_not(self) -> None:
        assert not climb(self.minus, np.array([12.0]), max_iterations=2).success
        found = climb(self.minus, np.array([-9.0]))
        assert not np.isfinite(found.fun)

    def test_does_not_leave_its_reach(self) -> None:
        found = climb(lambda v: (-float(v[0]), -np.ones(1)), np.zeros(1))
        assert found.x[0] <= 15.0


class TestNewton:
    """Where minus the second derivatives are about known."""

    @staticmethod
    def score(vector: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """120 observations of variance 9, and a scale of six groups that are alike."""
        with np.errstate(over="ignore", invalid="ignore"):
            square, flat = 120 * 9 * np.exp(-2 * vector[0]), np.exp(2 * vector[1])
            value = -120 * vector[0] - square / 2 - 3 * np.log1p(flat)
        slope = np.array([square - 120, -6 * flat / (1 + flat)])
        return value, slope, np.diag([2 * square, 12 * (flat / (1 + flat)) ** 2])

    @pytest.mark.parametrize("start", [(0.0, 0.0), (5.0, 3.0), (-3.0, -1.0), (1.1, 5.0)])
    def test_arrives_also_where_it_becomes_flat(self, start: tuple[float, float]) -> None:
        found = newton(self.score, np.array(start))
        assert found.success
        assert found.x[0] == pytest.approx(np.log(3), abs=1e-4)
        assert 3 * np.exp(2 * found.x[1]) < 1e-7
        assert found.nfev <= 20

    def test_says_that_it_has_not(self) -> None:
        steps: list[Any] = []
        found = newton(self.score, np.array([5.0, 3.0]), 2, steps.append)
        assert (found.success, found.nit, len(steps)) == (False, 2, 2)
        found = newton(lambda v: (np.nan, v, np.diag(v)), np.zeros(2))
        assert not np.isfinite(found.fun)

    def test_makes_a_step_shorter(self) -> None:
        """Beyond 1 the density is not there, and the information is a tenth of the truth."""

        def score(v: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            value = -5.0 * float((v[0] - 0.7) ** 2) if v[0] < 1 else np.nan
            return value, -10.0 * (v - 0.7), np.eye(1)

        found = newton(score, np.zeros(1))
        assert found.success
        np.testing.assert_allclose(found.x, [0.7], atol=1e-5)

    def test_does_not_leave_its_reach(self) -> None:
        found = newton(lambda v: (v[0], np.ones(1), np.zeros((1, 1))), np.zeros(1))
        assert (found.x[0], found.success) == (15.0, False)


def lme4(shared_data: Path, name: str) -> Any:
    return pq.read_table(shared_data / "lme4" / f"{name}.parquet")


@pytest.mark.parametrize(
    ("objective", "deviance"), [("likelihood", 1751.9393), ("restricted", 1743.6283)]
)
def test_sleepstudy(shared_data: Path, objective: Objective, deviance: float) -> None:
    model = MixedEffects("Reaction ~ 1 + Days + (1 + Days | Subject)")
    fit = fit_marginal(model, lme4(shared_data, "sleepstudy"), objective=objective)
    assert 2 * fit.history.objective[-1] == pytest.approx(deviance, abs=1e-4)
    values = fit.point()
    np.testing.assert_allclose(values["coefficients"], [251.405, 10.467], atol=5e-4)
    if objective == "restricted":
        np.testing.assert_allclose(values["Subject_scale"], [24.741, 5.922], atol=1e-3)
        np.testing.assert_allclose(values["noise_scale"], 25.592, atol=1e-3)
        assert values["Subject_correlation"][1, 0] == pytest.approx(0.066, abs=5e-4)


@pytest.mark.parametrize(
    ("objective", "deviance"), [("likelihood", 332.1883), ("restricted", 330.8606)]
)
def test_penicillin(shared_data: Path, objective: Objective, deviance: float) -> None:
    model = MixedEffects("diameter ~ 1 + (1 | plate) + (1 | sample)")
    fit = fit_marginal(model, lme4(shared_data, "penicillin"), objective=objective)
    assert 2 * fit.history.objective[-1] == pytest.approx(deviance, abs=1e-4)
    if objective == "restricted":
        values = fit.point()
        scales = [values[f"{name}_scale"].item() for name in ("plate", "sample", "noise")]
        np.testing.assert_allclose(scales, [0.8467, 1.9316, 0.5499], atol=1e-4)


@pytest.mark.parametrize(
    ("objective", "deviance"), [("likelihood", 327.3271), ("restricted", 319.6543)]
)
def test_dyestuff(shared_data: Path, objective: Objective, deviance: float) -> None:
    model = MixedEffects("Yield ~ 1 + (1 | Batch)")
    fit = fit_marginal(model, lme4(shared_data, "dyestuff"), objective=objective)
    assert 2 * fit.history.objective[-1] == pytest.approx(deviance, abs=1e-4)
    if objective == "restricted":
        scales = [fit.point()[f"{name}_scale"].item() for name in ("Batch", "noise")]
        np.testing.assert_allclose(scales, [42.00, 49.51], atol=5e-3)


@pytest.mark.slow
def test_insteval(shared_data: Path) -> None:
    data = pq.read_table(shared_data / "insteval.parquet")
    model = MixedEffects("y ~ 1 + service + (1 | s) + (1 | d) + (1 | dept)")
    fit = fit_marginal(model, data)
    assert 2 * fit.history.objective[-1] == pytest.approx(237721.7688, abs=1e-3)
    values = fit.point()
    scales = [values[f"{name}_scale"].item() for name in ("s", "d", "dept", "noise")]
    np.testing.assert_allclose(scales, [0.325535, 0.514979, 0.078536, 1.177492], rtol=1e-4)
    np.testing.assert_allclose(values["coefficients"], [3.282581, -0.092589], rtol=1e-4)
