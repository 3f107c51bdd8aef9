"""The models of Lai, Domke and Sheldon (2024) on their data, and what they integrate to by hand.

Written as their authors write NumPyro: vectors by `sample_shape`, effects indexed by group. The
integral is that of one dense normal distribution of all rows, from SciPy.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyarrow.parquet
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
from numpyro.distributions import HalfCauchy, HalfNormal, LKJCholesky, MultivariateNormal, Normal
from scipy import stats

sample = numpyro.sample
Point = Mapping[str, Any]


def scale_tril(name: str, size: float) -> Any:
    """Scales and correlation of intercepts and slopes."""
    tau = sample(f"tau_{name}", HalfNormal(size), sample_shape=(2,))
    return jnp.matmul(jnp.diag(tau), sample(f"chol_{name}", LKJCholesky(2)))


def lines(name: str, size: float, number: int) -> Any:
    """An intercept and a slope for each of a number of groups."""
    law = MultivariateNormal(jnp.zeros(2), scale_tril=scale_tril(name, size))
    return sample(name, law, sample_shape=(number,))


def pupil(number: int, subject: Any, load: Any, size: Any = None) -> None:
    u = lines("u", 1000.0, number)
    alpha, beta = sample("alpha", Normal(1000, 500)), sample("beta", Normal(0, 100))
    loc = alpha + u[subject][..., 0] + load * (beta + u[subject][..., 1])
    sample("y", Normal(loc, sample("sigma", HalfNormal(1000))), obs=size)


def reading(
    numbers: tuple[int, int], subject: Any, item: Any, condition: Any, value: Any = None,
    *, size: float = 1.0, law: Any = Normal,
) -> None:  # fmt: skip
    """Dutch and english; mandarin with other priors, and log-normal."""
    u, v = lines("u", size, numbers[0]), lines("v", size, numbers[1])
    sigma = sample("sigma", HalfNormal(5))
    alpha, beta = sample("alpha", Normal(0, 10)), sample("beta", Normal(0, 5))
    intercept = alpha + u[subject][..., 0] + v[item][..., 0]
    slope = beta + u[subject][..., 1] + v[item][..., 1]
    sample("y", law(intercept + condition * slope, sigma), obs=value)


def mandarin(*args: Any) -> None:
    reading(*args, size=5.0, law=dist.LogNormal)


def stroop(number: int, subject: Any, condition: Any, time: Any = None) -> None:
    """Subjects differ in the noise, too: these effects stay."""
    u, s = lines("u", 1.0, number), lines("s", 1.0, number)
    alpha, beta = sample("alpha", Normal(6, 1.5)), sample("beta", Normal(0, 0.01))
    level, change = sample("level", Normal(0, 1)), sample("change", Normal(0, 1))
    loc = alpha + u[subject][..., 0] + condition * (beta + u[subject][..., 1])
    log_scale = level + s[subject][..., 0] + condition * (change + s[subject][..., 1])
    sample("y", dist.LogNormal(loc, jnp.exp(log_scale)), obs=time)


def grouseticks(
    numbers: tuple[int, int], brood: Any, place: Any, year: Any, height: Any, ticks: Any = None
) -> None:
    laws = {
        name: Normal(sample(f"m_{name}", Normal(0, 1)), sample(f"s_{name}", HalfCauchy(5)))
        for name in ("brood", "place")
    }
    broods = sample("brood", laws["brood"], sample_shape=(numbers[0],))
    places = sample("place", laws["place"], sample_shape=(numbers[1],))
    by_year, by_height = sample("year", Normal(0, 1)), sample("height", Normal(0, 1))
    loc = broods[brood] + places[place] + year * by_year + height * by_height
    sample("y", Normal(loc, sample("sigma", HalfCauchy(5))), obs=ticks)


def electric(pair_grade: Any, pair: Any, grade: Any, treatment: Any, score: Any = None) -> None:
    mua = sample("mua", Normal(0, 1), sample_shape=(4,))
    log_sigma = sample("log_sigma", Normal(0, 1), sample_shape=(4,))
    a = sample("a", Normal(100 * mua[pair_grade], 1))
    b = sample("b", Normal(0, 100), sample_shape=(4,))
    sample("y", Normal(a[pair] + b[grade] * treatment, jnp.exp(log_sigma[grade])), obs=score)


def lectures(
    numbers: tuple[int, int, int], student: Any, lecturer: Any, dept: Any, service: Any,
    score: Any = None, *, learned: bool = True,
) -> None:  # fmt: skip
    """InstEval; the paper's own model has all effects' scales fixed at one."""
    total = sample("alpha", Normal(0, 5)) + service * sample("service", Normal(0, 1))
    for name, number, group in zip("sdp", numbers, (student, lecturer, dept), strict=True):
        tau = sample(f"tau_{name}", HalfNormal(1)) if learned else 1.0
        total = total + sample(name, Normal(0, tau), sample_shape=(number,))[group]
    sample("y", Normal(total, sample("sigma", HalfNormal(1))), obs=score)


def lectures_of_paper(*args: Any) -> None:
    lectures(*args, learned=False)


class Effect(NamedTuple):
    """Deviations from their prior mean, which other effects may enter.

    Attributes:
        design: How they enter the location (rows, size), a dense or sparse matrix.
        mean: Prior mean.
        factor: Factor of the prior covariance, given the other sites.
    """

    design: Any
    mean: Any
    factor: Callable[[Point], np.ndarray]


class Case(NamedTuple):
    """A model on data, and what the integral is made of.

    Attributes:
        model: The model.
        args: Its arguments, the observations last.
        effects: Effects by site.
        noise: Noise scale of each row, given the other sites.
        priors: Log prior of the other sites.
        log: Whether observations are log-normal.
    """

    model: Callable[..., None]
    args: tuple[Any, ...]
    effects: dict[str, Effect]
    noise: Callable[[Point], Any]
    priors: dict[str, Callable[[Any], Any]]
    log: bool = False

    def outside(self, sites: tuple[str, ...], point: Point) -> tuple[np.ndarray, float]:
        """What is left of the observations, and what else the log density has."""
        values = np.log(self.args[-1]) if self.log else np.asarray(self.args[-1], float)
        other = -np.sum(values) if self.log else 0.0
        for name, effect in self.effects.items():
            at, factor = effect.mean, effect.factor(point)
            if name not in sites:
                other += np.sum(log_normal(point[name].ravel() - at, factor @ factor.T))
                at = point[name].ravel()
            values = values - effect.design @ np.broadcast_to(at, effect.design.shape[1])
        return values, other + sum(np.sum(prior(point[n])) for n, prior in self.priors.items())

    def log_density(self, sites: tuple[str, ...], point: Point) -> float:
        """The log density with the sites integrated out, by one dense normal distribution."""
        residual, other = self.outside(sites, point)
        parts = [self.effects[n].design @ self.effects[n].factor(point) for n in sites]
        half = np.concatenate(parts, axis=1)
        covariance = half @ half.T
        covariance[np.diag_indices(len(residual))] += self.noise(point) ** 2
        return log_normal(residual, covariance) + float(other)


def log_normal(residual: np.ndarray, covariance: np.ndarray) -> float:
    factor = scipy.linalg.cholesky(covariance, lower=True)
    half = scipy.linalg.solve_triangular(factor, residual, lower=True)
    size = len(residual) * np.log(2 * np.pi) + half @ half
    return float(-0.5 * size - np.sum(np.log(np.diag(factor))))


def table(folder: Path, name: str) -> Any:
    return pyarrow.parquet.read_table(folder / f"{name}.parquet").to_pandas()


def codes(column: Any) -> np.ndarray:
    return np.unique(np.asarray(column.astype(str)), return_inverse=True)[1]


def spread(group: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Columns of each row in the places of its group (rows, groups x columns)."""
    wide = np.zeros((len(group), group.max() + 1, columns.shape[1]))
    wide[np.arange(len(group)), group] = columns
    return wide.reshape(len(group), -1)


