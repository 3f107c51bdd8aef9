"""Starting point of the sampler: least squares, a few EM steps for the scales, posterior widths."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from probmf.data import Ratings
from probmf.inference.gibbs.starting_points import allowed
from probmf.inference.marginal_rows.evidence import Inputs
from probmf.inference.marginal_rows.integrated_rows import LEVEL, RowsMarginal
from probmf.inference.point.als import fit_als
from probmf.inference.potential import Potential
from probmf.likelihoods import Gaussian
from probmf.models.factorization_program import PRIOR_SCALES

#: Sweeps of alternating least squares, and steps of EM, in each round.
SWEEPS = 10
EM_STEPS = 4
ROUNDS = 2
#: Shares of the ratings' standard deviation that a first guess gives to noise, biases and factors.
FIRST = {"noise": 0.8, "bias": 0.4, "factors": 0.4}
#: Steps of EM move a scale by this factor at most.
MOST = 2.0


class Start(NamedTuple):
    """Starting vectors of the chains, and the diagonal of the first inverse mass matrix."""

    vectors: Float[np.ndarray, "chain dims"]
    inverse_mass: Float[np.ndarray, " dims"]


def find_start(
    target: RowsMarginal, potential: Potential, ratings: Ratings, key: Array, num_chains: int
) -> Start:
    """A start for each chain, from its own random start of alternating least squares.

    Args:
        target: The model with one side's rows integrated out.
        potential: Its density.
        ratings: The data.
        key: JAX key.
        num_chains: Chains.

    Returns:
        Vectors near the bulk of the posterior, and widths of its coordinates: a mode lies far from
        the bulk in so many dimensions, so Normal noise of those widths is added.
    """
    vectors, variances = [], []
    for chain_key in jax.random.split(key, num_chains):
        fit_key, noise_key = jax.random.split(chain_key)
        point, own = _fit(target, ratings, fit_key)
        variance = _variances(target, potential, point, own)
        vector = np.asarray(potential.unconstrain(point))
        noise = np.asarray(jax.random.normal(noise_key, vector.shape, vector.dtype))
        vectors.append(vector + np.sqrt(variance) * noise)
        variances.append(variance)
    return Start(np.stack(vectors), np.exp(np.mean(np.log(variances), axis=0)))


def _fit(
    target: RowsMarginal, ratings: Ratings, key: Array
) -> tuple[dict[str, Array], dict[str, np.ndarray]]:
    """A point by this model's sites, and the other parameters of its least squares."""
    scales = _first_scales(target)
    fit = None
    for round_key in jax.random.split(key, ROUNDS):
        likelihood = Gaussian(float(scales["noise_scale"]))
        fixed = {name: value for name, value in scales.items() if name != "noise_scale"}
        options: dict[str, Any] = {"likelihood": likelihood, **fixed}
        model = replace(target.model, **options)
        fit = fit_als(
            model, ratings, key=round_key, num_sweeps=SWEEPS, start=fit, progress=False,
            devices=target.mesh,
        )  # fmt: skip
        found = fit.point()
        point = _sites(target, found, scales)
        for _ in range(EM_STEPS):
            scales = _em_step(target, point, scales)
            point = _sites(target, found, scales)
    own = {site: found[site] for site in target.sites_of(target.side)}
    laws = {n: law for n, law in target.scales().items() if isinstance(law, Distribution)}
    sites = {name: allowed(law, point[name]) for name, law in laws.items()}
    further = (LEVEL, f"{target.other}_factors", "intercept")
    return sites | {name: point[name] for name in further if name in point}, own


def _first_scales(target: RowsMarginal) -> dict[str, np.ndarray]:
    """Values for all scales: the model's own, or guesses from the spread of the ratings."""
    spread = max(float(np.std(np.asarray(target.observations.rating))), 1e-3)
    scales = target.scales()
    given = {n: np.asarray(s) for n, s in scales.items() if not isinstance(s, Distribution)}
    found = dict(given)
    product = FIRST["factors"] * spread / max(target.model.num_factors, 1) ** 0.5
    for name, law in scales.items():
        if name in given:
            continue
        if name in ("user_scale", "item_scale"):
            partner = given.get("item_scale" if name == "user_scale" else "user_scale")
            guess = product**0.5 if partner is None else product / float(np.mean(partner))
        else:
            guess = FIRST["noise" if name == "noise_scale" else "bias"] * spread
        found[name] = np.full(law.batch_shape + law.event_shape, guess)
    return found


