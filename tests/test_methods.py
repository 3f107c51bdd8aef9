"""The table of what methods can't do: each no is refused in its words, each yes works."""

import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
import test_contract as contract
import toys

import probmf
from probmf import (
    MLP,
    Bernoulli,
    Gaussian,
    Linear,
    MatrixFactorization,
    MixedEffects,
    Network,
    NormalWishart,
)
from probmf.run.checks import METHODS, TABLE, Row

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
HALF = dist.HalfNormal(1.0)
ROWS = {row.title: row for row in TABLE}
#: A model for each row of the table, and its data.
EXAMPLES: dict[str, tuple[Any, Any]] = {
    "MatrixFactorization": (contract.PLAIN, toys.ratings()),
    "scales with a prior": (contract.LEARNED, toys.ratings()),
    "NormalWishart prior of factors": (
        MatrixFactorization(2, Gaussian(0.5), user_scale=NormalWishart()), toys.ratings()
    ),
    "a joint prior of several scales": (
        MatrixFactorization(
            2, Gaussian(0.5), user_scale=dist.LogNormal(np.zeros(8), 1.0).to_event(1)
        ), toys.ratings(),
    ),
    "neither factors nor biases": (
        MatrixFactorization(
            0, Gaussian(0.5), user_bias=False, item_bias=False, intercept="learned"
        ), toys.ratings(),
    ),
    "ratings without a quadratic bound": (contract.COUNTS, toys.ratings("counts")),
    "ratings without a latent variable": (contract.ROBUST, toys.ratings()),
    "ratings that are neither Gaussian nor yes/no": (contract.LEVELS, toys.ratings("levels")),
    "weak zeros": (contract.WEAK, toys.ratings("implicit")),
    "prior means from features": (
        MatrixFactorization(2, Gaussian(0.5), user_mean=Linear()), toys.ratings("features")
    ),
    "a prior for each row's scale beside a prior mean": (
        MatrixFactorization(
            2, Gaussian(0.5), user_mean=Linear(), user_scale=dist.HalfNormal(np.ones(8))
        ), toys.ratings("features"),
    ),
    "prior means by a network": (
        MatrixFactorization(2, Gaussian(0.5), user_mean=MLP((3,))), toys.ratings("features")
    ),
    "MixedEffects": (contract.MIXED, toys.mixed()),
    "responses that are neither Gaussian nor log-normal": (
        contract.MIXED_YES, toys.mixed("yes/no")
    ),
    "a formula for the noise": (
        MixedEffects("y ~ x + (1 | g)", scale_formula="~ x"), toys.mixed()
    ),
    "weights of rows": (
        MixedEffects("y ~ x + (1 | g)", weights="w"), toys.mixed() | {"w": np.arange(1.0, 41.0)}
    ),
    "Student-t and Laplace priors of coefficients": (
        MixedEffects("y ~ x + (1 | g)", priors={"coefficients": {"x": dist.StudentT(3.0)}}),
        toys.mixed(),
    ),
    "Network": (contract.LAYERS, toys.examples()),
    "network whose scales have a prior": (
        Network((3,), likelihood=Gaussian(0.3), weight_scale=HALF), toys.examples()
    ),
}  # fmt: skip
#: The least work of each method.
OPTIONS: dict[str, dict[str, Any]] = {
    "fit_als": {"key": 0, "num_sweeps": 2},
    "fit_map": {"key": 0, "num_epochs": 2},
    "fit_variational": {"key": 0, "num_sweeps": 2},
    "sample_gibbs": {"key": 0, "num_warmup": 2, "num_samples": 4, "num_chains": 1},
    "sample_nuts": {"key": 0, "num_warmup": 2, "num_samples": 4, "num_chains": 1},
    "fit_svi": {"key": 0, "num_steps": 2, "num_samples": 4},
    "fit_laplace": {"key": 0, "num_samples": 4},
    "fit_marginal": {},
    "sample_marginal": {"key": 0, "num_samples": 4},
}


def serves(method: str, row: Row) -> bool:
    return row.family in METHODS[method]


