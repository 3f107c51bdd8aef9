"""The text of a formula as tokens, with errors that point into it."""

import re
from typing import NamedTuple, NoReturn

_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<name>[^\W\d]\w*|`[^`]+`)|(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)"
    r"|(?P<string>'[^']*'|\"[^\"]*\")|(?P<op>\|\||\*\*|[~|+\-*/:^()\[\]{},=%<>!&.@])"
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class FormulaError(ValueError):
    """A formula that can't be read; the message shows where."""


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
