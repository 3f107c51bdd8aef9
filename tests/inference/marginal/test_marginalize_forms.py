"""The forms in which NumPyro lets a model be written: each works with the right value, or says why.

The forms are those of the table in docs/marginal.md; their values are integrals taken by hand from
NumPyro's own log density, or of dense normal distributions.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from marginal_forms import FORMS, REFUSED, in_sample_shape
from marginal_models import (
    DATA,
    GROUPS,
    ROWS,
    check_draws,
    integrate,
    jitted,
    latents_of,
    trace_of,
)
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import log_density
from rings import slow_but
from scipy.stats import multivariate_normal

from probmf.inference.marginal import marginalize
from probmf.inference.marginal.injection import MarginalizeError, read_observed
from probmf.inference.marginal.predictor import log_densities

NUM_DRAWS = 4000


#: Forms of which every suite draws the effects back: of each kind of change to them one.
DRAWN = (
    "`sample_shape` of effects", "`.to_event` of effects and observations", "nested plates",
    "`LocScaleReparam`", "`handlers.mask` around rows", "observations within `scan`",
)  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FORMS if name not in DRAWN])
def test_a_form_that_works_gives_the_integral(name: str) -> None:
    check_form(name)


@pytest.mark.parametrize("name", slow_but(FORMS, *DRAWN))
def test_a_form_that_works_gives_the_integral_and_draws_of_the_effects(name: str) -> None:
    check_form(name, with_draws=True)


def check_form(name: str, *, with_draws: bool = False) -> None:
    form = FORMS[name]
    marginal = marginalize(form.model, form.sites)
    with jax.enable_x64(True):
        latents = latents_of(form)
        density, trace = jitted(marginal, form.data)(latents)
        with jax.numpy_rank_promotion("allow"):  # NumPyro's MultivariateNormal needs it.
            expected = integrate(form, latents)
        if with_draws:
            many = {n: jnp.broadcast_to(v, (NUM_DRAWS, *v.shape)) for n, v in latents.items()}
            many["of nothing"] = jnp.zeros(NUM_DRAWS)
            effects = marginal.recover(1, many, **form.data)
            sites = trace_of(form)
    assert density == pytest.approx(expected.log_density, rel=1e-10)
    assert not {*form.sites, *form.hidden} & set(trace)
    assert set(latents) < set(trace)
    if not with_draws:
        return
    for site, values in effects.items():
        assert values.shape == (NUM_DRAWS, *jnp.shape(sites[site]["value"])), site
    check_draws(form, effects, expected)


@pytest.mark.parametrize(
    ("model", "site", "message"),
    [pytest.param(*case, id=name) for name, cases in REFUSED.items() for case in cases],
)
def test_a_form_that_does_not_work_is_refused(model: Any, site: str, message: str) -> None:
    marginal = marginalize(model, site)
    with pytest.raises(MarginalizeError, match=f"(?s){message}"), handlers.seed(rng_seed=0):
        marginal(**DATA)


def test_the_docs_list_every_form() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "marginal.md").read_text(
        encoding="utf-8"
    )
    section = page.split("\n## Forms of a model\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    listed = [row for row in rows if row != "form" and not row.startswith("---")]
    assert listed == [*FORMS, *REFUSED, *AROUND]


def test_the_field_case_of_sample_shape() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3))
    y = rng.normal(size=20) + x @ [1.0, -1.0, 0.5]

    def model(x: Any, y: Any = None) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0), sample_shape=(3,))
        with jax.numpy_rank_promotion("allow"):
            numpyro.sample("y", dist.Normal(jnp.sum(x * w, -1), 1.0), obs=y)

    marginal = marginalize(model, ["w"])
    with jax.enable_x64(True):
        density = log_density(marginal, (x, y), {}, {})[0]
        drawn = np.asarray(marginal.recover(0, {"no site": np.zeros(NUM_DRAWS)}, x, y)["w"])
    expected = multivariate_normal(np.zeros(20), x @ x.T + np.eye(20)).logpdf(y)
    assert density == pytest.approx(expected, rel=1e-12)
    precision = x.T @ x + np.eye(3)
    half = np.linalg.cholesky(precision).T @ (drawn - np.linalg.solve(precision, x.T @ y)).T
    assert np.abs(half.mean(1)).max() < 4.5 / np.sqrt(NUM_DRAWS)
    assert np.abs(np.cov(half) - np.eye(3)).max() < 4.5 * np.sqrt(2 / NUM_DRAWS)


@jax.enable_x64(True)
def test_observations_of_a_form_are_simulated_in_their_shape() -> None:
    """The covariance of draws of a marginal model's observations, all of one effect."""
    form = FORMS["`sample_shape` of observations"]
    latents = {"tau": jnp.array(0.8), "sigma": jnp.array(0.5)}
    held = handlers.substitute(marginalize(form.model, form.sites), latents)
    law = handlers.trace(held).get_trace(**form.data)["y"]["fn"]
    drawn = law.sample(jax.random.key(0), (NUM_DRAWS,))
    assert drawn.shape == (NUM_DRAWS, ROWS)
    expected = 4.0 + 0.25 * np.eye(ROWS)
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=6 * 4.25 / np.sqrt(NUM_DRAWS))


