"""Checks of arguments, and the table of what a method can't do on a model, and why."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpyro.distributions import Distribution, Laplace, StudentT

from probmf.likelihoods.parameters import is_number
from probmf.models import MatrixFactorization, MixedEffects, Network
from probmf.models.layers import Linear
from probmf.models.normal_wishart import NormalWishart

#: Methods, and the families of models that they take.
METHODS: dict[str, tuple[type[Any], ...]] = {
    "fit_als": (MatrixFactorization,),
    "fit_map": (MatrixFactorization, Network),
    "fit_variational": (MatrixFactorization,),
    "sample_gibbs": (MatrixFactorization, MixedEffects),
    "sample_nuts": (MatrixFactorization, MixedEffects, Network),
    "fit_svi": (MatrixFactorization, MixedEffects, Network),
    "fit_laplace": (MatrixFactorization, MixedEffects, Network),
    "fit_marginal": (MixedEffects,),
    "sample_marginal": (MixedEffects,),
}

_ROWS = "It solves for the rows of users and items in turns, and {found} has none."
_VARIANCES = "It integrates all effects out of a mixed model, and {found} is not one."
_JOINT = (
    "The prior of {found} is a joint one of several scales (it has an event shape), and {method} "
    "takes independent scales. Give a distribution with batch shapes only."
)
_NO_ROWS = (
    "{method} solves for rows of factors and biases, and {found} has neither; give num_factors or "
    "biases."
)
_NO_DATA = (
    "With {found} pairs that were not observed count as weak zeros. That is no model of the data, "
    "which {method} needs. Sample negatives, or use fit_als."
)
_PRIORS = (
    "{method} needs fixed scales, but {found} has a prior distribution. A point estimate of a "
    "scale together with what it governs is degenerate: the density grows without bound as the "
    "scale goes to 0. Give a number; "
)
_ROW_PRIORS = _PRIORS + (
    "learn the scales with fit_variational; or sample the posterior with sample_gibbs or "
    "sample_nuts."
)
_MEANS = (
    "{method} has no prior means from features (user_mean, item_mean); use fit_als or fit_map, or "
    "sample_gibbs or sample_nuts for the posterior."
)
_MODE = (
    "{method} needs the highest point of the density, and with {found} unknown there is none: it "
    "grows without bound as the scale goes to 0 together with what it governs. Give the scale as "
    "a number, or use fit_svi(guide='normal') or a sampler{instead}."
)
#: What else there is for models without a mode.
_ROWS_INSTEAD = "; or fit_variational, which learns scales"
_EFFECTS_INSTEAD = "; or integrate the effects out, with marginalize='all'"
_GROUPING_INSTEAD = "; or fit_marginal or sample_marginal, which integrate effects out"
_NETWORK_MEANS = (
    "{method} solves for the weights of a prior mean, which it can for Linear() only, and {found} "
    "goes through a network. Use fit_map, or sample_nuts for the posterior."
)
_NO_BOUND = (
    "The likelihood is {found}, whose loss has no quadratic upper bound; {method} solves for rows "
    "under such a bound."
)
_NO_LATENT = (
    "The likelihood is {found}, which has no latent variable that makes rows normal; {method} "
    "draws rows given such a variable. Use sample_nuts."
)
_NO_EXPECTED = (
    "The likelihood is {found}; {method} needs the mean of the loss over a normal score in closed "
    "form, which Gaussian and Bernoulli likelihoods have. Use fit_svi or a sampler."
)
_NOT_GAUSSIAN = (
    "{found}: {method} needs effects that are normal given the response, which they are for "
    "Gaussian and log-normal responses only. Use sample_marginal or sample_nuts."
)


class Row(NamedTuple):
    """A property of models of a family by which methods differ.

    `found` says where a model has it, as shown in messages (`example` is one), and is empty where
    it does not. `no` has the sentence of each method that can't do it; methods in `apart` ask for
    it themselves, as it depends on their arguments, too.
    """

    title: str
    family: type[Any]
    found: Callable[[Any], str]
    example: str
    no: Mapping[str, str]
    apart: tuple[str, ...] = ()

    def sentence(self, method: str, found: str, called: str = "") -> str:
        """Refusal of a model by a method, which is called by another name if one is given."""
        instead = _ROWS_INSTEAD if self.family is MatrixFactorization else ""
        return self.no[method].format(method=called or method, found=found, instead=instead)


def scales_of_rows(model: MatrixFactorization) -> list[str]:
    """Scales with a prior that govern rows or ratings; those of learned cutpoints do not count."""
    random = [name for name in model.random_scales() if name not in model.learned_shapes]
    for side in model.mean_sides:
        random += getattr(model, f"{side}_mean").random_scales(f"{side}_mean")
    return random


def _wisharts(model: MatrixFactorization) -> str:
    names = ("user_scale", "item_scale")
    return ", ".join(n for n in names if isinstance(getattr(model, n), NormalWishart))


def _network_means(model: MatrixFactorization) -> str:
    means = {f"{side}_mean": getattr(model, f"{side}_mean") for side in model.mean_sides}
    return ", ".join(n for n, m in means.items() if not isinstance(m, Linear) and m.hidden)


def _laws(model: MatrixFactorization) -> dict[str, Distribution]:
    """Priors of scales, by name."""
    own: Mapping[str, Any] = model.likelihood.scale_sites()
    laws = {n: own[n] if n in own else getattr(model, n) for n in model.random_scales()}
    return {
        name: law for name, law in laws.items()
        if isinstance(law, Distribution) and name not in model.learned_shapes
    }  # fmt: skip


def _joint(model: MatrixFactorization) -> str:
    return ", ".join(name for name, law in _laws(model).items() if law.event_shape)


def _by_row(model: MatrixFactorization) -> str:
    names = [n for n, law in _laws(model).items() if law.batch_shape and law.batch_shape[0] > 1]
    return ", ".join(name for name in names if name.split("_")[0] in model.mean_sides)


def _heavy(model: MixedEffects) -> str:
    given: Any = (model.priors or {}).get("coefficients")
    laws = given.values() if isinstance(given, Mapping) else [given]
    found = [type(law).__name__ for law in laws if isinstance(law, Laplace | StudentT)]
    return f"priors['coefficients'] is a {found[0]}" if found else ""


def _when(has: Callable[[Any], Any], words: str) -> Callable[[Any], str]:
    return lambda model: words if has(model) else ""


def _lacks(method: Any) -> Callable[[Any], str]:
    """The likelihood's name, where it lacks an optional method."""
    return lambda model: "" if model.likelihood.has(method) else model.likelihood.kind


