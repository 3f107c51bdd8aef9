"""Record of a fit's search."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from probmf.results.table import Tabular


@dataclass(frozen=True, eq=False, repr=False)
class History(Tabular):
    """Objective and held-out error after every step of a point fit.

    Attributes:
        objective: Minus log posterior up to a constant after each step, shape (steps,).
        validation: Held-out error after each step (RMSE, or log loss for yes/no data), or None.
        seconds: Seconds from the start to the end of each step, compilation included.
        best: The step whose parameters were kept, counted from 1 (0: the start).
        stopped: Why it ended: "tol", "validation", "num_sweeps" (or "num_epochs"),
            "interrupted" or "diverged".
        unit: What a step is: "sweep" or "epoch".
        restarts: Objectives of all restarts, shape (restarts, steps), or None.
        notes: What the search did not find, in sentences.
    """

    objective: Float[np.ndarray, " steps"]
    validation: Float[np.ndarray, " steps"] | None
    seconds: Float[np.ndarray, " steps"]
    best: int
    stopped: str
    unit: str
    restarts: Float[np.ndarray, "restarts steps"] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of steps taken."""
        return len(self.objective)

    @property
    def words(self) -> str:
        """Number of steps, the objective that was kept, and why the search ended."""
        if not len(self):
            return f"no {self.unit}, stopped by {self.stopped}"
        kept = self.objective[max(self.best - 1, 0)]
        return f"{len(self)} {self.unit}s, objective {kept:,.6g}, stopped by {self.stopped}"

    def __repr__(self) -> str:
        """The same, and the last held-out error."""
        told = ""
        if self.validation is not None and len(self):
            told = f", held-out error {self.validation[max(self.best - 1, 0)]:.4g}"
        return f"History({self.words}{told})"

    def to_arrow(self) -> pa.Table:
        """One line per step.

        Returns:
            Columns "sweep" (or "epoch"), "objective", "validation" if there is any, and "seconds".
        """
        columns = {"objective": self.objective, "validation": self.validation}
        present = {name: of for name, of in columns.items() if of is not None}
        steps = {self.unit: np.arange(1, len(self) + 1)}
        return pa.table(steps | present | {"seconds": self.seconds})
