"""Python code within formulas, such as `I(x ** 2)`: the columns it uses, and what it may not hold.

Formulas look like R's, but what stands within a call or braces is Python. What would be wrong or
something else there is refused, with the place.
"""

import ast
import builtins
import keyword
import re
from typing import Any, NamedTuple, NoReturn

import numpy as np
from formulaic.transforms import TRANSFORMS

from probmf.models.mixed.tokens import FormulaReader

_QUOTED = re.compile(r"`([^`]+)`")
_TYPES = frozenset({"True", "False", "None", "int", "float", "str", "bool"})

_SMOOTH = "A smooth term is not supported; splines are: bs(x, df=5) or cr(x, df=5)."
_CORRELATED = "Correlations between rows are not supported, but those of group terms are."
_MEASURED = "Errors in columns are not supported; use the column as it is."
#: Calls that belong to a response, in other packages' formulas.
RESPONSE_CALLS = ("trials", "weights", "cens", "trunc", "se", "cbind", "mvbind")
RESPONSE_ADVICE = (
    "The response is one column, behind which may stand trials(n), cens(c) or cens(c, upper). "
    "Weights are MixedEffects(..., weights='w'); several responses are not supported."
)
_LEVELS = "Write C(x) for the levels of a column, or make it a categorical column of the data."
#: What to do instead of calls that other packages' formulas have.
ADVICE = {
    "offset": (
        "An offset is a term by itself, outside of group terms, as in "
        "y ~ x + offset(np.log(n)) + (1 | g)."
    ),
    **dict.fromkeys(("s", "t2", "te", "ti", "gp", "lo", "ns", "rcs", "pspline"), _SMOOTH),
    **dict.fromkeys(("ar", "ma", "arma", "cosy", "unstr", "sar", "car", "fcor"), _CORRELATED),
    **dict.fromkeys(("me", "mi"), _MEASURED),
    **dict.fromkeys(RESPONSE_CALLS, RESPONSE_ADVICE),
    **dict.fromkeys(("factor", "ordered", "relevel", "as.factor", "as.ordered"), _LEVELS),
    "mo": "Monotonic effects are not supported: write C(x), or x as a number.",
    "Q": "Write the name in backticks: `my column`.",
    "ifelse": "Write np.where(condition, a, b).",
}


class CodeNames(NamedTuple):
    """Names in a piece of code.

    Attributes:
        columns: All names but those that are called, modules (`np.log`) and types, in order.
        called: What is called by its name, such as "log".
        categories: Columns within `C(...)`.
    """

    columns: list[str]
    called: set[str]
    categories: set[str]


def names_in(expression: str) -> CodeNames:
    """Columns and functions that a piece of code mentions; names in backticks are columns."""
    quoted: dict[str, str] = {}

    def stand_in(match: re.Match[str]) -> str:
        return quoted.setdefault(match.group(1), f"_quoted_{len(quoted)}")

    tree = ast.parse(_QUOTED.sub(stand_in, expression), mode="eval")
    original = {name: column for column, name in quoted.items()}
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    functions = [call.func for call in calls]
    modules = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.value.id in ("np", "contr")
    ]

    def columns(within: ast.AST) -> list[str]:
        nodes = [
            node
            for node in ast.walk(within)
            if isinstance(node, ast.Name) and node not in [*functions, *modules]
        ]
        nodes.sort(key=lambda node: node.col_offset)
        return [original.get(node.id, node.id) for node in nodes if node.id not in _TYPES]

    called = {function.id for function in functions if isinstance(function, ast.Name)}
    levels = [columns(call) for call in calls if getattr(call.func, "id", None) == "C"]
    return CodeNames(columns(tree), called, {name for names in levels for name in names})


def check_code(reader: FormulaReader, start: int, end: int) -> None:
    """Refuse code that is no Python, or that is not what it looks like."""
    # Columns in backticks leave names of the same length, so that places remain places.
    text = _QUOTED.sub(lambda match: "_" * len(match.group()), reader.text[start:end])
    try:
        tree = ast.parse(f"({text})", mode="eval")
    except SyntaxError as error:
        _refuse_syntax(reader, start, end, error)
    _Checks(reader, f"({text})", start - 1).visit(tree)