TABLE: tuple[Row, ...] = (
    Row("MatrixFactorization", MatrixFactorization, lambda _: "MatrixFactorization",
        "MatrixFactorization", {
            "fit_marginal": _VARIANCES + " Give sample_nuts(marginalize=...) one side of a "
            "factorization.",
            "sample_marginal": _VARIANCES + " Give sample_nuts(marginalize=...) one side of a "
            "factorization.",
        }),
    Row("scales with a prior", MatrixFactorization,
        lambda model: ", ".join(scales_of_rows(model)), "user_scale", {
            "fit_als": _ROW_PRIORS, "fit_map": _ROW_PRIORS,
        } | {"fit_laplace": _MODE}, ("fit_laplace",)),
    Row("NormalWishart prior of factors", MatrixFactorization, _wisharts, "user_scale", {
            "fit_variational": "{found} is a NormalWishart, but {method} learns scales only; give "
            "a distribution of shape (1, num_factors) for one scale per factor, or use "
            "sample_gibbs.",
            "fit_als": _ROW_PRIORS, "fit_map": _ROW_PRIORS, "fit_laplace": _MODE,
        }, ("fit_laplace",)),
    Row("a joint prior of several scales", MatrixFactorization, _joint, "user_scale", {
            "fit_als": _ROW_PRIORS, "fit_map": _ROW_PRIORS, "fit_laplace": _MODE,
            "fit_variational": _JOINT, "sample_gibbs": _JOINT,
        }, ("fit_laplace",)),
    Row("neither factors nor biases", MatrixFactorization,
        _when(lambda model: not model.site_shapes(1, 1), "the model"), "the model", {
            "fit_als": _NO_ROWS, "fit_variational": _NO_ROWS, "sample_gibbs": _NO_ROWS,
        }),
    Row("ratings without a quadratic bound", MatrixFactorization,
        _lacks("bound"), "Poisson", {
            "fit_als": f"{_NO_BOUND} Use fit_map.",
            "fit_variational": f"{_NO_BOUND} Use fit_svi or a sampler.",
            "sample_gibbs": _NO_LATENT,
        }),
    Row("ratings without a latent variable", MatrixFactorization, _lacks("augment"), "StudentT", {
            "sample_gibbs": _NO_LATENT, "fit_variational": _NO_EXPECTED,
        }),
    Row("ratings that are neither Gaussian nor yes/no", MatrixFactorization,
        lambda model: "" if model.likelihood.quadratic else _lacks("expected_bound")(model),
        "Ordinal", {
            "fit_variational": _NO_EXPECTED,
        }),
    Row("weak zeros", MatrixFactorization,
        _when(lambda model: model.unobserved_weight > 0, "unobserved_weight"),
        "unobserved_weight", {
            "fit_variational": _NO_DATA, "sample_gibbs": _NO_DATA,
        }),
    Row("prior means from features", MatrixFactorization,
        lambda model: ", ".join(f"{side}_mean" for side in model.mean_sides), "user_mean", {
            "fit_variational": _MEANS,
        }),
    Row("a prior for each row's scale beside a prior mean", MatrixFactorization, _by_row,
        "user_scale", {
            "fit_als": _ROW_PRIORS, "fit_map": _ROW_PRIORS, "fit_laplace": _MODE,
            "fit_variational": _MEANS,
            "sample_gibbs": "{found} has a distribution for each row; {method} draws the weights "
            "of a prior mean only where all rows share a scale, or scales are numbers. Give one "
            "distribution for all rows, or an array, or use sample_nuts.",
        }, ("fit_laplace",)),
    Row("prior means by a network", MatrixFactorization, _network_means, "user_mean",
        {"fit_als": _NETWORK_MEANS, "sample_gibbs": _NETWORK_MEANS, "fit_variational": _MEANS}),
    Row("MixedEffects", MixedEffects, lambda _: "MixedEffects", "MixedEffects", {
            "fit_als": _ROWS + " Use fit_marginal.",
            "fit_map": "Its scales have priors, and the joint density of scales and effects has no "
            "mode. Use fit_marginal(objective='map'), which integrates the effects out.",
            "fit_variational": _ROWS + " Use fit_svi.",
        }),
    Row("responses that are neither Gaussian nor log-normal", MixedEffects,
        lambda model: "" if model.likelihood.normal else f"likelihood is {model.likelihood!r}",
        "likelihood is Bernoulli()", {"sample_gibbs": _NOT_GAUSSIAN}),
    Row("a formula for the noise", MixedEffects,
        lambda model: "" if model.scale_formula is None
        else f"scale_formula is {model.scale_formula!r}",
        "scale_formula is '~ x'", {
            "sample_gibbs": "{found}: the coefficients of the noise scale's logarithm have no "
            "conditional to draw from. Use sample_nuts, or sample_marginal.",
        }),
    Row("weights of rows", MixedEffects,
        lambda model: "" if model.weights is None else f"weights is {model.weights!r}",
        "weights is 'w'", {
            "sample_gibbs": "{found}, and {method} takes all rows to have one noise scale. Use "
            "sample_marginal, or sample_nuts.",
        }),
    Row("Student-t and Laplace priors of coefficients", MixedEffects, _heavy,
        "priors['coefficients'] is a StudentT", {
            "sample_gibbs": "{found}, and {method} draws coefficients from Normals. Use "
            "sample_marginal, or sample_nuts.",
        }),
    Row("Network", Network, lambda _: "Network", "Network", {
            "fit_als": _ROWS + " Use fit_map.",
            "fit_variational": _ROWS + " Use fit_svi.",
            "sample_gibbs": "The weights of a network have no conditionals to draw from. Use "
            "sample_nuts.",
            "fit_marginal": _VARIANCES + " Use fit_map.",
            "sample_marginal": _VARIANCES + " Use sample_nuts.",
        }),
    Row("network whose scales have a prior", Network,
        lambda model: ", ".join(model.random_scales()), "weight_scale", {
            "fit_map": _PRIORS + "or sample the posterior with sample_nuts.",
            "fit_laplace": _MODE,
        }, ("fit_laplace",)),
)  # fmt: skip


