"""Paths of pictures, and checks that they can be written. Imports neither PyTorch nor matplotlib."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
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


def named_file(text: str, formats: Sequence[str]) -> Path:
    """The file that the user names, in a folder that is there.

    FigureError unless a picture in one of the `formats` can be written there. Leaves nothing there itself.
    """
    path = _named(text)
    with mistakes(path):
        if path.is_dir():
            raise FigureError(f"{path} is a folder: name a file in it, as in {path / f'figure.{formats[0]}'}")
        if format_of(path) not in formats:
            *others, last = (f".{name}" for name in formats)
            example = path.with_suffix(f".{formats[0]}")
            raise FigureError(
                f"{path}: the name of this picture ends in {', '.join(others)} or {last}, as in {example}"
            )
        _require_folder(path)
    return can_hold(path)


def named_folder(text: str) -> Path:
    """The folder that the user names for several pictures; it is made where it is missing.

    FigureError where that cannot be, or where it looks like the name of one picture and is not a folder's.
    """
    path = _named(text)
    with mistakes(path):
        if path.suffix.lower() in PICTURES and not path.is_dir():
            example = path.with_suffix("")
            raise FigureError(f"{path}: name a folder, as in {example}: there are several pictures")
        if not path.is_dir():
            _require_folder(path)
    return path


def format_of(path: Path) -> str:
    """The format that a file's name asks for, in small letters and without the dot."""
    return path.suffix.lower().removeprefix(".")


def _named(text: str) -> Path:
    if not text:
        raise FigureError("--output is empty: give it a name, or leave it out")
    return Path(text)


def _require_folder(path: Path) -> None:
    """Raise FigureError unless there is such a folder: making a misspelt one would hide the pictures."""
    if path.parent.is_dir():
        return
    if path.parent.exists():
        raise FigureError(f"{path} cannot be written: {path.parent} is a file")
    raise FigureError(f"{path} cannot be written: there is no folder {path.parent}; make it, or name another")


def can_hold(path: Path) -> Path:
    """`path`; FigureError unless a file can be written there, in a folder that may be yet to be made."""
    with mistakes(path):
        folder = path.parent.resolve()
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not there.is_dir():
            raise FigureError(f"{path} cannot be written: {there} is a file")
        if not os.access(there, os.W_OK | os.X_OK):
            raise FigureError(f"{path} cannot be written: you may not write to {there}")
        _try(there / path.name)
    return path


def _try(path: Path) -> None:
    """Make a file and delete it again: some folders, as /proc, refuse files, and some names are invalid."""
    temporary = temporary_path(path, shared=True)
    try:
        temporary.touch()
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def mistakes(path: Path) -> Iterator[None]:
    """Turn errors of the place that the user has named into FigureError, with that name.

    Errors of a full or broken disk stay OSErrors: that place is valid.
    """
    try:
        yield
    except OSError as error:
        if error.errno in OF_THE_PLACE:
            raise FigureError(f"{path} cannot be written: {error.strerror}") from error
        raise


def save(content: bytes, path: Path) -> None:
    """Write a picture, whole or not at all, in a folder that is made where it is missing."""
    path.parent.resolve().mkdir(parents=True, exist_ok=True)  # the folder may be a link to what is yet to be
    # Both a run that ends and a command may draw it.
    write_atomically(path, lambda file: file.write(content), shared=True)
