"""Features of users and items: what is known of those who have no ratings yet.

Simulated users have an age and a profession, items a year and genres; both move tastes and traits.
Some users and items are held out with all their ratings. Their ratings are predicted from features
alone, by a factorization whose prior means are linear in them, and by one without features. Then a
few ratings of each new user are folded in, with and without features.

Writes side_features.png to the current folder.
"""

import numpy as np
from matplotlib.figure import Figure

from probmf import Features, Gaussian, Linear, MatrixFactorization, Ratings, fit_als, metrics
from probmf.results import RatingsFit

USERS, ITEMS, FACTORS, NOISE = 160, 80, 2, 0.5
JOBS = np.array(["baker", "nurse", "pilot", "clerk"])
GENRES = np.array(["crime", "drama", "comedy", "space"])
SIZES = (0, 1, 2, 4, 8)


def simulate(rng: np.random.Generator) -> tuple[dict, dict, np.ndarray]:
    """Side tables of users and items, and the rating of every pair."""
    age, job = rng.uniform(18, 80, USERS), rng.integers(len(JOBS), size=USERS)
    year = rng.integers(1950, 2020, ITEMS)
    genre = rng.random((ITEMS, len(GENRES))) < 0.4
    known_user = np.column_stack([(age - 49) / 18, np.eye(len(JOBS))[job]])
    known_item = np.column_stack([(year - 1985) / 20, genre])
    rows = []
    for known in (known_user, known_item):
        weights = rng.normal(0, 0.5, (known.shape[1], 1 + FACTORS))
        rows.append(known @ weights + rng.normal(0, 0.3, (len(known), 1 + FACTORS)))
    user, item = rows
    scores = 3.0 + user[:, :1] + item[:, 0] + user[:, 1:] @ item[:, 1:].T
    users = {"user": np.arange(USERS), "age": age, "job": JOBS[job]}
    labels = ["|".join(GENRES[row]) for row in genre]
    items = {"item": np.arange(ITEMS), "year": year, "genres": labels}
    return users, items, scores + rng.normal(0, NOISE, scores.shape)


def choose(table: dict, rows: np.ndarray) -> dict:
    return {name: np.asarray(column)[rows] for name, column in table.items()}


def as_frame(pairs: np.ndarray, ratings: np.ndarray) -> dict:
    user, item = np.nonzero(pairs)
    return {"user": user, "item": item, "rating": ratings[user, item]}


def fold_in(fit: RatingsFit, table: dict, users: dict, size: int) -> RatingsFit:
    """The fit after the first ratings of each user in the table."""
    if not size:
        return fit.extend(user_features=users) if fit.model.mean_sides else fit
    place = np.concatenate([np.arange(n) for n in np.bincount(table["user"]) if n])
    return fit.fold_in(Ratings.from_frame(choose(table, place < size), user_features=users))


def main() -> None:
    rng = np.random.default_rng(0)
    users, items, ratings = simulate(rng)
    new_user, new_item = np.arange(USERS) >= 120, np.arange(ITEMS) >= 60
    seen = rng.random(ratings.shape) < 0.15
    train = Ratings.from_frame(
        as_frame(seen & ~new_user[:, None] & ~new_item, ratings),
        user_features=users, item_features=items,
    )  # fmt: skip

    options = {"user_scale": 0.4, "item_scale": 0.4, "user_bias_scale": 0.5, "item_bias_scale": 0.5}
    plain = MatrixFactorization(FACTORS, Gaussian(NOISE), **options)
    linear = MatrixFactorization(
        FACTORS, Gaussian(NOISE), **options, user_mean=Linear(), item_mean=Linear(),
        user_features=Features(numeric=["age"], categorical=["job"]),
        item_features=Features(numeric=["year"], multi_hot=["genres"]),
    )  # fmt: skip
    fits = {
        "no features": fit_als(plain, train, key=0, num_sweeps=50, progress=False),
        "linear in features": fit_als(linear, train, key=0, num_sweeps=50, progress=False),
    }
    tables = {
        "user_features": choose(users, new_user), "item_features": choose(items, new_item),
    }  # fmt: skip
    for what, pairs in (
        ("new users, known items", new_user[:, None] & ~new_item),
        ("known users, new items", ~new_user[:, None] & new_item),
        ("new users, new items", new_user[:, None] & new_item),
    ):
        test = as_frame(pairs, ratings)
        print(f"{what}:")
        for name, fit in fits.items():
            asked = tables if fit.model.mean_sides else {}
            found = fit.predict(test, interval=0.9, **asked)
            inside = metrics.coverage(test["rating"], found.lower, found.upper)
            error = metrics.rmse(test["rating"], found.mean)
            print(f"  {name:19s} RMSE {error:.3f}, {inside:.0%} of ratings within 90 % intervals")

    answers = as_frame(seen & new_user[:, None] & ~new_item, ratings)
    test = as_frame(~seen & new_user[:, None] & ~new_item, ratings)
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    ax = figure.subplots()
    print("RMSE of new users' other ratings, by number of ratings folded in:")
    for name, fit in fits.items():
        errors = [
            metrics.rmse(test["rating"], fold_in(fit, answers, tables["user_features"], size)
                         .predict(test, interval=None).mean)
            for size in SIZES
        ]  # fmt: skip
        print(
            f"  {name:19s} "
            + "  ".join(f"{s}: {e:.3f}" for s, e in zip(SIZES, errors, strict=True))
        )
        ax.plot(SIZES, errors, marker="o", label=name)
    ax.axhline(NOISE, color="0.6", linestyle=":", label="noise")
    ax.set(xlabel="ratings of each new user", ylabel="RMSE of the others")
    ax.legend(frameon=False)
    figure.savefig("side_features.png", dpi=150)


if __name__ == "__main__":
    main()
