"""Variational Bayes: the bound is what it says, never falls, and finds scales near the truth."""

import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import multivariate_normal
from numpyro.infer.util import log_density

from probmf import (
    Bernoulli,
    Gaussian,
    MatrixFactorization,
    NormalWishart,
    Ordinal,
    Ratings,
    fit_als,
    fit_variational,
    load,
)
from probmf.datasets import simulate_ratings
from probmf.inference.approximate import row_covariances as block_module
from probmf.inference.approximate.variational import Variational
from probmf.inference.approximate.variational_start import to_principal_axes
from probmf.inference.approximate.variational_updates import VariationalState
from probmf.inference.gibbs.plan import Plan
from probmf.models.parameter_table import ParameterTable
from probmf.results import RatingsFit
from probmf.rows.store import SIDES, num_workers
from probmf.run.driver import FitWarning

USERS, ITEMS = 9, 8
LAW = dist.HalfNormal(1.0)
MODELS = {
    "gaussian": MatrixFactorization(
        2, Gaussian(LAW), dist.Normal(3.0, 2.0), user_scale=LAW, item_scale=0.8,
        user_bias_scale=LAW, item_bias_scale=np.linspace(0.5, 1.0, ITEMS),
    ),
    "by factor": MatrixFactorization(
        2, Gaussian(0.5), "learned", user_scale=dist.HalfNormal(np.ones((1, 2))),
        item_scale=dist.HalfNormal(np.ones(ITEMS)), user_bias=False,
        item_bias_scale=dist.Uniform(0.05, 0.1),
    ),
    "biases": MatrixFactorization(0, Gaussian(LAW), user_bias_scale=LAW, item_bias_scale=LAW),
    "logit": MatrixFactorization(
        2, Bernoulli(), dist.Normal(0.5, 2.0), user_scale=1.5, item_scale=LAW, user_bias_scale=LAW
    ),
    "probit": MatrixFactorization(
        2, Bernoulli("probit"), user_scale=1.0, item_scale=1.0, user_bias_scale=LAW
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def table(*, binary: bool = False, weighted: bool = True) -> Ratings:
    """Six items of each user but the last; the last item has no rating."""
    rng = np.random.default_rng(0)
    user, item = np.divmod(np.arange((USERS - 1) * (ITEMS - 1)), ITEMS - 1)
    kept = (2 * user + item) % 7 != 0
    user, item = user[kept], item[kept]
    left, right = rng.normal(size=(USERS, 2)), rng.normal(size=(ITEMS, 2))
    truth = (left @ right.T + 0.5 * rng.normal(size=ITEMS)[None])[user, item]
    rating = 3 + truth + 0.3 * rng.normal(size=len(user))
    columns = {"user": user, "item": item, "weight": rng.integers(1, 3, len(user)) + 0.0}
    columns["rating"] = (truth > 0).astype(float) if binary else rating
    return Ratings.from_frame(
        columns, weight="weight" if weighted else None, users=list(range(USERS)),
        items=list(range(ITEMS)),
    )  # fmt: skip


def sweeps(
    model: MatrixFactorization, data: Ratings, count: int, covariance: Any = "diagonal"
) -> tuple[Variational, VariationalState, list[float]]:
    """The algorithm, its state after so many sweeps, and the bound after each."""
    (observations,) = model.arguments(data)
    bounds = []
    with ThreadPoolExecutor(num_workers()) as pool:
        algorithm = Variational(
            model, data, observations, jax.random.key(0), None, pool, covariance
        )
        state = algorithm.init(jax.random.key(1))
        for _ in range(count):
            state, infos = algorithm.step(jax.random.key(2), state)
            bounds.append(-infos[0].objective)
    return algorithm, state, bounds


def fixed(model: MatrixFactorization, scales: dict[str, Any]) -> MatrixFactorization:
    """The model with its learned scales as numbers."""
    values = {name: np.asarray(scales[name]) for name in model.random_scales()}
    if "noise_scale" in values:
        noise = Gaussian(float(values.pop("noise_scale")))
        model = replace(model, likelihood=noise)
    return replace(model, **values)


@pytest.mark.parametrize(
    ("name", "covariance"),
    [("gaussian", "diagonal"), ("logit", "diagonal"),
     ("by factor", "block"), ("biases", "block"), ("logit", "block"),
     *(pytest.param(*case, marks=pytest.mark.slow)
       for case in (("by factor", "diagonal"), ("probit", "block")))],
)  # fmt: skip
def test_bound_never_falls(name: str, covariance: str) -> None:
    data = table(binary=name in ("logit", "probit"))
    algorithm, state, bounds = sweeps(MODELS[name], data, 25, covariance)
    assert np.diff(bounds).min() > -1e-9
    assert bounds[-1] > bounds[0] + 0.1
    k = MODELS[name].num_factors
    for rows in (*state.mean.values(), *state.variance.values()):
        assert not np.any(rows.factors[:, k:])
    if not MODELS[name].user_bias:
        assert not np.any(state.variance["user"].bias)
    for scale, (lower, upper) in algorithm.given.bounds.items():
        assert np.all((state.scales[scale] >= lower) & (state.scales[scale] <= upper))


@pytest.mark.parametrize(
    "name",
    ["gaussian", *(pytest.param(name, marks=pytest.mark.slow) for name in ("logit", "probit"))],
)
def test_bound_is_that_of_draws(name: str) -> None:
    """E log p - E log q over draws of q; for yes/no data the bound is below that, and near."""
    binary = name != "gaussian"
    data = table(binary=binary)
    model = MODELS[name]
    algorithm, state, bounds = sweeps(model, data, 60)
    mean, variance = (algorithm.packing.unpack(x) for x in (state.mean, state.variance))
    exact = fixed(model, state.scales)
    arguments = exact.arguments(data)

    def log_ratio(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(mean))
        noise = {
            site: jax.random.normal(own, mean[site].shape)
            for site, own in zip(mean, keys, strict=True)
        }
        values = {site: mean[site] + jnp.sqrt(variance[site]) * noise[site] for site in mean}
        log_q = sum(
            jnp.sum(dist.Normal(mean[site], jnp.sqrt(variance[site])).log_prob(values[site]))
            for site in mean
        )
        if model.learns_intercept:
            values["intercept"] = state.intercept
        return log_density(exact, arguments, {}, values)[0] - log_q

    with jax.numpy_rank_promotion("allow"):
        run = jax.jit(jax.vmap(log_ratio))
        ratios = np.asarray(run(jax.random.split(jax.random.key(3), 20_000)))
    error = ratios.std() / np.sqrt(len(ratios))
    apart = ratios.mean() - bounds[-1]
    if binary:
        assert -4 * error < apart < 0.15 * abs(bounds[-1])
    else:
        assert abs(apart) < 4 * error


@pytest.mark.parametrize("name", ["gaussian", pytest.param("logit", marks=pytest.mark.slow)])
def test_blocks_bound_is_above_that_of_independent_numbers(name: str) -> None:
    data = table(binary=name in ("logit", "probit"))
    alone, rows = (sweeps(MODELS[name], data, 60, each)[2] for each in ("diagonal", "block"))
    assert rows[-1] > alone[-1] + 0.01


@pytest.mark.parametrize("name", ["gaussian", "logit"])
@pytest.mark.slow
def test_blocks_bound_is_that_of_draws(name: str) -> None:
    """E log p - E log q over draws of whole rows."""
    binary = name == "logit"
    data, model = table(binary=binary), MODELS[name]
    _, state, bounds = sweeps(model, data, 60, "block")
    exact = fixed(model, state.scales)
    arguments = exact.arguments(data)
    assert state.covariance is not None
    mean = np.concatenate([state.mean[side].at(slice(None)) for side in SIDES])
    blocks = np.concatenate([state.covariance[side] for side in SIDES])
    free = np.diagonal(blocks, axis1=1, axis2=2) > 0
    roots, volume = np.zeros_like(blocks), 0.0
    for row, own in enumerate(free):
        root = np.linalg.cholesky(blocks[row][np.ix_(own, own)])
        roots[row][np.ix_(own, own)] = root
        volume += np.log(np.diag(root)).sum() + 0.5 * own.sum() * np.log(2 * np.pi)

    def log_ratio(key: jax.Array) -> jax.Array:
        noise = jax.random.normal(key, mean.shape) * free
        rows = mean + jnp.einsum("rde,re->rd", roots, noise)
        log_q = -0.5 * jnp.sum(jnp.square(noise)) - volume
        sides = {"user": rows[:USERS], "item": rows[USERS:]}
        values: dict[str, Any] = {}
        for site in model.site_shapes(USERS, ITEMS):
            own = sides[site.split("_")[0]]
            values[site] = own[:, 0] if site.endswith("bias") else own[:, 1:3]
        if model.learns_intercept:
            values["intercept"] = state.intercept
        return log_density(exact, arguments, {}, values)[0] - log_q

    with jax.numpy_rank_promotion("allow"):
        run = jax.jit(jax.vmap(log_ratio))
        ratios = np.asarray(run(jax.random.split(jax.random.key(3), 20_000)))
    error = ratios.std() / np.sqrt(len(ratios))
    apart = ratios.mean() - bounds[-1]
    if binary:
        assert -4 * error < apart < 0.15 * abs(bounds[-1])
    else:
        assert abs(apart) < 4 * error


@pytest.mark.slow
def test_blocks_in_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws have the blocks' covariances; long rows are read in pieces to the same result."""
    data, model = table(), MODELS["gaussian"]
    options: dict[str, Any] = {"key": 5, "covariance": "block", "num_sweeps": 30, "tol": 0.0}
    options["scale_per"] = "side"
    fit = fit_variational(model, data, num_draws=4000, **options)
    assert fit.sampling is not None
    assert fit.sampling.info["approximation"] == "independent rows"
    (observations,) = model.arguments(data)
    with ThreadPoolExecutor(num_workers()) as pool:
        start_key = jax.random.split(jax.random.key(5), 3)[1]
        algorithm = Variational(model, data, observations, start_key, None, pool, "block")
        state = algorithm.init(jax.random.key(1))
        for _ in range(30):
            state, _ = algorithm.step(jax.random.key(2), state)
    assert state.covariance is not None
    for name, place in (("user", 2), ("item", 3)):
        bias = fit.samples[f"{name}_bias"][0, :, place]
        factors = fit.samples[f"{name}_factors"][0, :, place]
        drawn = np.cov(np.column_stack([bias, factors]).T)
        exact = np.asarray(state.covariance[name][place, :3, :3])
        sd = np.sqrt(np.diag(exact))
        np.testing.assert_allclose(drawn / np.outer(sd, sd), exact / np.outer(sd, sd), atol=0.07)
    monkeypatch.setattr(block_module, "GATHERED", 1)
    jax.clear_caches()
    pieces = fit_variational(model, data, num_draws=2, **options)
    assert pieces.history is not None
    assert fit.history is not None
    np.testing.assert_allclose(pieces.history.objective, fit.history.objective, rtol=1e-9)


def test_warns_that_it_has_not_converged() -> None:
    data = table()
    with pytest.warns(FitWarning, match="not converged after 3 sweeps: .*tol=1e-05"):
        fit_variational(MODELS["gaussian"], data, key=0, num_sweeps=3, num_draws=2)
    found = fit_variational(MODELS["gaussian"], data, key=0, num_draws=2)
    assert found.history is not None
    assert found.history.stopped == "tol"


def test_biases_against_the_dense_posterior() -> None:
    """The means are the posterior's; the bound is below the evidence, the variances too small."""
    model = MatrixFactorization(
        0, Gaussian(0.7), 3.0, user_bias_scale=0.6, item_bias_scale=np.linspace(0.5, 1.0, ITEMS)
    )
    data = table()
    algorithm, state, bounds = sweeps(model, data, 200)
    users, items = np.eye(USERS)[data.user], np.eye(ITEMS)[data.item]
    design = np.concatenate([users, items], axis=1)
    prior = np.concatenate([np.full(USERS, 0.36), np.linspace(0.5, 1.0, ITEMS) ** 2])
    noise = 0.49 / np.asarray(data.weight)
    covariance = design * prior @ design.T + np.diag(noise)
    evidence = multivariate_normal.logpdf(data.rating, 3.0 * np.ones(len(noise)), covariance)
    assert evidence - 15 < bounds[-1] < evidence
    exact = prior * (design.T @ np.linalg.solve(covariance, data.rating - 3.0))
    means = algorithm.packing.unpack(state.mean)
    found = np.concatenate([means["user_bias"], means["item_bias"]])
    np.testing.assert_allclose(found, exact, atol=1e-9)
    variances = algorithm.packing.unpack(state.variance)
    found = np.concatenate([variances["user_bias"], variances["item_bias"]])
    precision = 1 / prior + (design / noise[:, None]).sum(axis=0)
    np.testing.assert_allclose(found, 1 / precision, rtol=1e-9)
    # Rows without ratings have their prior.
    assert (found[USERS - 1], found[-1]) == pytest.approx((0.36, 1.0))


@pytest.mark.slow
def test_weight_zero_is_no_rating() -> None:
    data = table()
    columns = {"user": data.user, "item": data.item, "rating": data.rating}
    weight = np.where(np.arange(data.num_ratings) % 5 == 0, 0.0, 1.0)
    ids: dict[str, Any] = {"users": list(range(USERS)), "items": list(range(ITEMS))}
    with_zeros = Ratings.from_frame(columns | {"weight": weight}, weight="weight", **ids)
    without = Ratings.from_frame({n: x[weight > 0] for n, x in columns.items()}, **ids)
    biases = replace(MODELS["biases"], intercept=3.0)
    both = [sweeps(biases, data, 400)[2] for data in (with_zeros, without)]
    np.testing.assert_allclose(both[0][-1], both[1][-1], rtol=1e-8)


@pytest.mark.slow
def test_learns_noise_and_scales_and_predicts() -> None:
    simulated = simulate_ratings(
        key=0, num_users=120, num_items=80, num_ratings=4800, num_factors=2
    )
    train, test = simulated.ratings.split(key=1, test_fraction=0.1)
    model = MatrixFactorization(
        2, Gaussian(LAW), "learned", user_scale=LAW, item_scale=LAW, user_bias_scale=LAW,
        item_bias_scale=LAW,
    )  # fmt: skip
    fit = fit_variational(model, train, key=0, num_draws=40, scale_per="side")
    assert fit.samples["user_factors"].shape == (1, 40, 120, 2)
    assert fit.history is not None
    assert fit.history.stopped == "tol"
    assert fit.sampling is not None
    assert fit.sampling.info["elbo"] == -fit.history.objective.min()
    learned = {name: fit.samples[name].ravel() for name in model.random_scales()}
    assert all(np.ptp(value) == 0 for value in learned.values())
    assert learned["noise_scale"][0] == pytest.approx(0.5, rel=0.05)
    assert learned["user_bias_scale"][0] == pytest.approx(0.3, rel=0.3)
    assert learned["item_bias_scale"][0] == pytest.approx(0.4, rel=0.3)
    product = learned["user_scale"][0] * learned["item_scale"][0]
    assert product == pytest.approx(0.25, rel=0.3)
    predicted = fit.predict(test)
    assert np.sqrt(np.mean((predicted.mean - test.rating) ** 2)) < 0.6
    inside = (predicted.lower <= test.rating) & (test.rating <= predicted.upper)
    assert 0.8 < inside.mean() < 0.97


def learning(num_factors: int) -> MatrixFactorization:
    return MatrixFactorization(
        num_factors, Gaussian(LAW), user_scale=LAW, item_scale=LAW, user_bias_scale=LAW,
        item_bias_scale=LAW,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 5, 11])
@pytest.mark.parametrize("covariance", ["diagonal", "block"])
def test_more_factors_than_needed_do_no_harm(seed: int, covariance: Any) -> None:
    """At 16 factors the held-out error is that at the true three, and far from that of none."""
    simulated = simulate_ratings(
        key=seed, num_users=120, num_items=60, num_ratings=2000, num_factors=3
    )
    train, test = simulated.ratings.split(key=seed + 1, test_fraction=0.15)
    error = {}
    for k in (0, 3, 16):
        options: dict[str, Any] = {"covariance": covariance, "num_draws": 200}
        fit = fit_variational(learning(k), train, key=0, **options)
        error[k] = np.sqrt(np.mean((fit.predict(test).mean - test.rating) ** 2))
    assert error[16] < 1.02 * error[3]
    assert error[16] < 0.98 * error[0]
    assert fit.samples["user_scale"].shape == (1, 200, 1, 16)


@pytest.mark.parametrize("scale_per", ["factor", "side"])
def test_warns_that_all_factors_shrank(scale_per: Any) -> None:
    """Ratings of biases alone."""
    rng = np.random.default_rng(0)
    user, item = np.divmod(np.arange(USERS * ITEMS), ITEMS)
    rating = rng.normal(size=USERS)[user] + rng.normal(size=ITEMS)[item]
    rating = rating + 0.5 * rng.normal(size=len(user))
    data = Ratings.from_frame({"user": user, "item": item, "rating": rating})
    message = r"All factors \(2\) have shrunk to zero.* num_factors=0 .* sample_gibbs"
    with pytest.warns(FitWarning, match=message) as told:
        fit = fit_variational(learning(2), data, key=0, num_draws=2, scale_per=scale_per)
    assert len(told) == 1
    assert ("scale_per='factor'" in str(told[0].message)) == (scale_per == "side")
    shape = (1, 2, 1, 2) if scale_per == "factor" else (1, 2)
    assert fit.samples["user_scale"].shape == shape
    mean = np.einsum("duk,dik->ui", *(fit.samples[f"{n}_factors"][0] for n in ("user", "item")))
    assert np.abs(mean / 2).max() < 0.1


@pytest.mark.parametrize("users", [2, USERS])
@pytest.mark.parametrize("name", ["gaussian", "by factor"])
def test_principal_axes(name: str, users: int) -> None:
    """The same products, along orthogonal axes, the longest under the largest scales."""
    rng = np.random.default_rng(1)
    model = replace(MODELS[name], num_factors=3)
    if name == "by factor":
        model = replace(model, user_scale=dist.HalfNormal(np.ones((1, 3))), item_scale=0.5)
    plan, packing = Plan.of(model), ParameterTable(model, users, ITEMS)
    shapes = model.site_shapes(users, ITEMS)
    values = {site: rng.normal(size=shape) for site, shape in shapes.items()}
    scales = {n: jnp.asarray(0.5) for n in ("user_scale", "item_scale")}
    scales |= {f"{n}_bias_scale": jnp.asarray(1.0) for n in ("user", "item")}
    if name == "by factor":
        scales["user_scale"] = jnp.asarray([[0.1, 2.0, 1.0]])
    table, found = to_principal_axes(plan, packing.pack(values), scales)
    turned = {site: np.asarray(value) for site, value in packing.unpack(table).items()}
    left, right = turned["user_factors"], turned["item_factors"]
    np.testing.assert_allclose(left @ right.T, values["user_factors"] @ values["item_factors"].T)
    for rows in (left, right):
        gram = rows.T @ rows
        np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-12)
    lengths = np.diag(left.T @ left) * np.diag(right.T @ right)
    order = [1, 2, 0] if name == "by factor" else [0, 1, 2]
    assert (np.diff(lengths[order]) <= 1e-12).all()
    np.testing.assert_array_equal(turned["item_bias"], values["item_bias"])
    if name == "by factor":
        roots = np.sqrt(np.mean(left**2, axis=0, keepdims=True))
        np.testing.assert_allclose(found["user_scale"], roots)
    else:
        np.testing.assert_allclose(np.sum(left**2, 0), np.sum(right**2, 0), atol=1e-12)
        assert found == {}


