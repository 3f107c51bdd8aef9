"""What `marginalize` refuses: each message names the site and what is in the way."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from marginal_models import DATA, EXAMPLES, GROUPS, ROWS, decentered, g, intercepts, slopes, x, y
from numpyro.infer.util import log_density

from probmf.effects import RemainderTooLargeError
from probmf.effects import pattern as pattern_module
from probmf.inference.marginal import marginalize
from probmf.inference.marginal.injection import MarginalizeError

normal, sample, plate = dist.Normal, numpyro.sample, numpyro.plate


def groups(size: int = GROUPS, prior: Any = None) -> jax.Array:
    with plate("groups", size):
        return sample("u", normal(0, 1) if prior is None else prior)


def others() -> jax.Array:
    with plate("others", GROUPS):
        return sample("v", normal(0, 1))


def observe(loc: Any, scale: Any = 1.0, law: Callable[..., Any] = normal) -> None:
    with plate("rows", ROWS):
        sample("y", law(loc, scale), obs=y)


def correlated_rows() -> None:
    u = groups()
    with jax.numpy_rank_promotion("allow"):  # NumPyro's MultivariateNormal needs it.
        sample("y", dist.MultivariateNormal(u[g], jnp.eye(ROWS)), obs=y)


def discrete() -> None:
    observe(groups()[g] + sample("k", dist.Bernoulli(0.5)))


def through_the_scale() -> None:
    u = groups()
    observe(u[g], jnp.exp(u[g]))


def through_a_prior() -> None:
    u = groups()
    with plate("others", GROUPS):
        v = sample("v", normal(u, 1))
    observe(v[g] + u[g])


def through_a_prior_alone() -> None:
    u = groups()
    with plate("others", GROUPS):
        v = sample("v", normal(u, 1))
    observe(v[g])


def through_a_prior_scale() -> None:
    u = groups()
    with plate("others", GROUPS):
        v = sample("v", normal(0, jnp.exp(u)))
    observe(v[g] + u[g])


def through_a_factor() -> None:
    u = groups()
    numpyro.factor("penalty", -jnp.sum(u**2))
    observe(u[g])


def through_the_mask() -> None:
    u = groups()
    with numpyro.handlers.mask(mask=u[g] > 0):
        observe(u[g])


def through_the_values() -> None:
    u = groups()
    with plate("rows", ROWS):
        sample("y", normal(0, 1), obs=y - u[g])


def observed_twice() -> None:
    u = groups()
    observe(u[g])
    sample("z", normal(u[0], 1), obs=1.0)


def subsampled() -> None:
    u = groups()
    with plate("rows", ROWS, subsample_size=5) as rows:
        sample("y", normal(u[jnp.asarray(g)[rows]], 1), obs=jnp.asarray(y)[rows])


def scaled() -> None:
    u = groups()
    with numpyro.handlers.scale(scale=2.0):
        observe(u[g])


def scaled_effect() -> None:
    with numpyro.handlers.scale(scale=2.0):
        u = groups()
    observe(u[g])


def masked_effect() -> None:
    with numpyro.handlers.mask(mask=False):
        u = groups()
    observe(u[g])


def observed_effect() -> None:
    with plate("groups", GROUPS):
        u = sample("u", normal(0, 1), obs=np.zeros(GROUPS))
    observe(u[g])


def large_process() -> None:
    with jax.numpy_rank_promotion("allow"):  # NumPyro's MultivariateNormal needs it.
        f = sample("f", dist.MultivariateNormal(jnp.zeros(300), jnp.eye(300)))
    observe(f[g])


def two_of_a_large_site() -> None:
    u = groups(400)
    observe(u[g] - u[g + 200])


class Tilted(dist.Normal):
    """Another density than that of the class it is made of."""

    def log_prob(self, value: Any, intermediates: Any = None) -> Any:
        """Higher for larger values."""
        return super().log_prob(value) + value


def bent_far_away() -> None:
    a, u = sample("a", normal(0, 1)), groups()
    observe(u[g] + jax.nn.relu(a - 4.0) * u[g] ** 2)


def multiplied_far_away() -> None:
    a, u, v = sample("a", normal(0, 1)), groups(), others()
    observe(jnp.where(a > 4.0, u[g] * v[g], u[g] + v[g]))


class Held(dist.Distribution):
    """A law whose density is a function that it holds."""

    arg_constraints: ClassVar = {}
    support = dist.constraints.real

    def __init__(self, density: Callable[[Any], Any]) -> None:
        """Hold it."""
        self.density = density
        super().__init__((), ())

    def log_prob(self, value: Any) -> Any:
        """Call it."""
        return self.density(value)


def through_a_law_that_holds_it(obs: float | None) -> None:
    u = groups()
    sample("z", Held(lambda value: -0.5 * (value - 3 * u[0]) ** 2), obs=obs)
    observe(u[g])


REFUSED: dict[str, tuple[Callable[[], Any], tuple[str, ...], str]] = {
    "no such site": (
        lambda: observe(groups()[g]), ("w",),
        "The site 'w' is not in the model.*; its latent sites are 'u'",
    ),
    "observed": (lambda: observe(groups()[g]), ("y",), "The site 'y' is observed"),
    "observed effect": (observed_effect, ("u",), "The site 'u' is observed"),
    "plate": (lambda: observe(groups()[g]), ("rows",), "'rows' is a plate site, not a sample"),
    "discrete": (discrete, ("u",), "The site 'k' is discrete; sum it out first"),
    "prior": (
        lambda: observe(groups(prior=dist.StudentT(3, 0, 1))[g]), ("u",),
        "The prior of 'u' is StudentT; only Normal and MultivariateNormal effects",
    ),
    "prior of a class made of Normal": (
        lambda: observe(groups(prior=Tilted(0.0, 1.0))[g]), ("u",), "prior of 'u' is Tilted; only",
    ),
    "likelihood": (
        correlated_rows, ("u",), "'u' do not enter the observed site 'y' through one linear pred",
    ),
    "exponential": (
        lambda: observe(jnp.exp(groups()[g])), ("u",),
        r"The site 'u' does not enter the location of 'y' affinely \(row \d+: moving it changes",
    ),
    "absolute": (lambda: observe(jnp.abs(groups()[g])), ("u",), "'u' does not enter .* affinely"),
    "nearly affine": (
        lambda: observe(groups()[g] + 1e-3 * jnp.sin(groups_of("w")[g])), ("u", "w"),
        "'w' does not enter .* affinely",
    ),
    "bent far away": (
        bent_far_away, ("u",), "'u' does not enter .* affinely: its slope depends on its own value"
    ),
    "product far away": (
        multiplied_far_away, ("u", "v"),
        "'u', 'v' do not enter .* affinely together: the slope of one depends on the other",
    ),
    "in a law's function": (
        lambda: through_a_law_that_holds_it(2.0), ("u",), "several observed sites .*'u' enters 'z'"
    ),
    "in a prior's function": (
        lambda: through_a_law_that_holds_it(None), ("u",), "'u' enters the prior of 'z'"
    ),
    "product": (
        lambda: observe(groups()[g] * others()[g]), ("u", "v"),
        "'u', 'v' do not enter the location of 'y' affinely together .*product",
    ),
    "scale": (through_the_scale, ("u",), "'u' enters the scale of the observed site 'y'"),
    "another prior": (through_a_prior, ("u",), "'u' enters the prior of 'v'.*name 'v' as well"),
    "another prior alone": (through_a_prior_alone, ("u",), "'u' enters the prior of 'v'"),
    "prior scale": (
        through_a_prior_scale, ("u", "v"),
        "The prior scale of 'v' depends on another effect .*, 'u'; leave one",
    ),
    "factor": (through_a_factor, ("u",), "'u' enters the factor 'penalty'"),
    "mask": (through_the_mask, ("u",), "'u' enters the mask of the observed site 'y'"),
    "values": (through_the_values, ("u",), "'u' enters the observed values of 'y'"),
    "two observed": (
        observed_twice, ("u",), r"several observed sites \('u' enters 'y'; 'u' enters 'z'\)",
    ),
    "none observed": (
        lambda: observe(0 * sample("a", normal(0, 1))) if groups() is not None else None, ("u",),
        r"Can't integrate out 'u': no observed site depends on them \(observed: 'y'\)",
    ),
    "subsampled": (subsampled, ("u",), "The plate 'rows' is subsampled"),
    "scaled": (scaled, ("u",), "The observed site 'y' is scaled"),
    "scaled effect": (scaled_effect, ("u",), "The site 'u' is scaled"),
    "masked effect": (masked_effect, ("u",), "The prior of 'u' is masked"),
    "process": (
        large_process, ("f",),
        r"The prior of 'f', of shape \(300,\), correlates all its values; at most 256",
    ),
    "large": (
        two_of_a_large_site, ("u",),
        r"Some rows of 'y' involve two or more groups of the site 'u', of shape \(400,\)",
    ),
}  # fmt: skip


def groups_of(name: str) -> jax.Array:
    with plate(f"{name}_groups", GROUPS):
        return sample(name, normal(0, 1))


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_can_not_be_integrated_is_refused(name: str) -> None:
    model, sites, message = REFUSED[name]
    marginal = marginalize(model, sites)
    with pytest.raises(MarginalizeError, match=f"(?s){message}"), numpyro.handlers.seed(rng_seed=0):
        marginal()


@pytest.mark.parametrize("name", ["scale", "another prior", "prior scale", "factor", "mask"])
def test_the_site_to_blame_is_named_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sites, message = REFUSED[name]
    plain = observe

    def with_another_site() -> None:
        innocent = groups_of("innocent")
        monkeypatch.setitem(
            globals(), "observe", lambda loc, *rest: plain(loc + innocent[g], *rest)
        )
        model()

    marginal = marginalize(with_another_site, ("innocent", *sites))
    with (
        pytest.raises(MarginalizeError, match=f"(?s)^{message}") as caught,
        numpyro.handlers.seed(rng_seed=0),
    ):
        marginal()
    assert "innocent" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"g": np.where(np.arange(ROWS) == 3, 7, g)},
            r"argument g .*'u', .*5 groups.*7 in row 3.*0\.\.4",
        ),
        ({"g": np.where(np.arange(ROWS) == 2, -1, g)}, r"argument g .*'u', .* holds -1 in row 2"),
        ({"y": np.where(np.arange(ROWS) == 4, np.nan, y)}, "value of 'y' in row 4 is not finite"),
        ({"y": np.where(np.arange(ROWS) == 4, np.inf, y)}, "value of 'y' in row 4 is not finite"),
    ],
    ids=["beyond", "negative", "nan", "infinite"],
)
def test_bad_data_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MarginalizeError, match=message), numpyro.handlers.seed(rng_seed=0):
        marginalize(intercepts, "u")(**{**DATA, **change})


def test_a_covariate_that_is_missing_is_refused() -> None:
    data = {**DATA, "x": np.where(np.arange(ROWS) == 1, np.nan, x)}
    message = "'y' is not finite in row 1"
    with pytest.raises(MarginalizeError, match=message), numpyro.handlers.seed(rng_seed=0):
        marginalize(slopes, ("u", "v"))(**data)


def test_no_rows_are_refused() -> None:
    def model(g: Any, y: Any) -> None:
        sample("y", normal(groups()[g], 1), obs=y)

    with (
        pytest.raises(MarginalizeError, match="'y' has no rows"),
        numpyro.handlers.seed(rng_seed=0),
    ):
        marginalize(model, "u")(np.zeros(0, int), np.zeros(0))


def test_logarithms_of_negative_numbers_are_refused() -> None:
    def model() -> None:
        sample("y", dist.LogNormal(groups()[g], 1), obs=y)

    message = "not positive where its logarithm is taken"
    with (
        pytest.raises(MarginalizeError, match=message),
        numpyro.handlers.seed(rng_seed=0),
    ):
        marginalize(model, "u")()


@pytest.mark.parametrize(
    ("model", "sites", "error", "message"),
    [
        ("intercepts", "u", TypeError, "model is of type str; expected a NumPyro model"),
        (intercepts, (), ValueError, "sites is empty; name at least one"),
        (intercepts, ("u", "u"), ValueError, "sites names 'u' twice"),
        (intercepts, ("u", 3), TypeError, "sites has 3 in it; expected names of sites"),
        (intercepts, 3, TypeError, "sites is of type int; expected a name or names"),
    ],
)
def test_bad_arguments_are_refused(
    model: Any, sites: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        marginalize(model, sites)


def test_a_reparametrized_site_has_another_name() -> None:
    with (
        pytest.raises(MarginalizeError, match=r"'u' is a deterministic site.*'u_decentered'"),
        numpyro.handlers.seed(rng_seed=0),
    ):
        marginalize(decentered, "u")(**DATA)


def test_traced_arguments_are_refused() -> None:
    marginal = marginalize(intercepts, "u")
    data = {name: jnp.asarray(values) for name, values in DATA.items()}
    latents = {"tau": jnp.ones(()), "sigma": jnp.ones(())}
    # As NumPyro's MCMC does with jit_model_args=True.
    run = jax.jit(lambda given: log_density(marginal, (), given, latents)[0])
    with pytest.raises(MarginalizeError, match=r"are traced.*MCMC without jit_model_args"):
        run(data)


def test_too_large_a_remainder_names_its_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern_module, "MAX_REMAINDER", 4)
    example = EXAMPLES["crossed"]
    message = r"After eliminating u \(5 coefficients\).*beta and gamma \(5\), v \(3\).*non-centred"
    with (
        pytest.raises(RemainderTooLargeError, match=message),
        numpyro.handlers.seed(rng_seed=0),
    ):
        marginalize(example.model, example.sites)(**DATA)


SAMPLES = {"tau": np.ones(4), "sigma": np.ones(4)}


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"tau": np.ones(4)}, "samples lack the site 'sigma'; .* every remaining site: 'tau', "),
        ({**SAMPLES, "tau": 1.0}, r"samples\['tau'\] has shape \(\); expected leading axes"),
        ({**SAMPLES, "tau": np.ones(3)}, r"leading axes \(4,\), others have \(3,\)"),
        ({"tau": np.ones(0), "sigma": np.ones(0)}, r"no draws \(leading shape \(0,\)\)"),
    ],
)
def test_bad_samples_are_refused(samples: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        marginalize(intercepts, "u").recover(0, samples, **DATA)


def test_recovering_needs_observations() -> None:
    data = {**DATA, "y": None}
    with pytest.raises(MarginalizeError, match=r"nothing is observed. Call the model with its"):
        marginalize(intercepts, "u").recover(0, SAMPLES, **data)


KINKS: dict[str, Any] = {
    "minimum": lambda b: jnp.minimum(b, 1.0),
    "far away": lambda b: jnp.clip(b, -1e6, 1e6),
    "where": lambda b: jnp.where(b > 1, 1 + (b - 1) / 2, b),
    "product with a comparison": lambda b: (b > -30) * b,
    "cond": lambda b: jax.lax.cond(b > 50, lambda v: 2 * v, lambda v: v, b),
    "relu": jax.nn.leaky_relu,
    "whole numbers": lambda b: b + (1e-4 * b).astype(int),
    "in a loop of any length": lambda b: jax.lax.while_loop(
        lambda state: state[0] < 3,
        lambda state: (state[0] + 1, jnp.minimum(state[1], 200.0)),
        (0, b),
    )[1],
    "in a loop": lambda b: jax.lax.scan(
        lambda carry, _: (jnp.maximum(carry, b - 100.0), None), b, None, length=2
    )[0],
}


@pytest.mark.parametrize("name", ["a", "b", "alpha", "slope"])
@pytest.mark.parametrize("kink", KINKS)
def test_kinks_are_read_from_the_program(kink: str, name: str) -> None:
    """However far they are from where the model is probed, and whatever the site is called."""

    def model(y: Any) -> None:
        b = numpyro.sample(name, dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(KINKS[kink](b) * jnp.linspace(-1.0, 1.0, 5), 1.0), obs=y)

    with pytest.raises(MarginalizeError, match=f"'{name}' does not enter .* has a kink or a jump"):
        marginalize(model, name).prepare(jnp.ones(5))


def test_kinks_beside_the_location_are_let_through() -> None:
    def model(y: Any) -> None:
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        numpyro.deterministic("positive", jnp.maximum(b, 0.0))
        chosen = jnp.where(jnp.arange(5) > 2, b, 0.0)
        summed = jax.lax.scan(lambda c, i: (c + b * jnp.arange(3.0)[i], None), 0.0, jnp.arange(3))
        numpyro.sample("y", dist.Normal(chosen + summed[0], 1.0), obs=y)

    marginal = marginalize(model, "b")
    (design,) = marginal.prepare(jnp.ones(5)).designs
    np.testing.assert_allclose(design[:, 0], [3.0, 3.0, 3.0, 4.0, 4.0])
    assert set(marginal.recover(0, {}, jnp.ones(5))) == {"b", "positive"}
