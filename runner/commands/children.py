"""`python -m capsnet` as a child process, for what needs PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from runner.output import hint


class Child:
    """Command of capsnet as a child, on the CPU, for the GPUs may be booked; its errors go to stderr."""

    def __init__(self, words: Sequence[str]) -> None:
        # -P: a file in the current directory must not be imported in the place of a module.
        command = [sys.executable, "-P", "-m", "capsnet", *words]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def lines(self) -> Iterator[str]:
        """Yield what it prints, line by line, until it has ended."""
        with self._process as process:
            assert process.stdout is not None
            for line in process.stdout:
                yield line.rstrip("\n")

    def has_done(self, what: str) -> bool:
        """Return whether it succeeded; for a child that a signal has ended, say `what` was ended."""
        code = self._process.returncode
        if code < 0:
            hint(f"{what} was ended by signal {-code}")
        return code == 0
