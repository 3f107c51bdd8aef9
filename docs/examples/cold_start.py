# %% [markdown]
# # Cold start: what to ask, and what to show
#
# **A new user arrives. Which question tells most about them, and what do we show meanwhile?** A
# fit of many draws knows what it doesn't know. Here twelve simulated people without ratings come
# to a catalogue of 60 films, and answer questions truthfully, with noise.

# %%
import matplotlib.pyplot as plt
import numpy as np

from probmf import Gaussian, MatrixFactorization, Ratings, metrics, sample_gibbs
from probmf.datasets import simulate_ratings
from probmf.diagnostics import resources

NOISE, FIRST, NEW, ITEMS = 0.5, 10_000, 12, 60
scales = {"user_scale": 0.6, "item_scale": 0.6, "user_bias_scale": 0.3, "item_bias_scale": 0.4}
simulated = simulate_ratings(
    key=0, num_users=80, num_items=ITEMS, num_ratings=1500, num_factors=3, noise_scale=NOISE,
    popularity=0.5, **scales,
)  # fmt: skip
model = MatrixFactorization(3, Gaussian(NOISE), **scales)
fit = sample_gibbs(
    model, simulated.ratings, key=0, num_warmup=100, num_samples=900, thin=10, num_chains=2
)
fit

# %% [markdown]
# The new people, and what they would answer:

# %%
rng = np.random.default_rng(2)
tastes = rng.normal(0, scales["user_scale"], (NEW, 3))
truth = simulated.truth["intercept"] + simulated.truth["item_bias"]
truth = truth + rng.normal(0, 0.3, (NEW, 1)) + tastes @ simulated.truth["item_factors"].T
answers = truth + rng.normal(0, NOISE, truth.shape)
people = FIRST + np.arange(NEW)


def after(asked, key):
    """The fit after what was answered so far: rows of new people are drawn, nothing else moves."""
    pairs = [(person, item) for person, items in asked.items() for item in items]
    if not pairs:
        return fit
    user, item = np.array(pairs).T
    rating = answers[user - FIRST, item - 1]
    return fit.fold_in(Ratings.from_frame({"user": user, "item": item, "rating": rating}), key=key)


def anything_else(items):
    """A random item that is not among these."""
    return int(rng.choice(np.setdiff1d(np.arange(1, ITEMS + 1), items)))


# %% [markdown]
# ## What to ask
#
# `choose_next` picks the film whose rating is expected to tell most. We ask six questions in this
# way, and six at random, and look at the error of all predictions.

# %%
everything = (np.repeat(people, ITEMS), np.tile(np.arange(1, ITEMS + 1), NEW))
curves = {}
for way in ("by information", "at random"):
    asked, errors = {int(person): [] for person in people}, []
    for step in range(7):
        grown = after(asked, step)
        errors.append(metrics.rmse(truth.ravel(), grown.predict(everything, interval=None).mean))
        for person, items in asked.items():
            best = grown.choose_next(person).item[0] if way == "by information" else None
            items.append(anything_else(items) if best is None else int(best))
    curves[way] = errors
    print(f"{way:15}", "  ".join(f"{error:.3f}" for error in errors))

# %%
figure, ax = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
for way, errors in curves.items():
    ax.plot(errors, marker="o", label=f"asked {way}")
ax.set(xlabel="answers", ylabel="RMSE of all scores", ylim=(0, None))
legend = ax.legend(frameon=False)

# %% [markdown]
# Three good questions tell more than six at random.
#
# ## What to show
#
# In each round we show one film, learn from the answer, and want to lose as little as possible.
# Films are chosen by the mean, by the upper end of the interval (optimistically), by a draw
# (Thompson), or at random. The loss is the total score of the best films less that of as many
# films that were shown.

# %%
for order in ("mean", "upper", "thompson", "random"):
    shown = {int(person): [] for person in people}
    for step in range(8):
        grown = after(shown, step)
        if order != "random":
            key = step if order == "thompson" else None
            found = grown.recommend(people.tolist(), k=1, rank_by=order, key=key).item[:, 0]
        for place, items in enumerate(shown.values()):
            items.append(anything_else(items) if order == "random" else int(found[place]))
    got = np.take_along_axis(truth, np.array([*shown.values()]) - 1, axis=1).sum(axis=1)
    loss = -np.sort(-truth, axis=1)[:, :8].sum(axis=1) - got
    print(f"{order:9} {loss.mean():4.1f} ± {loss.std() / np.sqrt(NEW):.1f}")

# %% [markdown]
# All orders that learn are far ahead of chance. A longer run with more people is in [using
# uncertainty](../uncertainty.md#a-simulated-cold-start).

# %%
print(resources())
