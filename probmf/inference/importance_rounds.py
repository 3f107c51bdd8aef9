"""Rounds of proposals, weighed and refitted, until enough of them are effective."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from rich.progress import Progress, TaskID

from probmf.inference.drawn_back import SiteArrays
from probmf.inference.importance import (
    K_HAT_GATE,
    Mixture,
    Mode,
    effective_size,
    refit,
    smooth,
)
from probmf.inference.marginal.evaluators import NotServedError
from probmf.inference.marginal.host_density import CHUNK

#: More parameters than this are left to NUTS.
MAX_DIMS = 20
#: Numbers of effects kept while proposals are evaluated; beyond, they are drawn again at the end.
KEEP_NUMBERS = 100_000_000
#: Below this effective share of the proposals, or above this k-hat (weights of infinite variance),
#: the mixture is fitted again.
GOOD_SHARE, GOOD_K_HAT = 0.5, 0.5
MAX_ROUNDS = 4
#: Proposals of the first round: enough for a first k-hat.
FIRST = 256


def most_densities(num_samples: int, max_densities: int | None) -> int:
    """The most proposals: by default 40 for each draw, and at least 20,000."""
    return max_densities or max(40 * num_samples, 20_000)


class ImportanceDraws(NamedTuple):
    """Draws of every site, and how they came about.

    Attributes:
        samples: Draws by site name, (num_samples, ...).
        k_hat: Shape of the tail of the importance weights.
        num_densities: Evaluations of the density by proposals.
        num_gradients: Evaluations of density and score by the search for the mode.
        effective: Effective number of draws among the proposals.
        seconds: Wall time by stage.
        complete: False after an interruption: there are fewer draws than were asked for.
        lost_digits: A sentence where rounding leaves too little of the density, else empty.
    """

    samples: dict[str, np.ndarray]
    k_hat: float
    num_densities: int
    num_gradients: int
    effective: float
    seconds: dict[str, float]
    complete: bool
    lost_digits: str


class Clock:
    """Wall time by stage."""

    def __init__(self) -> None:
        """Start it."""
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        """Count the time since the last mark to a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


class Piece(NamedTuple):
    """A few proposals: where they are, log densities, sites if they are kept, number of the law."""

    points: np.ndarray
    values: np.ndarray
    sites: SiteArrays
    law: int