@pytest.mark.slow
def test_same_key_start_and_storage(tmp_path: Any) -> None:
    data, model = table(), MODELS["gaussian"]
    one, two = (
        fit_variational(model, data, key=5, num_sweeps=5, tol=0, num_draws=3) for _ in range(2)
    )
    for name, value in one.samples.items():
        np.testing.assert_array_equal(value, two.samples[name])
    one.save(tmp_path / "fit")
    loaded = load(tmp_path / "fit")
    pairs = [(0, 1), (3, 2)]
    np.testing.assert_array_equal(loaded.predict(pairs).mean, one.predict(pairs).mean)
    point = fit_als(MatrixFactorization(2, Gaussian(0.5)), data, key=0)
    nothing = {site: np.zeros_like(value) for site, value in point.point().items()}
    zeros = RatingsFit.from_point(point.model, data, nothing, method="made")
    warm, cold = (
        fit_variational(model, data, key=5, num_sweeps=1, tol=0, num_draws=1, start=start)
        for start in (point, zeros)
    )
    assert warm.history is not None
    assert cold.history is not None
    assert warm.history.objective[0] < cold.history.objective[0] - 1


def test_validation_keeps_the_best_sweep() -> None:
    train, test = table(weighted=False).split(key=0, test_fraction=0.3)
    fit = fit_variational(
        MODELS["gaussian"], train, key=0, tol=0, num_draws=2, validation=test, patience=2
    )
    assert fit.history is not None
    assert fit.history.validation is not None
    assert fit.history.best == 1 + np.argmin(fit.history.validation)
    assert fit.sampling is not None
    assert fit.sampling.info["elbo"] == -fit.history.objective[fit.history.best - 1]


