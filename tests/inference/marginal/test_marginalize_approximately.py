"""Effects of responses that are not Gaussian, in any NumPyro model, against grids and algebra."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from marginal_models import GROUPS, ROWS, g, h, x
from numpyro.infer.util import log_density
from rings import slow_but

from probmf.inference.marginal import marginalize
from probmf.inference.marginal.injection import MarginalizeError
from probmf.run.driver import FitWarning

normal, sample, plate = dist.Normal, numpyro.sample, numpyro.plate
rng = np.random.default_rng(3)
counts = rng.poisson(np.exp(0.4 + 0.8 * rng.normal(size=GROUPS)[g]))
yes = (rng.normal(size=ROWS) > 0).astype(int)


def effects(name: str = "u", size: int = GROUPS, mean: Any = 0.0) -> Any:
    tau = sample("tau", dist.HalfNormal(1.0))
    with plate(f"{name}_groups", size):
        return sample(name, normal(mean, tau))


def poisson(y: Any = counts) -> None:
    """Offsets, a mean of the effects that is sampled, and a deterministic site of them."""
    a, b = sample("a", normal(0, 1)), sample("b", normal(0, 1))
    u = effects(mean=a)
    eta = numpyro.deterministic("eta", 0.1 * h + b * x + u[g])
    with plate("rows", ROWS):
        sample("y", dist.Poisson(jnp.exp(eta)), obs=y)


def bernoulli() -> None:
    u = effects()
    sample("y", dist.Bernoulli(logits=u[g]).to_event(1), obs=yes)


def bernoulli_of(group: Any, y: Any) -> None:
    u = effects()
    with plate("rows", ROWS):
        sample("y", dist.Bernoulli(logits=u[group]), obs=y)


def correlated() -> None:
    size = sample("size", dist.HalfNormal(1.0))
    cover = size * jnp.array([[1.0, 0.3], [0.3, 0.5]])
    with plate("groups", GROUPS):
        u = sample("u", dist.MultivariateNormal(jnp.zeros(2), cover))
    with plate("rows", ROWS):
        sample("y", dist.Binomial(6, logits=0.2 + u[g, 0] + u[g, 1] * x), obs=counts % 7)


def robust() -> None:
    u = effects()
    with plate("rows", ROWS):
        sample("y", dist.StudentT(4.0, u[g], 0.7), obs=x)


def ordered() -> None:
    u = effects()
    with plate("rows", ROWS):
        sample("y", dist.OrderedLogistic(u[g] + x, jnp.array([-1.0, 0.5])), obs=counts % 3)


def masked() -> None:
    u = effects()
    keep = np.arange(ROWS) % 4 != 1
    with plate("rows", ROWS), numpyro.handlers.mask(mask=keep):
        law = dist.NegativeBinomial2(jnp.exp(u[g]), 3.0)
        sample("y", law, obs=jnp.where(keep, counts, -5))


def loadings() -> None:
    """The columns of the effects are sampled; responses in a matrix."""
    slope = sample("slope", dist.HalfNormal(1.0))
    with plate("people", GROUPS):
        u = sample("u", normal(0.0, 1.0))
    logits = slope * u[:, None] - jnp.linspace(-1.0, 1.0, 4)[None, :]
    with plate("people", GROUPS, dim=-2), plate("items", 4, dim=-1):
        sample("y", dist.Bernoulli(logits=logits), obs=yes.reshape(GROUPS, 4))


def noise() -> None:
    """The effects are in the scale."""
    u = effects()
    with plate("rows", ROWS):
        sample("y", dist.Cauchy(0.0, jnp.exp(u[g])), obs=x)


class Example(NamedTuple):
    model: Callable[[], None]
    latents: dict[str, float]


EXAMPLES = {
    "poisson": Example(poisson, {"a": 0.3, "b": -0.2, "tau": 0.8}),
    "bernoulli": Example(bernoulli, {"tau": 1.2}),
    "correlated": Example(correlated, {"size": 0.7}),
    "robust": Example(robust, {"tau": 0.6}),
    "ordered": Example(ordered, {"tau": 0.9}),
    "masked": Example(masked, {"tau": 0.9}),
    "loadings": Example(loadings, {"slope": 1.4}),
    "in the noise": Example(noise, {"tau": 0.5}),
}


def on_grid(example: Example, dim: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Log density at a grid of values, the same in all groups, moved group by group; at zero."""
    axis = np.linspace(-7.0, 7.0, 701 if dim == 1 else 85)
    grid = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
    shape = (GROUPS,) if dim == 1 else (GROUPS, dim)
    latents = {name: jnp.asarray(value) for name, value in example.latents.items()}

    @jax.jit
    def joint(u: Any) -> Any:
        return log_density(example.model, (), {}, {**latents, "u": u})[0]

    @jax.jit
    def moved(point: Any) -> Any:
        own = jnp.eye(GROUPS)[:, :, None] * point
        return jax.vmap(joint)(own.reshape(GROUPS, *shape))

    values = np.asarray(jax.lax.map(moved, jnp.asarray(grid), batch_size=100))
    return axis, values, float(joint(jnp.zeros(shape)))