def lines_of(name: str, group: np.ndarray, x: np.ndarray) -> Effect:
    number = group.max() + 1

    def factor(point: Point) -> np.ndarray:
        return np.kron(np.eye(number), np.diag(point[f"tau_{name}"]) @ point[f"chol_{name}"])

    return Effect(spread(group, np.stack([np.ones_like(x), x], axis=1)), 0.0, factor)


def fixed(column: np.ndarray, mean: float, scale: float) -> Effect:
    return Effect(column[:, None], mean, lambda point: np.array([[scale]]))


def uniform_correlation(chol: np.ndarray) -> float:
    """LKJ with concentration one: the correlation is uniform between -1 and 1."""
    assert np.allclose(np.sum(chol**2, axis=1), 1)
    return -np.log(2.0)


def scales_of(size: float, *names: str) -> dict[str, Callable[[Any], Any]]:
    found: dict[str, Callable[[Any], Any]] = {}
    for name in names:
        found |= {f"tau_{name}": stats.halfnorm(scale=size).logpdf}
        found |= {f"chol_{name}": uniform_correlation}
    return found


def pupil_case(folder: Path) -> Case:
    frame = table(folder / "cogsci", "pupil")
    subject, load = codes(frame.subj), frame.load.to_numpy(float)
    effects = {
        "u": lines_of("u", subject, load),
        "alpha": fixed(np.ones_like(load), 1000, 500),
        "beta": fixed(load, 0, 100),
    }
    priors = {"sigma": stats.halfnorm(scale=1000).logpdf, **scales_of(1000, "u")}
    args = (subject.max() + 1, subject, load, frame.p_size.to_numpy())
    return Case(pupil, args, effects, lambda point: point["sigma"], priors)