LOCATION = {"log_tau": np.array(-0.3)}


def logarithmic(g: Any, h: Any, x: Any, y: Any = None) -> None:
    """A scale that can be reparametrized."""
    tau = jnp.exp(numpyro.sample("log_tau", dist.Normal(-0.2, 0.5)))
    u = in_sample_shape(tau)
    numpyro.sample("y", dist.Normal(u[g], 0.7), obs=y)


def reparametrized(marginal: Any) -> Any:
    return handlers.reparam(marginal, config={"log_tau": LocScaleReparam(0)})


#: Handlers around a marginal model: what they make of it, the sites' values, and by how much the
#: log density is multiplied, or what is refused.
AROUND: dict[str, list[tuple[Any, dict[str, Any], float | str]]] = {
    "`condition`, `substitute` or `scope` around the marginal model": [
        (lambda m: handlers.condition(m, data=LOCATION), {}, 1.0),
        (lambda m: handlers.substitute(m, data=LOCATION), {}, 1.0),
        (lambda m: handlers.scope(m, prefix="a"), {"a/log_tau": LOCATION["log_tau"]}, 1.0),
    ],
    "`scale` around the marginal model": [
        (lambda m: handlers.scale(m, scale=2.5), LOCATION, 2.5),
        (lambda m: handlers.scale(m, scale=np.ones(ROWS)), LOCATION, "A scale .* for each row is"),
    ],
    "`mask` or a plate around the marginal model": [
        (lambda m: handlers.mask(m, mask=True), LOCATION, 1.0),
        (
            lambda m: handlers.condition(
                handlers.mask(m, mask=np.arange(ROWS) > 3), data={"log_tau": np.full(ROWS, -0.3)}
            ), {}, "'log_tau' has a value of shape .*belongs into the model",
        ),
        (lambda m: numpyro.plate("again", 3)(m), LOCATION, "A mask .*, or a plate, is around"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("handler", "values", "factor"),
    [pytest.param(*case, id=name) for name, cases in AROUND.items() for case in cases],
)
@jax.enable_x64(True)
def test_handlers_around_a_marginal_model(
    handler: Any, values: dict[str, Any], factor: float | str
) -> None:
    marginal = marginalize(logarithmic, "u")
    if isinstance(factor, str):
        with pytest.raises(MarginalizeError, match=factor):
            log_density(handler(marginal), (), DATA, values)
        return
    density = log_density(handler(marginal), (), DATA, values)[0]
    plain = log_density(marginal, (), DATA, LOCATION)[0]
    assert density == pytest.approx(factor * float(plain), rel=1e-12)


@jax.enable_x64(True)
def test_a_site_is_reparametrized_around_a_marginal_model() -> None:
    """Its own density takes the Jacobian, log 0.5; the rest is as it was."""
    marginal = marginalize(logarithmic, "u")
    around = reparametrized(marginal)
    density, trace = log_density(around, (), DATA, {"log_tau_decentered": np.array(-0.2)})
    plain = log_density(marginal, (), DATA, LOCATION)[0]
    assert density == pytest.approx(float(plain) + np.log(0.5), rel=1e-12)
    draws = {n: np.broadcast_to(trace[n]["value"], 5) for n in ("log_tau", "log_tau_decentered")}
    assert marginal.recover(0, draws, **DATA)["u"].shape == (5, GROUPS)


def test_a_mask_is_one_of_whole_events() -> None:
    """With as many events as values in each it fits the other axis, too."""
    mask, value = np.array([True, False, True]), jnp.arange(9).reshape(3, 3)
    with jax.numpy_rank_promotion("allow"):  # NumPyro's Multinomial needs it.
        law = dist.Normal(jnp.zeros((3, 3)), 1.0).to_event(1).mask(mask)
        observed = read_observed("y", {"law": law, "value": value, "scale": None})
        np.testing.assert_array_equal(observed.keep, np.repeat(mask, 3))
        rows = log_densities(law, value)
        np.testing.assert_allclose(rows.reshape(3, 3).sum(axis=1), law.log_prob(value), rtol=1e-6)
        counts = jnp.array([[1, 1, 2], [0, 3, 1], [2, 2, 0]])
        events = dist.Multinomial(4, jnp.full((3, 3), 1 / 3)).mask(mask)
        np.testing.assert_allclose(
            log_densities(events, counts), events.log_prob(counts), rtol=1e-6
        )
