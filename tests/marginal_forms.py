"""Every form in which NumPyro lets a model be written, by the rows of the table in the docs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from marginal_models import (
    DATA,
    GROUPS,
    OTHERS,
    ROWS,
    Copies,
    Example,
    masked,
    normal,
    plate,
    sample,
    scale_of,
    slopes,
    two_by_row,
)
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

Effect = Callable[[Array], Any]


def grouped(effect: Effect, scale: Any = 0.7) -> Callable[..., None]:
    """One site of effects, declared in some form, indexed by group."""

    def model(g: Any, h: Any, x: Any, y: Any = None) -> None:
        u = effect(scale_of("tau"))
        with plate("rows", ROWS):
            sample("y", normal(u[g], scale), obs=y)

    return model


def in_plate(tau: Array) -> Any:
    with plate("groups", GROUPS):
        return sample("u", normal(0.3, tau))


def in_sample_shape(tau: Array) -> Any:
    return sample("u", normal(0.3, tau), sample_shape=(GROUPS,))


def correlated(g: Any, h: Any, x: Any, y: Any = None) -> None:
    """As the paper's authors write it."""
    tau = sample("tau", dist.HalfNormal(1.0), sample_shape=(2,))
    tril = jnp.matmul(jnp.diag(tau), sample("chol", dist.LKJCholesky(2)))
    law = dist.MultivariateNormal(jnp.zeros(2), scale_tril=tril)
    u = sample("u", law, sample_shape=(GROUPS,))
    sample("y", normal(u[g][..., 0] + x * u[g][..., 1], 0.8), obs=y)


def sample_shape_in_plate(g: Any, h: Any, x: Any, y: Any = None) -> None:
    tau = scale_of("tau")
    with plate("groups", GROUPS):
        u = sample("u", normal(0.3, tau), sample_shape=(2, 1))
    with plate("rows", ROWS):
        sample("y", normal(u[0, g] + u[1, g] * x, 0.7), obs=y)


def sample_shape_observed(g: Any, h: Any, x: Any, y: Any = None) -> None:
    """Rows are told of by the observed site alone; another observed site of that form."""
    m = sample("m", normal(0.0, 2.0))
    sample("size", dist.Gamma(scale_of("tau"), 2.0), sample_shape=(3,), obs=np.array([1, 2, 1.5]))
    sample("y", normal(m, scale_of("sigma")), sample_shape=(ROWS,), obs=y)


def larger_observations(g: Any, h: Any, x: Any, y: Any = None) -> None:
    m = sample("m", normal(0.0, 2.0))
    sample("y", normal(m, scale_of("sigma")), obs=y)


def expanded(g: Any, h: Any, x: Any, y: Any = None) -> None:
    tau = scale_of("tau")
    covariance = jnp.array([[1.0, 0.3], [0.3, 0.5]])
    u = sample("u", normal(0.3, tau).expand([GROUPS]))
    v = sample("v", dist.MultivariateNormal(jnp.zeros(2), covariance).expand([OTHERS]))
    with plate("rows", ROWS):
        sample("y", normal(u[g] + v[h, 0] + v[h, 1] * x, 0.7), obs=y)


def as_events(g: Any, h: Any, x: Any, y: Any = None) -> None:
    scales = jnp.array([0.5, 1.0, 1.5])
    beta = sample("beta", normal(0.0, scales).to_event(1), sample_shape=(2,))
    u = sample("u", normal(jnp.ones((GROUPS, 1)), scale_of("tau")).to_event(2))
    loc = beta[0] @ jnp.stack([x, x**2, jnp.cos(x)]) + beta[1, h] + u[g, 0]
    sample("y", normal(loc, 0.7).to_event(1), obs=y)


def nested(g: Any, h: Any, x: Any, y: Any = None) -> None:
    tau = scale_of("tau")
    with plate("others", OTHERS, dim=-2):
        v = sample("v", normal(0.0, 1.3))
        with plate("groups", GROUPS, dim=-1):
            u = sample("u", normal(v, tau))
    with plate("rows", ROWS):
        sample("y", normal(u[h, g], 0.7), obs=y)