@pytest.fixture
def log_compiles() -> Iterator[None]:
    """For all threads: `jax.log_compiles` is for the calling one, and the workers compile most."""
    jax.config.update("jax_log_compiles", True)
    yield
    jax.config.update("jax_log_compiles", False)


@pytest.mark.usefixtures("log_compiles")
def test_second_call_compiles_nothing(caplog: pytest.LogCaptureFixture) -> None:
    data = table()
    counts = []
    # Shapes that no other test has, so that the first call does compile.
    for key in (0, 1):
        with caplog.at_level(logging.WARNING, logger="jax"):
            fit_variational(MODELS["gaussian"], data, key=key, num_sweeps=2, tol=0, num_draws=17)
        counts.append(sum(r.getMessage().startswith("Compiling") for r in caplog.records))
        caplog.clear()
    assert counts[0] > 0
    assert counts[1] == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (MatrixFactorization(2, Ordinal(5)), "Gaussian and Bernoulli"),
        (MatrixFactorization(2, user_scale=NormalWishart()), "user_scale is a NormalWishart"),
        (MatrixFactorization(2, unobserved_weight=0.1), "unobserved_weight"),
        (MatrixFactorization(0, user_bias=False, item_bias=False), "and the model has neither"),
        (
            MatrixFactorization(2, user_bias_scale=dist.HalfNormal(np.ones(USERS)).to_event(1)),
            "takes independent scales",
        ),
    ],
)  # fmt: skip
def test_refusals(model: MatrixFactorization, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        fit_variational(model, table(), key=0)


def test_ratings_too_small_for_the_precision_are_told() -> None:
    tiny = replace(table(), rating=1e-13 * table().rating)
    scales: Any = dict.fromkeys(("user_scale", "item_scale", "user_bias_scale"), LAW)
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match=r"starts from overflow\. .*set jax_enable_x64"),
    ):
        fit_variational(MatrixFactorization(2, Gaussian(LAW), **scales), tiny, key=0)


def test_refused_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = "model"
    with pytest.raises(TypeError, match="expected MatrixFactorization"):
        fit_variational(model, table(), key=0)
    with pytest.raises(ValueError, match="num_draws is 0"):
        fit_variational(MODELS["gaussian"], table(), key=0, num_draws=0)
    with pytest.raises(TypeError, match="start is of type dict"):
        fit_variational(MODELS["gaussian"], table(), key=0, start={})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="covariance is 'full'; expected 'diagonal' or 'block'"):
        fit_variational(MODELS["gaussian"], table(), key=0, covariance="full")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale_per is 'row'; expected 'factor' or 'side'"):
        fit_variational(MODELS["gaussian"], table(), key=0, scale_per="row")  # type: ignore[arg-type]
    monkeypatch.setattr("probmf.memory.MEMORY_SHARE", 1e-9)
    with pytest.raises(ValueError, match=r"each of 17 rows takes .*covariance='diagonal'"):
        fit_variational(MODELS["gaussian"], table(), key=0, covariance="block")
