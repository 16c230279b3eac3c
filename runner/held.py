"""Folders that one process holds for as long as it lives, so that another can tell what a killed one left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OWNER = "owner.lock"  # in a folder: locked by the process that holds it
TURN = "lock"  # beside the folders: locked while one is made, for half made it would be taken for abandoned


@dataclass(frozen=True)
class Held:
    """A folder that this process holds."""

    folder: Path
    _lock: int

    def leave(self) -> None:
        """Delete the folder, the sign of who held it last: who is killed meanwhile leaves that too."""
        with contextlib.suppress(OSError):  # what cannot be deleted now is left to the next process
            for path in self.folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != OWNER:
                    path.unlink()
            shutil.rmtree(self.folder)
        os.close(self._lock)


def hold(folder: Path) -> Held | None:
    """Make a folder and hold it; None where another process does. Raises OSError.

    What processes that were killed have left beside it is deleted.
    """
    with _in_turn(folder.parent):
        _clear(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = _locked(folder)
    return None if lock is None else Held(folder, lock)


def clear(parent: Path) -> None:
    """Delete what processes that were killed have left in a folder. Raises OSError."""
    if parent.exists():
        with _in_turn(parent):
            _clear(parent)


@contextlib.contextmanager
def _in_turn(parent: Path) -> Iterator[None]:
    with (parent / TURN).open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


def _clear(parent: Path) -> None:
    for owner in parent.glob(f"*/{OWNER}"):
        with contextlib.suppress(FileNotFoundError):
            if (lock := _locked(owner.parent)) is not None:
                Held(owner.parent, lock).leave()


def _locked(folder: Path) -> int | None:
    """Lock a folder for as long as this process lives; None where another one has."""
    lock = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
