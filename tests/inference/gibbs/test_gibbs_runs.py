"""Runs of sample_gibbs: shapes, bits, thinning, storage, and what is refused."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from probmf import (
    Bernoulli,
    Gaussian,
    MatrixFactorization,
    NormalWishart,
    Ordinal,
    Ratings,
    diagnostics,
    fit_als,
    load,
    sample_gibbs,
)
from probmf.inference.gibbs import factorization_chains as gibbs_factorization
from probmf.inference.gibbs import job as job_module
from probmf.results import RatingsFit, open_draws
from probmf.run.driver import FitWarning
from probmf.run.threads import Workers

USERS, ITEMS = 15, 10
SHORT: dict[str, Any] = {"num_warmup": 20, "num_samples": 30, "num_chains": 2}
HALF = dist.HalfNormal(1.0)


def ratings(kind: str = "gaussian") -> Ratings:
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((USERS, ITEMS)) < 0.6)
    score = rng.normal(size=USERS)[user] * rng.normal(size=ITEMS)[item] + rng.normal(size=len(user))
    rating = {
        "gaussian": score + 3,
        "binary": score > 0,
        "ordinal": np.digitize(score, [-1, 1]) + 1,
    }
    return Ratings.from_frame(
        {"user": [f"u{code}" for code in user], "item": item, "rating": rating[kind].astype(float)}
    )


def model(**options: Any) -> MatrixFactorization:
    settings: dict[str, Any] = {"user_scale": HALF, "item_scale": HALF, **options}
    return MatrixFactorization(2, settings.pop("likelihood", Gaussian(HALF)), **settings)


def assert_same(one: RatingsFit, other: RatingsFit) -> None:
    assert one.samples.keys() == other.samples.keys()
    for name, value in one.samples.items():
        np.testing.assert_array_equal(value, other.samples[name], err_msg=name)
    assert one.traces is not None
    assert other.traces is not None
    for name, value in one.traces.values.items():
        np.testing.assert_array_equal(value, other.traces.values[name], err_msg=name)
    if one.traces.watched is not None and other.traces.watched is not None:
        np.testing.assert_array_equal(one.traces.watched.mean, other.traces.watched.mean)


@pytest.fixture(scope="module")
def whole() -> RatingsFit:
    return sample_gibbs(model(), ratings(), key=3, watch=ratings(), **SHORT)


def test_a_fit_of_many_draws(whole: RatingsFit) -> None:
    assert whole.samples["user_factors"].shape == (2, 30, USERS, 2)
    assert whole.samples["noise_scale"].shape == (2, 30)
    assert whole.traces is not None
    assert whole.traces.values["probe_score"].shape[:2] == (2, 30)
    assert whole.sampling is not None
    assert whole.sampling.complete
    assert "gibbs" in repr(whole)
    predicted = whole.predict([("u1", 2), ("stranger", 2)])
    assert predicted.known_user.tolist() == [True, False]
    assert np.all(predicted.lower < predicted.mean)
    assert whole.to_arviz()["posterior"]["user_factors"].sizes["draw"] == 30


def test_watched_pairs_average_every_sweep(whole: RatingsFit) -> None:
    assert whole.traces is not None
    assert whole.traces.watched is not None
    expected = whole.predict(ratings(), interval=None).mean
    np.testing.assert_allclose(whole.traces.watched.mean, expected, rtol=1e-4)
    assert whole.traces.watched.sd.min() > 0


def test_moments_count_every_sweep(whole: RatingsFit) -> None:
    thinned = sample_gibbs(model(), ratings(), key=3, thin=10, **SHORT)
    for fit in (whole, thinned):
        assert fit.moments is not None
        assert fit.moments.num_sweeps == 30
        for name in ("user_bias", "item_bias", "user_factors", "item_factors"):
            draws = whole.samples[name].astype(np.float64)
            np.testing.assert_allclose(fit.moments.mean[name], draws.mean(axis=1), atol=1e-5)
            np.testing.assert_allclose(fit.moments.sd[name], draws.std(axis=1), atol=1e-5)
    assert whole.moments is not None
    mean, sd = whole.moments.pooled("user_bias")
    np.testing.assert_allclose(mean, whole.samples["user_bias"].mean(axis=(0, 1)), atol=1e-5)
    np.testing.assert_allclose(sd, whole.samples["user_bias"].std(axis=(0, 1)), atol=1e-5)
    with pytest.raises(ValueError, match="rotated against each other"):
        whole.moments.pooled("user_factors")
    with pytest.raises(ValueError, match="no moments of 'nothing'"):
        whole.moments.pooled("nothing")
    aligned = diagnostics.align(whole).moments
    assert aligned is not None
    assert set(aligned.mean) == {"user_bias", "item_bias"}
    np.testing.assert_array_equal(aligned.sd["item_bias"], whole.moments.sd["item_bias"])


def test_thinning_keeps_rows_of_some_sweeps(whole: RatingsFit) -> None:
    thinned = sample_gibbs(model(), ratings(), key=3, thin=7, **SHORT)
    np.testing.assert_array_equal(
        thinned.samples["item_factors"], whole.samples["item_factors"][:, 6::7]
    )
    assert thinned.traces is not None
    assert whole.traces is not None
    np.testing.assert_array_equal(thinned.traces.values["lp"], whole.traces.values["lp"])


def test_the_same_key_gives_the_same_bits(whole: RatingsFit) -> None:
    assert_same(whole, sample_gibbs(model(), ratings(), key=3, watch=ratings(), **SHORT))
    other = sample_gibbs(model(), ratings(), key=4, **SHORT)
    assert not np.array_equal(other.samples["noise_scale"], whole.samples["noise_scale"])
    first, second = whole.samples["noise_scale"]
    assert not np.array_equal(first, second)


def test_a_run_goes_on_with_other_cores(
    whole: RatingsFit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = Workers.map, []

    def sometimes(self: Workers, function: Any, items: Any) -> Any:
        made.append(1)
        if len(made) > 3:
            raise KeyboardInterrupt
        return real(self, function, items)

    options = SHORT | {"key": 3, "watch": ratings(), "checkpoint": tmp_path / "run"}
    monkeypatch.setattr(gibbs_factorization, "num_workers", lambda: 1)
    monkeypatch.setattr(Workers, "map", sometimes)
    with pytest.warns(FitWarning, match="10 of 30 draws"):
        sample_gibbs(model(), ratings(), **options)
    monkeypatch.setattr(Workers, "map", real)
    monkeypatch.setattr(gibbs_factorization, "num_workers", lambda: 6)
    assert_same(sample_gibbs(model(), ratings(), **options), whole)


def test_the_order_of_the_table_is_of_no_account() -> None:
    data, short = ratings(), SHORT | {"num_warmup": 2, "num_samples": 4, "key": 3}
    mixed = data.select(np.random.default_rng(0).permutation(len(data)))
    one, other = (sample_gibbs(model(), table, **short) for table in (data, mixed))
    for name, value in one.samples.items():
        np.testing.assert_allclose(other.samples[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_wishart_prior_is_saved(tmp_path: Path) -> None:
    fit = sample_gibbs(model(user_scale=NormalWishart(dof=5.0)), ratings(), key=0, **SHORT)
    fit.save(tmp_path / "fit")
    back = load(tmp_path / "fit")
    assert back.model.user_scale == NormalWishart(dof=5.0)
    assert_same(fit, back)


def test_diagnostics_judge_every_sweep() -> None:
    fit = sample_gibbs(
        model(), ratings(), key=1, num_warmup=50, num_samples=400, num_chains=2, thin=40
    )
    told = diagnostics.summary(fit)
    rows = {row["name"]: row for row in told.table}
    assert rows["prediction"]["ess_bulk"] > 40 > rows["singular_value[0]"]["ess_bulk"]


@pytest.mark.parametrize("likelihood", [Bernoulli(), Bernoulli("probit"), Ordinal(3)])
@pytest.mark.slow
def test_latent_likelihoods_predict(likelihood: Any) -> None:
    data = ratings("ordinal" if isinstance(likelihood, Ordinal) else "binary")
    fit = sample_gibbs(model(likelihood=likelihood), data, key=0, watch=data, **SHORT)
    chosen = fit.predict(data)
    assert np.corrcoef(chosen.mean, data.rating)[0, 1] > 0.4
    assert fit.traces is not None
    assert fit.traces.watched is not None
    np.testing.assert_allclose(fit.traces.watched.mean, chosen.mean, rtol=1e-3)


@pytest.mark.parametrize(
    "scale", [dist.HalfNormal(jnp.ones((1, 2))), dist.HalfNormal(jnp.ones(USERS)), NormalWishart()]
)
@pytest.mark.slow
def test_priors_of_factors(scale: Any) -> None:
    fit = sample_gibbs(model(user_scale=scale), ratings(), key=0, **SHORT)
    name = "user_mean" if isinstance(scale, NormalWishart) else "user_scale"
    shape = (2,) if isinstance(scale, NormalWishart) else scale.batch_shape
    assert fit.samples[name].shape == (2, 30, *shape)
    dims = fit.to_arviz()["posterior"][name].dims[2:]
    assert dims == (("user",) if shape == (USERS,) else ("factor",))
    assert np.isfinite(fit.predict([("stranger", 1)]).mean).all()


@pytest.mark.slow
def test_starts_from_a_fit_and_in_double_precision() -> None:
    fixed = MatrixFactorization(2)
    start = fit_als(fixed, ratings(), key=0, num_sweeps=5)
    fit = sample_gibbs(model(), ratings(), key=0, start=start, float64=True, **SHORT)
    assert fit.samples["user_factors"].dtype == np.float64
    assert not jax.config.jax_enable_x64


@pytest.mark.slow
def test_weights_count_as_precision() -> None:
    """A weight of four is four ratings of the same value, where the noise is known."""
    table = {"user": [1, 1, 2], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
    once = Ratings.from_frame({**table, "weight": [4.0, 1.0, 1.0]}, weight="weight")
    biases = MatrixFactorization(0, Gaussian(0.5), intercept=3.0)
    settings: dict[str, Any] = {"key": 0, "num_warmup": 20, "num_samples": 3000, "num_chains": 1}
    fit = sample_gibbs(biases, once, **settings)
    design = np.asarray([[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0]], float)
    weight = np.asarray([4.0, 1.0, 1.0]) / 0.25
    precision = np.eye(4) + design.T * weight @ design
    mean = np.linalg.solve(precision, design.T @ (weight * (np.asarray(table["rating"]) - 3)))
    drawn = np.concatenate([fit.samples["user_bias"][0], fit.samples["item_bias"][0]], axis=1)
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.06)
    np.testing.assert_allclose(np.cov(drawn.T), np.linalg.inv(precision), atol=0.06)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"num_samples": 0}, "num_samples is 0"),
        ({"num_chains": 0}, "num_chains is 0"),
        ({"num_warmup": -1}, "num_warmup is -1"),
        ({"thin": 31}, "thin is 31"),
        ({"watch": [("nobody", 1)]}, "watch has a user in row 0, 'nobody'"),
        ({"thin": 0}, "thin is 0"),
        ({"model": model(user_scale=dist.HalfNormal(jnp.ones(3)))}, "user_scale has shape"),
        ({"model": model(likelihood=Gaussian(1.0), unobserved_weight=0.1)}, "unobserved_weight"),
        ({"model": MatrixFactorization(0, user_bias=False, item_bias=False)}, "has neither; give"),
        ({"model": model(likelihood=Ordinal(7)), "data": ratings("ordinal")}, "No rating is at"),
        ({"model": model(user_scale=dist.LogNormal(jnp.zeros(USERS), 1.0).to_event(1))},
         "event shape"),
    ],
)  # fmt: skip
def test_what_is_refused(change: dict[str, Any], expected: str) -> None:
    arguments: dict[str, Any] = {"model": model(), "data": ratings(), "key": 0, **SHORT, **change}
    with pytest.raises(ValueError, match=expected):
        sample_gibbs(arguments.pop("model"), arguments.pop("data"), **arguments)


def test_weights_of_latent_likelihoods_are_refused() -> None:
    table = {"user": [1, 1, 2], "item": [1, 2, 1], "rating": [1.0, 0.0, 1.0], "w": [2.0, 1.0, 1.0]}
    data = Ratings.from_frame(table, weight="w")
    with pytest.raises(ValueError, match="takes weights of Gaussian ratings only"):
        sample_gibbs(model(likelihood=Bernoulli()), data, key=0, **SHORT)


def test_too_many_draws_for_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probmf.memory.MEMORY_SHARE", 1e-9)
    with pytest.raises(ValueError, match="Raise thin"):
        sample_gibbs(model(), ratings(), key=0, **SHORT)


def test_all_equal_answers_are_no_trouble() -> None:
    data = Ratings.from_frame({"user": [1, 1, 2], "item": [1, 2, 1], "rating": [1.0] * 3})
    with pytest.warns(UserWarning, match="All ratings are 1, so that 1 is the best prediction"):
        fit = sample_gibbs(model(likelihood=Bernoulli()), data, key=0, **SHORT)
    assert np.all(fit.predict(data).mean > 0.5)


def test_memory_keeps_some_of_what_is_streamed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    whole: RatingsFit,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(job_module, "KEPT", 8)
    monkeypatch.setattr(job_module, "KEPT_BYTES", 1)
    options: dict[str, Any] = {**SHORT, "thin": 2, "stream": tmp_path / "s", "progress": True}
    fit = sample_gibbs(model(), ratings(), key=3, **options)
    shown = capsys.readouterr().err
    assert "sample_gibbs keeps 6 draws, 0 MiB; writes 30 draws, 0 MiB, to" in shown
    # Of 15 streamed ones every fourth.
    np.testing.assert_array_equal(
        fit.samples["user_factors"], whole.samples["user_factors"][:, 7::8]
    )
    assert fit.sampling is not None
    info = fit.sampling.info
    assert info["stream"] == str(tmp_path / "s")
    assert (info["streamed_draws"], info["stream_thin"], info["thin"]) == (15, 2, 8)
    np.testing.assert_array_equal(
        open_draws(info["stream"])["posterior"]["user_bias"].values,
        whole.samples["user_bias"][:, 1::2],
    )
    fit.save(tmp_path / "fit")
    again = load(tmp_path / "fit").sampling
    assert again is not None
    assert again.info["stream"] == info["stream"]
    with pytest.raises(ValueError, match="holds the draws of another run"):
        sample_gibbs(model(), ratings(), key=3, **options | {"thin": 3})