def nested_correlated(g: Any, h: Any, x: Any, y: Any = None) -> None:
    size = scale_of("size")
    sizes = size * (1.0 + jnp.arange(3.0))[:, None, None, None]
    by_other = jnp.eye(2)[None, None] * sizes + 0.3
    with plate("others", OTHERS, dim=-2), plate("groups", GROUPS, dim=-1):
        u = sample("u", dist.MultivariateNormal(jnp.zeros(2), by_other))
    with plate("rows", ROWS):
        sample("y", normal(u[h, g, 0] + x * u[h, g, 1], 0.7), obs=y)


def plate_twice(g: Any, h: Any, x: Any, y: Any = None) -> None:
    groups = plate("groups", GROUPS)
    tau = scale_of("tau")
    with groups:
        u = sample("u", normal(0.0, tau))
    with groups:
        v = sample("v", normal(u, 0.5))
    with plate("rows", ROWS):
        sample("y", normal(u[g] + v[g] * x, 0.7), obs=y)


def plate_given(g: Any, h: Any, x: Any, groups: Any, y: Any = None) -> None:
    tau = scale_of("tau")
    with groups:
        u = sample("u", normal(0.0, tau))
    with plate("rows", ROWS):
        sample("y", normal(u[g], 0.7), obs=y)


def decentered(g: Any, h: Any, x: Any, y: Any = None) -> None:
    """Three ways of LocScaleReparam, the last of which learns by how much."""
    tau = scale_of("tau")
    with plate("groups", GROUPS):
        u = sample("u", normal(0.3, tau))
        v = sample("v", normal(0.1, tau))
    with plate("others", OTHERS):
        w = sample("w", normal(0.2, 0.9))
    with plate("rows", ROWS):
        sample("y", normal(u[g] + v[g] * x + w[h], 0.7), obs=y)


def transformed(tau: Array) -> Any:
    law = dist.TransformedDistribution(normal(0, 1), dist.transforms.AffineTransform(0.3, tau))
    with plate("groups", GROUPS):
        return sample("u", law)


def scaled_others(g: Any, h: Any, x: Any, y: Any = None) -> None:
    with handlers.scale(scale=2.5):
        tau = scale_of("tau")
        sample("tau_seen", normal(tau, 0.3), obs=0.6)
    with handlers.scale(scale=1.0):
        u = in_plate(tau)
        with plate("rows", ROWS):
            sample("y", normal(u[g], 0.7), obs=y)


def masked_others(g: Any, h: Any, x: Any, y: Any = None) -> None:
    with handlers.mask(mask=False):
        tau = scale_of("tau")
    with handlers.mask(mask=np.array([True, False, True])):
        sample("taus_seen", normal(tau, 0.3), obs=np.array([0.6, np.nan, 0.8]))
    u = in_plate(tau)
    with plate("rows", ROWS):
        sample("y", normal(u[g], 0.7), obs=y)


def with_infer(tau: Array) -> Any:
    with plate("groups", GROUPS):
        return sample("u", normal(0.3, tau), infer={"enumerate": "parallel", "is_auxiliary": True})


def with_factors(g: Any, h: Any, x: Any, y: Any = None) -> None:
    tau = scale_of("tau")
    with plate("three", 3), handlers.mask(mask=np.array([True, False, True])):
        numpyro.factor("bonus", -tau)
    u = in_sample_shape(tau)
    numpyro.factor("of no site", 0.25)
    sample("y", normal(u[g], 0.7), obs=y)


def with_params(g: Any, h: Any, x: Any, y: Any = None) -> None:
    tau = numpyro.param("tau", jnp.array(0.9), constraint=dist.constraints.positive)
    shift = numpyro.param("shift", lambda key: jax.random.normal(key, (GROUPS,)))
    u = sample("u", normal(shift, tau))
    sample("y", normal(u[g], 0.7), obs=y)


