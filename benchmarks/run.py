"""Run the benchmarks one after the other, and put their tables into the docs.

PEERS_VENV=.venv-peers .venv/bin/python benchmarks/run.py [NAMES...] [--quick] [--write-docs]
"""

import argparse
import json
import os
import re
import subprocess
import sys

import common

NAMES = (
    "als_explicit", "als_implicit", "bpr", "recommend", "accuracy", "first_call",
    "mixed_insteval", "mixed_small", "other_responses", "marginal_scaling", "marginal_mf",
    "marginal_mf_long", "gibbs", "gibbs_accuracy", "time_error", "side_features", "digits",
    "posteriordb", "size",
)  # fmt: skip
#: Benchmarks that take hours, and run only where they are named.
NAMED_ONLY = ("size",)
PAGES = {"posteriordb": "posteriordb.md"}


def run_script(name: str, quick: bool) -> bool:
    """Run one benchmark in a process of its own; whether it succeeded."""
    print(f"--- {name}", file=sys.stderr, flush=True)
    script = common.ROOT / "benchmarks" / f"{name}.py"
    paths = [str(common.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, script, *(["--quick"] if quick else [])],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    return done.returncode == 0


def read_report(name: str) -> common.Report:
    path = common.OUT / f"{name}.json"
    if not path.exists():
        sys.exit(f"There are no results of {name} yet: run benchmarks/run.py {name} first.")
    fields = json.loads(path.read_text("utf-8"))
    tables = [common.Table(**table) for table in fields.pop("tables")]
    return common.Report(tables=tables, **fields)


def write_docs(names: list[str]) -> None:
    """Replace what stands between the page's markers of each benchmark."""
    for name in names:
        page = common.ROOT / "docs" / PAGES.get(name, "benchmarks.md")
        text, report = page.read_text("utf-8"), read_report(name)
        marked = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not marked.search(text):
            sys.exit(f"{page} has no markers for {name}.")
        body = common.markdown(report)
        text = marked.sub(lambda found, body=body: f"{found[1]}\n{body}\n{found[2]}", text)
        page.write_text(text, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the benchmarks; results: benchmarks/out.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(NAMES)}; without names all but {', '.join(NAMED_ONLY)}",
    )
    parser.add_argument("--quick", action="store_true", help="fewer points; to out/quick")
    parser.add_argument("--write-docs", action="store_true", help="put tables in docs afterwards")
    parser.add_argument("--no-run", action="store_true", help="only write what was measured before")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark named {', '.join(sorted(unknown))}; there are {NAMES}")
    names = options.names or [name for name in NAMES if name not in NAMED_ONLY]
    if options.quick and options.write_docs:
        parser.error("the docs take full runs only: leave out --quick or --write-docs")
    failed = [] if options.no_run else [n for n in names if not run_script(n, options.quick)]
    if options.write_docs:
        write_docs([name for name in names if name not in failed])
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
