"""`python -m capsnet` as a child process, for what needs PyTorch: on the CPU, for the GPUs may be booked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from runner.output import hint


class Child:
    """Command of capsnet as a child; its errors go to stderr as they come."""

    def __init__(self, words: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            _command(words), env=_environment(), stdout=subprocess.PIPE, text=True
        )

    def lines(self) -> Iterator[str]:
        """Yield what it prints, line by line, until it has ended."""
        with self._process as process:
            assert process.stdout is not None
            for line in process.stdout:
                yield line.rstrip("\n")

    def has_done(self, what: str) -> bool:
        """Return whether it succeeded; for a child that a signal has ended, say `what` was ended."""
        return succeeded(self._process.returncode, what)


def finished(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of capsnet to its end, and return its output and its errors."""
    return subprocess.run(_command(words), env=_environment(), capture_output=True, text=True)


def succeeded(code: int, what: str) -> bool:
    """Return whether an exit code is that of a success; of one by a signal, say that it ended `what`."""
    if code < 0:
        hint(f"{what} was ended by signal {-code}")
    return code == 0


def _command(words: Sequence[str]) -> list[str]:
    # -P: a file in the current directory must not be imported in the place of a module.
    return [sys.executable, "-P", "-m", "capsnet", *words]


def _environment() -> dict[str, str]:
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
