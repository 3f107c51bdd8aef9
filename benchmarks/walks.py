"""Count the files that a call visits, and how often a mixed model is run by what traces it.

    python benchmarks/walks.py

Two walks on toy data: a rating from `Ratings.from_frame` through `fit_als` to `recommend`, and a
mixed model through `sample_marginal` to `summary`. A file is visited when a function of it runs; a
move is a call that enters another file of the package. The figures don't depend on the machine.
"""

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import probmf
from probmf import MatrixFactorization, MixedEffects, Ratings, fit_als, sample_marginal
from probmf.models.mixed.program import MixedProgram

PACKAGE = str(Path(probmf.__file__).parent)


class Walk:
    """The package's files and functions that run while a function is called.

    Attributes:
        files: Paths of the files, in the order of the first visit.
        moves: Calls that entered another file of the package.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        """Call the function, in this thread and those that it starts."""
        self.files: dict[str, None] = {}
        self._functions: set[tuple[str, str]] = set()
        self.moves = 0
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        try:
            self.result = call()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @property
    def functions(self) -> int:
        """Number of functions that ran."""
        return len(self._functions)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        self.files[code.co_filename.removeprefix(PACKAGE + "/")] = None
        self._functions.add((code.co_filename, code.co_qualname))
        above = frame.f_back
        while above is not None and not above.f_code.co_filename.startswith(PACKAGE):
            above = above.f_back
        if above is not None and above.f_code.co_filename != code.co_filename:
            self.moves += 1


def rating() -> None:
    """A rating on its way from a table to a list of recommendations."""
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.choice(80, 60, replace=False), 8)
    table = {"user": user, "item": item, "rating": rng.normal(3.5, 1.0, 60)}
    fit = fit_als(MatrixFactorization(2), Ratings.from_frame(table), key=0)
    fit.recommend([0, 1], 3)


def mixed(seed: int = 0) -> None:
    """A mixed model on its way from a table to a summary."""
    rng = np.random.default_rng(seed)
    g = np.arange(60) % 6
    x = rng.normal(size=60)
    y = 1 + x + rng.normal(size=6)[g] + rng.normal(size=60)
    model = MixedEffects("y ~ x + (1 | g)")
    sample_marginal(model, {"y": y, "x": x, "g": g}, key=0, num_samples=200).summary()


class Runs:
    """Count of the runs of a mixed model as a NumPyro model; a trace is a run."""

    def __init__(self) -> None:
        """Count from now on."""
        self.count, own = 0, MixedProgram.__call__

        def counted(program: MixedProgram, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return own(program, *args, **kwargs)

        MixedProgram.__call__ = counted  # type: ignore[method-assign]

    def read(self) -> int:
        """The count, which begins again at zero."""
        count, self.count = self.count, 0
        return count


def main() -> None:
    """Print the figures, and the files with `--files`."""
    runs = Runs()
    for name, call in (("rating", rating), ("mixed", mixed)):
        walk = Walk(call)
        print(json.dumps({
            "walk": name, "files": len(walk.files), "functions": walk.functions,
            "moves": walk.moves, "runs of the mixed model": runs.read(),
        }))  # fmt: skip
        if "--files" in sys.argv:
            print("\n".join(walk.files))
    mixed(seed=1)
    print(json.dumps({"walk": "mixed, other data", "runs of the mixed model": runs.read()}))


if __name__ == "__main__":
    main()