def reading_case(
    frame: Any, subject: str, x: np.ndarray, value: str, model: Any = reading, size: float = 1.0
) -> Case:
    group, item = codes(frame[subject]), codes(frame.item)
    effects = {
        "u": lines_of("u", group, x),
        "v": lines_of("v", item, x),
        "alpha": fixed(np.ones_like(x), 0, 10),
        "beta": fixed(x, 0, 5),
    }
    priors = {"sigma": stats.halfnorm(scale=5).logpdf, **scales_of(size, "u", "v")}
    numbers = (group.max() + 1, item.max() + 1)
    args = (numbers, group, item, x, frame[value].to_numpy(float))
    log = model is mandarin
    return Case(model, args, effects, lambda point: point["sigma"], priors, log)


def dutch_case(folder: Path) -> Case:
    frame = table(folder / "cogsci", "dutch")
    return reading_case(frame, "subject", frame.condition.to_numpy(float), "NP1")


def english_case(folder: Path) -> Case:
    frame = table(folder / "cogsci", "english")
    return reading_case(frame, "subject", frame.condition.to_numpy(float), "NP1")


def mandarin_case(folder: Path) -> Case:
    frame = table(folder / "cogsci", "mandarin")
    return reading_case(frame, "subj", codes(frame.type) - 0.5, "rt", mandarin, 5.0)


def stroop_case(folder: Path) -> Case:
    frame = table(folder / "cogsci", "stroop")
    subject, x = codes(frame.subj), 2.0 * codes(frame.condition) - 1.0
    number = subject.max() + 1
    noisy = lines_of("s", subject, x)
    effects = {
        "u": lines_of("u", subject, x),
        "alpha": fixed(np.ones_like(x), 6, 1.5),
        "beta": fixed(x, 0, 0.01),
        # They enter the noise alone, so that only their prior is used.
        "s": noisy._replace(design=np.zeros((len(x), 2 * number))),
    }
    normal = stats.norm().logpdf
    priors = {"level": normal, "change": normal, **scales_of(1.0, "u", "s")}

    def noise(point: Point) -> np.ndarray:
        mean = point["level"] + point["change"] * x
        return np.exp(mean + noisy.design @ point["s"].ravel())

    args = (number, subject, x, frame.RT.to_numpy(float))
    return Case(stroop, args, effects, noise, priors, log=True)


