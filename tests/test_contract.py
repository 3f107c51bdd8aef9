"""What holds for every method on every kind of model: one table of cells, each asked everything."""

import inspect
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import toys
from numpyro.handlers import seed
from rings import slow

from probmf import (
    Bernoulli,
    Beta,
    Gaussian,
    LogNormal,
    MatrixFactorization,
    MixedEffects,
    NegativeBinomial,
    Network,
    Ordinal,
    Poisson,
    Ratings,
    StudentT,
    fit_als,
    fit_laplace,
    fit_map,
    fit_marginal,
    fit_svi,
    fit_variational,
    load,
    sample_gibbs,
    sample_marginal,
    sample_nuts,
)
from probmf.inference.marginal_rows import RowsMarginal
from probmf.models.factorization_program import FactorizationProgram
from probmf.models.mixed.program import MixedProgram
from probmf.results import open_draws
from probmf.run import driver
from probmf.run.driver import FitWarning, Schedule

HALF = dist.HalfNormal(1.0)
SHORT: dict[str, Any] = {"num_warmup": 6, "num_samples": 8, "num_chains": 2, "progress": False}
USERS = ("user_bias", "user_factors")
PLAIN = MatrixFactorization(2, Gaussian(0.5))
LEARNED = MatrixFactorization(2, Gaussian(HALF), user_scale=HALF, item_scale=HALF)
YES_NO = MatrixFactorization(2, Bernoulli())
LEVELS = MatrixFactorization(2, Ordinal(3))
PROBIT = MatrixFactorization(2, Ordinal(3, link="probit"))
POSITIVE = MatrixFactorization(2, LogNormal(HALF), user_scale=HALF, item_scale=HALF)
COUNTS = MatrixFactorization(2, Poisson(), user_scale=0.5, item_scale=0.5)
BURSTS = MatrixFactorization(2, NegativeBinomial(2.0), user_scale=0.5, item_scale=0.5)
ROBUST = MatrixFactorization(2, StudentT(0.3, 5.0))
SHARES = MatrixFactorization(2, Beta(8.0), user_scale=0.5, item_scale=0.5)
WEAK = MatrixFactorization(
    2, Gaussian(1.0), unobserved_weight=0.1, intercept=0.0, user_bias=False, item_bias=False
)
LAYERS = Network((3,), likelihood=Gaussian(0.3))
MIXED = MixedEffects("y ~ x + (1 | g) + (1 | h)")
MIXED_YES = MixedEffects("y ~ x + (1 | g)", likelihood="bernoulli")
MIXED_COUNTS = MixedEffects("y ~ x + (1 | g)", likelihood="poisson")
COUNTED_LAYERS = Network((3,), likelihood=Poisson())


@dataclass(frozen=True)
class Cell:
    """A method on a model with its data.

    Attributes:
        method: The function.
        model: The model.
        data: What it is fitted to.
        options: Further arguments.
        random: Whether another key gives other numbers.
        foreign: Why keys are not checked: code that is not ours consumes one twice.
    """

    method: Callable[..., Any]
    model: Any
    data: Any
    options: dict[str, Any] = field(default_factory=dict)
    random: bool = True
    foreign: str = ""

    def fit(self, key: int | None) -> Any:
        """The fit, every key of which was consumed at most once; no key for a method without one.

        Always with the checks: JAX compiles a program anew where they are switched on or off.
        """
        given = {} if key is None else {"key": key}
        checks = nullcontext() if self.foreign else jax.debug_key_reuse(True)
        with checks, warnings.catch_warnings():
            # Eight draws of toys are no posterior, and say so.
            warnings.simplefilter("ignore")
            return self.method(self.model, self.data, **self.options | given)

    @property
    def traced(self) -> bool:
        """True if its programs are made from a NumPyro model."""
        return self.method in (sample_nuts, sample_marginal, fit_svi, fit_laplace, fit_marginal)

    @property
    def samples(self) -> bool:
        """True for Markov chains."""
        return self.method in (sample_gibbs, sample_nuts)

    def predict(self, fit: Any) -> Any:
        """Predictions of the data that were fitted."""
        pairs = (self.data,) if isinstance(self.data, Ratings) else ()
        return fit.predict(*pairs)


