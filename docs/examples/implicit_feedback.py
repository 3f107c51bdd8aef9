# %% [markdown]
# # Plays and clicks: feedback without a no
#
# **I know what people played, and how often. I don't know what they dislike. How do I rank?**
# There are 300 listeners and 200 artists, and we know how often each listener played each artist.
# A missing pair is not a rejection: mostly the listener has never met the artist.

# %%
import numpy as np

from probmf import MatrixFactorization, Ratings, fit_als, metrics, plots
from probmf.data import confidence_weights
from probmf.diagnostics import resources

rng = np.random.default_rng(0)
taste, kind = rng.normal(0, 0.8, (300, 4)), rng.normal(0, 1, (200, 4))
plays = rng.poisson(np.exp(rng.normal(-2.5, 0.8, 200) + taste @ kind.T))
listener, artist = np.nonzero(plays)
table = {"user": listener, "item": artist, "plays": plays[listener, artist]}
print(f"{len(listener):,} of {plays.size:,} pairs have plays; quantiles of their number:")
print(np.quantile(table["plays"], [0.25, 0.5, 0.75, 0.9, 0.99]).astype(int))

# %% [markdown]
# ## Counts as confidence
#
# Each play makes us surer that the pair is liked; a pair without any is a weak no (Hu, Koren and
# Volinsky 2008). Counts have heavy tails, so their logarithm is the better weight.

# %%
table["weight"] = confidence_weights(table["plays"], alpha=5.0)
events = Ratings.from_frame(table, rating=None, weight="weight")
train, test = events.split_within_users(key=1, test_fraction=0.2)
plots.degree_distribution(train)

# %%
model = MatrixFactorization(
    num_factors=8, intercept=None, user_bias=False, item_bias=False, user_scale=0.3, item_scale=0.3,
    unobserved_weight=1.0,
)  # fmt: skip
fit = fit_als(model, train, key=0, num_sweeps=20, tol=0)
fit

# %% [markdown]
# ## Is it better than a list of what is popular?
#
# Recall is the share of each listener's hidden artists among the first ten; nDCG also counts how
# near the top they are.

# %%
ranked = fit.recommend(k=10)
popular = np.argsort(-train.item_degree, kind="stable")
seen = train.to_scipy().astype(bool).toarray()
hits = np.array([[item for item in popular if not row[item]][:10] for row in seen])
for name, lists in {"factorization": ranked.code, "popular": hits}.items():
    recall = metrics.recall_at_k(lists, test.to_scipy(), k=10)
    ndcg = metrics.ndcg_at_k(lists, test.to_scipy(), k=10)
    print(f"{name:14} recall@10 {recall:.3f}, nDCG@10 {ndcg:.3f}")

# %% [markdown]
# ## Why this one?
#
# The score is a sum over what the listener has played.

# %%
fit.explain(1, ranked.item[0, 0])

# %% [markdown]
# For catalogues of millions of items, `fit.vectors("item")` gives rows for an index of nearest
# neighbours by inner product. The order is that of `recommend`:

# %%
scores = fit.vectors("user")[:1] @ fit.vectors("item").T
order = np.argsort(-np.where(seen[0], -np.inf, scores[0]))[:10]
print((order == ranked.code[0]).all())

# %%
print(resources())
