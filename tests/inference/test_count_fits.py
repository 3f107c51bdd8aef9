"""Counts in every family: modes, intervals and recovered rates against SciPy and simulation."""

from typing import Any

import jax
import numpy as np
import numpyro
import pytest
import toys
from numpyro.infer.util import log_density
from scipy import optimize, stats

from probmf import MatrixFactorization, MixedEffects, Poisson, Ratings, fit_map, sample_nuts
from probmf.diagnostics.evaluation import evaluation
from probmf.likelihoods import KINDS, LIKELIHOODS
from probmf.models.factorization import PRIOR_SCALES
from probmf.results import RatingsFit
from probmf.results.prediction_intervals import ScoreMixture, quantiles, summarize

SCALE = 0.6
MODEL = MatrixFactorization(2, Poisson(), intercept=1.0, user_scale=SCALE, item_scale=SCALE)


def made() -> RatingsFit:
    """A point fit of given numbers."""
    rng, data = np.random.default_rng(2), toys.ratings("counts")
    shapes = MODEL.site_shapes(data.num_users, data.num_items)
    values = {site: 0.5 * rng.normal(size=shape) for site, shape in shapes.items()}
    return RatingsFit.from_point(MODEL, data, values | {"intercept": 1.0}, method="made")


@pytest.mark.parametrize("counts", [(0, 3, 1), (0, 0, 0), (9000, 2, 70)])
def test_a_folded_row_is_the_mode_whatever_the_counts(counts: tuple[int, ...]) -> None:
    """From the prior's mean Newton's step is far too long where a count is large."""
    fit = made()
    new = Ratings.from_frame({"user": [50] * 3, "item": [0, 2, 5], "rating": counts})
    grown = fit.fold_in(new).point()
    point, items = fit.point(), [0, 2, 5]
    design = np.concatenate([np.ones((3, 1)), point["item_factors"][items]], axis=1)
    precision = np.array([1.0, SCALE**-2, SCALE**-2])

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        score = 1.0 + point["item_bias"][items] + design @ x
        value = np.sum(np.exp(score) - counts * score) + 0.5 * precision @ x**2
        return value, design.T @ (np.exp(score) - counts) + precision * x

    found = optimize.minimize(loss, np.zeros(3), jac=True, method="BFGS", options={"gtol": 1e-9})
    mine = np.concatenate([grown["user_bias"][-1:], grown["user_factors"][-1]])
    np.testing.assert_allclose(mine, found.x, atol=2e-4)


def test_quantiles_of_counts_are_those_of_scipy() -> None:
    law = stats.nbinom([0.3, 4.0, 4.0, 1e4], [0.9, 0.1, 1e-4, 0.5])
    for probability in (0.05, 0.5, 0.95, 0.999):
        for sd in (law.std(), np.full(4, np.inf)):
            found = quantiles(lambda k: law.sf(k - 1), law.mean(), sd, probability, step=1.0)
            np.testing.assert_array_equal(found, law.ppf(probability))


def test_quantiles_of_other_numbers_are_those_of_scipy() -> None:
    """In any unit, of any shape, and where there is no sd or no mean."""
    shape, unit = np.array([0.3, 1.0, 40.0]), np.array([1e-9, 1.0, 1e6])
    laws = [stats.gamma(shape, scale=unit), stats.beta(shape, 2.0), stats.t(shape, unit, unit)]
    for law in laws:
        for probability in (0.05, 0.5, 0.999):
            for sd in (np.full(3, np.inf), law.std()):
                center = np.where(np.isfinite(sd), law.mean(), 0.0)
                found = quantiles(law.sf, center, sd, probability, step=0.0)
                np.testing.assert_allclose(law.cdf(found), probability, atol=1e-4)


@pytest.mark.parametrize("sd", [None, 0.8])
def test_summaries_of_mixtures_are_those_of_draws(sd: float | None) -> None:
    rng = np.random.default_rng(5)
    mean = rng.normal(1.0, 0.5, (4, 3))
    width = None if sd is None else np.full((4, 3), sd)
    scores = mean + (sd or 0.0) * rng.normal(size=(200_000, 4, 3))
    drawn = rng.poisson(np.exp(scores)).reshape(-1, 3)
    mixture = ScoreMixture(mean, width, {})
    found: Any = summarize(Poisson(), mixture, 0.9, "response")
    np.testing.assert_allclose(found.mean, drawn.mean(axis=0), rtol=0.01)
    np.testing.assert_allclose(found.sd, drawn.std(axis=0), rtol=0.03)
    for end, level in ((found.lower, 0.05), (found.upper, 0.95)):
        reached = (drawn <= end).mean(axis=0)
        assert (reached >= level - 0.002).all()
        assert ((drawn <= end - 1).mean(axis=0) < level + 0.002).all()
    rates = np.exp(scores).reshape(-1, 3)
    found = summarize(Poisson(), mixture, 0.9, "mean")
    np.testing.assert_allclose(found.mean, rates.mean(axis=0), rtol=0.01)
    np.testing.assert_allclose(found.sd, rates.std(axis=0), rtol=0.03)
    if sd is not None:
        ends = np.quantile(rates, [0.05, 0.95], axis=0)
        np.testing.assert_allclose([found.lower, found.upper], ends, rtol=0.02)


