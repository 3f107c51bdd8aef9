"""The docs need nothing from the network: formulas are MathML, and no page loads another's file."""

import re
import runpy
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[1] / "docs"
FENCED = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
MATH = "{http://www.w3.org/1998/Math/MathML}math"

pytest.importorskip("sphinx", reason="The tools of the docs are not installed: probmf[docs].")
pytest.importorskip("ziamath", reason="The tools of the docs are not installed: probmf[docs].")


def formulas() -> list[tuple[str, bool]]:
    """All formulas of the pages and docstrings, and whether each stands by itself."""
    found: list[tuple[str, bool]] = []
    examples = sorted((DOCS / "examples").glob("*.py"))
    for page in [*sorted(DOCS.rglob("*.md")), *examples]:
        text = FENCED.sub("", page.read_text())
        found += [(tex, True) for tex in re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL)]
        found += [(tex, False) for tex in re.findall(r"(?<!\$)\$([^$]+)\$(?!\$)", text)]
    for module in sorted((DOCS.parent / "probmf").rglob("*.py")):
        text = module.read_text()
        found += [(tex, False) for tex in re.findall(r":math:`(.*?)`", text, re.DOTALL)]
        blocks = re.findall(r"^( *)\.\. math::\n((?:\n|\1 +.*\n)+)", text, re.MULTILINE)
        found += [(tex, True) for _, tex in blocks]
    return found


def test_every_formula_becomes_mathml() -> None:
    mathml = runpy.run_path(str(DOCS / "mathml.py"))["mathml"]
    found = formulas()
    assert len(found) > 300
    for tex, block in found:
        element = ElementTree.fromstring(mathml(tex, block=block))
        assert element.tag == MATH
        assert element.get("display") == ("block" if block else "inline")


def test_relations_are_operators() -> None:
    mathml = runpy.run_path(str(DOCS / "mathml.py"))["mathml"]
    element = ElementTree.fromstring(mathml(r"y \sim N \mid x \in A \le b"))
    operators = [part.text for part in element.iter() if part.tag.endswith("}mo")]
    assert operators == [
        "\N{TILDE OPERATOR}",
        "\N{DIVIDES}",
        "\N{ELEMENT OF}",
        "\N{LESS-THAN OR EQUAL TO}",
    ]


@pytest.mark.parametrize(
    ("tex", "spaces"), [(r"\log p", 1), (r"2 \log_{10} r", 2), (r"\exp(x)", 0)]
)
def test_functions_stand_apart(tex: str, spaces: int) -> None:
    mathml = runpy.run_path(str(DOCS / "mathml.py"))["mathml"]
    element = ElementTree.fromstring(mathml(tex))
    assert len([part for part in element.iter() if part.tag.endswith("}mspace")]) == spaces


def test_a_command_that_is_not_known_ends_the_build() -> None:
    mathml = runpy.run_path(str(DOCS / "mathml.py"))["mathml"]
    with pytest.raises(ValueError, match="can't be converted to MathML"):
        mathml(r"\nosuch{x}")


def test_no_setting_asks_for_a_file_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    settings = runpy.run_path(str(DOCS / "conf.py"))
    assert settings["html_math_renderer"] == "mathml"
    assert "sphinx.ext.mathjax" not in settings["extensions"]
    files = [*settings["html_css_files"], *settings.get("html_js_files", [])]
    files += settings["nb_ipywidgets_js"]
    files += settings["html_static_path"]
    assert not [file for file in files if "//" in file]
    assert all((DOCS / file).is_file() for file in settings["html_static_path"])
    assert "//" not in (DOCS / "pages.css").read_text()