def smooth(step: Callable[..., Any]) -> Callable[..., None]:
    """Each row's location is half of the last one's and its group's effect."""

    def model(g: Any, h: Any, x: Any, y: Any = None) -> None:
        u = in_sample_shape(scale_of("tau"))

        def body(level: Array, effect: Array) -> tuple[Array, Array]:
            level = 0.5 * level + effect
            return level, level

        _, loc = step(body, jnp.zeros(()), u[g])
        with plate("rows", ROWS):
            sample("y", normal(loc, 0.7), obs=y)

    return model


def observed_in_scan(g: Any, h: Any, x: Any, y: Any = None) -> None:
    """A random walk beside the effects; its first value is an effect, the steps are latent."""
    u, sigma = in_sample_shape(scale_of("tau")), scale_of("sigma")
    first = sample("first", normal(0.0, 2.0))

    def body(level: Array, row: Any) -> tuple[Array, None]:
        group, value = row
        level = level + 0.1 * sample("move", normal(0.0, 1.0))
        with plate("twice", 2):
            numpyro.deterministic("level", level)
            sample("y", normal(level + u[group], sigma), obs=value)
        return level, None

    scan(body, first, (g, None if y is None else jnp.stack([y, y + x], axis=1)))


def around(handler: Callable[..., Any], model: Callable[..., Any] = two_by_row, **how: Any) -> Any:
    return handler(model, **how)


REPARAM = {"u": LocScaleReparam(0), "v": LocScaleReparam(0.3), "w": LocScaleReparam()}
LIFTED = {"tau": dist.HalfNormal(1.0), "shift": normal(0.0, 1.0).expand([GROUPS])}
DATA_OF_Y = Copies(y=DATA["y"])
HELD = Copies(tau=np.array(0.8))

#: What works: a model and the sites to integrate out of it.
FORMS = {
    "`sample_shape` of effects": Example(grouped(in_sample_shape), ("u",)),
    "`sample_shape` of correlated effects and their scales": Example(correlated, ("u",)),
    "`sample_shape` within a plate": Example(sample_shape_in_plate, ("u",)),
    "`sample_shape` of observations": Example(sample_shape_observed, ("m",)),
    "observations larger than their distribution": Example(larger_observations, ("m",)),
    "`.expand` of effects": Example(expanded, ("u", "v")),
    "`.to_event` of effects and observations": Example(as_events, ("beta", "u")),
    "nested plates": Example(nested, ("u", "v")),
    "nested plates of correlated effects": Example(nested_correlated, ("u",)),
    "a plate used twice": Example(plate_twice, ("u", "v")),
    "a plate as an argument": Example(
        plate_given, ("u",), more={"groups": plate("groups", GROUPS)}
    ),
    "`LocScaleReparam`": Example(
        around(handlers.reparam, decentered, config=REPARAM),
        ("u_decentered", "v_decentered", "w_decentered"), ("u", "v", "w"),
    ),
    "`TransformReparam`": Example(
        around(handlers.reparam, grouped(transformed), config={"u": TransformReparam()}),
        ("u_base",), ("u",),
    ),
    "`handlers.scale` around other sites": Example(scaled_others, ("u",)),
    "`handlers.mask` around rows": Example(masked, ("u",)),
    "`handlers.mask` around other sites": Example(masked_others, ("u",)),
    "`handlers.block` around sites with values": Example(
        around(handlers.block, around(handlers.substitute, data=HELD), hide=["tau", "rows"]), ("u",)
    ),
    "`handlers.condition` on other sites": Example(
        around(handlers.condition, data=HELD), ("u",)
    ),
    "`handlers.condition` on the observations": Example(
        around(handlers.condition, grouped(in_plate), data=DATA_OF_Y), ("u",),
        more={"y": None},
    ),
    "`handlers.substitute` of other sites": Example(
        around(handlers.substitute, data=HELD), ("u",)
    ),
    "`handlers.seed`": Example(around(handlers.seed, grouped(in_plate), rng_seed=0), ("u",)),
    "`handlers.scope`": Example(around(handlers.scope, prefix="a"), ("a/u",)),
    "`handlers.lift`": Example(around(handlers.lift, with_params, prior=LIFTED), ("u",)),
    "`infer={...}`": Example(grouped(with_infer), ("u",)),
    "deterministic sites in between": Example(slopes, ("u", "v"), ("eta", "twice")),
    "`numpyro.factor` of other sites": Example(with_factors, ("u",)),
    "`numpyro.param`": Example(with_params, ("u",)),
    "`scan` with effects as inputs": Example(smooth(scan), ("u",)),
    "observations within `scan`": Example(observed_in_scan, ("u", "first"), ("level",)),
    "`jax.lax.scan` with effects as inputs": Example(smooth(jax.lax.scan), ("u",)),
}  # fmt: skip


