"""Scripts in processes of their own that are killed in the middle, however busy the machine is."""

import os
import signal
import subprocess
import sys
import textwrap
from typing import Literal

#: Whether the last checkpoint counts, or is there but for its manifest.
When = Literal["after a write", "before its manifest"]
#: Waits for ever in one of the writes of a checkpoint, so that the kill can't come too late.
PAUSE = """
import os, sys
from pathlib import Path

def pause(last, after, replace=Path.replace, calls=[]):
    def pausing(self, target):
        manifest = self.name == "run.json.new"
        if manifest:
            calls.append(1)
        if after or not manifest:
            replace(self, target)
        if manifest and len(calls) == last:
            print("paused", flush=True)
            sys.stdin.read()
        if manifest and not after:
            replace(self, target)

    Path.replace = pausing

if "PAUSE_IN" in os.environ:
    pause(int(os.environ["PAUSE_IN"]), os.environ["PAUSE_WHEN"] == "after a write")
"""


def kill_after_writes(
    count: int, script: str, *arguments: str, when: When = "after a write"
) -> None:
    """Run a script and kill it, by SIGKILL, in or after so manieth a checkpoint."""
    with subprocess.Popen(
        _command(script, arguments), text=True,
        env=os.environ | {"PAUSE_IN": str(count), "PAUSE_WHEN": when},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        seen = process.stdout.readline().strip()
        os.kill(process.pid, signal.SIGKILL)
    assert seen == "paused"
    assert process.returncode == -signal.SIGKILL


def run_whole(script: str, *arguments: str) -> None:
    """Run a script to its end."""
    subprocess.run(_command(script, arguments), check=True)


def _command(script: str, arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-c", PAUSE + textwrap.dedent(script), *arguments]