def grouseticks_case(folder: Path) -> Case:
    frame = table(folder / "cogsci", "grouseticks")
    brood, place = codes(frame.BROOD), codes(frame.LOCATION)
    year, height = frame.YEAR.astype(float).to_numpy(), frame.cHEIGHT.to_numpy()
    ones = np.ones((len(year), 1))
    effects = {
        "brood": Effect(spread(brood, ones), 0.0, lambda p: p["s_brood"] * np.eye(brood.max() + 1)),
        "place": Effect(spread(place, ones), 0.0, lambda p: p["s_place"] * np.eye(place.max() + 1)),
        "m_brood": fixed(ones[:, 0], 0, 1),
        "m_place": fixed(ones[:, 0], 0, 1),
        "year": fixed(year, 0, 1),
        "height": fixed(height, 0, 1),
    }
    prior = stats.halfcauchy(scale=5).logpdf
    priors = {"s_brood": prior, "s_place": prior, "sigma": prior}
    numbers = (brood.max() + 1, place.max() + 1)
    args = (numbers, brood, place, year, height, frame.TICKS.to_numpy(float))
    return Case(grouseticks, args, effects, lambda point: point["sigma"], priors)


def electric_case(folder: Path) -> Case:
    frame = table(folder / "cogsci", "electric")
    pair, grade = frame.pair.to_numpy() - 1, frame.grade.to_numpy() - 1
    pair_grade = frame.groupby("pair").grade.first().to_numpy() - 1
    treatment = frame.treatment.to_numpy(float)
    ones = np.ones((len(pair), 1))
    effects = {
        "a": Effect(spread(pair, ones), 0.0, lambda point: np.eye(len(pair_grade))),
        "mua": Effect(spread(pair_grade[pair], 100 * ones), 0.0, lambda point: np.eye(4)),
        "b": Effect(spread(grade, treatment[:, None]), 0.0, lambda point: 100 * np.eye(4)),
    }
    args = (pair_grade, pair, grade, treatment, frame.post_test.to_numpy())
    priors = {"log_sigma": stats.norm().logpdf}
    return Case(electric, args, effects, lambda p: np.exp(p["log_sigma"][grade]), priors)


COLUMNS = ("s", "d", "dept")


def lectures_case(folder: Path, model: Any = lectures, rows: slice = slice(None)) -> Case:
    """InstEval, or some of its rows; designs are sparse where they are large."""
    frame = table(folder, "insteval").iloc[rows]
    groups = {name: codes(frame[column]) for name, column in zip("sdp", COLUMNS, strict=True)}
    service = frame.service.astype(float).to_numpy()
    effects = {"alpha": fixed(np.ones_like(service), 0, 5), "service": fixed(service, 0, 1)}
    size = len(service)
    for name, group in groups.items():
        number = group.max() + 1
        one_each = (np.ones(size), (np.arange(size), group))
        design = scipy.sparse.csr_matrix(one_each, (size, number))
        effects[name] = Effect(
            design, 0.0, lambda p, n=name, m=number: p.get(f"tau_{n}", 1.0) * scipy.sparse.eye(m)
        )
    prior = stats.halfnorm().logpdf
    learned = {} if model is lectures_of_paper else {f"tau_{name}": prior for name in groups}
    numbers = tuple(group.max() + 1 for group in groups.values())
    args = (numbers, *groups.values(), service, frame.y.to_numpy(float))
    return Case(model, args, effects, lambda point: point["sigma"], {"sigma": prior, **learned})


def sparse_log_density(case: Case, sites: tuple[str, ...], point: Point) -> float:
    """As `Case.log_density`, by a sparse LU factorization of the effects' joint precision."""
    residual, other = case.outside(sites, point)
    parts = [scipy.sparse.csc_matrix(case.effects[n].design @ case.effects[n].factor(point))
             for n in sites]  # fmt: skip
    half = scipy.sparse.hstack(parts).tocsc() / case.noise(point)
    precision = (half.T @ half + scipy.sparse.eye(half.shape[1])).tocsc()
    lu = scipy.sparse.linalg.splu(
        precision, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )  # fmt: skip
    white = residual / case.noise(point)
    projected = half.T @ white
    square = white @ white - projected @ lu.solve(projected)
    volume = np.sum(np.log(np.abs(lu.U.diagonal())))
    size = len(residual) * np.log(2 * np.pi * case.noise(point) ** 2)
    return float(-0.5 * (size + volume + square) + other)
