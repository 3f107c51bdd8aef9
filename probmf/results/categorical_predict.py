"""Predictions of classes without an order, averaged over draws, and items ranked by them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Shaped
from scipy.special import softmax

from probmf.data import Ratings
from probmf.data.columns import objects
from probmf.models.categorical_factorization import CategoricalFactorization
from probmf.models.factorization import PRIOR_SCALES
from probmf.results.asked import Asked
from probmf.results.choices import Choice, read_exclusions
from probmf.results.exclusions import Exclusions
from probmf.results.mixed_response import over_draws
from probmf.results.mixtures import row_blocks
from probmf.results.normal_points import NUM_STRANGERS, normal_points
from probmf.results.plug_in import rated_rows
from probmf.results.predict import ids_to_arrow, plain_text
from probmf.results.recommend import Recommendations
from probmf.rows.layout import SIDES, Side


@dataclass(frozen=True, eq=False)
class ClassPredictions:
    """Predicted classes of pairs, in their order.

    Attributes:
        user: User ids.
        item: Item ids.
        probability: Probability of each class, averaged over the draws; lines sum to one.
        label: The most probable class.
        classes: The classes in the order of `probability`.
        sd: Posterior standard deviation of each probability; None for a point fit, or if no
            interval was asked for.
        lower: Lower end of the interval of each probability, or None.
        upper: Upper end, or None.
    """

    user: np.ndarray
    item: np.ndarray
    probability: Float[np.ndarray, "n classes"]
    label: Shaped[np.ndarray, " n"]
    classes: tuple[Any, ...]
    sd: Float[np.ndarray, "n classes"] | None = None
    lower: Float[np.ndarray, "n classes"] | None = None
    upper: Float[np.ndarray, "n classes"] | None = None

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.probability)

    def __repr__(self) -> str:
        """How many there are, and the first of them."""
        first = f"{plain_text(self.label[0])} ({np.max(self.probability[0]):.2f})"
        return f"ClassPredictions({len(self):,} pairs, the first {first})"

    def to_arrow(self) -> pa.Table:
        """One line per pair.

        Returns:
            Columns "user", "item", "label", a column "probability of {class}" for each class, and
            likewise "sd of", "lower of" and "upper of" if there are any.

        Raises:
            TypeError: If the kind of the ids has no Arrow type.
        """
        columns: dict[str, Any] = {
            "user": ids_to_arrow(self.user, "user"),
            "item": ids_to_arrow(self.item, "item"),
            "label": self.label.tolist(),
        }
        for name in ("probability", "sd", "lower", "upper"):
            values = getattr(self, name)
            if values is not None:
                for label, column in zip(self.classes, values.T, strict=True):
                    columns[f"{name} of {label}"] = np.ascontiguousarray(column)
        return pa.table(columns)


@dataclass(frozen=True, eq=False)
class ClassSource:
    """Source of the probabilities of classes.

    A point fit's row without ratings is at the mode of its prior; probabilities are averaged over
    that prior, by points of a quasi-random sequence.

    Args:
        model: The model.
        data: The training ratings.
        samples: Draws by site name, with leading (chain, draw) axes.
        is_point: Whether they are one point.
    """

    model: CategoricalFactorization
    data: Ratings
    samples: Mapping[str, np.ndarray]
    is_point: bool

    @cached_property
    def _rated(self) -> dict[Side, np.ndarray]:
        return rated_rows(self.data)

    def means(
        self, user: Int[np.ndarray, " n"], item: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n classes"]:
        """Probabilities of the classes of pairs of known codes, averaged over the draws."""
        found = np.empty((len(user), self.model.num_classes))
        strange = np.zeros(len(user), bool)
        if self.is_point:
            strange = ~(self._rated["user"][user] & self._rated["item"][item])
        for some, is_new in ((~strange, False), (strange, True)):
            if some.any():
                asked = self.samples, user[some], item[some]
                blocks = probability_blocks(*(self._on_priors(*asked[1:]) if is_new else asked))
                found[some] = np.concatenate([chance.mean(axis=0) for chance in blocks])
        return found

    def _on_priors(
        self, user: np.ndarray, item: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Draws of the rows of some pairs only, those without ratings from their prior; codes."""
        rows = {
            side: np.unique(codes, return_inverse=True)
            for side, codes in zip(SIDES, (user, item), strict=True)
        }
        sites = [site for site in PRIOR_SCALES if site in self.samples]
        widths = [math.prod(self.samples[site].shape[3:]) for site in sites]
        points = normal_points(NUM_STRANGERS, sum(widths))
        samples = {"intercept": np.repeat(self.samples["intercept"], NUM_STRANGERS, axis=1)}
        for site, noise in zip(sites, np.split(points, np.cumsum(widths)[:-1], 1), strict=True):
            codes = rows[_side_of(site)][0]
            value = np.repeat(self.samples[site][:, :, codes], NUM_STRANGERS, axis=1)
            new = ~self._rated[_side_of(site)][codes]
            own = noise.reshape(NUM_STRANGERS, 1, *value.shape[3:])
            value[0, :, new] = np.swapaxes(self._scale(PRIOR_SCALES[site]) * own, 0, 1)
            samples[site] = value
        return samples, rows["user"][1], rows["item"][1]

    def _scale(self, name: str) -> float:
        return float(np.asarray(self.samples.get(name, getattr(self.model, name))).item())


