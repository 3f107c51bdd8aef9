"""Record of a fit's search."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class History:
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
