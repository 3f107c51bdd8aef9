"""Draws of marginal mixed models: against quadrature, dense algebra and their own promises."""

import itertools
import logging
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.special
import scipy.stats

from probmf import MatrixFactorization, MixedEffects, diagnostics, sample_marginal
from probmf.diagnostics import FallbackWarning
from probmf.inference import importance_rounds, target
from probmf.inference.marginal.evaluators import Evaluator
from probmf.inference.marginal.host_density import CHUNK
from probmf.inference.marginal.prepared_model import PreparedModel
from probmf.inference.mixed import importance_sampler as sampler
from probmf.inference.mixed import sampling as sampling
from probmf.inference.nuts import pooled_warmup as pooled
from probmf.inference.nuts.pooled_warmup import PooledNuts
from probmf.inference.nuts.transitions import NoStartError
from probmf.results import MixedFit
from probmf.run import threads as workers_module
from probmf.run.driver import FitWarning
from probmf.run.threads import AHEAD, Workers, workers

ONE_WAY = "y ~ 1 + (1 | g)"
PRIORS: dict[str, Any] = {
    "coefficients": {"Intercept": dist.Normal(0.0, 5.0)},
    "g_scale": dist.HalfNormal(2.0),
    "noise_scale": dist.HalfNormal(2.0),
}
GROUPS, EACH = 8, 5


