"""NumPyro models with Gaussian effects, none of them ours, and what their effects integrate to."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import scipy.stats
from jax import Array
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import log_density

ROWS, GROUPS, OTHERS = 20, 5, 3
_rng = np.random.default_rng(0)
g = _rng.permutation(np.arange(ROWS) % (GROUPS - 1)).astype(np.int32)  # the last has no row
h = _rng.permutation(np.arange(ROWS) % OTHERS).astype(np.int32)
x = _rng.normal(size=ROWS)
y = _rng.normal(size=ROWS) + x


class Copies(Mapping[str, np.ndarray]):
    """Hands out copies: JAX remembers a captured array in the precision of its first use."""

    def __init__(self, **arrays: np.ndarray) -> None:
        self.arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name].copy()

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


DATA = Copies(g=g, h=h, x=x, y=y)

sample, plate, normal = numpyro.sample, numpyro.plate, dist.Normal


def scale_of(name: str) -> Array:
    return sample(name, dist.HalfNormal(1.0))


def intercepts(g: Any, h: Any, x: Any, y: Any = None) -> None:
    tau, sigma = scale_of("tau"), scale_of("sigma")
    with plate("groups", GROUPS):
        u = sample("u", normal(0.3, tau))
    with plate("rows", ROWS):
        sample("y", normal(u[g], sigma), obs=y)


def slopes(g: Any, h: Any, x: Any, y: Any = None) -> None:
    """Intercepts and slopes as sites of their own; a deterministic predictor; an interaction."""
    tau, kappa = scale_of("tau"), scale_of("kappa")
    a, b = sample("a", normal(0, 2)), sample("b", normal(1, 2))
    with plate("groups", GROUPS):
        u = sample("u", normal(a, tau))
        v = sample("v", normal(b, kappa))
    numpyro.deterministic("twice", 2 * v)
    eta = numpyro.deterministic("eta", u[g] + v[g] * x)
    with plate("rows", ROWS):
        sample("y", normal(eta, 0.7), obs=y)


def correlated(g: Any, h: Any, x: Any, y: Any = None) -> None:
    tau = sample("tau", dist.HalfNormal(1.0).expand([2]).to_event(1))
    chol = sample("chol", dist.LKJCholesky(2, 1.0))
    m = sample("m", normal(0, 1).expand([2]).to_event(1))
    with plate("groups", GROUPS):
        u = sample("u", dist.MultivariateNormal(m, scale_tril=tau[:, None] * chol))
    sample("y", normal(u[g, 0] + u[g, 1] * x, scale_of("sigma")).to_event(1), obs=y)


def crossed(g: Any, h: Any, x: Any, y: Any = None) -> None:
    """Vector coefficients with to_event and in a plate; crossed groups; a scale for each group."""
    scales = jnp.linspace(0.5, 1.5, GROUPS) * scale_of("tau")
    beta = sample("beta", normal(jnp.zeros(2), jnp.array([1.0, 3.0])).to_event(1))
    with plate("columns", 3):
        gamma = sample("gamma", normal(0.5, 2.0))
    with plate("groups", GROUPS):
        u = sample("u", normal(0.0, scales))
    with plate("others", OTHERS):
        v = sample("v", normal(0.0, 0.8))
    columns = jnp.stack([x**2, jnp.cos(x), x], axis=1)
    loc = columns[:, :2] @ beta + columns @ gamma + u[g] + v[h]
    with plate("rows", ROWS):
        sample("y", normal(loc, 0.5), obs=y)


def nested(g: Any, h: Any, x: Any, y: Any = None) -> None:
    """Broods in places: the brood's mean is its place's effect, whose mean is sampled as well."""
    m = sample("m", normal(0.2, 1.5))
    with plate("places", OTHERS):
        place = sample("place", normal(m, scale_of_plain("tau")))
    with plate("broods", GROUPS):
        brood = sample("brood", normal(place[np.arange(GROUPS) % OTHERS], 0.6))
    with plate("rows", ROWS):
        sample("y", normal(brood[g], 1.1), obs=y)


def scale_of_plain(name: str) -> Array:
    """A scale within a plate that it does not belong to."""
    return numpyro.param(name, jnp.array(0.9), constraint=dist.constraints.positive)


def factors(g: Any, h: Any, x: Any, y: Any = None) -> None:
    """The design of the user factors is made of the sampled item factors."""
    tau = scale_of("tau")
    bias = sample("bias", normal(0, 1).expand([OTHERS]).to_event(1))
    v = sample("v", normal(0, 1).expand([OTHERS, 2]).to_event(2))
    with plate("users", GROUPS):
        u = sample("u", normal(0, tau).expand([2]).to_event(1))
        c = sample("c", normal(0, 1))
    with plate("rows", ROWS):
        sample("y", normal(c[g] + bias[h] + jnp.sum(u[g] * v[h], -1), 0.5), obs=y)


def other_way_round(g: Any, h: Any, x: Any, y: Any = None) -> None:
    """Effects (coefficients, groups) of two plates."""
    tau = sample("tau", dist.HalfNormal(1.0).expand([2]).to_event(1))
    with plate("columns", 2, dim=-2), plate("groups", GROUPS, dim=-1):
        u = sample("u", normal(0.1, tau[:, None]))
    with plate("rows", ROWS):
        sample("y", normal(u[0, g] + x * u[1, g], 0.8), obs=y)


def logarithmic(g: Any, h: Any, x: Any, y: Any = None) -> None:
    tau, log_scale = scale_of("tau"), sample("log_scale", normal(0, 0.3))
    with plate("groups", GROUPS):
        u = sample("u", normal(0, tau))
    with plate("rows", ROWS):
        obs = None if y is None else jnp.exp(y)
        sample("y", dist.LogNormal(u[g], jnp.exp(log_scale + 0.3 * x)), obs=obs)


def masked(g: Any, h: Any, x: Any, y: Any = None) -> None:
    """Missing values, with the noise of each row a function of a latent site."""
    tau, sigma = scale_of("tau"), scale_of("sigma")
    with plate("groups", GROUPS):
        u = sample("u", normal(0, tau))
    with plate("rows", ROWS), numpyro.handlers.mask(mask=np.arange(ROWS) % 4 != 1):
        obs = None if y is None else jnp.where(np.arange(ROWS) % 4 != 1, y, jnp.nan)
        sample("y", normal(u[g], sigma * (1 + h)), obs=obs)


def masked_shared(g: Any, h: Any, x: Any, y: Any = None) -> None:
    b = sample("b", normal(0, 1))
    with plate("groups", GROUPS):
        u = sample("u", normal(0, 1))
    with plate("rows", ROWS), numpyro.handlers.mask(mask=np.arange(ROWS) % 4 != 1):
        obs = None if y is None else jnp.where(np.arange(ROWS) % 4 != 1, y, jnp.nan)
        sample("y", normal(u[g] + b * x, scale_of_plain("sigma")), obs=obs)


def decentered(g: Any, h: Any, x: Any, y: Any = None) -> None:
    tau = scale_of("tau")
    with (
        plate("groups", GROUPS),
        numpyro.handlers.reparam(config={"u": LocScaleReparam(0.3)}),
    ):
        u = sample("u", normal(0.4, tau))
    with plate("rows", ROWS):
        sample("y", normal(u[g], 0.7), obs=y)


def two_by_row(g: Any, h: Any, x: Any, y: Any = None) -> None:
    """Each row adds two teams of one small site; a second observed site that has no effects."""
    tau = scale_of("tau")
    with plate("teams", GROUPS):
        u = sample("u", normal(0, tau))
    sample("tau_seen", normal(tau, 0.1), obs=0.5)
    numpyro.factor("bonus", -tau)
    with plate("rows", ROWS):
        sample("y", normal(u[g] - u[h], 0.7), obs=y)


def matrix_of_rows(g: Any, h: Any, x: Any, y: Any = None) -> None:
    """Observations in a matrix of two plates, effects of one of them; the covariance by group."""
    size = scale_of("size")
    covariance = jnp.eye(2)[None] * (1.0 + jnp.arange(5.0))[:, None, None] * size + 0.3
    with plate("columns", 5):
        u = sample("u", dist.MultivariateNormal(jnp.zeros(2), covariance))
    with plate("lines", 4, dim=-2), plate("across", 5, dim=-1):
        x, y = x.reshape(4, 5), None if y is None else y.reshape(4, 5)
        sample("y", normal(u[:, 0].reshape(1, -1) + x * u[:, 1].reshape(1, -1), 0.6), obs=y)


class Example(NamedTuple):
    model: Callable[..., None]
    sites: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    more: Mapping[str, Any] = {}  # nobody changes it

    @property
    def data(self) -> dict[str, Any]:
        """The model's arguments."""
        return {**DATA, **self.more}