def _refuse_syntax(reader: FormulaReader, start: int, end: int, error: SyntaxError) -> NoReturn:
    inside = [token for token in reader.tokens if start <= token.start < end]
    for token, after in zip(inside, [*inside[1:], None], strict=True):
        if token.kind != "name" or not keyword.iskeyword(token.text):
            continue
        if after is not None and after.text == ".":
            name = reader.text[token.start : end].split("(")[0]
            advice = ADVICE.get(name, "Compute it as a column of the data first.")
            reader.fail(f"{name!r} is R's, and what stands here is Python. {advice}", token.start)
        reader.fail(
            f"{token.text!r} is a word of Python, in which code such as C(...) is read, and can't "
            "name a column there; rename it in the data and the formula.",
            token.start,
        )
    foreign = {
        "||": "write | between comparisons in parentheses", "!": "write 1 - x, or !=",
        "%": "the remainder is % and whole division //",
        "&": "write & between comparisons in parentheses",
    }  # fmt: skip
    for token, before in zip(inside[1:], inside, strict=False):
        if token.text == "||" or (token.text in "%&" and before.text == token.text):
            reader.fail(f"this is read as Python: {foreign[token.text]}.", token.start)
        if token.text == "!":
            reader.fail(f"this is read as Python: {foreign['!']}.", token.start)
    place = start - 1 + (error.offset or 1) - 1
    reader.fail(f"this is read as Python, which says: {error.msg}.", min(max(place, start), end))


class _Checks(ast.NodeVisitor):
    """Walks through code and refuses what is not what it looks like."""

    def __init__(self, reader: FormulaReader, text: str, start: int) -> None:
        self.reader, self.text, self.start = reader, text, start

    def _fail(self, message: str, node: Any, column: int | None = None) -> NoReturn:
        offset = node.col_offset if column is None else column
        place = len(self.text.encode()[:offset].decode())
        self.reader.fail(message, self.start + place)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = function.id if isinstance(function, ast.Name) else "I"
        if name in ADVICE or not is_function(name):
            self._fail(_unknown(name), node)
        if isinstance(function, ast.Name) and name == "I" and node.keywords:
            self._fail("'=' names an argument; a comparison is '=='.", node.keywords[0])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.BitXor):
            self._fail(
                "'^' is Python's exclusive or here; a power is '**', as in I(x ** 2).",
                node, self._operator("^", node.left),
            )  # fmt: skip
        if isinstance(node.op, ast.BitAnd | ast.BitOr):
            symbol = "&" if isinstance(node.op, ast.BitAnd) else "|"
            if not (_is_condition(node.left) and _is_condition(node.right)):
                self._fail(
                    f"{symbol!r} of numbers works on their bits; compare them first, each in "
                    f"parentheses: (a > 0) {symbol} (b > 0).",
                    node, self._operator(symbol, node.left),
                )  # fmt: skip
        self.generic_visit(node)

    def _operator(self, symbol: str, left: ast.expr) -> int:
        return self.text.encode().index(symbol.encode(), left.end_col_offset)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) > 1:
            self._fail("a chain of comparisons is not supported: (0 < x) & (x < 1).", node)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Invert) and not _is_condition(node.operand):
            self._fail("'~' of a number works on its bits; write 1 - x.", node)
        if isinstance(node.op, ast.Not):
            self._fail("'not' does not work on columns; write 1 - x, or !=.", node)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self._fail("'and', 'or' do not work on columns: (a > 0) & (b > 0), or '|'.", node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._fail("'if' does not work on columns: np.where(condition, a, b).", node)

    def visit_Name(self, node: ast.Name) -> None:
        python = {"TRUE": "True", "FALSE": "False", "NULL": "None"}.get(node.id)
        if python:
            self._fail(f"this is read as Python: write {python}.", node)


def is_function(name: str) -> bool:
    """True for a function that formulas may call: a transform of formulaic's, or Python's own."""
    return callable(TRANSFORMS.get(name, getattr(builtins, name, None)))


def _is_condition(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
        return True
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return True
    return isinstance(node, ast.Compare)


def _unknown(name: str) -> str:
    advice = ADVICE.get(name)
    if advice is None and callable(getattr(np, name, None)):
        advice = f"Write np.{name}(...)."
    if advice is None:
        known = ", ".join(sorted(name for name in TRANSFORMS if callable(TRANSFORMS[name])))
        advice = f"There are {known} and NumPy's, as in np.sqrt(x); else compute a column first."
    return f"{name!r} is not supported. {advice}"