KERNEL = "NumPyro's kernel consumes the key of its first state twice."
CELLS = {
    "als": Cell(fit_als, PLAIN, toys.ratings(), {"num_sweeps": 4}),
    "als cholesky": Cell(fit_als, PLAIN, toys.ratings(), {"num_sweeps": 4, "solver": "cholesky"}),
    "als coordinate": Cell(
        fit_als, PLAIN, toys.ratings(), {"num_sweeps": 4, "update": "coordinate"}
    ),
    "als implicit": Cell(fit_als, WEAK, toys.ratings("implicit"), {"num_sweeps": 4}),
    "als yes/no": Cell(fit_als, YES_NO, toys.ratings("yes/no"), {"num_sweeps": 4}),
    "als robust": Cell(fit_als, ROBUST, toys.ratings(), {"num_sweeps": 4}),
    "als ordinal": Cell(fit_als, LEVELS, toys.ratings("levels"), {"num_sweeps": 4}),
    "map": Cell(fit_map, PLAIN, toys.ratings(), {"num_epochs": 5}),
    "map batches": Cell(fit_map, PLAIN, toys.ratings(), {"num_epochs": 5, "batch_size": 8}),
    "map restarts": Cell(fit_map, PLAIN, toys.ratings(), {"num_epochs": 5, "num_restarts": 3}),
    "map shares": Cell(fit_map, SHARES, toys.ratings("shares"), {"num_epochs": 5}),
    "map bursts": Cell(fit_map, BURSTS, toys.ratings("counts"), {"num_epochs": 5}),
    "map counts": Cell(
        fit_map, COUNTS, toys.ratings("counts"), {"num_epochs": 5, "batch_size": 8}
    ),
    "map network": Cell(fit_map, LAYERS, toys.examples(), {"num_epochs": 5}),
    "variational": Cell(fit_variational, LEARNED, toys.ratings(), {"num_sweeps": 5}),
    "variational block": Cell(
        fit_variational, LEARNED, toys.ratings(), {"num_sweeps": 5, "covariance": "block"}
    ),
    "gibbs": Cell(sample_gibbs, LEARNED, toys.ratings(), SHORT),
    "gibbs yes/no": Cell(sample_gibbs, YES_NO, toys.ratings("yes/no"), SHORT),
    "gibbs ordinal": Cell(sample_gibbs, LEVELS, toys.ratings("levels"), SHORT),
    "gibbs ordinal probit": Cell(sample_gibbs, PROBIT, toys.ratings("levels"), SHORT),
    "gibbs lognormal": Cell(sample_gibbs, POSITIVE, toys.ratings("levels"), SHORT),
    "gibbs mixed": Cell(sample_gibbs, MIXED, toys.mixed(), SHORT),
    "nuts": Cell(sample_nuts, LEARNED, toys.ratings(), SHORT, foreign=KERNEL),
    "nuts without users": Cell(
        sample_nuts, LEARNED, toys.ratings(), SHORT | {"marginalize": USERS}, foreign=KERNEL
    ),
    "nuts network": Cell(sample_nuts, LAYERS, toys.examples(), SHORT, foreign=KERNEL),
    "nuts counts": Cell(sample_nuts, COUNTS, toys.ratings("counts"), SHORT, foreign=KERNEL),
    "nuts mixed counts": Cell(
        sample_nuts, MIXED_COUNTS, toys.mixed("counts"), SHORT, foreign=KERNEL
    ),
    "nuts mixed": Cell(sample_nuts, MIXED, toys.mixed(), SHORT, foreign=KERNEL),
    "nuts mixed without effects": Cell(
        sample_nuts, MIXED, toys.mixed(), SHORT | {"marginalize": "all"}, foreign=KERNEL
    ),
    "svi": Cell(fit_svi, LEARNED, toys.ratings(), {"num_steps": 5, "num_samples": 8}),
    "svi network counts": Cell(
        fit_svi, COUNTED_LAYERS, toys.examples("counts"), {"num_steps": 5, "num_samples": 8}
    ),
    "svi mixed": Cell(fit_svi, MIXED, toys.mixed(), {"num_steps": 5, "num_samples": 8}),
    "laplace": Cell(fit_laplace, PLAIN, toys.ratings(), {"num_samples": 8}),
    "laplace network": Cell(
        fit_laplace, LAYERS, toys.examples("yes/no"), {"num_samples": 8}
    ),
    "marginal": Cell(fit_marginal, MIXED, toys.mixed(), random=False),
    "marginal restricted": Cell(
        fit_marginal, MIXED, toys.mixed(), {"objective": "restricted"}, random=False
    ),
    "marginal yes/no": Cell(fit_marginal, MIXED_YES, toys.mixed("yes/no"), random=False),
    "sample marginal yes/no": Cell(
        sample_marginal, MIXED_YES, toys.mixed("yes/no"), {"num_samples": 40}, foreign=KERNEL
    ),
    "sample marginal": Cell(sample_marginal, MIXED, toys.mixed(), {"num_samples": 40}),
}  # fmt: skip


