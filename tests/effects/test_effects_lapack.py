"""LAPACK by address: the same numbers as NumPy's, and not a word on any matrix."""

import numpy as np
import pytest

from probmf.effects import lapack


@pytest.mark.parametrize("size", [0, 1, 2, 7])
def test_agrees_with_numpy_and_says_nothing(size: int, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(size)
    root = rng.normal(size=(size, size))
    wanted = root @ root.T + np.eye(size)
    vector = rng.normal(size=size)
    matrix = np.array(wanted, order="F")
    assert lapack.factor(matrix)
    np.testing.assert_allclose(np.tril(matrix), np.linalg.cholesky(wanted), atol=1e-12)
    half = lapack.solve(matrix, vector)
    both = lapack.solve(matrix, half, transpose=True)
    np.testing.assert_allclose(both, np.linalg.solve(wanted, vector), atol=1e-12)
    lapack.invert(matrix)
    np.testing.assert_allclose(np.tril(matrix), np.tril(np.linalg.inv(wanted)), atol=1e-12)
    assert capfd.readouterr() == ("", "")
