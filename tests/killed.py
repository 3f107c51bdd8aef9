"""Scripts in processes of their own that are killed in the middle, however busy the machine is."""

import os
import signal
import subprocess
import sys
import textwrap

#: Waits for ever after so many writes of a checkpoint, so that the kill can't come too late.
PAUSE = """
import os, sys
from probmf.run.checkpoint import Checkpoint

def pause_after(last, write=Checkpoint.write, calls=[]):
    def pausing(self, *arguments):
        write(self, *arguments)
        calls.append(1)
        if len(calls) == last:
            print("paused", flush=True)
            sys.stdin.read()

    Checkpoint.write = pausing

if "PAUSE_AFTER" in os.environ:
    pause_after(int(os.environ["PAUSE_AFTER"]))
"""


def kill_after_writes(count: int, script: str, *arguments: str) -> None:
    """Run a script and kill it, by SIGKILL, after so many checkpoints."""
    with subprocess.Popen(
        _command(script, arguments), env=os.environ | {"PAUSE_AFTER": str(count)}, text=True,
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
