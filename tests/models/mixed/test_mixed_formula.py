"""Formulas: what is read, and where a message points when it can't be."""

import re

import pytest

from probmf.likelihoods import Gaussian, NegativeBinomial
from probmf.models.mixed import FormulaError, MixedEffects
from probmf.models.mixed.formula import parse_formula, variables


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
        ("I((u > 0) | (v > 0)) + (1|`my g`)", "I((u > 0) | (v > 0))", [("1", ("my g",), True)]),
        (
            "{(u < 1) | (v < 1)} + (0 + log(x) | g)",
            "{(u < 1) | (v < 1)}",
            [("0 + log(x)", ("g",), True)],
        ),
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
        ("y ~ (1 + x z|g)", "x z|g)", "Missing operator"),
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


#: What is something else than it looks: the formula, the text from the caret on, the message.
TWICE_READ = [
    ("I(day^2)", "^2)", "a power is '**'"),
    ("{`my day` ^ 2}", "^ 2}", "a power is '**'"),
    ("np.log(x + z ^ 2)", "^ 2)", "a power is '**'"),
    ("(0 + I(t ^ 2) | g)", "^ 2) | g)", "a power is '**'"),
    ("I(a & b)", "& b)", "'&' of numbers works on their bits"),
    ("I(é > 1 | b)", "| b)", "'|' of numbers works on their bits"),
    ("I(a > 1 & b < 2)", "a > 1 & b < 2)", "a chain of comparisons"),
    ("I(0 < x < 1)", "0 < x < 1)", "a chain of comparisons"),
    ("I(~b)", "~b)", "write 1 - x"),
    ("I(!b)", "!b)", "write 1 - x"),
    ("I(not b)", "not b)", "write 1 - x"),
    ("I(a and b)", "a and b)", "do not work on columns"),
    ("I(a || b)", "|| b)", "write | between comparisons"),
    ("I(x %% 2)", "% 2)", "the remainder is %"),
    ("I(x = 1)", "x = 1)", "a comparison is '=='"),
    ("I(x if z else 0)", "x if z else 0)", "np.where"),
    ("poly(x, 2, raw=TRUE)", "TRUE)", "write True"),
    ("x**2", "x**2", "its power is I(x ** 2)"),
    ("z + x^3", "x^3", "its power is I(x ** 3)"),
    ("(x^2 | g)", "x^2 | g)", "its power is I(x ** 2)"),
    ("x*x", "x", "its power is I(x ** 2)"),
    ("z + x:x", "x", "its power is I(x ** 2)"),
    ("after - before", "before", "the difference of two columns is I(x - z)"),
    ("(after - before | g)", "before | g)", "the difference of two columns is I(x - z)"),
    ("0 + x + 1", "1", "both asked for and taken out"),
    ("(1 + x - 1 | g)", "1 | g)", "both asked for and taken out"),
    ("x - 0", "0", "expected 1 (an intercept), or 0 or -1"),
    ("x + 2", "2", "expected 1 (an intercept), or 0 or -1"),
    ("(0 + x)", "0 + x)", "a number stands by itself"),
    ("(x - 1) + z", "1) + z", "a number stands by itself"),
    ("2*x", "2*x", "write I(2 * x)"),
    ("x/10", "10", "write I(2 * x)"),
    ("x:1", "1", "write I(2 * x)"),
    ("a %in% b", "%in% b", "groups within groups are a:b"),
    ("x > 3", "> 3", "as in I(x > 0)"),
    ("[x + z]", "[x + z]", "brackets are not supported"),
    ("`1` + x", "`1` + x", "rename it in the data"),
    ("`log(x)` + log(x)", "`log(x)` + log(x)", "rename it in the data"),
]
UNSUPPORTED = [
    ("x:offset(x) + (1 | g)", "offset(x) + (1 | g)", "An offset is a term by itself"),
    ("C(lambda) + (1 | g)", "lambda) + (1 | g)", "'lambda' is a word of Python"),
    ("I(class + 1)", "class + 1)", "'class' is a word of Python"),
    ("as.factor(x)", "as.factor(x)", "'as.factor' is R's"),
    ("as.numeric(x)", "as.numeric(x)", "'as.numeric' is R's"),
    ("factor(x)", "factor(x)", "Write C(x)"),
    ("x + s(z)", "s(z)", "splines are: bs(x, df=5)"),
    ("gp(x)", "gp(x)", "splines are: bs(x, df=5)"),
    ("mo(x)", "mo(x)", "Monotonic effects are not supported"),
    ("ar(p = 1)", "ar(p = 1)", "Correlations between rows"),
    ("(s(x) | g)", "s(x) | g)", "splines are"),
    ("sqrt(x)", "sqrt(x)", "Write np.sqrt(...)"),
    ("log(nosuch(x))", "nosuch(x))", "'nosuch' is not supported"),
    ("x.abs().round()", "x.abs().round()", "put it in braces"),
    ("I(x ^)", ")", "this is read as Python, which says"),
    ("(1 | gr(g))", "(g))", "a grouping factor is a column"),
    ("(1 | factor(g))", "(g))", "a grouping factor is a column"),
    ("(1 |i| g)", "| g)", "correlations between terms"),
    ("x || z", "|| z", "stands in parentheses by itself"),
]


