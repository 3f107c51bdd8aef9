"""Formulas with group terms, as in lme4: `y ~ 1 + x + (1 + x | g)`.

The group terms are split off here; what is left, and the left side of each group term, is a formula
for formulaic. Positions in messages are those of the text that the user wrote.
"""

import re
from typing import NamedTuple

from formulaic import Formula, SimpleFormula
from formulaic.errors import FormulaicError

from probmf.models.mixed.code import RESPONSE_ADVICE, RESPONSE_CALLS, check_code, names_in
from probmf.models.mixed.operators import Terms, check_meaning, check_operators
from probmf.models.mixed.tokens import FormulaReader, Token

#: Calls that may stand behind the response, and the likelihood's parameters that they give by row.
KNOWN = {"trials": ("trials",), "cens": ("censored", "upper")}


class GroupFormula(NamedTuple):
    """A group term `(left | right)`.

    Attributes:
        left: What varies by group, a formula for formulaic such as "1 + x".
        factors: The columns whose combinations are the groups: ("g",), or ("a", "b") for `a:b`.
        correlated: False for `||`.
        text: The term as written.
    """

    left: str
    factors: tuple[str, ...]
    correlated: bool
    text: str


class ParsedFormula(NamedTuple):
    """A formula in its parts.

    Attributes:
        response: Column of the response; None if nothing stands before `~`.
        population: The part without group terms, for formulaic.
        groups: The group terms, `/` expanded.
        known: Columns that belong to the response, by what they are: "trials" in
            `y | trials(n) ~ ...`, "censored" and "upper" in `y | cens(c, b) ~ ...`.
        offset: The sum of all `offset(...)` as a formula of one column, empty without any.
    """

    response: str | None
    population: str
    groups: tuple[GroupFormula, ...]
    offset: str = ""
    known: tuple[tuple[str, str], ...] = ()

    @property
    def with_gaps(self) -> list[str]:
        """Columns that only some rows need: upper ends of intervals."""
        return [column for site, column in self.known if site == "upper"]

    @property
    def parts(self) -> tuple[str, ...]:
        """Formulas of columns, for formulaic."""
        own = (self.population, *(term.left for term in self.groups))
        return (*own, self.offset) if self.offset else own


def parse_formula(text: str) -> ParsedFormula:
    """Split a formula into response, population part and group terms.

    `(1 | a/b)` becomes `(1 | a) + (1 | a:b)`. A FormulaError shows the place that can't be read.

    Example:
        >>> parse_formula("y ~ x + (1 | school/class)").groups[1].factors
        ('school', 'class')
    """
    if not isinstance(text, str):
        raise TypeError(
            f"The formula is of type {type(text).__name__}, expected text such as "
            "'y ~ 1 + x + (1 | g)'."
        )
    reader = FormulaReader(text)
    tildes = [token for token in reader.outside_code(reader.tokens) if token.text == "~"]
    if not tildes:
        reader.fail("there is no '~' between the response and the terms.", len(reader.text))
    if len(tildes) > 1:
        reader.fail("there is a second '~'.", tildes[1].start)
    place = reader.tokens.index(tildes[0])
    left, known = _split_known(reader, reader.tokens[:place])
    response = _response(reader, left)
    population: Terms = []
    groups: list[GroupFormula] = []
    offsets: list[str] = []
    for sign, tokens in _additive_terms(reader, reader.tokens[place + 1 :]):
        if _is_offset(reader, tokens):
            offsets.append(_offset(reader, sign, tokens))
            continue
        bar = _bar_outside_calls(reader, tokens)
        if bar is None:
            population.append((sign, tokens))
            continue
        if tokens[0].text != "(" or reader.partner[tokens[0].start] != tokens[-1].start:
            reader.fail(
                "a group term stands in parentheses by itself, joined to the others with '+': "
                "'x + (1 + x | g)'.",
                bar.start,
            )
        if sign == "-":
            reader.fail("a group term can't be subtracted; leave it out.", tokens[0].start)
        groups += _group_terms(reader, tokens)
    _check_side(reader, population)
    joined = " ".join(f"{sign} {reader.source(tokens)}" for sign, tokens in population)
    total = offsets[0] if len(offsets) == 1 else " + ".join(f"({one})" for one in offsets)
    return ParsedFormula(
        response, joined.removeprefix("+ ") or "1", tuple(groups),
        f"0 + {{{total}}}" if offsets else "", known,
    )  # fmt: skip


def simple_formula(text: str) -> SimpleFormula:
    """The terms of a part without group terms, as formulaic reads them."""
    return Formula(text)


