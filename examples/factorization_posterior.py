"""The posterior of a factorization by NUTS, the users integrated out exactly, beside MAP.

Simulated ratings of people who rate little. Run it anywhere: it needs no data and writes nothing.
"""

import numpy as np
import numpyro.distributions as dist

from probmf import Gaussian, MatrixFactorization, Ratings, diagnostics, fit_als, sample_nuts
from probmf.metrics import coverage, rmse

USERS, ITEMS, FACTORS = 60, 30, 2

rng = np.random.default_rng(0)
user, item = np.nonzero(rng.random((USERS, ITEMS)) < 0.3)
score = 3.5 + 0.5 * rng.normal(size=USERS)[user] + 0.4 * rng.normal(size=ITEMS)[item]
taste, kind = rng.normal(0, 0.6, (USERS, FACTORS)), rng.normal(0, 1, (ITEMS, FACTORS))
score += np.sum(taste[user] * kind[item], axis=1)
rating = score + 0.7 * rng.normal(size=len(user))
ratings = Ratings.from_frame({"user": user, "item": item, "rating": rating})
train, test = ratings.split(key=0, test_fraction=0.2)

# Every scale is learned but that of the items' factors, which only sets the users' units.
half = dist.HalfNormal(1.0)
model = MatrixFactorization(
    FACTORS, Gaussian(half), intercept=dist.Normal(3.5, 1.0), user_scale=half, item_scale=1.0,
    user_bias_scale=half, item_bias_scale=half,
)  # fmt: skip

# Given the items the users are Gaussian: name their sites, and NUTS moves the items only.
# Few draws, to be quick: a DiagnosticWarning says so.
fit = sample_nuts(
    model, train, key=0, marginalize=("user_bias", "user_factors"),
    num_warmup=100, num_samples=100, progress=False,
)  # fmt: skip
print(diagnostics.summary(fit))

# The users are drawn back from their exact conditional, so that the fit has all sites.
print({name: value.shape for name, value in fit.samples.items()})

point = MatrixFactorization(
    FACTORS, Gaussian(0.7), user_scale=0.6, item_scale=1.0, user_bias_scale=0.5, item_bias_scale=0.4
)
for name, one in {"MAP": fit_als(point, train, key=0, progress=False), "NUTS": fit}.items():
    found = one.predict(test, interval=0.9)
    print(
        f"{name}: held-out RMSE {rmse(test.rating, found.mean):.3f}, coverage of 90 % intervals "
        f"{coverage(test.rating, found.lower, found.upper):.3f}"
    )

# The best items of a user even if we are unlucky, and how sure we are of them.
print(fit.recommend(0, k=3, rank_by="lower"))
