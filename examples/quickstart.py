"""From ratings to recommendations with intervals, on a simulated catalogue.

Run it anywhere: it needs no data, and writes a fit and two plots to the current folder.
"""

from probmf import Gaussian, MatrixFactorization, Ratings, fit_als, load, metrics, plots
from probmf.datasets import simulate_catalogue

# 600 users rate 300 films 30,000 times; the noise of a rating has a standard deviation of 0.5.
catalogue = simulate_catalogue(key=0)
train, test = catalogue.ratings.split(key=1, test_fraction=0.1)
print(train.summary())

model = MatrixFactorization(
    num_factors=4,
    likelihood=Gaussian(noise_scale=0.5),
    user_scale=0.5,
    item_scale=0.5,
    user_bias_scale=0.3,
    item_bias_scale=0.4,
)
fit = fit_als(model, train, key=0, validation=test)
print(f"\n{fit}")

predicted = fit.predict(test, interval=0.9)
error = metrics.rmse(test.rating, predicted.mean)
covered = metrics.coverage(test.rating, predicted.lower, predicted.upper)
print(
    f"\nheld-out RMSE {error:.3f} (noise {catalogue.noise_floor}), 90% intervals hold {covered:.1%}"
)

user = 17
recommended = fit.recommend(user, k=5, interval=0.9)
titles = train.item_labels(recommended.code[0]).tolist()
print(f"\nFor user {user}:")
for title, score in zip(titles, recommended.score[0], strict=True):
    print(f"  {score:.2f}  {title}")

# A new user with a few ratings, of items by their ids: nothing is fitted again.
new = Ratings.from_frame(
    {"user": [1001] * 5, "item": [3, 14, 15, 92, 65], "rating": [5.0, 1.0, 4.0, 2.0, 5.0]}
)
best = fit.fold_in(new).recommend(1001, k=3)
print(f"\nFor the new user: {', '.join(train.item_labels(best.code[0]))}")

fit.save("quickstart-fit")
same = load("quickstart-fit").predict(test, interval=None).mean == predicted.mean
print(f"\nLoaded again, the fit predicts the same: {same.all()}")
plots.calibration(fit, test).savefig("calibration.png")
plots.recommendations(recommended, labels=titles).savefig("recommendations.png")