NO = [(row.title, method) for row in TABLE for method in row.no]
YES = [
    (row.title, method)
    for row in TABLE for method in METHODS
    if serves(method, row) and method not in row.no
]  # fmt: skip
#: What the contract asks everything of.
CELLS = {
    (row.title, cell.method.__name__)
    for cell in contract.CELLS.values() for row in TABLE
    if isinstance(cell.model, row.family) and row.found(cell.model)
}  # fmt: skip
#: Methods for every NumPyro model, which a property hardly touches.
GENERAL = {"sample_nuts", "fit_svi", "fit_laplace"}
FEATURES, NOISE = "prior means from features", "a formula for the noise"
HEAVY, WEIGHTS = "Student-t and Laplace priors of coefficients", "weights of rows"
#: What other tests of every suite do, by `test_side_features.py`, `test_gibbs_features.py`,
#: `test_gibbs_runs.py`, `test_marginal_likelihood.py`, `test_threads.py`, `test_mixed_offsets.py`
#: and `test_heavy_priors.py`.
ELSEWHERE = {
    (FEATURES, "fit_als"), (FEATURES, "fit_map"), (FEATURES, "sample_gibbs"),
    ("NormalWishart prior of factors", "sample_gibbs"),
    (NOISE, "fit_marginal"), (NOISE, "sample_marginal"), (WEIGHTS, "fit_marginal"),
    (HEAVY, "fit_marginal"), (HEAVY, "sample_marginal"),
}  # fmt: skip


def test_the_table_is_whole() -> None:
    assert set(YES) >= ELSEWHERE
    assert EXAMPLES.keys() == ROWS.keys()
    assert {row.title for row in TABLE if row.title == row.family.__name__} == {
        "MatrixFactorization", "MixedEffects", "Network"
    }  # fmt: skip
    for row in TABLE:
        foreign = {method for method in METHODS if not serves(method, row)}
        assert (row.no.keys() == foreign) == (row.title == row.family.__name__)
        assert row.title == row.family.__name__ or not row.no.keys() & foreign
        assert row.found(EXAMPLES[row.title][0])
    assert set(YES) >= {cell for cell in CELLS if cell not in NO}
    assert not CELLS & set(NO)


@pytest.mark.parametrize(("title", "method"), NO)
def test_a_no_is_refused_in_its_words(title: str, method: str) -> None:
    (model, data), row = EXAMPLES[title], ROWS[title]
    words = row.sentence(method, row.found(model))
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        getattr(probmf, method)(model, data, **OPTIONS[method])


@pytest.mark.parametrize(
    ("title", "method"),
    [
        pytest.param(
            *pair, marks=pytest.mark.slow if pair[1] in GENERAL or pair in ELSEWHERE else ()
        )
        for pair in YES if pair not in CELLS
    ],
)  # fmt: skip
def test_a_yes_works(title: str, method: str) -> None:
    model, data = EXAMPLES[title]
    options = dict(OPTIONS[method])
    if method == "fit_laplace" and isinstance(model, MixedEffects):
        options["marginalize"] = "all" if model.likelihood.normal else ()
        if not model.likelihood.normal:
            model = dataclasses.replace(model, priors={"g_scale": 1.0})
    # NumPyro's MultivariateNormal promotes ranks.
    with jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        # Few draws and steps of toys say so.
        warnings.simplefilter("ignore")
        fit = getattr(probmf, method)(model, data, **options)
    for name, value in fit.samples.items():
        assert np.isfinite(value).all(), name


def test_a_link_that_is_not_symmetric_is_named() -> None:
    model = MatrixFactorization(2, Bernoulli("cloglog"))
    for method, words in (("fit_als", "whose loss has no"), ("sample_gibbs", "which has no")):
        with pytest.raises(ValueError, match=rf"likelihood is Bernoulli\('cloglog'\), {words}"):
            getattr(probmf, method)(model, toys.ratings("yes/no"), **OPTIONS[method])


def markdown() -> str:
    """The table and its sentences, as the docs print them."""
    notes: list[str] = []

    def cell(row: Row, method: str) -> str:
        if method not in row.no:
            return "yes" if serves(method, row) else ""
        found = row.example if " " in row.example else f"`{row.example}`"
        words = row.sentence(method, found, "the method")
        words = f"T{words[1:]}" if words.startswith("the method") else words
        if words not in notes:
            notes.append(words)
        return f"no ({notes.index(words) + 1})"

    lines = ["| | " + " | ".join(f"`{method}`" for method in METHODS) + " |"]
    lines.append("|---" * (len(METHODS) + 1) + "|")
    for row in TABLE:
        title = f"**{row.title}**" if row.title == row.family.__name__ else row.title
        lines.append(f"| {title} | " + " | ".join(cell(row, m) for m in METHODS) + " |")
    numbered = [f"{number}. {words}" for number, words in enumerate(notes, start=1)]
    return "\n".join([*lines, "", *numbered]) + "\n"


def test_the_docs_print_it() -> None:
    """`python tests/test_methods.py` writes the page anew."""
    assert PAGE.read_text(encoding="utf-8").endswith(markdown())


if __name__ == "__main__":
    head = PAGE.read_text(encoding="utf-8").partition("| | `")[0]
    PAGE.write_text(head + markdown(), encoding="utf-8")