EXAMPLES = {
    "intercepts": Example(intercepts, ("u",)),
    "slopes": Example(slopes, ("u", "v"), ("eta", "twice")),
    "slopes and means": Example(slopes, ("b", "v", "u", "a"), ("eta", "twice")),
    "correlated": Example(correlated, ("u", "m")),
    "crossed": Example(crossed, ("beta", "gamma", "u", "v")),
    "nested": Example(nested, ("m", "place", "brood")),
    "factors": Example(factors, ("u", "c")),
    "the other factors": Example(factors, ("v", "bias")),
    "other way round": Example(other_way_round, ("u",)),
    "logarithmic": Example(logarithmic, ("u",)),
    "masked": Example(masked, ("u",)),
    "masked, shared noise": Example(masked_shared, ("u", "b")),
    "decentered": Example(decentered, ("u_decentered",), ("u",)),
    "two by row": Example(two_by_row, ("u",)),
    "matrix of rows": Example(matrix_of_rows, ("u",)),
}


def trace_of(example: Example) -> dict[str, Any]:
    """The model's sites with values of a draw, by one program."""
    sites: dict[str, Any] = {}

    @jax.jit
    def drawn(key: Array) -> dict[str, Array]:
        seeded = numpyro.handlers.seed(example.model, key)
        trace = numpyro.handlers.trace(seeded).get_trace(**example.data)
        sites.update(trace)
        return {name: site["value"] for name, site in trace.items() if site["type"] != "plate"}

    with jax.numpy_rank_promotion("allow"):  # NumPyro's own draws of vectors need it.
        values = drawn(jax.random.key(5))
    return {name: {**sites[name], "value": value} for name, value in values.items()}


