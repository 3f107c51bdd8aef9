"""Mixed fits on disk and as ArviZ trees."""

import copy
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pytest
from scipy.stats import norm

from probmf import load
from probmf.models import MixedEffects
from probmf.results import MixedFit, Sampling

DRAWS = (2, 30)


def table(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "y": rng.normal(2, 1, 30), "x": rng.uniform(1, 3, 30), "k": np.arange(30) % 3,
        "a": pd.Categorical(np.resize(["low", "high"], 30), ["low", "mid", "high"]),
        "g": np.resize(["p", "q", "r"], 30),
        "d": np.resize(np.array(["2020-01-01", "2021-01-01"], "datetime64[D]"), 30),
    }  # fmt: skip


def fit_of(formula: str, data: Any = None, **options: Any) -> MixedFit:
    rng = np.random.default_rng(1)
    data = table() if data is None else data
    model = MixedEffects(formula, **options)
    design = model.design(data)
    empty = MixedFit(model, design, {"coefficients": np.zeros((1, 1, len(design.mean.names)))}, "")
    samples = {site: rng.uniform(0.2, 1.0, (*DRAWS, *shape)).astype(np.float32)
               for site, shape in empty.site_shapes.items()}  # fmt: skip
    if "cutpoints" in samples:
        samples["cutpoints"] = np.sort(samples["cutpoints"], axis=-1)
    stats = {"energy": rng.normal(0, 1, DRAWS), "diverging": np.zeros(DRAWS, bool)}
    sampling = Sampling(stats, 9, 0.5, info={"k_hat": 0.2})
    return MixedFit(model, design, samples, "nuts", sampling, data=data)


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("y ~ poly(x, 2) + a + (1 + x | g)", {"priors": {"noise_scale": dist.Exponential(2.0)}}),
        ("y ~ np.log(x) + scale(x) + C(k) + (1 | d) + (1 | g:k)", {"centered": False}),
        ("y ~ a*x + (x || g)", {"scale_formula": "~ x + (1 | k)"}),
        ("y ~ bs(x, df=4) + C(a, contr.sum) + (0 + a | g)", {"likelihood": "lognormal"}),
        ("y ~ x + I(x**2) + (1 + x | g)",
         {"priors": {"coefficients": {"x": dist.Normal(2.0, 1 / 3)}, "g_scale": [1.0, 1 / 3],
                     "g_correlation": 2.0, "noise_scale": dist.LogNormal(0.0, 1.0)},
          "centered": ["g_effects"]}),
    ],
)  # fmt: skip
def test_back_and_forth(formula: str, options: dict[str, Any], tmp_path: Path) -> None:
    data = table()
    data["y"] = np.exp(data["y"])
    fit = fit_of(formula, data, **options)
    fit.save(tmp_path / "fit")
    loaded = load(tmp_path / "fit")
    assert repr(loaded) == repr(fit)
    for site, value in fit.samples.items():
        np.testing.assert_array_equal(loaded.samples[site], value)
        assert loaded.samples[site].dtype == value.dtype
    new = {name: values[:5] for name, values in data.items() if name != "y"}
    for kind in ("mean", "response"):
        ours, theirs = fit.predict(new, kind=kind), loaded.predict(new, kind=kind)
        np.testing.assert_array_equal(ours.mean, theirs.mean)
        np.testing.assert_array_equal(ours.upper, theirs.upper)
    leaves = [jax.tree.leaves(of.design.data) for of in (fit, loaded)]
    for left, right in zip(*leaves, strict=True):
        np.testing.assert_array_equal(left, right)
    assert loaded.sampling is not None
    assert loaded.sampling.info["k_hat"] == 0.2
    loaded.save(tmp_path / "fit")
    assert load(tmp_path / "fit").predict().mean[0] == fit.predict().mean[0]


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_frames(make: Any, tmp_path: Path) -> None:
    plain = {name: values for name, values in table().items() if name != "a"}
    frame = make(plain)
    fit = fit_of("y ~ x + (1 | g) + (1 | d)", frame)
    fit.save(tmp_path / "fit")
    assert load(tmp_path / "fit").predict(frame[:3]).mean.tolist() == (
        fit.predict(frame[:3]).mean.tolist()
    )


