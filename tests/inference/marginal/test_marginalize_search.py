"""`marginalize` without names: what it integrates out, what stays, and why."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from dense_effects import flat_evidence
from marginal_models import DATA, EXAMPLES, GROUPS, OTHERS, ROWS, g, h, jitted, x, y
from numpyro.distributions import constraints

from probmf.inference.marginal import marginalize
from probmf.inference.marginal import search as search_module
from probmf.inference.marginal.injection import MarginalizeError
from probmf.inference.marginal.search import largest

normal, sample, plate = dist.Normal, numpyro.sample, numpyro.plate

#: Sites that are found beside those of the examples, or in their place.
FOUND = {"slopes": {"u", "v", "a", "b"}, "factors": {"u", "c", "bias"}}


@pytest.mark.parametrize(
    "name", sorted(EXAMPLES.keys() - {"slopes and means", "the other factors"})
)
def test_the_largest_set_is_found(name: str) -> None:
    example = EXAMPLES[name]
    marginal = marginalize(example.model)
    report = marginal.report(**example.data)
    done = {row["site"] for row in report if row["done"] == "integrated out exactly"}
    assert done == FOUND.get(name, set(example.sites))
    assert all(row["reason"] for row in report)


def test_the_density_is_that_of_the_named_sites() -> None:
    example = EXAMPLES["slopes and means"]
    with jax.enable_x64(True):
        latents = {"tau": jnp.asarray(0.4), "kappa": jnp.asarray(1.3)}
        values = [
            float(jitted(marginalize(example.model, sites), example.data)(latents)[0])
            for sites in (None, example.sites)
        ]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def everything(y: Any = None) -> None:
    """One site for each reason to stay."""
    flat = sample("flat", dist.ImproperUniform(constraints.real, (), ()))
    sample("t", dist.StudentT(3.0, 0.0, 1.0))
    log_noise = sample("log_noise", normal(0, 1))
    log_tau = sample("log_tau", normal(0, 1))
    bent, kinked = sample("bent", normal(0, 1)), sample("kinked", normal(0, 1))
    sample("idle", normal(0, 1))
    sample("seen", normal(sample("elsewhere", normal(0, 1)), 1.0), obs=0.3)
    twice = sample("twice", normal(0, 1))
    sample("two", normal(twice, 1.0), obs=0.2)
    sample("yes", dist.Bernoulli(logits=sample("odds", normal(0, 1))), obs=1)
    mean = sample("mean", normal(0, 1))
    with plate("groups", GROUPS):
        u = sample("u", normal(flat, jnp.exp(log_tau)))
    with plate("others", OTHERS):
        v = sample("v", normal(mean, 1.0))
    loc = u[g] * (1 + 0.1 * v[h]) + jnp.exp(bent) + jnp.maximum(kinked, 0) + twice
    sample("y", normal(loc, jnp.exp(log_noise)), obs=y)


def test_each_site_that_stays_has_its_reason() -> None:
    report = marginalize(everything).report(y)
    reasons = {row["site"]: row["reason"] for row in report if row["done"] == "sampled"}
    assert set(reasons) == {row["site"] for row in report} - {"u", "flat"}
    expected = {
        "t": "Its prior is StudentT",
        "log_noise": "enters the scale of the observed site 'y'",
        "log_tau": "The prior scale of 'u' depends on another effect",
        "bent": "depends on its own value",
        "kinked": "goes through 'maximum'",
        "idle": "No observation depends on it",
        "elsewhere": "enters the observed site 'seen', and others enter 'y'",
        "twice": "enters several observed sites",
        "odds": "'yes', which is Bernoulli",
        "v": "multiplies 'flat', 'u'",
        "mean": "multiplies 'flat', 'u'",
    }
    for site, words in expected.items():
        assert words in reasons[site]


def test_a_model_with_nothing_to_integrate_out_says_why_of_each_site() -> None:
    def model() -> None:
        rate = sample("rate", dist.Gamma(2.0, 1.0))
        log_noise = sample("log_noise", normal(0, 1))
        sample("y", normal(rate, jnp.exp(log_noise)), obs=y)

    message = r"(?s)Nothing can be .* 'rate': Its prior is Gamma.*'log_noise': .*enters the scale"
    with pytest.raises(MarginalizeError, match=message):
        marginalize(model).prepare()


def test_what_does_not_pay_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "MOST_COLUMNS", 4)
    report = marginalize(EXAMPLES["crossed"].model).report(**DATA)
    reasons = {row["site"]: row["reason"] for row in report if row["done"] == "sampled"}
    assert {"beta", "gamma"} <= set(reasons)
    assert reasons["beta"].startswith("It does not pay: beside the largest grouping 8 effects")


def test_the_largest_choice_among_products_keeps_what_is_needed() -> None:
    sizes = {"a": 5, "b": 4, "c": 4, "m": 1}
    needs = {"a": frozenset(), "b": frozenset(), "c": frozenset(), "m": frozenset("a")}
    sites = frozenset(sizes)
    assert largest(sizes, needs, sites, frozenset({("a", "b")})) == {"a", "c", "m"}
    assert largest(sizes, needs, sites, frozenset({("a", "b"), ("a", "c")})) == {"b", "c"}


def flat(size: int = 2) -> Any:
    return sample("beta", dist.ImproperUniform(constraints.real_vector, (), (size,)))


FLAT: dict[str, Any] = {
    "coefficients": flat,
    "expanded": lambda: sample(
        "beta", dist.ImproperUniform(constraints.real, (), ()).expand([2]).to_event(1)
    ),
}


@pytest.mark.parametrize("form", FLAT)
@pytest.mark.parametrize("kind", ["alone", "with effects"])
def test_flat_priors_are_integrated_against_dense_algebra(form: str, kind: str) -> None:
    columns = np.stack([np.ones(ROWS), 1000 + x], axis=1)

    def model(y: Any) -> None:
        loc = columns @ FLAT[form]()
        if kind == "with effects":
            with plate("groups", GROUPS):
                loc = loc + sample("u", normal(0.0, 2.0))[g]
        sigma = sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
        sample("y", normal(loc, sigma), obs=y)

    cover = 0.49 * np.eye(ROWS)
    if kind == "with effects":
        cover = cover + 4.0 * (g[:, None] == g[None])
    want, mean, spread = flat_evidence(columns, y, cover)
    with jax.enable_x64(True):
        marginal = marginalize(model)
        value, _ = jitted(marginal, {"y": y})({"sigma": jnp.asarray(0.7)})
        drawn = marginal.recover(1, {"sigma": jnp.full(4000, 0.7)}, y)["beta"]
    assert value == pytest.approx(want, rel=1e-9)
    half = np.linalg.solve(np.linalg.cholesky(spread), (np.asarray(drawn) - mean).T)
    assert np.abs(half.mean(1)).max() < 4.5 / np.sqrt(4000)
    assert np.abs(half @ half.T / 4000 - np.eye(2)).max() < 4.5 * np.sqrt(2 / 4000)


def test_flat_effects_of_groups_may_lead() -> None:
    """Every group has an intercept of its own, flat, beside a slope with a prior."""

    def model(y: Any) -> None:
        with plate("groups", GROUPS - 1):
            u = sample("u", dist.ImproperUniform(constraints.real, (), ()))
        sample("y", normal(u[g] + sample("b", normal(0, 3.0)) * x, 0.7), obs=y)

    indicators = (g[:, None] == np.arange(GROUPS - 1)).astype(float)
    want, _, _ = flat_evidence(indicators, y, 0.49 * np.eye(ROWS) + 9.0 * np.outer(x, x))
    with jax.enable_x64(True):
        marginal = marginalize(model)
        assert marginal.prepare(y).blocks[0].is_flat
        value, _ = jitted(marginal, {"y": y})({})
    assert value == pytest.approx(want, rel=1e-9)


LAWS = {
    "normal": lambda loc: normal(loc, 1.0),
    "noise by row": lambda loc: normal(loc, jnp.linspace(0.5, 2.0, ROWS)),
    "mask": lambda loc: normal(loc, 1.0).mask(np.arange(ROWS) % 5 > 0),
    "poisson": lambda loc: dist.Poisson(jnp.exp(loc)),
}


@pytest.mark.parametrize("law", list(LAWS))
@pytest.mark.parametrize("size", [GROUPS, GROUPS - 1])
def test_flat_priors_without_a_posterior_are_refused(size: int, law: str) -> None:
    """The last group has no row, or an intercept is the sum of the groups'."""

    def model() -> None:
        with plate("groups", size):
            u = sample("u", dist.ImproperUniform(constraints.real, (), ()))
        a = sample("a", dist.ImproperUniform(constraints.real, (), ())) if size < GROUPS else 0.0
        sample("y", LAWS[law](u[g] + a), obs=np.round(np.exp(y)))

    sites = ("u", "a") if size < GROUPS else "u"
    with pytest.raises(MarginalizeError, match=r"The flat prior of .*'u'.* leaves no posterior"):
        marginalize(model, sites).prepare()


