"""`probmf launch`: a fit by several processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from typing import Annotated

import typer
from typer.main import get_command

from probmf import processes
from probmf.cli import console
from probmf.cli import shared_options as options
from probmf.cli.app import app
from probmf.cli.console import plain_errors, say_error

#: Seconds between looks at local processes.
LOOK_EVERY = 0.2
#: Seconds that the others have to say something when one has ended with an error.
GRACE = 5.0


def launch(
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="-- fit ...", help="The command that all processes run: fit, with its options."
        ),
    ],
    local: Annotated[
        int | None,
        typer.Option("-n", help="Start so many processes here; to try a command and to test."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the first process can be reached."),
    ] = None,
    count: Annotated[int | None, typer.Option(help="Number of all processes.")] = None,
    rank: Annotated[int | None, typer.Option(help="Number of this process, from 0.")] = None,
    debug: options.Debug = False,
) -> None:
    """Fit by several processes, each of which solves its share of the rows.

    With -n all of them are started here. With --address, --count and --rank this is one of them,
    and without any option, too, in a job of Slurm, Open MPI, Kubernetes or a TPU pod.
    """
    with plain_errors(debug):
        if command[0] != "fit":
            raise ValueError(
                f"The command after -- is {command[0]}, but only fit computes on several "
                "processes: probmf launch -n 2 -- fit RATINGS --out DIR"
            )
        if local is None:
            processes.join(address, count, rank)
        elif (address, count, rank) != (None, None, None):
            raise ValueError(
                "-n starts all processes here; --address, --count and --rank are for processes "
                "that are started one by one. Leave out one or the other."
            )
        elif local < 1:
            raise ValueError(f"-n is {local}; expected a number of processes, from 1.")
    if local is None:
        _take_part(command)
    else:
        raise typer.Exit(_start(local, command))


def _take_part(command: list[str]) -> None:
    """Run a command as one of several processes, of which the first alone prints."""
    own, code = processes.rank(), 0
    if own:
        console.out.quiet = True
        console.speaker = f"Process {own}: "
    try:
        get_command(app).main(command, prog_name="probmf")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    if not code:
        processes.wait()
        return
    # The usual end of a process would wait for the others, who wait for this one.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _start(count: int, command: list[str]) -> int:
    """Run a command in local processes; the exit code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    joined = [sys.executable, "-m", "probmf", "launch", "--address", address, "--count", str(count)]
    running = [
        subprocess.Popen([*joined, "--rank", str(rank), "--", *command]) for rank in range(count)
    ]
    # Ctrl-C reaches all of them, and they save what there is before they end.
    heeded = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return _watch(running)
    finally:
        signal.signal(signal.SIGINT, heeded)
        for process in running:
            process.kill()
            process.wait()


def _watch(running: list[subprocess.Popen[bytes]]) -> int:
    """Wait for the end of all processes, or of one that ended with an error; the exit code."""
    while True:
        time.sleep(LOOK_EVERY)
        codes = [process.poll() for process in running]
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            break
        if all(code == 0 for code in codes):
            return 0
    others = [process for process in running if process.poll() is None]
    deadline = time.monotonic() + GRACE
    while any(process.poll() is None for process in others) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY)
    first = failed[0]
    stopped = f"; the other {len(others)} stopped" if others else ""
    say_error(f"Process {first} of {len(running)} {_how(codes[first] or 0)}{stopped}.")
    return 1


def _how(code: int) -> str:
    """The end of a process in words."""
    if code > 0:
        return f"ended with exit code {code}"
    return f"was ended by {signal.Signals(-code).name}"
