"""The methods that `probmf fit` knows, and the model that its options describe."""

from dataclasses import replace
from typing import Any, Literal, cast

from numpyro.distributions import HalfNormal

from probmf.data import Ratings
from probmf.inference import default_fit
from probmf.inference.approximate.svi import fit_svi
from probmf.inference.approximate.variational import fit_variational
from probmf.inference.gibbs.gibbs import sample_gibbs
from probmf.inference.nuts.nuts import sample_nuts
from probmf.inference.point.als import fit_als
from probmf.inference.point.map import fit_map
from probmf.models import MatrixFactorization, NormalWishart
from probmf.models.factorization_program import PRIOR_SCALES
from probmf.results import RatingsFit

Method = Literal["auto", "als", "map", "gibbs", "nuts", "variational", "svi"]
Priors = Literal["fixed", "learned", "wishart"]
#: Methods of many draws, which don't stop by ratings set aside.
SAMPLERS: tuple[Method, ...] = ("auto", "gibbs", "nuts", "svi")
#: Epochs of `--method map` by default: full batches stop by themselves when they are done.
EPOCHS, EPOCHS_FULL = 30, 500


def run_method(
    method: Method,
    model: MatrixFactorization,
    data: Ratings,
    *,
    key: int,
    **settings: Any,
) -> RatingsFit:
    """Fit by the method that the command line names."""
    if method == "auto":
        settings.pop("validation", None)
        return default_fit.fit(data, num_factors=int(model.num_factors), key=key, **settings)
    if method in (*SAMPLERS, "variational"):
        model = _with_priors(model, settings.pop("priors", "learned"))
    if method == "variational":
        return fit_variational(model, data, key=key, **settings)
    if method in SAMPLERS:
        settings.pop("validation", None)
    if method == "gibbs":
        return sample_gibbs(model, data, key=key, **settings)
    if method == "nuts":
        sites = _sites_of(model, settings.pop("marginalize", None))
        return sample_nuts(model, data, key=key, marginalize=sites, **settings)
    if method == "svi":
        return cast(RatingsFit, fit_svi(model, data, key=key, **settings))
    if method == "als":
        return fit_als(model, data, key=key, **settings)
    epochs = EPOCHS_FULL if settings.get("batch_size") is None else EPOCHS
    own = {"num_epochs": epochs, "num_restarts": settings.pop("restarts", 1)}
    return fit_map(model, data, key=key, **(own | settings))


def _sites_of(model: MatrixFactorization, side: str | None) -> list[str]:
    """Value of `--marginalize`."""
    if side is None:
        return []
    sites = [site for site in model.site_shapes(1, 1) if site.startswith(side)]
    if not sites:
        raise ValueError(
            f"--marginalize is {side}, but the model has neither {side} biases nor factors; leave "
            "it out."
        )
    return sites


def _with_priors(model: MatrixFactorization, priors: Priors) -> MatrixFactorization:
    """Half-normal priors of the scales in place of the scales."""
    if priors == "fixed":
        return model
    likelihood: Any = model.likelihood
    own = {
        name: HalfNormal(scale) for name, scale in likelihood.stated.items()
        if name.endswith("_scale")
    }  # fmt: skip
    laws: dict[str, Any] = {
        name: HalfNormal(getattr(model, name)) for name in PRIOR_SCALES.values()
    }
    if priors == "wishart":
        laws |= {"user_scale": NormalWishart(), "item_scale": NormalWishart()}
    return replace(model, likelihood=replace(likelihood, **own), **laws)


def read_intercept(word: str) -> Any:
    """Value of `--intercept`."""
    if word in ("mean", "learned"):
        return word
    if word == "none":
        return None
    try:
        return float(word)
    except ValueError:
        raise ValueError(
            f"--intercept is {word!r}; expected mean, learned, none, or a number."
        ) from None
