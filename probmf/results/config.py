"""Models and histories as plain values: numbers and words for JSON, arrays beside it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpyro.distributions import Distribution, Normal

from probmf.models.categorical import Categorical
from probmf.models.factorization import PRIOR_SCALES, MatrixFactorization
from probmf.models.likelihood import Bernoulli, Gaussian, Likelihood
from probmf.models.ordinal import Ordinal
from probmf.models.priors import NormalWishart
from probmf.results.history import History
from probmf.results.laws import is_law, read_law, write_law
from probmf.results.mean_config import read_means, write_means
from probmf.results.moments import RowMoments
from probmf.results.sampling import Sampling
from probmf.results.traces import Traces, Watched

#: Fields of a history that are arrays.
CURVES = ("objective", "validation", "seconds", "restarts")
#: Prefixes of the names of arrays: samples, statistics of a sampler, numbers of every sweep.
SAMPLE, STAT, TRACE = "sample/", "stat/", "trace/"
#: Marks a Normal-Wishart prior.
WISHART = "normal_wishart"

Arrays = dict[str, np.ndarray]


def write_model(model: MatrixFactorization, arrays: Arrays) -> dict[str, Any]:
    """The configuration of a model; scales that are arrays go to `arrays`.

    Args:
        model: The model.
        arrays: Arrays by name, added to.

    Returns:
        What JSON can hold.

    Raises:
        ValueError: If a scale is a distribution that has no file form.
    """
    config: dict[str, Any] = {
        "num_factors": int(model.num_factors),
        "user_bias": bool(model.user_bias),
        "item_bias": bool(model.item_bias),
        "unobserved_weight": float(model.unobserved_weight),
        "intercept": _write_intercept(model.intercept),
        "likelihood": write_likelihood(model.likelihood),
    }
    for name in PRIOR_SCALES.values():
        scale = getattr(model, name)
        if isinstance(scale, Distribution):
            config[name] = write_law(name, scale)
        elif isinstance(scale, NormalWishart):
            config[name] = {WISHART: asdict(scale)}
        elif np.ndim(scale):
            arrays[f"scale/{name}"] = np.ascontiguousarray(scale, dtype=np.float64)
        else:
            config[name] = float(scale)
    return config | write_means(model)


def read_model(config: Mapping[str, Any], arrays: Arrays) -> MatrixFactorization:
    """The model that `write_model` wrote."""
    fields = dict(config)
    likelihood = read_likelihood(fields.pop("likelihood"))
    intercept = fields.pop("intercept")
    if isinstance(intercept, dict):
        intercept = Normal(intercept["loc"], intercept["scale"])
    for name in PRIOR_SCALES.values():
        if f"scale/{name}" in arrays:
            fields[name] = arrays[f"scale/{name}"]
        elif is_law(fields.get(name)):
            fields[name] = read_law(fields[name])
        elif isinstance(fields.get(name), dict):
            fields[name] = NormalWishart(**fields[name][WISHART])
    fields |= read_means(config)
    return MatrixFactorization(likelihood=likelihood, intercept=intercept, **fields)


def write_history(history: History | None, arrays: Arrays) -> dict[str, Any] | None:
    """A history for JSON; its curves go to `arrays`."""
    if history is None:
        return None
    for name in CURVES:
        curve = getattr(history, name)
        if curve is not None:
            arrays[f"history/{name}"] = np.ascontiguousarray(curve, dtype=np.float64)
    return {
        "best": int(history.best), "stopped": history.stopped, "unit": history.unit,
        "notes": list(history.notes),
    }  # fmt: skip


def read_history(config: Mapping[str, Any] | None, arrays: Arrays) -> History | None:
    """The history that `write_history` wrote."""
    if config is None:
        return None
    curves: dict[str, Any] = {name: arrays.get(f"history/{name}") for name in CURVES}
    return History(
        **curves, best=config["best"], stopped=config["stopped"], unit=config["unit"],
        notes=tuple(config["notes"]),
    )  # fmt: skip


def write_samples(samples: Mapping[str, np.ndarray]) -> Arrays:
    """Samples under names of their own; what is added to them later can't clash."""
    return {SAMPLE + name: np.ascontiguousarray(value) for name, value in samples.items()}


def read_samples(arrays: Arrays) -> Arrays:
    """The samples that `write_samples` wrote."""
    return _under(SAMPLE, arrays)


