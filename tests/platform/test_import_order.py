"""NumPyro works in whatever order it, ArviZ and probmf are imported."""

import subprocess
import sys

import pytest

#: Every module of NumPyro is found as an attribute of the one above it.
WHOLE = """
import sys, numpyro
for name, module in tuple(sys.modules.items()):
    package, _, attribute = name.rpartition(".")
    if package.split(".")[0] == "numpyro":
        assert hasattr(sys.modules[package], attribute), name
"""
#: Fails where the modules below numpyro.distributions are no attributes of it.
SAMPLE = """
import numpy as np
from probmf import MixedEffects, sample_marginal
table = {"y": np.sin(np.arange(30.0)), "g": np.arange(30) % 6}
sample_marginal(MixedEffects("y ~ 1 + (1 | g)"), table, key=0, num_samples=50)
"""


def run(code: str) -> str:
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    return found.stderr


def test_arviz_before_numpyro_breaks_numpyro() -> None:
    # Upstream's fault; when this fails, the healing in probmf.numpyro_setup may go.
    code = "import arviz_base, numpyro.distributions, numpyro.infer\n" + WHOLE
    assert "AssertionError: numpyro.distributions." in run(code)


@pytest.mark.slow
def test_sample_with_arviz_first_as_isort_orders_it() -> None:
    assert run("import arviz_base, numpyro.distributions, numpyro.infer\n" + SAMPLE + WHOLE) == ""


@pytest.mark.parametrize(
    "modules",
    [
        ("arviz_base", "probmf.data", "probmf.models", "numpyro.distributions"),
        ("numpyro.distributions", "arviz_base", "probmf.results"),
        ("probmf", "arviz_base", "probmf.inference", "numpyro.distributions"),
        *(
            pytest.param(
                ("probmf", "arviz_base", f"probmf.{package}", "numpyro.distributions"),
                marks=pytest.mark.slow,
            )
            for package in ("likelihoods", "models", "results", "run")
        ),
    ],
    ids=" ".join,
)
def test_numpyro_is_whole_in_every_order(modules: tuple[str, ...]) -> None:
    assert run("\n".join(f"import {module}" for module in modules) + WHOLE) == ""


def test_a_look_at_the_version_waits_for_nothing() -> None:
    code = """
import sys
sys.argv = ["probmf", "--version"]
from probmf.cli import app
try:
    app()
except SystemExit as end:
    assert end.code == 0
loaded = {"jax", "numpyro", "numba", "pandas", "scipy"} & sys.modules.keys()
assert not loaded, loaded
"""
    assert run(code) == ""
