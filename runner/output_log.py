"""Redirection of a process's output to a file."""

from __future__ import annotations

import faulthandler
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runner.redaction import Redactor

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def log_to(path: Path) -> None:
    """Send everything that this process prints, C code and warnings included, to a file.

    What Python prints, tracebacks included, is written without the secrets of this process's variables.
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
    return _Text(io.BufferedWriter(_Output(descriptor)))


class _Text(io.TextIOWrapper):
    """Text without secrets; a URL is printed in one piece, so each piece may be looked at by itself.

    It is UTF-8 whatever the locale: a character that a locale lacks must not end what prints it.
    """

    def __init__(self, buffer: io.BufferedWriter) -> None:
        super().__init__(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._redact = Redactor()

    def write(self, text: str, /) -> int:
        super().write(self._redact(text))
        return len(text)


class _Output(io.RawIOBase):
    """File that drops what it cannot write: a message on a full disk must not end the program."""

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
