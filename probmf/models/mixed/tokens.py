"""The text of a formula as tokens, with errors that point into it."""

import re
from typing import NamedTuple, NoReturn

_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<name>[^\W\d]\w*|`[^`]+`)|(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)"
    r"|(?P<string>'[^']*'|\"[^\"]*\")|(?P<op>\|\||\*\*|[~|+\-*/:^()\[\]{},=%<>!&.@])"
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class FormulaError(ValueError):
    """Error in a formula; the message shows the place."""


class Token(NamedTuple):
    """A piece of the formula and where it starts."""

    kind: str
    text: str
    start: int


class FormulaReader:
    """One formula text, its tokens, and errors that point into it.

    Attributes:
        text: The formula on one line.
        tokens: Its tokens, without spaces.
        partner: For the start of each opening bracket, that of the bracket that closes it.
    """

    def __init__(self, text: str) -> None:
        """Read the tokens and pair the brackets."""
        self.text = " ".join(text.splitlines()) if "\n" in text else text
        self.tokens = self._tokens()
        self.partner = self._partners()

    def fail(self, message: str, start: int) -> NoReturn:
        """Raise a FormulaError with a caret below the place."""
        raise FormulaError(
            f"The formula can't be read: {message}\n    {self.text}\n    {' ' * start}^"
        ) from None

    def source(self, tokens: list[Token]) -> str:
        """The text that some neighbouring tokens span."""
        if not tokens:
            return ""
        return self.text[tokens[0].start : tokens[-1].start + len(tokens[-1].text)]

    def _tokens(self) -> list[Token]:
        tokens, place = [], 0
        while place < len(self.text):
            match = _TOKEN.match(self.text, place)
            if match is None:
                self.fail(f"{self.text[place]!r} is not understood here.", place)
            if match.lastgroup != "space":
                tokens.append(Token(str(match.lastgroup), match.group(), place))
            place = match.end()
        return tokens

    def _partners(self) -> dict[int, int]:
        """The start of each opening bracket and that of the bracket that closes it."""
        partner, open_brackets = {}, []
        for token in self.tokens:
            if token.text in _CLOSING:
                open_brackets.append(token)
            elif token.text in _CLOSING.values():
                if not open_brackets or _CLOSING[open_brackets[-1].text] != token.text:
                    self.fail(f"this {token.text!r} closes nothing.", token.start)
                partner[open_brackets.pop().start] = token.start
        if open_brackets:
            token = open_brackets[-1]
            self.fail(f"this {token.text!r} is never closed.", token.start)
        return partner

    def top_level(self, tokens: list[Token]) -> list[tuple[int, Token]]:
        """Those tokens that stand in no bracket, with their places in the list."""
        found, until = [], -1
        for place, token in enumerate(tokens):
            if token.start < until:
                continue
            found.append((place, token))
            if token.text in _CLOSING:
                until = self.partner[token.start] + 1
        return found

    def code(self, tokens: list[Token]) -> list[tuple[int, int]]:
        """Places within those tokens that are Python code: calls, subscripts and braces."""
        found: list[tuple[int, int]] = []
        for place, token in enumerate(tokens):
            if found and token.start < found[-1][1]:
                continue
            start = self._code_start(tokens, place)
            if start is None:
                continue
            if found and start < found[-1][1]:
                start = found.pop()[0]  # x.abs().round() is one piece
            found.append((start, self.partner[token.start] + 1))
        return found

    def outside_code(self, tokens: list[Token]) -> list[Token]:
        """Those tokens that stand in no piece of code."""
        pieces = self.code(tokens)
        return [
            token
            for token in tokens
            if not any(start <= token.start < end for start, end in pieces)
        ]

    def _code_start(self, tokens: list[Token], place: int) -> int | None:
        """The start of the code whose bracket is the token at a place; None if it is another's."""
        if tokens[place].text == "{":
            return tokens[place].start
        if tokens[place].text not in ("(", "[") or place == 0:
            return None
        callee = place - 1
        if tokens[callee].kind != "name" and tokens[callee].text not in (")", "]"):
            return None
        while callee > 1 and tokens[callee - 1].text == ".":
            callee -= 2
        if tokens[callee].kind == "name":
            return tokens[callee].start
        opened = {end: start for start, end in self.partner.items()}
        return opened.get(tokens[callee].start)
