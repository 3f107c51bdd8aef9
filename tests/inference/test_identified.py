"""Models that the data leave open: against dense covariances, and likelihoods that have no top."""

import re
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats
from rings import slow

from probmf import (
    MixedEffects,
    fit_laplace,
    fit_marginal,
    fit_svi,
    sample_gibbs,
    sample_marginal,
    sample_nuts,
)
from probmf.inference.mixed.exact_fit import refuse_exact_fit
from probmf.inference.mixed.identifiability import confounded_variances
from probmf.models.mixed.design import Design
from probmf.run.driver import FitWarning


def dense(design: Design) -> tuple[np.ndarray, list[np.ndarray]]:
    """Coefficients' columns, and each group term's columns of all effects, (n, groups, d)."""
    n = design.data.num_observations
    found = []
    for term in design.data.groups:
        z = np.zeros((n, term.num_groups, term.z.shape[1]))
        z[np.arange(n), term.group] = term.z
        found.append(z)
    return np.asarray(design.data.population, np.float64), found


def is_confounded(design: Design) -> bool:
    """By the rank of the covariance's matrices, written out in full."""
    noise = isinstance(design.data.priors.get("noise_scale"), dist.Distribution)
    parts = [np.eye(design.data.num_observations)] if noise else []
    for term, z in zip(design.data.groups, dense(design)[1], strict=True):
        # Any basis of the columns will do for the rank; of effects without correlations, theirs.
        columns = np.linalg.qr(term.z)[0] if term.correlated else np.asarray(term.z)
        z = np.einsum("nm,nd->nmd", (z != 0).any(axis=2), columns)
        for a in range(z.shape[2]):
            for b in range(a + 1) if term.correlated else (a,):
                product = z[..., a] @ z[..., b].T
                parts.append(product + product.T)
    flat = np.stack([part.ravel() / np.linalg.norm(part) for part in parts])
    return bool(np.linalg.matrix_rank(flat, tol=1e-7) < len(flat))


X = np.random.default_rng(0).normal(size=24)
ROWS = np.arange(24)
TABLE = {
    "y": np.random.default_rng(1).normal(size=24) + X, "x": X, "t": ROWS % 2 * 1.0,
    "u": X**2, "row": ROWS, "pair": ROWS // 2, "four": ROWS // 4, "six": ROWS % 6,
    "four again": -(ROWS // 4), "twice": 2 * X + 1, "most": np.maximum(ROWS, 1),
    "by group": (ROWS // 4 % 2) * 1.0,
}  # fmt: skip

#: Formulas, and the sites that the rows do not tell apart.
FORMULAS = [
    ("y ~ x + (1 | row)", {"row_scale", "noise_scale"}),
    ("y ~ x + (1 | most)", None),
    ("y ~ x + (t | pair)", {"pair_scale", "noise_scale"}),
    ("y ~ x + (t || pair)", None),
    ("y ~ x + (1 | four) + (1 | `four again`)", {"four_scale", "four again_scale"}),
    ("y ~ x + (x | four) + (1 | `four again`)", {"four_scale", "four again_scale"}),
    ("y ~ x + (1 | four) + (1 | six)", None),
    ("y ~ x + (x | four) + (u | six)", None),
    ("y ~ x + (1 | four) + (1 | six) + (1 | four:six)", {"four:six_scale", "noise_scale"}),
    ("y ~ x + (`by group` | four)", {"four_scale"}),
    ("y ~ x + (0 + x | four) + (x | `four again`)", {"four_scale", "four again_scale"}),
]


@pytest.mark.parametrize(("formula", "sites"), FORMULAS)
@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e9])
def test_variances_that_the_rows_do_not_tell_apart(
    formula: str, sites: set[str] | None, unit: float
) -> None:
    design = MixedEffects(formula).design(TABLE | {"x": unit * X, "u": X**2 / unit})
    assert is_confounded(design) == (sites is not None)
    found = confounded_variances(design, prior=False)
    assert {site for one in found for site in one.sites} == (sites or set())
    if sites is not None:
        (one,) = found
        assert all(site in one.text for site in sites)
        assert "one choice of many with the same likelihood" in one.text
    for one in confounded_variances(design, prior=True):
        assert "the prior's word alone" in one.text


def test_columns_of_a_term_that_depend_on_each_other() -> None:
    found = confounded_variances(
        MixedEffects("y ~ x + (x + twice | four)").design(TABLE), prior=False
    )
    assert {site for one in found for site in one.sites} == {"four_scale"}
    assert "depend on each other" in found[0].text


def test_scales_that_are_given_are_known() -> None:
    for site in ("row_scale", "noise_scale"):
        model = MixedEffects("y ~ x + (1 | row)", priors={site: 1.0})
        assert confounded_variances(model.design(TABLE), prior=False) == []


