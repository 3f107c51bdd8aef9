"""Fits of neural factorizations: draws of biases, factors and a network's weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NoReturn

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from probmf.data import Ratings, as_generator
from probmf.models.neural_factorization import NeuralFactorization
from probmf.results import neural_storage
from probmf.results.arviz import to_datatree
from probmf.results.asked import check_interval
from probmf.results.choices import Exclude
from probmf.results.draw_fit import DrawFit
from probmf.results.events import check_at_least
from probmf.results.exclusions import Exclusions
from probmf.results.history import History
from probmf.results.neural_draws import NeuralDraws, Scorer, layer_dims
from probmf.results.neural_predict import predict_neural, recommend_neural
from probmf.results.predict import Predictions
from probmf.results.recommend import Recommendations, similar_items
from probmf.results.samples import checked_samples
from probmf.results.sampling import Sampling
from probmf.settings import own_settings


@dataclass(frozen=True, eq=False, repr=False)
class NeuralFit(DrawFit):
    """A fitted neural factorization.

    Attributes:
        model: The model that was fitted.
        data: The training ratings.
        samples: Draws by site name, each with leading (chain, draw) axes; a point fit has one
            chain of one draw. Read-only.
        method: How it was fitted, such as "map/minibatch".
        sampling: How the sampler's run went; None for a point fit.
        history: How an optimizer's search went, or None.

    Raises:
        ValueError: If there are no draws, a site is none of the model's or missing, has another
            shape than the model gives it, or is not finite.
    """

    model: NeuralFactorization
    data: Ratings
    samples: Mapping[str, Float[np.ndarray, "chain draw ..."]]
    method: str
    sampling: Sampling | None = None
    history: History | None = None
    _storage: ClassVar[Any] = neural_storage

    def __post_init__(self) -> None:
        """Check the draws against the model and freeze them."""
        samples = checked_samples(self.samples, self.site_shapes)
        missing = [site for site in self.site_shapes if site not in samples]
        if missing:
            raise ValueError(f"samples lacks {', '.join(map(repr, missing))}.")
        if self.sampling is not None:
            self.sampling.check_draws(*next(iter(samples.values())).shape[:2])
        object.__setattr__(self, "samples", samples)

    @classmethod
    def from_point(
        cls,
        model: NeuralFactorization,
        data: Ratings,
        parameters: Mapping[str, Any],
        *,
        history: History | None,
        method: str,
    ) -> "NeuralFit":
        """A point fit from parameters by site name; a fixed intercept is put in."""
        (observations,) = model.arguments(data)
        values = {"intercept": observations.base_score, **parameters}
        samples = {site: np.asarray(value)[None, None] for site, value in values.items()}
        return cls(model, data, samples, method, history=history)

    @cached_property
    def site_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all sites but the rating, without chain and draw."""
        (observations,) = self.model.arguments(self.data)
        shapes: dict[str, tuple[int, ...]] = {"intercept": ()}
        shapes |= self.model.site_shapes(observations)
        own: dict[str, Any] = self.model.likelihood.scale_sites()
        for name in self.model.random_scales():
            law = own[name] if name in own else getattr(self.model, name, None)
            shapes[name] = () if law is None else tuple(law.batch_shape + law.event_shape)
        return shapes

    def __repr__(self) -> str:
        """One line: what was fitted to what, and how."""
        data, model = self.data, self.model
        widths = [2 * model.num_factors, *model.network.hidden, 1]
        both = "product and " if model.product else ""
        return (
            f"NeuralFit({self.method}: {both}network {'-'.join(map(str, widths))}, "
            f"{type(model.likelihood).__name__}; {data.num_ratings:,} ratings, "
            f"{data.num_users:,} users, {data.num_items:,} items"
            f"{self._told_draws()})"
        )

    @cached_property
    def draws(self) -> NeuralDraws:
        """The scores of pairs at every draw."""
        return NeuralDraws(self.model.factorization, self.data, self.samples, self.model)

    @cached_property
    def _scorer(self) -> Scorer:
        return Scorer(self.draws, self.is_point)

    @cached_property
    def _seen(self) -> Exclusions:
        return Exclusions.from_pairs(self.data.user, self.data.item, self.data.num_users)

    @own_settings()
    def predict(
        self,
        pairs: Any,
        *,
        interval: float | None = None,
        at_least: float | None = None,
        user: str = "user",
        item: str = "item",
    ) -> Predictions:
        """Predict the ratings of pairs, averaged over the draws.

        Users and items that the fit does not know, and in a point fit those without ratings, get
        the prior and are flagged: the rating is averaged over it.

        Args:
            pairs: Ratings; a data frame or dict with a column of users and one of items; a tuple
                (users, items) of two sequences; or a list of (user, item) tuples.
            interval: Probability of the central interval, which needs a fit of many draws.
            at_least: Also tell the `probability` of a rating of at least this, noise included.
            user: Name of the column of users, in a table.
            item: Name of the column of items, in a table.

        Returns:
            The predictions, in the order of the pairs.

        Raises:
            TypeError: If the pairs are of none of these forms.
            ValueError: If a point fit is asked for an interval, the interval is not in (0, 1),
                `at_least` is not finite, the pairs are malformed, or the ids are of another kind
                than the fit's.

        Cost: O(draws x pairs x weights); a point fit takes 256 rows for an unknown one. Memory is
        bounded.
        """
        if at_least is not None:
            at_least = check_at_least(at_least)
        if interval is not None:
            check_interval(interval)
            if self.is_point:
                raise ValueError(
                    f"interval is {interval}, but a point fit does not know how well it knows its "
                    "factors and weights, and through a network there is no formula for it. Leave "
                    "interval out, or fit with sample_nuts, fit_svi or fit_laplace."
                )
        return predict_neural(
            self._scorer, pairs, interval=interval, at_least=at_least, user=user, item=item
        )

    @own_settings()
    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        exclude: Exclude = "seen",
        candidates: Any = None,
        at_least: float | None = None,
    ) -> Recommendations:
        """The k items of each user with the highest expected ratings.

        Args:
            users: One id, several ids, or None for all users of the fit. Unknown users get the
                prior's ranking and are flagged.
            k: How many items, at most the number of candidates.
            exclude: "seen" leaves out the pairs of the training data, Ratings those pairs, a list
                of item ids these items for everybody and the training pairs, None nothing.
            candidates: Ids of the items to choose from; None for all.
            at_least: Also tell the `probability` of a rating of at least this.

        Returns:
            The recommendations, one line per user. A user with fewer than k items left has None
            in the last places.

        Raises:
            TypeError: If k is no whole number, or `exclude` is of the wrong type.
            ValueError: If k is out of range, an item is unknown, an id is of another kind than the
                fit's, or every candidate of a user who was named is excluded.

        Cost: O(draws x users x items x (k + weights beyond the first layer)), by blocks in bounded
        memory: there is no shortcut past scoring all pairs.
        """
        if at_least is not None:
            at_least = check_at_least(at_least)
        return recommend_neural(
            self._scorer, users, k, exclude=exclude, candidates=candidates, at_least=at_least,
            seen=self._seen,
        )  # fmt: skip

    @own_settings()
    def similar_items(self, items: Any, k: int = 10) -> Recommendations:
        """The items whose factors point most nearly the same way; see `Fit.similar_items`.

        The network need not treat items alike whose factors do.
        """
        return similar_items(self.draws, items, k)

    def fold_in(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: a row has no closed form under a network.

        Raises:
            ValueError: Always; the message says what to do.
        """
        raise ValueError(
            "fold_in solves for a new row in closed form, and through a network the score is not "
            "linear in the row. Fit again with the new ratings among the others (fit_map from all "
            "of them), or use MatrixFactorization."
        )

    def extend(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: there are no prior means that are functions of features.

        Raises:
            ValueError: Always; the message says what to do.
        """
        raise ValueError(
            "extend needs prior means that are functions of features, which a NeuralFactorization "
            "does not have. Use MatrixFactorization(user_mean=..., item_mean=...)."
        )

    def choose_next(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: what an answer would tell has no closed form under a network.

        Raises:
            ValueError: Always; the message says what to do.
        """
        raise ValueError(
            "choose_next reckons with rows that are Gaussian given the items, and through a "
            "network they are not. Use MatrixFactorization, or compare predict(...).sd of a fit of "
            "many draws."
        )

    def _tree(self, log_likelihood: bool, key: ArrayLike | None) -> Any:
        return to_datatree(
            self.draws, self.method, self.sampling, is_point=self.is_point,
            log_likelihood=log_likelihood, weights=layer_dims(self.model),
            rng=None if key is None else as_generator(key),
        )  # fmt: skip
