"""Seconds and memory against the number of ratings, in memory and from files.

Every cell is a process of its own: the door (the first call of `Ratings.open`, or
`Ratings.from_parquet`), then ALS by conjugate gradients at 32 factors and Gibbs at 16, a few sweeps
each. Ratings are simulated in pieces at Netflix's shape (480,189 x 17,770 for 100 million, both
sides smaller in proportion to the root for fewer), users' and items' activity by power laws.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from probmf import MatrixFactorization, Ratings, fit_als, sample_gibbs

SIZES, QUICK_SIZES = (10**5, 10**6, 10**7, 10**8), (10**5, 10**6)
#: Users, items and ratings of the largest size, and what is drawn at once of it.
SHAPE, PIECE = (480_189, 17_770, 10**8), 4_000
FACTORS = {"als": 32, "gibbs": 16}
FIGURE = common.ROOT / "docs" / "images" / "size.png"


def simulate(path: Path, num_ratings: int) -> None:
    """Ratings from 1 to 5 of taste in four factors, a row group for each piece of the users."""
    rng = np.random.default_rng(0)
    shrink = min(1.0, (num_ratings / SHAPE[2]) ** 0.5)
    users, items = (max(200, round(size * shrink)) for size in SHAPE[:2])
    activity = np.exp(rng.normal(0, 1.2, users))
    degree = np.clip(activity / activity.sum() * num_ratings * 1.25, 1, items // 3).astype(int)
    popularity = (np.arange(items) + items / 50) ** -1.0
    cumulative = np.cumsum(popularity / popularity.sum())
    taste = rng.normal(0, 0.5, (items, 4)), rng.normal(0, 0.5, (users, 4))
    names = rng.permutation(10 * users)[:users]  # Ids with gaps, in no order.
    left, writer = num_ratings, None
    for first in rng.permutation(np.arange(0, users, PIECE)):
        own = np.arange(first, min(first + PIECE, users))
        user = np.repeat(own, degree[own])
        item = np.searchsorted(cumulative, rng.random(len(user)))
        pairs = np.unique((user - first) * items + np.minimum(item, items - 1))[:left]
        left -= len(pairs)
        user, item = pairs // items + first, pairs % items
        score = 3.6 + (taste[1][user] * taste[0][item]).sum(1) + rng.normal(0, 0.9, len(user))
        table = pa.table(
            {"user": names[user], "item": item, "rating": np.clip(np.rint(score), 1, 5)}
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def anonymous() -> float:
    """Memory of this process that no file stands behind, in GiB, at its most."""
    status = Path("/proc/self/status").read_text("utf-8")
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields["RssAnon"].split()[0]) / 2**20


def measure(way: str, path: Path) -> dict[str, float]:
    """Figures of one process; prints nothing."""
    found = {}
    begin = time.perf_counter()
    ratings = (Ratings.open if way == "open" else Ratings.from_parquet)(path)
    found["door"] = time.perf_counter() - begin
    if way == "open":
        begin = time.perf_counter()
        ratings = Ratings.open(path)
        found["again"] = time.perf_counter() - begin
    found["ratings"] = len(ratings)
    begin = time.perf_counter()
    model = MatrixFactorization(FACTORS["als"])
    fit = fit_als(model, ratings, key=0, num_sweeps=4, tol=0.0, progress=False)
    found["first sweep"] = time.perf_counter() - begin - float(np.sum(np.diff(fit.history.seconds)))
    found["als"] = float(np.median(np.diff(fit.history.seconds)))
    found["anonymous"] = anonymous()
    del fit
    seconds = []
    for sweeps in (2, 2, 6):  # The first compiles.
        begin = time.perf_counter()
        sample_gibbs(
            MatrixFactorization(FACTORS["gibbs"]), ratings, key=0, num_warmup=1,
            num_samples=sweeps - 1, num_chains=1, progress=False,
        )  # fmt: skip
        seconds.append(time.perf_counter() - begin)
    found["gibbs"] = (seconds[2] - seconds[1]) / 4
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


def cell(way: str, path: Path) -> dict[str, float]:
    """One process's figures."""
    done = subprocess.run(
        [sys.executable, __file__, "--cell", way, str(path)], capture_output=True, text=True,
        check=False, env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def draw_figure(figures: dict[str, dict[str, float]]) -> None:
    """Seconds of a sweep and memory against ratings, all axes logarithmic."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    times, memory = figure.subplots(1, 2)
    for way, name, line in (("memory", "in memory", "-"), ("open", "from files", "--")):
        own = [found for key, found in figures.items() if key.endswith(way)]
        sizes = [found["ratings"] for found in own]
        for axes, key, label, color in (
            (times, "als", f"ALS, {FACTORS['als']} factors", "C0"),
            (times, "gibbs", f"Gibbs, {FACTORS['gibbs']} factors", "C1"),
            (memory, "peak", "peak, mapped files among it", "C2"),
            (memory, "anonymous", "own memory after ALS", "C3"),
        ):
            values = [found[key] for found in own]
            axes.loglog(sizes, values, line, marker="o", color=color, label=f"{label}, {name}")
    times.set(xlabel="ratings", ylabel="seconds of a sweep")
    memory.set(xlabel="ratings", ylabel="GiB")
    for axes in (times, memory):
        axes.legend(frameon=False, fontsize=8)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=110)


def run(quick: bool) -> common.Report:
    figures, rows = {}, []
    common.OUT.mkdir(parents=True, exist_ok=True)
    for size in QUICK_SIZES if quick else SIZES:
        with tempfile.TemporaryDirectory(dir=common.OUT) as folder:
            path = Path(folder) / "ratings.parquet"
            simulate(path, size)
            for way, name in (("memory", "in memory"), ("open", "from files")):
                found = figures[f"{size} {way}"] = cell(way, path)
                print(size, way, found, file=sys.stderr, flush=True)
                keys = ("door", "again", "first sweep", "als", "gibbs", "anonymous", "peak")
                cells = [f"{found[key]:.3g}" if key in found else "" for key in keys]
                rows.append([f"{found['ratings']:,}", name, *cells])
    if not quick:
        draw_figure(figures)
    columns = [
        "ratings", "", "door, s", "opened again, s", "until the second sweep, s", "ALS sweep, s",
        "Gibbs sweep, s", "own memory after ALS, GiB", "peak with mapped files, GiB",
    ]  # fmt: skip
    protocol = {
        "Data": "simulated, activity of both sides by power laws; one process for each line",
        "Door": "the first call of `Ratings.open`, which sorts on disk; `Ratings.from_parquet`",
        "Sweeps": f"ALS by conjugate gradients at {FACTORS['als']} factors, median of three after "
        f"the first; Gibbs at {FACTORS['gibbs']}, one chain",
    }
    table = common.Table("Seconds and memory against the number of ratings.", columns, rows)
    return common.Report(
        "size", "Size", protocol | common.environment(), [table], figures, quick
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cell"]:
        print(json.dumps(measure(sys.argv[2], Path(sys.argv[3]))))
    else:
        common.main(run)