@pytest.mark.parametrize("name", ["correlated", "masked", "ordered"])
def test_the_density_is_the_integral(name: str) -> None:
    """Of two effects a group, of rows that don't count, of levels; with draws in the long tests."""
    check_density(name)


@pytest.mark.parametrize("name", slow_but(EXAMPLES, "poisson", "bernoulli"))
def test_the_density_is_the_integral_and_draws_are_of_the_conditional(name: str) -> None:
    check_density(name, with_draws=True)


def check_density(name: str, *, with_draws: bool = False) -> None:
    example, dim = EXAMPLES[name], 2 if name == "correlated" else 1
    marginal = marginalize(example.model, "u", num_nodes=41 if dim == 1 else 21)
    latents = {site: jnp.asarray(value, float) for site, value in example.latents.items()}
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        latents = {site: jnp.asarray(value) for site, value in example.latents.items()}
        axis, values, zero = on_grid(example, dim)
        marginal.prepare()
        run = jax.jit(lambda given: log_density(marginal, (), {}, given)[0])
        value, slopes = jax.jit(jax.value_and_grad(run))(latents)
        step = 1e-4
        differences = {
            site: (run({**latents, site: at + step}) - run({**latents, site: at - step})) / step / 2
            for site, at in latents.items()
        }
        if with_draws:
            many = {site: jnp.full(2000, at) for site, at in latents.items()}
            drawn = marginal.recover(1, many)
    cell = (axis[1] - axis[0]) ** dim
    logs = values - zero
    want = zero + np.sum(np.logaddexp.reduce(logs, axis=0) + np.log(cell))
    assert float(value) == pytest.approx(want, abs=1e-6)
    for site, slope in slopes.items():
        assert float(slope) == pytest.approx(float(differences[site]), rel=1e-5, abs=1e-6)
    if not with_draws:
        return
    first = np.asarray(drawn["u"]).reshape(2000, GROUPS, dim)[:, :, 0]
    table = np.exp(logs - logs.max(axis=0)).reshape(len(axis), -1, GROUPS).sum(axis=1)
    below = np.cumsum(table, axis=0) / table.sum(axis=0)
    for group in range(GROUPS):
        ranks = np.interp(first[:, group], axis + 0.5 * (axis[1] - axis[0]), below[:, group])
        assert scipy.stats.kstest(ranks, "uniform").pvalue > 1e-4
    if name == "poisson":
        assert set(drawn) == {"u", "eta"}


def test_modes_that_nodes_miss_are_told() -> None:
    """Two rows of a group lie far apart, and the density has tails longer than its prior."""

    def model() -> None:
        tau = sample("tau", dist.HalfNormal(1.0))
        with plate("two", 2):
            u = sample("u", normal(0.0, tau))
        seen = jnp.array([[0.1, 0.3], [-2.0, 2.5]])
        with plate("groups", 2, dim=-2), plate("rows", 2, dim=-1):
            sample("y", dist.Cauchy(u[:, None], 0.05), obs=seen)

    message = r"quadrature over 'u' can't be relied upon: .* and group 1 alone"
    with pytest.warns(FitWarning, match=message):
        marginalize(model, "u").recover(0, {"tau": np.full(3, 2.0)})


def crossed() -> None:
    a = sample("a", normal(0, 1))
    u = effects()
    with plate("others", 3):
        v = sample("v", normal(0, 0.7))
    with plate("rows", ROWS):
        sample("y", dist.Poisson(jnp.exp(a + u[g] + v[h])), obs=counts)


