"""The numbers in the summary are right, and stand below each other."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from probmf.data import Ratings


def cells(ratings: Ratings) -> dict[str, str]:
    lines = ratings.summary().splitlines()
    pairs = (re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines[1:] if line)
    return dict(pairs)


def test_text(films: Ratings) -> None:
    lines = films.summary().splitlines()
    assert lines[:7] == [
        "6 ratings of 3 items by 3 users",
        "",
        "density         66.7 %",
        "ratings         from 1 to 5, mean 3.333, standard deviation 1.491",
        "weights         from 0 to 2; weighted mean rating 3.364",
        "times           from 1 to 9",
        "columns         fold",
    ]
    assert lines[7:9] == ["known of users  age", "known of items  title"]
    assert lines[9].startswith("memory  ")
    assert lines[11:] == [
        "ratings per  min   5%  50%  95%  max  mean  without",
        "user           1  1.1    2  2.9    3     2        0",
        "item           1  1.1    2  2.9    3     2        0",
    ]


def test_numbers_against_numpy() -> None:
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, [300, 2000], size=(20_000, 2)), axis=0)
    rating = rng.normal(size=len(pairs))
    ratings = Ratings.from_frame(
        {"user": pairs[:, 0], "item": pairs[:, 1], "rating": rating}, items=range(2500)
    )
    found = cells(ratings)
    assert ratings.summary().startswith(f"{len(pairs):,} ratings of 2,500 items by 300 users\n")
    assert found["density"] == f"{100 * len(pairs) / (300 * 2500):.3g} %"
    assert f"mean {rating.mean():.4g}, standard deviation {rating.std():.4g}" in found["ratings"]
    degree = np.bincount(pairs[:, 1], minlength=2500)
    expected = [*np.quantile(degree, [0, 0.05, 0.5, 0.95, 1]), degree.mean(), (degree == 0).sum()]
    shown = [float(cell.replace(",", "")) for cell in found["item"].split()]
    np.testing.assert_allclose(shown, expected, atol=0.051)


def test_columns_are_aligned() -> None:
    ratings = Ratings.from_frame(
        {"user": np.repeat([1, 2], [1, 1500]), "item": np.arange(1501)}, rating=None
    )
    table = ratings.summary().splitlines()[-3:]
    ends = [[match.end() for match in re.finditer(r"\S+", line)][-7:] for line in table]
    assert ends[0] == ends[1] == ends[2]
    assert len(set(map(len, table))) == 1


def test_yes_and_no(films: Ratings) -> None:
    assert cells(films.binarize(4))["ratings"] == "0 or 1; 50.0 % are 1 (3)"
    assert cells(films.binarize(9))["ratings"] == "0 or 1; 0.0 % are 1 (0)"


@pytest.mark.parametrize("count", [1, 1000])
def test_memory_counts_arrays(count: int) -> None:
    ratings = Ratings.from_frame({"user": np.arange(count), "item": np.arange(count)}, rating=None)
    size = count * (4 + 4 + 8 + 8 + 8)
    expected = f"{size} bytes" if size < 1024 else f"{size / 1024:.1f} KiB"
    assert cells(ratings)["memory"] == expected


def test_long_lists_are_cut() -> None:
    frame = {"item": [1]} | {f"genre{i}": [0] for i in range(12)}
    ratings = Ratings.from_frame({"user": [1], "item": [1]}, rating=None, item_features=frame)
    assert cells(ratings)["known of items"].endswith("genre6, genre7 and 4 more")


def test_repr(films: Ratings) -> None:
    assert repr(films) == "Ratings(6 ratings of 3 items by 3 users, from 1 to 5)"
    one = Ratings.from_frame({"user": ["a"], "item": [1]}, rating=None)
    assert repr(one) == "Ratings(1 rating of 1 item by 1 user, from 1 to 1)"


def test_html(films: Ratings) -> None:
    html = films._repr_html_()
    root = ET.fromstring(html)
    assert root.tag == "div"
    rows = [[cell.text for cell in row] for row in root.iter("tr")]
    assert ["density", "66.7 %"] in rows
    assert rows[-1] == ["item", "1", "1.1", "2", "2.9", "3", "2", "0"]
    assert not re.search(r"<(script|link|img|style)|https?:", html)


def test_html_is_escaped() -> None:
    frame = {"user": [1], "item": [1], "<b>": [1]}
    html = Ratings.from_frame(frame, rating=None, keep=["<b>"])._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
