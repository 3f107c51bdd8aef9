"""Every file in examples/ runs, from a folder of its own."""

import runpy
import warnings
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        # An example whose draws are few, to be quick, says that this warning is to be expected.
        action: Any = "ignore" if "DiagnosticWarning" in path.read_text() else "error"
        warnings.filterwarnings(action, "The draws should not be relied upon")
        runpy.run_path(str(path), run_name="__main__")
