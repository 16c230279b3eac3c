"""Python processes that use one queue at the same time, each told in a line what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PREAMBLE = """
import sys
from runner.rows import NewRun
from runner.states import Event, IllegalMove, State
from runner.store import Occupied, Superseded, Unreachable, open_store

def new(name):
    return NewRun(name=name, config="num_epochs: 1\\n" * 100, num_epochs=1)

print("ready", flush=True)
"""


@contextmanager
def processes(*scripts: str) -> Iterator[list[subprocess.Popen[str]]]:
    """A process for each script, ready and waiting for a line; killed at the end."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for script in scripts
    ]
    try:
        for process in started:
            assert answer(process) == "ready"
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")


def answer(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints; an empty one if it has ended."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
