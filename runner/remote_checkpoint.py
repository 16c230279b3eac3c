"""The checkpoint of an attempt in an object store: under a new name each time, and named by a pointer.

The pointer, checkpoint.json, is written last and names the newest checkpoint and the one before, each with
its size and SHA-256. So an upload that was broken off leaves nothing that would be taken for whole.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from runner.objects import Objects, StorageError

POINTER = "checkpoint.json"
NAME = "checkpoint-"  # and the beginning of the hash


@dataclass(frozen=True)
class Saved:
    """One uploaded checkpoint."""

    name: str  # of the object, beside the pointer
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Pointer:
    """Completely uploaded checkpoints: the newest, and the one before."""

    newest: Saved
    previous: Saved | None

    @property
    def all(self) -> list[Saved]:
        return [self.newest] + ([self.previous] if self.previous else [])


def read(objects: Objects, attempt: str) -> Pointer | None:
    """The pointer of the attempt with this key; None where it has saved nothing. Raises StorageError."""
    text = objects.get(f"{attempt}/{POINTER}")
    if text is None:
        return None
    try:
        known = json.loads(text)
        previous = Saved(**known["previous"]) if known["previous"] else None
        return Pointer(Saved(**known["newest"]), previous)
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{objects.url}/{attempt}/{POINTER} is not what was written there: {error}"
        ) from error


class Uploads:
    """The checkpoints that one attempt uploads, one after the other; in one thread."""

    def __init__(self, objects: Objects, attempt: str) -> None:
        """`attempt`: the key of its folder, in which no other process writes."""
        self._objects = objects
        self._attempt = attempt
        self._pointer: Pointer | None = None
        self._left: set[str] = set()  # names of objects that may be there and that the pointer may not name

    def upload(self, file: Path) -> None:
        """Make this file the newest checkpoint. Raises StorageError, and then may be called again."""
        newest = described(file)
        if self._pointer is None or newest != self._pointer.newest:
            previous = self._pointer.newest if self._pointer else None
            self._left.add(newest.name)
            self._objects.put(f"{self._attempt}/{newest.name}", file)
            pointer = Pointer(newest, previous)
            self._objects.put(f"{self._attempt}/{POINTER}", json.dumps(asdict(pointer)).encode())
            self._pointer = pointer
            self._left |= {saved.name for saved in pointer.all}
        needless = self._left - {saved.name for saved in self._pointer.all}
        self._objects.delete(f"{self._attempt}/{name}" for name in sorted(needless))
        self._left -= needless


def described(file: Path) -> Saved:
    """Return a file as the pointer names it."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        return Saved(f"{NAME}{digest[:16]}.pt", content.tell(), digest)


def download(objects: Objects, attempt: str, saved: Saved, file: Path) -> bool:
    """Copy a checkpoint to a file; False, with a warning and without one, where it is not what was saved."""
    place = f"{objects.url}/{attempt}/{saved.name}"
    part = file.with_name(f".{file.name}.tmp")
    if not objects.fetch(f"{attempt}/{saved.name}", part, saved.bytes):
        warnings.warn(f"{place} is not there any more", stacklevel=2)
        return False
    found = described(part)
    if found != saved:
        what = "was cut off" if found.bytes < saved.bytes else "is damaged (its SHA-256 differs)"
        warnings.warn(f"{place} {what}", stacklevel=2)
        part.unlink()
        return False
    part.replace(file)
    return True
