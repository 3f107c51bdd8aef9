"""A small search over the number of factors and their scales, by held-out error."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, cast

import numpy as np
import pyarrow as pa
from jax.typing import ArrayLike

from probmf.data import Ratings
from probmf.inference.point.als import fit_als
from probmf.models import MatrixFactorization
from probmf.models.factorization_program import PRIOR_SCALES
from probmf.results import RatingsFit
from probmf.results.table import Table, Tabular
from probmf.run.checks import check_counts

#: Sites whose scales are searched.
_FACTORS = ("user_factors", "item_factors")


@dataclass(frozen=True, eq=False, repr=False)
class GridSearch(Tabular):
    """Result of a search.

    Attributes:
        table: A row per setting, best first: "num_factors", "multiple" (of the model's scales),
            "user_scale" and "item_scale" where they are numbers, "error", the held-out error of
            the step that was kept, "steps" and "seconds".
        fit: The best fit.
    """

    table: Table
    fit: RatingsFit

    @property
    def model(self) -> MatrixFactorization:
        """The model of the best fit."""
        return self.fit.model

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        return self.table.to_arrow()

    def __repr__(self) -> str:
        """The table, and what is to be said of it."""
        return repr(self.table)

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        return self.table._repr_html_()


def grid_search(
    model: MatrixFactorization,
    train: Ratings,
    validation: Ratings,
    *,
    key: ArrayLike,
    num_factors: Sequence[int] = (4, 8, 16, 32),
    multiples: Sequence[float] = (0.25, 0.5, 1.0, 2.0),
    method: Callable[..., Any] = fit_als,
    **options: Any,
) -> GridSearch:
    """Fit a model with several numbers of factors and scales, and compare held-out errors.

    Every number of factors is tried with every multiple of the model's `user_scale` and
    `item_scale`; all else stays as it is in the model. Where a posterior is wanted there is nothing
    to search: `sample_gibbs` and `fit_variational` learn the scales from the training ratings, and
    `probmf.fit` does so by itself.

    Args:
        model: The factorization, its scales numbers or arrays.
        train: Training ratings.
        validation: Held-out ratings, which every fit stops by and is judged by. The error of the
            best is a little too low for having been chosen: report that on a third set.
        key: JAX key or int, the same for all fits.
        num_factors: Numbers of factors to try.
        multiples: Factors of the model's scales to try.
        method: `fit_als`, `fit_map`, or any function with their arguments `key` and `validation`.
        **options: Further arguments of the method, such as `num_sweeps` or `objective`.

    Returns:
        The table and the best fit. A note says where the best lies at an edge of what was tried.

    Raises:
        TypeError: If a number of factors is no whole number.
        ValueError: If nothing is to be tried, a multiple is not positive and finite, the scales
            have priors, or the method does not tell a held-out error.

    Example:
        >>> from probmf import Ratings
        >>> table = {"user": [1, 1, 2, 2, 3, 3], "item": [1, 2, 1, 3, 2, 3]}
        >>> ratings = Ratings.from_frame(table | {"rating": [5, 3, 4, 2, 4, 3]})
        >>> train, test = ratings.split(key=0, test_fraction=0.3)
        >>> found = grid_search(
        ...     MatrixFactorization(), train, test, key=0, num_factors=[1, 2], multiples=[0.5, 1.0]
        ... )
        >>> len(found.table), found.model.num_factors == found.table.rows[0]["num_factors"]
        (4, True)

    Cost: that of one fit for each setting; one fit at a time is kept besides the best.
    """
    _check(num_factors, multiples, model)
    rows: list[dict[str, Any]] = []
    best: RatingsFit | None = None
    for count, multiple in product(dict.fromkeys(num_factors), dict.fromkeys(multiples)):
        scales: dict[str, Any] = {
            PRIOR_SCALES[site]: multiple * np.asarray(getattr(model, PRIOR_SCALES[site]))
            for site in _FACTORS
        }
        scales = {name: float(own) if own.ndim == 0 else own for name, own in scales.items()}
        own = replace(model, num_factors=int(count), **scales)
        fit = method(own, train, key=key, validation=validation, **options)
        error = _error(fit, method)
        if best is None or error < min(row["error"] for row in rows):
            best = fit
        numbers = {name: value for name, value in scales.items() if isinstance(value, float)}
        rows.append(
            {"num_factors": int(count), "multiple": float(multiple), **numbers, "error": error,
             "steps": len(fit.history), "seconds": float(fit.history.seconds[-1])}
        )  # fmt: skip
    order = sorted(rows, key=lambda row: row["error"])
    return GridSearch(
        Table(tuple(order), _edges(order[0], num_factors, multiples)), cast(Any, best)
    )


def _check(
    num_factors: Sequence[int], multiples: Sequence[float], model: MatrixFactorization
) -> None:
    for name, values in {"num_factors": num_factors, "multiples": multiples}.items():
        if not isinstance(values, Iterable):
            raise TypeError(
                f"{name} is {values!r}; expected the numbers to try, as in [{values!r}]."
            )
    if not len(num_factors) or not len(multiples):
        raise ValueError(
            "There is no setting to try; num_factors and multiples need an entry each."
        )
    for count in num_factors:
        check_counts(num_factors=count)
    for multiple in multiples:
        if not (np.isfinite(multiple) and multiple > 0):
            raise ValueError(f"multiples holds {multiple!r}; expected positive numbers.")
    random = {PRIOR_SCALES[site] for site in _FACTORS} & set(model.random_scales())
    if random:
        raise ValueError(
            f"{' and '.join(sorted(random))} of the model has a prior, and the search tries "
            "multiples of numbers. Give numbers, or learn the scales with sample_gibbs or "
            "fit_variational, which need no search."
        )


def _error(fit: Any, method: Callable[..., Any]) -> float:
    """Held-out error of the step that was kept."""
    history = getattr(fit, "history", None)
    if history is None or history.validation is None or not len(history):
        raise ValueError(
            f"{getattr(method, '__name__', method)} tells no held-out error in fit.history, which "
            "settings are compared by; use fit_als or fit_map."
        )
    # Where no step was better than the start, the first one.
    return float(history.validation[max(history.best - 1, 0)])


def _edges(
    best: dict[str, Any], num_factors: Sequence[int], multiples: Sequence[float]
) -> tuple[str, ...]:
    """Sentences where the best is the largest or the smallest of what was tried."""
    found = []
    for name, tried in (("num_factors", num_factors), ("multiple", multiples)):
        if len(set(tried)) > 1 and best[name] in (min(tried), max(tried)):
            end = "largest" if best[name] == max(tried) else "smallest"
            if name == "num_factors" and best[name] == 1:
                continue
            found.append(
                f"The best {name}, {best[name]:g}, is the {end} that was tried: what lies beyond "
                "may be better."
            )
    return tuple(found)
