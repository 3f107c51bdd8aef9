"""Log-normal ratings are Gaussian ratings of their logarithms, in every answer."""

import numpy as np
import pytest

from probmf import (
    Examples,
    Gaussian,
    LogNormal,
    MatrixFactorization,
    Network,
    Ratings,
    fit_als,
    fit_variational,
    sample_nuts,
)


def ratings(*, positive: bool) -> Ratings:
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((9, 7)) < 0.6)
    score = rng.normal(0.5, 0.6, 9)[user] + rng.normal(0, 0.6, 7)[item]
    rating = score + 0.3 * rng.normal(size=len(user))
    return Ratings.from_frame(
        {
            "user": user,
            "item": item,
            "rating": np.exp(rating) if positive else rating,
            "weight": rng.uniform(0.5, 2, len(user)),
        },
        weight="weight",
    )


def test_fits_and_predictions_are_those_of_the_logarithms() -> None:
    fits = []
    for likelihood in (LogNormal(0.4), Gaussian(0.4)):
        model = MatrixFactorization(1, likelihood, user_scale=0.5, item_scale=0.5)
        data = ratings(positive=isinstance(likelihood, LogNormal))
        fits.append(fit_als(model, data, key=0, num_sweeps=60, tol=0, solver="cholesky"))
    ours, logs = fits
    for site, value in logs.point().items():
        np.testing.assert_allclose(ours.point()[site], value, atol=2e-4)
    pairs = [(0, 1), (3, 2), (99, 4)]
    found, wanted = ours.predict(pairs, at_least=1.5), logs.predict(pairs, at_least=np.log(1.5))
    np.testing.assert_allclose(found.mean, np.exp(wanted.mean + wanted.sd**2 / 2), rtol=1e-3)
    np.testing.assert_allclose(found.lower, np.exp(wanted.lower), rtol=1e-3)
    np.testing.assert_allclose(found.upper, np.exp(wanted.upper), rtol=1e-3)
    np.testing.assert_allclose(found.probability, wanted.probability, atol=1e-3)
    assert (ours.predict(pairs, at_least=-1.0).probability == 1.0).all()


def test_methods_that_do_not_have_it_say_so() -> None:
    model, data = MatrixFactorization(1, LogNormal()), ratings(positive=True)
    with pytest.raises(ValueError, match=r"likelihood is LogNormal; .* Use fit_svi or a sampler"):
        fit_variational(model, data, key=0)
    with pytest.raises(ValueError, match=r"LogNormal\(.*exactly under a Gaussian likelihood"):
        sample_nuts(model, data, key=0, marginalize=("user_factors", "user_bias"))
    examples = Examples.from_arrays(np.arange(3.0)[:, None], np.array([2.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="needs positive responses, but row 1 has 0"):
        Network((), likelihood=LogNormal()).arguments(examples)
    with pytest.raises(ValueError, match="needs positive ratings, but row"):
        fit_als(model, ratings(positive=False), key=0)
