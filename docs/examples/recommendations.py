# %% [markdown]
# # From ratings to recommendations
#
# **What will each user like, and how sure are we?** 200 people have rated some of 100 films. We
# learn from nine tenths of the ratings, check the predictions on the rest, and recommend films.
# The ratings are simulated, so that the truth is known; your own table goes in the same way.

# %%
import probmf
from probmf import Ratings, metrics, plots
from probmf.datasets import simulate_ratings
from probmf.diagnostics import resources

simulated = simulate_ratings(
    key=0, num_users=200, num_items=100, num_ratings=6000, num_factors=3, popularity=0.5
)
train, test = simulated.ratings.split(key=1, test_fraction=0.1)
train

# %% [markdown]
# `Ratings.from_frame(table)` takes a pandas, polars or Arrow table, `Ratings.from_csv` a file. Ids
# may be numbers or text. [Data](../data.md) has the details.
#
# ## Fit
#
# With `probmf.fit` there is nothing to choose: it samples the posterior of a factorization and
# learns all its scales, the noise included.

# %%
fit = probmf.fit(train, num_factors=6, key=0)
fit

# %% [markdown]
# ## Are the predictions any good?
#
# We look at ratings that the fit has not seen. The noise of a single rating is 0.5 here, so no
# method can have a smaller error than that.

# %%
predicted = fit.predict(test, interval=0.9)
error = metrics.rmse(test.rating, predicted.mean)
inside = metrics.coverage(test.rating, predicted.lower, predicted.upper)
print(f"RMSE {error:.3f}; {inside:.1%} of the ratings lie in their 90 % intervals")
plots.calibration(fit, test)

# %% [markdown]
# The curve stays within its band: intervals that promise 80 % hold about 80 % of the ratings.
#
# ## Recommendations
#
# Films that the user has rated are left out. The lines are intervals of the score, without the
# noise of a single rating.

# %%
best = fit.recommend(17, k=8, interval=0.9)
plots.recommendations(best, labels=train.item_labels(best.code[0]))

# %% [markdown]
# As in any ranking by a noisy number, films whose score is too high by chance come first as easily
# as the best ones. `rank_by="lower"` puts first what is surely good, and `at_least=4.0` adds the
# probability of a rating of at least 4.

# %%
fit.recommend(17, k=5, rank_by="lower", at_least=4.0, interval=0.9)

# %% [markdown]
# ## A new user
#
# A new user rates five films. Nothing is fitted again: only the user's row is drawn, given the
# films as they are.

# %%
new = Ratings.from_frame(
    {"user": [1001] * 5, "item": [3, 14, 15, 92, 65], "rating": [5.0, 1.0, 4.0, 2.0, 5.0]}
)
grown = fit.fold_in(new, key=1)
print(train.item_labels(grown.recommend(1001, k=3).code[0]))

# %% [markdown]
# ## What does the fit know about the films?
#
# Items that the same people like lie in the same direction.

# %%
plots.factor_map(fit, num_labels=6)

# %% [markdown]
# `fit.save("my-fit")` keeps all of it, and `probmf.load("my-fit")` reads it back. Where to go on:
# [faster point estimates](../fitting.md), [what to ask a new user](cold_start.py),
# [plays and clicks](implicit_feedback.py).

# %%
print(resources())
