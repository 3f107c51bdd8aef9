"""Diagnostics of draws whose convergence is known."""

import re
from typing import Any

import numpy as np
import pytest

from probmf import MatrixFactorization, Ratings, plots
from probmf.diagnostics import summary
from probmf.models import MixedEffects
from probmf.results import MixedFit, RatingsFit, Sampling
from probmf.results.measures import energy_fractions, measure, most_suspect

SHAPE = (4, 500)


def ratings() -> Ratings:
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((12, 9)) < 0.6)
    return Ratings.from_frame({"user": user, "item": item, "rating": rng.normal(3, 1, len(user))})


def factorization(*, seed: int = 1, sampling: Sampling | None = None, **changes: Any) -> RatingsFit:
    rng = np.random.default_rng(seed)
    data, model = ratings(), MatrixFactorization(2, intercept="learned")
    samples: dict[str, Any] = {"intercept": rng.normal(3, 0.1, SHAPE)}
    for site, shape in model.site_shapes(data.num_users, data.num_items).items():
        samples[site] = rng.normal(1, 0.1, (*SHAPE, *shape))
    return RatingsFit(model, data, samples | changes, "nuts", sampling=sampling)


def mixed(seed: int = 1, sampling: Sampling | None = None, **changes: Any) -> MixedFit:
    rng = np.random.default_rng(seed)
    model = MixedEffects("y ~ x + (1 + x | g)")
    design = model.design(
        {"y": rng.normal(0, 1, 30), "x": rng.normal(0, 1, 30), "g": np.arange(30) % 10}
    )
    r = rng.uniform(-0.5, 0.5, SHAPE)
    root = np.zeros((*SHAPE, 2, 2))
    root[..., 0, 0], root[..., 1, 0], root[..., 1, 1] = 1, r, np.sqrt(1 - r**2)
    samples = {
        "coefficients": rng.normal(0, 1, (*SHAPE, 2)), "g_scale": rng.uniform(1, 2, (*SHAPE, 2)),
        "g_correlation": root, "g_effects": rng.normal(0, 1, (*SHAPE, 10, 2)),
        "noise_scale": rng.uniform(1, 2, SHAPE),
    }  # fmt: skip
    return MixedFit(model, design, samples | changes, "nuts", sampling)


def healthy(**info: Any) -> Sampling:
    rng = np.random.default_rng(5)
    stats = {"energy": rng.normal(0, 1, SHAPE), "diverging": np.zeros(SHAPE, bool)}
    return Sampling(stats | {"tree_depth": np.full(SHAPE, 4)}, 100, 1.0, info=info)


def shifted(shape: tuple[int, ...], by: float) -> np.ndarray:
    """Independent draws, but the first chain lies elsewhere."""
    draws = np.random.default_rng(2).normal(0, 1, (*SHAPE, *shape))
    draws[0] += by
    return draws


@pytest.mark.parametrize("make", [factorization, mixed])
def test_independent_draws_are_fine(make: Any) -> None:
    found = summary(make(sampling=healthy(k_hat=0.3)))
    assert found.ok
    for row in found.table:
        assert row["r_hat"] < 1.01
        assert row["ess_bulk"] > 1200
        assert row["ess_tail"] > 1000
    assert found.statistics["num_divergent"] == 0
    assert found.statistics["share_saturated"] == 0
    assert found.statistics["e_bfmi"].shape == (4,)
    assert repr(found).endswith("No warnings.")


def test_factors_are_never_judged() -> None:
    fit = factorization()
    # Every draw is rotated by an angle of its own, and each chain differently on average.
    angle = np.random.default_rng(0).normal(0, 0.3, SHAPE) + np.arange(4)[:, None]
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=-1)
    turn = turn.reshape(*SHAPE, 2, 2)
    turned = {site: fit.samples[site] @ turn for site in ("user_factors", "item_factors")}
    found = summary(factorization(**turned))
    names = [row["name"] for row in found.table]
    assert names == ["prediction", "singular_value[0]", "singular_value[1]", "user_bias",
                     "item_bias", "intercept"]  # fmt: skip
    same = summary(fit)
    for left, right in zip(found.table, same.table, strict=True):
        assert left["r_hat"] == pytest.approx(right["r_hat"], rel=1e-4)
    assert measure(turned["user_factors"][:, :, 0]).r_hat.max() > 1.5


