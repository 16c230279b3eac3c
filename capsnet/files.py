"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CHECKPOINT = "checkpoint.pt"


def locate(path: str | Path) -> Path:
    """The checkpoint file that a path means: itself, or checkpoint.pt in it when it is a folder.

    A folder is what is one, what ends with a slash, and what has no suffix.
    """
    slash = str(path).endswith("/")  # which a Path drops
    path = Path(path)
    return path / CHECKPOINT if slash or path.is_dir() or not path.suffix else path


def odd_kind(path: Path) -> str | None:
    """What there is at a path, links followed, that is neither a file nor a folder; otherwise None."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # whoever opens it says what is wrong
        return None
    kinds = {stat.S_ISFIFO: "FIFO", stat.S_ISSOCK: "socket", stat.S_ISCHR: "device", stat.S_ISBLK: "device"}
    return next((name for is_one, name in kinds.items() if is_one(mode)), None)


def previous_path(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def temporary_path(path: Path, shared: bool = False) -> Path:
    """The file that becomes the one at `path`; one of a name of its own where several may write there."""
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
    Raises OSError, also where `write` makes something else of it, and then leaves everything as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path, shared)
    try:
        _fill(temporary, write, mode)
    except BaseException:
        temporary.unlink(missing_ok=True)  # half a file would take the room that a full disk lacks
        raise
    if previous is not None and path.exists():
        _keep(path, previous)
    temporary.replace(path)
    sync_folder(path.parent)


class _File(io.BufferedWriter):
    """A file that remembers the error which a write met."""

    error: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def _fill(path: Path, write: Callable[[IO[bytes]], Any], mode: int) -> None:
    try:
        path.unlink(missing_ok=True)  # what a killed process has left may have another mode
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with _File(io.FileIO(descriptor, "wb")) as file:
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