def _side_of(site: str) -> Side:
    return "user" if site.startswith("user") else "item"


def predict_classes(
    source: ClassSource, user: Asked, item: Asked, interval: float | None
) -> ClassPredictions:
    """Predict pairs; see `CategoricalFit.predict`."""
    classes = source.model.labels
    joined = [source.means(user.codes, item.codes)]
    if interval is not None:
        blocks = probability_blocks(source.samples, user.codes, item.codes)
        parts = [over_draws(chance, interval) for chance in blocks]
        joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    labels = objects(list(classes))
    label = np.asarray(labels[np.argmax(joined[0], axis=1)].tolist())
    spread = dict(zip(("sd", "lower", "upper"), joined[1:], strict=False))
    return ClassPredictions(user.ids, item.ids, joined[0], label, classes, **spread)


def probability_blocks(
    samples: Mapping[str, np.ndarray], user: Int[np.ndarray, " n"], item: Int[np.ndarray, " n"]
) -> Iterator[Float[np.ndarray, "draws part classes"]]:
    """Probabilities of the classes of pairs at every draw, by blocks of pairs.

    Args:
        samples: Draws by site name, with leading (chain, draw) axes.
        user: User codes, all known.
        item: Item codes, all known.

    Yields:
        The probabilities. Cost O(draws x pairs x classes x num_factors); memory is bounded.
    """
    flat = {site: value.reshape(-1, *value.shape[2:]) for site, value in samples.items()}
    intercept = np.asarray(flat["intercept"], np.float64)
    width = flat["item_factors"].shape[-1] if "item_factors" in flat else 1
    for part in row_blocks(len(user), intercept.size * width):
        scores = np.repeat(intercept[:, None, :], len(user[part]), axis=1)
        if "user_bias" in flat:
            scores += flat["user_bias"][:, user[part]]
        if "item_bias" in flat:
            scores += flat["item_bias"][:, item[part]]
        if "user_factors" in flat:
            own, others = flat["user_factors"][:, user[part]], flat["item_factors"][:, item[part]]
            scores += np.einsum("snk,snck->snc", own, others)
        yield softmax(scores, axis=-1)


def read_wanted(wanted: Any, classes: tuple[Any, ...]) -> Int[np.ndarray, " some"]:
    """Codes of the classes that are wanted, given by one label or several.

    Args:
        wanted: A label, or a list, tuple or set of labels.
        classes: The labels.

    Returns:
        The codes.

    Raises:
        ValueError: If a label is unknown, or all or none of them are wanted.
    """
    several = isinstance(wanted, list | tuple | set | frozenset | np.ndarray)
    given = list(wanted) if several else [wanted]
    for label in given:
        if label not in classes:
            raise ValueError(
                f"wanted holds {label!r}, which is no class; the classes are "
                f"{', '.join(map(repr, classes))}."
            )
    codes = np.unique([classes.index(label) for label in given]).astype(int)
    if not 0 < len(codes) < len(classes):
        raise ValueError(
            f"wanted is {wanted!r}; name one class or several, but not all: all items would be "
            "equally good."
        )
    return codes


def recommend_classes(
    source: ClassSource,
    asked: Asked,
    choice: Choice,
    k: int,
    *,
    wanted: Int[np.ndarray, " some"],
    strict: bool,
) -> Recommendations:
    """The items with the largest probability of a wanted class; see `CategoricalFit.recommend`."""
    data = source.data
    items, k = choice.items, choice.count(k)
    seen = Exclusions.from_pairs(data.user, data.item, data.num_users)
    exclusions = read_exclusions(choice.exclude, asked, data, seen)
    code = np.full((len(asked.codes), k), -1)
    score = np.full(code.shape, np.nan)
    for line, user in enumerate(asked.codes):
        left = items
        if exclusions is not None:
            left = np.setdiff1d(items, exclusions.block(line, line + 1)[1])
        if strict and not len(left):
            raise ValueError(
                f"All {len(items):,} candidates are excluded for user "
                f"{plain_text(asked.ids[line])}. Give other candidates, or exclude=None to allow "
                "items that were rated already."
            )
        chance = source.means(np.full(len(left), user), left)[:, wanted].sum(axis=1)
        best = np.argsort(-chance, kind="stable")[:k]
        code[line, : len(best)], score[line, : len(best)] = left[best], chance[best]
    item = data.items.ids[code]
    if (code < 0).any():
        # Dates would turn into numbers as Python objects.
        plain = list(item.flat) if item.dtype.kind in "mM" else item.ravel().tolist()
        item = objects(plain).reshape(item.shape)
        item[code < 0] = None
    return Recommendations(
        user=asked.ids, item=item, code=code, score=score, lower=None, upper=None,
        known_user=np.bincount(data.user, minlength=data.num_users)[asked.codes] > 0,
    )  # fmt: skip