@pytest.mark.parametrize("likelihood", ["bernoulli", "ordinal"])
@pytest.mark.parametrize(("formula", "sites"), FORMULAS)
def test_predictors_without_noise(formula: str, sites: set[str] | None, likelihood: Any) -> None:
    """Of other responses the predictor's covariance counts, in which there is no noise."""
    table = TABLE | {"y": (TABLE["y"] > 0) * 1}
    design = MixedEffects(formula, likelihood=likelihood).design(table)
    found = confounded_variances(design, prior=True)
    assert is_confounded(design) == bool(found)
    if sites is None or "noise_scale" in sites:
        assert not found
    else:
        assert found[0].sites == sites


@pytest.mark.parametrize(
    ("noise", "sites"),
    [
        ("~ 1", {"row_scale", "noise_coefficients[Intercept]"}),
        ("~ 1 + t", {"row_scale", "noise_coefficients[Intercept]", "noise_coefficients[t]"}),
        ("~ 1 + x", set()),
    ],
)
def test_noise_by_a_formula(noise: str, sites: set[str]) -> None:
    """Two noise levels and an effect's: three numbers for two variances. Many levels tell more."""
    model = MixedEffects("y ~ x + (1 | row)", scale_formula=noise)
    found = confounded_variances(model.design(TABLE), prior=False)
    assert {site for one in found for site in one.sites} == sites


def test_the_likelihood_is_the_same_for_every_division() -> None:
    """Of noise and an effect of each row: so says the finding, and so do the sums."""
    x, (z,) = dense(MixedEffects("y ~ x + (1 | row)").design(TABLE))
    values = []
    for share in (0.1, 0.5, 0.9):
        covariance = share * z[..., 0] @ z[..., 0].T + (1 - share) * np.eye(24)
        law = scipy.stats.multivariate_normal(np.zeros(24), covariance)
        values.append(law.logpdf(TABLE["y"] - x @ [0.1, 1.0]))
    np.testing.assert_allclose(values, values[0], rtol=1e-12)


def slope(design: Design, response: np.ndarray, *, flat: bool, together: bool) -> float:
    """Powers of a small noise scale by which the likelihood rises as it falls.

    With the effects' variances at one, or falling along.
    """
    x, terms = dense(design)
    z = np.concatenate([term.reshape(len(x), -1) for term in terms], axis=1)
    values = []
    for noise in (1e-3, 1e-4):
        level = noise if together else 1.0
        covariance = level**2 * z @ z.T + noise**2 * np.eye(len(x))
        if not flat:
            covariance += x @ x.T
            best = np.zeros(x.shape[1])
        else:
            solved = np.linalg.lstsq(
                np.linalg.solve(np.linalg.cholesky(covariance), x),
                np.linalg.solve(np.linalg.cholesky(covariance), response), rcond=None,
            )  # fmt: skip
            best = solved[0]
        factor = np.linalg.cholesky(covariance)
        rest = np.linalg.solve(factor, response - x @ best)
        values.append(-np.sum(np.log(np.diag(factor))) - 0.5 * rest @ rest)
    return float(values[1] - values[0]) / np.log(10)


