"""Where a process prints to."""

from __future__ import annotations

import faulthandler
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def log_to(path: Path) -> None:
    """Send everything that this process prints, C code and warnings included, to a file.

    What Python prints while the disk is full is lost, and counted there when it is not any more.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout, sys.stderr = (_text(os.dup(number)) for number in (1, 2))
    faulthandler.enable(sys.stderr)


def _text(descriptor: int) -> io.TextIOWrapper:
    output = io.BufferedWriter(_Output(descriptor))
    # Whatever the locale: a character that it lacks must not end what prints it.
    return io.TextIOWrapper(output, encoding="utf-8", errors="backslashreplace", line_buffering=True)


class _Output(io.RawIOBase):
    """A file that takes what it can: a message that does not fit must not end what it tells about."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lost = 0  # bytes

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: ReadableBuffer, /) -> int:
        size = memoryview(data).nbytes
        try:
            if self._lost:
                os.write(self._descriptor, f"\n({self._lost} bytes of output were lost here)\n".encode())
                self._lost = 0
            return os.write(self._descriptor, data)
        except OSError:  # such as a full disk
            self._lost += size
            return size
