"""Folders that no other user may look into or write to.

Standard library only: it travels (`runner.guest`).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def private_folder(path: Path | None = None) -> Path:
    """Make a folder of our own, or find it; by default the one in this machine's temporary directory.

    Raises PermissionError where it belongs to another user: who may write there decides what is run from it.
    """
    path = path or Path(tempfile.gettempdir()) / f"capsnet-runner-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.getuid():
        raise PermissionError(f"{path}: belongs to another user")
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return path
