"""Linear mixed-effects models as NumPyro models."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from jaxtyping import Array

from probmf import html
from probmf.likelihoods import read_likelihood
from probmf.likelihoods.censored import Censored
from probmf.models.mixed.arrays import MixedData, join_rows
from probmf.models.mixed.build import build_design
from probmf.models.mixed.design import Design, Encoded, coords, dims, encode_rows
from probmf.models.mixed.formula import ParsedFormula, parse_formula
from probmf.models.mixed.program import MixedProgram
from probmf.models.sites import Sites
from probmf.settings import in_precision


@dataclass(frozen=True, eq=False)
class MixedEffects:
    r"""Population coefficients plus effects of groups, from a formula as in lme4.

    .. math::
        \eta_n = o_n + x_n \cdot \beta + \sum_k z_{kn} \cdot u_{k, g_k(n)}, \quad
        u_{kj} \sim N(0, \Sigma_k), \quad y_n \sim N(\eta_n, \sigma^2)

    The object is itself a NumPyro model of :class:`~probmf.models.MixedData`.

    Args:
        formula: Such as "y ~ 1 + x + (1 + x | g) + (1 | a/b)". What stands outside of the group
            terms, and left of their bars, is read by formulaic, with its transforms;
            `offset(np.log(n))` is added to the predictor without a coefficient. It is
            evaluated as Python code, so take formulas from people you trust only. Of successes
            among trials the response is "y | trials(n)"; "y | cens(c)" has a column that says
            which responses are bounds: 0 observed, 1 at least y, -1 at most y, or "none", "right",
            "left"; in "y | cens(c, upper)" 2 or "interval" is from y to the column `upper`.
        likelihood: "gaussian" (identity link), "lognormal" (the same for log y), "bernoulli"
            (logit), "ordinal" (cumulative logit; learned cutpoints take the place of the
            intercept) or the lower-case name of another; or a likelihood such as
            `Bernoulli("probit")` or `Ordinal(link="probit")`, whose own parameters, if it has any,
            are fixed or have its priors.
        scale_formula: Formula "~ 1 + x + (1 | g)" of the logarithm of the likelihood's second
            parameter: of a noise scale, or a concentration; of the logit of a zero-inflated or
            hurdle Poisson's probability of zeros. By default that is one number.
        priors: Priors by site in place of the default ones: for coefficients a mapping of column
            names to Normals (or to Student-t or Laplace distributions, whose mixtures of Normals
            have the site `coefficients_mixing`; in `scale_formula` to any), for scales a
            distribution (or a number, which fixes it), for correlations the concentration of the
            LKJ distribution.
        weights: Column of positive weights w. A Gaussian or log-normal response then has the noise
            :math:`\sigma / \sqrt w`, as in lme4; any other counts w times. Predictions are of
            responses of weight one.
        centered: Whether effects are sampled as such (True), as standard Normals times their
            scales (False), or which sites of effects are sampled as such.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a formula can't be read, with the place, `likelihood` is unknown, or it and
            `scale_formula` both say what its second parameter is.

    Example:
        >>> model = MixedEffects("y ~ x + (1 | g)")
        >>> table = {"y": [1.0, 2.0, 4.0, 3.0], "x": [0, 1, 2, 3], "g": ["a", "b", "a", "b"]}
        >>> design = model.design(table)
        >>> design.data.mean.names, design.levels["g"]
        (('Intercept', 'x'), array(['a', 'b'], dtype=object))

    References:
        Bates, Maechler, Bolker and Walker (2015), Fitting linear mixed-effects models using lme4,
        section 2.
    """

    formula: str
    # Whatever is given, a Likelihood after __post_init__.
    likelihood: Any = field(default="gaussian", kw_only=True)
    scale_formula: str | None = field(default=None, kw_only=True)
    priors: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    weights: str | None = field(default=None, kw_only=True)
    centered: bool | Collection[str] = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        """Check the configuration at the door."""
        object.__setattr__(self, "likelihood", read_likelihood(self.likelihood))
        if self.parsed.response is None:
            raise ValueError(
                f"The formula {self.formula!r} has no response; write its column before '~', as in "
                "'y ~ 1 + x + (1 | g)'."
            )
        if self.parsed_scale is not None:
            if self.parsed_scale.response is not None:
                raise ValueError(
                    f"scale_formula is {self.scale_formula!r}; it has no response: begin with '~'."
                )
            parameter = self.likelihood.scale_parameter
            if not parameter:
                raise ValueError(
                    f"scale_formula is {self.scale_formula!r}, but likelihood={self.likelihood!r} "
                    "has no second parameter, such as a noise scale or a concentration. Leave it "
                    "out."
                )
            if parameter in self.likelihood.stated:
                raise ValueError(
                    f"likelihood is {self.likelihood!r} and scale_formula {self.scale_formula!r}: "
                    f"both say what the {parameter.replace('_', ' ')} is. Leave one of them out."
                )
        self._check_trials()
        self._wrap_censored()
        if not isinstance(self.priors, Mapping):
            raise TypeError(
                f"priors is of type {type(self.priors).__name__}; expected a mapping such as "
                "{'noise_scale': numpyro.distributions.HalfNormal(1.0)}."
            )
        if self.weights is not None and not isinstance(self.weights, str):
            raise TypeError(
                f"weights is of type {type(self.weights).__name__}; expected the name of a column "
                "of the data."
            )
        if isinstance(self.centered, str):
            raise TypeError(
                f"centered is {self.centered!r}; expected True, False, or a collection of sites "
                f"such as [{self.centered!r}]."
            )

    def _check_trials(self) -> None:
        """Refuse trials that are said twice, not at all, or of another likelihood."""
        column, takes = dict(self.parsed.known).get("trials"), "trials" in self.likelihood.known
        if column is not None and not takes:
            raise ValueError(
                f"The formula {self.formula!r} has trials, which likelihood={self.likelihood!r} "
                "does not take; use likelihood='binomial'."
            )
        if takes and (column is None) != ("trials" in self.likelihood.stated):
            raise ValueError(
                f"likelihood is {self.likelihood!r} and the formula {self.formula!r}: "
                + (
                    "neither says how many trials there were. Write y | trials(n) ~ ..., or "
                    "likelihood=Binomial(10)."
                    if column is None
                    else "both say how many trials there were. Leave one of them out."
                )
            )

    def _wrap_censored(self) -> None:
        """Take the likelihood for that of responses of which some are bounds."""
        said, wrapped = dict(self.parsed.known), isinstance(self.likelihood, Censored)
        if "censored" in said:
            law = self.likelihood.law if wrapped else self.likelihood
            object.__setattr__(self, "likelihood", Censored(law, "upper" in said))
        elif wrapped:
            raise ValueError(
                f"likelihood is {self.likelihood!r}, and the formula {self.formula!r} does not "
                "say which responses are bounds; write y | cens(c) ~ ..."
            )

    @property
    def centred(self) -> "MixedEffects":
        """The same model with all effects centred."""
        return self if self.centered is True else replace(self, centered=True)

    @property
    def parsed(self) -> ParsedFormula:
        """The formula in its parts."""
        return parse_formula(self.formula)

    @property
    def parsed_scale(self) -> ParsedFormula | None:
        """The formula of the noise scale in its parts."""
        return None if self.scale_formula is None else parse_formula(self.scale_formula)

    def design(self, data: Any) -> Design:
        """Encode training data.

        Args:
            data: pandas, polars, pyarrow, DuckDB or other table known to narwhals, or a dict of
                sequences. Columns with numbers or booleans (0 and 1) are numbers; text and
                categorical columns are factors, with levels in the order of their categories,
                else sorted. A grouping factor may be of any kind of id. A design is returned as it
                is.

        Returns:
            The arrays with their labels.

        Raises:
            TypeError: If `data` is no table, or a column's type does not suit its role.
            ValueError: If a column is missing, a value is missing or infinite, a grouping factor
                has one level, population columns are collinear, the response is outside of the
                likelihood's support, or a prior is not one of this model.

        Cost: O(n (p^2 + sum of the d)) time, and memory for n (p + sum of the d) numbers.
        """
        if isinstance(data, Design):
            return data
        return build_design(
            data, self.parsed, self.parsed_scale, self.likelihood, self.priors, self.weights
        )

    def arguments(self, data: Any, *, join: bool = False) -> tuple[MixedData]:
        """Arguments of the NumPyro model.

        Args:
            data: The training data, or a design that is made of them.
            join: Join rows that are alike, where that halves their number: those of one response
                are counted, and where the noise of a Gaussian response has a formula the mean of
                those that differ in their response only stands for them. The posterior is the
                same; what is predicted or told by row is not.

        Returns:
            A tuple of one pytree.

        Raises:
            TypeError: As for `design`.
            ValueError: As for `design`.
        """
        arrays = self.design(data).data
        if join:
            arrays = join_rows(arrays, self.likelihood)
        return (in_precision(arrays),)

    def encode(
        self, design: Design, data: Any, *, unseen: Literal["error", "prior"] = "error"
    ) -> Encoded:
        """Encode new data with the levels, contrasts and transforms of the training data.

        Args:
            design: From the training data.
            data: The new data; they need no response.
            unseen: What a level of a grouping factor that the training data lack does: "error",
                or "prior" for a negative code, which stands for effects from their prior: -1 for
                the first new level, -2 for the second, and so on.

        Returns:
            NumPy arrays: population columns, and by group term codes and columns.

        Raises:
            ValueError: If a level is unseen (unless it may be), or as for `design`.

        Example:
            >>> model = MixedEffects("y ~ x + (1 | g)")
            >>> table = {"y": [1.0, 2.0, 4.0, 3.0], "x": [0, 1, 2, 3], "g": ["a", "b", "a", "b"]}
            >>> design = model.design(table)
            >>> rows = model.encode(design, {"x": [5, 6], "g": ["b", "new"]}, unseen="prior")
            >>> rows.population, rows.groups["g"].group
            (array([[1., 5.], [1., 6.]]), array([ 1, -1], dtype=int32))
        """
        if unseen not in ("error", "prior"):
            raise ValueError(f"unseen is {unseen!r}; expected 'error' or 'prior'.")
        return encode_rows(design, data, unseen)

    def effect_sites(self, design: Design | MixedData) -> tuple[str, ...]:
        """Names of the sampled Gaussian sites that enter the linear predictor.

        Args:
            design: From `design`, or its data.

        Returns:
            "coefficients", if there are any, and `{name}_effects` of each group term
            (`{name}_effects_raw` where it is not centred).
        """
        mean = (design.data if isinstance(design, Design) else design).mean
        return self.program.effect_sites(mean)

    def sites(self, design: Design) -> Sites:
        """Names of the sites' dimensions, and the user's levels and names of columns along them.

        Args:
            design: The formula applied to the training data.

        Returns:
            Dimensions of every site, and their coordinates.
        """
        parts = design.data.predictors
        site_of = self.program.sampled_site
        raw = [t.effects_site for p in parts for t in p.groups if site_of(t) != t.effects_site]
        found = dims(design, raw)
        likelihood = self.likelihood.coded(len(design.response_levels))
        own = dict.fromkeys(likelihood.scale_sites(), ()) | likelihood.labels
        if design.noise is not None:
            del own[likelihood.scale_parameter]
        found |= {site: list(names) for site, names in own.items()}
        return Sites(found, coords(design))

    @property
    def program(self) -> MixedProgram:
        """All that distinguishes this NumPyro model from others of the same data."""
        given = self.centered
        centered = given if isinstance(given, bool) else tuple(sorted(given))
        return MixedProgram(self.likelihood.canonical(), centered)

    def _repr_html_(self) -> str:
        """The arguments, for notebooks."""
        return html.fields(self)

    def __call__(self, data: MixedData) -> Array:
        """The NumPyro model of the data from `arguments`; gives the response."""
        return self.program(data)
