"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

CHECKPOINT = "checkpoint.pt"


def locate(path: str | Path) -> Path:
    """The checkpoint file that a path means: itself, or checkpoint.pt in it when it is a folder.

    A folder is what is one, what ends with a slash, and what has no suffix.
    """
    slash = str(path).endswith("/")  # which a Path drops
    path = Path(path)
    return path / CHECKPOINT if slash or path.is_dir() or not path.suffix else path


def previous_path(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any], previous: Path | None = None) -> None:
    """Let `write` fill a temporary file and put it, once it is on disk, in the place of `path`.

    What was at `path` is kept as `previous` where that is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    if previous is not None and path.exists():
        _keep(path, previous)
    temporary.replace(path)
    _sync_folder(path.parent)


def _keep(path: Path, previous: Path) -> None:
    """Give the file a second name, so that `path` exists at every moment."""
    link = previous.with_name(f".{previous.name}.tmp")
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(path)
    except OSError:  # a file system without hard links
        path.replace(previous)
    else:
        link.replace(previous)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