def step_by_step(g: Any, h: Any, x: Any, y: Any = None) -> None:
    def body(level: Array, value: Any) -> tuple[Array, None]:
        level = level + sample("u", normal(0.0, 1.0))
        sample("y", normal(level, 1.0), obs=value)
        return level, None

    scan(body, jnp.zeros(()), y)


def sample_shape_in_scan(g: Any, h: Any, x: Any, y: Any = None) -> None:
    u = in_plate(scale_of("tau"))

    def body(level: Array, value: Any) -> tuple[Array, None]:
        moves = sample("moves", normal(0.0, 1.0), sample_shape=(ROWS,))
        sample("y", normal(u[0] + moves[0], 1.0), obs=value)
        return level, None

    scan(body, jnp.zeros(()), y)


def subsampled(g: Any, h: Any, x: Any, y: Any = None) -> None:
    with plate("groups", GROUPS, subsample_size=2):
        u = sample("u", normal(0.0, 1.0))
    sample("y", normal(u[0], 0.7), obs=y)


def scaled_observations(g: Any, h: Any, x: Any, y: Any = None) -> None:
    u = in_plate(scale_of("tau"))
    with plate("rows", ROWS), handlers.scale(scale=1 + np.arange(ROWS) % 2):
        sample("y", normal(u[g], 0.7), obs=y)


def scaled_by_effect(g: Any, h: Any, x: Any, y: Any = None) -> None:
    u = in_plate(scale_of("tau"))
    with handlers.scale(scale=jnp.exp(u[0])):
        scale_of("sigma")
    sample("y", normal(u[g], 0.7), obs=y)


def factor_by_effect(g: Any, h: Any, x: Any, y: Any = None) -> None:
    u = in_plate(scale_of("tau"))
    with plate("three", 3), handlers.mask(mask=np.array([True, False, True])):
        numpyro.factor("penalty", -u[0])
    sample("y", normal(u[g], 0.7), obs=y)


def own_numbers(g: Any, h: Any, x: Any, y: Any = None) -> None:
    u = in_plate(scale_of("tau"))
    sample("y", normal(u[g] + jax.random.normal(numpyro.prng_key()), 0.7), obs=y)


def imputed(g: Any, h: Any, x: Any, y: Any = None) -> None:
    u = in_plate(scale_of("tau"))
    sample("y", normal(u[g], 0.7), obs=y, obs_mask=np.arange(ROWS) % 4 != 1)


def unlike_observations(*shape: int) -> Callable[..., None]:
    def model(g: Any, h: Any, x: Any, y: Any = None) -> None:
        u = in_plate(scale_of("tau"))
        sample("y", normal(u[g], 0.7), obs=np.zeros(shape))

    return model


def a_param(tau: Array) -> Any:
    return numpyro.param("u", jnp.zeros(GROUPS)) * tau


def fewer_observations(g: Any, h: Any, x: Any, y: Any = None) -> None:
    m = sample("m", normal(0.0, 2.0))
    sample("y", normal(m, 1.0), sample_shape=(ROWS,), obs=0.5)


