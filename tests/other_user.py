"""Commands run as another user of this machine, to test the files' permissions."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from patience import PATIENCE

NOBODY = 65534  # uid and gid of a user that every system has, and that owns nothing
needs_another_user = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")


def as_another_user(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script, with words as $1 and so on, as a user who is in none of this one's groups."""
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", *map(str, words)],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder like /tmp: all may make files, each deletes only his own. (tmp_path is closed to others.)"""
    folder = Path(tempfile.mkdtemp(prefix="shared-", dir="/tmp"))
    folder.chmod(0o1777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