class Rounds:
    """Proposals of all rounds, weighted against the mixture of all their laws.

    Args:
        evaluate: Gives log densities of points, and sites there.
        rng: Random numbers.
        mode: The mode, about which the first proposals are; None where nothing is left.
    """

    def __init__(self, evaluate: Any, rng: np.random.Generator, mode: Mode | None) -> None:
        """Begin with the mode."""
        self.evaluate, self.rng = evaluate, rng
        size = evaluate.density.num_dims
        mean = np.zeros(size) if mode is None else mode.vector
        covariance = np.eye(size) if mode is None else mode.covariance
        self.laws = [Mixture.around(mean, covariance)]
        self.pieces: list[Piece] = []
        self.numbers = 0
        self.points, self.log_weights = np.zeros((0, size)), np.zeros(0)
        self.weights = np.zeros(0)
        self.k_hat, self.effective = np.inf, 0.0

    @property
    def num(self) -> int:
        """Proposals that are weighted."""
        return len(self.points)

    def plan(self, num_samples: int, limit: int) -> int:
        """Number of proposals to make next; refits the proposal first where that will pay."""
        if self.num == 0:
            return min(max(FIRST, num_samples // 4), 2 * FIRST)
        done = self.effective >= num_samples and self.k_hat < K_HAT_GATE
        if done or self.num >= limit:
            return 0
        share = max(self.effective / self.num, 1e-3)
        poor = share < GOOD_SHARE or not self.k_hat < GOOD_K_HAT
        missing = max(num_samples - self.effective, 0.05 * num_samples)
        wanted = int(1.05 * missing / share) + CHUNK
        # Of few that are missing no other law saves as many as it takes to know it by.
        poor = poor and (wanted > FIRST or not self.k_hat < GOOD_K_HAT)
        if poor and len(self.laws) <= MAX_ROUNDS and self.num >= 16 * self.points.shape[1]:
            components = 1 + min(4, int(self.effective) // (8 * self.points.shape[1] + 8))
            self.laws.append(refit(self.points, self.log_weights, components, len(self.laws)))
            wanted = max(FIRST, int(missing / max(share, GOOD_SHARE)))
            return min(wanted, max(512, num_samples), limit - self.num)
        return min(wanted, max(2 * self.num, num_samples), limit - self.num)

    def run(self, num_samples: int, limit: int, bar: Progress, task: TaskID) -> int:
        """Propose until so many draws are effective; how many there are, fewer if interrupted.

        Raises:
            NotServedError: If k-hat stays above the gate.
            KeyboardInterrupt: After an interruption before there are draws that can be trusted.
        """
        bar.update(task, description="proposals", total=num_samples, completed=0)
        try:
            while (wanted := self.plan(num_samples, limit)) > 0:
                self.extend(wanted)
                self.weigh()
                status = f"{self.num:,} densities, k-hat {self.k_hat:.2f}"
                bar.update(task, completed=min(num_samples, self.effective), status=status)
                if self.is_hopeless(num_samples, limit):
                    break
            count = num_samples
        except KeyboardInterrupt:
            count = min(num_samples, self.settle())
        if not self.k_hat < K_HAT_GATE:
            raise NotServedError(
                f"after {self.num:,} proposals Pareto k-hat is {self.k_hat:.2f}, not below "
                f"{K_HAT_GATE}"
            )
        return count

    def is_hopeless(self, num_samples: int, limit: int) -> bool:
        """True if weights stay bad with the last law, and the most proposals are far too few."""
        refitted = len(self.laws) > MAX_ROUNDS and not self.k_hat < K_HAT_GATE
        return refitted and 2 * self.effective * limit < num_samples * self.num

    def extend(self, num: int) -> None:
        """Make and evaluate proposals from the last law; what is evaluated stays if it stops."""
        points, done = self.laws[-1].sample(self.rng, num), 0
        for values, sites in self.evaluate(points):
            # What does not fit is dropped, and drawn again for the proposals chosen in the end.
            self.numbers += sum(site.size for site in sites.values())
            kept = sites if self.numbers <= KEEP_NUMBERS else {}
            if self.pieces and self.pieces[-1].sites and not kept:
                self.pieces = [piece._replace(sites={}) for piece in self.pieces]
            own = points[done : done + len(values)]
            self.pieces.append(Piece(own, values, kept, len(self.laws) - 1))
            done += len(values)

    def weigh(self) -> None:
        """Weigh all proposals anew, against the mixture of the laws that they came from."""
        points = np.concatenate([piece.points for piece in self.pieces])
        values = np.concatenate([piece.values for piece in self.pieces])
        sizes = [len(piece.values) for piece in self.pieces]
        shares = np.bincount([piece.law for piece in self.pieces], sizes) / len(values)
        logs = np.stack(
            [
                np.log(share) + law.log_density(points)
                for share, law in zip(shares, self.laws, strict=False)
                if share > 0
            ]
        )
        log_weights = values - np.logaddexp.reduce(logs, axis=0)
        if not np.any(np.isfinite(log_weights)):
            raise NotServedError("the log density is finite at none of the proposals")
        self.weights, self.k_hat = smooth(log_weights)
        self.effective = effective_size(log_weights)
        self.points, self.log_weights = points, log_weights

    def settle(self) -> int:
        """Weigh what there is after an interruption; how many draws it is good for."""
        if self.pieces:
            self.weigh()
        if not self.k_hat < K_HAT_GATE or self.effective < 1:
            raise KeyboardInterrupt(
                f"Interrupted after {self.num:,} proposals, which are too few for their weights to "
                f"be trusted (Pareto k-hat {self.k_hat:.2f}): there are no draws to return."
            )
        return int(self.effective)

    def sites(self, chosen: np.ndarray) -> Iterator[SiteArrays]:
        """Values of every site at the chosen proposals, in pieces."""
        if all(piece.sites for piece in self.pieces):
            yield {
                name: np.concatenate([piece.sites[name] for piece in self.pieces])[chosen]
                for name in self.pieces[0].sites
            }
        else:
            yield from self.evaluate.sites(self.points[chosen])