EFFECTS = {"u": np.zeros(GROUPS)}


#: What is refused: models, sites, and what the message says.
REFUSED = {
    "subsampled plates": [
        (subsampled, "u", r"plate 'groups' is subsampled \(2 of 5\).*Leave subsample_size out"),
    ],
    "the name of a reparametrized site": [
        (
            around(handlers.reparam, decentered, config=REPARAM), "u",
            "'u' is a deterministic site, not a sample site; name 'u_decentered' instead",
        ),
        (
            around(handlers.reparam, grouped(transformed), config={"u": TransformReparam()}), "u",
            "'u' is a deterministic site, not a sample site; name 'u_base' instead",
        ),
        (slopes, "eta", "'eta' is a deterministic site.*name the site that it is computed of"),
    ],
    "a transformed Normal": [
        (grouped(transformed), "u", "TransformedDistribution; .* TransformReparam.*name 'u_base'"),
    ],
    "a param as an effect": [
        (grouped(a_param), "u", "'u' is a param site, which has no prior; sample it from a Normal"),
    ],
    "`handlers.scale` around effects": [
        (
            grouped(handlers.scale(in_plate, scale=2.0)), "u",
            "The site 'u' is scaled .*Remove the scaling",
        ),
    ],
    "`handlers.scale` around observations": [
        (scaled_observations, "u", "site 'y' is scaled .*divide the noise scale by their square"),
        (around(handlers.scale, grouped(in_plate), scale=0.5), "u", "'u' is scaled"),
    ],
    "`handlers.scale` by an effect": [
        (scaled_by_effect, "u", "'u' enters the handlers.scale of 'sigma'.*Leave 'u' out"),
    ],
    "`handlers.mask` around effects": [
        (
            grouped(handlers.mask(in_plate, mask=np.arange(GROUPS) > 2)), "u",
            "The prior of 'u' is masked; remove the mask",
        ),
    ],
    "`handlers.block` around effects": [
        (
            around(handlers.block, grouped(in_plate), hide=["u"]), "u",
            "'u' is not in the model, or hidden by handlers.block; its latent sites are 'tau'",
        ),
    ],
    "`handlers.block` around sites without values": [
        (
            around(handlers.block, grouped(in_plate), hide=["tau"]), "u",
            "hidden by handlers.block .*Leave the site visible, or give it a value within",
        ),
        (own_numbers, "u", "draws random numbers that are no site of it, .*numpyro.prng_key"),
    ],
    "`handlers.condition` on effects": [
        (
            around(handlers.condition, grouped(in_plate), data=EFFECTS), "u",
            "The site 'u' is observed, so it can't be integrated out",
        ),
    ],
    "`handlers.substitute` of effects": [
        (
            around(handlers.substitute, grouped(in_plate), data=EFFECTS), "u",
            "'u' has been given a value .*Take the value away, or leave the site out",
        ),
    ],
    "`numpyro.factor` of effects": [(factor_by_effect, "u", "'u' enters the factor 'penalty'")],
    "effects sampled within `scan`": [
        (step_by_step, "u", "'u' is sampled within scan.*hand them to scan as inputs"),
    ],
    "`sample_shape` within `scan`": [
        (sample_shape_in_scan, "u", r"'moves' within scan has sample_shape .*write \.expand"),
    ],
    "`obs_mask`": [(imputed, "u", "'u' enters the prior of 'y_unobserved'.*handlers.mask instead")],
    "fewer observations than `sample_shape`": [
        (fewer_observations, "m", r"'y' has values of shape \(\); with its sample_shape \(20,\)"),
    ],
    "observations that do not fit their distribution": [
        (
            unlike_observations(ROWS, 1), "u",
            r"'y' has values of shape \(20, 1\) and a distribution of shape \(20,\).*not a column",
        ),
        (unlike_observations(7), "u", r"'y' has values of shape \(7,\) and a distribution"),
    ],
}  # fmt: skip
