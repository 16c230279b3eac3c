"""Where pictures are written, and that it can be done. Imports neither PyTorch nor matplotlib."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capsnet.figures.kinds import FigureError
from capsnet.files import CHECKPOINT, temporary_path, write_atomically

FOLDER = "figures"
OF_THE_PLACE = {
    errno.EACCES,
    errno.EEXIST,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
PICTURES = (".png", ".gif", ".jpg", ".jpeg", ".svg", ".pdf", ".webp")


def folder_of(checkpoint: Path) -> Path:
    """The folder figures/ beside a checkpoint; named after it where that has a name of its own."""
    return checkpoint.with_name(FOLDER if checkpoint.name == CHECKPOINT else f"{checkpoint.stem}.{FOLDER}")


def checked(path: Path, suffixes: tuple[str, ...]) -> Path:
    """`path`; FigureError unless a picture can be written there. Leaves nothing there itself."""
    with mistakes(path):
        return _checked(path, suffixes)


def _checked(path: Path, suffixes: tuple[str, ...]) -> Path:
    if path.is_dir():
        inside = path / f"figure{suffixes[0]}"
        raise FigureError(f"{path} is a folder: name a file in it, as in {inside}")
    if path.suffix.lower() not in suffixes:
        example = f"as in {path.with_suffix(suffixes[0])}"
        raise FigureError(f"{path}: the name of this picture ends in {' or '.join(suffixes)}, {example}")
    folder = path.parent.resolve()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir():
        raise FigureError(f"{path} cannot be written: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise FigureError(f"{path} cannot be written: you may not write to {there}")
    _try(there / path.name)
    return path


def _try(path: Path) -> None:
    """Make a file and take it away: not every folder takes one, as /proc, nor every name."""
    temporary = temporary_path(path, shared=True)
    try:
        temporary.touch()
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def mistakes(path: Path) -> Iterator[None]:
    """Within it an error of the place that the user has named is a FigureError, with that name.

    A full or broken disk is none: that place would do.
    """
    try:
        yield
    except OSError as error:
        if error.errno in OF_THE_PLACE:
            raise FigureError(f"{path} cannot be written: {error.strerror}") from error
        raise


def checked_folder(path: Path) -> Path:
    """`path`; FigureError where it looks like the name of one picture, and is not a folder's."""
    with mistakes(path):
        if path.suffix.lower() in PICTURES and not path.is_dir():
            example = path.with_suffix("")
            raise FigureError(f"{path}: name a folder, as in {example}: there are several pictures")
    return path


def save(content: bytes, path: Path) -> None:
    """Write a picture, whole or not at all, in a folder that is made where it is missing."""
    path.parent.resolve().mkdir(parents=True, exist_ok=True)  # the folder may be a link to what is yet to be
    # Both a run that ends and a command may draw it.
    write_atomically(path, lambda file: file.write(content), shared=True)
