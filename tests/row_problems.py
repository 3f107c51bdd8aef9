"""Rows to solve, and their NumPy solution one by one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probmf.likelihoods import Gaussian, Likelihood
from probmf.rows import sweep
from probmf.rows.blocks import build_blocks
from probmf.rows.cpu import RowLists
from probmf.rows.store import OTHER, SIDES, RowStore, Side
from probmf.rows.sweep import half_sweep, zero_moments
from probmf.rows.values import Prior, Rows, RowSums, RowValues

USERS, ITEMS, FACTORS = 20, 9, 3
SIZE = 1 + FACTORS
SIGMA = 0.6
INTERCEPT = 0.3


@dataclass(frozen=True)
class Problem:
    """Ratings, present parameters of all rows (users, then items), and priors; float64."""

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    weight: np.ndarray | None
    bias: np.ndarray
    factors: np.ndarray
    precision: np.ndarray
    free: np.ndarray
    zero_weight: float = 0.0
    likelihood: Likelihood = field(default_factory=Gaussian)

    def own(self, side: Side) -> np.ndarray:
        return np.arange(USERS) if side == "user" else np.arange(USERS, USERS + ITEMS)

    def other(self, side: Side) -> np.ndarray:
        return self.own("item" if side == "user" else "user")

    def rated(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of a row's ratings, and its partners' table rows."""
        users, items = self.user, self.item + USERS
        if row < USERS:
            return np.flatnonzero(users == row), items[users == row]
        return np.flatnonzero(items == row), users[items == row]

    def system(self, side: Side, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Precision matrix of a row's step and gradient at its present value, by loops.

        Fixed coordinates have the identity and gradient zero.
        """
        present = np.append(self.bias[row], self.factors[row])
        matrix, gradient = np.diag(self.precision[row]), -self.precision[row] * present
        terms = []
        for place, partner in zip(*self.rated(row), strict=True):
            z = np.append(1.0, self.factors[partner])
            score = INTERCEPT + self.bias[partner] + z @ present
            weight = 1.0 if self.weight is None else self.weight[place]
            curvature, slope = self.bound(score, self.rating[place])
            terms.append((z, weight * curvature, weight * slope))
        for partner in self.other(side) if self.zero_weight else []:
            z = np.append(1.0, self.factors[partner])
            score = INTERCEPT + self.bias[partner] + z @ present
            terms.append((z, self.zero_weight, -self.zero_weight * score))
        for z, curvature, slope in terms:
            matrix = matrix + curvature * np.outer(z, z)
            gradient = gradient + slope * z
        kept = self.free > 0
        return np.where(kept[:, None] & kept, matrix, np.eye(SIZE)), gradient * self.free

    def bound(self, score: float, rating: float) -> tuple[float, float]:
        if isinstance(self.likelihood, Gaussian):
            return SIGMA**-2, (rating - score) * SIGMA**-2
        return np.tanh(score / 2) / (2 * score), rating - 1 / (1 + np.exp(-score))

    def loss(self, score: float, rating: float) -> float:
        if isinstance(self.likelihood, Gaussian):
            return 0.5 * (rating - score) ** 2 / SIGMA**2
        return np.log1p(np.exp(score)) - rating * score

    def solve(
        self, side: Side, method: sweep.Method, *, workers: int = 2, slots: int = 64,
        cg_steps: int = 3, lists: bool = False, key: Array | None = None,
    ) -> tuple[np.ndarray, RowSums, Rows]:  # fmt: skip
        """New rows (bias, factors), users then items, by `half_sweep`, and the rest of its answer.

        With `lists` by the loops for a CPU, else by the compiled program for any device.
        """
        store = RowStore.of(
            self.user, self.item, self.rating, self.weight, num_users=USERS, num_items=ITEMS
        )
        layout = build_blocks(store, workers=workers, slots=slots)
        if lists:
            layout = RowLists.of(store, workers)
        dtype = jnp.result_type(float)
        table = {
            one: RowValues(
                jnp.asarray(self.bias[self.own(one)], dtype),
                jnp.asarray(self.factors[self.own(one)], dtype),
            )
            for one in SIDES
        }
        gram = shift = None
        intercept = jnp.asarray(INTERCEPT, dtype)
        if self.zero_weight:
            zero_weight = jnp.asarray(self.zero_weight, dtype)
            gram, shift = zero_moments(*table[OTHER[side]], intercept, zero_weight)
        gaussian = isinstance(self.likelihood, Gaussian)
        prior = Prior(
            intercept,
            {"noise_scale": jnp.asarray(SIGMA, dtype)} if gaussian else {},
            jnp.asarray(self.precision[self.own(side)], dtype),
            jnp.asarray(self.free, dtype),
            gram,
            shift,
        )
        with ThreadPoolExecutor(workers) as pool:
            new, result = half_sweep(
                layout, side, table, prior, likelihood=self.likelihood, method=method,
                cg_steps=cg_steps, pool=pool, key=key,
            )  # fmt: skip
        both = [np.column_stack([new[one].bias, new[one].factors]) for one in SIDES]
        return np.concatenate(both).astype(float), result, new


def draw(*, weighted: bool = False, bias: bool = True, zero_weight: float = 0.0) -> Problem:
    """Rows of very different length; the last user and the last item have none."""
    rng = np.random.default_rng(11)
    seen = rng.random((USERS, ITEMS)) < np.linspace(0.05, 1, USERS)[::-1, None]
    seen[:, 0] = True
    seen[-1], seen[:, -1] = False, False
    user, item = np.nonzero(seen)
    table = USERS + ITEMS
    return Problem(
        user, item, rng.normal(size=len(user)),
        rng.uniform(0.5, 2, len(user)) if weighted else None,
        rng.normal(size=table), rng.normal(size=(table, FACTORS)),
        rng.uniform(0.5, 2, (table, SIZE)), np.array([float(bias), 1, 1, 1]), zero_weight,
    )  # fmt: skip


OPTIONS = {
    "plain": draw(),
    "no own bias": draw(bias=False),
    "weights": draw(weighted=True),
    "weak zeros": draw(zero_weight=0.2),
    "all": draw(weighted=True, bias=False, zero_weight=0.2),
}


def solutions(problem: Problem, side: Side) -> Iterator[tuple[int, np.ndarray]]:
    """Each row of a side with its exact solution."""
    for row in problem.own(side):
        step = np.linalg.solve(*problem.system(side, row))
        yield row, np.append(problem.bias[row], problem.factors[row]) + step


def check_rest(problem: Problem, side: Side, result: RowSums, new: np.ndarray, rtol: float) -> None:
    """Everything but the new rows themselves."""
    own = problem.own(side)
    wanted = np.zeros((3, len(own)))
    for row in own:
        for place, partner in zip(*problem.rated(row), strict=True):
            score = INTERCEPT + problem.bias[partner] + new[row] @ [1, *problem.factors[partner]]
            weight = 1.0 if problem.weight is None else problem.weight[place]
            curvature, slope = problem.bound(score, problem.rating[place])
            loss = problem.loss(score, problem.rating[place])
            wanted[:, row - own[0]] += weight * np.array([loss, slope, curvature])
    for name, sums in zip(("loss", "slope", "curvature"), wanted, strict=True):
        got = np.asarray(getattr(result, name), float)
        np.testing.assert_allclose(got, sums, rtol=rtol, atol=20 * rtol, err_msg=name)
