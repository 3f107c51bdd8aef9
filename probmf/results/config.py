"""Models and histories as plain values: numbers and words for JSON, arrays beside it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpyro.distributions import Distribution, Normal

from probmf.models.factorization import PRIOR_SCALES, MatrixFactorization
from probmf.models.likelihood import Bernoulli, Gaussian, Likelihood
from probmf.results.history import History

#: Fields of a history that are arrays.
CURVES = ("objective", "validation", "seconds", "restarts")

Arrays = dict[str, np.ndarray]


def write_model(model: MatrixFactorization, arrays: Arrays) -> dict[str, Any]:
    """The configuration of a model; scales that are arrays go to `arrays`.

    Args:
        model: The model.
        arrays: Arrays by name, added to.

    Returns:
        What JSON can hold.

    Raises:
        ValueError: If a scale is a distribution.
    """
    config: dict[str, Any] = {
        "num_factors": int(model.num_factors),
        "user_bias": bool(model.user_bias),
        "item_bias": bool(model.item_bias),
        "unobserved_weight": float(model.unobserved_weight),
        "intercept": _write_intercept(model.intercept),
        "likelihood": _write_likelihood(model.likelihood),
    }
    for name in PRIOR_SCALES.values():
        scale = getattr(model, name)
        _refuse_distribution(name, scale)
        if np.ndim(scale):
            arrays[f"scale/{name}"] = np.ascontiguousarray(scale, dtype=np.float64)
        else:
            config[name] = float(scale)
    return config


def read_model(config: Mapping[str, Any], arrays: Arrays) -> MatrixFactorization:
    """The model that `write_model` wrote."""
    fields = dict(config)
    likelihood = _read_likelihood(fields.pop("likelihood"))
    intercept = fields.pop("intercept")
    if isinstance(intercept, dict):
        intercept = Normal(intercept["loc"], intercept["scale"])
    for name in PRIOR_SCALES.values():
        if f"scale/{name}" in arrays:
            fields[name] = arrays[f"scale/{name}"]
    return MatrixFactorization(likelihood=likelihood, intercept=intercept, **fields)


def write_history(history: History | None, arrays: Arrays) -> dict[str, Any] | None:
    """A history for JSON; its curves go to `arrays`."""
    if history is None:
        return None
    for name in CURVES:
        curve = getattr(history, name)
        if curve is not None:
            arrays[f"history/{name}"] = np.ascontiguousarray(curve, dtype=np.float64)
    return {"best": int(history.best), "stopped": history.stopped, "unit": history.unit}


def read_history(config: Mapping[str, Any] | None, arrays: Arrays) -> History | None:
    """The history that `write_history` wrote."""
    if config is None:
        return None
    curves: dict[str, Any] = {name: arrays.get(f"history/{name}") for name in CURVES}
    return History(**curves, best=config["best"], stopped=config["stopped"], unit=config["unit"])


def _write_intercept(intercept: Any) -> Any:
    if isinstance(intercept, Normal):
        return {"loc": float(intercept.loc), "scale": float(intercept.scale)}
    return intercept if intercept is None or isinstance(intercept, str) else float(intercept)


def _write_likelihood(likelihood: Likelihood) -> dict[str, Any]:
    if isinstance(likelihood, Bernoulli):
        return {"kind": "bernoulli", "link": likelihood.link}
    _refuse_distribution("noise_scale", likelihood.noise_scale)
    return {"kind": "gaussian", "noise_scale": float(likelihood.noise_scale)}


def _read_likelihood(config: Mapping[str, Any]) -> Likelihood:
    if config["kind"] == "gaussian":
        return Gaussian(config["noise_scale"])
    return Bernoulli(config["link"])


def _refuse_distribution(name: str, scale: object) -> None:
    if isinstance(scale, Distribution):
        raise ValueError(
            f"{name} is a distribution, which has no file form; a fit with sampled scales cannot "
            "be saved yet."
        )