def test_ordinal(tmp_path: Path) -> None:
    data = table()
    levels = ["low", "mid", "top"]
    data["a"] = pd.Categorical(np.resize(levels, 30), levels, ordered=True)
    fit = fit_of("a ~ x + (1 | g)", data, likelihood="ordinal")
    fit.save(tmp_path / "fit")
    assert load(tmp_path / "fit").predict().levels == ("low", "mid", "top")


def test_the_training_table_is_needed(tmp_path: Path) -> None:
    fit = fit_of("y ~ x + (1 | g)")
    bare = MixedFit(fit.model, fit.design, fit.samples, "nuts")
    with pytest.raises(ValueError, match=r"was made from a design .* save\(path, data=table\)"):
        bare.save(tmp_path / "fit")
    bare.save(tmp_path / "fit", data=table())
    for wrong in (table(seed=1), {name: v[:-3] for name, v in table().items()}):
        with pytest.raises(ValueError, match="give another design than the one that was fitted"):
            bare.save(tmp_path / "fit", data=wrong)
    assert len(load(tmp_path / "fit").predict()) == 30
    renamed = table()
    renamed["g"] = np.resize(["s", "t", "u"], 30)
    with pytest.raises(ValueError, match="give another design"):
        bare.save(tmp_path / "fit", data=renamed)


