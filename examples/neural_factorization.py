"""A network in place of the inner product, where people like what is near them.

Users and items lie on a line, and a user likes the items within reach: as a matrix this has a
high rank, so that few factors do not describe it, but a network of two factors can.
"""

import numpy as np

from probmf import MLP, Gaussian, MatrixFactorization, NeuralFactorization, Ratings, fit_map
from probmf.metrics import rmse


def nearby(num_users=60, num_items=50, seed=0):
    """Ratings that fall off with the distance on a line: half of the pairs to fit, half to test."""
    rng = np.random.default_rng(seed)
    user, item = np.divmod(np.arange(num_users * num_items), num_items)
    home, place = rng.uniform(-1, 1, num_users), rng.uniform(-1, 1, num_items)
    score = 2 * np.exp(-np.square(home[user] - place[item]) / (2 * 0.25**2))
    rating = score + 0.1 * rng.normal(size=len(user))
    seen = rng.random(len(user)) < 0.5
    return [
        Ratings.from_frame({"user": user[part], "item": item[part], "rating": rating[part]})
        for part in (seen, ~seen)
    ]


def main():
    train, test = nearby()
    noise = Gaussian(noise_scale=0.1)
    models = {
        "inner product": MatrixFactorization(num_factors=2, likelihood=noise),
        "network": NeuralFactorization(2, MLP((32,)), product=False, likelihood=noise),
    }
    for name, model in models.items():
        # Networks have many minima: of several starts the best by held-out error is kept. Learning
        # begins slowly, so patience is long.
        fit = fit_map(
            model, train, key=0, num_epochs=100, batch_size=100, num_restarts=4, validation=test,
            patience=100,
        )  # fmt: skip
        error = rmse(test.rating, fit.predict(test, interval=None).mean)
        print(f"{name:>13}: held-out RMSE {error:.3f} (noise 0.1)")
    print(fit.recommend([0, 1], k=3))


if __name__ == "__main__":
    main()
