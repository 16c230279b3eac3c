"""Where pictures are written, and that it can be done. Imports neither PyTorch nor matplotlib."""

from __future__ import annotations

import os
from pathlib import Path

from capsnet.figures.kinds import FigureError
from capsnet.files import CHECKPOINT, write_atomically

FOLDER = "figures"


def folder_of(checkpoint: Path) -> Path:
    """The folder figures/ beside a checkpoint; named after it where that has a name of its own."""
    return checkpoint.with_name(FOLDER if checkpoint.name == CHECKPOINT else f"{checkpoint.stem}.{FOLDER}")


def checked(path: Path, suffixes: tuple[str, ...]) -> Path:
    """`path`; FigureError unless a picture can be written there. Writes nothing itself."""
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
    return path


def save(content: bytes, path: Path) -> None:
    """Write a picture, whole or not at all, in a folder that is made where it is missing."""
    path.parent.resolve().mkdir(parents=True, exist_ok=True)  # the folder may be a link to what is yet to be
    write_atomically(path, lambda file: file.write(content))
