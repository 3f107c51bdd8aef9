"""The report of a fit: a file that needs no other, read by a parser and by a browser."""

import base64
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from rings import slow
from typer.testing import CliRunner

from probmf import Bernoulli, Gaussian, MatrixFactorization, Ratings
from probmf.cli import app
from probmf.models import MixedEffects
from probmf.report import write_report
from probmf.report.shared import surprises
from probmf.results import History, MixedFit, RatingsFit, Sampling

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
STYLE = Path(__file__).parents[1] / "probmf" / "report" / "style.css"
SHAPE = (2, 50)


class Page(HTMLParser):
    """Tags with their attributes, and the text of headings and cells."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open:
            self.texts.append((self.open[-1], data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def words(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if tag in tags]


def ratings(binary: bool = False) -> tuple[Ratings, Ratings]:
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((14, 11)) < 0.7)
    values = rng.integers(0, 2, len(user)) if binary else np.round(rng.normal(3, 1, len(user)), 1)
    titles = {"item": np.arange(11), "title": [f"<b>Film & {n}" for n in range(11)]}
    table = {"user": user, "item": item, "rating": values.astype(float)}
    return Ratings.from_frame(table, item_features=titles).split(key=0, test_fraction=0.3)


def factorization(kind: str) -> RatingsFit:
    """A fit made of numbers: "point", "draws", "binary" or "weak zeros"."""
    rng = np.random.default_rng(1)
    data = ratings(kind == "binary")[0]
    model = MatrixFactorization(
        2, Bernoulli() if kind == "binary" else Gaussian(0.8),
        unobserved_weight=0.1 * (kind == "weak zeros"),
    )  # fmt: skip
    shapes = model.site_shapes(data.num_users, data.num_items)
    if kind != "draws":
        values = {site: 0.5 * rng.normal(size=shape) for site, shape in shapes.items()}
        history = History(np.array([9.0, 5.0]), np.array([1.0, 0.9]), np.array([0.1, 0.2]), 2,
                          "tol", "sweep")  # fmt: skip
        return RatingsFit.from_point(model, data, {"intercept": 3.0, **values}, method="als",
                                     history=history)  # fmt: skip
    samples: dict[str, Any] = {"intercept": np.full(SHAPE, 3.0)}
    for site, shape in shapes.items():
        samples[site] = rng.normal(0.2, 0.3, (*SHAPE, *shape))
    run = Sampling({"energy": rng.normal(size=SHAPE)}, 10, 0.1)
    return RatingsFit(model, data, samples, "nuts", sampling=run)


def table(count: int = 60) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    return {"y": rng.normal(5, 2, count), "x": rng.normal(size=count),
            "g": [f"group {n % 6}" for n in range(count)]}  # fmt: skip


def mixed(kind: str) -> MixedFit:
    rng = np.random.default_rng(3)
    model = MixedEffects("y ~ x + (1 + x | g)")
    data = table()
    empty = MixedFit(model, model.design(data), {"noise_scale": np.ones((1, 1))}, "")
    shape = (1, 1) if kind == "point" else SHAPE
    samples = {site: np.abs(rng.normal(1, 0.1, (*shape, *own)))
               for site, own in empty.site_shapes.items()}  # fmt: skip
    samples["g_correlation"] = np.broadcast_to(np.eye(2), (*shape, 2, 2))
    run = None if kind == "point" else Sampling({}, 10, 0.1)
    return MixedFit(model, empty.design, samples, "made", sampling=run, data=data)


def held_out(kind: str, fit: Any) -> Any:
    if isinstance(fit, MixedFit):
        return table() | {"g": ["unheard of", *table()["g"][1:]]}
    return ratings(kind == "binary")[1]


CASES = {
    "factorization": (factorization, "point", False), "draws": (factorization, "draws", True),
    "binary": (factorization, "binary", True), "weak zeros": (factorization, "weak zeros", True),
    "mixed": (mixed, "draws", True), "mixed point": (mixed, "point", False),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The report of a case, written once."""
    folder = tmp_path_factory.mktemp("report")

    @cache
    def write(name: str) -> Path:
        make, kind, tested = CASES[name]
        fit = make(kind)
        path = folder / f"{name}.html"
        assert write_report(fit, path, test=held_out(kind, fit) if tested else None) == path
        return path

    return write


@pytest.fixture(params=slow(CASES, "weak zeros", "factorization"))
def page(request: pytest.FixtureRequest, written: Callable[[str], Path]) -> Page:
    return Page(written(request.param))


def test_every_picture_is_in_the_file_and_told_of(page: Page) -> None:
    pictures = page.all("img")
    assert pictures
    for own in pictures:
        source = own["src"] or ""
        assert source.startswith("data:image/svg+xml;base64,")
        assert len(own["alt"] or "") > 20
        drawn = base64.b64decode(source.partition(",")[2]).decode()
        assert "<svg" in drawn
        # What a picture holds is in it, too.
        assert not re.findall(r"(?:href|src)=\"(?!data:|#)", drawn)
    assert len({own["alt"] for own in pictures}) == len(pictures)


def test_nothing_is_asked_for_from_elsewhere(page: Page) -> None:
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("data:", "#"))
    assert "@import" not in page.source
    assert not re.findall(r"url\((?!#)", page.source)
    assert not page.all("script")