STEPS = np.array([1.0, 2.0, 5.0, 7.0, 7.5, 9.0])[ROWS // 4]
#: Responses, formulas, and a word of the refusal; None where there is noise.
EXACT = [
    (np.full(24, 3.0), "y ~ 1 + (1 | four)", "is constant, 3 in all rows"),
    (np.full(24, 3.0), "y ~ 1 + (1 | row)", "is constant, 3 in all rows"),
    (STEPS, "y ~ 1 + (1 | four)", "does not vary within the groups of 'four'"),
    (STEPS, "y ~ 1 + (x | four)", "does not vary within the groups of 'four'"),
    (1 + 2 * X, "y ~ x + (1 | four)", "Coefficients and effects fit the response 'y' in every"),
    (STEPS + (ROWS % 6) ** 2, "y ~ x + (1 | four) + (1 | six)", "fit the response 'y' in every"),
    (STEPS + 0.1 * X**2, "y ~ 1 + (1 | four)", None),
    (STEPS, "y ~ 1 + (1 | six)", None),
    (TABLE["y"], "y ~ x + (1 | row)", None),
]


@pytest.mark.parametrize(("response", "formula", "words"), EXACT)
@pytest.mark.parametrize("change", [(1.0, 0.0), (1e6, 0.0), (1.0, 1e6)])
@pytest.mark.parametrize("flat", [True, False])
def test_responses_without_noise(
    response: np.ndarray, formula: str, words: str | None, change: tuple[float, float], flat: bool
) -> None:
    model = MixedEffects(formula)
    design = model.design(TABLE | {"y": change[0] * response + change[1]})
    rises = [
        slope(model.design(TABLE), response, flat=flat, together=together)
        for together in (False, True)
    ]
    if words is None:
        assert max(rises) < 0.01
        refuse_exact_fit(model, design, flat=flat)
        return
    assert max(rises) > 0.99
    words = re.escape(words.replace("3 in", f"{change[0] * 3 + change[1]:g} in"))
    for mode, lacking in ((True, "no best fit"), (False, "no posterior")):
        with pytest.raises(ValueError, match=f"{words}.*noise_scale.*going to zero.*{lacking}"):
            refuse_exact_fit(model, design, flat=flat, mode=mode)


@pytest.mark.parametrize("likelihood", ["gaussian", "lognormal"])
@pytest.mark.parametrize("formula", ["x", "x + (1 | g)"])
def test_observed_rows_fitted_exactly_beside_bounds(likelihood: str, formula: str) -> None:
    rng = np.random.default_rng(0)
    x, kind = rng.normal(size=20), np.zeros(20)
    group = np.repeat([0, 1, 2, 3], [8, 8, 3, 1])
    y = 3.0 + x + np.array([0.0, 0.5, -1.0, 0.2])[group] * ("g" in formula)
    # The last group has a bound alone, which its effect is free to keep.
    kind[[3, 9, 12, 19]] = [1, -1, 2, 1]
    bound, width = y - 0.3 * kind, np.ones(20)
    model = MixedEffects(f"y | cens(c, upper) ~ {formula}", likelihood=likelihood)

    def refuse(bound: np.ndarray) -> None:
        ends = np.stack([bound, bound + width])
        ends = np.exp(ends) if likelihood == "lognormal" else ends
        table = {"y": ends[0], "upper": ends[1], "x": x, "g": group, "c": kind}
        refuse_exact_fit(model, model.design(table), flat=True, mode=True)

    with pytest.raises(ValueError, match="fit the observed responses 'y' in every row, and keep"):
        refuse(bound)
    broken = bound.copy()
    broken[3] = y[3] + 0.3
    refuse(broken)
    width[12] = 0.5
    refuse(bound)
    width[12] = 1.0
    far = bound.copy()
    far[19] = y[19] + 5.0
    if "g" in formula:
        with pytest.raises(ValueError, match="no best fit"):
            refuse(far)
    else:
        refuse(far)
    refuse(bound + 1e-3 * rng.normal(size=20))


@pytest.mark.parametrize("last", [2, 5])
def test_groups_without_an_observed_row_do_not_count(last: int) -> None:
    """As many groups as observed rows: one of them has bounds alone."""
    table = {"y": [1.0, 1, 3, 3, 7] + 5 * [-9.0], "c": 5 * [0] + 5 * [1]}
    table["g"] = [0, 0, 1, 1, 2, 3, 3, 4, 4, last]
    model = MixedEffects("y | cens(c) ~ 1 + (1 | g)")
    with pytest.raises(ValueError, match="no best fit"):
        refuse_exact_fit(model, model.design(table), flat=True, mode=True)


def test_little_noise_is_noise() -> None:
    model = MixedEffects("y ~ 1 + (1 | four)")
    for size in (1e-2, 1e-6):
        refuse_exact_fit(model, model.design(TABLE | {"y": STEPS + size * X}), flat=True, mode=True)


def test_as_many_coefficients_as_rows() -> None:
    """Under flat priors nothing is left of the rows; with their own they are shrunk."""
    rng = np.random.default_rng(0)
    names = [f"x{place}" for place in range(9)]
    table = {name: rng.normal(size=10) for name in names} | {"g": ROWS[:10] // 2}
    table["y"] = rng.normal(size=10)
    for used, words in ((9, "as many coefficients as there are rows, 10"), (7, "in every row")):
        model = MixedEffects(f"y ~ {' + '.join(names[:used])} + (1 | g)")
        with pytest.raises(ValueError, match=words):
            refuse_exact_fit(model, model.design(table), flat=True, mode=True)
        refuse_exact_fit(model, model.design(table))
    few = MixedEffects("y ~ x1 + (1 | g)")
    refuse_exact_fit(few, few.design(table), flat=True, mode=True)


@pytest.mark.parametrize(
    ("prior", "fine"),
    [
        (dist.HalfNormal(2.0), False),
        (dist.HalfCauchy(2.0), False),
        (dist.Gamma(2.0, 1.0), False),
        (dist.LogNormal(0.0, 1.0), True),
        (dist.InverseGamma(2.0, 1.0), True),
        (dist.Uniform(0.1, 5.0), True),
        (1.0, True),
    ],
)
def test_priors_that_forbid_small_noise(prior: Any, fine: bool) -> None:
    model = MixedEffects("y ~ 1 + (1 | four)", priors={"noise_scale": prior})
    design = model.design(TABLE | {"y": STEPS})
    if fine:
        refuse_exact_fit(model, design)
    else:
        with pytest.raises(ValueError, match="no posterior"):
            refuse_exact_fit(model, design)


def test_other_responses_have_no_noise() -> None:
    model = MixedEffects("y ~ 1 + (1 | four)", likelihood="bernoulli")
    refuse_exact_fit(model, model.design(TABLE | {"y": ROWS // 4 % 2}))
    logarithmic = MixedEffects("y ~ 1 + (1 | four)", likelihood="lognormal")
    with pytest.raises(ValueError, match="does not vary within the groups"):
        refuse_exact_fit(logarithmic, logarithmic.design(TABLE | {"y": STEPS}))


def test_many_rows_are_told_by_a_few() -> None:
    rng = np.random.default_rng(0)
    g, h = rng.integers(0, 900, 20_000), rng.integers(0, 50, 20_000)
    exact = rng.normal(size=900)[g] + rng.normal(size=50)[h]
    model = MixedEffects("y ~ 1 + (1 | g) + (1 | h)")
    with pytest.raises(ValueError, match="fit the response 'y' in every row"):
        refuse_exact_fit(model, model.design({"y": exact, "g": g, "h": h}))
    noise = rng.normal(size=20_000)
    refuse_exact_fit(model, model.design({"y": exact + 1e-3 * noise, "g": g, "h": h}))


@pytest.mark.parametrize(
    "call",
    [fit_marginal, sample_marginal, sample_gibbs, sample_nuts, fit_laplace, fit_svi],
)
def test_every_method_refuses(call: Any) -> None:
    """Before it searches or samples."""
    options = {} if call is fit_marginal else {"key": 0}
    with pytest.raises(ValueError, match="noise_scale going to zero"):
        call(MixedEffects("y ~ 1 + (1 | four)"), TABLE | {"y": STEPS}, **options)


SHORT: dict[str, Any] = {"num_warmup": 20, "num_samples": 20, "num_chains": 1, "progress": False}
METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sample_marginal": (sample_marginal, {"num_samples": 200}),
    "sample_gibbs": (sample_gibbs, SHORT),
    "sample_nuts": (sample_nuts, SHORT),
    "fit_laplace": (fit_laplace, {"num_samples": 100, "marginalize": "all"}),
}


@pytest.mark.parametrize("name", slow(METHODS, "sample_nuts", "fit_laplace"))
def test_a_posterior_that_only_priors_divide(name: str) -> None:
    table = {"y": TABLE["y"], "row": ROWS}
    method, options = METHODS[name]
    with pytest.warns(FitWarning, match="row_scale and noise_scale the 24 rows.*prior's") as found:
        fit = method(MixedEffects("y ~ 1 + (1 | row)"), table, key=0, **options)
    assert [one.filename for one in found] == [__file__]
    assert str(found[0].message).startswith(fit.notes[0])
    assert "prior's word alone" in str(fit.summary()).replace("\n", " ")


def test_a_point_by_svi_that_only_priors_divide() -> None:
    table = {"y": (TABLE["y"] > 0) * 1, "four": ROWS // 4, "again": -(ROWS // 4)}
    priors: dict[str, Any] = {"four_scale": dist.LogNormal(0.0, 1.0)}
    model = MixedEffects(
        "y ~ 1 + (1 | four) + (1 | again)", likelihood="bernoulli", priors=priors, centered=False
    )
    with pytest.warns(FitWarning, match="again_scale the 24 rows tell no more.*prior's") as found:
        fit = fit_svi(model, table, key=0, guide="delta", num_steps=20, progress=False)
    assert [one.filename for one in found] == [__file__]
    assert fit.history is not None
    assert fit.notes == fit.history.notes
    assert "prior's word alone" in fit.notes[0]


@pytest.mark.parametrize(
    ("formula", "is_told"),
    [
        ("y ~ C(four) + (1 | four)", True),
        ("y ~ C(four) + x:C(four) + (1 + x | four)", True),
        ("y ~ C(four) + (1 + x | four)", False),
        ("y ~ x + (1 | four)", False),
    ],
)
def test_effects_that_are_sums_of_columns_are_told(formula: str, is_told: bool) -> None:
    design = MixedEffects(formula).design(TABLE)
    told = [one.text for one in confounded_variances(design, prior=True)]
    assert [text for text in told if "Every effect of four is a sum" in text] == told * is_told
    assert confounded_variances(design, prior=False) == []
