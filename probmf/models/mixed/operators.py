"""Operators between the terms of a formula: those that are not supported, or could mean two things.

What formulaic would read in another way than R, or than it looks, is refused, with the place.
"""

from itertools import pairwise
from typing import Any

from formulaic import Formula
from formulaic.parser import DefaultFormulaParser

from probmf.models.mixed.code import check_code
from probmf.models.mixed.tokens import FormulaReader, Token

_COMPARISON = "outside of a call it is not supported; within one it is Python's, as in I(x > 0)."
#: Symbols that terms can't be joined with, and what to do.
_NO_OPERATORS = {
    **dict.fromkeys("<>=!&@", _COMPARISON),
    "%": "%in% and the like are not supported; groups within groups are a:b, or a/b for a + a:b.",
    "[": "brackets are not supported; write the terms one by one.",
    ",": "terms are joined with '+'.",
}

type Terms = list[tuple[str, list[Token]]]


def check_operators(reader: FormulaReader, terms: Terms) -> None:
    """Check one side: the population part, or what stands left of a bar."""
    for _, tokens in terms:
        _check_symbols(reader, tokens)
    _check_quoted(reader, terms)
    _check_intercept(reader, terms)


def check_meaning(reader: FormulaReader, terms: Terms) -> None:
    """Check powers, products and differences of terms that formulaic can read."""
    there: set[Any] = set()
    for sign, tokens in terms:
        source = reader.source(tokens)
        found = {str(term) for term in Formula(f"0 + {source}")} - {"1"}
        if sign == "-" and not found <= there and not _is_number(tokens):
            reader.fail(
                f"{source!r} is to be left out, but is not among the terms before it; the "
                "difference of two columns is I(x - z).",
                tokens[0].start,
            )
        there = there - found if sign == "-" else there | found
        _check_tree(reader, DefaultFormulaParser().get_ast(source), tokens[0].start)


def nesting(formula: str) -> list[str]:
    """Columns x that stand before a `/` outside of code, as in x/z for x + x:z."""
    reader = FormulaReader(formula)
    return [
        token.text.strip("`")
        for token, after in pairwise(reader.outside_code(reader.tokens))
        if after.text == "/" and token.kind == "name"
    ]


def _check_symbols(reader: FormulaReader, tokens: list[Token]) -> None:
    for start, end in reader.code(tokens):
        braces = reader.text[start] == "{"
        check_code(reader, start + braces, end - braces)
    for before, token in pairwise([Token("", "", 0), *reader.outside_code(tokens)]):
        if token.text in _NO_OPERATORS:
            reader.fail(f"{token.text!r}: {_NO_OPERATORS[token.text]}", token.start)
        power = before.text in ("**", "^")
        if token.text.startswith(".") and before.kind == "name" and token.kind == "number":
            name = before.text + token.text
            reader.fail(f"a name that holds a dot stands in backticks: `{name}`.", before.start)
        if token.kind == "number" and not power and len(tokens) > 1:
            reader.fail(
                "a number stands by itself, 1 with and 0 without an intercept; to compute with it "
                "write I(2 * x).",
                token.start,
            )


def _check_quoted(reader: FormulaReader, terms: Terms) -> None:
    """Refuse names in backticks that formulaic would take for a number or a piece of code."""
    pieces = [piece for _, tokens in terms for piece in reader.code(tokens)]
    code = {reader.text[start:end].replace(" ", "") for start, end in pieces}
    for token in [token for _, tokens in terms for token in reader.outside_code(tokens)]:
        name = token.text.strip("`")
        if token.kind == "name" and (name.isdigit() or name.replace(" ", "") in code):
            reader.fail(
                f"a column called {name!r} can't be told from a number or a call; rename it in the "
                "data and the formula.",
                token.start,
            )


def _check_intercept(reader: FormulaReader, terms: Terms) -> None:
    asked: dict[bool, Token] = {}
    for sign, tokens in terms:
        if not _is_number(tokens):
            continue
        (token,) = tokens
        if token.text not in ("0", "1") or (sign, token.text) == ("-", "0"):
            reader.fail("expected 1 (an intercept), or 0 or -1 (none).", token.start)
        asked[(sign, token.text) == ("+", "1")] = token
    if len(asked) == 2:
        later = max(asked.values(), key=lambda token: token.start)
        reader.fail("the intercept is both asked for and taken out.", later.start)


def _check_tree(reader: FormulaReader, node: Any, start: int) -> None:
    """Refuse a column's product with itself, which is the column and no power of it."""
    arguments = getattr(node, "args", None)
    if arguments is None:
        return
    symbol = node.operator.symbol
    first, second = arguments[0], arguments[-1]
    if symbol in ("**", "^") and not hasattr(first, "args"):
        _refuse_square(reader, first, start, str(second.token))
    if symbol in (":", "*", "/") and _same(first, second):
        _refuse_square(reader, second, start, "2")
    for argument in arguments:
        _check_tree(reader, argument, start)


def _same(first: Any, second: Any) -> bool:
    if hasattr(first, "args") or hasattr(second, "args"):
        return False
    return bool(first.token == second.token)


def _refuse_square(reader: FormulaReader, leaf: Any, start: int, power: str) -> None:
    reader.fail(
        f"the product of {leaf.token!r} with itself is {leaf.token!r} again, as a term; its power "
        f"is I({leaf.token} ** {power}).",
        start + (leaf.source_start or 0),
    )


def _is_number(tokens: list[Token]) -> bool:
    return len(tokens) == 1 and tokens[0].kind == "number"
