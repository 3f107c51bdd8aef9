"""The mixed models that the benchmarks share: data, formula, priors, and ways to sample them."""

import dataclasses
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
from arviz_stats.base import array_stats
from jax.flatten_util import ravel_pytree
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import initialize_model

from probmf import MixedEffects, sample_marginal


@dataclasses.dataclass(frozen=True)
class Case:
    """A data set with its model.

    `responses` are the columns of the response, and of its trials; without a file, `prepare` makes
    the data from an empty frame.
    """

    file: str | None
    formula: str
    options: dict = dataclasses.field(default_factory=dict)
    prepare: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame
    responses: tuple[str, ...] = ()

    def model(self, **changes) -> MixedEffects:
        """The model, some of its options changed."""
        return MixedEffects(self.formula, **{**self.options, **changes})

    def frame(self) -> pd.DataFrame:
        """The data."""
        if self.file is None:
            return self.prepare(pd.DataFrame())
        path = common.DATA / self.file
        if not path.is_file():
            sys.exit(f"The benchmarks need {self.file} in the folder of shared data.")
        if path.suffix == ".json":
            return self.prepare(json.loads(path.read_text()))
        return self.prepare(pd.read_parquet(path))

    def other_frame(self) -> pd.DataFrame:
        """Other data of the same shapes: a tenth of the responses change places."""
        frame = self.frame()
        generator = np.random.default_rng(1)
        rows = generator.choice(len(frame), size=max(2, len(frame) // 10), replace=False)
        columns = list(self.responses)
        frame.iloc[rows, [frame.columns.get_loc(name) for name in columns]] = (
            frame[columns].iloc[generator.permutation(rows)].to_numpy()
        )
        return frame


def _contrast(column: str, first: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A two-level column as +1/2 for one level and -1/2 for the other, called t."""
    return lambda frame: frame.assign(t=np.where(frame[column] == first, 0.5, -0.5))


def _scales(scale, *groups: str, noise=None) -> dict:
    own = {} if noise is None else {"noise_scale": noise}
    return {f"{g}_scale": scale for g in groups} | own


def _plates(data: dict) -> pd.DataFrame:
    """Germinated seeds of 21 plates."""
    columns = {name: np.asarray(data[name]) for name in ("n", "N", "x1", "x2")}
    return pd.DataFrame(columns).assign(plate=np.arange(len(columns["n"])))


def _students(data: dict) -> pd.DataFrame:
    """Answers of a thousand students to five items, a row each."""
    repeats = np.diff(data["culm"], prepend=0)
    answers = np.repeat(np.asarray(data["response"]), repeats, axis=0)
    student, item = np.indices(answers.shape)
    return pd.DataFrame(
        {"y": answers.ravel(), "student": student.ravel(), "item": np.char.mod("i%d", item.ravel())}
    )


def _counts(_: pd.DataFrame) -> pd.DataFrame:
    """A hundred thousand simulated counts with an effect of each row's own."""
    generator = np.random.default_rng(0)
    x, effect = generator.normal(size=(2, 100_000))
    y = generator.poisson(np.exp(0.5 + 0.3 * x + 0.7 * effect))
    return pd.DataFrame({"y": y, "x": x, "row": np.arange(len(y))})


NORMAL, HALF = dist.Normal, dist.HalfNormal
READING = {
    "priors": _scales(HALF(1.0), "subject", "item", noise=HALF(5.0))
    | {"coefficients": {"Intercept": NORMAL(0.0, 10.0), "condition": NORMAL(0.0, 5.0)}}
}
CASES = {
    "dutch": Case(
        "cogsci/dutch.parquet",
        "NP1 ~ condition + (1 + condition | subject) + (1 + condition | item)",
        READING,
    ),
    "english": Case(
        "cogsci/english.parquet",
        "NP1 ~ condition + (1 + condition | subject) + (1 + condition | item)",
        READING,
    ),
    "mandarin": Case(
        "cogsci/mandarin.parquet",
        "rt ~ t + (1 + t | subj) + (1 + t | item)",
        {
            "likelihood": "lognormal",
            "priors": _scales(HALF(5.0), "subj", "item", noise=HALF(5.0))
            | {"coefficients": {"Intercept": NORMAL(0.0, 10.0), "t": NORMAL(0.0, 5.0)}},
        },
        _contrast("type", "subj-ext"),
    ),
    "pupil": Case(
        "cogsci/pupil.parquet",
        "p_size ~ load + (1 + load | subj)",
        {
            "priors": _scales(HALF(1000.0), "subj", noise=HALF(1000.0))
            | {"coefficients": {"Intercept": NORMAL(1000.0, 500.0), "load": NORMAL(0.0, 100.0)}}
        },
    ),
    "stroop": Case(
        "cogsci/stroop.parquet",
        "RT ~ t + (1 + t | subj)",
        {
            "likelihood": "lognormal",
            "scale_formula": "~ t + (1 + t | subj)",
            "priors": {
                "subj_scale": HALF(1.0),
                "noise_subj_scale": HALF(1.0),
                "coefficients": {"Intercept": NORMAL(6.0, 1.5), "t": NORMAL(0.0, 0.01)},
                "noise_coefficients": {"Intercept": NORMAL(0.0, 1.0), "t": NORMAL(0.0, 1.0)},
            },
        },
        _contrast("condition", "Incongruent"),
    ),
    "grouseticks": Case(
        "cogsci/grouseticks.parquet",
        "TICKS ~ YEAR + cHEIGHT + (1 | LOCATION) + (1 | BROOD)",
        {"priors": _scales(dist.HalfCauchy(5.0), "LOCATION", "BROOD", noise=dist.HalfCauchy(5.0))},
    ),
    "insteval": Case(
        "insteval.parquet",
        "y ~ service + (1 | s) + (1 | d) + (1 | dept)",
        {
            "priors": _scales(HALF(1.0), "s", "d", "dept", noise=HALF(1.0))
            | {"coefficients": {"Intercept": NORMAL(0.0, 5.0), "service[T.1]": NORMAL(0.0, 1.0)}}
        },
        responses=("y",),
    ),
    "verbagg": Case(
        "lme4/verbagg.parquet",
        "r2 ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)",
        {"likelihood": "bernoulli"},
        lambda frame: frame.assign(r2=(frame["r2"] == "Y").astype(int)),
        responses=("r2",),
    ),
    "cbpp": Case(
        "lme4/cbpp.parquet",
        "incidence | trials(size) ~ period + (1 | herd)",
        {"likelihood": "binomial"},
        responses=("incidence", "size"),
    ),
    "grouseticks_counts": Case(
        "cogsci/grouseticks.parquet",
        "TICKS ~ YEAR + cHEIGHT + (1 | LOCATION) + (1 | BROOD) + (1 | INDEX)",
        {"likelihood": "poisson"},
        responses=("TICKS",),
    ),
    "contraception": Case(
        "lme4/contraception.parquet",
        "use ~ age + I(age**2) + livch + urban + (1 + urban | district)",
        {"likelihood": "bernoulli"},
        lambda frame: frame.assign(use=(frame["use"] == "Y").astype(int)),
        responses=("use",),
    ),
    "seeds": Case(
        "posteriordb/seeds_data.json",
        "n | trials(N) ~ x1 * x2 + (1 | plate)",
        {"likelihood": "binomial"},
        _plates,
        responses=("n", "N"),
    ),
    "lsat": Case(
        "posteriordb/lsat_data.json",
        "y ~ 0 + item + (1 | student)",
        {"likelihood": "bernoulli"},
        _students,
        responses=("y",),
    ),
    "election88": Case(
        "posteriordb/election88.parquet",
        "y ~ black * female + v_prev_full + (1 | age) + (1 | edu) + (1 | age_edu) + (1 | state) "
        "+ (1 | region_full)",
        {"likelihood": "bernoulli"},
        responses=("y",),
    ),
    "counts": Case(None, "y ~ x + (1 | row)", {"likelihood": "poisson"}, _counts, responses=("y",)),
    "insteval_ordinal": Case(
        "insteval.parquet",
        "y ~ service + (1 | s) + (1 | d) + (1 | dept)",
        {"likelihood": "ordinal"},
        responses=("y",),
    ),
}


def effective_sizes(samples: dict[str, np.ndarray], names: list[str]) -> dict[str, float]:
    """Bulk ESS of every element of the named sites, (chain, draw, ...), that varies."""
    found = {}
    for name in names:
        value = np.asarray(samples[name], np.float64)
        flat = value.reshape(*value.shape[:2], -1)
        for index in range(flat.shape[2]):
            if np.ptp(flat[..., index]) > 0:
                label = name if flat.shape[2] == 1 else f"{name}[{index}]"
                one = array_stats.ess(flat[..., index], chain_axis=0, draw_axis=1, method="bulk")
                found[label] = float(one)
    return found


def moments(samples: dict[str, np.ndarray], names: list[str]) -> dict[str, list[float]]:
    """Mean and standard deviation of every element of the named sites that varies."""
    found = {}
    for name in names:
        value = np.asarray(samples[name], np.float64)
        flat = value.reshape(-1, int(np.prod(value.shape[2:], dtype=int)))
        for index, column in enumerate(flat.T):
            if np.ptp(column) > 0:
                found[f"{name}[{index}]"] = [float(np.mean(column)), float(np.std(column))]
    return found


def smallest(sizes: dict[str, float]) -> tuple[float, str]:
    label = min(sizes, key=sizes.get)
    return sizes[label], label


def globals_of(model: MixedEffects, design) -> list[str]:
    """Population coefficients, scales and correlations: all sites but the effects."""
    trace = model.sites(design).dims
    names = [
        n for n in trace if not n.endswith(("_effects", "_raw")) and n != design.data.response_name
    ]
    return [*names, *(["noise_scale"] if model.scale_formula is None else [])]


def plain_nuts(case: Case, centered: bool, warmup: int, draws: int, key: int = 0) -> dict:
    """NumPyro's NUTS on the joint model, one chain in float64: seconds and ESS of the globals."""
    with jax.enable_x64(True):
        model = case.model(centered=centered)
        design = model.design(case.frame())
        (data,) = model.arguments(design)
        mcmc = MCMC(NUTS(model), num_warmup=warmup, num_samples=draws, progress_bar=False)
        begin = time.perf_counter()
        mcmc.warmup(jax.random.PRNGKey(key), data, extra_fields=("num_steps", "diverging"))
        warm = time.perf_counter() - begin
        begin = time.perf_counter()
        mcmc.run(mcmc.post_warmup_state.rng_key, data, extra_fields=("num_steps", "diverging"))
        long = time.perf_counter() - begin
        samples = mcmc.get_samples(group_by_chain=True)
        fields = {name: np.asarray(one) for name, one in mcmc.get_extra_fields().items()}
        names = [name for name in globals_of(model, design) if name in samples]
        sizes = effective_sizes(samples, names)
        found = moments(samples, names)
    size, worst = smallest(sizes)
    return {
        # NumPyro compiles at every call of `run`, so the second part has some of that, too.
        "whole_seconds": warm + long, "sampling_seconds": long, "ess": size, "worst": worst,
        "draws": draws, "warmup": warmup, "steps": float(np.mean(fields["num_steps"])),
        "divergences": int(np.sum(fields["diverging"])), "moments": found,
    }  # fmt: skip


def run_nutpie(
    model: Any, data: dict[str, Any], warmup: int, draws: int
) -> tuple[dict[str, Any], dict, float]:
    """One chain of nutpie's on a model's density, compiled by JAX: draws, what it tells, seconds.

    The seconds are those of the sampling alone.
    """
    # In the thread that it samples in, too.
    jax.config.update("jax_enable_x64", True)
    # From the peers' environment, for what is not in this one.
    sys.path += [str(path) for path in common.PEERS.glob("lib/python*/site-packages")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nutpie
        from nutpie.compiled_pyfunc import from_pyfunc

    start, potential, postprocess, _ = initialize_model(
        jax.random.PRNGKey(0), model, model_kwargs=data
    )
    flat, unravel = ravel_pytree(start.z)
    score = jax.jit(jax.value_and_grad(lambda x: -potential(unravel(x))))
    jax.block_until_ready(score(flat))

    def log_density(vector: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = score(vector)
        return float(value), np.asarray(gradient)

    size = len(flat)
    compiled = from_pyfunc(
        size, lambda: log_density, lambda *_: lambda x: {"x": x}, [np.dtype(np.float64)],
        [(size,)], ["x"],
    )  # fmt: skip
    begin = time.perf_counter()
    trace = nutpie.sample(
        compiled, draws=draws, tune=warmup, chains=1, cores=1, seed=0, progress_bar=False,
        save_warmup=False,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    vectors = jnp.asarray(np.asarray(trace.posterior["x"])[0])
    found = jax.lax.map(lambda x: postprocess(unravel(x)), vectors)
    told = {"divergences": int(np.sum(np.asarray(trace.sample_stats["diverging"])))}
    return {site: own[None] for site, own in found.items()}, told, seconds


def plain_nutpie(case: Case, warmup: int, draws: int) -> dict:
    """Nutpie on the non-centred joint model, as `plain_nuts`."""
    with jax.enable_x64(True):
        model = case.model(centered=False)
        design = model.design(case.frame())
        (data,) = model.arguments(design)
        begin = time.perf_counter()
        samples, told, seconds = run_nutpie(lambda data: model(data), {"data": data}, warmup, draws)
        whole = time.perf_counter() - begin
        names = [name for name in globals_of(model, design) if name in samples]
        size, worst = smallest(effective_sizes(samples, names))
        found = moments(samples, names)
    return {
        "whole_seconds": whole, "sampling_seconds": seconds, "ess": size, "worst": worst,
        "draws": draws, "warmup": warmup, **told, "moments": found,
    }  # fmt: skip


COLD = """
import sys, time, json, warnings
begin = time.perf_counter()
sys.path.insert(0, sys.argv[1])
import mixed_models as m
imported = time.perf_counter()
case = m.CASES[sys.argv[2]]
frame = case.frame()
start = time.perf_counter()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    fit = m.sample_marginal(case.model(), frame, key=0, num_samples=int(sys.argv[3]))
first = time.perf_counter() - start
again = case.other_frame() if case.responses else frame
start = time.perf_counter()
with warnings.catch_warnings(record=True):
    warnings.simplefilter("always")
    m.sample_marginal(case.model(), again, key=1, num_samples=int(sys.argv[3]))
second = time.perf_counter() - start
names = [n for n in m.globals_of(fit.model, fit.design) if n in fit.samples]
sizes = m.effective_sizes(fit.samples, names)
print(json.dumps({"import": imported - begin, "cold": first, "second": second,
    "info": {k: v for k, v in fit.sampling.info.items()}, "method": fit.method,
    "ess": m.smallest(sizes), "draws": int(sys.argv[3]), "moments": m.moments(fit.samples, names),
    "effects": sum(v[0, 0].size for n, v in fit.samples.items() if n.endswith("_effects")),
    "warnings": [str(w.message) for w in caught if w.category.__name__ == "FallbackWarning"]}))
"""


def cold_run(name: str, draws: int) -> dict:
    """`sample_marginal` in a fresh process: seconds of the first and of a second call."""
    folder = str(Path(__file__).resolve().parent)
    done = subprocess.run(
        [sys.executable, "-c", COLD, folder, name, str(draws)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


__all__ = ["CASES", "Case", "cold_run", "plain_nuts", "sample_marginal", "smallest"]