def unquote(name: str) -> str:
    """A column's name without the backticks that let it hold any character."""
    return name[1:-1] if name.startswith("`") else name


def _response(reader: FormulaReader, tokens: list[Token]) -> str | None:
    if not tokens:
        return None
    if len(tokens) > 1 or tokens[0].kind != "name":
        advice = (
            "Compute it as a column of the data first (for log(y), likelihood='lognormal' with y "
            "is the same model); quote other names with backticks."
        )
        if any(token.text in RESPONSE_CALLS for token in tokens):
            advice = RESPONSE_ADVICE
        reader.fail(
            f"the response must be one column, but {reader.source(tokens)!r} stands before '~'. "
            + advice,
            tokens[0].start,
        )
    return unquote(tokens[0].text)


def _split_known(
    reader: FormulaReader, tokens: list[Token]
) -> tuple[list[Token], tuple[tuple[str, str], ...]]:
    """The response, and the columns within `trials(...)` or `cens(...)` that stand behind it."""
    if len(tokens) < 3 or tokens[1].text != "|" or tokens[2].text not in KNOWN:
        return tokens, ()
    call, inside, commas = tokens[2].text, tokens[4:-1:2], tokens[5:-1:2]
    if (
        [token.text for token in tokens[3:4]] != ["("]
        or not 1 <= len(inside) == len(commas) + 1 <= len(KNOWN[call])
        or any(token.kind != "name" for token in inside)
        or any(token.text != "," for token in commas)
    ):
        reader.fail(
            {
                "trials": "expected one column within trials(...), as in 'y | trials(n) ~ x'; the "
                "same number for all rows is likelihood=Binomial(10).",
                "cens": "expected one column within cens(...), as in 'y | cens(c) ~ x', or two, "
                "the second of upper ends of intervals: 'y | cens(c, upper) ~ x'.",
            }[call],
            tokens[2].start,
        )
    return tokens[:1], tuple(
        (site, unquote(token.text)) for site, token in zip(KNOWN[call], inside, strict=False)
    )


def _additive_terms(reader: FormulaReader, tokens: list[Token]) -> Terms:
    end = tokens[-1].start + len(tokens[-1].text) if tokens else len(reader.text)
    terms: Terms = []
    sign, first = "+", 0
    for place, token in [*reader.top_level(tokens), (len(tokens), Token("op", "+", end))]:
        if token.kind != "op" or token.text not in "+-":
            continue
        if place > first:
            terms.append((sign, tokens[first:place]))
        elif place > 0 or not tokens:
            reader.fail("a term is missing here.", token.start)
        sign, first = token.text, place + 1
    return terms


def _is_offset(reader: FormulaReader, tokens: list[Token]) -> bool:
    """True for `offset(...)` as a term by itself."""
    if len(tokens) < 2 or tokens[0].text != "offset" or tokens[1].text != "(":
        return False
    return reader.partner[tokens[1].start] == tokens[-1].start


def _offset(reader: FormulaReader, sign: str, tokens: list[Token]) -> str:
    """The code within an offset."""
    if sign == "-":
        reader.fail("an offset is added; for the difference write offset(-x).", tokens[0].start)
    if len(tokens) == 3:
        reader.fail("an offset is a column, or code such as np.log(x).", tokens[-1].start)
    check_code(reader, tokens[2].start, tokens[-1].start)
    return reader.source(tokens[2:-1])


def _bar_outside_calls(reader: FormulaReader, tokens: list[Token]) -> Token | None:
    """The first `|` that belongs to a group term: not that of Python code in a call."""
    bars = (token for token in reader.outside_code(tokens) if token.text in ("|", "||"))
    return next(bars, None)


def _group_terms(reader: FormulaReader, tokens: list[Token]) -> list[GroupFormula]:
    inside = tokens[1:-1]
    bars = [place for place, token in reader.top_level(inside) if token.text in ("|", "||")]
    if not bars:
        bar = _bar_outside_calls(reader, tokens)
        reader.fail("a group term has one pair of parentheses.", bar.start if bar else 0)
    if len(bars) > 1:
        reader.fail(
            "a group term has one '|'; correlations between terms, (1 |i| g), are not supported.",
            inside[bars[1]].start,
        )
    left, right = inside[: bars[0]], inside[bars[0] + 1 :]
    if not left:
        reader.fail("nothing stands before the bar; write (1 | g).", inside[bars[0]].start)
    _check_side(reader, _additive_terms(reader, left))
    return [
        GroupFormula(
            reader.source(left), factors, inside[bars[0]].text == "|", reader.source(tokens)
        )
        for factors in _GroupingReader(reader, right, tokens[-1].start).read()
    ]