def test_headings_are_in_order_and_links_lead_to_them(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    names = {attributes["id"] for attributes in page.all("section")}
    assert {(own["href"] or "")[1:] for own in page.all("a")} == names
    assert page.words("h2") == page.words("a")
    assert page.all("html") == [{"lang": "en"}]
    assert page.open == []


def test_sections_that_were_asked_for(written: Callable[[str], Path], tmp_path: Path) -> None:
    fit, page = factorization("draws"), Page(written("draws"))
    assert page.words("h2") == [
        "Data", "Model", "Convergence", "Held-out data", "Factors", "Items", "Recommendations",
        "This fit",
    ]  # fmt: skip
    cells = page.words("td", "th")
    assert "RMSE" in cells
    assert any(text.startswith("<b>Film & ") for text in cells)  # As text, not as a tag.
    assert not page.all("b")
    user = str(fit.data.users.ids[np.argmax(fit.data.user_degree)])
    assert any(text.startswith(f"User {user}: ") for text in page.words("h3"))
    best = fit.recommend([fit.data.users.ids[np.argmax(fit.data.user_degree)]], interval=0.9, k=1)
    assert best.lower is not None
    assert best.upper is not None
    assert f"{best.lower[0, 0]:.2f} to {best.upper[0, 0]:.2f}" in cells


def test_the_same_fit_gives_the_same_file(tmp_path: Path) -> None:
    files = [write_report(mixed("point"), tmp_path / name, title="A < B") for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert Page(files[0]).words("h1") == ["A < B"]


def test_says_what_it_can_not_show(written: Callable[[str], Path], tmp_path: Path) -> None:
    told = " ".join(Page(written("factorization")).words("p"))
    assert "the error on the ratings set aside was 0.9 at the step that was kept" in told
    assert "Give test data that it has not seen" in told
    assert "This is a point estimate" in told
    zeros = Page(written("weak zeros"))
    assert "Unobserved pairs count as zeros or negatives" in " ".join(zeros.words("p"))
    assert not [text for text in zeros.words("td") if re.fullmatch(r"[\d.-]+ to [\d.-]+", text)]
    with pytest.raises(TypeError, match="fit is the path 'fit'; load the fit"):
        write_report("fit", tmp_path / "c.html")  # type: ignore[arg-type]


def test_surprise_is_the_standard_error_of_a_mean_square() -> None:
    rng = np.random.default_rng(0)
    group, noise = rng.integers(0, 4, 400), rng.normal(size=400)
    noise[group == 2] *= 3
    found = surprises(1 + noise, np.ones(400), group, 5)
    square = noise**2
    for own in range(4):
        rows = square[group == own]
        expected = np.sqrt(len(rows)) * (rows.mean() - square.mean()) / square.std()
        assert found.surprise[own] == pytest.approx(expected)
        assert found.error[own] == pytest.approx(np.sqrt(rows.mean()))
    assert np.argmax(found.surprise) == 2
    assert (found.size[4], found.surprise[4]) == (0, -np.inf)
    # No unit.
    scaled = surprises(100 * (1 + noise), 100 * np.ones(400), group, 5)
    np.testing.assert_allclose(scaled.surprise, found.surprise)


def contrast(one: str, other: str) -> float:
    """Ratio of the luminances of two colours, as WCAG 2 has it."""

    def luminance(color: str) -> float:
        part = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_told_from_its_ground() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in
               re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)]  # fmt: skip
    assert len(schemes) == 2
    for scheme in schemes:
        for ink in ("ink", "muted", "link", "warning"):
            for ground in ("paper", "tile"):
                assert contrast(scheme[ink], scheme[ground]) >= 4.5, (ink, ground)


@pytest.mark.skipif(BROWSER is None, reason="There is no Chromium to open the report in.")
@pytest.mark.parametrize("name", ["draws", "mixed"])
def test_a_browser_shows_it_without_complaint(
    name: str, written: Callable[[str], Path], tmp_path: Path
) -> None:
    page, path = written(name).read_text(encoding="utf-8"), tmp_path / "page.html"
    probe = """<script>
      const loaded = [...document.images].map((own) => own.decode().then(() => own.naturalWidth));
      Promise.all(loaded).then((widths) => { document.title = 'seen ' + widths.join(' '); });
    </script></body>"""
    path.write_text(page.replace("</body>", probe), encoding="utf-8")
    found = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         "--enable-logging=stderr", "--virtual-time-budget=20000",
         f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in found.stderr
    title = re.search(r"<title>seen ([\d ]+)</title>", found.stdout)
    assert title is not None
    widths = [int(width) for width in title[1].split()]
    assert len(widths) == page.count("<img")
    assert min(widths) > 0


def test_command(tmp_path: Path) -> None:
    test = ratings()[1]
    factorization("point").save(tmp_path / "fit")
    pa.csv.write_csv(test.to_arrow(), tmp_path / "test.csv")
    words = ["report", str(tmp_path / "fit"), "--test", str(tmp_path / "test.csv")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "RMSE" in (tmp_path / "fit.html").read_text()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "is there already. Give another name, or --force." in " ".join(result.stderr.split())
    mixed("draws").save(tmp_path / "mixed")
    pa.csv.write_csv(pa.table(table()), tmp_path / "table.csv")
    out = tmp_path / "page.html"
    words = ["report", str(tmp_path / "mixed"), "--test", str(tmp_path / "table.csv"), "--out",
             str(out), "--title", "Groups"]  # fmt: skip
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert Page(out).words("h1") == ["Groups"]
