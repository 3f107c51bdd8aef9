"""Generalized mixed models of lme4's and MixedModels.jl's tests, with their maxima.

The values are in `glmm-values.json` of the shared data: what an independent calculation found, in
the field `optimum`, by method.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from scipy.special import gammaln

from probmf import MixedEffects

type Table = dict[str, np.ndarray]


class Published(NamedTuple):
    """A model with its data.

    Attributes:
        model: The model.
        table: Its data.
        constant: What is to be added to its -2 log L to have that of the file.
    """

    model: MixedEffects
    table: Table
    constant: float = 0.0


def values(shared_data: Path) -> dict[str, dict[str, Any]]:
    """Models of the file by name."""
    found = json.loads((shared_data / "glmm-values.json").read_text())["models"]
    return {one["id"]: one for one in found}


def num_nodes(method: str) -> int:
    """Nodes of a method: of "AGHQ 9" nine."""
    return int(method.split()[1]) if method.startswith("AGHQ") else 1


def _read(path: Path) -> Table:
    return {name: own.to_numpy() for name, own in pq.read_table(path).to_pandas().items()}


def _cbpp(path: Path, formula: str) -> Published:
    """Trials one by one: the likelihood lacks the binomial coefficients."""
    table = _read(path / "lme4" / "cbpp.parquet")
    size, cases = table["size"].astype(int), table["incidence"].astype(int)
    rows = np.repeat(np.arange(len(size)), size)
    nth = np.concatenate([np.arange(n) for n in size])
    single = {
        "y": (nth < cases[rows]).astype(int), "period": table["period"][rows],
        "herd": table["herd"][rows], "obs": rows,
    }  # fmt: skip
    ways = np.sum(gammaln(size + 1) - gammaln(cases + 1) - gammaln(size - cases + 1))
    return Published(MixedEffects(formula, likelihood="bernoulli"), single, -2.0 * float(ways))


def _yes(file: str, response: str, yes: str, formula: str) -> Callable[..., Published]:
    def make(path: Path, one: dict[str, Any]) -> Published:
        del one
        table = _read(path / file)
        table["y"] = (table[response].astype(str) == yes).astype(int)
        if "age" in table:
            spread = 2 * np.std(table["age"], ddof=1)
            table["age_s"] = table["age"] / spread
            table["ch"] = (table["livch"].astype(str) != "0").astype(int)
            table["age"] = np.round(table["age"], 2)
        return Published(MixedEffects(formula, likelihood="bernoulli"), table)

    return make


def _woman(formula: str) -> Callable[..., Published]:
    return _yes("lme4/contraception.parquet", "use", "Y", formula)


def _counts(file: str, formula: str, *factors: str) -> Callable[..., Published]:
    def make(path: Path, one: dict[str, Any]) -> Published:
        del one
        table = _read(path / file)
        for name in factors:
            table[name] = table[name].astype(str)
        return Published(MixedEffects(formula, likelihood="poisson"), table)

    return make


def _goldstein(path: Path, one: dict[str, Any]) -> Published:
    del path
    y = np.asarray(one["inline"]["y"])
    table = {"y": y, "g": np.arange(len(y)) % 10}
    return Published(MixedEffects("y ~ 1 + (1|g)", likelihood="poisson"), table)


def _paired(path: Path, one: dict[str, Any]) -> Published:
    del path, one
    pair = np.arange(1, 101)
    first = pair > 50
    second = ((pair >= 43) & (pair <= 50)) | (pair >= 69)
    table = {
        "y": np.concatenate([first, second]).astype(int), "id": np.tile(pair, 2),
        "group": np.repeat([1, 0], 100),
    }  # fmt: skip
    return Published(MixedEffects("y ~ 1 + group + (1|id)", likelihood="bernoulli"), table)


VERBAGG = "y ~ 1 + Anger + Gender + btype + situ + (1|id) + (1|item)"
AGE = "age + I(age**2)"
AGE_S = "age_s + I(age_s**2)"

#: By name in the file.
MODELS: dict[str, Callable[[Path, dict[str, Any]], Published]] = {
    "cbpp-laplace": lambda path, _: _cbpp(path, "y ~ 1 + period + (1|herd)"),
    "cbpp-agq25": lambda path, _: _cbpp(path, "y ~ 1 + period + (1|herd)"),
    "cbpp-olre": lambda path, _: _cbpp(path, "y ~ 1 + period + (1|herd) + (1|obs)"),
    "verbagg-mode": _yes(
        "lme4/verbagg.parquet", "r2", "Y", VERBAGG.replace("situ", "situ + mode")
    ),
    "verbagg-nomode": _yes("lme4/verbagg.parquet", "r2", "Y", VERBAGG),
    "grouseticks": _counts(
        "cogsci/grouseticks.parquet",
        "TICKS ~ 1 + YEAR + cHEIGHT + (1|INDEX) + (1|BROOD) + (1|LOCATION)", "YEAR",
    ),
    "contra-district": _woman(f"y ~ 1 + {AGE} + livch + urban + (1|district)"),
    "contra-urban-district": _woman(f"y ~ 1 + {AGE} + urban + livch + (1|urban:district)"),
    "contra-simple": _woman("y ~ 1 + age + livch + urban + (1|district)"),
    "contra-slope": _woman("y ~ 1 + age + livch + urban + (1 + urban|district)"),
    "contra-vignette-ic": _woman(f"y ~ 1 + {AGE_S} + urban + livch + (1|district)"),
    "contra-vignette-bc": _woman(f"y ~ 1 + {AGE_S} + urban + ch + (1|district)"),
    "contra-vignette-bc-int": _woman(f"y ~ 1 + {AGE_S} + urban + ch + age_s:ch + (1|district)"),
    "contra-vignette-cross": _woman(
        f"y ~ 1 + {AGE_S} + urban + ch + age_s:ch + (1|urban:district)"
    ),
    "culcita-laplace": lambda path, _: _culcita(path),
    "culcita-agq": lambda path, _: _culcita(path),
    "toenail-visit": _yes(
        "lme4/toenail.parquet", "outcome", "moderate or severe",
        "y ~ 1 + treatment + visit + treatment:visit + (1|patientID)",
    ),
    "mmmec": _counts(
        "lme4/mmmec.parquet", "deaths ~ 1 + uvb + offset(np.log(expected)) + (1|region)"
    ),
    "goldstein": _goldstein,
    "paired-se": _paired,
}  # fmt: skip


def _culcita(path: Path) -> Published:
    table = _read(path / "lme4" / "culcitalogreg.parquet")
    table["ttt"] = table["ttt"].astype(str)
    return Published(MixedEffects("predation ~ 1 + ttt + (1|block)", likelihood="bernoulli"), table)


#: Methods whose maximum the file has.
METHODS: dict[str, list[str]] = {
    "cbpp-laplace": ["Laplace"],
    "cbpp-agq25": ["AGHQ 25", "AGHQ 9"],
    "cbpp-olre": ["Laplace"],
    "verbagg-mode": ["Laplace"],
    "verbagg-nomode": ["Laplace"],
    "grouseticks": ["Laplace"],
    "contra-district": ["Laplace", "AGHQ 9", "AGHQ 25"],
    "contra-urban-district": ["Laplace", "AGHQ 7", "AGHQ 25"],
    "contra-simple": ["Laplace"],
    "contra-slope": ["Laplace"],
    "contra-vignette-ic": ["Laplace"],
    "contra-vignette-bc": ["Laplace"],
    "contra-vignette-bc-int": ["Laplace"],
    "contra-vignette-cross": ["Laplace"],
    "culcita-laplace": ["Laplace"],
    "culcita-agq": ["AGHQ 7", "AGHQ 9", "AGHQ 25", "AGHQ 60 (converged)"],
    "toenail-visit": ["Laplace", "AGHQ 5", "AGHQ 10", "AGHQ 20", "AGHQ 50", "AGHQ 100"],
    "mmmec": ["AGHQ 11", "Laplace"],
    "goldstein": ["Laplace", "AGHQ 11", "AGHQ 25"],
    "paired-se": ["AGHQ 21"],
}
#: Models whose factors the file codes in another way; the likelihood is the same.
RECODED = {"verbagg-mode", "contra-simple", "contra-slope"} | {
    name for name in MODELS if "vignette" in name
}