def require(method: str, model: Any) -> None:
    """Refuse a model that a method can't do; the table says which, and why."""
    families = METHODS[method]
    if not isinstance(model, families):
        *others, last = (family.__name__ for family in families)
        expected = f"{', '.join(others)} or {last}" if others else last
        why = (
            "For any other NumPyro model use marginalize(model), with sample_marginal or NumPyro's "
            "own MCMC."
        )
        if isinstance(model, str) and "MixedEffects" in expected:
            why = f"Of a formula make one: MixedEffects({model!r})."
        elif not callable(model):
            why = "The model comes first, then the data."
        for row in TABLE:
            if row.title == row.family.__name__ and isinstance(model, row.family):
                why = row.sentence(method, row.title)
        raise TypeError(f"model is of type {type(model).__name__}; expected {expected}. {why}")
    if sentence := refusal(method, model):
        raise ValueError(sentence)


def refusal(method: str, model: Any) -> str:
    """The sentence of the table's first row that refuses a model; empty where none does."""
    for row in TABLE:
        if method not in row.no or method in row.apart or not isinstance(model, row.family):
            continue
        if found := row.found(model):
            return row.sentence(method, found)
    return ""


def require_mode(method: str, model: Any, names: Sequence[str]) -> None:
    """Refuse unknown scales whose joint density with what they govern has no highest point."""
    if not names:
        return
    instead = _ROWS_INSTEAD if isinstance(model, MatrixFactorization) else ""
    if isinstance(model, MixedEffects):
        instead = _EFFECTS_INSTEAD if model.likelihood.normal else _GROUPING_INSTEAD
    raise ValueError(_MODE.format(method=method, found=", ".join(names), instead=instead))


def check_counts(**counts: object) -> None:
    """Refuse arguments that are not whole numbers of at least 1."""
    for name, count in counts.items():
        _check_whole(name, count, 1, "at least 1")


def check_warmup(count: object) -> None:
    """Refuse a number of warm-up steps that is not a whole number of at least 0."""
    _check_whole("num_warmup", count, 0, "0 or more")


def _check_whole(name: str, count: object, least: int, words: str) -> None:
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        raise TypeError(f"{name} is {count!r}; expected a whole number of {words}.")
    if count < least:
        raise ValueError(f"{name} is {count}; expected a whole number of {words}.")


def check_tol(tol: object) -> None:
    """Refuse a tolerance that is not a finite number >= 0."""
    if not (is_number(tol) and tol >= 0):
        raise ValueError(f"tol is {tol!r}; expected a finite number >= 0 (0 never stops).")
