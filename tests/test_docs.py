"""The README shows what the start page runs; examples are pages; warnings end the build."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[str]:
    """The fenced python blocks of a page."""
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def test_what_the_readme_shows_is_executed_on_the_start_page() -> None:
    assert blocks("README.md")
    assert blocks("README.md") == blocks("docs/index.md")


def test_every_example_is_a_page_with_a_title_and_tells_its_cost() -> None:
    contents = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    examples = sorted((ROOT / "docs" / "examples").glob("*.py"))
    assert examples
    for path in examples:
        source = path.read_text(encoding="utf-8")
        assert source.startswith("# %% [markdown]\n# # "), path.name
        assert source.endswith("resources())\n"), path.name
        assert f"\nexamples/{path.stem}\n" in contents, f"{path.name} is in no table of contents"


CELLS = """
import sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
exec(open(sys.argv[1]).read(), {})
for cell in (
    "import warnings; warnings.warn('old', DeprecationWarning)",
    "warnings.warn('The draws should not be relied upon as they are: R-hat is 2.')",
    "# DiagnosticWarning\\nwarnings.warn('The draws should not be relied upon as they are.')",
    "# DiagnosticWarning\\nwarnings.warn('Something else.')",
):
    print(type(shell.run_cell(cell).error_in_exec).__name__, file=sys.stderr)
"""


def test_warnings_are_errors_in_the_kernels_of_the_docs() -> None:
    pytest.importorskip("IPython", reason="The tools of the docs are not installed: probmf[docs].")
    start = ROOT / "docs" / "jupyter" / "kernels" / "python3" / "start.py"
    run = subprocess.run(
        [sys.executable, "-c", CELLS, str(start)], capture_output=True, check=True, text=True
    )
    found = run.stderr.split()
    assert found == ["DeprecationWarning", "UserWarning", "NoneType", "UserWarning"]
