"""Models of the reference paper on its data, as written, against dense and sparse normals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paper_models
import pytest
from numpyro.infer.util import log_density
from paper_models import Case, Point, lectures, lectures_case, lectures_of_paper, sparse_log_density

from probmf.inference.marginal import marginalize

TWO_CLASSES = ("u", "v", "alpha", "beta")
#: Data, and the sites to integrate out: all that can be, and one class, as the paper does.
CASES = [
    ("pupil", ("u", "alpha", "beta")),
    ("pupil", ("u",)),
    ("dutch", TWO_CLASSES),
    ("dutch", ("u",)),
    ("english", TWO_CLASSES),
    ("mandarin", TWO_CLASSES),
    ("mandarin", ("v",)),
    ("stroop", ("u", "alpha", "beta")),
    ("grouseticks", ("brood", "place", "m_brood", "m_place", "year", "height")),
    ("electric", ("a", "mua", "b")),
]
#: Scales that differ from those of the defaults by data.
SIZES = {"pupil": 100.0, "mandarin": 2.0, "grouseticks": 6.0}


def present(folder: Path, name: str) -> Path:
    path = folder / f"{name}.parquet"
    if not path.is_file():
        pytest.skip(f"../shared/data has no {name}.parquet.")
    return folder


def points(case: Case, sites: tuple[str, ...], size: float) -> list[Point]:
    """Two points: one of moderate scales; one of small effects, of which some correlate."""
    rng = np.random.default_rng(7)
    found = []
    for factor, correlation in ((1.0, -0.3), (0.05, 0.95)):
        point: dict[str, Any] = {}
        for name in case.priors:
            if name.startswith("chol"):
                point[name] = np.array([[1, 0], [correlation, np.sqrt(1 - correlation**2)]])
            elif name.startswith(("tau", "s_")):
                shape = (2,) if f"chol{name[3:]}" in case.priors else ()
                point[name] = np.asarray(factor * size * rng.uniform(0.3, 1.0, shape))
            elif name == "sigma":
                point[name] = np.asarray(0.8 * size)
            else:
                point[name] = rng.normal(0, 0.3, 4 if name == "log_sigma" else ())
        for name, effect in case.effects.items():
            if name not in sites:
                width = effect.design.shape[1]
                value = effect.mean + effect.factor(point) @ rng.normal(size=width)
                point[name] = value.reshape(-1, 2) if width > 1 else value[0]
        found.append(point)
    return found


def density(case: Case, sites: tuple[str, ...], at: list[Point]) -> list[float]:
    marginal = marginalize(case.model, sites)

    @jax.jit
    def one(point: dict[str, Any]) -> Any:
        value, trace = log_density(marginal, case.args, {}, point)
        assert set(trace) == {*point, "y"}
        return value

    # NumPyro's MultivariateNormal needs rank promotion.
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        marginal.prepare(*case.args)
        return [float(one({n: jnp.asarray(v) for n, v in point.items()})) for point in at]


#: Of large data, or of the same model as another case.
LONG = (0, 2, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("name", "sites"),
    [
        pytest.param(*case, marks=pytest.mark.slow if place in LONG else ())
        for place, case in enumerate(CASES)
    ],
    ids=[f"{name}, {len(sites)} sites" for name, sites in CASES],
)
def test_the_density_is_that_of_a_dense_normal(
    name: str, sites: tuple[str, ...], shared_data: Path
) -> None:
    make: Callable[[Path], Case] = getattr(paper_models, f"{name}_case")
    case = make(present(shared_data / "cogsci", name).parent)
    at = points(case, sites, SIZES.get(name, 0.5))
    expected = [case.log_density(sites, point) for point in at]
    assert density(case, sites, at) == pytest.approx(expected, rel=1e-10)


ALL = ("s", "d", "p", "alpha", "service")


@pytest.mark.parametrize("model", [lectures, lectures_of_paper])
@pytest.mark.slow
def test_lecture_ratings_against_a_sparse_factorization(model: Any, shared_data: Path) -> None:
    case = lectures_case(present(shared_data, "insteval"), model)
    at = points(case, ALL, 1.2)[: 1 if model is lectures_of_paper else 2]
    expected = [sparse_log_density(case, ALL, point) for point in at]
    assert density(case, ALL, at) == pytest.approx(expected, rel=1e-10)


def test_some_lecture_ratings_against_a_dense_normal(shared_data: Path) -> None:
    case = lectures_case(present(shared_data, "insteval"), rows=slice(0, None, 60))
    dense = case._replace(
        effects={
            name: effect._replace(
                design=np.asarray(effect.design @ np.eye(effect.design.shape[1])),
                factor=lambda p, one=effect: np.asarray(
                    one.factor(p) @ np.eye(one.design.shape[1])
                ),
            )
            for name, effect in case.effects.items()
        }
    )
    at = points(case, ALL, 1.2)
    expected = [dense.log_density(ALL, point) for point in at]
    assert [sparse_log_density(case, ALL, point) for point in at] == pytest.approx(
        expected, rel=1e-10
    )
    assert density(case, ALL, at) == pytest.approx(expected, rel=1e-10)
