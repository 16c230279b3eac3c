"""Locks of files and folders between processes: the only calls of flock.

Standard library only, and nothing of ours: it travels to nodes on which nothing of ours is installed
(`runner.guest`).
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

UNABLE = {
    errno.ENOLCK,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EINVAL,
}  # as file systems say that they have none


class LockRefused(OSError):  # noqa: N818 - the name says what happened
    """A file system takes no locks: one line that says what to do."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


@contextmanager
def locked(file: Path, variable: str, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is made, for a `with` block.

    `variable`: what names the folder, for the error. `waits` is called where another process holds the lock.
    Raises LockRefused, OSError.
    """
    with file.open("w") as opened:
        if not lock(opened.fileno(), file, variable, wait=False):
            waits()
            lock(opened.fileno(), file, variable)
        yield


def lock(descriptor: int, path: Path, variable: str, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock the open file or folder at `path`; False where another process holds it and `wait` is false.

    The lock goes with the descriptor. `variable`, and what is raised: as of `locked`.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNABLE:
            raise
        raise LockRefused(
            error.errno,
            f"its file system refuses locks ({error.strerror}): mount it with locks, or set {variable} to a "
            "folder on another one",
            str(path),
        ) from error
    return True