@pytest.mark.slow
def test_simulated_rates_are_recovered() -> None:
    """Two thirds of 60 x 40 counts about known rates; the others lie in their intervals."""
    rng = np.random.default_rng(8)
    bias, own = 0.6 * rng.normal(size=60), 0.6 * rng.normal(size=40)
    factors = 0.6 * rng.normal(size=(60, 2)), 0.6 * rng.normal(size=(40, 2))
    score = 1.5 + bias[:, None] + own + factors[0] @ factors[1].T
    user, item = (part.ravel() for part in np.indices(score.shape))
    count, known = rng.poisson(np.exp(score[user, item])), rng.random(score.size) < 0.67
    train, test = (
        Ratings.from_frame({"user": user[k], "item": item[k], "rating": count[k]})
        for k in (known, ~known)
    )
    scales: dict[str, Any] = dict.fromkeys(PRIOR_SCALES.values(), 0.6)
    model = MatrixFactorization(2, Poisson(), intercept="learned", **scales)
    fit = fit_map(model, train, key=0, num_epochs=300)
    predicted = fit.predict(test, interval=0.9)
    error = np.log(predicted.mean) - score[user[~known], item[~known]]
    assert np.sqrt(np.mean(error**2)) < 0.35  # The scores' sd is 1.1.
    assert abs(error.mean()) < 0.1
    assert (
        0.88 < np.mean((test.rating >= predicted.lower) & (test.rating <= predicted.upper)) < 0.97
    )
    told = evaluation(fit, test)
    assert told.errors.keys() == {"RMSE", "MAE", "deviance"}
    assert 0.9 < told.errors["deviance"] < 1.6 < told.constant["deviance"]
    assert told.coverage.keys() == {"0.5", "0.9"}


def test_a_mixed_model_of_counts_has_their_density_and_priors() -> None:
    table = toys.mixed("counts")
    model = MixedEffects("y ~ x + (1 | g)", likelihood="poisson")
    (data,) = model.arguments(table)
    prior: Any = data.priors["coefficients"]
    assert float(prior.loc[0]) == pytest.approx(np.log(table["y"].mean()), rel=1e-6)
    assert float(prior.scale[1]) == pytest.approx(2.5 / table["x"].std(), rel=1e-5)
    with numpyro.handlers.seed(rng_seed=0):
        trace = numpyro.handlers.trace(model).get_trace(data)
    latent = {name: site["value"] for name, site in trace.items() if name != "y"}
    beta, effects = (np.asarray(latent[n], float) for n in ("coefficients", "g_effects"))
    score = beta[0] + beta[1] * table["x"] + effects[table["g"], 0]
    wanted = stats.poisson.logpmf(table["y"], np.exp(score)).sum()
    rest = sum(
        float(np.sum(site["fn"].log_prob(site["value"])))
        for name, site in trace.items() if site["type"] == "sample" and name != "y"
    )  # fmt: skip
    found = jax.jit(lambda values: log_density(model, (data,), {}, values)[0])(latent)
    assert float(found) - rest == pytest.approx(wanted, rel=1e-4)


@pytest.mark.slow
def test_the_concentration_of_a_mixed_model_is_recovered() -> None:
    """2,000 counts about known means, that vary more than a Poisson's."""
    rng = np.random.default_rng(5)
    g, x = np.arange(2000) % 40, rng.normal(size=2000)
    mean = np.exp(1.0 + 0.4 * x + 0.5 * rng.normal(size=40)[g])
    table = {"y": rng.negative_binomial(3.0, 3.0 / (3.0 + mean)), "x": x, "g": g}
    model = MixedEffects("y ~ x + (1 | g)", likelihood="negativebinomial")
    fit = sample_nuts(model, table, key=0, num_warmup=300, num_samples=300, num_chains=2)
    for drawn, truth in (
        (fit.samples["concentration"], 3.0),
        (fit.samples["coefficients"][..., 1], 0.4),
        (fit.samples["g_scale"][..., 0], 0.5),
    ):
        assert abs(drawn.mean() - truth) < 4 * drawn.std()
    assert fit.samples["concentration"].std() < 0.4


def test_the_registry_names_every_likelihood_once() -> None:
    assert len({kind.__name__ for kind in KINDS}) == len(KINDS)
    assert LIKELIHOODS["poisson"] is Poisson
    assert all(name == kind.__name__.lower() for name, kind in LIKELIHOODS.items())
