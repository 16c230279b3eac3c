"""Folders that a process locks while it lives, so that others can tell what a killed one has left."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from capsnet.locks import lock, locked

VARIABLES = "RUNNER_SCRATCH, RUNNER_HOME or TMPDIR"  # name where the folders lie
OWNER = "owner.lock"  # in a folder: locked by the process that holds it
TURN = "lock"  # beside the folders: locked while one is made, for half made it would be taken for abandoned


@dataclass(frozen=True)
class Held:
    """A folder that this process holds."""

    folder: Path
    _lock: int

    def leave(self) -> None:
        """Delete the folder, its lock file last: if the process is killed meanwhile, that file stays too."""
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
    with locked(folder.parent / TURN, VARIABLES):
        _clear(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        held = _locked(folder)
    return None if held is None else Held(folder, held)


@contextlib.contextmanager
def own_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent`, which is deleted after the `with` block. Raises OSError.

    Where the process is killed meanwhile, its folder is deleted when the next one is made there.
    """
    own = hold(parent / os.urandom(8).hex())
    assert own is not None, "no other process has a folder of this name"
    try:
        yield own.folder
    finally:
        own.leave()


def clear(parent: Path) -> None:
    """Delete what processes that were killed have left in a folder. Raises OSError."""
    if parent.exists():
        with locked(parent / TURN, VARIABLES):
            _clear(parent)


def _clear(parent: Path) -> None:
    for owner in parent.glob(f"*/{OWNER}"):
        with contextlib.suppress(FileNotFoundError):
            if (held := _locked(owner.parent)) is not None:
                Held(owner.parent, held).leave()


def _locked(folder: Path) -> int | None:
    """Lock a folder for as long as this process lives; None where another one has."""
    owner = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if lock(owner, folder, VARIABLES, wait=False):
            return owner
    except OSError:
        os.close(owner)
        raise
    os.close(owner)
    return None