def test_crossed_effects_go_by_laplace() -> None:
    """Against Newton's method on the joint density, and draws against its curvature."""
    marginal = marginalize(crossed, ["a", "u", "v"])
    sizes = {"a": (), "u": (GROUPS,), "v": (3,)}
    with jax.enable_x64(True):
        tau = jnp.asarray(0.8)

        def joint(flat: Any) -> Any:
            parts = {"a": flat[0], "u": flat[1 : 1 + GROUPS], "v": flat[1 + GROUPS :]}
            return log_density(crossed, (), {}, {"tau": tau, **parts})[0]

        bend, slope = jax.jit(jax.hessian(joint)), jax.jit(jax.grad(joint))
        mode = np.zeros(4 + GROUPS)
        for _ in range(20):
            mode = mode - np.linalg.solve(bend(mode), slope(mode))
        precision = -np.asarray(bend(mode))
        want = float(joint(mode)) + 0.5 * len(mode) * np.log(2 * np.pi)
        want -= 0.5 * np.linalg.slogdet(precision)[1]
        report = marginal.report()
        value = jax.jit(lambda: log_density(marginal, (), {}, {"tau": tau})[0])()
        drawn = marginal.recover(0, {"tau": jnp.full(4000, 0.8)})
    assert float(value) == pytest.approx(want, rel=1e-9)
    assert report["u"]["done"] == "integrated out by Laplace's approximation"
    flat = np.concatenate([np.reshape(drawn[n], (4000, -1)) for n in sizes], axis=1) - mode
    half = np.linalg.cholesky(precision).T @ flat.T
    assert np.abs(half.mean(1)).max() < 4.5 / np.sqrt(4000)
    assert np.abs(half @ half.T / 4000 - np.eye(len(half))).max() < 4.5 * np.sqrt(2 / 4000)


def test_without_names_the_largest_grouping_goes() -> None:
    people = np.arange(40) // 2

    def model(y: Any) -> None:
        a = sample("a", normal(0, 1))
        u = effects("u", 20)
        with plate("others", 3):
            v = sample("v", normal(0, 1))
        sample("bound", dist.Uniform(0.0, 1.0))
        with plate("rows", 40):
            sample("y", dist.Bernoulli(logits=a + u[people] + v[np.arange(40) % 3]), obs=y)

    report = marginalize(model).report(np.arange(40) % 2)
    assert report["u"]["done"] == "integrated out by quadrature, 15 nodes each"
    assert "this enters all rows" in report["a"]["reason"]
    assert "It does not pay: each row would be evaluated at 15 nodes" in report["v"]["reason"]
    assert report["bound"]["reason"].startswith("Its prior is Uniform")


def test_a_grouping_that_leaves_more_than_it_takes_stays() -> None:
    def model(y: Any) -> None:
        u = effects("u", 20)
        with plate("others", 19):
            v = sample("v", normal(0, 1))
        a = sample("a", normal(0, 1).expand([2]).to_event(1))
        rows = np.arange(40)
        logits = a[rows % 2] + u[rows // 2] + v[rows % 19]
        sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=y)

    with pytest.raises(MarginalizeError, match="22 other numbers would be left beside 20 effects"):
        marginalize(model).report(np.arange(40) % 2)


def test_single_precision_is_close() -> None:
    marginal, y = marginalize(bernoulli_of, "u"), yes.astype(np.int32)

    def density(tau: float) -> Any:
        marginal.prepare(g, y)
        return jax.jit(lambda: log_density(marginal, (g, y), {}, {"tau": jnp.asarray(tau)})[0])()

    value = density(1.2)
    assert value.dtype == jnp.float32
    with jax.enable_x64(True):
        wide = density(1.2)
    assert float(value) == pytest.approx(float(wide), rel=1e-5)


def coupled() -> None:
    u = effects()
    eta = u[g]
    with plate("rows", ROWS):
        sample("y", dist.Poisson(jnp.exp(eta) / jnp.sum(jnp.exp(eta))), obs=counts)


def bent() -> None:
    u = effects()
    with plate("rows", ROWS):
        sample("y", dist.Beta(jnp.exp(u)[g], jnp.exp(-(u**3))[g]), obs=0.5)


def kinked() -> None:
    u = effects()
    with plate("rows", ROWS):
        sample("y", dist.Laplace(u[g], 0.7), obs=x)


def gaussian() -> None:
    sample("y", dist.Normal(effects()[g], 0.7), obs=x)


REFUSED = {
    "kinked": (kinked, None, "density of 'y' is linear in its predictor but for kinks"),
    "coupled": (coupled, None, "The rows of 'y' have no linear predictor each"),
    "bent": (bent, None, "'u' do not enter the observed site 'y' through one linear predictor"),
    "negative": (lambda: poisson(counts - 5), None, r"'y' in row \d+ is -\d, which Poisson can't"),
    "not whole": (lambda: poisson(counts + 0.5), None, r"in row 0 is \d.5, which Poisson can't"),
    "exact": (gaussian, 5, "num_nodes is 5, and effects of Gaussian observations are integrated"),
    "too many": (crossed, 5, "num_nodes is 5, and a quadrature is over one or two effects"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_such_integral_is_refused(name: str) -> None:
    model, num_nodes, message = REFUSED[name]
    sites = ["u", "v"] if model is crossed else "u"
    with pytest.raises(MarginalizeError, match=message):
        marginalize(model, sites, num_nodes=num_nodes).prepare()


def test_numbers_of_nodes_are_checked() -> None:
    with pytest.raises(ValueError, match="num_nodes is 0"):
        marginalize(bernoulli, "u", num_nodes=0)
