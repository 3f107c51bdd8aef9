"""Saved fits of every kind, read; a formula from a file runs no code but what only computes.

A formula is Python code, and a file may come from anybody.
"""

import ast
import re
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from formulaic.transforms import TRANSFORMS

from probmf.models.mixed import MixedEffects
from probmf.models.mixed.formula import simple_formula
from probmf.results.mixed_fit import MixedFit
from probmf.results.network_fit import NetworkFit
from probmf.results.ratings_fit import RatingsFit
from probmf.results.storage import as_table, read_fit, unreadable

#: Parts of expressions that can do nothing but compute.
PLAIN = (
    ast.Expression, ast.Name, ast.Load, ast.Constant, ast.UnaryOp, ast.BinOp, ast.unaryop,
    ast.operator, ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop, ast.keyword, ast.List, ast.Tuple,
    ast.Dict, ast.Starred,
)  # fmt: skip
#: Strings that these transforms take are column names or further code.
UNSAFE = frozenset({"Q", "hashed"})


def refuse_foreign_code(model: MixedEffects) -> None:
    """Refuse formulas that call anything but formulaic's transforms and NumPy's ufuncs."""
    for parsed in (model.parsed, model.parsed_scale):
        if parsed is None:
            continue
        for part in parsed.parts:
            for term in simple_formula(part):
                for factor in term.factors:
                    if factor.eval_method.value == "python" and not _is_plain(factor.expr):
                        raise ValueError(
                            f"the formula holds {factor.expr!r}, which could run any code; from "
                            "files only formulaic's transforms and functions such as np.log are "
                            "computed"
                        )


def _is_plain(expression: str) -> bool:
    tree = ast.parse(re.sub(r"`[^`]+`", "column", expression), mode="eval")
    return all(_is_plain_node(node) for node in _outside_of_functions(tree))


def _outside_of_functions(tree: ast.AST) -> list[ast.AST]:
    """All nodes but those that name a ufunc of NumPy's, such as np.log."""
    found = [tree]
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(tree, ast.Call) and node is tree.func and _is_ufunc(node)):
            found += _outside_of_functions(node)
    return found


def _is_plain_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name):
            return node.func.id in TRANSFORMS and node.func.id not in UNSAFE
        return _is_ufunc(node.func) or _is_contrast(node.func)
    if isinstance(node, ast.Attribute):
        return _is_contrast(node)
    return isinstance(node, PLAIN)


def _is_ufunc(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("np", "numpy")
        and isinstance(getattr(np, node.attr, None), np.ufunc)
    )


def _is_contrast(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "contr"
        and not node.attr.startswith("_")
    )


def load(path: str | PathLike[str]) -> Any:
    """Read a fit that `save` wrote.

    Args:
        path: The directory.

    Returns:
        The fit, of the class that was saved: `RatingsFit`, `MixedFit` or `NetworkFit`. Its
        predictions are those of the fit that was saved, bit for bit.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If a file is missing, truncated, altered or not of this package, or a formula
            calls anything but formulaic's transforms and functions of NumPy's.

    Example:
        >>> import tempfile
        >>> from probmf import MatrixFactorization, Ratings, fit_als
        >>> table = {"user": ["a", "a", "b"], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
        >>> fit = fit_als(MatrixFactorization(1), Ratings.from_frame(table), key=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fit.save(f"{folder}/fit")
        ...     again = load(f"{folder}/fit")
        >>> again.recommend("b", k=1).item.tolist()
        [[2]]
    """
    kind, fields = read_fit(path)
    try:
        if kind == "MixedFit":
            refuse_foreign_code(fields["model"])
            fields["data"] = as_table(fields["data"])
            return MixedFit(design=fields["model"].design(fields["data"]), **fields)
        return {"RatingsFit": RatingsFit, "NetworkFit": NetworkFit}[kind](**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(Path(path), error) from error