def test_singular_values_are_those_of_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = factorization()
    monkeypatch.setattr("probmf.diagnostics.quantities.BATCH_NUMBERS", 1000)
    found = summary(fit, var_names=["singular_value"])
    u, v = fit.samples["user_factors"], fit.samples["item_factors"]
    dense = np.linalg.svd(u @ np.swapaxes(v, -1, -2), compute_uv=False)[..., :2]
    means = [row["mean"] for row in found.table]
    np.testing.assert_allclose(means, dense.mean(axis=(0, 1)), rtol=1e-6)


def test_chains_that_disagree() -> None:
    bias = factorization().samples["user_bias"] + shifted((12,), 1.0)
    found = summary(factorization(user_bias=bias))
    assert not found.ok
    assert re.match(r"R-hat is 1\.\d+ for 'user_bias' \(above 1.01 in", found.warnings[0])
    assert found.table["user_bias"]["r_hat"] > 1.03
    found = summary(mixed(noise_scale=1 + np.abs(shifted((), 5.0))))
    assert "chains disagree" in found.warnings[0]


def test_the_worst_effect_is_found_among_many() -> None:
    effects = np.array(mixed().samples["g_effects"])
    effects[1, :, 7, 1] += 2.0
    found = summary(mixed(g_effects=effects), probes=4)
    assert "R-hat" in found.warnings[0]
    row = found.table["g_effects"]
    assert (row["count"], row["mean"], row["sd"]) == (20, None, None)
    assert row["r_hat"] == pytest.approx(measure(effects[:, :, 7, 1:2]).r_hat[0])


def test_effective_sizes_of_an_autoregression() -> None:
    rng = np.random.default_rng(0)
    rho, draws = 0.9, np.zeros((4, 5000))
    for step in range(1, 5000):
        draws[:, step] = rho * draws[:, step - 1] + rng.normal(0, 1, 4)
    ess = measure(draws[:, :, None]).ess_bulk[0]
    assert ess == pytest.approx(20000 * (1 - rho) / (1 + rho), rel=0.15)
    mcse = measure(draws[:, :, None]).mcse[0]
    assert mcse == pytest.approx(draws.std() / np.sqrt(ess), rel=0.1)
    told = " ".join(summary(mixed(noise_scale=np.exp(draws[:, :500]))).warnings)
    assert re.search(r"(bulk|tail) effective .* for 'noise_scale' \(below", told)


def test_quick_screening_finds_drift_and_stuck_chains() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0, 1, (*SHAPE, 50))
    draws[:, :, 13] = np.cumsum(rng.normal(0, 1, SHAPE), axis=1)
    draws[:, :, 31] = np.arange(4)[:, None]
    draws[2, :, 44] += 1.0
    kept = most_suspect(draws, 6)
    for place in (13, 31, 44):
        assert any((kept[:, :, own] == draws[:, :, place]).all() for own in range(6))
    assert most_suspect(draws, 60) is draws


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"diverging": np.arange(2000).reshape(SHAPE) < 7}, "7 of 2,000 transitions diverged"),
        ({"energy": np.cumsum(np.ones(SHAPE), axis=1)}, r"E-BFMI is 0.00 in 4 of 4 chains \(below"),
    ],
)
def test_statistics_that_tell_of_trouble(change: dict[str, Any], message: str) -> None:
    sampling = Sampling(dict(healthy().stats) | change, 0, 0.0)
    found = summary(mixed(sampling=sampling))
    assert len(found.warnings) == 1
    assert re.match(message, found.warnings[0])
    assert repr(found).count(found.warnings[0]) == 1


@pytest.mark.parametrize("k_hat", [0.71, np.inf, np.nan])
def test_importance_weights(k_hat: float) -> None:
    (told,) = summary(mixed(sampling=healthy(k_hat=k_hat))).warnings
    assert "Pareto k-hat of the importance weights is" in told


def approximated(**info: Any) -> Sampling:
    words = {"approximation": "independent rows", "converged": "yes", **info}
    return Sampling({}, 0, 0.0, info=words)


