"""Fits of categorical factorizations: draws of biases and factors of each class."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from probmf.data import Ratings
from probmf.models.categorical_factorization import CategoricalFactorization
from probmf.results import categorical_storage
from probmf.results.asked import Asked, check_interval, read_pairs, read_some
from probmf.results.categorical_arviz import to_datatree
from probmf.results.categorical_predict import (
    ClassPredictions,
    ClassSource,
    predict_classes,
    read_wanted,
    recommend_classes,
)
from probmf.results.choices import Exclude, read_choice
from probmf.results.draw_fit import DrawFit
from probmf.results.history import History
from probmf.results.predict import plain_text
from probmf.results.recommend import Recommendations
from probmf.results.samples import checked_samples
from probmf.results.sampling import Sampling
from probmf.settings import own_settings


@dataclass(frozen=True, eq=False, repr=False)
class CategoricalFit(DrawFit):
    """A fitted categorical factorization.

    Attributes:
        model: The model that was fitted.
        data: The training ratings.
        samples: Draws by site name, each with leading (chain, draw) axes; a point fit has one
            chain of one draw. Read-only.
        method: How it was fitted, such as "map/full-batch".
        sampling: How the sampler's run went; None for a point fit.
        history: How an optimizer's search went, or None.

    Raises:
        ValueError: If there are no draws, a site is none of the model's or missing, has another
            shape than the model gives it, or is not finite.
    """

    model: CategoricalFactorization
    data: Ratings
    samples: Mapping[str, Float[np.ndarray, "chain draw ..."]]
    method: str
    sampling: Sampling | None = None
    history: History | None = None
    _storage: ClassVar[Any] = categorical_storage
    _make_tree: ClassVar[Any] = staticmethod(to_datatree)

    def __post_init__(self) -> None:
        """Check the draws against the model and freeze them."""
        samples = checked_samples(self.samples, self.site_shapes)
        missing = [site for site in self.site_shapes if site not in samples]
        missing = [site for site in missing if not site.endswith("_scale")]
        if missing:
            raise ValueError(f"samples lacks {', '.join(map(repr, missing))}.")
        if self.sampling is not None:
            self.sampling.check_draws(*next(iter(samples.values())).shape[:2])
        object.__setattr__(self, "samples", samples)

    @classmethod
    def from_point(
        cls,
        model: CategoricalFactorization,
        data: Ratings,
        parameters: Mapping[str, Any],
        *,
        history: History | None,
        method: str,
    ) -> "CategoricalFit":
        """A point fit from parameters by site name; a fixed intercept is put in."""
        (observations,) = model.arguments(data)
        values = {"intercept": observations.intercept, **parameters}
        samples = {site: np.asarray(value)[None, None] for site, value in values.items()}
        return cls(model, data, samples, method, history=history)

    @cached_property
    def site_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all sites but the rating, without chain and draw."""
        shapes = self.model.row_shapes(self.data.num_users, self.data.num_items)
        scales: dict[str, tuple[int, ...]] = dict.fromkeys(self.model.random_scales(), ())
        return {"intercept": (self.model.num_classes,)} | shapes | scales

    def __repr__(self) -> str:
        """One line: what was fitted to what, and how."""
        data, model = self.data, self.model
        return (
            f"CategoricalFit({self.method}: {model.num_factors} factors, {model.num_classes} "
            f"classes; {len(data):,} ratings of {data.num_items:,} items by {data.num_users:,} "
            f"users{self._told_draws()})"
        )

    @own_settings()
    def predict(
        self,
        pairs: Any = None,
        *,
        interval: float | None = None,
        user: str = "user",
        item: str = "item",
    ) -> ClassPredictions:
        """Predict the classes of pairs: their probabilities, averaged over the draws.

        Of a point fit, rows of users and items without ratings are averaged over their prior.

        Args:
            pairs: `Ratings`; a table with columns of users and items; a tuple of two sequences; or
                a list of (user, item) tuples, all known to the fit. None for the training pairs.
            interval: Probability of a central posterior interval of each probability; a fit of
                draws has one.
            user: Name of the column of users, in a table.
            item: Name of the column of items, in a table.

        Returns:
            The predictions, in the order of the pairs. `metrics.level_log_score(codes,
            predictions.probability, range(C))` judges them.

        Raises:
            TypeError: If `pairs` is none of these.
            ValueError: If an id is unknown, or a point fit is asked for an interval.

        Cost: O(draws x pairs x classes x num_factors); memory is bounded.
        """
        if interval is not None:
            check_interval(interval)
            if self.is_point:
                raise ValueError(
                    f"interval is {interval}, but a point fit does not know how well it knows its "
                    "probabilities. Leave interval out, or fit with sample_nuts."
                )
        asked = read_pairs(self.data if pairs is None else pairs, self.data, user=user, item=item)
        for side, own in zip(("user", "item"), asked, strict=True):
            _require_known(side, own)
        return predict_classes(self._source, *asked, interval)

    @cached_property
    def _source(self) -> ClassSource:
        return ClassSource(self.model, self.data, self.samples, self.is_point)

    @own_settings()
    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        wanted: Any,
        exclude: Exclude = "seen",
        candidates: Any = None,
    ) -> Recommendations:
        """The k items of each user that are most probably of a wanted class.

        Args:
            users: A user id or several, known to the fit; None for all users.
            k: Number of items.
            wanted: Label of the class, or a list of labels whose probabilities are added.
            exclude: "seen" leaves out the pairs of the training data, Ratings those pairs, a list
                of item ids these items for everybody and the training pairs, None nothing.
            candidates: Ids of the items to choose from; None for all.

        Returns:
            The recommendations; `score` is the probability of the wanted classes.

        Raises:
            TypeError: If `exclude` or k is of the wrong type.
            ValueError: If an id or a class is unknown, k is out of range, or nothing is left for a
                user who was asked about.

        Cost: O(users x items x draws x classes x num_factors).
        """
        codes = read_wanted(wanted, self.model.labels)
        if users is None:
            asked = Asked(self.data.users.ids, np.arange(self.data.num_users, dtype=np.int32))
        else:
            asked = read_some(users, self.data.users, "users", known=True)
        choice = read_choice(candidates, exclude, self.data)
        return recommend_classes(
            self._source, asked, choice, k, wanted=codes, strict=users is not None
        )


def _require_known(side: str, asked: Asked) -> None:
    if (asked.codes < 0).any():
        row = int(np.argmax(asked.codes < 0))
        raise ValueError(
            f"Row {row} has {side} {plain_text(asked.ids[row])}, which has no ratings in the fit "
            f"({int((asked.codes < 0).sum())} such rows). Fits of classes predict known users and "
            "items only; leave the others out, or fit again with their ratings."
        )
