"""A fresh process: seconds from import to the first fit of MovieLens-1M, by what they go to."""

import json
import subprocess
import sys

import common
import numpy as np

FACTORS = 64
SWEEPS = 10
PARTS = ("import", "data door", "layout and start", "compile", "sweeps")

#: Runs alone, as a user's script would; `common` is not imported so that nothing comes before it.
SCRIPT = """
import json, sys, time
clock = [time.perf_counter()]
from probmf import MatrixFactorization, Ratings, fit_als
clock.append(time.perf_counter())
ratings = Ratings.from_parquet(sys.argv[1])
clock.append(time.perf_counter())
model = MatrixFactorization(int(sys.argv[2]))
fit = fit_als(model, ratings, key=0, num_sweeps=int(sys.argv[3]), tol=0.0)
clock.append(time.perf_counter())
print(json.dumps({"clock": clock, "sweeps": fit.history.seconds.tolist()}))
"""


def one_process(sweeps: int) -> list[float]:
    """Seconds of the five parts; the history's clock starts when the layout is done."""
    path = common.DATA / "movielens-1m" / "ratings.parquet"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(FACTORS), str(sweeps)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"The fresh process failed:\n{done.stderr}")
    answer = json.loads(done.stdout.splitlines()[-1])
    imported, read, fitted = np.diff(answer["clock"])
    ends = answer["sweeps"]
    sweep = float(np.median(np.diff(ends)))
    return [imported, read, fitted - ends[-1], ends[0] - sweep, ends[-1] - ends[0] + sweep]


def run(quick: bool) -> common.Report:
    ratings = common.movielens("1m")  # for its message when the data are absent
    sweeps = 3 if quick else SWEEPS
    runs = np.asarray([one_process(sweeps) for _ in range(1 if quick else 5)])
    parts = np.median(runs, axis=0)
    cells = [f"{value:.2f}" for value in (*parts, np.median(runs.sum(axis=1)))]
    protocol = {
        "Data": f"MovieLens-1M from Parquet, {len(ratings):,} ratings, all of them",
        "Script": f"a new Python process imports probmf, reads the file with "
        f"`Ratings.from_parquet`, and fits {FACTORS} factors by `fit_als` (conjugate gradients, "
        f"{sweeps} sweeps, key 0); no cache of compiled programs",
        "Parts": "layout and start: checks, rows in buckets, random starting values with their "
        "compilation; compile: the first sweep less a median one; medians by part of "
        f"{len(runs)} processes",
        "Threads": f"{common.cores()}",
    }
    return common.Report(
        name="first_call",
        title="The first call",
        protocol=protocol | common.environment(),
        tables=[common.Table("Seconds of each part.", [*PARTS, "all"], [cells])],
        figures={"runs": runs.tolist()},
        quick=quick,
    )


if __name__ == "__main__":
    common.main(run)