def write_sampling(sampling: Sampling | None, arrays: Arrays) -> dict[str, Any] | None:
    """A sampler's run for JSON; its statistics go to `arrays`."""
    if sampling is None:
        return None
    arrays |= {STAT + name: np.ascontiguousarray(value) for name, value in sampling.stats.items()}
    return {
        "num_warmup": int(sampling.num_warmup),
        "seconds": float(sampling.seconds),
        "complete": bool(sampling.complete),
        "info": {name: _write_number(value) for name, value in sampling.info.items()},
    }


def read_sampling(config: Mapping[str, Any] | None, arrays: Arrays) -> Sampling | None:
    """The run that `write_sampling` wrote."""
    if config is None:
        return None
    info = {name: _read_number(value) for name, value in config["info"].items()}
    return Sampling(
        _under(STAT, arrays), config["num_warmup"], config["seconds"], config["complete"], info
    )


def write_traces(traces: Traces | None, arrays: Arrays) -> dict[str, Any] | None:
    """Numbers of every sweep for JSON; the arrays go to `arrays`."""
    if traces is None:
        return None
    arrays |= {TRACE + name: np.ascontiguousarray(value) for name, value in traces.values.items()}
    places = {"user": traces.probe_user, "item": traces.probe_item}
    arrays |= {f"probe/{name}": np.ascontiguousarray(value) for name, value in places.items()}
    if traces.watched is not None:
        watched = vars(traces.watched)
        arrays |= {f"watched/{name}": np.ascontiguousarray(a) for name, a in watched.items()}
    return {"thin": int(traces.thin), "watched": traces.watched is not None}


def read_traces(config: Mapping[str, Any] | None, arrays: Arrays) -> Traces | None:
    """What `write_traces` wrote."""
    if config is None:
        return None
    watched = Watched(**_under("watched/", arrays)) if config["watched"] else None
    places = _under("probe/", arrays)
    return Traces(_under(TRACE, arrays), places["user"], places["item"], config["thin"], watched)


def write_moments(moments: RowMoments | None, arrays: Arrays) -> dict[str, Any] | None:
    """Means and standard deviations over all sweeps for JSON; the arrays go to `arrays`."""
    if moments is None:
        return None
    for kind, values in (("mean", moments.mean), ("sd", moments.sd)):
        arrays |= {f"moment/{kind}/{name}": np.ascontiguousarray(a) for name, a in values.items()}
    return {"num_sweeps": int(moments.num_sweeps)}


def read_moments(config: Mapping[str, Any] | None, arrays: Arrays) -> RowMoments | None:
    """What `write_moments` wrote."""
    if config is None:
        return None
    mean, sd = (_under(f"moment/{kind}/", arrays) for kind in ("mean", "sd"))
    return RowMoments(mean, sd, config["num_sweeps"])


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


def _write_number(value: float | int | str) -> Any:
    """JSON has no infinity and no NaN."""
    plain = value.item() if isinstance(value, np.generic) else value
    return plain if isinstance(plain, str) or np.isfinite(plain) else {"float": str(plain)}


def _read_number(value: Any) -> Any:
    return float(value["float"]) if isinstance(value, dict) else value


def _write_intercept(intercept: Any) -> Any:
    if isinstance(intercept, Normal):
        return {"loc": float(intercept.loc), "scale": float(intercept.scale)}
    return intercept if intercept is None or isinstance(intercept, str) else float(intercept)


def write_likelihood(likelihood: Likelihood | Categorical) -> dict[str, Any]:
    """A likelihood for JSON."""
    if isinstance(likelihood, Categorical):
        return {"kind": "categorical", "num_levels": int(likelihood.num_levels)}
    if isinstance(likelihood, Bernoulli):
        return {"kind": "bernoulli", "link": likelihood.link}
    if isinstance(likelihood, Ordinal):
        learned = isinstance(likelihood.cutpoints, str)
        return {
            "kind": "ordinal",
            "levels": list(likelihood.levels),
            "cutpoints": "learned" if learned else list(likelihood.cutpoints),
            "cutpoint_scale": likelihood.cutpoint_scale,
        }
    scale = likelihood.noise_scale
    if isinstance(scale, Distribution):
        return {"kind": "gaussian", "noise_scale": write_law("noise_scale", scale)}
    return {"kind": "gaussian", "noise_scale": float(scale)}


def read_likelihood(config: Mapping[str, Any]) -> Any:
    """The likelihood that `write_likelihood` wrote."""
    if config["kind"] == "categorical":
        return Categorical(config["num_levels"])
    if config["kind"] == "gaussian":
        scale = config["noise_scale"]
        return Gaussian(read_law(scale) if is_law(scale) else scale)
    if config["kind"] == "ordinal":
        return Ordinal(config["levels"], config["cutpoints"], config["cutpoint_scale"])
    return Bernoulli(config["link"])