@pytest.mark.parametrize("make", [factorization, mixed])
def test_an_approximation_is_not_judged_as_a_chain(make: Any) -> None:
    """Chains that disagree, of which R-hat would complain."""
    site = "intercept" if make is factorization else "noise_scale"
    draws = 5 + np.abs(shifted((), 5.0))
    found = summary(make(sampling=approximated(elbo=-3.0), **{site: draws}))
    assert found.ok
    row = found.table[site]
    assert (row["r_hat"], row["ess_bulk"], row["ess_tail"]) == (None, None, None)
    assert row["mcse"] == pytest.approx(draws.std() / np.sqrt(draws.size))
    assert found.statistics["elbo"] == -3.0
    assert "(independent rows), not of a chain" in found.remarks[0]
    assert "Not judged: how far the approximation is" in repr(found)
    with_k = summary(make(sampling=approximated(k_hat=0.2)))
    assert "by Pareto k-hat. Not judged: single quantities" in with_k.remarks[0]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"converged": "no"}, "The search had not converged when it ended"),
        ({"k_hat": 0.9}, r"k-hat .* is 0\.90 \(above 0\.7\): the approximation misses parts"),
    ],
)
def test_what_is_wrong_with_an_approximation(info: dict[str, Any], message: str) -> None:
    found = summary(mixed(sampling=approximated(**info)))
    assert len(found.warnings) == 1
    assert re.search(message, found.warnings[0])
    cut = Sampling({}, 0, 0.0, complete=False, info={"approximation": "guide normal"})
    assert summary(mixed(sampling=cut)).warnings == ("The search was interrupted before its end.",)
    with pytest.raises(ValueError, match="shows how chains agree, and these are independent"):
        plots.diagnostics(mixed(sampling=cut))


def test_all_at_once() -> None:
    stats = dict(healthy().stats) | {"diverging": np.ones(SHAPE, bool)}
    sampling = Sampling(stats, 0, 0.0, complete=False, info={"k_hat": 0.9})
    found = summary(mixed(sampling=sampling, noise_scale=1 + np.abs(shifted((), 5.0))))
    assert "The run was interrupted: there are 500" in found.warnings[0]
    assert len(found.warnings) == 5


def test_saturated_trees() -> None:
    stats = {"tree_depth": np.where(np.arange(500) < 50, 8, 3)[None].repeat(4, 0)}
    found = summary(mixed(sampling=Sampling(stats, 0, 0.0, info={"max_tree_depth": 8})))
    assert found.statistics["share_saturated"] == pytest.approx(0.1)
    steps = {"n_steps": np.where(np.arange(500) < 50, 1023, 511)[None].repeat(4, 0)}
    found = summary(mixed(sampling=Sampling(steps, 0, 0.0)))
    assert found.statistics["share_saturated"] == pytest.approx(0.1)


def test_energy_fractions() -> None:
    # Independent energies differ by twice their variance from one draw to the next.
    energy = np.random.default_rng(0).normal(0, 3, (2, 20000))
    np.testing.assert_allclose(energy_fractions(energy), 2.0, rtol=0.05)


def test_constants_and_missing_rows_are_left_out() -> None:
    found = summary(factorization(intercept=np.full(SHAPE, 3.0)))
    assert "intercept" not in [row["name"] for row in found.table]
    fit = factorization()
    rest = {name: v for name, v in fit.samples.items() if name != "user_factors"}
    lacking = RatingsFit(fit.model, fit.data, rest, "nuts", sampling=healthy())
    names = [row["name"] for row in summary(lacking).table]
    assert names == ["user_bias", "item_bias", "intercept"]


def test_names_and_keys() -> None:
    fit = mixed()
    rows = summary(fit, var_names=["g_scale", "coefficients[x]"]).table
    assert [row["name"] for row in rows] == ["coefficients[x]", "g_scale[Intercept]", "g_scale[x]"]
    assert len(summary(fit, var_names="noise_scale").table) == 1
    with pytest.raises(ValueError, match="var_names holds 'sigma', but there are: coefficients, g"):
        summary(fit, var_names=["sigma"])
    first, again, other = (summary(factorization(), probes=5, key=key) for key in (0, 0, 1))
    assert first.table["prediction"] == again.table["prediction"]
    assert first.table["prediction"] != other.table["prediction"]


def test_errors() -> None:
    fit = mixed()
    one = MixedFit(fit.model, fit.design, {k: v[:1, :3] for k, v in fit.samples.items()}, "x")
    with pytest.raises(ValueError, match="1 chain of 3 draws; whether draws have converged can't"):
        summary(one)
    with pytest.raises(TypeError, match="fit is a int, expected a RatingsFit, a MixedFit"):
        summary(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="probes is 0; expected at least 1"):
        summary(fit, probes=0)
