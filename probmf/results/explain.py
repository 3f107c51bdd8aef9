"""Scores as sums over the user's own ratings."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from probmf.data import Ratings
from probmf.results.asked import read_some
from probmf.results.prediction_intervals import evaluate
from probmf.results.predictions import ItemLines, plain_text
from probmf.results.row_conditionals import Conditionals


@dataclass(frozen=True, eq=False)
class Explanation(ItemLines):
    """A score as a sum over the user's ratings, the largest share first.

    Attributes:
        user: The user's id.
        item: The item's id.
        score: Score of the pair: `baseline` + the sum of `share` + `remainder`.
        baseline: What no rating of the user carries: the intercept, the item's bias, the prior's
            mean and the weak zeros of pairs that were not observed.
        rated: Ids of the items that the user has rated, shape (n,).
        rating: The ratings of these, as given.
        share: Contribution of each rating to the score.
        remainder: What the user's row differs from the exact mode given the items; zero up to
            rounding where a search has converged.
        id_column: Name of the column of items in the training data.
    """

    user: Any
    item: Any
    score: float
    baseline: float
    rated: np.ndarray
    rating: Float[np.ndarray, " n"]
    share: Float[np.ndarray, " n"]
    remainder: float
    id_column: str = "item"

    _lines = ("rated", "rating", "share")

    def __repr__(self) -> str:
        """The score, what all users share, and the ratings that count most."""
        parts = [
            f"{plain_text(item)} {share:+.3g}"
            for item, share in zip(self.rated[:3], self.share, strict=False)
        ]
        more = ", ..." * (len(self) > 3)
        return (
            f"Explanation({plain_text(self.user)}, {plain_text(self.item)}: score "
            f"{self.score:.4g} = {' '.join([f'{self.baseline:.4g}', *parts])}{more})"
        )


def explain(conditionals: Conditionals, data: Ratings, user: Any, item: Any) -> Explanation:
    r"""Shares of a user's ratings in a score; see `RatingsFit.explain`.

    At the mode x of the user's row the prior's pull and the slopes of the ratings' log likelihood
    balance. With the Fisher information :math:`I_n` and slope :math:`s_n` of rating n and the
    row's covariance :math:`C = (P + G + \sum_n w_n I_n z_n z_n^\top)^{-1}` that says

    .. math:: x = C \Bigl(P m - g + \sum_n w_n z_n (I_n\, z_n \cdot x + s_n)\Bigr),

    whose product with the item's (1, v) is a sum over ratings. G and g are those of weak zeros.
    """
    asked = read_some(user, data.users, "user", known=True)
    wanted = read_some(item, data.items, "item", known=True)
    for name, found in (("user", asked), ("item", wanted)):
        if len(found.codes) != 1:
            raise ValueError(f"{name} holds {len(found.codes)} ids; give one.")
    code, own = int(asked.codes[0]), conditionals.ratings["user"]
    part = slice(int(own.start[code]), int(own.start[code + 1]))
    partner = own.partner[part]
    row = conditionals.tables["user"][code].astype(np.float64)
    table = conditionals.tables["item"].astype(np.float64)
    intercept = float(conditionals.intercept)
    design, target = table[partner], table[wanted.codes[0]]
    offset = intercept + design[:, 0]
    design[:, 0] = 1.0
    ((_, problem),) = conditionals.problems("user", np.asarray([code]))
    likelihood = conditionals.draws.model.likelihood
    scales = {name: np.asarray(value) for name, value in problem.scales.items()}
    along = design @ row
    information = evaluate(likelihood, "information", offset + along, scales=scales)
    slope = evaluate(likelihood, "slope", offset + along, own.rating[part], scales=scales)
    weight = np.ones(len(partner)) if own.weight is None else own.weight[part].astype(np.float64)
    ((_, roots),) = conditionals.roots("user", np.asarray([code]))
    # The item's direction seen through the covariance of the user's row.
    toward = roots[0].T.astype(np.float64) @ (roots[0] @ np.append(1.0, target[1:]))
    share = (design @ toward) * weight * (information * along + slope)
    baseline = intercept + target[0]
    if problem.center is not None:
        baseline += toward @ (np.asarray(problem.precision)[0] * np.asarray(problem.center)[0])
    if problem.gram_shift is not None:
        baseline -= toward @ np.asarray(problem.gram_shift, np.float64)
    score = intercept + target[0] + row[0] + row[1:] @ target[1:]
    order = np.argsort(-np.abs(share), kind="stable")
    given = _ratings_of(data, code)
    return Explanation(
        asked.ids[0], wanted.ids[0], float(score), float(baseline), data.items.ids[partner[order]],
        np.array([given[item] for item in partner[order].tolist()]), share[order],
        float(score - baseline - share.sum()), data.items.column,
    )  # fmt: skip


def _ratings_of(data: Ratings, user: int) -> dict[int, float]:
    """A user's ratings by item code."""
    rows = np.flatnonzero(data.user == user)
    return dict(zip(data.item[rows].tolist(), data.rating[rows].tolist(), strict=True))
