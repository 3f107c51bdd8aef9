"""Items to ask a user about: those whose answers tell the most."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import entr

from probmf.results.asked import check_count
from probmf.results.candidates import Exclude, Exclusions, read_candidates
from probmf.results.mixtures import row_blocks
from probmf.results.prediction_intervals import evaluate
from probmf.results.predictions import ItemLines, plain_text, told_unknown
from probmf.results.scores import Column, Scores


@dataclass(frozen=True, eq=False)
class Questions(ItemLines):
    """Items to ask a user about, best first.

    Attributes:
        user: The user's id.
        item: Item ids, shape (k,).
        code: Item codes.
        information: Expected information of each answer, in nats; for ratings at a few levels of
            each alone, else given the answers to the questions before it.
        known_user: False if the user has no ratings in the fit.
        id_column: Name of the column of items in the training data.
    """

    user: Any
    item: np.ndarray
    code: Int[np.ndarray, " k"]
    information: Float[np.ndarray, " k"]
    known_user: bool
    id_column: str = "item"

    _lines = ("item", "information")

    def __repr__(self) -> str:
        """The user and the first items."""
        first = ", ".join(
            f"{plain_text(item)} ({nats:.3g} nats)"
            for item, nats in zip(self.item[:5], self.information, strict=False)
        )
        more = ", ..." * (len(self) > 5) + told_unknown(self.known_user)
        return f"Questions(for {plain_text(self.user)}: {first}{more})"


def choose_next(
    scores: Scores,
    user: Any,
    k: int,
    *,
    candidates: Any,
    exclude: Exclude,
    seen: Exclusions,
) -> Questions:
    """The k most informative items; see `RatingsFit.choose_next`."""
    data, likelihood = scores.data, scores.model.likelihood
    asked, items = read_candidates(data, user, candidates, exclude, seen)
    k = check_count(k, len(items), "candidates that are left")
    code = int(asked.codes[0])
    if likelihood.normal:
        variance, column, scales = scores.covariance(code, items)
        noise = np.full(len(items), np.mean(np.square(scales["noise_scale"])))
        places, information = _greedy(variance, column, noise, k)
    elif likelihood.levels:
        every = _disagreement(scores, code, items)
        places = np.argsort(-every, kind="stable")[:k]
        information = every[places]
    else:
        variance, column, _ = scores.covariance(code, items)
        places, information = _greedy(variance, column, 1.0 / _precision(scores, code, items), k)
    return Questions(
        asked.ids[0], data.items.ids[items[places]], items[places], information,
        bool(scores.known("user", asked.codes)[0]), data.items.column,
    )  # fmt: skip


def _greedy(
    variance: Float[np.ndarray, " items"],
    column: Column,
    noise: Float[np.ndarray, " items"],
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Items of the largest variance, each given the answers to those before it.

    One column of a pivoted Cholesky factor of the scores' covariance for each question.
    """
    variance = variance.copy()
    open_ = np.ones(len(variance), bool)
    factor = np.empty((k, len(variance)))
    places, information = np.empty(k, np.int64), np.empty(k)
    for step in range(k):
        place = int(np.argmax(np.where(open_, variance, -np.inf)))
        places[step], open_[place] = place, False
        information[step] = 0.5 * np.log1p(variance[place] / noise[place])
        if step + 1 < k:
            done = factor[:step]
            left = column(place) - done[:, place] @ done
            factor[step] = left / np.sqrt(variance[place] + noise[place])
            variance = np.maximum(variance - np.square(factor[step]), 0.0)
    return places, information


def _disagreement(scores: Scores, code: int, items: np.ndarray) -> Float[np.ndarray, " items"]:
    """Entropy of the mean probabilities less the mean entropy, by item."""
    likelihood = scores.model.likelihood
    chance = np.zeros((len(items), likelihood.num_levels))
    entropy = np.zeros(len(items))
    for block, weight, scales in scores.weighted(code, items):
        scales = {name: value[:, None] for name, value in scales.items()}
        for some in row_blocks(len(items), len(block) * likelihood.num_levels):
            each = evaluate(likelihood, "level_probabilities", block[:, some], scales=scales)
            chance[some] += np.tensordot(weight, each, 1)
            entropy[some] += weight @ entr(each).sum(axis=2)
    return entr(chance).sum(axis=1) - entropy


def _precision(scores: Scores, code: int, items: np.ndarray) -> Float[np.ndarray, " items"]:
    """Mean Fisher information of a score, by item: what a Normal answer's precision would be."""
    total = np.zeros(len(items))
    for block, weight, scales in scores.weighted(code, items):
        scales = {name: value[:, None] for name, value in scales.items()}
        total += weight @ evaluate(scores.model.likelihood, "information", block, scales=scales)
    return total