def jitted(marginal: Any, data: dict[str, Any]) -> Any:
    """The log density and the sites, from one program."""

    def one(latents: dict[str, Any]) -> Any:
        density, trace = log_density(marginal, (), data, latents)
        return density, {name: site["value"] for name, site in trace.items()}

    marginal.prepare(**data)
    return jax.jit(one)


def latents_of(example: Example) -> dict[str, Array]:
    """Values of all other latent sites, from their priors."""
    trace = trace_of(example)
    return {
        name: site["value"] for name, site in trace.items()
        if site["type"] in ("sample", "param") and not site.get("is_observed")
        and name not in example.sites
    }  # fmt: skip


class Integrated(NamedTuple):
    """The effects integrated out by hand, and their conditional distribution."""

    log_density: float
    mean: np.ndarray
    covariance: np.ndarray


def integrate(example: Example, latents: dict[str, Array]) -> Integrated:
    r"""The integral of a Gaussian from NumPyro's own log density, a quadratic in the effects.

    With :math:`f(u) = f_0 + g^\top u - u^\top H u / 2` it is
    :math:`f_0 + g^\top H^{-1} g / 2 - \log|H| / 2 + D \log(2 \pi) / 2`.
    """
    trace = trace_of(example)
    shapes = {name: jnp.shape(trace[name]["value"]) for name in example.sites}
    sizes = [int(np.prod(shape)) for shape in shapes.values()]

    @jax.jit
    @jax.vmap
    def joint(flat: Array) -> Array:
        parts = jnp.split(flat, np.cumsum(sizes)[:-1])
        effects = {n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}
        return log_density(example.model, (), example.data, {**latents, **effects})[0]

    size = sum(sizes)
    units = np.eye(size)
    pairs = (units[:, None] + units[None]).reshape(-1, size)
    values = np.asarray(joint(np.concatenate([np.zeros((1, size)), units, -units, pairs])))
    origin, plus, minus = values[0], values[1 : 1 + size], values[1 + size : 1 + 2 * size]
    both = values[1 + 2 * size :].reshape(size, size)
    gradient = (plus - minus) / 2
    information = -(both - plus[:, None] - plus[None] + origin)
    mean = np.linalg.solve(information, gradient)
    volume = size * np.log(2 * np.pi) - np.linalg.slogdet(information)[1]
    value = origin + 0.5 * (gradient @ mean + volume)
    return Integrated(float(value), mean, np.linalg.inv(information))


def check_draws(example: Example, effects: dict[str, Array], expected: Integrated) -> None:
    """The draws' mean, covariance, and the law of their distance from the mean."""
    assert set(effects) == {*example.sites, *example.hidden}
    drawn = flatten(example.sites, effects)
    count = len(drawn)
    half = np.linalg.solve(np.linalg.cholesky(expected.covariance), (drawn - expected.mean).T)
    assert np.abs(half.mean(1)).max() < 4.5 / np.sqrt(count)
    second = half @ half.T / count - np.eye(len(half))
    assert np.abs(second).max() < 4.5 * np.sqrt(2 / count)
    chi_square = scipy.stats.chi2(len(half)).cdf
    assert scipy.stats.kstest(np.sum(half**2, axis=0), chi_square).pvalue > 1e-3


def flatten(sites: Sequence[str], effects: dict[str, Array]) -> np.ndarray:
    """Drawn effects side by side, after the axis of draws."""
    return np.concatenate([np.asarray(effects[n]).reshape(len(effects[n]), -1) for n in sites], 1)