@pytest.mark.parametrize(("right", "marked", "message"), TWICE_READ + UNSUPPORTED)
def test_what_looks_like_something_else_is_refused(right: str, marked: str, message: str) -> None:
    formula = f"y ~ {right}"
    with pytest.raises(FormulaError, match=re.escape(message)) as caught:
        parse_formula(formula)
    text, caret = str(caught.value).splitlines()[-2:]
    assert text == f"    {formula}"
    assert formula[caret.index("^") - 4 :] == marked


@pytest.mark.parametrize(
    "right",
    [
        "I(x**2) + I((a > 1) & (b < 2)) + I(~(a > 1)) + {x % 3}",
        "a*b - a:b + (a + b)^2",
        "0 + x - 1 + (0 + x - 1 | g)",
        "lambda + Sepal.Length + `my 2` + np.sqrt(x) + x.abs() + {x.abs().round()}",
        "C(a, contr.sum) + C(k, Treatment(2)) + np.where(x > 0, x, 0) + abs(x)",
        "a/b + C(k)/b + (x | a/b)",
    ],
)
def test_what_is_plain_is_read(right: str) -> None:
    parse_formula(f"y ~ {right}")


@pytest.mark.parametrize("left", ["cbind(hits, misses)", "y | weights(w)"])
def test_parts_of_responses_that_are_not_supported(left: str) -> None:
    with pytest.raises(FormulaError, match="behind which may stand"):
        parse_formula(f"{left} ~ x")


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        ("1 + x:z + a*b", ["x", "z", "a", "b"]),
        ("np.log(x) + poly(z, 2) + scale(w)", ["x", "z", "w"]),
        ("C(a, contr.sum) + C(`b c`, levels=['u', 'v'])", ["a", "b c"]),
        ("`d e`:x + {x / 2}", ["d e", "x"]),
        ("bs(x, df=4, include_intercept=True)", ["x"]),
        ("{x.abs()}", ["x"]),
        ("log(C) + exp(np)", ["C", "np"]),
        ("1", []),
        ("0", []),
    ],
)
def test_variables(formula: str, names: list[str]) -> None:
    assert sorted(variables(formula)) == sorted(names)


def test_a_column_called_like_a_function_that_is_called() -> None:
    with pytest.raises(ValueError, match="calls 'log' and has a column of that name; rename"):
        variables("log + log(x)")


def test_arguments_of_the_model_are_checked() -> None:
    with pytest.raises(TypeError, match="of type int, expected text"):
        MixedEffects(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no response"):
        MixedEffects("~ x")
    with pytest.raises(ValueError, match="'normal'; expected one of 'gaussian', 'lognormal'"):
        MixedEffects("y ~ x", likelihood="normal")
    with pytest.raises(TypeError, match=r"likelihood is 3; .* such as Bernoulli\('probit'\)"):
        MixedEffects("y ~ x", likelihood=3)
    with pytest.raises(ValueError, match=r"both say what the noise scale is"):
        MixedEffects("y ~ x", scale_formula="~ x", likelihood=Gaussian(0.5))
    with pytest.raises(ValueError, match="begin with '~'"):
        MixedEffects("y ~ x", scale_formula="s ~ x")
    with pytest.raises(ValueError, match=r"both say what the concentration is"):
        MixedEffects("y ~ x", scale_formula="~ x", likelihood=NegativeBinomial(2.0))
    with pytest.raises(ValueError, match=r"Bernoulli\(.*\) has no second parameter"):
        MixedEffects("y ~ x", scale_formula="~ x", likelihood="bernoulli")
    with pytest.raises(TypeError, match="expected a mapping"):
        MixedEffects("y ~ x", priors=[1.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"collection of sites such as \['g_effects'\]"):
        MixedEffects("y ~ x", centered="g_effects")