def test_flat_priors_that_no_row_holds_are_refused() -> None:
    """Answers that a column separates, and a group of zeros; one answer less, and all is well."""

    def answers(yes: Any) -> None:
        b = sample("b", dist.ImproperUniform(constraints.real, (), ()))
        logits = sample("a", normal(0, 1)) + b * (x - x.mean())
        sample("y", dist.Bernoulli(logits=logits), obs=yes)

    def counts(seen: Any) -> None:
        with plate("groups", GROUPS - 1):
            u = sample("u", dist.ImproperUniform(constraints.real, (), ()))
        sample("y", dist.Poisson(jnp.exp(u[g])), obs=seen)

    other = int(np.argmin(x))
    for model, sites, data in (
        (answers, ["a", "b"], (x > x.mean()).astype(int)),
        (counts, "u", np.where(g == g[other], 0, 2)),
    ):
        with pytest.raises(MarginalizeError, match=r"flat prior of .* and that of no row falls"):
            marginalize(model, sites).prepare(data)
        data[other] = 1
        assert marginalize(model, sites).prepare(data).flat


@pytest.mark.parametrize("seed", range(6))
def test_dependent_columns_with_a_flat_prior_are_refused(seed: int) -> None:
    """Rounding makes of their Gram matrix one that is not positive definite, or is just so."""
    a, b = np.random.default_rng(seed).normal(size=(2, ROWS))
    columns = np.stack([a, b, a + b], axis=1)

    def model(y: Any) -> None:
        sample("y", normal(columns @ flat(3), 0.7), obs=y)

    with pytest.raises(MarginalizeError, match="The flat prior of 'beta' leaves no posterior"):
        marginalize(model).prepare(y)


def test_the_unit_of_the_responses_decides_nothing_about_flat_priors() -> None:
    columns = np.stack([np.ones(ROWS), x], axis=1)

    def model(y: Any) -> None:
        sample("y", normal(columns @ flat(), 1e4), obs=y)

    report = marginalize(model).report(1e9 + 1e4 * y)
    assert report["beta"]["done"] == "integrated out exactly"


def test_flat_priors_have_no_prior_draw() -> None:
    def model(y: Any) -> None:
        sample("y", normal(sample("a", dist.ImproperUniform(constraints.real, (), ())), 1), obs=y)

    prepared = marginalize(model).prepare(y)
    with pytest.raises(MarginalizeError, match="The prior of 'a' is flat"):
        prepared.simulate({}, jax.random.key(0))
