"""The python blocks of the README and the docs run as printed."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def python_blocks(page: Path) -> list[tuple[int, str]]:
    """Line number and source of every fenced python block of a page."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)), m.group(1)) for m in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", [p for p in PAGES if python_blocks(p)], ids=lambda p: p.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__page__"}
    for line, source in python_blocks(page):
        with warnings.catch_warnings():
            # A block whose draws are few, to be quick, says that this warning is to be expected.
            action: Any = "ignore" if "DiagnosticWarning" in source else "error"
            warnings.filterwarnings(action, "The draws should not be relied upon")
            # Blank lines in front make a traceback's line number the page's own.
            exec(compile("\n" * line + source, str(page), "exec"), namespace)


def test_the_readme_has_a_block_to_run() -> None:
    assert python_blocks(ROOT / "README.md")