def _sites(
    target: RowsMarginal, found: Mapping[str, Any], scales: Mapping[str, Any]
) -> dict[str, Array]:
    dtype = jnp.result_type(float)
    point = {name: jnp.asarray(value, dtype) for name, value in scales.items()}
    intercept = jnp.asarray(found["intercept"], dtype)
    if f"{target.other}_bias" in found:
        point[LEVEL] = intercept + jnp.asarray(found[f"{target.other}_bias"], dtype)
    else:
        point["intercept"] = intercept
    if target.model.num_factors:
        site = f"{target.other}_factors"
        point[site] = jnp.asarray(found[site], dtype)
    return point


def _em_step(
    target: RowsMarginal, point: Mapping[str, Array], scales: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Scales of the rows that are integrated out, and of the noise, by one step of EM."""
    gradient = _gradient(target, target.inputs(point))
    counts = {"noise_scale": (gradient.noise_scale, len(target.observations.user))}
    rows = target.num_rows[target.side]
    counts[f"{target.side}_bias_scale"] = (gradient.bias_scale, rows)
    counts[f"{target.side}_scale"] = (gradient.factor_scale, rows * target.model.num_factors)
    updated = dict(scales)
    for name in set(counts) & set(target.model.random_scales()):
        score, count = counts[name]
        # The expected sum of squares of whitened effects exceeds their number by scale * score.
        excess = np.mean(scales[name]) * float(jnp.sum(score)) / count
        updated[name] = scales[name] * np.clip(1.0 + excess, MOST**-2, MOST**2) ** 0.5
    for site in target.sites_of(target.other):
        name = PRIOR_SCALES[site]
        if name in target.model.random_scales() and site.endswith("bias"):
            values = np.asarray(point[LEVEL])
            updated[name] = np.full_like(scales[name], max(float(values.std()), 1e-3))
    return updated


@jax.jit
def _gradient(target: RowsMarginal, inputs: Inputs) -> Inputs:
    """Of the evidence; a program for all data of a shape, so these are arguments."""
    return jax.grad(target.evidence)(inputs)


def _variances(
    target: RowsMarginal,
    potential: Potential,
    point: Mapping[str, Array],
    own: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Variance of each coordinate, as if the rows that are integrated out were known."""
    data = target.observations
    codes = {"user": np.asarray(data.user), "item": np.asarray(data.item)}
    weight = np.ones(len(codes["user"])) if data.weight is None else np.asarray(data.weight)
    weight = weight / float(point.get("noise_scale", _fixed(target, "noise_scale"))) ** 2
    mine, theirs = codes[target.side], codes[target.other]
    num = target.num_rows[target.other]
    found: dict[str, np.ndarray] = {}
    for site in target.sites_of(target.other):
        name = PRIOR_SCALES[site]
        scale = np.broadcast_to(np.asarray(point.get(name, _fixed(target, name))), (num,))
        if site.endswith("bias"):
            precision = scale**-2.0 + np.bincount(theirs, weight, minlength=num)
            found[LEVEL] = 1.0 / precision
            continue
        squares = np.square(own[f"{target.side}_factors"])
        columns = [
            np.bincount(theirs, weight * column[mine], minlength=num) for column in squares.T
        ]
        found[site] = 1.0 / (scale[:, None] ** -2.0 + np.stack(columns, axis=1))
    parts = []
    for name in sorted(potential.sites):
        shape = np.shape(point[name])
        # Scales and a lone intercept: narrow, as all ratings or rows speak of them.
        parts.append(np.broadcast_to(found.get(name, np.asarray(1e-3)), shape).ravel())
    return np.concatenate(parts)


def _fixed(target: RowsMarginal, name: str) -> np.ndarray:
    return np.asarray(target.scales()[name])
