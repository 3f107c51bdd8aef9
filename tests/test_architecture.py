"""Imports point down, without circles, and stand at the top of the file."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import probmf

PACKAGE = Path(__file__).resolve().parents[1] / "probmf"

# From the bottom up. A module may import its own layer and those below.
LAYERS = (
    {"backend", "locks", "memory", "processes", "shards"},
    {
        "data",
        "effects",
        "html",
        "likelihoods",
        "metrics",
        "numpyro_setup",
        "rows",
        "settings",
    },
    {"models"},
    {"results"},
    {"run"},
    {"datasets", "diagnostics", "inference", "plots"},
    {"report"},
    {"cli"},
    {"__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


class Import(NamedTuple):
    """One imported module and where its import stands."""

    target: str
    line: int
    in_function: bool


def module_name(path: Path, package: Path) -> str:
    """`probmf/models/factorization.py` -> `probmf.models.factorization`."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_imports(source: str, module: str, *, is_package: bool = False) -> list[Import]:
    """Every import of a file, relative ones resolved; `from a import b` gives `a.b`."""
    found = []

    def visit(node: ast.AST, in_function: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                drop = node.level - is_package
                parents = module.split(".")[: -drop or None]
                base = ".".join([*parents, *filter(None, [node.module])])
            found.extend(
                Import(f"{base}.{alias.name}", node.lineno, in_function) for alias in node.names
            )
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), False)
    return found


def resolve(target: str, modules: set[str]) -> str:
    """The module that an own target lies in: `probmf.models.Gaussian` -> `probmf.models`."""
    while target not in modules and "." in target:
        target = target.rpartition(".")[0]
    return target


def layer_of(module: str) -> str:
    """`probmf.models.factorization` -> `models`; empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def faults(package: Path) -> list[str]:
    """Everything wrong with the imports of a package, one sentence each."""
    paths = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    found: list[str] = []
    graph: dict[str, set[str]] = {module: set() for module in paths}
    for module, path in paths.items():
        where = path.relative_to(package.parent).as_posix()
        is_package = path.name == "__init__.py"
        layer = layer_of(module)
        if layer and layer not in RANK:
            found.append(f"{where}: {layer} has no layer; give it one in test_architecture.py.")
        if path.stem == "utils" or "utils" in module.split("."):
            found.append(f"{where}: no module is called utils; name it after what it does.")
        for target, line, in_function in read_imports(
            path.read_text(encoding="utf-8"), module, is_package=is_package
        ):
            if target.split(".")[0] in {"pickle", "cloudpickle", "dill"}:
                found.append(f"{where}:{line}: imports {target}; loading a pickle runs code.")
            if target.split(".")[0] != package.name:
                continue
            imported = resolve(target, set(paths))
            if in_function:
                found.append(f"{where}:{line}: imports {imported} inside a function.")
            if imported != module:
                graph[module].add(imported)
            # What names no module is a public name of the package, which gathers all but the top.
            rank = RANK.get(layer_of(target), RANK["cli"])
            if layer in RANK and rank > RANK[layer]:
                found.append(f"{where}:{line}: {layer} imports upward, {target}.")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("imports go round in a circle: " + " -> ".join(error.args[1]))
    return found


def test_imports_of_the_package() -> None:
    assert faults(PACKAGE) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"data.py": "from probmf.results import Fit", "results.py": ""}, "data imports upward"),
        ({"data.py": "import probmf.results.RatingsFit"}, "data imports upward"),
        ({"models/mf.py": "from .. import cli", "cli.py": ""}, "models imports upward"),
        ({"data.py": "from probmf import Fit"}, "upward, probmf.Fit"),
        (
            {"data.py": "import probmf.metrics", "metrics.py": "from .data import x"},
            "in a circle: probmf.",
        ),
        (
            {"models/a.py": "from probmf.models import b", "models/b.py": "from . import a"},
            "in a circle: probmf.models.",
        ),
        (
            {"cli.py": "def run():\n    from probmf.data import x", "data.py": ""},
            "cli.py:2: imports probmf.data inside",
        ),
        ({"models/utils.py": ""}, "called utils"),
        ({"data.py": "import pickle"}, "imports pickle"),
        ({"data.py": "from pickle import load"}, r"imports pickle"),
        ({"brandnew.py": ""}, "brandnew has no layer"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, files: dict[str, str], message: str) -> None:
    package = write_package(tmp_path, files)
    assert [fault for fault in faults(package) if message in fault]


def test_downward_imports_pass(tmp_path: Path) -> None:
    package = write_package(
        tmp_path,
        {
            "__init__.py": "from probmf.models import Model\nfrom probmf.cli import app",
            "models/__init__.py": "from .mf import Model",
            "models/mf.py": "import numpy\nfrom ..data import Ratings\nfrom probmf import metrics",
            "data.py": "def f():\n    import matplotlib",
            "metrics.py": "",
            "cli.py": "from probmf import models",
        },
    )
    assert faults(package) == []


def write_package(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "probmf"
    for name, source in ({"__init__.py": "", "models/__init__.py": ""} | files).items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return package


def test_the_package_has_few_names_at_the_top() -> None:
    assert len(probmf.__all__) <= 35
    assert all(hasattr(probmf, name) for name in probmf.__all__)
