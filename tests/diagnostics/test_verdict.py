"""The judgement at the end of samplers: one warning that names the worst, and a verdict."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest

from probmf import (
    Examples,
    Gaussian,
    MatrixFactorization,
    MixedEffects,
    Network,
    Ratings,
    sample_gibbs,
    sample_marginal,
    sample_nuts,
)
from probmf.diagnostics import DiagnosticWarning, summary
from probmf.inference.final_warning import concluded, judged
from probmf.results import MixedFit, NetworkFit, RatingsFit, Sampling
from probmf.run.driver import FitWarning

RATINGS = Ratings.from_frame(
    {"user": np.arange(30) % 6, "item": np.arange(30) // 6, "rating": np.arange(30) % 3}
)
SHAPE = (4, 500)
HALF = dist.HalfNormal(1.0)


def random(
    shapes: dict[str, tuple[int, ...]], chains: int, draws: int, seed: int = 0
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {}
    for site, shape in shapes.items():
        value = rng.normal(0, 1, (chains, draws, *shape))
        found[site] = np.abs(value) + 0.1 if "_scale" in site else value
    return found


def factorization(chains: int, draws: int, sampling: Sampling | None) -> RatingsFit:
    model = MatrixFactorization(2, Gaussian(HALF), user_scale=HALF, intercept="learned")
    shapes = {"intercept": (), "noise_scale": (), "user_scale": ()} | model.site_shapes(6, 5)
    return RatingsFit(model, RATINGS, random(shapes, chains, draws), "nuts", sampling=sampling)


def mixed(chains: int, draws: int, sampling: Sampling | None) -> MixedFit:
    rng = np.random.default_rng(1)
    model = MixedEffects("y ~ x + (1 | g)")
    design = model.design(
        {"y": rng.normal(size=30), "x": rng.normal(size=30), "g": np.arange(30) % 9}
    )
    shapes = {"coefficients": (2,), "g_scale": (1,), "g_effects": (9, 1), "noise_scale": ()}
    return MixedFit(model, design, random(shapes, chains, draws), "nuts", sampling)


def network(chains: int, draws: int, sampling: Sampling | None) -> NetworkFit:
    rng = np.random.default_rng(1)
    data = Examples.from_arrays(rng.normal(size=(20, 2)), rng.normal(size=20))
    model = Network((2,), likelihood=Gaussian(HALF))
    (arrays,) = model.arguments(data)
    shapes = {"noise_scale": ()} | model.site_shapes(arrays)
    return NetworkFit(model, data, random(shapes, chains, draws), "nuts", sampling)


FAMILIES: dict[str, Callable[..., Any]] = {
    "factorization": factorization, "mixed": mixed, "network": network,
}  # fmt: skip


def run(chains: int = 4, draws: int = 500, **info: Any) -> Sampling:
    rng = np.random.default_rng(5)
    stats = {
        "energy": rng.normal(size=(chains, draws)),
        "diverging": np.zeros((chains, draws), bool),
    }
    return Sampling(stats, 100, 1.0, info=info)


def with_draws(fit: Any, **changes: np.ndarray) -> Any:
    values = dict(fit.samples) | changes
    return type(fit)(fit.model, fit.design, values, fit.method, fit.sampling)


def quietly(fit: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return concluded(fit)


@pytest.mark.parametrize("family", FAMILIES)
def test_good_draws_of_every_family(family: str) -> None:
    fit = quietly(FAMILIES[family](*SHAPE, run()))
    assert fit.sampling.verdict == "diagnostics ok"
    assert repr(fit).endswith("4 chains of 500 draws, diagnostics ok)")


@pytest.mark.parametrize("family", FAMILIES)
def test_chains_apart_in_every_family(family: str) -> None:
    """The first chain has another level in all that is identified."""
    fit = FAMILIES[family](*SHAPE, run())
    moved = {}
    for site, value in fit.samples.items():
        moved[site] = np.array(value)
        moved[site][0] += 3.0
    args = (fit.design,) if family == "mixed" else (fit.data,)
    apart = type(fit)(fit.model, *args, moved, "nuts", sampling=fit.sampling)
    with pytest.warns(DiagnosticWarning, match=r"relied .* R-hat is \d+\.\d+ for") as caught:
        found = concluded(apart)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert found.sampling.verdict.startswith("R-hat ")
    assert "R-hat" in repr(found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3), "Each chain has 3 draws, and .* can't be told from fewer than 4. Draw more"),
        ((1, 7), "The only chain has 7 draws, and .* can't be told from fewer than 8. Draw more"),
    ],
)
def test_too_few_draws_to_judge(family: str, shape: tuple[int, int], message: str) -> None:
    fit = FAMILIES[family](*shape, Sampling({}, 0, 0.1))
    with pytest.warns(DiagnosticWarning, match=message) as caught:
        found = concluded(fit)
    assert len(caught) == 1
    assert found.sampling.verdict == "too short to judge"


def test_the_worst_is_named_and_counted() -> None:
    fit = mixed(*SHAPE, run())
    scale = np.array(fit.samples["g_scale"])
    scale[1] += 1.0
    noise = np.repeat(fit.samples["noise_scale"][:, ::20], 20, axis=1)  # 25 draws a chain
    with pytest.warns(DiagnosticWarning) as caught:
        concluded(with_draws(fit, g_scale=scale))
    text = str(caught[0].message)
    assert text.startswith("The draws should not be relied upon as they are. R-hat is 1.")
    assert "for 'g_scale[Intercept]' (above 1.01 in" in text
    with pytest.warns(DiagnosticWarning, match="size is .* for 'noise_scale' .below 100 per chain"):
        found = concluded(with_draws(fit, noise_scale=noise))
    assert "effective" in found.sampling.verdict


def test_divergences_are_counted_in_the_repr() -> None:
    sampling = run()
    stats = dict(sampling.stats) | {"diverging": np.arange(2000).reshape(SHAPE) < 7}
    fit = mixed(*SHAPE, Sampling(stats, 100, 1.0))
    assert repr(fit).endswith("4 chains of 500 draws, 7 divergent)")
    with pytest.warns(DiagnosticWarning, match="7 of 2,000 transitions diverged: .* Use smaller"):
        found = concluded(fit)
    assert found.sampling.verdict == "7 divergent"


def test_variances_that_rows_do_not_tell_apart_are_told_of_in_the_same_warning() -> None:
    """Before what is wrong with the draws, of which they may be the cause."""
    rng = np.random.default_rng(1)
    model = MixedEffects("y ~ 1 + (1 | row)")
    design = model.design({"y": rng.normal(size=9), "row": np.arange(9)})
    shapes = {"coefficients": (1,), "row_scale": (1,), "row_effects": (9, 1), "noise_scale": ()}
    stats = dict(run().stats) | {"diverging": np.arange(2000).reshape(SHAPE) < 7}
    fit = MixedFit(model, design, random(shapes, *SHAPE), "nuts", Sampling(stats, 100, 1.0))
    words = "Of the variances of row_scale and noise_scale .* relied .* 7 of 2,000 transitions"
    with pytest.warns(FitWarning, match=words) as caught:
        found = concluded(fit)
    assert [one.filename for one in caught] == [__file__]
    (note,) = found.notes
    assert str(caught[0].message).startswith(note)
    assert "relied" not in note
    assert found.sampling is not None
    assert found.sampling.verdict == "7 divergent"


def test_trouble_of_a_search_is_told_of_alone() -> None:
    """Draws from where it did not arrive are judged in the verdict only."""
    info = {"approximation": "guide normal", "converged": "no", "k_hat": 0.9}
    fit = mixed(1, 400, Sampling({}, 0, 0.1, info=info))
    with pytest.warns(FitWarning) as caught:
        found = concluded(fit, "It did not arrive.")
    assert [str(one.message) for one in caught] == ["It did not arrive."]
    assert found.notes == ("It did not arrive.",)
    assert found.sampling is not None
    assert "k-hat" in found.sampling.verdict


def test_kept_draws_of_a_thinned_run_are_not_counted() -> None:
    """Few of many draws tell nothing of the effective number, but chains can still disagree."""
    fit = mixed(2, 50, run(2, 50, thin=100))
    assert "effective" not in judged(fit)[0].sampling.verdict
    assert "effective" in _verdict(mixed(2, 50, run(2, 50)))
    moved = np.array(fit.samples["noise_scale"])
    moved[0] += 5.0
    assert _verdict(with_draws(fit, noise_scale=moved)).startswith("R-hat")


def _verdict(fit: Any) -> str:
    with pytest.warns(DiagnosticWarning):
        return concluded(fit).sampling.verdict


def test_an_interrupted_run_has_been_told_of() -> None:
    sampling = run(2, 3)
    fit = mixed(2, 3, Sampling(sampling.stats, 0, 0.1, complete=False))
    assert quietly(fit).sampling.verdict == "too short to judge"
    assert repr(quietly(fit)).endswith("2 chains of 3 draws, too short to judge, incomplete)")


@pytest.mark.parametrize(
    ("info", "verdict"),
    [
        ({"effective": 400.0, "k_hat": 0.2}, "k-hat 0.20"),
        ({"effective": 40.0, "k_hat": 0.2}, "40 effective"),
        ({"effective": 400.0, "k_hat": 0.8}, "k-hat 0.80"),
        ({"approximation": "guide normal", "converged": "yes", "k_hat": 0.9}, "k-hat 0.90"),
        ({"approximation": "guide normal", "converged": "yes", "k_hat": 0.3}, "k-hat 0.30"),
        ({"approximation": "independent rows"}, ""),
    ],
)
def test_independent_draws(info: dict[str, Any], verdict: str) -> None:
    """Chains that would disagree are none; what counts are the weights."""
    fit = mixed(1, 400, Sampling({}, 0, 0.1, info=info))
    halves = np.array(fit.samples["noise_scale"])
    halves[:, 200:] += 5.0
    fit = with_draws(fit, noise_scale=halves)
    fine = info.get("effective", 400) >= 100 and info.get("k_hat", 0.0) <= 0.7
    found = quietly(fit) if fine else None
    if found is None:
        with pytest.warns(DiagnosticWarning, match="importance weights") as caught:
            found = concluded(fit)
        assert len(caught) == 1
    assert found.sampling.verdict == verdict
    assert "400 independent draws" in repr(found)
    assert summary(fit).ok == fine


def test_points_are_left_alone() -> None:
    fit = mixed(1, 1, None)
    assert quietly(fit) is fit
    assert "draws" not in repr(fit)


def noise() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"y": rng.normal(size=60), "x": rng.normal(size=60), "g": rng.integers(0, 12, 60)}


def test_nuts_that_failed_says_so() -> None:
    """Slopes of pure noise, in far too few draws."""
    model = MixedEffects("y ~ x + (1 + x | g)")
    with pytest.warns(DiagnosticWarning, match="relied upon") as caught:
        fit = sample_nuts(
            model, noise(), key=0, num_warmup=30, num_samples=30, num_chains=2, progress=False
        )
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert fit.sampling is not None
    assert fit.sampling.verdict in repr(fit)
    assert "effective" in fit.sampling.verdict


def test_gibbs_says_when_draws_are_too_few() -> None:
    with pytest.warns(DiagnosticWarning, match="relied upon") as caught:
        fit = sample_gibbs(
            MatrixFactorization(1), RATINGS, key=0, num_warmup=2, num_samples=3, progress=False
        )
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert fit.sampling is not None
    assert fit.sampling.verdict == "too short to judge"


def test_independent_draws_of_a_large_model_are_fine() -> None:
    """Of key 2 the split R-hat of an effect's draws was 1.013, by chance."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(1000), 4)
    table = {"y": rng.normal(size=1000)[g] + rng.normal(size=4000), "g": g}
    fit = sample_marginal(MixedEffects("y ~ 1 + (1 | g)"), table, key=2)
    found = summary(fit)
    assert found.ok
    assert found.table["noise_scale"]["r_hat"] is None
    assert found.table["noise_scale"]["ess_bulk"] == 1000
    assert "by importance sampling, not of a chain" in repr(found)
