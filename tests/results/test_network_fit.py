"""Results of networks: predictions in the user's terms, storage, and Equinox."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.infer import log_likelihood
from scipy.special import expit, softmax
from scipy.stats import norm

from probmf import Bernoulli, Categorical, Examples, Gaussian, Network, Ordinal, load
from probmf.results import NetworkFit
from probmf.results.directory import MANIFEST

X = np.array([[0.0, 1.0], [1.0, -1.0], [2.0, 0.5], [3.0, 0.0]])


def examples(y: Any, **options: Any) -> Examples:
    return Examples.from_arrays(X, y, standardize=False, **options)


def fit_of(likelihood: Any, y: Any, weight: np.ndarray, **more: np.ndarray) -> NetworkFit:
    """A fit of given draws (chain, draw, 2, outputs) without biases other than zero."""
    data = examples(y)
    samples = {"network_weight_0": weight} | more
    outputs = weight.shape[-1]
    if not likelihood.learned:
        samples["network_bias_0"] = np.zeros((*weight.shape[:2], outputs))
    return NetworkFit(Network((), likelihood=likelihood), data, samples, "given")


DRAWS = np.random.default_rng(0).normal(size=(2, 3, 2, 1))


def test_gaussian_predictions_are_in_the_response_s_units() -> None:
    data = Examples.from_arrays(X, [10.0, 30.0, 20.0, 60.0])
    samples = {"network_weight_0": DRAWS, "network_bias_0": np.zeros((2, 3, 1))}
    fit = NetworkFit(Network((), likelihood=Gaussian(0.5)), data, samples, "given")
    scores = np.einsum("cdfo,nf->cdno", DRAWS, data.inputs()).reshape(6, 4)
    own = 30 + np.std([10, 30, 20, 60]) * scores
    predicted = fit.predict()
    np.testing.assert_allclose(predicted.mean, own.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(predicted.sd, own.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(predicted.lower, np.quantile(own, 0.05, axis=0), rtol=1e-5)
    response = fit.predict(kind="response")
    noise = 0.5 * np.std([10, 30, 20, 60])
    np.testing.assert_allclose(response.sd, np.hypot(own.std(axis=0), noise), rtol=1e-5)
    below = norm.cdf((response.upper - own) / noise).mean(axis=0)
    np.testing.assert_allclose(below, 0.95, atol=1e-4)
    assert predicted.label is None
    assert predicted.to_arrow().column_names == ["mean", "sd", "lower", "upper"]


def test_probabilities_are_averaged_over_draws() -> None:
    scores = np.einsum("cdfo,nf->cdno", DRAWS, X).reshape(6, 4)
    yes_no = fit_of(Bernoulli(), ["no", "yes", "no", "yes"], DRAWS).predict()
    np.testing.assert_allclose(yes_no.mean, expit(scores).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(yes_no.sd, expit(scores).std(axis=0), rtol=1e-4)
    assert yes_no.label.tolist() == np.where(yes_no.mean > 0.5, "yes", "no").tolist()  # type: ignore[union-attr]
    assert "probability of yes" in yes_no.to_arrow().column_names

    three = np.random.default_rng(1).normal(size=(2, 3, 2, 3))
    classes = fit_of(Categorical(3), [4, 5, 6, 4], three).predict()
    wanted = softmax(np.einsum("cdfo,nf->cdno", three, X), axis=-1).reshape(6, 4, 3)
    np.testing.assert_allclose(classes.probabilities, wanted.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(classes.sd, wanted.std(axis=0), rtol=1e-4)
    assert classes.label.tolist() == (4 + wanted.mean(axis=0).argmax(axis=1)).tolist()  # type: ignore[union-attr]
    assert classes.to_arrow().column_names[:2] == ["sd of 4", "sd of 5"]


def test_levels_of_an_ordinal_response() -> None:
    cuts = np.sort(np.random.default_rng(2).normal(size=(2, 3, 2)), axis=-1)
    fit = fit_of(Ordinal((1, 2, 5), link="probit"), [1, 2, 5, 5], DRAWS, cutpoints=cuts)
    predicted = fit.predict()
    scores = np.einsum("cdfo,nf->cdno", DRAWS, X)
    below = norm.cdf(cuts[:, :, None, :] - scores)
    ends = np.concatenate([np.zeros_like(scores), below, np.ones_like(scores)], axis=-1)
    wanted = np.diff(ends, axis=-1).reshape(6, 4, 3)
    np.testing.assert_allclose(predicted.probabilities, wanted.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(predicted.mean, (wanted @ [1, 2, 5]).mean(axis=0), rtol=1e-4)
    response = fit.predict(kind="response")
    assert set(np.asarray(response.upper).tolist()) <= {1.0, 2.0, 5.0}


def test_a_point_knows_no_uncertainty_of_the_mean() -> None:
    fit = fit_of(Gaussian(0.5), [1.0, 2.0, 3.0, 5.0], DRAWS[:1, :1])
    assert fit.predict().sd is None
    np.testing.assert_allclose(fit.predict(kind="response").sd, 0.5, rtol=1e-5)
    module = fit.to_equinox()
    np.testing.assert_allclose(
        jax.vmap(module)(jnp.asarray(X, jnp.float32))[:, 0], fit.predict().mean, rtol=1e-5
    )
    assert repr(fit) == "NetworkFit(given: 2-1, Gaussian; 4 examples)"
    assert fit.to_arviz()["point"]["network_weight_0"].shape == (1, 1, 2, 1)


@pytest.mark.parametrize(
    ("likelihood", "y", "classes"),
    [
        (Gaussian(dist.HalfNormal(2.0)), [1.0, 2.0, 3.0, 5.0], None),
        (Categorical(3), ["a", "b", "c", "a"], ["b", "a", "c"]),
        (Bernoulli("probit"), [True, False, True, True], None),
        (Ordinal(3, cutpoints=(0.0, 1.0)), [1, 2, 3, 3], None),
    ],
)
def test_saved_and_loaded(likelihood: Any, y: Any, classes: Any, tmp_path: Path) -> None:
    data = Examples.from_arrays(X, y, classes=classes)
    model = Network((3,), "relu", likelihood, (dist.HalfNormal(1.0), 0.5), "flat")
    (arrays,) = model.arguments(data)
    rng = np.random.default_rng(0)
    shapes = model.site_shapes(arrays) | dict.fromkeys(model.random_scales(), ())
    samples = {site: np.abs(rng.normal(size=(2, 3, *shape))) for site, shape in shapes.items()}
    fit = NetworkFit(model, data, samples, "given")
    fit.save(tmp_path / "fit")
    back = load(tmp_path / "fit")
    assert (back.model.hidden, back.model.activation) == ((3,), "relu")
    assert back.model.bias_scale == "flat"
    assert isinstance(back.model.weight_scale, tuple)
    assert isinstance(back.model.weight_scale[0], dist.HalfNormal)
    assert back.data.classes == data.classes
    before, after = fit.predict({"x0": [0.5], "x1": [1.0]}), back.predict(np.array([[0.5, 1.0]]))
    np.testing.assert_array_equal(before.mean, after.mean)
    np.testing.assert_array_equal(before.lower, after.lower)
    manifest = tmp_path / "fit" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"hidden"', '"hiding"'))
    with pytest.raises(ValueError, match="save the fit again"):
        load(tmp_path / "fit")


@pytest.mark.parametrize(
    ("likelihood", "y"),
    [
        (Gaussian(dist.HalfNormal(2.0)), [1.0, 2.0, 3.0, 50.0]),
        (Gaussian(0.4), [[1.0, 10.0], [2.0, 0.0], [3.0, -10.0], [5.0, 70.0]]),
        (Categorical(3), ["a", "b", "c", "a"]),
        (Bernoulli("probit"), [True, False, True, True]),
        (Ordinal(3), [1, 2, 3, 3]),
    ],
)
def test_log_likelihood_is_that_of_the_model_in_the_user_s_units(likelihood: Any, y: Any) -> None:
    data = Examples.from_arrays(X, y)
    model = Network((2,), likelihood=likelihood)
    (arrays,) = model.arguments(data)
    rng = np.random.default_rng(0)
    shapes = model.site_shapes(arrays) | dict.fromkeys(model.random_scales(), ())
    samples = {site: np.sort(np.abs(rng.normal(size=(2, 3, *s)))) for site, s in shapes.items()}
    fit = NetworkFit(model, data, samples, "given")
    tree = fit.to_arviz(posterior_predictive=True, log_likelihood=True, key=0)
    theirs = log_likelihood(model, samples, arrays, batch_ndims=2)["response"]
    unit = data.response_scale if isinstance(likelihood, Gaussian) else 1.0
    found = tree["log_likelihood"]["response"].to_numpy()
    np.testing.assert_allclose(found, np.asarray(theirs) - np.log(unit), rtol=1e-4, atol=1e-4)
    drawn = tree["posterior_predictive"]["response"].to_numpy()
    assert drawn.shape == found.shape
    if isinstance(likelihood, Gaussian):
        told = fit.predict(kind="response")
        assert told.sd is not None
        apart = (drawn - told.mean) / told.sd
        assert np.abs(apart).max() < 5
        assert np.square(apart).mean() > 0.3
    else:
        assert set(np.unique(drawn)) <= set(np.unique(tree["observed_data"]["response"]))


def test_what_is_refused() -> None:
    fit = fit_of(Categorical(2), ["a", "b", "a", "b"], np.zeros((1, 2, 2, 2)))
    with pytest.raises(ValueError, match="Classes have no order"):
        fit.predict(kind="response")
    with pytest.raises(ValueError, match="kind is 'both'"):
        fit.predict(kind="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="interval is 2"):
        fit.predict(interval=2)
    with pytest.raises(ValueError, match="give key="):
        fit.to_arviz(posterior_predictive=True)
    with pytest.raises(ValueError, match="no point; see samples"):
        fit.to_equinox()
    samples = dict(fit.samples)
    for name, bad, message in [
        ("network_weight_7", np.zeros((1, 2)), "no site of the model"),
        ("network_bias_0", np.zeros((1, 2, 3)), r"shape \(1, 2, 3\), expected"),
        ("network_bias_0", np.full((1, 2, 2), np.nan), "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            NetworkFit(fit.model, fit.data, samples | {name: bad}, "given")
