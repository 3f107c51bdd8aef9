"""What holds for the project's files as a whole."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import probmf

ROOT = Path(__file__).resolve().parents[1]

# A letter in brackets, so that this file does not hold what it forbids.
FORBIDDEN = {
    "a home folder": r"/(?:home|Users)/[\w.-]+/|(?<![\w./-])/roo[t]/|C:\\Users\\",
    "a package index": r"inde[x][-_]url|--fin[d]-links|registr[y]\s*=",
}


def tracked_files() -> list[Path]:
    """Files that git tracks, or would track if they were added now."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("This is not a git checkout, so there is no list of tracked files.")
    paths = (ROOT / name for name in listing.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for path in tracked_files():
        text = path.read_text(encoding="utf-8", errors="ignore")
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == [], f"tracked files name {what}"


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a home folder", "open('/home" + "/ann/data.csv')"),
        ("a home folder", "/Users" + "/ann/probmf"),
        ("a home folder", "cd /root" + "/probmf"),
        ("a package index", "index" + "-url = https://example.org"),
        ("a package index", "--extra-" + "index" + "-url https://example.org"),
        ("a package index", "registry" + "=https://example.org"),
    ],
)
def test_forbidden_line_is_found(what: str, line: str) -> None:
    assert re.search(FORBIDDEN[what], line)


def test_no_file_lies_in_the_checkout_of_its_author() -> None:
    here = str(ROOT.parent) + "/"
    if here.count("/") < 2:
        pytest.skip("The checkout lies at the top of the file system, so its path says nothing.")
    found = [p.name for p in tracked_files() if here in p.read_text("utf-8", errors="ignore")]
    assert found == []


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == probmf.__version__


def needed(name: str, extras: frozenset[str], found: set[tuple[str, frozenset[str]]]) -> None:
    """Add an installed package and all that it needs; what is not installed is left out."""
    if (name, extras) in found:
        return
    try:
        requirements = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    found.add((name, extras))
    for text in requirements:
        wanted = Requirement(text)
        if wanted.marker is None or any(
            wanted.marker.evaluate({"extra": extra}) for extra in (*extras, "")
        ):
            needed(canonicalize_name(wanted.name), frozenset(wanted.extras), found)


def test_the_environment_has_nothing_that_nobody_asked_for() -> None:
    """What an earlier version needed, or was installed by hand, may hide that a package is missing.

    Such an environment is made anew by `make clean setup`.
    """
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        pytest.skip("The tests run in another environment than the .venv of this checkout.")
    found: set[tuple[str, frozenset[str]]] = set()
    needed("probmf", frozenset({"large", "stream", "test", "dev", "docs"}), found)
    there = {canonicalize_name(own.metadata["Name"]) for own in metadata.distributions()}
    assert there - {name for name, _ in found} - {"pip", "setuptools", "wheel"} == set()


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!+]+", pin) for pin in pins), "pins are name==version"

    def normal(requirement: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ;]", requirement)[0]).lower()

    assert {normal(name) for name in wanted} <= {normal(pin) for pin in pins}


def test_contributing_names_tests_that_there_are() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    files = set(re.findall(r"\b(test_\w+\.py)\b", text))
    assert files <= {path.name for path in code}
    names = set(re.findall(r"(?:`|::)(test_\w+)`", text))
    assert len(names) > 10
    for name in names:
        assert any(f"def {name}(" in source for source in code.values()), name


def test_contributing_names_files_that_there_are() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    there = [
        *(ROOT / "probmf").rglob("*"),
        *(ROOT / "tests").rglob("*.py"),
        *ROOT.glob("docs/*.py"),
    ]
    places = [f"/{path.relative_to(ROOT).as_posix()}" for path in there]
    names = re.findall(r"`([\w/]+\.(?:py|css))`", text)
    assert len(names) > 50
    for name in names:
        assert any(place.endswith(f"/{name}") for place in places), name


def test_every_benchmark_has_its_place_in_the_docs() -> None:
    """`benchmarks/run.py --write-docs` writes its table there."""
    tree = ast.parse((ROOT / "benchmarks" / "run.py").read_text(encoding="utf-8"))
    given = {
        ast.unparse(node.targets[0]): node.value
        for node in tree.body if isinstance(node, ast.Assign)
    }  # fmt: skip
    pages = ast.literal_eval(given["PAGES"])
    for name in ast.literal_eval(given["NAMES"]):
        assert (ROOT / "benchmarks" / f"{name}.py").is_file(), name
        page = ROOT / "docs" / pages.get(name, "benchmarks.md")
        text = page.read_text(encoding="utf-8")
        assert 0 <= text.find(f"<!-- begin {name} -->") < text.find(f"<!-- end {name} -->"), name
