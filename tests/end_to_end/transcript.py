"""Transcript of commands and their output: recorded while they run, written as a page."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

LONGEST = 40  # lines of one command; of longer output the middle is left out


@dataclass
class Transcript:
    """Commands with their output, and what was done beside them, with the seconds since the start."""

    started: float = field(default_factory=time.monotonic)
    parts: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        self.parts.append(f"\n## {text}\n")

    def typed(self, host: str, words: Sequence[str], output: str, exit_code: int = 0) -> None:
        """A command on a host, what it printed, and its exit code where that is not 0."""
        lines = output.strip("\n").splitlines()
        if len(lines) > LONGEST:
            half = LONGEST // 2
            lines = [*lines[:half], f"[... {len(lines) - 2 * half} lines ...]", *lines[-half:]]
        ended = [f"(exit code {exit_code})"] if exit_code else []
        text = [f"{host}$ {shlex.join(words)}", *lines, *ended]
        self.parts.append("\n".join(f"    {line}".rstrip() for line in text) + "\n")

    def said(self, text: str) -> None:
        self.parts.append(f"*{time.monotonic() - self.started:.0f} s:* {text}\n")

    def write(self, file: Path, introduction: str) -> None:
        file.write_text(introduction.rstrip() + "\n" + "\n".join(self.parts))
