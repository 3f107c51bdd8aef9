"""The NumPyro model: its density beside SciPy's, its sites, its priors, both parametrizations."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, Predictive
from numpyro.infer.util import log_density
from scipy import stats

from probmf.likelihoods import Bernoulli, Gaussian, LogNormal, Ordinal
from probmf.models.mixed import MixedEffects
from probmf.models.mixed.program import MixedProgram

N = 12


def frame(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "y": rng.normal(20, 3, N),
        "x": rng.normal(2, 1, N),
        "g": np.arange(N) % 3,
        "h": np.array(["u", "v"])[np.arange(N) // 2 % 2],
    }


def trace(model: MixedEffects, data: Any, values: dict[str, Any] | None = None) -> dict[str, Any]:
    seeded = handlers.seed(handlers.substitute(model, data=values or {}), jax.random.PRNGKey(0))
    return handlers.trace(seeded).get_trace(data)


def test_log_density_of_a_correlated_term_beside_scipy() -> None:
    with jax.enable_x64(True):
        model = MixedEffects("y ~ x + (x | g) + (1 | h)")
        table = frame()
        (data,) = model.arguments(table)
        rng = np.random.default_rng(1)
        corr = np.array([[1.0, 0.0], [-0.6, 0.8]])
        values = {
            "coefficients": np.array([19.0, 0.7]),
            "g_scale": np.array([1.5, 0.4]),
            "g_correlation": corr,
            "g_effects": rng.normal(size=(3, 2)),
            "h_scale": np.array([0.9]),
            "h_effects": rng.normal(size=(2, 1)),
            "noise_scale": np.array(1.2),
        }
        found = jax.jit(lambda at: log_density(model, (data,), {}, at)[0])(values)

    sd_y, x = table["y"].std(), table["x"]
    at_zero = 2.5 * sd_y * np.sqrt(1 + (x.mean() / x.std()) ** 2)
    scale = np.array([2.5 * sd_y, 2.5 * sd_y / x.std()])
    covariance = np.diag(values["g_scale"]) @ corr @ corr.T @ np.diag(values["g_scale"])
    code = np.array([0, 1])[(table["h"] == "v").astype(int)]
    u, b = values["g_effects"][table["g"]], values["coefficients"]
    mean = b[0] + b[1] * x + u[:, 0] + u[:, 1] * x + values["h_effects"][code, 0]
    expected = (
        stats.norm.logpdf(b, [table["y"].mean(), 0], [at_zero, scale[1]]).sum()
        + stats.halfnorm.logpdf(values["g_scale"], scale=[at_zero, scale[1]]).sum()
        + stats.halfnorm.logpdf(values["h_scale"], scale=scale[:1]).sum()
        + stats.halfnorm.logpdf(1.2, scale=scale[0])
        + float(dist.LKJCholesky(2, 1.0).log_prob(corr))
        + stats.multivariate_normal.logpdf(values["g_effects"], np.zeros(2), covariance).sum()
        + stats.norm.logpdf(values["h_effects"], 0, 0.9).sum()
        + stats.norm.logpdf(table["y"], mean, 1.2).sum()
    )
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("likelihood", "response"),
    [
        ("lognormal", np.exp(np.linspace(-1, 1, N))),
        ("bernoulli", np.arange(N) % 3 == 0),
        ("ordinal", np.arange(N) % 4 + 1),
    ],
)
def test_other_responses_beside_scipy(likelihood: Any, response: np.ndarray) -> None:
    table = frame() | {"y": response}
    with jax.enable_x64(True):
        model = MixedEffects("y ~ x + (1 | g)", likelihood=likelihood)
        design = model.design(table)
        beta = {"Intercept": 0.3, "x": -0.7}
        values: dict[str, Any] = {
            "coefficients": np.array([beta[name] for name in design.data.mean.names]),
            "g_scale": np.array([0.5]),
            "g_effects": np.array([[0.2], [-0.1], [0.4]]),
            "noise_scale": np.array(0.8),
            "cutpoints": np.array([-1.0, 0.1, 0.9]),
        }
        sites = trace(model, design.data, values)
        found = sites["y"]["fn"].log_prob(sites["y"]["value"])
    eta = values["g_effects"][table["g"], 0] - 0.7 * table["x"]
    if likelihood == "ordinal":
        edges = np.array([-np.inf, -1.0, 0.1, 0.9, np.inf])
        upper, lower = edges[response] - eta, edges[response - 1] - eta
        expected = np.log(stats.logistic.cdf(upper) - stats.logistic.cdf(lower))
        assert design.response_levels == (1, 2, 3, 4)
        assert model.sites(design).coords["cutpoint"] == ["1|2", "2|3", "3|4"]
        assert "noise_scale" not in sites
    elif likelihood == "bernoulli":
        expected = stats.bernoulli.logpmf(response, stats.logistic.cdf(eta + 0.3))
    else:
        expected = stats.norm.logpdf(np.log(response), eta + 0.3, 0.8) - np.log(response)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_an_ordered_categorical_is_ordinal() -> None:
    levels = ["no", "perhaps", "yes"]
    table = frame() | {"y": pd.Categorical(np.tile(levels, 4), categories=levels, ordered=True)}
    design = MixedEffects("y ~ x + (1 | g)", likelihood="ordinal").design(table)
    assert design.response_levels == tuple(levels)
    assert np.asarray(design.data.response).tolist() == [0, 1, 2] * 4
    assert design.data.mean.names == ("x",)
    keys = jax.random.split(jax.random.PRNGKey(0), 2000)
    law: Any = design.data.priors["cutpoints"]
    draws = jax.vmap(law.sample)(keys)
    assert np.all(np.diff(draws) > 0)
    # The lesser of two Normals has mean -s / sqrt(pi).
    np.testing.assert_allclose(np.mean(draws[:, 0]) / law.scale, -1 / np.sqrt(np.pi), atol=0.08)


def test_likelihoods_as_objects() -> None:
    """Links, levels, cutpoints and noise scales of one's own."""
    levels = np.arange(N) % 3 + 1
    table = frame() | {"y": levels, "yes": levels % 2, "size": np.exp(levels / 2)}
    given = {"cutpoints": np.array([-0.4, 0.7]), "noise_scale": np.array(0.8)}

    def found(formula: str, likelihood: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        with jax.enable_x64(True):
            model = MixedEffects(formula, likelihood=likelihood)
            design = model.design(table)
            beta = {"Intercept": 0.3, "x": -0.7}
            values = given | {
                "coefficients": np.array([beta[name] for name in design.data.mean.names])
            }
            sites = trace(model, design.data, values)
            site = sites[design.data.response_name]
            eta = -0.7 * table["x"] + 0.3 * ("Intercept" in design.data.mean.names)
            return np.asarray(site["fn"].log_prob(site["value"])), eta, sites

    got, eta, _ = found("yes ~ x", Bernoulli("probit"))
    np.testing.assert_allclose(got, stats.bernoulli.logpmf(levels % 2, stats.norm.cdf(eta)))
    edges = np.array([-np.inf, -0.4, 0.7, np.inf])
    for likelihood, fixed in (
        (Ordinal(link="probit"), False),
        (Ordinal(3, link="probit"), False),
        (Ordinal(3, cutpoints=(-0.4, 0.7), link="probit"), True),
    ):
        got, eta, sites = found("y ~ x", likelihood)
        assert ("cutpoints" in sites) != fixed
        upper, lower = edges[levels] - eta, edges[levels - 1] - eta
        wanted = np.log(stats.norm.cdf(upper) - stats.norm.cdf(lower))
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
        np.testing.assert_array_equal(eta, -0.7 * table["x"] + 0.3 * fixed)
    got, eta, sites = found("size ~ x", LogNormal(0.5))
    assert "noise_scale" not in sites
    np.testing.assert_allclose(got, stats.lognorm.logpdf(table["size"], 0.5, scale=np.exp(eta)))
    _, _, sites = found("size ~ x", Gaussian(dist.Exponential(2.0)))
    assert isinstance(sites["noise_scale"]["fn"], dist.Exponential)
    with pytest.raises(ValueError, match=r"The response 'y' does not suit: Row 1 has response 2"):
        MixedEffects("y ~ x", likelihood=Ordinal((1, 3))).design(table)
    with pytest.raises(ValueError, match=r"does not suit: No rating is at level 4"):
        MixedEffects("y ~ x", likelihood=Ordinal(4)).design(table)


def test_sites_plates_and_shapes() -> None:
    model = MixedEffects("y ~ x + (x | g) + (x || h)")
    (data,) = model.arguments(frame())
    sites = trace(model, data, {"g_correlation": jnp.eye(2)})
    shapes = {name: site["value"].shape for name, site in sites.items() if site["type"] == "sample"}
    assert shapes == {
        "coefficients": (2,),
        "g_scale": (2,),
        "g_correlation": (2, 2),
        "g_effects": (3, 2),
        "h_scale": (1,),
        "h_effects": (2, 1),
        "h_x_scale": (1,),
        "h_x_effects": (2, 1),
        "noise_scale": (),
        "y": (N,),
    }
    plates = {name: [frame.name for frame in sites[name]["cond_indep_stack"]] for name in shapes}
    assert plates["g_effects"] == ["g"]
    assert plates["h_effects"] == plates["h_x_effects"] == ["h"]
    assert plates["y"] == ["observation"]
    assert plates["coefficients"] == plates["g_scale"] == []


@pytest.mark.parametrize("formula", ["y ~ x + (x | g)", "y ~ x + (x || g)", "y ~ 0 + (1 | g)"])
def test_not_centred_is_the_same_model(formula: str) -> None:
    """The mean given raw effects is that given effects = raw times their root covariance."""
    table = frame()
    centred, other = MixedEffects(formula), MixedEffects(formula, centered=False)
    (data,) = other.arguments(table)
    sites = trace(other, data)
    values = {name: site["value"] for name, site in sites.items() if name != "y"}
    again = trace(centred, data, values)
    np.testing.assert_allclose(again["y"]["fn"].loc, sites["y"]["fn"].loc, rtol=1e-5)
    for term in data.groups:
        scale = np.asarray(values[f"{term.name}_scale"])
        raw = np.asarray(values[f"{term.name}_effects_raw"])
        root = np.diag(scale) @ np.asarray(
            values.get(f"{term.name}_correlation", np.eye(len(scale)))
        )
        np.testing.assert_allclose(values[f"{term.name}_effects"], raw @ root.T, rtol=1e-4)
        draw = stats.multivariate_normal.logpdf(raw @ root.T, np.zeros(len(scale)), root @ root.T)
        found = again[f"{term.name}_effects"]["fn"].log_prob(again[f"{term.name}_effects"]["value"])
        np.testing.assert_allclose(found, draw, rtol=1e-3)


def test_a_formula_for_the_noise() -> None:
    table = frame() | {"y": np.exp(frame()["y"] / 10)}
    model = MixedEffects("y ~ x + (x | g)", likelihood="lognormal", scale_formula="~ x + (x | g)")
    design = model.design(table)
    sites = trace(model, design.data)
    value = {name: np.asarray(site["value"]) for name, site in sites.items()}
    assert design.data.noise is not None
    effects = value["noise_g_effects"][table["g"]]
    log_scale = (
        value["noise_coefficients"][0]
        + value["noise_coefficients"][1] * table["x"]
        + effects[:, 0]
        + effects[:, 1] * table["x"]
    )
    np.testing.assert_allclose(sites["y"]["fn"].scale, np.exp(log_scale), rtol=1e-4)
    assert "noise_scale" not in sites
    assert [frame.name for frame in sites["noise_g_effects"]["cond_indep_stack"]] == ["g"]
    assert model.effect_sites(design) == ("coefficients", "g_effects")
    named = model.sites(design).dims
    assert set(named) == {name for name in sites if name not in ("g", "observation")}
    center = design.data.priors["noise_coefficients"].loc[0]
    np.testing.assert_allclose(center, np.log(np.log(table["y"]).std()), rtol=1e-5)


def test_default_priors() -> None:
    table = frame()
    sd_y, sd_x = table["y"].std(), table["x"].std()

    def priors(formula: str, **options: Any) -> dict[str, Any]:
        return dict(MixedEffects(formula, **options).design(table).data.priors)

    found = priors("y ~ x + (x | g) + (1 + x || h)")
    np.testing.assert_allclose(found["coefficients"].scale[1], 2.5 * sd_y / sd_x, rtol=1e-5)
    size = np.sqrt(np.mean(table["x"] ** 2))
    np.testing.assert_allclose(
        found["g_scale"].scale, 2.5 * sd_y / sd_x * np.array([size, 1.0]), rtol=1e-5
    )
    np.testing.assert_allclose(found["h_x_scale"].scale, 2.5 * sd_y / size, rtol=1e-5)
    np.testing.assert_allclose(found["noise_scale"].scale, 2.5 * sd_y, rtol=1e-5)
    assert found["g_correlation"].concentration == 1.0
    root_mean_square = np.sqrt(np.mean(table["y"] ** 2))
    found = priors("y ~ 0 + x")
    assert float(found["coefficients"].loc[0]) == 0.0
    np.testing.assert_allclose(
        found["coefficients"].scale, 2.5 * root_mean_square / size, rtol=1e-5
    )
    found = priors("y ~ 0 + h", scale_formula="~ 0 + h + offset(x)")
    np.testing.assert_allclose(found["coefficients"].loc, table["y"].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["coefficients"].scale, 2.5 * np.sqrt(2) * sd_y, rtol=1e-5)
    log_noise = np.log(sd_y) - table["x"].mean()
    np.testing.assert_allclose(found["noise_coefficients"].loc, log_noise, rtol=1e-5)
    table["y"] = (table["y"] > 20).astype(float)
    found = priors("y ~ 1 + (1 | g)", likelihood="bernoulli")
    assert (float(found["coefficients"].loc[0]), float(found["coefficients"].scale[0])) == (0, 2.5)
    assert set(found) == {"coefficients", "g_scale"}
    table["y"] = np.full(N, 3.0)
    np.testing.assert_allclose(priors("y ~ 1")["noise_scale"].scale, 7.5)


def test_exposures_of_counts_enter_the_intercepts_prior_as_their_mean() -> None:
    """The rate is the count by exposure, however unequal exposures are."""
    table = frame() | {"n": np.resize([0.01, 1.0, 1e4], N), "k": np.resize([0, 1, 40], N)}
    data = MixedEffects("k ~ 1 + offset(np.log(n))", likelihood="poisson").design(table).data
    rate = np.log(table["k"].sum() / table["n"].sum())
    np.testing.assert_allclose(data.priors["coefficients"].loc, [rate], rtol=1e-6)


def test_default_priors_do_not_depend_on_where_a_column_has_its_zero() -> None:
    """The predictor at the mean of x, its slope and its bend there keep their widths."""
    rng = np.random.default_rng(0)
    table = {"y": rng.normal(size=60), "z": rng.normal(size=60), "g": np.arange(60) % 3}
    table |= {"o": np.arange(60) % 4, "a": np.resize(["p", "q"], 60)}
    x, size = rng.normal(size=60), 2.5 * table["y"].std()

    def scales(formula: str, site: str = "coefficients", **options: Any) -> list[np.ndarray]:
        """Of x about zero, and far from it."""
        with jax.enable_x64(True):
            made = [
                MixedEffects(formula, **options).design(table | {"x": x + shift}).data.priors[site]
                for shift in (-x.mean(), 2000.0)
            ]
            return [np.asarray(law.scale) for law in made]

    for formula in ("y ~ x * z", "y ~ x + I(x ** 2)", "y ~ 0 + a * x"):
        near, far = scales(formula)
        np.testing.assert_allclose(far[-1], near[-1], rtol=1e-5)
    for near, far in (scales("y ~ x"), scales("y ~ x + (1 + x | g)", "g_scale")):
        np.testing.assert_allclose(near, size / np.array([1.0, x.std()]), rtol=1e-6)
        at_mean = np.sqrt(far[0] ** 2 - ((x.mean() + 2000.0) * far[1]) ** 2)
        np.testing.assert_allclose(at_mean, size, rtol=1e-6)
    near, far = scales("y ~ 0 + a + x")
    assert np.all(far[:2] > 100 * near[:2])
    assert np.all(near[:2] > size)
    near, far = scales("o ~ x", "cutpoints", likelihood="ordinal")
    np.testing.assert_allclose(near, 5.0, rtol=1e-6)
    shift = np.sqrt(3.0) * 2.5 * (x.mean() + 2000.0) / x.std()
    np.testing.assert_allclose(far, np.hypot(5.0, shift), rtol=1e-6)
    law = MixedEffects("o ~ offset(x)", likelihood="ordinal").design(table | {"x": x + 7.0}).data
    assert law.priors["cutpoints"].loc == pytest.approx(x.mean() + 7.0)


def test_priors_of_the_user() -> None:
    model = MixedEffects(
        "y ~ x + (x | g) + (1 | h)",
        priors={
            "coefficients": {"x": dist.Normal(1.0, 0.5)},
            "g_scale": dist.HalfCauchy(2.0),
            "h_scale": 1.0,
            "g_correlation": 2.0,
            "noise_scale": dist.Exponential(1.0),
        },
    )
    (data,) = model.arguments(frame())
    sites = trace(model, data)
    coefficients = data.priors["coefficients"]
    assert (float(coefficients.loc[1]), float(coefficients.scale[1])) == (1.0, 0.5)
    np.testing.assert_allclose(coefficients.loc[0], frame()["y"].mean(), rtol=1e-5)
    assert isinstance(sites["noise_scale"]["fn"], dist.Exponential)
    assert sites["g_scale"]["fn"].base_dist.batch_shape == (2,)
    assert float(sites["g_correlation"]["fn"].concentration) == 2.0
    assert "h_scale" not in sites
    np.testing.assert_allclose(sites["h_effects"]["fn"].base_dist.scale, 1.0)


class LosesItsRate(dist.Distribution):
    """A user's class that says nothing to JAX of what it holds."""

    support = dist.constraints.positive

    def __init__(self, rate: float) -> None:
        self.rate = rate
        super().__init__((), ())

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        return jax.random.exponential(key, sample_shape) / self.rate

    def log_prob(self, value: Any) -> Any:
        return jnp.log(self.rate) - self.rate * value


class KeepsItsRate(LosesItsRate):
    pytree_data_fields = ("rate",)


@pytest.mark.parametrize(
    ("priors", "kind", "message"),
    [
        (
            {"sigma": dist.HalfNormal(1.0)}, ValueError,
            "priors has the key 'sigma', but this model's sites with priors are: 'coefficients', "
            "'g_scale', 'g_correlation', 'noise_scale'.",
        ),
        (
            {"coefficients": {"z": dist.Normal(0, 1)}}, ValueError,
            "the key 'z', but the columns are: 'Intercept', 'x'.",
        ),
        ({"coefficients": {"x": dist.Cauchy(0, 1)}}, TypeError, "must be a scalar numpyro"),
        ({"coefficients": {"x": 3.0}}, TypeError, "3.0 of type float"),
        ({"g_scale": dist.Normal(0, 1)}, ValueError, "allows negative numbers"),
        ({"g_scale": dist.HalfNormal(np.ones(3))}, ValueError, "shape (3,); expected (2,)"),
        ({"g_scale": [1.0, 2.0, 3.0]}, ValueError, "shape (3,); expected (2,)"),
        ({"g_scale": -1.0}, ValueError, "To leave a term out, take it out of the formula."),
        ({"g_scale": dist.Delta(0.7)}, ValueError, "give a fixed scale as a number"),
        ({"noise_scale": dist.HalfNormal(np.ones(2))}, ValueError, "expected () (a scalar)"),
        ({"noise_scale": "wide"}, TypeError, "give a positive number"),
        ({"g_correlation": dist.LKJCholesky(3)}, TypeError, "LKJCholesky(2, ...)"),
        ({"g_correlation": -1.0}, TypeError, "expected a positive number"),
        ({"noise_scale": LosesItsRate(1.0)}, ValueError, "of your own that loses 'rate'"),
    ],
)  # fmt: skip
def test_priors_that_do_not_fit(
    priors: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        MixedEffects("y ~ x + (x | g)", priors=priors).design(frame())


def test_a_class_of_ones_own_is_a_prior() -> None:
    model = MixedEffects("y ~ x + (1 | g)", priors={"noise_scale": KeepsItsRate(2.0)})
    (data,) = model.arguments(frame())
    sites = trace(model, data)
    found = sites["noise_scale"]["fn"].log_prob(0.5)
    np.testing.assert_allclose(found, np.log(2.0) - 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("likelihood", "priors", "what"),
    [
        (Gaussian(0.9), {"noise_scale": 0.1}, "the noise scale is"),
        (LogNormal(0.1), {"noise_scale": dist.HalfNormal(1.0)}, "the noise scale is"),
        (Ordinal(3, cutpoints=(-1.0, 1.0)), {"cutpoints": dist.Normal(0.0, 1.0)}, "the cutpoints"),
    ],
)
def test_a_number_of_the_likelihood_has_no_prior(likelihood: Any, priors: Any, what: str) -> None:
    table = {"y": [1, 2, 3, 1], "x": [1.0, 0.0, 2.0, 1.0]}
    with pytest.raises(ValueError, match=f"both say what {what}"):
        MixedEffects("y ~ x", likelihood=likelihood, priors=priors).design(table)


def test_an_unknown_site_in_centered() -> None:
    model = MixedEffects("y ~ x + (1 | g)", centered=["h_effects"])
    with pytest.raises(ValueError, match="the sites of effects are: 'g_effects'"):
        trace(model, model.arguments(frame())[0])


def test_compiled_once_for_one_form_whatever_the_priors() -> None:
    count = 0

    @partial(jax.jit, static_argnums=0)
    def density(program: MixedProgram, data: Any, values: dict[str, Any]) -> jax.Array:
        nonlocal count
        count += 1
        return log_density(program, (data,), {}, values)[0]

    values = {
        "coefficients": jnp.zeros(2), "g_scale": jnp.ones(2), "g_correlation": jnp.eye(2),
        "g_effects": jnp.zeros((3, 2)), "noise_scale": jnp.ones(()),
    }  # fmt: skip
    found = []
    for seed, scale in enumerate((1.0, 2.0)):
        priors = {"noise_scale": dist.HalfNormal(scale), "g_correlation": scale}
        model = MixedEffects("y ~ x + (x | g)", likelihood=Gaussian(), priors=priors)
        (data,) = model.arguments(frame(seed))
        found.append(float(density(model.program, data, values)))
        assert found[-1] == pytest.approx(float(log_density(model, (data,), {}, values)[0]))
    assert count == 1
    assert found[0] != found[1]


def test_programs_are_equal_where_the_models_are_of_one_form() -> None:
    def program(**options: Any) -> MixedProgram:
        return MixedEffects("y ~ x + (1 | g) + (1 | h)", **options).program

    first = program(priors={"g_scale": 2.0}, likelihood=Gaussian(dist.HalfNormal(1.0)))
    assert first == program() == program(likelihood=Gaussian(3.0))
    assert hash(first) == hash(program())
    assert program(centered=["g_effects", "h_effects"]) == program(
        centered={"h_effects", "g_effects"}
    )
    forms = [
        {}, {"likelihood": "lognormal"}, {"likelihood": Bernoulli("probit")}, {"centered": False},
        {"likelihood": Bernoulli()}, {"centered": ["g_effects"]},
    ]  # fmt: skip
    assert len({program(**form) for form in forms}) == len(forms)


@pytest.mark.slow
def test_nuts_and_predictive_take_the_model_as_it_is() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(200) % 20
    x = rng.normal(size=200)
    y = 3.0 + 2.0 * x + rng.normal(0, 1, 20)[group] + rng.normal(0, 0.5, 200)
    model = MixedEffects("y ~ x + (1 | g)", centered=False)
    arguments = model.arguments({"y": y, "x": x, "g": group})
    mcmc = MCMC(NUTS(model), num_warmup=100, num_samples=100, progress_bar=False)
    mcmc.run(jax.random.PRNGKey(0), *arguments)
    draws = mcmc.get_samples()
    np.testing.assert_allclose(draws["coefficients"].mean(0), [3.0, 2.0], atol=0.6)
    np.testing.assert_allclose(draws["noise_scale"].mean(), 0.5, atol=0.1)
    predictive = Predictive(model, num_samples=5)
    simulated = predictive(jax.random.PRNGKey(1), arguments[0].without_response())
    assert simulated["y"].shape == (5, 200)