#: What users switch on in programs of their own; the keys that they then make are others.
ODD_SETTINGS: tuple[Callable[[], Any], ...] = (
    lambda: jax.default_prng_impl("rbg"),
    lambda: jax.legacy_prng_key("error"),
    lambda: jax.numpy_dtype_promotion("strict"),
    lambda: jax.disable_jit(True),
    lambda: jax.debug_nans(True),
    lambda: jax.debug_infs(True),
)


#: Cells of methods whose loop others have as well: one model of each method goes through it.
ALIKE = {
    "als cholesky", "als coordinate", "als implicit", "als yes/no", "als robust", "als ordinal",
    "map restarts", "map shares", "map bursts", "map counts", "map network",
    "variational block", "gibbs yes/no", "gibbs ordinal", "gibbs ordinal probit",
    "gibbs lognormal", "nuts network", "nuts counts", "nuts mixed", "nuts mixed counts",
    "svi network counts", "svi mixed", "laplace network",
}  # fmt: skip


def skip_alike(cell: Cell) -> None:
    """Skip where another cell asks the same of the same loop."""
    if any(cell is CELLS[name] for name in ALIKE):
        pytest.skip("Another model of this method goes through the same loop.")


#: Cells for the long tests: of others one has the method's loop, and one the likelihood's kind.
LONG = (
    "gibbs yes/no",
    "gibbs ordinal probit",
    "gibbs lognormal",
    "nuts counts",
    "nuts mixed",
    "svi mixed",
    "svi network counts",
    "map bursts",
    "variational block",
    "nuts network",
)


@pytest.fixture(scope="module", params=slow(CELLS, *LONG))
def cell(request: pytest.FixtureRequest) -> Cell:
    """One cell of the table; its tests follow one another, so that it is fitted once."""
    return CELLS[request.param]


@pytest.fixture(scope="module")
def fits() -> dict[int, Any]:
    """Fits of cells that were made already."""
    return {}