def _check_side(reader: FormulaReader, terms: Terms) -> None:
    check_operators(reader, terms)
    for _, tokens in terms:
        source = reader.source(tokens)
        try:
            parsed = Formula(source)
        except FormulaicError as error:
            first = re.sub(r"\x1b\[[\d;]*m|[⧛⧚]", "", str(error)).splitlines()[0]
            if "__formulaic_variables_available__" in first:
                first = "'.' for all columns is not supported; name the columns."
            reader.fail(first, tokens[0].start)
        except SyntaxError:
            braces = f"this code can't be read where it stands; put it in braces: {{{source}}}."
            reader.fail(braces, tokens[0].start)
        if not isinstance(parsed, SimpleFormula):
            reader.fail(f"{source!r} has several parts.", tokens[0].start)
    check_meaning(reader, terms)


class _GroupingReader:
    """Right side of a group term: names joined by `:` and `/`, with parentheses."""

    def __init__(self, reader: FormulaReader, tokens: list[Token], end: int) -> None:
        self.reader, self.tokens, self.end, self.place = reader, tokens, end, 0

    def read(self) -> list[tuple[str, ...]]:
        factors = self._nested()
        if self.place < len(self.tokens):
            token, before = self.tokens[self.place], self.tokens[self.place - 1].text
            each = " Write one group term for each factor: (1 | a) + (1 | b)."
            quoted = (
                f" A name that holds other characters stands in backticks: (1 | `{before}...`)."
            )
            hints = {
                ".": quoted,
                "-": quoted,
                "+": each,
                "*": each,
                "(": " Calls such as gr(g), mm(g, h) and factor(g) are not supported here: a "
                "grouping factor is a column.",
            }
            self.reader.fail(
                "expected ':' or '/' between grouping factors, or ')'." + hints.get(token.text, ""),
                token.start,
            )
        return factors

    def _peek(self) -> str:
        return self.tokens[self.place].text if self.place < len(self.tokens) else ""

    def _nested(self) -> list[tuple[str, ...]]:
        found = self._crossed()
        while self._peek() == "/":
            self.place += 1
            # a/b is a + a:b, and (a/b)/c nests within all of what stands before.
            found = found + [_union(found[-1], inner) for inner in self._crossed()]
        return found

    def _crossed(self) -> list[tuple[str, ...]]:
        found = self._atom()
        while self._peek() == ":":
            self.place += 1
            found = [_union(outer, inner) for outer in found for inner in self._atom()]
        return found

    def _atom(self) -> list[tuple[str, ...]]:
        if self.place >= len(self.tokens):
            self.reader.fail("a grouping factor is missing here.", self.end)
        token = self.tokens[self.place]
        if token.text == "(":
            self.place += 1
            found = self._nested()
            if self._peek() != ")":
                self.reader.fail(
                    "expected ':' or '/' between grouping factors, or ')'.",
                    self.tokens[self.place].start,
                )
            self.place += 1
            return found
        if token.kind != "name":
            self.reader.fail("expected the name of a grouping column.", token.start)
        self.place += 1
        return [(unquote(token.text),)]


def _union(outer: tuple[str, ...], inner: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(outer + inner))


def variables(formula: str) -> list[str]:
    """Columns that a part of a formula mentions, in order.

    All names but those that are called and those formulaic knows (poly, np).

    Example:
        >>> variables("1 + x + np.log(z) + C(`my column`)")
        ['x', 'z', 'my column']
    """
    found: list[str] = []
    called: set[str] = set()
    for factor in [factor for term in simple_formula(formula) for factor in term.factors]:
        if factor.eval_method.value == "lookup":
            found.append(unquote(factor.expr))
        elif factor.eval_method.value == "python":
            names = names_in(factor.expr)
            found += names.columns
            called |= names.called
    both = [name for name in found if name in called]
    if both:
        raise ValueError(
            f"The formula part {formula!r} calls {both[0]!r} and has a column of that name; rename "
            "the column in the data and the formula."
        )
    return list(dict.fromkeys(found))


def categorical(formula: str) -> set[str]:
    """Columns that a part of a formula has within C(...)."""
    codes = [
        factor.expr
        for term in simple_formula(formula)
        for factor in term.factors
        if factor.eval_method.value == "python"
    ]
    return {name for code in codes for name in names_in(code).categories}
