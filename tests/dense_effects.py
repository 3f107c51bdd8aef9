"""Gaussian effects by dense algebra over all observations: the oracle of the tests of effects."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probmf.effects import Grouping, Statistics, collect_statistics, make_pattern
from probmf.effects.pattern import Pattern


class Case(NamedTuple):
    """Observations of crossed effects, in NumPy's float64."""

    blocks: list[Grouping]
    designs: list[np.ndarray]
    trils: list[np.ndarray]
    target: np.ndarray
    weight: np.ndarray
    precision: float

    @property
    def pattern(self) -> Pattern:
        return make_pattern(self.blocks)


def make_case(
    groups: Sequence[int], dims: Sequence[int], *, by_group: Sequence[int] = (), rows: int = 40,
    unused: int = 0, seed: int = 0,
) -> Case:  # fmt: skip
    """Random groups, designs and factors; blocks in `by_group` have a factor for each group."""
    rng = np.random.default_rng(seed)
    blocks, designs, trils = [], [], []
    for i, (count, dim) in enumerate(zip(groups, dims, strict=True)):
        used = max(1, count - unused)
        group = rng.permutation(np.arange(rows) % used).astype(np.int32)
        blocks.append(Grouping(f"block {i}", group, count, dim))
        designs.append(np.concatenate([np.ones((rows, 1)), rng.normal(size=(rows, dim - 1))], 1))
        designs[-1][:, 0] += 0.1 * rng.normal(size=rows)
        shape = (count, dim, dim) if i in by_group else (dim, dim)
        factor = np.tril(0.5 * rng.normal(size=shape))
        trils.append(factor + np.sign(rng.normal(size=shape)) * 0.8 * np.eye(dim))
    weight = rng.uniform(0.3, 2.0, rows)
    return Case(blocks, designs, trils, rng.normal(size=rows), weight, 1.7)


def spread_design(case: Case) -> list[np.ndarray]:
    """Each block's coefficients (n, groups, d), zero outside of a row's own group."""
    return [
        np.eye(block.num_groups)[block.group][:, :, None] * design[:, None, :]
        for block, design in zip(case.blocks, case.designs, strict=True)
    ]


def dense_evidence(case: Case) -> tuple[float, tuple[Any, ...]]:
    """Log density of N(0, Z P P^T Z^T + noise), of size n by n, and its derivatives.

    The derivatives are those for trils, precision, designs, target and weight.
    """
    spread, n = spread_design(case), len(case.target)
    covariance = np.diag(1 / (case.precision * case.weight))
    for rows, tril in zip(spread, case.trils, strict=True):
        whitened = rows[..., None, :] @ tril
        covariance += np.einsum("ngxa,mgxa->nm", whitened, whitened)
    inverse = np.linalg.inv(covariance)
    solved = inverse @ case.target
    value = -0.5 * (n * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1] + case.target @ solved)
    slope = 0.5 * (np.outer(solved, solved) - inverse)
    trils, designs = [], []
    for block, rows, tril in zip(case.blocks, spread, case.trils, strict=True):
        moment = np.einsum("nga,nm,mgb->gab", rows, slope, rows, optimize=True)
        by_group = np.tril(2 * moment @ tril)
        trils.append(by_group if tril.ndim == 3 else by_group.sum(0))
        prior = np.broadcast_to(tril @ np.swapaxes(tril, -1, -2), by_group.shape)
        pulled = np.einsum("nm,mga,gab->ngb", slope, rows, prior, optimize=True)
        designs.append(2 * pulled[np.arange(n), block.group])
    noise = -np.diag(slope) / (case.precision * case.weight)
    return value, (trils, np.sum(noise) / case.precision, designs, -solved, noise / case.weight)


def statistics_of(case: Case, pattern: Pattern) -> Statistics:
    """Sums without weights."""
    collect = jax.jit(lambda designs, target: collect_statistics(pattern, designs, target))
    return collect(ordered(pattern, case.designs), jnp.asarray(case.target))


def ordered(pattern: Pattern, values: Sequence[Any]) -> list[Any]:
    """Blocks' values in the pattern's order, as JAX arrays."""
    return [jnp.asarray(values[i]) for i in pattern.order]


def conditional(case: Case, flat: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and covariance of all effects given the target, and the factor P of their prior.

    Blocks in `flat` have a flat prior and a factor of ones.
    """
    design = np.concatenate([z.reshape(len(z), -1) for z in spread_design(case)], axis=1)
    prior, scale = [], []
    for i, (block, tril) in enumerate(zip(case.blocks, case.trils, strict=True)):
        full = np.broadcast_to(tril, (block.num_groups, block.dim, block.dim))
        prior.append(np.full(block.num_groups * block.dim, 0.0 if i in flat else 1.0))
        scale += [full[j] for j in range(block.num_groups)]
    factor = block_diagonal(scale)
    whitened = design @ factor
    precision = np.diag(np.concatenate(prior)) + case.precision * whitened.T @ whitened
    covariance = factor @ np.linalg.inv(precision) @ factor.T
    return covariance @ design.T @ case.target * case.precision, covariance, factor


def flat_evidence(
    columns: np.ndarray, target: np.ndarray, cover: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The integral of N(target; X b, cover) over all b, and b's mean and covariance."""
    root = np.linalg.cholesky(cover)
    own, left = np.linalg.solve(root, columns), np.linalg.solve(root, target)
    mean = np.linalg.lstsq(own, left, rcond=None)[0]
    residual = left - own @ mean
    upper = np.linalg.qr(own, mode="r")
    half_logs = np.sum(np.log(np.diag(root))) + np.sum(np.log(np.abs(np.diag(upper))))
    free = len(target) - columns.shape[1]
    value = -0.5 * (free * np.log(2 * np.pi) + residual @ residual) - half_logs
    inverse = np.linalg.inv(upper)
    return float(value), mean, inverse @ inverse.T


def block_diagonal(parts: Sequence[np.ndarray]) -> np.ndarray:
    size = sum(len(part) for part in parts)
    full, start = np.zeros((size, size)), 0
    for part in parts:
        full[start : start + len(part), start : start + len(part)] = part
        start += len(part)
    return full
