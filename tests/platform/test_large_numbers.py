"""Numbers whose squares are infinite are refused where they come in, and others are borne."""

import numpy as np
import pytest

from probmf import (
    Examples,
    Features,
    Gaussian,
    Linear,
    MatrixFactorization,
    MixedEffects,
    Ratings,
    fit_als,
)

FRAME = {"user": [1, 1, 2, 2], "item": [1, 2, 1, 2], "rating": [1.0, 2.0, 3.0, 4.0]}


@pytest.mark.parametrize("column", ["rating", "weight"])
@pytest.mark.parametrize("size", [1e20, 1e39, 1e200])
def test_ratings_and_weights_name_their_column_and_row(column: str, size: float) -> None:
    frame = FRAME | {"weight": [1.0] * 4} | {column: [1.0, 2.0, size, size]}
    with pytest.raises(ValueError, match=rf"(?i){column}'? is .* in row 2 \(2 such rows\).*divide"):
        Ratings.from_frame(frame, weight="weight")


def test_the_largest_ratings_that_are_let_through_can_be_fitted() -> None:
    with pytest.raises(ValueError, match=r"at most 9\.2e\+17"):
        Ratings.from_frame(FRAME | {"rating": [0.0, 0.0, 0.0, 1e18]})
    ratings = Ratings.from_frame(FRAME | {"rating": [9e17, -9e17, -9e17, 9e17]})
    fit = fit_als(MatrixFactorization(1, Gaussian(1e17)), ratings, key=0, num_sweeps=2)
    assert np.isfinite(fit.history.objective).all()


def test_other_columns_name_themselves() -> None:
    with pytest.raises(ValueError, match=r"Column 'age' .*is 1e\+200 in row 1 .*divide"):
        Examples.from_frame({"age": [30.0, 1e200, 3.0], "y": [1.0, 2.0, 3.0]}, response="y")
    with pytest.raises(ValueError, match=r"Column 'y' .*is 1e\+200 in row 1 .*divide"):
        Examples.from_frame({"age": [30.0, 1.0, 3.0], "y": [1.0, 1e200, 3.0]}, response="y")
    table = {"y": [1.0, 2.0, 1e200, 3.0], "x": [1.0, 3.0, 1.0, 2.0], "g": [0, 0, 1, 1]}
    with pytest.raises(ValueError, match=r"Column 'y' is 1e\+200 in row 2 .*divide"):
        MixedEffects("y ~ x + (1 | g)").design(table)
    table = {"y": table["x"], "x": table["y"], "g": table["g"]}
    with pytest.raises(ValueError, match=r"Column 'x' is 1e\+200 in row 2 .*divide"):
        MixedEffects("y ~ x + (1 | g)").design(table)


def test_side_features_name_themselves() -> None:
    ratings = Ratings.from_frame(FRAME, user_features={"user": [1, 2], "age": [30.0, 1e200]})
    features = Features(numeric=["age"])
    model = MatrixFactorization(1, user_mean=Linear(), user_features=features)
    with pytest.raises(ValueError, match=r"Column 'age' of .* is 1e\+200 in row 1 .*divide"):
        fit_als(model, ratings, key=0)
