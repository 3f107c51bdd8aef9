"""Every program of the package lowers for accelerators, on a machine that has none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import toys

SCRIPT = Path(toys.__file__).with_name("lowered.py")


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param(["als"], id="some"),
        pytest.param([], id="all", marks=pytest.mark.slow),
    ],
)
def test_programs_lower_for_cuda_and_tpu(cells: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *cells], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["failed"] == []
    # Cells share programs: of the first there are some in any case.
    assert set(cells) <= set(found["programs"])
    assert next(iter(found["programs"].values())) > 0


def test_a_program_that_calls_back_is_found() -> None:
    """The check itself fails where it should."""
    source = """
import jax, lowered, numpy as np
jax.jit = lowered.jit
f = jax.jit(lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), "float32"), x))
f(np.float32(1))
print(*lowered._failed)
"""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True,
        cwd=SCRIPT.parent,
    )  # fmt: skip
    assert "for cuda" in done.stdout
    assert "for tpu" in done.stdout
