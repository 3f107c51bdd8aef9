"""How ratings are compared, and the tables that many tests read."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from probmf.data import Ratings

# A busy machine is no reason to fail.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Ratings, Ratings], None]:
    """Raise unless two ratings agree in everything, the order of the rows included."""

    def compare(left: Ratings, right: Ratings) -> None:
        assert left.users == right.users
        assert left.items == right.items
        for name in ("user", "item", "rating", "weight", "time"):
            first, second = getattr(left, name), getattr(right, name)
            assert (first is None) == (second is None), name
            if first is not None:
                np.testing.assert_array_equal(first, second, err_msg=name)
        assert list(left.columns) == list(right.columns)
        for name, values in left.columns.items():
            np.testing.assert_array_equal(values, right.columns[name], err_msg=name)
        assert left.user_features == right.user_features
        assert left.item_features == right.item_features

    return compare


@pytest.fixture
def films() -> Ratings:
    """Six ratings by three users of three films, with everything that a table can have."""
    return Ratings.from_frame(
        {
            "user": ["cho", "ann", "ann", "bob", "bob", "ann"],
            "item": [30, 10, 20, 10, 30, 30],
            "rating": [5.0, 3.0, 4.0, 1.0, 2.0, 5.0],
            "weight": [1.0, 0.0, 2.0, 1.0, 1.0, 0.5],
            "time": [4, 9, 9, 7, 7, 1],
            "fold": [1, 2, 3, 1, 2, 3],
        },
        weight="weight",
        time="time",
        keep=["fold"],
        user_features={"user": ["ann", "bob"], "age": [33, 44]},
        item_features={"item": [30, 10], "title": ["Clue", "Alien"]},
    )
