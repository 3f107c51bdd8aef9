"""This tree beside an earlier commit: the same short scripts run by both, in turns.

.venv/bin/python benchmarks/commits.py COMMIT [NAMES...] [--rounds N]

Each turn is a fresh process that imports the package from one of the two trees; the earlier commit
is checked out into a work tree of its own, which is removed at the end. A ratio is the earlier
commit's median divided by ours, so that 1.1x means that we take a tenth less.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import common
import numpy as np

#: What each script stands on: the data, a clock, and `seconds`, which `turn` prints at the end.
PROLOGUE = """
import json, sys, time
import numpy as np
begin = time.perf_counter()
import probmf
from probmf import *
seconds = {"import": time.perf_counter() - begin}
data = sys.argv[1]
def clock(label, call):
    begin = time.perf_counter()
    found = call()
    seconds[label] = time.perf_counter() - begin
    return found
def clock_keys(label, call):
    # The number of proposals depends on the key.
    times = []
    for key in range(1, 8):
        clock(label, lambda: call(key))
        times.append(seconds[label])
    seconds[label] = float(np.median(times))
def movielens():
    return Ratings.from_parquet(f"{data}/movielens-1m/ratings.parquet")
"""

IMPLICIT = """
model = MatrixFactorization(
    64, Gaussian(1.0), intercept=None, user_bias=False, item_bias=False, user_scale=0.35,
    item_scale=0.35, unobserved_weight=0.1,
)
events = movielens().binarize(1)
"""

#: Each tree has its own `mixed_models`, but the data are beside ours.
MIXED = """
import pathlib, common
common.DATA = pathlib.Path(data)
import mixed_models as mixed
case = mixed.CASES["{}"]
frame, model = case.frame(), case.model()
"""

SCRIPTS = {
    "als_explicit": """
ratings = movielens()
for solver, rank in (("cg", 16), ("cg", 64), ("cholesky", 16), ("cholesky", 64)):
    model = MatrixFactorization(rank)
    fit = fit_als(model, ratings, key=0, num_sweeps=7, tol=0.0, solver=solver)
    seconds[f"sweep {solver} {rank}"] = float(np.median(np.diff(fit.history.seconds)))
""",
    "als_implicit": IMPLICIT
    + """
fit = fit_als(model, events, key=0, num_sweeps=7, tol=0.0)
seconds["sweep"] = float(np.median(np.diff(fit.history.seconds)))
""",
    "gibbs": """
ratings = movielens()
for rank in (16, 64):
    model = MatrixFactorization(
        rank, Gaussian(0.9), user_scale=NormalWishart(), item_scale=NormalWishart()
    )
    def run(sweeps):
        sample_gibbs(
            model, ratings, key=0, num_warmup=0, num_samples=sweeps, num_chains=1, thin=sweeps
        )
    run(2)
    clock("short", lambda: run(2))
    clock("long", lambda: run(12))
    seconds[f"sweep {rank}"] = (seconds.pop("long") - seconds.pop("short")) / 10
""",
    "gibbs_sparse": """
# Most items have one or two ratings, as in Epinions' shape.
rng = np.random.default_rng(0)
users, items, n = 22_000, 296_000, 900_000
def popular(size, power):
    share = np.arange(1, size + 1.0) ** -power
    return np.append(np.arange(size), rng.choice(size, n - size, p=share / share.sum()))
pair = np.unique(rng.permutation(popular(users, 0.7)) * items + popular(items, 0.9))
user, item = np.divmod(pair, items)
ratings = Ratings.from_frame({"user": user, "item": item, "rating": rng.normal(size=len(pair))})
for label, prior in (("spherical", 1.0), ("full", NormalWishart())):
    model = MatrixFactorization(8, Gaussian(0.9), user_scale=prior, item_scale=prior)
    def run(sweeps):
        sample_gibbs(
            model, ratings, key=0, num_warmup=0, num_samples=sweeps, num_chains=1, thin=sweeps
        )
    run(2)
    for name, sweeps in (("short", 2), ("long", 12)):
        begin = time.process_time()
        clock(name, lambda: run(sweeps))
        seconds[name + " cpu"] = time.process_time() - begin
    for kind in ("", " cpu"):
        seconds[f"sweep {label}{kind}"] = (
            seconds.pop("long" + kind) - seconds.pop("short" + kind)
        ) / 10
