"""Fits of mixed-effects models: draws of coefficients, effects and scales."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import Any, get_args

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from probmf import html
from probmf.data import as_generator
from probmf.likelihoods import Likelihood
from probmf.models.mixed import Design, Encoded, MixedEffects
from probmf.models.mixed.design import encode_rows
from probmf.models.mixed.encoding import Unseen
from probmf.models.sites import Sites
from probmf.results.arviz_tree import log_prior as log_prior_at
from probmf.results.asked import check_at_least, check_choice, check_interval
from probmf.results.estimates import Estimates
from probmf.results.fit import Fit
from probmf.results.marginal_effects import By, Comparison, EffectQuery, Slope
from probmf.results.mixed_predict import (
    Level,
    Scale,
    SiteDraws,
    blocks,
    draw_rows,
    known_rows,
    left_out,
    level_values,
    mixture,
    predict_rows,
    tail_rows,
    training_rows,
    without,
)
from probmf.results.mixed_summary import is_effect, partition, summarize_sites
from probmf.results.mixed_summary import table as share_table
from probmf.results.point_errors import PointErrors
from probmf.results.prediction_intervals import Kind, Mixtures
from probmf.results.predictions import Predictions
from probmf.results.records import History, Maximum, RowMoments, Sampling
from probmf.results.storage import used_columns, write_fit
from probmf.results.table import Table
from probmf.settings import own_settings

#: Columns to vary, and how; see `MixedFit.comparisons`.
type Variables = str | Collection[str] | Mapping[str, Any] | None

#: Numbers that a notebook shows beside a fit; their convergence is measured, some ms each.
SHOWN = 40


@dataclass(frozen=True, eq=False, repr=False)
class MixedFit(Fit):
    """A fitted mixed-effects model.

    Attributes:
        model: The model that was fitted.
        design: The formula applied to the training data.
        samples: Draws by site name, each with leading (chain, draw) axes; a point fit has one
            chain of one draw. Sites whose priors are fixed values, and effects that the sampler
            integrated out, may be missing. Read-only.
        method: How it was fitted, such as "nuts".
        sampling: How the sampler's run went; None for a point fit.
        history: How an optimizer's search went, or None.
        data: The training table as it was, any that `model.design` takes.
        moments: Means and standard deviations of coefficients and effects over all sweeps of a
            Gibbs sampler, by chain, or None.
        maximum: Log likelihood, AIC, BIC and standard errors of a best fit, or None.

    Raises:
        ValueError: If there are no draws, a site is none of the model's, has another shape than
            the model gives it, or is not finite.
    """

    model: MixedEffects
    design: Design
    samples: Mapping[str, Float[np.ndarray, "chain draw ..."]]
    method: str
    sampling: Sampling | None = None
    history: History | None = None
    data: Any = None
    moments: RowMoments | None = None
    maximum: Maximum | None = None

    def __post_init__(self) -> None:
        """Check the draws against the model; a design is no table to save."""
        super().__post_init__()
        if isinstance(self.data, Design):
            object.__setattr__(self, "data", None)

    @cached_property
    def site_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of all sites but the response, without chain and draw."""
        return self._sites().shapes(self._response_name)

    @property
    def _model_words(self) -> str:
        return f"{self.model.formula}, {self.model.likelihood.kind}"

    @property
    def _data_words(self) -> str:
        return f"{self.design.data.num_observations:,} observations"

    def _repr_html_(self) -> str:
        """One line and the summary, for notebooks; without it where it would be long."""
        numbers = (value[0, 0].size for site, value in self.samples.items() if not is_effect(site))
        table = self.summary()._repr_html_() if sum(numbers) <= SHOWN else ""
        return html.together(super()._repr_html_(), table)

    @cached_property
    def _draws(self) -> SiteDraws:
        likelihood = self.model.likelihood.uncensored.coded(len(self.design.response_levels))
        return SiteDraws(self.design, self.samples, likelihood)

    @own_settings()
    def predict(
        self,
        data: Any = None,
        *,
        interval: float | None = 0.9,
        unseen: Unseen = "error",
        level: Level = "groups",
        kind: Kind = "mean",
        draws: bool = False,
        key: ArrayLike | None = None,
        at_least: float | None = None,
    ) -> Predictions:
        r"""Predict the responses of rows, averaged over the draws.

        With kind="mean" the interval says how well the expected response is known, with
        kind="response" where a response will lie: the noise is put in, in closed form given each
        draw, and the interval's ends are quantiles of the mixture over the draws.

        Args:
            data: A table with the columns of the formula; they need no response. None for the
                training rows.
            interval: Probability of the central interval; None for means only.
            unseen: What a group that the training data lack does: "error", or "prior" for effects
                with the prior of each draw, which are integrated out; flagged in `known`.
            level: "groups" with the effects of all groups; "population" without them, for the group
                whose effects are all zero; or a list of the groupings whose effects count, such as
                ["school"]. Columns that only other groupings use are not needed.
            kind: "mean" or "response".
            draws: Whether to return draws, too: the expected response at each draw of the fit, or
                with kind="response" a response drawn there. Effects of new groups are drawn.
            key: JAX key or int, for draws of responses or of new groups.
            at_least: Also tell the `probability` of a response of at least this, noise included.
                Levels that are no numbers are counted from 0.

        Returns:
            The predictions, in the order of the rows. A point fit (one draw) knows no uncertainty
            of the mean: `sd`, `lower` and `upper` are then None with kind="mean", and of the noise
            and the effects of new groups alone with kind="response". Under a log-normal response
            with effects of new groups in its noise scale the mean is infinite.

        Raises:
            TypeError: If `data` is no table, or a column has another type than in training.
            ValueError: If an option is unknown, a column or value is missing, a level is unseen and
                may not be, or the fit has no draws of what is needed.

        Example:
            >>> from probmf import MixedEffects, fit_marginal
            >>> table = {"y": [1, 2, 4.5, 3, 6.5, 7.5], "x": [0, 1, 2] * 2, "g": [*"aabbcc"]}
            >>> fit = fit_marginal(MixedEffects("y ~ x + (1 | g)"), table)
            >>> found = fit.predict({"x": [3, 3], "g": ["c", "new"]}, unseen="prior")
            >>> found.mean.round(), found.known
            (array([8., 6.]), array([ True, False]))

        Cost: O(draws n (p + sum of the d)) time; memory is bounded.
        """
        if interval is not None:
            check_interval(interval)
        check_choice("kind", kind, get_args(Kind.__value__))
        if at_least is not None:
            levels = self.design.response_levels
            known = level_values(levels) if levels else self.model.likelihood.uncensored.levels
            at_least = check_at_least(at_least, known)
        rows = self._rows(data, unseen, level)
        found = predict_rows(
            self._draws, rows, kind=kind,
            interval=None if self.is_point and kind == "mean" else interval,
        )  # fmt: skip
        if at_least is not None:
            found = replace(found, probability=self._tail(rows, found, at_least))
        if not draws:
            return found
        rng = None if key is None else as_generator(key)
        if rng is None and (kind == "response" or not known_rows(rows).all()):
            raise ValueError(
                "draws=True draws at random: responses, or the effects of new groups. Give key=, "
                "a JAX key or an int."
            )
        own = draw_rows(self._draws, rows, kind=kind, rng=rng)
        return replace(found, draws=own)

    def predictions(
        self,
        data: Any = None,
        *,
        variables: Variables = None,
        by: By = False,
        kind: Scale = "mean",
        interval: float | None = 0.9,
        unseen: Unseen = "error",
        level: Level = "groups",
        draws: bool = False,
        key: ArrayLike | None = None,
    ) -> Estimates:
        r"""Estimate expected responses :math:`E[y \mid x]`, of rows or averaged over rows.

        `predict` tells of each row where its response will lie; this tells how well expectations
        and their averages are known.

        Args:
            data: A table with the columns of the formula, such as one from `datagrid`; None for the
                training table.
            variables: Columns to set to other values, the same for all rows: every row is asked
                about once for each combination. A mapping gives values (or a function of the
                training column); a name alone stands for all levels, of numbers for the least, the
                greatest and the quartiles.
            by: What is averaged: nothing (False), all rows (True), or the rows of each value of a
                column, or of each combination of several.
            kind: "mean" for expected responses, "link" for linear predictors, "probabilities" for
                those of each level of an ordinal response.
            interval: Probability of the intervals, or None.
            unseen: What a group that the training data lack does: "error", or "prior" for effects
                that are drawn from their prior at each draw, the same for all rows of the group;
                those of a point fit are integrated out.
            level: "groups" with the effects of all groups, "population" without them, or a list of
                the groupings whose effects count.
            draws: Whether to return the estimates at each draw, too.
            key: JAX key or int, for effects of new groups.

        Returns:
            One line for each row or average. Intervals are quantiles of the draws. Those of
            `fit_marginal` come from the joint errors of all that was estimated and of the effects
            of known groups (the delta method): NaN where the likelihood has no curvature there,
            None of another point fit.

        Raises:
            TypeError: If a column has another type than in training.
            ValueError: If an option or a column is unknown, a value is missing, or there is no
                training table and one is needed.

        Example:
            >>> from probmf import MixedEffects, fit_marginal
            >>> table = {"y": [1, 2, 4.5, 3, 6.5, 7.5], "x": [0, 1, 2] * 2, "g": [*"aabbcc"]}
            >>> fit = fit_marginal(MixedEffects("y ~ x + (1 | g)"), table)
            >>> grid = fit.datagrid(x=[0, 2])
            >>> fit.predictions(grid, level="population", interval=None).mean.round(2)
            array([3.25, 4.92])

        References:
            Arel-Bundock, Greifer and Heiss (2024), How to interpret statistical models using
            marginaleffects for R and Python.
        """
        return self._asked(data, by, kind, interval, unseen, level, draws, key).predictions(
            variables
        )

    def comparisons(
        self,
        data: Any = None,
        *,
        variables: Variables = None,
        comparison: Comparison = "difference",
        by: By = False,
        kind: Scale = "mean",
        interval: float | None = 0.9,
        unseen: Unseen = "error",
        level: Level = "groups",
        draws: bool = False,
        key: ArrayLike | None = None,
    ) -> Estimates:
        r"""Compare expected responses under two values of a column, all else as it is.

        .. math::
            E[y \mid x_1] - E[y \mid x_0] \quad \text{or another function of the two}

        Args:
            data: As for `predictions`.
            variables: Columns to vary, one after the other; None for all predictors. A mapping says
                what is compared. Of numbers: a number to add (1 by default), a pair (low, high),
                "sd" or "2sd" (so wide a step about each value), "iqr" or "minmax". Of levels, and
                of zeros and ones: "reference" (each with the first, the default), "sequential",
                "pairwise", or a pair.
            comparison: "difference", "ratio", "lift" (ratio less one), "lnratio", "lnor" (logarithm
                of the odds ratio), or a function of the higher and the lower expectation, arrays
                of shape (draws, lines, levels).
            by: As for `predictions`. Expectations are averaged first and then compared, so that a
                ratio is one of averages.
            kind: As for `predictions`.
            interval: As for `predictions`.
            unseen: As for `predictions`.
            level: As for `predictions`.
            draws: As for `predictions`.
            key: As for `predictions`.

        Returns:
            For each "term" and "contrast" one line for each row or average.

        Raises:
            TypeError: As for `predictions`.
            ValueError: As for `predictions`, or if there is no such comparison.

        Example:
            >>> from probmf import MixedEffects, fit_marginal
            >>> table = {"y": [1, 2, 4.5, 3, 6.5, 7.5], "x": [0, 1, 2] * 2, "g": [*"aabbcc"]}
            >>> fit = fit_marginal(MixedEffects("y ~ x + (1 | g)"), table)
            >>> found = fit.comparisons(variables={"x": 2}, by=True)
            >>> found.labels(), found.mean.round(2)  # Twice the coefficient.
            (['x'], array([1.67]))

        References:
            Arel-Bundock, Greifer and Heiss (2024), How to interpret statistical models using
            marginaleffects for R and Python.
        """
        return self._asked(data, by, kind, interval, unseen, level, draws, key).comparisons(
            variables, comparison
        )

    def slopes(
        self,
        data: Any = None,
        *,
        variables: str | Collection[str] | None = None,
        slope: Slope = "dydx",
        by: By = False,
        kind: Scale = "mean",
        interval: float | None = 0.9,
        unseen: Unseen = "error",
        level: Level = "groups",
        draws: bool = False,
        key: ArrayLike | None = None,
    ) -> Estimates:
        r"""Differentiate expected responses by columns of numbers (marginal effects).

        .. math::
            \partial E[y \mid x] / \partial x

        by a parabola through three places within 2e-4 of the value, or of the training column's
        range if that is less.

        Args:
            data: As for `predictions`.
            variables: Columns of numbers; None for all of the predictors that are.
            slope: "dydx"; "eyex" for elasticities, by how many percent the expectation changes with
                one percent of x; "eydx" and "dyex" for those of one of both.
            by: As for `predictions`; slopes are averaged.
            kind: As for `predictions`.
            interval: As for `predictions`.
            unseen: As for `predictions`.
            level: As for `predictions`.
            draws: As for `predictions`.
            key: As for `predictions`.

        Returns:
            For each "term" one line for each row or average.

        Raises:
            TypeError: As for `predictions`.
            ValueError: As for `predictions`, or if a column is none of numbers.

        Example:
            >>> from probmf import MixedEffects, fit_marginal
            >>> table = {"y": [1, 2, 4.5, 3, 6.5, 7.5], "x": [0, 1, 2] * 2, "g": [*"aabbcc"]}
            >>> fit = fit_marginal(MixedEffects("y ~ x + (1 | g)"), table)
            >>> fit.slopes(by=True).mean.round(2)
            array([0.84])

        References:
            Arel-Bundock, Greifer and Heiss (2024), How to interpret statistical models using
            marginaleffects for R and Python.
        """
        return self._asked(data, by, kind, interval, unseen, level, draws, key).slopes(
            variables, slope
        )

    def datagrid(self, **values: Any) -> dict[str, np.ndarray]:
        """Make rows of all combinations of some values, other predictors at typical ones.

        Args:
            **values: Values by column: one, several, a function of the training column such as
                `numpy.unique`, or None for all levels, of numbers for the least, the greatest and
                the quartiles.

        Returns:
            A table for `predictions`, `comparisons`, `slopes` and `predict`. Other columns of
            numbers are at their mean; those of levels, booleans and trials at the most frequent
            value. Grouping columns are not in it unless they are given: name their values, or ask
            with level="population".

        Raises:
            ValueError: If the formula has no such column, values are empty, or the fit does not
                have the training table.

        Example:
            >>> from probmf import MixedEffects, fit_marginal
            >>> table = {"y": [1, 2, 4.5, 3, 6.5, 7.5], "x": [0, 1, 2] * 2, "g": [*"aabbcc"]}
            >>> fit = fit_marginal(MixedEffects("y ~ x + (1 | g)"), table)
            >>> fit.datagrid(g=["a", "b"])
            {'g': array(['a', 'b'], dtype=object), 'x': array([1., 1.])}
        """
        return self._asked().grid(values)

    def _asked(
        self, data: Any = None, by: By = False, kind: Scale = "mean",
        interval: float | None = None, unseen: Unseen = "error", level: Level = "groups",
        keep: bool = False, key: ArrayLike | None = None,
    ) -> EffectQuery:  # fmt: skip
        return EffectQuery(
            draws=self._draws, training=self.data,
            errors=self._errors, is_point=self.is_point, data=data, by=by, kind=kind,
            interval=interval, unseen=unseen, level=level, keep=keep, key=key,
        )  # fmt: skip

    @cached_property
    def _errors(self) -> PointErrors | None:
        top = self.maximum
        if top is None or top.loadings is None:
            return None
        flat = top.log_likelihood is not None
        return PointErrors(self.model, self._draws, top.loadings, flat)

    def _tail(self, rows: Encoded, found: Predictions, at_least: float) -> Float[np.ndarray, " n"]:
        """Probabilities of responses of at least a number."""
        if found.probabilities is None:
            return tail_rows(self._draws, rows, at_least)
        reached = level_values(found.levels) >= at_least
        return np.asarray(found.probabilities[:, reached].sum(axis=1))

    def _reach(self, data: Any, numbers: np.ndarray) -> Float[np.ndarray, " n"]:
        """Probabilities that responses of rows are at least some numbers, one for each."""
        return tail_rows(self._draws, self._rows(data, "prior", "groups"), numbers)

    def _rows(self, data: Any, unseen: Unseen, level: Level) -> Encoded:
        """Rows of a table, or of the training data, with the effects of some groupings."""
        check_choice("unseen", unseen, get_args(Unseen.__value__))
        terms = left_out(self.design, level)
        if data is None:
            return without(training_rows(self.design), terms)
        return encode_rows(self.design, data, unseen, terms)

    def r2(self, *, interval: float = 0.9) -> Table:
        r"""Shares of variance that the predictor explains, on the scale of the linear predictor.

        .. math::
            R^2_m = \frac{\sigma_f^2}{\sigma_f^2 + \sum_k \sigma_k^2 + \sigma_\varepsilon^2}, \quad
            R^2_c = \frac{\sigma_f^2 + \sum_k \sigma_k^2}
                         {\sigma_f^2 + \sum_k \sigma_k^2 + \sigma_\varepsilon^2}

        with the variances of the population's predictor over the rows, of the effects of each
        grouping, and of the noise. For yes/no and ordered responses that is the variance of the
        link's distribution, of counts, zero-inflated ones too, and gamma responses
        :math:`\log(1 + \mathrm{Var}/m^2)` at the mean over rows and effects,
        :math:`m = \frac1N \sum_n e^{\eta_n + z_n^\top \Sigma z_n / 2}`, :math:`\eta` without
        effects, and :math:`(1 - p) m` where zeros are inflated by a share p; of Beta responses by
        the delta method :math:`1 / (m (1 - m) (1 + c))` at the mean expected response m. Hurdles
        have none. Effects of a grouping with a group for each row belong to the noise.

        Args:
            interval: Probability of the central interval of draws.

        Returns:
            Rows "marginal" (coefficients alone) and "conditional" (with effects), each computed at
            every draw.

        Raises:
            ValueError: If the response's distribution has no variance on this scale, or the
                interval is not in (0, 1).

        Example:
            >>> from probmf import MixedEffects, fit_marginal
            >>> table = {"y": [1, 2, 4.5, 3, 6.5, 7.5], "x": [0, 1, 2] * 2, "g": [*"aabbcc"]}
            >>> fit_marginal(MixedEffects("y ~ x + (1 | g)"), table).r2()
            name           mean
            marginal     0.1317
            conditional  0.9967

        References:
            Nakagawa and Schielzeth (2013), A general and simple method for obtaining R2 from
            generalized linear mixed-effects models; Johnson (2014) for slopes by group; Nakagawa,
            Johnson and Schielzeth (2017) for counts and gamma responses.
        """
        check_interval(interval)
        fixed, groups, left = partition(self._draws)
        explained = fixed + sum(groups.values())
        whole = explained + left
        shares = {"marginal": fixed / whole, "conditional": explained / whole}
        return share_table(shares, interval, is_point=self.is_point)

    def icc(self, *, interval: float = 0.9) -> Table:
        r"""Intraclass correlations, of two rows of one group, given the coefficients.

        .. math::
            \rho_k = \frac{\sigma_k^2}{\sum_l \sigma_l^2 + \sigma_\varepsilon^2}

        with the variances of `r2`.

        Args:
            interval: Probability of the central interval of draws.

        Returns:
            One row for each grouping, and one called "all" where there are several.

        Raises:
            ValueError: If no group has several rows, or as for `r2`.

        Example:
            >>> from probmf import MixedEffects, fit_marginal
            >>> table = {"y": [1, 2, 4.5, 3, 6.5, 7.5], "x": [0, 1, 2] * 2, "g": [*"aabbcc"]}
            >>> found = fit_marginal(MixedEffects("y ~ x + (1 | g)"), table).icc()
            >>> found.rows[0]["name"], round(found.rows[0]["mean"], 2)
            ('g', 1.0)

        References:
            Nakagawa, Johnson and Schielzeth (2017), The coefficient of determination R2 and
            intra-class correlation coefficient from generalized linear mixed-effects models
            revisited and expanded.
        """
        check_interval(interval)
        _, groups, left = partition(self._draws)
        if not groups:
            raise ValueError(
                f"The formula {self.model.formula!r} has no group term but of single rows, so that "
                "rows have no groups whose correlation could be told."
            )
        whole = sum(groups.values()) + left
        shares = {name: own / whole for name, own in groups.items()}
        if len(groups) > 1:
            shares["all"] = 1.0 - left / whole
        return share_table(shares, interval, is_point=self.is_point)

    def summary(self, *, interval: float = 0.9, effects: bool = False) -> Table:
        """Means, standard deviations and intervals of the parameters.

        Args:
            interval: Probability of the central interval.
            effects: Whether to list every effect of every group, too.

        Returns:
            One row per number, called after its coordinates, such as "coefficients[hours]".
            Correlations are listed in place of their Cholesky factor. Of draws there are ArviZ's
            columns "ess_bulk", "ess_tail", "r_hat", "mcse_mean" and "mcse_sd", None for what is the
            same at every draw. Independent draws have no R-hat, and their effective number in
            place of a chain's. Of a best fit there is "se", the standard error, None for effects
            and on the boundary; its notes begin with log likelihood, AIC and BIC. They say, too,
            what the data left open or the search did not find.

        Raises:
            ValueError: If the interval is not in (0, 1).

        Cost: some milliseconds per number.
        """
        check_interval(interval)
        return summarize_sites(
            self.samples, self._sites(),
            sampling=self.sampling, interval=interval, effects=effects, notes=self.notes,
            maximum=self.maximum,
        )  # fmt: skip

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what the data left open, or the search did not find."""
        if self.history is not None:
            return self.history.notes
        told = None if self.sampling is None else self.sampling.info.get("note")
        return () if told is None else (str(told),)

    @property
    def _response_name(self) -> str:
        return self.design.data.response_name

    def _sites(self) -> Sites:
        return self.model.sites(self.design)

    def _arguments(self) -> tuple[Any, ...]:
        return self.model.arguments(self.design)

    @own_settings(True)
    def _log_prior(self) -> dict[str, Float[np.ndarray, "chain draw"]]:
        """Of a best fit, which does not have what heavy tails are mixed by, their own density."""
        data = self.design.data
        if data.mixing is None or data.mixing.site in self.samples:
            return super()._log_prior()
        [arrays] = self._arguments()
        found = log_prior_at(self.model, (arrays.without_mixing(),), self.samples)
        draws = self.samples[data.mean.site]
        laws = data.coefficient_priors().values()
        found[data.mean.site] = np.sum(
            [np.asarray(law.log_prob(draws[..., place])) for place, law in enumerate(laws)], axis=0
        )
        return found

    def _observed(self) -> np.ndarray:
        return np.asarray(self.design.data.response)

    def _refuse_bounds(self) -> None:
        if "censored" in self.design.known:
            raise ValueError(
                f"Some responses {self._response_name!r} are bounds (cens(...) in the formula), "
                "which can't be compared with replicated responses."
            )

    def _training_scores(self) -> tuple[Likelihood, Mixtures, np.ndarray | None]:
        likelihood = self.model.likelihood.coded(len(self.design.response_levels))
        draws = SiteDraws(self.design, self.samples, likelihood)
        given = blocks(draws, training_rows(self.design))
        weight = self.design.data.weight
        weight = None if weight is None else np.asarray(weight, np.float64)
        return likelihood, ((rows, mixture(own)) for rows, own in given), weight

    def save(self, path: str | PathLike[str], *, shared: bool = False, data: Any = None) -> None:
        """Write the fit to a directory: JSON, safetensors and Parquet; never pickle.

        The columns that the formula uses are stored with it, because the coding of new rows is
        made anew from them.

        Args:
            path: Directory to make; a saved fit that is there is replaced.
            shared: Whether all of several processes make this call; see `RatingsFit.save`.
            data: The training table, if the fit does not have it.

        Raises:
            ValueError: If the training table is not there or is another, or something has no
                faithful file form.
            FileExistsError: If `path` exists and is not a saved fit, or holds other files as well.
        """
        data = self.data if data is None else data
        if data is None:
            raise ValueError(
                "This fit was made from a design and does not have the training table, which is "
                "stored with it; give it: save(path, data=table)."
            )
        fields = self._fields() | {"data": used_columns(self.model, self.design, data)}
        del fields["design"]
        write_fit(path, type(self).__name__, fields, shared=shared)
