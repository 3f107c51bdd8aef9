# %% [markdown]
# # Features: users and items without ratings
#
# **A film has no ratings yet, but I know its year and genres. What can be said?** 160 people,
# whose age and job are known, rate 80 films. A quarter of the people and of the films are held out
# with all their ratings.

# %%
import matplotlib.pyplot as plt
import numpy as np

from probmf import Features, Gaussian, Linear, MatrixFactorization, Ratings, fit_als, metrics
from probmf.diagnostics import resources

USERS, ITEMS, FACTORS, NOISE = 160, 80, 2, 0.5
JOBS = np.array(["baker", "nurse", "pilot", "clerk"])
GENRES = np.array(["crime", "drama", "comedy", "space"])
rng = np.random.default_rng(0)
age, job = rng.uniform(18, 80, USERS), rng.integers(len(JOBS), size=USERS)
year, genre = rng.integers(1950, 2020, ITEMS), rng.random((ITEMS, len(GENRES))) < 0.4
rows = []
for known in (
    np.column_stack([(age - 49) / 18, np.eye(len(JOBS))[job]]),
    np.column_stack([(year - 1985) / 20, genre]),
):
    weights = rng.normal(0, 0.5, (known.shape[1], 1 + FACTORS))
    rows.append(known @ weights + rng.normal(0, 0.3, (len(known), 1 + FACTORS)))
user, item = rows
scores = 3.0 + user[:, :1] + item[:, 0] + user[:, 1:] @ item[:, 1:].T
ratings = scores + rng.normal(0, NOISE, scores.shape)
users = {"user": np.arange(USERS), "age": age, "job": JOBS[job]}
items = {
    "item": np.arange(ITEMS), "year": year, "genres": ["|".join(GENRES[row]) for row in genre]
}  # fmt: skip

# %% [markdown]
# ## With features and without
#
# Prior means of biases and factors are linear in the features, with weights that are learned
# together with everything else.


# %%
def frame(pairs):
    """The ratings of some pairs as a table."""
    user, item = np.nonzero(pairs)
    return {"user": user, "item": item, "rating": ratings[user, item]}


new_user, new_item = np.arange(USERS) >= 120, np.arange(ITEMS) >= 60
seen = rng.random(ratings.shape) < 0.15
train = Ratings.from_frame(
    frame(seen & ~new_user[:, None] & ~new_item), user_features=users, item_features=items
)
scales = {"user_scale": 0.4, "item_scale": 0.4, "user_bias_scale": 0.5, "item_bias_scale": 0.5}
plain = MatrixFactorization(FACTORS, Gaussian(NOISE), **scales)
linear = MatrixFactorization(
    FACTORS, Gaussian(NOISE), **scales, user_mean=Linear(), item_mean=Linear(),
    user_features=Features(numeric=["age"], categorical=["job"]),
    item_features=Features(numeric=["year"], multi_hot=["genres"]),
)  # fmt: skip
fits = {
    "no features": fit_als(plain, train, key=0, num_sweeps=50),
    "features": fit_als(linear, train, key=0, num_sweeps=50),
}

# %%
side = {
    "user_features": {name: np.asarray(values)[new_user] for name, values in users.items()},
    "item_features": {name: np.asarray(values)[new_item] for name, values in items.items()},
}
for what, pairs in {
    "new users, known films": new_user[:, None] & ~new_item,
    "known users, new films": ~new_user[:, None] & new_item,
    "new users, new films": new_user[:, None] & new_item,
}.items():
    test = frame(pairs)
    for name, fit in fits.items():
        found = fit.predict(test, interval=0.9, **(side if name == "features" else {}))
        inside = metrics.coverage(test["rating"], found.lower, found.upper)
        error = metrics.rmse(test["rating"], found.mean)
        print(f"{what:23} {name:11} RMSE {error:.3f}, {inside:.0%} in their 90 % intervals")

# %% [markdown]
# With features the error is about half as large, and the intervals have the coverage that they
# promise. Without them the given scales are too small for rows that differ as much as these.
#
# ## And after the first ratings?
#
# The new users' first ratings are folded in. The more ratings there are, the less the features
# matter.

# %%
answers, test = (frame(known & new_user[:, None] & ~new_item) for known in (seen, ~seen))
first = np.concatenate([np.arange(count) for count in np.bincount(answers["user"]) if count])
sizes = (0, 1, 2, 4, 8)
figure, ax = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
for name, fit in fits.items():
    errors = []
    features = side["user_features"] if name == "features" else None
    for size in sizes:
        if size:
            some = {column: values[first < size] for column, values in answers.items()}
            grown = fit.fold_in(Ratings.from_frame(some, user_features=features))
        else:
            grown = fit.extend(user_features=features) if name == "features" else fit
        errors.append(metrics.rmse(test["rating"], grown.predict(test, interval=None).mean))
    ax.plot(sizes, errors, marker="o", label=name)
ax.axhline(NOISE, color="0.6", linestyle=":", label="noise")
ax.set(xlabel="ratings of each new user", ylabel="RMSE of the others", ylim=(0, None))
legend = ax.legend(frameon=False)

# %% [markdown]
# [Features](../features.md) describes how numbers, categories, lists and text are encoded, and
# which methods take features.

# %%
print(resources())