""",
    "recommend": IMPLICIT
    + """
fit = fit_als(model, events, key=0, num_sweeps=2)
clock("first", lambda: fit.recommend(k=10))
again = []
for _ in range(5):
    clock("again", lambda: fit.recommend(k=10))
    again.append(seconds["again"])
seconds["again"] = float(np.median(again))
""",
    "mixed_insteval": MIXED.format("insteval")
    + """
clock("fit_marginal cold", lambda: fit_marginal(model, frame))
clock("fit_marginal again", lambda: fit_marginal(case.model(), frame))
clock("sample_marginal cold", lambda: sample_marginal(model, frame, key=0, num_samples=400))
clock("sample_marginal again", lambda: sample_marginal(model, frame, key=1, num_samples=400))
""",
    "first_call": """
ratings = clock("data", movielens)
clock("fit_als", lambda: fit_als(MatrixFactorization(64), ratings, key=0, num_sweeps=10, tol=0.0))
""",
} | {
    f"mixed_{name}": MIXED.format(name)
    + """
clock("cold", lambda: sample_marginal(model, frame, key=0, num_samples=1000))
clock_keys("again", lambda key: sample_marginal(model, frame, key=key, num_samples=1000))
"""
    for name in ("dutch", "english", "mandarin", "pupil", "grouseticks", "stroop")
}  # fmt: skip


def turn(tree: str, script: str) -> dict[str, float]:
    """Seconds by label, of a fresh process that imports the package from `tree`."""
    paths = os.pathsep.join([tree, os.path.join(tree, "benchmarks")])
    end = 'print("seconds " + json.dumps(seconds))'
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROLOGUE + script + end, str(common.DATA)],
        capture_output=True, text=True, check=False, cwd=tree,
        env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    answers = [line for line in done.stdout.splitlines() if line.startswith("seconds ")]
    if done.returncode or not answers:
        sys.exit(f"A script failed in {tree}:\n{done.stderr[-3000:]}")
    return json.loads(answers[-1].removeprefix("seconds "))


def compare(trees: tuple[str, str], script: str, rounds: int) -> dict[str, list[list[float]]]:
    """Seconds of both trees by label, one turn each in every round."""
    found: dict[str, list[list[float]]] = {}
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            for label, value in turn(trees[side], script).items():
                found.setdefault(label, [[], []])[side].append(value)
    return found


def main() -> None:
    """Print a row for each label of each script."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("commit", help="the earlier commit")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCRIPTS)}")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    unknown = set(options.names) - set(SCRIPTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SCRIPTS)}")
    ours = str(common.ROOT)
    with tempfile.TemporaryDirectory() as folder:
        before = os.path.join(folder, "before")
        git = ["git", "-C", ours, "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", before, options.commit], check=True)
        try:
            print(f"{common.commit()} beside {options.commit}; {common.machine()}", flush=True)
            print("| script | label | before s | ours s | ratio |\n| --- | --- | --- | --- | --- |")
            for name in options.names or SCRIPTS:
                for label, sides in compare((before, ours), SCRIPTS[name], options.rounds).items():
                    old, new = (float(np.median(side)) for side in sides)
                    row = f"| {name} | {label} | {old:.3f} | {new:.3f} | {old / new:.2f}x |"
                    print(row, flush=True)
        finally:
            subprocess.run([*git, "remove", "--force", before], check=True)


if __name__ == "__main__":
    main()
