"""Models of posteriordb as plain NumPyro models, with their data, and reference posteriors.

The data and references lie in `posteriordb` of the shared data, the models in words beside them.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyarrow.parquet as pq
from numpyro.distributions import constraints

normal, sample, plate = dist.Normal, numpyro.sample, numpyro.plate
Data = Mapping[str, Any]


class Posterior(NamedTuple):
    """A model with its data.

    Attributes:
        model: A NumPyro model of the data's keyword arguments.
        data: They.
    """

    model: Callable[..., None]
    data: dict[str, Any]


def flat(name: str, size: int | None = None) -> Any:
    """A coefficient without a prior, or a vector of them."""
    if size is None:
        return sample(name, dist.ImproperUniform(constraints.real, (), ()))
    return sample(name, dist.ImproperUniform(constraints.real_vector, (), (size,)))


def flat_scale(name: str = "sigma") -> Any:
    return sample(name, dist.ImproperUniform(constraints.positive, (), ()))


def regression(columns: Any, y: Any, cauchy: bool = False) -> None:
    """Flat coefficients; the noise scale is flat, or half-Cauchy."""
    beta = flat("beta", columns.shape[1])
    sigma = sample("sigma", dist.HalfCauchy(2.5)) if cauchy else flat_scale()
    with plate("rows", len(y)):
        sample("y", normal(columns @ beta, sigma), obs=y)


def eight_schools(y: Any, sigma: Any) -> None:
    mu, tau = sample("mu", normal(0, 5)), sample("tau", dist.HalfCauchy(5))
    with plate("schools", len(y)):
        theta = sample("theta", normal(mu, tau))
        sample("y", normal(theta, sigma), obs=y)


def kilpisjarvi(x: Any, y: Any, prior: Any) -> None:
    alpha, beta = sample("alpha", normal(*prior[0])), sample("beta", normal(*prior[1]))
    sigma = flat_scale()
    sample("y", normal(alpha + beta * x, sigma).to_event(1), obs=y)


def blr(x: Any, y: Any) -> None:
    beta = sample("beta", normal(0, 10).expand([x.shape[1]]).to_event(1))
    sample("y", normal(x @ beta, sample("sigma", dist.HalfNormal(10))).to_event(1), obs=y)


def diamonds(x: Any, y: Any) -> None:
    b = sample("b", normal(0, 1).expand([x.shape[1]]).to_event(1))
    intercept = sample("Intercept", dist.StudentT(3, 8, 10))
    t = dist.StudentT(3, 0, 10)
    sigma = sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    numpyro.factor("sigma_prior", t.log_prob(sigma))
    sample("y", normal(intercept + x @ b, sigma).to_event(1), obs=y)


def gp(x: Any, y: Any) -> None:
    rho, alpha = sample("rho", dist.Gamma(25, 4)), sample("alpha", dist.HalfNormal(2))
    variance = sample("sigma", dist.HalfNormal(1))
    square = jnp.square(x[:, None] - x[None]) / (2 * rho**2)
    cover = alpha**2 * jnp.exp(-square) + variance * jnp.eye(len(x))
    sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), cover), obs=y)


def radon(c: Any, floor: Any, uranium: Any, y: Any, *, kind: str) -> None:
    """Seven models of one table: which parts differ by county, and what they are drawn from."""
    noise = sample("sigma_y", dist.HalfNormal(1))
    own_intercept = kind not in ("pooled", "variable_slope")
    own_slope = kind in ("variable_slope", "variable_intercept_slope")
    counties = plate("counties", 85)
    if own_intercept:
        law = normal(0, 10)
        if kind != "county_intercept":
            mean = sample("mu_alpha", normal(0, 10))
            law = normal(mean, sample("sigma_alpha", dist.HalfNormal(1)))
        with counties:
            loc = sample("alpha", law)[c]
    else:
        loc = sample("alpha", normal(0, 10)) * jnp.ones(len(y))
    if own_slope:
        mean = sample("mu_beta", normal(0, 10))
        law = normal(mean, sample("sigma_beta", dist.HalfNormal(1)))
        with counties:
            loc = loc + sample("beta", law)[c] * floor
    elif kind == "hierarchical_intercept":
        beta = sample("beta", normal(0, 10).expand([2]).to_event(1))
        loc = loc + beta[0] * uranium + beta[1] * floor
    elif kind != "partially_pooled":
        loc = loc + sample("beta", normal(0, 10)) * floor
    with plate("rows", len(y)):
        sample("y", normal(loc, noise), obs=y)


def rats(rat: Any, x: Any, y: Any) -> None:
    means = [sample(f"mu_{name}", normal(0, 100)) for name in ("alpha", "beta")]
    scales = [flat_scale(f"sigma_{name}") for name in ("alpha", "beta", "y")]
    with plate("rats", 30):
        alpha = sample("alpha", normal(means[0], scales[0]))
        beta = sample("beta", normal(means[1], scales[1]))
    with plate("rows", len(y)):
        sample("y", normal(alpha[rat] + beta[rat] * x, scales[2]), obs=y)


def seeds(columns: Any, size: Any, y: Any, *, kind: str) -> None:
    wide = 1000 if kind == "precision" else 1
    alpha = sample("alpha", normal(0, wide).expand([4]).to_event(1))
    if kind == "precision":
        scale = 1 / jnp.sqrt(sample("tau", dist.Gamma(0.001, 0.001)))
    else:
        scale = sample("sigma", dist.HalfCauchy(1))
    with plate("plates", len(y)):
        b = sample("b", normal(0, scale))
    b = b - jnp.mean(b) if kind == "centred" else b
    with plate("plates", len(y)):
        sample("n", dist.Binomial(size, logits=columns @ alpha + b), obs=y)


def poisson_years(columns: Any, y: Any) -> None:
    alpha = sample("alpha", dist.Uniform(-20, 20))
    beta = sample("beta", dist.Uniform(-10, 10).expand([3]).to_event(1))
    sigma = sample("sigma", dist.Uniform(0, 5))
    with plate("years", len(y)):
        e = sample("e", normal(0, sigma))
        sample("C", dist.Poisson(jnp.exp(alpha + columns @ beta + e)), obs=y)


def lsat(y: Any) -> None:
    alpha = sample("alpha", normal(0, 100).expand([5]).to_event(1))
    beta = sample("beta", dist.HalfNormal(100))
    with plate("students", len(y)):
        theta = sample("theta", normal(0, 1))
    logits = beta * theta[:, None] - alpha[None, :]
    sample("y", dist.Bernoulli(logits=logits).to_event(2), obs=y)


def election(columns: Any, groups: Any, y: Any) -> None:
    beta = sample("beta", normal(0, 100).expand([5]).to_event(1))
    eta = columns @ beta
    for letter, (group, size) in zip("abcde", groups, strict=True):
        scale = sample(f"sigma_{letter}", dist.Uniform(0, 100))
        with plate(f"groups_{letter}", size):
            eta = eta + sample(letter, normal(0, scale))[group]
    with plate("rows", len(y)):
        sample("y", dist.Bernoulli(logits=eta), obs=y)


def accidents(y: Any, exposure: Any, pairs: Any, unit: Any) -> None:
    """Own effects of tracts, and effects that are like those of neighbouring tracts."""
    level, scale = sample("beta0", normal(0, 1)), sample("sigma", dist.HalfNormal(1))
    share = sample("rho", dist.Beta(0.5, 0.5))
    phi = flat("phi", len(y))
    numpyro.factor("neighbours", -0.5 * jnp.sum(jnp.square(phi[pairs[0]] - phi[pairs[1]])))
    numpyro.factor("sum", normal(0, 0.001 * len(y)).log_prob(jnp.sum(phi)))
    with plate("tracts", len(y)):
        theta = sample("theta", normal(0, 1))
        eta = level + scale * (jnp.sqrt(1 - share) * theta + jnp.sqrt(share / unit) * phi)
        sample("y", dist.Poisson(exposure * jnp.exp(eta)), obs=y)


def _json(path: Path, name: str) -> dict[str, Any]:
    found = json.loads((path / f"{name}.json").read_text())
    return {k: np.asarray(v) if isinstance(v, list) else v for k, v in found.items()}


def _columns(*columns: Any) -> np.ndarray:
    return np.column_stack([np.ones(len(columns[0])), *columns]).astype(float)


def _kidiq(path: Path, name: str) -> Posterior:
    file, kind = name.split("-kidscore_")
    table = _json(path, file)
    hs, iq = table["mom_hs"].astype(float), table["mom_iq"].astype(float)
    centers = {
        "interaction_c": (hs.mean(), iq.mean(), 1.0, 1.0),
        "interaction_c2": (0.5, 100.0, 1.0, 1.0),
        "interaction_z": (hs.mean(), iq.mean(), 2 * hs.std(ddof=1), 2 * iq.std(ddof=1)),
    }.get(kind, (0.0, 0.0, 1.0, 1.0))
    hs, iq = (hs - centers[0]) / centers[2], (iq - centers[1]) / centers[3]
    if kind == "mom_work":
        columns = _columns(*(table["mom_work"] == level for level in (2, 3, 4)))
    else:
        columns = _columns(*{"momhs": [hs], "momiq": [iq]}.get(kind, [hs, iq, hs * iq]))
    data = {"columns": columns, "y": table["kid_score"].astype(float)}
    return Posterior(partial(regression, cauchy=file == "kidiq"), data)


def _nes(path: Path, name: str) -> Posterior:
    table = _json(path, name.split("-")[0])
    ages = [table["age_discrete"] == age for age in (2, 3, 4)]
    names = ("educ1", "gender", "income")
    columns = _columns(table["real_ideo"], table["race_adj"], *ages, *(table[one] for one in names))
    return Posterior(regression, {"columns": columns, "y": table["partyid7"].astype(float)})


def _earnings(path: Path, name: str) -> Posterior:
    table = _json(path, "earnings")
    kind = name.split("-")[1]
    height, male = table["height"].astype(float), table["male"].astype(float)
    z = (height - height.mean()) / height.std(ddof=1)
    earn = table["earn"].astype(float)
    y = {"earn": earn, "log10earn": np.log10(earn)}.get(kind.split("_")[0], np.log(earn))
    columns = {
        "logearn_height_male": [height, male], "logearn_interaction_z": [z, male, z * male],
        "logearn_logheight_male": [np.log(height), male],
    }.get(kind, [height])  # fmt: skip
    return Posterior(regression, {"columns": _columns(*columns), "y": y})


def _mesquite(path: Path, name: str) -> Posterior:
    t = _json(path, "mesquite")
    kind = name.split("-")[1]
    names = ("diam1", "diam2", "canopy_height", "total_height", "density")
    plain = [t[one].astype(float) for one in names]
    logs, group = [np.log(one) for one in plain], t["group"]
    volume, area = logs[0] + logs[1] + logs[2], logs[0] + logs[1]
    shape = logs[0] - logs[1]
    columns = {
        "mesquite": [*plain, group], "logmesquite": [*logs, group],
        "logmesquite_logva": [volume, area, group],
        "logmesquite_logvas": [volume, area, shape, logs[3], logs[4], group],
        "logmesquite_logvolume": [volume],
    }[kind]  # fmt: skip
    weight = t["weight"].astype(float)
    y = weight if kind == "mesquite" else np.log(weight)
    return Posterior(regression, {"columns": _columns(*columns), "y": y})


def _eight(path: Path, name: str) -> Posterior:
    del name
    table = _json(path, "eight_schools")
    return Posterior(eight_schools, {k: table[k].astype(float) for k in ("y", "sigma")})


def _kilpisjarvi(path: Path, name: str) -> Posterior:
    del name
    t = _json(path, "kilpisjarvi_mod")
    prior = ((t["pmualpha"], t["psalpha"]), (t["pmubeta"], t["psbeta"]))
    data = {"x": t["x"].astype(float), "y": t["y"].astype(float), "prior": prior}
    return Posterior(kilpisjarvi, data)


def _blr(path: Path, name: str) -> Posterior:
    del name
    table = _json(path, "sblrc")
    return Posterior(blr, {"x": np.asarray(table["X"], float), "y": table["y"].astype(float)})


def _diamonds(path: Path, name: str) -> Posterior:
    del name
    table = pq.read_table(path / "diamonds.parquet").to_pandas()
    x = table[[f"X_{i}" for i in range(2, 26)]].to_numpy(float)
    return Posterior(diamonds, {"x": x - x.mean(axis=0), "y": table["Y"].to_numpy(float)})


def _gp(path: Path, name: str) -> Posterior:
    del name
    table = _json(path, "gp_pois_regr")
    return Posterior(gp, {"x": table["x"].astype(float), "y": table["y"].astype(float)})


def _radon(path: Path, name: str) -> Posterior:
    t = _json(path, "radon_mn")
    data = {
        "c": t["county_idx"] - 1, "floor": t["floor_measure"].astype(float),
        "uranium": t["log_uppm"].astype(float), "y": t["log_radon"].astype(float),
    }  # fmt: skip
    return Posterior(partial(radon, kind=name.removeprefix("radon_")), data)


def _rats(path: Path, name: str) -> Posterior:
    del name
    t = _json(path, "rats_data")
    x = t["x"].astype(float) - t["xbar"]
    return Posterior(rats, {"rat": t["rat"] - 1, "x": x, "y": t["y"].astype(float)})


def _seeds(path: Path, name: str) -> Posterior:
    t = _json(path, "seeds_data")
    columns = _columns(t["x1"], t["x2"], t["x1"] * t["x2"])
    kind = {"seeds_model": "precision", "seeds_centered_model": "centred"}.get(name, "plain")
    return Posterior(partial(seeds, kind=kind), {"columns": columns, "size": t["N"], "y": t["n"]})


def _years(path: Path, name: str) -> Posterior:
    del name
    t = _json(path, "GLMM_Poisson_data")
    powers = np.stack([t["year"] ** k for k in (1, 2, 3)], axis=1)
    return Posterior(poisson_years, {"columns": powers, "y": t["C"]})


def _lsat(path: Path, name: str) -> Posterior:
    del name
    t = _json(path, "lsat_data")
    repeats = np.diff(t["culm"], prepend=0)
    return Posterior(lsat, {"y": np.repeat(np.asarray(t["response"]), repeats, axis=0)})


def _election(path: Path, name: str) -> Posterior:
    del name
    t = pq.read_table(path / "election88.parquet").to_pandas()
    columns = _columns(t["black"], t["female"], t["v_prev_full"], t["female"] * t["black"])
    sizes = {"age": 4, "edu": 4, "age_edu": 16, "state": 51, "region_full": 5}
    groups = [(t[one].to_numpy() - 1, size) for one, size in sizes.items()]
    return Posterior(election, {"columns": columns, "groups": groups, "y": t["y"].to_numpy()})


def _accidents(path: Path, name: str) -> Posterior:
    t = _json(path, name)
    pairs = np.stack([t["node1"], t["node2"]]) - 1
    data = {"y": t["y"], "exposure": t["E"].astype(float), "pairs": pairs}
    return Posterior(accidents, data | {"unit": t["scaling_factor"]})


Maker = Callable[[Path, str], Posterior]
#: Makers by the name's beginning.
_KINDS: dict[str, Maker] = {
    "eight_schools": _eight, "kilpisjarvi": _kilpisjarvi, "sblrc": _blr, "diamonds": _diamonds,
    "kidiq": _kidiq, "nes": _nes, "earnings": _earnings, "mesquite": _mesquite, "gp_": _gp,
    "radon": _radon, "rats": _rats, "seeds": _seeds, "GLMM": _years, "lsat": _lsat,
    "election88": _election, "traffic": _accidents,
}  # fmt: skip

#: Those with reference draws.
REFERENCES = (
    "eight_schools-eight_schools_noncentered", "kilpisjarvi_mod-kilpisjarvi", "sblrc-blr",
    "diamonds-diamonds", "kidiq-kidscore_interaction", "kidiq-kidscore_momhs",
    "kidiq-kidscore_momiq", "kidiq_with_mom_work-kidscore_interaction_c",
    "kidiq_with_mom_work-kidscore_interaction_c2", "kidiq_with_mom_work-kidscore_interaction_z",
    "kidiq_with_mom_work-kidscore_mom_work", "nes1972-nes", "nes1976-nes", "nes1980-nes",
    "nes1984-nes", "nes1992-nes", "nes2000-nes", "earnings-earn_height",
    "earnings-log10earn_height", "earnings-logearn_height", "earnings-logearn_height_male",
    "earnings-logearn_interaction_z", "earnings-logearn_logheight_male", "mesquite-mesquite",
    "mesquite-logmesquite", "mesquite-logmesquite_logva", "mesquite-logmesquite_logvas",
    "mesquite-logmesquite_logvolume", "gp_pois_regr-gp_regr",
)  # fmt: skip
#: Those without.
OTHERS = (
    "radon_pooled", "radon_county_intercept", "radon_partially_pooled", "radon_variable_intercept",
    "radon_variable_slope", "radon_variable_intercept_slope", "radon_hierarchical_intercept",
    "rats", "seeds_model", "seeds_stanified_model", "seeds_centered_model", "GLMM_Poisson",
    "lsat", "election88", "traffic_accident_nyc",
)  # fmt: skip
#: Effects about a mean and scale that are sampled, by the name's beginning: those that a
#: non-centred form standardizes.
EFFECTS: dict[str, tuple[str, ...]] = {
    "eight_schools": ("theta",), "radon_partially_pooled": ("alpha",),
    "radon_variable_intercept_slope": ("alpha", "beta"), "radon_variable_intercept": ("alpha",),
    "radon_variable_slope": ("beta",), "radon_hierarchical_intercept": ("alpha",),
    "rats": ("alpha", "beta"), "seeds": ("b",), "GLMM_Poisson": ("e",),
    "election88": ("a", "b", "c", "d", "e"),
}  # fmt: skip


def posterior(folder: Path, name: str) -> Posterior:
    """A model with its data."""
    maker = next(make for start, make in _KINDS.items() if name.startswith(start))
    return maker(folder / "posteriordb", name)


def reference(folder: Path, name: str) -> dict[str, dict[str, float]]:
    """Means, standard deviations and their Monte-Carlo errors by parameter."""
    table = pq.read_table(folder / "posteriordb" / "reference.parquet").to_pylist()
    return {row["parameter"]: row for row in table if row["posterior"] == name}


def numbers(samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Draws (chain, draw) by parameter, called as in the references: theta[1], mu."""
    found: dict[str, np.ndarray] = {}
    for name, draws in samples.items():
        if draws.ndim == 2:
            found[name] = draws
        else:
            each = draws.reshape(*draws.shape[:2], -1)
            found |= {f"{name}[{i + 1}]": each[:, :, i] for i in range(each.shape[2])}
    return found