def one_way(seed: int = 0, shift: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = shift + rng.normal(0, 0.8, GROUPS)[:, None] + rng.normal(0, 1.0, (GROUPS, EACH))
    return {"y": y.ravel(), "g": np.repeat(np.arange(GROUPS), EACH)}


def model(**options: Any) -> MixedEffects:
    return MixedEffects(ONE_WAY, priors=PRIORS, **options)


@pytest.fixture(scope="module")
def fit() -> MixedFit:
    return sample_marginal(model(), one_way(), key=0, num_samples=4000)


def quadrature(y: np.ndarray) -> tuple[dict[str, tuple[Any, Any]], np.ndarray]:
    """Means and variances of scales and effects over a fine grid of the two scales."""
    grid = np.linspace(0.01, 4.0, 220)
    tau, sigma = (part.ravel() for part in np.meshgrid(grid, grid))
    means, within = y.mean(1), np.sum((y - y.mean(1, keepdims=True)) ** 2)
    spread = tau**2 + sigma**2 / EACH  # of a group's mean about the intercept
    precision = GROUPS / spread + 1 / 25.0
    intercept = means.sum() / spread / precision
    log = -0.5 * (GROUPS * np.log(spread) + np.log(precision) + np.sum(means**2) / spread)
    log += 0.5 * precision * intercept**2 - GROUPS * (EACH - 1) * np.log(sigma)
    log -= 0.5 * within / sigma**2 + tau**2 / 8 + sigma**2 / 8
    weight = scipy.special.softmax(log)
    shrink = tau**2 / spread
    effects = shrink[:, None] * (means - intercept[:, None])
    variances = shrink * sigma**2 / EACH + shrink**2 / precision

    def moments(value: np.ndarray, own: Any = 0.0) -> tuple[Any, Any]:
        mean = weight @ value
        inner = np.broadcast_to(np.reshape(own, (-1, *[1] * (value.ndim - 1))), value.shape)
        return mean, weight @ (value - mean) ** 2 + weight @ inner

    found = {
        "g_scale": moments(tau), "noise_scale": moments(sigma),
        "coefficients": moments(intercept, 1 / precision), "g_effects": moments(effects, variances),
    }  # fmt: skip
    return found, weight


def test_moments_are_those_of_quadrature(fit: MixedFit) -> None:
    wanted, _ = quadrature(one_way()["y"].reshape(GROUPS, EACH))
    effective = min(fit.sampling.info["effective"], 4000)
    for name, (mean, variance) in wanted.items():
        draws = fit.samples[name].reshape(4000, -1)
        error = 4 * np.sqrt(variance / effective)
        assert np.all(np.abs(draws.mean(0) - mean) < error), name
        np.testing.assert_allclose(draws.var(0), variance, rtol=0.15, err_msg=name)


def test_what_a_fit_tells(fit: MixedFit) -> None:
    info = fit.sampling.info
    assert fit.method == "marginal/importance"
    assert (fit.num_chains, fit.num_draws, fit.sampling.complete) == (1, 4000, True)
    assert info["k_hat"] < info["k_hat_gate"] == 0.7
    assert 4000 <= info["effective"] <= info["num_densities"] <= 160_000
    assert info["effective_fraction"] > 0.5
    assert info["num_gradients"] > 5
    assert {"seconds_mode", "seconds_compilation", "seconds_proposals"} <= info.keys()
    found = diagnostics.summary(fit)
    assert (found.ok, found.statistics["k_hat"]) == (True, info["k_hat"])
    assert set(fit.samples) == {"coefficients", "g_scale", "g_effects", "noise_scale"}
    assert fit.samples["noise_scale"].dtype == np.float64
    assert not jax.config.jax_enable_x64


def test_draws_come_in_random_order(fit: MixedFit) -> None:
    draws = fit.samples["g_scale"][0, :, 0]
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 4 / np.sqrt(4000)


def test_the_same_key_gives_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads there are, and whatever the clock says."""
    ticks = itertools.count(step=1e6)
    found = []
    for key, threads, clock in (
        (3, 1, time.perf_counter),
        (jax.random.key(3), 5, lambda: -next(ticks)),
        (4, 1, time.perf_counter),
    ):
        monkeypatch.setattr(workers_module, "num_workers", lambda threads=threads: threads)
        monkeypatch.setattr(time, "perf_counter", clock)
        made = sample_marginal(model(), one_way(), key=key, num_samples=150)
        found.append(made.samples["g_effects"])
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.any(found[0] == found[2])


def test_crossed_and_correlated_effects_given_the_rest() -> None:
    """Effects less their conditional means have the conditional covariance, draw by draw."""
    rng = np.random.default_rng(1)
    g, h, x = np.repeat(np.arange(5), 8), np.tile(np.arange(4), 10), rng.normal(size=40)
    y = 1 + x + rng.normal(size=5)[g] * (1 + x) + rng.normal(size=4)[h] + rng.normal(size=40)
    formula = "y ~ 1 + x + (1 + x | g) + (1 | h)"
    priors = {"coefficients": {"Intercept": dist.Normal(0, 3.0), "x": dist.Normal(0, 2.0)}}
    draws = sample_marginal(
        MixedEffects(formula, priors=priors), {"y": y, "x": x, "g": g, "h": h}, key=1,
        num_samples=400,
    ).samples  # fmt: skip
    z = np.zeros((40, 16))
    rows = np.arange(40)
    z[:, 0], z[:, 1], z[rows, 2 + 2 * g], z[rows, 3 + 2 * g], z[rows, 12 + h] = 1, x, 1, x, 1
    squares = []
    for s in range(400):
        value = {name: draw[0, s] for name, draw in draws.items()}
        tril = np.diag(value["g_scale"]) @ value["g_correlation"]
        inverse = np.kron(np.eye(5), np.linalg.inv(tril @ tril.T))
        precision = z.T @ z / value["noise_scale"] ** 2
        precision[:2, :2] += np.diag([1 / 9, 1 / 4])
        precision[2:12, 2:12] += inverse
        precision[12:, 12:] += np.eye(4) / value["h_scale"] ** 2
        mean = np.linalg.solve(precision, z.T @ y) / value["noise_scale"] ** 2
        names = ("coefficients", "g_effects", "h_effects")
        effects = np.concatenate([value[name].ravel() for name in names])
        squares.append((effects - mean) @ precision @ (effects - mean))
    # Few proposals are drawn twice, so that this is nearly a sample of chi squared.
    assert scipy.stats.kstest(squares, scipy.stats.chi2(16).cdf).pvalue > 1e-3
    assert np.mean(squares) == pytest.approx(16, abs=4 * np.sqrt(32 / 300))


@pytest.mark.parametrize("centered", [False, ["g_effects"]])
def test_centring_is_of_no_consequence(centered: Any) -> None:
    options = {"key": 0, "num_samples": 150}
    one, other = (
        sample_marginal(model(centered=c), one_way(), **options) for c in (True, centered)
    )
    assert one.samples.keys() == other.samples.keys()
    np.testing.assert_array_equal(one.samples["g_effects"], other.samples["g_effects"])


def test_every_scale_given() -> None:
    """Nothing is left to weigh: draws are exact."""
    fixed = MixedEffects(ONE_WAY, priors=PRIORS | {"g_scale": 0.8, "noise_scale": 1.0})
    made = sample_marginal(fixed, one_way(), key=0, num_samples=3000)
    assert (made.sampling.info["k_hat"], set(made.samples)) == (0, {"coefficients", "g_effects"})
    means = one_way()["y"].reshape(GROUPS, EACH).mean(1)
    spread = 0.8**2 + 1 / EACH
    precision = GROUPS / spread + 1 / 25
    draws = made.samples["coefficients"].ravel()
    assert draws.mean() == pytest.approx(means.sum() / spread / precision, abs=4 / 3000**0.5)
    assert draws.var() == pytest.approx(1 / precision, rel=0.15)


def test_single_precision_on_request() -> None:
    made = sample_marginal(model(), one_way(), key=0, num_samples=150, float64=False)
    assert made.samples["g_effects"].dtype == np.float32


def test_double_precision_is_left_as_it_was(x64: bool) -> None:
    with pytest.raises(ValueError, match="num_samples is 0"):
        sample_marginal(model(), one_way(), key=0, num_samples=0)
    with pytest.raises(ValueError, match="'z'"):
        sample_marginal(MixedEffects("y ~ 1 + z + (1 | g)"), one_way(), key=0)
    assert jax.config.jax_enable_x64 == x64


class TestFallback:
    """NUTS takes over, and says why."""

    @pytest.fixture(autouse=True)
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sampling, "FALLBACK_CHAINS", 2)
        monkeypatch.setattr(pooled, "STAGES", (40, 60))

    def test_many_parameters(self, monkeypatch: pytest.MonkeyPatch, fit: MixedFit) -> None:
        monkeypatch.setattr(sampler, "MAX_DIMS", 1)
        with pytest.warns(FallbackWarning, match="2 parameters are left, more than the 1") as found:
            made = sample_marginal(model(), one_way(), key=0, num_samples=801)
        assert found[0].filename == __file__
        assert made.method in ("nuts/marginal", "nuts/noncentred")
        assert (made.num_chains, made.num_draws) == (2, 401)
        assert made.samples.keys() == fit.samples.keys()
        assert made.sampling.num_warmup == 3 * 40 + 100
        assert "2 parameters" in made.sampling.info["fallback"]
        assert made.sampling.info["trial_marginal"] > 0
        # The draws take less time than it would.
        assert "trial_noncentred" not in made.sampling.info
        assert made.data is not None
        for name, draws in fit.samples.items():
            got = made.samples[name].reshape(802, -1).mean(0)
            scale = draws[0].reshape(4000, -1).std(0)
            np.testing.assert_array_less(
                np.abs(got - draws[0].reshape(4000, -1).mean(0)), scale / 3
            )

    @pytest.mark.parametrize("best", ["marginal", "noncentred"])
    def test_either_way_has_the_sites_of_the_model(
        self, best: str, monkeypatch: pytest.MonkeyPatch, fit: MixedFit
    ) -> None:
        monkeypatch.setattr(sampler, "MAX_DIMS", 1)
        monkeypatch.setattr(sampling, "WORTH_A_TRIAL", 0.0)
        warm_up = PooledNuts.warm_up

        def trial(self: PooledNuts, most_operations: float = np.inf) -> None:
            warm_up(self)
            is_marginal = not any("raw" in site for site in self.potential.sites)
            self.gradients = (1.0 if is_marginal == (best == "marginal") else 2.0) / self.operations

        monkeypatch.setattr(PooledNuts, "warm_up", trial)
        with pytest.warns(FallbackWarning, match=f"NUTS on the {best} model"):
            made = sample_marginal(model(), one_way(), key=0, num_samples=100)
        assert made.method == f"nuts/{best}"
        assert made.samples.keys() == fit.samples.keys()

    def test_weights_that_cannot_be_trusted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importance_rounds, "K_HAT_GATE", -5.0)
        with pytest.warns(
            FallbackWarning, match="after 600 proposals Pareto k-hat is .*, not below"
        ):
            sample_marginal(model(), one_way(), key=0, num_samples=100, max_densities=600)

    def test_a_second_way_that_takes_too_much(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sampler, "MAX_DIMS", 1)
        monkeypatch.setattr(sampling, "WORTH_A_TRIAL", 0.0)
        warm_up, limits = PooledNuts.warm_up, []

        def trial(self: PooledNuts, most_operations: float = np.inf) -> None:
            limits.append(most_operations)
            warm_up(self, most_operations if len(limits) == 1 else 0.0)

        monkeypatch.setattr(PooledNuts, "warm_up", trial)
        with pytest.warns(
            FallbackWarning, match="non-centred model: given up after .* operations of warmup"
        ):
            made = sample_marginal(model(), one_way(), key=0, num_samples=100)
        assert made.method == "nuts/marginal"
        assert limits[0] == np.inf
        assert limits[1] == pytest.approx(100 * made.sampling.info["trial_marginal"])
        assert "trial_noncentred" not in made.sampling.info

    @pytest.mark.parametrize("wild", ["fast", "slow"])
    def test_the_clock_chooses_nothing(self, wild: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither the way nor a draw: here the second way's trial would seem an age, or nothing."""
        monkeypatch.setattr(sampler, "MAX_DIMS", 1)
        monkeypatch.setattr(sampling, "WORTH_A_TRIAL", 0.0)
        with pytest.warns(FallbackWarning) as told:
            sane = sample_marginal(model(), one_way(), key=0, num_samples=1500)
        ticks = itertools.accumulate(
            1.5**n if wild == "slow" else 0.5**n for n in itertools.count()
        )
        monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
        with pytest.warns(FallbackWarning) as told_again:
            made = sample_marginal(model(), one_way(), key=0, num_samples=1500)
        assert [str(one.message) for one in told] == [str(one.message) for one in told_again]
        assert "gradients of" in str(told[0].message)
        assert {"trial_marginal", "trial_noncentred"} < made.sampling.info.keys()
        assert made.method == sane.method
        for name, draws in sane.samples.items():
            np.testing.assert_array_equal(made.samples[name], draws, err_msg=name)

    @pytest.mark.parametrize("failing", ["marginal", "both"])
    def test_no_start(self, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sampler, "MAX_DIMS", 1)
        warm_up, calls = PooledNuts.warm_up, []

        def trial(self: PooledNuts, most_operations: float = np.inf) -> None:
            calls.append(self)
            if len(calls) == 1 or failing == "both":
                raise NoStartError("None had a finite log density.")
            warm_up(self, most_operations)

        monkeypatch.setattr(PooledNuts, "warm_up", trial)
        if failing == "both":
            with pytest.raises(NoStartError):
                sample_marginal(model(), one_way(), key=0, num_samples=100)
        else:
            with pytest.warns(FallbackWarning, match="Marginal model: no starting point"):
                made = sample_marginal(model(), one_way(), key=0, num_samples=100)
            assert made.method == "nuts/noncentred"
        assert len(calls) == 2

    @pytest.mark.parametrize("after", [0, 1, 4], ids=["warmup", "draws", "some draws"])
    def test_interrupted_in_a_stage(self, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """One chunk of warm-up and one or two of draws in each."""
        calls = fail_after(after, monkeypatch)
        with pytest.raises(KeyboardInterrupt, match="there are no draws to return"):
            sample_marginal(model(), one_way(), key=0, num_samples=100)
        assert len(calls) == after + 1  # Nothing was tried after it.

    def test_interrupted_in_the_run(self, monkeypatch: pytest.MonkeyPatch, fit: MixedFit) -> None:
        """Five chunks of the stages, one of warm-up, one of draws."""
        fail_after(7, monkeypatch)
        with (
            pytest.warns(FallbackWarning),
            pytest.warns(FitWarning, match="each chain has 50 of 100 draws") as found,
        ):
            made = sample_marginal(model(), one_way(), key=0, num_samples=200)
        assert [one.filename for one in found if one.category is FitWarning] == [__file__]
        assert (made.num_chains, made.num_draws, made.sampling.complete) == (2, 50, False)
        assert made.samples.keys() == fit.samples.keys()


class TestInterrupted:
    """Ctrl-C keeps what there is; raised from within, after so many pieces of the work."""

    @staticmethod
    def after(count: int, monkeypatch: pytest.MonkeyPatch, name: str) -> list[None]:
        """Let a method of the evaluator that gives pieces stop after so many in all."""
        calls: list[None] = []
        original = getattr(Evaluator, name)

        def pieces(self: Evaluator, points: np.ndarray) -> Iterator[Any]:
            for piece in original(self, points):
                calls.append(None)
                if len(calls) > count:
                    raise KeyboardInterrupt
                yield piece

        monkeypatch.setattr(Evaluator, name, pieces)
        return calls

    def test_among_the_proposals(self, monkeypatch: pytest.MonkeyPatch, fit: MixedFit) -> None:
        calls = self.after(50, monkeypatch, "__call__")
        with pytest.warns(FitWarning, match=r"the fit has [\d,]+ of 3,000,000 draws") as told:
            made = sample_marginal(model(), one_way(), key=0, num_samples=3_000_000)
        assert [one.filename for one in told] == [__file__]
        assert len(calls) == 51  # No other piece was waited for.
        info = made.sampling.info
        assert info["num_densities"] == 50 * CHUNK
        assert 500 < made.num_draws == int(info["effective"])
        assert not made.sampling.complete
        assert "incomplete" in repr(made)
        for name, draws in fit.samples.items():
            whole = draws[0].reshape(4000, -1)
            got = made.samples[name][0].reshape(made.num_draws, -1)
            error = 5 * whole.std(0) * np.sqrt(1 / made.num_draws + 1 / 4000)
            np.testing.assert_array_less(np.abs(got.mean(0) - whole.mean(0)), error)

    @pytest.mark.parametrize("count", [0, 1])
    def test_before_weights_can_be_trusted(
        self, count: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.after(count, monkeypatch, "__call__")
        monkeypatch.setattr(importance_rounds, "K_HAT_GATE", -5.0)
        with pytest.raises(KeyboardInterrupt, match=f"after {count * CHUNK} proposals.*no draws"):
            sample_marginal(model(), one_way(), key=0, num_samples=1000)

    @pytest.mark.parametrize("count", [0, 3])
    def test_while_effects_are_drawn(self, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importance_rounds, "KEEP_NUMBERS", 0)
        self.after(count, monkeypatch, "sites")
        if not count:
            with pytest.raises(KeyboardInterrupt, match="no draws to return"):
                sample_marginal(model(), one_way(), key=0, num_samples=1000)
            return
        with pytest.warns(FitWarning, match=f"has {3 * CHUNK} of 1,000 draws"):
            made = sample_marginal(model(), one_way(), key=0, num_samples=1000)
        assert (made.num_draws, made.sampling.complete) == (3 * CHUNK, False)
        assert made.sampling.info["effective"] > 1000

    def test_while_the_effects_of_nuts_are_drawn_back(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sampler, "MAX_DIMS", 1)
        monkeypatch.setattr(pooled, "STAGES", (40, 60))
        monkeypatch.setattr(sampling, "FALLBACK_CHAINS", 2)
        monkeypatch.setattr(target, "DRAWN_AT_ONCE", 40)
        draw_all, calls = PreparedModel.draw_all, []

        def some(*arguments: Any) -> Any:
            calls.append(None)
            if len(calls) > 2:
                raise KeyboardInterrupt
            return draw_all(*arguments)

        monkeypatch.setattr(PreparedModel, "draw_all", some)
        with (
            pytest.warns(FallbackWarning),
            pytest.warns(FitWarning, match="each chain has 34 of 50 draws"),
        ):
            made = sample_marginal(model(), one_way(), key=0, num_samples=100)
        assert (made.num_chains, made.num_draws, made.sampling.complete) == (2, 34, False)
        assert made.sampling.stats["n_steps"].shape == (2, 34)

    def test_little_is_begun_ahead(self) -> None:
        begun: list[int] = []

        def stop_at_ten() -> None:
            with workers(2) as pool:
                for result in pool.stream(lambda item: begun.append(item) or item, range(1000)):
                    if result == 10:
                        raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stop_at_ten()
        assert 11 <= len(begun) <= 11 + 2 * AHEAD


def fail_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Straight to NUTS, and Ctrl-C after so many chunks of it; gives the chunks asked for."""
    calls: list[None] = []
    original = Workers.map

    def run(*args: Any) -> Any:
        calls.append(None)
        if len(calls) > count:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(sampler, "MAX_DIMS", 1)
    monkeypatch.setattr(Workers, "map", run)
    return calls


def test_arguments() -> None:
    with pytest.raises(TypeError, match=r"expected MixedEffects\. It integrates"):
        sample_marginal(MatrixFactorization(2), one_way(), key=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_densities is 0"):
        sample_marginal(model(), one_way(), key=0, max_densities=0)
    with pytest.raises(TypeError, match=r"num_samples is 1\.5"):
        sample_marginal(model(), one_way(), key=0, num_samples=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"key is 0\.5 of type float"):
        sample_marginal(model(), one_way(), key=0.5)  # type: ignore[arg-type]


@pytest.fixture
def log_compiles() -> Iterator[None]:
    jax.config.update("jax_log_compiles", True)
    yield
    jax.config.update("jax_log_compiles", False)


@pytest.mark.usefixtures("log_compiles")
def test_second_call_compiles_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Neither for another key nor for other responses, once the shapes have been seen."""
    with caplog.at_level(logging.WARNING, logger="jax"):
        sample_marginal(model(), one_way(51), key=0, num_samples=150)
        caplog.clear()
        sample_marginal(model(), one_way(52), key=1, num_samples=150)
        assert "Compiling" not in caplog.text
        jax.jit(lambda x: x)(1.0)
        assert "Compiling" in caplog.text


@pytest.mark.parametrize(
    "law",
    [dist.Gamma(2.0, 1.0), pytest.param(dist.InverseGamma(2.0, 1.0), marks=pytest.mark.slow)],
)
def test_scales_with_a_prior_of_the_gamma_family(law: dist.Distribution) -> None:
    """NumPyro has their quantiles from a package that need not be there."""
    mixed = MixedEffects("y ~ 1 + (1 | g)", priors={"g_scale": law})
    fit = sample_marginal(mixed, one_way(), key=0, num_samples=50)
    assert np.all(fit.samples["g_scale"] > 0)