@pytest.fixture(autouse=True)
def silence(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No public call writes to the standard streams: not Python, nor the libraries below it."""
    yield
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def fit(cell: Cell, fits: dict[int, Any], silence: None) -> Any:
    """The cell's fit, made by its first test, so that compiling it is heard by `silence`."""
    if id(cell) not in fits:
        fits[id(cell)] = cell.fit(3 if cell.random else None)
    return fits[id(cell)]


def test_samples_are_finite_and_lead_with_chains_and_draws(fit: Any) -> None:
    leads = {value.shape[:2] for value in fit.samples.values()}
    assert len(leads) == 1
    for name, value in fit.samples.items():
        assert np.isfinite(value).all(), name


def test_keys_decide(cell: Cell, fit: Any) -> None:
    again = cell.fit(3 if cell.random else None)
    for name, value in fit.samples.items():
        np.testing.assert_array_equal(again.samples[name], value, err_msg=name)
    if cell.random:
        other = cell.fit(4).samples
        assert any((other[name] != value).any() for name, value in fit.samples.items())


@pytest.fixture
def log_compiles() -> Iterator[None]:
    """For all threads: `jax.log_compiles` is for the calling one, and others compile most."""
    jax.config.update("jax_log_compiles", True)
    yield
    jax.config.update("jax_log_compiles", False)


def with_others(cell: Cell) -> Cell:
    """The cell on other data of the same shapes, with other numbers in the priors."""
    if isinstance(cell.data, dict):  # The default priors go with the spread.
        return replace(cell, data=cell.data | {"y": 2 * cell.data["y"][::-1]})
    data, wide = cell.data, dist.HalfNormal(2.0)
    table = {"user": data.user, "item": data.item, "rating": 2 * data.rating[::-1]}
    model = replace(PLAIN, likelihood=Gaussian(0.7), user_scale=0.8)
    if cell.model is LEARNED:
        model = replace(LEARNED, likelihood=Gaussian(wide), user_scale=wide, item_scale=wide)
    return replace(cell, model=model, data=Ratings.from_frame(table))


@pytest.mark.usefixtures("log_compiles")
def test_other_data_and_numbers_of_priors_trace_nothing(
    cell: Cell, fit: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are arguments of the programs."""
    if not cell.traced or not any(cell.model is one for one in (MIXED, LEARNED, PLAIN)):
        pytest.skip("Its programs are not those of a NumPyro model, or are another cell's.")
    runs = []
    for kind in (MixedProgram, FactorizationProgram, RowsMarginal):
        run: Any = kind.__call__

        def counted(self: Any, *args: Any, run: Any = run) -> Any:
            if isinstance(jnp.zeros(()), jax.core.Tracer):
                runs.append(self)
            return run(self, *args)

        monkeypatch.setattr(kind, "__call__", counted)
    program, arguments = cell.model.program, cell.model.arguments(cell.data)
    jax.eval_shape(lambda given: seed(program, 0)(*given), arguments)
    assert runs
    cell.fit(3 if cell.random else None)  # Its programs may have been forgotten since.
    runs.clear()
    with caplog.at_level(logging.WARNING, logger="jax"):
        caplog.clear()
        with_others(cell).fit(4 if cell.random else None)
        assert "Compiling" not in caplog.text
        jax.jit(lambda x: x)(1.0)
        assert "Compiling" in caplog.text
    assert not runs


def test_settings_of_jax_around_it_change_nothing(cell: Cell, fit: Any) -> None:
    skip_alike(cell)
    with ExitStack() as stack:
        for setting in ODD_SETTINGS:
            stack.enter_context(setting())
        again = cell.fit(3 if cell.random else None)
        cell.predict(again)
    for name, value in fit.samples.items():
        np.testing.assert_array_equal(again.samples[name], value, err_msg=name)


def test_interrupted_and_resumed(
    cell: Cell, fit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C what there is is returned, and a second call goes on to the same bits."""
    if "checkpoint" not in inspect.signature(cell.method).parameters:
        pytest.skip("It has no checkpoint.")
    skip_alike(cell)
    options = {"key": 3, "checkpoint": tmp_path / "run", **cell.options}
    count, advance, calls = Schedule.count, driver._Loop.advance, []

    def interrupted(self: Any, each: Any) -> str:
        if self.checkpoint is None:  # A fit that the chains start from.
            return advance(self, each)
        calls.append(self.run.done)
        if len(calls) == (5 if cell.samples else 2):
            raise KeyboardInterrupt
        return advance(self, each)

    # Of samplers, two chunks of warm-up, and two of three of draws; of others a chunk.
    monkeypatch.setattr(Schedule, "count", lambda self, done: min(3, count(self, done)))
    monkeypatch.setattr(driver._Loop, "advance", interrupted)
    with pytest.warns(FitWarning, match="Interrupted") as told:
        part = cell.method(cell.model, cell.data, **options)
    assert [one.filename for one in told if one.category is FitWarning] == [__file__]
    done = 12 if cell.samples else 3 if cell.method is fit_svi else 1
    if cell.samples:
        assert (part.num_draws, part.sampling.complete) == (6, False)
        for name, value in fit.samples.items():
            np.testing.assert_array_equal(part.samples[name], value[:, :6], err_msg=name)
    else:
        assert (len(part.history), part.history.stopped) == (done, "interrupted")
    before = len(calls)
    again = replace(cell, options=options).fit(3)
    assert calls[before] == done
    for name, value in fit.samples.items():
        np.testing.assert_array_equal(again.samples[name], value, err_msg=name)


def test_a_stream_holds_what_arviz_is_given(cell: Cell, fit: Any, tmp_path: Path) -> None:
    if not cell.samples:
        pytest.skip("It has no stream.")
    skip_alike(cell)
    options = cell.options | {"stream": tmp_path / "draws"}
    streamed = replace(cell, options=options).fit(3)
    for name, value in fit.samples.items():
        np.testing.assert_array_equal(streamed.samples[name], value, err_msg=name)
    tree, expected = open_draws(tmp_path / "draws"), fit.to_arviz()
    for group in ("posterior", "sample_stats"):
        found, wanted = tree[group], expected[group]
        assert set(found.data_vars) == set(wanted.data_vars)
        for name, value in wanted.data_vars.items():
            assert (found[name].dims, found[name].dtype) == (value.dims, value.dtype), name
            np.testing.assert_array_equal(found[name].values, value.values, err_msg=name)
            for dim in value.dims:
                assert found[dim].values.tolist() == wanted[dim].values.tolist(), dim


def test_predictions_are_finite(cell: Cell, fit: Any) -> None:
    predicted = cell.predict(fit)
    for name in ("mean", "sd", "lower", "upper", "probability", "level_probabilities"):
        value = getattr(predicted, name, None)
        assert value is None or np.isfinite(value).all(), name
    if isinstance(cell.data, Ratings):
        assert np.isfinite(fit.recommend([0, 1], k=2, exclude=None).score).all()
    elif isinstance(cell.model, MixedEffects):
        assert len(fit.summary())


def test_saved_and_loaded_predicts_the_same(cell: Cell, fit: Any, tmp_path: Path) -> None:
    fit.save(tmp_path / "fit")
    again = load(tmp_path / "fit")
    assert repr(again) == repr(fit)
    for name, value in fit.samples.items():
        np.testing.assert_array_equal(again.samples[name], value, err_msg=name)
    mine, theirs = cell.predict(fit), cell.predict(again)
    assert type(mine) is type(theirs)
    for name in ("mean", "sd", "probability"):
        value = getattr(mine, name, None)
        if value is not None:
            np.testing.assert_array_equal(getattr(theirs, name), value, err_msg=name)


def test_pickled_predicts_the_same(cell: Cell, fit: Any) -> None:
    again = pickle.loads(pickle.dumps(fit))  # noqa: S301  # Made here.
    assert repr(again) == repr(fit)
    assert not any(value.flags.writeable for value in again.samples.values())
    mine, theirs = cell.predict(fit), cell.predict(again)
    for name in ("mean", "sd", "probability"):
        value = getattr(mine, name, None)
        if value is not None:
            np.testing.assert_array_equal(getattr(theirs, name), value, err_msg=name)


def test_arviz_has_every_site_with_its_numbers(fit: Any) -> None:
    tree = fit.to_arviz()
    group = tree["point" if fit.is_point else "posterior"]
    assert set(group.data_vars) >= set(fit.samples)
    for name, value in fit.samples.items():
        assert group[name].dims[:2] == ("chain", "draw")
        assert not any(dim.startswith(f"{name}_dim") for dim in group[name].dims), name
        np.testing.assert_array_equal(np.ravel(group[name]), np.ravel(value), err_msg=name)


def test_samplers_have_judged_their_draws(cell: Cell, fit: Any) -> None:
    """Few draws of toys: of chains something is always wrong, of an approximation k-hat known."""
    if fit.sampling is None or cell.method in (fit_variational, fit_laplace):
        pytest.skip("Independent draws that nothing is known of, or none.")
    assert fit.sampling.verdict
    assert fit.sampling.verdict != "diagnostics ok"
    assert fit.sampling.verdict in repr(fit)


def test_the_repr_says_in_one_line_what_was_fitted(fit: Any) -> None:
    assert "\n" not in repr(fit)
    assert repr(fit).startswith(f"{type(fit).__name__}(")
