"""Which items to ask a user about: those whose answers tell the most."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax import lax
from jax.scipy.special import entr
from jaxtyping import Array, Float, Int

from probmf.likelihoods import Likelihood
from probmf.results.asked import check_count
from probmf.results.choices import Exclude
from probmf.results.draws import Draws
from probmf.results.exclusions import Exclusions
from probmf.results.mixtures import BLOCK
from probmf.results.plug_in import PlugIn
from probmf.results.predictions import ids_to_arrow, plain_text
from probmf.results.recommend import read_candidates, told_unknown
from probmf.results.score_draws import repeatable, score_draws

#: Nodes and weights of a standard Normal expectation, exact for polynomials up to degree 39.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@dataclass(frozen=True, eq=False)
class Questions:
    """Items to ask a user about, best first.

    Attributes:
        user: The user's id.
        item: Item ids, shape (k,).
        code: Item codes.
        information: Expected information of each answer, in nats; for Gaussian ratings given the
            answers to the questions before it, otherwise of each alone.
        known_user: False if the user has no ratings in the fit.
    """

    user: Any
    item: np.ndarray
    code: Int[np.ndarray, " k"]
    information: Float[np.ndarray, " k"]
    known_user: bool

    def __len__(self) -> int:
        """Number of items."""
        return len(self.item)

    def __repr__(self) -> str:
        """The user and the first items."""
        first = ", ".join(
            f"{plain_text(item)} ({nats:.3g} nats)"
            for item, nats in zip(self.item[:5], self.information, strict=False)
        )
        more = ", ..." * (len(self) > 5) + told_unknown(self.known_user)
        return f"Questions(for {plain_text(self.user)}: {first}{more})"

    def to_arrow(self) -> pa.Table:
        """One line per item, best first.

        Returns:
            Columns "item" and "information".

        Raises:
            TypeError: If the kind of the ids has no Arrow type.
        """
        return pa.table({"item": ids_to_arrow(self.item, "item"), "information": self.information})


def choose_next(
    source: PlugIn | Draws,
    user: Any,
    k: int,
    *,
    candidates: Any,
    exclude: Exclude,
    seen: Exclusions,
) -> Questions:
    """The k most informative items; see `RatingsFit.choose_next`."""
    asked, items = read_candidates(source, user, candidates, exclude, seen)
    k = check_count(k, len(items), "candidates that are left")
    model = source.model if isinstance(source, Draws) else source.conditionals.model
    code = int(asked.codes[0])
    if model.likelihood.normal:
        variance, column, noise = (
            _spread_of_draws(source, code, items)
            if isinstance(source, Draws)
            else _spread_of_point(source, code, items)
        )
        places, information = _greedy(variance, column, noise, k)
    else:
        every = _disagreement(source, code, items, model.likelihood)
        places = np.argsort(-every, kind="stable")[:k]
        information = every[places]
    data = source.data if isinstance(source, Draws) else source.conditionals.data
    return Questions(
        asked.ids[0], data.items.ids[items[places]], items[places], information,
        bool(source.known("user", asked.codes)[0]),
    )  # fmt: skip


type Column = Callable[[int], Float[np.ndarray, " items"]]


def _greedy(
    variance: Float[np.ndarray, " items"], column: Column, noise: float, k: int
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
        information[step] = 0.5 * np.log1p(variance[place] / noise)
        if step + 1 < k:
            done = factor[:step]
            left = column(place) - done[:, place] @ done
            factor[step] = left / np.sqrt(variance[place] + noise)
            variance = np.maximum(variance - np.square(factor[step]), 0.0)
    return places, information


def _spread_of_draws(
    draws: Draws, code: int, items: np.ndarray
) -> tuple[np.ndarray, Column, float]:
    """Variances of the scores over the draws, their covariances by column, and the noise's."""
    blocks = _blocks(draws, code, items)
    mean = sum(block.sum(axis=0) for block in blocks()) / draws.num_draws
    variance = sum(np.square(block - mean).sum(axis=0) for block in blocks()) / draws.num_draws

    def column(place: int) -> np.ndarray:
        parts = [(block[:, place] - mean[place]) @ (block - mean) for block in blocks()]
        return np.sum(parts, axis=0) / draws.num_draws

    return variance, column, float(np.mean(np.square(draws.noise_scale)))


