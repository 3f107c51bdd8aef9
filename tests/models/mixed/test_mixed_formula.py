"""Formulas: what is read, and where a message points when it can't be."""

import re

import pytest

from probmf.models.mixed import FormulaError, MixedEffects
from probmf.models.mixed.columns import variables
from probmf.models.mixed.formula import parse_formula


@pytest.mark.parametrize(
    ("right", "population", "groups"),
    [
        ("1 + x", "1 + x", []),
        ("(1 | g)", "1", [("1", ("g",), True)]),
        ("0 + x + (1 | g)", "0 + x", [("1", ("g",), True)]),
        ("x + (1 | g) - 1", "x - 1", [("1", ("g",), True)]),
        ("-1 + x", "- 1 + x", []),
        ("a*b + poly(x, 2) + (1 + x | g)", "a*b + poly(x, 2)", [("1 + x", ("g",), True)]),
        ("(x || g)", "1", [("x", ("g",), False)]),
        ("(1 | a:b)", "1", [("1", ("a", "b"), True)]),
        ("(1 | a/b)", "1", [("1", ("a",), True), ("1", ("a", "b"), True)]),
        (
            "(1 | a/b/c)",
            "1",
            [("1", ("a",), True), ("1", ("a", "b"), True), ("1", ("a", "b", "c"), True)],
        ),
        ("(x | (a:b)/c)", "1", [("x", ("a", "b"), True), ("x", ("a", "b", "c"), True)]),
        ("I(u | v) + (1|`my g`)", "I(u | v)", [("1", ("my g",), True)]),
        ("{u | v} + (0 + log(x) | g)", "{u | v}", [("0 + log(x)", ("g",), True)]),
        ("(a + b)**2 + (1|g)+(1|h)", "(a + b)**2", [("1", ("g",), True), ("1", ("h",), True)]),
    ],
)
def test_what_is_read(
    right: str, population: str, groups: list[tuple[str, tuple[str, ...], bool]]
) -> None:
    parsed = parse_formula(f"y ~ {right}")
    assert parsed.response == "y"
    assert parsed.population == population
    assert [(g.left, g.factors, g.correlated) for g in parsed.groups] == groups


def test_names_and_line_breaks() -> None:
    parsed = parse_formula("`reaction time` ~ x\n  + (1 | g)")
    assert (parsed.response, parsed.population) == ("reaction time", "x")
    assert parse_formula("~ 1 + t").response is None


@pytest.mark.parametrize(
    ("formula", "marked", "message"),
    [
        ("y x", "", "there is no '~'"),
        ("y ~ x ~ z", "~ z", "a second '~'"),
        ("y ~ ", "", "a term is missing here"),
        ("y ~ x + + z", "+ z", "a term is missing here"),
        ("y ~ (1|g) -", "", "a term is missing here"),
        ("y ~ x $ z", "$ z", "'$' is not understood"),
        ("y ~ x + (1 | g", "(1 | g", "is never closed"),
        ("y ~ x) + z", ") + z", "closes nothing"),
        ("y ~ log(x]", "]", "closes nothing"),
        ("y ~ x z + (1|g)", "x z + (1|g)", "Missing operator"),
        ("y ~ .", ".", "name the columns"),
        ("y ~ x*(1|g)", "|g)", "stands in parentheses by itself"),
        ("y ~ x | g", "| g", "stands in parentheses by itself"),
        ("y ~ a + (b + (1|g))", "|g))", "one pair of parentheses"),
        ("y ~ ((1|g))", "|g))", "one pair of parentheses"),
        ("y ~ x - (1|g)", "(1|g)", "can't be subtracted"),
        ("y ~ (1|g|h)", "|h)", "one '|'"),
        ("y ~ (|g)", "|g)", "nothing stands before the bar"),
        ("y ~ (1|)", ")", "a grouping factor is missing"),
        ("y ~ (1|a:)", ")", "a grouping factor is missing"),
        ("y ~ (1|a + b)", "+ b)", "one group term for each factor"),
        ("y ~ (1|a*b)", "*b)", "one group term for each factor"),
        ("y ~ (1|(a + b))", "+ b))", "expected ':' or '/'"),
        ("y ~ (1|a(b))", "(b))", "expected ':' or '/'"),
        ("y ~ (1|3)", "3)", "expected the name of a grouping column"),
        ("y ~ (1 + x z|g)", "1 + x z|g)", "Missing operator"),
        ("log(y) ~ x", "log(y) ~ x", "likelihood='lognormal'"),
        ("y + z ~ x", "y + z ~ x", "must be one column"),
        ("1 ~ x", "1 ~ x", "must be one column"),
    ],
)
def test_the_message_points_at_the_place(formula: str, marked: str, message: str) -> None:
    with pytest.raises(FormulaError, match=re.escape(message)) as caught:
        parse_formula(formula)
    text, caret = str(caught.value).splitlines()[-2:]
    assert text == f"    {formula}"
    assert formula[caret.index("^") - 4 :] == marked


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        ("1 + x:z + a*b", ["x", "z", "a", "b"]),
        ("np.log(x) + poly(z, 2) + scale(w)", ["x", "z", "w"]),
        ("C(a, contr.sum) + C(`b c`, levels=['u', 'v'])", ["a", "b c"]),
        ("`d e`:x + {x / 2}", ["d e", "x"]),
        ("bs(x, df=4, include_intercept=True)", ["x"]),
        ("{x.abs()}", ["x"]),
        ("1", []),
        ("0", []),
    ],
)
def test_variables(formula: str, names: list[str]) -> None:
    assert sorted(variables(formula)) == sorted(names)


def test_arguments_of_the_model_are_checked() -> None:
    with pytest.raises(TypeError, match="of type int, expected text"):
        MixedEffects(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no response"):
        MixedEffects("~ x")
    with pytest.raises(ValueError, match="'normal'; expected one of 'gaussian', 'lognormal'"):
        MixedEffects("y ~ x", likelihood="normal")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="begin with '~'"):
        MixedEffects("y ~ x", scale_formula="s ~ x")
    with pytest.raises(ValueError, match="needs a noise scale"):
        MixedEffects("y ~ x", scale_formula="~ x", likelihood="bernoulli")
    with pytest.raises(TypeError, match="expected a mapping"):
        MixedEffects("y ~ x", priors=[1.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"collection of sites such as \['g_effects'\]"):
        MixedEffects("y ~ x", centered="g_effects")
