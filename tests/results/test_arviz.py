"""Fits as ArviZ trees."""

import uuid
from typing import Any

import arviz_base
import numpy as np
import pytest
import xarray as xr

from probmf import MatrixFactorization, Ratings


def test_groups_dims_and_coordinates(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MatrixFactorization(3), draw_ratings())
    tree = fit.to_arviz()
    assert isinstance(tree, xr.DataTree)
    assert set(tree.children) == {"point", "observed_data"}
    point = tree["point"].dataset
    assert point["user_factors"].dims == ("chain", "draw", "user", "factor")
    assert point["item_bias"].dims == ("chain", "draw", "item")
    assert point["intercept"].dims == ("chain", "draw")
    assert point.sizes["chain"] == point.sizes["draw"] == 1
    for name, value in fit.point().items():
        np.testing.assert_array_equal(point[name].values[0, 0], value)
    assert float(point["user_bias"].sel(user=5).squeeze()) == fit.point()["user_bias"][5]
    assert tree.attrs["method"] == "random"


def test_observed_data_says_whose_rating_it_is(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MatrixFactorization(3), draw_ratings())
    observed = fit.to_arviz()["observed_data"].dataset
    np.testing.assert_array_equal(observed["rating"], fit.data.rating)
    assert observed["rating"].dims == ("rating_row",)
    np.testing.assert_array_equal(observed["rated_user"], fit.data.users.decode(fit.data.user))
    np.testing.assert_array_equal(observed["rated_item"], fit.data.items.decode(fit.data.item))
    own = observed["rating"].where(observed["rated_user"] == 3, drop=True)
    assert len(own) == fit.data.user_degree[3]


@pytest.mark.parametrize(
    ("ids", "label"),
    [
        (["ann", "bob"], "bob"),
        ([uuid.UUID(int=1), uuid.UUID(int=2)], str(uuid.UUID(int=2))),
        ([(1, "a"), (2, "b")], "(2, 'b')"),
        (np.array(["2020-01-01", "2021-01-01"], "datetime64[D]"), "2021-01-01"),
    ],
)
def test_ids_become_labels(ids: Any, label: str, random_fit: Any) -> None:
    data = Ratings.from_frame({"user": ids, "item": [1, 2], "rating": [1.0, 2.0]})
    fit = random_fit(MatrixFactorization(1), data)
    point = fit.to_arviz()["point"].dataset
    assert float(point["user_bias"].sel(user=label).squeeze()) == fit.point()["user_bias"][1]


def test_terms_that_are_left_out(draw_ratings: Any, random_fit: Any) -> None:
    fit = random_fit(MatrixFactorization(0, user_bias=False), draw_ratings())
    assert set(fit.to_arviz()["point"].data_vars) == {"intercept", "item_bias"}


def test_arviz_can_use_it(draw_ratings: Any, random_fit: Any) -> None:
    tree = random_fit(MatrixFactorization(2), draw_ratings()).to_arviz()
    flat = arviz_base.extract(tree, group="point", var_names=["item_factors"])
    assert flat.sizes["sample"] == 1
    table = arviz_base.convert_to_dataset(tree, group="point")
    assert "user_bias" in table
