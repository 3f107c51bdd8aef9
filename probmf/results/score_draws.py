"""Draws of one user's scores of many items."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from probmf.results.draws import Draws
from probmf.results.plug_in import PlugIn
from probmf.results.ranking import BLOCK_SCORES
from probmf.results.ranking_of_draws import draw_blocks, draw_strangers, pairs_of_rows


def score_draws(
    source: PlugIn | Draws,
    code: int,
    items: Int[np.ndarray, " items"],
    *,
    num_draws: int,
    rng: np.random.Generator,
) -> Iterator[Float[np.ndarray, "draws items"]]:
    """Joint draws of the scores, in blocks of bounded memory.

    Args:
        source: The fit. Of many draws all are taken; of a point the user's row is drawn from its
            conditional, and each item's score given that row from the item's.
        code: The user, -1 for one whom the fit does not know.
        items: Item codes.
        num_draws: How many draws of a point fit.
        rng: Draws a stranger's rows, and all of a point fit.

    Yields:
        Scores by draw and item. O(draws items d) time, of a point O(draws items d^2).
    """
    codes = np.asarray([code])
    if isinstance(source, Draws):
        for some in draw_blocks(source, len(items) + 1):
            users, others = pairs_of_rows(source, codes, items, some)
            draw_strangers(source, users, codes, some, rng)
            yield np.einsum("sd,snd->sn", users[:, 0], others, dtype=np.float64)
        return
    step = max(1, min(num_draws, BLOCK_SCORES // len(items), source.spread_rows))
    intercept = float(source.conditionals.parameters["intercept"])
    width = source.conditionals.num_columns
    for start in range(0, num_draws, step):
        count = min(step, num_draws - start)
        users = source.draw("user", np.repeat(codes, count), rng.standard_normal((count, width)))
        spread = source.exact_spread("user", users)
        scores = np.empty((count, len(items)))
        for first in range(0, len(items), source.spread_rows):
            some = slice(first, first + source.spread_rows)
            rows = source.tables["item"][items[some]]
            mean = users[:, :1] + rows[:, 0] + users[:, 1:] @ rows[:, 1:].T
            variance = np.maximum(spread @ source.spread("item", items[some]).T, 0.0)
            noise = rng.standard_normal(mean.shape)
            scores[:, some] = intercept + mean + np.sqrt(variance) * noise
        yield scores


def repeatable(
    blocks: Callable[[], Iterator[np.ndarray]], num_numbers: int, most: int
) -> Callable[[], Any]:
    """Blocks that are gone through several times: kept if they are small, else made again."""
    if num_numbers > most:
        return blocks
    kept = list(blocks())
    return lambda: kept
