"""LAPACK by address: the same numbers as NumPy's, and not a word on any matrix."""

import numpy as np
import pytest

from probmf.effects import lapack


@pytest.mark.parametrize("size", [0, 1, 2, 7, lapack.TILE, 3 * lapack.TILE + 5])
def test_agrees_with_numpy_and_says_nothing(size: int, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(size)
    root = rng.normal(size=(size, size))
    wanted = root @ root.T + np.eye(size)
    vector = rng.normal(size=size)
    matrix = np.array(wanted, order="F")
    assert lapack.factor(matrix)
    np.testing.assert_allclose(np.tril(matrix), np.linalg.cholesky(wanted), atol=1e-10)
    half = lapack.solve(matrix, vector)
    both = lapack.solve(matrix, half, transpose=True)
    np.testing.assert_allclose(both, np.linalg.solve(wanted, vector), atol=1e-10)
    lapack.invert(matrix, matrix)
    np.testing.assert_allclose(np.tril(matrix), np.tril(np.linalg.inv(wanted)), atol=1e-10)
    assert capfd.readouterr() == ("", "")


def test_cores_change_nothing() -> None:
    root = np.random.default_rng(0).normal(size=(4 * lapack.TILE + 1, 5 * lapack.TILE))
    found = []
    for count in (1, 2, 5):
        matrix = np.asfortranarray(root @ root.T)
        with lapack.on_cores(count):
            assert lapack.factor(matrix)
            lapack.invert(matrix, matrix)
        found.append(np.tril(matrix))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("place", [0, lapack.TILE, 2 * lapack.TILE + 3])
def test_an_indefinite_matrix_is_found_in_any_tile(place: int) -> None:
    matrix = np.eye(3 * lapack.TILE, order="F")
    matrix[place, place] = -1.0
    assert not lapack.factor(matrix)