def test_columns_without_a_file_form(tmp_path: Path) -> None:
    data = table()
    data["g"] = [(i % 3, "x") for i in range(30)]
    with pytest.raises(ValueError, match="Column 'g' of the data has no file form"):
        fit_of("y ~ x + (1 | g)", data).save(tmp_path / "fit")
    truncated = dist.TruncatedNormal(1.0, 1.0, low=0.0)
    with pytest.raises(ValueError, match="prior of noise_scale, a LeftTruncated"):
        fit_of("y ~ x + (1 | g)", priors={"noise_scale": truncated}).save(tmp_path / "fit")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "term",
    ["__import__('os').getcwd()", "np.fromfile('x')", "x.__class__", "Q('x')", "eval('x')",
     "I([y for y in x])", "np.log(__import__('os').getpid())", "(lambda: x)()", "I(x[0])",
     "np.lib.format(x)"],
)  # fmt: skip
def test_no_foreign_code_is_run(term: str, tmp_path: Path) -> None:
    fit = fit_of("y ~ x + (1 | g)")
    fit.save(tmp_path / "fit")
    manifest = json.loads((tmp_path / "fit" / "fit.json").read_text())
    for where in ({"formula": f"y ~ x + {{{term}}} + (1 | g)"},
                  {"formula": f"y ~ x + (1 + {{{term}}} | g)"},
                  {"scale_formula": f"~ {{{term}}}"}):  # fmt: skip
        changed = copy.deepcopy(manifest)
        changed["fields"]["model"]["fields"] |= where
        (tmp_path / "fit" / "fit.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=r"which could run any code|'Q' is not supported"):
            load(tmp_path / "fit")


def test_another_table_and_a_damaged_one(tmp_path: Path) -> None:
    fit = fit_of("y ~ x + (1 | g)")
    fit.save(tmp_path / "fit")
    manifest = json.loads((tmp_path / "fit" / "fit.json").read_text())
    changed = copy.deepcopy(manifest)
    del changed["fields"]["data"]["map"]["x"]
    (tmp_path / "fit" / "fit.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"does not hold what its fit\.json says"):
        load(tmp_path / "fit")
    (tmp_path / "fit" / "columns.parquet").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"columns\.parquet is truncated or was altered"):
        load(tmp_path / "fit")


def test_arviz_groups_and_labels() -> None:
    fit = fit_of("y ~ x + (1 + x | g) + (1 | d)")
    tree = fit.to_arviz()
    assert set(tree.children) == {"posterior", "sample_stats", "observed_data"}
    posterior = tree["posterior"].dataset
    assert posterior["g_effects"].dims == ("chain", "draw", "g", "g_coefficient")
    own = posterior["g_effects"].sel(g="q", g_coefficient="x")
    np.testing.assert_array_equal(own, fit.samples["g_effects"][:, :, 1, 1])
    assert posterior["coefficients"].sel(coefficient="x").shape == DRAWS
    assert tree["sample_stats"]["energy"].shape == DRAWS
    np.testing.assert_allclose(tree["observed_data"]["y"], table()["y"], rtol=1e-6)
    assert tree.attrs["method"] == "nuts"
    one = {name: value[:1, :1] for name, value in fit.samples.items()}
    assert "point" in MixedFit(fit.model, fit.design, one, "marginal").to_arviz().children


def test_arviz_log_likelihood_and_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fit_of("y ~ x + (1 | g)", scale_formula="~ x")
    monkeypatch.setattr("probmf.results.mixtures.BLOCK", 500)
    tree = fit.to_arviz(posterior_predictive=True, log_likelihood=True, key=3)
    data = table()
    place = np.resize([0, 1, 2], 30)
    mean = fit.samples["coefficients"] @ np.stack([np.ones(30), data["x"]])
    mean = mean + fit.samples["g_effects"][:, :, place, 0]
    noise = np.exp(fit.samples["noise_coefficients"] @ np.stack([np.ones(30), data["x"]]))
    expected = norm.logpdf(data["y"], mean, noise)
    np.testing.assert_allclose(tree["log_likelihood"]["y"], expected, rtol=1e-4, atol=1e-4)
    drawn = tree["posterior_predictive"]["y"].to_numpy()
    z = (drawn - mean) / noise
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert z.std() == pytest.approx(1.0, abs=0.08)
    again = fit.to_arviz(posterior_predictive=True, key=3)["posterior_predictive"]["y"]
    np.testing.assert_array_equal(again, drawn)
    with pytest.raises(ValueError, match="posterior_predictive=True draws at random; give key="):
        fit.to_arviz(posterior_predictive=True)


def test_arviz_of_responses_far_from_zero() -> None:
    """In single precision neighbours of a million are 0.06 apart, and the noise is 0.01."""
    data = table() | {"o": np.full(30, 1e6)}
    data["y"] = 1e6 + 0.01 * np.random.default_rng(2).normal(size=30)
    model = MixedEffects("y ~ 0 + offset(o) + (1 | g)", priors={"noise_scale": 0.01})
    samples = {"g_effects": np.zeros((1, 3, 3, 1)), "g_scale": np.ones((1, 3, 1))}
    fit = MixedFit(model, model.design(data), samples, "x", Sampling({}, 5, 0.1))
    tree = fit.to_arviz(posterior_predictive=True, log_likelihood=True, key=0)
    wanted = norm.logpdf(data["y"], 1e6, 0.01)
    np.testing.assert_allclose(tree["log_likelihood"]["y"].to_numpy()[0, 2], wanted, rtol=1e-6)
    drawn = tree["posterior_predictive"]["y"].to_numpy()
    assert len(np.unique(drawn)) == drawn.size


@pytest.mark.parametrize("kind", ["bernoulli", "ordinal"])
def test_arviz_of_levels(kind: Any) -> None:
    data = table()
    data["y"] = data["k"] if kind == "ordinal" else data["k"] % 2
    fit = fit_of("y ~ x + (1 | g)", data, likelihood=kind)
    tree = fit.to_arviz(posterior_predictive=True, log_likelihood=True, key=0)
    assert tree["posterior_predictive"]["y"].dtype.kind == "i"
    assert set(np.unique(tree["posterior_predictive"]["y"])) <= {0, 1, 2}
    assert (tree["log_likelihood"]["y"] < 0).all()