def _spread_of_point(
    plug_in: PlugIn, code: int, items: np.ndarray
) -> tuple[np.ndarray, Column, float]:
    """The same from the conditional of the user's row."""
    half = _half_spread(plug_in, code, items)
    noise = float(np.square(plug_in.likelihood_scales()["noise_scale"]))
    return np.square(half).sum(axis=1), lambda place: half @ half[place], noise


def _half_spread(plug_in: PlugIn, code: int, items: np.ndarray) -> np.ndarray:
    """Vectors whose products are the scores' covariances given the items."""
    conditionals = plug_in.conditionals
    root = np.diag(np.sqrt(conditionals.new_variance("user")))
    if code >= 0:
        ((_, roots),) = conditionals.roots("user", np.asarray([code]))
        root = roots[0]
    design = plug_in.tables["item"][items].astype(np.float64)
    design[:, 0] = 1.0
    return design @ root.T


def _disagreement(
    source: PlugIn | Draws, code: int, items: np.ndarray, likelihood: Likelihood
) -> Float[np.ndarray, " items"]:
    """Entropy of the mean probabilities less the mean entropy, by item."""
    thresholds = np.asarray(likelihood.levels[1:], np.float64)
    total: Any = None
    with jax.enable_x64(True):
        for scores, weight, scales in _weighted(source, code, items):
            part = _level_sums(
                *map(jnp.asarray, (scores, weight, thresholds)),
                jax.tree.map(jnp.asarray, scales), likelihood=likelihood.canonical(),
            )  # fmt: skip
            part = jax.tree.map(np.asarray, part)
            total = part if total is None else jax.tree.map(np.add, total, part)
        chance, entropy = total
        return np.asarray(jnp.sum(entr(chance), axis=0)) - entropy


def _weighted(
    source: PlugIn | Draws, code: int, items: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, Mapping[str, np.ndarray]]]:
    """Scores, weights that sum to one, and the likelihood's parameters."""
    if isinstance(source, PlugIn):
        sd = np.sqrt(np.square(_half_spread(source, code, items)).sum(axis=1))
        mean = source.means(np.full(len(items), code), items)
        scales = {
            name: np.broadcast_to(value, (len(NODES), *value.shape))
            for name, value in source.likelihood_scales().items()
        }
        yield mean + NODES[:, None] * sd, WEIGHTS, scales
        return
    start = 0
    for block in _blocks(source, code, items)():
        some = slice(start, start + len(block))
        weight = np.full(len(block), 1.0 / source.num_draws)
        yield block, weight, source.likelihood_scales(some)
        start = some.stop


def _blocks(draws: Draws, code: int, items: np.ndarray) -> Callable[[], Any]:
    # A stranger's rows are drawn, always the same ones, so that calls agree.
    return repeatable(
        lambda: score_draws(
            draws, code, items, num_draws=draws.num_draws, rng=np.random.default_rng(0)
        ),
        draws.num_draws * len(items), BLOCK,
    )  # fmt: skip


@partial(jax.jit, static_argnames="likelihood")
def _level_sums(
    scores: Array, weight: Array, thresholds: Array, scales: Mapping[str, Array],
    *, likelihood: Likelihood,
) -> tuple[Array, Array]:  # fmt: skip
    """Weighted sums of the levels' probabilities, and of their entropies."""
    ones = jnp.ones((1, scores.shape[1]), scores.dtype)

    def add(total: tuple[Array, Array], draw: Any) -> Any:
        score, w, own = draw
        above = [likelihood.tail(score, threshold, own)[None] for threshold in thresholds]
        tails = jnp.concatenate([ones, *above, 0 * ones])
        chance = jnp.maximum(tails[:-1] - tails[1:], 0.0)
        return (total[0] + w * chance, total[1] + w * jnp.sum(entr(chance), axis=0)), None

    shape = (len(thresholds) + 1, scores.shape[1])
    start = (jnp.zeros(shape, scores.dtype), jnp.zeros(shape[1], scores.dtype))
    return lax.scan(add, start, (scores, weight, scales))[0]
