"""Commit of the directory of `submit`, recorded so that a result can be traced to its code."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

TIMEOUT_SECONDS = 5.0  # a slow network file system must not hold up a submit


class Revision(NamedTuple):
    """A commit, and whether tracked files differ from it; (None, None): not known."""

    commit: str | None
    dirty: bool | None


UNKNOWN = Revision(None, None)


def revision(directory: Path) -> Revision:
    """Return the revision of the repository around `directory`; UNKNOWN without git, repository or commit.

    Untracked files do not count as dirty, as in `git describe --dirty`: a new YAML is recorded anyway.
    """
    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    # Without optional locks: a submit must not make the user's own git command fail on index.lock.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        answer = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return UNKNOWN
    return parse(answer.stdout) if answer.returncode == 0 else UNKNOWN


def parse(status: str) -> Revision:
    """Read `git status --porcelain=v2 --branch`: headers begin with #, every other line is a change."""
    commit = None
    dirty = False
    for line in status.splitlines():
        if line.startswith("# branch.oid "):
            commit = line.removeprefix("# branch.oid ")
        elif not line.startswith("#"):
            dirty = True
    return UNKNOWN if commit in (None, "(initial)") else Revision(commit, dirty)
