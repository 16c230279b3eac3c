"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import glob
import io
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from capsnet.locks import LockRefused, lock

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CHECKPOINT = "checkpoint.pt"
ABANDONED_SECONDS = 3600.0  # after which a temporary file that cannot be locked belongs to no living process


def locate(path: str | Path) -> Path:
    """Return the checkpoint file that a path means: itself, or checkpoint.pt in it when it is a folder.

    A path counts as a folder if it is one, ends with a slash or has no suffix.
    """
    slash = str(path).endswith("/")  # which a Path drops
    path = Path(path)
    return path / CHECKPOINT if slash or path.is_dir() or not path.suffix else path


def odd_kind(path: Path) -> str | None:
    """Return the kind of a path, links followed, that is neither file nor folder, as "FIFO"; else None."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # opening it will give the error
        return None
    kinds = {stat.S_ISFIFO: "FIFO", stat.S_ISSOCK: "socket", stat.S_ISCHR: "device", stat.S_ISBLK: "device"}
    return next((name for is_one, name in kinds.items() if is_one(mode)), None)


def previous_path(path: Path) -> Path:
    """Return the path at which the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def temporary_path(path: Path, shared: bool = False) -> Path:
    """Return the temporary file of `path`; with a unique name where several processes may write there."""
    return path.with_name(f".{path.name}{'.' + os.urandom(4).hex() if shared else ''}.tmp")


def write_atomically(
    path: Path,
    write: Callable[[IO[bytes]], Any],
    previous: Path | None = None,
    shared: bool = False,
    mode: int = 0o666,
) -> None:
    """Let `write` fill a temporary file and put it, once it is on disk, in the place of `path`.

    What was at `path` is kept as `previous` where that is given. Where `shared`, others may write there
    at the same time, and the last one's stays. `mode`: of the file, less what the umask takes away.
    Raises OSError, also where `write` turns it into a RuntimeError, and then leaves everything as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary(path, shared, mode) as part:
        _fill(part, write)
        if previous is not None and path.exists():
            _keep(path, previous)
        part.replace(path)
    sync_folder(path.parent)


@contextmanager
def temporary(path: Path, shared: bool = False, mode: int = 0o666) -> Iterator[Path]:
    """Give a `with` block an empty file to rename to `path`; it is deleted where that does not happen.

    The file is locked meanwhile, so that `clear_temporaries` of another process does not delete it.
    Temporary files of `path` that killed processes left are deleted.
    """
    if shared:
        clear_temporaries(path.parent, path.name)
    part = temporary_path(path, shared)
    descriptor = _made(part, mode)
    try:
        yield part
    finally:
        with suppress(OSError):  # half a file would take the room that a full disk lacks
            if _is_at(part, descriptor):
                part.unlink()
        os.close(descriptor)


def _made(part: Path, mode: int) -> int:
    """Make a temporary file and lock it; on a file system without locks it stays unlocked."""
    while True:
        try:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError:
            _delete_when_free(part)
            continue
        try:
            with suppress(LockRefused):
                lock(descriptor, part, "")
            if _is_at(part, descriptor):  # no process has deleted it before it was locked
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _delete_when_free(part: Path) -> None:
    """Wait for a living process that writes a file, then delete the file; it may have another mode."""
    with suppress(FileNotFoundError):
        if part.is_symlink():
            part.unlink()
            return
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with suppress(LockRefused):
                lock(descriptor, part, "")
            if _is_at(part, descriptor):
                part.unlink()
        finally:
            os.close(descriptor)


def _is_at(part: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(part.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def clear_temporaries(folder: Path, name: str | None = None) -> None:
    """Delete temporary files that killed processes left in a folder: of the file of this name, or all.

    The file of a living process stays: it is locked or, where there are no locks, young.
    """
    pattern = ".*.tmp" if name is None else f".{glob.escape(name)}.{8 * '[0-9a-f]'}.tmp"
    for part in folder.glob(pattern):
        with suppress(OSError):  # it is gone meanwhile, or another user's
            _delete_unless_held(part)


def _delete_unless_held(part: Path) -> None:
    if part.is_symlink():  # which cannot be locked, and takes a moment to be given its name
        if time.time() - part.lstat().st_mtime > ABANDONED_SECONDS:
            part.unlink()
        return
    descriptor = os.open(part, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            free = lock(descriptor, part, "", wait=False)
        except LockRefused:
            free = time.time() - os.fstat(descriptor).st_mtime > ABANDONED_SECONDS
        if free:
            part.unlink()
    finally:
        os.close(descriptor)


class _File(io.BufferedWriter):
    """A file that remembers the error which a write met."""

    error: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def _fill(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    try:
        with _File(path.open("wb", buffering=0)) as file:
            try:
                write(file)
            except RuntimeError:  # as torch.save says it: a full disk is "[enforce fail at ...]"
                if file.error is None:
                    raise
                raise file.error from None
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


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


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
